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
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Device, Driver, DriverVariable, ExposedDevice, HalError, OpenOptions, Unavailable};
use host::Host;
use wire::{Answer, Call, Request};

pub use device::{helper_heap, helper_process};
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

/// What became of a helper that was asked for its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// It answered, or ended by itself.
    Ended,
    /// It was ended by a signal, or could not be started.
    Crashed(String),
    /// It did neither in time, and was ended.
    Hung,
}

/// Starts a helper, asks it for its devices and waits until it has ended, at most for `limit`.
pub(crate) fn trial(helper: &Helper, limit: Duration) -> Trial {
    let mut command = Command::new(&helper.program);
    command.args(&helper.arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    // what is wrong in another way is told when the driver is used
    command.stderr(Stdio::null());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            return Trial::Crashed(format!(
                "{} can't be started: {e}",
                helper.program.display()
            ));
        }
    };
    if let Some(mut input) = child.stdin.take() {
        let request = Request {
            id: 1,
            call: Call::Enumerate,
        };
        // a helper that does not listen any more has ended; with this end closed, it ends
        if let Err(e) = wire::write(&mut input, &request) {
            tracing::debug!("a helper on trial does not listen: {e}");
        }
    }
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.code().is_some() => return Trial::Ended,
            Ok(Some(status)) => return Trial::Crashed(status.to_string()),
            Ok(None) if started.elapsed() < limit => std::thread::sleep(Duration::from_millis(1)),
            Ok(None) => {
                let ended = child.kill().and_then(|()| child.wait());
                if let Err(e) = ended {
                    tracing::debug!("a helper on trial can't be ended: {e}");
                }
                return Trial::Hung;
            }
            Err(e) => return Trial::Crashed(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
