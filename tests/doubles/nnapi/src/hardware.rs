//! Hardware buffers, as Android's `libnativewindow.so` has them, of bytes alone.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use crate::codes::*;
use crate::live::{self, Object, free, get, give};
use crate::memory::{Inner, Memory};
use crate::model::told;

/// `AHardwareBuffer_Desc`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Description {
    width: u32,
    height: u32,
    layers: u32,
    format: u32,
    usage: u64,
    stride: u32,
    reserved_0: u32,
    reserved_1: u64,
}

/// A hardware buffer.
pub struct Hardware {
    about: Description,
    inner: Arc<Inner>,
    references: u32,
    readers: u32,
    written: bool,
}

const BLOB: u32 = 0x21;
const READ: u64 = 0xf;
const WRITE: u64 = 0xf0;
const KIND: &str = "hardware buffer";
const EINVAL: c_int = -22;

impl Object for Hardware {
    fn is_needed(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }
}

/// `AHardwareBuffer_allocate`.
#[unsafe(no_mangle)]
unsafe extern "C" fn AHardwareBuffer_allocate(
    about: *const Description,
    buffer: *mut *mut Hardware,
) -> c_int {
    // SAFETY: the application keeps to the interface's contract.
    let (Some(about), Some(buffer)) = (unsafe { about.as_ref() }, unsafe { buffer.as_mut() })
    else {
        return EINVAL;
    };
    let bytes = about.format == BLOB && (about.height, about.layers) == (1, 1);
    if !bytes || about.width == 0 || (about.reserved_0, about.reserved_1) != (0, 0) {
        let refused: Result<(), c_int> = told(EINVAL, "a hardware buffer that can't be");
        return refused.err().unwrap_or(EINVAL);
    }
    *buffer = give(
        KIND,
        Hardware {
            about: *about,
            inner: Inner::allocated(about.width as usize, None),
            references: 1,
            readers: 0,
            written: false,
        },
    );
    0
}

/// The buffer at `buffer`, which must be one.
fn found<'a>(buffer: *mut Hardware) -> &'a mut Hardware {
    // SAFETY: it is looked for among those that there are.
    match unsafe { get(KIND, buffer) } {
        Some(buffer) => buffer,
        None => live::violated("a hardware buffer is null"),
    }
}

/// `AHardwareBuffer_acquire`.
#[unsafe(no_mangle)]
extern "C" fn AHardwareBuffer_acquire(buffer: *mut Hardware) {
    found(buffer).references += 1;
}

/// `AHardwareBuffer_release`.
#[unsafe(no_mangle)]
extern "C" fn AHardwareBuffer_release(buffer: *mut Hardware) {
    let own = found(buffer);
    own.references -= 1;
    if own.references == 0 {
        if own.readers > 0 || own.written {
            live::violated("a hardware buffer was released while it was locked");
        }
        // SAFETY: nobody has a reference any more.
        unsafe { free(KIND, buffer) };
    }
}

/// `AHardwareBuffer_describe`.
#[unsafe(no_mangle)]
unsafe extern "C" fn AHardwareBuffer_describe(buffer: *const Hardware, about: *mut Description) {
    // SAFETY: the application has room for a description there.
    unsafe { about.write(found(buffer.cast_mut()).about) };
}

/// `AHardwareBuffer_lock`.
#[unsafe(no_mangle)]
unsafe extern "C" fn AHardwareBuffer_lock(
    buffer: *mut Hardware,
    usage: u64,
    fence: i32,
    part: *const c_void,
    address: *mut *mut c_void,
) -> c_int {
    let own = found(buffer);
    let wanted = usage & (READ | WRITE);
    let allowed = wanted != 0
        && (usage & READ == 0 || own.about.usage & READ != 0)
        && (usage & WRITE == 0 || own.about.usage & WRITE != 0);
    let write = usage & WRITE != 0;
    let free = !own.written && (!write || own.readers == 0);
    if !allowed || !free || fence != -1 || !part.is_null() || address.is_null() {
        return EINVAL;
    }
    match write {
        true => own.written = true,
        false => own.readers += 1,
    }
    // SAFETY: the application has room for an address there.
    unsafe { address.write(own.inner.as_ptr().cast()) };
    0
}

/// `AHardwareBuffer_unlock`.
#[unsafe(no_mangle)]
extern "C" fn AHardwareBuffer_unlock(buffer: *mut Hardware, _fence: *mut i32) -> c_int {
    let own = found(buffer);
    match (own.written, own.readers) {
        (true, _) => own.written = false,
        (false, 0) => return EINVAL,
        (false, n) => own.readers = n - 1,
    }
    0
}

/// `ANeuralNetworksMemory_createFromAHardwareBuffer`, of a buffer that must outlive what is made.
///
/// # Safety
/// As of the interface.
pub unsafe fn memory(buffer: *const c_void) -> Result<Memory, c_int> {
    if buffer.is_null() {
        return Err(UNEXPECTED_NULL);
    }
    let own = found(buffer.cast::<Hardware>().cast_mut());
    Ok(Memory {
        inner: Inner::again(&own.inner),
        fault: None,
    })
}

/// The exported functions, with the API level that brought them.
pub const SYMBOLS: &[(i64, &str)] = &[
    (26, "AHardwareBuffer_allocate"),
    (26, "AHardwareBuffer_acquire"),
    (26, "AHardwareBuffer_release"),
    (26, "AHardwareBuffer_describe"),
    (26, "AHardwareBuffer_lock"),
    (26, "AHardwareBuffer_unlock"),
];
