//! The candle engine behind anynpu's C interface: an implementation of the op set that shares no code with the CPU
//! backend, to compare numbers with, and a plugin that someone else's library stands behind.
//!
//! It computes in F32 with candle's own kernels and decodes block formats with candle's own code. What candle has
//! not, or does otherwise at an edge, it does not claim ([`claims`]).
//!
//! The three main types: [`CandleDriver`], [`CandleDevice`], [`Fault`].

pub mod claims;
mod compile;
mod device;
mod memory;
mod run;
mod tensors;

use std::sync::Arc;

use anynpu_hal::{
    Device, DeviceInfo, DeviceKind, Driver, ExposedDevice, HalError, OpenOptions, Unavailable,
};
use thiserror::Error;

pub use device::CandleDevice;

/// Name of the driver and of its one device.
pub const NAME: &str = "candle";

/// Driver of the one device `candle`, which is always there.
#[derive(Debug, Default)]
pub struct CandleDriver;

anynpu_hal::export_driver!(CandleDriver::new());

/// The most threads it opens with.
const MAX_THREADS: usize = 256;

impl CandleDriver {
    /// The driver.
    pub fn new() -> Self {
        CandleDriver
    }
}

impl Driver for CandleDriver {
    fn name(&self) -> &str {
        NAME
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        Ok(vec![ExposedDevice {
            info: info(),
            artificial: false,
        }])
    }

    fn open(&self, _: &ExposedDevice, options: &OpenOptions) -> Result<Arc<dyn Device>, HalError> {
        let invalid = |what: String, found: String, expected: String| HalError::InvalidUse {
            call: "open candle",
            what,
            found,
            expected,
        };
        if let Some(name) = options.options.keys().next() {
            let what = format!("option '{name}'");
            return Err(invalid(what, "given".into(), "no options".into()));
        }
        let threads = options.threads.unwrap_or_else(default_threads);
        if !(1..=MAX_THREADS).contains(&threads) {
            let expected = format!("1 to {MAX_THREADS}");
            return Err(invalid("threads".into(), threads.to_string(), expected));
        }
        Ok(Arc::new(CandleDevice::new(info(), threads)?))
    }
}

fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn info() -> DeviceInfo {
    DeviceInfo {
        name: NAME.into(),
        driver: NAME.into(),
        kind: DeviceKind::Cpu,
        description: "candle-core 0.9.2 on the processor, in F32".into(),
    }
}

/// Why a node was not computed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Fault {
    /// Candle refused.
    #[error(transparent)]
    Engine(#[from] candle_core::Error),
    /// An operand or a buffer that does not fit.
    #[error(transparent)]
    Hal(#[from] HalError),
}

impl Fault {
    /// An operand that does not fit.
    fn operand(what: String, found: String, expected: String) -> Self {
        Fault::Hal(HalError::InvalidUse {
            call: "submit",
            what,
            found,
            expected,
        })
    }

    /// The failure of `call`.
    fn of(self, call: impl Into<String>) -> HalError {
        match self {
            Fault::Hal(error) => error,
            Fault::Engine(error) => HalError::Vendor {
                device: NAME.into(),
                call: call.into(),
                code: -1,
                text: told(&error),
            },
        }
    }
}

/// What candle says, without the stack that it adds where `RUST_BACKTRACE` is set.
fn told(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => told(inner),
        other => other.to_string(),
    }
}
