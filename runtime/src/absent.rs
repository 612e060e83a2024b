//! Devices that are known only from a profile: plans can be made for them, nothing runs.

use std::any::Any;
use std::sync::Arc;

use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Counters, Device, DeviceInfo, DeviceKind,
    Entry, HalError, Link, MemoryKind, Module, Queue, Reason, ReasonCode, Submission, Support,
    WeightSource,
};
use anynpu_ir::Subgraph;

use crate::Outcome;
use crate::profile::{DeviceProfile, Profile};
use crate::self_check::{kind_name, weights_of_kind};

/// A device of a profile that was made elsewhere.
#[derive(Debug)]
pub(crate) struct AbsentDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    profile: DeviceProfile,
    /// Edges to and from it, and whether they take no copies.
    links: Vec<(String, String, bool)>,
    queue: Absent,
}

impl AbsentDevice {
    /// The device called `name` of `profile`, if that tells enough of it.
    pub fn of(profile: &Profile, name: &str) -> Option<AbsentDevice> {
        let device = profile.device(name)?;
        let capabilities = device.claims.as_ref()?.capabilities();
        let own = profile
            .links
            .iter()
            .filter(|l| [&*l.from, &*l.to].contains(&name));
        let links = own.map(|l| (l.from.clone(), l.to.clone(), l.mode != "copy"));
        let kinds = [
            DeviceKind::Cpu,
            DeviceKind::Gpu,
            DeviceKind::Npu,
            DeviceKind::Simulated,
        ];
        let kind = kinds.into_iter().find(|k| k.name() == device.kind);
        Some(AbsentDevice {
            info: DeviceInfo {
                name: name.into(),
                driver: device.driver.clone(),
                kind: kind.unwrap_or(DeviceKind::Other),
                description: format!("{}, as it was measured elsewhere", device.description),
            },
            capabilities,
            links: links.collect(),
            queue: Absent(name.into()),
            profile: device.clone(),
        })
    }

    fn refuse(&self, call: &'static str) -> HalError {
        self.queue.refuse(call)
    }
}

impl Device for AbsentDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        let verdict = |node: &anynpu_ir::Node| {
            if self.capabilities.features.baseline {
                return Support::Yes;
            }
            let weights = weights_of_kind(graph.graph(), node).map(|d| d.name());
            let kind = kind_name(&node.op);
            let no = |code, why: String| Support::No(Reason::new(code, why));
            match self.profile.check(&kind, weights).map(|c| &c.outcome) {
                Some(Outcome::Agrees { .. }) => Support::Yes,
                Some(Outcome::Refused { why }) => no(ReasonCode::OpUnknown, why.clone()),
                Some(bad) => no(
                    ReasonCode::VendorRejected,
                    bad.obstacle().unwrap_or_default(),
                ),
                None => {
                    let of = weights.map_or_else(String::new, |w| format!(" with weights of {w}"));
                    let why = format!("its profile does not tell that it runs {kind}{of}");
                    no(ReasonCode::OpUnknown, why)
                }
            }
        };
        graph.nodes().map(|(_, node)| verdict(node)).collect()
    }

    fn compile(
        &self,
        _: &[Entry],
        _: &CompileOptions,
        _: Arc<dyn WeightSource>,
        _: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        Err(self.refuse("compile"))
    }

    fn allocate(&self, _: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        Err(self.refuse("allocate"))
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn refine_link(&self, other: &DeviceInfo, link: Link) -> Link {
        let edge = |(from, to, _): &&(String, String, bool)| [from, to].contains(&&other.name);
        let known = self.links.iter().find(edge).map(|(_, _, shared)| *shared);
        // what was not measured of a device in the host's memory needs no copies
        match known.unwrap_or(self.capabilities.memory.contains(&MemoryKind::Host)) {
            true => Link::native(),
            false => link,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The queue of a device that is not here.
#[derive(Debug)]
struct Absent(String);

impl Absent {
    fn refuse(&self, call: &'static str) -> HalError {
        HalError::Unsupported {
            device: self.0.clone(),
            call,
        }
    }
}

impl Queue for Absent {
    fn submit(&self, _: &Submission<'_>) -> Result<(), HalError> {
        Err(self.refuse("submit"))
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}
