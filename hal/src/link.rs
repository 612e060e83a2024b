//! The edge between two devices.

use crate::MemoryKind;

/// How values get from one device to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// By what means.
    pub mode: LinkMode,
    /// Bytes per second of a copy, if copying.
    pub bytes_per_second: Option<f64>,
    /// Cost of one transfer however small, in microseconds.
    pub latency_us: f64,
}

/// By what means values cross a [`Link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkMode {
    /// Both read the same memory.
    Native,
    /// The memory is imported once, then shared.
    Import(MemoryKind),
    /// Every value is copied through the host.
    Copy,
    /// There is no way.
    None,
}

impl Link {
    /// Sharing without cost, as within one device.
    pub const fn native() -> Self {
        Link {
            mode: LinkMode::Native,
            bytes_per_second: None,
            latency_us: 0.0,
        }
    }
}
