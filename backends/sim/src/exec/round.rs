//! Rounding of numbers to the type a device computes in.
#![allow(unsafe_code)] // maps the engine's buffers

use std::borrow::Cow;
use std::sync::Arc;

use anynpu_hal::{Access, Buffer, HalError, WeightSource, WeightView};
use anynpu_ir::DType;
use half::{bf16, f16};

use crate::error::invalid;

/// `x` rounded to `dtype` (half to even; past the largest number, infinite).
fn rounded(x: f32, dtype: DType) -> f32 {
    match dtype {
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::BF16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

/// Rounds the `f32`s in `bytes`.
fn round_bytes(bytes: &mut [u8], dtype: DType) {
    for number in bytes.as_chunks_mut::<4>().0 {
        *number = rounded(f32::from_ne_bytes(*number), dtype).to_ne_bytes();
    }
}

/// Rounds the first `bytes` bytes of `buffer`, which holds `f32`s.
///
/// # Safety
/// As [`Buffer::map`] with [`Access::Write`].
pub(super) unsafe fn round_in_place(
    buffer: &dyn Buffer,
    bytes: usize,
    dtype: DType,
) -> Result<(), HalError> {
    // SAFETY: the caller vouches that nobody else touches the buffer until it is unmapped.
    let memory = unsafe { buffer.map(Access::Write) }?;
    let fits = memory.len() >= bytes;
    if fits {
        let start = memory.cast::<u8>().as_ptr();
        // SAFETY: the mapping holds at least `bytes` initialised bytes (buffers are zeroed when
        // allocated) that the caller gave us alone.
        round_bytes(
            unsafe { std::slice::from_raw_parts_mut(start, bytes) },
            dtype,
        );
    }
    buffer.unmap();
    match fits {
        true => Ok(()),
        false => Err(short(buffer, bytes)),
    }
}

/// Copies the first `bytes` bytes of `from`, which holds `f32`s, to `to`, rounding them.
///
/// # Safety
/// As [`Buffer::map`], with [`Access::Read`] of `from` and [`Access::Write`] of `to`; they are two buffers.
pub(super) unsafe fn copy_rounded(
    from: &dyn Buffer,
    to: &dyn Buffer,
    bytes: usize,
    dtype: DType,
) -> Result<(), HalError> {
    if to.desc().bytes < bytes {
        return Err(short(to, bytes));
    }
    // SAFETY: the caller vouches for both buffers, and that they are two.
    unsafe {
        let source = from.map(Access::Read)?;
        let fits = source.len() >= bytes;
        let copied = match fits {
            true => {
                let start = source.cast::<u8>().as_ptr();
                // SAFETY: the mapping holds at least `bytes` initialised bytes that nobody writes.
                let source = std::slice::from_raw_parts(start, bytes);
                anynpu_hal::write_bytes(to, 0, source)
            }
            false => Err(short(from, bytes)),
        };
        from.unmap();
        copied?;
        round_in_place(to, bytes, dtype)
    }
}

fn short(buffer: &dyn Buffer, bytes: usize) -> HalError {
    let what = format!("size of '{}'", buffer.desc().name);
    let found = format!("{} bytes", buffer.desc().bytes);
    invalid("submit", what, found, format!("at least {bytes} bytes"))
}

/// Weights with their `f32`s rounded.
#[derive(Debug)]
pub(crate) struct RoundedWeights {
    pub source: Arc<dyn WeightSource>,
    pub dtype: DType,
}

impl WeightSource for RoundedWeights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let mut view = self.source.weight(name)?;
        if view.dtype == DType::F32 {
            let mut bytes = view.bytes.into_owned();
            round_bytes(&mut bytes, self.dtype);
            view.bytes = Cow::Owned(bytes);
        }
        Ok(view)
    }

    fn release(&self, name: &str) {
        self.source.release(name);
    }
}
