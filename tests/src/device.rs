//! Running a graph on a device.
#![allow(unsafe_code)] // fills and reads buffers

use std::sync::Arc;
use std::time::Duration;

use anynpu_cpu::reference::Tensor;
use anynpu_hal::{
    Access, Bounds, Buffer, BufferDesc, CompileOptions, Device, Entry, Extent, HalError,
    HardwareBuffers, HardwareMemory, Submission, Timeline, WeightSource, read_bytes, write_bytes,
};
use anynpu_ir::{DType, Graph, Symbol, SymbolValues, TensorType};

use crate::case::NoWeights;

/// Longer than any case takes, even emulated.
const DEADLINE: Duration = Duration::from_secs(60);

/// [`run_with`] no weights.
///
/// # Errors
/// What the device says when compiling or running.
pub fn run_on(
    device: &dyn Device,
    graph: &Arc<Graph>,
    inputs: &[Tensor],
    symbols: &SymbolValues,
) -> Result<Vec<Tensor>, HalError> {
    run_with(device, graph, inputs, Arc::new(NoWeights), symbols)
}

/// Compiles all of `graph` for `symbols` on `device` and runs it once; `inputs` and the results are
/// in the graph's own order, states start as zeros in F32.
///
/// # Errors
/// What the device says when compiling or running.
///
/// # Panics
/// If an output of the graph is not made by one of its nodes.
pub fn run_with(
    device: &dyn Device,
    graph: &Arc<Graph>,
    inputs: &[Tensor],
    weights: Arc<dyn WeightSource>,
    symbols: &SymbolValues,
) -> Result<Vec<Tensor>, HalError> {
    let mut bounds = Bounds::new();
    for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
        bounds = bounds.with(symbol, Extent::Exact(symbols.get(symbol)));
    }
    let entry = Entry {
        name: "case".into(),
        graph: graph.clone(),
        nodes: 0..graph.nodes().len() as u32,
        bounds,
    };
    let module = device.compile(
        &[entry],
        &CompileOptions::new(DType::F32),
        weights,
        &mut |_, _| true,
    )?;
    let info = &module.entries()[0];
    let allocate = |name: &str, ty: &TensorType, data: Option<&Tensor>| {
        let bytes = ty.bytes(symbols).unwrap_or(0);
        let data = data.map_or_else(|| vec![0; bytes], Tensor::to_bytes);
        let buffer = device.allocate(&BufferDesc::host(name, bytes))?;
        // SAFETY: the buffer was just made, so nothing else uses its memory.
        unsafe { write_bytes(buffer.as_ref(), 0, &data)? };
        Ok(buffer)
    };
    let place = |ids: &[anynpu_ir::ValueId], id| ids.iter().position(|&i| i == id);
    let bound = info.inputs.iter().map(|port| {
        let at = place(graph.inputs(), port.value).expect("a whole graph's inputs are its own");
        allocate("input", &port.ty, Some(&inputs[at]))
    });
    let bound = bound.collect::<Result<Vec<Arc<dyn Buffer>>, HalError>>()?;
    let outputs = info.outputs.iter().map(|p| allocate("output", &p.ty, None));
    let outputs = outputs.collect::<Result<Vec<_>, HalError>>()?;
    let states = info.states.iter().map(|port| {
        let shape = graph.state(port.state).ty.shape.clone();
        allocate("state", &TensorType::new(port.dtype, shape), None)
    });
    let states = states.collect::<Result<Vec<_>, HalError>>()?;
    let done = Timeline::new("case").point(1);
    device.queue().submit(&Submission {
        module: &module,
        entry: 0,
        inputs: &bound,
        outputs: &outputs,
        states: &states,
        sequences: &[],
        symbols: *symbols,
        wait: &[],
        signal: &done,
    })?;
    done.wait(DEADLINE)?;
    let result = |&id: &anynpu_ir::ValueId| {
        let at = info.outputs.iter().position(|port| port.value == id);
        let buffer = &outputs[at.expect("outputs are made by nodes")];
        let ty = graph.ty(id);
        let mut bytes = vec![0; ty.bytes(symbols).unwrap_or(0)];
        // SAFETY: the submission that wrote the buffer is done.
        unsafe { read_bytes(buffer.as_ref(), 0, &mut bytes)? };
        let tensor = Tensor::from_bytes(ty.dtype, ty.shape.resolve(symbols), &bytes);
        Ok(tensor.expect("as many bytes as the type has"))
    };
    graph.outputs().iter().map(result).collect()
}

/// Writes numbers to the start of a buffer that no run uses.
///
/// # Panics
/// If they don't fit.
pub fn fill(buffer: &dyn Buffer, numbers: &[f32]) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_ne_bytes()).collect();
    // SAFETY: no run uses it, as the caller says.
    unsafe { write_bytes(buffer, 0, &bytes) }.expect("a buffer that holds them");
}

/// The first `count` numbers of a buffer that no run writes.
///
/// # Panics
/// If there are fewer.
pub fn numbers_of(buffer: &dyn Buffer, count: usize) -> Vec<f32> {
    let mut bytes = vec![0; 4 * count];
    // SAFETY: no run writes it, as the caller says.
    unsafe { read_bytes(buffer, 0, &mut bytes) }.expect("a buffer that has them");
    let each = bytes.chunks_exact(4);
    each.map(|b| f32::from_ne_bytes(b.try_into().unwrap_or_default()))
        .collect()
}

/// Another handle of the hardware buffer `of`, whose functions are `functions`.
///
/// # Errors
/// A buffer of another format.
pub fn adopted(
    functions: &HardwareBuffers,
    of: &HardwareMemory,
    name: &str,
) -> Result<HardwareMemory, HalError> {
    // SAFETY: the buffer is there during the call.
    unsafe { functions.adopt(of.handle(), name) }
}

/// Whether a buffer that no run uses is mapped for writing by one alone.
pub fn maps_alone(buffer: &dyn Buffer) -> bool {
    // SAFETY: no run uses it, as the caller says, and its memory is not touched.
    let [one, other] = [Access::Write, Access::Read].map(|a| unsafe { buffer.map(a) }.is_ok());
    for mapped in [one, other] {
        if mapped {
            buffer.unmap();
        }
    }
    one && !other
}
