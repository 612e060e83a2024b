//! What a run of nodes is thought to cost before anything was measured.
//!
//! A roofline: each node takes the longer of its arithmetic and its memory traffic, a run of nodes
//! adds the cost of dispatching it. The rates are round figures for a device of each kind, so every
//! estimate is a [`EstimateSource::Guess`].

use std::ops::Add;

use anynpu_hal::DeviceKind;
use anynpu_ir::{DType, Graph, SymbolValues, Work};

/// Where an [`Estimate`] comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EstimateSource {
    /// A roofline with round figures.
    Guess,
}

/// A predicted time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Microseconds.
    pub us: f64,
    /// Where it comes from.
    pub source: EstimateSource,
}

impl Estimate {
    /// No time at all.
    pub const ZERO: Estimate = Estimate {
        us: 0.0,
        source: EstimateSource::Guess,
    };

    /// The share of the time that is a guess, from 0 to 1.
    pub const fn guess_share(&self) -> f64 {
        match self.source {
            EstimateSource::Guess => 1.0,
        }
    }
}

impl Add for Estimate {
    type Output = Estimate;

    fn add(self, other: Estimate) -> Estimate {
        Estimate {
            us: self.us + other.us,
            source: self.source,
        }
    }
}

/// Assumed rates of a device.
struct Rates {
    /// Operations per microsecond.
    flops_per_us: f64,
    /// Bytes read or written per microsecond.
    bytes_per_us: f64,
    /// Starting a run of nodes, in microseconds.
    dispatch_us: f64,
}

/// Round figures for laptops and phones of the early 2020s: orders of magnitude, no device's own.
fn rates(kind: DeviceKind) -> Rates {
    let (flops_per_us, bytes_per_us, dispatch_us) = match kind {
        DeviceKind::Gpu => (1e6, 50e3, 50.0),
        DeviceKind::Npu => (5e6, 30e3, 100.0),
        _ => (100e3, 20e3, 1.0),
    };
    Rates {
        flops_per_us,
        bytes_per_us,
        dispatch_us,
    }
}

/// Microseconds of node `n` on a device of `kind` in one step, states kept in `state_dtype`.
pub(super) fn node_us(
    graph: &Graph,
    n: usize,
    kind: DeviceKind,
    symbols: &SymbolValues,
    state_dtype: DType,
) -> f64 {
    let rates = rates(kind);
    let work = Work::of(graph, &graph.nodes()[n], symbols, state_dtype);
    (work.operations / rates.flops_per_us).max(work.bytes() / rates.bytes_per_us)
}

/// Microseconds of starting a run of nodes on a device of `kind`.
pub(super) fn dispatch_us(kind: DeviceKind) -> f64 {
    rates(kind).dispatch_us
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tiny_llama;

    fn whole(tokens: u32, cached: u32) -> f64 {
        let model = tiny_llama(2);
        let graph = model.graph();
        let symbols = SymbolValues::step(tokens, cached, 1, 4096);
        let nodes = 0..graph.nodes().len();
        nodes
            .map(|n| node_us(graph, n, DeviceKind::Cpu, &symbols, DType::F32))
            .sum()
    }

    #[test]
    fn more_tokens_and_a_deeper_cache_take_longer() {
        assert!(whole(1, 0) > 0.0);
        assert!(whole(256, 0) > 2.0 * whole(1, 0));
        assert!(whole(1, 4000) > whole(1, 0));
    }
}
