//! Prompts whose steps overlap: two devices share the nodes so that both are busy.

use super::problem::{PhasePrices, Problem};

/// Ways that are tried.
const WAYS: usize = 2;

/// Problems in which the first nodes of a phase that overlaps are left to one device and the rest to another, cut
/// where both take about the same time: the most promising ways. A node that the one can't run is left to the other.
pub(super) fn halves(problem: &Problem) -> Vec<Problem> {
    let mut ways = Vec::new();
    for (p, phase) in problem.phases.iter().enumerate() {
        if phase.overlapping.is_empty() {
            continue;
        }
        let alone = (0..problem.devices).map(|d| phase.node_us.iter().map(|us| us[d]).sum());
        let alone = alone.fold(f64::INFINITY, f64::min);
        for first in 0..problem.devices {
            for second in (0..problem.devices).filter(|d| *d != first) {
                let cut = best_cut(problem, phase, first, second);
                ways.extend(cut.filter(|c| c.0 < alone).map(|c| (c, p, first, second)));
            }
        }
    }
    ways.sort_by(|a, b| a.0.0.total_cmp(&b.0.0));
    ways.truncate(WAYS);
    let forced = |((_, cut), p, first, second): ((f64, usize), usize, usize, usize)| {
        let mut forced = problem.in_turn();
        for (n, us) in forced.phases[p].node_us.iter_mut().enumerate() {
            let only = match n < cut {
                true => able(us, first, second),
                false => able(us, second, first),
            };
            for (device, us) in us.iter_mut().enumerate() {
                if device != only {
                    *us = f64::INFINITY;
                }
            }
        }
        forced
    };
    ways.into_iter().map(forced).collect()
}

/// The one that is wanted if it can run a node that takes `us` on each device, else the other.
fn able(us: &[f64], wanted: usize, other: usize) -> usize {
    if us[wanted].is_finite() {
        wanted
    } else {
        other
    }
}

/// Where to cut between two devices, through no state, and about how long the phase then takes.
fn best_cut(
    problem: &Problem,
    phase: &PhasePrices,
    first: usize,
    second: usize,
) -> Option<(f64, usize)> {
    let add = |load: &mut [f64; 2], us: &[f64], wanted: usize, other: usize| {
        let device = able(us, wanted, other);
        load[usize::from(device == second)] += us[device];
    };
    let nodes = &phase.node_us;
    // what is left to each device after the cut
    let mut after = vec![[0.0; 2]; nodes.len() + 1];
    for (n, us) in nodes.iter().enumerate().rev() {
        after[n] = after[n + 1];
        add(&mut after[n], us, second, first);
    }
    let mut in_state = vec![false; nodes.len() + 1];
    for state in &problem.states {
        in_state[state.users.0 + 1..=state.users.1].fill(true);
    }
    let steps = phase.overlapping.len() as f64;
    let (mut before, mut best) = ([0.0; 2], None);
    for (n, us) in nodes.iter().enumerate() {
        add(&mut before, us, first, second);
        let cut = n + 1;
        let [a, b] = [0, 1].map(|i| before[i] + after[cut][i]);
        // the slower sets the pace; at the ends the other works alone
        let time = a.max(b) + a.min(b) / steps;
        let better = best.is_none_or(|(least, _)| time < least);
        if cut < nodes.len() && !in_state[cut] && time.is_finite() && better {
            best = Some((time, cut));
        }
    }
    best
}

/// A problem whose assignments have no higher objectives than those of `problem`, in which nothing overlaps.
///
/// In a wave at most two devices are busy. If each counts with a share of its time, and no two shares are more than
/// one together, then what all count is no more than what the waves take. The shares are those that make the two
/// fastest devices equal.
pub(super) fn relaxed(problem: &Problem) -> Problem {
    let mut relaxed = problem.in_turn();
    for (phase, own) in relaxed.phases.iter_mut().zip(&problem.phases) {
        if own.overlapping.is_empty() {
            continue;
        }
        let shares = shares(own, problem.devices);
        let scale = |row: &mut Vec<f64>| row.iter_mut().zip(&shares).for_each(|(us, s)| *us *= s);
        phase.node_us.iter_mut().for_each(scale);
        scale(&mut phase.dispatch_us);
    }
    relaxed
}

fn shares(phase: &PhasePrices, devices: usize) -> Vec<f64> {
    let times: Vec<f64> = (0..devices)
        .map(|d| {
            // what it can't run counts as on the device that is best at it
            let us = |us: &Vec<f64>| match us[d].is_finite() {
                true => us[d],
                false => us.iter().copied().fold(f64::INFINITY, f64::min),
            };
            phase.node_us.iter().map(us).sum()
        })
        .collect();
    let mut order: Vec<usize> = (0..devices).collect();
    order.sort_by(|a, b| times[*a].total_cmp(&times[*b]));
    let &[fastest, next, ..] = order.as_slice() else {
        return vec![1.0; devices];
    };
    let both = times[fastest] + times[next];
    let least = match both > 0.0 && both.is_finite() {
        true => times[fastest] / both,
        false => 0.5,
    };
    let mut shares = vec![least; devices];
    shares[fastest] = 1.0 - least;
    shares
}
