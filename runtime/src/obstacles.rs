//! What keeps nodes from devices before anything is planned: devices that failed a short while ago, arithmetic
//! narrower than is permitted, kinds of nodes that went wrong when they were tried.

use std::time::Instant;

use anynpu_hal::{Reason, ReasonCode};
use anynpu_ir::{Graph, NodeId};

use crate::plan::Refusal;
use crate::self_check::{kind_name, weights_of_kind};
use crate::{LoadOptions, OpenModel, Runtime, RuntimeError};

/// Nodes that may not go to devices, and what the user is told of it.
#[derive(Debug, Default)]
pub(crate) struct Obstacles {
    pub refused: Vec<Refusal>,
    pub warnings: Vec<String>,
}

impl Runtime {
    /// The obstacles to placing `open` as `options` say.
    ///
    /// # Errors
    /// With [`LoadOptions::self_check`], as [`Runtime::self_check`].
    pub(crate) fn obstacles(
        &self,
        open: &OpenModel,
        options: &LoadOptions,
    ) -> Result<Obstacles, RuntimeError> {
        let mut obstacles = Obstacles::default();
        self.failed_before(open, &mut obstacles);
        self.too_narrow(open, options, &mut obstacles);
        self.wrong_by_profile(open, &mut obstacles);
        if options.self_check {
            self.wrong_when_tried(open, &mut obstacles)?;
        }
        Ok(obstacles)
    }

    /// Every node with each device that failed a short while ago.
    fn failed_before(&self, open: &OpenModel, obstacles: &mut Obstacles) {
        for device in self.open_devices() {
            let name = device.name();
            let Some(why) = self.health().quarantined(name, Instant::now()) else {
                continue;
            };
            let told = format!("device '{name}' is not used: {why}");
            obstacles.warnings.push(told);
            obstacles.refuse(
                name,
                all(open.model().graph()),
                &Reason::new(ReasonCode::DeviceLost, why),
            );
        }
    }

    /// Nodes that are not pinned to a device which computes in less than is permitted. Where some are, the user is
    /// told.
    fn too_narrow(&self, open: &OpenModel, options: &LoadOptions, obstacles: &mut Obstacles) {
        let model = open.model();
        let placement = options.placement.effective();
        for device in self.devices() {
            let name = &device.info().name;
            let Some(&computes) = device.capabilities().compute.first() else {
                continue;
            };
            let fixed = device.capabilities().fixed_point;
            if fixed.is_none() && options.precision.permits(model, computes) {
                continue;
            }
            let pinned = |node: &NodeId| {
                let node = &model.graph().nodes()[node.index()];
                placement.pin(node).is_some_and(|p| p.device() == name)
            };
            let (allowed, others): (Vec<_>, Vec<_>) = all(model.graph()).partition(pinned);
            let numbers = model.numbers();
            let computes = fixed.map_or_else(|| computes.name(), |f| f.name());
            if !allowed.is_empty() {
                obstacles.warnings.push(format!(
                    "the model's numbers are {numbers}, but device '{name}' computes in {computes}"
                ));
            }
            let permit = match fixed {
                // what was calibrated is good for is not to be seen from a type
                Some(_) => String::new(),
                None => format!(" or permit {computes} by the option 'precision'"),
            };
            let why = format!(
                "it computes in {computes}, and the model's numbers are {numbers}; pin nodes to it{permit}"
            );
            obstacles.refuse(name, others, &Reason::new(ReasonCode::DType, why));
        }
    }

    /// The kinds of nodes that went wrong when a device was measured.
    fn wrong_by_profile(&self, open: &OpenModel, obstacles: &mut Obstacles) {
        let graph = open.model().graph();
        for device in self.devices() {
            let name = &device.info().name;
            let Some(profile) = self.cost().profile_of(device.info()) else {
                continue;
            };
            if profile.checks.is_empty() {
                continue;
            }
            for (id, node) in all(graph).zip(graph.nodes()) {
                let weights = weights_of_kind(graph, node).map(|d| d.name());
                let check = profile.check(&kind_name(&node.op), weights);
                if let Some(why) = check.and_then(|c| c.outcome.obstacle()) {
                    let why = format!("its profile says: {why}");
                    let reason = Reason::new(ReasonCode::VendorRejected, why);
                    obstacles.refuse(name, [id], &reason);
                }
            }
        }
    }

    /// The kinds of nodes that go wrong on devices that do not run the whole op set.
    fn wrong_when_tried(
        &self,
        open: &OpenModel,
        obstacles: &mut Obstacles,
    ) -> Result<(), RuntimeError> {
        for device in self.devices() {
            if device.capabilities().features.baseline {
                continue;
            }
            let name = &device.info().name;
            for kind in self.self_check(open, name)?.kinds {
                let Some(why) = kind.outcome.obstacle() else {
                    continue;
                };
                obstacles.warnings.push(format!(
                    "device '{name}' is not used for {} {} node(s), such as {}: {why}",
                    kind.nodes.len(),
                    kind.op,
                    kind.node
                ));
                let reason = Reason::new(ReasonCode::VendorRejected, why);
                obstacles.refuse(name, kind.nodes, &reason);
            }
        }
        Ok(())
    }
}

impl Obstacles {
    fn refuse(&mut self, device: &str, nodes: impl IntoIterator<Item = NodeId>, reason: &Reason) {
        self.refused.extend(nodes.into_iter().map(|node| Refusal {
            device: device.to_owned(),
            node,
            reason: reason.clone(),
        }));
    }
}

fn all(graph: &Graph) -> impl Iterator<Item = NodeId> {
    (0..graph.nodes().len() as u32).map(NodeId)
}
