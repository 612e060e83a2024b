//! A driver written in Rust as a plugin: the other side of the C interface.
//!
//! [`export_driver!`](crate::export_driver) in a package of the type `cdylib` makes it a plugin:
//!
//! ```
//! anynpu_hal::export_driver!(anynpu_hal::driver::noop::NoopDriver);
//! # fn main() {}
//! ```
#![allow(unsafe_code)] // functions that a host calls, with what it points to

mod devices;
mod modules;
mod run;

use std::panic::{AssertUnwindSafe, catch_unwind};

use anynpu_abi::*;
use parking_lot::Mutex;

use super::read::TableError;
use super::tables::text;
use crate::{Driver, HalError};
use devices::{close, enumerate, open, support, validate};
use modules::{
    check, compatibility, compile, destroy_module, load, memory_need, resident_bytes, save,
};
use run::{counters, give_up, submit, trim};

pub use anynpu_abi as abi;

/// Makes a driver a plugin: defines the one symbol, `anynpu_backend_query`. The expression makes the driver, once.
#[macro_export]
macro_rules! export_driver {
    ($driver:expr) => {
        /// The plugin's table.
        ///
        /// # Safety
        /// `host` points to a host's table that lives as long as the process.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn anynpu_backend_query(
            max_major: u16,
            max_minor: u16,
            host: *const $crate::plugin::export::abi::anynpu_host,
        ) -> *const $crate::plugin::export::abi::anynpu_backend {
            static EXPORTED: ::std::sync::OnceLock<$crate::plugin::export::Exported> =
                ::std::sync::OnceLock::new();
            let version = ::core::env!("CARGO_PKG_VERSION");
            let made =
                || $crate::plugin::export::Exported::new(::std::boxed::Box::new($driver), version);
            $crate::plugin::export::query(max_major, max_minor, host, || EXPORTED.get_or_init(made))
        }
    };
}

/// A driver with its table.
#[derive(Debug)]
pub struct Exported {
    table: anynpu_backend,
}

// SAFETY: the table is only read, and its context is a driver, which any thread may use.
unsafe impl Send for Exported {}
// SAFETY: as for Send.
unsafe impl Sync for Exported {}

impl Exported {
    /// The table of `driver`, whose own version is `version`.
    pub fn new(driver: Box<dyn Driver>, version: &'static str) -> Exported {
        // a plugin is never unloaded, nor is its driver ever dropped
        let driver = Box::leak(Box::new(driver));
        let table = anynpu_backend {
            struct_size: size_of::<anynpu_backend>() as u32,
            major: ANYNPU_ABI_MAJOR,
            minor: ANYNPU_ABI_MINOR,
            name: text(driver.name()),
            version: text(version),
            context: (&raw mut *driver).cast(),
            enumerate: Some(enumerate),
            open: Some(open),
            close: Some(close),
            support: Some(support),
            compile: Some(compile),
            destroy_module: Some(destroy_module),
            submit: Some(submit),
            validate: Some(validate),
            memory_need: Some(memory_need),
            resident_bytes: Some(resident_bytes),
            compatibility: Some(compatibility),
            save: Some(save),
            check: Some(check),
            load: Some(load),
            allocate: None,
            free: None,
            map: None,
            unmap: None,
            trim: Some(trim),
            give_up: Some(give_up),
            shutdown: None,
            counters: Some(counters),
            link: None,
        };
        Exported { table }
    }
}

/// What [`export_driver!`](crate::export_driver) answers a host: null for one without this major version.
pub fn query(
    max_major: u16,
    _max_minor: u16,
    host: *const anynpu_host,
    exported: impl FnOnce() -> &'static Exported,
) -> *const anynpu_backend {
    if max_major != ANYNPU_ABI_MAJOR || host.is_null() {
        return std::ptr::null();
    }
    HOST.lock().get_or_insert(Host(host));
    match catch_unwind(AssertUnwindSafe(exported)) {
        Ok(exported) => &raw const exported.table,
        Err(_) => std::ptr::null(),
    }
}

/// The program that loaded this library.
#[derive(Clone, Copy, Debug)]
struct Host(*const anynpu_host);

// SAFETY: a host's table is only read, and its functions are for any thread.
unsafe impl Send for Host {}

static HOST: Mutex<Option<Host>> = Mutex::new(None);

/// Runs what the host called: what fails is told by status and message, and a panic ends here.
fn answer(
    message: *mut anynpu_message,
    run: impl FnOnce() -> Result<(), Failure>,
) -> anynpu_status {
    let failed = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => return ANYNPU_OK,
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new(ANYNPU_VENDOR, "the plugin panicked"),
    };
    // SAFETY: the message is the host's, for the time of the call.
    if let Some(message) = unsafe { message.as_mut() } {
        let length = failed.text.len().min(message.capacity);
        // SAFETY: as many bytes fit there as are told.
        unsafe {
            std::ptr::copy_nonoverlapping(failed.text.as_ptr(), message.text.cast(), length);
        }
        message.length = length;
        message.vendor_code = failed.vendor_code;
        message.bytes = failed.bytes;
    }
    failed.status
}

/// What a call failed with.
struct Failure {
    status: anynpu_status,
    text: String,
    vendor_code: i64,
    bytes: u64,
}

impl Failure {
    fn new(status: anynpu_status, text: impl Into<String>) -> Failure {
        Failure {
            status,
            text: text.into(),
            vendor_code: 0,
            bytes: 0,
        }
    }
}

impl From<TableError> for Failure {
    fn from(e: TableError) -> Failure {
        Failure::new(ANYNPU_INVALID_USE, e.to_string())
    }
}

impl From<HalError> for Failure {
    fn from(e: HalError) -> Failure {
        let told = e.to_string();
        match e {
            HalError::DeviceLost { why, .. } => Failure::new(ANYNPU_DEVICE_LOST, why),
            HalError::OutOfMemory { bytes, what, .. } => Failure {
                bytes,
                ..Failure::new(ANYNPU_OUT_OF_MEMORY, what)
            },
            HalError::Timeout { .. } => Failure::new(ANYNPU_TIMEOUT, told),
            HalError::CompileRejected { .. } => Failure::new(ANYNPU_COMPILE_REJECTED, told),
            HalError::BlobRejected { why, .. } => Failure::new(ANYNPU_BLOB_REJECTED, why),
            HalError::Weight { .. } => Failure::new(ANYNPU_WEIGHT, told),
            HalError::InvalidUse { .. } => Failure::new(ANYNPU_INVALID_USE, told),
            HalError::Cancelled { .. } => Failure::new(ANYNPU_CANCELLED, told),
            HalError::Unsupported { .. } => Failure::new(ANYNPU_UNSUPPORTED, told),
            HalError::Vendor { code, text, .. } => Failure {
                vendor_code: code,
                ..Failure::new(ANYNPU_VENDOR, text)
            },
        }
    }
}

fn missing(what: &str) -> Failure {
    Failure::new(ANYNPU_INVALID_USE, format!("{what} is null"))
}
