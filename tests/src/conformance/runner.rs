//! Running cases, each with a deadline.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anynpu_hal::BufferDesc;
use anynpu_hal::isolate::helper_process;

use super::outcome::{Check, Finding, Outcome, Stop};
use super::report::{CaseRecord, Certificate};
use super::{Context, Expectations, Selection, Subject, Suite, SuiteOptions, TestCase};

/// How far a run of the suite is.
#[derive(Debug)]
pub struct Progress<'a> {
    /// Cases done.
    pub done: usize,
    /// Cases to do in all.
    pub total: usize,
    /// The last one.
    pub case: &'a CaseRecord,
}

/// Runs the selected cases of `suite` on `subject`, one after the other, and tells `progress` of each.
///
/// A case that does not end by its deadline has failed; it is left behind with its device and the next case
/// gets another. So does one after a device that was lost. Where the device does not open at first, no case is run.
pub fn run(
    suite: &Suite,
    subject: &Arc<Subject>,
    selection: &Selection,
    expectations: &Expectations,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Certificate {
    let options = suite.options();
    let mut certificate = Certificate::new(suite);
    match subject.device() {
        Ok(device) => certificate.describe(&*device),
        Err(e) => {
            certificate.device_absent(&e, suite.cases().len());
            return certificate;
        }
    }
    let chosen = |case: &&TestCase| selection.admits(case.id());
    let total = suite.cases().iter().filter(chosen).count();
    for case in suite.cases() {
        if !selection.admits(case.id()) {
            certificate.leave_out();
            continue;
        }
        let begun = Instant::now();
        let outcome = expectations.judge(case.id(), perform(case, subject, options));
        certificate.record(case, outcome, begun.elapsed());
        if let Some(record) = certificate.cases().last() {
            progress(&Progress {
                done: certificate.cases().len(),
                total,
                case: record,
            });
        }
    }
    certificate
}

/// Runs one case in a thread of its own.
fn perform(case: &TestCase, subject: &Arc<Subject>, options: &SuiteOptions) -> Outcome {
    let (to, from) = mpsc::channel();
    let (own, subject_there, options_there) = (case.clone(), subject.clone(), options.clone());
    let thread = std::thread::Builder::new().name(case.id().to_owned());
    let spawned = thread.spawn(move || {
        let check = catch_unwind(AssertUnwindSafe(|| {
            let context = Context::new(subject_there, options_there);
            let context = context.map_err(|e| Stop::error(&e, "a device that opens"))?;
            let helper = helper_process(context.device());
            let checked = own.check(&context);
            match checked {
                Err(Stop::Failed(_)) => checked,
                other => survived(&context, helper).and(other),
            }
        }));
        // whoever waited may have given up
        let _ = to.send(check.unwrap_or_else(|panic| Err(panicked(&*panic))));
    });
    if let Err(e) = spawned {
        return Outcome::Failed(Box::new(finding(
            format!("no thread: {e}"),
            "a thread for the case",
        )));
    }
    let check: Check = match from.recv_timeout(options.deadline) {
        Ok(check) => check,
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(Stop::failed(
            format!("hung: the case did not end in {:.1?}", options.deadline),
            "an end",
        )),
    };
    if gone(&check) {
        subject.forget();
    }
    check.into()
}

/// That the helper which served the device before a case does so after it: one that died between calls is
/// replaced without a word.
fn survived(context: &Context, helper: Option<u32>) -> Check {
    if helper.is_none() {
        return Ok(());
    }
    // calls are answered in order, so what it was told before this is done
    context
        .device()
        .allocate(&BufferDesc::host("still there", 1))?;
    match helper_process(context.device()) == helper {
        true => Ok(()),
        false => Err(Stop::failed(
            "crashed: its process ended between calls",
            "a process that goes on",
        )),
    }
}

fn finding(found: String, expected: &str) -> Finding {
    Finding {
        at: String::new(),
        found,
        expected: expected.into(),
        bound: None,
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Stop {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Stop::failed(
        format!(
            "panicked: {}",
            text.unwrap_or_else(|| "without a text".into())
        ),
        "an end",
    )
}

/// Whether a device that did this is used no more.
fn gone(check: &Check) -> bool {
    let words = ["crashed", "hung", "panicked"];
    match check {
        Err(Stop::Failed(f)) => words.iter().any(|w| f.found.starts_with(w)),
        _ => false,
    }
}

/// Milliseconds with three decimals.
pub(super) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
