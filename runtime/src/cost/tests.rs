use std::sync::Arc;

use anynpu_hal::driver::noop::NoopDriver;
use anynpu_hal::{ClaimedRates, DeviceKind, Driver, OpenOptions};
use anynpu_ir::{DType, Graph, SymbolValues};
use proptest::prelude::*;

use super::*;
use crate::profile::{
    Anchor, AttentionTime, CurvePoint, DeviceProfile, Host, PROFILE_VERSION, ProductTime, Sample,
    ValueTime,
};
use crate::testing::tiny_llama;

fn exact(median: f64) -> Sample {
    Sample {
        median,
        p10: median,
        p90: median,
        runs: 5,
    }
}

/// Products of f32 that take 1 us at 64x64 and one row, ten times that with eight.
fn profile() -> DeviceProfile {
    let product = |tokens, us| ProductTime {
        dtype: "f32".into(),
        rows: 64,
        columns: 64,
        tokens,
        cold: true,
        us: exact(us),
    };
    let value = |op: &str| ValueTime {
        op: op.into(),
        bytes: 1000,
        us: exact(0.5),
    };
    DeviceProfile {
        name: "noop".into(),
        kind: "other".into(),
        dispatch_us: Some(exact(2.0)),
        node_us: Some(exact(0.1)),
        read: vec![CurvePoint {
            bytes: 1 << 20,
            bytes_per_second: exact(1e10),
        }],
        products: vec![product(1, 1.0), product(8, 10.0)],
        values: ["norm", "gate", "add", "rope", "append"].map(value).into(),
        attention: vec![AttentionTime {
            dtype: "f32".into(),
            tokens: 1,
            cached: 99,
            operations: 1e4,
            us: exact(5.1),
        }],
        ..DeviceProfile::default()
    }
}

fn anchor(phase: &str, tokens: u32, factor: f64) -> Anchor {
    Anchor {
        phase: phase.into(),
        dtype: "f32".into(),
        tokens,
        cached: 0,
        hidden: 64,
        elements: 4096,
        us: exact(factor),
        nodes_us: 1.0,
    }
}

fn of(profile: DeviceProfile) -> Profile {
    Profile {
        schema_version: PROFILE_VERSION,
        host: Host::default(),
        devices: vec![profile],
        links: Vec::new(),
    }
}

fn cost(profile: Option<&DeviceProfile>, claimed: Option<&ClaimedRates>) -> DeviceCost {
    DeviceCost::new(DeviceKind::Other, claimed, profile)
}

/// The time of all nodes of `graph` in a step of `tokens` after `cached`.
fn step(cost: &DeviceCost, graph: &Graph, tokens: u32, cached: u32) -> Estimate {
    let symbols = SymbolValues::step(tokens, cached, 1, 4096);
    let scale = GraphScale::of(graph);
    let nodes = graph.nodes().iter();
    nodes
        .map(|n| cost.node(graph, n, &symbols, DType::F32, &scale))
        .sum()
}

fn product(cost: &DeviceCost, dtype: DType, side: u32, tokens: u32) -> Estimate {
    use anynpu_ir::{Dim, Op, TensorType};
    let mut graph = Graph::new("g");
    let x = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(side)]);
    let x = graph.add_input("x", x).unwrap();
    let w = TensorType::new(dtype, [Dim::Fixed(side), Dim::Fixed(side)]);
    let w = graph.add_weight("w", w).unwrap();
    let y = graph.add("layers.0.y", Op::Linear, &[x, w]).unwrap();
    graph.set_output(y).unwrap();
    step(cost, &graph, tokens, 0)
}

#[test]
fn a_measured_product_costs_what_was_measured_and_others_are_interpolated() {
    let cost = cost(Some(&profile()), None);
    let close = |e: Estimate, us: f64| assert!((e.us - us).abs() < 1e-6 * us, "{} {us}", e.us);
    close(product(&cost, DType::F32, 64, 1), 1.0);
    close(product(&cost, DType::F32, 64, 8), 10.0);
    let halfway = 10f64.powf(4f64.ln() / 8f64.ln());
    close(product(&cost, DType::F32, 64, 4), halfway);
    close(product(&cost, DType::F32, 64, 16), 20.0);
    close(product(&cost, DType::F32, 128, 1), 4.0);
    assert_eq!(
        product(&cost, DType::F32, 64, 4).share(EstimateSource::Measured),
        1.0
    );
}

#[test]
fn sources_tell_what_a_price_comes_from() {
    let measured = cost(Some(&profile()), None);
    let other = product(&measured, DType::F16, 64, 1);
    assert_eq!(other.share(EstimateSource::Roofline), 1.0);
    let mut claimed = ClaimedRates::new(vec![(DType::F16, 1e12)], 1e10, 7.0);
    let stated = cost(None, Some(&claimed));
    let hint = product(&stated, DType::F32, 64, 512);
    assert_eq!(hint.share(EstimateSource::VendorHint), 1.0);
    assert!(
        (hint.us - 2.0 * 512.0 * 4096.0 / 1e6).abs() < 30.0,
        "{}",
        hint.us
    );
    assert_eq!(stated.dispatch().us, 7.0);
    assert_eq!(
        product(&cost(None, None), DType::F32, 64, 1).guess_share(),
        1.0
    );
    claimed.bytes_per_second = f64::NAN;
    let wrong = product(&cost(None, Some(&claimed)), DType::F32, 64, 1);
    assert_eq!(wrong.guess_share(), 1.0);
    assert!(wrong.us.is_finite());
}

#[test]
fn anchors_scale_every_node_of_their_phase() {
    let plain = cost(Some(&profile()), None);
    let mut with = profile();
    with.anchors = vec![anchor("decode", 1, 2.0), anchor("prefill", 64, 3.0)];
    let scaled = cost(Some(&with), None);
    let model = tiny_llama(2);
    let ratio = |tokens| {
        step(&scaled, model.graph(), tokens, 0).us / step(&plain, model.graph(), tokens, 0).us
    };
    assert!((ratio(1) - 2.0).abs() < 1e-9);
    assert!((ratio(64) - 3.0).abs() < 1e-9);
    assert!((2.0..3.0).contains(&ratio(8)), "{}", ratio(8));
    assert!((ratio(512) - 3.0).abs() < 1e-9);
}

#[test]
fn runs_that_take_longer_than_predicted_make_later_predictions_longer() {
    let mut model = CostModel::new(vec![of(profile())]);
    let device = NoopDriver.enumerate().unwrap().remove(0);
    let device = NoopDriver.open(&device, &OpenOptions::default()).unwrap();
    let graph = tiny_llama(2);
    let price = |model: &CostModel, tokens| {
        let cost = model.device(device.info(), device.capabilities());
        step(&cost, graph.graph(), tokens, 0).us
    };
    let before = (price(&model, 1), price(&model, 8));
    for _ in 0..5 {
        model.observe("noop", "decode f32", 100.0, 150.0);
        model.observe("absent", "decode f32", 100.0, 150.0);
    }
    assert!((price(&model, 1) / before.0 - 1.5).abs() < 1e-9);
    assert_eq!(price(&model, 8), before.1);
    assert_eq!(model.profiles()[0].devices[0].corrections.len(), 1);
    // what was learned is kept with the profile
    let saved = model.profiles()[0].to_json();
    let again = Profile::parse("p.json", saved.as_bytes()).unwrap();
    assert!((price(&CostModel::new(vec![again]), 1) / before.0 - 1.5).abs() < 1e-9);
}

#[test]
fn a_profile_of_a_device_of_another_kind_is_not_used() {
    let mut of_npu = profile();
    of_npu.kind = "npu".into();
    let device = NoopDriver.enumerate().unwrap().remove(0);
    let device: Arc<_> = NoopDriver.open(&device, &OpenOptions::default()).unwrap();
    let price = |profile: DeviceProfile| {
        let cost = CostModel::new(vec![of(profile)]);
        cost.device(device.info(), device.capabilities()).dispatch()
    };
    assert_eq!(price(of_npu).guess_share(), 1.0);
    assert_eq!(price(profile()).guess_share(), 0.0);
}

#[test]
fn links_cost_what_was_measured_where_values_are_copied() {
    let mut measured = of(profile());
    measured.links.push(crate::profile::LinkProfile {
        from: "a".into(),
        to: "b".into(),
        mode: "copy".into(),
        latency_us: Some(exact(3.0)),
        bytes_per_second: Some(exact(2e9)),
    });
    let cost = CostModel::new(vec![measured]);
    let copy = Link {
        mode: LinkMode::Copy,
        bytes_per_second: Some(COPY_BYTES_PER_SECOND),
        latency_us: COPY_LATENCY_US,
    };
    let found = cost.link("a", "b", copy.clone());
    assert_eq!(
        (found.link.latency_us, found.source),
        (3.0, EstimateSource::Measured)
    );
    assert_eq!(cost.link("b", "a", copy).source, EstimateSource::Guess);
    assert_eq!(cost.link("a", "b", Link::native()).link, Link::native());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However wild the figures, prices are finite, and more rows never cost less.
    #[test]
    fn prices_are_finite_and_do_not_fall_with_more_rows(
        products in prop::collection::vec((0usize..3, 5u32..12, 0u32..10, 1e-2..1e6f64), 0..12),
        values in prop::collection::vec((0usize..5, 1u64..1 << 24, 1e-3..1e5f64), 0..10),
        attention in prop::collection::vec((1u32..600, 1e3..1e9f64, 1e-2..1e6f64), 0..4),
        anchors in prop::collection::vec((0u32..10, 0.01..100.0f64), 0..4),
        read in prop::option::of(1e6..1e12f64),
        a in 1u32..1500,
        b in 1u32..1500,
        cached in 0u32..2000,
    ) {
        let mut p = profile();
        p.products = products.iter().map(|&(d, side, t, us)| ProductTime {
            dtype: ["f32", "q4_0", "f16"][d].into(),
            rows: 1 << side,
            columns: 1 << side,
            tokens: 1 << t,
            cold: side % 2 == 0,
            us: exact(us),
        }).collect();
        p.values = values.iter().map(|&(op, bytes, us)| ValueTime {
            op: ["norm", "gate", "add", "rope", "append"][op].into(),
            bytes,
            us: exact(us),
        }).collect();
        p.attention = attention.iter().map(|&(tokens, operations, us)| AttentionTime {
            dtype: "f32".into(), tokens, cached: 1, operations, us: exact(us),
        }).collect();
        p.anchors = anchors.iter().map(|&(t, f)| anchor("decode", 1 << t, f)).collect();
        p.read = read.into_iter().map(|r| CurvePoint { bytes: 1 << 20, bytes_per_second: exact(r) }).collect();
        let cost = cost(Some(&p), None);
        let model = tiny_llama(1);
        let low = step(&cost, model.graph(), a.min(b), cached);
        let high = step(&cost, model.graph(), a.max(b), cached);
        prop_assert!(low.us.is_finite() && high.us.is_finite() && low.us > 0.0);
        prop_assert!(low.us <= high.us * (1.0 + 1e-9), "{} {}", low.us, high.us);
        let shares: f64 = EstimateSource::ALL.iter().map(|&s| high.share(s)).sum();
        prop_assert!((shares - 1.0).abs() < 1e-9);
    }
}
