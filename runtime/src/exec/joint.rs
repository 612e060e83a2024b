//! One step of several sessions: a token of each in one run.

use std::time::Instant;

use anynpu_hal::{Sequence, Support};
use anynpu_ir::SymbolValues;

use super::steps::{Flight, Outcome, Ready, difference, write_i32s};
use super::{Executor, Program, Rows};
use crate::batch::Apart;
use crate::memory::{Bindings, Share, SlotId, run_together};
use crate::plan::Phase;
use crate::{RuntimeError, TokenId};

/// A token to put in, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Put {
    pub token: TokenId,
    pub position: u32,
}

/// What may have a token in a joint step.
pub(crate) trait Member {
    /// Its executor and its token; none if it takes no part.
    fn part(&mut self) -> Option<(&mut Executor, Put)>;
}

/// Room for joint steps, to be used again.
#[derive(Debug, Default)]
pub(crate) struct Room {
    puts: Vec<Put>,
    bindings: Bindings,
}

impl Program {
    /// The shape of steps (its index) that take tokens of several sessions.
    fn joint_shape(&self) -> Option<usize> {
        let mut shapes = self.shapes().iter();
        shapes.position(|s| s.phase == Phase::Prefill && s.tokens.is_none())
    }

    /// How many sessions' tokens go in by one run, or why only one's does.
    pub fn together(&self) -> Result<usize, Apart> {
        let Some(shape) = self.joint_shape() else {
            let sizes = self.sizes().buckets.iter().map(|b| b.0);
            return Err(Apart::FixedSizes {
                sizes: sizes.collect(),
            });
        };
        let segments = &self.shapes()[shape].segments;
        let device = |device: usize| self.devices()[device].name().to_owned();
        let [segment] = &segments[..] else {
            return Err(Apart::Segments {
                devices: segments.iter().map(|s| device(s.device)).collect(),
            });
        };
        let refused = |reason| Apart::Device {
            device: device(segment.device),
            reason,
        };
        let module = self.module(segment);
        match module.map(|m| m.sequences(segment.entry)) {
            Ok(Support::Yes) => {}
            Ok(Support::Emulated(reason) | Support::No(reason)) => return Err(refused(reason)),
            Err(e) => return Err(Apart::Failed { why: e.to_string() }),
        }
        let limits = self.limits();
        Ok(limits.tokens.min(limits.rows) as usize)
    }
}

/// Runs a step of one token of each member that has one: at least two, and as many as
/// [`Program::together`] of the program that all of them run tells. Afterwards each has its logits. It is
/// counted on the first; the others count a token that was carried along.
///
/// # Errors
/// No token is in then: the rows before are as they were.
pub(crate) fn step<M: Member>(members: &mut [M], room: &mut Room) -> Result<(), RuntimeError> {
    room.puts.clear();
    let (mut lead, mut capacity, mut longest) = (None, 0, 0);
    for (at, member) in members.iter_mut().enumerate() {
        let Some((executor, put)) = member.part() else {
            continue;
        };
        if let Some(why) = executor.slots.abandoned() {
            let why = why.to_string();
            return Err(RuntimeError::Abandoned { why });
        }
        executor.logits = None;
        capacity = executor.rows.max(capacity);
        longest = put.position.max(longest);
        room.puts.push(put);
        lead.get_or_insert(at);
    }
    let Some(lead) = lead else {
        return Ok(());
    };
    let gone = || RuntimeError::Suspended;
    let (executor, _) = members[lead].part().ok_or_else(gone)?;
    let (flight, ready) = executor.begin_together(&room.puts, longest, capacity)?;
    let outcome = run(members, lead, &ready, &mut room.bindings)?;
    let (executor, _) = members[lead].part().ok_or_else(gone)?;
    let ended = executor.note(ready, outcome);
    let ended = ended.and_then(|()| executor.end(&flight));
    if ended.is_err() {
        executor.under_way[LANE].fill_with(Default::default);
    }
    ended?;
    hand_out(members, lead)
}

/// The lane of the buffers that a joint step uses: no other step is under way.
const LANE: usize = 0;

fn run<M: Member>(
    members: &mut [M],
    lead: usize,
    ready: &Ready,
    room: &mut Bindings,
) -> Result<Outcome, RuntimeError> {
    let (executor, _) = members[lead].part().ok_or(RuntimeError::Suspended)?;
    let (program, limit) = (executor.program.clone(), executor.limit);
    let device = &program.devices()[ready.segment.device];
    let queue = device.device().queue();
    let _lease = device.lease();
    let before = queue.counters();
    let began = Instant::now();
    let (symbols, signal) = (ready.symbols, &ready.signal);
    let result = run_together(members, share::<M>, room, queue, symbols, signal, limit);
    Ok(Outcome {
        result,
        took: began.elapsed(),
        counted: difference(before, queue.counters()),
    })
}

/// What a member has in a joint step.
fn share<M: Member>(member: &mut M) -> Option<Share<'_>> {
    let (executor, put) = member.part()?;
    let shape = executor.program.joint_shape()?;
    let bound = executor.bound.as_ref()?;
    let segment = bound.shapes[shape][LANE].segments.first()?;
    Some(Share {
        run: segment.run,
        slots: &mut executor.slots,
        sequence: Sequence {
            tokens: 1,
            cached: put.position,
        },
    })
}

/// Gives each member its row of the results that the step left with the first.
fn hand_out<M: Member>(members: &mut [M], lead: usize) -> Result<(), RuntimeError> {
    let (own, others) = members.split_at_mut(lead + 1);
    let Some((lead, _)) = own[lead].part() else {
        return Ok(());
    };
    let Some((slot, _)) = lead.logits else {
        return Ok(());
    };
    let row = lead.program.width() as usize * size_of::<f32>();
    let mut at = row;
    for member in others {
        let Some((executor, _)) = member.part() else {
            continue;
        };
        let results = lead.slots.read(slot, at + row)?;
        let (_, result) = results.split_at(at);
        // the same shape's, so it is large enough
        let to = executor.joint_logits()?;
        executor
            .slots
            .write(to, row, |to| to.copy_from_slice(result))?;
        executor.logits = Some((to, 1));
        executor.carried += 1;
        at += row;
    }
    lead.logits = Some((slot, 1));
    Ok(())
}

impl Executor {
    fn joint_logits(&self) -> Result<SlotId, RuntimeError> {
        let shape = self.program.joint_shape().unwrap_or_default();
        Ok(self.buffers(shape, LANE)?.logits)
    }

    /// Writes what a joint step reads, and makes its one segment ready.
    fn begin_together(
        &mut self,
        puts: &[Put],
        longest: u32,
        capacity: u32,
    ) -> Result<(Flight, Ready), RuntimeError> {
        let shape = self.program.joint_shape().unwrap_or_default();
        let limits = self.program.limits();
        let count = limits.check(Phase::Prefill, puts.len(), Rows::All)?;
        let bound = self.bound.as_ref().ok_or(RuntimeError::Suspended)?;
        let inputs = &bound.shapes[shape][LANE];
        let slots = &mut self.slots;
        let mut fill = |to: &[SlotId], value: &dyn Fn(usize) -> u32| {
            let values = (0..puts.len()).map(|i| value(i) as i32);
            let mut to = to.iter();
            to.try_for_each(|&slot| write_i32s(slots, slot, values.clone()))
        };
        fill(&inputs.tokens, &|i| puts[i].token)?;
        fill(&inputs.positions, &|i| puts[i].position)?;
        fill(&inputs.output_rows, &|i| i as u32)?;
        fill(&inputs.token_types, &|_| 0)?;
        let flight = Flight {
            shape,
            lane: LANE,
            next: 0,
            symbols: SymbolValues::step(count, longest, count, capacity),
            wanted: count,
        };
        let ready = self.make_ready(&flight, 0)?;
        Ok((flight, ready))
    }
}
