//! Zeroed memory of the host.
#![allow(unsafe_code)] // owns raw memory

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use memmap2::MmapMut;

/// Size of the pages that large memory is asked to lie in: with small ones, reading weights one after the other
/// waits for addresses to be translated, and each is zeroed by a call of the system.
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory, aligned as asked. From 2 MB on it is mapped by itself: it is taken from the system page by page as it is
/// first touched, in huge pages where the system has them (`MADV_HUGEPAGE` on Linux and Android), and given back whole.
#[derive(Debug)]
pub struct ZeroedMemory {
    start: NonNull<u8>,
    len: usize,
    keeper: Keeper,
}

#[derive(Debug)]
enum Keeper {
    Allocator(Layout),
    /// Unmapped when dropped.
    Mapping(#[allow(dead_code)] MmapMut), // held for its memory
}

// SAFETY: the memory is owned by the value and has no interior mutability.
unsafe impl Send for ZeroedMemory {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for ZeroedMemory {}

impl ZeroedMemory {
    /// `len` zero bytes, aligned to at least `align`, a power of two; `None` if there are not so many.
    pub fn new(len: usize, align: usize) -> Option<ZeroedMemory> {
        match len >= HUGE_PAGE && align <= HUGE_PAGE && !cfg!(miri) {
            true => ZeroedMemory::map(len),
            false => ZeroedMemory::allocate(len, align),
        }
    }

    fn allocate(len: usize, align: usize) -> Option<ZeroedMemory> {
        let layout = Layout::from_size_align(len.max(1), align).ok()?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let keeper = Keeper::Allocator(layout);
        Some(ZeroedMemory { start, len, keeper })
    }

    /// Memory aligned to a huge page.
    fn map(len: usize) -> Option<ZeroedMemory> {
        let mut mapping = MmapMut::map_anon(len.checked_add(HUGE_PAGE)?).ok()?;
        let first = mapping.as_ptr().addr();
        let skipped = first.checked_next_multiple_of(HUGE_PAGE)? - first;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            // What is left over stays in small pages: a huge one would hold more than was asked for.
            let whole = len - len % HUGE_PAGE;
            let first = mapping.as_mut_ptr().wrapping_add(skipped);
            // SAFETY: the range lies in this mapping, which begins `skipped` bytes earlier and is that much longer than
            // `len` at the least; the advice changes no contents, and a refusal changes nothing.
            if unsafe { libc::madvise(first.cast(), whole, libc::MADV_HUGEPAGE) } != 0 {
                let error = std::io::Error::last_os_error();
                tracing::debug!(%error, "{len} bytes lie in small pages");
            }
        }
        let start = NonNull::from(mapping.get_mut(skipped..)?.first_mut()?);
        let keeper = Keeper::Mapping(mapping);
        Some(ZeroedMemory { start, len, keeper })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the size is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// All bytes.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes are owned by the value.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// All bytes, to be written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `len` initialised bytes are owned by the value, which is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for ZeroedMemory {
    fn drop(&mut self) {
        if let Keeper::Allocator(layout) = self.keeper {
            // SAFETY: `start` came from `alloc_zeroed` with this layout.
            unsafe { dealloc(self.start.as_ptr(), layout) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_any_size_is_aligned_and_zero_and_can_be_written_to_its_last_byte() {
        for len in [0, 1, 63, 4096, HUGE_PAGE - 1, HUGE_PAGE, (5 << 20) + 3] {
            for align in [64, 4096] {
                let mut memory = ZeroedMemory::new(len, align).unwrap();
                assert!(memory.as_ptr().addr().is_multiple_of(align));
                // Miri takes a step for each byte.
                let step = if cfg!(miri) { len / 64 + 1 } else { 1 };
                let mut some = memory.as_slice().iter().step_by(step);
                assert!(memory.len() == len && some.all(|&x| x == 0));
                memory.as_mut_slice().fill(7);
            }
        }
    }

    #[test]
    fn memory_that_can_not_be_had_is_none() {
        for len in [usize::MAX / 2, usize::MAX - HUGE_PAGE, usize::MAX] {
            assert!(ZeroedMemory::new(len, 64).is_none());
        }
    }

    /// Bytes of a mapping that lie in huge pages, by the kernel's own count.
    #[cfg(target_os = "linux")]
    fn in_huge_pages(at: usize) -> Option<usize> {
        let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        let mut inside = false;
        for line in maps.lines() {
            let mut words = line.split_ascii_whitespace();
            let (name, value) = (words.next()?, words.next());
            let ends = name.split_once('-').map(|(from, to)| {
                let number = |text| usize::from_str_radix(text, 16);
                (number(from), number(to))
            });
            if let Some((Ok(from), Ok(to))) = ends {
                inside = (from..to).contains(&at);
            } else if inside && name == "AnonHugePages:" {
                return Some(1024 * value?.parse::<usize>().ok()?);
            }
        }
        None
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn large_memory_lies_in_huge_pages_where_the_system_has_them() {
        let path = "/sys/kernel/mm/transparent_hugepage/enabled";
        let setting = std::fs::read_to_string(path).unwrap_or_default();
        let mut memory = ZeroedMemory::new(64 << 20, 64).unwrap();
        memory.as_mut_slice().fill(1);
        let huge = in_huge_pages(memory.as_ptr().addr());
        if setting.contains("[never]") || setting.is_empty() || huge.is_none() {
            println!(
                "SKIPPED large_memory_lies_in_huge_pages_where_the_system_has_them: {path} says {setting:?}"
            );
            return;
        }
        // memory may be too fragmented for all of it
        assert!(huge > Some(0), "{huge:?} bytes, {setting}");
    }
}
