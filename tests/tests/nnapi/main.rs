//! Android's Neural Networks API: what models become, and what a strict stand-in for its runtime and, where one is
//! named, a runtime itself compute of them.

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
mod installed;
#[cfg(target_os = "linux")]
mod integers;
mod lowering;
#[cfg(target_os = "linux")]
mod memory;
#[cfg(target_os = "linux")]
mod models;
#[cfg(target_os = "linux")]
mod moved;
#[cfg(target_os = "linux")]
mod mutants;
#[cfg(target_os = "linux")]
mod placed;
#[cfg(target_os = "linux")]
mod vts;
#[cfg(target_os = "linux")]
mod vts_lowered;

use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::sync::Arc;

#[cfg(target_os = "linux")]
use anynpu_hal::{Bounds, CompileOptions, Device, Entry, Extent, Module};
#[cfg(target_os = "linux")]
use anynpu_ir::{DType, Dim, Graph, Op, Symbol, TensorType, UnaryOp};
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

/// One operation over four numbers, compiled by `device`.
#[cfg(target_os = "linux")]
fn unary(device: &dyn Device, op: UnaryOp) -> Arc<dyn Module> {
    let mut graph = Graph::new("g");
    let ty = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(4)]);
    let x = graph.add_input("x", ty).unwrap();
    let y = graph.add("y", Op::Unary(op), &[x]).unwrap();
    graph.set_output(y).unwrap();
    let entry = Entry {
        name: "e".into(),
        graph: Arc::new(graph),
        nodes: 0..1,
        bounds: Bounds::new().with(Symbol::TOKENS, Extent::Exact(1)),
    };
    let options = CompileOptions::new(DType::F32);
    let compiled = device.compile(&[entry], &options, Arc::new(NoWeights), &mut |_, _| true);
    compiled.unwrap()
}

fn open(path: PathBuf) -> OpenModel {
    OpenModel::open(ModelSource::File(path)).unwrap()
}

/// A small random model of an architecture.
fn architecture(name: &str) -> OpenModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/architectures");
    open(folder.join(format!("{name}.gguf")))
}
