//! Events: ends of runs, by threads of their own where a driver has fences.

use std::ffi::c_int;
use std::sync::{Arc, Condvar, Mutex};

use crate::codes::*;
use crate::execution::{Execution, State};
use crate::live::{self, Object};
use crate::model::told;
use crate::settings::REFERENCE;

/// What will have happened.
pub struct Event {
    done: Arc<Done>,
    /// A descriptor that can be read once it has.
    fence: Option<c_int>,
    /// The execution that it ends, by its address; `None` once it was waited for.
    execution: Option<usize>,
}

/// The end of a run.
#[derive(Default)]
struct Done {
    result: Mutex<Option<c_int>>,
    changed: Condvar,
}

impl Done {
    fn tell(&self, result: c_int) {
        *self.result.lock().unwrap_or_else(|e| e.into_inner()) = Some(result);
        self.changed.notify_all();
    }

    fn wait(&self) -> c_int {
        let mut result = self.result.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            match *result {
                Some(code) => return code,
                None => result = self.changed.wait(result).unwrap_or_else(|e| e.into_inner()),
            }
        }
    }

    fn known(&self) -> Option<c_int> {
        *self.result.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Object for Event {
    fn is_needed(&self) -> bool {
        self.done.known().is_none() && self.execution.is_some()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if let Some(fd) = self.fence {
            // SAFETY: the descriptor is the event's own.
            unsafe { libc::close(fd) };
        }
        if let Some(execution) = self.execution {
            live::set_busy(execution, false);
        }
    }
}

/// Waits until a descriptor can be read.
fn poll(fd: c_int) {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one structure is given.
    unsafe { libc::poll(&raw mut poll, 1, -1) };
}

impl Event {
    /// What has a result already.
    pub fn ended(result: c_int) -> Event {
        let done = Done::default();
        done.tell(result);
        Event {
            done: Arc::new(done),
            fence: None,
            execution: None,
        }
    }

    /// What the kernel's fence `fd` stands for; a descriptor of its own is kept.
    pub fn of_fence(fd: c_int) -> Result<Event, c_int> {
        // SAFETY: a descriptor that is none is told.
        let own = unsafe { libc::dup(fd) };
        if fd <= 0 || own < 0 {
            return told(BAD_DATA, "no fence");
        }
        let mut event = Event::ended(NO_ERROR);
        event.fence = Some(own);
        Ok(event)
    }

    /// The fence that it is backed by, if it is: a descriptor for the application to close.
    pub fn fence(&self) -> Option<c_int> {
        // SAFETY: the descriptor is the event's own.
        self.fence.map(|fd| unsafe { libc::dup(fd) })
    }

    /// Waits for it, which makes its execution usable again.
    pub fn wait(&mut self) -> Result<(), c_int> {
        if let Some(fd) = self.fence {
            poll(fd);
        }
        let result = self.done.wait();
        if let Some(execution) = self.execution.take() {
            live::set_busy(execution, false);
        }
        match result {
            NO_ERROR => Ok(()),
            code => Err(code),
        }
    }

    /// Starts `execution` once all of `after` have come.
    ///
    /// # Safety
    /// The execution is there until the event was waited for, which is noticed otherwise.
    pub unsafe fn start(
        execution: &mut Execution,
        after: &[&Event],
        nanoseconds: u64,
    ) -> Result<Event, c_int> {
        if execution.state == State::Completed && !execution.reusable {
            return told(BAD_STATE, "an execution that is not reusable was run twice");
        }
        if nanoseconds > 0 {
            execution.has_one_device()?;
        }
        if !execution.outputs_are_specified() {
            return told(BAD_DATA, "results of open dimensions can't be fenced");
        }
        if let Some(bad) = after
            .iter()
            .filter_map(|e| e.done.known())
            .find(|r| *r != NO_ERROR)
        {
            return told(bad, "a run that depends on one that failed");
        }
        execution.fails("startComputeWithDependencies")?;
        let device = execution.compilation.devices.first();
        if device.is_none_or(|d| d.name == REFERENCE) {
            // no driver: the runtime waits and computes itself
            for event in after {
                event.fence.into_iter().for_each(poll);
                match event.done.wait() {
                    NO_ERROR => {}
                    code => return Err(code),
                }
            }
            execution.compute()?;
            return Ok(Event::ended(NO_ERROR));
        }
        // SAFETY: a new descriptor.
        let fence = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        let done = Arc::new(Done::default());
        let address = std::ptr::from_mut(execution).expose_provenance();
        live::set_busy(address, true);
        let before: Vec<(Arc<Done>, Option<c_int>)> =
            after.iter().map(|e| (e.done.clone(), e.fence())).collect();
        let own = done.clone();
        // SAFETY: the descriptor is the event's own; this one is the thread's.
        let signal = unsafe { libc::dup(fence) };
        std::thread::spawn(move || {
            let mut result = NO_ERROR;
            for (event, fd) in before {
                if let Some(fd) = fd {
                    poll(fd);
                    // SAFETY: the descriptor is this thread's own.
                    unsafe { libc::close(fd) };
                }
                result = match event.wait() {
                    NO_ERROR => result,
                    code => code,
                };
            }
            let pointer = std::ptr::with_exposed_provenance_mut::<Execution>(address);
            if result == NO_ERROR {
                // SAFETY: the execution is marked as busy, so that nobody else uses or frees it.
                let execution = unsafe { &mut *pointer };
                let ran = execution.compute().and_then(|()| execution.fails("wait"));
                result = ran.map_or_else(|code| code, |()| NO_ERROR);
            }
            own.tell(result);
            let one = 1u64;
            // SAFETY: eight bytes are written to the thread's own descriptor.
            unsafe {
                libc::write(signal, (&raw const one).cast(), 8);
                libc::close(signal);
            }
        });
        Ok(Event {
            done,
            fence: Some(fence),
            execution: Some(address),
        })
    }
}
