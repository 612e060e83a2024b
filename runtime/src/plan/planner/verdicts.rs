//! What devices say of the nodes, and which nodes may go where by that.

use anynpu_hal::{Reason, ReasonCode, StateSupport, Support};

use super::{Planner, Refusal};
use crate::RuntimeError;
use crate::plan::{DeviceIndex, sizes};

impl Planner<'_> {
    /// Asks every device about every node.
    pub(super) fn ask(&mut self) -> Result<(), RuntimeError> {
        let whole = self.graph.whole();
        for device in self.devices {
            let mut verdicts = device.support(&whole);
            let found = verdicts.len();
            if found != self.graph.nodes().len() {
                return Err(RuntimeError::Device(anynpu_hal::HalError::InvalidUse {
                    call: "support",
                    what: format!("number of verdicts of '{}'", device.info().name),
                    found: found.to_string(),
                    expected: self.graph.nodes().len().to_string(),
                }));
            }
            let shape = match (sizes::is_dynamic(&**device), sizes::may_pad(self.graph)) {
                (true, _) => None,
                (false, false) => {
                    Some("it takes only fixed sizes, and padding would be seen".into())
                }
                (false, true) => {
                    let whole = sizes::reads_whole_texts(self.graph);
                    sizes::obstacle(&**device, self.request.context, whole)
                }
            };
            let shape = shape.map(|detail| Reason::new(ReasonCode::DynamicShape, detail));
            for (verdict, node) in verdicts.iter_mut().zip(self.graph.nodes()) {
                let stateful = node.op.states().next().is_some();
                let obstacle = if let Some(reason) = &shape {
                    reason.clone()
                } else if stateful && device.capabilities().states < StateSupport::InPlaceIo {
                    let detail = "the device does not write states in place";
                    Reason::new(ReasonCode::State, detail)
                } else {
                    continue;
                };
                if !matches!(verdict, Support::No(_)) {
                    *verdict = Support::No(obstacle);
                }
            }
            self.verdicts.push(verdicts);
        }
        Ok(())
    }

    /// Takes in what devices refused to compile.
    pub(super) fn apply(&mut self, refused: &[Refusal]) {
        for refusal in refused {
            let device = self.names.iter().position(|n| *n == refusal.device);
            let verdicts = device.and_then(|d| self.verdicts.get_mut(d));
            // what a device says itself is the better reason
            if let Some(verdict) = verdicts.and_then(|v| v.get_mut(refusal.node.index()))
                && !matches!(verdict, Support::No(_))
            {
                *verdict = Support::No(refusal.reason.clone());
            }
        }
    }

    /// Whether `device` runs `node` in steps of sizes that it takes.
    pub(super) fn runs(&self, device: DeviceIndex, node: usize) -> bool {
        !matches!(self.verdicts[device.0][node], Support::No(_))
    }

    /// Whether it does so in both phases, in steps of the sizes planned for.
    pub(super) fn runs_always(&self, device: DeviceIndex, node: usize) -> bool {
        self.runs(device, node) && self.sizes.able.iter().all(|able| able[device.0])
    }

    /// Whether in `phase` `node` may go to `device`: it runs there in steps of the sizes planned for, and
    /// is pinned nowhere else.
    pub(super) fn may_run(&self, phase: usize, node: usize, device: usize) -> bool {
        if !self.sizes.able[phase][device] {
            return false;
        }
        let pin = self.placement.pin(&self.graph.nodes()[node]);
        let here = pin.is_none_or(|pin| pin.device() == self.names[device]);
        here && self.runs(DeviceIndex(device), node)
    }
}
