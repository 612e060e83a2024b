//! Whether verdicts are honest.

use std::sync::Arc;

use anynpu_hal::{HalError, Support};
use anynpu_ir::Graph;

use super::case;
use crate::conformance::job::{Job, Named, claimed_but, obstacle, sizes};
use crate::conformance::outcome::{Check, Stop};
use crate::conformance::sample::{SAMPLES, Sample, check, claimed, reference};
use crate::conformance::suite::{Context, TestCase};

pub(super) fn cases() -> Vec<TestCase> {
    let mut cases = vec![
        case("verdict", "same_when_asked_again", same_again),
        case("verdict", "of_no_nodes", of_no_nodes),
        case(
            "verdict",
            "a_device_that_runs_everything_refuses_nothing",
            baseline,
        ),
    ];
    for &sample in SAMPLES {
        let id = format!("verdict/support_agrees_with_validate/{}", sample.0);
        cases.push(TestCase::new(id, sample.op(), move |c| agree(c, sample)));
        let id = format!("verdict/refused_or_right/{}", sample.0);
        cases.push(TestCase::new(id, sample.op(), move |c| {
            refused_or_right(c, sample)
        }));
    }
    cases
}

fn job(context: &Context, sample: Sample) -> Result<Job, Stop> {
    let symbols = sizes(context.capabilities(), 4, 2, 2, 12);
    sample.job(symbols, context.options().seed)
}

/// What the table refuses the validator must not admit: nobody would ask it.
fn agree(context: &Context, sample: Sample) -> Check {
    let job = job(context, sample)?;
    let run = job.run();
    obstacle(context.device(), &run)?;
    let table = context.device().support(&run);
    let own = context.device().validate(&run)?;
    for (table, own) in table.iter().zip(&own) {
        if let (Support::No(reason), Support::Yes | Support::Emulated(_)) = (table, own) {
            return Err(Stop::failed(
                format!(
                    "support says no ({reason}) where validate says {}",
                    own.name()
                ),
                "verdicts that agree",
            ));
        }
        for verdict in [table, own] {
            if verdict.reason().is_some_and(|r| r.detail.trim().is_empty()) {
                return Err(Stop::failed(
                    "a verdict without a reason",
                    "what is in the way",
                ));
            }
        }
    }
    Ok(())
}

/// A node that is refused is not compiled, or else runs right; one that is claimed compiles.
fn refused_or_right(context: &Context, sample: Sample) -> Check {
    let job = job(context, sample)?;
    let refusal = obstacle(context.device(), &job.run())?;
    let module = job.compile(context.device());
    let module = match (refusal, module) {
        (None, module) => module.map_err(|e| claimed_but(&e, "compile"))?,
        (Some(_), Err(e @ (HalError::DeviceLost { .. } | HalError::Timeout { .. }))) => {
            return Err(Stop::error(&e, "a node that is refused without harm"));
        }
        (Some(why), Err(_)) => return Err(Stop::NotClaimed(why)),
        // it may know better when compiling, if it is right
        (Some(_), Ok(module)) => module,
    };
    let found = job.run_module(context.bench(), &module, 0);
    let found = found.map_err(|e| e.at("a node that compiled"))?;
    check(context, &job, &found.outputs, &reference(&job)?)
}

fn same_again(context: &Context) -> Check {
    for (name, job, _) in claimed(context)? {
        let run = job.run();
        let (first, second) = (
            context.device().support(&run),
            context.device().support(&run),
        );
        if first != second {
            return Err(Stop::failed("another verdict when asked again", "the same").at(name));
        }
    }
    Ok(())
}

fn of_no_nodes(context: &Context) -> Check {
    let graph = Arc::new(Graph::new("empty"));
    let symbols = sizes(context.capabilities(), 0, 0, 0, 0);
    let job = Job::whole(graph, &[], Arc::new(Named::default()), symbols);
    let job = job.map_err(|e| Stop::failed(format!("no job: {e}"), "a job"))?;
    obstacle(context.device(), &job.run())?;
    // a module of nothing may be refused, but must do no harm
    match job.compile(context.device()) {
        Err(e @ (HalError::DeviceLost { .. } | HalError::Timeout { .. })) => Err(e.into()),
        Err(_) => Ok(()),
        Ok(_) => job.run_on(context.bench()).map(|_| ()),
    }
}

fn baseline(context: &Context) -> Check {
    if !context.capabilities().features.baseline {
        return Err(Stop::NotClaimed(
            "it does not claim to run everything".into(),
        ));
    }
    for &sample in SAMPLES {
        let job = job(context, sample)?;
        if let Some(why) = obstacle(context.device(), &job.run())? {
            let found = format!("{} refused: {why}", sample.0);
            return Err(Stop::failed(found, "nothing refused by a baseline device"));
        }
    }
    Ok(())
}
