//! Running entries: bringing in what their functions need, and taking out what they give.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anynpu_hal::{
    Access, Buffer, Counters, EntryInfo, HalError, MemoryKind, Module, Queue, Submission,
    read_bytes, write_bytes,
};
use anynpu_ir::{DType, NodeId, Symbol};
use parking_lot::Mutex;

use super::Loaded;
use super::numbers::{Pages, bytes_of, fill, into_function, out_of_function};
use crate::binding::{Array, FunctionPlan, Place, Source};
use crate::kept::Kept;

/// Longest wait for what a submission depends on.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

/// Compiled entries.
#[derive(Debug)]
pub struct CoreMlModule {
    entries: Vec<EntryInfo>,
    programs: Vec<Program>,
    /// Where the nodes of each entry run, if the system tells.
    placed: Vec<Vec<(NodeId, String)>>,
    bytes: u64,
    /// Where it is, if not in memory. Dropped after the programs, which read what it holds.
    _kept: Option<Kept>,
}

impl CoreMlModule {
    pub(crate) fn new(
        entries: Vec<EntryInfo>,
        programs: Vec<Program>,
        placed: Vec<Vec<(NodeId, String)>>,
        weights: u64,
        kept: Option<Kept>,
    ) -> CoreMlModule {
        let staged: u64 = programs.iter().map(Program::staged).sum();
        CoreMlModule {
            entries,
            programs,
            placed,
            bytes: staged.saturating_add(weights),
            _kept: kept,
        }
    }
}

impl Module for CoreMlModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.entries
    }

    fn resident_bytes(&self) -> u64 {
        self.bytes
    }

    fn placement(&self, entry: usize) -> Vec<(NodeId, String)> {
        self.placed.get(entry).cloned().unwrap_or_default()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The queue of a device. A submission is complete when `submit` returns.
#[derive(Debug)]
pub(crate) struct CoreMlQueue {
    name: String,
    counters: Mutex<Counters>,
}

impl CoreMlQueue {
    pub fn new(name: &str) -> CoreMlQueue {
        CoreMlQueue {
            name: name.into(),
            counters: Mutex::new(Counters::default()),
        }
    }
}

impl Queue for CoreMlQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let info = s.entry_info()?;
        s.check(info)?;
        let module = s.module.as_any().downcast_ref::<CoreMlModule>();
        let program = module.and_then(|m| m.programs.get(s.entry));
        let Some(program) = program else {
            return Err(HalError::InvalidUse {
                call: "submit",
                what: "module".into(),
                found: "one of another device".into(),
                expected: format!("one compiled by '{}'", self.name),
            });
        };
        program.check(s, info)?;
        for point in s.wait {
            point.wait(WAIT_LIMIT)?;
        }
        let mut counters = self.counters.lock();
        let started = Instant::now();
        let ran = program.run(&self.name, s, info);
        if ran.is_ok() {
            counters.submissions += 1;
            counters.nodes += u64::from(info.nodes);
            let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            counters.busy_ns = counters.busy_ns.saturating_add(took);
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

/// A function that is loaded, with memory for what does not cross as it is.
#[derive(Debug)]
pub(crate) struct Program {
    plan: FunctionPlan,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    loaded: Box<dyn Loaded>,
    /// For each input and output; empty where it crosses as it is.
    inputs: Vec<Pages>,
    outputs: Vec<Pages>,
    /// Of each input, how many of its first bytes are not 0, where it is a state.
    filled: Vec<usize>,
    /// The numbers in each operand that has positions or numbers of rows.
    positions: Vec<(usize, Vec<i32>)>,
    /// Bytes on their way into another type.
    bytes: Vec<u8>,
}

impl Program {
    /// `loaded`, which is the function of `plan` and runs the entry that `info` describes.
    pub fn new(plan: FunctionPlan, info: &EntryInfo, loaded: Box<dyn Loaded>) -> Program {
        let crosses = |array: &Array, dtype: Option<DType>| match dtype {
            Some(dtype) if array.element.is(dtype) => Pages::new(0),
            _ => Pages::new(array.bytes()),
        };
        let value = |port: usize| info.inputs.get(port).map(|p| p.ty.dtype);
        let state = |port: usize| info.states.get(port).map(|p| p.dtype);
        let inputs = plan.inputs.iter().map(|(array, source)| {
            let dtype = match source {
                Source::Value(port) => value(*port),
                Source::State(port) | Source::StepRows(port) => state(*port),
                _ => None,
            };
            crosses(array, dtype)
        });
        let outputs = plan.outputs.iter().map(|(array, place)| {
            let dtype = match place {
                Place::Value(port) => info.outputs.get(*port).map(|p| p.ty.dtype),
                // what a state holds is read meanwhile
                Place::Part { .. } | Place::Rows(_) => None,
            };
            crosses(array, dtype)
        });
        let sources = plan.inputs.iter().map(|(_, source)| source);
        let mut ports: Vec<usize> = plan.numbered.iter().map(|n| n.port).collect();
        ports.extend(sources.filter_map(|source| match source {
            Source::Cosines(a) | Source::Sines(a) => Some(a.positions),
            Source::Mask(m) => Some(m.positions),
            _ => None,
        }));
        ports.sort_unstable();
        ports.dedup();
        Program {
            inner: Mutex::new(Inner {
                loaded,
                inputs: inputs.collect(),
                outputs: outputs.collect(),
                filled: vec![0; plan.inputs.len()],
                positions: ports.into_iter().map(|p| (p, Vec::new())).collect(),
                bytes: Vec::new(),
            }),
            plan,
        }
    }

    /// Bytes of its own memory.
    fn staged(&self) -> u64 {
        let inner = self.inner.lock();
        let all = inner.inputs.iter().chain(&inner.outputs);
        all.map(|p| p.bytes().len() as u64).sum()
    }

    /// Whether a run has the sizes that it was compiled for, and states room for them.
    fn check(&self, s: &Submission<'_>, info: &EntryInfo) -> Result<(), HalError> {
        let wrong = |what: &str, found: String, expected: String| HalError::InvalidUse {
            call: "submit",
            what: what.into(),
            found,
            expected,
        };
        let (tokens, cached) = (s.symbols.get(Symbol::TOKENS), s.symbols.get(Symbol::CACHED));
        if tokens != self.plan.tokens {
            let expected = format!("{}, as '{}' was compiled", self.plan.tokens, info.name);
            return Err(wrong("tokens of a step", tokens.to_string(), expected));
        }
        if !info.states.is_empty() && cached.saturating_add(tokens) > self.plan.capacity {
            return Err(wrong(
                "the end of a step",
                cached.saturating_add(tokens).to_string(),
                format!("at most {} rows", self.plan.capacity),
            ));
        }
        let rows = |port: usize, array: &Array, count: u32| {
            let (buffer, dtype) = (&s.states[port], info.states[port].dtype);
            let row = bytes_of(dtype, array.elements() / count.max(1) as usize);
            let needed = row.saturating_mul(self.plan.capacity as usize);
            match buffer.desc().bytes < needed {
                true => Err(wrong(
                    &format!("buffer '{}' for a state", buffer.desc().name),
                    format!("{} bytes", buffer.desc().bytes),
                    format!("{needed} bytes"),
                )),
                false => Ok(()),
            }
        };
        for (array, source) in &self.plan.inputs {
            match source {
                Source::State(port) => rows(*port, array, self.plan.capacity)?,
                Source::StepRows(port) => rows(*port, array, tokens)?,
                _ => {}
            }
        }
        for (array, place) in &self.plan.outputs {
            if let Place::Rows(port) = place {
                rows(*port, array, tokens)?;
            }
        }
        Ok(())
    }

    fn run(&self, device: &str, s: &Submission<'_>, info: &EntryInfo) -> Result<(), HalError> {
        let mut inner = self.inner.lock();
        let Inner {
            loaded,
            inputs,
            outputs,
            filled,
            positions,
            bytes,
        } = &mut *inner;
        let cached = s.symbols.get(Symbol::CACHED);
        let tokens = self.plan.tokens.max(1) as usize;
        for (port, positions) in &mut *positions {
            let wanted = info.inputs[*port].ty.bytes(&s.symbols).unwrap_or(0);
            bytes.resize(wanted, 0);
            read(&s.inputs[*port], 0, bytes)?;
            positions.clear();
            let numbers = bytes.chunks_exact(4);
            positions.extend(numbers.map(|b| i32::from_ne_bytes(b.try_into().unwrap_or_default())));
            for numbered in self.plan.numbered.iter().filter(|n| n.port == *port) {
                let limit = numbered.limit;
                let row = |p: &&i32| u32::try_from(**p).is_ok_and(|p| p < limit);
                if let Some((at, beyond)) = positions.iter().enumerate().find(|(_, p)| !row(p)) {
                    return Err(HalError::InvalidUse {
                        call: "submit",
                        what: format!("element {at} of '{}'", s.inputs[*port].desc().name),
                        found: beyond.to_string(),
                        expected: format!("0 to below {limit}"),
                    });
                }
            }
        }
        let of = |port: usize| -> &[i32] {
            let known = positions.iter().find(|(p, _)| *p == port);
            known.map_or(&[], |(_, positions)| positions)
        };
        let mut mapped = Mapped::default();
        let mut given: Vec<Option<&[u8]>> = Vec::with_capacity(inputs.len());
        for (((array, source), own), filled) in
            self.plan.inputs.iter().zip(&mut *inputs).zip(filled)
        {
            let to = own.bytes_mut();
            let element = array.element;
            // where what is bound is what the function reads, it is read where it is
            let (buffer, dtype, offset) = match source {
                Source::Value(port) => (&s.inputs[*port], info.inputs[*port].ty.dtype, 0),
                Source::State(port) => (&s.states[*port], info.states[*port].dtype, 0),
                Source::StepRows(port) => {
                    let dtype = info.states[*port].dtype;
                    let row = bytes_of(dtype, array.elements()) / tokens;
                    (&s.states[*port], dtype, row * cached as usize)
                }
                Source::Cached => {
                    to.copy_from_slice(&(cached as i32).to_ne_bytes());
                    given.push(None);
                    continue;
                }
                Source::Cosines(angles) => {
                    fill(element, to, angles.cosines(of(angles.positions)));
                    given.push(None);
                    continue;
                }
                Source::Sines(angles) => {
                    fill(element, to, angles.sines(of(angles.positions)));
                    given.push(None);
                    continue;
                }
                Source::Mask(mask) => {
                    fill(element, to, mask.rows(of(mask.positions), cached));
                    given.push(None);
                    continue;
                }
            };
            if element.is(dtype) {
                given.push(Some(mapped.read(buffer, offset, array.bytes())?));
                continue;
            }
            let mut seen = to.len();
            if let Source::State(_) = source {
                // the first so many rows; what earlier runs had after them is nobody's any more
                seen = to.len() / self.plan.capacity.max(1) as usize * cached as usize;
                to[seen..(*filled).max(seen)].fill(0);
                *filled = seen;
            }
            bytes.resize(bytes_of(dtype, seen / element.bytes()), 0);
            read(buffer, offset, bytes)?;
            into_function(dtype, bytes, element, &mut to[..seen]);
            given.push(None);
        }
        let mut taken: Vec<&mut [u8]> = Vec::with_capacity(outputs.len());
        for ((array, place), own) in self.plan.outputs.iter().zip(&mut *outputs) {
            taken.push(match place {
                Place::Value(port) if array.element.is(info.outputs[*port].ty.dtype) => {
                    mapped.write(&s.outputs[*port], array.bytes())?
                }
                _ => own.bytes_mut(),
            });
        }
        let given: Vec<&[u8]> = given
            .into_iter()
            .zip(&*inputs)
            .map(|(bound, own)| bound.unwrap_or_else(|| own.bytes()))
            .collect();
        let ran = loaded.predict(&given, &mut taken);
        drop((given, taken, mapped));
        ran.map_err(|e| e.of_device(device))?;
        for ((array, place), own) in self.plan.outputs.iter().zip(&*outputs) {
            let from = own.bytes();
            match *place {
                Place::Value(port) => {
                    let dtype = info.outputs[port].ty.dtype;
                    if !array.element.is(dtype) {
                        bytes.resize(bytes_of(dtype, array.elements()), 0);
                        out_of_function(array.element, from, dtype, bytes);
                        write(&s.outputs[port], 0, bytes)?;
                    }
                }
                Place::Part {
                    port,
                    first,
                    columns,
                } => {
                    let dtype = info.outputs[port].ty.dtype;
                    let own = array.dims.last().map_or(1, |n| *n as usize);
                    bytes.resize(bytes_of(dtype, own), 0);
                    let rows = from.chunks_exact((own * array.element.bytes()).max(1));
                    for (row, i) in rows.zip(0..) {
                        out_of_function(array.element, row, dtype, bytes);
                        let at = i * columns as usize + first as usize;
                        write(&s.outputs[port], bytes_of(dtype, at), bytes)?;
                    }
                }
                Place::Rows(port) => {
                    let dtype = info.states[port].dtype;
                    bytes.resize(bytes_of(dtype, array.elements()), 0);
                    out_of_function(array.element, from, dtype, bytes);
                    let row = bytes.len() / tokens;
                    write(&s.states[port], row * cached as usize, bytes)?;
                }
            }
        }
        Ok(())
    }
}

/// Buffers that are mapped during a run.
#[derive(Default)]
struct Mapped<'a>(Vec<&'a Arc<dyn Buffer>>);

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        self.0.iter().for_each(|buffer| buffer.unmap());
    }
}

impl<'a> Mapped<'a> {
    /// `bytes` bytes from `offset` on.
    fn read(
        &mut self,
        buffer: &'a Arc<dyn Buffer>,
        offset: usize,
        bytes: usize,
    ) -> Result<&'a [u8], HalError> {
        self.check(buffer, offset, bytes)?;
        // SAFETY: a submission has its operands and states to read until its signal, and nobody writes them meanwhile: its
        // own results are other buffers, and rows of states are written when nothing is mapped any more. The range was
        // checked. Whoever submitted it holds the buffer until the signal, which comes after the last use of this.
        let memory = unsafe {
            let memory = buffer.map(Access::Read)?;
            let from = memory.cast::<u8>().as_ptr().add(offset);
            std::slice::from_raw_parts(from, bytes)
        };
        self.0.push(buffer);
        Ok(memory)
    }

    /// The first `bytes` bytes.
    #[allow(clippy::mut_from_ref)] // the memory is not the buffer's own, and whoever submitted it lends it for the run
    fn write(
        &mut self,
        buffer: &'a Arc<dyn Buffer>,
        bytes: usize,
    ) -> Result<&'a mut [u8], HalError> {
        self.check(buffer, 0, bytes)?;
        // SAFETY: a submission has its results to write until its signal, each once. Otherwise as in `read`.
        let memory = unsafe {
            let memory = buffer.map(Access::Write)?;
            std::slice::from_raw_parts_mut(memory.cast::<u8>().as_ptr(), bytes)
        };
        self.0.push(buffer);
        Ok(memory)
    }

    fn check(&self, buffer: &Arc<dyn Buffer>, offset: usize, bytes: usize) -> Result<(), HalError> {
        let desc = buffer.desc();
        let end = offset.checked_add(bytes);
        match end.is_some_and(|end| end <= desc.bytes) && desc.kind == MemoryKind::Host {
            true => Ok(()),
            false => Err(HalError::InvalidUse {
                call: "submit",
                what: format!("buffer '{}'", desc.name),
                found: format!("{} bytes of {:?} memory", desc.bytes, desc.kind),
                expected: format!("{bytes} bytes from {offset} on of Host memory"),
            }),
        }
    }
}

fn read(buffer: &Arc<dyn Buffer>, offset: usize, out: &mut [u8]) -> Result<(), HalError> {
    // SAFETY: a submission has its operands and states to read until its signal, and nobody writes them meanwhile.
    unsafe { read_bytes(&**buffer, offset, out) }
}

fn write(buffer: &Arc<dyn Buffer>, offset: usize, data: &[u8]) -> Result<(), HalError> {
    // SAFETY: a submission has its results and states to write until its signal, and nothing is mapped here any more.
    unsafe { write_bytes(&**buffer, offset, data) }
}
