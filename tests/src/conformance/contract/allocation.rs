//! Memory that can't be had, and memory that is given back.

use anynpu_hal::{HalError, MemoryKind};

use super::case;
use crate::conformance::memory::{Guarded, aligned, desc};
use crate::conformance::outcome::{Check, Stop, refused};
use crate::conformance::sample::{any, check};
use crate::conformance::suite::{Context, TestCase};

pub(super) fn cases() -> Vec<TestCase> {
    vec![
        case("memory", "absurd_allocation", absurd),
        case("memory", "past_the_limit", past_the_limit),
        case("memory", "given_back", given_back),
        case("memory", "empty_buffer", empty),
        case("memory", "aligned_buffers", aligned_buffers),
        case("memory", "unknown_kind", unknown_kind),
    ]
}

/// The device still works.
fn usable(context: &Context) -> Check {
    match any(context) {
        Ok((job, given)) => {
            let found = job
                .run_on(context.bench())
                .map_err(|e| e.at("a run afterwards"))?;
            check(context, &job, &found.outputs, &given).map_err(|e| e.at("a run afterwards"))
        }
        Err(Stop::NotClaimed(_)) => Ok(()),
        Err(stop) => Err(stop),
    }
}

fn absurd(context: &Context) -> Check {
    for bytes in [1usize << 60, isize::MAX as usize, usize::MAX] {
        let desc = desc(context.device(), "absurd", bytes);
        refused(
            context.device().allocate(&desc),
            &format!("a buffer of {bytes} bytes"),
        )?;
    }
    usable(context)
}

fn past_the_limit(context: &Context) -> Check {
    let limit = context.capabilities().memory_limit;
    let Some(limit) = limit.and_then(|n| usize::try_from(n).ok()) else {
        return Err(Stop::NotClaimed("it states no limit of its memory".into()));
    };
    let desc = desc(context.device(), "past the limit", limit.saturating_add(1));
    let error = refused(context.device().allocate(&desc), "a buffer past the limit")?;
    if !matches!(error, HalError::OutOfMemory { .. }) {
        return Err(Stop::error(&error, "OutOfMemory"));
    }
    usable(context)
}

fn given_back(context: &Context) -> Check {
    const BYTES: usize = 8 << 20;
    let limit = context.capabilities().memory_limit.unwrap_or(64 << 20);
    // more in all than a bounded device has, or 256 MiB
    let rounds = (limit / BYTES as u64 + 2).clamp(8, 32);
    for round in 0..rounds {
        let desc = desc(
            context.device(),
            "given back",
            BYTES.min(limit as usize / 2),
        );
        let buffer = context.device().allocate(&desc);
        buffer.map_err(|e| Stop::from(e).at(&format!("allocation {round}")))?;
    }
    usable(context)
}

fn empty(context: &Context) -> Check {
    let desc = desc(context.device(), "empty", 0);
    match context.device().allocate(&desc) {
        Ok(buffer) if buffer.desc().bytes == 0 => Ok(()),
        Ok(buffer) => Err(Stop::failed(
            format!("a buffer of {} bytes", buffer.desc().bytes),
            "one of none",
        )),
        Err(e) => Err(e.into()),
    }
}

fn aligned_buffers(context: &Context) -> Check {
    for (bytes, align) in [(1, 1), (100, 64), (4097, 256), (1 << 16, 4096)] {
        let mut desc = desc(context.device(), "aligned", bytes);
        desc.align = align;
        let buffer = context.device().allocate(&desc)?;
        let least = align.max(anynpu_hal::HOST_ALIGN);
        if !aligned(&*buffer, least)? {
            return Err(Stop::failed(
                format!("a buffer not aligned to {least} bytes"),
                "the alignment that was asked for",
            ));
        }
    }
    let zeros = Guarded::blank(context.device(), "guarded", 64)?;
    zeros.fill(&[7; 64])?;
    match zeros.read()? == [7; 64] {
        true => Ok(()),
        false => Err(Stop::failed(
            "other bytes than were written",
            "what was written",
        )),
    }
}

/// A kind of memory that the device does not list is refused.
fn unknown_kind(context: &Context) -> Check {
    let kinds = &context.capabilities().memory;
    let others = [
        MemoryKind::DmaBuf,
        MemoryKind::AHardwareBuffer,
        MemoryKind::IoSurface,
    ];
    for kind in others.into_iter().filter(|k| !kinds.contains(k)) {
        let mut desc = desc(context.device(), "of another kind", 64);
        desc.kind = kind;
        refused(
            context.device().allocate(&desc),
            &format!("a buffer of kind {kind:?}"),
        )?;
    }
    usable(context)
}
