//! A device that accepts everything and computes nothing.
//!
//! It exists to test validation and to measure the cost of dispatch alone. Its outputs keep
//! whatever their buffers held.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anynpu_ir::{DType, Subgraph};

use crate::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Counters, Device, DeviceInfo, DeviceKind,
    Driver, Entry, EntryInfo, ExposedDevice, HalError, HostBuffer, MemoryKind, Module, OpenOptions,
    Queue, StateSupport, Submission, Support, Unavailable, WeightSource,
};

/// Driver of the one device `noop`.
#[derive(Debug, Default)]
pub struct NoopDriver;

impl Driver for NoopDriver {
    fn name(&self) -> &str {
        "noop"
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        Ok(vec![ExposedDevice {
            info: info(),
            artificial: true,
        }])
    }

    fn open(&self, _: &ExposedDevice, _: &OpenOptions) -> Result<Arc<dyn Device>, HalError> {
        let mut capabilities = Capabilities::new();
        capabilities.features.artificial = true;
        capabilities.features.dynamic_shapes = true;
        capabilities.states = StateSupport::InPlaceIo;
        capabilities.compute = vec![DType::F32];
        capabilities.weights = DType::ALL.to_vec();
        capabilities.memory = vec![MemoryKind::Host];
        Ok(Arc::new(NoopDevice {
            info: info(),
            capabilities,
            queue: NoopQueue::default(),
        }))
    }
}

fn info() -> DeviceInfo {
    DeviceInfo {
        name: "noop".into(),
        driver: "noop".into(),
        kind: DeviceKind::Other,
        description: "accepts everything, computes nothing".into(),
    }
}

#[derive(Debug)]
struct NoopDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    queue: NoopQueue,
}

#[derive(Debug)]
struct NoopModule {
    entries: Vec<EntryInfo>,
}

#[derive(Debug, Default)]
struct NoopQueue {
    submissions: AtomicU64,
    nodes: AtomicU64,
}

impl Device for NoopDevice {
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
        _: Arc<dyn WeightSource>,
        _: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let entries = entries
            .iter()
            .map(|e| EntryInfo::describe(e, options.state_dtype))
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(NoopModule { entries }))
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        Ok(Arc::new(HostBuffer::new(desc.clone())?))
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Module for NoopModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.entries
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    fn sequences(&self, _: usize) -> Support {
        Support::Yes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Queue for NoopQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let info = s.entry_info()?;
        s.check(info)?;
        self.submissions.fetch_add(1, Ordering::Relaxed);
        self.nodes.fetch_add(info.nodes.into(), Ordering::Relaxed);
        s.signal.signal();
        Ok(())
    }

    fn counters(&self) -> Counters {
        Counters {
            submissions: self.submissions.load(Ordering::Relaxed),
            nodes: self.nodes.load(Ordering::Relaxed),
            busy_ns: 0,
        }
    }
}
