//! The ONNX project's node tests on a device.

use std::sync::Arc;

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{DType, Op};

use super::bounds::{Bound, Class, compute, holds, magnitude};
use super::job::{Job, Named, obstacle, sizes};
use super::outcome::{Check, Stop};
use super::suite::{Context, SuiteError, SuiteOptions, TestCase};
use crate::onnx::{self, Refusal};
use crate::{Case, Expectation, compare};

/// Numbers above which a narrower type is off by a quarter, so that functions of them give something else.
const COARSE: f64 = 512.0;

/// The cases `onnx/test_…`: those of the folder that is named, else those that the repository has. Tests that the
/// op set is not meant to hold are no cases, but for those of a folder, which are skipped with the reason.
pub(super) fn cases(options: &SuiteOptions) -> Result<Vec<TestCase>, SuiteError> {
    let (mapped, folder) = match &options.onnx {
        Some(folder) => (onnx::cases_in(folder), folder.clone()),
        None => (onnx::cases(), "the repository".into()),
    };
    let mapped = mapped.map_err(|why| SuiteError::Onnx { folder, why })?;
    let mut cases = Vec::new();
    for onnx::Mapped { name, op, case } in mapped {
        let id = format!("onnx/{name}");
        let op = op.map(|op| format!("onnx.{op}"));
        match case {
            Ok(case) => {
                let case = Arc::new(case);
                cases.push(TestCase::new(id, op.as_deref(), move |c| check(c, &case)));
            }
            Err(Refusal::Skip(why) | Refusal::Fault(why)) => {
                if options.onnx.is_some() {
                    let skip = move |_: &Context| Err(Stop::Skipped(why.clone()));
                    cases.push(TestCase::new(id, op.as_deref(), skip));
                }
            }
        }
    }
    Ok(match options.quick && options.onnx.is_none() {
        true => cases.into_iter().step_by(4).collect(),
        false => cases,
    })
}

fn check(context: &Context, case: &Case) -> Check {
    let Expectation::Values(expected, tolerance) = &case.expected else {
        return Err(Stop::Skipped("the test expects no values".into()));
    };
    let symbols = sizes(context.capabilities(), 0, 0, 0, 0);
    let graph = Arc::new(case.graph.clone());
    let job = Job::whole(
        graph.clone(),
        &case.inputs,
        Arc::new(Named::default()),
        symbols,
    );
    let job = job.map_err(|e| Stop::failed(format!("no job: {e}"), "a job"))?;
    if let Some(why) = obstacle(context.device(), &job.run())? {
        return Err(Stop::NotClaimed(why));
    }
    let computed = compute(context.capabilities());
    if case
        .inputs
        .iter()
        .any(|t| !holds(computed, t) && magnitude(t) > COARSE)
    {
        return Err(Stop::Skipped(format!(
            "{computed} does not hold its numbers"
        )));
    }
    let given = job.run_on(context.bench())?.outputs;
    let run = job.run();
    for (i, (id, expected)) in graph.outputs().iter().zip(expected).enumerate() {
        let at = run.outputs().iter().position(|o| o == id);
        let Some(found) = at.and_then(|at| given.get(at)) else {
            return Err(Stop::failed(format!("no output {i}"), "one"));
        };
        if compare(found, expected, *tolerance).is_ok() {
            continue;
        }
        if computed != DType::F32
            && quantised(case)
            && codes_apart(found, expected).is_some_and(|n| n <= 1)
        {
            continue;
        }
        // ONNX's own bound for F32; what a device computes in another type is held to that type's
        let bound = Bound {
            class: match computed {
                DType::F32 => Class::Function,
                _ => Class::Layers,
            },
            computed,
            scale: magnitude(expected),
        };
        bound.check(&format!("output {i}"), found, expected)?;
    }
    Ok(())
}

/// Whether the case rounds numbers that it computed to codes.
fn quantised(case: &Case) -> bool {
    let nodes = case.graph.nodes();
    nodes.len() > 1 && nodes.iter().any(|n| matches!(n.op, Op::Quantize { .. }))
}

/// How far integers of one shape are apart at most; `None` if they are no integers.
fn codes_apart(found: &Tensor, expected: &Tensor) -> Option<u64> {
    let same = found.dtype() == expected.dtype() && found.shape() == expected.shape();
    let (a, b) = (found.to_i64().ok()?, expected.to_i64().ok()?);
    let apart = a.iter().zip(&b).map(|(a, b)| a.abs_diff(*b)).max();
    Some(apart.unwrap_or(0).max(if same { 0 } else { u64::MAX }))
}
