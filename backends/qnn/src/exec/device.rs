//! The library's backend, and a chip in it.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::NO_MEMORY;
use super::{QnnError, log};
use crate::Soc;
use crate::sys::{
    CONFIG_CUSTOM, DeviceConfig, ErrorCode, Handle, HtpDeviceConfig, Loaded, OpConfig, OpName,
    SystemTable, Table, Version,
};

/// The library started: what all devices share.
#[derive(Debug)]
struct Backend {
    loaded: Arc<Loaded>,
    log: Handle,
    backend: Handle,
}

// SAFETY: handles are numbers to the library, which may be called from several threads; it was run with four that
// compiled and executed at once. What is not to be done at once is guarded where it is done.
unsafe impl Send for Backend {}
// SAFETY: as for Send.
unsafe impl Sync for Backend {}

/// A chip, emulated or real.
#[derive(Debug)]
pub struct Device {
    backend: Backend,
    handle: Handle,
    soc: Soc,
}

// SAFETY: as for the backend.
unsafe impl Send for Device {}
// SAFETY: as for the backend.
unsafe impl Sync for Device {}

/// Number of the chip of the device that was made last: the library validates nodes for that one, whichever device
/// they are for.
static LATEST: Mutex<Option<u32>> = Mutex::new(None);

impl Device {
    /// Starts the library for `soc`.
    ///
    /// # Errors
    /// The library's own, such as that there is no such chip.
    pub fn open(loaded: Arc<Loaded>, soc: Soc) -> Result<Arc<Device>, QnnError> {
        let backend = Backend::start(loaded)?;
        let create = backend.loaded.table.device_create;
        let create = create.ok_or(QnnError::Missing {
            call: "deviceCreate",
        })?;
        let custom = HtpDeviceConfig::soc(soc.id);
        let config = DeviceConfig {
            option: CONFIG_CUSTOM,
            custom: (&raw const custom).cast(),
        };
        let configs = [&raw const config, std::ptr::null()];
        let mut handle = std::ptr::null_mut();
        let mut latest = LATEST.lock();
        // SAFETY: the list of configurations ends in null, and all of it lives during the call.
        let code = unsafe { create(backend.log, configs.as_ptr(), &raw mut handle) };
        *latest = (code == 0).then_some(soc.id);
        drop(latest);
        let device = Device {
            backend,
            handle,
            soc,
        };
        match code {
            0 => Ok(Arc::new(device)),
            code => {
                let error = device.error("deviceCreate", soc.name.into(), code);
                // there is nothing to free
                let mut device = device;
                device.handle = std::ptr::null_mut();
                Err(error)
            }
        }
    }

    /// The chip.
    pub fn soc(&self) -> Soc {
        self.soc
    }

    /// The core API of the library.
    pub fn core_api(&self) -> Version {
        self.backend.loaded.core
    }

    /// The library's build, which begins with the version of its SDK, if it tells that.
    pub fn build(&self) -> Option<String> {
        let mut build: *const std::ffi::c_char = std::ptr::null();
        let get = self.table().backend_get_build_id?;
        // SAFETY: the function writes a pointer to a text of its own.
        let code = unsafe { get(&raw mut build) };
        if code != 0 || build.is_null() {
            return None;
        }
        // SAFETY: the text ends in 0 and lives as long as the library.
        let build = unsafe { CStr::from_ptr(build) };
        Some(build.to_string_lossy().into_owned())
    }

    /// The library: its core API, and its build if it tells that.
    pub fn library(&self) -> String {
        let core = self.core_api();
        match self.build() {
            None => format!("core API {core}"),
            Some(build) => format!("core API {core}, build {build}"),
        }
    }

    /// The names of the operations that the library has for any chip.
    ///
    /// # Errors
    /// The library's own.
    pub fn operations(&self) -> Result<Vec<String>, QnnError> {
        let call = "backendGetSupportedOperations";
        let list = self.table().backend_get_supported_operations;
        let list = list.ok_or(QnnError::Missing { call })?;
        let (mut count, mut names) = (0u32, std::ptr::null::<OpName>());
        // SAFETY: the backend is alive; the function writes a pointer to an array of its own, and its length.
        let code = unsafe { list(self.backend.backend, &raw mut count, &raw mut names) };
        if code != 0 || names.is_null() {
            return Err(self.error(call, "the backend".into(), code));
        }
        let mut all = Vec::new();
        for i in 0..count as usize {
            // SAFETY: the array has `count` entries.
            let name = unsafe { (*names.add(i)).name };
            if !name.is_null() {
                // SAFETY: names are strings that end in 0 and live as long as the backend.
                let name = unsafe { CStr::from_ptr(name) };
                all.push(name.to_string_lossy().into_owned());
            }
        }
        Ok(all)
    }

    /// What the library says of `node`, if it would say it for this chip. Making the node asks again, for this one in
    /// any case.
    ///
    /// # Safety
    /// All that `node` points to is there.
    pub(super) unsafe fn validate(&self, node: OpConfig) -> Result<ErrorCode, QnnError> {
        let call = "backendValidateOpConfig";
        let validate = self.table().backend_validate_op_config;
        let validate = validate.ok_or(QnnError::Missing { call })?;
        let latest = LATEST.lock();
        if *latest != Some(self.soc.id) {
            return Ok(0);
        }
        // SAFETY: the backend is alive; the rest is the contract.
        Ok(unsafe { validate(self.backend(), node) })
    }

    pub(super) fn table(&self) -> &Table {
        &self.backend.loaded.table
    }

    /// Whether compiled forms can be looked into, and so loaded.
    pub fn reads_binaries(&self) -> bool {
        self.system().is_some()
    }

    pub(super) fn system(&self) -> Option<&SystemTable> {
        self.backend.loaded.system.as_ref()
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    pub(super) fn backend(&self) -> Handle {
        self.backend.backend
    }

    /// The error of a call that gave `code`.
    pub(super) fn error(&self, call: &'static str, what: String, code: u64) -> QnnError {
        self.backend.error(call, what, code)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let (Some(free), false) = (self.table().device_free, self.handle.is_null()) {
            // SAFETY: contexts hold the device, so none is alive.
            let code = unsafe { free(self.handle) };
            tracing::trace!("deviceFree: {code}");
        }
    }
}

impl Backend {
    fn start(loaded: Arc<Loaded>) -> Result<Backend, QnnError> {
        let table = loaded.table;
        let mut backend = Backend {
            loaded,
            log: std::ptr::null_mut(),
            backend: std::ptr::null_mut(),
        };
        if let Some(create) = table.log_create {
            // SAFETY: the callback has the declared type and lives as long as the program.
            let code = unsafe { create(Some(log::callback), log::level(), &raw mut backend.log) };
            if code != 0 {
                return Err(backend.error("logCreate", "the library".into(), code));
            }
        }
        let call = "backendCreate";
        let create = table.backend_create.ok_or(QnnError::Missing { call })?;
        let none: *const *const c_void = std::ptr::null();
        // SAFETY: the log is alive; no configuration is given.
        let code = unsafe { create(backend.log, none, &raw mut backend.backend) };
        match code {
            0 => Ok(backend),
            code => {
                let error = backend.error(call, "the library".into(), code);
                backend.backend = std::ptr::null_mut();
                Err(error)
            }
        }
    }

    fn error(&self, call: &'static str, what: String, code: u64) -> QnnError {
        let mut text = std::ptr::null();
        let told = self.loaded.table.error_get_message.map(|message| {
            // SAFETY: the function writes a pointer to a text of its own.
            unsafe { message(code, &raw mut text) }
        });
        let text = match (told, text.is_null()) {
            // SAFETY: the text ends in 0 and lives as long as the library.
            (Some(0), false) => unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .trim_end()
                .to_owned(),
            _ => "the library does not say why".to_owned(),
        };
        let text = match (call, code) {
            ("graphFinalize", NO_MEMORY) => format!(
                "{text} The library says so too of an operation that it can't compile; `anynpu operations` tries each"
            ),
            _ => text,
        };
        QnnError::Call {
            call,
            what,
            code,
            text,
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let table = &self.loaded.table;
        if let (Some(free), false) = (table.backend_free, self.backend.is_null()) {
            // SAFETY: the device of this backend is freed before it.
            let code = unsafe { free(self.backend) };
            tracing::trace!("backendFree: {code}");
        }
        if let (Some(free), false) = (table.log_free, self.log.is_null()) {
            // SAFETY: the backend that logs is freed.
            let code = unsafe { free(self.log) };
            tracing::trace!("logFree: {code}");
        }
    }
}
