//! The opened engine.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Counters, Device, DeviceInfo, Entry,
    ExternalHandle, HalError, HostBuffer, MemoryKind, Module, Queue, StateSupport, Submission,
    Support, WeightSource,
};
use anynpu_ir::{DType, Subgraph};
use parking_lot::Mutex;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::claims::verdict;
use crate::compile::{CandleModule, compile};
use crate::{NAME, run, tensors};

/// Candle with its threads.
#[derive(Debug)]
pub struct CandleDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    queue: CandleQueue,
}

struct CandleQueue {
    pool: ThreadPool,
    /// Held by the submission that runs.
    order: Mutex<()>,
    submissions: AtomicU64,
    nodes: AtomicU64,
    busy_ns: AtomicU64,
}

impl fmt::Debug for CandleQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CandleQueue")
            .field("threads", &self.pool.current_num_threads())
            .finish()
    }
}

impl CandleDevice {
    /// Opens the engine with `threads` threads of its own.
    pub(crate) fn new(info: DeviceInfo, threads: usize) -> Result<Self, HalError> {
        let mut capabilities = Capabilities::new();
        capabilities.features.dynamic_shapes = true;
        capabilities.states = StateSupport::InPlaceIo;
        capabilities.compute = vec![DType::F32];
        capabilities.weights = DType::ALL
            .into_iter()
            .filter(|&d| tensors::kept(d).is_some())
            .collect();
        capabilities.memory = vec![MemoryKind::Host];
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("candle {i}"))
            .build()
            .map_err(|e| HalError::OutOfMemory {
                device: NAME.into(),
                bytes: 0,
                what: format!("{threads} threads ({e})"),
            })?;
        Ok(CandleDevice {
            info,
            capabilities,
            queue: CandleQueue {
                pool,
                order: Mutex::new(()),
                submissions: AtomicU64::new(0),
                nodes: AtomicU64::new(0),
                busy_ns: AtomicU64::new(0),
            },
        })
    }
}

impl Device for CandleDevice {
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
        Ok(Arc::new(compile(entries, options, &*weights, progress)?))
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

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Queue for CandleQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let info = s.entry_info()?;
        s.check(info)?;
        let module = s.module.as_any().downcast_ref::<CandleModule>();
        let module = module.ok_or_else(|| HalError::InvalidUse {
            call: "submit",
            what: "module".into(),
            found: "one of another device".into(),
            expected: format!("one compiled by '{NAME}'"),
        })?;
        for point in s.wait {
            point.wait(WAIT_LIMIT)?;
        }
        let started = Instant::now();
        let order = self.order.lock();
        let program = &module.programs[s.entry];
        self.pool.install(|| run::run(program, info, s))?;
        drop(order);
        let busy = started.elapsed().as_nanos();
        self.busy_ns.fetch_add(busy as u64, Ordering::Relaxed);
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
const WAIT_LIMIT: Duration = Duration::from_secs(600);
