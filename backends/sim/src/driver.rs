//! Opening simulated devices.

use std::sync::Arc;

use anynpu_hal::{
    Device, DeviceInfo, DeviceKind, Driver, ExposedDevice, HalError, OpenOptions, Unavailable,
};

use crate::error::invalid;
use crate::{Description, SimDevice};

/// Driver of one simulated device, named `sim` unless it is given another name.
///
/// Numbers are computed by the first device of another driver, the engine, which is opened for it alone.
/// Options when opening: `faults`, a list as in [`anynpu_hal::driver::chaos`], in addition to the
/// description's; all others go to the engine.
#[derive(Debug)]
pub struct SimDriver {
    name: String,
    description: Arc<Description>,
    engine: Box<dyn Driver>,
}

impl SimDriver {
    /// A driver of the device that `description` describes, computed by `engine`.
    pub fn new(description: Description, engine: Box<dyn Driver>) -> Self {
        SimDriver {
            name: "sim".to_owned(),
            description: Arc::new(description),
            engine,
        }
    }

    /// Names the device, where there are several.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What it simulates.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The name of its device.
    pub fn device_name(&self) -> &str {
        &self.name
    }

    /// The first device of the engine's driver.
    fn find_engine(&self) -> Result<ExposedDevice, Unavailable> {
        let found = self.engine.enumerate()?;
        found.into_iter().next().ok_or_else(|| Unavailable {
            driver: "sim".into(),
            reason: format!(
                "driver '{}', which was to compute for it, has no device",
                self.engine.name()
            ),
            remedy: None,
        })
    }
}

impl Driver for SimDriver {
    fn name(&self) -> &str {
        "sim"
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        let engine = self.find_engine()?.info.name;
        let description = &self.description;
        Ok(vec![ExposedDevice {
            info: DeviceInfo {
                name: self.name.clone(),
                driver: "sim".into(),
                kind: DeviceKind::Simulated,
                description: format!(
                    "simulated, not a device: '{}', a model of {}; computed in {} by {engine}, time is virtual",
                    description.name(),
                    description.models(),
                    description.compute(),
                ),
            },
            artificial: true,
        }])
    }

    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError> {
        let mut options = options.clone();
        let mut faults = self.description.faults().to_vec();
        let given = options.options.remove("faults").unwrap_or_default();
        for fault in given.split(',').filter(|f| !f.is_empty()) {
            let fault = crate::description::parse_fault(fault);
            faults.push(fault.map_err(|e| invalid("open", "option 'faults'", &given, e))?);
        }
        let engine = self.find_engine().map_err(|u| HalError::DeviceLost {
            device: self.name.clone(),
            why: u.reason,
        })?;
        let engine = self.engine.open(&engine, &options)?;
        Ok(Arc::new(SimDevice::new(
            device.info.clone(),
            self.description.clone(),
            engine,
            faults,
        )))
    }
}
