//! A device that fails on purpose, around a real one.
//!
//! Tests use it to walk every failure path. Faults are given to [`ChaosDriver::new`] or as the
//! option `faults` when opening, e.g. `submit:3=lost,compile:1=refuse,submit:5=delay:20`: the
//! third submission loses the device, the first compile is refused, the fifth submission is
//! 20 ms late. Calls are counted from 1 for the life of the device; once lost, it stays lost.

use std::any::Any;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anynpu_ir::{NodeId, Subgraph};

use crate::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Counters, Device, DeviceInfo, Driver, Entry,
    ExposedDevice, HalError, Module, OpenOptions, Queue, Reason, ReasonCode, Submission, Support,
    Unavailable, WeightSource,
};

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The device is lost at the `n`-th submission.
    LoseAtSubmit(u64),
    /// The `n`-th submission fails with a vendor error after it was accepted.
    FailAfterSubmit(u64),
    /// The `n`-th submission is accepted and never finishes.
    HangAtSubmit(u64),
    /// The `n`-th submission takes longer by this.
    DelaySubmit(u64, Duration),
    /// The `n`-th submission is refused before it starts, with a vendor error.
    RefuseSubmit(u64),
    /// The `n`-th compile is refused: its first node.
    RefuseCompile(u64),
    /// The `n`-th compile takes longer by this.
    DelayCompile(u64, Duration),
    /// The device is lost at the `n`-th compile.
    LoseAtCompile(u64),
    /// The `n`-th compile finds no memory.
    OutOfMemoryAtCompile(u64),
    /// The `n`-th allocation fails.
    OutOfMemoryAtAllocate(u64),
}

/// A fault that can't be read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "fault {0:?}: expected submit:N=lost|refuse|fail|hang|delay:MS, compile:N=refuse|lost|oom|delay:MS or allocate:N=oom"
)]
pub struct FaultSyntax(String);

impl FromStr for Fault {
    type Err = FaultSyntax;

    fn from_str(s: &str) -> Result<Self, FaultSyntax> {
        let bad = || FaultSyntax(s.to_owned());
        let (call, what) = s.split_once('=').ok_or_else(bad)?;
        let (call, n) = call.split_once(':').ok_or_else(bad)?;
        let n = n.parse().map_err(|_| bad())?;
        match (call, what.split_once(':').unwrap_or((what, ""))) {
            ("submit", ("lost", "")) => Ok(Fault::LoseAtSubmit(n)),
            ("submit", ("fail", "")) => Ok(Fault::FailAfterSubmit(n)),
            ("submit", ("hang", "")) => Ok(Fault::HangAtSubmit(n)),
            ("submit", ("delay", ms)) => {
                let ms = ms.parse().map_err(|_| bad())?;
                Ok(Fault::DelaySubmit(n, Duration::from_millis(ms)))
            }
            ("submit", ("refuse", "")) => Ok(Fault::RefuseSubmit(n)),
            ("compile", ("delay", ms)) => {
                let ms = ms.parse().map_err(|_| bad())?;
                Ok(Fault::DelayCompile(n, Duration::from_millis(ms)))
            }
            ("compile", ("lost", "")) => Ok(Fault::LoseAtCompile(n)),
            ("compile", ("oom", "")) => Ok(Fault::OutOfMemoryAtCompile(n)),
            ("compile", ("refuse", "")) => Ok(Fault::RefuseCompile(n)),
            ("allocate", ("oom", "")) => Ok(Fault::OutOfMemoryAtAllocate(n)),
            _ => Err(bad()),
        }
    }
}

/// Driver of devices named `chaos` around those of another driver.
#[derive(Debug)]
pub struct ChaosDriver {
    inner: Box<dyn Driver>,
    faults: Vec<Fault>,
}

impl ChaosDriver {
    /// Wraps the first device of `inner`.
    pub fn new(inner: Box<dyn Driver>, faults: Vec<Fault>) -> Self {
        ChaosDriver { inner, faults }
    }
}

impl Driver for ChaosDriver {
    fn name(&self) -> &str {
        "chaos"
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        let mut found = self.inner.enumerate()?;
        found.truncate(1);
        for device in &mut found {
            device.info.description = format!("{}, failing on purpose", device.info.description);
            device.info.name = "chaos".into();
            device.info.driver = "chaos".into();
            device.artificial = true;
        }
        Ok(found)
    }

    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError> {
        let mut options = options.clone();
        let mut faults = self.faults.clone();
        let given = options.options.remove("faults").unwrap_or_default();
        for fault in given.split(',').filter(|f| !f.is_empty()) {
            faults.push(
                fault
                    .parse()
                    .map_err(|e: FaultSyntax| HalError::InvalidUse {
                        call: "open",
                        what: "option 'faults'".into(),
                        found: given.clone(),
                        expected: e.to_string(),
                    })?,
            );
        }
        let lost = || HalError::DeviceLost {
            device: "chaos".into(),
            why: "the device it wraps is gone".into(),
        };
        let inner = self.inner.enumerate().map_err(|_| lost())?;
        let inner = self.inner.open(inner.first().ok_or_else(lost)?, &options)?;
        let mut capabilities = inner.capabilities().clone();
        capabilities.features.artificial = true;
        Ok(Arc::new(ChaosDevice {
            info: device.info.clone(),
            capabilities,
            queue: ChaosQueue {
                inner: inner.clone(),
                faults: faults.clone(),
                submits: AtomicU64::new(0),
                lost: AtomicBool::new(false),
            },
            inner,
            faults,
            compiles: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
        }))
    }
}

#[derive(Debug)]
struct ChaosDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    inner: Arc<dyn Device>,
    faults: Vec<Fault>,
    queue: ChaosQueue,
    compiles: AtomicU64,
    allocations: AtomicU64,
}

#[derive(Debug)]
struct ChaosQueue {
    inner: Arc<dyn Device>,
    faults: Vec<Fault>,
    submits: AtomicU64,
    lost: AtomicBool,
}

impl Device for ChaosDevice {
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
        let n = self.compiles.fetch_add(1, Ordering::Relaxed) + 1;
        if self.faults.contains(&Fault::RefuseCompile(n)) {
            let first = entries.first().map_or(0, |e| e.nodes.start);
            let reason = Reason::new(ReasonCode::VendorRejected, "refused on purpose");
            return Err(HalError::CompileRejected {
                device: self.info.name.clone(),
                nodes: vec![(NodeId(first), reason)],
            });
        }
        for fault in &self.faults {
            match *fault {
                Fault::DelayCompile(at, by) if at == n => std::thread::sleep(by),
                _ => {}
            }
        }
        if self.faults.contains(&Fault::OutOfMemoryAtCompile(n)) {
            return Err(HalError::OutOfMemory {
                device: self.info.name.clone(),
                bytes: 1,
                what: "a module, on purpose".into(),
            });
        }
        if self.faults.contains(&Fault::LoseAtCompile(n)) {
            self.queue.lost.store(true, Ordering::Relaxed);
        }
        if self.queue.lost.load(Ordering::Relaxed) {
            return Err(lost());
        }
        self.inner.compile(entries, options, weights, progress)
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        let n = self.allocations.fetch_add(1, Ordering::Relaxed) + 1;
        if self.faults.contains(&Fault::OutOfMemoryAtAllocate(n)) {
            return Err(HalError::OutOfMemory {
                device: self.info.name.clone(),
                bytes: desc.bytes as u64,
                what: desc.name.clone(),
            });
        }
        self.inner.allocate(desc)
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn lost() -> HalError {
    HalError::DeviceLost {
        device: "chaos".into(),
        why: "lost on purpose".into(),
    }
}

impl Queue for ChaosQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let n = self.submits.fetch_add(1, Ordering::Relaxed) + 1;
        for fault in &self.faults {
            match *fault {
                Fault::LoseAtSubmit(at) if at == n => self.lost.store(true, Ordering::Relaxed),
                Fault::DelaySubmit(at, by) if at == n => std::thread::sleep(by),
                Fault::HangAtSubmit(at) if at == n => return Ok(()),
                Fault::FailAfterSubmit(at) if at == n => {
                    s.signal.fail(HalError::Vendor {
                        device: "chaos".into(),
                        call: "submit".into(),
                        code: -1,
                        text: "failed on purpose".into(),
                    });
                    return Ok(());
                }
                Fault::RefuseSubmit(at) if at == n => {
                    return Err(HalError::Vendor {
                        device: "chaos".into(),
                        call: "submit".into(),
                        code: -2,
                        text: "refused on purpose".into(),
                    });
                }
                _ => {}
            }
        }
        if self.lost.load(Ordering::Relaxed) {
            return Err(lost());
        }
        self.inner.queue().submit(s)
    }

    fn counters(&self) -> Counters {
        self.inner.queue().counters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_nonsense_is_refused() {
        assert_eq!("submit:3=lost".parse(), Ok(Fault::LoseAtSubmit(3)));
        assert_eq!(
            "submit:5=delay:20".parse(),
            Ok(Fault::DelaySubmit(5, Duration::from_millis(20)))
        );
        for bad in [
            "",
            "submit",
            "submit:x=lost",
            "submit:1=late",
            "compile:1=hang",
        ] {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }
}
