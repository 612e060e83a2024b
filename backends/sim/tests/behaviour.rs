//! Memory, links, faults, time and refusals of a simulated device.

#![allow(clippy::single_range_in_vec_init)] // a graph cut into one run

mod common;

use std::sync::Arc;

use anynpu_cpu::CpuDriver;
use anynpu_hal::{
    BufferDesc, DeviceInfo, DeviceKind, Driver, ExternalHandle, HalError, Link, LinkMode,
    OpenOptions, ReasonCode, Support,
};
use anynpu_ir::{DType, Dim, Graph, Op, SymbolValues, TensorType, Work};
use anynpu_sim::{SimDevice, SimDriver};
use common::{CAPACITY, Session, changed, compile, cpu, llama, open, shipped, with};

fn sim(device: &Arc<dyn anynpu_hal::Device>) -> &SimDevice {
    device.as_any().downcast_ref::<SimDevice>().unwrap()
}

#[test]
fn virtual_time_is_the_formula_of_the_description() {
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let device = open(shipped("reference-f32"));
    let mut session = Session::new(&device, &graph, &[0..10, 10..nodes]);
    session.step(&[1, 2, 3], 0).unwrap();
    let symbols = SymbolValues::step(3, 0, 1, CAPACITY);
    let node_us = |node| {
        let work = Work::of(&graph, node, &symbols, DType::F32);
        (work.operations / 500e9).max(work.bytes() / 40e9) * 1e6
    };
    let us = 2.0 * 20.0 + graph.nodes().iter().map(node_us).sum::<f64>();
    let ns = device.queue().counters().busy_ns as f64;
    assert!((ns - us * 1e3).abs() <= 2.0, "{ns} ns, expected {us} us");
    let description = sim(&device).description();
    let told = description.submission_us(&graph, 0..10, &symbols, DType::F32)
        + description.submission_us(&graph, 10..nodes, &symbols, DType::F32);
    assert!((told - us).abs() < 1e-9);
}

#[test]
fn a_warm_device_is_slower_and_recovers_when_it_rests() {
    let thermal = "[thermal]\ncurve = { value = [[0.0, 1.0], [1.0, 0.5]], source = \"estimate\" }\n\
         recovery = { value = 2.0, source = \"estimate\" }";
    // so slow that one step warms it to the end of the curve
    let text = anynpu_sim::Shipped::find("reference-f32").unwrap().text;
    let text = text
        .replace("value = 40e9", "value = 1e4")
        .replace("value = 20.0", "value = 0.0");
    let slow = anynpu_sim::Description::parse(&format!("{text}\n{thermal}"), "slow").unwrap();
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let device = open(slow);
    let mut session = Session::new(&device, &graph, &[0..nodes]);
    let mut spent = || {
        let before = device.queue().counters().busy_ns;
        session.step(&[1], 0).unwrap();
        (device.queue().counters().busy_ns - before) as f64
    };
    let cold = spent();
    assert!(cold > 1e9, "{cold}");
    assert!((spent() / cold - 2.0).abs() < 1e-6);
    // 0.25 s of rest take 0.5 s of heat away: half way along the curve
    sim(&device).rest(0.25);
    assert!((spent() / cold - 1.0 / 0.75).abs() < 1e-6);
    sim(&device).rest(10.0);
    assert!((spent() / cold - 1.0).abs() < 1e-6);
}

#[test]
fn faults_fire_at_their_calls() {
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let open = |faults: &str| {
        open(changed(
            "ops = \"all\"",
            &format!("ops = \"all\"\nfaults = [{faults}]"),
        ))
    };
    let device = open("\"submit:2=lost\"");
    let mut session = Session::new(&device, &graph, &[0..nodes]);
    session.step(&[1], 0).unwrap();
    for _ in 0..2 {
        let lost = session.step(&[2], 1).unwrap_err();
        assert!(matches!(lost, HalError::DeviceLost { .. }), "{lost}");
    }
    let lost = device.allocate(&BufferDesc::host("b", 4)).unwrap_err();
    assert!(matches!(lost, HalError::DeviceLost { .. }), "{lost}");
    assert_eq!(device.queue().counters().submissions, 1);

    let mut session = Session::new(&open("\"submit:1=fail\""), &graph, &[0..nodes]);
    let failed = session.step(&[1], 0).unwrap_err();
    assert!(matches!(failed, HalError::Vendor { .. }), "{failed}");

    let mut session = Session::new(&open("\"submit:1=hang\""), &graph, &[0..nodes]);
    let hung = session.step(&[1], 0).unwrap_err();
    assert!(matches!(hung, HalError::Timeout { .. }), "{hung}");

    let device = open("\"submit:1=delay:1500\"");
    let mut session = Session::new(&device, &graph, &[0..nodes]);
    let started = std::time::Instant::now();
    session.step(&[1], 0).unwrap();
    assert!(device.queue().counters().busy_ns > 1_500_000_000);
    assert!(
        started.elapsed().as_millis() < 1500,
        "virtual time is not waited for"
    );

    let refused = compile(&open("\"compile:1=refuse\""), &graph, &[0..nodes]).unwrap_err();
    assert!(
        matches!(refused, HalError::CompileRejected { .. }),
        "{refused}"
    );

    let device = open("\"allocate:2=oom\"");
    device.allocate(&BufferDesc::host("a", 4)).unwrap();
    let full = device.allocate(&BufferDesc::host("b", 4)).unwrap_err();
    assert!(matches!(full, HalError::OutOfMemory { .. }), "{full}");
    device.allocate(&BufferDesc::host("c", 4)).unwrap();
}

#[test]
fn faults_may_be_given_when_opening() {
    let driver = SimDriver::new(shipped("reference-f32"), Box::new(CpuDriver));
    let found = driver.enumerate().unwrap();
    let mut options = OpenOptions::default();
    options
        .options
        .insert("faults".into(), "allocate:1=oom".into());
    let device = driver.open(&found[0], &options).unwrap();
    assert!(device.allocate(&BufferDesc::host("b", 4)).is_err());
    options
        .options
        .insert("faults".into(), "allocate:1=fire".into());
    let refused = driver.open(&found[0], &options).unwrap_err().to_string();
    assert!(
        refused.contains("allocate:1=fire") && refused.contains("submit:N=lost"),
        "{refused}"
    );
}

#[test]
fn memory_past_the_limit_can_not_be_had_and_what_is_dropped_can_be_had_again() {
    let limit = |bytes: u64| {
        let line = format!("limit_bytes = {{ value = {bytes}, source = \"estimate\" }}\n\n[speed]");
        open(changed("[speed]", &line))
    };
    let device = limit(1000);
    assert_eq!(device.capabilities().memory_limit, Some(1000));
    let first = device.allocate(&BufferDesc::host("first", 600)).unwrap();
    let full = device
        .allocate(&BufferDesc::host("second", 401))
        .unwrap_err();
    let text = full.to_string();
    assert!(
        matches!(full, HalError::OutOfMemory { bytes: 401, .. }),
        "{full}"
    );
    assert!(
        text.contains("second") && text.contains("600 of its 1000"),
        "{text}"
    );
    device.allocate(&BufferDesc::host("second", 400)).unwrap();
    drop(first);
    device.allocate(&BufferDesc::host("third", 1000)).unwrap();

    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let weights = 4 * (48 * 64 + 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64);
    let full = compile(&limit(weights - 1), &graph, &[0..nodes]).unwrap_err();
    assert!(matches!(full, HalError::OutOfMemory { .. }), "{full}");
    let device = limit(weights);
    let module = compile(&device, &graph, &[0..nodes, 0..nodes]).unwrap();
    assert!(device.allocate(&BufferDesc::host("b", 1)).is_err());
    drop(module);
    device.allocate(&BufferDesc::host("b", 1)).unwrap();
}

#[test]
fn memory_is_shared_with_the_host_or_copied_as_the_description_says() {
    let cpu = cpu();
    let desc = BufferDesc::host("b", 64);
    let shared = open(shipped("reference-f32"));
    let own = open(shipped("reference-f16"));
    let host = cpu.allocate(&desc).unwrap();
    shared
        .import(ExternalHandle::Shared(host.clone()), &desc)
        .unwrap();
    let theirs = shared.allocate(&desc).unwrap();
    cpu.import(ExternalHandle::Shared(theirs), &desc).unwrap();
    let refused = own.import(ExternalHandle::Shared(host), &desc).unwrap_err();
    assert!(matches!(
        refused,
        HalError::Unsupported { call: "import", .. }
    ));
    let theirs = own.allocate(&desc).unwrap();
    assert!(
        cpu.import(ExternalHandle::Shared(theirs.clone()), &desc)
            .is_err()
    );
    assert!(
        shared
            .import(ExternalHandle::Shared(theirs), &desc)
            .is_err()
    );

    let copy = Link {
        mode: LinkMode::Copy,
        bytes_per_second: Some(1.0),
        latency_us: 1.0,
    };
    let link = own.refine_link(cpu.info(), copy.clone());
    assert_eq!(
        (link.mode, link.bytes_per_second, link.latency_us),
        (LinkMode::Copy, Some(10e9), 10.0)
    );
    let other = DeviceInfo {
        name: "other".into(),
        driver: "x".into(),
        kind: DeviceKind::Npu,
        description: String::new(),
    };
    assert_eq!(shared.refine_link(&other, copy.clone()), copy);
    assert_eq!(own.refine_link(own.info(), Link::native()), Link::native());
}

#[test]
fn buffers_and_modules_of_another_device_are_refused() {
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let (one, two) = (
        open(shipped("reference-f16")),
        open(shipped("reference-f16")),
    );
    let mut session = Session::new(&one, &graph, &[0..nodes]);
    session.device = two.clone();
    let refused = session.step(&[1], 0).unwrap_err().to_string();
    assert!(refused.contains("another device"), "{refused}");
    // its own module, the other's buffers
    session.module = compile(&two, &graph, &[0..nodes]).unwrap();
    let refused = session.step(&[1], 0).unwrap_err().to_string();
    assert!(refused.contains("memory of another device"), "{refused}");
    assert_eq!(two.queue().counters().nodes, 0);
}

fn codes(support: &[Support]) -> Vec<Option<ReasonCode>> {
    support.iter().map(|s| s.reason().map(|r| r.code)).collect()
}

#[test]
fn what_a_description_does_not_list_is_refused_with_what_would_fit() {
    let graph = llama();
    let whole = graph.whole();
    let count =
        |support: &[Support], code| codes(support).iter().filter(|c| **c == Some(code)).count();

    let few = open(changed("ops = \"all\"", "ops = [\"Linear\", \"Binary\"]")).support(&whole);
    for (support, node) in few.iter().zip(graph.nodes()) {
        match support {
            Support::Yes => assert!(["Linear", "Binary"].contains(&node.op.name())),
            Support::No(reason) => {
                assert_eq!(reason.code, ReasonCode::OpUnknown);
                assert!(reason.detail.contains(node.op.name()), "{reason}");
                assert!(reason.detail.contains("Binary, Linear"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }

    let f16_weights = open(changed(
        "weights = \"all\"",
        "weights = [\"f16\", \"q4_0\"]",
    ))
    .support(&whole);
    assert_eq!(count(&f16_weights, ReasonCode::DType), 9);
    let detail = f16_weights
        .iter()
        .find_map(|s| s.reason())
        .unwrap()
        .to_string();
    assert!(
        detail.contains("weights in f32") && detail.contains("f16, q4_0"),
        "{detail}"
    );

    for (states, word) in [
        ("none", "keeps no states"),
        ("slice_io", "returns new rows"),
        ("native", "objects"),
    ] {
        let device = open(changed("\"in_place\"", &format!("\"{states}\"")));
        let support = device.support(&whole);
        assert_eq!(count(&support, ReasonCode::State), 3);
        let detail = support.iter().find_map(|s| s.reason()).unwrap().to_string();
        assert!(detail.contains(word), "{detail}");
    }

    let small = open(changed(
        "[speed]",
        "limit_bytes = { value = 10000, source = \"estimate\" }\n[speed]",
    ));
    assert_eq!(count(&small.support(&whole), ReasonCode::MemoryLimit), 7);
}

#[test]
fn a_compile_refuses_what_support_refuses() {
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let device = open(changed("ops = \"all\"", "ops = [\"Linear\"]"));
    let refused = compile(&device, &graph, &[0..nodes]).unwrap_err();
    let HalError::CompileRejected { nodes, .. } = refused else {
        panic!("{refused}");
    };
    let linear = graph
        .nodes()
        .iter()
        .filter(|n| n.op.name() == "Linear")
        .count();
    assert_eq!(nodes.len(), graph.nodes().len() - linear);
}

#[test]
fn a_module_holds_no_more_weights_than_the_description_says() {
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let device = open(changed(
        "[speed]",
        "module_bytes = { value = 40000, source = \"estimate\" }\n[speed]",
    ));
    assert!(
        codes(&device.support(&graph.whole()))
            .iter()
            .all(Option::is_none)
    );
    let verdicts = device.validate(&graph.whole()).unwrap();
    let past = codes(&verdicts)
        .iter()
        .filter(|c| **c == Some(ReasonCode::MemoryLimit))
        .count();
    assert!(past > 0 && past < graph.nodes().len());
    let refused = compile(&device, &graph, &[0..nodes]).unwrap_err();
    assert!(
        refused.to_string().contains("at most 40000 fit"),
        "{refused}"
    );
    compile(&device, &graph, &[0..4]).unwrap();
    // two entries over the same weights are one module
    compile(&device, &graph, &[0..4, 0..4]).unwrap();
}

#[test]
fn fixed_sizes_are_claimed_and_other_sizes_are_not_compiled() {
    let shapes = "[shapes]\ntokens = { value = [1, 8], source = \"estimate\" }\n\
         capacities = { value = [16], source = \"estimate\" }";
    let device = open(with(shapes));
    let claims = device.capabilities();
    assert!(!claims.features.dynamic_shapes && !claims.features.baseline);
    let fixed = claims.fixed_shapes.as_ref().unwrap();
    assert_eq!(
        (&fixed.tokens[..], &fixed.capacities[..]),
        (&[1, 8][..], &[16][..])
    );
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let compile_for = |tokens, capacity, outputs| {
        let mut entry = common::entry(&graph, 0..nodes);
        entry.bounds = entry.bounds.with(anynpu_ir::Symbol::TOKENS, tokens);
        entry.bounds = entry.bounds.with(anynpu_ir::Symbol::CAPACITY, capacity);
        entry.bounds = entry.bounds.with(anynpu_ir::Symbol::OUTPUTS, outputs);
        let options = anynpu_hal::CompileOptions::new(DType::F32);
        let weights = common::Weights::of(&graph);
        device.compile(&[entry], &options, weights, &mut |_, _| true)
    };
    use anynpu_hal::Extent::{AtMost, Exact};
    let compile = |tokens, capacity| compile_for(tokens, capacity, Exact(1));
    compile(Exact(8), Exact(16)).unwrap();
    let refused = compile_for(Exact(8), Exact(16), AtMost(8))
        .unwrap_err()
        .to_string();
    let text = "dynamic_shape: rows of results: any number up to 8; the device takes one number";
    assert!(refused.contains(text), "{refused}");
    for (tokens, capacity, text) in [
        (
            AtMost(8),
            Exact(16),
            "dynamic_shape: tokens of a step: any number up to 8; the device takes one of [1, 8]",
        ),
        (
            Exact(4),
            Exact(16),
            "shape_limit: tokens of a step: 4; the device takes one of [1, 8]",
        ),
        (
            Exact(1),
            AtMost(16),
            "dynamic_shape: rows of a state: any number up to 16; the device takes one of [16]",
        ),
        (
            Exact(1),
            Exact(32),
            "shape_limit: rows of a state: 32; the device takes one of [16]",
        ),
    ] {
        let refused = compile(tokens, capacity).unwrap_err().to_string();
        assert!(refused.contains(text), "{refused}");
    }
}

#[test]
fn values_of_a_type_the_device_does_not_compute_in_are_refused() {
    let mut graph = Graph::new("g");
    let x = graph
        .add_input("x", TensorType::new(DType::BF16, [Dim::TOKENS]))
        .unwrap();
    let cast = graph.add("y", Op::Cast { to: DType::F32 }, &[x]).unwrap();
    graph.set_output(cast).unwrap();
    let verdict = &open(shipped("reference-f16")).support(&graph.whole())[0];
    let reason = verdict.reason().unwrap();
    assert_eq!(reason.code, ReasonCode::DType);
    assert!(
        reason
            .detail
            .contains("'x' is bf16; the device computes in f16"),
        "{reason}"
    );
}

#[test]
fn runs_of_several_graphs_are_refused_as_the_device_that_computes_does() {
    let (large, small) = (Arc::new(llama()), {
        let mut graph = Graph::new("g");
        let ty = TensorType::new(DType::F32, [Dim::TOKENS]);
        let x = graph.add_input("x", ty).unwrap();
        let y = graph
            .add("y", Op::Activation(anynpu_ir::Activation::Relu), &[x])
            .unwrap();
        graph.set_output(y).unwrap();
        Arc::new(graph)
    });
    let module = "module_bytes = { value = 1000000, source = \"estimate\" }\n[speed]";
    let device = open(changed("[speed]", module));
    let nodes = large.nodes().len() as u32;
    let entries = [common::entry(&small, 0..1), common::entry(&large, 0..nodes)];
    let options = anynpu_hal::CompileOptions::new(DType::F32);
    let weights = common::Weights::of(&large);
    let refused = device.compile(&entries, &options, weights, &mut |_, _| true);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, HalError::InvalidUse { .. }), "{refused}");
    assert!(
        refused.to_string().contains("of several graphs"),
        "{refused}"
    );
}
