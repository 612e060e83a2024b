//! What it takes to bring values from device to device.

use std::sync::Arc;
use std::time::Instant;

use anynpu_hal::{BufferDesc, Device, DeviceKind, HalError};

use crate::memory::Slots;
use crate::profile::{LinkProfile, Sample};

/// Bytes of a small transfer and of a large one.
const SMALL: usize = 64;
const LARGE: usize = 4 << 20;
const RUNS: usize = 15;

/// The edges between `devices`. Those of simulated devices take no real time, so they are left to what their
/// drivers state.
pub(super) fn links(devices: &[Arc<dyn Device>]) -> Vec<LinkProfile> {
    let real = || {
        devices
            .iter()
            .filter(|d| d.info().kind != DeviceKind::Simulated)
    };
    let mut links = Vec::new();
    for from in real() {
        for to in real().filter(|to| !Arc::ptr_eq(from, to)) {
            match link(&**from, &**to) {
                Ok(found) => links.push(found),
                Err(e) => tracing::warn!(
                    "the edge from '{}' to '{}' was not measured: {e}",
                    from.info().name,
                    to.info().name
                ),
            }
        }
    }
    links
}

fn link(from: &dyn Device, to: &dyn Device) -> Result<LinkProfile, HalError> {
    let mut slots = Slots::default();
    let a = slots.allocate(0, from, BufferDesc::host("source", LARGE))?;
    let mut found = LinkProfile {
        from: from.info().name.clone(),
        to: to.info().name.clone(),
        mode: "native".into(),
        latency_us: None,
        bytes_per_second: None,
    };
    if slots.share(a, 1, to) {
        return Ok(found);
    }
    let b = slots.allocate(1, to, BufferDesc::host("target", LARGE))?;
    let mut time = |bytes: usize| -> Result<Sample, HalError> {
        slots.copy(a, b, bytes)?;
        let mut figures = Vec::with_capacity(RUNS);
        for _ in 0..RUNS {
            let started = Instant::now();
            slots.copy(a, b, bytes)?;
            figures.push(started.elapsed().as_secs_f64() * 1e6);
        }
        // there are figures, and they are finite
        Sample::of(&figures, 1e-3).ok_or(HalError::Unsupported {
            device: to.info().name.clone(),
            call: "copy",
        })
    };
    let latency = time(SMALL)?;
    let large = time(LARGE)?;
    found.mode = "copy".into();
    found.latency_us = Some(latency);
    let net = |us: f64| (us - latency.median).max(0.01 * us);
    found.bytes_per_second = Some(large.map(|us| LARGE as f64 * 1e6 / net(us)));
    Ok(found)
}
