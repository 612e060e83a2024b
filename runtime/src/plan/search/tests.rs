use proptest::prelude::*;

use super::*;
use crate::plan::objective::{Objective, energies};

/// A sequence of pseudo-random numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn us(&mut self) -> f64 {
        (1 + self.below(100)) as f64
    }
}

/// Devices with links and phases, without nodes.
fn bare(devices: usize, phases: usize, random: &mut Random) -> Problem {
    let mut links = Links::default();
    for from in 0..devices {
        let latency = |to: usize, r: &mut Random| if from == to { 0.0 } else { r.us() / 4.0 };
        links
            .latency_us
            .push((0..devices).map(|to| latency(to, random)).collect());
        links.us_per_byte.push(vec![0.1; devices]);
    }
    links.to_host = (0..devices).map(|_| (random.us() / 4.0, 0.1)).collect();
    let all = (1u16 << devices) as u8 - 1;
    let alone = |d: usize, r: &mut Random| if r.one_in(4) { all } else { 1 << d };
    Problem {
        devices,
        nodes: Vec::new(),
        values: Vec::new(),
        weights: Vec::new(),
        states: Vec::new(),
        sharers: (0..devices).map(|d| alone(d, random)).collect(),
        links,
        phases: (0..phases)
            .map(|_| PhasePrices {
                weight: random.us() / 10.0,
                node_us: Vec::new(),
                dispatch_us: (0..devices).map(|_| random.us() / 5.0).collect(),
                steps: (1 + random.below(3)) as f64,
                value_bytes: Vec::new(),
                overlapping: Vec::new(),
            })
            .collect(),
        budgets: vec![None; devices],
    }
}

impl Problem {
    /// Adds a node that reads `reads` and makes a value; on some devices it can't run.
    fn add(&mut self, reads: &[usize], random: &mut Random) -> usize {
        let (n, value) = (self.nodes.len(), self.values.len());
        for &read in reads {
            self.values[read].last = n;
        }
        self.nodes.push(NodeNeeds {
            reads: reads.to_vec(),
            makes: vec![value],
            ..NodeNeeds::default()
        });
        self.values.push(ValueUse {
            last: n,
            result: false,
        });
        let sure = random.below(self.devices);
        for phase in &mut self.phases {
            let us = |d: usize| match d != sure && random.one_in(5) {
                true => f64::INFINITY,
                false => random.us(),
            };
            phase.node_us.push((0..self.devices).map(us).collect());
            phase.value_bytes.push(random.us());
        }
        value
    }

    fn add_weight(&mut self, nodes: &[usize], random: &mut Random) {
        for &n in nodes {
            self.nodes[n].weights.push(self.weights.len());
        }
        let bytes = random.us() as u64;
        self.weights.push(Resident {
            bytes: (0..self.devices).map(|d| bytes + d as u64).collect(),
            users: (nodes[0], nodes[nodes.len() - 1]),
        });
    }

    fn add_state(&mut self, nodes: &[usize], random: &mut Random) {
        for &n in nodes {
            self.nodes[n].states.push(self.states.len());
        }
        self.states.push(Resident {
            bytes: vec![random.us() as u64; self.devices],
            users: (nodes[0], nodes[nodes.len() - 1]),
        });
    }

    /// Budgets of which some bind.
    fn limit(&mut self, random: &mut Random) {
        let held = self.weights.iter().chain(&self.states);
        let all: u64 = held.map(|h| h.bytes[0]).sum();
        for budget in &mut self.budgets {
            *budget = (!random.one_in(3)).then(|| all * random.below(100) as u64 / 100);
        }
    }
}

/// Any graph: values that live long, weights and states that nodes share.
fn any_graph(nodes: usize, devices: usize, phases: usize, seed: u64) -> Problem {
    let random = &mut Random(seed);
    let mut problem = bare(devices, phases, random);
    for n in 0..nodes {
        let mut reads: Vec<usize> = (0..n.min(2)).map(|_| random.below(n)).collect();
        reads.dedup();
        problem.add(&reads, random);
        if random.one_in(2) {
            problem.add_weight(&[n], random);
        }
    }
    for _ in 0..random.below(3) {
        let (a, b) = (random.below(nodes), random.below(nodes));
        if a != b {
            problem.add_weight(&[a.min(b), a.max(b)], random);
        }
    }
    for _ in 0..random.below(3) {
        let a = random.below(nodes);
        let b = (a + 1 + random.below(2)).min(nodes - 1);
        let users: Vec<usize> = (a..=b).collect();
        problem.add_state(&users, random);
    }
    problem.values[nodes - 1].result = true;
    if random.one_in(2) {
        problem.values[random.below(nodes)].result = true;
    }
    problem
}

/// Layers of two halves with a residual each, states in the first, the first weight used again at
/// the end. Layers cost the same unless `uneven`.
fn layers(count: usize, devices: usize, phases: usize, uneven: bool, seed: u64) -> Problem {
    let random = &mut Random(seed);
    let mut problem = bare(devices, phases, random);
    let mut x = problem.add(&[], random);
    for layer in 0..count {
        let same = &mut Random(seed + 1);
        let random = if uneven {
            &mut Random(seed + layer as u64)
        } else {
            same
        };
        let a = problem.add(&[x], random);
        let b = problem.add(&[x, a], random);
        let nodes = [problem.nodes.len() - 2, problem.nodes.len() - 1];
        problem.add_weight(&nodes[..1], random);
        problem.add_weight(&nodes[1..], random);
        problem.add_state(&nodes, random);
        x = problem.add(&[b], random);
        problem.add_weight(&[problem.nodes.len() - 1], random);
    }
    let end = problem.add(&[x], random);
    problem.add_weight(&[0, problem.nodes.len() - 1], random);
    problem.values[end].result = true;
    problem
}

/// The best by trying all.
fn by_trying_all(problem: &Problem) -> Option<f64> {
    let words = |length: usize| {
        (0..problem.devices.pow(length as u32)).map(move |mut word| {
            let digits = (0..length).map(|_| {
                let digit = word % problem.devices;
                word /= problem.devices;
                digit as u8
            });
            digits.collect::<Vec<u8>>()
        })
    };
    let nodes = problem.nodes.len();
    let mut best: Option<f64> = None;
    for homes in words(problem.states.len()) {
        for word in words(nodes * problem.phases.len()) {
            let assignment = Assignment {
                devices: word.chunks(nodes).map(<[u8]>::to_vec).collect(),
                homes: homes.clone(),
            };
            let priced = problem.price(&assignment).filter(|p| p.fits);
            if let Some(priced) = priced {
                best = Some(best.map_or(priced.objective, |b| b.min(priced.objective)));
            }
        }
    }
    best
}

fn assert_best(problem: &Problem) {
    let found = search(problem);
    let best = by_trying_all(problem);
    match (&found, best) {
        (Some(found), Some(best)) => {
            assert!(
                close(found.priced.objective, best),
                "{} instead of {best}",
                found.priced.objective
            );
            assert!(found.gap() < 1e-9);
        }
        (None, None) => {}
        _ => panic!("found {found:?}, best {best:?}"),
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

proptest! {
    #[test]
    fn small_graphs_of_one_phase_are_solved_exactly(
        nodes in 2usize..8, devices in 2usize..4, seed: u64, limited: bool,
    ) {
        let mut problem = any_graph(nodes, devices, 1, seed);
        problem.states.truncate(1);
        for node in &mut problem.nodes {
            node.states.retain(|&s| s == 0);
        }
        if limited {
            problem.limit(&mut Random(seed));
        }
        assert_best(&problem);
    }

    #[test]
    fn small_graphs_of_two_phases_within_budgets_are_solved_exactly(
        nodes in 2usize..5, devices in 2usize..4, seed: u64,
    ) {
        let mut problem = any_graph(nodes, devices, 2, seed);
        problem.states.truncate(1);
        for node in &mut problem.nodes {
            node.states.retain(|&s| s == 0);
        }
        problem.limit(&mut Random(seed));
        assert_best(&problem);
    }

}

proptest! {
    // the exact solution takes long
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(8)))]

    #[test]
    fn chained_parts_are_as_good_as_the_exact_solution(
        count in 1usize..3, devices in 2usize..4, seed in 0..u64::MAX / 2, uneven: bool,
    ) {
        let problem = layers(count, devices, 2, uneven, seed);
        let exact = exact::solve(&problem).and_then(|a| problem.price(&a));
        let chained = chain::solve(&problem, &mut chain::Solved::default()).expect("one value is alive");
        let found = chained.assignment.as_ref().and_then(|a| problem.price(a));
        match (found, exact) {
            (Some(found), Some(exact)) => {
                prop_assert!(close(found.objective, exact.objective));
                prop_assert!(close(found.objective, chained.bound));
            }
            (None, None) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn chained_parts_keep_budgets_and_bound_the_loss(
        count in 1usize..3, devices in 2usize..4, seed in 0..u64::MAX / 2, uneven: bool,
    ) {
        let mut problem = layers(count, devices, 2, uneven, seed);
        problem.limit(&mut Random(seed));
        let exact = exact::solve(&problem).and_then(|a| problem.price(&a));
        let chained = chain::solve(&problem, &mut chain::Solved::default()).expect("one value is alive");
        let found = chained.assignment.as_ref().and_then(|a| problem.price(a));
        if let Some(exact) = &exact {
            prop_assert!(chained.bound <= exact.objective * (1.0 + 1e-9));
        }
        if let Some(found) = found {
            prop_assert!(found.fits);
            let exact = exact.expect("what was found is a solution");
            prop_assert!(found.objective >= exact.objective * (1.0 - 1e-9));
        }
    }

}

proptest! {
    #[test]
    fn no_rival_is_better(count in 3usize..10, devices in 1usize..5, seed in 0..u64::MAX / 2, limited: bool) {
        let mut problem = layers(count, devices, 2, seed % 2 == 0, seed);
        if limited {
            problem.limit(&mut Random(seed));
        }
        let found = search(&problem);
        let rivals = greedy(&problem).into_iter().chain((0..devices).filter_map(|d| single(&problem, d)));
        for rival in rivals {
            let rival = problem.price(&rival).filter(|p| p.fits);
            if let Some(rival) = rival {
                let found = found.as_ref().expect("a rival fits");
                prop_assert!(found.priced.objective <= rival.objective);
            }
        }
        if let Some(found) = found {
            prop_assert_eq!(problem.price(&found.assignment), Some(found.priced));
        }
    }
}

/// Layers whose weights are as large on every device.
fn equal_layers(count: usize, devices: usize, seed: u64) -> Problem {
    let mut problem = layers(count, devices, 2, seed.is_multiple_of(2), seed);
    for weight in &mut problem.weights {
        weight.bytes = vec![weight.bytes[0]; devices];
    }
    problem
}

proptest! {
    // a few searches each
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.div_ceil(8)))]

    #[test]
    fn the_objective_memory_holds_no_byte_twice_where_one_device_would_not(
        count in 6usize..10,
        devices in 1usize..4,
        seed in 0..u64::MAX / 2,
    ) {
        let problem = equal_layers(count, devices, seed);
        let held = problem.weights.iter().chain(&problem.states);
        let once: u64 = held.map(|h| h.bytes[0]).sum();
        let bytes = |found: &Found| found.priced.bytes.iter().sum::<u64>();
        let least = Objective::Memory.search(&problem, &vec![1.0; devices]);
        let fastest = search(&problem);
        prop_assert_eq!(least.is_some(), fastest.is_some());
        if let (Some(least), Some(fastest)) = (least, fastest) {
            prop_assert!(once <= bytes(&least) && bytes(&least) <= bytes(&fastest));
            if (0..devices).any(|d| single(&problem, d).is_some()) {
                prop_assert_eq!(bytes(&least), once);
            }
            prop_assert_eq!(problem.price(&least.assignment), Some(least.priced));
        }
    }

    #[test]
    fn the_objective_energy_takes_no_more_than_any_other_way(
        count in 6usize..10,
        watts in prop::collection::vec(0.1..20.0f64, 1..4),
        seed in 0..u64::MAX / 2,
    ) {
        let devices = watts.len();
        let problem = equal_layers(count, devices, seed);
        let energy = energies(&problem, &watts);
        let least = Objective::Energy.search(&problem, &watts);
        let mut ways: Vec<Assignment> = (0..devices).filter_map(|d| single(&problem, d)).collect();
        ways.extend(greedy(&problem));
        ways.extend(search(&problem).map(|f| f.assignment));
        if let Some(least) = least {
            let own = energy.price(&least.assignment).unwrap().objective;
            for way in ways {
                if let Some(other) = energy.price(&way) {
                    prop_assert!(own <= other.objective * (1.0 + 1e-9));
                }
            }
            // what is told of it are times
            prop_assert_eq!(problem.price(&least.assignment), Some(least.priced));
        }
    }
}

/// Lets the steps of the first phase overlap.
fn overlapping(mut problem: Problem, steps: usize) -> Problem {
    problem.phases[0].steps = steps as f64;
    problem.phases[0].overlapping = vec![1.0 / steps as f64; steps];
    problem
}

proptest! {
    #[test]
    fn where_steps_overlap_the_bound_holds_and_no_simpler_way_is_better(
        nodes in 2usize..6, devices in 2usize..4, steps in 2usize..7, seed: u64, limited: bool,
    ) {
        let mut problem = overlapping(any_graph(nodes, devices, 1, seed), steps);
        problem.states.truncate(1);
        for node in &mut problem.nodes {
            node.states.retain(|&s| s == 0);
        }
        if limited {
            problem.limit(&mut Random(seed));
        }
        let found = search(&problem);
        let best = by_trying_all(&problem);
        prop_assert_eq!(found.is_some(), best.is_some());
        if let (Some(found), Some(best)) = (found, best) {
            prop_assert!(found.bound <= best * (1.0 + 1e-9), "{} above {best}", found.bound);
            prop_assert!(found.priced.objective >= best * (1.0 - 1e-9));
            let in_turn = search(&problem.in_turn()).expect("what was found fits");
            let in_turn = problem.price(&in_turn.assignment).expect("it can run");
            prop_assert!(found.priced.objective <= in_turn.objective * (1.0 + 1e-9));
            let (us, longest) = (found.priced.phase_us[0], found.priced.in_turn_us[0]);
            prop_assert!(us <= longest * (1.0 + 1e-9) && longest <= 2.0 * us * (1.0 + 1e-9));
        }
    }

    #[test]
    fn two_equal_devices_share_a_prompt_of_many_steps(
        count in 6usize..12, devices in 2usize..4, seed in 0..u64::MAX / 2,
    ) {
        let mut problem = overlapping(layers(count, devices, 2, false, seed), 16);
        problem.sharers = vec![u8::MAX; devices];
        let links = &mut problem.links;
        for row in links.latency_us.iter_mut().chain(&mut links.us_per_byte) {
            row.fill(0.0);
        }
        links.to_host.fill((0.0, 0.0));
        problem.phases[1].weight = 1e-6;
        let phase = &mut problem.phases[0];
        phase.dispatch_us.fill(0.0);
        for us in &mut phase.node_us {
            us.fill(1.0);
        }
        let alone = phase.node_us.len() as f64;
        let found = search(&problem).expect("each device can run all");
        let us = found.priced.phase_us[0];
        prop_assert!((found.priced.in_turn_us[0] - alone).abs() < 1e-9);
        // half of it, the first and last segment, and what a layer is longer than half of the nodes
        prop_assert!(us <= alone * (0.5 + 0.5 / 16.0) + 3.0, "{us} of {alone}");
        prop_assert!(found.gap() < 0.3, "{}", found.gap());
    }
}
