//! Completion of submitted work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::HalError;

/// A counter that rises as a queue completes work.
///
/// A failure is a payload: it wakes every waiter with the error. [`Timeline::reset`] starts a new
/// generation, and signals that still arrive for an older one are ignored.
#[derive(Clone, Debug)]
pub struct Timeline {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    generation: u32,
    completed: u64,
    failure: Option<HalError>,
}

/// A place on a [`Timeline`]; reached when the timeline has counted to it.
#[derive(Clone, Debug)]
pub struct Point {
    timeline: Timeline,
    generation: u32,
    value: u64,
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// The timeline moved.
    Advanced,
    /// It had already got there.
    Duplicate,
    /// It is of an older generation.
    Stale,
}

impl Timeline {
    /// A timeline at 0; `name` stands in errors.
    pub fn new(name: impl Into<String>) -> Self {
        Timeline {
            shared: Arc::new(Shared {
                name: name.into(),
                state: Mutex::new(State {
                    generation: 0,
                    completed: 0,
                    failure: None,
                }),
                changed: Condvar::new(),
            }),
        }
    }

    /// The point at `value` in the present generation.
    pub fn point(&self, value: u64) -> Point {
        Point {
            timeline: self.clone(),
            generation: self.shared.state.lock().generation,
            value,
        }
    }

    /// How far the timeline has come.
    pub fn completed(&self) -> u64 {
        self.shared.state.lock().completed
    }

    /// Fails every point not yet reached and wakes all waiters. The first failure stands.
    pub fn fail(&self, error: HalError) {
        let mut state = self.shared.state.lock();
        state.failure.get_or_insert(error);
        self.shared.changed.notify_all();
    }

    /// Starts a new generation at 0 without failure; waiters of the old one get an error.
    pub fn reset(&self) {
        let mut state = self.shared.state.lock();
        state.generation = state.generation.wrapping_add(1);
        state.completed = 0;
        state.failure = None;
        self.shared.changed.notify_all();
    }
}

impl Point {
    /// Its place on the timeline.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Reports the work up to this point as done. Any thread may call it; it never blocks for long.
    pub fn signal(&self) -> Signalled {
        let shared = &self.timeline.shared;
        let mut state = shared.state.lock();
        if state.generation != self.generation {
            return Signalled::Stale;
        }
        if state.completed >= self.value {
            return Signalled::Duplicate;
        }
        state.completed = self.value;
        shared.changed.notify_all();
        Signalled::Advanced
    }

    /// Fails the timeline if it is still in this point's generation.
    pub fn fail(&self, error: HalError) -> Signalled {
        let shared = &self.timeline.shared;
        let mut state = shared.state.lock();
        if state.generation != self.generation {
            return Signalled::Stale;
        }
        state.failure.get_or_insert(error);
        shared.changed.notify_all();
        Signalled::Advanced
    }

    /// Whether it is the same place on the same timeline.
    pub fn is(&self, other: &Point) -> bool {
        Arc::ptr_eq(&self.timeline.shared, &other.timeline.shared)
            && (self.generation, self.value) == (other.generation, other.value)
    }

    /// Whether the point is reached.
    pub fn reached(&self) -> bool {
        let state = self.timeline.shared.state.lock();
        state.generation == self.generation && state.completed >= self.value
    }

    /// Blocks until the point is reached, the timeline fails or is reset, or `limit` passes.
    pub fn wait(&self, limit: Duration) -> Result<(), HalError> {
        let shared = &self.timeline.shared;
        let mut state = shared.state.lock();
        let mut started = None;
        loop {
            if state.generation != self.generation {
                return Err(HalError::DeviceLost {
                    device: shared.name.clone(),
                    why: format!("the queue was reset while point {} was awaited", self.value),
                });
            }
            if state.completed >= self.value {
                return Ok(());
            }
            if let Some(e) = &state.failure {
                return Err(e.clone());
            }
            let start = *started.get_or_insert_with(Instant::now);
            let waited = start.elapsed();
            if waited >= limit {
                return Err(HalError::Timeout {
                    what: format!("point {} of '{}'", self.value, shared.name),
                    waited,
                    limit,
                });
            }
            shared.changed.wait_for(&mut state, limit - waited);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn a_point_is_reached_by_a_signal_at_or_past_it() {
        let t = Timeline::new("t");
        assert_eq!(t.point(3).signal(), Signalled::Advanced);
        assert_eq!(t.point(2).signal(), Signalled::Duplicate);
        t.point(2).wait(Duration::ZERO).unwrap();
        assert!(t.point(3).is(&t.point(3)) && !t.point(3).is(&t.point(2)));
        assert!(!t.point(3).is(&Timeline::new("t").point(3)));
        assert!(t.point(3).reached() && !t.point(4).reached());
    }

    #[test]
    fn signals_of_an_older_generation_are_ignored() {
        let t = Timeline::new("t");
        let old = t.point(1);
        t.reset();
        assert_eq!(old.signal(), Signalled::Stale);
        assert_eq!(old.fail(lost()), Signalled::Stale);
        assert_eq!(t.completed(), 0);
        assert!(old.wait(SOON).is_err());
        t.point(1).signal();
        t.point(1).wait(SOON).unwrap();
    }

    fn lost() -> HalError {
        HalError::DeviceLost {
            device: "d".into(),
            why: "test".into(),
        }
    }

    #[test]
    fn a_failure_wakes_waiters_but_keeps_what_was_reached() {
        let t = Timeline::new("t");
        t.point(1).signal();
        let waiter = {
            let p = t.point(2);
            std::thread::spawn(move || p.wait(SOON))
        };
        t.fail(lost());
        assert_eq!(waiter.join().unwrap(), Err(lost()));
        t.point(1).wait(Duration::ZERO).unwrap();
    }

    #[test]
    fn a_wait_past_its_limit_times_out() {
        let t = Timeline::new("t");
        let e = t.point(1).wait(Duration::from_millis(5)).unwrap_err();
        assert!(matches!(e, HalError::Timeout { .. }), "{e}");
    }

    #[test]
    fn a_signal_from_another_thread_ends_a_wait() {
        let t = Timeline::new("t");
        let p = t.point(1);
        let other = std::thread::spawn(move || p.signal());
        t.point(1).wait(SOON).unwrap();
        assert_eq!(other.join().unwrap(), Signalled::Advanced);
    }
}
