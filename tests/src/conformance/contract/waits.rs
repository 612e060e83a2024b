//! Submissions that wait for others.

use std::time::{Duration, Instant};

use anynpu_hal::{HalError, Timeline};

use super::case;
use crate::conformance::job::claimed_but;
use crate::conformance::outcome::{Check, Stop, describe};
use crate::conformance::sample::{any, check};
use crate::conformance::suite::{Context, TestCase};

pub(super) fn cases() -> Vec<TestCase> {
    vec![
        case("waits", "point_that_is_reached_later", reached_later),
        case("waits", "point_that_fails", fails),
        case("waits", "point_already_reached", already_reached),
        case("waits", "one_run_after_the_other", chain),
        case("waits", "signal_is_the_only_end", signal),
    ]
}

/// The run does not begin before its point is reached.
fn reached_later(context: &Context) -> Check {
    let (job, given) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    let info = job.described(&*module, 0)?;
    let binding = job.bind(context.device(), &info)?;
    let gate = Timeline::new("gate");
    let done = Timeline::new("the run").point(1);
    let delay = Duration::from_millis(60);
    let begun = Instant::now();
    let mut early = false;
    std::thread::scope(|scope| {
        let point = gate.point(1);
        let (done_there, early) = (done.clone(), &mut early);
        scope.spawn(move || {
            std::thread::sleep(delay);
            *early = done_there.reached();
            point.signal();
        });
        binding.start(context.bench(), &module, 0, &[gate.point(1)], &done)
    })
    .map_err(|e| Stop::error(&e, "a run that waits for its point"))?;
    binding.finish(context.bench(), &done)?;
    if early || begun.elapsed() < delay {
        return Err(Stop::failed(
            "an end before the point that it waits for was reached",
            "a run after it",
        ));
    }
    binding.check_bounds()?;
    check(context, &job, &binding.outputs(&info, &job.graph)?, &given)
}

/// A run that waits for what failed fails too, and writes nothing.
fn fails(context: &Context) -> Check {
    let (job, _) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    let info = job.described(&*module, 0)?;
    let binding = job.bind(context.device(), &info)?;
    let gate = Timeline::new("gate");
    let point = gate.point(1);
    gate.fail(HalError::Cancelled {
        what: "the work before".into(),
    });
    let done = Timeline::new("the run").point(1);
    let ended = binding.start(context.bench(), &module, 0, &[point], &done);
    let ended = ended.and_then(|()| binding.finish(context.bench(), &done));
    match ended {
        Ok(()) => Err(Stop::failed(
            "a run that succeeded although what it waits for failed",
            "the failure passed on",
        )),
        Err(e @ (HalError::Timeout { .. } | HalError::DeviceLost { .. })) => {
            Err(Stop::failed(describe(&e), "the failure passed on"))
        }
        Err(_) => {
            binding.check_unwritten()?;
            let found = job.run_module(context.bench(), &module, 0);
            found.map(|_| ()).map_err(|e| e.at("a run afterwards"))
        }
    }
}

fn already_reached(context: &Context) -> Check {
    let (job, given) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    let info = job.described(&*module, 0)?;
    let binding = job.bind(context.device(), &info)?;
    let gate = Timeline::new("gate").point(1);
    gate.signal();
    let done = Timeline::new("the run").point(1);
    binding.start(context.bench(), &module, 0, &[gate], &done)?;
    binding.finish(context.bench(), &done)?;
    check(context, &job, &binding.outputs(&info, &job.graph)?, &given)
}

/// Several runs on one timeline, each waiting for the one before, awaited only at the end.
fn chain(context: &Context) -> Check {
    let (job, given) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    let info = job.described(&*module, 0)?;
    let timeline = Timeline::new("runs");
    let mut bindings = Vec::new();
    for i in 1..=6 {
        let binding = job.bind(context.device(), &info)?;
        let wait: Vec<_> = (i > 1).then(|| timeline.point(i - 1)).into_iter().collect();
        binding.start(context.bench(), &module, 0, &wait, &timeline.point(i))?;
        bindings.push(binding);
    }
    let last = timeline.point(6);
    for binding in &bindings {
        binding.finish(context.bench(), &last)?;
    }
    for binding in &bindings {
        binding.check_bounds()?;
        check(context, &job, &binding.outputs(&info, &job.graph)?, &given)?;
    }
    Ok(())
}

/// A signal comes once, to the value that was asked for.
fn signal(context: &Context) -> Check {
    let (job, _) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    let info = job.described(&*module, 0)?;
    let binding = job.bind(context.device(), &info)?;
    let timeline = Timeline::new("runs");
    binding.start(context.bench(), &module, 0, &[], &timeline.point(5))?;
    binding.finish(context.bench(), &timeline.point(5))?;
    match timeline.completed() {
        5 => Ok(()),
        n => Err(Stop::failed(
            format!("a timeline at {n}"),
            "at 5, as asked for",
        )),
    }
}
