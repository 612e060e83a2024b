//! Running lowered entries: bringing in what they need, and taking out what they give.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use anynpu_hal::{
    Buffer, Counters, EntryInfo, FormWriter, HalError, Module, Queue, Submission, read_bytes,
    write_bytes,
};
use anynpu_ir::Symbol;
use half::f16;
use parking_lot::Mutex;

use super::{BinaryInfo, Context, Executable, QnnError};
use crate::activations::Calibration;
use crate::htp::reference::evaluate;
use crate::htp::{DataType, Graph, Tensor, TensorId, TensorKind};
use crate::lower::{Feed, Fetch, Lowered};

/// Longest wait for what a submission depends on.
const WAIT_LIMIT: std::time::Duration = std::time::Duration::from_secs(600);

/// A compiled entry.
#[derive(Debug)]
struct Program {
    engine: Engine,
    feeds: Vec<Feed>,
    fetches: Vec<Fetch>,
    /// How the graph holds its inputs and outputs, and the types that the host has them in.
    given: Vec<(Tensor, DataType)>,
    made: Vec<(Tensor, DataType)>,
    /// Bytes of the operands that hold positions, by their number.
    positions: Vec<(usize, usize)>,
    scratch: Mutex<Scratch>,
}

/// What runs a graph.
#[derive(Debug)]
enum Engine {
    /// The library.
    Library(Executable),
    /// The plain reference, which notes the ranges of numbers.
    Reference(Graph, Arc<Calibration>),
}

/// Memory that a run goes through.
#[derive(Debug)]
struct Scratch {
    /// What the host gives where the graph holds it otherwise.
    outside: Vec<u8>,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    positions: Vec<Vec<u8>>,
}

/// Compiled entries in one context.
#[derive(Debug)]
pub struct QnnModule {
    context: Arc<Context>,
    /// What stands before the context's compiled form in the module's, if it has one.
    head: Option<FormWriter>,
    entries: Vec<EntryInfo>,
    programs: Vec<Program>,
    bytes: u64,
}

impl QnnModule {
    /// Nothing compiled in `context`, with room for `entries`.
    pub(crate) fn new(
        context: &Arc<Context>,
        entries: Vec<EntryInfo>,
        head: Option<FormWriter>,
    ) -> QnnModule {
        QnnModule {
            context: context.clone(),
            head,
            entries,
            programs: Vec::new(),
            bytes: 0,
        }
    }

    /// Compiles the next entry; `held` is its graph with activations held otherwise.
    pub(crate) fn compile(
        &mut self,
        lowered: Lowered,
        held: Option<Graph>,
    ) -> Result<(), QnnError> {
        let executable = self
            .context
            .compile(held.as_ref().unwrap_or(&lowered.graph))?;
        self.add(Engine::Library(executable), lowered, held);
        Ok(())
    }

    /// Has the reference run the next entry, and note the ranges of its numbers.
    pub(crate) fn measure(&mut self, lowered: Lowered, calibration: Arc<Calibration>) {
        let graph = lowered.graph.clone();
        self.add(Engine::Reference(graph, calibration), lowered, None);
    }

    /// Takes the next entry from the context's compiled form.
    pub(crate) fn retrieve(
        &mut self,
        info: &BinaryInfo,
        lowered: Lowered,
        held: Option<Graph>,
    ) -> Result<(), QnnError> {
        let graph = held.as_ref().unwrap_or(&lowered.graph);
        let executable = self.context.graph(info, &graph.name)?;
        let same = |what, found: usize, expected: usize| match found == expected {
            true => Ok(()),
            false => Err(QnnError::Binary {
                what,
                found: found.to_string(),
                expected: expected.to_string(),
            }),
        };
        let (inputs, outputs) = (graph.inputs(), graph.outputs());
        same(
            "its number of inputs",
            executable.inputs().len(),
            inputs.count(),
        )?;
        same(
            "its number of outputs",
            executable.outputs().len(),
            outputs.count(),
        )?;
        let ports = executable.inputs().iter().chain(executable.outputs());
        for (port, tensor) in ports.zip(graph.inputs().chain(graph.outputs())) {
            let bytes = tensor.bytes().unwrap_or(usize::MAX);
            same("the size of an input or output", port.bytes, bytes)?;
        }
        self.add(Engine::Library(executable), lowered, held);
        Ok(())
    }

    fn add(&mut self, engine: Engine, lowered: Lowered, held: Option<Graph>) {
        let graph = held.as_ref().unwrap_or(&lowered.graph);
        let contents = graph.tensors.iter().map(|t| match &t.kind {
            TensorKind::Static(_) => t.bytes().unwrap_or(0) as u64,
            _ => 0,
        });
        // weights of the same name are in every entry; the library holds them once each
        self.bytes = self.bytes.max(contents.sum());
        let mut positions: Vec<(usize, usize)> = Vec::new();
        for feed in &lowered.feeds {
            let at = match feed {
                Feed::Cosines(r) | Feed::Sines(r) => r.positions,
                Feed::Mask(m) => m.positions,
                Feed::Value(_) | Feed::State(_) => continue,
            };
            let info = &self.entries[self.programs.len()];
            if positions.iter().all(|(known, _)| *known != at) {
                positions.push((at, info.inputs[at].max_bytes));
            }
        }
        type Held = Vec<(Tensor, DataType)>;
        let outside = |t: &Tensor| t.dtype;
        let given: Held = graph
            .inputs()
            .cloned()
            .zip(lowered.graph.inputs().map(outside))
            .collect();
        let made: Held = graph
            .outputs()
            .cloned()
            .zip(lowered.graph.outputs().map(outside))
            .collect();
        let sizes = |held: &Held| -> Vec<Vec<u8>> {
            held.iter()
                .map(|(t, _)| vec![0; t.bytes().unwrap_or(0)])
                .collect()
        };
        let scratch = Scratch {
            outside: Vec::new(),
            inputs: sizes(&given),
            outputs: sizes(&made),
            positions: positions.iter().map(|(_, bytes)| vec![0; *bytes]).collect(),
        };
        self.programs.push(Program {
            engine,
            given,
            made,
            feeds: lowered.feeds,
            fetches: lowered.fetches,
            positions,
            scratch: Mutex::new(scratch),
        });
    }
}

impl Module for QnnModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.entries
    }

    fn resident_bytes(&self) -> u64 {
        self.bytes
    }

    fn blob(&self) -> Result<Option<Vec<u8>>, HalError> {
        let Some(head) = &self.head else {
            return Ok(None);
        };
        let binary = self.context.binary();
        let binary = binary.map_err(|e| e.of_device("qnn"))?;
        let mut form = head.clone();
        form.bytes(&binary);
        Ok(Some(form.finish()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The queue of a device. A submission is complete when `submit` returns.
#[derive(Debug)]
pub(crate) struct QnnQueue {
    name: String,
    /// Whether its time is that of a chip, and not of an emulator.
    timed: bool,
    counters: Mutex<Counters>,
}

impl QnnQueue {
    pub fn new(name: &str, timed: bool) -> QnnQueue {
        QnnQueue {
            name: name.into(),
            timed,
            counters: Mutex::new(Counters::default()),
        }
    }
}

impl Queue for QnnQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let info = s.entry_info()?;
        s.check(info)?;
        let module = s.module.as_any().downcast_ref::<QnnModule>();
        let program = module.and_then(|m| m.programs.get(s.entry));
        let Some(program) = program else {
            return Err(HalError::InvalidUse {
                call: "submit",
                what: "module".into(),
                found: "one of another device".into(),
                expected: format!("one compiled by '{}'", self.name),
            });
        };
        for point in s.wait {
            point.wait(WAIT_LIMIT)?;
        }
        let mut counters = self.counters.lock();
        let started = Instant::now();
        let ran = program.run(&self.name, s);
        counters.submissions += 1;
        counters.nodes += u64::from(info.nodes);
        if self.timed {
            counters.busy_ns += u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        }
        drop(counters);
        match ran {
            Ok(()) => drop(s.signal.signal()),
            Err(e) => drop(s.signal.fail(e)),
        }
        Ok(())
    }

    fn counters(&self) -> Counters {
        *self.counters.lock()
    }
}

impl Program {
    fn run(&self, device: &str, s: &Submission<'_>) -> Result<(), HalError> {
        let mut scratch = self.scratch.lock();
        let Scratch {
            outside,
            inputs,
            outputs,
            positions,
        } = &mut *scratch;
        for ((at, _), memory) in self.positions.iter().zip(&mut *positions) {
            read(&s.inputs[*at], memory)?;
        }
        let cached = s.symbols.get(Symbol::CACHED);
        let of = |at: usize| -> Vec<i32> {
            let known = self.positions.iter().position(|(p, _)| *p == at);
            let bytes = known.map_or(&[][..], |i| &positions[i]);
            let number = |b: &[u8]| i32::from_ne_bytes(b.try_into().unwrap_or_default());
            bytes.chunks_exact(4).map(number).collect()
        };
        let held = |e: crate::htp::GraphError| QnnError::from(e).of_device(device);
        for ((feed, own), (tensor, dtype)) in self.feeds.iter().zip(&mut *inputs).zip(&self.given) {
            let as_it_is = tensor.dtype == *dtype;
            let memory = if as_it_is { &mut *own } else { &mut *outside };
            memory.resize(tensor.elements().unwrap_or(0) * dtype.bytes(), 0);
            match feed {
                Feed::Value(at) => read(&s.inputs[*at], memory)?,
                Feed::State(at) => read(&s.states[*at], memory)?,
                Feed::Cosines(r) => fill(memory, &r.angles(&of(r.positions)).0),
                Feed::Sines(r) => fill(memory, &r.angles(&of(r.positions)).1),
                Feed::Mask(m) => fill(memory, &m.mask(&of(m.positions), cached)),
            }
            if !as_it_is {
                let numbers = plain(tensor, *dtype).decode(outside).map_err(held)?;
                *own = tensor.encode(&numbers).map_err(held)?;
            }
        }
        self.compute(device, inputs, outputs)?;
        let tokens = s.symbols.get(Symbol::TOKENS).max(1) as usize;
        for ((fetch, memory), (tensor, dtype)) in self.fetches.iter().zip(&*outputs).zip(&self.made)
        {
            let numbers;
            let memory = match tensor.dtype == *dtype {
                true => memory,
                false => {
                    let made = tensor.decode(memory).map_err(held)?;
                    numbers = plain(tensor, *dtype).encode(&made).map_err(held)?;
                    &numbers
                }
            };
            match fetch {
                Fetch::Value(at) => write(&s.outputs[*at], 0, memory)?,
                Fetch::Rows(at) => {
                    let row = memory.len() / tokens;
                    write(&s.states[*at], row.saturating_mul(cached as usize), memory)?;
                }
            }
        }
        Ok(())
    }

    fn compute(
        &self,
        device: &str,
        inputs: &[Vec<u8>],
        outputs: &mut [Vec<u8>],
    ) -> Result<(), HalError> {
        let failed = |e: QnnError| e.of_device(device);
        let (graph, calibration) = match &self.engine {
            Engine::Library(executable) => {
                let given: Vec<&[u8]> = inputs.iter().map(|m| &m[..]).collect();
                let mut made: Vec<&mut [u8]> = outputs.iter_mut().map(|m| &mut m[..]).collect();
                return executable.execute(&given, &mut made).map_err(failed);
            }
            Engine::Reference(graph, calibration) => (graph, calibration),
        };
        let given = graph.inputs().zip(inputs);
        let given: Result<Vec<Vec<f64>>, _> = given.map(|(t, bytes)| t.decode(bytes)).collect();
        let values = evaluate(graph, &given.map_err(|e| failed(e.into()))?);
        let values = values.map_err(|e| failed(e.into()))?;
        calibration.note(graph, &values);
        let ids = (0..).map(TensorId).zip(&graph.tensors);
        let made = ids.filter(|(_, t)| t.kind == TensorKind::Output);
        for ((id, tensor), memory) in made.zip(outputs) {
            *memory = tensor.encode(values.of(id)).map_err(|e| failed(e.into()))?;
        }
        Ok(())
    }
}

/// `tensor` with its numbers as the host has them.
fn plain(tensor: &Tensor, dtype: DataType) -> Tensor {
    Tensor {
        dtype,
        encoding: crate::htp::Encoding::None,
        ..tensor.clone()
    }
}

fn fill(memory: &mut [u8], numbers: &[f16]) {
    for (out, x) in memory.chunks_exact_mut(2).zip(numbers) {
        out.copy_from_slice(&x.to_ne_bytes());
    }
}

fn read(buffer: &Arc<dyn Buffer>, out: &mut [u8]) -> Result<(), HalError> {
    // SAFETY: a submission has its operands and states to read until its signal, and nobody writes them meanwhile.
    unsafe { read_bytes(&**buffer, 0, out) }
}

fn write(buffer: &Arc<dyn Buffer>, offset: usize, data: &[u8]) -> Result<(), HalError> {
    // SAFETY: a submission has its results and states to write until its signal.
    unsafe { write_bytes(&**buffer, offset, data) }
}
