//! Finding devices.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anynpu_hal::{
    Device, DeviceInfo, DeviceKind, Driver, DriverVariable, ExposedDevice, HalError, OpenOptions,
    Unavailable,
};

use crate::device::{CoreMlDevice, DeviceSettings};
use crate::exec::{Engine, System, system_engine};
use crate::kept::CacheFolder;
use crate::lower::States;
use crate::plan::Processor;
use crate::weights::WeightForm;
use crate::{ComputeUnits, CoreMlError, Platform, Precision};

/// The driver of Apple's Core ML.
///
/// Its best device is called `coreml`: the Neural Engine, or else the graphics processor. The others are `coreml:gpu` and
/// `coreml:cpu`, of which the last is used only if it is named. Each is allowed the CPU besides, to which Core ML gives
/// what its processor does not run.
#[derive(Clone, Debug, Default)]
pub struct CoreMlDriver {
    /// How matrices are held; `ANYNPU_COREML_WEIGHTS`, or [`WeightForm::Model`], if absent.
    pub weights: Option<WeightForm>,
    /// What is computed in, but on the Neural Engine, which has F16 alone; `ANYNPU_COREML_PRECISION`, or
    /// [`Precision::F16`], if absent.
    pub precision: Option<Precision>,
    /// Where the devices but that for the Neural Engine have keys and values; `ANYNPU_COREML_STATES`, or in states of
    /// programs where the system has these and F16 is computed in, if absent. Systems without have them with the caller.
    pub states: Option<States>,
    /// The folder in which compiled models are kept; they last as long as they are used if absent.
    pub cache: Option<PathBuf>,
    /// Most bytes that all in it may take: what was used longest ago goes first. The MiB of `ANYNPU_COREML_CACHE_MIB`, or
    /// [`CACHE_LIMIT`], if absent.
    pub cache_limit: Option<u64>,
    /// What is used instead of the system's Core ML.
    engine: Option<Arc<dyn Engine>>,
}

/// Most bytes that the folder for compiled models takes unless something else is told: 8 GiB.
pub const CACHE_LIMIT: u64 = 8 << 30;

const WEIGHTS: &str = "ANYNPU_COREML_WEIGHTS";
const STATES: &str = "ANYNPU_COREML_STATES";
const CACHE_MIB: &str = "ANYNPU_COREML_CACHE_MIB";
const PRECISION: &str = "ANYNPU_COREML_PRECISION";

fn unavailable(reason: String, remedy: Option<&str>) -> Unavailable {
    Unavailable {
        driver: "coreml".into(),
        reason,
        remedy: remedy.map(str::to_owned),
    }
}

/// A setting: what is told, or else what the environment says.
fn setting<T: FromStr<Err = CoreMlError>>(
    told: Option<T>,
    variable: &str,
) -> Result<Option<T>, Unavailable> {
    let set = || std::env::var_os(variable).filter(|v| !v.is_empty());
    match (told, set()) {
        (Some(told), _) => Ok(Some(told)),
        (None, None) => Ok(None),
        (None, Some(said)) => said.to_string_lossy().parse().map(Some).map_err(|e| {
            let remedy = "set it to what is expected, or leave it unset";
            unavailable(format!("{variable}: {e}"), Some(remedy))
        }),
    }
}

/// A device, and what it is for.
fn devices(system: &System) -> Vec<(ExposedDevice, ComputeUnits)> {
    let has = |p: Processor| system.processors.iter().find(|f| f.processor == p);
    let mut found: Vec<(ComputeUnits, DeviceKind, String)> = Vec::new();
    if let Some(engine) = has(Processor::Ane) {
        let what = match engine.cores {
            Some(cores) => format!("Neural Engine of {cores} cores"),
            None => "Neural Engine".to_owned(),
        };
        found.push((ComputeUnits::NeuralEngine, DeviceKind::Npu, what));
    }
    if has(Processor::Gpu).is_some() {
        let what = "graphics processor".to_owned();
        found.push((ComputeUnits::Gpu, DeviceKind::Gpu, what));
    }
    let what = "on the processor".to_owned();
    found.push((ComputeUnits::Cpu, DeviceKind::Cpu, what));
    let system_name = match system.platform {
        Platform::Ios => "iOS",
        Platform::Macos => "macOS",
    };
    let each = found.into_iter().enumerate().map(|(i, found)| {
        let (units, kind, what) = found;
        let name = match (i, kind) {
            (0, DeviceKind::Npu | DeviceKind::Gpu) => "coreml".to_owned(),
            _ => format!("coreml:{units}"),
        };
        let exposed = ExposedDevice {
            artificial: kind == DeviceKind::Cpu,
            info: DeviceInfo {
                name,
                driver: "coreml".into(),
                kind,
                description: format!("{what}, by Core ML of {system_name} {}", system.text),
            },
        };
        (exposed, units)
    });
    each.collect()
}

impl CoreMlDriver {
    /// A driver that uses `engine` instead of the system's Core ML.
    pub fn with_engine(engine: Arc<dyn Engine>) -> CoreMlDriver {
        CoreMlDriver {
            engine: Some(engine),
            ..CoreMlDriver::default()
        }
    }

    /// The engine, the system that it is of, and how its devices are used, but for their processors.
    fn found(&self) -> Result<Found, Unavailable> {
        let remedy = "use a Mac, an iPhone or an iPad; `anynpu compile --target coreml:…` writes packages anywhere";
        let of = |e: CoreMlError| unavailable(e.to_string(), Some(remedy));
        let engine = match &self.engine {
            Some(engine) => engine.clone(),
            None => system_engine().map_err(of)?,
        };
        let system = engine.system().map_err(of)?;
        let Some(target) = system.target() else {
            let reason = format!("{} is too old for what is used of Core ML", system.text);
            let remedy = "macOS 13 and iOS 16 are the oldest";
            return Err(unavailable(reason, Some(remedy)));
        };
        let settings = DeviceSettings {
            target,
            units: ComputeUnits::All,
            precision: setting(self.precision, PRECISION)?.unwrap_or_default(),
            weights: setting(self.weights, WEIGHTS)?.unwrap_or_default(),
            states: setting(self.states, STATES)?,
            cache: match &self.cache {
                None => None,
                Some(path) => Some(CacheFolder {
                    path: path.clone(),
                    limit: self.cache_limit()?,
                }),
            },
        };
        Ok(Found {
            engine,
            system,
            settings,
        })
    }
}

impl CoreMlDriver {
    /// Most bytes that the folder for compiled models takes.
    fn cache_limit(&self) -> Result<u64, Unavailable> {
        let mib = match self.cache_limit {
            Some(bytes) => return Ok(bytes),
            None => setting(None, CACHE_MIB)?,
        };
        Ok(mib.map_or(CACHE_LIMIT, |Mebibytes(n)| u64::from(n) << 20))
    }
}

/// A size in the environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mebibytes(u32);

impl FromStr for Mebibytes {
    type Err = CoreMlError;

    fn from_str(s: &str) -> Result<Self, CoreMlError> {
        let wrong = |_| CoreMlError::Option {
            what: "the size in MiB".into(),
            found: format!("'{s}'"),
            expected: format!("a whole number of at most {}", u32::MAX),
        };
        s.parse().map(Mebibytes).map_err(wrong)
    }
}

/// What there is here.
struct Found {
    engine: Arc<dyn Engine>,
    system: System,
    settings: DeviceSettings,
}

impl Driver for CoreMlDriver {
    fn name(&self) -> &str {
        "coreml"
    }

    fn variables(&self) -> &'static [DriverVariable] {
        &[
            DriverVariable {
                name: WEIGHTS,
                default: "model",
                meaning: "How the devices coreml hold matrices: model, float, int8, int4, lut4, lut6 or lut8",
            },
            DriverVariable {
                name: PRECISION,
                default: "f16",
                meaning: "What the devices coreml:gpu and coreml:cpu compute in: f16 or f32",
            },
            DriverVariable {
                name: STATES,
                default: "native where there are states, in F16",
                meaning: "Where coreml:gpu and coreml:cpu have keys and values: native or caller",
            },
            DriverVariable {
                name: CACHE_MIB,
                default: "8192",
                meaning: "Most MiB that what Core ML compiled may take in the folder for caches",
            },
        ]
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        let found = self.found()?;
        let all = devices(&found.system).into_iter();
        Ok(all.map(|(exposed, _)| exposed).collect())
    }

    fn open(&self, device: &ExposedDevice, _: &OpenOptions) -> Result<Arc<dyn Device>, HalError> {
        let name = &device.info.name;
        let lost = |why: String| HalError::DeviceLost {
            device: name.clone(),
            why,
        };
        let found = self.found().map_err(|u| lost(u.reason))?;
        let all = devices(&found.system).into_iter();
        let known = all.clone().find(|(exposed, _)| exposed.info.name == *name);
        let (exposed, units) = known.ok_or_else(|| lost("the system has it no more".into()))?;
        let mut settings = found.settings;
        settings.units = units;
        if units == ComputeUnits::NeuralEngine {
            settings.precision = Precision::F16;
        }
        Ok(Arc::new(CoreMlDevice::new(
            exposed.info,
            found.engine,
            found.system,
            settings,
            exposed.artificial,
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Found as Processors;

    fn system(processors: &[(Processor, Option<u32>)]) -> System {
        let each = processors.iter();
        System {
            platform: Platform::Macos,
            version: [15, 1],
            text: "Version 15.1 (Build 24B83)".into(),
            processors: each
                .map(|(processor, cores)| Processors {
                    processor: *processor,
                    cores: *cores,
                })
                .collect(),
        }
    }

    #[test]
    fn the_neural_engine_is_the_best_device_or_else_the_graphics_processor() {
        let (cpu, gpu) = ((Processor::Cpu, None), (Processor::Gpu, None));
        let told = |processors: &[(Processor, Option<u32>)]| -> Vec<(String, bool)> {
            let all = devices(&system(processors)).into_iter();
            all.map(|(e, _)| (e.info.name, e.artificial)).collect()
        };
        let [best, other, last] = [
            ("coreml", false),
            ("coreml:gpu", false),
            ("coreml:cpu", true),
        ]
        .map(|(name, artificial)| (name.to_owned(), artificial));
        let all = [cpu, gpu, (Processor::Ane, Some(16))];
        assert_eq!(told(&all), [best.clone(), other, last.clone()]);
        assert_eq!(told(&[cpu, gpu]), [best, last.clone()]);
        assert_eq!(told(&[cpu]), [last]);
        let all = devices(&system(&all));
        assert_eq!(all[0].0.info.kind, DeviceKind::Npu);
        assert_eq!(all[0].1, ComputeUnits::NeuralEngine);
        let expected = "Neural Engine of 16 cores, by Core ML of macOS Version 15.1 (Build 24B83)";
        assert_eq!(all[0].0.info.description, expected);
    }

    #[test]
    fn sizes_are_whole_numbers() {
        assert_eq!("12".parse::<Mebibytes>().unwrap(), Mebibytes(12));
        for wrong in ["", "-1", "1.5", "1G", "99999999999"] {
            let told = wrong.parse::<Mebibytes>().unwrap_err().to_string();
            assert!(told.contains(&format!("'{wrong}'")) && told.contains("4294967295"));
        }
    }

    #[test]
    #[cfg(not(target_vendor = "apple"))]
    fn what_is_missing_is_told_with_what_to_do() {
        let told = CoreMlDriver::default().enumerate().unwrap_err();
        assert!(
            told.reason.contains("it is a part of Apple's systems"),
            "{told:?}"
        );
        assert!(told.remedy.unwrap().contains("anynpu compile"));
    }
}
