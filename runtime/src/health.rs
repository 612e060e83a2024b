//! Which devices are not to be used for now, because they failed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long a device is left alone after its first failures; after one more it is off until the program ends.
const QUARANTINES: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(300)];

/// The failures of a runtime's devices. Sessions and models share it.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failed: Mutex<BTreeMap<String, Failures>>,
}

#[derive(Debug)]
struct Failures {
    count: usize,
    last: Instant,
    why: String,
}

impl Health {
    /// Notes that `device` failed at `now`. While it is left alone, that is what sessions see that used it
    /// before: the same failure, which counts once.
    pub fn failed(&self, device: &str, why: &str, now: Instant) {
        let mut failed = self.failed.lock();
        if failed.get(device).is_some_and(|f| f.left(now).is_some()) {
            return;
        }
        let entry = failed.entry(device.to_owned()).or_insert(Failures {
            count: 0,
            last: now,
            why: String::new(),
        });
        entry.count += 1;
        entry.last = now;
        entry.why = why.to_owned();
    }

    /// Why `device` is not to be used at `now`, and for how long; `None` if it may be.
    pub fn quarantined(&self, device: &str, now: Instant) -> Option<String> {
        let failed = self.failed.lock();
        let entry = failed.get(device)?;
        match QUARANTINES.get(entry.count.saturating_sub(1)) {
            None => Some(format!(
                "it failed {} times and is off until the program ends: {}",
                entry.count, entry.why
            )),
            Some(_) => Some(format!(
                "it failed and is left alone for {} s more: {}",
                entry.left(now)?.as_secs() + 1,
                entry.why
            )),
        }
    }
}

impl Failures {
    /// How long the device is left alone after `now`, if it is, and not for good.
    fn left(&self, now: Instant) -> Option<Duration> {
        let time = QUARANTINES.get(self.count.saturating_sub(1))?;
        let left = time.checked_sub(now.saturating_duration_since(self.last));
        left.filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_comes_back_after_a_while_until_it_failed_three_times() {
        let health = Health::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(health.quarantined("npu", start), None);
        health.failed("npu", "lost", start);
        let why = health.quarantined("npu", at(1)).unwrap();
        assert!(why.contains("lost") && why.contains("30 s"), "{why}");
        assert_eq!(health.quarantined("npu", at(30)), None);
        assert_eq!(health.quarantined("cpu", at(1)), None);
        health.failed("npu", "hung", at(40));
        assert!(health.quarantined("npu", at(339)).unwrap().contains("hung"));
        assert_eq!(health.quarantined("npu", at(340)), None);
        health.failed("npu", "hung", at(341));
        let why = health.quarantined("npu", at(1 << 40)).unwrap();
        assert!(why.contains("until the program ends"), "{why}");
    }

    #[test]
    fn a_failure_that_several_sessions_see_counts_once() {
        let health = Health::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for seconds in 0..4 {
            health.failed("npu", "lost", at(seconds));
        }
        let why = health.quarantined("npu", at(4)).unwrap();
        assert!(why.contains("26 s") || why.contains("27 s"), "{why}");
        assert_eq!(health.quarantined("npu", at(30)), None);
    }
}
