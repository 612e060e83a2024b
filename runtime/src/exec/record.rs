//! What ran when: a record of every segment and copy of a session's steps.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::plan::Phase;

/// A segment that ran, as the executor and the device saw it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SegmentRun {
    /// The step it was part of, counted from 0.
    pub step: u64,
    /// Segments with the same number ran at once, on different devices; counted from 0.
    pub wave: u64,
    /// The phase of the step.
    pub phase: Phase,
    /// Tokens of the step.
    pub tokens: u32,
    /// Where the step began in the context; of a step of several sessions, the furthest.
    pub position: u32,
    /// The device it ran on.
    pub device: String,
    /// The nodes that were submitted.
    pub nodes: Range<u32>,
    /// Nodes that the device counted.
    pub counted: u64,
    /// When its copies began, since the record was started.
    pub began: Duration,
    /// How long the copies before it took.
    pub copying: Duration,
    /// Bytes of those copies.
    pub copied_bytes: u64,
    /// From being submitted to the end of the run.
    pub ran: Duration,
    /// How long the device says it took: by its own clock.
    pub busy: Duration,
}

/// Where a recorder stands while a segment runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    at: Duration,
    copied: Duration,
    bytes: u64,
}

/// Keeps what ran since it was started.
#[derive(Debug)]
pub(super) struct Recorder {
    started: Instant,
    pub runs: Vec<SegmentRun>,
}

impl Recorder {
    pub fn new() -> Self {
        Recorder {
            started: Instant::now(),
            runs: Vec::new(),
        }
    }

    pub fn begin(&self) -> Began {
        let at = self.started.elapsed();
        Began {
            at,
            copied: at,
            bytes: 0,
        }
    }

    /// The copies before the segment are done.
    pub fn copied(&self, began: &mut Began, bytes: u64) {
        began.copied = self.started.elapsed();
        began.bytes = bytes;
    }

    /// The segment is done, after it `took` so long; `run` gives all but the times.
    pub fn end(&mut self, began: Began, took: Duration, mut run: SegmentRun) {
        run.began = began.at;
        run.copying = began.copied.saturating_sub(began.at);
        run.copied_bytes = began.bytes;
        run.ran = took;
        self.runs.push(run);
    }
}
