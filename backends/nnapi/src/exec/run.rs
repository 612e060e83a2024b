//! Running lowered entries: bringing in what they need, and taking out what they give.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use anynpu_hal::{
    Buffer, EntryInfo, HalError, Module, Reason, Submission, read_bytes, write_bytes,
};
use anynpu_ir::{DType, StateId, Symbol, SymbolValues};
use half::f16;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::buffers::memory_of;
use super::{Bindings, Executable, NnapiError, Region, Role, StateBuffer, Store, domain};
use crate::lower::{Feed, Fetch, Lowered};
use crate::model::{NumberType, Operand, OperandId, OperandType};
use crate::sys::Runtime;

/// Compiled entries, with their constants.
#[derive(Debug)]
pub struct NnapiModule {
    entries: Vec<EntryInfo>,
    programs: Vec<Program>,
    /// What the memory of each state is used for, where it is of the device's own.
    roles: Roles,
    host_states: Option<Reason>,
    bytes: u64,
}

/// What the memory of each state is used for.
pub(super) type Roles = BTreeMap<StateId, Arc<Vec<Role>>>;

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
    /// Told of when the engine is free again.
    idle: Condvar,
}

/// What one run at a time uses.
#[derive(Debug)]
pub(super) struct Engine {
    pub executable: Executable,
    /// What the run's inputs and outputs are bound to.
    pub bindings: Bindings,
    /// Whether a run is going on behind the host's back.
    pub busy: bool,
    /// Bytes of buffers that the host copied to and from the executable's own memory.
    pub copied: u64,
    positions: Vec<Vec<i32>>,
    /// Of each input, how many of its first bytes are not 0, where it is a state.
    filled: Vec<usize>,
    /// Bytes on their way into another type.
    bytes: Vec<u8>,
}

/// What a run is given.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    pub info: &'a EntryInfo,
    pub inputs: &'a [Arc<dyn Buffer>],
    pub outputs: &'a [Arc<dyn Buffer>],
    pub states: &'a [Arc<dyn Buffer>],
    pub symbols: SymbolValues,
}

impl<'a> Operands<'a> {
    pub fn of(s: &Submission<'a>, info: &'a EntryInfo) -> Self {
        Operands {
            info,
            inputs: s.inputs,
            outputs: s.outputs,
            states: s.states,
            symbols: s.symbols,
        }
    }

    fn cached(&self) -> usize {
        self.symbols.get(Symbol::CACHED) as usize
    }

    fn tokens(&self) -> usize {
        self.symbols.get(Symbol::TOKENS).max(1) as usize
    }
}

impl NnapiModule {
    pub(crate) fn new(
        entries: Vec<EntryInfo>,
        programs: Vec<Program>,
        constants: &Store,
    ) -> NnapiModule {
        let buffers = programs.iter().map(|p| p.lock().executable.bytes());
        let bytes = buffers.sum::<u64>().saturating_add(constants.made());
        let mut all: BTreeMap<StateId, Vec<Role>> = BTreeMap::new();
        for (info, program) in entries.iter().zip(&programs) {
            let engine = program.lock();
            let mut add = |at: usize, output: bool, index: u32| {
                if let Some(port) = info.states.get(at) {
                    let roles = all.entry(port.state).or_default();
                    roles.push(engine.executable.role(output, index));
                }
            };
            for (feed, i) in program.lowered.feeds.iter().zip(0..) {
                if let Feed::State(at) | Feed::StateOfStep(at) = feed {
                    add(*at, false, i);
                }
            }
            for (fetch, i) in program.lowered.fetches.iter().zip(0..) {
                if let Fetch::State(at) = fetch {
                    add(*at, true, i);
                }
            }
        }
        // what no run writes is the host's
        all.retain(|_, roles| roles.iter().any(|r| r.output));
        let roles = all.into_iter().map(|(s, roles)| (s, Arc::new(roles)));
        NnapiModule {
            roles: roles.collect(),
            entries,
            programs,
            host_states: None,
            bytes,
        }
    }

    /// Notes why its states are in memory of the host, where memory of the device was asked for.
    pub(crate) fn with_host_states(mut self, why: Reason) -> NnapiModule {
        self.host_states = Some(why);
        self
    }

    /// Tries whether the device gives memory of its own for the states.
    pub(crate) fn try_domains(&self, runtime: &Arc<Runtime>) -> Result<(), NnapiError> {
        match self.roles.iter().next() {
            Some((_, roles)) => domain(runtime, roles, "a state").map(|_| ()),
            None => Ok(()),
        }
    }

    /// Why its states are in memory of the host, where memory of the device was asked for.
    pub fn host_states(&self) -> Option<&Reason> {
        self.host_states.as_ref()
    }

    /// Bytes of buffers that the host copied into its runs and out of them, as they could not be bound in place.
    pub fn copied_bytes(&self) -> u64 {
        self.programs.iter().map(|p| p.lock().copied).sum()
    }

    pub(super) fn program(&self, entry: usize) -> Option<&Program> {
        self.programs.get(entry)
    }

    pub(super) fn roles(&self) -> &Roles {
        &self.roles
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

/// Where a buffer is, to tell whether two are one.
pub(super) fn address(buffer: &Arc<dyn Buffer>) -> usize {
    Arc::as_ptr(buffer).cast::<()>().addr()
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
                _ => continue,
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
                bindings: Bindings::default(),
                busy: false,
                copied: 0,
                positions: positions.iter().map(|(_, b)| vec![0; b / 4]).collect(),
                filled: vec![0; lowered.feeds.len()],
                bytes: Vec::new(),
            }),
            idle: Condvar::new(),
            rows,
            lowered,
            numbers,
            positions,
        }
    }

    /// The engine, once no run uses it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Engine> {
        let mut engine = self.engine.lock();
        while engine.busy {
            self.idle.wait(&mut engine);
        }
        engine
    }

    /// The engine of the run that is going on, which ends.
    pub(super) fn end(&self) -> MutexGuard<'_, Engine> {
        let mut engine = self.engine.lock();
        engine.busy = false;
        self.idle.notify_all();
        engine
    }

    /// Whether the model holds `dtype` as it is in operand `id`, which is one of its inputs or outputs.
    fn holds(&self, id: OperandId, dtype: DType) -> bool {
        let ty = self.lowered.model.operand(id).map(|o| o.ty);
        matches!(
            (ty, dtype),
            (Some(OperandType::TensorFloat32), DType::F32)
                | (Some(OperandType::TensorFloat16), DType::F16)
                | (Some(OperandType::TensorInt32), DType::I32)
        )
    }

    /// Binds what `x` gives in place wherever the runtime sees its memory and the model has its type, and otherwise the
    /// executable's own memory, which is copied from and to.
    pub(super) fn bind(
        &self,
        engine: &mut Engine,
        device: &str,
        runtime: &Runtime,
        roles: &Roles,
        x: &Operands<'_>,
    ) -> Result<(), HalError> {
        let Engine {
            executable,
            bindings: Bindings { inputs, outputs },
            ..
        } = engine;
        inputs.clear();
        outputs.clear();
        outputs.resize(self.lowered.fetches.len(), Region::Own);
        for ((feed, id), i) in (self.lowered.feeds.iter().zip(&self.lowered.model.inputs)).zip(0..)
        {
            let bytes = executable.slot_bytes(false, i);
            let place = |buffer: &Arc<dyn Buffer>, dtype: DType| {
                let fits = buffer.desc().bytes >= bytes && self.holds(*id, dtype);
                let memory = memory_of(buffer, runtime).filter(|_| fits);
                memory.map_or(Region::Own, |m| Region::Start(m.clone()))
            };
            inputs.push(match feed {
                Feed::Value(at) => place(&x.inputs[*at], x.info.inputs[*at].ty.dtype),
                Feed::State(at) | Feed::StateOfStep(at) => {
                    let (buffer, port) = (&x.states[*at], &x.info.states[*at]);
                    let own = buffer.as_any().downcast_ref::<StateBuffer>();
                    let exact = buffer.desc().bytes == bytes && self.holds(*id, port.dtype);
                    match (own, roles.get(&port.state)) {
                        (Some(own), Some(roles)) if exact => {
                            let bound = own.bind(roles).map_err(|e| e.of_device(device))?;
                            let [read, written] = bound;
                            let fetches = self.lowered.fetches.iter();
                            let to = fetches.zip(&mut *outputs);
                            for (_, region) in to.filter(|(f, _)| **f == Fetch::State(*at)) {
                                *region = Region::Whole(written.clone());
                            }
                            Region::Whole(read)
                        }
                        _ => place(buffer, port.dtype),
                    }
                }
                _ => Region::Own,
            });
        }
        let written = self.lowered.fetches.iter().zip(&self.lowered.model.outputs);
        for ((fetch, id), i) in written.zip(0..) {
            let Fetch::Value(at) = fetch else { continue };
            let (buffer, dtype) = (&x.outputs[*at], x.info.outputs[*at].ty.dtype);
            let fits = buffer.desc().bytes >= executable.slot_bytes(true, i);
            // inputs must not change while a run reads them
            let apart = |memory: &&Arc<super::MemoryHandle>| {
                inputs.iter().chain(&*outputs).all(|r| match r {
                    Region::Own => true,
                    Region::Start(other) | Region::Whole(other) => !Arc::ptr_eq(other, memory),
                })
            };
            let memory = memory_of(buffer, runtime).filter(apart);
            if let Some(memory) = memory.filter(|_| fits && self.holds(*id, dtype)) {
                outputs[i] = Region::Start(memory.clone());
            }
        }
        Ok(())
    }

    /// Buffers that the host reads for a run that is bound.
    pub(super) fn read_by_host(&self, engine: &Engine, x: &Operands<'_>) -> Vec<usize> {
        let positions = self.positions.iter().map(|(at, _)| &x.inputs[*at]);
        let feeds = self.lowered.feeds.iter().zip(&engine.bindings.inputs);
        let copied = feeds.filter(|(_, region)| matches!(region, Region::Own));
        let copied = copied.filter_map(|(feed, _)| match feed {
            Feed::Value(at) | Feed::Added(at) => Some(&x.inputs[*at]),
            Feed::State(at) | Feed::StateOfStep(at) | Feed::NewRows(at) => Some(&x.states[*at]),
            _ => None,
        });
        positions.chain(copied).map(address).collect()
    }

    /// Buffers that the host writes after a run that is bound, and then those that the device writes. States that
    /// change their memory with the run count as the host's.
    pub(super) fn written(&self, engine: &Engine, x: &Operands<'_>) -> [Vec<usize>; 2] {
        let mut written = [Vec::new(), Vec::new()];
        for (fetch, region) in self.lowered.fetches.iter().zip(&engine.bindings.outputs) {
            let by = usize::from(!matches!(region, Region::Own));
            match fetch {
                Fetch::Value(at) => written[by].push(address(&x.outputs[*at])),
                Fetch::Rows(at) | Fetch::State(at) => written[0].push(address(&x.states[*at])),
            }
        }
        written
    }

    /// Brings in what a run that is bound reads from the executable's own memory.
    pub(super) fn fill(&self, engine: &mut Engine, x: &Operands<'_>) -> Result<(), HalError> {
        let Engine {
            executable,
            bindings,
            positions,
            filled,
            bytes,
            copied,
            ..
        } = engine;
        for ((at, size), numbers) in self.positions.iter().zip(&mut *positions) {
            bytes.resize(*size, 0);
            read(&x.inputs[*at], 0, bytes)?;
            for (n, b) in numbers.iter_mut().zip(bytes.chunks_exact(4)) {
                *n = i32::from_ne_bytes(b.try_into().unwrap_or_default());
            }
        }
        let (cached, tokens) = (x.cached(), x.tokens());
        for (feed, i) in self.lowered.feeds.iter().zip(0..) {
            if !matches!(bindings.inputs[i], Region::Own) {
                continue;
            }
            let to = executable.input_mut(i);
            let of = |at: usize| -> &[i32] {
                let known = self.positions.iter().position(|(p, _)| *p == at);
                known.map_or(&[], |i| &positions[i])
            };
            match feed {
                Feed::Value(at) => {
                    let dtype = x.info.inputs[*at].ty.dtype;
                    self.bring(&x.inputs[*at], 0, dtype, to, bytes)?;
                    *copied += to.len() as u64;
                }
                Feed::State(at) | Feed::StateOfStep(at) => {
                    let own = match feed {
                        Feed::StateOfStep(_) => tokens,
                        _ => 0,
                    };
                    let row = to.len() / self.rows[i].max(1);
                    let seen = row.saturating_mul(own.saturating_add(cached));
                    let seen = seen.min(to.len());
                    let dtype = x.info.states[*at].dtype;
                    // what earlier runs had there is nobody's any more, even if this one fails
                    filled[i] = filled[i].max(seen);
                    to[seen..filled[i]].fill(0);
                    self.bring(&x.states[*at], 0, dtype, &mut to[..seen], bytes)?;
                    *copied += seen as u64;
                    filled[i] = seen;
                }
                Feed::NewRows(at) => {
                    let dtype = x.info.states[*at].dtype;
                    let row = row_bytes(to.len(), self.numbers, dtype) / tokens;
                    let first = row.saturating_mul(cached);
                    self.bring(&x.states[*at], first, dtype, to, bytes)?;
                    *copied += to.len() as u64;
                }
                Feed::Added(at) => {
                    let count = to.len() / self.numbers.tensor().bytes();
                    let mut mask = vec![0f32; count];
                    bytes.resize(4 * count, 0);
                    read(&x.inputs[*at], 0, bytes)?;
                    for (n, b) in mask.iter_mut().zip(bytes.chunks_exact(4)) {
                        *n = f32::from_ne_bytes(b.try_into().unwrap_or_default());
                    }
                    let dims = x.info.inputs[*at].ty.shape.dims().iter();
                    let rows = dims.last().map_or(1, |d| d.resolve(&x.symbols)) as usize;
                    sees_something(&mask, rows)?;
                    fill(self.numbers, to, &mask);
                    *copied += bytes.len() as u64;
                }
                Feed::Cosines(r) => fill(self.numbers, to, &r.angles(of(r.positions)).0),
                Feed::Sines(r) => fill(self.numbers, to, &r.angles(of(r.positions)).1),
                Feed::Kept(rows) => fill(self.numbers, to, &rows.kept(cached, tokens)),
                Feed::Put(rows) => fill(self.numbers, to, &rows.put(cached, tokens)),
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
                    fill(self.numbers, to, &m.mask(positions, cached as u32));
                }
            }
        }
        Ok(())
    }

    /// Takes out what a run that is bound left in the executable's own memory.
    pub(super) fn fetch(&self, engine: &mut Engine, x: &Operands<'_>) -> Result<(), HalError> {
        let Engine {
            executable,
            bindings,
            bytes,
            copied,
            ..
        } = engine;
        let (cached, tokens) = (x.cached(), x.tokens());
        for (fetch, i) in self.lowered.fetches.iter().zip(0..) {
            let own = matches!(bindings.outputs[i], Region::Own);
            let from = executable.output(i);
            match fetch {
                Fetch::Value(at) if own => {
                    let made = self.converted(from, x.info.outputs[*at].ty.dtype, bytes);
                    write(&x.outputs[*at], 0, made)?;
                    *copied += made.len() as u64;
                }
                Fetch::Value(_) => {}
                Fetch::Rows(at) => {
                    let made = self.converted(from, x.info.states[*at].dtype, bytes);
                    let row = made.len() / tokens;
                    let first = row.saturating_mul(cached);
                    write(&x.states[*at], first, made)?;
                    *copied += made.len() as u64;
                }
                // of all rows, those of the step
                Fetch::State(at) if own => {
                    let made = self.converted(from, x.info.states[*at].dtype, bytes);
                    let rows = x.symbols.get(Symbol::CAPACITY).max(1) as usize;
                    let row = made.len() / rows;
                    let part = row.saturating_mul(cached)..row.saturating_mul(cached + tokens);
                    let first = part.start;
                    let part = made.get(part).unwrap_or_default();
                    write(&x.states[*at], first, part)?;
                    *copied += part.len() as u64;
                }
                Fetch::State(at) => {
                    if let Some(own) = x.states[*at].as_any().downcast_ref::<StateBuffer>() {
                        own.written();
                    }
                }
            }
        }
        Ok(())
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

/// Fails if `mask`, which has so many rows a query, hides all of them from one.
fn sees_something(mask: &[f32], rows: usize) -> Result<(), HalError> {
    let mut queries = mask.chunks(rows.max(1)).enumerate();
    let blind = queries.find(|(_, row)| row.iter().all(|x| *x == f32::NEG_INFINITY));
    match blind {
        None => Ok(()),
        Some((query, _)) => Err(HalError::InvalidUse {
            call: "submit",
            what: "a mask".into(),
            found: format!("query {query} sees none of {rows} key rows"),
            expected: "each to see one".into(),
        }),
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
