//! Finding and opening the CPU.

use std::sync::Arc;

use anynpu_hal::{
    Device, DeviceInfo, DeviceKind, Driver, ExposedDevice, HalError, OpenOptions, Unavailable,
};

use crate::CpuDevice;
use crate::cores::Cores;
use crate::kernels::Features;

/// Driver of the one device `cpu`, which is always there.
///
/// Options when opening: `features`, the kernels it may use (e.g. `avx2`, see
/// [`Features::parse`]); all that the CPU has if absent.
#[derive(Debug, Default)]
pub struct CpuDriver;

impl Driver for CpuDriver {
    fn name(&self) -> &str {
        "cpu"
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        Ok(vec![ExposedDevice {
            info: info(&Features::detect()),
            artificial: false,
        }])
    }

    fn open(&self, _: &ExposedDevice, options: &OpenOptions) -> Result<Arc<dyn Device>, HalError> {
        let invalid = |what: &str, found: String, expected: String| HalError::InvalidUse {
            call: "open cpu",
            what: format!("option '{what}'"),
            found,
            expected,
        };
        let features = match options.options.get("features") {
            None => Features::detect(),
            Some(list) => Features::parse(list)
                .map_err(|e| invalid("features", list.clone(), e.to_string()))?,
        };
        if let Some(name) = options.options.keys().find(|&k| k != "features") {
            return Err(invalid(name, "given".into(), "only 'features'".into()));
        }
        let threads = options.threads.unwrap_or_else(default_threads);
        if !(1..=MAX_THREADS).contains(&threads) {
            let expected = format!("1 to {MAX_THREADS}");
            return Err(invalid("threads", threads.to_string(), expected));
        }
        Ok(Arc::new(CpuDevice::new(
            info(&features),
            features,
            threads,
        )?))
    }
}

const MAX_THREADS: usize = 256;

/// Threads of the CPU where none are asked for: one for each core that is at least half as fast as the fastest.
pub fn default_threads() -> usize {
    Cores::detect().default_threads(cores())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn info(features: &Features) -> DeviceInfo {
    let model = model_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    DeviceInfo {
        name: "cpu".into(),
        driver: "cpu".into(),
        kind: DeviceKind::Cpu,
        description: format!("{model}, {} cores, kernels {features}", cores()),
    }
}

/// The processor's name where the system tells it.
fn model_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
