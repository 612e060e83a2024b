//! What integration tests share.
#![allow(dead_code)] // each test uses a part

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

use anynpu_cpu::CpuDriver;
use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, ClaimedRates, CompileOptions, Device, DeviceInfo, Driver,
    Entry, ExposedDevice, ExternalHandle, HalError, Module, OpenOptions, Queue, Support,
    Unavailable, WeightSource,
};
use anynpu_ir::{DType, Subgraph};
use anynpu_runtime::Runtime;
use anynpu_runtime::knobs::Knobs;

#[path = "../../src/testing.rs"]
pub mod testing;

/// The CPU under another name, which shares memory with other devices or does not.
#[derive(Debug)]
pub struct RenamedCpu {
    pub name: &'static str,
    pub shares_memory: bool,
}

/// A device that says other things of itself.
#[derive(Debug)]
struct Disguised {
    inner: Arc<dyn Device>,
    info: DeviceInfo,
    capabilities: Capabilities,
    shares_memory: bool,
}

impl Driver for RenamedCpu {
    fn name(&self) -> &str {
        self.name
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        let mut found = CpuDriver.enumerate()?;
        found[0].info.name = self.name.into();
        Ok(found)
    }

    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError> {
        let inner = CpuDriver.enumerate().expect("the CPU is always there");
        let inner = CpuDriver.open(&inner[0], options)?;
        Ok(Arc::new(Disguised {
            info: device.info.clone(),
            capabilities: inner.capabilities().clone(),
            inner,
            shares_memory: self.shares_memory,
        }))
    }
}

impl Device for Disguised {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        self.inner.support(graph)
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

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        self.inner.allocate(desc)
    }

    fn import(
        &self,
        handle: ExternalHandle,
        desc: &BufferDesc,
    ) -> Result<Arc<dyn Buffer>, HalError> {
        match self.shares_memory {
            true => self.inner.import(handle, desc),
            false => Err(HalError::Unsupported {
                device: self.info.name.clone(),
                call: "import",
            }),
        }
    }

    fn queue(&self) -> &dyn Queue {
        self.inner.queue()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A driver's device with a claim to be so fast that everything that may go there goes there, but not to run
/// everything.
#[derive(Debug)]
pub struct Fast(pub &'static dyn Driver);

impl Driver for Fast {
    fn name(&self) -> &str {
        "fast"
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
        capabilities.features.baseline = false;
        Ok(Arc::new(Disguised {
            info: inner.info().clone(),
            capabilities,
            inner,
            shares_memory: false,
        }))
    }
}

/// A runtime of the CPU and of the renamed ones, with `threads` threads each.
pub fn runtime(renamed: Vec<RenamedCpu>, threads: usize) -> Runtime {
    let mut drivers: Vec<Box<dyn Driver>> = vec![Box::new(CpuDriver)];
    for driver in renamed {
        drivers.push(Box::new(driver));
    }
    let builder = Runtime::builder().drivers(drivers).threads(threads);
    builder
        .knobs(Knobs::default())
        .build()
        .expect("the CPU opens")
}

/// The file at `path` of the test data, or `None` after saying that `test` is skipped.
pub fn test_data(test: &str, path: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("ANYNPU_TEST_DATA") else {
        println!("SKIPPED {test}: ANYNPU_TEST_DATA is not set");
        return None;
    };
    Some(PathBuf::from(folder).join(path))
}
