//! One model cut over the CPU and simulated devices, wherever it is cut.

mod common;

use anynpu_cpu::CpuDriver;
use anynpu_hal::Driver;
use anynpu_runtime::knobs::Knobs;
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{
    LoadOptions, LoadedModel, OpenModel, Precision, Runtime, RuntimeError, SessionOptions,
};
use anynpu_sim::{Description, Shipped, SimDriver};
use common::testing::{VOCABULARY, llama_with_heads_of, tiny_llama};
use proptest::prelude::*;

const LAYERS: u32 = 3;
const DEVICES: [&str; 4] = ["cpu", "shared", "own", "fixed"];

/// The CPU; simulated devices in f32 that share its memory, have memory of their own, and take only fixed
/// sizes.
fn runtime() -> Runtime {
    let text = |name: &str| Shipped::find(name).unwrap().text;
    let own = text("reference-f32").replace("kind = \"host\"", "kind = \"own\"");
    let link = "[link]\nlatency_us = { value = 5.0, source = \"estimate\" }\n\
         bytes_per_second = { value = 1e9, source = \"estimate\" }\n";
    let texts = [
        text("reference-f32").to_owned(),
        format!("{own}\n{link}"),
        text("reference-static").to_owned(),
    ];
    let mut drivers: Vec<Box<dyn Driver>> = vec![Box::new(CpuDriver)];
    for (name, text) in DEVICES[1..].iter().zip(texts) {
        let description = Description::parse(&text, name).unwrap();
        let driver = SimDriver::new(description, Box::new(CpuDriver));
        drivers.push(Box::new(driver.named(*name)));
    }
    let builder = Runtime::builder().drivers(drivers).threads(1);
    let builder = DEVICES.iter().fold(builder, |b, name| b.device(*name));
    builder.knobs(Knobs::default()).build().unwrap()
}

fn load(runtime: &Runtime, pins: &[String]) -> LoadedModel {
    let placement = Placement {
        pins: pins.iter().map(|p| p.parse().unwrap()).collect(),
        ..Placement::default()
    };
    let options = LoadOptions::new().placement(placement).context(64);
    runtime
        .load_open(OpenModel::new(tiny_llama(LAYERS), None), options)
        .unwrap()
}

/// Logits after a prompt of 21 tokens and after each of 4 more, and the nodes that each device ran.
fn logits(model: &LoadedModel) -> (Vec<Vec<f32>>, Vec<u64>, u64) {
    let mut session = model.session(SessionOptions::new()).unwrap();
    let prompt: Vec<u32> = (0..21).map(|i| (i * 7 + 3) % VOCABULARY).collect();
    session.prefill(&prompt, None).unwrap();
    let mut all = vec![session.logits().unwrap().to_vec()];
    for token in [5, 60, 2, 33] {
        session.decode(token).unwrap();
        all.push(session.logits().unwrap().to_vec());
    }
    let executed = session.executed();
    let nodes = DEVICES.map(|name| executed.devices.get(name).map_or(0, |d| d.nodes));
    assert!(session.miscounts().is_empty(), "{:?}", session.miscounts());
    (all, nodes.to_vec(), executed.steps)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Each layer goes to any device, its feed-forward part to any other.
    #[test]
    fn any_cut_gives_the_bits_of_the_cpu_and_runs_every_node_once_a_step(
        layers in prop::collection::vec((0..DEVICES.len(), 0..DEVICES.len()), LAYERS as usize),
        head in 0..DEVICES.len(),
    ) {
        let runtime = runtime();
        let (expected, _, _) = logits(&load(&runtime, &["*=cpu".to_owned()]));
        let mut pins = vec![format!("*={}", DEVICES[head])];
        for (n, (layer, ffn)) in layers.iter().enumerate() {
            pins.push(format!("layers.{n}={}", DEVICES[*layer]));
            pins.push(format!("layers.{n}.ffn*={}", DEVICES[*ffn]));
        }
        let model = load(&runtime, &pins);
        let (found, nodes, steps) = logits(&model);
        prop_assert_eq!(found, expected);
        let all = model.open().model().graph().nodes().len() as u64;
        prop_assert_eq!(nodes.iter().sum::<u64>(), steps * all);
        let used = layers.iter().flat_map(|(a, b)| [*a, *b]).chain([head]);
        for device in used {
            prop_assert!(nodes[device] > 0, "{:?}: {:?}", pins, nodes);
        }
    }
}

#[test]
fn a_device_that_computes_in_f16_gets_nodes_of_an_f32_model_only_by_a_pin_or_leave() {
    let half = Shipped::find("reference-f16").unwrap().read().unwrap();
    let drivers: Vec<Box<dyn Driver>> = vec![
        Box::new(CpuDriver),
        Box::new(SimDriver::new(half, Box::new(CpuDriver))),
    ];
    let builder = Runtime::builder().drivers(drivers).threads(1);
    let builder = builder.device("cpu").device("sim").knobs(Knobs::default());
    let runtime = builder.build().unwrap();
    let plans = |precision, pin: Option<&str>| {
        // wide enough that starting a device pays
        let open = OpenModel::new(llama_with_heads_of(256, 2), None);
        let mut options = LoadOptions::new();
        options.precision = precision;
        options.placement.pins = pin.iter().map(|p| p.parse().unwrap()).collect();
        let plans = runtime.plan(&open, &options).unwrap();
        let on_sim = |n: &u32| {
            let why = &plans.prefill.why[*n as usize];
            plans.devices[why.device.0] == "sim"
        };
        let count = (0..plans.prefill.why.len() as u32).filter(on_sim).count();
        (count, plans)
    };
    let (none, kept) = plans(Precision::Model, None);
    assert_eq!(none, 0);
    assert!(kept.warnings.is_empty(), "{:?}", kept.warnings);
    let verdict = kept.prefill.why[0].verdicts[1].clone();
    let anynpu_hal::Support::No(reason) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(reason.code, anynpu_hal::ReasonCode::DType);
    assert_eq!(plans(Precision::Bf16, None).0, 0);
    assert!(plans(Precision::F16, None).0 > 0);
    let (pinned, told) = plans(Precision::Model, Some("layers.1=sim"));
    let layer = |n: &anynpu_ir::Node| n.layer() == Some(1);
    let model = llama_with_heads_of(256, 2);
    assert_eq!(
        pinned,
        model.graph().nodes().iter().filter(|n| layer(n)).count()
    );
    assert!(
        told.warnings[0].contains("computes in f16"),
        "{:?}",
        told.warnings
    );
}

#[test]
fn what_a_simulated_device_refuses_is_told_with_the_nodes() {
    let few = Shipped::find("reference-f32").unwrap().text;
    let few = few.replace("ops = \"all\"", "ops = [\"Linear\"]");
    let few = Description::parse(&few, "few").unwrap();
    let drivers: Vec<Box<dyn Driver>> = vec![
        Box::new(CpuDriver),
        Box::new(SimDriver::new(few, Box::new(CpuDriver))),
    ];
    let builder = Runtime::builder().drivers(drivers).threads(1);
    let builder = builder.device("cpu").device("sim").knobs(Knobs::default());
    let runtime = builder.build().unwrap();
    let placement = Placement {
        pins: vec!["layers.*=sim".parse().unwrap()],
        ..Placement::default()
    };
    let open = OpenModel::new(tiny_llama(LAYERS), None);
    let refused = runtime.load_open(open, LoadOptions::new().placement(placement));
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, RuntimeError::PinRefused { .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("is not among its ops: Linear"),
        "{refused}"
    );
}
