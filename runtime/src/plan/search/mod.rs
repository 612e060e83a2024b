//! Choosing a device for every node by price.
//!
//! A [`Problem`] holds what everything costs; [`Problem::price`] is the only judge of an
//! [`Assignment`]. [`search`] asks three ways for one and returns the best that they find:
//! - small problems are solved exactly, phases and memory budgets together (`exact`);
//! - larger ones are cut where a single value is alive, between the halves of a layer. Each part is
//!   solved exactly for every way to enter and leave it, and the parts are chained (`chain`). This is
//!   exact unless memory budgets bind, and tells a bound on the loss where they do;
//! - the most preferred device that can run a node (`rivals`), and each device alone;
//! - where steps of a prompt can overlap, two devices that share the layers so that both are busy (`shared`). The
//!   ways above don't see that what runs at once takes less time, so the bound then is that of a problem in which
//!   each device takes only its part of the time.

mod chain;
mod exact;
mod frontier;
mod problem;
mod rivals;
mod shared;

pub(super) use problem::{
    Assignment, Links, MAX_DEVICES, NodeNeeds, PhasePrices, Priced, Problem, Resident, ValueUse,
};
pub(in crate::plan) use rivals::{greedy, single};

/// The result of a [`search`].
#[derive(Clone, Debug)]
pub(in crate::plan) struct Found {
    /// Where everything goes.
    pub assignment: Assignment,
    /// What it costs.
    pub priced: Priced,
    /// No assignment within the budgets has a lower objective.
    pub bound: f64,
}

impl Found {
    /// By what share of the bound the objective may be above the best possible.
    pub fn gap(&self) -> f64 {
        let above = self.priced.objective - self.bound;
        match above > ROUNDING * self.priced.objective && self.bound > 0.0 {
            true => above / self.bound,
            false => 0.0,
        }
    }
}

/// How far sums of the same prices in another order may be apart, as a share.
const ROUNDING: f64 = 1e-9;

/// The best assignment found that keeps within the budgets, or `None` if none was found.
pub(in crate::plan) fn search(problem: &Problem) -> Option<Found> {
    let mut candidates = Vec::new();
    let mut solved = chain::Solved::default();
    let mut solve = |problem: &Problem| solve(problem, &mut solved);
    let bound = match problem.overlaps() {
        false => {
            let (best, bound) = solve(problem);
            candidates.extend(best);
            bound
        }
        true => {
            candidates.extend(solve(&problem.in_turn()).0);
            let halves = shared::halves(problem);
            candidates.extend(halves.iter().filter_map(|half| solve(half).0));
            solve(&shared::relaxed(problem)).1
        }
    };
    candidates.extend(greedy(problem));
    candidates.extend((0..problem.devices).filter_map(|d| single(problem, d)));
    let priced = candidates.into_iter().filter_map(|mut assignment| {
        let priced = settle_homes(problem, &mut assignment)?;
        priced.fits.then_some((assignment, priced))
    });
    // of equal ones the first
    let best = priced.reduce(|a, b| if b.1.objective < a.1.objective { b } else { a });
    best.map(|(assignment, priced)| Found {
        assignment,
        bound: bound.min(priced.objective),
        priced,
    })
}

/// The best assignment of a problem without overlap, and a bound on the objective of all.
fn solve(problem: &Problem, solved: &mut chain::Solved) -> (Option<Assignment>, f64) {
    if exact::is_small(problem) {
        let best = exact::solve(problem);
        let bound = best.as_ref().map_or(f64::INFINITY, |best| {
            problem.price(best).map_or(0.0, |p| p.objective)
        });
        return (best, bound);
    }
    match chain::solve(problem, solved) {
        Some(chained) => (chained.assignment, chained.bound),
        None => (None, 0.0),
    }
}

/// Gives states that devices share a home with the first of their users, if that fits as well; the
/// price of the result.
fn settle_homes(problem: &Problem, assignment: &mut Assignment) -> Option<Priced> {
    let mut priced = problem.price(assignment)?;
    for (state, held) in problem.states.iter().enumerate() {
        let (home, user) = (assignment.homes[state], assignment.devices[0][held.users.0]);
        if home == user || !problem.may_be_home(assignment, state, user) {
            continue;
        }
        let (from, to) = (usize::from(home), usize::from(user));
        let mut bytes = priced.bytes.clone();
        bytes[from] = bytes[from].saturating_sub(held.bytes[from]);
        bytes[to] = bytes[to].saturating_add(held.bytes[to]);
        let fits = problem.fits(&bytes);
        if fits || !priced.fits {
            assignment.homes[state] = user;
            priced = Priced {
                bytes,
                fits,
                ..priced
            };
        }
    }
    Some(priced)
}

#[cfg(test)]
mod tests;
