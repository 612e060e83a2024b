//! What nodes, segments and transfers cost on devices.
//!
//! A [`CostModel`] answers from profiles where it has them, else from what drivers state of their
//! devices, else with round figures for a device of its kind. Every answer tells which.
//!
//! The time of a product with weights is interpolated between products that were measured (size of
//! the matrix, rows at once, type of the weights, each in logarithms); that of other nodes from the
//! bytes they touch or the rows they attend to. What single nodes can't tell, starting and ending
//! parallel work and what caches keep from node to node, is in the anchors: whole blocks, whose
//! measured time over that of their nodes scales every node.

mod curve;
mod device;
mod estimate;
mod learned;

pub(crate) use device::{DeviceCost, GraphScale};
pub use estimate::{Estimate, EstimateSource};
pub use learned::{LEAST_WIN, SPREADS, is_win};

use anynpu_hal::{Capabilities, DeviceInfo, Link, LinkMode};
use anynpu_ir::Graph;

use crate::plan::{Phase, PlanSet};
use crate::profile::{Correction, DeviceProfile, Profile};

/// Prices from profiles.
#[derive(Clone, Debug, Default)]
pub struct CostModel {
    profiles: Vec<Profile>,
    /// Devices that are given all they run as long as nothing is known of their speed.
    preferred: Vec<String>,
}

/// A link with where its figures come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinkCost {
    pub link: Link,
    pub source: EstimateSource,
}

/// Assumed of copies through the host: orders of magnitude for laptops and phones of the early 2020s.
pub(crate) const COPY_BYTES_PER_SECOND: f64 = 8e9;
/// As [`COPY_BYTES_PER_SECOND`].
pub(crate) const COPY_LATENCY_US: f64 = 5.0;

impl CostModel {
    /// Prices from `profiles`; of a device in several, the last counts.
    pub fn new(profiles: Vec<Profile>) -> CostModel {
        CostModel {
            profiles,
            preferred: Vec::new(),
        }
    }

    /// As it is, with the nodes of `devices` for nothing as long as nothing is known of their speed.
    #[must_use]
    pub(crate) fn preferring(mut self, devices: Vec<String>) -> CostModel {
        self.preferred = devices;
        self
    }

    /// Whether a device is given all that it runs.
    pub(crate) fn is_preferred(&self, info: &DeviceInfo, capabilities: &Capabilities) -> bool {
        self.preferred.contains(&info.name)
            && self.profile_of(info).is_none()
            && capabilities.claimed_rates.is_none()
    }

    /// The profiles, with what was learned since.
    pub fn profiles(&self) -> &[Profile] {
        &self.profiles
    }

    /// What was measured of a device, if that was of one of its kind.
    pub(crate) fn profile_of(&self, info: &DeviceInfo) -> Option<&DeviceProfile> {
        let mut profiles = self.profiles.iter().rev();
        let found = profiles.find_map(|p| p.device(&info.name));
        found.filter(|p| p.kind == info.kind.name())
    }

    /// What work costs on a device.
    pub(crate) fn device(&self, info: &DeviceInfo, capabilities: &Capabilities) -> DeviceCost {
        let mut profiles = self.profiles.iter().rev();
        let found = profiles.find_map(|p| p.device(&info.name));
        let fitting = self.profile_of(info);
        if let (Some(found), None) = (found, fitting) {
            tracing::warn!(
                "the profile of '{}' is of a device of kind {}, this one is {}; it is not used",
                info.name,
                found.kind,
                info.kind.name()
            );
        }
        match self.is_preferred(info, capabilities) {
            true => DeviceCost::for_nothing(),
            false => DeviceCost::new(info.kind, capabilities.claimed_rates.as_ref(), fitting),
        }
    }

    /// What bringing values from one device to another costs. `known` is what the devices know of it; figures
    /// of [`COPY_BYTES_PER_SECOND`] and [`COPY_LATENCY_US`] are assumed.
    pub(crate) fn link(&self, from: &str, to: &str, known: Link) -> LinkCost {
        let source = match known.bytes_per_second == Some(COPY_BYTES_PER_SECOND)
            && known.latency_us == COPY_LATENCY_US
        {
            true => EstimateSource::Guess,
            false => EstimateSource::VendorHint,
        };
        let copies = known.mode == LinkMode::Copy;
        let found = self.profiles.iter().rev().find_map(|p| p.link(from, to));
        match found.and_then(|l| l.latency_us.zip(l.bytes_per_second)) {
            Some((latency, rate)) if copies => LinkCost {
                link: Link {
                    latency_us: latency.median,
                    bytes_per_second: Some(rate.median),
                    ..known
                },
                source: EstimateSource::Measured,
            },
            _ => LinkCost {
                link: known,
                source,
            },
        }
    }

    /// Takes in what a phase of `plans`, made by this model for `graph`, took on each device: `took` has their names
    /// and microseconds, for the prompt as planned or for one token. Devices without a profile learn nothing.
    pub fn learn(&mut self, graph: &Graph, plans: &PlanSet, phase: Phase, took: &[(String, f64)]) {
        let plan = plans.phase(phase);
        let whole: f64 = plan.partitions.iter().map(|p| p.predicted.us).sum();
        let pattern = device::pattern_of(phase, GraphScale::of(graph).dtype);
        for (name, measured) in took {
            let own = plan.partitions.iter();
            let own = own.filter(|p| plans.devices[p.device.0] == *name);
            let share = own.map(|p| p.predicted.us).sum::<f64>() / whole;
            let known = self.profiles.iter().rev().find_map(|p| p.device(name));
            let known = known.and_then(|d| d.corrections.iter().find(|c| c.pattern == pattern));
            let factor = known.map_or(1.0, |c| c.factor);
            self.observe(name, &pattern, plan.total.us * share / factor, *measured);
        }
    }

    /// Takes in that on `device` a run of `pattern` (a phase and a type of weights, e.g. `decode q4_0`) that was
    /// predicted to take `predicted` microseconds, without what was learned before, took `measured`. Devices
    /// without a profile learn nothing.
    pub fn observe(&mut self, device: &str, pattern: &str, predicted: f64, measured: f64) {
        let devices = self.profiles.iter_mut().rev().flat_map(|p| &mut p.devices);
        let Some(profile) = devices.into_iter().find(|d| d.name == device) else {
            return;
        };
        let known = profile
            .corrections
            .iter()
            .position(|c| c.pattern == pattern);
        let at = known.unwrap_or_else(|| {
            profile.corrections.push(Correction::new(pattern));
            profile.corrections.len() - 1
        });
        profile.corrections[at].observe(predicted, measured);
    }
}

#[cfg(test)]
mod tests;
