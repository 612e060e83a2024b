//! Equal bits for equal operands.

use super::case;
use crate::conformance::job::{claimed_but, obstacle, sizes};
use crate::conformance::outcome::{Check, Stop};
use crate::conformance::sample::{SAMPLES, Sample, claimed};
use crate::conformance::suite::{Context, TestCase};

pub(super) fn cases() -> Vec<TestCase> {
    let mut cases = vec![
        case("determinism", "after_other_work", after_other_work),
        case("determinism", "of_another_module", another_module),
    ];
    for &sample in SAMPLES {
        let id = format!("determinism/same_inputs/{}", sample.0);
        cases.push(TestCase::new(id, sample.op(), move |c| {
            same_inputs(c, sample)
        }));
    }
    cases
}

fn differ(what: &str) -> Stop {
    Stop::failed(
        format!("other bits {what}"),
        "the same bits for the same operands",
    )
}

fn bits(tensors: &[anynpu_cpu::reference::Tensor]) -> Vec<Vec<u8>> {
    tensors.iter().map(|t| t.to_bytes()).collect()
}

fn same_inputs(context: &Context, sample: Sample) -> Check {
    let symbols = sizes(context.capabilities(), 4, 2, 2, 12);
    let job = sample.job(symbols, context.options().seed)?;
    if let Some(why) = obstacle(context.device(), &job.run())? {
        return Err(Stop::NotClaimed(why));
    }
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    let first = bits(&job.run_module(context.bench(), &module, 0)?.outputs);
    for _ in 0..4 {
        if bits(&job.run_module(context.bench(), &module, 0)?.outputs) != first {
            return Err(differ("when run again"));
        }
    }
    Ok(())
}

fn after_other_work(context: &Context) -> Check {
    let jobs = claimed(context)?;
    let mut made = Vec::new();
    for (name, job, _) in &jobs {
        let module = job.compile(context.device());
        made.push((name, job, module.map_err(|e| claimed_but(&e, "compile"))?));
    }
    let mut first = Vec::new();
    for (name, job, module) in &made {
        let ran = job
            .run_module(context.bench(), module, 0)
            .map_err(|e| e.at(name))?;
        first.push(bits(&ran.outputs));
    }
    for ((name, job, module), first) in made.iter().zip(&first).rev() {
        let ran = job
            .run_module(context.bench(), module, 0)
            .map_err(|e| e.at(name))?;
        if bits(&ran.outputs) != *first {
            return Err(differ("after other work").at(name));
        }
    }
    Ok(())
}

fn another_module(context: &Context) -> Check {
    for (name, job, _) in claimed(context)? {
        let first = bits(&job.run_on(context.bench())?.outputs);
        if bits(&job.run_on(context.bench())?.outputs) != first {
            return Err(differ("of another module of the same").at(name));
        }
    }
    Ok(())
}
