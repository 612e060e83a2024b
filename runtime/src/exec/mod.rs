//! Running a plan: compiled segments in order, values copied where devices share no memory, and
//! a count of what was done.

mod bind;
mod count;
mod program;
mod record;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anynpu_hal::{Counters, HalError, Timeline};
use anynpu_ir::{Graph, StateId, Symbol, SymbolValues, TensorType};

use bind::{Bindings, Copy, ShapeSlots};
pub use count::{Executed, ExecutedDevice};
pub(crate) use program::{Limits, OpenDevice, Program, output_width, weights_of};

pub(crate) use crate::plan::NextStep;
pub use record::SegmentRun;

use crate::RuntimeError;
use crate::TokenId;
use crate::memory::{Mapped, SlotId, Slots};
use crate::plan::Phase;

/// Which rows of a step's tokens logits are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// None: more of the prompt follows.
    None,
    /// The last.
    Last,
    /// The first.
    First,
    /// Every one.
    All,
}

/// Runs the steps of one session: its buffers, its KV cache, its counts.
///
/// Everything is bound when it is made. A step writes the inputs, submits each segment and awaits
/// it; it allocates nothing.
#[derive(Debug)]
pub(crate) struct Executor {
    program: Arc<Program>,
    /// Tokens of the context.
    capacity: u32,
    /// Rows of the states, at least as many.
    rows: u32,
    slots: Slots,
    /// Both phases and the states' homes; none while suspended.
    bound: Option<Bindings>,
    /// For each device, the timeline of its submissions and how many there were.
    timelines: Vec<(Timeline, u64)>,
    counts: Vec<count::Count>,
    /// The counts before the step that runs.
    counted: Vec<count::Count>,
    steps: u64,
    limit: Duration,
    /// Where the last step left logits, and of how many rows.
    logits: Option<(SlotId, u32)>,
    /// Keeps what runs, if that is wanted.
    recorder: Option<record::Recorder>,
}

impl Executor {
    /// Allocates the buffers and the KV cache for `capacity` tokens.
    pub fn new(
        program: Arc<Program>,
        capacity: u32,
        limit: Duration,
    ) -> Result<Self, RuntimeError> {
        let mut slots = Slots::default();
        let rows = program.state_rows(capacity);
        let bound = bind::bind(&program, rows, &mut slots)?;
        let timeline = |d: &Arc<OpenDevice>| (Timeline::new(d.name()), 0);
        Ok(Executor {
            timelines: program.devices().iter().map(timeline).collect(),
            counts: vec![count::Count::default(); program.devices().len()],
            counted: vec![count::Count::default(); program.devices().len()],
            program,
            capacity,
            rows,
            slots,
            bound: Some(bound),
            steps: 0,
            limit,
            logits: None,
            recorder: None,
        })
    }

    /// What it runs.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// Runs `tokens`, each of the type given or 0, at positions from `position` on. If it fails, the KV rows
    /// before `position` are as they were and the step can be run again.
    pub fn step(
        &mut self,
        phase: Phase,
        tokens: &[TokenId],
        types: &[u32],
        position: u32,
        rows: Rows,
    ) -> Result<(), RuntimeError> {
        if let Some(why) = self.slots.abandoned() {
            let why = why.to_string();
            return Err(RuntimeError::Abandoned { why });
        }
        let count = self.program.limits().check(phase, tokens.len(), rows)?;
        let end = position
            .checked_add(count)
            .filter(|&end| end <= self.capacity);
        if end.is_none() {
            return Err(RuntimeError::ContextFull {
                context: self.capacity,
            });
        }
        self.logits = None;
        let (shape, padded) = self.shape(phase, count, position)?;
        let wanted = match (rows, padded) {
            // a step of fixed size gives one row whatever is wanted
            (Rows::None, Some(_)) | (Rows::Last, _) => count - 1..count,
            (Rows::None, None) => 0..0,
            (Rows::First, _) => 0..1,
            (Rows::All, _) => 0..count,
        };
        let length = padded.unwrap_or(count);
        self.write_inputs(shape, tokens, types, position, length, wanted.clone())?;
        let wanted = wanted.len() as u32;
        let symbols = SymbolValues::step(length, position, wanted, self.rows);
        self.counted.copy_from_slice(&self.counts);
        for segment in 0..self.buffers(shape)?.segments.len() {
            if let Err(e) = self.run_segment(shape, segment, &symbols) {
                // what ran of a step that failed is run again, and counted then
                self.counts.copy_from_slice(&self.counted);
                return Err(e);
            }
        }
        self.steps += 1;
        self.logits = Some((self.buffers(shape)?.logits, wanted));
        Ok(())
    }

    /// Gives all buffers back, the KV cache among them.
    pub fn suspend(&mut self) {
        self.logits = None;
        self.bound = None;
        self.slots.clear();
    }

    /// Whether the buffers were given back.
    pub fn is_suspended(&self) -> bool {
        self.bound.is_none()
    }

    /// Allocates the buffers again. The KV cache is empty.
    pub fn resume(&mut self) -> Result<(), RuntimeError> {
        if self.bound.is_none() {
            let bound = bind::bind(&self.program, self.rows, &mut self.slots);
            if bound.is_err() {
                self.slots.clear();
            }
            self.bound = Some(bound?);
        }
        Ok(())
    }

    /// The states that make up the KV cache.
    pub fn state_count(&self) -> usize {
        self.program.graph().states().len()
    }

    /// Bytes of a row of state `index`.
    pub fn state_row_bytes(&self, index: usize) -> usize {
        let state = &self.program.graph().states()[index];
        let ty = TensorType::new(self.program.state_dtype(), state.ty.shape.clone());
        ty.bytes(&SymbolValues::step(1, 0, 1, 1)).unwrap_or(0)
    }

    /// The first `bytes` bytes of state `index`.
    pub fn read_state(&self, index: usize, bytes: usize) -> Result<Mapped<'_>, RuntimeError> {
        Ok(self.slots.read(self.state_home(index)?, bytes)?)
    }

    /// Lets `fill` write the first `bytes` bytes of state `index`.
    pub fn write_state(
        &mut self,
        index: usize,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), RuntimeError> {
        let home = self.state_home(index)?;
        Ok(self.slots.write(home, bytes, fill)?)
    }

    fn state_home(&self, index: usize) -> Result<SlotId, RuntimeError> {
        let bound = self.bound.as_ref().ok_or(RuntimeError::Suspended)?;
        let home = bound.states.get(&StateId(index as u32));
        home.copied().ok_or_else(|| RuntimeError::Graph {
            what: format!("state {index}"),
            found: "used by no segment".into(),
            expected: "used by one",
        })
    }

    /// The shape (its index) of a step of `count` tokens at `position`, and its length if that is fixed.
    fn shape(
        &self,
        phase: Phase,
        count: u32,
        position: u32,
    ) -> Result<(usize, Option<u32>), RuntimeError> {
        let shapes = self.program.shapes();
        let bucket = self.program.sizes().bucket(count, position, self.rows);
        let fits = |shape: &program::Shape| {
            shape.phase == phase && (shape.tokens.is_none() || shape.tokens == bucket)
        };
        match shapes.iter().position(fits) {
            Some(index) => Ok((index, shapes[index].tokens)),
            None => Err(RuntimeError::Option {
                option: "tokens of a step",
                found: format!("{count} at position {position}"),
                expected: format!("a step that ends within {} rows", self.rows),
            }),
        }
    }

    /// How the next step of `remaining` tokens from `position` on is to be made.
    pub fn next_step(&self, remaining: u32, position: u32) -> NextStep {
        let chunk = self.program.limits().tokens;
        let sizes = self.program.sizes();
        sizes.next(remaining, position, chunk, self.rows)
    }

    fn buffers(&self, shape: usize) -> Result<&ShapeSlots, RuntimeError> {
        let bound = self.bound.as_ref().ok_or(RuntimeError::Suspended)?;
        Ok(&bound.shapes[shape])
    }

    /// The results of the last step, `[rows, width]`: of a decoder, logits.
    pub fn logits(&self) -> Result<Logits<'_>, RuntimeError> {
        let (slot, rows) = match self.logits {
            Some(logits) => logits,
            None => (self.buffers(0)?.logits, 0),
        };
        let bytes = rows as usize * self.program.width() as usize * size_of::<f32>();
        let mapped = self.slots.read(slot, bytes)?;
        if mapped.f32s().is_none() {
            return Err(RuntimeError::Graph {
                what: "logits buffer".into(),
                found: "not aligned for f32".into(),
                expected: "memory aligned as the device was asked to",
            });
        }
        Ok(Logits(mapped))
    }

    /// What was executed since the executor was made.
    pub fn executed(&self) -> Executed {
        let names = self.program.devices().iter();
        Executed::of(self.steps, names.zip(&self.counts))
    }

    /// What devices counted other than what was submitted to them.
    pub fn miscounts(&self) -> Vec<String> {
        let devices = self.program.devices().iter().zip(&self.counts);
        devices.filter_map(|(d, c)| c.miscount(d.name())).collect()
    }

    /// Keeps a record of every segment that runs from now on. Steps then allocate.
    pub fn record(&mut self) {
        self.recorder = Some(record::Recorder::new());
    }

    /// Goes on with the record that `other` kept.
    pub fn keep_record_of(&mut self, other: &mut Executor) {
        self.recorder = other.recorder.take();
    }

    /// What ran since [`Executor::record`].
    pub fn recorded(&self) -> &[SegmentRun] {
        self.recorder.as_ref().map_or(&[], |r| &r.runs)
    }

    /// Writes what a step reads, padded to `length` tokens.
    fn write_inputs(
        &mut self,
        shape: usize,
        tokens: &[TokenId],
        types: &[u32],
        position: u32,
        length: u32,
        wanted: Range<u32>,
    ) -> Result<(), RuntimeError> {
        let bound = self.bound.as_ref().ok_or(RuntimeError::Suspended)?;
        let inputs = &bound.shapes[shape];
        let all = 0..length as usize;
        for &slot in &inputs.tokens {
            let padded = all.clone().map(|i| tokens.get(i).map_or(0, |&t| t as i32));
            write_i32s(&mut self.slots, slot, padded)?;
        }
        for &slot in &inputs.positions {
            let positions = (position..position + length).map(|p| p as i32);
            write_i32s(&mut self.slots, slot, positions)?;
        }
        for &slot in &inputs.output_rows {
            let rows = wanted.clone().map(|r| r as i32);
            write_i32s(&mut self.slots, slot, rows)?;
        }
        for &slot in &inputs.token_types {
            let types = all
                .clone()
                .map(|i| types.get(i).copied().unwrap_or(0) as i32);
            write_i32s(&mut self.slots, slot, types)?;
        }
        Ok(())
    }

    /// Copies what the segment needs, submits it and awaits it. The device's counters are read
    /// while no other session uses the device.
    fn run_segment(
        &mut self,
        shape: usize,
        index: usize,
        symbols: &SymbolValues,
    ) -> Result<(), RuntimeError> {
        let bound = self.bound.as_ref().ok_or(RuntimeError::Suspended)?;
        let segment = &bound.shapes[shape].segments[index];
        let program = &self.program;
        let mut began = self.recorder.as_ref().map(record::Recorder::begin);
        let mut copied = 0;
        for copy in &segment.copies {
            let Copy { from, to, value } = *copy;
            let bytes = program.graph().ty(value).bytes(symbols).unwrap_or(0);
            self.slots.copy(from.1, to.1, bytes)?;
            copied += bytes as u64;
            self.counts[from.0].copied_out(bytes);
            self.counts[to.0].copied_in(bytes);
        }
        if let (Some(recorder), Some(began)) = (&self.recorder, &mut began) {
            recorder.copied(began, copied);
        }
        let device = &program.devices()[segment.device];
        let (timeline, submitted) = &mut self.timelines[segment.device];
        let signal = timeline.point(*submitted + 1);
        let queue = device.device().queue();
        let lease = device.lease();
        let before = queue.counters();
        let result = self
            .slots
            .run(segment.run, queue, *symbols, &signal, self.limit);
        let after = queue.counters();
        drop(lease);
        match result {
            Ok(()) => {
                *submitted += 1;
                self.counts[segment.device].ran(before, after, segment.nodes.len() as u64);
                if let (Some(recorder), Some(began)) = (&mut self.recorder, began) {
                    let counted = difference(before, after);
                    let run = SegmentRun {
                        step: self.steps,
                        phase: program.shapes()[shape].phase,
                        tokens: symbols.get(Symbol::TOKENS),
                        position: symbols.get(Symbol::CACHED),
                        device: device.name().to_owned(),
                        nodes: segment.nodes.clone(),
                        counted: counted.nodes,
                        began: Duration::ZERO,
                        copying: Duration::ZERO,
                        copied_bytes: 0,
                        ran: Duration::ZERO,
                        busy: Duration::from_nanos(counted.busy_ns),
                    };
                    recorder.end(began, run);
                }
                Ok(())
            }
            Err(source) => {
                // whatever was counted of a failed run is not counted as executed
                if self.slots.abandoned().is_none() {
                    timeline.reset();
                    *submitted = 0;
                }
                Err(RuntimeError::Step {
                    device: device.name().to_owned(),
                    nodes: node_names(program.graph(), &segment.nodes),
                    source,
                })
            }
        }
    }
}

/// Logits in the device's memory.
#[derive(Debug)]
pub struct Logits<'a>(Mapped<'a>);

impl std::ops::Deref for Logits<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // alignment was checked when the logits were mapped
        self.0.f32s().unwrap_or_default()
    }
}

fn write_i32s(
    slots: &mut Slots,
    slot: SlotId,
    values: impl ExactSizeIterator<Item = i32>,
) -> Result<(), HalError> {
    slots.write(slot, values.len() * size_of::<i32>(), |memory| {
        for (to, value) in memory.chunks_exact_mut(size_of::<i32>()).zip(values) {
            to.copy_from_slice(&value.to_ne_bytes());
        }
    })
}

fn node_names(graph: &Graph, nodes: &Range<u32>) -> String {
    let name = |i: u32| {
        graph
            .nodes()
            .get(i as usize)
            .map_or("?", |n| n.name.as_str())
    };
    format!(
        "{} to {}",
        name(nodes.start),
        name(nodes.end.saturating_sub(1))
    )
}

/// What a device executed between two readings of its counters.
fn difference(before: Counters, after: Counters) -> Counters {
    Counters {
        submissions: after.submissions.saturating_sub(before.submissions),
        nodes: after.nodes.saturating_sub(before.nodes),
        busy_ns: after.busy_ns.saturating_sub(before.busy_ns),
    }
}

#[cfg(test)]
mod tests;
