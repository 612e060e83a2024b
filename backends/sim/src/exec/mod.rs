//! Running entries on the engine.
#![allow(unsafe_code)] // rounds the buffers that a submission binds

mod buffer;
pub(crate) mod program;
mod round;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use anynpu_hal::driver::chaos::Fault;
use anynpu_hal::{
    Buffer, Counters, Device, EntryInfo, HalError, Module, Queue, Reason, ReasonCode, Submission,
    Support, Timeline,
};
use anynpu_ir::{DType, Graph, SymbolValues, ValueId};
use parking_lot::Mutex;
use smallvec::SmallVec;

pub(crate) use buffer::SimBuffer;
pub(crate) use round::RoundedWeights;

use crate::Description;
use crate::clock::Clock;
use crate::error::invalid;
use crate::memory::{Charge, Ledger};
use program::{Place, Program, Step, Way};

/// Entries compiled for a simulated device.
#[derive(Debug)]
pub(crate) struct SimModule {
    pub infos: Vec<EntryInfo>,
    pub programs: Vec<Program>,
    /// The same on the engine.
    pub engine: Arc<dyn Module>,
    /// The engine's buffers for values between nodes. A submission has them all to itself.
    pub slots: Mutex<Vec<Arc<dyn Buffer>>>,
    pub slot_bytes: u64,
    pub state_dtype: DType,
    /// Its compiled form, if the device has such.
    pub blob: Option<Vec<u8>>,
    /// The memory it takes of the device's.
    pub charge: Charge,
}

impl Module for SimModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.infos
    }

    fn resident_bytes(&self) -> u64 {
        self.engine.resident_bytes() + self.slot_bytes
    }

    fn blob(&self) -> Result<Option<Vec<u8>>, HalError> {
        Ok(self.blob.clone())
    }

    fn sequences(&self, _: usize) -> Support {
        let why =
            "a simulated device takes tokens of one sequence a run, as those do that it stands for";
        Support::No(Reason::new(ReasonCode::State, why))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The queue of a simulated device. A submission is complete when `submit` returns.
#[derive(Debug)]
pub(crate) struct SimQueue {
    pub name: String,
    pub description: Arc<Description>,
    pub engine: Arc<dyn Device>,
    pub ledger: Arc<Ledger>,
    pub faults: Vec<Fault>,
    pub lane: Mutex<Lane>,
}

/// What changes from submission to submission.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Of the engine's submissions.
    timeline: Timeline,
    awaited: u64,
    submits: u64,
    counters: Counters,
    pub clock: Clock,
    pub lost: bool,
}

impl Lane {
    pub fn new(device: &str) -> Self {
        Lane {
            timeline: Timeline::new(format!("engine of {device}")),
            awaited: 0,
            submits: 0,
            counters: Counters::default(),
            clock: Clock::default(),
            lost: false,
        }
    }
}

impl SimQueue {
    pub fn loss(&self) -> HalError {
        HalError::DeviceLost {
            device: self.name.clone(),
            why: "its description says so".into(),
        }
    }

    /// Does what the faults say of this submission; false if it is not to be run.
    fn fault(&self, lane: &mut Lane, s: &Submission<'_>) -> Result<bool, HalError> {
        lane.submits += 1;
        let n = lane.submits;
        for fault in &self.faults {
            match *fault {
                Fault::LoseAtSubmit(at) if at == n => lane.lost = true,
                Fault::DelaySubmit(at, by) if at == n => {
                    lane.clock.spend(by.as_secs_f64() * 1e6);
                }
                Fault::HangAtSubmit(at) if at == n => return Ok(false),
                Fault::FailAfterSubmit(at) if at == n => {
                    s.signal.fail(HalError::Vendor {
                        device: self.name.clone(),
                        call: "submit".into(),
                        code: -1,
                        text: "its description says so".into(),
                    });
                    return Ok(false);
                }
                _ => {}
            }
        }
        match lane.lost {
            true => Err(self.loss()),
            false => Ok(true),
        }
    }
}

impl Queue for SimQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let info = s.entry_info()?;
        s.check(info)?;
        let module = s.module.as_any().downcast_ref::<SimModule>();
        let own = module.filter(|m| Arc::ptr_eq(m.charge.ledger(), &self.ledger));
        let Some(module) = own else {
            let expected = format!("one compiled by '{}'", self.name);
            return Err(invalid(
                "submit",
                "module",
                "one of another device",
                expected,
            ));
        };
        for point in s.wait {
            point.wait(WAIT_LIMIT)?;
        }
        let mut lane = self.lane.lock();
        if !self.fault(&mut lane, s)? {
            return Ok(());
        }
        let program = &module.programs[s.entry];
        let before = self.engine.queue().counters();
        let slots = module.slots.lock();
        let run = Run {
            queue: self,
            module,
            submission: s,
            slots: &slots,
        };
        run.program(program, &mut lane)?;
        drop(slots);
        let after = self.engine.queue().counters();
        lane.counters.submissions += 1;
        lane.counters.nodes += after.nodes.saturating_sub(before.nodes);
        lane.clock.run(
            &self.description,
            &program.graph,
            program.nodes.clone(),
            &s.symbols,
            module.state_dtype,
        );
        drop(lane);
        s.signal.signal();
        Ok(())
    }

    /// Nodes are counted by the engine; the time is virtual.
    fn counters(&self) -> Counters {
        let lane = self.lane.lock();
        Counters {
            busy_ns: lane.clock.busy_ns(),
            ..lane.counters
        }
    }
}

type Buffers = SmallVec<[Arc<dyn Buffer>; 8]>;

/// One submission.
struct Run<'a> {
    queue: &'a SimQueue,
    module: &'a SimModule,
    submission: &'a Submission<'a>,
    slots: &'a [Arc<dyn Buffer>],
}

/// The buffers of a submission as the engine knows them.
struct Bound {
    inputs: Buffers,
    outputs: Buffers,
    states: Buffers,
}

impl Run<'_> {
    fn program(&self, program: &Program, lane: &mut Lane) -> Result<(), HalError> {
        let own = !self.queue.description.shares_memory();
        let ledger = &self.queue.ledger;
        let all = |buffers: &[Arc<dyn Buffer>]| {
            let known = buffers
                .iter()
                .map(|b| buffer::engine_buffer(b, ledger, own));
            known.collect::<Result<Buffers, HalError>>()
        };
        let bound = Bound {
            inputs: all(self.submission.inputs)?,
            outputs: all(self.submission.outputs)?,
            states: all(self.submission.states)?,
        };
        match &program.way {
            Way::Whole(entry) => {
                self.engine(lane, *entry, &bound.inputs, &bound.outputs, &bound.states)
            }
            Way::Nodes { rounded, steps } => {
                bound.check_apart()?;
                let dtype = self.queue.description.compute();
                let symbols = &self.submission.symbols;
                for &(input, slot, value) in rounded {
                    let bytes = bytes(&program.graph, value, symbols)?;
                    let (from, to) = (&*bound.inputs[input], &*self.slots[slot]);
                    // SAFETY: a submission has its operands to read, and this module's slots, which
                    // are locked; a slot is no buffer that was bound, as slots never leave the module.
                    unsafe { round::copy_rounded(from, to, bytes, dtype)? };
                }
                for step in steps {
                    self.step(step, program, &bound, lane)?;
                }
                Ok(())
            }
        }
    }

    fn step(
        &self,
        step: &Step,
        program: &Program,
        bound: &Bound,
        lane: &mut Lane,
    ) -> Result<(), HalError> {
        let buffers = |places: &[Place]| -> Buffers {
            places
                .iter()
                .map(|&p| self.buffer(p, bound).clone())
                .collect()
        };
        let states: Buffers = step
            .states
            .iter()
            .map(|&i| bound.states[i].clone())
            .collect();
        let (inputs, outputs) = (buffers(&step.inputs), buffers(&step.outputs));
        self.engine(lane, step.entry, &inputs, &outputs, &states)?;
        for &(place, value) in &step.rounded {
            let bytes = bytes(&program.graph, value, &self.submission.symbols)?;
            let dtype = self.queue.description.compute();
            // SAFETY: a result of the submission, bound once as was checked, or a slot of this module;
            // the engine's run was awaited.
            unsafe { round::round_in_place(&**self.buffer(place, bound), bytes, dtype)? };
        }
        Ok(())
    }

    fn buffer<'b>(&'b self, place: Place, bound: &'b Bound) -> &'b Arc<dyn Buffer> {
        match place {
            Place::Input(i) => &bound.inputs[i],
            Place::Output(i) => &bound.outputs[i],
            Place::Slot(i) => &self.slots[i],
        }
    }

    /// Runs an entry of the engine and awaits it.
    fn engine(
        &self,
        lane: &mut Lane,
        entry: usize,
        inputs: &[Arc<dyn Buffer>],
        outputs: &[Arc<dyn Buffer>],
        states: &[Arc<dyn Buffer>],
    ) -> Result<(), HalError> {
        let signal = lane.timeline.point(lane.awaited + 1);
        let submitted = self.queue.engine.queue().submit(&Submission {
            module: &self.module.engine,
            entry,
            inputs,
            outputs,
            states,
            sequences: &[],
            symbols: self.submission.symbols,
            wait: &[],
            signal: &signal,
        });
        match submitted.and_then(|()| signal.wait(WAIT_LIMIT)) {
            Ok(()) => {
                lane.awaited += 1;
                Ok(())
            }
            Err(e) => {
                lane.timeline.reset();
                lane.awaited = 0;
                // an engine that was not seen to end may still write the device's memory
                lane.lost |= matches!(e, HalError::Timeout { .. });
                Err(e)
            }
        }
    }
}

impl Bound {
    /// Fails if a buffer that is written is bound twice.
    fn check_apart(&self) -> Result<(), HalError> {
        let all = || self.outputs.iter().chain(&self.states).chain(&self.inputs);
        let written = self.outputs.len() + self.states.len();
        for (i, a) in all().take(written).enumerate() {
            if let Some(b) = all().skip(i + 1).find(|b| Arc::ptr_eq(a, b)) {
                let what = format!("buffer '{}'", b.desc().name);
                let expected = "bound once, being written";
                return Err(invalid("submit", what, "bound twice", expected));
            }
        }
        Ok(())
    }
}

fn bytes(graph: &Graph, value: ValueId, symbols: &SymbolValues) -> Result<usize, HalError> {
    let ty = graph.ty(value);
    ty.bytes(symbols).ok_or_else(|| {
        let what = format!("size of '{}'", graph.value(value).name);
        invalid("submit", what, ty, "one that fits in memory")
    })
}

/// How long a submission waits for the points it depends on, and for the engine.
const WAIT_LIMIT: Duration = Duration::from_secs(600);
