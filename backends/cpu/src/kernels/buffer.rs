//! Aligned memory for packed weights and scratch.

use anynpu_hal::ZeroedMemory;

use super::KernelError;

/// Alignment of every buffer: a cache line and the widest vector.
pub(crate) const ALIGN: usize = 64;

/// `len` zero bytes, aligned to [`ALIGN`].
pub(crate) fn zeroed(len: usize) -> Result<ZeroedMemory, KernelError> {
    ZeroedMemory::new(len, ALIGN).ok_or(KernelError::OutOfMemory { bytes: len })
}

/// Working memory of kernels: grows to the largest call and stays, so that a steady state
/// allocates nothing. One per thread of execution that calls kernels.
pub struct Scratch {
    buffer: ZeroedMemory,
}

impl Scratch {
    /// Scratch of at least `bytes` (see [`super::Kernels::scratch_bytes`]).
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn with_capacity(bytes: usize) -> Result<Scratch, KernelError> {
        Ok(Scratch {
            buffer: zeroed(bytes)?,
        })
    }

    /// Bytes held.
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// The first `bytes` bytes, contents unspecified but initialised; grows if needed.
    pub(crate) fn get(&mut self, bytes: usize) -> Result<&mut [u8], KernelError> {
        if bytes > self.buffer.len() {
            self.buffer = zeroed(bytes)?;
        }
        Ok(&mut self.buffer.as_mut_slice()[..bytes])
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch")
            .field("capacity", &self.capacity())
            .finish()
    }
}

/// Types for which every bit pattern is a value and which have no padding, so that bytes may be
/// viewed as them.
///
/// # Safety
/// The implementor has no padding, no invalid bit patterns, and an alignment that divides 64.
pub(crate) unsafe trait Pod: Copy {}
// SAFETY: plain numbers.
unsafe impl Pod for u8 {}
// SAFETY: as above.
unsafe impl Pod for i8 {}
// SAFETY: as above.
unsafe impl Pod for u16 {}
// SAFETY: as above.
unsafe impl Pod for i32 {}
// SAFETY: as above.
unsafe impl Pod for f32 {}
// SAFETY: an array adds no padding.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// `bytes` seen as whole `T`s; a remainder is left out.
///
/// # Panics
/// If the bytes are not aligned for `T`.
pub(crate) fn cast<T: Pod>(bytes: &[u8]) -> &[T] {
    assert!(bytes.as_ptr().cast::<T>().is_aligned() && size_of::<T>() > 0);
    // SAFETY: aligned, in bounds, and any bytes are `T`s (`Pod`).
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
}

/// [`cast`], mutably.
pub(crate) fn cast_mut<T: Pod>(bytes: &mut [u8]) -> &mut [T] {
    assert!(bytes.as_ptr().cast::<T>().is_aligned() && size_of::<T>() > 0);
    let len = bytes.len() / size_of::<T>();
    // SAFETY: aligned, in bounds, exclusively borrowed, any bytes are `T`s and the reverse (`Pod`).
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) }
}

/// A slice that several threads write, each its own elements.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T> {
    ptr: *mut T,
    len: usize,
}

// SAFETY: it is only a pointer; `Shared::slice` states what its use requires.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(slice: &mut [T]) -> Shared<T> {
        Shared {
            ptr: slice.as_mut_ptr(),
            len: slice.len(),
        }
    }

    /// The address of element `at`, which may be out of bounds, to ask for its cache line.
    #[inline(always)]
    pub(crate) fn address(&self, at: usize) -> *const u8 {
        self.ptr.wrapping_add(at).cast_const().cast()
    }

    /// Elements `at .. at + len`.
    ///
    /// # Safety
    /// The slice given to [`Shared::new`] is still borrowed, and no other reference to these
    /// elements exists while the result is used.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // exclusive by the contract
    pub(crate) unsafe fn slice<'a>(&self, at: usize, len: usize) -> &'a mut [T] {
        assert!(at <= self.len && len <= self.len - at);
        // SAFETY: in bounds by the assertion, exclusive and alive by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(at), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero() {
        for len in [0, 1, 63, 4096, 5 << 20] {
            let b = zeroed(len).unwrap();
            assert_eq!(b.as_slice().as_ptr() as usize % ALIGN, 0);
            assert!(b.len() == len && b.as_slice().iter().all(|&x| x == 0));
        }
        assert!(matches!(
            zeroed(usize::MAX / 2),
            Err(KernelError::OutOfMemory { .. })
        ));
    }

    #[test]
    fn scratch_grows_and_keeps_its_memory() {
        let mut s = Scratch::with_capacity(100).unwrap();
        let at = s.get(100).unwrap().as_ptr();
        assert_eq!(s.get(50).unwrap().as_ptr(), at);
        assert_eq!(s.get(1000).unwrap().len(), 1000);
        assert_eq!(s.capacity(), 1000);
    }
}
