//! Models with their layers on Core ML's devices, beside the CPU, where what Core ML would do is computed by Apple's
//! definitions of operations. What is tried is all that lies between the runtime and Core ML.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anynpu_coreml::{CoreMlDriver, Precision};
use anynpu_hal::Driver;
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{
    GenerateOptions, KvType, LoadOptions, LoadedModel, ModelSource, OpenModel, Prompt, Runtime,
    RuntimeError, SessionOptions,
};
use anynpu_tests::test_data;

use crate::computed::Computed;

/// The CPU and the device `device`, whose engine is `engine`.
pub fn runtime(engine: &Computed, device: &str, set: impl Fn(&mut CoreMlDriver)) -> Runtime {
    let mut driver = CoreMlDriver::with_engine(Arc::new(engine.clone()));
    set(&mut driver);
    Runtime::builder()
        .drivers(vec![Box::new(anynpu_cpu::CpuDriver), Box::new(driver)])
        .device("cpu")
        .device(device)
        .without_cache()
        .build()
        .unwrap()
}

/// What is pinned where.
pub fn placed(pins: &[String]) -> Placement {
    Placement {
        pins: pins.iter().map(|p| p.parse().unwrap()).collect(),
        require: None,
    }
}

pub fn load(runtime: &Runtime, open: &OpenModel, pins: &[String], kv: KvType) -> LoadedModel {
    let options = LoadOptions::new().context(CONTEXT).kv_type(kv);
    let options = options.placement(placed(pins));
    runtime.load_open(open.clone(), options).unwrap()
}

/// Room for two steps of a prompt.
pub const CONTEXT: u32 = 160;

pub fn layers_on(device: &str) -> Vec<String> {
    vec![format!("layers.*={device}")]
}

pub fn on_cpu() -> Vec<String> {
    vec!["*=cpu".to_owned()]
}

pub fn architecture(name: &str) -> OpenModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/architectures");
    let file = folder.join(format!("{name}.gguf"));
    OpenModel::open(ModelSource::File(file)).unwrap()
}

/// Greedy tokens after `prompt`, and how many nodes ran on `device`.
pub fn greedy(model: &LoadedModel, device: &str, prompt: &[u32], count: u32) -> (Vec<u32>, u64) {
    let mut session = model.session(SessionOptions::new()).unwrap();
    let mut options = GenerateOptions::greedy().max_tokens(count);
    options.ignore_end = true;
    let report = session.generate(Prompt::Tokens(prompt), &options, |_| {
        ControlFlow::Continue(())
    });
    let executed = session.executed();
    let nodes = executed.devices.get(device).map_or(0, |d| d.nodes);
    assert!(session.miscounts().is_empty(), "{:?}", session.miscounts());
    (report.unwrap().tokens, nodes)
}

pub fn logits(model: &LoadedModel, tokens: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let mut session = model.session(SessionOptions::new()).unwrap();
    session
        .logits_of_each(tokens, None, |_, row| {
            all.extend_from_slice(row);
            Ok::<(), RuntimeError>(())
        })
        .unwrap();
    all
}

/// The largest difference, as a share of the largest number.
pub fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.fold(0f32, f32::max) / largest
}

#[test]
fn a_story_goes_on_with_the_same_tokens_with_its_layers_on_each_device() {
    let test = "a_story_goes_on_with_the_same_tokens_with_its_layers_on_each_device";
    let (Some(engine), Some(path)) = (
        Computed::find(test, 15),
        test_data(test, "stories260K/stories260K-F32.gguf"),
    ) else {
        return;
    };
    let open = OpenModel::open(ModelSource::File(path)).unwrap();
    // longer than a step, so that steps of both sizes run
    let prompt: Vec<u32> = (0..67)
        .map(|i| if i == 0 { 1 } else { 300 + 3 * (i % 60) })
        .collect();
    for (device, precision, kv) in [
        ("coreml", Precision::F16, KvType::F16),
        ("coreml:gpu", Precision::F16, KvType::F16),
        ("coreml:gpu", Precision::F32, KvType::F32),
    ] {
        let runtime = runtime(&engine, device, |d| d.precision = Some(precision));
        let alone = load(&runtime, &open, &on_cpu(), kv);
        let there = load(&runtime, &open, &layers_on(device), kv);
        let (expected, none) = greedy(&alone, device, &prompt, 12);
        let ran = engine.ran();
        let (found, nodes) = greedy(&there, device, &prompt, 12);
        assert_eq!(found, expected, "{device} {precision}");
        let layers = open.model().graph().nodes();
        let layers = layers.iter().filter(|n| n.layer().is_some()).count() as u64;
        assert_eq!(none, 0);
        println!(
            "{device} {precision} {kv:?}: {found:?}, {nodes} nodes, {} runs",
            engine.ran() - ran
        );
        // 11 steps of a token, and those of the prompt
        assert!(nodes >= 13 * layers, "{nodes} of {layers}");
    }
}

#[test]
fn layers_of_every_architecture_give_the_logits_of_the_cpu() {
    let test = "layers_of_every_architecture_give_the_logits_of_the_cpu";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    let tokens: Vec<u32> = (0..7).map(|i| (3 * i + 1) % 64).collect();
    for (device, precision, kv, bound) in [
        ("coreml:gpu", Precision::F32, KvType::F32, 2e-5),
        ("coreml:gpu", Precision::F16, KvType::F32, 0.01),
        ("coreml", Precision::F16, KvType::F16, 0.01),
    ] {
        let runtime = runtime(&engine, device, |d| d.precision = Some(precision));
        for name in ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"] {
            let open = architecture(name);
            let alone = load(&runtime, &open, &on_cpu(), kv);
            let there = load(&runtime, &open, &layers_on(device), kv);
            let e = error(&logits(&there, &tokens), &logits(&alone, &tokens));
            println!("{name} {device} {precision} {kv:?}: {e:.1e}");
            assert!(e < bound, "{name} {device} {precision}: {e}");
        }
    }
}

#[test]
fn a_session_has_nothing_of_those_before_it() {
    let test = "a_session_has_nothing_of_those_before_it";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    let short = [3, 1, 4];
    let long: Vec<u32> = (0..6).map(|i| (11 * i + 5) % 64).collect();
    // rows that are read where they are, and rows that become narrower
    for kv in [KvType::F16, KvType::F32] {
        let runtime = runtime(&engine, "coreml", |_| {});
        let model = load(&runtime, &architecture("llama"), &layers_on("coreml"), kv);
        let first = logits(&model, &short);
        // in turn, over the same memory
        let (mut a, mut b) = (
            model.session(SessionOptions::new()).unwrap(),
            model.session(SessionOptions::new()).unwrap(),
        );
        for (i, token) in long.iter().enumerate() {
            a.decode(*token).unwrap();
            if let Some(token) = short.get(i) {
                b.decode(*token).unwrap();
                let row = b.logits().unwrap().to_vec();
                assert_eq!(row, first[i * row.len()..][..row.len()], "{i}");
            }
        }
        // one that goes back and on again is where one is that never was elsewhere
        a.truncate(1);
        for token in &long[1..3] {
            a.decode(*token).unwrap();
        }
        let mut c = model.session(SessionOptions::new()).unwrap();
        for token in &long[..3] {
            c.decode(*token).unwrap();
        }
        assert_eq!(
            a.logits().unwrap().to_vec(),
            c.logits().unwrap().to_vec(),
            "{kv:?}"
        );
    }
}

#[test]
fn attention_reads_rows_that_another_device_appended() {
    let test = "attention_reads_rows_that_another_device_appended";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    let tokens: Vec<u32> = (0..6).map(|i| (7 * i + 3) % 64).collect();
    let open = architecture("llama");
    for (device, op) in [
        ("coreml", "Attention"),
        ("coreml:gpu", "Attention"),
        ("coreml", "KvAppend"),
        ("coreml:gpu", "KvAppend"),
    ] {
        let runtime = runtime(&engine, device, |d| d.precision = Some(Precision::F16));
        let alone = load(&runtime, &open, &on_cpu(), KvType::F16);
        let nodes = open.model().graph().nodes().iter();
        let pins: Vec<String> = nodes
            .map(|node| match node.op.name() == op {
                true => format!("{}={device}", node.name),
                false => format!("{}=cpu", node.name),
            })
            .collect();
        let there = load(&runtime, &open, &pins, KvType::F16);
        let e = error(&logits(&there, &tokens), &logits(&alone, &tokens));
        println!("{op} on {device}: {e:.1e}");
        assert!(e < 0.005, "{op} on {device}: {e}");
    }
}

#[test]
fn older_systems_have_a_package_for_each_size() {
    let test = "older_systems_have_a_package_for_each_size";
    let tokens: Vec<u32> = (0..4).map(|i| (5 * i + 2) % 64).collect();
    let open = architecture("llama");
    for version in [13, 14] {
        let Some(engine) = Computed::find(test, version) else {
            return;
        };
        for device in ["coreml", "coreml:gpu"] {
            let runtime = runtime(&engine, device, |_| {});
            let alone = load(&runtime, &open, &on_cpu(), KvType::F16);
            let before = engine.compiled();
            let there = load(&runtime, &open, &layers_on(device), KvType::F16);
            let e = error(&logits(&there, &tokens), &logits(&alone, &tokens));
            println!("{device} on {version}: {e:.1e}");
            assert!(e < 0.01, "{device} on {version}: {e}");
            assert!(engine.compiled() - before >= 2, "{}", engine.compiled());
        }
    }
}

#[test]
fn systems_that_are_too_old_are_told_so() {
    let test = "systems_that_are_too_old_are_told_so";
    let Some(engine) = Computed::find(test, 12) else {
        return;
    };
    let told = CoreMlDriver::with_engine(Arc::new(engine)).enumerate();
    let told = told.unwrap_err();
    assert!(
        told.reason.contains("is too old for what is used"),
        "{told:?}"
    );
    assert!(told.remedy.unwrap().contains("macOS 13"));
}

#[test]
fn what_was_compiled_is_kept() {
    let test = "what_was_compiled_is_kept";
    let (Some(engine), cache) = (Computed::find(test, 15), tempfile::tempdir().unwrap()) else {
        return;
    };
    let tokens = [1, 2, 3];
    let open = architecture("llama");
    let run = |engine: &Computed, kv| {
        let kept = |d: &mut CoreMlDriver| d.cache = Some(cache.path().to_owned());
        let runtime = runtime(engine, "coreml", kept);
        let model = load(&runtime, &open, &layers_on("coreml"), kv);
        logits(&model, &tokens)
    };
    let first = run(&engine, KvType::F16);
    let compiled = engine.compiled();
    assert!(compiled > 0);
    assert_eq!(run(&engine, KvType::F16), first);
    assert_eq!(engine.compiled(), compiled);
    assert_eq!(engine.in_memory(), 0);
    // other states are another thing
    run(&engine, KvType::F32);
    assert!(engine.compiled() > compiled);
    // what is broken is made anew
    let compiled = engine.compiled();
    for folder in std::fs::read_dir(cache.path()).unwrap() {
        std::fs::write(folder.unwrap().path().join("record.json"), "{}").unwrap();
    }
    assert_eq!(run(&engine, KvType::F16), first);
    assert!(engine.compiled() > compiled);
    // and another system compiles anew, in the place of what was there
    let count = || std::fs::read_dir(cache.path()).unwrap().count();
    let (before, newer) = (count(), Computed::find(test, 26).unwrap());
    assert_eq!(run(&newer, KvType::F16), first);
    assert!(newer.compiled() > 0);
    assert_eq!(count(), before);
}

#[test]
fn where_nothing_is_kept_packages_stay_in_memory_on_systems_that_open_them_there() {
    let test = "where_nothing_is_kept_packages_stay_in_memory_on_systems_that_open_them_there";
    let open = architecture("llama");
    let mut all = Vec::new();
    for (version, in_memory) in [(14, false), (15, true)] {
        let Some(engine) = Computed::find(test, version) else {
            return;
        };
        let runtime = runtime(&engine, "coreml", |_| {});
        let model = load(&runtime, &open, &layers_on("coreml"), KvType::F16);
        all.push(logits(&model, &[1, 2, 3]));
        assert_eq!(engine.in_memory() > 0, in_memory, "{version}");
        assert!(engine.compiled() > 0);
    }
    assert!(error(&all[0], &all[1]) < 0.01);
}

#[test]
fn verdicts_tell_where_core_ml_runs_what_was_compiled() {
    let test = "verdicts_tell_where_core_ml_runs_what_was_compiled";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    let open = architecture("llama");
    let runtime = runtime(&engine, "coreml", |_| {});
    let model = load(&runtime, &open, &layers_on("coreml"), KvType::F16);
    let explanation = model.explain().unwrap();
    for node in explanation.nodes.iter().filter(|n| n.layer.is_some()) {
        assert_eq!(node.ran.decode.as_deref(), Some("coreml"), "{}", node.name);
        assert_eq!(node.verdicts["coreml"].support, "yes", "{}", node.name);
        if node.op == "Linear" {
            assert_eq!(node.within.decode.as_deref(), Some("cpu"), "{}", node.name);
            assert_eq!(node.within.prefill.as_deref(), Some("cpu"), "{}", node.name);
        }
    }
    // now it is known that all of it was on the processor
    let again = load(&runtime, &open, &layers_on("coreml"), KvType::F16);
    let explanation = again.explain().unwrap();
    let mut told = 0;
    for node in explanation
        .nodes
        .iter()
        .filter(|n| n.op == "Linear" && n.layer.is_some())
    {
        let verdict = &node.verdicts["coreml"];
        assert_eq!(verdict.support, "emulated", "{}", node.name);
        let detail = verdict.detail.as_deref().unwrap();
        assert!(
            detail.contains("are not for ane: ") && detail.contains("on cpu"),
            "{detail}"
        );
        told += 1;
    }
    assert!(told > 0);
}

#[test]
fn what_core_ml_says_of_a_failure_is_told() {
    let test = "what_core_ml_says_of_a_failure_is_told";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    let open = architecture("llama");
    let runtime = runtime(&engine, "coreml:gpu", |_| {});
    let model = load(&runtime, &open, &layers_on("coreml:gpu"), KvType::F16);
    let mut session = model.session(SessionOptions::new()).unwrap();
    session.decode(1).unwrap();
    engine.fail_after(1);
    session.decode(2).unwrap();
    let e = session.decode(3).unwrap_err().to_string();
    let expected = "device 'coreml:gpu': coremltools failed with 1: it was told to fail";
    assert!(e.contains(expected), "{e}");
}
