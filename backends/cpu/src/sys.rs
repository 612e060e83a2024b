//! What is asked and told of the system.
#![allow(unsafe_code)] // its interface

use std::io;

/// The cores that the system lets the calling thread use; none where it doesn't tell.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn allowed_cores() -> Vec<usize> {
    // SAFETY: the set is plain numbers, for which zero is a value; the call writes no more than its size.
    let (set, asked) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let asked = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        (set, asked)
    };
    if asked != 0 {
        return Vec::new();
    }
    let cores = 0..8 * size_of::<libc::cpu_set_t>();
    // SAFETY: the numbers are below the set's size.
    cores
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn allowed_cores() -> Vec<usize> {
    Vec::new()
}

/// Keeps the calling thread on these cores, which are among the [`allowed_cores`].
///
/// # Errors
/// The system's; [`io::ErrorKind::Unsupported`] where threads have no choice.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn keep_thread_on(cores: &[usize]) -> io::Result<()> {
    let most = 8 * size_of::<libc::cpu_set_t>();
    if let Some(core) = cores.iter().find(|&&core| core >= most) {
        let why = format!("core {core} is not one of the {most} that there can be");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    // SAFETY: the set is plain numbers, for which zero is a value; the cores were checked to be below its size; the call
    // reads no more than its size.
    let told = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &core in cores {
            libc::CPU_SET(core, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    match told {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn keep_thread_on(_cores: &[usize]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
