//! Ops on values whose sizes are run-time symbols: compiled once for sizes up to a limit, run in several.

use std::sync::Arc;

use anynpu_hal::Module;
use anynpu_ir::{Graph, Symbol};

use crate::conformance::job::{Job, at_most, claimed_but, exact, obstacle, sizes};
use crate::conformance::outcome::{Check, Stop};
use crate::conformance::sample::{SAMPLES, Sample, check, reference};
use crate::conformance::suite::{Context, TestCase};

/// Most tokens it is compiled for.
const MOST: u32 = 9;

/// Tokens of a long step.
const LONG: u32 = 300;

/// The cases `op/SLUG/TYPE/symbolic` and `op/SLUG/TYPE/largest`.
pub(super) fn cases() -> Vec<TestCase> {
    let make = |&sample: &Sample| {
        let dtype = if sample.0 == "iota" { "i32" } else { "f32" };
        let id = |variant: &str| format!("op/{}/{dtype}/{variant}", sample.0);
        [
            TestCase::new(id("symbolic"), sample.op(), move |context| {
                sizes_up_to_a_limit(context, sample)
            }),
            TestCase::new(id("largest"), sample.op(), move |context| {
                largest(context, sample)
            }),
        ]
    };
    SAMPLES.iter().flat_map(make).collect()
}

/// The largest step that the device is compiled for; a long one where it states none.
fn largest(context: &Context, sample: Sample) -> Check {
    let capabilities = context.capabilities();
    let fixed = capabilities.fixed_shapes.as_ref();
    let most = |sizes: Option<&Vec<u32>>, long: u32| {
        let most = sizes.and_then(|sizes| sizes.iter().max());
        most.copied().unwrap_or(long)
    };
    let tokens = most(fixed.map(|f| &f.tokens), LONG);
    let capacity = most(fixed.map(|f| &f.capacities), tokens + 2);
    let symbols = sizes(capabilities, tokens, 2, tokens, capacity);
    let job = sample.job(symbols, context.options().seed)?;
    if let Some(why) = obstacle(context.device(), &job.run())? {
        return Err(Stop::NotClaimed(why));
    }
    let found = job.run_on(context.bench())?;
    check(context, &job, &found.outputs, &reference(&job)?)
}

fn sizes_up_to_a_limit(context: &Context, sample: Sample) -> Check {
    let graph: Arc<Graph> = sample.graph()?;
    if let Some(why) = obstacle(context.device(), &graph.whole())? {
        return Err(Stop::NotClaimed(why));
    }
    let capabilities = context.capabilities();
    let limits = sizes(capabilities, MOST, 2, MOST, MOST + 3);
    // a device of fixed sizes is compiled for each of them
    let dynamic = capabilities.features.dynamic_shapes;
    let mut module = None;
    for tokens in [MOST, 1, 4] {
        let symbols = match dynamic {
            true => {
                let mut symbols = limits;
                symbols.set(Symbol::TOKENS, tokens);
                symbols.set(Symbol::OUTPUTS, tokens.min(2));
                symbols
            }
            false => sizes(capabilities, tokens, 2, tokens.min(2), MOST + 3),
        };
        let mut job = sample.job(symbols, context.options().seed)?;
        job.bounds = if dynamic {
            at_most(&limits)
        } else {
            exact(&symbols)
        };
        let compiled = match module.take().filter(|_| dynamic) {
            Some(compiled) => compiled,
            None => job
                .compile(context.device())
                .map_err(|e| claimed_but(&e, "compile"))?,
        };
        let place = format!("{} tokens", symbols.get(Symbol::TOKENS));
        run(context, &job, &compiled).map_err(|e| e.at(&place))?;
        module = Some(compiled);
    }
    Ok(())
}

fn run(context: &Context, job: &Job, module: &Arc<dyn Module>) -> Check {
    let expected = reference(job)?;
    let found = job.run_module(context.bench(), module, 0)?;
    check(context, job, &found.outputs, &expected)
}
