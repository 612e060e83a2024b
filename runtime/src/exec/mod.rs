//! Running a plan: compiled segments in order, values copied where devices share no memory, and
//! a count of what was done. Segments of successive steps of a prompt run at once where they can.

mod bind;
mod count;
mod joint;
mod program;
mod record;
mod steps;

use std::sync::Arc;
use std::time::Duration;

use anynpu_hal::Timeline;
use anynpu_ir::{StateId, SymbolValues, TensorType};

use bind::{Bindings, ShapeSlots};
pub use count::{Executed, ExecutedDevice};
pub(crate) use joint::{Member, Put, Room, step as step_together};
pub(crate) use program::{Limits, OpenDevice, Program, output_width, weights_of};

pub(crate) use crate::plan::NextStep;
pub use record::SegmentRun;
pub(crate) use steps::Step;

use crate::RuntimeError;
use crate::memory::{Mapped, SlotId, Slots};
use crate::plan::overlap::STEPS_AT_ONCE;

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
/// it; by itself it allocates nothing.
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
    /// What was counted of each step that is under way.
    under_way: [Vec<count::Count>; STEPS_AT_ONCE],
    steps: u64,
    /// Tokens that went in by steps of other executors.
    carried: u64,
    waves: u64,
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
            under_way: std::array::from_fn(|_| {
                vec![count::Count::default(); program.devices().len()]
            }),
            waves: 0,
            program,
            capacity,
            rows,
            slots,
            bound: Some(bound),
            steps: 0,
            carried: 0,
            limit,
            logits: None,
            recorder: None,
        })
    }

    /// What it runs.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
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

    /// How the next step of `remaining` tokens from `position` on is to be made.
    pub fn next_step(&self, remaining: u32, position: u32) -> NextStep {
        let chunk = self.program.limits().tokens;
        let sizes = self.program.sizes();
        sizes.next(remaining, position, chunk, self.rows)
    }

    /// The buffers of a step of a shape, one of those that may be under way at once.
    fn buffers(&self, shape: usize, lane: usize) -> Result<&ShapeSlots, RuntimeError> {
        let bound = self.bound.as_ref().ok_or(RuntimeError::Suspended)?;
        Ok(&bound.shapes[shape][lane])
    }

    /// The results of the last step, `[rows, width]`: of a decoder, logits.
    pub fn logits(&self) -> Result<Logits<'_>, RuntimeError> {
        let (slot, rows) = match self.logits {
            Some(logits) => logits,
            None => (self.buffers(0, 0)?.logits, 0),
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
        let counts = self.program.computes_in().zip(&self.counts);
        Executed::of(self.steps, self.carried, counts)
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

#[cfg(test)]
mod tests;
