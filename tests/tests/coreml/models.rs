//! Whole models as packages, prompts and the tokens after them, beside the CPU.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anynpu_coreml::lower::{HIDDEN, States, engine};
use anynpu_coreml::weights::WeightForm;
use anynpu_coreml::{
    ComputeUnits, FunctionReport, PackageOptions, PackageReport, Precision, compile_in,
};
use anynpu_cpu::reference::Tensor;
use anynpu_runtime::{
    GenerateOptions, KvType, LoadOptions, LoadedModel, ModelSource, OpenModel, Prompt, Runtime,
    RuntimeError, SessionOptions,
};
use anynpu_tests::test_data;
use serde_json::Value;

use crate::checker::{Call, Checker, accepted};
use crate::npz;

/// Room that packages have.
const CONTEXT: u32 = 64;
/// What F32 leaves of logits, as the CPU computes them.
const F32: f64 = 1e-3;
/// What F16 leaves of them, weights and all.
const F16: f64 = 0.06;

fn architecture(name: &str) -> OpenModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/architectures");
    let file = folder.join(format!("{name}.gguf"));
    OpenModel::open(ModelSource::File(file)).unwrap()
}

/// The model on the CPU, in F32.
fn on_cpu(open: &OpenModel) -> LoadedModel {
    let runtime = Runtime::builder()
        .drivers(anynpu_backends::drivers())
        .build()
        .unwrap();
    let options = LoadOptions::new().kv_type(KvType::F32).context(CONTEXT);
    runtime.load_open(open.clone(), options).unwrap()
}

/// Logits after every token, or an encoder's vectors; and how many numbers there are for each.
fn expected(model: &LoadedModel, tokens: &[u32]) -> (Vec<f32>, usize) {
    let all = match model.embedder() {
        Ok(mut embedder) => embedder.hidden(tokens, &[]).unwrap().to_vec(),
        Err(_) => {
            let mut all = Vec::new();
            let mut session = model.session(SessionOptions::new()).unwrap();
            let each = session.logits_of_each(tokens, None, |_, row| {
                all.extend_from_slice(row);
                Ok::<(), RuntimeError>(())
            });
            each.unwrap();
            all
        }
    };
    let width = all.len() / tokens.len();
    (all, width)
}

/// Writes a package; in `precision` if it is another than the options say.
fn write(
    open: &OpenModel,
    options: &PackageOptions,
    precision: Precision,
    path: &Path,
) -> PackageReport {
    let open = open.clone().for_context(options.context).unwrap();
    let graph = Arc::clone(open.model().graph());
    let mut form = options.form(&graph).unwrap();
    form.precision = precision;
    let go_on = &mut |_, _| true;
    compile_in(&form, &graph, &*open.weights(), options, path, go_on).unwrap()
}

/// What `function` is given for `tokens`, of which the first is at position `at`.
fn given(
    report: &PackageReport,
    function: &FunctionReport,
    tokens: &[u32],
    at: u32,
) -> Vec<(String, Tensor)> {
    let steps = function.tokens;
    let whole = |x: Vec<i32>| Tensor::new(vec![x.len()], x).unwrap();
    let mut all = vec![("count".to_owned(), whole(vec![tokens.len() as i32]))];
    for input in &function.inputs {
        let shape: Vec<usize> = input.shape.iter().map(|n| *n as usize).collect();
        let floats = |x: Vec<f32>| Tensor::new(shape.clone(), x).unwrap();
        let rotation = |name: &str| {
            let number = name.rsplit_once('_').map_or(0, |(_, n)| n.parse().unwrap());
            let positions = at as i32..(at + steps) as i32;
            report.rotations[number].angles(positions)
        };
        let name = input.name.as_str();
        let tensor = match name {
            "tokens" => {
                let padded = (0..steps as usize).map(|i| tokens.get(i).map_or(0, |t| *t as i32));
                whole(padded.collect())
            }
            "positions" => whole((at as i32..(at + steps) as i32).collect()),
            "token_types" => whole(vec![0; steps as usize]),
            "output_rows" => whole(vec![tokens.len() as i32 - 1]),
            _ if name == "mask" && shape == [1, 1, 1, steps as usize] => {
                let hidden =
                    (0..steps as usize).map(|i| if i < tokens.len() { 0.0 } else { HIDDEN });
                floats(hidden.collect())
            }
            _ if name.starts_with("mask") => {
                let window = name
                    .strip_prefix("mask_window_")
                    .map(|w| w.parse().unwrap());
                floats(engine::mask(report.context, steps, at, window))
            }
            _ if name.starts_with("cos") => floats(rotation(name).0),
            _ if name.starts_with("sin") => floats(rotation(name).1),
            // rows of caches
            _ => continue,
        };
        all.push((name.to_owned(), tensor));
    }
    all
}

/// The calls that read `tokens`, the first `prompt` of them by the step for prompts if there is one.
fn calls(
    checker: &Checker,
    name: &str,
    report: &PackageReport,
    (tokens, prompt): (&[u32], usize),
    (logits, width): (&[f32], usize),
) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let function = match (at, report.functions.get(1)) {
            (0, Some(prefill)) if report.states != "none" => prefill,
            _ => &report.functions[0],
        };
        let count = match (at, report.functions.len() > 1, report.states) {
            (.., "none") => tokens.len(),
            (0, true, _) => prompt,
            _ => 1,
        };
        let own = &tokens[at..at + count];
        let stem = format!("{name}.{at}");
        let inputs = checker.path(&format!("{stem}.inputs.npz"));
        npz::write(&inputs, &given(report, function, own, at as u32)).unwrap();
        let rows = match report.states {
            "none" => at..at + count,
            _ => at + count - 1..at + count,
        };
        let outputs = function.outputs.iter().map(|o| o.name.as_str());
        let output = outputs.clone().find(|o| ["logits", "hidden"].contains(o));
        let expect = output.map(|output| {
            let path = checker.path(&format!("{stem}.expected.npz"));
            let part = logits[rows.start * width..rows.end * width].to_vec();
            let tensor = Tensor::new(vec![rows.len(), width], part).unwrap();
            npz::write(&path, &[(output.to_owned(), tensor)]).unwrap();
            path
        });
        calls.push(Call {
            function: function.name.clone(),
            inputs,
            expect,
        });
        at += count;
    }
    calls
}

/// The largest difference of all calls from what was expected, and the choice of each that gives one. Tells the first
/// beside the largest number that was expected.
fn outcome(name: &str, said: &Value) -> (f64, Vec<u32>) {
    accepted(name, said);
    let (mut worst, mut largest, mut chosen) = (0f64, 0f64, Vec::new());
    for call in said["calls"].as_array().unwrap() {
        for (_, difference) in call["differences"].as_object().unwrap() {
            worst = worst.max(difference.as_f64().unwrap_or(f64::INFINITY));
        }
        for (_, number) in call["largest"].as_object().unwrap() {
            largest = largest.max(number.as_f64().unwrap());
        }
        let choices = call["argmax"].as_object().unwrap().values();
        chosen.extend(choices.map(|c| c.as_u64().unwrap() as u32));
    }
    println!("{name}: {worst:.2e} of {largest:.1}");
    (worst, chosen)
}

/// Small models of every architecture. That of phi3 has a table of frequencies for each length of context.
const ARCHITECTURES: [&str; 12] = [
    "llama",
    "llama-linear",
    "llama-yarn",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3",
    "bert",
];

#[test]
fn every_architecture_gives_the_logits_of_the_cpu_in_both_forms() {
    let test = "every_architecture_gives_the_logits_of_the_cpu_in_both_forms";
    let Some(mut checker) = Checker::find(test) else {
        return;
    };
    let tokens: Vec<u32> = (0..17).map(|i| (3 * i + 1) % 64).collect();
    let mut names = Vec::new();
    for model in ARCHITECTURES {
        let open = architecture(model);
        let (logits, width) = expected(&on_cpu(&open), &tokens);
        for units in [ComputeUnits::All, ComputeUnits::NeuralEngine] {
            for precision in [Precision::F32, Precision::F16] {
                let mut options = PackageOptions::new("iOS18".parse().unwrap(), CONTEXT);
                options.units = units;
                options.steps = vec![16];
                options.states = match precision {
                    Precision::F32 => Some(States::Caller),
                    Precision::F16 => None,
                };
                let name = format!("{model}.{units}.{precision}");
                let package = checker.path(&format!("{name}.mlpackage"));
                let report = write(&open, &options, precision, &package);
                let calls = calls(&checker, &name, &report, (&tokens, 14), (&logits, width));
                checker.session(&package, "native", &calls);
                names.push((name, precision));
            }
        }
    }
    for ((name, precision), said) in names.iter().zip(checker.run()) {
        let (worst, _) = outcome(name, &said);
        let bound = match precision {
            Precision::F32 => F32,
            Precision::F16 => F16,
        };
        assert!(worst <= bound, "{name}: {worst}");
    }
}

/// The stories model in one of its files.
fn stories(test: &str, format: &str) -> Option<OpenModel> {
    let file: PathBuf = test_data(test, &format!("stories260K/stories260K-{format}.gguf"))?;
    Some(OpenModel::open(ModelSource::File(file)).unwrap())
}

/// Tokens of the prompt, and those that are generated after it.
const PROMPT: usize = 40;
const GENERATED: usize = 16;

/// A prompt and the tokens that the CPU likes best after it.
fn story(model: &LoadedModel) -> Vec<u32> {
    let mut session = model.session(SessionOptions::new()).unwrap();
    let mut options = GenerateOptions::greedy().max_tokens((PROMPT + GENERATED) as u32 - 1);
    options.ignore_end = true;
    let go_on = |_: &_| std::ops::ControlFlow::Continue(());
    let report = session.generate(Prompt::Tokens(&[1]), &options, |_| go_on(&()));
    let mut tokens = vec![1];
    tokens.extend(report.unwrap().tokens);
    tokens
}

#[test]
fn the_stories_model_tells_the_same_story_in_every_form() {
    let test = "the_stories_model_tells_the_same_story_in_every_form";
    let Some(mut checker) = Checker::find(test) else {
        return;
    };
    let mut names = Vec::new();
    // a file, units, what is computed in, where rows are, and how far logits may be
    let (all, engine) = (ComputeUnits::All, ComputeUnits::NeuralEngine);
    let forms = [
        ("F32", all, Precision::F32, States::Caller, F32),
        ("F32", engine, Precision::F32, States::Caller, F32),
        ("F16", all, Precision::F16, States::Native, F16),
        ("F16", engine, Precision::F16, States::Caller, F16),
    ];
    for (file, units, precision, states, bound) in forms {
        let Some(open) = stories(test, file) else {
            return;
        };
        let model = on_cpu(&open);
        let tokens = story(&model);
        assert_eq!(tokens.len(), PROMPT + GENERATED);
        let (logits, width) = expected(&model, &tokens);
        let mut options = PackageOptions::new("iOS18".parse().unwrap(), CONTEXT);
        (options.units, options.steps) = (units, vec![48]);
        options.states = Some(states);
        let name = format!("{file}.{units}.{precision}");
        let package = checker.path(&format!("{name}.mlpackage"));
        let report = write(&open, &options, precision, &package);
        let calls = calls(
            &checker,
            &name,
            &report,
            (&tokens, PROMPT),
            (&logits, width),
        );
        checker.session(&package, "native", &calls);
        names.push((name, bound, tokens));
    }
    let all: Vec<Value> = checker.run();
    for ((name, bound, tokens), said) in names.iter().zip(&all) {
        let (worst, chosen) = outcome(name, said);
        assert!(worst <= *bound, "{name}: {worst}");
        // each choice is the token that follows
        let from = tokens.len() + 1 - chosen.len();
        assert!(chosen.len() >= GENERATED, "{name}: {}", chosen.len());
        assert_eq!(chosen[..chosen.len() - 1], tokens[from..], "{name}");
    }
}

#[test]
fn smaller_weights_are_smaller_files_with_the_error_that_is_told() {
    let test = "smaller_weights_are_smaller_files_with_the_error_that_is_told";
    let (Some(open), folder) = (stories(test, "F32"), tempfile::tempdir().unwrap()) else {
        return;
    };
    let bytes = |form: WeightForm| {
        let mut options = PackageOptions::new("iOS18".parse().unwrap(), CONTEXT);
        options.weights = form;
        let path = folder.path().join(format!("{form}.mlpackage"));
        let report = write(&open, &options, Precision::F16, &path);
        let file = path.join("Data/com.apple.CoreML/weights/weight.bin");
        assert_eq!(file.metadata().unwrap().len(), report.weight_bytes);
        (report.weight_bytes, report.added_error)
    };
    let float = bytes(WeightForm::Float);
    // a form, its share of the bytes, the error that it adds at most
    for (form, share, most) in [
        (WeightForm::Int8, 0.62, 0.01),
        (WeightForm::Int4, 0.45, 0.15),
        (WeightForm::Lut8, 0.80, 0.02),
        (WeightForm::Lut6, 0.55, 0.04),
        (WeightForm::Lut4, 0.40, 0.12),
    ] {
        let (size, error) = bytes(form);
        println!("{form}: {size} of {} bytes, {error:.2e}", float.0);
        assert!(
            (size as f64) < share * float.0 as f64,
            "{form}: {size} of {}",
            float.0
        );
        assert!(error > 10.0 * float.1 && error < most, "{form}: {error}");
    }
}
