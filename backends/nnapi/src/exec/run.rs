//! Running lowered entries: bringing in what they need, and taking out what they give.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anynpu_hal::{
    Buffer, Counters, EntryInfo, HalError, Module, Queue, Submission, read_bytes, write_bytes,
};
use anynpu_ir::{DType, Symbol};
use half::f16;
use parking_lot::Mutex;

use super::{Executable, Store};
use crate::lower::{Feed, Fetch, Lowered};
use crate::model::{NumberType, Operand};

/// Longest wait for what a submission depends on.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

/// Compiled entries, with their constants.
#[derive(Debug)]
pub struct NnapiModule {
    entries: Vec<EntryInfo>,
    programs: Vec<Program>,
    bytes: u64,
}

/// A compiled entry.
#[derive(Debug)]
pub(crate) struct Program {
    lowered: Lowered,
    numbers: NumberType,
    /// Bytes of the operands that hold positions, by their number.
    positions: Vec<(usize, usize)>,
    /// Of each input, its outermost dimension.
    rows: Vec<usize>,
    engine: Mutex<Engine>,
}

#[derive(Debug)]
struct Engine {
    executable: Executable,
    positions: Vec<Vec<i32>>,
    /// Of each input, how many of its first bytes are not 0, where it is a state.
    filled: Vec<usize>,
    /// Bytes on their way into another type.
    bytes: Vec<u8>,
}

impl NnapiModule {
    pub(crate) fn new(
        entries: Vec<EntryInfo>,
        programs: Vec<Program>,
        constants: &Store,
    ) -> NnapiModule {
        let buffers = programs.iter().map(|p| p.engine.lock().executable.bytes());
        let bytes = buffers.sum::<u64>().saturating_add(constants.made());
        NnapiModule {
            entries,
            programs,
            bytes,
        }
    }
}

impl Module for NnapiModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.entries
    }

    fn resident_bytes(&self) -> u64 {
        self.bytes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The queue of a device. A submission is complete when `submit` returns.
#[derive(Debug)]
pub(crate) struct NnapiQueue {
    name: String,
    counters: Mutex<Counters>,
}

impl NnapiQueue {
    pub fn new(name: &str) -> NnapiQueue {
        NnapiQueue {
            name: name.into(),
            counters: Mutex::new(Counters::default()),
        }
    }
}

impl Queue for NnapiQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let info = s.entry_info()?;
        s.check(info)?;
        let module = s.module.as_any().downcast_ref::<NnapiModule>();
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
        let ran = program.run(&self.name, s, info);
        let took = started.elapsed();
        if let Ok(in_driver) = &ran {
            counters.submissions += 1;
            counters.nodes += u64::from(info.nodes);
            let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            counters.busy_ns += in_driver.unwrap_or(took).min(took);
        }
        drop(counters);
        match ran {
            Ok(_) => drop(s.signal.signal()),
            Err(e) => drop(s.signal.fail(e)),
        }
        Ok(())
    }

    fn counters(&self) -> Counters {
        *self.counters.lock()
    }
}

impl Program {
    /// `lowered`, compiled, of the entry that `info` describes.
    pub fn new(
        lowered: Lowered,
        info: &EntryInfo,
        numbers: NumberType,
        executable: Executable,
    ) -> Program {
        let mut positions: Vec<(usize, usize)> = Vec::new();
        for feed in &lowered.feeds {
            let at = match feed {
                Feed::Cosines(r) | Feed::Sines(r) => r.positions,
                Feed::Mask(m) => m.positions,
                Feed::Value(_) | Feed::State(_) | Feed::StateOfStep(_) | Feed::NewRows(_) => {
                    continue;
                }
            };
            let bytes = info.inputs.get(at).map_or(0, |p| p.max_bytes);
            if positions.iter().all(|(known, _)| *known != at) {
                positions.push((at, bytes));
            }
        }
        let model = &lowered.model;
        let first = |o: &Operand| o.dims.first().map_or(0, |d| *d as usize);
        let rows = model.inputs.iter();
        let rows = rows.map(|id| model.operand(*id).map_or(0, first)).collect();
        Program {
            engine: Mutex::new(Engine {
                executable,
                positions: positions.iter().map(|(_, b)| vec![0; b / 4]).collect(),
                filled: vec![0; lowered.feeds.len()],
                bytes: Vec::new(),
            }),
            rows,
            lowered,
            numbers,
            positions,
        }
    }

    /// Runs it; the nanoseconds that it took in the driver, if that is known.
    fn run(
        &self,
        device: &str,
        s: &Submission<'_>,
        info: &EntryInfo,
    ) -> Result<Option<u64>, HalError> {
        let mut engine = self.engine.lock();
        let Engine {
            executable,
            positions,
            filled,
            bytes,
        } = &mut *engine;
        for ((at, size), numbers) in self.positions.iter().zip(&mut *positions) {
            bytes.resize(*size, 0);
            read(&s.inputs[*at], 0, bytes)?;
            for (n, b) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
                *n = i32::from_ne_bytes(b.try_into().unwrap_or_default());
            }
        }
        let cached = s.symbols.get(Symbol::CACHED);
        let tokens = s.symbols.get(Symbol::TOKENS).max(1) as usize;
        for (feed, i) in self.lowered.feeds.iter().zip(0..) {
            let to = executable.input_mut(i);
            let of = |at: usize| -> &[i32] {
                let known = self.positions.iter().position(|(p, _)| *p == at);
                known.map_or(&[], |i| &positions[i])
            };
            match feed {
                Feed::Value(at) => {
                    let dtype = info.inputs[*at].ty.dtype;
                    self.bring(&s.inputs[*at], 0, dtype, to, bytes)?;
                }
                Feed::State(at) | Feed::StateOfStep(at) => {
                    let own = match feed {
                        Feed::StateOfStep(_) => tokens,
                        _ => 0,
                    };
                    let row = to.len() / self.rows[i].max(1);
                    let seen = row.saturating_mul(own.saturating_add(cached as usize));
                    let seen = seen.min(to.len());
                    let dtype = info.states[*at].dtype;
                    // what earlier runs had there is nobody's any more, even if this one fails
                    filled[i] = filled[i].max(seen);
                    to[seen..filled[i]].fill(0);
                    self.bring(&s.states[*at], 0, dtype, &mut to[..seen], bytes)?;
                    filled[i] = seen;
                }
                Feed::NewRows(at) => {
                    let dtype = info.states[*at].dtype;
                    let row = row_bytes(to.len(), self.numbers, dtype) / tokens;
                    let first = row.saturating_mul(cached as usize);
                    self.bring(&s.states[*at], first, dtype, to, bytes)?;
                }
                Feed::Cosines(r) => fill(self.numbers, to, &r.angles(of(r.positions)).0),
                Feed::Sines(r) => fill(self.numbers, to, &r.angles(of(r.positions)).1),
                Feed::Mask(m) => {
                    let positions = of(m.positions);
                    if let Some(beyond) = m.beyond(positions) {
                        return Err(HalError::InvalidUse {
                            call: "submit",
                            what: "a position".into(),
                            found: beyond.to_string(),
                            expected: format!("one of {} rows", m.rows()),
                        });
                    }
                    fill(self.numbers, to, &m.mask(positions, cached));
                }
            }
        }
        let took = executable.compute().map_err(|e| e.of_device(device))?;
        for (fetch, i) in self.lowered.fetches.iter().zip(0..) {
            let from = executable.output(i);
            match fetch {
                Fetch::Value(at) => {
                    let made = self.converted(from, info.outputs[*at].ty.dtype, bytes);
                    write(&s.outputs[*at], 0, made)?;
                }
                Fetch::Rows(at) => {
                    let made = self.converted(from, info.states[*at].dtype, bytes);
                    let row = made.len() / tokens;
                    let first = row.saturating_mul(cached as usize);
                    write(&s.states[*at], first, made)?;
                }
            }
        }
        Ok(took)
    }

    /// Copies from `offset` of `buffer`, which holds `dtype`, to `to`, which holds the model's numbers or integers.
    fn bring(
        &self,
        buffer: &Arc<dyn Buffer>,
        offset: usize,
        dtype: DType,
        to: &mut [u8],
        bytes: &mut Vec<u8>,
    ) -> Result<(), HalError> {
        match (dtype, self.numbers) {
            (DType::F32, NumberType::F16) => {
                bytes.resize(2 * to.len(), 0);
                read(buffer, offset, bytes)?;
                for (to, b) in to.chunks_exact_mut(2).zip(bytes.chunks_exact(4)) {
                    to.copy_from_slice(&narrowed(b).to_ne_bytes());
                }
                Ok(())
            }
            (DType::F16, NumberType::F32) => {
                bytes.resize(to.len() / 2, 0);
                read(buffer, offset, bytes)?;
                for (to, b) in to.chunks_exact_mut(4).zip(bytes.chunks_exact(2)) {
                    to.copy_from_slice(&widened(b).to_ne_bytes());
                }
                Ok(())
            }
            _ => read(buffer, offset, to),
        }
    }

    /// The model's numbers `from` as `dtype`, where that is another type in `bytes`.
    fn converted<'a>(&self, from: &'a [u8], dtype: DType, bytes: &'a mut Vec<u8>) -> &'a [u8] {
        match (self.numbers, dtype) {
            (NumberType::F16, DType::F32) => {
                bytes.clear();
                let each = from.chunks_exact(2);
                bytes.extend(each.flat_map(|b| widened(b).to_ne_bytes()));
                bytes
            }
            (NumberType::F32, DType::F16) => {
                bytes.clear();
                let each = from.chunks_exact(4);
                bytes.extend(each.flat_map(|b| narrowed(b).to_ne_bytes()));
                bytes
            }
            _ => from,
        }
    }
}

/// The bytes that numbers of a model have as `dtype`.
fn row_bytes(bytes: usize, numbers: NumberType, dtype: DType) -> usize {
    match (numbers, dtype) {
        (NumberType::F16, DType::F32) => 2 * bytes,
        (NumberType::F32, DType::F16) => bytes / 2,
        _ => bytes,
    }
}

fn narrowed(bytes: &[u8]) -> f16 {
    f16::from_f32(f32::from_ne_bytes(bytes.try_into().unwrap_or_default()))
}

fn widened(bytes: &[u8]) -> f32 {
    f16::from_ne_bytes(bytes.try_into().unwrap_or_default()).to_f32()
}

fn fill(ty: NumberType, memory: &mut [u8], numbers: &[f32]) {
    match ty {
        NumberType::F32 => {
            for (out, x) in memory.chunks_exact_mut(4).zip(numbers) {
                out.copy_from_slice(&x.to_ne_bytes());
            }
        }
        NumberType::F16 => {
            for (out, x) in memory.chunks_exact_mut(2).zip(numbers) {
                out.copy_from_slice(&f16::from_f32(*x).to_ne_bytes());
            }
        }
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
