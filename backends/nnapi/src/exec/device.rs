//! Devices of a runtime.

use std::ffi::{CStr, c_char};
use std::sync::Arc;

use super::{NnapiError, check, function};
use crate::FeatureLevel;
use crate::sys::{self, Runtime};

/// A device of a runtime. It is there as long as the runtime.
#[derive(Clone, Debug)]
pub struct Device {
    runtime: Arc<Runtime>,
    handle: *mut sys::Device,
    name: String,
    version: String,
    ty: DeviceType,
    level: FeatureLevel,
}

// SAFETY: a device is a constant object of the runtime, whose functions may be called from any thread.
unsafe impl Send for Device {}
// SAFETY: as for Send.
unsafe impl Sync for Device {}

/// What kind of device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceType {
    /// Its driver does not tell.
    Unknown,
    /// None of the others.
    Other,
    /// The processor.
    Cpu,
    /// A graphics processor.
    Gpu,
    /// A neural processor.
    Accelerator,
}

/// The devices of `runtime`, in its order.
///
/// # Errors
/// The runtime's own.
pub fn devices(runtime: &Arc<Runtime>) -> Result<Vec<Device>, NnapiError> {
    let mut count = 0;
    let call = function!(runtime, get_device_count)?;
    // SAFETY: the function writes a number.
    check("get_device_count", "the runtime", unsafe {
        call(&raw mut count)
    })?;
    let get = function!(runtime, get_device)?;
    let mut found = Vec::new();
    for index in 0..count {
        let mut handle = std::ptr::null_mut();
        let what = format!("device {index}");
        // SAFETY: the function writes a pointer to a device that lives as long as the runtime.
        check("get_device", &what, unsafe { get(index, &raw mut handle) })?;
        found.push(Device::of(runtime, handle, &what)?);
    }
    Ok(found)
}

impl Device {
    fn of(
        runtime: &Arc<Runtime>,
        handle: *mut sys::Device,
        what: &str,
    ) -> Result<Device, NnapiError> {
        let (mut ty, mut level) = (0, 0);
        let call = function!(runtime, device_get_type)?;
        // SAFETY: the device is the runtime's own, and the function writes a number.
        check("device_get_type", what, unsafe {
            call(handle, &raw mut ty)
        })?;
        let call = function!(runtime, device_get_feature_level)?;
        // SAFETY: as above.
        check("device_get_feature_level", what, unsafe {
            call(handle, &raw mut level)
        })?;
        let text =
            |name, call: unsafe extern "C" fn(*const sys::Device, *mut *const c_char) -> _| {
                let mut text = std::ptr::null();
                // SAFETY: as above; a text that the function tells of lives as long as the device.
                check(name, what, unsafe { call(handle, &raw mut text) })?;
                match text.is_null() {
                    true => Ok::<String, NnapiError>(String::new()),
                    // SAFETY: it ends in 0.
                    false => Ok(unsafe { CStr::from_ptr(text) }
                        .to_string_lossy()
                        .into_owned()),
                }
            };
        let name = text("device_get_name", function!(runtime, device_get_name)?)?;
        let version = text(
            "device_get_version",
            function!(runtime, device_get_version)?,
        )?;
        Ok(Device {
            runtime: runtime.clone(),
            handle,
            name,
            version,
            ty: match ty {
                sys::DEVICE_OTHER => DeviceType::Other,
                sys::DEVICE_CPU => DeviceType::Cpu,
                sys::DEVICE_GPU => DeviceType::Gpu,
                sys::DEVICE_ACCELERATOR => DeviceType::Accelerator,
                _ => DeviceType::Unknown,
            },
            // a device offers what its runtime can ask for
            level: FeatureLevel::of_number(level).min(runtime.level),
        })
    }

    /// Its name, which its vendor gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version of its driver.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its type.
    pub fn ty(&self) -> DeviceType {
        self.ty
    }

    /// Its feature level, at most the runtime's.
    pub fn level(&self) -> FeatureLevel {
        self.level
    }

    /// The runtime it is a device of.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    pub(super) fn handle(&self) -> *const sys::Device {
        self.handle
    }
}
