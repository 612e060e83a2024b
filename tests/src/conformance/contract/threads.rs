//! Several threads at once.

use super::case;
use crate::conformance::bind::Bench;
use crate::conformance::job::{Job, claimed_but};
use crate::conformance::outcome::{Check, Stop};
use crate::conformance::sample::{any, check, claimed, reference};
use crate::conformance::suite::{Context, TestCase};

const THREADS: usize = 4;
const ROUNDS: usize = 12;

pub(super) fn cases() -> Vec<TestCase> {
    vec![
        case("threads", "submissions_of_one_module", one_module),
        case("threads", "modules_compiled_and_run", several_modules),
        case(
            "threads",
            "compiled_while_others_run",
            compiled_while_running,
        ),
        case("threads", "two_devices", two_devices),
    ]
}

/// Runs `work` in threads; the first failure stands.
fn together(work: impl Fn(usize) -> Check + Sync) -> Check {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|t| {
                scope.spawn({
                    let work = &work;
                    move || work(t)
                })
            })
            .collect();
        let mut all = Ok(());
        for (t, thread) in threads.into_iter().enumerate() {
            let ended = thread.join();
            let ended = ended.unwrap_or_else(|_| Err(Stop::failed("panicked: a thread", "an end")));
            if all.is_ok() {
                all = ended.map_err(|e| e.at(&format!("thread {t}")));
            }
        }
        all
    })
}

fn one_module(context: &Context) -> Check {
    let (job, given) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    together(|_| {
        for _ in 0..ROUNDS {
            let found = job.run_module(context.bench(), &module, 0)?;
            check(context, &job, &found.outputs, &given)?;
        }
        Ok(())
    })
}

fn several_modules(context: &Context) -> Check {
    let jobs = claimed(context)?;
    together(|t| {
        for round in 0..ROUNDS {
            let (name, job, given) = &jobs[(t + round) % jobs.len()];
            let found = job.run_on(context.bench()).map_err(|e| e.at(name))?;
            check(context, job, &found.outputs, given).map_err(|e| e.at(name))?;
        }
        Ok(())
    })
}

fn compiled_while_running(context: &Context) -> Check {
    let (job, given) = any(context)?;
    let module = job
        .compile(context.device())
        .map_err(|e| claimed_but(&e, "compile"))?;
    together(|t| {
        for _ in 0..ROUNDS {
            if t % 2 == 0 {
                job.compile(context.device())
                    .map_err(|e| claimed_but(&e, "compile"))?;
            } else {
                let found = job.run_module(context.bench(), &module, 0)?;
                check(context, &job, &found.outputs, &given)?;
            }
        }
        Ok(())
    })
}

fn two_devices(context: &Context) -> Check {
    let (job, _) = any(context)?;
    let second = context.another()?;
    let on = |bench: &Bench, job: &Job| -> Check {
        let found = job.run_on(bench)?;
        check(context, job, &found.outputs, &reference(job)?)
    };
    together(|t| {
        for _ in 0..ROUNDS {
            match t % 2 {
                0 => on(context.bench(), &job)?,
                _ => on(&second, &job)?,
            }
        }
        Ok(())
    })
}
