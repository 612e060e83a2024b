//! Drivers: what finds devices and opens them.

pub mod chaos;
pub mod noop;
pub mod record;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use crate::{Device, DeviceInfo, HalError};

/// A device that was found but not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposedDevice {
    /// What it is.
    pub info: DeviceInfo,
    /// Computes nothing or fails on purpose: opened only if the user named it.
    pub artificial: bool,
}

/// Why a driver has no device to offer: what was looked for, where, what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// Driver name.
    pub driver: String,
    /// For people.
    pub reason: String,
    /// What the user can do about it.
    pub remedy: Option<String>,
}

/// An environment variable that a driver reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverVariable {
    /// Its name, which begins with `ANYNPU_`.
    pub name: &'static str,
    /// What holds where it is not set.
    pub default: &'static str,
    /// What it says.
    pub meaning: &'static str,
}

/// How to open a device.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Threads, where the device uses the host's; its own choice if absent.
    pub threads: Option<usize>,
    /// Further options by name, as the driver documents them.
    pub options: BTreeMap<String, String>,
}

/// Finds devices of one vendor or kind and opens them.
pub trait Driver: Debug + Send + Sync {
    /// Short name, e.g. `cpu`.
    fn name(&self) -> &str;

    /// The environment variables it reads.
    fn variables(&self) -> &'static [DriverVariable] {
        &[]
    }

    /// The devices it finds, or why there are none. Never fails because a vendor's library does.
    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable>;

    /// Opens a device that [`Driver::enumerate`] returned.
    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError>;
}
