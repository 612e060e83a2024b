//! What plugins are given, and what they tell.

use core::ffi::{c_char, c_void};

use crate::{anynpu_log_level, anynpu_status, anynpu_text, anynpu_weight};

/// Where a call writes why it failed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_message {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// Not used.
    pub reserved: u32,
    /// Room for a text.
    pub text: *mut c_char,
    /// Bytes of room.
    pub capacity: usize,
    /// Bytes written; set by whoever writes.
    pub length: usize,
    /// With ANYNPU_VENDOR, the vendor's own code.
    pub vendor_code: i64,
    /// With ANYNPU_OUT_OF_MEMORY, the bytes asked for.
    pub bytes: u64,
}

/// The end of a submission, as the host knows it. It is copied and handed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct anynpu_point {
    /// Which submission.
    pub id: u64,
    /// Which life of the queue.
    pub generation: u64,
}

/// Functions of the host. Each takes `context` first. They may be called from any thread, until the process ends.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_host {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// Major version that the host offers.
    pub major: u16,
    /// Minor version that the host offers.
    pub minor: u16,
    /// To be given to every function.
    pub context: *mut c_void,
    /// Adds a line to the application's log.
    pub log: Option<
        unsafe extern "C" fn(context: *mut c_void, level: anynpu_log_level, text: anynpu_text),
    >,
    /// Says that a submission has ended: with ANYNPU_OK, or with what went wrong. It never blocks. What comes late,
    /// twice or for nothing is ignored; 1 is returned if it counted, else 0.
    pub signal: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            point: anynpu_point,
            status: anynpu_status,
            text: anynpu_text,
        ) -> u32,
    >,
    /// Nanoseconds of the clock that the application's traces are in.
    pub now_ns: Option<unsafe extern "C" fn(context: *mut c_void) -> u64>,
    /// Memory of `bytes`, aligned to `align`, a power of two; null if there is none. It counts as the host's.
    pub allocate: Option<
        unsafe extern "C" fn(context: *mut c_void, bytes: usize, align: usize) -> *mut c_void,
    >,
    /// Gives back what `allocate` gave, with the same numbers.
    pub release: Option<
        unsafe extern "C" fn(context: *mut c_void, memory: *mut c_void, bytes: usize, align: usize),
    >,
    /// Writes the BLAKE3 hash of a weight's bytes, 32 bytes: what it is known by in caches.
    pub digest: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            weight: *const anynpu_weight,
            out: *mut u8,
        ) -> anynpu_status,
    >,
}

// SAFETY: the table is only read, and its functions are for any thread, as is said above.
#[allow(unsafe_code)]
unsafe impl Sync for anynpu_host {}
