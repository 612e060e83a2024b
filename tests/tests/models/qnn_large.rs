//! A model of 135 million weights with all of its layers on Qualcomm's HTP, as Qualcomm's own library computes it. Takes
//! a minute, so it runs if `ANYNPU_LARGE_MODELS` is set.

use std::io::BufWriter;
use std::path::Path;

use anynpu_graphs::import::gguf::GgufWriter;
use anynpu_ir::DType;
use anynpu_runtime::memory::peak_rss_bytes;
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{LoadOptions, LoadedModel, Runtime, SessionOptions};
use half::f16;

/// Logits may differ by this share of the largest one.
const BOUND: f32 = 0.02;

/// The shape of SmolLM2's smallest.
const LAYERS: u32 = 30;
const WIDTH: u32 = 576;
const FEED: u32 = 1536;
const HEADS: u32 = 9;
const KV_HEADS: u32 = 3;
const VOCABULARY: u32 = 49152;

/// Writes the model: matrices of a sequence in F16, so that rows keep their size; norms of ones.
fn write(path: &Path) {
    let mut plan = GgufWriter::new();
    plan.set("general.architecture", "llama").unwrap();
    for (key, n) in [
        ("context_length", 2048),
        ("embedding_length", WIDTH),
        ("block_count", LAYERS),
        ("feed_forward_length", FEED),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
        ("rope.dimension_count", WIDTH / HEADS),
        ("vocab_size", VOCABULARY),
    ] {
        plan.set(&format!("llama.{key}"), &n).unwrap();
    }
    let eps = "llama.attention.layer_norm_rms_epsilon";
    plan.set(eps, &1e-5f32).unwrap();
    let kv = KV_HEADS * WIDTH / HEADS;
    // rows, columns; 0 rows for a norm
    let mut tensors = vec![("token_embd.weight".to_owned(), VOCABULARY, WIDTH)];
    for layer in 0..LAYERS {
        for (name, rows, columns) in [
            ("attn_norm", 0, WIDTH),
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", kv, WIDTH),
            ("attn_v", kv, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_norm", 0, WIDTH),
            ("ffn_gate", FEED, WIDTH),
            ("ffn_up", FEED, WIDTH),
            ("ffn_down", WIDTH, FEED),
        ] {
            tensors.push((format!("blk.{layer}.{name}.weight"), rows, columns));
        }
    }
    tensors.push(("output_norm.weight".to_owned(), 0, WIDTH));
    for (name, rows, columns) in &tensors {
        let (rows, columns) = (u64::from(*rows), u64::from(*columns));
        match rows {
            0 => plan.tensor(name, DType::F32, &[columns]).unwrap(),
            _ => plan.tensor(name, DType::F16, &[columns, rows]).unwrap(),
        };
    }
    let file = std::fs::File::create(path).unwrap();
    let mut out = plan.begin(BufWriter::new(file)).unwrap();
    let mut state = 1u32;
    for (name, rows, columns) in &tensors {
        let scale = (3.0 / *columns as f32).sqrt();
        let bytes: Vec<u8> = match rows {
            0 => (0..*columns).flat_map(|_| 1f32.to_le_bytes()).collect(),
            _ => (0..rows * columns)
                .flat_map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let x = (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
                    f16::from_f32(x * scale).to_le_bytes()
                })
                .collect(),
        };
        out.append(name, &bytes).unwrap();
    }
    out.finish().unwrap();
}

/// `model` with its layers on the HTP in contexts of at most so many bytes of weights, or on the CPU.
fn load(path: &Path, context_bytes: Option<u64>) -> LoadedModel {
    let mut options = anynpu_backends::BackendOptions::default();
    options.qnn.context_bytes = context_bytes;
    let builder = Runtime::builder().drivers(anynpu_backends::drivers_with(&options));
    let builder = builder.device("cpu").without_cache();
    let (builder, pins) = match context_bytes {
        None => (builder, Vec::new()),
        Some(_) => (builder.device("qnn"), vec!["layers.*=qnn".parse().unwrap()]),
    };
    let placement = Placement {
        pins,
        ..Placement::default()
    };
    let options = LoadOptions::new().context(64).placement(placement);
    let runtime = builder.build().unwrap();
    runtime.load(path.to_owned(), options).unwrap()
}

/// Logits after each of `tokens`, and how many nodes ran on the HTP.
fn decoded(model: &LoadedModel, tokens: &[u32]) -> (Vec<Vec<f32>>, u64) {
    let mut session = model.session(SessionOptions::new()).unwrap();
    let mut all = Vec::new();
    for &token in tokens {
        session.decode(token).unwrap();
        all.push(session.logits().unwrap().to_vec());
    }
    let nodes = session.executed().devices.get("qnn").map_or(0, |d| d.nodes);
    (all, nodes)
}

#[test]
fn thirty_layers_on_the_htp_decode_the_tokens_of_the_cpu() {
    let test = "thirty_layers_on_the_htp_decode_the_tokens_of_the_cpu";
    for name in ["ANYNPU_QNN_LIBRARY", "ANYNPU_LARGE_MODELS"] {
        if std::env::var_os(name).is_none_or(|p| p.is_empty()) {
            println!("SKIPPED {test}: {name} is not set");
            return;
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&path);
    let best = |row: &Vec<f32>| {
        let each = (0u32..).zip(row);
        let most = each.max_by(|a, b| a.1.total_cmp(b.1));
        most.map_or(0, |(token, _)| token)
    };
    // four tokens, each the most likely one after those before it
    let cpu = load(&path, None);
    let mut tokens = vec![1];
    let mut session = cpu.session(SessionOptions::new()).unwrap();
    for i in 0..4 {
        session.decode(tokens[i]).unwrap();
        tokens.push(best(&session.logits().unwrap().to_vec()));
    }
    drop(session);
    let (expected, none) = decoded(&cpu, &tokens[..4]);
    assert_eq!(none, 0);
    drop(cpu);
    // in one context for all sizes of step, and in several
    for context_mib in [2048, 96] {
        let model = load(&path, Some(context_mib << 20));
        let (found, nodes) = decoded(&model, &tokens[..4]);
        assert!(
            nodes >= 4 * 18 * u64::from(LAYERS),
            "{nodes} nodes ran there"
        );
        let mut worst = 0f32;
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(best(found), best(expected));
            let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
            let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            worst = worst.max(apart.fold(0f32, f32::max) / largest);
        }
        let peak = peak_rss_bytes().unwrap_or(0) >> 20;
        println!(
            "contexts of {context_mib} MiB: {nodes} nodes there, logits off by {worst:.5} of the largest, {peak} MiB at the peak so far"
        );
        assert!(worst < BOUND, "{worst}");
    }
}
