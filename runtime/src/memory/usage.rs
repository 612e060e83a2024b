//! What the process uses and what the machine has left.
#![allow(unsafe_code)] // two calls of the C library where /proc is absent

/// The most memory the process has held so far; `None` where the system doesn't tell.
pub fn peak_rss_bytes() -> Option<u64> {
    proc_kilobytes("/proc/self/status", "VmHWM:").or_else(peak_from_rusage)
}

/// The memory the process holds now; `None` where the system doesn't tell.
pub fn rss_bytes() -> Option<u64> {
    proc_kilobytes("/proc/self/status", "VmRSS:")
}

/// Memory that can still be had without swapping; `None` where the system doesn't tell.
pub fn available_bytes() -> Option<u64> {
    let machine = proc_kilobytes("/proc/meminfo", "MemAvailable:").or_else(physical_bytes)?;
    Some(group_limit().map_or(machine, |limit| machine.min(limit)))
}

/// The number of kilobytes at `key` of a file of `key: number kB` lines, in bytes.
fn proc_kilobytes(file: &str, key: &str) -> Option<u64> {
    kilobytes(&std::fs::read_to_string(file).ok()?, key)
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(key))?;
    let number = line.trim().strip_suffix("kB")?.trim();
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// The limit of the process's control group, where it sees one.
fn group_limit() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?;
    text.trim().parse().ok()
}

#[cfg(unix)]
fn peak_from_rusage() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a rusage of ours; the call writes nothing past it.
    let status = unsafe { libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) };
    // SAFETY: an all-zero rusage is valid, and the call either filled it in or left it.
    let usage = unsafe { usage.assume_init() };
    let unit = if cfg!(target_vendor = "apple") {
        1
    } else {
        1024
    };
    let peak = u64::try_from(usage.ru_maxrss).ok()?;
    (status == 0).then(|| peak.saturating_mul(unit))
}

#[cfg(unix)]
fn physical_bytes() -> Option<u64> {
    // SAFETY: sysconf takes no pointers.
    let (pages, size) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    u64::try_from(pages)
        .ok()?
        .checked_mul(u64::try_from(size).ok()?)
}

#[cfg(not(unix))]
fn peak_from_rusage() -> Option<u64> {
    None
}

#[cfg(not(unix))]
fn physical_bytes() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kilobyte_lines_are_read_in_bytes() {
        let text = "VmPeak:\t  10 kB\nVmHWM:\t  2048 kB\nVmRSS: 7 kB\n";
        assert_eq!(kilobytes(text, "VmHWM:"), Some(2048 * 1024));
        assert_eq!(kilobytes(text, "VmSwap:"), None);
        assert_eq!(kilobytes("VmHWM: many kB", "VmHWM:"), None);
    }

    #[cfg(unix)]
    #[test]
    fn the_peak_covers_memory_that_was_touched() {
        let big = vec![1u8; 32 << 20];
        assert!(big.iter().step_by(4096).all(|&b| b == 1));
        for peak in [peak_rss_bytes(), peak_from_rusage()] {
            assert!(peak.unwrap() >= 32 << 20, "{peak:?}");
        }
        assert!(available_bytes().unwrap() > 1 << 20);
        assert!(physical_bytes().unwrap() > 1 << 20);
    }
}
