//! Devices, modules and buffers that come and go in any order.

use std::sync::Arc;

use anynpu_hal::{CompileOptions, Entry};

use super::case;
use crate::conformance::bind::Bench;
use crate::conformance::job::{Job, claimed_but, sizes};
use crate::conformance::outcome::{Check, Stop};
use crate::conformance::sample::{SAMPLES, any, check, claimed, reference};
use crate::conformance::suite::{Context, TestCase};

pub(super) fn cases() -> Vec<TestCase> {
    vec![
        case("lifecycle", "opened_twice", opened_twice),
        case(
            "lifecycle",
            "module_outlives_device",
            module_outlives_device,
        ),
        case(
            "lifecycle",
            "buffers_outlive_module",
            buffers_outlive_module,
        ),
        case("lifecycle", "compiled_again_after_drop", compiled_again),
        case("lifecycle", "several_modules_alive", several_modules),
        case("lifecycle", "entries_share_weights", entries_share_weights),
        case("lifecycle", "run_many_times", run_many_times),
        case("lifecycle", "trimmed_between_runs", trimmed),
    ]
}

fn right(context: &Context, bench: &Bench, job: &Job) -> Check {
    let found = job.run_on(bench)?;
    check(context, job, &found.outputs, &reference(job)?)
}

fn opened_twice(context: &Context) -> Check {
    let (job, _) = any(context)?;
    let second = context.another()?;
    right(context, context.bench(), &job)?;
    right(context, &second, &job).map_err(|e| e.at("the second device"))?;
    drop(second);
    right(context, context.bench(), &job).map_err(|e| e.at("after the second was closed"))
}

/// A module and buffers are dropped after their device.
fn module_outlives_device(context: &Context) -> Check {
    let (job, _) = any(context)?;
    let other = context.another()?;
    let module = job
        .compile(&*other.device)
        .map_err(|e| claimed_but(&e, "compile"))?;
    let info = job.described(&*module, 0)?;
    let binding = job.bind(&*other.device, &info)?;
    binding.run(&other, &module, 0)?;
    drop(other);
    let found = binding.outputs(&info, &job.graph)?;
    check(context, &job, &found, &reference(&job)?)?;
    drop(module);
    drop(binding);
    right(context, context.bench(), &job).map_err(|e| e.at("another device afterwards"))
}

fn buffers_outlive_module(context: &Context) -> Check {
    let (job, given) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    let info = job.described(&*module, 0)?;
    let binding = job.bind(context.device(), &info)?;
    binding.run(context.bench(), &module, 0)?;
    drop(module);
    binding.check_bounds()?;
    check(context, &job, &binding.outputs(&info, &job.graph)?, &given)?;
    // the same buffers in a run of another module
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    binding.run(context.bench(), &module, 0)?;
    check(context, &job, &binding.outputs(&info, &job.graph)?, &given)
}

fn compiled_again(context: &Context) -> Check {
    let (job, _) = any(context)?;
    for round in 0..5 {
        right(context, context.bench(), &job).map_err(|e| e.at(&format!("round {round}")))?;
    }
    Ok(())
}

fn several_modules(context: &Context) -> Check {
    let jobs = claimed(context)?;
    let mut made = Vec::new();
    for (name, job, given) in jobs.iter().cycle().take(jobs.len().max(8)) {
        let module = job.compile(context.device());
        made.push((
            name,
            job,
            given,
            module.map_err(|e| claimed_but(&e, "compile").at(name))?,
        ));
    }
    for _ in 0..2 {
        for (name, job, given, module) in &made {
            let found = job
                .run_module(context.bench(), module, 0)
                .map_err(|e| e.at(name))?;
            check(context, job, &found.outputs, given).map_err(|e| e.at(name))?;
        }
        // those in the middle go first
        made.drain(1..made.len() / 2);
    }
    Ok(())
}

/// Two entries of one graph in one module, as for a prompt and for single tokens.
fn entries_share_weights(context: &Context) -> Check {
    any(context)?;
    let capabilities = context.capabilities();
    let sizes = [
        sizes(capabilities, 4, 2, 2, 12),
        sizes(capabilities, 1, 2, 1, 12),
    ];
    let mut claimed = false;
    for sample in SAMPLES {
        let first = sample.job(sizes[0], context.options().seed)?;
        if first.run().weights().is_empty()
            || crate::conformance::job::obstacle(context.device(), &first.run())?.is_some()
        {
            continue;
        }
        claimed = true;
        let mut second = sample.job(sizes[1], context.options().seed)?;
        second.graph = first.graph.clone();
        let entries: Vec<Entry> = vec![first.entry("run"), {
            let mut entry = second.entry("run");
            entry.name = "second".into();
            entry
        }];
        let options = CompileOptions::new(first.state_dtype);
        let module =
            context
                .device()
                .compile(&entries, &options, first.weights.clone(), &mut |_, _| true);
        let module = module.map_err(|e| claimed_but(&e, "compile of two entries"))?;
        if module.entries().len() != 2 {
            let found = format!("a module of {} entries", module.entries().len());
            return Err(Stop::failed(found, "one of two entries"));
        }
        for (entry, job) in [(0, &first), (1, &second), (0, &first)] {
            let found = job.run_module(context.bench(), &module, entry)?;
            let place = format!("{}, entry {entry}", sample.0);
            check(context, job, &found.outputs, &reference(job)?).map_err(|e| e.at(&place))?;
        }
    }
    match claimed {
        true => Ok(()),
        false => Err(Stop::NotClaimed("it claims no op with a weight".into())),
    }
}

fn run_many_times(context: &Context) -> Check {
    let (job, given) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    let info = job.described(&*module, 0)?;
    let binding = job.bind(context.device(), &info)?;
    let before = context.device().queue().counters();
    let rounds = 50;
    for round in 0..rounds {
        binding
            .run(context.bench(), &module, 0)
            .map_err(|e| Stop::from(e).at(&format!("run {round}")))?;
    }
    binding.check_bounds()?;
    check(context, &job, &binding.outputs(&info, &job.graph)?, &given)?;
    let after = context.device().queue().counters();
    let counted = after.submissions.saturating_sub(before.submissions);
    match counted == rounds {
        true => Ok(()),
        false => Err(Stop::failed(
            format!("{counted} submissions counted"),
            format!("{rounds}, as many as were made"),
        )),
    }
}

fn trimmed(context: &Context) -> Check {
    let (job, given) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    for _ in 0..3 {
        let found = job.run_module(context.bench(), &Arc::clone(&module), 0)?;
        check(context, &job, &found.outputs, &given)?;
        context.device().trim();
    }
    Ok(())
}
