//! A run that reads and writes the states of several sessions.

use std::sync::Arc;
use std::time::Duration;

use anynpu_hal::{Buffer, HalError, Point, Queue, Sequence};
use anynpu_ir::SymbolValues;

use super::slots::{RunId, Slots};

/// What a session has in such a run.
pub(crate) struct Share<'a> {
    pub slots: &'a mut Slots,
    /// Its own run of the entry. The first session's is run, with the states of all.
    pub run: RunId,
    pub sequence: Sequence,
}

/// Room for what such a run binds, to be used again. Empty while none is made.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    sequences: Vec<Sequence>,
    states: Vec<Arc<dyn Buffer>>,
}

/// Runs the first share's run to its end, which `signal` tells, with the states of all shares. All slots
/// stay borrowed until then, and one that does not end locks them all for good. Allocates nothing
/// once `room` is as large as the run needs.
pub(crate) fn run_together<M>(
    members: &mut [M],
    share: impl for<'a> Fn(&'a mut M) -> Option<Share<'a>>,
    room: &mut Bindings,
    queue: &dyn Queue,
    symbols: SymbolValues,
    signal: &Point,
    limit: Duration,
) -> Result<(), HalError> {
    room.sequences.clear();
    room.states.clear();
    let mut first = None;
    for member in &mut *members {
        if let Some(of) = share(member) {
            let run = of.slots.prepared(of.run)?;
            room.sequences.push(of.sequence);
            room.states.extend(run.states.iter().cloned());
            first.get_or_insert_with(|| run.clone());
        }
    }
    let Some(run) = first else {
        return Ok(());
    };
    let (sequences, states) = (&room.sequences, &room.states);
    let ended = run.go_over(queue, sequences, states, symbols, signal, limit);
    for member in members {
        if let Some(of) = share(member) {
            of.slots.note(&ended);
        }
    }
    room.states.clear();
    ended
}
