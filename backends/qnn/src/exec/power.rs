//! Votes for a chip's clocks: given when a run begins, dropped when nothing has run for a while.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Device, QnnError};
use crate::sys::{
    CORNER_MAX, CORNER_MIN, CORNER_SVS, CORNER_TURBO, DCVS_ADJUST_UP_DOWN, DCVS_PERFORMANCE,
    DcvsV3, INFRASTRUCTURE_PERFORMANCE, Infrastructure, POWER_DCVS_V3, POWER_RPC_POLLING,
    PowerConfig, PowerValue,
};

/// How fast a chip is asked to run, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PowerMode {
    /// As fast as it can, until it is too hot.
    Burst,
    /// As fast as it can for long.
    Sustained,
    /// Slowly.
    Saver,
}

/// No mode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no power mode is called '{0}'; expected burst, sustained or saver")]
pub struct PowerModeError(String);

impl PowerMode {
    /// All of them.
    pub const ALL: [PowerMode; 3] = [PowerMode::Burst, PowerMode::Sustained, PowerMode::Saver];

    /// Its name in options.
    pub const fn name(self) -> &'static str {
        match self {
            PowerMode::Burst => "burst",
            PowerMode::Sustained => "sustained",
            PowerMode::Saver => "saver",
        }
    }

    /// Corner of voltage and clocks, microseconds to wake up in, and microseconds that calls are waited for busily.
    const fn vote(self) -> Vote {
        match self {
            PowerMode::Burst => Vote {
                corner: CORNER_MAX,
                adjusts: false,
                sleep_latency: 40,
                polling: 9999,
            },
            PowerMode::Sustained => Vote {
                corner: CORNER_TURBO,
                adjusts: false,
                sleep_latency: 100,
                polling: 0,
            },
            PowerMode::Saver => Vote {
                corner: CORNER_SVS,
                adjusts: true,
                sleep_latency: 1000,
                polling: 0,
            },
        }
    }
}

impl fmt::Display for PowerMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PowerMode {
    type Err = PowerModeError;

    fn from_str(s: &str) -> Result<Self, PowerModeError> {
        let found = PowerMode::ALL.into_iter().find(|mode| mode.name() == s);
        found.ok_or_else(|| PowerModeError(s.to_owned()))
    }
}

/// What a chip is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Vote {
    corner: u32,
    /// Whether clocks rise and fall with what is to be done.
    adjusts: bool,
    sleep_latency: u32,
    polling: u32,
}

/// Nothing.
const NONE: Vote = Vote {
    corner: CORNER_MIN,
    adjusts: true,
    sleep_latency: 1000,
    polling: 0,
};

impl Vote {
    fn dcvs(self, context: u32) -> DcvsV3 {
        let corner = self.corner;
        DcvsV3 {
            context,
            set_dcvs: 1,
            dcvs: u32::from(self.adjusts),
            mode: match self.adjusts {
                true => DCVS_ADJUST_UP_DOWN,
                false => DCVS_PERFORMANCE,
            },
            set_sleep_latency: 1,
            sleep_latency: self.sleep_latency,
            set_sleep_disable: 0,
            sleep_disable: 0,
            set_bus: 1,
            bus_min: corner,
            bus_target: corner,
            bus_max: corner,
            set_core: 1,
            core_min: corner,
            core_target: corner,
            core_max: corner,
        }
    }
}

/// Who is asked.
trait Voter: Send {
    fn vote(&self, vote: Vote) -> Result<(), QnnError>;
}

/// The library's configuration of power for one device.
struct Library {
    device: Arc<Device>,
    infrastructure: Infrastructure,
    id: u32,
}

impl Library {
    fn new(device: &Arc<Device>) -> Result<Library, QnnError> {
        let missing = |call| QnnError::Missing { call };
        let call = "deviceGetInfrastructure";
        let get = device.table().device_get_infrastructure;
        let get = get.ok_or(missing(call))?;
        let mut found: *const Infrastructure = std::ptr::null();
        // SAFETY: the function writes a pointer to a structure of its own.
        let code = unsafe { get(&raw mut found) };
        if code != 0 || found.is_null() {
            return Err(device.error(call, "the library".into(), code));
        }
        // SAFETY: the structure begins with its kind, and lives as long as the library.
        let kind = unsafe { (*found).kind };
        if kind != INFRASTRUCTURE_PERFORMANCE {
            return Err(missing("createPowerConfigId"));
        }
        // SAFETY: that kind has the declared functions.
        let infrastructure = unsafe { *found };
        let call = "createPowerConfigId";
        let create = infrastructure.create_power_config.ok_or(missing(call))?;
        let mut id = 0;
        // SAFETY: the first core of the first device; the function writes a number.
        let code = unsafe { create(0, 0, &raw mut id) };
        match code {
            0 => Ok(Library {
                device: device.clone(),
                infrastructure,
                id,
            }),
            code => Err(device.error(call, device.soc().name.into(), code)),
        }
    }
}

impl Voter for Library {
    fn vote(&self, vote: Vote) -> Result<(), QnnError> {
        let call = "setPowerConfig";
        let set = self.infrastructure.set_power_config;
        let set = set.ok_or(QnnError::Missing { call })?;
        let dcvs = PowerConfig {
            option: POWER_DCVS_V3,
            value: PowerValue {
                dcvs: vote.dcvs(self.id),
            },
        };
        let mut value = PowerValue { raw: [0; 16] };
        value.polling = vote.polling;
        let polling = PowerConfig {
            option: POWER_RPC_POLLING,
            value,
        };
        let configs = [&raw const dcvs, &raw const polling, std::ptr::null()];
        // SAFETY: the number is the library's own; the list ends in null and lives during the call.
        match unsafe { set(self.id, configs.as_ptr()) } {
            0 => Ok(()),
            code => Err(self.device.error(call, format!("{vote:?}"), code)),
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if let Some(destroy) = self.infrastructure.destroy_power_config {
            // SAFETY: the number is the library's own, and not used any more.
            let code = unsafe { destroy(self.id) };
            tracing::trace!("destroyPowerConfigId: {code}");
        }
    }
}

/// How long nothing must run before a vote is dropped.
const IDLE: Duration = Duration::from_millis(300);

/// The vote of a device that is in use.
pub(crate) struct Power {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    vote: Vote,
    idle: Duration,
    now: Mutex<Now>,
    changed: Condvar,
}

struct Now {
    voter: Box<dyn Voter>,
    /// Runs under way.
    running: usize,
    /// Whether the vote is given.
    given: bool,
    /// When the last run ended.
    since: Instant,
    ended: bool,
}

impl fmt::Debug for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Power({:?})", self.state.vote)
    }
}

impl Power {
    /// Votes for `mode` while `device` runs something.
    ///
    /// # Errors
    /// A library that takes no votes.
    pub fn new(device: &Arc<Device>, mode: PowerMode) -> Result<Power, QnnError> {
        Ok(Power::by(
            Box::new(Library::new(device)?),
            mode.vote(),
            IDLE,
        ))
    }

    fn by(voter: Box<dyn Voter>, vote: Vote, idle: Duration) -> Power {
        let now = Now {
            voter,
            running: 0,
            given: false,
            since: Instant::now(),
            ended: false,
        };
        let state = Arc::new(State {
            vote,
            idle,
            now: Mutex::new(now),
            changed: Condvar::new(),
        });
        let own = state.clone();
        let thread = std::thread::Builder::new().name("qnn power".into());
        let thread = thread.spawn(move || own.drop_when_idle());
        if let Err(e) = &thread {
            tracing::warn!("votes are dropped with the device only: {e}");
        }
        Power {
            state,
            thread: thread.ok(),
        }
    }

    /// Has the vote given until the returned value is dropped, and a little longer.
    pub fn hold(&self) -> Held<'_> {
        let mut now = self.state.now.lock();
        now.running += 1;
        if !now.given {
            now.given = true;
            tell(now.voter.vote(self.state.vote));
            self.state.changed.notify_all();
        }
        Held(&self.state)
    }
}

/// A run that a vote is held for.
pub(crate) struct Held<'a>(&'a State);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut now = self.0.now.lock();
        now.running = now.running.saturating_sub(1);
        now.since = Instant::now();
        self.0.changed.notify_all();
    }
}

/// A vote is a wish: a run goes on without it.
fn tell(voted: Result<(), QnnError>) {
    if let Err(e) = voted {
        tracing::warn!("the vote for the chip's clocks: {e}");
    }
}

impl State {
    fn drop_when_idle(&self) {
        let mut now = self.now.lock();
        while !now.ended {
            if !now.given || now.running > 0 {
                self.changed.wait(&mut now);
                continue;
            }
            let over = now.since + self.idle;
            if Instant::now() < over {
                self.changed.wait_until(&mut now, over);
                continue;
            }
            now.given = false;
            tell(now.voter.vote(NONE));
        }
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        let mut now = self.state.now.lock();
        now.ended = true;
        if std::mem::take(&mut now.given) {
            tell(now.voter.vote(NONE));
        }
        drop(now);
        self.state.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // it ends on its own, and has nothing to tell
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notes votes; fails on request.
    struct Recorder(Arc<Mutex<Vec<Vote>>>, bool);

    impl Voter for Recorder {
        fn vote(&self, vote: Vote) -> Result<(), QnnError> {
            self.0.lock().push(vote);
            match self.1 {
                false => Ok(()),
                true => Err(QnnError::Missing {
                    call: "setPowerConfig",
                }),
            }
        }
    }

    const BURST: Vote = PowerMode::Burst.vote();

    fn power(idle: Duration, fails: bool) -> (Power, Arc<Mutex<Vec<Vote>>>) {
        let votes = Arc::new(Mutex::new(Vec::new()));
        let voter = Box::new(Recorder(votes.clone(), fails));
        (Power::by(voter, BURST, idle), votes)
    }

    #[test]
    fn a_vote_is_given_once_for_runs_that_follow_each_other_and_dropped_with_the_device() {
        let (power, votes) = power(Duration::from_secs(600), false);
        assert!(votes.lock().is_empty());
        for _ in 0..3 {
            drop(power.hold());
        }
        assert_eq!(*votes.lock(), [BURST]);
        drop(power);
        assert_eq!(*votes.lock(), [BURST, NONE]);
    }

    #[test]
    fn a_vote_is_dropped_when_nothing_runs_and_given_again() {
        let (power, votes) = power(Duration::from_millis(1), false);
        let until = |count: usize| {
            let begun = Instant::now();
            while votes.lock().len() < count {
                assert!(begun.elapsed() < Duration::from_secs(60));
                std::thread::yield_now();
            }
        };
        let held = power.hold();
        std::thread::sleep(Duration::from_millis(20));
        // not while something runs
        assert_eq!(*votes.lock(), [BURST]);
        drop(held);
        until(2);
        drop(power.hold());
        until(4);
        assert_eq!(*votes.lock(), [BURST, NONE, BURST, NONE]);
        drop(power);
        assert_eq!(votes.lock().len(), 4);
    }

    #[test]
    fn a_vote_that_fails_stops_no_run() {
        let (power, votes) = power(Duration::from_secs(600), true);
        drop(power.hold());
        drop(power);
        assert_eq!(votes.lock().len(), 2);
    }

    #[test]
    fn modes_have_names_and_ask_for_more_the_faster_they_are() {
        for mode in PowerMode::ALL {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        let e = "turbo".parse::<PowerMode>().unwrap_err().to_string();
        assert!(e.contains("'turbo'") && e.contains("burst, sustained or saver"));
        let corners = PowerMode::ALL.map(|m| m.vote().corner);
        assert!(corners.is_sorted_by(|a, b| a > b), "{corners:?}");
        assert!(corners.iter().all(|c| *c > NONE.corner));
        let dcvs = BURST.dcvs(7);
        assert_eq!((dcvs.context, dcvs.dcvs, dcvs.mode), (7, 0, 0x10));
        assert_eq!((dcvs.core_min, dcvs.bus_max), (0xa0, 0xa0));
    }
}
