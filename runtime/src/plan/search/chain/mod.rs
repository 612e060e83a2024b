//! Larger problems: parts that a single value joins, each solved exactly, and chained.
//!
//! A part is entered with one live value, on the device that made it, and left the same way. So all
//! that the parts before it can tell a part is one device a phase. Parts that cost the same, as the
//! layers of a model do, are solved once.
//!
//! Where the budgets don't bind, the chain of cheapest parts is the best assignment. Where they do, its
//! objective bounds the loss.

mod budgeted;

use std::collections::HashMap;
use std::collections::hash_map::Entry as Known;
use std::ops::Range;
use std::rc::Rc;

use super::frontier::{Entry, Path, cheapest, live_after};
use super::problem::{Assignment, PhasePrices, Problem};

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Chained {
    /// The best found, if there is any within the budgets.
    pub assignment: Option<Assignment>,
    /// No assignment has a lower objective.
    pub bound: f64,
}

/// The parts of problems with the same nodes, devices and links that were solved already.
#[derive(Debug, Default)]
pub(super) struct Solved(HashMap<Vec<u64>, Rc<Ways>>);

/// Solves `problem`, or `None` if it can't be followed: too many values are alive at once.
pub(super) fn solve(problem: &Problem, solved: &mut Solved) -> Option<Chained> {
    let parts = parts(problem);
    let mut tables: HashMap<_, Rc<Table>> = HashMap::new();
    let tables: Option<Vec<Rc<Table>>> = parts
        .iter()
        .map(
            |part| match tables.entry(part.signature(problem, &problem.phases)) {
                Known::Occupied(table) => Some(table.get().clone()),
                Known::Vacant(slot) => {
                    let table = Rc::new(Table::of(problem, part, solved)?);
                    Some(slot.insert(table).clone())
                }
            },
        )
        .collect();
    let tables = tables?;
    let exact = tables.iter().all(|t| t.exact) && parts.iter().all(|p| p.states.len() < 2);
    let cheapest = unbudgeted(problem, &parts, &tables);
    let Some((objective, assignment)) = cheapest else {
        return Some(Chained {
            assignment: None,
            bound: if exact { f64::INFINITY } else { 0.0 },
        });
    };
    let fits = problem.price(&assignment).is_some_and(|p| p.fits);
    Some(Chained {
        assignment: match fits {
            true => Some(assignment),
            false => budgeted::solve(problem, &parts, &tables),
        },
        bound: if exact { objective } else { 0.0 },
    })
}

/// A run of nodes between two cuts.
#[derive(Debug)]
struct Part {
    nodes: Range<usize>,
    /// The value that is alive when it is entered.
    entry: Option<usize>,
    /// States used in it, and nowhere else.
    states: Vec<usize>,
}

/// Cuts wherever one value is alive, made by the node before, and no state is in use.
fn parts(problem: &Problem) -> Vec<Part> {
    let (mut parts, mut live, mut start, mut entry) = (Vec::new(), Vec::new(), 0, None);
    let count = problem.nodes.len();
    for n in 0..count {
        live = live_after(problem, &live, n);
        let used = |s: &super::Resident| s.users.0 <= n && n < s.users.1;
        let alone = matches!(live[..], [value] if problem.nodes[n].makes.contains(&value))
            && !problem.states.iter().any(used);
        if n + 1 == count || alone {
            let within = |s: &usize| (start..=n).contains(&problem.states[*s].users.0);
            parts.push(Part {
                nodes: start..n + 1,
                entry,
                states: (0..problem.states.len()).filter(within).collect(),
            });
            (start, entry) = (n + 1, live.first().copied());
        }
    }
    parts
}

impl Part {
    /// Equal for parts that cost the same in these phases whatever is done. Indices count from the part's first.
    fn signature(&self, problem: &Problem, phases: &[PhasePrices]) -> Vec<u64> {
        let last = self.nodes.end == problem.nodes.len();
        let mut all = vec![
            self.nodes.len() as u64,
            u64::from(last),
            u64::from(self.entry.is_some()),
        ];
        for phase in phases {
            all.push(phase.steps.to_bits());
            all.extend(phase.dispatch_us.iter().map(|us| us.to_bits()));
        }
        let mut values = Vec::new();
        for n in self.nodes.clone() {
            let node = &problem.nodes[n];
            for phase in phases {
                all.extend(phase.node_us[n].iter().map(|us| us.to_bits()));
            }
            all.extend([node.reads.len(), node.makes.len(), node.weights.len()].map(|n| n as u64));
            for &value in node.reads.iter().chain(&node.makes) {
                let known = values.iter().position(|&v| v == value);
                all.push(known.unwrap_or(values.len()) as u64);
                if known.is_none() {
                    values.push(value);
                    all.extend(phases.iter().map(|p| p.value_bytes[value].to_bits()));
                    // how far it lives, counted from the part's end, so that equal parts agree
                    let use_ = problem.values[value];
                    all.push(use_.last.min(self.nodes.end).wrapping_sub(self.nodes.start) as u64);
                    all.push(u64::from(use_.result));
                }
            }
            for &weight in &node.weights {
                let weight_ = &problem.weights[weight];
                let shared = !self.owns(problem, weight);
                // one that other parts use too is told by its number
                all.push(if shared { weight as u64 + 1 } else { 0 });
                all.push(
                    weight_.users.0.wrapping_sub(self.nodes.start) as u64 * u64::from(!shared),
                );
                all.extend(&weight_.bytes);
            }
            all.push(node.states.len() as u64);
            for &state in &node.states {
                let state_ = &problem.states[state];
                all.extend([state_.users.0.wrapping_sub(self.nodes.start) as u64]);
                all.extend(&state_.bytes);
            }
        }
        all
    }

    /// Whether no other part uses the weight.
    fn owns(&self, problem: &Problem, weight: usize) -> bool {
        let (first, last) = problem.weights[weight].users;
        self.nodes.contains(&first) && self.nodes.contains(&last)
    }

    fn entry_on(&self, device: usize) -> Entry {
        self.entry.map(|value| (value, device))
    }

    /// Devices that it may be entered from: one stands for all where nothing is alive.
    fn entries(&self, problem: &Problem) -> usize {
        if self.entry.is_some() {
            problem.devices
        } else {
            1
        }
    }

    /// Homes to tell apart.
    fn homes(&self, problem: &Problem) -> usize {
        if self.states.is_empty() {
            1
        } else {
            problem.devices
        }
    }
}

/// The cheapest ways through a part.
#[derive(Debug)]
struct Table {
    /// By phase.
    ways: Vec<Rc<Ways>>,
    exact: bool,
}

/// The cheapest ways through a part in one phase.
#[derive(Debug)]
struct Ways {
    /// By home, entry and exit.
    to: Vec<Vec<Vec<Option<Path>>>>,
    exact: bool,
}

impl Table {
    fn of(problem: &Problem, part: &Part, solved: &mut Solved) -> Option<Table> {
        let phases = problem.phases.chunks(1);
        let ways = phases.map(
            |phase| match solved.0.entry(part.signature(problem, phase)) {
                Known::Occupied(ways) => Some(ways.get().clone()),
                Known::Vacant(slot) => {
                    let ways = Rc::new(Ways::of(problem, part, &phase[0])?);
                    Some(slot.insert(ways).clone())
                }
            },
        );
        let ways: Vec<Rc<Ways>> = ways.collect::<Option<_>>()?;
        Some(Table {
            exact: ways.iter().all(|w| w.exact),
            ways,
        })
    }
}

impl Ways {
    fn of(problem: &Problem, part: &Part, phase: &PhasePrices) -> Option<Ways> {
        let (mut to, mut exact) = (Vec::new(), true);
        for home in 0..part.homes(problem) {
            let mut of_entries = Vec::new();
            for entry in 0..part.entries(problem) {
                let nodes = part.nodes.clone();
                let found = cheapest(problem, phase, nodes, part.entry_on(entry), home)?;
                exact &= found.exact;
                of_entries.push(found.to);
            }
            to.push(of_entries);
        }
        Some(Ways { to, exact })
    }
}

/// A word of devices, one a phase, as a number; and back.
fn devices_of(problem: &Problem, mut word: usize) -> impl Iterator<Item = usize> {
    (0..problem.phases.len()).map(move |_| {
        let device = word % problem.devices;
        word /= problem.devices;
        device
    })
}

fn words(problem: &Problem) -> usize {
    problem.devices.pow(problem.phases.len() as u32)
}

/// How a part is run: the home of its states, and the devices of its nodes in each phase.
#[derive(Clone, Debug)]
struct Choice {
    home: u8,
    devices: Vec<Vec<u8>>,
}

fn assignment<'a>(
    problem: &Problem,
    parts: &[Part],
    choices: impl Iterator<Item = &'a Choice>,
) -> Assignment {
    let mut assignment = Assignment {
        devices: vec![Vec::with_capacity(problem.nodes.len()); problem.phases.len()],
        homes: vec![0; problem.states.len()],
    };
    for (part, choice) in parts.iter().zip(choices) {
        for (all, part) in assignment.devices.iter_mut().zip(&choice.devices) {
            all.extend(part);
        }
        for &state in &part.states {
            assignment.homes[state] = choice.home;
        }
    }
    assignment
}

/// The cheapest chain, whatever it holds.
fn unbudgeted(
    problem: &Problem,
    parts: &[Part],
    tables: &[Rc<Table>],
) -> Option<(f64, Assignment)> {
    let words = words(problem);
    // a part's cheapest home between each entry and exit, once for equal parts
    let mut known: HashMap<*const Table, Rc<Vec<(f64, usize)>>> = HashMap::new();
    let mut best: Vec<Vec<(f64, usize, usize)>> = Vec::new();
    let mut before = vec![f64::INFINITY; words];
    before[0] = 0.0;
    for (part, table) in parts.iter().zip(tables) {
        let entries = if part.entry.is_some() { words } else { 1 };
        let steps = known.entry(Rc::as_ptr(table)).or_insert_with(|| {
            let steps = (0..entries * words).map(|step| {
                let homes = 0..part.homes(problem);
                let priced =
                    homes.map(|home| (table.us(problem, home, step / words, step % words), home));
                priced.fold((f64::INFINITY, 0), |a, b| if b.0 < a.0 { b } else { a })
            });
            Rc::new(steps.collect())
        });
        let steps = steps.clone();
        let after: Vec<(f64, usize, usize)> = (0..words)
            .map(|exit| {
                let ways = (0..entries).map(|entry| {
                    let (us, home) = steps[entry * words + exit];
                    (before[entry] + us, entry, home)
                });
                ways.fold((f64::INFINITY, 0, 0), |a, b| if b.0 < a.0 { b } else { a })
            })
            .collect();
        before = after.iter().map(|a| a.0).collect();
        best.push(after);
    }
    let ends = before.iter().copied().enumerate();
    let (mut exit, objective) = ends.reduce(|a, b| if b.1 < a.1 { b } else { a })?;
    if !objective.is_finite() {
        return None;
    }
    let mut choices = Vec::new();
    for (after, table) in best.iter().zip(tables).rev() {
        let (_, entry, home) = after[exit];
        choices.push(table.choice(problem, home, entry, exit)?);
        exit = entry;
    }
    Some((objective, assignment(problem, parts, choices.iter().rev())))
}

impl Table {
    fn way(&self, phase: usize, home: usize, entry: usize, exit: usize) -> Option<&Path> {
        let of_entries = &self.ways[phase].to[home];
        of_entries[entry.min(of_entries.len() - 1)][exit].as_ref()
    }

    /// What the phases together add to the objective.
    fn us(&self, problem: &Problem, home: usize, entry: usize, exit: usize) -> f64 {
        let ends = devices_of(problem, entry).zip(devices_of(problem, exit));
        let phases = problem.phases.iter().zip(ends).enumerate();
        let us = phases.map(|(p, (phase, (entry, exit)))| {
            let way = self.way(p, home, entry, exit);
            way.map_or(f64::INFINITY, |way| way.us * phase.weight)
        });
        us.sum()
    }

    fn choice(&self, problem: &Problem, home: usize, entry: usize, exit: usize) -> Option<Choice> {
        let ends = devices_of(problem, entry).zip(devices_of(problem, exit));
        let ways = ends
            .enumerate()
            .map(|(p, (entry, exit))| self.way(p, home, entry, exit));
        let devices = ways.map(|way| way.map(|w| w.devices.clone()));
        Some(Choice {
            home: home as u8,
            devices: devices.collect::<Option<_>>()?,
        })
    }
}
