//! A chip as the HAL knows it.

use std::any::Any;
use std::sync::Arc;

use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Device, DeviceInfo, Entry, EntryInfo,
    ExternalHandle, FixedShapes, HalError, HostBuffer, MemoryKind, MemoryNeed, Module, Queue,
    StateSupport, Support, WeightSource,
};
use anynpu_ir::{DType, Subgraph};

use crate::exec::{self, Context, ContextOptions, QnnModule, QnnQueue};
use crate::lower::{lower, verdict};

/// Tokens of the steps that graphs are compiled for.
const TOKENS: [u32; 2] = [1, 32];

/// What the library takes for itself once it has compiled something.
const LIBRARY_BYTES: u64 = 112 << 20;

/// A chip.
#[derive(Debug)]
pub struct QnnDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    device: Arc<exec::Device>,
    queue: QnnQueue,
}

impl QnnDevice {
    /// The device of `info`, whose chip is `device`. Emulated chips have no time.
    pub(crate) fn new(info: DeviceInfo, device: Arc<exec::Device>, emulated: bool) -> QnnDevice {
        let mut capabilities = Capabilities::new();
        capabilities.states = StateSupport::InPlaceIo;
        capabilities.compute = vec![DType::F16];
        let weights = DType::ALL.iter().copied();
        capabilities.weights = weights
            .filter(|d| anynpu_ir::block::is_decodable(*d))
            .collect();
        capabilities.memory = vec![MemoryKind::Host];
        capabilities.features.artificial = emulated;
        capabilities.fixed_shapes = Some(FixedShapes {
            tokens: TOKENS.to_vec(),
            capacities: Vec::new(),
        });
        QnnDevice {
            queue: QnnQueue::new(&info.name, !emulated),
            info,
            capabilities,
            device,
        }
    }
}

impl Device for QnnDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        let nodes = graph.nodes();
        nodes
            .map(|(_, node)| verdict(graph.graph(), node))
            .collect()
    }

    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let name = &self.info.name;
        if ![DType::F32, DType::F16].contains(&options.state_dtype) {
            return Err(HalError::InvalidUse {
                call: "compile",
                what: "the type of states".into(),
                found: options.state_dtype.to_string(),
                expected: "f32 or f16".into(),
            });
        }
        let of_device = |e: exec::QnnError| e.of_device(name);
        let infos: Result<Vec<EntryInfo>, HalError> = entries
            .iter()
            .map(|e| EntryInfo::describe(e, options.state_dtype))
            .collect();
        let mut module = QnnModule::new(infos?);
        let context = Context::new(&self.device, ContextOptions::default()).map_err(of_device)?;
        for (i, entry) in entries.iter().enumerate() {
            if !progress(i as u64, entries.len() as u64) {
                return Err(HalError::Cancelled {
                    what: "compiling".into(),
                });
            }
            let lowered = lower(name, entry, options.state_dtype, &*weights)?;
            module.compile(&context, lowered).map_err(of_device)?;
        }
        progress(entries.len() as u64, entries.len() as u64);
        Ok(Arc::new(module))
    }

    /// What the emulator was seen to take: each entry its own copy of the weights and its compiled form, and while it
    /// compiles two more of one entry.
    fn memory_need(
        &self,
        entries: &[Entry],
        _: &CompileOptions,
        _: &dyn WeightSource,
    ) -> Result<Option<MemoryNeed>, HalError> {
        let mut need = MemoryNeed {
            scratch: LIBRARY_BYTES,
            ..MemoryNeed::default()
        };
        for entry in entries {
            let run = entry.subgraph().map_err(|e| HalError::InvalidUse {
                call: "memory_need",
                what: format!("the nodes of '{}'", entry.name),
                found: e.to_string(),
                expected: "a run of the graph".into(),
            })?;
            let weights = run.weights().iter().map(|&id| {
                let ty = entry.graph.ty(entry.graph.weight(id).value);
                let elements = ty.shape.elements(&entry.bounds.limits());
                2 * elements.unwrap_or(usize::MAX / 4) as u64
            });
            let bytes = weights.fold(0u64, u64::saturating_add);
            need.resident = need.resident.saturating_add(bytes.saturating_mul(2));
            need.transient = need.transient.max(bytes.saturating_mul(2));
        }
        Ok(Some(need))
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        Ok(Arc::new(HostBuffer::new(desc.clone())?))
    }

    /// It works in memory of the host, whoever allocated it.
    fn import(&self, handle: ExternalHandle, _: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        match handle {
            ExternalHandle::Shared(buffer) if buffer.desc().kind == MemoryKind::Host => Ok(buffer),
            _ => Err(HalError::Unsupported {
                device: self.info.name.clone(),
                call: "import",
            }),
        }
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
