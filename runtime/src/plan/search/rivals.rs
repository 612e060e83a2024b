//! Assignments that need no search, to measure one against.

use super::problem::{Assignment, Problem, has};

/// Every node on the most preferred device that can run it, as most engines do. `None` if a node has
/// none.
pub(in crate::plan) fn greedy(problem: &Problem) -> Option<Assignment> {
    let mut homes: Vec<Option<u8>> = vec![None; problem.states.len()];
    let mut devices = vec![Vec::new(); problem.phases.len()];
    for (n, node) in problem.nodes.iter().enumerate() {
        // a device for all phases, so that states are where they are used
        let runs = |d: &usize| {
            let mut homes = node.states.iter().filter_map(|&s| homes[s]);
            homes.all(|home| has(problem.sharers[usize::from(home)], *d))
                && problem
                    .phases
                    .iter()
                    .all(|phase| phase.node_us[n][*d].is_finite())
        };
        let device = (0..problem.devices).find(runs)? as u8;
        devices.iter_mut().for_each(|phase| phase.push(device));
        for &state in &node.states {
            homes[state].get_or_insert(device);
        }
    }
    let homes = homes.into_iter().map(Option::unwrap_or_default);
    Some(Assignment {
        devices,
        homes: homes.collect(),
    })
}

/// Everything on one device. `None` if it can't run all.
pub(in crate::plan) fn single(problem: &Problem, device: usize) -> Option<Assignment> {
    let runs = |phase: &super::PhasePrices| phase.node_us.iter().all(|us| us[device].is_finite());
    problem.phases.iter().all(runs).then(|| Assignment {
        devices: vec![vec![device as u8; problem.nodes.len()]; problem.phases.len()],
        homes: vec![device as u8; problem.states.len()],
    })
}
