//! The plan of a phase from the assignment that was found.

use anynpu_ir::{NodeId, StateId, ValueDef};

use super::{Planner, runs};
use crate::plan::price::{Prices, state_groups};
use crate::plan::search::{Assignment, Found};
use crate::plan::{
    Because, DeviceIndex, Estimate, NodeWhy, Partition, Phase, Plan, StatePlacement, Transfer,
};

impl Planner<'_> {
    /// What `found` says of `phase`.
    pub(super) fn plan(&self, phase: Phase, prices: &Prices, found: &Found) -> Plan {
        let assignment = &found.assignment;
        let devices = &assignment.devices[phase as usize];
        let partitions: Vec<Partition> = runs(devices)
            .into_iter()
            .map(|(device, nodes)| {
                let range = nodes.start as usize..nodes.end as usize;
                Partition {
                    predicted: prices.segment(phase as usize, range, device.0),
                    nodes,
                    device,
                }
            })
            .collect();
        let computed: Estimate = partitions.iter().map(|p| p.predicted).sum();
        let total = found.priced.in_turn_us[phase as usize];
        let overlapped = found.priced.phase_us[phase as usize];
        // sums of the same prices in another order
        let copies = match partitions.len() {
            1 if total <= computed.us * (1.0 + 1e-9) => Estimate::ZERO,
            _ => prices.copies(total - computed.us),
        };
        let why: Vec<NodeWhy> = devices
            .iter()
            .enumerate()
            .map(|(n, &device)| NodeWhy {
                node: NodeId(n as u32),
                device: DeviceIndex(device.into()),
                because: self.because(n),
                verdicts: self.verdicts.iter().map(|v| v[n].clone()).collect(),
            })
            .collect();
        Plan {
            phase,
            overlapped_us: (overlapped < total).then_some(overlapped),
            total: computed + copies,
            partitions,
            transfers: self.transfers(&why),
            states: self.states(assignment),
            why,
        }
    }

    fn because(&self, node: usize) -> Because {
        if let Some(pin) = self.placement.pin(&self.graph.nodes()[node]) {
            return Because::Pinned(pin.to_string());
        }
        let able = (0..self.devices.len()).filter(|&d| self.runs(DeviceIndex(d), node));
        match able.count() {
            1 => Because::Only,
            _ => Because::Cheapest,
        }
    }

    /// Values needed on another device than the one that makes them, in order of need.
    fn transfers(&self, why: &[NodeWhy]) -> Vec<Transfer> {
        let mut found = Vec::new();
        for (node, at) in self.graph.nodes().iter().zip(why) {
            for &value in &node.inputs {
                let ValueDef::Node { node: maker, .. } = self.graph.value(value).def else {
                    continue;
                };
                let transfer = Transfer {
                    value,
                    from: why[maker.index()].device,
                    to: at.device,
                };
                if transfer.from != transfer.to && !found.contains(&transfer) {
                    found.push(transfer);
                }
            }
        }
        found
    }

    fn states(&self, assignment: &Assignment) -> Vec<StatePlacement> {
        let groups = state_groups(self.graph);
        let states = self.graph.states().iter().zip(groups).enumerate();
        let placed = states.map(|(s, (state, group))| StatePlacement {
            state: StateId(s as u32),
            home: DeviceIndex(assignment.homes[group].into()),
            dtype: match state.ty.dtype.is_float() {
                true => self.request.state_dtype,
                false => state.ty.dtype,
            },
        });
        placed.collect()
    }
}
