//! What a run is given and what it left.

use std::sync::Arc;
use std::time::Duration;

use anynpu_cpu::reference::Tensor;
use anynpu_hal::{Buffer, Device, EntryInfo, HalError, Module, Point, Port, Submission, Timeline};
use anynpu_ir::{Graph, SymbolValues, TensorType, ValueId};

use super::memory::Guarded;
use super::outcome::{Check, Stop};

/// An open device and how long one of its runs may take.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    pub device: Arc<dyn Device>,
    pub patience: Duration,
}

/// Buffers for one run of an entry.
#[derive(Debug)]
pub(crate) struct Binding {
    inputs: Vec<Guarded>,
    outputs: Vec<Guarded>,
    states: Vec<Guarded>,
    given: Vec<Vec<u8>>,
    symbols: SymbolValues,
}

impl Binding {
    /// Buffers for `info` of the sizes that `symbols` give: operands hold what `input` says, states what
    /// `states` say, results a pattern.
    pub fn new(
        device: &dyn Device,
        info: &EntryInfo,
        symbols: &SymbolValues,
        input: impl Fn(ValueId) -> Vec<u8>,
        states: &[Vec<u8>],
    ) -> Result<Self, Stop> {
        let needed = |port: &Port| port.ty.bytes(symbols).unwrap_or(0);
        let given: Vec<Vec<u8>> = info.inputs.iter().map(|p| input(p.value)).collect();
        let inputs = given.iter().enumerate();
        let inputs = inputs.map(|(i, data)| Guarded::holding(device, &format!("input {i}"), data));
        let outputs = info.outputs.iter().enumerate();
        let outputs =
            outputs.map(|(i, p)| Guarded::blank(device, &format!("output {i}"), needed(p)));
        let homes = states.iter().enumerate();
        let homes = homes.map(|(i, data)| Guarded::holding(device, &format!("state {i}"), data));
        Ok(Binding {
            inputs: inputs.collect::<Result<_, _>>()?,
            outputs: outputs.collect::<Result<_, _>>()?,
            states: homes.collect::<Result<_, _>>()?,
            given,
            symbols: *symbols,
        })
    }

    /// Submits a run and waits for its end.
    pub fn run(
        &self,
        bench: &Bench,
        module: &Arc<dyn Module>,
        entry: usize,
    ) -> Result<(), HalError> {
        let done = Timeline::new("the run").point(1);
        self.start(bench, module, entry, &[], &done)?;
        self.finish(bench, &done)
    }

    /// Submits a run that waits for `wait` and then signals `done`.
    pub fn start(
        &self,
        bench: &Bench,
        module: &Arc<dyn Module>,
        entry: usize,
        wait: &[Point],
        done: &Point,
    ) -> Result<(), HalError> {
        let buffers = |all: &[Guarded]| -> Vec<Arc<dyn Buffer>> {
            all.iter().map(|g| g.buffer().clone()).collect()
        };
        bench.device.queue().submit(&Submission {
            module,
            entry,
            inputs: &buffers(&self.inputs),
            outputs: &buffers(&self.outputs),
            states: &buffers(&self.states),
            sequences: &[],
            symbols: self.symbols,
            wait,
            signal: done,
        })
    }

    /// Waits for a run that was started.
    pub fn finish(&self, bench: &Bench, done: &Point) -> Result<(), HalError> {
        let waited = done.wait(bench.patience);
        if matches!(waited, Err(HalError::Timeout { .. })) {
            self.all().for_each(Guarded::keep_for_good);
        }
        waited
    }

    fn all(&self) -> impl Iterator<Item = &Guarded> {
        self.inputs.iter().chain(&self.outputs).chain(&self.states)
    }

    /// That nothing but results and states was written.
    pub fn check_bounds(&self) -> Check {
        for guarded in self.all() {
            if let Some(past) = guarded.trespass()? {
                let name = &guarded.buffer().desc().name;
                return Err(Stop::failed(
                    format!("byte {past} past the end of {name} was written"),
                    "nothing written outside of results and states",
                ));
            }
        }
        for (i, (guarded, given)) in self.inputs.iter().zip(&self.given).enumerate() {
            if guarded.read()? != *given {
                return Err(Stop::failed(
                    format!("input {i} was changed"),
                    "operands as they were given",
                ));
            }
        }
        Ok(())
    }

    /// That no result was written at all.
    pub fn check_unwritten(&self) -> Check {
        for (i, output) in self.outputs.iter().enumerate() {
            if let Some(at) = output.written_from(0)? {
                return Err(Stop::failed(
                    format!("byte {at} of output {i} was written"),
                    "nothing written by a run that was refused",
                ));
            }
        }
        Ok(())
    }

    /// The results, in the order of `info`.
    pub fn outputs(&self, info: &EntryInfo, graph: &Graph) -> Result<Vec<Tensor>, Stop> {
        let ports = info.outputs.iter().zip(&self.outputs);
        ports
            .map(|(port, buffer)| tensor(graph.ty(port.value), &self.symbols, &buffer.read()?))
            .collect()
    }

    /// Operands, results and states, to be submitted in another way.
    pub fn buffers(&self) -> [Vec<Arc<dyn Buffer>>; 3] {
        [&self.inputs, &self.outputs, &self.states]
            .map(|all| all.iter().map(|g| g.buffer().clone()).collect())
    }

    /// Runs the entry with results in buffers without room for anything else, and gives their bytes.
    pub fn run_exactly(
        &self,
        bench: &Bench,
        module: &Arc<dyn Module>,
        info: &EntryInfo,
    ) -> Result<Vec<Vec<u8>>, Stop> {
        let [inputs, _, states] = self.buffers();
        let outputs = info.outputs.iter().map(|port| {
            let bytes = port.ty.bytes(&self.symbols).unwrap_or(0);
            let desc = super::memory::desc(&*bench.device, "exact", bytes);
            bench.device.allocate(&desc)
        });
        let outputs = outputs.collect::<Result<Vec<_>, HalError>>()?;
        let done = Timeline::new("the run").point(1);
        bench.device.queue().submit(&Submission {
            module,
            entry: 0,
            inputs: &inputs,
            outputs: &outputs,
            states: &states,
            sequences: &[],
            symbols: self.symbols,
            wait: &[],
            signal: &done,
        })?;
        if let Err(e) = self.finish(bench, &done) {
            std::mem::forget(outputs);
            return Err(e.into());
        }
        let read = outputs.iter().map(|b| super::memory::contents(&**b));
        Ok(read.collect::<Result<_, _>>()?)
    }

    /// The contents of the states, in the order of the entry.
    pub fn states(&self) -> Result<Vec<Vec<u8>>, Stop> {
        let read = self.states.iter().map(Guarded::read);
        Ok(read.collect::<Result<_, _>>()?)
    }
}

/// Bytes as a tensor of a graph's type.
pub(crate) fn tensor(
    ty: &TensorType,
    symbols: &SymbolValues,
    bytes: &[u8],
) -> Result<Tensor, Stop> {
    Tensor::from_bytes(ty.dtype, ty.shape.resolve(symbols), bytes)
        .map_err(|e| Stop::failed(format!("results that are no {ty}: {e}"), ty.to_string()))
}
