//! The queue of a device: runs one after the other, those that others wait for behind the host's back.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use anynpu_hal::{Buffer, Counters, EntryInfo, HalError, Module, Point, Queue, Reason, Submission};
use anynpu_ir::SymbolValues;
use parking_lot::Mutex;

use super::run::{Engine, Operands, Program, address};
use super::{Fence, NnapiModule, Started, no_fences};
use crate::sys::Runtime;

/// Longest wait for what a submission depends on.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

/// The queue of a device. A submission is complete when `submit` returns; one by `submit_ahead` goes on where the
/// runtime has fences.
#[derive(Debug)]
pub(crate) struct NnapiQueue {
    name: String,
    runtime: Arc<Runtime>,
    /// Why runs can't go on behind the host's back, if they can't.
    no_fences: Option<Reason>,
    counters: Arc<Mutex<Counters>>,
    /// To the thread that ends runs, once there is one.
    ends: Mutex<Option<Sender<Flight>>>,
}

/// A run that goes on.
struct Flight {
    device: String,
    module: Arc<dyn Module>,
    entry: usize,
    inputs: Vec<Arc<dyn Buffer>>,
    outputs: Vec<Arc<dyn Buffer>>,
    states: Vec<Arc<dyn Buffer>>,
    symbols: SymbolValues,
    signal: Point,
    started: Started,
    began: Instant,
    counters: Arc<Mutex<Counters>>,
}

/// A run that goes on, for others that depend on it.
struct Ahead {
    signal: Point,
    fence: Arc<Fence>,
    /// Addresses of buffers that the host writes once it ended.
    by_host: Vec<usize>,
    /// Those that the device writes.
    by_device: Vec<usize>,
}

/// Every run that goes on, on whatever device: runs on one may depend on those of another.
static AHEAD: Mutex<Vec<Ahead>> = Mutex::new(Vec::new());

impl NnapiQueue {
    pub fn new(name: &str, runtime: &Arc<Runtime>) -> NnapiQueue {
        NnapiQueue {
            name: name.into(),
            no_fences: no_fences(runtime),
            runtime: runtime.clone(),
            counters: Arc::default(),
            ends: Mutex::new(None),
        }
    }

    /// Why runs can't go on behind the host's back, if they can't.
    pub fn no_fences(&self) -> Option<&Reason> {
        self.no_fences.as_ref()
    }

    /// The run that is asked for.
    fn asked<'a>(
        &self,
        s: &Submission<'a>,
    ) -> Result<(&'a NnapiModule, &'a Program, &'a EntryInfo), HalError> {
        s.entry_info()?;
        let info = s.module.entries().get(s.entry);
        let module = s.module.as_any().downcast_ref::<NnapiModule>();
        let found = module.and_then(|m| Some((m, m.program(s.entry)?, info?)));
        let Some((module, program, info)) = found else {
            return Err(HalError::InvalidUse {
                call: "submit",
                what: "module".into(),
                found: "one of another device".into(),
                expected: format!("one compiled by '{}'", self.name),
            });
        };
        s.check(info)?;
        Ok((module, program, info))
    }

    /// Waits for what `s` depends on, but for runs that go on and leave the host nothing to do with what `s` is bound to.
    fn settle(&self, s: &Submission<'_>) -> Result<(), HalError> {
        for point in s.wait {
            let apart = {
                let all = AHEAD.lock();
                let ahead = all.iter().find(|a| a.signal.is(point));
                ahead.is_some_and(|a| {
                    let mut bound = s.inputs.iter().chain(s.states);
                    bound.all(|b| !a.by_host.contains(&address(b)))
                })
            };
            if !apart {
                point.wait(WAIT_LIMIT)?;
            }
        }
        Ok(())
    }

    /// Binds the operands of `s` and copies in what can't be; gives the fences that the run is to come after.
    fn ready(
        &self,
        s: &Submission<'_>,
        module: &NnapiModule,
        program: &Program,
        engine: &mut Engine,
        operands: &Operands<'_>,
    ) -> Result<Vec<Arc<Fence>>, HalError> {
        self.settle(s)?;
        program.bind(engine, &self.name, &self.runtime, module.roles(), operands)?;
        let after = self.depend(s, || program.read_by_host(engine, operands))?;
        program.fill(engine, operands)?;
        Ok(after)
    }

    /// Waits for what `s` depends on, but for runs whose ends the device can wait for itself: these are given.
    fn depend(
        &self,
        s: &Submission<'_>,
        by_host: impl Fn() -> Vec<usize>,
    ) -> Result<Vec<Arc<Fence>>, HalError> {
        let mut fences = Vec::new();
        for point in s.wait {
            if self.no_fences.is_none() && !point.reached() {
                let all = AHEAD.lock();
                if let Some(ahead) = all.iter().find(|a| a.signal.is(point))
                    && !by_host().iter().any(|a| ahead.by_device.contains(a))
                {
                    fences.push(ahead.fence.clone());
                    continue;
                }
            }
            point.wait(WAIT_LIMIT)?;
        }
        Ok(fences)
    }

    /// Hands `flight` to the thread that ends runs.
    fn end_later(&self, flight: Flight) {
        let mut ends = self.ends.lock();
        let to = ends.get_or_insert_with(|| {
            let (sender, receiver) = channel::<Flight>();
            let thread = std::thread::Builder::new().name("nnapi-ends".into());
            // without a thread the channel is closed, and the run is ended here
            let started = thread.spawn(move || receiver.into_iter().for_each(Flight::end));
            if let Err(e) = started {
                tracing::debug!("no thread to end runs: {e}");
            }
            sender
        });
        if let Err(back) = to.send(flight) {
            *ends = None;
            drop(ends);
            back.0.end();
        }
    }
}

impl Flight {
    /// Waits for the run, takes out what it made, and tells its end.
    fn end(self) {
        let Flight {
            device,
            module,
            entry,
            inputs,
            outputs,
            states,
            symbols,
            signal,
            started,
            began,
            counters,
        } = self;
        let ended = started.finish().map_err(|e| e.of_device(&device));
        // from now on others wait for the signal
        AHEAD.lock().retain(|a| !a.signal.is(&signal));
        let own = module.as_any().downcast_ref::<NnapiModule>();
        let info = module.entries().get(entry);
        let found = own.and_then(|m| m.program(entry)).zip(info);
        let Some((program, info)) = found else {
            signal.fail(HalError::DeviceLost {
                device,
                why: "the run's module is of another device".into(),
            });
            return;
        };
        let operands = Operands {
            info,
            inputs: &inputs,
            outputs: &outputs,
            states: &states,
            symbols,
        };
        let mut engine = program.end();
        let ended = ended.and_then(|took| program.fetch(&mut engine, &operands).map(|()| took));
        drop(engine);
        tell(&ended, info, began.elapsed(), &counters, &signal);
    }
}

/// Counts a run that ended, and tells its end.
fn tell(
    ended: &Result<Option<u64>, HalError>,
    info: &EntryInfo,
    took: Duration,
    counters: &Mutex<Counters>,
    signal: &Point,
) {
    match ended {
        Ok(in_driver) => {
            let mut counters = counters.lock();
            counters.submissions += 1;
            counters.nodes += u64::from(info.nodes);
            let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            counters.busy_ns += in_driver.unwrap_or(took).min(took);
            drop(counters);
            signal.signal();
        }
        Err(e) => drop(signal.fail(e.clone())),
    }
}

impl Queue for NnapiQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let (module, program, info) = self.asked(s)?;
        let operands = Operands::of(s, info);
        let mut engine = program.lock();
        let began = Instant::now();
        let ready = self.ready(s, module, program, &mut engine, &operands);
        let ran = ready.and_then(|after| {
            let engine = &mut *engine;
            let ran = match after.is_empty() {
                true => engine.executable.compute_on(&engine.bindings),
                false => {
                    let started = engine.executable.start(&engine.bindings, &after);
                    started.and_then(Started::finish)
                }
            };
            let took = ran.map_err(|e| e.of_device(&self.name))?;
            program.fetch(engine, &operands)?;
            Ok(took)
        });
        drop(engine);
        tell(&ran, info, began.elapsed(), &self.counters, s.signal);
        Ok(())
    }

    fn submit_ahead(&self, s: &Submission<'_>) -> Result<(), HalError> {
        if let Some(why) = &self.no_fences {
            tracing::trace!("'{}' ends a run before the next: {why}", self.name);
            return self.submit(s);
        }
        let (module, program, info) = self.asked(s)?;
        let operands = Operands::of(s, info);
        let mut engine = program.lock();
        let began = Instant::now();
        let ready = self.ready(s, module, program, &mut engine, &operands);
        let started = ready.and_then(|after| {
            let engine = &mut *engine;
            let started = engine.executable.start(&engine.bindings, &after);
            started.map_err(|e| e.of_device(&self.name))
        });
        let started = match started {
            Ok(started) => started,
            Err(e) => {
                drop(engine);
                s.signal.fail(e);
                return Ok(());
            }
        };
        let [by_host, by_device] = program.written(&engine, &operands);
        AHEAD.lock().push(Ahead {
            signal: s.signal.clone(),
            fence: started.fence().clone(),
            by_host,
            by_device,
        });
        engine.busy = true;
        drop(engine);
        self.end_later(Flight {
            device: self.name.clone(),
            module: s.module.clone(),
            entry: s.entry,
            inputs: s.inputs.to_vec(),
            outputs: s.outputs.to_vec(),
            states: s.states.to_vec(),
            symbols: s.symbols,
            signal: s.signal.clone(),
            started,
            began,
            counters: self.counters.clone(),
        });
        Ok(())
    }

    fn counters(&self) -> Counters {
        *self.counters.lock()
    }
}
