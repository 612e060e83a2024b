//! The drivers built into this build of anynpu: the only place where they meet.
//!
//! Apps pass [`drivers`] to the runtime, or a list of their own. It may depend on the HAL and on
//! every backend.

mod plugins;
mod simulated;

use std::sync::Arc;

use anynpu_hal::driver::chaos::ChaosDriver;
use anynpu_hal::driver::noop::NoopDriver;
use anynpu_hal::driver::record::RecordDriver;

pub use anynpu_coreml as coreml;
pub use anynpu_coreml::CoreMlDriver;
pub use anynpu_cpu::default_threads;
pub use anynpu_hal::driver::record::Recorder;
pub use anynpu_nnapi::lower::{
    Numbers as NnapiNumbers, Ranges as NnapiRanges, StateForm as NnapiStateForm,
    WeightForm as NnapiWeightForm,
};
pub use anynpu_nnapi::{NnapiDriver, Preference as NnapiPreference, Priority as NnapiPriority};
pub use anynpu_qnn::htp::FixedForm;
pub use anynpu_qnn::{Calibration, PowerMode, QnnDriver, Soc, WeightForm, sweep};
pub use anynpu_sim::{Description, SHIPPED, Shipped, SimDriver, SimError};
pub use plugins::Plugins;
pub use simulated::{Drivers, SimulatedError, drivers_for, simulated};

/// What backends are told, besides what they read from the environment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct BackendOptions {
    /// Where Qualcomm's library is, and for which chip.
    pub qnn: QnnDriver,
    /// Where Android's runtime for neural networks is, and how its devices are used.
    pub nnapi: NnapiDriver,
    /// How Core ML's devices are used.
    pub coreml: CoreMlDriver,
}

/// Every driver, most preferred first. Artificial ones stand last and are used only if named.
pub fn drivers() -> Drivers {
    drivers_with(&BackendOptions::default())
}

/// The CPU alone, which notes in `recorder` between which numbers values are.
pub fn recording(recorder: &Arc<Recorder>) -> Drivers {
    let cpu = Box::new(anynpu_cpu::CpuDriver);
    vec![Box::new(RecordDriver::new(cpu, recorder.clone()))]
}

/// As [`drivers`], with what backends are told.
pub fn drivers_with(options: &BackendOptions) -> Drivers {
    vec![
        Box::new(anynpu_cpu::CpuDriver),
        Box::new(options.qnn.clone()),
        Box::new(options.nnapi.clone()),
        Box::new(options.coreml.clone()),
        Box::new(NoopDriver),
        Box::new(ChaosDriver::new(
            Box::new(anynpu_cpu::CpuDriver),
            Vec::new(),
        )),
    ]
}
