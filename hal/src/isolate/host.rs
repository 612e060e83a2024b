//! The program's side: the helper process, and the calls that wait for it.

use std::collections::HashMap;
use std::io::{BufReader, BufWriter};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Helper;
use super::wire::{self, Answer, Call, Reply, Request};
use crate::{Counters, HalError, Point};

/// How long a call may go without an answer. Compiling tells of its progress meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);
/// How long a helper that was told to stop may take to be seen ended.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A running helper. Dropped, it is ended.
#[derive(Debug)]
pub(super) struct Host {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    child: Mutex<Child>,
    input: Mutex<Option<BufWriter<ChildStdin>>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: HashMap<u64, Waiter>,
    counters: Counters,
    /// Why the helper is gone.
    lost: Option<String>,
}

/// What an answer is for.
#[derive(Debug)]
enum Waiter {
    Call(mpsc::Sender<Result<Answer, HalError>>),
    Run(Point),
}

impl Host {
    /// Starts the helper of the device called `name` and checks that it speaks the same version.
    pub fn start(name: &str, helper: &Helper) -> Result<Self, HalError> {
        let lost = |why: String| HalError::DeviceLost {
            device: name.into(),
            why,
        };
        let mut command = Command::new(&helper.program);
        command.args(&helper.arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| {
            lost(format!(
                "its helper {} can't be started: {e}",
                helper.program.display()
            ))
        })?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(lost("its helper has no standard input or output".into()));
        };
        let shared = Arc::new(Shared {
            name: name.into(),
            child: Mutex::new(child),
            input: Mutex::new(Some(BufWriter::new(input))),
            state: Mutex::new(State::default()),
        });
        let host = Host {
            shared: shared.clone(),
        };
        let thread = std::thread::Builder::new().name(format!("helper of {name}"));
        let reader = thread.spawn(move || {
            let mut output = BufReader::new(output);
            let why = loop {
                match wire::read::<Reply>(&mut output) {
                    Ok(Some(reply)) => shared.answer(reply),
                    Ok(None) => break "its helper ended".to_owned(),
                    Err(e) => break format!("its helper answered nonsense: {e}"),
                }
            };
            shared.end(&why);
        });
        reader.map_err(|e| lost(format!("no thread for its helper: {e}")))?;
        match host.call(Call::Version)? {
            Answer::Version(wire::VERSION) => Ok(host),
            Answer::Version(other) => Err(lost(format!(
                "its helper speaks version {other}, expected {}",
                wire::VERSION
            ))),
            other => Err(lost(format!("its helper answered {}", other.name()))),
        }
    }

    /// The helper's process number.
    pub fn process(&self) -> u32 {
        self.shared.child.lock().id()
    }

    /// Calls and waits for the answer.
    pub fn call(&self, call: Call) -> Result<Answer, HalError> {
        self.call_with_progress(call, &mut |_, _| true)
    }

    /// Calls and waits for the answer; tells `progress` meanwhile, which stops the call by returning false.
    pub fn call_with_progress(
        &self,
        call: Call,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Answer, HalError> {
        let (to, from) = mpsc::channel();
        let id = self.shared.send(call, Waiter::Call(to))?;
        let started = Instant::now();
        let mut cancelled = false;
        loop {
            match from.recv_timeout(ANSWER_LIMIT) {
                Ok(Ok(Answer::Progress(done, total))) => {
                    if !progress(done, total) && !cancelled {
                        cancelled = true;
                        self.tell(Call::Cancel(id));
                    }
                }
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Err(self.shared.lost()),
                Err(RecvTimeoutError::Timeout) => {
                    let waited = started.elapsed();
                    self.shared.kill("its helper did not answer");
                    return Err(HalError::Timeout {
                        what: format!("an answer of the helper of '{}'", self.shared.name),
                        waited,
                        limit: ANSWER_LIMIT,
                    });
                }
            }
        }
    }

    /// Starts a run; its end is told to `signal`.
    pub fn submit(&self, call: Call, signal: Point) -> Result<(), HalError> {
        self.shared.send(call, Waiter::Run(signal)).map(|_| ())
    }

    /// Sends what needs no answer.
    pub fn tell(&self, call: Call) {
        let (to, _) = mpsc::channel();
        if let Err(e) = self.shared.send(call, Waiter::Call(to)) {
            tracing::debug!("not told: {e}");
        }
    }

    /// Ends the helper.
    pub fn stop(&self, why: &str) {
        self.shared.kill(why);
    }

    /// Whether the helper is gone.
    pub fn is_lost(&self) -> bool {
        self.shared.state.lock().lost.is_some()
    }

    /// What the device counted, after the last run that ended.
    pub fn counters(&self) -> Counters {
        self.shared.state.lock().counters
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shared.kill("its helper was told to stop");
    }
}

impl Shared {
    fn send(&self, call: Call, waiter: Waiter) -> Result<u64, HalError> {
        let id = {
            let mut state = self.state.lock();
            if state.lost.is_some() {
                drop(state);
                return Err(self.lost());
            }
            state.next += 1;
            let id = state.next;
            state.waiting.insert(id, waiter);
            id
        };
        let mut input = self.input.lock();
        let sent = match input.as_mut() {
            Some(input) => wire::write(input, &Request { id, call }),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        drop(input);
        match sent {
            Ok(()) => Ok(id),
            Err(e) => {
                // nothing was started, so nobody is told
                self.state.lock().waiting.remove(&id);
                // what it said before it stopped listening tells more
                let started = Instant::now();
                while self.state.lock().lost.is_none() && started.elapsed() < END_LIMIT / 4 {
                    std::thread::sleep(Duration::from_millis(1));
                }
                self.end(&format!("its helper can't be told anything: {e}"));
                Err(self.lost())
            }
        }
    }

    fn answer(&self, reply: Reply) {
        let mut state = self.state.lock();
        if let Ok(Answer::Ran(counters)) = &reply.result {
            state.counters = wire::into_counters(*counters);
        }
        let more = matches!(reply.result, Ok(Answer::Progress(..)));
        let waiter = match more {
            true => match state.waiting.get(&reply.id) {
                Some(Waiter::Call(to)) => Some(Waiter::Call(to.clone())),
                _ => None,
            },
            false => state.waiting.remove(&reply.id),
        };
        drop(state);
        let result = reply.result.map_err(HalError::from);
        match waiter {
            // whoever asked may have given up
            Some(Waiter::Call(to)) => drop(to.send(result)),
            Some(Waiter::Run(point)) => {
                match result {
                    Ok(_) => point.signal(),
                    Err(e) => point.fail(e),
                };
            }
            None => {}
        }
    }

    /// The helper is gone: everyone who waits is told. The first reason stands.
    fn end(&self, why: &str) {
        let how = self.wait_for_end();
        let waiting = {
            let mut state = self.state.lock();
            state.lost.get_or_insert_with(|| match how {
                Some(status) => format!("{why} ({status})"),
                None => why.to_owned(),
            });
            std::mem::take(&mut state.waiting)
        };
        for waiter in waiting.into_values() {
            match waiter {
                Waiter::Call(to) => drop(to.send(Err(self.lost()))),
                Waiter::Run(point) => drop(point.fail(self.lost())),
            }
        }
    }

    /// How the process ended, if it did; what no longer talks is ended.
    fn wait_for_end(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock();
        let started = Instant::now();
        while started.elapsed() < END_LIMIT {
            match child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return None,
            }
            if started.elapsed() > END_LIMIT / 4 {
                let _ = child.kill();
            }
        }
        None
    }

    fn kill(&self, why: &str) {
        self.state.lock().lost.get_or_insert_with(|| why.to_owned());
        *self.input.lock() = None;
        let _ = self.child.lock().kill();
        self.end(why);
    }

    fn lost(&self) -> HalError {
        let why = self.state.lock().lost.clone();
        HalError::DeviceLost {
            device: self.name.clone(),
            why: why.unwrap_or_else(|| "its helper is gone".into()),
        }
    }
}
