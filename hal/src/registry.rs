//! The drivers a program has.

use std::sync::Arc;

use thiserror::Error;

use crate::{Device, Driver, ExposedDevice, HalError, OpenOptions, Unavailable};

/// The drivers a program was given, in order of preference.
#[derive(Debug, Default)]
pub struct Registry {
    drivers: Vec<Box<dyn Driver>>,
}

/// A device that can't be had.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum RegistryError {
    /// No device has that name.
    #[error(
        "there is no device '{name}'; found: {}; not usable: {}",
        list(found),
        reasons(unavailable)
    )]
    NoSuchDevice {
        /// The name asked for.
        name: String,
        /// Names of the devices found.
        found: Vec<String>,
        /// Drivers without a device, and why.
        unavailable: Vec<Unavailable>,
    },
    /// The device was found but did not open.
    #[error("device '{name}' did not open: {source}")]
    Open {
        /// Device name.
        name: String,
        /// Why.
        source: HalError,
    },
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}

fn reasons(unavailable: &[Unavailable]) -> String {
    let texts: Vec<String> = unavailable
        .iter()
        .map(|u| match &u.remedy {
            Some(remedy) => format!("{} ({}; {remedy})", u.driver, u.reason),
            None => format!("{} ({})", u.driver, u.reason),
        })
        .collect();
    list(&texts)
}

impl Registry {
    /// A registry of `drivers`.
    pub fn new(drivers: Vec<Box<dyn Driver>>) -> Self {
        Registry { drivers }
    }

    /// Adds a driver, least preferred.
    pub fn add(&mut self, driver: Box<dyn Driver>) {
        self.drivers.push(driver);
    }

    /// The drivers.
    pub fn drivers(&self) -> &[Box<dyn Driver>] {
        &self.drivers
    }

    /// Every device of every driver, artificial ones too, and the drivers that have none.
    pub fn enumerate(&self) -> (Vec<ExposedDevice>, Vec<Unavailable>) {
        let (mut found, mut unavailable) = (Vec::new(), Vec::new());
        for driver in &self.drivers {
            match driver.enumerate() {
                Ok(devices) => found.extend(devices),
                Err(u) => unavailable.push(u),
            }
        }
        (found, unavailable)
    }

    /// Opens the device called `name`. Naming an artificial device is what allows it.
    pub fn open(
        &self,
        name: &str,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, RegistryError> {
        for driver in &self.drivers {
            let Ok(devices) = driver.enumerate() else {
                continue;
            };
            if let Some(device) = devices.iter().find(|d| d.info.name == name) {
                return driver
                    .open(device, options)
                    .map_err(|source| RegistryError::Open {
                        name: name.into(),
                        source,
                    });
            }
        }
        let (found, unavailable) = self.enumerate();
        Err(RegistryError::NoSuchDevice {
            name: name.into(),
            found: found.into_iter().map(|d| d.info.name).collect(),
            unavailable,
        })
    }

    /// Names of the devices used when the user names none: the real ones, in driver order.
    pub fn default_devices(&self) -> Vec<String> {
        let (found, _) = self.enumerate();
        found
            .into_iter()
            .filter(|d| !d.artificial)
            .map(|d| d.info.name)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::noop::NoopDriver;

    #[derive(Debug)]
    struct Absent;

    impl Driver for Absent {
        fn name(&self) -> &str {
            "absent"
        }

        fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
            Err(Unavailable {
                driver: "absent".into(),
                reason: "libabsent.so was not found".into(),
                remedy: Some("install it".into()),
            })
        }

        fn open(&self, _: &ExposedDevice, _: &OpenOptions) -> Result<Arc<dyn Device>, HalError> {
            Err(HalError::Unsupported {
                device: "absent".into(),
                call: "open",
            })
        }
    }

    #[test]
    fn artificial_devices_open_only_by_name() {
        let registry = Registry::new(vec![Box::new(NoopDriver)]);
        assert!(registry.default_devices().is_empty());
        assert!(registry.open("noop", &OpenOptions::default()).is_ok());
    }

    #[test]
    fn a_missing_device_error_lists_what_there_is_and_why_the_rest_is_not() {
        let registry = Registry::new(vec![Box::new(Absent), Box::new(NoopDriver)]);
        let e = registry
            .open("npu", &OpenOptions::default())
            .unwrap_err()
            .to_string();
        assert!(e.contains("'npu'") && e.contains("noop"), "{e}");
        assert!(e.contains("libabsent.so was not found; install it"), "{e}");
    }
}
