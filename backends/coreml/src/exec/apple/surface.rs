//! Arrays in surfaces that all processors see.

use std::any::Any;
use std::ptr::NonNull;

use objc2::AnyThread;
use objc2::rc::{Retained, autoreleasepool};
use objc2_core_foundation::{CFDictionary, CFRetained, CFString, CFType};
use objc2_core_ml::MLMultiArray;
use objc2_core_video::{
    CVPixelBuffer, CVPixelBufferCreate, CVPixelBufferGetBaseAddress, CVPixelBufferGetBytesPerRow,
    CVPixelBufferLockBaseAddress, CVPixelBufferLockFlags, CVPixelBufferUnlockBaseAddress,
    kCVPixelBufferIOSurfacePropertiesKey, kCVPixelFormatType_OneComponent16Half, kCVReturnSuccess,
};

use super::super::ArrayMemory;
use super::super::surface::surface;
use super::caught;
use super::model::numbers;
use crate::CoreMlError;
use crate::binding::Array;

/// An array of numbers of 16 bits over a surface (`IOSurface`), which Core ML's processors read and write where it is. Its
/// rows have no gaps. The surface is locked while the host sees it, and not during predictions, as Core ML wants it.
#[derive(Debug)]
pub(super) struct Surface {
    buffer: CFRetained<CVPixelBuffer>,
    array: Retained<MLMultiArray>,
    bytes: usize,
}

// SAFETY: pixel buffers may be retained, locked and released by any thread; this one and its array are used by one at a
// time, as their owner is.
unsafe impl Send for Surface {}

impl Surface {
    /// One for `array`, if surfaces hold such and the system gives one whose rows have no gaps.
    pub fn new(array: &Array) -> Option<Surface> {
        let [columns, rows] = surface(array)?;
        let made = autoreleasepool(|_| {
            let buffer = pixels(columns, rows)?;
            let shape = numbers(array.dims.iter().map(|n| *n as usize));
            let array = caught("MLMultiArray initWithPixelBuffer", || {
                // SAFETY: the buffer has the format, columns and rows that the shape asks for; the array retains it.
                unsafe {
                    MLMultiArray::initWithPixelBuffer_shape(MLMultiArray::alloc(), &buffer, &shape)
                }
            });
            Ok::<_, CoreMlError>((buffer, array?))
        });
        match made {
            Ok((buffer, made)) => Some(Surface {
                buffer,
                array: made,
                bytes: array.bytes(),
            }),
            Err(e) => {
                tracing::debug!("'{}' is in no surface: {e}", array.feature);
                None
            }
        }
    }

    /// It as Core ML knows it.
    pub fn array(&self) -> &Retained<MLMultiArray> {
        &self.array
    }
}

/// A pixel buffer over a surface, of numbers of 16 bits in rows without gaps.
fn pixels(columns: usize, rows: usize) -> Result<CFRetained<CVPixelBuffer>, CoreMlError> {
    let refused = |code: i32, text: String| CoreMlError::Vendor {
        call: "CVPixelBufferCreate",
        code: i64::from(code),
        text,
    };
    let none = CFDictionary::<CFString, CFType>::empty();
    // SAFETY: a constant of the framework.
    let key = unsafe { kCVPixelBufferIOSurfacePropertiesKey };
    let none: &CFType = none.as_ref();
    let attributes = CFDictionary::<CFString, CFType>::from_slices(&[key], &[none]);
    let mut made: *mut CVPixelBuffer = std::ptr::null_mut();
    // SAFETY: the attributes have keys that are texts; the place for the buffer is there during the call.
    let code = unsafe {
        CVPixelBufferCreate(
            None,
            columns,
            rows,
            kCVPixelFormatType_OneComponent16Half,
            Some(attributes.as_opaque()),
            NonNull::from(&mut made),
        )
    };
    let buffer = match NonNull::new(made) {
        // SAFETY: a buffer that was made is retained once for whoever asked for it.
        Some(made) if code == kCVReturnSuccess => unsafe { CFRetained::from_raw(made) },
        _ => return Err(refused(code, format!("no {rows} rows of {columns}"))),
    };
    let stride = CVPixelBufferGetBytesPerRow(&buffer);
    match stride == 2 * columns {
        true => {
            let locked = Locked::new(&buffer, CVPixelBufferLockFlags(0))?;
            // SAFETY: it is locked for writing, and has so many rows of so many bytes.
            unsafe { locked.memory()?.write_bytes(0, stride * rows) };
            drop(locked);
            Ok(buffer)
        }
        false => Err(refused(
            code,
            format!("rows of {columns} have {stride} bytes, and gaps"),
        )),
    }
}

/// A pixel buffer that the host sees until this is dropped.
struct Locked<'a> {
    buffer: &'a CVPixelBuffer,
    flags: CVPixelBufferLockFlags,
}

impl<'a> Locked<'a> {
    fn new(
        buffer: &'a CVPixelBuffer,
        flags: CVPixelBufferLockFlags,
    ) -> Result<Locked<'a>, CoreMlError> {
        // SAFETY: the buffer is alive; it is unlocked by the drop, with the same flags.
        let code = unsafe { CVPixelBufferLockBaseAddress(buffer, flags) };
        match code == kCVReturnSuccess {
            true => Ok(Locked { buffer, flags }),
            false => Err(CoreMlError::Vendor {
                call: "CVPixelBufferLockBaseAddress",
                code: i64::from(code),
                text: "the surface is not seen".into(),
            }),
        }
    }

    /// Its first byte.
    fn memory(&self) -> Result<*mut u8, CoreMlError> {
        let start = CVPixelBufferGetBaseAddress(self.buffer).cast::<u8>();
        match start.is_null() {
            false => Ok(start),
            true => Err(CoreMlError::Vendor {
                call: "CVPixelBufferGetBaseAddress",
                code: 0,
                text: "the surface is at no address".into(),
            }),
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: it was locked with these flags.
        let code = unsafe { CVPixelBufferUnlockBaseAddress(self.buffer, self.flags) };
        if code != kCVReturnSuccess {
            tracing::debug!("a surface stays locked: {code}");
        }
    }
}

impl ArrayMemory for Surface {
    fn write(&mut self, touch: &mut dyn FnMut(&mut [u8])) -> Result<(), CoreMlError> {
        let locked = Locked::new(&self.buffer, CVPixelBufferLockFlags(0))?;
        // SAFETY: rows without gaps have as many bytes as the array; the buffer is locked for writing until after the call,
        // and nobody else touches it: a prediction with it is over.
        let memory = unsafe { std::slice::from_raw_parts_mut(locked.memory()?, self.bytes) };
        touch(memory);
        Ok(())
    }

    fn read(&self, touch: &mut dyn FnMut(&[u8])) -> Result<(), CoreMlError> {
        let locked = Locked::new(&self.buffer, CVPixelBufferLockFlags::ReadOnly)?;
        // SAFETY: as for writing; nobody writes it.
        let memory = unsafe { std::slice::from_raw_parts(locked.memory()?, self.bytes) };
        touch(memory);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
