//! Which cores threads run on.
//!
//! All threads of a pool wait for the last, so a slow core holds up the fast ones: by default there is a thread for each
//! core that is at least half as fast as the fastest, and all but the caller's stay on the fastest cores that
//! are enough. Where there are as many of these as threads, each has one of its own: else, beside other programs, the
//! system has two of them take turns on one core at times.

use std::io;
use std::path::Path;

use crate::sys;

/// The cores that this process may use, the fastest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    /// Number and speed of each, in a unit of the system's own; one speed where it tells none.
    ranked: Vec<(usize, u64)>,
}

/// Cores that threads stay on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreSet(Vec<usize>);

impl Cores {
    /// Those of this machine.
    pub fn detect() -> Cores {
        Cores::of(&sys::allowed_cores(), Path::new("/sys/devices/system/cpu"))
    }

    /// Those `allowed`, by what Linux tells in `root`: their capacity, which takes their design into account, or else
    /// their highest frequency.
    fn of(allowed: &[usize], root: &Path) -> Cores {
        let speeds = |file: &str| -> Option<Vec<(usize, u64)>> {
            let speed = |&core: &usize| {
                let text = std::fs::read_to_string(root.join(format!("cpu{core}/{file}"))).ok()?;
                Some((core, text.trim().parse().ok()?))
            };
            allowed.iter().map(speed).collect()
        };
        let mut ranked = speeds("cpu_capacity")
            .or_else(|| speeds("cpufreq/cpuinfo_max_freq"))
            .unwrap_or_else(|| allowed.iter().map(|&core| (core, 1)).collect());
        ranked.sort_by_key(|&(core, speed)| (std::cmp::Reverse(speed), core));
        Cores { ranked }
    }

    /// Threads that a pool has where none are asked for, of the `most` that the system recommends.
    pub fn default_threads(&self, most: usize) -> usize {
        let fastest = self.ranked.first().map_or(0, |c| c.1);
        let fast = self.ranked.iter().filter(|c| c.1 >= fastest.div_ceil(2));
        match fast.count() {
            0 => most,
            fast => fast.min(most),
        }
    }

    /// The cores for thread `index`, from 1 on, of `threads`: one of the fastest, with all that are as fast as the slowest
    /// of so many, or a core of its own if there are no more of these than threads. `None` if any core will do.
    pub fn set_for(&self, index: usize, threads: usize) -> Option<CoreSet> {
        let slowest = self.ranked.get(threads.checked_sub(1)?)?.1;
        let enough = self.ranked.iter().filter(|c| c.1 >= slowest);
        let set: Vec<usize> = enough.map(|c| c.0).collect();
        match set.get(index) {
            Some(&own) if set.len() == threads => Some(CoreSet(vec![own])),
            _ => (set.len() < self.ranked.len()).then_some(CoreSet(set)),
        }
    }
}

impl CoreSet {
    /// Keeps the calling thread on these cores.
    ///
    /// # Errors
    /// The system's.
    pub fn keep_thread(&self) -> io::Result<()> {
        sys::keep_thread_on(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A phone with one fastest core, three fast and four slow ones.
    fn phone(file: &str) -> Cores {
        let root = tempfile::tempdir().unwrap();
        for (core, speed) in [300, 300, 300, 300, 800, 800, 800, 1024]
            .into_iter()
            .enumerate()
        {
            let file = root.path().join(format!("cpu{core}/{file}"));
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, format!("{speed}\n")).unwrap();
        }
        Cores::of(&[0, 1, 2, 3, 4, 5, 6, 7], root.path())
    }

    #[test]
    fn threads_go_to_the_fastest_cores_that_are_enough() {
        for cores in [phone("cpu_capacity"), phone("cpufreq/cpuinfo_max_freq")] {
            assert_eq!(cores.default_threads(8), 4);
            assert_eq!(cores.default_threads(3), 3);
            let set = |index, threads| cores.set_for(index, threads).map(|set| set.0);
            assert_eq!(set(0, 1), Some(vec![7]));
            assert_eq!(set(1, 2), Some(vec![7, 4, 5, 6]));
            assert_eq!(set(1, 3), Some(vec![7, 4, 5, 6]));
            assert_eq!(set(1, 5), None);
            assert_eq!(set(1, 9), None);
            assert_eq!(set(0, 0), None);
        }
    }

    #[test]
    fn threads_that_take_all_cores_have_one_each() {
        let phone = phone("cpu_capacity");
        let own = |index| phone.set_for(index, 4).map(|set| set.0);
        assert_eq!(
            [own(1), own(2), own(3)],
            [4, 5, 6].map(|core| Some(vec![core]))
        );
        let nothing = tempfile::tempdir().unwrap();
        let alike = Cores::of(&[0, 3], nothing.path());
        assert_eq!(alike.set_for(1, 2), Some(CoreSet(vec![3])));
    }

    #[test]
    fn cores_that_are_alike_or_not_told_of_are_left_to_the_system() {
        let nothing = tempfile::tempdir().unwrap();
        let alike = Cores::of(&[0, 1, 2], nothing.path());
        assert_eq!(alike.default_threads(3), 3);
        assert!([1, 2, 4].iter().all(|&n| alike.set_for(1, n).is_none()));
        let unknown = Cores::of(&[], nothing.path());
        assert_eq!(unknown.default_threads(6), 6);
        assert_eq!(unknown.set_for(0, 1), None);
    }

    #[test]
    fn a_thread_stays_on_the_cores_it_is_given() {
        let all = sys::allowed_cores();
        let Some(&last) = all.last() else {
            println!(
                "SKIPPED a_thread_stays_on_the_cores_it_is_given: this system tells of no cores"
            );
            return;
        };
        let kept = std::thread::spawn(move || {
            CoreSet(vec![last]).keep_thread().unwrap();
            sys::allowed_cores()
        });
        assert_eq!(kept.join().unwrap(), [last]);
        assert_eq!(
            sys::allowed_cores(),
            all,
            "the thread that asked is where it was"
        );
    }
}
