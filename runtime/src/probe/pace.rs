//! How fast a device is at the moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anynpu_hal::{Device, DeviceKind, HalError};
use anynpu_ir::DType;

use super::blocks::layer_nodes;
use super::graphs::Blocks;
use super::host;
use super::prober::{Missing, RUN_LIMIT, cold_bytes};
use super::rig::{Part, Rig};
use crate::cost::GraphScale;
use crate::plan::Phase;
use crate::profile::{Anchor, DeviceProfile, Sample};

/// Blocks that a profile has times of, to be run in turns with a model: a machine may get slower or faster between
/// its profile and a run, by heat or by what else goes on there, and blocks do so with the model.
pub struct Pace {
    rig: Rig,
    phases: Vec<PhasePace>,
    dispatch_us: f64,
    /// The layer whose turn it is, so that weights are cold.
    next: usize,
}

struct PhasePace {
    anchor: Anchor,
    /// The part of each layer.
    parts: Vec<usize>,
    figures: Vec<f64>,
}

impl Pace {
    /// The blocks of `profile` with weights of type `dtype` in models' sizes, on the device that it is of. `None` if it
    /// has none, or if the device's time is virtual.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn new(
        device: &Arc<dyn Device>,
        profile: &DeviceProfile,
        dtype: DType,
    ) -> Result<Option<Pace>, HalError> {
        if device.info().kind == DeviceKind::Simulated {
            return Ok(None);
        }
        let blocks = Blocks::of_models(dtype, cold_bytes(&host::host(), false));
        match Pace::of(device, profile, blocks) {
            Ok(pace) => Ok(pace),
            Err(Missing::Failed(e)) => Err(e),
            Err(Missing::Time | Missing::Unsupported(_)) => Ok(None),
        }
    }

    pub(super) fn of(
        device: &Arc<dyn Device>,
        profile: &DeviceProfile,
        blocks: Blocks,
    ) -> Result<Option<Pace>, Missing> {
        let graph = blocks.graph()?;
        let elements = GraphScale::of(&graph).elements as u64;
        let own = |a: &&Anchor| {
            (a.dtype.as_str(), a.hidden, a.elements)
                == (blocks.dtype.name(), blocks.hidden, elements)
        };
        let layers = layer_nodes(&graph);
        let (mut parts, mut phases) = (Vec::new(), Vec::new());
        for anchor in profile.anchors.iter().filter(own) {
            let first = parts.len();
            parts.extend(layers.iter().map(|nodes| Part {
                nodes: nodes.clone(),
                tokens: anchor.tokens,
            }));
            phases.push(PhasePace {
                anchor: anchor.clone(),
                parts: (first..parts.len()).collect(),
                figures: Vec::new(),
            });
        }
        let rows = phases.iter().map(|p| p.anchor.tokens + p.anchor.cached);
        let Some(rows) = rows.max() else {
            return Ok(None);
        };
        let rig = Rig::new(device, graph, &parts, rows, DType::F16, RUN_LIMIT)?;
        let mut pace = Pace {
            rig,
            phases,
            dispatch_us: profile.dispatch_us.map_or(0.0, |s| s.median),
            next: 0,
        };
        // the first time finds cold code and memory
        for phase in Phase::ALL {
            pace.turn(phase, Duration::ZERO)?;
        }
        pace.phases.iter_mut().for_each(|p| p.figures.clear());
        Ok(Some(pace))
    }

    /// Runs blocks of a phase for about `long`, at least one.
    ///
    /// # Errors
    ///
    /// Those of the device.
    pub fn turn(&mut self, phase: Phase, long: Duration) -> Result<(), HalError> {
        let own = |p: &&mut PhasePace| p.anchor.phase == phase.name();
        let Some(paced) = self.phases.iter_mut().find(own) else {
            return Ok(());
        };
        let (tokens, cached) = (paced.anchor.tokens, paced.anchor.cached);
        self.rig.set_positions(tokens, cached)?;
        let started = Instant::now();
        loop {
            let part = paced.parts[self.next % paced.parts.len()];
            self.next += 1;
            let us = self.rig.run(part, tokens, cached)?;
            paced.figures.push(us - self.dispatch_us);
            if started.elapsed() >= long {
                return Ok(());
            }
        }
    }

    /// What blocks of a phase took in all turns, over what they took for the profile. `None` if it has none.
    pub fn ratio(&self, phase: Phase) -> Option<f64> {
        let paced = self
            .phases
            .iter()
            .find(|p| p.anchor.phase == phase.name())?;
        let now = Sample::of(&paced.figures, f64::MIN_POSITIVE)?;
        Some(now.median / paced.anchor.us.median)
    }
}
