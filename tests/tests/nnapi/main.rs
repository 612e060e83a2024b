//! Android's Neural Networks API: what models become, and what a strict stand-in for its runtime computes of them.

#[cfg(target_os = "linux")]
mod conformance;
#[cfg(target_os = "linux")]
mod double;
#[cfg(target_os = "linux")]
mod encoders;
#[cfg(target_os = "linux")]
mod faults;
#[cfg(target_os = "linux")]
mod fences;
#[cfg(target_os = "linux")]
mod integers;
mod lowering;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod models;
#[cfg(target_os = "linux")]
mod placed;
#[cfg(target_os = "linux")]
mod vts;
#[cfg(target_os = "linux")]
mod vts_lowered;

use std::path::{Path, PathBuf};

use anynpu_runtime::{ModelSource, OpenModel};

#[cfg(target_os = "linux")]
use placed::{LEVELS, Placed};

/// Where there are no weights.
#[derive(Debug)]
struct NoWeights;

impl anynpu_hal::WeightSource for NoWeights {
    fn weight(&self, name: &str) -> Result<anynpu_hal::WeightView<'_>, anynpu_hal::HalError> {
        Err(anynpu_hal::HalError::Weight {
            name: name.into(),
            why: "there is none".into(),
        })
    }
}

fn open(path: PathBuf) -> OpenModel {
    OpenModel::open(ModelSource::File(path)).unwrap()
}

/// A small random model of an architecture.
fn architecture(name: &str) -> OpenModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/architectures");
    open(folder.join(format!("{name}.gguf")))
}
