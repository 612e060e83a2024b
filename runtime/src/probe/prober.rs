//! Timing one device.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anynpu_hal::{Device, DeviceKind, HalError};
use anynpu_ir::{DType, Graph};

use super::rig::{Part, Rig, takes};
use crate::profile::{DeviceProfile, Host, Sample, Verdict};

/// Time for a device in quick mode, apart from what was begun before it was over.
const QUICK: Duration = Duration::from_millis(2700);
/// Time for a device in full.
const FULL: Duration = Duration::from_secs(120);
/// Longest time of one run.
pub(super) const RUN_LIMIT: Duration = Duration::from_secs(20);

/// Types of weights, the most used first; quick mode measures as many as there is time for.
pub(super) const DTYPES: [DType; 11] = [
    DType::Q4_0,
    DType::Q8_0,
    DType::Q4_K,
    DType::Q6_K,
    DType::F16,
    DType::F32,
    DType::BF16,
    DType::Q5_0,
    DType::Q5_K,
    DType::Q4_1,
    DType::Q5_1,
];

/// Rows at once.
const TOKENS: [u32; 5] = [1, 8, 32, 128, 512];

/// Times that figures are taken, apart from each other: other work on the machine, which only makes them worse, often
/// lasts a second or more, and the best of each is kept.
const ROUNDS: usize = 2;

/// Measures one device, on which work began at `started`: products with weights of the types named, or of all.
pub(super) fn probe_device(
    device: &Arc<dyn Device>,
    host: &Host,
    quick: bool,
    weights: Option<&[DType]>,
    started: Instant,
    told: &mut dyn FnMut(&str),
) -> DeviceProfile {
    let info = device.info();
    let mut prober = Prober {
        device,
        quick,
        few: weights.is_some(),
        started,
        cold_bytes: cold_bytes(host, quick),
        run_limit: RUN_LIMIT,
        gone: false,
        profile: DeviceProfile {
            name: info.name.clone(),
            driver: info.driver.clone(),
            kind: info.kind.name().into(),
            description: info.description.clone(),
            taken_at: crate::chat::Date::now_utc().to_string(),
            simulated: info.kind == DeviceKind::Simulated,
            quick,
            dispatch_us: None,
            node_us: None,
            read: Vec::new(),
            copy: Vec::new(),
            products: Vec::new(),
            values: Vec::new(),
            attention: Vec::new(),
            anchors: Vec::new(),
            best_threads: None,
            not_measured: Vec::new(),
            failed: Vec::new(),
            claims: None,
            checks: Vec::new(),
            corrections: Vec::new(),
        },
    };
    prober.all(weights, told);
    prober.profile
}

/// Bytes of weights of which no cache holds much, within bounds. Of twice its size a cache that replaces lines at
/// random still has a fifth whenever it comes round.
pub(super) fn cold_bytes(host: &Host, quick: bool) -> u64 {
    let (times, most) = if quick { (2, 80 << 20) } else { (8, 384 << 20) };
    let cache = host.last_level_cache.unwrap_or(16 << 20);
    (times * cache).clamp(32 << 20, most)
}

pub(super) struct Prober<'a> {
    pub device: &'a Arc<dyn Device>,
    pub quick: bool,
    /// Whether only types of weights that are named are measured: somebody waits for it.
    pub few: bool,
    pub started: Instant,
    pub cold_bytes: u64,
    pub run_limit: Duration,
    /// Whether the device was lost, or did not end a run.
    pub gone: bool,
    pub profile: DeviceProfile,
}

/// Why something has no figure.
pub(super) enum Missing {
    /// There was no time.
    Time,
    /// The device says that it doesn't do that.
    Unsupported(String),
    Failed(HalError),
}

impl From<HalError> for Missing {
    fn from(e: HalError) -> Self {
        match e {
            HalError::Unsupported { device, .. } => Missing::Unsupported(device),
            e => Missing::Failed(e),
        }
    }
}

impl From<anynpu_ir::GraphError> for Missing {
    fn from(e: anynpu_ir::GraphError) -> Self {
        Missing::Unsupported(e.to_string())
    }
}

impl From<anynpu_graphs::ModelError> for Missing {
    fn from(e: anynpu_graphs::ModelError) -> Self {
        Missing::Unsupported(e.to_string())
    }
}

impl Prober<'_> {
    pub(super) fn all(&mut self, named: Option<&[DType]>, told: &mut dyn FnMut(&str)) {
        if let Err(why) = self.has_clock() {
            let text = format!("every time: {why}");
            self.profile.not_measured.push(text);
            return;
        }
        let read = |of: &[DType]| -> Vec<DType> {
            of.iter().copied().filter(|d| self.reads(*d)).collect()
        };
        let named = named.map(read).filter(|of| !of.is_empty());
        let weights = named.clone().unwrap_or_else(|| read(&DTYPES));
        let small = match (self.quick, &named) {
            (true, None) => vec![DType::Q8_0, DType::F32],
            _ => weights.clone(),
        };
        told("dispatch");
        self.attempt("dispatch", Self::dispatch);
        self.round(&small, &weights, told);
        let rounds = match (self.quick, &named) {
            (true, None) => 1,
            _ => ROUNDS,
        };
        for _ in 1..rounds {
            // of what was not possible the first round has told
            let missing = self.profile.not_measured.len();
            self.round(&small, &weights, told);
            self.profile.not_measured.truncate(missing);
        }
    }

    fn round(&mut self, small: &[DType], weights: &[DType], told: &mut dyn FnMut(&str)) {
        told("norms, activations, attention");
        for op in ["norm", "gate", "add", "rope", "append"] {
            self.attempt(op, |p| p.value(op));
        }
        for dtype in [DType::F16, DType::F32] {
            self.attempt(&format!("attention over {dtype}"), |p| p.attention(dtype));
        }
        told("small models");
        for &dtype in small {
            if !self.reads(dtype) {
                continue;
            }
            for side in [64, 256]
                .into_iter()
                .filter(|s| s % dtype.block_len() as u32 == 0)
            {
                let what = format!("blocks of {dtype}, {side} wide");
                self.attempt(&what, |p| p.small(dtype, side));
            }
        }
        told("memory");
        self.attempt("read bandwidth", Self::read);
        self.attempt("copy bandwidth", Self::copy);
        for &dtype in weights {
            told(dtype.name());
            self.attempt(&format!("products with {dtype}"), |p| p.blocks(dtype));
        }
    }

    /// Fails for a simulated device that counts no time: an emulator's is not that of what it emulates.
    fn has_clock(&self) -> Result<(), String> {
        if self.device.info().kind != DeviceKind::Simulated {
            return Ok(());
        }
        let counted = || self.device.queue().counters().busy_ns;
        let before = counted();
        let run = || -> Result<f64, Missing> {
            let one = self.one()?;
            let part = Part {
                nodes: 0..1,
                tokens: one,
            };
            let mut rig = self.rig(super::graphs::little(1)?, &[part], 1, DType::F32)?;
            Ok(rig.run(0, one, 0)?)
        };
        match (run(), counted() > before) {
            (Ok(_), false) => Err("the device is emulated and has no clock".into()),
            // what it fails at is told where that is measured
            _ => Ok(()),
        }
    }

    pub(super) fn reads(&self, dtype: DType) -> bool {
        self.device.capabilities().weights.contains(&dtype)
    }

    /// Measures something and notes if that was not possible.
    pub(super) fn attempt(
        &mut self,
        what: &str,
        measure: impl FnOnce(&mut Self) -> Result<(), Missing>,
    ) {
        let measured = match self.gone {
            true => Err(Missing::Unsupported("the device failed before".into())),
            false => self.time().and_then(|()| measure(self)),
        };
        match measured {
            Ok(()) => {}
            Err(Missing::Time) => {
                let text = format!("{what}: the time was over");
                self.profile.not_measured.push(text);
            }
            Err(Missing::Unsupported(why)) => {
                self.profile.not_measured.push(format!("{what}: {why}"));
            }
            Err(Missing::Failed(e)) => {
                self.gone |= matches!(e, HalError::DeviceLost { .. } | HalError::Timeout { .. });
                let failed = &mut self.profile.failed;
                if !failed.iter().any(|known| known.what == what) {
                    failed.push(Verdict {
                        what: what.into(),
                        error: e.to_string(),
                    });
                }
            }
        }
    }

    /// Fails if the time for the device is over.
    pub(super) fn time(&self) -> Result<(), Missing> {
        let limit = if self.quick { QUICK } else { FULL };
        match self.started.elapsed() < limit {
            true => Ok(()),
            false => Err(Missing::Time),
        }
    }

    /// Times `run` until there are enough figures: `least` of them, then more while that takes not long.
    pub(super) fn sample(
        &self,
        least: usize,
        mut run: impl FnMut(usize) -> Result<f64, HalError>,
    ) -> Result<Sample, Missing> {
        let (least, long, most) = match (self.quick, self.few) {
            (true, _) => (least, Duration::from_millis(8), 40),
            (false, true) => (least, Duration::from_millis(40), 100),
            (false, false) => (2 * least, Duration::from_millis(150), 200),
        };
        let started = Instant::now();
        let mut figures = Vec::new();
        while figures.len() < least || (figures.len() < most && started.elapsed() < long) {
            figures.push(run(figures.len())?);
            if figures.len() >= 2 {
                self.time()?;
            }
        }
        Sample::of(&figures, LEAST_US).ok_or(Missing::Time)
    }

    pub(super) fn rig(
        &self,
        graph: Graph,
        parts: &[Part],
        rows: u32,
        state: DType,
    ) -> Result<Rig, Missing> {
        Ok(Rig::new(
            self.device,
            graph,
            parts,
            rows,
            state,
            self.run_limit,
        )?)
    }

    /// The smallest step the device takes, of those that are timed.
    pub(super) fn one(&self) -> Result<u32, Missing> {
        let sizes = self.device.capabilities().fixed_shapes.as_ref();
        let own = sizes.and_then(|f| f.tokens.iter().min().copied());
        match takes(&**self.device, 1) {
            true => Ok(1),
            false => own.ok_or_else(|| Missing::Unsupported("it takes no size of step".into())),
        }
    }

    /// The numbers of rows to time: those of [`TOKENS`] that the device takes, and its own.
    pub(super) fn tokens(&self) -> Vec<u32> {
        let own = self.device.capabilities().fixed_shapes.as_ref();
        let own = own.into_iter().flat_map(|f| f.tokens.iter().copied());
        let own = own.filter(|&t| t > 0);
        let mut all: Vec<u32> = TOKENS.into_iter().chain(own).collect();
        let most = if self.quick { 256 } else { 512 };
        all.retain(|&t| t <= most && takes(&**self.device, t));
        all.sort_unstable();
        all.dedup();
        all
    }

    pub(super) fn dispatch_us(&self) -> f64 {
        self.profile.dispatch_us.map_or(0.0, |s| s.median)
    }
}

/// Adds `entry`, or puts it in the place of one of the same that is worse.
pub(super) fn keep<T>(
    entries: &mut Vec<T>,
    entry: T,
    same: impl Fn(&T, &T) -> bool,
    better: impl Fn(&T, &T) -> bool,
) {
    match entries.iter_mut().find(|known| same(known, &entry)) {
        Some(known) if better(&entry, known) => *known = entry,
        Some(_) => {}
        None => entries.push(entry),
    }
}

/// No figure is below this: clocks are no finer.
pub(super) const LEAST_US: f64 = 1e-4;
