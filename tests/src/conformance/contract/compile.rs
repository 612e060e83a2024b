//! Compiling that is stopped or can't be done.

use std::borrow::Cow;
use std::sync::Arc;

use anynpu_hal::{CompileOptions, Entry, HalError, Module, WeightSource, WeightView};
use anynpu_ir::DType;

use super::case;
use crate::conformance::job::{Job, claimed_but};
use crate::conformance::outcome::{Check, Stop, describe, refused};
use crate::conformance::sample::{check, claimed, reference};
use crate::conformance::suite::{Context, TestCase};

pub(super) fn cases() -> Vec<TestCase> {
    vec![
        case("compile", "cancelled", cancelled),
        case("compile", "progress_is_sane", progress),
        case("compile", "missing_weight", |c| {
            bad_weight(c, Fault::Missing)
        }),
        case("compile", "short_weight", |c| bad_weight(c, Fault::Short)),
        case("compile", "weight_of_another_type", |c| {
            bad_weight(c, Fault::Type)
        }),
        case("compile", "nodes_that_are_no_run", no_run),
        case(
            "compile",
            "unknown_vendor_option_does_no_harm",
            vendor_option,
        ),
        case(
            "compile",
            "memory_need_is_no_less_than_resident",
            memory_need,
        ),
    ]
}

/// A claimed job with a weight in no graph.
fn with_weight(context: &Context) -> Result<Job, Stop> {
    let found = claimed(context)?.into_iter();
    let mut found = found.filter(|(_, job, _)| !job.run().weights().is_empty());
    let (_, job, _) = found
        .next()
        .ok_or_else(|| Stop::NotClaimed("it claims no op with a weight".into()))?;
    Ok(job)
}

fn compile(
    context: &Context,
    job: &Job,
    weights: Arc<dyn WeightSource>,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Arc<dyn Module>, HalError> {
    let options = CompileOptions::new(job.state_dtype);
    context
        .device()
        .compile(&[job.entry("run")], &options, weights, progress)
}

fn works(context: &Context, job: &Job) -> Check {
    let found = job
        .run_on(context.bench())
        .map_err(|e| e.at("afterwards"))?;
    check(context, job, &found.outputs, &reference(job)?).map_err(|e| e.at("afterwards"))
}

fn cancelled(context: &Context) -> Check {
    let job = with_weight(context)?;
    match compile(context, &job, job.weights.clone(), &mut |_, _| false) {
        // it had nothing left to do
        Ok(module) => {
            let found = job.run_module(context.bench(), &module, 0)?;
            check(context, &job, &found.outputs, &reference(&job)?)?;
        }
        Err(HalError::Cancelled { .. }) => {}
        Err(e) => {
            return Err(Stop::failed(
                describe(&e),
                "Cancelled, or a finished module",
            ));
        }
    }
    works(context, &job)
}

fn progress(context: &Context) -> Check {
    let job = with_weight(context)?;
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let compiled = compile(context, &job, job.weights.clone(), &mut |done, total| {
        seen.push((done, total));
        true
    });
    compiled.map_err(|e| claimed_but(&e, "compile"))?;
    let sane = seen.iter().all(|(done, total)| done <= total)
        && seen.windows(2).all(|pair| pair[0].0 <= pair[1].0);
    match sane {
        true => Ok(()),
        false => Err(Stop::failed(
            format!("progress of {seen:?}"),
            "weights done that rise and are at most all",
        )),
    }
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Missing,
    Short,
    Type,
}

/// Weights with a fault.
#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn WeightSource>,
    fault: Fault,
}

impl WeightSource for Faulty {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let view = self.inner.weight(name)?;
        match self.fault {
            Fault::Missing => Err(HalError::Weight {
                name: name.into(),
                why: "it is missing on purpose".into(),
            }),
            Fault::Short => Ok(WeightView {
                dtype: view.dtype,
                bytes: Cow::Owned(view.bytes[..view.bytes.len() - 1].to_vec()),
            }),
            Fault::Type => Ok(WeightView {
                dtype: DType::I8,
                bytes: view.bytes,
            }),
        }
    }
}

/// A weight that can't be had, or is not what the graph says, is an error when compiling or, where it is
/// read later, when running.
fn bad_weight(context: &Context, fault: Fault) -> Check {
    let job = with_weight(context)?;
    let faulty = Faulty {
        inner: job.weights.clone(),
        fault,
    };
    let ran = compile(context, &job, Arc::new(faulty), &mut |_, _| true);
    let ran = match ran {
        Err(e) => Err(e),
        Ok(module) => {
            let info = job.described(&*module, 0)?;
            let binding = job.bind(context.device(), &info)?;
            binding.run(context.bench(), &module, 0)
        }
    };
    refused(ran, &format!("a weight that is wrong ({fault:?})"))?;
    works(context, &job)
}

fn no_run(context: &Context) -> Check {
    let job = with_weight(context)?;
    let entry = Entry {
        nodes: 0..99,
        ..job.entry("run")
    };
    let options = CompileOptions::new(job.state_dtype);
    let compiled =
        context
            .device()
            .compile(&[entry], &options, job.weights.clone(), &mut |_, _| true);
    refused(compiled, "nodes that are no run of the graph")?;
    works(context, &job)
}

fn vendor_option(context: &Context) -> Check {
    let job = with_weight(context)?;
    let mut options = CompileOptions::new(job.state_dtype);
    options.vendor.push(("no.such.option".into(), "1".into()));
    let entries = [job.entry("run")];
    let compiled =
        context
            .device()
            .compile(&entries, &options, job.weights.clone(), &mut |_, _| true);
    match compiled {
        Ok(module) => {
            let found = job.run_module(context.bench(), &module, 0)?;
            check(context, &job, &found.outputs, &reference(&job)?)
        }
        Err(e @ (HalError::DeviceLost { .. } | HalError::Timeout { .. })) => Err(e.into()),
        Err(_) => works(context, &job),
    }
}

fn memory_need(context: &Context) -> Check {
    let job = with_weight(context)?;
    let options = CompileOptions::new(job.state_dtype);
    let entries = [job.entry("run")];
    let need = context
        .device()
        .memory_need(&entries, &options, &*job.weights)?;
    let Some(need) = need else {
        return Err(Stop::NotClaimed(
            "it does not tell without compiling".into(),
        ));
    };
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    match module.resident_bytes() <= need.resident {
        true => Ok(()),
        false => Err(Stop::failed(
            format!("{} bytes held by the module", module.resident_bytes()),
            format!("at most {}, as it said before", need.resident),
        )),
    }
}
