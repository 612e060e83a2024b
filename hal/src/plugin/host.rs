//! The host's functions, and the runs that plugins have yet to tell the end of.
#![allow(unsafe_code)] // called by plugins

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anynpu_abi::*;
use parking_lot::Mutex;

use super::answers::{error_of, read_text};
use super::device::{Counting, Kept};
use crate::Point;

/// What a plugin's functions are given as the host's context. It lives as long as the process.
#[derive(Debug)]
pub(super) struct Host {
    /// What the log calls the plugin.
    pub path: String,
}

/// The host's table for the plugin at `path`, which lives as long as the process. A plugin that is loaded again gets the
/// same.
pub(super) fn table(path: &str) -> &'static anynpu_host {
    static TABLES: LazyLock<Mutex<HashMap<String, &'static anynpu_host>>> =
        LazyLock::new(Mutex::default);
    let mut tables = TABLES.lock();
    tables
        .entry(path.to_owned())
        .or_insert_with(|| new_table(path))
}

fn new_table(path: &str) -> &'static anynpu_host {
    let host: &'static Host = Box::leak(Box::new(Host { path: path.into() }));
    Box::leak(Box::new(anynpu_host {
        struct_size: size_of::<anynpu_host>() as u32,
        major: ANYNPU_ABI_MAJOR,
        minor: ANYNPU_ABI_MINOR,
        context: (&raw const *host).cast_mut().cast(),
        log: Some(log),
        signal: Some(signal),
        now_ns: Some(now_ns),
        allocate: Some(allocate),
        release: Some(release),
        digest: Some(digest),
    }))
}

/// A run that has not ended.
pub(super) struct Pending {
    pub generation: u64,
    pub point: Point,
    pub device: Arc<str>,
    /// What the plugin may still read and write. It is given back to the device, which drops it in a call of its own.
    pub kept: Kept,
    pub counting: Arc<Counting>,
    pub started: Instant,
}

/// Runs of all plugins by number.
static RUNS: LazyLock<Mutex<HashMap<u64, Pending>>> =
    LazyLock::new(|| Mutex::new(HashMap::with_capacity(64)));
static NEXT: AtomicU64 = AtomicU64::new(1);
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// A number for the life of a device.
pub(super) fn generation() -> u64 {
    GENERATION.fetch_add(1, Ordering::Relaxed)
}

/// Notes a run before it is submitted.
pub(super) fn expect(pending: Pending) -> anynpu_point {
    let point = anynpu_point {
        id: NEXT.fetch_add(1, Ordering::Relaxed),
        generation: pending.generation,
    };
    RUNS.lock().insert(point.id, pending);
    point
}

/// Forgets a run that was not started.
pub(super) fn forget(point: anynpu_point) -> Option<Pending> {
    RUNS.lock().remove(&point.id)
}

/// A run has ended. Returns whether anybody was told.
fn end(point: anynpu_point, status: anynpu_status, text: String) -> bool {
    let pending = {
        let mut runs = RUNS.lock();
        match runs.get(&point.id) {
            Some(p) if p.generation == point.generation => runs.remove(&point.id),
            _ => None,
        }
    };
    let Some(pending) = pending else {
        return false;
    };
    let outcome = match status {
        ANYNPU_OK => pending.kept.intact(&pending.device),
        other => Err(error_of(&pending.device, "submit", other, text, 0, 0)),
    };
    let Pending {
        point,
        kept,
        counting,
        started,
        ..
    } = pending;
    counting.ended(kept, started.elapsed(), outcome.is_ok());
    match outcome {
        Ok(()) => point.signal(),
        Err(e) => point.fail(e),
    };
    true
}

/// Runs what a plugin called; a panic ends there.
fn guarded<T>(what: &str, otherwise: T, run: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(value) => value,
        Err(_) => {
            tracing::error!("a panic in {what}, called by a plugin");
            otherwise
        }
    }
}

unsafe extern "C" fn log(context: *mut c_void, level: anynpu_log_level, text: anynpu_text) {
    guarded("log", (), || {
        // SAFETY: the context is the one that the table has, or null; the text is the plugin's for the time of the call.
        let (host, text) = unsafe { (context.cast::<Host>().as_ref(), read_text(text)) };
        let path = host.map_or("a plugin", |h| h.path.as_str());
        match level {
            ANYNPU_LOG_ERROR => tracing::error!("{path}: {text}"),
            ANYNPU_LOG_WARN => tracing::warn!("{path}: {text}"),
            ANYNPU_LOG_INFO => tracing::info!("{path}: {text}"),
            _ => tracing::debug!("{path}: {text}"),
        }
    });
}

unsafe extern "C" fn signal(
    _: *mut c_void,
    point: anynpu_point,
    status: anynpu_status,
    text: anynpu_text,
) -> u32 {
    guarded("signal", 0, || {
        // SAFETY: the text is the plugin's for the time of the call.
        let text = unsafe { read_text(text) };
        end(point, status, text).into()
    })
}

unsafe extern "C" fn now_ns(_: *mut c_void) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

unsafe extern "C" fn allocate(_: *mut c_void, bytes: usize, align: usize) -> *mut c_void {
    match Layout::from_size_align(bytes.max(1), align.max(1)) {
        // SAFETY: the size is at least 1.
        Ok(layout) => unsafe { alloc(layout) }.cast(),
        Err(_) => std::ptr::null_mut(),
    }
}

unsafe extern "C" fn release(_: *mut c_void, memory: *mut c_void, bytes: usize, align: usize) {
    if let (false, Ok(layout)) = (
        memory.is_null(),
        Layout::from_size_align(bytes.max(1), align.max(1)),
    ) {
        // SAFETY: the interface has the plugin give back what `allocate` gave, with the same numbers.
        unsafe { dealloc(memory.cast(), layout) }
    }
}

unsafe extern "C" fn digest(
    _: *mut c_void,
    weight: *const anynpu_weight,
    out: *mut u8,
) -> anynpu_status {
    guarded("digest", ANYNPU_INVALID_USE, || {
        // SAFETY: the weight is one of a request's, and `out` has room for 32 bytes, by the interface.
        unsafe {
            let Some(weight) = weight.as_ref().filter(|w| !w.data.is_null()) else {
                return ANYNPU_INVALID_USE;
            };
            let Ok(length) = usize::try_from(weight.length) else {
                return ANYNPU_INVALID_USE;
            };
            let bytes = std::slice::from_raw_parts(weight.data.cast::<u8>(), length);
            let hash = blake3::hash(bytes);
            std::ptr::copy_nonoverlapping(hash.as_bytes().as_ptr(), out, 32);
        }
        ANYNPU_OK
    })
}
