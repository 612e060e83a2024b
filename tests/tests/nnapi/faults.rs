//! Runtimes and drivers that are not as they should be: verdicts and typed errors, never a crash.

use std::sync::Arc;

use anynpu_hal::{
    Bounds, CompileOptions, Driver, Entry, Extent, HalError, OpenOptions, Scope, Support,
};
use anynpu_ir::{DType, Dim, Graph, Op, Shape, Symbol, SymbolValues, TensorType, UnaryOp};
use anynpu_nnapi_double::{Device, DeviceType, Fault, Settings};
use anynpu_runtime::{KvType, LoadOptions};
use anynpu_tests::{run_on, type_of};

use crate::models::{load, runtime};
use crate::{LEVELS, NoWeights, Placed, architecture};

fn opened(placed: &Placed) -> Arc<dyn anynpu_hal::Device> {
    timed(placed, None)
}

fn timed(placed: &Placed, timeout_ms: Option<u32>) -> Arc<dyn anynpu_hal::Device> {
    let mut driver = placed.driver();
    driver.timeout_ms = timeout_ms;
    let exposed = driver.enumerate().unwrap().remove(0);
    driver.open(&exposed, &OpenOptions::default()).unwrap()
}

fn failing(fault: Fault) -> Placed {
    let device = Device::accelerator("npu", LEVELS[0]).failing(fault);
    Placed::new(&Settings::new(LEVELS[0]).with(device))
}

/// `x → softmax(x)` of four numbers a token.
fn graph() -> Arc<Graph> {
    let mut graph = Graph::new("g");
    let ty = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(4)]);
    let x = graph.add_input("x", ty).unwrap();
    let y = graph.add("y", Op::Softmax { axis: 1 }, &[x]).unwrap();
    graph.set_output(y).unwrap();
    Arc::new(graph)
}

fn softmax(device: &dyn anynpu_hal::Device) -> Result<Vec<f32>, HalError> {
    let x = anynpu_cpu::reference::Tensor::new(vec![1, 4], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
    assert_eq!(type_of(&x).shape.rank(), 2);
    let found = run_on(device, &graph(), &[x], &SymbolValues::step(1, 0, 1, 0))?;
    let bytes = found[0].to_bytes();
    let each = bytes.chunks_exact(4);
    Ok(each
        .map(|b| f32::from_ne_bytes(b.try_into().unwrap()))
        .collect())
}

#[test]
fn what_runtimes_lack_is_told() {
    let told = |placed: &Placed| placed.driver().enumerate().unwrap_err().reason;
    let settings = Settings::new(LEVELS[0]).with_accelerator();
    let absent = ["ANeuralNetworksModel_finish"];
    let reason = told(&Placed::without(&settings, &absent));
    assert!(
        reason.ends_with("has no 'ANeuralNetworksModel_finish'"),
        "{reason}"
    );
    let absent = ["ANeuralNetworks_getDeviceCount"];
    let reason = told(&Placed::without(&settings, &absent));
    assert!(
        reason.contains("no function 'get_device_count'"),
        "{reason}"
    );
    for (level, shown) in [(27, "1 (27)"), (28, "2 (28)")] {
        let reason = told(&Placed::new(&Settings::new(level)));
        let expected = format!("has feature level {shown}, whose devices can't be named");
        assert!(reason.contains(&expected), "{reason}");
    }
}

#[test]
fn a_runtime_without_what_only_makes_it_faster_computes_the_same() {
    let settings = Settings::new(LEVELS[0]).with_accelerator();
    let whole = softmax(&*opened(&Placed::new(&settings))).unwrap();
    let absent = [
        "ANeuralNetworksBurst_create",
        "ANeuralNetworksExecution_setReusable",
        "ANeuralNetworksExecution_setMeasureTiming",
        "ANeuralNetworksCompilation_getPreferredMemoryAlignmentForInput",
    ];
    let plain = softmax(&*opened(&Placed::without(&settings, &absent))).unwrap();
    assert_eq!(plain, whole);
    let sum: f32 = whole.iter().sum();
    assert!((sum - 1.0).abs() < 1e-6 && whole[3] > whole[0]);
}

#[test]
fn devices_are_named_by_what_they_are() {
    let gpu = Device {
        ty: DeviceType::Gpu,
        ..Device::accelerator("adreno", 30)
    };
    let settings = Settings::new(LEVELS[0]).with(gpu).with_accelerator();
    let placed = Placed::new(&settings);
    let found = placed.driver().enumerate().unwrap();
    let told: Vec<(&str, &str, bool)> = found
        .iter()
        .map(|d| (d.info.name.as_str(), d.info.kind.name(), d.artificial))
        .collect();
    let expected = [
        ("nnapi", "npu", false),
        ("nnapi:adreno", "gpu", false),
        ("nnapi:nnapi-reference", "cpu", true),
    ];
    assert_eq!(told, expected);
    assert!(found[1].info.description.contains("adreno double-1"));
    assert!(found[1].info.description.contains("feature level 4 (30)"));
    // alone it has the short name, and is used only by that
    let found = Placed::new(&Settings::new(29))
        .driver()
        .enumerate()
        .unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].info.name.as_str(), found[0].artificial),
        ("nnapi", true)
    );
}

#[test]
fn failures_of_drivers_reach_as_far_as_they_do() {
    let e = softmax(&*opened(&failing(Fault::Compile))).unwrap_err();
    assert_eq!(e.scope(), Scope::Subgraph, "{e}");
    assert!(
        e.to_string()
            .contains("compilation_finish of case failed with OP_FAILED (5)"),
        "{e}"
    );
    let e = softmax(&*opened(&failing(Fault::Vanish))).unwrap_err();
    assert!(matches!(e, HalError::DeviceLost { .. }), "{e}");
    let e = softmax(&*opened(&failing(Fault::Memory))).unwrap_err();
    assert_eq!(e.scope(), Scope::Plan, "{e}");
    let slow = failing(Fault::Deadline);
    assert!(softmax(&*opened(&slow)).is_ok());
    let e = softmax(&*timed(&slow, Some(5))).unwrap_err();
    assert!(
        e.to_string().ends_with("longer than the limit of 5ms"),
        "{e}"
    );
    assert!(matches!(e, HalError::Timeout { .. }), "{e}");
    assert_eq!(e.scope(), Scope::Device);
}

#[test]
fn operations_that_a_driver_does_not_run_stay_on_the_cpu_by_its_own_word() {
    let device = Device::accelerator("npu", LEVELS[0]).lacking(&["RSQRT"]);
    let placed = Placed::new(&Settings::new(LEVELS[0]).with(device));
    let device = opened(&placed);
    let open = architecture("llama");
    let graph = open.model().graph();
    let said = device.support(&graph.whole());
    for (node, said) in graph.nodes().iter().zip(said) {
        let refused = node.op.name() == "RmsNorm";
        assert_eq!(
            matches!(said, Support::No(_)),
            refused,
            "{}: {said:?}",
            node.name
        );
        if node.op.name() == "RmsNorm" {
            let reason = said.reason().unwrap();
            assert_eq!(reason.code.name(), "vendor_rejected");
            assert!(
                reason.detail.starts_with("'npu' does not run RSQRT(f32["),
                "{reason}"
            );
        }
    }
}

#[test]
fn a_driver_that_computes_wrongly_is_found_out_when_it_is_tried() {
    let placed = failing(Fault::Wrong("RSQRT".into()));
    let runtime = runtime(&placed, |_| {});
    let open = architecture("llama");
    let mut options = LoadOptions::new().context(96).kv_type(KvType::F32);
    options.self_check = true;
    let model = runtime.load_open(open, options).unwrap();
    let warnings = model.warnings().join("; ");
    assert!(warnings.contains("'nnapi' is not used for"), "{warnings}");
    let explanation = model.explain().unwrap();
    for node in &explanation.nodes {
        let wrong = node.op == "RmsNorm";
        if wrong {
            assert_eq!(node.verdicts["nnapi"].support, "no");
            assert_eq!(node.ran.decode.as_deref(), Some("cpu"));
        }
    }
}

#[test]
fn a_device_that_vanishes_in_a_run_is_told_where_nodes_are_pinned_to_it() {
    let placed = failing(Fault::Vanish);
    let runtime = runtime(&placed, |_| {});
    let open = architecture("llama");
    let model = load(&runtime, &open, true, KvType::F32);
    let mut session = model
        .session(anynpu_runtime::SessionOptions::new())
        .unwrap();
    let e = session.prefill(&[1, 2, 3], None).unwrap_err().to_string();
    assert!(e.contains("DEAD_OBJECT (14)"), "{e}");
}

#[test]
fn sizes_that_are_not_known_or_nothing_are_refused() {
    let placed = Placed::accelerated(LEVELS[0]);
    let device = opened(&placed);
    let entry = |bound| Entry {
        name: "e".into(),
        graph: graph(),
        nodes: 0..1,
        bounds: Bounds::new().with(Symbol::TOKENS, bound),
    };
    let compile = |bound| {
        let source = Arc::new(NoWeights);
        let options = CompileOptions::new(DType::F32);
        device.compile(&[entry(bound)], &options, source, &mut |_, _| true)
    };
    let e = compile(Extent::AtMost(8)).unwrap_err();
    assert!(matches!(e, HalError::InvalidUse { .. }), "{e}");
    let e = compile(Extent::Exact(0)).unwrap_err();
    assert_eq!(e.scope(), Scope::Subgraph, "{e}");
    assert!(e.to_string().contains("shape_limit"), "{e}");
    assert!(compile(Extent::Exact(8)).is_ok());
    let mut options = CompileOptions::new(DType::Q8_0);
    options.state_dtype = DType::Q8_0;
    let source = Arc::new(NoWeights);
    let e = device.compile(&[entry(Extent::Exact(1))], &options, source, &mut |_, _| {
        true
    });
    assert!(matches!(e.unwrap_err(), HalError::InvalidUse { .. }));
    // a tensor of five dimensions
    let mut graph = Graph::new("five");
    let ty = TensorType::new(DType::F32, Shape::fixed(&[1, 2, 1, 2, 1]));
    let x = graph.add_input("x", ty).unwrap();
    let y = graph.add("y", Op::Unary(UnaryOp::Neg), &[x]).unwrap();
    graph.set_output(y).unwrap();
    let said = device.support(&graph.whole());
    assert_eq!(said[0].reason().unwrap().code.name(), "rank");
}
