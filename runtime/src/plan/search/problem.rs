//! What everything costs, and the price of an assignment.

use crate::plan::overlap;

/// Most devices that a problem may have: sets of them are bytes.
pub(in crate::plan) const MAX_DEVICES: usize = 8;

/// A set of devices, a bit each.
pub(super) type Set = u8;

/// The choices, and what they cost.
#[derive(Clone, Debug)]
pub(in crate::plan) struct Problem {
    /// How many devices there are, most preferred first; at most [`MAX_DEVICES`].
    pub devices: usize,
    /// The nodes in execution order.
    pub nodes: Vec<NodeNeeds>,
    /// The values that nodes make.
    pub values: Vec<ValueUse>,
    /// The weights.
    pub weights: Vec<Resident>,
    /// The states.
    pub states: Vec<Resident>,
    /// For each device, the set of those that can use states whose home it is, itself among them.
    pub sharers: Vec<Set>,
    /// The cost of moving values.
    pub links: Links,
    /// What is run, each with its share in the objective.
    pub phases: Vec<PhasePrices>,
    /// Bytes of weights and states that each device may hold; `None`: any.
    pub budgets: Vec<Option<u64>>,
}

/// What a node needs and makes, by index.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::plan) struct NodeNeeds {
    /// Values made by nodes before it. What the host gives is there for every device.
    pub reads: Vec<usize>,
    /// Values it makes.
    pub makes: Vec<usize>,
    /// Weights it reads.
    pub weights: Vec<usize>,
    /// States it reads or writes.
    pub states: Vec<usize>,
}

/// How long a value is needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::plan) struct ValueUse {
    /// The last node that reads it; its maker if none does.
    pub last: usize,
    /// The host reads it in the end.
    pub result: bool,
}

/// Bytes held as long as the model is loaded.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::plan) struct Resident {
    /// Bytes on each device.
    pub bytes: Vec<u64>,
    /// First and last node that uses it.
    pub users: (usize, usize),
}

/// The cost of moving a value from one device (first index) to another.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::plan) struct Links {
    /// Microseconds however small it is.
    pub latency_us: Vec<Vec<f64>>,
    /// Microseconds a byte.
    pub us_per_byte: Vec<Vec<f64>>,
    /// Microseconds of bringing a result from each device to the host, and those a byte.
    pub to_host: Vec<(f64, f64)>,
}

/// What one phase costs.
#[derive(Clone, Debug)]
pub(in crate::plan) struct PhasePrices {
    /// What a microsecond counts in the objective.
    pub weight: f64,
    /// Microseconds of each node on each device; infinite where it can't or mustn't run.
    pub node_us: Vec<Vec<f64>>,
    /// Microseconds of starting a segment on each device.
    pub dispatch_us: Vec<f64>,
    /// How often each segment and copy happens in the phase.
    pub steps: f64,
    /// Bytes of each value in a step.
    pub value_bytes: Vec<f64>,
    /// The share of each step in the phase, where segments of successive steps run at once if they can. Empty: one
    /// segment runs after the other.
    pub overlapping: Vec<f64>,
}

/// Where everything goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::plan) struct Assignment {
    /// For each phase, the device of each node.
    pub devices: Vec<Vec<u8>>,
    /// The home of each state.
    pub homes: Vec<u8>,
}

/// What an assignment costs.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::plan) struct Priced {
    /// Microseconds of each phase.
    pub phase_us: Vec<f64>,
    /// Microseconds of each phase if one segment ran after the other.
    pub in_turn_us: Vec<f64>,
    /// Weighted sum of the phases.
    pub objective: f64,
    /// Bytes of weights and states on each device.
    pub bytes: Vec<u64>,
    /// Whether those are within the budgets.
    pub fits: bool,
}

impl Problem {
    /// Prices an assignment, or `None` if a node can't run where it would.
    ///
    /// A segment is a longest run of nodes on one device. A value is copied to a device once,
    /// before the first node there that reads it, from wherever it then is for the least. Steps that overlap do
    /// so in the waves of [`overlap`].
    pub fn price(&self, assignment: &Assignment) -> Option<Priced> {
        let phases = self.phases.iter().zip(&assignment.devices);
        let us = phases.map(|(phase, devices)| self.phase_us(phase, devices));
        let (phase_us, in_turn_us): (Vec<f64>, Vec<f64>) = us.unzip();
        let mut homes = assignment.homes.iter().enumerate();
        let homes_fit = homes.all(|(state, &home)| self.may_be_home(assignment, state, home));
        if !homes_fit || !phase_us.iter().all(|us| us.is_finite()) {
            return None;
        }
        let bytes = self.bytes(assignment);
        let weighted = phase_us.iter().zip(&self.phases);
        Some(Priced {
            objective: weighted.map(|(us, phase)| us * phase.weight).sum(),
            fits: self.fits(&bytes),
            phase_us,
            in_turn_us,
            bytes,
        })
    }

    /// Whether all that use `state` can use it if its home is `home`.
    pub(super) fn may_be_home(&self, assignment: &Assignment, state: usize, home: u8) -> bool {
        let sharers = self.sharers[usize::from(home)];
        let (first, last) = self.states[state].users;
        let users = (first..=last).filter(|&n| self.nodes[n].states.contains(&state));
        let mut devices = users.flat_map(|n| assignment.devices.iter().map(move |phase| phase[n]));
        devices.all(|d| has(sharers, d.into()))
    }

    /// Whether bytes on each device are within the budgets.
    pub(super) fn fits(&self, bytes: &[u64]) -> bool {
        let within = |(bytes, budget): (&u64, &Option<u64>)| budget.is_none_or(|b| *bytes <= b);
        bytes.iter().zip(&self.budgets).all(within)
    }

    /// The time of a phase as it runs, and if one segment ran after the other.
    fn phase_us(&self, phase: &PhasePrices, devices: &[u8]) -> (f64, f64) {
        let mut at: Vec<Set> = vec![0; self.values.len()];
        let (mut us, mut copies) = (0.0, 0.0);
        let mut segments: Vec<(usize, f64)> = Vec::new();
        for (n, &device) in devices.iter().enumerate() {
            let device = usize::from(device);
            let mut own = phase.node_us[n][device];
            if segments.last().is_none_or(|s| s.0 != device) {
                own += phase.steps * phase.dispatch_us[device];
                segments.push((device, 0.0));
            }
            us += own;
            segments.last_mut().into_iter().for_each(|s| s.1 += own);
            for &value in &self.nodes[n].reads {
                copies += self.copy_us(phase, value, &mut at[value], device);
            }
            for &value in &self.nodes[n].makes {
                at[value] = bit(device);
            }
        }
        let results = at
            .iter()
            .enumerate()
            .filter(|(value, _)| self.values[*value].result);
        copies += results
            .map(|(value, &from)| self.result_us(phase, value, from))
            .sum::<f64>();
        let in_turn = us + copies;
        if phase.overlapping.is_empty() || !in_turn.is_finite() || !self.can_overlap(devices) {
            return (in_turn, in_turn);
        }
        let share = |share: &f64| segments.iter().map(|(_, us)| us * share).collect();
        let steps: Vec<Vec<f64>> = phase.overlapping.iter().map(share).collect();
        let devices: Vec<usize> = segments.iter().map(|s| s.0).collect();
        (overlap::predict(&steps, &devices) + copies, in_turn)
    }

    /// Whether successive steps of nodes on these devices can run at once: each state is used in one segment.
    fn can_overlap(&self, devices: &[u8]) -> bool {
        let mut segment = 0;
        let mut user = vec![None; self.states.len()];
        for (n, node) in self.nodes.iter().enumerate() {
            segment += usize::from(n > 0 && devices[n] != devices[n - 1]);
            for &state in &node.states {
                if *user[state].get_or_insert(segment) != segment {
                    return false;
                }
            }
        }
        segment > 0
    }

    /// Whether steps of a phase may run at once.
    pub(super) fn overlaps(&self) -> bool {
        self.devices > 1 && self.phases.iter().any(|p| !p.overlapping.is_empty())
    }

    /// The same with one segment after the other.
    pub(in crate::plan) fn in_turn(&self) -> Problem {
        let mut problem = self.clone();
        problem
            .phases
            .iter_mut()
            .for_each(|p| p.overlapping.clear());
        problem
    }

    /// The cost of having `value`, which is at `from`, at `to` as well.
    pub(super) fn copy_us(
        &self,
        phase: &PhasePrices,
        value: usize,
        from: &mut Set,
        to: usize,
    ) -> f64 {
        if has(*from, to) {
            return 0.0;
        }
        let bytes = phase.value_bytes[value];
        let held = *from;
        let ways = (0..self.devices).filter(|&d| has(held, d));
        let costs =
            ways.map(|d| self.links.latency_us[d][to] + bytes * self.links.us_per_byte[d][to]);
        *from |= bit(to);
        phase.steps * costs.fold(f64::INFINITY, f64::min)
    }

    /// The cost of bringing the result `value` from one of `from` to the host.
    pub(super) fn result_us(&self, phase: &PhasePrices, value: usize, from: Set) -> f64 {
        let ways = (0..self.devices).filter(|&d| has(from, d));
        let costs = ways.map(|d| {
            let (latency, us_per_byte) = self.links.to_host[d];
            latency + phase.value_bytes[value] * us_per_byte
        });
        phase.steps * costs.fold(f64::INFINITY, f64::min)
    }

    fn bytes(&self, assignment: &Assignment) -> Vec<u64> {
        let mut held: Vec<Set> = vec![0; self.weights.len()];
        for (n, node) in self.nodes.iter().enumerate() {
            for &weight in &node.weights {
                for phase in &assignment.devices {
                    held[weight] |= bit(phase[n].into());
                }
            }
        }
        let mut bytes = vec![0u64; self.devices];
        let mut add = |device: usize, more: u64| bytes[device] = bytes[device].saturating_add(more);
        for (weight, held) in self.weights.iter().zip(held) {
            for device in (0..self.devices).filter(|&d| has(held, d)) {
                add(device, weight.bytes[device]);
            }
        }
        for (state, &home) in self.states.iter().zip(&assignment.homes) {
            add(home.into(), state.bytes[usize::from(home)]);
        }
        bytes
    }
}

pub(super) const fn bit(device: usize) -> Set {
    1 << device
}

pub(super) const fn has(set: Set, device: usize) -> bool {
    set & bit(device) != 0
}
