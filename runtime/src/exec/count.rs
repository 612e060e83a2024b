//! Counting what ran where.

use std::collections::BTreeMap;
use std::sync::Arc;

use anynpu_hal::Counters;
use serde::Serialize;

use super::OpenDevice;

/// What was executed, counted by the executor and the devices, not read from the plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Executed {
    /// Steps: chunks of the prompt and single tokens.
    pub steps: u64,
    /// Tokens that went in by steps that are counted on another session, of the same [`crate::Batch`]. Left
    /// out of JSON if there were none.
    #[serde(skip_serializing_if = "is_none")]
    pub carried: u64,
    /// By device name.
    pub devices: BTreeMap<String, ExecutedDevice>,
}

/// What one device executed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ExecutedDevice {
    /// Nodes, counted by the device.
    pub nodes: u64,
    /// Submissions, counted by the device.
    pub segments: u64,
    /// Values copied into its memory from another device's.
    pub copies_in: u64,
    /// Values copied out of its memory to another device's.
    pub copies_out: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Time it spent, in microseconds, by its own clock.
    pub us: u64,
    /// Type it computes in.
    pub dtype: &'static str,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde gives it
fn is_none(count: &u64) -> bool {
    *count == 0
}

/// The counts of one device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    device: Counters,
    submitted: u64,
    submitted_nodes: u64,
    copies_in: u64,
    copies_out: u64,
    bytes: u64,
}

impl Count {
    /// A submission of `nodes` nodes succeeded, and the device counted so much.
    pub fn ran(&mut self, ran: Counters, nodes: u64) {
        self.device.submissions += ran.submissions;
        self.device.nodes += ran.nodes;
        self.device.busy_ns += ran.busy_ns;
        self.submitted += 1;
        self.submitted_nodes += nodes;
    }

    /// Adds what another counted.
    pub fn add(&mut self, more: &Count) {
        self.device.submissions += more.device.submissions;
        self.device.nodes += more.device.nodes;
        self.device.busy_ns += more.device.busy_ns;
        self.submitted += more.submitted;
        self.submitted_nodes += more.submitted_nodes;
        self.copies_in += more.copies_in;
        self.copies_out += more.copies_out;
        self.bytes += more.bytes;
    }

    pub fn copied_in(&mut self, bytes: usize) {
        self.copies_in += 1;
        self.bytes += bytes as u64;
    }

    pub fn copied_out(&mut self, bytes: usize) {
        self.copies_out += 1;
        self.bytes += bytes as u64;
    }

    /// Says so if the device counted other than what was submitted.
    pub fn miscount(&self, name: &str) -> Option<String> {
        let counted = (self.device.submissions, self.device.nodes);
        let submitted = (self.submitted, self.submitted_nodes);
        (counted != submitted).then(|| {
            format!(
                "device '{name}' counted {} submissions of {} nodes, but {} of {} were given to it",
                counted.0, counted.1, submitted.0, submitted.1
            )
        })
    }

    fn is_used(&self) -> bool {
        self.submitted > 0
    }
}

impl Executed {
    /// Both together.
    pub(crate) fn and(mut self, more: Executed) -> Executed {
        self.steps += more.steps;
        self.carried += more.carried;
        for (name, more) in more.devices {
            let own = self.devices.entry(name).or_default();
            own.nodes += more.nodes;
            own.segments += more.segments;
            own.copies_in += more.copies_in;
            own.copies_out += more.copies_out;
            own.bytes += more.bytes;
            own.us += more.us;
            own.dtype = more.dtype;
        }
        self
    }

    /// The counts of every device that was given work, beside the type that it computes in.
    pub(super) fn of<'a>(
        steps: u64,
        carried: u64,
        counts: impl Iterator<Item = ((&'a Arc<OpenDevice>, Option<&'static str>), &'a Count)>,
    ) -> Self {
        let used = counts.filter(|(_, c)| c.is_used());
        let devices = used.map(|((device, dtype), c)| {
            let executed = ExecutedDevice {
                nodes: c.device.nodes,
                segments: c.device.submissions,
                copies_in: c.copies_in,
                copies_out: c.copies_out,
                bytes: c.bytes,
                us: c.device.busy_ns / 1000,
                dtype: dtype.unwrap_or("unknown"),
            };
            (device.name().to_owned(), executed)
        });
        Executed {
            steps,
            carried,
            devices: devices.collect(),
        }
    }
}
