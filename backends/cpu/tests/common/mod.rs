//! Runs a graph on the CPU device and on the reference with the same operands.
#![allow(unsafe_code)] // maps buffers
#![allow(dead_code)] // each test file uses a part

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anynpu_cpu::CpuDriver;
use anynpu_cpu::reference::{StateStore, Tensor, TensorRef, evaluate};
use anynpu_hal::{
    Bounds, Buffer, BufferDesc, CompileOptions, Device, Driver, Entry, Extent, HalError,
    OpenOptions, Submission, Timeline, WeightSource, WeightView, read_bytes, write_bytes,
};
use anynpu_ir::{DType, Graph, Symbol, SymbolValues, TensorType};

/// Weights in memory.
#[derive(Clone, Debug, Default)]
pub struct Weights(pub HashMap<String, (DType, Vec<u8>)>);

impl WeightSource for Weights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let (dtype, bytes) = self.0.get(name).ok_or_else(|| HalError::Weight {
            name: name.into(),
            why: "not in this source".into(),
        })?;
        Ok(WeightView {
            dtype: *dtype,
            bytes: bytes.into(),
        })
    }
}

/// A simple generator, the same everywhere.
pub struct Numbers(pub u64);

impl Numbers {
    /// A number in −0.5 .. 0.5.
    pub fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 40) as f32) / (1u32 << 24) as f32 - 0.5
    }
}

/// A CPU device.
pub fn open(threads: usize, features: Option<&str>) -> Arc<dyn Device> {
    let mut options = OpenOptions::default();
    options.threads = Some(threads);
    if let Some(f) = features {
        options.options.insert("features".into(), f.into());
    }
    let found = CpuDriver.enumerate().unwrap();
    CpuDriver.open(&found[0], &options).unwrap()
}

/// The whole graph as an entry for symbols up to `limits`.
pub fn entry(graph: &Arc<Graph>, limits: &SymbolValues) -> Entry {
    let mut bounds = Bounds::new();
    for s in (0..Symbol::COUNT as u16).map(Symbol) {
        bounds = bounds.with(s, Extent::AtMost(limits.get(s)));
    }
    Entry {
        name: "whole".into(),
        graph: graph.clone(),
        nodes: 0..graph.nodes().len() as u32,
        bounds,
    }
}

/// A buffer with `bytes`.
pub fn buffer(device: &dyn Device, name: &str, bytes: &[u8]) -> Arc<dyn Buffer> {
    let buffer = device
        .allocate(&BufferDesc::host(name, bytes.len()))
        .unwrap();
    // SAFETY: the buffer was just made and is not shared yet.
    unsafe { write_bytes(buffer.as_ref(), 0, bytes).unwrap() }
    buffer
}

/// A buffer's bytes.
pub fn contents(buffer: &dyn Buffer) -> Vec<u8> {
    let mut out = vec![0; buffer.desc().bytes];
    // SAFETY: tests read only after their submissions are done.
    unsafe { read_bytes(buffer, 0, &mut out).unwrap() }
    out
}

/// Results of `graph` on the device and on the reference, in the order of its outputs in the
/// run, as (name, device's, reference's), and then its states. `inputs` are by value name, states
/// are kept in `kept` and start at zero.
pub fn both(
    graph: &Arc<Graph>,
    weights: &Weights,
    inputs: &HashMap<String, Tensor>,
    symbols: &SymbolValues,
    kept: DType,
) -> Vec<(String, Tensor, Tensor)> {
    both_with(graph, weights, inputs, symbols, &CompileOptions::new(kept))
}

/// [`both`] as `options` say.
pub fn both_with(
    graph: &Arc<Graph>,
    weights: &Weights,
    inputs: &HashMap<String, Tensor>,
    symbols: &SymbolValues,
    options: &CompileOptions,
) -> Vec<(String, Tensor, Tensor)> {
    let kept = options.state_dtype;
    let device = open(2, None);
    let weights = Arc::new(weights.clone());
    let module = device
        .compile(
            &[entry(graph, symbols)],
            options,
            weights.clone(),
            &mut |_, _| true,
        )
        .unwrap();
    let run = graph.whole();
    let given: Vec<&Tensor> = run
        .inputs()
        .iter()
        .map(|&v| &inputs[&graph.value(v).name])
        .collect();
    let bound: Vec<_> = given
        .iter()
        .map(|t| buffer(device.as_ref(), "input", &t.to_bytes()))
        .collect();
    let size = |ty: &TensorType| ty.bytes(symbols).unwrap();
    let outputs: Vec<_> = run
        .outputs()
        .iter()
        .map(|&v| buffer(device.as_ref(), "output", &vec![0; size(graph.ty(v))]))
        .collect();
    let states: Vec<_> = run
        .states()
        .iter()
        .map(|&s| {
            let ty = TensorType::new(kept, graph.state(s).ty.shape.clone());
            buffer(device.as_ref(), "state", &vec![0; size(&ty)])
        })
        .collect();
    let point = Timeline::new("test").point(1);
    device
        .queue()
        .submit(&Submission {
            module: &module,
            entry: 0,
            inputs: &bound,
            outputs: &outputs,
            states: &states,
            sequences: &[],
            symbols: *symbols,
            wait: &[],
            signal: &point,
        })
        .unwrap();
    point.wait(Duration::from_secs(60)).unwrap();
    let mut store = StateStore::kept(graph, symbols, Some(kept)).unwrap();
    let views: Vec<TensorRef<'_>> = given.iter().map(|t| t.view()).collect();
    let expected = evaluate(&run, &views, weights.as_ref(), &mut store, symbols).unwrap();
    let found = run.outputs().iter().zip(&outputs).map(|(&v, buffer)| {
        let ty = graph.ty(v);
        let shape = ty.shape.resolve(symbols);
        let tensor = Tensor::from_bytes(ty.dtype, shape, &contents(buffer.as_ref())).unwrap();
        (graph.value(v).name.clone(), tensor)
    });
    let results = found.zip(expected).map(|((n, f), e)| (n, f, e));
    let states = run.states().iter().zip(&states).map(|(&id, buffer)| {
        let state = graph.state(id);
        let shape = state.ty.shape.resolve(symbols);
        let found = Tensor::from_bytes(kept, shape, &contents(buffer.as_ref())).unwrap();
        (state.name.clone(), found, store.tensor(id).unwrap())
    });
    results.chain(states).collect()
}

/// Asserts that tensors agree: integers exactly, floats within `relative` of the largest
/// expected magnitude.
pub fn assert_close(what: &str, found: &Tensor, expected: &Tensor, relative: f32) {
    assert_eq!(found.dtype(), expected.dtype(), "{what}");
    assert_eq!(found.shape(), expected.shape(), "{what}");
    if !found.dtype().is_float() {
        assert_eq!(found, expected, "{what}");
        return;
    }
    let (found, expected) = (found.to_f32().unwrap(), expected.to_f32().unwrap());
    let largest = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert!(
            (f - e).abs() <= relative * largest || (f.is_nan() && e.is_nan()) || f == e,
            "{what}[{i}]: found {f}, expected {e}, largest {largest}"
        );
    }
}
