//! Choosing a device for every node by price.
//!
//! A [`Problem`] holds what everything costs; [`Problem::price`] is the only judge of an
//! [`Assignment`]. [`search`] asks three ways for one and returns the best that they find:
//! - small problems are solved exactly, phases and memory budgets together (`exact`);
//! - larger ones are cut where a single value is alive, between the halves of a layer. Each part is
//!   solved exactly for every way to enter and leave it, and the parts are chained (`chain`). This is
//!   exact unless memory budgets bind, and tells a bound on the loss where they do;
//! - the most preferred device that can run a node (`rivals`), and each device alone.

mod chain;
mod exact;
mod frontier;
mod problem;
mod rivals;

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
    let mut bound = 0.0;
    if exact::is_small(problem) {
        let best = exact::solve(problem);
        bound = f64::INFINITY;
        if let Some(best) = best {
            bound = problem.price(&best).map_or(0.0, |p| p.objective);
            candidates.push(best);
        }
    } else if let Some(chained) = chain::solve(problem) {
        bound = chained.bound;
        candidates.extend(chained.assignment);
    }
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

/// Gives states that devices share a home with the first of their users, if that fits as well; the
/// price of the result.
fn settle_homes(problem: &Problem, assignment: &mut Assignment) -> Option<Priced> {
    let mut priced = problem.price(assignment)?;
    for (state, held) in problem.states.iter().enumerate() {
        let (home, user) = (assignment.homes[state], assignment.devices[0][held.users.0]);
        assignment.homes[state] = user;
        match problem.price(assignment) {
            Some(better) if better.fits || !priced.fits => priced = better,
            _ => assignment.homes[state] = home,
        }
    }
    Some(priced)
}

#[cfg(test)]
mod tests;
