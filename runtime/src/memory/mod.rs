//! Memory: what a session will need, what the machine has, and the safe layer over buffers.

mod slots;
mod usage;

pub(crate) use slots::{Bound, Mapped, RunId, SlotId, Slots};
pub use usage::{available_bytes, peak_rss_bytes};

use crate::RuntimeError;

/// Bytes that a session needs, known before anything is allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct MemoryPlan {
    /// Weights of the model file.
    pub weights: u64,
    /// What the devices hold besides: packed weights and scratch.
    pub resident: u64,
    /// The KV cache.
    pub kv: u64,
    /// Inputs, outputs and values that cross between devices.
    pub buffers: u64,
}

impl MemoryPlan {
    /// All of it.
    pub fn total(&self) -> u64 {
        let parts = [self.weights, self.resident, self.kv, self.buffers];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// Fails unless `needed` bytes (`None`: more than can be addressed) can be had.
pub(crate) fn require(
    what: impl Into<String>,
    needed: Option<u64>,
    remedy: &'static str,
) -> Result<(), RuntimeError> {
    // a machine that doesn't say has at least what it can address
    let available = available_bytes().unwrap_or(isize::MAX as u64);
    match needed {
        Some(n) if n <= available => Ok(()),
        _ => Err(RuntimeError::Memory {
            what: what.into(),
            needed: needed.map_or_else(|| "more than 2^64".to_owned(), |n| n.to_string()),
            available,
            remedy,
        }),
    }
}
