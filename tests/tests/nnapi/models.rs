//! Models with their layers on a device of the stand-in, beside the CPU.

use std::ops::ControlFlow;

use anynpu_nnapi::lower::{Numbers, StateForm, WeightForm};
use anynpu_nnapi_double::{Device, Settings};
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{
    GenerateOptions, KvType, LoadOptions, LoadedModel, OpenModel, Prompt, Runtime, RuntimeError,
    SessionOptions,
};
use anynpu_tests::test_data;

use crate::{LEVELS, Placed, architecture, open};

/// The CPU and the device `nnapi` of `placed`.
pub fn runtime(placed: &Placed, set: impl Fn(&mut anynpu_backends::NnapiDriver)) -> Runtime {
    let mut options = anynpu_backends::BackendOptions::default();
    options.nnapi = placed.driver();
    set(&mut options.nnapi);
    let builder = Runtime::builder().drivers(anynpu_backends::drivers_with(&options));
    let builder = builder.device("cpu").device("nnapi");
    builder.without_cache().build().unwrap()
}

/// `open` with all its layers there, or on the CPU.
pub fn load(runtime: &Runtime, open: &OpenModel, there: bool, kv: KvType) -> LoadedModel {
    let pin = match there {
        true => "layers.*=nnapi",
        false => "*=cpu",
    };
    let placement = Placement {
        pins: vec![pin.parse().unwrap()],
        require: None,
    };
    let options = LoadOptions::new().context(96).kv_type(kv);
    let loaded = runtime.load_open(open.clone(), options.placement(placement));
    loaded.unwrap()
}

/// Greedy tokens after `prompt`, and how many nodes ran there.
fn greedy(model: &LoadedModel, prompt: &[u32], count: u32) -> (Vec<u32>, u64) {
    let mut session = model.session(SessionOptions::new()).unwrap();
    let mut options = GenerateOptions::greedy().max_tokens(count);
    options.ignore_end = true;
    let report = session.generate(Prompt::Tokens(prompt), &options, |_| {
        ControlFlow::Continue(())
    });
    let nodes = session
        .executed()
        .devices
        .get("nnapi")
        .map_or(0, |d| d.nodes);
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
fn a_story_goes_on_with_the_same_tokens_with_its_layers_at_every_level() {
    let test = "a_story_goes_on_with_the_same_tokens_with_its_layers_at_every_level";
    let Some(path) = test_data(test, "stories260K/stories260K-F32.gguf") else {
        return;
    };
    let open = open(path);
    for level in LEVELS {
        story_goes_on(&Placed::accelerated(level), level, &open);
    }
}

/// Held to the tokens of the CPU, and told of by `explain`.
pub fn story_goes_on(placed: &Placed, level: i64, open: &OpenModel) {
    // longer than a step, so that steps of both sizes run
    let prompt: Vec<u32> = (0..37)
        .map(|i| if i == 0 { 1 } else { 300 + 3 * i })
        .collect();
    for states in [StateForm::Host, StateForm::Device] {
        let runtime = runtime(placed, |d| d.states = Some(states));
        let alone = load(&runtime, open, false, KvType::F32);
        let there = load(&runtime, open, true, KvType::F32);
        let (expected, none) = greedy(&alone, &prompt, 32);
        let (found, nodes) = greedy(&there, &prompt, 32);
        assert_eq!(found, expected, "{level} {states}");
        let layers = open.model().graph().nodes();
        let layers = layers.iter().filter(|n| n.layer().is_some()).count() as u64;
        assert_eq!(none, 0);
        // 31 steps of a token, and those of the prompt; what follows the layers may be there too
        assert!(nodes >= 33 * layers, "{nodes} of {layers}");
        let explanation = there.explain().unwrap();
        let (mut away, mut emulated) = (Vec::new(), Vec::new());
        for node in &explanation.nodes {
            let verdict = &node.verdicts["nnapi"];
            let told = verdict.detail.clone().unwrap_or_default();
            match verdict.support {
                "no" => away.push((node.op, told)),
                "emulated" => emulated.push((node.op, told)),
                _ => {}
            }
            if node.layer.is_some() {
                assert_eq!(node.ran.decode.as_deref(), Some("nnapi"), "{}", node.name);
            }
        }
        println!("level {level}: on the CPU {away:?}, otherwise {emulated:?}");
        assert!(away.is_empty(), "{away:?}");
        emulated.retain(|(op, _)| *op != "KvAppend");
        match level {
            1_000_006.. => assert!(emulated.is_empty(), "{emulated:?}"),
            _ => {
                assert!(!emulated.is_empty());
                for (op, told) in &emulated {
                    assert_eq!(*op, "Attention");
                    let needs = "BATCH_MATMUL needs 6 (1000006): products by FULLY_CONNECTED";
                    assert!(told.contains(needs), "{told}");
                }
            }
        }
    }
}

#[test]
fn a_model_runs_on_a_device_alone() {
    alone(&Placed::accelerated(LEVELS[0]));
    // what would be widened for a few rows is not
    let placed = Placed::accelerated(LEVELS[0]);
    let runtime = Runtime::builder();
    let mut options = anynpu_backends::BackendOptions::default();
    options.nnapi = placed.driver();
    options.nnapi.weights = Some(WeightForm::Int8);
    let runtime = runtime.drivers(anynpu_backends::drivers_with(&options));
    let runtime = runtime.device("nnapi").without_cache().build().unwrap();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/hugging_face");
    let open = OpenModel::open(anynpu_runtime::ModelSource::File(
        folder.join("llama-tied-bf16"),
    ));
    let e = runtime
        .load_open(open.unwrap(), LoadOptions::new().context(96))
        .unwrap_err();
    let told = e.to_string();
    assert!(
        told.contains("would be widened from bf16 to f32 for a few rows"),
        "{told}"
    );
}

/// Every node of a model on the device of `placed`, without the CPU.
pub fn alone(placed: &Placed) {
    let tokens: Vec<u32> = (0..40).map(|i| (3 * i + 1) % 64).collect();
    let beside = runtime(placed, |_| {});
    let mut options = anynpu_backends::BackendOptions::default();
    options.nnapi = placed.driver();
    let builder = Runtime::builder().drivers(anynpu_backends::drivers_with(&options));
    let only = builder.device("nnapi").without_cache().build().unwrap();
    for name in ["llama", "gemma3"] {
        let open = architecture(name);
        let expected = logits(&load(&beside, &open, false, KvType::F32), &tokens);
        let options = LoadOptions::new().context(96).kv_type(KvType::F32);
        let there = only.load_open(open.clone(), options).unwrap();
        let e = error(&logits(&there, &tokens), &expected);
        assert!(e < 2e-5, "{name}: {e}");
        let explanation = there.explain().unwrap();
        for node in &explanation.nodes {
            assert_eq!(node.ran.decode.as_deref(), Some("nnapi"), "{}", node.name);
        }
    }
}

#[test]
fn layers_of_every_architecture_give_the_logits_of_the_cpu() {
    architectures(&Placed::accelerated(LEVELS[0]));
}

/// Small models of every architecture, held to the logits of the CPU.
pub fn architectures(placed: &Placed) {
    let tokens: Vec<u32> = (0..24).map(|i| (3 * i + 1) % 64).collect();
    let runtime = runtime(placed, |_| {});
    for name in [
        "llama",
        "llama-yarn",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3",
        "phi3",
    ] {
        let open = architecture(name);
        for kv in [KvType::F32, KvType::F16] {
            let alone = load(&runtime, &open, false, kv);
            let there = load(&runtime, &open, true, kv);
            let e = error(&logits(&there, &tokens), &logits(&alone, &tokens));
            // rows that lie on the edge of two halves fall to either side
            let bound = if kv == KvType::F32 { 2e-5 } else { 2e-3 };
            println!("{name} {kv:?}: {e}");
            assert!(e < bound, "{name} {kv:?}: {e}");
        }
    }
}

#[test]
fn a_session_has_nothing_of_those_before_it() {
    sessions_apart(&Placed::accelerated(LEVELS[0]));
}

/// Sessions over the same memory, one after the other and in turn.
pub fn sessions_apart(placed: &Placed) {
    let runtime = runtime(placed, |_| {});
    let model = load(&runtime, &architecture("llama"), true, KvType::F32);
    let short = [3, 1, 4, 1, 5];
    let long: Vec<u32> = (0..60).map(|i| (11 * i + 5) % 64).collect();
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
    assert_eq!(logits(&model, &short), first);
}

#[test]
fn narrower_numbers_and_weights_change_logits_as_little_as_they_may() {
    narrower(&Placed::accelerated(LEVELS[0]));
}

/// Logits in 16 bits, with the permission for them, and with weights in 8 bits.
pub fn narrower(placed: &Placed) {
    let tokens: Vec<u32> = (0..24).map(|i| (5 * i + 2) % 64).collect();
    let open = architecture("llama");
    let run = |numbers, weights| {
        let runtime = runtime(placed, |driver| {
            driver.numbers = Some(numbers);
            driver.weights = Some(weights);
        });
        let alone = load(&runtime, &open, false, KvType::F32);
        let there = load(&runtime, &open, true, KvType::F32);
        error(&logits(&there, &tokens), &logits(&alone, &tokens))
    };
    let halves = run(Numbers::F16, WeightForm::Numbers);
    assert!(halves > 1e-6 && halves < 0.01, "{halves}");
    // nobody who computes on the processor makes use of the permission
    let relaxed = run(Numbers::Relaxed, WeightForm::Numbers);
    assert!(relaxed < 2e-5, "{relaxed}");
    let narrow = run(Numbers::F32, WeightForm::Int8);
    assert!(narrow > 1e-4 && narrow < 0.05, "{narrow}");
}

#[test]
fn attention_is_made_of_what_a_device_has() {
    let tokens: Vec<u32> = (0..24).map(|i| (7 * i + 3) % 64).collect();
    let open = architecture("llama");
    for (lacks, by) in [
        (&["BATCH_MATMUL"][..], "FULLY_CONNECTED"),
        (&["BATCH_MATMUL", "SPLIT"], "MUL and REDUCE_SUM"),
    ] {
        let device = Device::accelerator("npu", LEVELS[0]).lacking(lacks);
        let placed = Placed::new(&Settings::new(LEVELS[0]).with(device));
        let runtime = runtime(&placed, |_| {});
        let alone = load(&runtime, &open, false, KvType::F32);
        // a rotation needs SPLIT too, so only attention is there
        let mut placement = Placement::default();
        for node in open.model().graph().nodes() {
            let pin = match node.op.name() {
                "Attention" => format!("{}=nnapi", node.name),
                _ => format!("{}=cpu", node.name),
            };
            placement.pins.push(pin.parse().unwrap());
        }
        let options = LoadOptions::new().context(96).kv_type(KvType::F32);
        let there = runtime.load_open(open.clone(), options.placement(placement));
        let there = there.unwrap();
        let e = error(&logits(&there, &tokens), &logits(&alone, &tokens));
        assert!(e < 2e-5, "{by}: {e}");
        let explanation = there.explain().unwrap();
        let nodes = explanation.nodes.iter().filter(|n| n.op == "Attention");
        for node in nodes {
            let verdict = &node.verdicts["nnapi"];
            assert_eq!(verdict.code, Some("vendor_rejected"));
            let told = verdict.detail.as_deref().unwrap();
            assert_eq!(
                told,
                format!("the device refuses BATCH_MATMUL: products by {by}")
            );
            assert_eq!(node.ran.prefill.as_deref(), Some("nnapi"));
        }
    }
}
