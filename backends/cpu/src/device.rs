//! The opened CPU.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Counters, Device, DeviceInfo, Entry,
    EntryInfo, ExternalHandle, HalError, HostBuffer, MemoryKind, MemoryNeed, Module, Queue, Reason,
    ReasonCode, StateSupport, Submission, Support, WeightSource,
};
use anynpu_ir::{DType, Subgraph};
use parking_lot::Mutex;

use crate::cores::Cores;
use crate::exec::Workspace;
use crate::kernels::{Features, Kernels};
use crate::lower::{lower, memory_need};
use crate::pool::Pool;
use crate::program::Program;
use crate::weights::{Packing, Weights};

/// The CPU with its threads. It runs every op ([`Support::Yes`] for all).
#[derive(Debug)]
pub struct CpuDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    queue: CpuQueue,
}

/// Entries lowered to kernels, with packed weights.
#[derive(Debug)]
pub(crate) struct CpuModule {
    pub programs: Vec<Program>,
    pub infos: Vec<EntryInfo>,
    pub weights: Weights,
}

pub(crate) struct CpuQueue {
    name: String,
    kernels: Kernels,
    pool: Pool,
    workspace: Mutex<Workspace>,
    submissions: AtomicU64,
    nodes: AtomicU64,
    busy_ns: AtomicU64,
}

impl fmt::Debug for CpuQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuQueue")
            .field("name", &self.name)
            .finish()
    }
}

impl CpuDevice {
    /// Opens the CPU with `threads` threads, the caller's among them.
    pub(crate) fn new(
        info: DeviceInfo,
        features: Features,
        threads: usize,
    ) -> Result<Self, HalError> {
        let mut capabilities = Capabilities::new();
        capabilities.features.baseline = true;
        capabilities.features.dynamic_shapes = true;
        capabilities.states = StateSupport::InPlaceIo;
        capabilities.compute = vec![DType::F32];
        capabilities.weights = DType::ALL.to_vec();
        capabilities.memory = vec![MemoryKind::Host];
        let out_of_memory = |what: String| HalError::OutOfMemory {
            device: info.name.clone(),
            bytes: 0,
            what,
        };
        let pool = Pool::on(threads, Some(&Cores::detect()));
        let pool = pool.map_err(|e| out_of_memory(format!("{threads} threads ({e})")))?;
        let workspace = Workspace::new().map_err(|e| out_of_memory(e.to_string()))?;
        Ok(CpuDevice {
            queue: CpuQueue {
                name: info.name.clone(),
                kernels: Kernels::new(features),
                pool,
                workspace: Mutex::new(workspace),
                submissions: AtomicU64::new(0),
                nodes: AtomicU64::new(0),
                busy_ns: AtomicU64::new(0),
            },
            info,
            capabilities,
        })
    }
}

impl CpuDevice {
    /// BF16 or F16 where it is permitted and the processor has instructions for it. Of a model in BF16, what is in a
    /// wider type is meant to be; in F16 no weights are rounded, so only those that are in it are multiplied in it.
    fn packing(&self, options: &CompileOptions, entries: &[Entry]) -> Packing {
        let kernels = self.queue.kernels;
        match options.precision {
            Some(DType::BF16) if kernels.prefers_bf16() => {}
            Some(DType::F16) if kernels.prefers_f16() => return Packing::F16,
            _ => return Packing::AsHeld,
        }
        let graphs = entries.iter().map(|e| &e.graph);
        let mut weights = graphs.flat_map(|g| g.weights().iter().map(|w| g.ty(w.value)));
        match weights.any(|ty| ty.shape.rank() > 1 && ty.dtype == DType::BF16) {
            true => Packing::Bf16OfBf16,
            false => Packing::Bf16,
        }
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        vec![Support::Yes; graph.nodes().len()]
    }

    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let module = lower(
            entries,
            options,
            weights,
            self.packing(options, entries),
            &self.queue.pool,
            progress,
        )?;
        let mut workspace = self.queue.workspace.lock();
        for program in &module.programs {
            workspace.reserve(program, &self.queue.pool)?;
        }
        drop(workspace);
        Ok(Arc::new(module))
    }

    fn memory_need(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
    ) -> Result<Option<MemoryNeed>, HalError> {
        memory_need(
            entries,
            options,
            weights,
            self.packing(options, entries),
            &self.queue.pool,
        )
        .map(Some)
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        Ok(Arc::new(HostBuffer::new(desc.clone())?))
    }

    fn import(
        &self,
        handle: ExternalHandle,
        desc: &BufferDesc,
    ) -> Result<Arc<dyn Buffer>, HalError> {
        match handle {
            ExternalHandle::Shared(buffer)
                if buffer.as_any().is::<HostBuffer>() && buffer.desc().bytes >= desc.bytes =>
            {
                Ok(buffer)
            }
            _ => Err(HalError::InvalidUse {
                call: "import",
                what: format!("buffer '{}'", desc.name),
                found: "memory of another kind or a smaller buffer".into(),
                expected: format!("host memory of at least {} bytes", desc.bytes),
            }),
        }
    }

    fn trim(&self) -> u64 {
        match Workspace::new() {
            Ok(empty) => std::mem::replace(&mut *self.queue.workspace.lock(), empty).bytes(),
            Err(_) => 0,
        }
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Module for CpuModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.infos
    }

    fn resident_bytes(&self) -> u64 {
        self.weights.resident_bytes()
    }

    fn sequences(&self, entry: usize) -> Support {
        let program = self.programs.get(entry);
        program.map_or_else(
            || Support::No(Reason::new(ReasonCode::State, "there is no such entry")),
            |program| program.sequences.clone(),
        )
    }

    fn computes_in(&self) -> Option<&'static str> {
        self.weights.rounds_to().map(DType::name)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Queue for CpuQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let info = s.entry_info()?;
        s.check(info)?;
        let module = s.module.as_any().downcast_ref::<CpuModule>();
        let module = module.ok_or_else(|| HalError::InvalidUse {
            call: "submit",
            what: "module".into(),
            found: "one of another device".into(),
            expected: format!("one compiled by '{}'", self.name),
        })?;
        for point in s.wait {
            point.wait(WAIT_LIMIT)?;
        }
        let started = Instant::now();
        let mut workspace = self.workspace.lock();
        workspace.run(module, s, &self.kernels, &self.pool)?;
        drop(workspace);
        self.busy_ns
            .fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        self.submissions.fetch_add(1, Ordering::Relaxed);
        self.nodes.fetch_add(info.nodes.into(), Ordering::Relaxed);
        s.signal.signal();
        Ok(())
    }

    fn counters(&self) -> Counters {
        Counters {
            submissions: self.submissions.load(Ordering::Relaxed),
            nodes: self.nodes.load(Ordering::Relaxed),
            busy_ns: self.busy_ns.load(Ordering::Relaxed),
        }
    }
}

/// How long a submission waits for the points it depends on.
const WAIT_LIMIT: std::time::Duration = std::time::Duration::from_secs(600);
