//! The best assignment of a small problem: all phases at once, within the budgets.
//!
//! As in `frontier`, nodes are placed one after the other. Ways agree if the rest can't tell them
//! apart; of these, all are kept that no other beats in both time and bytes on every device.

use std::collections::BTreeMap;

use super::problem::{Assignment, Problem, Set, bit, has};

/// Nodes times phases up to which a problem is small.
const SMALL: usize = 18;

pub(super) fn is_small(problem: &Problem) -> bool {
    problem.nodes.len() * problem.phases.len() <= SMALL
}

/// What the rest of the nodes depend on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Frontier {
    /// The last device of each phase.
    last: Vec<Option<u8>>,
    /// For each phase and value, where it is; 0 before it is made and when it is not needed any more.
    at: Vec<Vec<Set>>,
    /// For each weight that is needed again, where it is held.
    held: Vec<Set>,
    /// For each state that is needed again, its home.
    homes: Vec<Option<u8>>,
}

#[derive(Clone, Debug)]
struct Way {
    objective: f64,
    bytes: Vec<u64>,
    assignment: Assignment,
}

impl Way {
    fn beats(&self, other: &Way) -> bool {
        let mut bytes = self.bytes.iter().zip(&other.bytes);
        self.objective <= other.objective && bytes.all(|(a, b)| a <= b)
    }
}

pub(super) fn solve(problem: &Problem) -> Option<Assignment> {
    let phases = problem.phases.len();
    let start = Frontier {
        last: vec![None; phases],
        at: vec![vec![0; problem.values.len()]; phases],
        held: vec![0; problem.weights.len()],
        homes: vec![None; problem.states.len()],
    };
    let way = Way {
        objective: 0.0,
        bytes: vec![0; problem.devices],
        assignment: Assignment {
            devices: vec![Vec::new(); phases],
            homes: vec![0; problem.states.len()],
        },
    };
    let mut ways = BTreeMap::from([(start, vec![way])]);
    for n in 0..problem.nodes.len() {
        let mut next: BTreeMap<Frontier, Vec<Way>> = BTreeMap::new();
        for (frontier, ways) in &ways {
            for homes in homes(problem, n, frontier) {
                for devices in choices(problem.devices, phases) {
                    for way in ways {
                        let placed = place(problem, n, frontier.clone(), way, &homes, &devices);
                        if let Some((frontier, way)) = placed {
                            keep(next.entry(frontier).or_default(), way);
                        }
                    }
                }
            }
        }
        ways = next;
    }
    let ended = ways.into_iter().flat_map(|(frontier, ways)| {
        let copies = results_us(problem, &frontier);
        ways.into_iter().map(move |mut way| {
            way.objective += copies;
            way
        })
    });
    let best = ended.reduce(|a, b| if b.objective < a.objective { b } else { a });
    best.filter(|b| b.objective.is_finite())
        .map(|b| b.assignment)
}

fn keep(ways: &mut Vec<Way>, way: Way) {
    if !ways.iter().any(|other| other.beats(&way)) {
        ways.retain(|other| !way.beats(other));
        ways.push(way);
    }
}

/// All words of `length` devices.
fn choices(devices: usize, length: usize) -> impl Iterator<Item = Vec<u8>> {
    let count = devices.pow(length as u32);
    (0..count).map(move |mut word| {
        let digit = |_| {
            let digit = word % devices;
            word /= devices;
            digit as u8
        };
        (0..length).map(digit).collect()
    })
}

/// The homes that the states of node `n` may have: those they have, any for those without.
fn homes(problem: &Problem, n: usize, frontier: &Frontier) -> Vec<Vec<(usize, u8)>> {
    let states = &problem.nodes[n].states;
    let free: Vec<usize> = states
        .iter()
        .copied()
        .filter(|&s| frontier.homes[s].is_none())
        .collect();
    let words = choices(problem.devices, free.len());
    words
        .map(|word| free.iter().copied().zip(word).collect())
        .collect()
}

fn place(
    problem: &Problem,
    n: usize,
    mut frontier: Frontier,
    way: &Way,
    new_homes: &[(usize, u8)],
    devices: &[u8],
) -> Option<(Frontier, Way)> {
    let node = &problem.nodes[n];
    let mut way = way.clone();
    let hold = |bytes: &mut u64, more: u64| *bytes = bytes.saturating_add(more);
    for &(state, home) in new_homes {
        frontier.homes[state] = Some(home);
        way.assignment.homes[state] = home;
        hold(
            &mut way.bytes[usize::from(home)],
            problem.states[state].bytes[usize::from(home)],
        );
    }
    for (p, (&device, phase)) in devices.iter().zip(&problem.phases).enumerate() {
        let d = usize::from(device);
        let mut homes = node.states.iter().filter_map(|&s| frontier.homes[s]);
        if !homes.all(|home| has(problem.sharers[usize::from(home)], d)) {
            return None;
        }
        let mut us = phase.node_us[n][d];
        if frontier.last[p] != Some(device) {
            us += phase.steps * phase.dispatch_us[d];
        }
        frontier.last[p] = Some(device);
        for &value in &node.reads {
            us += problem.copy_us(phase, value, &mut frontier.at[p][value], d);
        }
        for &value in &node.makes {
            frontier.at[p][value] = bit(d);
        }
        for &weight in &node.weights {
            if !has(frontier.held[weight], d) {
                frontier.held[weight] |= bit(d);
                hold(&mut way.bytes[d], problem.weights[weight].bytes[d]);
            }
        }
        way.assignment.devices[p].push(device);
        way.objective += us * phase.weight;
    }
    if !way.objective.is_finite() || !problem.fits(&way.bytes) {
        return None;
    }
    forget(problem, n, &mut frontier);
    Some((frontier, way))
}

/// Drops what no later node depends on.
fn forget(problem: &Problem, n: usize, frontier: &mut Frontier) {
    for at in &mut frontier.at {
        for (at, value) in at.iter_mut().zip(&problem.values) {
            if value.last <= n && !value.result {
                *at = 0;
            }
        }
    }
    for (held, weight) in frontier.held.iter_mut().zip(&problem.weights) {
        if weight.users.1 <= n {
            *held = 0;
        }
    }
    for (home, state) in frontier.homes.iter_mut().zip(&problem.states) {
        if state.users.1 <= n {
            *home = None;
        }
    }
}

/// What bringing the results to the host adds to the objective.
fn results_us(problem: &Problem, frontier: &Frontier) -> f64 {
    let phases = problem.phases.iter().zip(&frontier.at);
    let us = phases.map(|(phase, at)| {
        let results = at
            .iter()
            .enumerate()
            .filter(|(v, _)| problem.values[*v].result);
        let copies = results.map(|(v, &at)| problem.result_us(phase, v, at));
        copies.sum::<f64>() * phase.weight
    });
    us.sum()
}
