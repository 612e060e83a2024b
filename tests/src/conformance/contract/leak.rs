//! Memory and file descriptors after many rounds, as Linux counts them, of this process and of its helper; and their
//! heaps, as the C library counts them, which tells of the smallest leak.

#[cfg(target_os = "linux")]
use anynpu_hal::{
    heap_bytes,
    isolate::{helper_heap, helper_process},
};

use super::case;
use crate::conformance::job::claimed_but;
use crate::conformance::outcome::{Check, Stop};
use crate::conformance::sample::{any, claimed};
use crate::conformance::suite::{Context, SuiteOptions, TestCase};

/// Growth that is no leak: allocators keep pages.
const SLACK: u64 = 6 << 20;
/// Growth of one round that is no leak.
const SLACK_A_ROUND: u64 = 4096;

pub(super) fn cases(options: &SuiteOptions) -> Vec<TestCase> {
    let (modules, devices) = match options.quick {
        true => ("100_rounds", "5_devices"),
        false => ("1000_rounds", "40_devices"),
    };
    vec![
        case("leak", modules, modules_and_buffers),
        case("leak", devices, devices_opened),
        case("leak", "refused_compiles", refused_compiles),
    ]
}

/// Growth of the heap that is no leak, and that of one round: less than two of the smallest pieces it is given out in.
const HEAP_SLACK: u64 = 8 << 10;
const HEAP_SLACK_A_ROUND: u64 = 16;
/// Batches of rounds: what leaks grows in each, what caches fill does not.
const BATCHES: usize = 6;

/// What this process and the device's helper hold.
#[derive(Clone, Copy, Debug)]
struct Held {
    bytes: u64,
    files: usize,
    /// Of the heaps of this process and of the helper, if nothing else runs in them.
    heap: Option<u64>,
}

#[cfg(target_os = "linux")]
fn held(context: &Context) -> Option<Held> {
    let mut processes = vec!["self".to_owned()];
    processes.extend(helper_process(context.device()).map(|p| p.to_string()));
    let heap = || match helper_process(context.device()) {
        Some(_) => helper_heap(context.device())
            .zip(heap_bytes())
            .map(|(a, b)| a + b),
        None => heap_bytes(),
    };
    let mut held = Held {
        bytes: 0,
        files: 0,
        heap: context.options().alone.then(heap).flatten(),
    };
    for process in processes {
        let text = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
        let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
        held.bytes += pages * 4096;
        let files = std::fs::read_dir(format!("/proc/{process}/fd"));
        held.files += files.map_or(0, Iterator::count);
    }
    Some(held)
}

#[cfg(not(target_os = "linux"))]
fn held(_: &Context) -> Option<Held> {
    None
}

/// Runs `round` some times to warm up, then in batches of `rounds`, until one of them leaves no more behind than
/// allocators do.
fn rounds(context: &Context, rounds: usize, slack: u64, mut round: impl FnMut() -> Check) -> Check {
    for _ in 0..(rounds / 5).max(3) {
        round()?;
    }
    let allowed = slack + SLACK_A_ROUND * rounds as u64 / 4;
    // a descriptor a round, or one in ten, is a leak; what others open meanwhile is not
    let files = rounds / 10 + 1;
    let mut last = Ok(());
    for _ in 0..BATCHES {
        let Some(before) = held(context) else {
            return Err(Stop::Skipped(
                "only Linux tells what a process holds".into(),
            ));
        };
        for _ in 0..rounds {
            round()?;
        }
        let after = held(context).unwrap_or(before);
        let grown = after.bytes.saturating_sub(before.bytes);
        let opened = after.files.saturating_sub(before.files);
        let heap = before.heap.zip(after.heap);
        let taken = heap.map_or(0, |(before, after)| after.saturating_sub(before));
        let heap_allowed = HEAP_SLACK + HEAP_SLACK_A_ROUND * rounds as u64;
        let leak = [
            (grown, allowed, "bytes more held"),
            (taken, heap_allowed, "bytes more of the heap"),
            (opened as u64, files as u64, "file descriptors more"),
        ];
        last = match leak.into_iter().find(|(found, most, _)| found > most) {
            Some((found, most, what)) => Err(Stop::failed(
                format!("{found} {what} after {rounds} rounds, as often as that is tried"),
                format!("at most {most}"),
            )),
            None => return Ok(()),
        };
    }
    last
}

fn modules_and_buffers(context: &Context) -> Check {
    let jobs = claimed(context)?;
    let n = if context.options().quick { 100 } else { 1000 };
    let mut i = 0;
    rounds(context, n, SLACK, || {
        let (name, job, _) = &jobs[i % jobs.len()];
        i += 1;
        job.run_on(context.bench())
            .map(|_| ())
            .map_err(|e| e.at(name))
    })
}

fn devices_opened(context: &Context) -> Check {
    let (job, _) = any(context)?;
    let n = if context.options().quick { 5 } else { 40 };
    rounds(context, n, SLACK * 2, || {
        let other = context.another()?;
        job.run_on(&other).map(|_| ())
    })
}

/// Compiles that are cancelled or fail keep nothing.
fn refused_compiles(context: &Context) -> Check {
    let (job, _) = any(context)?;
    let n = if context.options().quick { 50 } else { 400 };
    let options = anynpu_hal::CompileOptions::new(job.state_dtype);
    rounds(context, n, SLACK, || {
        let mut entry = job.entry("run");
        entry.nodes = 0..99;
        let entries = [entry];
        let weights = job.weights.clone();
        match context
            .device()
            .compile(&entries, &options, weights, &mut |_, _| true)
        {
            Ok(_) => Err(Stop::failed(
                "nodes that are no run were compiled",
                "an error",
            )),
            Err(e @ anynpu_hal::HalError::DeviceLost { .. }) => Err(claimed_but(&e, "refusal")),
            Err(_) => Ok(()),
        }
    })
}
