//! A thread that runs segments beside those of the thread that owns a session.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use anynpu_hal::{Device, HalError, Point};
use anynpu_ir::SymbolValues;

use super::slots::Run;

/// The thread. It ends when this is dropped, or when what then runs on it does.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Sender<Job>,
    ends: Receiver<Ended>,
}

/// How long it is looked for news before a thread sleeps.
const WAKING: Duration = Duration::from_micros(50);

/// What to run. It holds what it needs, as long as it runs.
#[derive(Debug)]
pub(super) struct Job {
    pub run: Arc<Run>,
    pub device: Arc<dyn Device>,
    pub symbols: SymbolValues,
    /// Tells the end of the run.
    pub signal: Point,
    pub limit: Duration,
}

/// How a run ended, and how long it took.
pub(super) type Ended = (Result<(), HalError>, Duration);

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// None is to be had.
    pub fn start() -> std::io::Result<Worker> {
        let (jobs, taken) = channel::<Job>();
        let (told, ends) = channel();
        let thread = std::thread::Builder::new().name("anynpu-segment".into());
        thread.spawn(move || {
            while let Some(job) = soon(&taken).or_else(|| taken.recv().ok()) {
                if told.send(job.run()).is_err() {
                    break;
                }
            }
        })?;
        Ok(Worker { jobs, ends })
    }

    /// Starts a run. [`Worker::end`] tells how it ended.
    pub fn begin(&self, job: Job) {
        // a thread that is gone is told by `end`
        let _ = self.jobs.send(job);
    }

    /// How the run ended that was begun, awaited for `limit` at most.
    pub fn end(&self, device: &str, limit: Duration) -> Ended {
        if let Some(ended) = soon(&self.ends) {
            return ended;
        }
        let error = match self.ends.recv_timeout(limit) {
            Ok(ended) => return ended,
            Err(RecvTimeoutError::Timeout) => HalError::Timeout {
                what: format!("a segment on '{device}'"),
                waited: limit,
                limit,
            },
            Err(RecvTimeoutError::Disconnected) => HalError::DeviceLost {
                device: device.to_owned(),
                why: "its driver ended the thread that ran a segment".into(),
            },
        };
        (Err(error), limit)
    }
}

/// What comes within about the time that waking a thread takes.
fn soon<T>(from: &Receiver<T>) -> Option<T> {
    let began = Instant::now();
    while began.elapsed() < WAKING {
        match from.try_recv() {
            Ok(value) => return Some(value),
            Err(TryRecvError::Empty) => std::hint::spin_loop(),
            Err(TryRecvError::Disconnected) => return None,
        }
    }
    None
}

impl Job {
    pub fn run(&self) -> Ended {
        let began = Instant::now();
        let queue = self.device.queue();
        let ended = self.run.go(queue, self.symbols, &self.signal, self.limit);
        (ended, began.elapsed())
    }
}
