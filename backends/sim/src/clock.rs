//! Virtual time: what a submission would have taken, and how warm the device is.

use anynpu_ir::{DType, Graph, SymbolValues, Work, weight_dtype};

use crate::Description;
use crate::description::Thermal;

impl Description {
    /// Microseconds of running `nodes` of `graph` once with the device cold:
    /// `dispatch + Σ max(operations / rate, bytes / bandwidth)` over the nodes' [`Work`], the rate being
    /// that of the node's type of weights. Float states are kept in `state_dtype`.
    pub fn submission_us(
        &self,
        graph: &Graph,
        nodes: std::ops::Range<u32>,
        symbols: &SymbolValues,
        state_dtype: DType,
    ) -> f64 {
        self.dispatch_us() + self.work_us(graph, nodes, symbols, state_dtype)
    }

    fn work_us(
        &self,
        graph: &Graph,
        nodes: std::ops::Range<u32>,
        symbols: &SymbolValues,
        state_dtype: DType,
    ) -> f64 {
        let nodes = &graph.nodes()[nodes.start as usize..nodes.end as usize];
        let node_us = |node| {
            let work = Work::of(graph, node, symbols, state_dtype);
            let rate = self.operations_per_second(weight_dtype(graph, node));
            (work.operations / rate).max(work.bytes() / self.bytes_per_second()) * 1e6
        };
        nodes.iter().map(node_us).sum()
    }
}

impl Thermal {
    /// The factor of the speed after `heat` seconds.
    pub fn factor(&self, heat: f64) -> f64 {
        let after = self.curve.partition_point(|(at, _)| *at <= heat);
        match (self.curve.get(after.wrapping_sub(1)), self.curve.get(after)) {
            (Some(&(x0, y0)), Some(&(x1, y1))) => y0 + (y1 - y0) * (heat - x0) / (x1 - x0),
            (Some(&(_, y)), None) | (None, Some(&(_, y))) => y,
            (None, None) => 1.0,
        }
    }
}

/// How much virtual time a device has been busy, and its heat.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    busy_ns: f64,
    heat: f64,
}

impl Clock {
    /// Virtual time spent, in nanoseconds.
    pub fn busy_ns(&self) -> u64 {
        self.busy_ns as u64
    }

    /// Spends the time of a submission: its dispatch, and its work at the speed of the device's heat.
    pub fn run(
        &mut self,
        description: &Description,
        graph: &Graph,
        nodes: std::ops::Range<u32>,
        symbols: &SymbolValues,
        state_dtype: DType,
    ) {
        let work = description.work_us(graph, nodes, symbols, state_dtype);
        let factor = description.thermal().map_or(1.0, |t| t.factor(self.heat));
        let us = description.dispatch_us() + work / factor;
        self.spend(us);
        let thermal = description.thermal();
        let hottest = thermal.and_then(|t| t.curve.last()).map_or(0.0, |p| p.0);
        self.heat = (self.heat + us / 1e6).min(hottest);
    }

    /// Spends microseconds that warm nothing.
    pub fn spend(&mut self, us: f64) {
        self.busy_ns += us * 1e3;
    }

    /// Lets the device rest for some virtual seconds.
    pub fn rest(&mut self, description: &Description, seconds: f64) {
        let recovery = description.thermal().map_or(0.0, |t| t.recovery);
        self.heat = (self.heat - seconds.max(0.0) * recovery).max(0.0);
    }
}
