//! The cheapest way through a run of nodes in one phase, for each device to end on.
//!
//! Nodes are placed one after the other. What the rest of the run can cost depends only on the device
//! of the last node and on where the live values are; of the ways that agree in these the cheapest
//! is kept, so the result is exact.

use std::ops::Range;

use super::problem::{PhasePrices, Problem, Set, bit, has};

/// Where a run is entered: a live value, and the device that made it last.
pub(super) type Entry = Option<(usize, usize)>;

/// A way through a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    /// Microseconds.
    pub us: f64,
    /// The device of each node.
    pub devices: Vec<u8>,
}

/// Most live values that can be followed: each takes a byte of a 128-bit number.
const MAX_LIVE: usize = 15;
/// Most ways kept at a node; the result is exact if there are no more, as in graphs of transformers.
const MAX_WAYS: usize = 4096;

/// A way up to some node.
#[derive(Clone, Copy)]
struct Way {
    /// Last device in the low byte, then for each live value where it is.
    key: u128,
    us: f64,
    /// The way it goes on from, among those of the node before.
    before: u32,
}

const NO_DEVICE: u128 = 0xff;

impl Way {
    fn last(&self) -> u128 {
        self.key & 0xff
    }

    fn at(&self, live: usize) -> Set {
        (self.key >> (8 * (live + 1))) as Set
    }
}

/// What [`cheapest`] found.
#[derive(Clone, Debug)]
pub(super) struct Cheapest {
    /// For each device, the cheapest way that ends on it.
    pub to: Vec<Option<Path>>,
    /// Whether no cheaper ones can exist.
    pub exact: bool,
}

/// For each device, the cheapest way through `nodes` that ends on it; states have their home on
/// `home`. `None` if more values are alive than can be followed.
///
/// At the end of the graph, results are brought to the host.
pub(super) fn cheapest(
    problem: &Problem,
    phase: &PhasePrices,
    nodes: Range<usize>,
    entry: Entry,
    home: usize,
) -> Option<Cheapest> {
    let mut live: Vec<usize> = entry.iter().map(|&(value, _)| value).collect();
    let key = entry.map_or(NO_DEVICE, |(_, d)| d as u128 | u128::from(bit(d)) << 8);
    let start = Way {
        key,
        us: 0.0,
        before: 0,
    };
    let mut steps = vec![vec![start]];
    for n in nodes.clone() {
        let after = live_after(problem, &live, n);
        if after.len() > MAX_LIVE {
            return None;
        }
        let ways = steps.last().map_or(&[][..], Vec::as_slice);
        steps.push(step(problem, phase, n, home, ways, &live, &after));
        live = after;
    }
    let mut best: Vec<Option<(f64, usize)>> = vec![None; problem.devices];
    for (index, way) in steps.last()?.iter().enumerate() {
        let mut us = way.us;
        if nodes.end == problem.nodes.len() {
            for (i, &value) in live.iter().enumerate() {
                if problem.values[value].result {
                    us += problem.result_us(phase, value, way.at(i));
                }
            }
        }
        let Some(slot) = best.get_mut(way.last() as usize) else {
            continue;
        };
        if us.is_finite() && slot.is_none_or(|(least, _)| us < least) {
            *slot = Some((us, index));
        }
    }
    let path = |(us, index)| Path {
        us,
        devices: devices(&steps, index),
    };
    Some(Cheapest {
        to: best.into_iter().map(|b| b.map(path)).collect(),
        exact: steps.iter().all(|ways| ways.len() < MAX_WAYS),
    })
}

/// The values that are alive after node `n`, those in `live` before it.
pub(super) fn live_after(problem: &Problem, live: &[usize], n: usize) -> Vec<usize> {
    let all = live.iter().chain(&problem.nodes[n].makes).copied();
    let needed = |&value: &usize| problem.values[value].last > n || problem.values[value].result;
    all.filter(needed).collect()
}

fn step(
    problem: &Problem,
    phase: &PhasePrices,
    n: usize,
    home: usize,
    ways: &[Way],
    live: &[usize],
    after: &[usize],
) -> Vec<Way> {
    let node = &problem.nodes[n];
    let at_home = |d: usize| node.states.is_empty() || has(problem.sharers[home], d);
    let usable = (0..problem.devices).filter(|&d| phase.node_us[n][d].is_finite() && at_home(d));
    let mut next = Vec::with_capacity(ways.len() * problem.devices);
    for device in usable {
        for (before, way) in ways.iter().enumerate() {
            let mut us = way.us + phase.node_us[n][device];
            if way.last() != device as u128 {
                us += phase.steps * phase.dispatch_us[device];
            }
            let mut key = device as u128;
            let mut at = [0; MAX_LIVE];
            for (i, set) in at.iter_mut().enumerate().take(live.len()) {
                *set = way.at(i);
            }
            for &value in &node.reads {
                if let Some(i) = live.iter().position(|&v| v == value) {
                    us += problem.copy_us(phase, value, &mut at[i], device);
                }
            }
            for (i, value) in after.iter().enumerate() {
                let set = match live.iter().position(|v| v == value) {
                    Some(i) => at[i],
                    None => bit(device),
                };
                key |= u128::from(set) << (8 * (i + 1));
            }
            let before = before as u32;
            next.push(Way { key, us, before });
        }
    }
    // stable: of equal ways the one over more preferred devices stays
    next.sort_by(|a, b| a.key.cmp(&b.key).then(a.us.total_cmp(&b.us)));
    next.dedup_by_key(|way| way.key);
    if next.len() > MAX_WAYS {
        next.sort_by(|a, b| a.us.total_cmp(&b.us));
        next.truncate(MAX_WAYS);
    }
    next
}

/// The devices of the way that ends at `index` of the last step.
fn devices(steps: &[Vec<Way>], mut index: usize) -> Vec<u8> {
    let mut devices = Vec::with_capacity(steps.len());
    for ways in steps.iter().skip(1).rev() {
        devices.push(ways[index].last() as u8);
        index = ways[index].before as usize;
    }
    devices.reverse();
    devices
}
