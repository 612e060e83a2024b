//! Android's hardware buffers: memory of the system's graphics allocator that devices, and other processes, see too.
#![allow(unsafe_code)] // functions of the system are looked for by name and called

use std::any::Any;
use std::ffi::{OsStr, c_int, c_void};
use std::ptr::NonNull;

use crate::{Access, Buffer, BufferDesc, HOST_ALIGN, HalError, Library, LibraryError, MemoryKind};

/// `AHardwareBuffer_Desc`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Description {
    width: u32,
    height: u32,
    layers: u32,
    format: u32,
    usage: u64,
    stride: u32,
    reserved_0: u32,
    reserved_1: u64,
}

/// `AHARDWAREBUFFER_FORMAT_BLOB`: bytes, as many as it is wide.
const BLOB: u32 = 0x21;
/// `AHARDWAREBUFFER_USAGE_CPU_READ_OFTEN`.
const READ: u64 = 3;
/// `AHARDWAREBUFFER_USAGE_CPU_WRITE_OFTEN`.
const WRITE: u64 = 3 << 4;
/// `AHARDWAREBUFFER_USAGE_GPU_DATA_BUFFER`.
const DATA: u64 = 1 << 24;

type Handle = *mut c_void;
type Allocate = unsafe extern "C" fn(*const Description, *mut Handle) -> c_int;
type Hold = unsafe extern "C" fn(Handle);
type Describe = unsafe extern "C" fn(*const c_void, *mut Description);
type Lock = unsafe extern "C" fn(Handle, u64, i32, *const c_void, *mut *mut c_void) -> c_int;
type Unlock = unsafe extern "C" fn(Handle, *mut i32) -> c_int;

/// The system's functions for hardware buffers, from Android 8 (API level 26) on.
#[derive(Clone, Copy, Debug)]
pub struct HardwareBuffers {
    allocate: Allocate,
    acquire: Hold,
    release: Hold,
    describe: Describe,
    lock: Lock,
    unlock: Unlock,
}

impl HardwareBuffers {
    /// Those of the system: of `libnativewindow.so`, or else of `libandroid.so`.
    ///
    /// # Errors
    /// What was wrong with the last that was tried: elsewhere than on Android there are none.
    pub fn of_system() -> Result<HardwareBuffers, LibraryError> {
        let of = |name: &str| {
            // SAFETY: the libraries are the system's own.
            let library = unsafe { Library::open(OsStr::new(name)) }?;
            // SAFETY: functions of these names have these types in each version of them.
            unsafe { HardwareBuffers::of(&library, name) }
        };
        of("libnativewindow.so").or_else(|_| of("libandroid.so"))
    }

    /// Those that `library`, which errors call `path`, has.
    ///
    /// # Errors
    /// The first that it lacks.
    ///
    /// # Safety
    /// Symbols of these names in it, if there are, are these functions.
    pub unsafe fn of(library: &Library, path: &str) -> Result<HardwareBuffers, LibraryError> {
        // SAFETY: by the contract.
        unsafe {
            Ok(HardwareBuffers {
                allocate: library.symbol(path, "AHardwareBuffer_allocate")?,
                acquire: library.symbol(path, "AHardwareBuffer_acquire")?,
                release: library.symbol(path, "AHardwareBuffer_release")?,
                describe: library.symbol(path, "AHardwareBuffer_describe")?,
                lock: library.symbol(path, "AHardwareBuffer_lock")?,
                unlock: library.symbol(path, "AHardwareBuffer_unlock")?,
            })
        }
    }

    /// A new buffer of bytes as `desc` says, which are not cleared.
    ///
    /// # Errors
    /// The system has none, or more bytes than it counts.
    pub fn allocate(&self, desc: BufferDesc) -> Result<HardwareMemory, HalError> {
        let none = || HalError::OutOfMemory {
            device: "AHardwareBuffer".into(),
            bytes: desc.bytes as u64,
            what: desc.name.clone(),
        };
        let wanted = Description {
            width: u32::try_from(desc.bytes.max(1)).map_err(|_| none())?,
            height: 1,
            layers: 1,
            format: BLOB,
            usage: READ | WRITE | DATA,
            ..Description::default()
        };
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the description is there during the call; a handle that is written is a reference of ours.
        let code = unsafe { (self.allocate)(&raw const wanted, &raw mut handle) };
        match NonNull::new(handle).filter(|_| code == 0) {
            Some(handle) => Ok(HardwareMemory {
                functions: *self,
                handle,
                desc: BufferDesc {
                    kind: MemoryKind::AHardwareBuffer,
                    ..desc
                },
            }),
            None => Err(none()),
        }
    }

    /// The buffer at `handle`, of which another reference is taken; `name` is what errors call it.
    ///
    /// # Errors
    /// One that does not hold plain bytes: its layout is the maker's alone.
    ///
    /// # Safety
    /// `handle` leads to a hardware buffer of the system that these functions are of, which somebody has a reference of
    /// during the call.
    pub unsafe fn adopt(
        &self,
        handle: NonNull<c_void>,
        name: &str,
    ) -> Result<HardwareMemory, HalError> {
        let mut about = Description::default();
        // SAFETY: by the contract; the function writes a description.
        unsafe { (self.describe)(handle.as_ptr(), &raw mut about) };
        if about.format != BLOB {
            return Err(HalError::InvalidUse {
                call: "import",
                what: format!("format of hardware buffer '{name}'"),
                found: format!("{:#x}", about.format),
                expected: format!("bytes (BLOB, {BLOB:#x})"),
            });
        }
        // SAFETY: by the contract; the reference is given back when what is returned is dropped.
        unsafe { (self.acquire)(handle.as_ptr()) };
        Ok(HardwareMemory {
            functions: *self,
            handle,
            desc: BufferDesc {
                name: name.into(),
                bytes: about.width as usize,
                align: HOST_ALIGN,
                kind: MemoryKind::AHardwareBuffer,
            },
        })
    }
}

/// A hardware buffer of bytes, by a reference of its own.
#[derive(Debug)]
pub struct HardwareMemory {
    functions: HardwareBuffers,
    handle: NonNull<c_void>,
    desc: BufferDesc,
}

// SAFETY: hardware buffers are counted by the system, and their functions may be called from any thread.
unsafe impl Send for HardwareMemory {}
// SAFETY: as for Send; its memory is only reached through `map`, whose callers vouch for the rest.
unsafe impl Sync for HardwareMemory {}

impl HardwareMemory {
    /// The system's `AHardwareBuffer`, there as long as this is.
    pub fn handle(&self) -> NonNull<c_void> {
        self.handle
    }
}

impl Buffer for HardwareMemory {
    fn desc(&self) -> &BufferDesc {
        &self.desc
    }

    unsafe fn map(&self, access: Access) -> Result<NonNull<[u8]>, HalError> {
        let usage = match access {
            Access::Read => READ,
            Access::Write => READ | WRITE,
        };
        let mut memory: *mut c_void = std::ptr::null_mut();
        // SAFETY: the buffer is there; without a fence there is nothing to wait for, and without a rectangle all of it
        // is meant. The function writes an address.
        let code = unsafe {
            (self.functions.lock)(
                self.handle.as_ptr(),
                usage,
                -1,
                std::ptr::null(),
                &raw mut memory,
            )
        };
        match NonNull::new(memory.cast::<u8>()).filter(|_| code == 0) {
            Some(memory) => Ok(NonNull::slice_from_raw_parts(memory, self.desc.bytes)),
            None => Err(HalError::Vendor {
                device: "AHardwareBuffer".into(),
                call: "AHardwareBuffer_lock".into(),
                code: i64::from(code),
                text: format!("'{}' can't be mapped", self.desc.name),
            }),
        }
    }

    fn unmap(&self) {
        // SAFETY: it is locked, by the contract of `map`; without a place for a fence the call waits itself.
        let code = unsafe { (self.functions.unlock)(self.handle.as_ptr(), std::ptr::null_mut()) };
        if code != 0 {
            tracing::warn!(
                "hardware buffer '{}' is not unlocked: {code}",
                self.desc.name
            );
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for HardwareMemory {
    fn drop(&mut self) {
        // SAFETY: the reference is this object's own.
        unsafe { (self.functions.release)(self.handle.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_is_laid_out_as_the_systems() {
        use std::mem::{align_of, offset_of, size_of};
        assert_eq!(
            (size_of::<Description>(), align_of::<Description>()),
            (40, 8)
        );
        assert_eq!(offset_of!(Description, usage), 16);
        assert_eq!(offset_of!(Description, reserved_1), 32);
    }

    #[test]
    #[cfg(not(target_os = "android"))]
    fn elsewhere_than_on_android_the_reason_is_told() {
        let told = HardwareBuffers::of_system().unwrap_err().to_string();
        assert!(told.starts_with("libandroid.so: "), "{told}");
    }
}
