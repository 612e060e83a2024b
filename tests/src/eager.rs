//! A driver for tests of what happens when a device that everything went to fails.

use std::any::Any;
use std::sync::Arc;

use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, ClaimedRates, CompileOptions, Device, DeviceInfo, Driver,
    Entry, ExposedDevice, ExternalHandle, HalError, MemoryNeed, Module, OpenOptions, Queue,
    Support, Unavailable, WeightSource,
};
use anynpu_ir::{DType, Subgraph};

/// A driver whose devices claim to be so fast that everything that may go there goes there.
#[derive(Debug)]
pub struct Eager<D>(pub D);

#[derive(Debug)]
struct EagerDevice {
    inner: Arc<dyn Device>,
    capabilities: Capabilities,
}

impl<D: Driver> Driver for Eager<D> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        self.0.enumerate()
    }

    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError> {
        let inner = self.0.open(device, options)?;
        let mut capabilities = inner.capabilities().clone();
        let rates = ClaimedRates::new(vec![(DType::F32, 1e18)], 1e18, 1e-3);
        capabilities.claimed_rates = Some(rates);
        Ok(Arc::new(EagerDevice {
            inner,
            capabilities,
        }))
    }
}

impl Device for EagerDevice {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        self.inner.support(graph)
    }

    fn validate(&self, graph: &Subgraph<'_>) -> Result<Vec<Support>, HalError> {
        self.inner.validate(graph)
    }

    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        self.inner.compile(entries, options, weights, progress)
    }

    fn memory_need(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
    ) -> Result<Option<MemoryNeed>, HalError> {
        self.inner.memory_need(entries, options, weights)
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        self.inner.allocate(desc)
    }

    fn import(
        &self,
        handle: ExternalHandle,
        desc: &BufferDesc,
    ) -> Result<Arc<dyn Buffer>, HalError> {
        self.inner.import(handle, desc)
    }

    fn queue(&self) -> &dyn Queue {
        self.inner.queue()
    }

    fn as_any(&self) -> &dyn Any {
        self.inner.as_any()
    }
}
