//! Memory: what a session will need, what the machine has, and the safe layer over buffers.

mod slots;
mod together;
mod usage;
mod worker;

pub(crate) use slots::{Bound, Mapped, RunId, SlotId, Slots, Start};
pub(crate) use together::{Bindings, Share, run_together};
pub use usage::{available_bytes, peak_rss_bytes, rss_bytes};

use crate::RuntimeError;

/// Bytes that a session needs, known before anything is allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// What the process holds already, and [`PROGRAM`].
    pub process: u64,
    /// The KV cache of the whole context.
    pub kv: u64,
    /// What each device needs besides.
    pub devices: Vec<DeviceMemory>,
}

/// Bytes that one device needs for a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DeviceMemory {
    /// The device.
    pub device: String,
    /// Weights in its own form.
    pub resident: u64,
    /// Weights of the model file that it reads in place.
    pub in_place: u64,
    /// Scratch.
    pub scratch: u64,
    /// Held while weights are prepared, before the session's own memory is taken.
    pub transient: u64,
    /// Inputs, outputs and values that cross between devices.
    pub buffers: u64,
}

/// Allowed for what a program takes while it runs a model, whatever the model: code that was not
/// called yet, stacks, buffers of text and of choosing tokens.
pub const PROGRAM: u64 = 16 << 20;

impl MemoryPlan {
    /// A plan of what the process holds and nothing more.
    pub(crate) fn of_process() -> Self {
        MemoryPlan {
            process: rss_bytes().unwrap_or(0).saturating_add(PROGRAM),
            ..MemoryPlan::default()
        }
    }

    /// The most that is held at a time.
    pub fn total(&self) -> u64 {
        self.process.saturating_add(self.needed())
    }

    /// The most that is held at a time beyond what the process holds already.
    pub fn needed(&self) -> u64 {
        let sum = |part: fn(&DeviceMemory) -> u64| {
            let parts = self.devices.iter().map(part);
            parts.fold(0u64, u64::saturating_add)
        };
        let session = self.kv.saturating_add(sum(|d| d.buffers));
        let parts = [
            sum(|d| d.resident),
            sum(|d| d.in_place),
            sum(|d| d.scratch),
            session.max(sum(|d| d.transient)),
        ];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// Weights, in whatever form.
    pub fn weights(&self) -> u64 {
        let parts = self
            .devices
            .iter()
            .map(|d| d.resident.saturating_add(d.in_place));
        parts.fold(0, u64::saturating_add)
    }
}

/// Fails unless `needed` bytes (`None`: more than can be addressed) can be had.
pub(crate) fn require(
    what: impl Into<String>,
    needed: Option<u64>,
    remedy: impl Into<String>,
) -> Result<(), RuntimeError> {
    // a machine that doesn't say has at least what it can address
    let available = available_bytes().unwrap_or(isize::MAX as u64);
    match needed {
        Some(n) if n <= available => Ok(()),
        _ => Err(RuntimeError::Memory {
            what: what.into(),
            needed: needed.map_or_else(|| "more than 2^64".to_owned(), |n| n.to_string()),
            available,
            remedy: remedy.into(),
        }),
    }
}
