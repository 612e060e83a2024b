//! Running lowered entries: bringing in what they need, and taking out what they give.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use anynpu_hal::{
    Buffer, Counters, EntryInfo, FormWriter, HalError, Module, Port, Queue, StatePort, Submission,
    read_bytes, write_bytes,
};
use anynpu_ir::{Symbol, ValueId};
use half::f16;
use parking_lot::Mutex;

use super::memory::Slot;
use super::{BinaryInfo, Context, Executable, HostMemory, Memory, Power, QnnError};
use crate::activations::Calibration;
use crate::htp::reference::evaluate;
use crate::htp::{DataType, Graph, Tensor, TensorId, TensorKind};
use crate::lower::{Feed, Fetch, Lowered};

/// Longest wait for what a submission depends on.
const WAIT_LIMIT: std::time::Duration = std::time::Duration::from_secs(600);

/// A compiled entry: graphs that run one after the other.
#[derive(Debug, Default)]
struct Program {
    parts: Vec<Part>,
    scratch: Mutex<Scratch>,
}

/// A graph of an entry.
#[derive(Debug)]
struct Part {
    engine: Engine,
    feeds: Vec<Feed>,
    fetches: Vec<Fetch>,
    /// How the graph holds its inputs and outputs, and the types that the host has them in.
    given: Vec<(Tensor, DataType)>,
    made: Vec<(Tensor, DataType)>,
    /// Where its operands are, and where its results go.
    operands: Vec<Place>,
    results: Vec<Place>,
    /// Its states among those of the entry.
    states: Vec<usize>,
    /// Bytes of the operands that hold positions, by their number.
    positions: Vec<(usize, usize)>,
}

/// Where a value is that goes into a part or comes out of it.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The operand of the entry with this number.
    Operand(usize),
    /// The result of the entry with this number, which later parts may read too.
    Result(usize, ValueId),
    /// Between parts.
    Between(ValueId),
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
#[derive(Debug, Default)]
struct Scratch {
    /// What the host gives where the graph holds it otherwise.
    outside: Vec<u8>,
    /// What one part makes for another.
    between: BTreeMap<ValueId, Vec<u8>>,
    /// Of each part.
    parts: Vec<PartScratch>,
}

#[derive(Debug)]
struct PartScratch {
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    positions: Vec<Vec<u8>>,
}

/// Compiled entries in one context, or in several where one has no room for all their weights.
#[derive(Debug)]
pub struct QnnModule {
    contexts: Vec<Arc<Context>>,
    /// Where memory for inputs and outputs comes from.
    memory: Arc<dyn Memory>,
    /// What stands before the contexts' compiled forms in the module's, if it has one.
    head: Option<FormWriter>,
    entries: Vec<EntryInfo>,
    programs: Vec<Program>,
    /// Of each context.
    bytes: Vec<u64>,
}

/// What becomes a part of an entry.
#[derive(Debug)]
pub(crate) struct LoweredPart {
    /// The entry's number.
    pub entry: usize,
    /// Its nodes, by their numbers in the graph.
    pub nodes: Range<u32>,
    /// The number of the context that it is in.
    pub context: usize,
    /// What the part needs bound.
    pub info: EntryInfo,
    /// Its graph in floating point.
    pub lowered: Lowered,
    /// Its graph with activations held otherwise.
    pub held: Option<Graph>,
}

impl LoweredPart {
    fn graph(&self) -> &Graph {
        self.held.as_ref().unwrap_or(&self.lowered.graph)
    }
}

impl QnnModule {
    /// Nothing compiled, with room for `entries`.
    pub(crate) fn new(
        memory: &Arc<dyn Memory>,
        entries: Vec<EntryInfo>,
        head: Option<FormWriter>,
    ) -> QnnModule {
        QnnModule {
            contexts: Vec::new(),
            memory: memory.clone(),
            head,
            programs: entries.iter().map(|_| Program::default()).collect(),
            entries,
            bytes: Vec::new(),
        }
    }

    /// Adds a context; they are numbered in this order.
    pub(crate) fn context(&mut self, context: Arc<Context>) {
        self.contexts.push(context);
        self.bytes.push(0);
    }

    /// Compiles the next part of an entry.
    pub(crate) fn compile(&mut self, part: LoweredPart) -> Result<(), QnnError> {
        let executable = self.contexts[part.context].compile(part.graph())?;
        self.add(Engine::Library(executable), part)
    }

    /// Has the reference run the next part of an entry, and note the ranges of its numbers.
    pub(crate) fn measure(
        &mut self,
        part: LoweredPart,
        calibration: Arc<Calibration>,
    ) -> Result<(), QnnError> {
        let graph = part.lowered.graph.clone();
        self.add(Engine::Reference(graph, calibration), part)
    }

    /// Takes the next part of an entry from its context's compiled form.
    pub(crate) fn retrieve(
        &mut self,
        info: &BinaryInfo,
        part: LoweredPart,
    ) -> Result<(), QnnError> {
        let graph = part.graph();
        let executable = self.contexts[part.context].graph(info, &graph.name)?;
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
        self.add(Engine::Library(executable), part)
    }

    fn add(&mut self, engine: Engine, part: LoweredPart) -> Result<(), QnnError> {
        let graph = part.graph();
        let contents = graph.tensors.iter().map(|t| match &t.kind {
            TensorKind::Static(_) => t.bytes().unwrap_or(0) as u64,
            _ => 0,
        });
        // weights of the same name are in every entry; the library holds them once each
        let bytes = &mut self.bytes[part.context];
        *bytes = (*bytes).max(contents.sum());
        let entry = &self.entries[part.entry];
        let lost = |what: &str, value: ValueId| QnnError::Binary {
            what: "a part of an entry",
            found: format!("one with {what} {}", value.0),
            expected: "one of the entry's".into(),
        };
        let operand = |port: &Port| {
            let at = entry.inputs.iter().position(|p| p.value == port.value);
            at.map_or(Place::Between(port.value), Place::Operand)
        };
        let result = |port: &Port| {
            let at = entry.outputs.iter().position(|p| p.value == port.value);
            at.map_or(Place::Between(port.value), |at| {
                Place::Result(at, port.value)
            })
        };
        let state = |port: &StatePort| {
            let mut states = entry.states.iter();
            let at = states.position(|p| p.state == port.state);
            at.ok_or_else(|| lost("state", ValueId(port.state.0)))
        };
        let states = part.info.states.iter().map(state);
        let states = states.collect::<Result<Vec<usize>, QnnError>>()?;
        let mut positions: Vec<(usize, usize)> = Vec::new();
        for feed in &part.lowered.feeds {
            let at = match feed {
                Feed::Cosines(r) | Feed::Sines(r) => r.positions,
                Feed::Mask(m) => m.positions,
                Feed::Value(_) | Feed::Added(..) | Feed::State(_) | Feed::NewRows(_) => continue,
            };
            if positions.iter().all(|(known, _)| *known != at) {
                positions.push((at, part.info.inputs[at].max_bytes));
            }
        }
        type Held = Vec<(Tensor, DataType)>;
        let outside = |t: &Tensor| t.dtype;
        let given: Held = graph
            .inputs()
            .cloned()
            .zip(part.lowered.graph.inputs().map(outside))
            .collect();
        let made: Held = graph
            .outputs()
            .cloned()
            .zip(part.lowered.graph.outputs().map(outside))
            .collect();
        let plain = |held: &Held| -> Result<Vec<Slot>, QnnError> {
            let sizes = held.iter().map(|(t, _)| t.bytes().unwrap_or(0));
            sizes.map(|bytes| Slot::new(&HostMemory, bytes)).collect()
        };
        let (inputs, outputs) = match &engine {
            Engine::Library(executable) => executable.slots(&*self.memory)?,
            Engine::Reference(..) => (plain(&given)?, plain(&made)?),
        };
        let scratch = PartScratch {
            inputs,
            outputs,
            positions: positions.iter().map(|(_, bytes)| vec![0; *bytes]).collect(),
        };
        let operands: Vec<Place> = part.info.inputs.iter().map(operand).collect();
        let program = &mut self.programs[part.entry];
        let mut all = program.scratch.lock();
        for place in &operands {
            if let Place::Between(value) = place {
                all.between.entry(*value).or_default();
            }
        }
        all.parts.push(scratch);
        drop(all);
        let results = part.info.outputs.iter().map(result).collect();
        program.parts.push(Part {
            engine,
            given,
            made,
            operands,
            results,
            states,
            feeds: part.lowered.feeds,
            fetches: part.lowered.fetches,
            positions,
        });
        Ok(())
    }
}

impl Module for QnnModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.entries
    }

    fn resident_bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }

    fn blob(&self) -> Result<Option<Vec<u8>>, HalError> {
        let Some(head) = &self.head else {
            return Ok(None);
        };
        let mut form = head.clone();
        for context in &self.contexts {
            let binary = context.binary();
            form.bytes(&binary.map_err(|e| e.of_device("qnn"))?);
        }
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
    /// Votes for its clocks while something runs.
    power: Option<Power>,
    counters: Mutex<Counters>,
}

impl QnnQueue {
    pub fn new(name: &str, timed: bool, power: Option<Power>) -> QnnQueue {
        QnnQueue {
            name: name.into(),
            timed,
            power,
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
        let _fast = self.power.as_ref().map(Power::hold);
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
            between,
            parts,
        } = &mut *scratch;
        for (part, own) in self.parts.iter().zip(parts) {
            part.run(device, s, own, outside, between)?;
        }
        Ok(())
    }
}

/// Fails if the mask of numbers in `memory`, so many `rows` a query, hides all of them from one.
fn sees_something(memory: &[u8], rows: u32) -> Result<(), HalError> {
    let hides = |b: &[u8]| b == f32::NEG_INFINITY.to_ne_bytes();
    let mut queries = memory.chunks(4 * rows.max(1) as usize).enumerate();
    match queries.find(|(_, row)| row.chunks_exact(4).all(hides)) {
        None => Ok(()),
        Some((query, _)) => Err(HalError::InvalidUse {
            call: "submit",
            what: "a mask".into(),
            found: format!("query {query} sees none of {rows} key rows"),
            expected: "each to see one".into(),
        }),
    }
}

impl Part {
    fn run(
        &self,
        device: &str,
        s: &Submission<'_>,
        own: &mut PartScratch,
        outside: &mut Vec<u8>,
        between: &mut BTreeMap<ValueId, Vec<u8>>,
    ) -> Result<(), HalError> {
        let PartScratch {
            inputs,
            outputs,
            positions,
        } = own;
        for ((at, _), memory) in self.positions.iter().zip(&mut *positions) {
            self.operand(*at, s, between, memory)?;
        }
        let cached = s.symbols.get(Symbol::CACHED);
        let tokens = s.symbols.get(Symbol::TOKENS).max(1) as usize;
        let of = |at: usize| -> Vec<i32> {
            let known = self.positions.iter().position(|(p, _)| *p == at);
            let bytes = known.map_or(&[][..], |i| &positions[i]);
            let number = |b: &[u8]| i32::from_ne_bytes(b.try_into().unwrap_or_default());
            bytes.chunks_exact(4).map(number).collect()
        };
        let held = |e: crate::htp::GraphError| QnnError::from(e).of_device(device);
        for ((feed, own), (tensor, dtype)) in self.feeds.iter().zip(&mut *inputs).zip(&self.given) {
            let as_it_is = tensor.dtype == *dtype;
            outside.resize(tensor.elements().unwrap_or(0) * dtype.bytes(), 0);
            let memory: &mut [u8] = if as_it_is { own } else { outside };
            match feed {
                Feed::Value(at) => self.operand(*at, s, between, memory)?,
                Feed::Added(at, rows) => {
                    self.operand(*at, s, between, memory)?;
                    sees_something(memory, *rows)?;
                }
                Feed::State(at) => read(&s.states[self.states[*at]], 0, memory)?,
                Feed::NewRows(at) => {
                    let row = memory.len() / tokens;
                    let first = row.saturating_mul(cached as usize);
                    read(&s.states[self.states[*at]], first, memory)?;
                }
                Feed::Cosines(r) => fill(memory, &r.angles(&of(r.positions)).0),
                Feed::Sines(r) => fill(memory, &r.angles(&of(r.positions)).1),
                Feed::Mask(m) => fill(memory, &m.mask(&of(m.positions), cached)),
            }
            if !as_it_is {
                let numbers = plain(tensor, *dtype).decode(outside).map_err(held)?;
                own.copy_from_slice(&tensor.encode(&numbers).map_err(held)?);
            }
        }
        self.compute(device, inputs, outputs)?;
        for ((fetch, memory), (tensor, dtype)) in self.fetches.iter().zip(&*outputs).zip(&self.made)
        {
            let numbers;
            let memory: &[u8] = match tensor.dtype == *dtype {
                true => memory,
                false => {
                    let made = tensor.decode(memory).map_err(held)?;
                    numbers = plain(tensor, *dtype).encode(&made).map_err(held)?;
                    &numbers
                }
            };
            match fetch {
                Fetch::Value(at) => match self.results[*at] {
                    Place::Result(at, value) => {
                        write(&s.outputs[at], 0, memory)?;
                        if let Some(kept) = between.get_mut(&value) {
                            memory.clone_into(kept);
                        }
                    }
                    Place::Between(value) => memory.clone_into(between.entry(value).or_default()),
                    Place::Operand(_) => {}
                },
                Fetch::Rows(at) => {
                    let row = memory.len() / tokens;
                    let state = &s.states[self.states[*at]];
                    write(state, row.saturating_mul(cached as usize), memory)?;
                }
            }
        }
        Ok(())
    }

    /// Copies operand `at` of the part to `out`.
    fn operand(
        &self,
        at: usize,
        s: &Submission<'_>,
        between: &BTreeMap<ValueId, Vec<u8>>,
        out: &mut [u8],
    ) -> Result<(), HalError> {
        let value = match self.operands[at] {
            Place::Operand(at) => return read(&s.inputs[at], 0, out),
            Place::Result(_, value) | Place::Between(value) => value,
        };
        match between.get(&value) {
            Some(made) if made.len() == out.len() => {
                out.copy_from_slice(made);
                Ok(())
            }
            made => Err(HalError::InvalidUse {
                call: "submit",
                what: format!("value {} between parts", value.0),
                found: format!("{} bytes", made.map_or(0, Vec::len)),
                expected: format!("{} bytes", out.len()),
            }),
        }
    }

    fn compute(&self, device: &str, inputs: &[Slot], outputs: &mut [Slot]) -> Result<(), HalError> {
        let failed = |e: QnnError| e.of_device(device);
        let (graph, calibration) = match &self.engine {
            Engine::Library(executable) => {
                return executable.execute_in(inputs, outputs).map_err(failed);
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
            let bytes = tensor.encode(values.of(id));
            memory.copy_from_slice(&bytes.map_err(|e| failed(e.into()))?);
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

fn read(buffer: &Arc<dyn Buffer>, offset: usize, out: &mut [u8]) -> Result<(), HalError> {
    // SAFETY: a submission has its operands and states to read until its signal, and nobody writes them meanwhile.
    unsafe { read_bytes(&**buffer, offset, out) }
}

fn write(buffer: &Arc<dyn Buffer>, offset: usize, data: &[u8]) -> Result<(), HalError> {
    // SAFETY: a submission has its results and states to write until its signal.
    unsafe { write_bytes(&**buffer, offset, data) }
}
