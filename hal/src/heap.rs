//! What the C library's allocator has handed out.
#![allow(unsafe_code)] // a function of the C library, looked for by name

/// Bytes that this process, plugins and all, has taken from the C library's allocator and not given back; memory that
/// threads keep at hand for their next allocations counts as taken. `None` where the C library does not tell: it is
/// glibc from 2.33 on that does.
pub fn heap_bytes() -> Option<u64> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        type MallInfo = unsafe extern "C" fn() -> libc::mallinfo2;
        // SAFETY: the name ends in 0, and a lookup changes nothing.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"mallinfo2".as_ptr()) };
        if found.is_null() {
            return None;
        }
        // SAFETY: glibc's function of this name has this type, and no other library has one.
        let ask = unsafe { std::mem::transmute::<*mut libc::c_void, MallInfo>(found) };
        // SAFETY: it takes nothing and may be called from any thread.
        let told = unsafe { ask() };
        Some(told.uordblks as u64 + told.hblkhd as u64)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn what_is_taken_counts_until_it_is_given_back() {
        // large enough that what other tests do meanwhile does not hide it
        const BYTES: usize = 256 << 20;
        let before = super::heap_bytes().unwrap();
        let taken = vec![1u8; BYTES];
        let held = super::heap_bytes().unwrap();
        assert!(held >= before + BYTES as u64 / 2, "{before} {held}");
        drop(taken);
        let after = super::heap_bytes().unwrap();
        assert!(after <= held - BYTES as u64 / 2, "{held} {after}");
    }
}
