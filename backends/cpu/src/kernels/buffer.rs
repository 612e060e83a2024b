//! Aligned memory for packed weights and scratch.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use super::KernelError;

/// Alignment of every buffer: a cache line and the widest vector.
pub(crate) const ALIGN: usize = 64;
/// Buffers from this size on are aligned to huge pages, and the system is asked to use those.
const HUGE_PAGE: usize = 2 << 20;

/// Zero-initialised bytes, aligned to 64.
pub(crate) struct Buffer {
    ptr: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: the memory is owned by the buffer and has no interior mutability.
unsafe impl Send for Buffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zero bytes.
    pub(crate) fn zeroed(len: usize) -> Result<Buffer, KernelError> {
        let align = if len >= 2 * HUGE_PAGE {
            HUGE_PAGE
        } else {
            ALIGN
        };
        let failed = KernelError::OutOfMemory { bytes: len };
        let Ok(layout) = Layout::from_size_align(len.max(1), align) else {
            return Err(failed);
        };
        // SAFETY: the layout's size is not zero.
        let Some(ptr) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            return Err(failed);
        };
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if align == HUGE_PAGE {
            // SAFETY: the range is this allocation's own; the advice changes no contents, and
            // a refusal changes nothing.
            unsafe { libc::madvise(ptr.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok(Buffer { ptr, len, layout })
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes are owned by the buffer.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `len` initialised bytes are owned by the buffer, which is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from `alloc_zeroed` with this layout.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

/// Working memory of kernels: grows to the largest call and stays, so that a steady state
/// allocates nothing. One per thread of execution that calls kernels.
pub struct Scratch {
    buffer: Buffer,
}

impl Scratch {
    /// Scratch of at least `bytes` (see [`super::Kernels::scratch_bytes`]).
    ///
    /// # Errors
    /// [`KernelError::OutOfMemory`].
    pub fn with_capacity(bytes: usize) -> Result<Scratch, KernelError> {
        Ok(Scratch {
            buffer: Buffer::zeroed(bytes)?,
        })
    }

    /// Bytes held.
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// The first `bytes` bytes, contents unspecified but initialised; grows if needed.
    pub(crate) fn get(&mut self, bytes: usize) -> Result<&mut [u8], KernelError> {
        if bytes > self.buffer.len() {
            self.buffer = Buffer::zeroed(bytes)?;
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
            let b = Buffer::zeroed(len).unwrap();
            assert_eq!(b.as_slice().as_ptr() as usize % ALIGN, 0);
            assert!(b.len() == len && b.as_slice().iter().all(|&x| x == 0));
        }
        assert!(matches!(
            Buffer::zeroed(usize::MAX / 2),
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
