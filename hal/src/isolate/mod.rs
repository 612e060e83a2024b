//! Drivers in a process of their own, so that a vendor's library that crashes takes down only that process.
//!
//! The program starts a helper, usually itself, whose standard input and output carry messages; the helper calls
//! [`serve`] with the driver. Buffers are files in memory that both map: on the host's side they are ordinary
//! [`HostBuffer`](crate::HostBuffer)s, which the CPU shares and which stay readable after the helper is gone. Weights
//! are mapped from the model's file.
//!
//! A helper that ends, answers nonsense or does not answer in time is a [`HalError::DeviceLost`](crate::HalError) of every
//! call that waits for it. Nothing the helper says is trusted: sizes are bounded, and what it can't say
//! is an error.
//!
//! The three main types: [`IsolatedDriver`], [`Helper`], and what [`serve`] runs.

mod device;
mod host;
mod serve;
mod shared;
mod wire;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Device, Driver, DriverVariable, ExposedDevice, HalError, OpenOptions, Unavailable};
use host::Host;
use wire::{Answer, Call};

pub use serve::{ServeError, own_output, serve};

/// The program that serves a driver: it must call [`serve`] with it on its standard input and output.
#[derive(Clone, Debug)]
pub struct Helper {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A driver that runs in a helper process. Each open device has a process of its own.
#[derive(Debug)]
pub struct IsolatedDriver {
    name: String,
    helper: Helper,
    variables: &'static [DriverVariable],
}

impl IsolatedDriver {
    /// The driver called `name`, which `helper` serves.
    pub fn new(name: impl Into<String>, helper: Helper) -> Self {
        IsolatedDriver {
            name: name.into(),
            helper,
            variables: &[],
        }
    }

    /// The environment variables that the driver in the helper reads.
    #[must_use]
    pub fn with_variables(mut self, variables: &'static [DriverVariable]) -> Self {
        self.variables = variables;
        self
    }
}

impl Driver for IsolatedDriver {
    fn name(&self) -> &str {
        &self.name
    }

    fn variables(&self) -> &'static [DriverVariable] {
        self.variables
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        let unavailable = |reason: String| Unavailable {
            driver: self.name.clone(),
            reason,
            remedy: Some(format!(
                "try without isolation; the helper is {}",
                self.helper.program.display()
            )),
        };
        let host = Host::start(&self.name, &self.helper).map_err(|e| unavailable(e.to_string()))?;
        match host.call(Call::Enumerate) {
            Ok(Answer::Devices(devices)) => {
                let mut found = Vec::new();
                for device in devices {
                    found.push(device.into_exposed().map_err(&unavailable)?);
                }
                Ok(found)
            }
            Ok(Answer::Unavailable { reason, remedy }) => Err(Unavailable {
                driver: self.name.clone(),
                reason,
                remedy,
            }),
            Ok(other) => Err(unavailable(format!("the helper answered {}", other.name()))),
            Err(e) => Err(unavailable(e.to_string())),
        }
    }

    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError> {
        device::open(&device.info.name, &self.helper, options)
    }
}

#[cfg(test)]
mod tests;
