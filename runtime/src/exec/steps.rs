//! Running steps: one after the other, or several at once in waves.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anynpu_hal::{Counters, DeviceKind, HalError, Point};
use anynpu_ir::{Graph, Symbol, SymbolValues};

use super::bind::{BoundSegment, Copy};
use super::{Executor, OpenDevice, Rows, program, record};
use crate::memory::{SlotId, Slots, Start};
use crate::plan::Phase;
use crate::plan::overlap::{self, STEPS_AT_ONCE};
use crate::{RuntimeError, SegmentRun, TokenId};

/// What hides a token: far below any score, and finite in 16 bits.
const HIDDEN: f32 = -3e4;

/// One step to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    pub phase: Phase,
    pub tokens: &'a [TokenId],
    /// The type of each token; 0 where none is given.
    pub types: &'a [u32],
    /// Where the tokens begin in the context.
    pub position: u32,
    pub rows: Rows,
}

/// A step under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub shape: usize,
    /// Which of the shape's buffers it uses, and where it is counted.
    pub lane: usize,
    /// The segment that runs next.
    pub next: usize,
    pub symbols: SymbolValues,
    /// Rows of results.
    pub wanted: u32,
}

type Flights = [Option<Flight>; STEPS_AT_ONCE];

/// A segment about to run.
pub(super) struct Ready {
    pub segment: Segment,
    phase: Phase,
    lane: usize,
    pub symbols: SymbolValues,
    pub signal: Point,
    began: Option<record::Began>,
    /// Its place among the steps under way.
    age: usize,
}

impl Ready {
    /// Its run on its device.
    fn on<'a>(&'a self, device: &'a OpenDevice) -> Start<'a> {
        Start {
            run: self.segment.run,
            device: device.device(),
            symbols: self.symbols,
            signal: &self.signal,
        }
    }
}

/// What became of a segment.
pub(super) struct Outcome {
    pub result: Result<(), HalError>,
    pub took: Duration,
    /// What its device counted meanwhile.
    pub counted: Counters,
}

/// What is needed of a [`BoundSegment`] while it runs.
pub(super) struct Segment {
    pub device: usize,
    run: crate::memory::RunId,
    nodes: Range<u32>,
}

impl Executor {
    /// Runs steps that follow one another, several of them at once where the program has buffers for that, as
    /// long as `go_on` before each but the first. Gives how many ran to their ends, and why no more did. The others
    /// can be run again: the KV rows before them are as they were.
    pub fn steps(
        &mut self,
        steps: &[Step<'_>],
        go_on: &mut dyn FnMut() -> bool,
    ) -> (usize, Result<(), RuntimeError>) {
        self.logits = None;
        let mut flights: Flights = [None; STEPS_AT_ONCE];
        let (mut begun, mut ended, mut stopped) = (0, 0, Ok(()));
        loop {
            while let (Ok(()), Some(step)) = (&stopped, steps.get(begun)) {
                if begun > 0 && !go_on() {
                    break;
                }
                match self.begin(step, &flights) {
                    Ok(Some(flight)) => {
                        let free = flights.iter_mut().find(|f| f.is_none());
                        free.into_iter().for_each(|f| *f = Some(flight));
                        begun += 1;
                    }
                    Ok(None) => break,
                    Err(e) => stopped = Err(e),
                }
            }
            if flights[0].is_none() {
                return (ended, stopped);
            }
            let ran = self.run_wave(&mut flights);
            while let Some(flight) = flights[0].take_if(|f| self.is_done(f)) {
                match self.end(&flight) {
                    Ok(()) => ended += 1,
                    Err(e) => return (ended, Err(e)),
                }
                flights.rotate_left(1);
            }
            if let Err(e) = ran {
                // what ran of steps that did not end is run again, and counted then
                for lane in &mut self.under_way {
                    lane.fill_with(Default::default);
                }
                return (ended, Err(e));
            }
        }
    }

    /// Steps of prefill that may be under way at once.
    pub fn at_once(&self) -> usize {
        let shapes = self.program.shapes().iter();
        let prefill = shapes.filter(|s| s.phase == Phase::Prefill);
        prefill.map(|s| s.at_once).max().unwrap_or(1)
    }

    /// Writes what a step reads; `None` while those under way leave no room.
    fn begin(
        &mut self,
        step: &Step<'_>,
        flights: &Flights,
    ) -> Result<Option<Flight>, RuntimeError> {
        if let Some(why) = self.slots.abandoned() {
            let why = why.to_string();
            return Err(RuntimeError::Abandoned { why });
        }
        let Step {
            phase,
            tokens,
            position,
            rows,
            ..
        } = *step;
        let count = self.program.limits().check(phase, tokens.len(), rows)?;
        let end = position
            .checked_add(count)
            .filter(|&end| end <= self.capacity);
        if end.is_none() {
            return Err(RuntimeError::ContextFull {
                context: self.capacity,
            });
        }
        let (shape, padded) = self.shape(phase, count, position)?;
        let shapes = self.program.shapes();
        let in_use = flights.iter().flatten();
        let together = |f: &Flight| shapes[f.shape].at_once.min(shapes[shape].at_once);
        let room = in_use.clone().map(together).min().unwrap_or(1);
        if in_use.clone().count() >= room && flights[0].is_some() {
            return Ok(None);
        }
        let mut lanes = 0..STEPS_AT_ONCE;
        let Some(lane) = lanes.find(|lane| in_use.clone().all(|f| f.lane != *lane)) else {
            return Ok(None);
        };
        let wanted = match (rows, padded) {
            // a step of fixed size gives one row whatever is wanted
            (Rows::None, Some(_)) | (Rows::Last, _) => count - 1..count,
            (Rows::None, None) => 0..0,
            (Rows::First, _) => 0..1,
            (Rows::All, _) => 0..count,
        };
        let length = padded.unwrap_or(count);
        // those that are wanted are the first
        let rows = match padded.is_some() && self.program.sizes().every_row {
            true => 0..length,
            false => wanted.clone(),
        };
        self.write_inputs(step, shape, lane, length, rows.clone())?;
        Ok(Some(Flight {
            shape,
            lane,
            next: 0,
            symbols: SymbolValues::step(length, position, rows.len() as u32, self.rows),
            wanted: wanted.len() as u32,
        }))
    }

    fn is_done(&self, flight: &Flight) -> bool {
        flight.next >= self.program.shapes()[flight.shape].segments.len()
    }

    /// Counts a step that ran, and leaves its results to be read.
    pub(super) fn end(&mut self, flight: &Flight) -> Result<(), RuntimeError> {
        for (count, more) in self.counts.iter_mut().zip(&mut self.under_way[flight.lane]) {
            count.add(&std::mem::take(more));
        }
        self.steps += 1;
        let logits = self.buffers(flight.shape, flight.lane)?.logits;
        self.logits = Some((logits, flight.wanted));
        Ok(())
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

    /// Writes what a step reads, padded to `length` tokens.
    fn write_inputs(
        &mut self,
        step: &Step<'_>,
        shape: usize,
        lane: usize,
        length: u32,
        wanted: Range<u32>,
    ) -> Result<(), RuntimeError> {
        let bound = self.bound.as_ref().ok_or(RuntimeError::Suspended)?;
        let inputs = &bound.shapes[shape][lane];
        let all = 0..length as usize;
        for &slot in &inputs.tokens {
            let token = |i| step.tokens.get(i).map_or(0, |&t| t as i32);
            write_i32s(&mut self.slots, slot, all.clone().map(token))?;
        }
        let count = step.tokens.len() as u32;
        for &slot in &inputs.positions {
            // where the context is a text's, there may be no position past it
            let there = |i: u32| i < count || inputs.padding.is_empty();
            let position = |i| if there(i) { step.position + i } else { 0 };
            write_i32s(
                &mut self.slots,
                slot,
                (0..length).map(|i| position(i) as i32),
            )?;
        }
        for &slot in &inputs.padding {
            let bytes = (length as usize).pow(2) * size_of::<f32>();
            self.slots.write(slot, bytes, |memory| {
                let row = size_of::<f32>() * length as usize;
                for row in memory.chunks_exact_mut(row) {
                    for (to, i) in row.chunks_exact_mut(size_of::<f32>()).zip(0..) {
                        let added = if i < count { 0.0 } else { HIDDEN };
                        to.copy_from_slice(&added.to_ne_bytes());
                    }
                }
            })?;
        }
        for &slot in &inputs.output_rows {
            let rows = wanted.clone().map(|r| r as i32);
            write_i32s(&mut self.slots, slot, rows)?;
        }
        for &slot in &inputs.token_types {
            let ty = |i| step.types.get(i).map_or(0, |&t| t as i32);
            write_i32s(&mut self.slots, slot, all.clone().map(ty))?;
        }
        Ok(())
    }

    /// Runs the next segment of each step that can, at once: copies what they need, submits them and awaits them.
    /// Devices' counters are read while no other session uses them.
    fn run_wave(&mut self, flights: &mut Flights) -> Result<(), RuntimeError> {
        let program = self.program.clone();
        let Some(oldest) = flights[0] else {
            return Ok(());
        };
        let segments = &program.shapes()[oldest.shape].segments;
        let next = flights.map(|f| f.map(|f| f.next));
        let runs = overlap::wave(next, |segment| segments[segment].device);
        let mut ready: [Option<Ready>; STEPS_AT_ONCE] = [const { None }; STEPS_AT_ONCE];
        for (age, flight) in flights.iter().enumerate() {
            if let Some(flight) = flight.filter(|_| runs[age]) {
                ready[age] = Some(self.make_ready(&flight, age)?);
            }
        }
        let mut done = [false; STEPS_AT_ONCE];
        let result = match ready {
            [Some(a), Some(b)] => {
                let [x, y] = self.run_both(&a, &b);
                done[a.age] = x.result.is_ok();
                done[b.age] = y.result.is_ok();
                let (first, second) = (self.note(a, x), self.note(b, y));
                first.and(second)
            }
            [Some(a), None] | [None, Some(a)] => {
                let flight = flights[a.age];
                match flight.map_or(Ok(None), |f| self.make_behind(&f, &a))? {
                    Some(b) => {
                        let [x, y] = self.run_chain(&a, &b);
                        let age = a.age;
                        done[age] = y.result.is_ok();
                        let ended = self.note(a, x).and(self.note(b, y));
                        if let (Ok(()), Some(flight)) = (&ended, &mut flights[age]) {
                            flight.next += 1;
                        }
                        ended
                    }
                    None => {
                        let x = self.run_alone(&a);
                        done[a.age] = x.result.is_ok();
                        self.note(a, x)
                    }
                }
            }
            [None, None] => Ok(()),
        };
        self.waves += 1;
        for (flight, done) in flights.iter_mut().zip(done) {
            if let Some(flight) = flight.as_mut().filter(|_| done) {
                flight.next += 1;
            }
        }
        result
    }

    fn run_alone(&mut self, ready: &Ready) -> Outcome {
        let program = self.program.clone();
        let device = &program.devices()[ready.segment.device];
        let queue = device.device().queue();
        let _lease = device.lease();
        let before = queue.counters();
        let (run, symbols, signal) = (ready.segment.run, ready.symbols, &ready.signal);
        let began = Instant::now();
        let result = self.slots.run(run, queue, symbols, signal, self.limit);
        Outcome {
            result,
            took: began.elapsed(),
            counted: difference(before, queue.counters()),
        }
    }

    /// Runs two segments at once, on different devices. One that is simulated computes on this machine, where it
    /// would slow the other, so it runs in turn; by their own clocks both run at once.
    fn run_both(&mut self, a: &Ready, b: &Ready) -> [Outcome; 2] {
        let program = self.program.clone();
        let of = |ready: &Ready| &program.devices()[ready.segment.device];
        let kind = |ready: &Ready| of(ready).device().info().kind;
        if [kind(a), kind(b)].contains(&DeviceKind::Simulated) {
            return [self.run_alone(a), self.run_alone(b)];
        }
        // always in the same order, so that sessions don't wait for each other
        let (_first, _second) = match Arc::as_ptr(of(a)) < Arc::as_ptr(of(b)) {
            true => (of(a).lease(), of(b).lease()),
            false => (of(b).lease(), of(a).lease()),
        };
        let queue = |ready: &Ready| of(ready).device().queue();
        let before = [a, b].map(|ready| queue(ready).counters());
        let (x, y) = (a.on(of(a)), b.on(of(b)));
        // the CPU stays on this thread
        let ended = match kind(a) == DeviceKind::Cpu {
            true => {
                let [second, first] = self.slots.run_both(&y, &x, self.limit);
                [first, second]
            }
            false => self.slots.run_both(&x, &y, self.limit),
        };
        let after = [a, b].map(|ready| queue(ready).counters());
        let mut counts = before.into_iter().zip(after);
        ended.map(|(result, took)| {
            let (before, after) = counts.next().unwrap_or_default();
            Outcome {
                result,
                took,
                counted: difference(before, after),
            }
        })
    }

    /// The segment of a step after `a`, if it can be started behind it without the host between them: both are on devices
    /// of one driver that run behind the host's back, and no value is copied.
    fn make_behind(&mut self, flight: &Flight, a: &Ready) -> Result<Option<Ready>, RuntimeError> {
        let bound = self.bound.as_ref().ok_or(RuntimeError::Suspended)?;
        let segments = &bound.shapes[flight.shape][flight.lane].segments;
        let Some(next) = segments.get(flight.next + 1) else {
            return Ok(None);
        };
        let devices = self.program.devices();
        let [one, other] = [a.segment.device, next.device].map(|d| devices[d].device());
        let behind = |d: &Arc<dyn anynpu_hal::Device>| d.capabilities().features.asynchronous;
        let same = one.info().driver == other.info().driver && !Arc::ptr_eq(one, other);
        if !same || !behind(one) || !behind(other) || !next.copies.is_empty() {
            return Ok(None);
        }
        let after = Flight {
            next: flight.next + 1,
            ..*flight
        };
        self.make_ready(&after, a.age).map(Some)
    }

    /// Runs two segments of a step, the second behind the first.
    fn run_chain(&mut self, a: &Ready, b: &Ready) -> [Outcome; 2] {
        let program = self.program.clone();
        let of = |ready: &Ready| &program.devices()[ready.segment.device];
        // always in the same order, so that sessions don't wait for each other
        let (_first, _second) = match Arc::as_ptr(of(a)) < Arc::as_ptr(of(b)) {
            true => (of(a).lease(), of(b).lease()),
            false => (of(b).lease(), of(a).lease()),
        };
        let queue = |ready: &Ready| of(ready).device().queue();
        let before = [a, b].map(|ready| queue(ready).counters());
        let ended = self.slots.run_chain(&a.on(of(a)), &b.on(of(b)), self.limit);
        let after = [a, b].map(|ready| queue(ready).counters());
        let mut counts = before.into_iter().zip(after);
        ended.map(|(result, took)| {
            let (before, after) = counts.next().unwrap_or_default();
            Outcome {
                result,
                took,
                counted: difference(before, after),
            }
        })
    }

    /// Copies what the next segment of a step needs.
    pub(super) fn make_ready(
        &mut self,
        flight: &Flight,
        age: usize,
    ) -> Result<Ready, RuntimeError> {
        let bound = self.bound.as_ref().ok_or(RuntimeError::Suspended)?;
        let BoundSegment {
            device,
            run,
            nodes,
            copies,
        } = &bound.shapes[flight.shape][flight.lane].segments[flight.next];
        let mut began = self.recorder.as_ref().map(record::Recorder::begin);
        let counts = &mut self.under_way[flight.lane];
        let mut copied = 0;
        for copy in copies {
            let Copy { from, to, value } = *copy;
            let ty = self.program.graph().ty(value);
            let bytes = ty.bytes(&flight.symbols).unwrap_or(0);
            self.slots.copy(from.1, to.1, bytes)?;
            copied += bytes as u64;
            counts[from.0].copied_out(bytes);
            counts[to.0].copied_in(bytes);
        }
        if let (Some(recorder), Some(began)) = (&self.recorder, &mut began) {
            recorder.copied(began, copied);
        }
        let (timeline, submitted) = &self.timelines[*device];
        Ok(Ready {
            segment: Segment {
                device: *device,
                run: *run,
                nodes: nodes.clone(),
            },
            phase: self.program.shapes()[flight.shape].phase,
            lane: flight.lane,
            symbols: flight.symbols,
            signal: timeline.point(*submitted + 1),
            began,
            age,
        })
    }

    /// Counts and records a segment that ran, or tells what it failed with.
    pub(super) fn note(&mut self, ready: Ready, outcome: Outcome) -> Result<(), RuntimeError> {
        let Outcome {
            result,
            took,
            counted,
        } = outcome;
        let segment = &ready.segment;
        let device = &self.program.devices()[segment.device];
        let (timeline, submitted) = &mut self.timelines[segment.device];
        if let Err(source) = result {
            // whatever was counted of a failed run is not counted as executed
            if self.slots.abandoned().is_none() {
                timeline.reset();
                *submitted = 0;
            }
            return Err(RuntimeError::Step {
                device: device.name().to_owned(),
                nodes: node_names(self.program.graph(), &segment.nodes),
                source,
            });
        }
        *submitted += 1;
        let count = &mut self.under_way[ready.lane][segment.device];
        count.ran(counted, segment.nodes.len() as u64);
        if let (Some(recorder), Some(began)) = (&mut self.recorder, ready.began) {
            let run = SegmentRun {
                step: self.steps + ready.age as u64,
                wave: self.waves,
                phase: ready.phase,
                tokens: ready.symbols.get(Symbol::TOKENS),
                position: ready.symbols.get(Symbol::CACHED),
                device: device.name().to_owned(),
                nodes: segment.nodes.clone(),
                counted: counted.nodes,
                began: Duration::ZERO,
                copying: Duration::ZERO,
                copied_bytes: 0,
                ran: Duration::ZERO,
                busy: Duration::from_nanos(counted.busy_ns),
            };
            recorder.end(began, took, run);
        }
        Ok(())
    }
}

pub(super) fn write_i32s(
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
pub(super) fn difference(before: Counters, after: Counters) -> Counters {
    Counters {
        submissions: after.submissions.saturating_sub(before.submissions),
        nodes: after.nodes.saturating_sub(before.nodes),
        busy_ns: after.busy_ns.saturating_sub(before.busy_ns),
    }
}
