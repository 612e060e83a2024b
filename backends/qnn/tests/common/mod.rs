//! What tests with Qualcomm's library share.
#![allow(dead_code)] // each test uses a part

use std::path::PathBuf;
use std::sync::Arc;

use anynpu_qnn::Soc;
use anynpu_qnn::exec::{Context, ContextOptions, Device, Executable, QnnError};
use anynpu_qnn::htp::{DataType, Encoding, Graph, TensorKind};
use anynpu_qnn::sys;

/// The library, or `None` with the reason printed.
pub fn library(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("ANYNPU_QNN_LIBRARY").filter(|p| !p.is_empty());
    if path.is_none() {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
    }
    path.map(PathBuf::from)
}

/// A chip in the library, or `None` with the reason printed.
pub fn device(test: &str, soc: &str) -> Option<Arc<Device>> {
    let path = library(test)?;
    let loaded = sys::load(Some(&path)).unwrap();
    Some(Device::open(Arc::new(loaded), Soc::find(soc).unwrap()).unwrap())
}

/// `graph` compiled in a context of its own.
pub fn compile(device: &Arc<Device>, graph: &Graph) -> Result<Executable, QnnError> {
    Context::new(device, ContextOptions::default())?.compile(graph)
}

/// Results of running `executable` with `inputs`.
pub fn run(executable: &Executable, inputs: &[&[u8]]) -> Vec<Vec<u8>> {
    let ports = executable.outputs().iter();
    let mut outputs: Vec<Vec<u8>> = ports.map(|p| vec![0; p.bytes]).collect();
    let mut slices: Vec<&mut [u8]> = outputs.iter_mut().map(|o| &mut o[..]).collect();
    executable.execute(inputs, &mut slices).unwrap();
    outputs
}

/// Numbers in -1..1 of a sequence.
pub fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

pub fn f16(values: &[f32]) -> Vec<u8> {
    let bytes = values.iter();
    bytes
        .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
        .collect()
}

pub fn from_f16(bytes: &[u8]) -> Vec<f32> {
    let pairs = bytes.chunks_exact(2);
    pairs
        .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
        .collect()
}

/// `x[rows, k]` times the transpose of `w[n, k]`, in f64.
pub fn product(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| -> f32 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum::<f64>() as f32
    };
    let rows = x.chunks_exact(k);
    rows.flat_map(|row| w.chunks_exact(k).map(move |w| dot(row, w)))
        .collect()
}

/// The largest difference over the largest number.
pub fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-9f32, |m, x| m.max(x.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.fold(
        0.0f32,
        |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) },
    ) / largest
}

/// A product of f16 activations `[rows, k]` with f16 weights `[n, k]`.
pub fn linear(name: &str, rows: u32, k: u32, n: u32, weights: &[f32]) -> Graph {
    let mut g = Graph::new(name);
    let x = g.tensor(
        "x",
        TensorKind::Input,
        DataType::F16,
        &[rows, k],
        Encoding::None,
    );
    let w = TensorKind::Static(f16(weights));
    let w = g.tensor("w", w, DataType::F16, &[n, k], Encoding::None);
    let y = g.tensor(
        "y",
        TensorKind::Output,
        DataType::F16,
        &[rows, n],
        Encoding::None,
    );
    g.node("linear", "FullyConnected", &[x, w], &[y], &[]);
    g
}
