use anynpu_cpu::CpuDriver;
use anynpu_hal::driver::chaos::{ChaosDriver, Fault};
use anynpu_hal::driver::noop::NoopDriver;
use anynpu_hal::{Device, Driver, OpenOptions};
use anynpu_ir::SymbolValues;
use std::sync::Arc;
use std::time::Duration;

use super::blocks::layer_nodes;
use super::graphs::Blocks;
use super::prober::DTYPES;
use super::*;
use crate::plan::Phase;

fn open(driver: &dyn Driver) -> Arc<dyn Device> {
    let exposed = driver.enumerate().unwrap();
    driver.open(&exposed[0], &OpenOptions::default()).unwrap()
}

fn prober(device: &Arc<dyn Device>) -> Prober<'_> {
    Prober {
        device,
        quick: true,
        few: false,
        started: Instant::now(),
        cold_bytes: 1 << 20,
        run_limit: RUN_LIMIT,
        gone: false,
        profile: DeviceProfile {
            name: device.info().name.clone(),
            kind: device.info().kind.name().into(),
            ..DeviceProfile::default()
        },
    }
}

fn valid(profile: &DeviceProfile) -> Profile {
    let profile = Profile {
        schema_version: PROFILE_VERSION,
        host: host::host(),
        devices: vec![profile.clone()],
        links: Vec::new(),
    };
    let text = profile.to_json();
    assert_eq!(Profile::parse("p.json", text.as_bytes()).unwrap(), profile);
    profile
}

#[test]
fn a_device_that_accepts_everything_gives_a_valid_profile() {
    let device = open(&NoopDriver);
    let mut prober = prober(&device);
    prober.all(None, &mut |_| ());
    let profile = prober.profile;
    valid(&profile);
    assert!(profile.failed.is_empty(), "{:?}", profile.failed);
    assert!(profile.dispatch_us.is_some() && !profile.read.is_empty() && !profile.copy.is_empty());
    let ops: std::collections::BTreeSet<&str> =
        profile.values.iter().map(|v| v.op.as_str()).collect();
    assert_eq!(
        ops.into_iter().collect::<Vec<_>>(),
        ["add", "append", "gate", "norm", "rope"]
    );
}

#[test]
fn the_cpu_runs_everything_that_is_timed() {
    let device = open(&CpuDriver);
    let mut prober = prober(&device);
    // whatever time there is: that each graph runs is the point
    prober.attempt("dispatch", Prober::dispatch);
    for op in ["norm", "gate", "add", "rope", "append"] {
        prober.attempt(op, |p| p.value(op));
    }
    prober.attempt("attention", |p| p.attention(DType::F16));
    prober.attempt("small", |p| p.small(DType::F32, 64));
    assert!(
        prober.profile.failed.is_empty(),
        "{:?}",
        prober.profile.failed
    );
    valid(&prober.profile);
    for anchor in &prober.profile.anchors {
        assert!(anchor.factor() > 0.0);
    }
}

#[test]
fn every_block_graph_is_of_the_sizes_it_claims() {
    for dtype in DTYPES {
        let blocks = Blocks {
            hidden: 256,
            ffn: 512,
            heads: 4,
            kv_heads: 2,
            layers: 3,
            dtype,
        };
        let graph = blocks.graph().unwrap();
        let none = SymbolValues::step(1, 0, 1, 1);
        let matrices = graph.weights().iter().filter(|w| {
            let name = &graph.value(w.value).name;
            name.starts_with("blk.") && graph.ty(w.value).shape.rank() == 2
        });
        let bytes: u64 = matrices
            .map(|w| graph.ty(w.value).bytes(&none).unwrap() as u64)
            .sum();
        assert_eq!(bytes, 3 * blocks.bytes(), "{dtype}");
        assert_eq!(layer_nodes(&graph).len(), 3);
    }
}

#[test]
fn what_a_device_fails_at_is_recorded_and_the_rest_measured() {
    let device = open(&ChaosDriver::new(
        Box::new(NoopDriver),
        vec![Fault::FailAfterSubmit(3)],
    ));
    let mut prober = prober(&device);
    prober.attempt("dispatch", Prober::dispatch);
    prober.attempt("norm", |p| p.value("norm"));
    let failed = &prober.profile.failed;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0].what, "dispatch");
    assert!(!failed[0].error.is_empty());
    assert!(!prober.profile.values.is_empty());
}

#[test]
fn a_device_that_is_lost_or_hangs_is_not_asked_again() {
    for fault in [Fault::LoseAtSubmit(3), Fault::HangAtSubmit(3)] {
        let device = open(&ChaosDriver::new(Box::new(NoopDriver), vec![fault.clone()]));
        let mut prober = prober(&device);
        prober.run_limit = Duration::from_millis(20);
        prober.all(None, &mut |_| ());
        let profile = valid(&prober.profile);
        assert_eq!(profile.devices[0].failed.len(), 1, "{fault:?}");
        assert!(profile.devices[0].values.is_empty());
        let left_out = &profile.devices[0].not_measured;
        assert!(left_out.iter().any(|w| w.contains("norm")), "{left_out:?}");
    }
}

#[test]
fn the_pace_of_a_device_is_that_of_its_blocks_beside_the_profile() {
    let device = open(&CpuDriver);
    let mut prober = prober(&device);
    prober.attempt("blocks", |p| p.blocks(DType::Q4_0));
    let mut profile = prober.profile;
    assert_eq!(profile.anchors.len(), 2);
    // a quarter of an hour a block: no machine is as slow, not even with a sanitizer
    for anchor in &mut profile.anchors {
        anchor.us.median = 1e9;
    }
    let blocks = |dtype| Blocks::of_models(dtype, 1 << 20);
    let of = |dtype| Pace::of(&device, &profile, blocks(dtype)).unwrap_or(None);
    assert!(of(DType::Q8_0).is_none());
    let mut pace = of(DType::Q4_0).unwrap();
    for phase in Phase::ALL {
        assert_eq!(pace.ratio(phase), None);
        pace.turn(phase, Duration::ZERO).unwrap();
        let ratio = pace.ratio(phase).unwrap();
        assert!(ratio > 0.0 && ratio < 1.0, "{ratio}");
    }
}
