//! Running compiled entries.

use std::sync::Arc;

use anynpu_ir::SymbolValues;

use crate::{Buffer, EntryInfo, HalError, Module, Point, Port};

/// One run of one entry. Everything is borrowed: a driver that runs it later clones the `Arc`s.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// The module.
    pub module: &'a Arc<dyn Module>,
    /// Which of its entries.
    pub entry: usize,
    /// Operands, as [`crate::EntryInfo::inputs`] lists them.
    pub inputs: &'a [Arc<dyn Buffer>],
    /// Results, as [`crate::EntryInfo::outputs`] lists them.
    pub outputs: &'a [Arc<dyn Buffer>],
    /// Homes of the states, as [`crate::EntryInfo::states`] lists them.
    pub states: &'a [Arc<dyn Buffer>],
    /// Sizes of this run. State rows from the cached length on are written; the caller keeps
    /// them valid or not.
    pub symbols: SymbolValues,
    /// Points to be reached before it starts.
    pub wait: &'a [Point],
    /// Point signalled when it is done, or failed.
    pub signal: &'a Point,
}

impl Submission<'_> {
    /// The entry it names.
    pub fn entry_info(&self) -> Result<&EntryInfo, HalError> {
        let entries = self.module.entries();
        entries.get(self.entry).ok_or_else(|| HalError::InvalidUse {
            call: "submit",
            what: "entry".into(),
            found: self.entry.to_string(),
            expected: format!("one of {}", entries.len()),
        })
    }

    /// Checks that what is bound fits `info` under the submission's symbols: counts, and every
    /// buffer at least as large as its value. Allocates nothing when all fits.
    pub fn check(&self, info: &EntryInfo) -> Result<(), HalError> {
        check_ports("inputs", &info.inputs, self.inputs, &self.symbols)?;
        check_ports("outputs", &info.outputs, self.outputs, &self.symbols)?;
        if info.states.len() != self.states.len() {
            return Err(count_error("states", self.states.len(), info.states.len()));
        }
        Ok(())
    }
}

fn count_error(what: &str, found: usize, expected: usize) -> HalError {
    HalError::InvalidUse {
        call: "submit",
        what: format!("number of {what}"),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

fn check_ports(
    what: &str,
    ports: &[Port],
    buffers: &[Arc<dyn Buffer>],
    symbols: &SymbolValues,
) -> Result<(), HalError> {
    if ports.len() != buffers.len() {
        return Err(count_error(what, buffers.len(), ports.len()));
    }
    for (port, buffer) in ports.iter().zip(buffers) {
        let found = buffer.desc().bytes;
        match port.ty.bytes(symbols) {
            Some(needed) if needed <= found && needed <= port.max_bytes => {}
            needed => {
                return Err(HalError::InvalidUse {
                    call: "submit",
                    what: format!("buffer '{}' for a value of {}", buffer.desc().name, port.ty),
                    found: format!("{found} bytes"),
                    expected: format!(
                        "{} bytes, at most {}",
                        needed.map_or_else(|| "too many".to_owned(), |n| n.to_string()),
                        port.max_bytes
                    ),
                });
            }
        }
    }
    Ok(())
}

/// What a queue has executed since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Submissions that succeeded.
    pub submissions: u64,
    /// Nodes they executed.
    pub nodes: u64,
    /// Time spent in them, in nanoseconds.
    pub busy_ns: u64,
}

/// A device's in-order queue.
///
/// Order across queues comes only from `wait` points. A submission may be complete when `submit`
/// returns, or go on behind the caller's back; only its `signal` tells.
pub trait Queue: Send + Sync {
    /// Starts a run. An error here means nothing was started and `signal` is untouched; a failure
    /// later fails the timeline of `signal`.
    fn submit(&self, submission: &Submission<'_>) -> Result<(), HalError>;

    /// As [`Queue::submit`], of a run that the next submission waits for: where the queue can, it returns before the run
    /// is complete, and the next one begins behind it without the host between them. Whether it can,
    /// [`crate::Features::asynchronous`] tells.
    ///
    /// # Errors
    /// As [`Queue::submit`].
    fn submit_ahead(&self, submission: &Submission<'_>) -> Result<(), HalError> {
        self.submit(submission)
    }

    /// What has been executed, counted by the device itself.
    fn counters(&self) -> Counters;
}
