//! Models with their layers on Qualcomm's HTP, as Qualcomm's own library computes it, beside the CPU.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anynpu_hal::Support;
use anynpu_runtime::Prompt;
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{
    KvType, LoadOptions, LoadedModel, ModelSource, OpenModel, Runtime, RuntimeBuilder,
    SessionOptions,
};
use anynpu_tests::test_data;
use serde_json::Value;

use crate::{greedy, ids, logits};

/// Logits may differ by this share of the largest one: what 16 bits leave.
const BOUND: f32 = 0.01;

/// The CPU and the HTP of `soc`, or `None` with the reason printed.
fn runtime(test: &str, soc: &str) -> Option<Runtime> {
    let builder = builder(test, soc)?.without_cache();
    Some(builder.build().unwrap())
}

fn builder(test: &str, soc: &str) -> Option<RuntimeBuilder> {
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return None;
    }
    let mut options = anynpu_backends::BackendOptions::default();
    options.qnn.soc = Some(soc.into());
    let builder = Runtime::builder().drivers(anynpu_backends::drivers_with(&options));
    Some(builder.device("cpu").device("qnn"))
}

fn open(name: &str) -> OpenModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/architectures");
    OpenModel::open(ModelSource::File(folder.join(format!("{name}.gguf")))).unwrap()
}

/// `open` with every node that the HTP runs pinned there, or with none; and how many there are.
fn load(runtime: &Runtime, open: &OpenModel, pinned: bool, kv: KvType) -> (LoadedModel, usize) {
    load_with(runtime, open, |_| pinned, kv)
}

/// `open` with those nodes pinned to the HTP that it runs and that are `chosen` by their names; and how many there are.
fn load_with(
    runtime: &Runtime,
    open: &OpenModel,
    chosen: impl Fn(&str) -> bool,
    kv: KvType,
) -> (LoadedModel, usize) {
    let options = || LoadOptions::new().kv_type(kv).context(64);
    let plans = runtime.plan(open, &options()).unwrap();
    let qnn = plans.devices.iter().position(|d| d == "qnn").unwrap();
    let nodes = open.model().graph().nodes();
    let runs = plans.prefill.why.iter().zip(nodes).filter(|(why, _)| {
        let narrow = |v: &Support| v.reason().is_none_or(|r| r.code.name() == "dtype");
        narrow(&why.verdicts[qnn])
    });
    let pins: Vec<_> = runs
        .filter(|(_, node)| chosen(&node.name))
        .map(|(_, node)| format!("{}=qnn", node.name).parse().unwrap())
        .collect();
    let count = pins.len();
    let placement = Placement {
        pins,
        ..Placement::default()
    };
    let model = runtime.load_open(open.clone(), options().placement(placement));
    (model.unwrap(), count)
}

fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.fold(0f32, f32::max) / largest
}

#[test]
fn layers_on_the_htp_give_the_logits_of_the_cpu_within_16_bits() {
    let test = "layers_on_the_htp_give_the_logits_of_the_cpu_within_16_bits";
    let Some(runtime) = runtime(test, "SM8650") else {
        return;
    };
    let tokens: Vec<u32> = (0..24).map(|i| (3 * i + 1) % 64).collect();
    // and at least so many nodes there
    let models = [
        ("llama", 20),
        ("llama-yarn", 20),
        ("qwen2", 20),
        ("qwen3", 20),
        ("gemma", 20),
        ("gemma2", 20),
        ("gemma3", 20),
        ("phi3", 10),
    ];
    for (name, least) in models {
        let open = open(name);
        for kv in [KvType::F32, KvType::F16] {
            let (alone, _) = load(&runtime, &open, false, kv);
            let (model, pinned) = load(&runtime, &open, true, kv);
            assert!(pinned >= least, "{name}: {pinned} nodes");
            // token by token
            let e = error(&logits(&model, &tokens), &logits(&alone, &tokens));
            assert!(e < BOUND, "{name} {kv:?}: {e}");
            // and in a padded step
            let last = |model: &LoadedModel| {
                let mut session = model.session(SessionOptions::new()).unwrap();
                session.prefill(&tokens, None).unwrap();
                session.decode(5).unwrap();
                let nodes = session.executed().devices.get("qnn").map_or(0, |d| d.nodes);
                assert!(session.miscounts().is_empty(), "{:?}", session.miscounts());
                (session.logits().unwrap().to_vec(), nodes)
            };
            let ((found, nodes), (expected, none)) = (last(&model), last(&alone));
            assert_eq!(none, 0);
            assert!(
                nodes >= 2 * pinned as u64,
                "{name}: {nodes} nodes ran there"
            );
            let e = error(&found, &expected);
            assert!(e < BOUND, "{name} {kv:?}: {e}");
        }
    }
}

#[test]
fn attention_on_the_htp_sees_rows_of_this_step_whoever_appended_them() {
    let test = "attention_on_the_htp_sees_rows_of_this_step_whoever_appended_them";
    let Some(runtime) = runtime(test, "SM8650") else {
        return;
    };
    let tokens: Vec<u32> = (0..12).map(|i| (5 * i + 1) % 64).collect();
    let open = open("llama");
    for kv in [KvType::F32, KvType::F16] {
        let (alone, _) = load(&runtime, &open, false, kv);
        let all = load(&runtime, &open, true, kv).1;
        let expected = logits(&alone, &tokens);
        for elsewhere in [".k_append", ".v_append", "_append"] {
            let chosen = |name: &str| !name.ends_with(elsewhere);
            let (model, there) = load_with(&runtime, &open, chosen, kv);
            assert!(there < all, "{elsewhere}: {there} of {all}");
            let e = error(&logits(&model, &tokens), &expected);
            assert!(e < BOUND, "{elsewhere} {kv:?}: {e}");
        }
    }
}

/// Where the HTP's likeliest token is another than the CPU's, the CPU's two differ by less than what 16 bits leave of
/// either; the lines that this prints say by how much.
#[test]
fn greedy_tokens_on_the_htp_differ_only_where_the_cpu_hardly_prefers_one() {
    let test = "greedy_tokens_on_the_htp_differ_only_where_the_cpu_hardly_prefers_one";
    let Some(runtime) = runtime(test, "SM8650") else {
        return;
    };
    let Some(golden) = test_data(test, "stories260K/golden.json") else {
        return;
    };
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let golden = golden["greedy"].as_array().unwrap();
    // Of forms in blocks the CPU rounds activations too, to 8 bits. Prompts without another token and with some.
    for (form, prompts) in [("F32", &[0, 3][..]), ("F16", &[4])] {
        let path = test_data(test, &format!("stories260K/stories260K-{form}.gguf")).unwrap();
        let open = OpenModel::open(ModelSource::File(path)).unwrap();
        let model = |placement: &Placement| {
            let options = LoadOptions::new().context(96).placement(placement.clone());
            runtime.load_open(open.clone(), options).unwrap()
        };
        let alone = model(&Placement {
            pins: vec!["*=cpu".parse().unwrap()],
            ..Placement::default()
        });
        let there = model(&Placement {
            pins: vec!["layers.*=qnn".parse().unwrap()],
            require: Some("qnn".into()),
        });
        for text in prompts.iter().map(|&p| &golden[p]) {
            let mut tokens = ids(&text["prompt_ids"]);
            let begin = tokens.len();
            tokens.extend(greedy(&alone, Prompt::Tokens(&tokens), 64));
            let (expected, found) = (logits(&alone, &tokens), logits(&there, &tokens));
            let e = error(&found, &expected);
            assert!(e < BOUND, "{form}, {}: {e}", text["prompt"]);
            let width = expected.len() / tokens.len();
            let rows = expected.chunks(width).zip(found.chunks(width));
            let mut others = 0;
            for (at, (expected, found)) in rows.enumerate().skip(begin - 1) {
                let (own, other) = (likeliest(expected), likeliest(found));
                if own == other {
                    continue;
                }
                others += 1;
                let gap = expected[own] - expected[other];
                let moved = |i: usize| (expected[i] - found[i]).abs();
                let most = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
                println!(
                    "{form}, {}: token {} after the prompt is {other}, not {own}: the CPU's logits differ by {gap}, \
                     of {most}",
                    text["prompt"],
                    at + 1 - begin
                );
                assert!(gap <= moved(own) + moved(other) && gap < 2.0 * BOUND * most);
            }
            println!(
                "{form}, {}: {others} others, logits off by {e} of the largest",
                text["prompt"]
            );
        }
    }
}

fn likeliest(row: &[f32]) -> usize {
    let best = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
    (0..row.len()).fold(0, best)
}

#[test]
fn every_chip_with_floating_point_runs_the_layers() {
    let test = "every_chip_with_floating_point_runs_the_layers";
    for soc in ["SM8450", "SM8550", "SM8750", "SM8850"] {
        let Some(runtime) = runtime(test, soc) else {
            return;
        };
        let tokens: Vec<u32> = (0..8).collect();
        let open = open("llama");
        let (alone, _) = load(&runtime, &open, false, KvType::F32);
        let (model, _) = load(&runtime, &open, true, KvType::F32);
        let e = error(&logits(&model, &tokens), &logits(&alone, &tokens));
        assert!(e < BOUND, "{soc}: {e}");
    }
}

#[test]
fn a_kept_compiled_form_gives_the_same_bits_and_a_damaged_one_is_made_anew() {
    let test = "a_kept_compiled_form_gives_the_same_bits_and_a_damaged_one_is_made_anew";
    let folder = tempfile::tempdir().unwrap();
    let tokens: Vec<u32> = (0..8).collect();
    let open = open("llama");
    let run = |soc: &str| {
        let runtime = builder(test, soc)?.cache_folder(folder.path());
        let (model, _) = load(&runtime.build().unwrap(), &open, true, KvType::F32);
        Some((logits(&model, &tokens), model.warnings().join("; ")))
    };
    let Some((compiled, _)) = run("SM8650") else {
        return;
    };
    let files = || -> Vec<std::path::PathBuf> {
        let files = std::fs::read_dir(folder.path()).unwrap();
        files.map(|f| f.unwrap().path()).collect()
    };
    assert_eq!(files().len(), 1);
    // what is written anew is another file
    let written = |file: &Path| std::fs::metadata(file).unwrap().ino();
    let before = written(&files()[0]);
    let (loaded, warnings) = run("SM8650").unwrap();
    assert_eq!(loaded, compiled);
    assert_eq!(written(&files()[0]), before, "compiled again");
    assert!(!warnings.contains("compiled form"), "{warnings}");
    // another chip has its own
    let (other, _) = run("SM8750").unwrap();
    assert!(error(&other, &compiled) < BOUND);
    for file in files() {
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        std::fs::write(&file, bytes).unwrap();
    }
    let (again, _) = run("SM8650").unwrap();
    assert_eq!(again, compiled);
}
