//! Finding chips.

use std::path::PathBuf;
use std::sync::Arc;

use anynpu_hal::{
    Device, DeviceInfo, DeviceKind, Driver, DriverVariable, ExposedDevice, HalError, OpenOptions,
    Unavailable,
};

use crate::activations::Activations;
use crate::device::ChipOptions;
use crate::exec::{HostMemory, Memory, Power, PowerMode, RpcMemory};
use crate::htp::FixedForm;
use crate::parts::CONTEXT_BYTES;
use crate::sweep::SupportTable;
use crate::weights::WeightFormError;
use crate::{Calibration, QnnDevice, Ranges, Soc, WeightForm, exec, sys};

/// The driver of Qualcomm's HTP, by Qualcomm's own library.
#[derive(Clone, Debug, Default)]
pub struct QnnDriver {
    /// The library; `ANYNPU_QNN_LIBRARY`, or where the system's loader finds it, if absent.
    pub library: Option<PathBuf>,
    /// The chip's name; `ANYNPU_QNN_SOC`, or [`DEFAULT_SOC`], if absent.
    pub soc: Option<String>,
    /// The form of weights; `ANYNPU_QNN_WEIGHTS`, or [`WeightForm::F16`], if absent.
    pub weights: Option<WeightForm>,
    /// A file of [`Ranges`]: activations are held in fixed point. `ANYNPU_QNN_RANGES`, or floating point, if absent.
    pub ranges: Option<PathBuf>,
    /// If given, graphs are computed by the plain reference, and the ranges of their numbers noted.
    pub calibration: Option<Arc<Calibration>>,
    /// Folder of tables of what chips compute right, which [`QnnDriver::table_file`] are named; the chip's own is
    /// read from there if it is of the library that is loaded. A library that is newer than those that were tried is
    /// not used without one.
    pub tables: Option<PathBuf>,
    /// The most bytes of weights that one context is to hold; `ANYNPU_QNN_CONTEXT_MIB`, or 2 GiB, if absent. Larger
    /// runs are cut into several.
    pub context_bytes: Option<u64>,
    /// How fast the chip is asked to run while it does; `ANYNPU_QNN_POWER`, or as it does by itself, if absent.
    pub power: Option<PowerMode>,
    /// The library of memory that processor and HTP have in common; `ANYNPU_QNN_RPCMEM` if absent. If neither is set,
    /// `libcdsprpc.so` on a chip, if it is there, and none in the emulator.
    pub rpc_memory: Option<PathBuf>,
    /// Whether compiled forms hold the weights that graphs have in common once, from v73 on. They are smaller, and
    /// run on chips only: the emulator does not load them.
    pub share_weights: bool,
}

/// The chip that is emulated where none is named.
pub const DEFAULT_SOC: &str = "SM8650";

const LIBRARY: &str = "ANYNPU_QNN_LIBRARY";
const SOC: &str = "ANYNPU_QNN_SOC";
const WEIGHTS: &str = "ANYNPU_QNN_WEIGHTS";
const RANGES: &str = "ANYNPU_QNN_RANGES";
const CONTEXT_MIB: &str = "ANYNPU_QNN_CONTEXT_MIB";
const POWER: &str = "ANYNPU_QNN_POWER";
const RPC_MEMORY: &str = "ANYNPU_QNN_RPCMEM";

/// On x86-64 the library computes in an emulator.
const EMULATED: bool = cfg!(target_arch = "x86_64");

fn unavailable(reason: String, remedy: &str) -> Unavailable {
    Unavailable {
        driver: "qnn".into(),
        reason,
        remedy: Some(remedy.into()),
    }
}

/// What the environment's `variable` is set to.
fn set(variable: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(variable).filter(|v| !v.is_empty())
}

impl QnnDriver {
    fn open_chip(&self) -> Result<(Arc<exec::Device>, WeightForm, Activations), Unavailable> {
        let soc = self.soc()?;
        let activations = self.activations()?;
        match &activations {
            Activations::Float if !soc.has_float() => {
                return Err(unavailable(
                    format!("{} computes no floating point", soc.name),
                    "name a newer chip, or ranges of activations in u8 by --qnn-ranges (see `anynpu calibrate`)",
                ));
            }
            Activations::Fixed(ranges)
                if ranges.form() == FixedForm::U16 && !soc.has_wide_products() =>
            {
                return Err(unavailable(
                    format!(
                        "{} computes no products of two activations in u16",
                        soc.name
                    ),
                    "name a newer chip, or ranges for activations in u8",
                ));
            }
            _ => {}
        }
        let form = self.weight_form().map_err(|e| {
            let remedy = format!("leave {WEIGHTS} unset for weights in f16");
            unavailable(format!("{WEIGHTS}: {e}"), &remedy)
        })?;
        if form == WeightForm::Blocks && !soc.has_block_weights() {
            let reason = format!("{} computes no weights in blocks", soc.name);
            return Err(unavailable(
                reason,
                "name another form of weights, or a newer chip",
            ));
        }
        if form == WeightForm::Blocks && matches!(activations, Activations::Fixed(_)) {
            return Err(unavailable(
                "weights in blocks go with activations in floating point only".into(),
                "name another form of weights, or no ranges of activations",
            ));
        }
        if form == WeightForm::Lpbq && matches!(activations, Activations::Float) {
            return Err(unavailable(
                "weights in lpbq go with activations in fixed point only".into(),
                "name another form of weights, or ranges of activations by --qnn-ranges (see `anynpu calibrate`)",
            ));
        }
        let device = self.load(soc)?;
        let core = device.core_api();
        if !core.was_tried() && self.table(&device).is_none() {
            return Err(unavailable(
                format!(
                    "its library has core API {core}, newer than any that was tried, and nobody tried what it computes \
                     right on {}",
                    soc.name
                ),
                &format!(
                    "try it once by `anynpu operations --qnn-soc {}`, which keeps what it finds in the folder for caches",
                    soc.name
                ),
            ));
        }
        Ok((device, form, activations))
    }

    /// How fast the chip is asked to run.
    fn power(&self) -> Result<Option<PowerMode>, Unavailable> {
        match (self.power, set(POWER)) {
            (Some(mode), _) => Ok(Some(mode)),
            (None, None) => Ok(None),
            (None, Some(told)) => told.to_string_lossy().parse().map(Some).map_err(|e| {
                let remedy = "name one of them, or leave it unset";
                unavailable(format!("{POWER}: {e}"), remedy)
            }),
        }
    }

    /// Where memory for inputs and outputs comes from.
    fn memory(&self) -> Result<Arc<dyn Memory>, Unavailable> {
        let path = self.rpc_memory.clone();
        let path = path.or_else(|| set(RPC_MEMORY).map(PathBuf::from));
        if path.is_none() && EMULATED {
            return Ok(Arc::new(HostMemory));
        }
        match (RpcMemory::load(path.as_deref()), path) {
            (Ok(memory), _) => Ok(Arc::new(memory)),
            (Err(e), Some(_)) => {
                let remedy = "name the system's libcdsprpc.so, or leave it unset";
                Err(unavailable(e.to_string(), remedy))
            }
            (Err(e), None) => {
                tracing::info!("inputs and outputs are copied in each run: {e}");
                Ok(Arc::new(HostMemory))
            }
        }
    }

    /// Bytes of weights that one context is to hold.
    fn context_bytes(&self) -> Result<u64, Unavailable> {
        let told = set(CONTEXT_MIB).map(|m| m.to_string_lossy().into_owned());
        match (self.context_bytes, told) {
            (Some(bytes), _) => Ok(bytes),
            (None, None) => Ok(CONTEXT_BYTES),
            (None, Some(told)) => told
                .parse()
                .ok()
                .and_then(|mib: u64| mib.checked_mul(1 << 20).filter(|b| *b > 0))
                .ok_or_else(|| {
                    let reason = format!("{CONTEXT_MIB}: '{told}' is no number of MiB above 0");
                    unavailable(reason, "give a whole number, as 1024, or leave it unset")
                }),
        }
    }

    fn activations(&self) -> Result<Activations, Unavailable> {
        if let Some(calibration) = &self.calibration {
            return Ok(Activations::Measured(calibration.clone()));
        }
        let path = self.ranges.clone();
        let Some(path) = path.or_else(|| set(RANGES).map(PathBuf::from)) else {
            return Ok(Activations::Float);
        };
        let told = |e: &dyn std::fmt::Display| {
            let remedy = "make them by `anynpu calibrate`";
            unavailable(format!("{}: {e}", path.display()), remedy)
        };
        let bytes = std::fs::read(&path).map_err(|e| told(&e))?;
        let ranges = Ranges::parse(&bytes).map_err(|e| told(&e))?;
        Ok(Activations::Fixed(Arc::new(ranges)))
    }

    /// The chip that is asked for, here or in the environment.
    fn soc(&self) -> Result<Soc, Unavailable> {
        let named = self.soc.clone();
        let named = named.or_else(|| set(SOC).map(|s| s.to_string_lossy().into_owned()));
        let named = named.unwrap_or_else(|| DEFAULT_SOC.into());
        let known = Soc::ALL.map(|s| s.name).join(", ");
        Soc::find(&named).ok_or_else(|| {
            let remedy = format!("name one of {known}");
            unavailable(format!("there is no chip '{named}'"), &remedy)
        })
    }

    fn load(&self, soc: Soc) -> Result<Arc<exec::Device>, Unavailable> {
        let path = self.library.clone();
        let path = path.or_else(|| set(LIBRARY).map(PathBuf::from));
        let loaded = sys::load(path.as_deref()).map_err(|e| {
            let remedy = "install Qualcomm's AI runtime and name its libQnnHtp.so by --qnn-library or ANYNPU_QNN_LIBRARY";
            unavailable(e.to_string(), remedy)
        })?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        exec::Device::open(Arc::new(loaded), soc).map_err(|e| {
            let remedy =
                "check that this machine has the chip, and that its driver libraries are installed";
            let reason = match e.finds_no_chip() {
                true => format!("the library finds no HTP in this machine: {e}"),
                false => e.to_string(),
            };
            unavailable(reason, remedy)
        })
    }

    /// The chip that is asked for, in the library: any that there is, whether graphs are lowered for it or not.
    ///
    /// # Errors
    /// What is missing.
    pub fn chip(&self) -> Result<Arc<exec::Device>, Unavailable> {
        self.load(self.soc()?)
    }

    /// The form of weights that is asked for, here or in the environment.
    ///
    /// # Errors
    /// `ANYNPU_QNN_WEIGHTS` names none.
    pub fn weight_form(&self) -> Result<WeightForm, WeightFormError> {
        match (self.weights, set(WEIGHTS)) {
            (Some(form), _) => Ok(form),
            (None, None) => Ok(WeightForm::default()),
            (None, Some(named)) => named.to_string_lossy().parse(),
        }
    }

    /// The name of the file with the table of `soc`.
    pub fn table_file(soc: Soc) -> String {
        format!("{}.json", soc.name)
    }

    /// What `device` computes right, if that was tried with this library.
    fn table(&self, device: &exec::Device) -> Option<SupportTable> {
        let path = self
            .tables
            .as_ref()?
            .join(QnnDriver::table_file(device.soc()));
        let bytes = std::fs::read(&path).ok()?;
        let table = SupportTable::parse(&bytes, &device.library(), device.soc().name);
        match table {
            Ok(table) => Some(table),
            Err(e) => {
                tracing::warn!("{}: not used: {e}", path.display());
                None
            }
        }
    }

    fn info(device: &exec::Device, activations: &Activations) -> DeviceInfo {
        let (soc, core_api) = (device.soc(), device.core_api());
        let held = match activations {
            Activations::Float => String::new(),
            Activations::Fixed(ranges) => format!(", activations in {}", ranges.form()),
            Activations::Measured(_) => ", computed by the plain reference".into(),
        };
        let emulated = match EMULATED {
            true => ", in Qualcomm's emulator on this CPU: its numbers count, it has no time",
            false => "",
        };
        DeviceInfo {
            name: "qnn".into(),
            driver: "qnn".into(),
            kind: match EMULATED {
                true => DeviceKind::Simulated,
                false => DeviceKind::Npu,
            },
            description: format!(
                "HTP v{} of {} by core API {core_api}{held}{emulated}",
                soc.generation, soc.name
            ),
        }
    }
}

impl Driver for QnnDriver {
    fn name(&self) -> &str {
        "qnn"
    }

    fn variables(&self) -> &'static [DriverVariable] {
        &[
            DriverVariable {
                name: LIBRARY,
                default: "unset: libQnnHtp.so where the system's loader finds it",
                meaning: "Qualcomm's library libQnnHtp.so, for the device qnn",
            },
            DriverVariable {
                name: SOC,
                default: DEFAULT_SOC,
                meaning: "The Qualcomm chip that the device qnn is",
            },
            DriverVariable {
                name: WEIGHTS,
                default: "f16",
                meaning: "The form of weights on the device qnn: f16, int8, int4, blocks or lpbq",
            },
            DriverVariable {
                name: RANGES,
                default: "unset: floating point",
                meaning: "Ranges that `anynpu calibrate` made, for activations in fixed point on the device qnn",
            },
            DriverVariable {
                name: CONTEXT_MIB,
                default: "2048",
                meaning: "Most MiB of weights in one context of the device qnn; larger models are cut into several",
            },
            DriverVariable {
                name: POWER,
                default: "unset: as the chip does by itself",
                meaning: "How fast the device qnn is asked to run while it does: burst, sustained or saver",
            },
            DriverVariable {
                name: RPC_MEMORY,
                default: "unset: libcdsprpc.so where the system's loader finds it, on a chip",
                meaning: "The library of memory that processor and HTP have in common, for the device qnn",
            },
        ]
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        self.context_bytes()?;
        self.power()?;
        self.memory()?;
        let (device, _, activations) = self.open_chip()?;
        Ok(vec![ExposedDevice {
            info: QnnDriver::info(&device, &activations),
            artificial: EMULATED,
        }])
    }

    fn open(&self, _: &ExposedDevice, _: &OpenOptions) -> Result<Arc<dyn Device>, HalError> {
        let lost = |u: Unavailable| HalError::DeviceLost {
            device: "qnn".into(),
            why: match u.remedy {
                Some(remedy) => format!("{}; {remedy}", u.reason),
                None => u.reason,
            },
        };
        let (device, form, activations) = self.open_chip().map_err(lost)?;
        let context_bytes = self.context_bytes().map_err(lost)?;
        let power = match self.power().map_err(lost)? {
            Some(mode) => Some(Power::new(&device, mode).map_err(|e| e.of_device("qnn"))?),
            None => None,
        };
        let soc = device.soc();
        let info = QnnDriver::info(&device, &activations);
        let options = ChipOptions {
            form,
            share_weights: self.share_weights && soc.shares_weights(),
            activations,
            context_bytes,
            memory: self.memory().map_err(lost)?,
            emulated: EMULATED,
            tried: self.table(&device),
        };
        Ok(Arc::new(QnnDevice::new(info, device, options, power)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        let absent = QnnDriver {
            library: Some("/nowhere/libQnnHtp.so".into()),
            ..QnnDriver::default()
        };
        let told = absent.enumerate().unwrap_err();
        assert!(told.reason.contains("/nowhere/libQnnHtp.so"), "{told:?}");
        assert!(told.remedy.unwrap().contains("ANYNPU_QNN_LIBRARY"));
        let chip = |name: &str| QnnDriver {
            soc: Some(name.into()),
            ..QnnDriver::default()
        };
        let told = chip("SM1").enumerate().unwrap_err();
        assert_eq!(told.reason, "there is no chip 'SM1'");
        assert!(told.remedy.unwrap().contains("SM8850"));
        let told = chip("SM8350").enumerate().unwrap_err();
        assert_eq!(told.reason, "SM8350 computes no floating point");
        let mut blocks = chip("SM8450");
        blocks.weights = Some(WeightForm::Blocks);
        let told = blocks.enumerate().unwrap_err();
        assert_eq!(told.reason, "SM8450 computes no weights in blocks");
        let mut factored = chip("SM8650");
        factored.weights = Some(WeightForm::Lpbq);
        let told = factored.enumerate().unwrap_err();
        assert!(told.reason.starts_with("weights in lpbq"), "{told:?}");
        assert!(told.remedy.unwrap().contains("calibrate"));
    }
}
