//! Finding devices.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anynpu_hal::{
    Device, Driver, DriverVariable, ExposedDevice, HalError, OpenOptions, Unavailable,
};

use crate::lower::{Numbers, Ranges, StateForm, WeightForm};
use crate::settings::{Preference, Priority};

/// The driver of Android's Neural Networks API.
///
/// Its best device is called `nnapi`: the first neural processor, or else the first graphics processor, or else the
/// first of another kind, or else the processor by the runtime's own reference. The others are `nnapi:` and the names
/// that their vendors gave them. Processors are used only if they are named.
#[derive(Clone, Debug, Default)]
pub struct NnapiDriver {
    /// The runtime; `ANYNPU_NNAPI_LIBRARY`, or on Android the system's, if absent.
    pub library: Option<PathBuf>,
    /// How numbers are held; `ANYNPU_NNAPI_NUMBERS`, or [`Numbers::F32`], if absent.
    pub numbers: Option<Numbers>,
    /// How matrices of products are held; `ANYNPU_NNAPI_WEIGHTS`, or [`WeightForm::Numbers`], if absent.
    pub weights: Option<WeightForm>,
    /// A file of [`Ranges`]: products with weights in 8 bits are of integers. `ANYNPU_NNAPI_RANGES`, or none, if absent.
    pub ranges: Option<PathBuf>,
    /// Whose memory states are in; `ANYNPU_NNAPI_STATES`, or [`StateForm::Host`], if absent.
    pub states: Option<StateForm>,
    /// What compilations are to be good at; `ANYNPU_NNAPI_PREFERENCE`, or as the runtime does by itself, if absent.
    pub preference: Option<Preference>,
    /// How urgent runs are; `ANYNPU_NNAPI_PRIORITY`, or as usual, if absent.
    pub priority: Option<Priority>,
    /// The longest that compiling, and that a run may take, in milliseconds; `ANYNPU_NNAPI_TIMEOUT_MS`, or without an
    /// end, if absent.
    pub timeout_ms: Option<u32>,
    /// The folder in which vendors' drivers keep what they compiled; nothing is kept if absent.
    pub cache: Option<PathBuf>,
}

const LIBRARY: &str = "ANYNPU_NNAPI_LIBRARY";
const NUMBERS: &str = "ANYNPU_NNAPI_NUMBERS";
const WEIGHTS: &str = "ANYNPU_NNAPI_WEIGHTS";
const RANGES: &str = "ANYNPU_NNAPI_RANGES";
const STATES: &str = "ANYNPU_NNAPI_STATES";
const PREFERENCE: &str = "ANYNPU_NNAPI_PREFERENCE";
const PRIORITY: &str = "ANYNPU_NNAPI_PRIORITY";
const TIMEOUT: &str = "ANYNPU_NNAPI_TIMEOUT_MS";

fn unavailable(reason: String, remedy: &str) -> Unavailable {
    Unavailable {
        driver: "nnapi".into(),
        reason,
        remedy: Some(remedy.into()),
    }
}

/// A setting: what is told, or else what the environment says.
fn setting<T: std::str::FromStr>(told: Option<T>, variable: &str) -> Result<Option<T>, Unavailable>
where
    T::Err: std::fmt::Display,
{
    let set = || std::env::var_os(variable).filter(|v| !v.is_empty());
    match (told, set()) {
        (Some(told), _) => Ok(Some(told)),
        (None, None) => Ok(None),
        (None, Some(said)) => said.to_string_lossy().parse().map(Some).map_err(|e| {
            let reason = format!("{variable}: {e}");
            unavailable(reason, "name one of them, or leave it unset")
        }),
    }
}

impl Driver for NnapiDriver {
    fn name(&self) -> &str {
        "nnapi"
    }

    fn variables(&self) -> &'static [DriverVariable] {
        &[
            DriverVariable {
                name: LIBRARY,
                default: "unset: libneuralnetworks.so of the system, on Android",
                meaning: "The runtime libneuralnetworks.so, for the device nnapi",
            },
            DriverVariable {
                name: NUMBERS,
                default: "f32",
                meaning: "How the device nnapi holds numbers: f32, relaxed (f32, computed in f16 if it likes) or f16",
            },
            DriverVariable {
                name: WEIGHTS,
                default: "numbers",
                meaning: "How the device nnapi holds matrices: numbers, or int8 with a scale a row",
            },
            DriverVariable {
                name: RANGES,
                default: "unset: products of numbers",
                meaning: "Ranges that `anynpu calibrate --for nnapi` made, for products of integers on the device nnapi",
            },
            DriverVariable {
                name: STATES,
                default: "host",
                meaning: "Whose memory the KV cache of the device nnapi is in: host, which runs read in place, or device",
            },
            DriverVariable {
                name: PREFERENCE,
                default: "unset: as the runtime does by itself",
                meaning: "What the device nnapi is to be good at: low-power, fast or sustained",
            },
            DriverVariable {
                name: PRIORITY,
                default: "unset: as usual",
                meaning: "How urgent runs of the device nnapi are beside those of others: low, medium or high",
            },
            DriverVariable {
                name: TIMEOUT,
                default: "unset: without an end",
                meaning: "Most milliseconds that the device nnapi may compile, and that a run of it may take",
            },
        ]
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        self.options()?;
        let found = system::find(self.library()?.as_deref())?;
        Ok(found.into_iter().map(|(exposed, _)| exposed).collect())
    }

    fn open(&self, device: &ExposedDevice, _: &OpenOptions) -> Result<Arc<dyn Device>, HalError> {
        let name = &device.info.name;
        let lost = |u: Unavailable| HalError::DeviceLost {
            device: name.clone(),
            why: match u.remedy {
                Some(remedy) => format!("{}; {remedy}", u.reason),
                None => u.reason,
            },
        };
        let options = self.options().map_err(lost)?;
        let library = self.library().map_err(lost)?;
        system::open(name, library.as_deref(), options)
    }
}

/// What is asked for, here and in the environment.
#[cfg_attr(
    not(any(target_os = "android", target_os = "linux")),
    allow(dead_code) // what is asked for is looked at everywhere, and used where there are devices
)]
struct Options {
    numbers: Numbers,
    weights: WeightForm,
    ranges: Option<Arc<Ranges>>,
    states: StateForm,
    preference: Option<Preference>,
    priority: Option<Priority>,
    timeout: Option<u64>,
    cache: Option<PathBuf>,
}

fn read_ranges(path: &Path) -> Result<Ranges, Unavailable> {
    let told = |e: &dyn std::fmt::Display| {
        let reason = format!("{}: {e}", path.display());
        unavailable(reason, "make them by `anynpu calibrate --for nnapi`")
    };
    let bytes = std::fs::read(path).map_err(|e| told(&e))?;
    Ranges::parse(&bytes).map_err(|e| told(&e))
}

impl NnapiDriver {
    fn options(&self) -> Result<Options, Unavailable> {
        let timeout = setting(self.timeout_ms, TIMEOUT)?;
        let weights = setting(self.weights, WEIGHTS)?.unwrap_or_default();
        let ranges = match setting(self.ranges.clone(), RANGES)? {
            Some(path) => Some(Arc::new(read_ranges(&path)?)),
            None => None,
        };
        let without =
            "name ranges by --nnapi-ranges (see `anynpu calibrate`), or another form of weights";
        if weights == WeightForm::Int8Tensor && ranges.is_none() {
            let reason = "weights in int8-tensor need ranges of activations".into();
            return Err(unavailable(reason, without));
        }
        if weights == WeightForm::Numbers && ranges.is_some() {
            let reason = "ranges of activations go with weights in int8 or int8-tensor only".into();
            return Err(unavailable(
                reason,
                "name one of them by --nnapi-weights, or no ranges",
            ));
        }
        Ok(Options {
            numbers: setting(self.numbers, NUMBERS)?.unwrap_or_default(),
            weights,
            ranges,
            states: setting(self.states, STATES)?.unwrap_or_default(),
            preference: setting(self.preference, PREFERENCE)?,
            priority: setting(self.priority, PRIORITY)?,
            timeout: timeout.map(|ms| u64::from(ms) * 1_000_000),
            cache: self.cache.clone(),
        })
    }

    fn library(&self) -> Result<Option<PathBuf>, Unavailable> {
        setting(self.library.clone(), LIBRARY)
    }
}

/// What to do without a runtime.
const REMEDY: &str = "run on Android 10 or newer, or name a libneuralnetworks.so by --nnapi-library or ANYNPU_NNAPI_LIBRARY";

#[cfg(any(target_os = "android", target_os = "linux"))]
mod system {
    use std::path::Path;

    use anynpu_hal::{DeviceInfo, DeviceKind, HalError};

    use super::{Arc, Device, ExposedDevice, Options, REMEDY, Unavailable, unavailable};
    use crate::device::{DeviceSettings, NnapiDevice};
    use crate::exec::{self, CompileSettings, DeviceType, devices};
    use crate::lower::Target;
    use crate::sys;

    /// The devices of the runtime at `path`, the best one first.
    pub fn find(path: Option<&Path>) -> Result<Vec<(ExposedDevice, exec::Device)>, Unavailable> {
        let runtime = sys::load(path).map_err(|e| unavailable(e.to_string(), REMEDY))?;
        let (level, from) = (runtime.level, runtime.path.clone());
        let found = devices(&Arc::new(runtime));
        let mut found = found.map_err(|e| {
            let remedy = "check that its drivers are installed";
            unavailable(format!("{from}: {e}"), remedy)
        })?;
        if found.is_empty() {
            let reason = format!("{from} has no devices");
            return Err(unavailable(reason, "check that its drivers are installed"));
        }
        // stable: of the same kind the runtime's first is best
        found.sort_by_key(|d| match d.ty() {
            DeviceType::Accelerator => 0,
            DeviceType::Gpu => 1,
            DeviceType::Other | DeviceType::Unknown => 2,
            DeviceType::Cpu => 3,
        });
        let exposed = found.into_iter().enumerate().map(|(i, device)| {
            let name = match i {
                0 => "nnapi".to_owned(),
                _ => format!("nnapi:{}", device.name()),
            };
            let (kind, what) = match device.ty() {
                DeviceType::Accelerator => (DeviceKind::Npu, "neural processor"),
                DeviceType::Gpu => (DeviceKind::Gpu, "graphics processor"),
                DeviceType::Cpu => (DeviceKind::Cpu, "on the processor"),
                DeviceType::Other => (DeviceKind::Other, "of another kind"),
                DeviceType::Unknown => (DeviceKind::Other, "of a kind that is not told"),
            };
            let description = format!(
                "{} {}, {what}, feature level {}, by a runtime of feature level {level}",
                device.name(),
                device.version(),
                device.level(),
            );
            let exposed = ExposedDevice {
                artificial: kind == DeviceKind::Cpu,
                info: DeviceInfo {
                    name,
                    driver: "nnapi".into(),
                    kind,
                    description,
                },
            };
            (exposed, device)
        });
        Ok(exposed.collect())
    }

    /// Opens the device called `name` here.
    pub fn open(
        name: &str,
        path: Option<&Path>,
        options: Options,
    ) -> Result<Arc<dyn Device>, HalError> {
        let lost = |why: String| HalError::DeviceLost {
            device: name.into(),
            why,
        };
        let found = find(path).map_err(|u| lost(u.reason))?;
        let found = found.into_iter().find(|(e, _)| e.info.name == name);
        let (exposed, device) = found.ok_or_else(|| lost("the runtime has it no more".into()))?;
        let mut target = Target::new(device.level());
        (target.numbers, target.weights) = (options.numbers, options.weights);
        target.ranges = options.ranges;
        target.states = options.states;
        let cache = options.cache.filter(|folder| {
            let made = std::fs::create_dir_all(folder);
            if let Err(e) = &made {
                tracing::debug!("{}: nothing is kept there: {e}", folder.display());
            }
            made.is_ok()
        });
        let settings = DeviceSettings {
            compile: CompileSettings {
                preference: options.preference,
                priority: options.priority,
                timeout: options.timeout,
                cache: None,
            },
            cache,
        };
        let artificial = exposed.artificial;
        Ok(Arc::new(NnapiDevice::new(
            exposed.info,
            device,
            target,
            settings,
            artificial,
        )))
    }
}

#[cfg(not(any(target_os = "android", target_os = "linux")))]
mod system {
    use std::path::Path;

    use anynpu_hal::HalError;

    use super::{Arc, Device, ExposedDevice, Options, REMEDY, Unavailable, unavailable};

    /// There are none.
    pub fn find(_: Option<&Path>) -> Result<Vec<(ExposedDevice, ())>, Unavailable> {
        let reason = format!("there is no such runtime for {}", std::env::consts::OS);
        Err(unavailable(reason, REMEDY))
    }

    /// There is none.
    pub fn open(name: &str, _: Option<&Path>, _: Options) -> Result<Arc<dyn Device>, HalError> {
        Err(HalError::DeviceLost {
            device: name.into(),
            why: format!("there is no such runtime for {}", std::env::consts::OS),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_missing_is_told_with_what_to_do() {
        let absent = NnapiDriver {
            library: Some("/nowhere/libneuralnetworks.so".into()),
            ..NnapiDriver::default()
        };
        let told = absent.enumerate().unwrap_err();
        assert!(
            told.reason.contains("/nowhere/libneuralnetworks.so"),
            "{told:?}"
        );
        assert!(told.remedy.unwrap().contains("ANYNPU_NNAPI_LIBRARY"));
        let other = NnapiDriver {
            library: Some("libm.so.6".into()),
            ..NnapiDriver::default()
        };
        let told = other.enumerate().unwrap_err();
        assert!(told.reason.contains("has no 'ANeuralNetworks"), "{told:?}");
    }
}
