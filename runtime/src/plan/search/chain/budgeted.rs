//! Chains of parts within memory budgets.
//!
//! Each part offers its cheapest ways and ways that hold fewer weights. Of the ways up to a part, those
//! are kept that no other beats in time and bytes, up to a number.

use std::collections::HashMap;
use std::rc::Rc;

use super::super::problem::{Assignment, MAX_DEVICES, PhasePrices, Problem, Set, bit, has};
use super::{Choice, Part, Table, assignment, devices_of, words};

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

/// The ways through a part, for each entry.
type Offers = Rc<Vec<Vec<Offer>>>;

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
pub(super) fn solve(problem: &Problem, parts: &[Part], tables: &[Rc<Table>]) -> Option<Assignment> {
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
        let mut known: HashMap<*const Table, Offers> = HashMap::new();
        let mut steps: Vec<(Vec<Label>, Offers)> = Vec::new();
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
