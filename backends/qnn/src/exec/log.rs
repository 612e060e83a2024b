//! What the library logs, as events of `tracing`.

use std::ffi::{c_char, c_int, c_void};

/// Longest message that is kept, in bytes.
const LONGEST: usize = 2048;

unsafe extern "C" {
    fn vsnprintf(
        out: *mut c_char,
        size: usize,
        format: *const c_char,
        arguments: *mut c_void,
    ) -> c_int;
}

/// Given to the library as its log. The library's `va_list` is handed on as the pointer that it is passed as.
pub(super) unsafe extern "C" fn callback(
    format: *const c_char,
    level: u32,
    _time: u64,
    arguments: *mut c_void,
) {
    if format.is_null() {
        return;
    }
    let mut text = [0u8; LONGEST];
    // SAFETY: the buffer has the size that is given; the library gives a format with the arguments it names.
    let written = unsafe { vsnprintf(text.as_mut_ptr().cast(), LONGEST, format, arguments) };
    let length = usize::try_from(written).unwrap_or(0).min(LONGEST - 1);
    let text = String::from_utf8_lossy(&text[..length]);
    // a subscriber that panics must not unwind into the library
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        tell(level, text.trim_end())
    }));
    drop(told);
}

/// Errors come back as codes too, and the library's warnings are for those who build it.
fn tell(level: u32, text: &str) {
    match level {
        // libraries of 2.51 log this for every graph
        1 if text.contains("unexpected GraphHtpSettings option") => {
            tracing::trace!(target: "qnn", "{text}");
        }
        1 => tracing::warn!(target: "qnn", "{text}"),
        2 => tracing::debug!(target: "qnn", "{text}"),
        _ => tracing::trace!(target: "qnn", "{text}"),
    }
}

/// The level of the library that shows what is listened to.
pub(super) fn level() -> u32 {
    match tracing::enabled!(target: "qnn", tracing::Level::DEBUG) {
        true => 2,
        false => 1,
    }
}
