//! Compiled entries, and the queue that runs them.

use std::any::Any;
use std::time::{Duration, Instant};

use anynpu_hal::{Counters, EntryInfo, HalError, Module, Queue, Submission};
use anynpu_ir::NodeId;
use parking_lot::Mutex;

use super::program::Program;
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
