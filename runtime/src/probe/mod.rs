//! Measuring devices.
//!
//! [`probe`] runs small graphs with made-up weights on each device, through the HAL alone, and
//! records how long they take as a [`Profile`]. Time is the wall clock's; of a device of kind
//! simulated it is the device's own, which is virtual, and its profile says so. Large weights are
//! read in turns that the last-level cache can't hold, as they are when a model runs. A device that
//! fails at something is recorded as doing so, and the rest is measured.
//!
//! Steps that the graphs of a model take, but no figure covers, are planned from what is nearest:
//! see [`cost`](crate::cost).

mod blocks;
mod checks;
mod graphs;
mod host;
mod links;
mod pace;
mod prober;
mod rig;
mod single;

use std::time::{Duration, Instant};

use anynpu_hal::{DeviceKind, OpenOptions};
use anynpu_ir::DType;

use crate::Runtime;
use crate::profile::{
    BestThreads, Claims, DeviceProfile, Host, OpCheck, PROFILE_VERSION, Profile, Verdict,
};
pub use pace::Pace;
use prober::{Prober, RUN_LIMIT, cold_bytes, probe_device};

/// How to measure.
pub struct ProbeOptions<'a> {
    /// Only the most important, in less than 3 seconds a device.
    pub quick: bool,
    /// Only products with weights of these types; all, as far as there is time, if absent.
    pub weights: Option<Vec<DType>>,
    /// Told what is measured next: the device and what of it.
    pub progress: &'a mut dyn FnMut(&str, &str),
}

/// Measures the devices of `runtime` and the edges between them.
pub fn probe(runtime: &Runtime, options: ProbeOptions<'_>) -> Profile {
    let host = host::host();
    let devices = runtime.devices();
    let mut profiles = Vec::new();
    for device in &devices {
        let name = device.info().name.clone();
        let mut told = |what: &str| (options.progress)(&name, what);
        let started = Instant::now();
        let checked = match device.capabilities().features.baseline {
            true => Checked::default(),
            false => check(runtime, &name, options.quick, &mut told),
        };
        let mut profile = probe_device(
            device,
            &host,
            options.quick,
            options.weights.as_deref(),
            started,
            &mut told,
        );
        profile.claims = Some(Claims::of(device.capabilities()));
        profile.checks = checked.checks;
        profile.not_measured.extend(checked.not_measured);
        let reason = match (options.quick, &options.weights) {
            (true, _) => Some("best number of threads: only measured in full"),
            (false, Some(_)) => Some("best number of threads: only measured with all types"),
            (false, None) => None,
        };
        if device.info().kind != DeviceKind::Cpu {
            // other devices have none to choose
        } else if let Some(reason) = reason {
            profile.not_measured.push(reason.into());
        } else {
            told("threads");
            match best_threads(runtime, &name, &host) {
                Ok(best) => profile.best_threads = Some(best),
                Err(e) => profile.failed.push(Verdict {
                    what: "threads".into(),
                    error: e.to_string(),
                }),
            }
        }
        profiles.push(profile);
    }
    Profile {
        schema_version: PROFILE_VERSION,
        links: links::links(&devices),
        host,
        devices: profiles,
    }
}

/// What came of trying a device.
#[derive(Default)]
struct Checked {
    checks: Vec<OpCheck>,
    not_measured: Option<String>,
}

fn check(runtime: &Runtime, name: &str, quick: bool, told: &mut dyn FnMut(&str)) -> Checked {
    told("what it says it runs");
    let limit = if quick { QUICK_CHECKS } else { FULL_CHECKS };
    let started = Instant::now();
    match checks::checks(runtime, name, &mut || started.elapsed() < limit) {
        Ok((checks, enough)) => Checked {
            checks,
            not_measured: (!enough).then(|| "trying more kinds: the time was over".into()),
        },
        Err(e) => Checked {
            checks: Vec::new(),
            not_measured: Some(format!("trying what it runs: {e}")),
        },
    }
}

/// Time for trying a device in quick mode.
const QUICK_CHECKS: Duration = Duration::from_millis(900);
/// Time for trying a device in full.
const FULL_CHECKS: Duration = Duration::from_secs(60);

/// The numbers of threads with which blocks of the device called `name` are fastest.
fn best_threads(
    runtime: &Runtime,
    name: &str,
    host: &Host,
) -> Result<BestThreads, crate::RuntimeError> {
    let mut counts = vec![host.cores.max(1)];
    while let Some(&n) = counts.last()
        && n > 1
    {
        counts.push(n / 2);
    }
    let mut best = [(f64::INFINITY, 1u32); 2];
    for threads in counts {
        let mut options = OpenOptions::default();
        options.threads = Some(threads as usize);
        let device = runtime.registry().open(name, &options)?;
        let mut prober = Prober {
            device: &device,
            quick: true,
            few: false,
            started: Instant::now(),
            cold_bytes: cold_bytes(host, true),
            run_limit: RUN_LIMIT,
            gone: false,
            profile: DeviceProfile::default(),
        };
        prober.attempt("blocks", |p| p.blocks(DType::Q4_0));
        for (slot, phase) in best.iter_mut().zip(["prefill", "decode"]) {
            let anchor = prober.profile.anchors.iter().find(|a| a.phase == phase);
            if let Some(us) = anchor.map(|a| a.us.median)
                && us < slot.0
            {
                *slot = (us, threads);
            }
        }
    }
    Ok(BestThreads {
        prefill: best[0].1,
        decode: best[1].1,
    })
}

#[cfg(test)]
mod tests;
