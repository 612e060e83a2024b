//! Steps of a prompt that are under way at once.
//!
//! While one device runs a segment of a step, another can run an earlier segment of the step after: the two
//! share neither values nor states. Work is done in waves: each wave runs at most one segment of each step under
//! way, on different devices, and ends when all of them have. The executor runs waves, and [`predict`] goes
//! through the same ones with the times that are expected.

use std::collections::BTreeMap;
use std::ops::Range;

use anynpu_ir::Graph;

/// Most steps under way at once.
pub(crate) const STEPS_AT_ONCE: usize = 2;

/// Whether steps of these segments, (device, nodes) each, can be under way at once: they are on several devices,
/// and each state is used by one segment alone, as a step writes rows of it while the step before still runs.
pub(crate) fn is_possible(
    graph: &Graph,
    segments: impl Iterator<Item = (usize, Range<u32>)>,
) -> bool {
    let (mut users, mut devices) = (BTreeMap::new(), Vec::new());
    for (segment, (device, nodes)) in segments.enumerate() {
        devices.push(device);
        for node in &graph.nodes()[nodes.start as usize..nodes.end as usize] {
            for state in node.op.states() {
                if *users.entry(state).or_insert(segment) != segment {
                    return false;
                }
            }
        }
    }
    devices.iter().any(|d| *d != devices[0])
}

/// Which of the steps under way, oldest first, run their next segment in the next wave. `next` has the index of
/// that segment, and `device` tells where a segment runs.
///
/// The oldest always runs. A younger one runs a segment that the step before it is past, on a device that is
/// free.
pub(crate) fn wave(
    next: [Option<usize>; STEPS_AT_ONCE],
    device: impl Fn(usize) -> usize,
) -> [bool; STEPS_AT_ONCE] {
    match next {
        [Some(older), Some(younger)] => {
            let runs = younger < older && device(younger) != device(older);
            [true, runs]
        }
        [older, younger] => [older.is_some(), younger.is_some()],
    }
}

/// The time of steps in waves, given for each step the time of each segment, and the device of each segment.
pub(crate) fn predict(steps: &[Vec<f64>], devices: &[usize]) -> f64 {
    let (mut total, mut started) = (0.0, 0);
    // step and next segment of each under way
    let mut under_way: Vec<(usize, usize)> = Vec::new();
    loop {
        while under_way.len() < STEPS_AT_ONCE && started < steps.len() {
            under_way.push((started, 0));
            started += 1;
        }
        if under_way.is_empty() || devices.is_empty() {
            return total;
        }
        let next = std::array::from_fn(|i| under_way.get(i).map(|w| w.1));
        let runs = wave(next, |segment| devices[segment]);
        let mut longest = 0.0f64;
        for ((step, segment), _) in under_way.iter_mut().zip(runs).filter(|(_, runs)| *runs) {
            longest = longest.max(steps[*step][*segment]);
            *segment += 1;
        }
        total += longest;
        under_way.retain(|(_, segment)| *segment < devices.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_takes_what_its_segments_take() {
        assert_eq!(predict(&[vec![1.0, 2.0, 4.0]], &[0, 1, 0]), 7.0);
        assert_eq!(predict(&[], &[0]), 0.0);
    }

    #[test]
    fn two_halves_on_two_devices_take_half_the_time_but_for_the_ends() {
        let steps = vec![vec![3.0, 3.0]; 10];
        assert_eq!(predict(&steps, &[0, 1]), 33.0);
        // on one device nothing runs at once
        assert_eq!(predict(&steps, &[0, 0]), 60.0);
    }

    #[test]
    fn the_slower_device_sets_the_pace() {
        let steps = vec![vec![1.0, 5.0]; 4];
        assert_eq!(predict(&steps, &[0, 1]), 1.0 + 4.0 * 5.0);
    }

    #[test]
    fn a_younger_step_never_overtakes_nor_shares_a_device() {
        let device = |segment: usize| segment % 2;
        for older in 0..6 {
            for younger in 0..6 {
                let runs = wave([Some(older), Some(younger)], device);
                assert!(runs[0]);
                assert_eq!(runs[1], younger < older && (older - younger) % 2 == 1);
            }
        }
        assert_eq!(wave([Some(1), None], device), [true, false]);
        assert_eq!(wave([None, None], device), [false, false]);
    }
}
