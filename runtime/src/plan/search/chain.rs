//! Larger problems: parts that a single value joins, each solved exactly, and chained.
//!
//! A part is entered with one live value, on the device that made it, and left the same way. So all
//! that the parts before it can tell a part is one device a phase. Parts that cost the same, as the
//! layers of a model do, are solved once.
//!
//! Where the budgets don't bind, the chain of cheapest parts is the best assignment. Where they do,
//! each part also offers ways that hold fewer weights, and of the ways up to a part those are kept that no
//! other beats in time and bytes, up to a number; the objective without budgets then bounds the loss.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::frontier::{Entry, Path, cheapest, live_after};
use super::problem::{Assignment, MAX_DEVICES, PhasePrices, Problem, Set, bit, has};

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Chained {
    /// The best found, if there is any within the budgets.
    pub assignment: Option<Assignment>,
    /// No assignment has a lower objective.
    pub bound: f64,
}

/// Solves `problem`, or `None` if it can't be followed: too many values are alive at once.
pub(super) fn solve(problem: &Problem) -> Option<Chained> {
    let parts = parts(problem);
    let mut tables = HashMap::new();
    let tables: Option<Vec<Rc<Table>>> = parts
        .iter()
        .map(|part| {
            let known = tables.get(&part.signature(problem)).cloned();
            let table = known.or_else(|| Some(Rc::new(Table::of(problem, part)?)))?;
            tables.insert(part.signature(problem), table.clone());
            Some(table)
        })
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
            false => budgeted(problem, &parts, &tables),
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
        let used = |s: &super::Held| s.users.0 <= n && n < s.users.1;
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
    /// Equal for parts that cost the same whatever is done. Indices count from the part's first.
    fn signature(&self, problem: &Problem) -> Vec<u64> {
        let last = self.nodes.end == problem.nodes.len();
        let mut all = vec![
            self.nodes.len() as u64,
            u64::from(last),
            u64::from(self.entry.is_some()),
        ];
        let mut values = Vec::new();
        for n in self.nodes.clone() {
            let node = &problem.nodes[n];
            for phase in &problem.phases {
                all.extend(phase.node_us[n].iter().map(|us| us.to_bits()));
            }
            all.extend([node.reads.len(), node.makes.len(), node.weights.len()].map(|n| n as u64));
            for &value in node.reads.iter().chain(&node.makes) {
                let known = values.iter().position(|&v| v == value);
                all.push(known.unwrap_or(values.len()) as u64);
                if known.is_none() {
                    values.push(value);
                    let bytes = problem
                        .phases
                        .iter()
                        .map(|p| p.value_bytes[value].to_bits());
                    all.extend(bytes);
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
    /// By phase, home, entry and exit.
    ways: Vec<Vec<Vec<Vec<Option<Path>>>>>,
    exact: bool,
}

impl Table {
    fn of(problem: &Problem, part: &Part) -> Option<Table> {
        let mut exact = true;
        let mut ways = Vec::new();
        for phase in &problem.phases {
            let mut of_homes = Vec::new();
            for home in 0..part.homes(problem) {
                let mut of_entries = Vec::new();
                for entry in 0..part.entries(problem) {
                    let nodes = part.nodes.clone();
                    let found = cheapest(problem, phase, nodes, part.entry_on(entry), home)?;
                    exact &= found.exact;
                    of_entries.push(found.to);
                }
                of_homes.push(of_entries);
            }
            ways.push(of_homes);
        }
        Some(Table { ways, exact })
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
        let of_entries = &self.ways[phase][home];
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

/// Most ways kept up to a part, for each word of devices it is left on.
const MAX_WAYS: usize = 32;
/// Weights that several parts hold are followed, up to this number; of more, each part counts its own.
const MAX_SHARED: usize = 8;

type Bytes = [u64; MAX_DEVICES];

/// A way through a part, priced.
#[derive(Debug)]
struct Offer {
    exit: usize,
    objective: f64,
    /// Bytes of what only this part holds.
    bytes: Bytes,
    /// A byte for each weight that several parts hold: where this one does.
    shared: u64,
    choice: Choice,
}

/// A way up to a part.
#[derive(Clone, Copy, Debug)]
struct Label {
    exit: usize,
    objective: f64,
    bytes: Bytes,
    /// A byte for each weight that several parts hold: where it is held.
    shared: u64,
    /// The label it goes on from, and the entry and number of the offer taken.
    before: usize,
    offer: (usize, usize),
}

/// Chains within the budgets.
struct Budgeted<'a> {
    problem: &'a Problem,
    /// The weights that several parts hold.
    shared: Vec<usize>,
}

/// The best chain found within the budgets.
fn budgeted(problem: &Problem, parts: &[Part], tables: &[Rc<Table>]) -> Option<Assignment> {
    let several = |&w: &usize| !parts.iter().any(|part| part.owns(problem, w));
    let budgeted = Budgeted {
        problem,
        shared: (0..problem.weights.len())
            .filter(several)
            .take(MAX_SHARED)
            .collect(),
    };
    budgeted.solve(parts, tables)
}

impl Budgeted<'_> {
    fn solve(&self, parts: &[Part], tables: &[Rc<Table>]) -> Option<Assignment> {
        let words = words(self.problem);
        let mut known: HashMap<*const Table, Rc<Vec<Vec<Offer>>>> = HashMap::new();
        let mut steps: Vec<(Vec<Label>, Rc<Vec<Vec<Offer>>>)> = Vec::new();
        let mut labels = vec![Label {
            exit: 0,
            objective: 0.0,
            bytes: [0; MAX_DEVICES],
            shared: 0,
            before: 0,
            offer: (0, 0),
        }];
        for (part, table) in parts.iter().zip(tables) {
            let offers = known.entry(Rc::as_ptr(table)).or_insert_with(|| {
                let entries = if part.entry.is_some() { words } else { 1 };
                let offers = (0..entries).map(|entry| self.offers(part, table, entry));
                Rc::new(offers.collect())
            });
            let offers = offers.clone();
            let mut next = Vec::new();
            for (before, label) in labels.iter().enumerate() {
                let entry = if part.entry.is_some() { label.exit } else { 0 };
                for (number, offer) in offers[entry].iter().enumerate() {
                    let mut way = self.after(label, offer);
                    (way.before, way.offer) = (before, (entry, number));
                    if self.problem.fits(&way.bytes[..self.problem.devices]) {
                        next.push(way);
                    }
                }
            }
            let kept = self.thin(next);
            steps.push((std::mem::replace(&mut labels, kept), offers));
        }
        let ends = labels.iter().enumerate();
        let (mut at, _) = ends.reduce(|a, b| if b.1.objective < a.1.objective { b } else { a })?;
        let mut choices = Vec::new();
        for (before, offers) in steps.iter().rev() {
            let label = &labels[at];
            choices.push(&offers[label.offer.0][label.offer.1].choice);
            at = label.before;
            labels.clone_from(before);
        }
        Some(assignment(self.problem, parts, choices.into_iter().rev()))
    }

    fn after(&self, label: &Label, offer: &Offer) -> Label {
        let mut way = *label;
        way.exit = offer.exit;
        way.objective += offer.objective;
        way.shared |= offer.shared;
        for (all, more) in way.bytes.iter_mut().zip(offer.bytes) {
            *all = all.saturating_add(more);
        }
        let mut new = offer.shared & !label.shared;
        while new != 0 {
            let (slot, device) = (new.trailing_zeros() / 8, new.trailing_zeros() % 8);
            let more = self.problem.weights[self.shared[slot as usize]].bytes[device as usize];
            let all = &mut way.bytes[device as usize];
            *all = all.saturating_add(more);
            new &= new - 1;
        }
        way
    }

    /// Keeps, of the ways that agree in what follows, those that no other beats; of too many the
    /// fastest and those that take the smallest share of the budgets.
    fn thin(&self, mut labels: Vec<Label>) -> Vec<Label> {
        let budgets = &self.problem.budgets;
        let key = |label: &Label| (label.exit, label.shared);
        labels.sort_by(|a, b| {
            key(a)
                .cmp(&key(b))
                .then(a.objective.total_cmp(&b.objective))
        });
        let mut kept = Vec::new();
        for same in labels.chunk_by(|a, b| key(a) == key(b)) {
            let mut best: Vec<&Label> = Vec::new();
            for label in same {
                let less = |other: &Label| {
                    let bytes = other.bytes.iter().zip(&label.bytes).zip(budgets);
                    bytes.fold(true, |all, ((a, b), budget)| {
                        all && (budget.is_none() || a <= b)
                    })
                };
                if !best.iter().any(|other| less(other)) {
                    best.push(label);
                }
            }
            if best.len() > MAX_WAYS {
                let share = |label: &Label| {
                    let shares = label.bytes.iter().zip(budgets);
                    let shares =
                        shares.map(|(&b, n)| n.map_or(0.0, |n| b as f64 / n.max(1) as f64));
                    shares.sum::<f64>()
                };
                let mut rest = best.split_off(MAX_WAYS / 2);
                rest.sort_by(|a, b| share(a).total_cmp(&share(b)));
                rest.truncate(MAX_WAYS / 2);
                best.extend(rest);
            }
            kept.extend(best.into_iter().copied());
        }
        kept
    }

    /// The ways through a part when it is entered on `entry`: the cheapest for each exit and home,
    /// the same devices in all phases so that weights are held once, and all on one device.
    fn offers(&self, part: &Part, table: &Table, entry: usize) -> Vec<Offer> {
        let (devices, phases) = (self.problem.devices, self.problem.phases.len());
        let same = |home: usize, devices: &[u8]| Choice {
            home: home as u8,
            devices: vec![devices.to_vec(); phases],
        };
        let mut choices = Vec::new();
        let entries: Vec<usize> = devices_of(self.problem, entry).collect();
        for home in 0..part.homes(self.problem) {
            for exit in 0..words(self.problem) {
                choices.extend(table.choice(self.problem, home, entry, exit));
            }
            for (phase, &entry) in entries.iter().enumerate() {
                let ways = (0..devices).filter_map(|exit| table.way(phase, home, entry, exit));
                choices.extend(ways.map(|way| same(home, &way.devices)));
            }
        }
        for device in 0..devices {
            choices.push(same(device, &vec![device as u8; part.nodes.len()]));
        }
        let mut offers: Vec<Offer> = Vec::new();
        for choice in choices {
            let Some(offer) = self.offer(part, &entries, choice) else {
                continue;
            };
            let beats = |a: &Offer, b: &Offer| {
                a.exit == b.exit
                    && a.shared == b.shared
                    && a.objective <= b.objective
                    && a.bytes.iter().zip(&b.bytes).all(|(a, b)| a <= b)
            };
            if !offers.iter().any(|other| beats(other, &offer)) {
                offers.retain(|other| !beats(&offer, other));
                offers.push(offer);
            }
        }
        offers
    }

    fn offer(&self, part: &Part, entries: &[usize], choice: Choice) -> Option<Offer> {
        let problem = self.problem;
        let (mut objective, mut exit) = (0.0, 0);
        for (p, phase) in problem.phases.iter().enumerate().rev() {
            let devices = &choice.devices[p];
            let us = through(problem, phase, part, entries[p], devices, choice.home);
            objective += phase.weight * us;
            exit = exit * problem.devices + usize::from(*devices.last()?);
        }
        if !objective.is_finite() {
            return None;
        }
        let mut bytes = [0u64; MAX_DEVICES];
        let mut add = |d: usize, more: u64| bytes[d] = bytes[d].saturating_add(more);
        for &state in &part.states {
            let home = usize::from(choice.home);
            add(home, problem.states[state].bytes[home]);
        }
        let mut held: Vec<(usize, Set)> = Vec::new();
        for (i, n) in part.nodes.clone().enumerate() {
            for &weight in &problem.nodes[n].weights {
                let set = choice
                    .devices
                    .iter()
                    .fold(0, |set, phase| set | bit(phase[i].into()));
                match held.iter_mut().find(|(w, _)| *w == weight) {
                    Some((_, all)) => *all |= set,
                    None => held.push((weight, set)),
                }
            }
        }
        let mut shared = 0;
        for (weight, set) in held {
            if let Some(slot) = self.shared.iter().position(|&w| w == weight) {
                shared |= u64::from(set) << (8 * slot);
                continue;
            }
            for device in (0..problem.devices).filter(|&d| has(set, d)) {
                add(device, problem.weights[weight].bytes[device]);
            }
        }
        Some(Offer {
            exit,
            objective,
            bytes,
            shared,
            choice,
        })
    }
}

/// Microseconds of given devices for a part that is entered on `entry`.
fn through(
    problem: &Problem,
    phase: &PhasePrices,
    part: &Part,
    entry: usize,
    devices: &[u8],
    home: u8,
) -> f64 {
    let mut at: Vec<(usize, Set)> = part.entry.iter().map(|&v| (v, bit(entry))).collect();
    let mut last = part.entry.map(|_| entry);
    let mut us = 0.0;
    for (n, &device) in part.nodes.clone().zip(devices) {
        let (node, device) = (&problem.nodes[n], usize::from(device));
        if !node.states.is_empty() && !has(problem.sharers[usize::from(home)], device) {
            return f64::INFINITY;
        }
        us += phase.node_us[n][device];
        if last != Some(device) {
            us += phase.steps * phase.dispatch_us[device];
            last = Some(device);
        }
        for &value in &node.reads {
            if let Some((_, from)) = at.iter_mut().find(|(v, _)| *v == value) {
                us += problem.copy_us(phase, value, from, device);
            }
        }
        at.extend(node.makes.iter().map(|&value| (value, bit(device))));
    }
    if part.nodes.end == problem.nodes.len() {
        for &(value, from) in &at {
            if problem.values[value].result {
                us += problem.result_us(phase, value, from);
            }
        }
    }
    us
}
