//! Models with their layers on the engine and the rest on the CPU: two implementations that share no code.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anynpu_hal::Driver;
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{
    GenerateOptions, KvType, LoadOptions, LoadedModel, Prompt, Runtime, RuntimeError,
    SessionOptions,
};
use anynpu_tests::test_data;

use crate::plugin;

/// Logits may differ by this share of the largest one where both compute in F32.
const IN_F32: f32 = 5e-6;

/// The same where the CPU rounds what it multiplies with 8-bit weights to 8 bits, and the engine does not.
const IN_8_BITS: f32 = 2.5e-2;

fn runtime(engine: impl Driver + 'static) -> Runtime {
    let drivers: Vec<Box<dyn Driver>> = vec![Box::new(anynpu_cpu::CpuDriver), Box::new(engine)];
    let builder = Runtime::builder().drivers(drivers).without_cache();
    builder.device("cpu").device("candle").build().unwrap()
}

/// The model with its layers on the device called so.
fn load(runtime: &Runtime, file: &Path, device: &str, kv: KvType) -> LoadedModel {
    let placement = Placement {
        pins: vec![
            "*=cpu".parse().unwrap(),
            format!("layers.*={device}").parse().unwrap(),
        ],
        ..Placement::default()
    };
    let options = LoadOptions::new().kv_type(kv).placement(placement);
    runtime.load(file.to_owned(), options).unwrap()
}

/// Logits after each of `tokens`, and how many nodes ran on the engine.
fn logits(model: &LoadedModel, tokens: &[u32]) -> (Vec<f32>, u64) {
    let mut all = Vec::new();
    let mut session = model.session(SessionOptions::new()).unwrap();
    session
        .logits_of_each(tokens, None, |_, row| {
            all.extend_from_slice(row);
            Ok::<(), RuntimeError>(())
        })
        .unwrap();
    assert!(session.miscounts().is_empty(), "{:?}", session.miscounts());
    let there = session
        .executed()
        .devices
        .get("candle")
        .map_or(0, |d| d.nodes);
    (all, there)
}

/// Greedy tokens, and how many nodes ran on the engine.
fn greedy(model: &LoadedModel, prompt: &str, count: u32) -> (Vec<u32>, u64) {
    let mut session = model.session(SessionOptions::new()).unwrap();
    let mut options = GenerateOptions::greedy().max_tokens(count);
    options.ignore_end = true;
    let report = session.generate(
        Prompt::from(prompt),
        &options,
        |_| ControlFlow::Continue(()),
    );
    let report = report.unwrap();
    assert!(session.miscounts().is_empty(), "{:?}", session.miscounts());
    let there = report.executed.devices.get("candle").map_or(0, |d| d.nodes);
    (report.tokens, there)
}

/// Compares a model with its layers on the engine with the same on the CPU alone.
fn check(runtime: &Runtime, file: &Path, kv: KvType, bound: f32) {
    let name = file.file_name().unwrap().to_string_lossy();
    let (alone, beside) = (
        load(runtime, file, "cpu", kv),
        load(runtime, file, "candle", kv),
    );
    let (expected, none) = greedy(&alone, "Once upon a time", 48);
    let (found, nodes) = greedy(&beside, "Once upon a time", 48);
    assert_eq!(none, 0);
    let graph = beside.open().model().graph();
    let layers = graph.nodes().iter().filter(|n| n.layer().is_some()).count() as u64;
    assert_eq!(found, expected, "{name} {kv:?}");
    let (expected_logits, _) = logits(&alone, &expected);
    let (found_logits, _) = logits(&beside, &expected);
    assert_eq!(found_logits.len(), expected_logits.len());
    let largest = expected_logits.iter().fold(0f32, |m, x| m.max(x.abs()));
    let apart = found_logits.iter().zip(&expected_logits);
    let worst = apart.fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
    println!("{name} {kv:?}: {nodes} nodes on 'candle', logits within {worst:e} of the largest");
    assert!(
        nodes >= 48 * layers,
        "{name}: {nodes} nodes for {layers} a step"
    );
    assert!(worst > 0.0 && worst <= bound, "{name} {kv:?}: {worst:e}");
}

#[test]
fn the_story_model_tells_the_same_with_its_layers_on_the_engine() {
    let Some(engine) = plugin("the_story_model_tells_the_same_with_its_layers_on_the_engine")
    else {
        return;
    };
    let story = Path::new(env!("CARGO_MANIFEST_DIR")).join("../graphs/story-model/story-Q8_0.gguf");
    let runtime = runtime(engine);
    for kv in [KvType::F32, KvType::F16] {
        check(&runtime, &story, kv, IN_8_BITS);
    }
}

#[test]
fn stories260k_tells_the_same_with_its_layers_on_the_engine() {
    let test = "stories260k_tells_the_same_with_its_layers_on_the_engine";
    let (Some(engine), Some(folder)) = (plugin(test), test_data(test, "stories260K")) else {
        return;
    };
    let file = |format: &str| -> PathBuf { folder.join(format!("stories260K-{format}.gguf")) };
    let runtime = runtime(engine);
    check(&runtime, &file("F32"), KvType::F32, IN_F32);
    check(&runtime, &file("Q8_0"), KvType::F32, IN_8_BITS);
}
