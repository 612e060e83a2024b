//! Nodes that run elsewhere than they were wanted.

use anynpu_graphs::Model;
use anynpu_hal::Support;
use serde::Serialize;

use crate::plan::{Because, DeviceIndex, NodeWhy, PlanSet};

/// A node that was not pinned and does not run on the most preferred device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Fallback {
    /// The node.
    pub node: String,
    /// The most preferred device.
    pub wanted: String,
    /// The device that runs it.
    pub ran_on: String,
    /// Why.
    pub reason: String,
}

/// The nodes that don't run where they were wanted, each with the reason: those that the `first` plan put
/// elsewhere before a device refused to compile it, and those that the most preferred device says no to.
pub(crate) fn fallbacks(model: &Model, first: &PlanSet, plans: &PlanSet) -> Vec<Fallback> {
    let name = |why: &NodeWhy| model.graph().node(why.node).name.clone();
    let refusal = |why: &NodeWhy, device: DeviceIndex| match why.verdicts.get(device.0) {
        Some(Support::No(reason)) => Some(reason.to_string()),
        _ => None,
    };
    let nodes = || first.decode.why.iter().zip(&plans.decode.why);
    let refused_by = |device: DeviceIndex| {
        let refused = nodes().find(|(_, now)| refusal(now, device).is_some());
        refused.map_or_else(|| "another node".into(), |(_, now)| name(now))
    };
    let entry = |(then, now): (&NodeWhy, &NodeWhy)| {
        let wanted = match then.device != now.device {
            true => then.device,
            false => DeviceIndex(0),
        };
        let pinned = matches!(now.because, Because::Pinned(_));
        let refusal = refusal(now, wanted);
        if pinned || now.device == wanted || (then.device == now.device && refusal.is_none()) {
            return None;
        }
        let device = plans.devices[wanted.0].clone();
        Some(Fallback {
            node: name(now),
            ran_on: plans.devices[now.device.0].clone(),
            reason: refusal.unwrap_or_else(|| {
                format!(
                    "kept with the others, as '{device}' refused {}",
                    refused_by(wanted)
                )
            }),
            wanted: device,
        })
    };
    nodes().filter_map(entry).collect()
}
