//! safetensors files and configurations, each wrong in one way (or right, to start mutations from).
//!
//! They are the readers' tests and, written out by the example `folder_seeds`, the fuzzers' seeds.
#![allow(dead_code)] // not all programs that share this module use all of it

use anynpu_graphs::import::safetensors::{Fault, SafeTensors, Shards};
use serde_json::{Map, Value, json};

/// A file and whether the reader must accept it.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// The reader's verdict: nothing, or a test of the fault.
    pub fault: Option<fn(&Fault) -> bool>,
}

/// A file with this header and so many bytes of data.
pub fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 0x3c);
    bytes
}

/// A file of tensors, F32, one after the other.
pub fn tensors(shapes: &[(String, Vec<u64>)]) -> Vec<u8> {
    let mut header = Map::new();
    let mut at = 0;
    for (name, shape) in shapes {
        let end = at + 4 * shape.iter().product::<u64>();
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]});
        header.insert(name.clone(), entry);
        at = end;
    }
    file(&Value::Object(header).to_string(), at as usize)
}

/// A header of tensor `a`, F32 `[2]` at 0, and tensor `b` as said.
fn with_b(b: &str) -> String {
    format!(r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"b":{b}}}"#)
}

fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
}

pub fn sound() -> Vec<u8> {
    let b =
        r#"{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},"__metadata__":{"format":"pt"}"#;
    file(&format!("{}   ", with_b(b)), 20)
}

/// One for each class of fault on record, and sound ones.
pub fn cases() -> Vec<Case> {
    macro_rules! case {
        ($name:literal, $bytes:expr) => {
            Case {
                name: $name,
                bytes: $bytes,
                fault: None,
            }
        };
        ($name:literal, $bytes:expr, $fault:pat) => {
            Case {
                name: $name,
                bytes: $bytes,
                fault: Some(|f| matches!(f, $fault)),
            }
        };
    }
    let length = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    let twice = r#"{"dtype":"U8","shape":[1],"data_offsets":[8,9]},"a":{"dtype":"U8","shape":[1],"data_offsets":[9,10]}"#;
    let deep = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    vec![
        case!("sound", sound()),
        case!("sound-empty", file("{}", 0)),
        case!("sound-scalar", file(&one("F64", "[]", "[0,8]"), 8)),
        case!("sound-no-elements", file(&one("F32", "[0,7]", "[0,0]"), 0)),
        case!("sound-fp8", file(&one("F8_E4M3", "[3]", "[0,3]"), 3)),
        case!("empty", Vec::new(), Fault::TooShort { .. }),
        case!("length-cut", vec![2, 0, 0], Fault::TooShort { .. }),
        case!("length-max", length(u64::MAX), Fault::HeaderLength { .. }),
        case!("length-one-too-many", length(3), Fault::HeaderLength { .. }),
        case!(
            "length-huge",
            length(100_000_001),
            Fault::HeaderLength { .. }
        ),
        case!("header-nothing", file("", 0), Fault::Header { .. }),
        case!("header-spaces-first", file(" {}", 0), Fault::Header { .. }),
        case!("header-cut", file("{", 0), Fault::Header { .. }),
        case!("header-list", file("[]", 0), Fault::Header { .. }),
        case!("header-more-after", file("{}{}", 0), Fault::Header { .. }),
        case!("header-deep", file(&deep, 0), Fault::Header { .. }),
        case!(
            "header-not-utf8",
            file("{\"\u{fffd}", 0),
            Fault::Header { .. }
        ),
        case!("tensor-number", file(r#"{"a":1}"#, 0), Fault::Header { .. }),
        case!(
            "tensor-member-missing",
            file(r#"{"a":{"dtype":"F32"}}"#, 0),
            Fault::Header { .. }
        ),
        case!(
            "shape-negative",
            file(&one("U8", "[-1]", "[0,1]"), 1),
            Fault::Header { .. }
        ),
        case!(
            "shape-too-large",
            file(&one("U8", "[18446744073709551616]", "[0,1]"), 1),
            Fault::Header { .. }
        ),
        case!(
            "offsets-three",
            file(&one("U8", "[1]", "[0,1,2]"), 1),
            Fault::Header { .. }
        ),
        case!(
            "metadata-number",
            file(r#"{"__metadata__":{"a":1}}"#, 0),
            Fault::Header { .. }
        ),
        case!(
            "dtype-unknown",
            file(&one("F31", "[1]", "[0,4]"), 4),
            Fault::Type { .. }
        ),
        case!(
            "rank-9",
            file(&one("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1),
            Fault::Rank { .. }
        ),
        case!(
            "size-wraps",
            file(&one("F32", "[4294967296,4294967296]", "[0,0]"), 0),
            Fault::SizeOverflow { .. }
        ),
        case!(
            "bits-wrap",
            file(&one("F32", "[1152921504606846976]", "[0,0]"), 0),
            Fault::SizeOverflow { .. }
        ),
        case!(
            "size-too-small",
            file(&one("F32", "[3]", "[0,8]"), 8),
            Fault::Size { expected: 12, .. }
        ),
        case!(
            "size-too-large",
            file(&one("F16", "[3]", "[0,8]"), 8),
            Fault::Size { expected: 6, .. }
        ),
        case!(
            "offsets-backwards",
            file(&one("U8", "[1]", "[1,0]"), 1),
            Fault::Size { .. }
        ),
        case!(
            "half-bytes",
            file(&one("F4", "[3]", "[0,2]"), 2),
            Fault::PartialByte { .. }
        ),
        case!(
            "past-the-end",
            file(&one("F32", "[3]", "[0,12]"), 11),
            Fault::OutOfRange { len: 11, .. }
        ),
        case!(
            "far-past-the-end",
            file(
                &one("U8", "[1]", "[18446744073709551614,18446744073709551615]"),
                1
            ),
            Fault::OutOfRange { .. }
        ),
        case!(
            "data-left-over",
            file(&one("U8", "[1]", "[0,1]"), 2),
            Fault::Hole { .. }
        ),
        case!(
            "hole-first",
            file(&one("U8", "[1]", "[1,2]"), 2),
            Fault::Hole {
                start: 0,
                end: 1,
                ..
            }
        ),
        case!(
            "hole",
            file(
                &with_b(r#"{"dtype":"F32","shape":[1],"data_offsets":[12,16]}"#),
                16
            ),
            Fault::Hole { .. }
        ),
        case!(
            "overlap-same",
            file(
                &with_b(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#),
                8
            ),
            Fault::Overlap { .. }
        ),
        case!(
            "overlap-by-one",
            file(
                &with_b(r#"{"dtype":"U8","shape":[1],"data_offsets":[7,8]}"#),
                8
            ),
            Fault::Overlap { .. }
        ),
        case!(
            "misaligned",
            file(
                r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}"#,
                5
            ),
            Fault::Misaligned { align: 4, .. }
        ),
        case!(
            "tensor-twice",
            file(&with_b(twice), 10),
            Fault::Duplicate { .. }
        ),
    ]
}

/// Tensors of one block of every family at once, with [`config`]'s figures.
pub fn all_families() -> Shards {
    let mut all: Vec<(String, Vec<u64>)> = Vec::new();
    let mut add = |name: String, shape: &[u64]| all.push((name, shape.to_vec()));
    let mut linear = |name: String, rows: u64, columns: u64| {
        add(format!("{name}.weight"), &[rows, columns]);
        add(format!("{name}.bias"), &[rows]);
    };
    let layer = "model.layers.0";
    for (name, rows, columns) in [
        ("self_attn.q_proj", 4, 4),
        ("self_attn.k_proj", 2, 4),
        ("self_attn.v_proj", 2, 4),
        ("self_attn.o_proj", 4, 4),
        ("mlp.gate_proj", 6, 4),
        ("mlp.up_proj", 6, 4),
        ("mlp.down_proj", 4, 6),
        ("self_attn.qkv_proj", 8, 4),
        ("mlp.gate_up_proj", 12, 4),
        ("block_sparse_moe.gate", 2, 4),
        ("mlp.gate", 2, 4),
    ] {
        linear(format!("{layer}.{name}"), rows, columns);
    }
    for expert in 0..2 {
        let mixtral = format!("{layer}.block_sparse_moe.experts.{expert}");
        linear(format!("{mixtral}.w1"), 6, 4);
        linear(format!("{mixtral}.w2"), 4, 6);
        linear(format!("{mixtral}.w3"), 6, 4);
        let qwen = format!("{layer}.mlp.experts.{expert}");
        linear(format!("{qwen}.gate_proj"), 3, 4);
        linear(format!("{qwen}.up_proj"), 3, 4);
        linear(format!("{qwen}.down_proj"), 4, 3);
    }
    for base in ["bert", "mobilebert"] {
        let narrow = if base == "bert" { 4 } else { 2 };
        let layer = format!("{base}.encoder.layer.0");
        for (name, rows, columns) in [
            ("attention.self.query", narrow, narrow),
            ("attention.self.key", narrow, narrow),
            ("attention.self.value", narrow, 4),
            ("attention.output.dense", narrow, narrow),
            ("intermediate.dense", 6, narrow),
            ("output.dense", narrow, 6),
        ] {
            linear(format!("{layer}.{name}"), rows, columns);
        }
        linear(format!("{base}.pooler.dense"), 4, 4);
    }
    let layer = "mobilebert.encoder.layer.0";
    for (name, rows, columns) in [
        ("bottleneck.input.dense", 2, 4),
        ("bottleneck.attention.dense", 2, 4),
        ("ffn.0.intermediate.dense", 6, 2),
        ("ffn.0.output.dense", 2, 6),
        ("output.bottleneck.dense", 4, 2),
    ] {
        linear(format!("{layer}.{name}"), rows, columns);
    }
    linear(
        "mobilebert.embeddings.embedding_transformation".into(),
        4,
        6,
    );
    let layer = "distilbert.transformer.layer.0";
    for (name, rows, columns) in [
        ("attention.q_lin", 4, 4),
        ("attention.k_lin", 4, 4),
        ("attention.v_lin", 4, 4),
        ("attention.out_lin", 4, 4),
        ("ffn.lin1", 6, 4),
        ("ffn.lin2", 4, 6),
    ] {
        linear(format!("{layer}.{name}"), rows, columns);
    }
    linear("pre_classifier".into(), 4, 4);
    linear("classifier".into(), 3, 4);
    for (name, width) in [
        ("bert.embeddings.LayerNorm", 4),
        ("bert.encoder.layer.0.attention.output.LayerNorm", 4),
        ("bert.encoder.layer.0.output.LayerNorm", 4),
        ("distilbert.embeddings.LayerNorm", 4),
        ("distilbert.transformer.layer.0.sa_layer_norm", 4),
        ("distilbert.transformer.layer.0.output_layer_norm", 4),
        ("mobilebert.embeddings.LayerNorm", 4),
        ("mobilebert.encoder.layer.0.attention.output.LayerNorm", 2),
        ("mobilebert.encoder.layer.0.output.LayerNorm", 2),
        ("mobilebert.encoder.layer.0.bottleneck.input.LayerNorm", 2),
        (
            "mobilebert.encoder.layer.0.bottleneck.attention.LayerNorm",
            2,
        ),
        ("mobilebert.encoder.layer.0.ffn.0.output.LayerNorm", 2),
        ("mobilebert.encoder.layer.0.output.bottleneck.LayerNorm", 4),
    ] {
        add(format!("{name}.weight"), &[width]);
        add(format!("{name}.bias"), &[width]);
    }
    for (name, shape) in [
        ("lm_head", &[5, 4][..]),
        ("model.embed_tokens", &[5, 4]),
        ("model.norm", &[4]),
        ("model.layers.0.input_layernorm", &[4]),
        ("model.layers.0.post_attention_layernorm", &[4]),
        ("model.layers.0.pre_feedforward_layernorm", &[4]),
        ("model.layers.0.post_feedforward_layernorm", &[4]),
        ("model.layers.0.self_attn.q_norm", &[2]),
        ("model.layers.0.self_attn.k_norm", &[2]),
        ("bert.embeddings.word_embeddings", &[5, 4]),
        ("bert.embeddings.token_type_embeddings", &[2, 4]),
        ("bert.embeddings.position_embeddings", &[8, 4]),
        ("distilbert.embeddings.word_embeddings", &[5, 4]),
        ("distilbert.embeddings.position_embeddings", &[8, 4]),
        ("mobilebert.embeddings.word_embeddings", &[5, 2]),
        ("mobilebert.embeddings.token_type_embeddings", &[2, 4]),
        ("mobilebert.embeddings.position_embeddings", &[8, 4]),
    ] {
        add(format!("{name}.weight"), shape);
    }
    Shards::of(SafeTensors::from_vec("tensors", tensors(&all)).unwrap())
}

/// Every `model_type` that can be read.
pub const MODEL_TYPES: [&str; 13] = [
    "llama",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "bert",
    "distilbert",
    "mobilebert",
];

/// A configuration that [`all_families`] fits.
pub fn config(model_type: &str) -> Value {
    match model_type {
        "distilbert" => json!({
            "model_type": model_type,
            "architectures": ["DistilBertForSequenceClassification"],
            "activation": "gelu",
            "dim": 4,
            "hidden_dim": 6,
            "max_position_embeddings": 8,
            "n_heads": 2,
            "n_layers": 1,
            "vocab_size": 5,
        }),
        "bert" | "mobilebert" => json!({
            "model_type": model_type,
            "architectures": ["BertForSequenceClassification"],
            "hidden_act": "relu",
            "hidden_size": 4,
            "intermediate_size": 6,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 8,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "vocab_size": 5,
            "embedding_size": 2,
            "intra_bottleneck_size": 2,
            "num_feedforward_networks": 2,
            "trigram_input": true,
            "key_query_shared_bottleneck": true,
            "use_bottleneck_attention": false,
            "normalization_type": "no_norm",
            "classifier_activation": true,
        }),
        _ => json!({
            "model_type": model_type,
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": true,
            "mlp_bias": true,
            "head_dim": 2,
            "hidden_act": if model_type.starts_with("gemma") { "gelu_pytorch_tanh" } else { "silu" },
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 3,
            "norm_topk_prob": true,
            "hidden_size": 4,
            "intermediate_size": 6,
            "max_position_embeddings": 8,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": false,
            "vocab_size": 5,
        }),
    }
}

/// A configuration of `model_type` with some members set; null removes nothing, as it stands for
/// a missing value.
pub fn config_with(model_type: &str, members: &Value) -> Value {
    let mut config = config(model_type);
    for (key, value) in members.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Configurations that are refused: the type, the members that are wrong, and what the message
/// must name.
pub fn refused() -> Vec<(&'static str, Value, &'static str)> {
    let huge = u64::MAX;
    vec![
        (
            "llama",
            json!({"model_type": null}),
            "'model_type' is missing",
        ),
        ("llama", json!({"model_type": 7}), "'model_type' is 7"),
        (
            "llama",
            json!({"model_type": "mamba"}),
            "known: llama, mistral",
        ),
        (
            "llama",
            json!({"quantization_config": {"bits": 4}}),
            "quantization_config",
        ),
        (
            "llama",
            json!({"architectures": ["LlamaForSequenceClassification"]}),
            "architectures",
        ),
        (
            "llama",
            json!({"architectures": "LlamaForCausalLM"}),
            "architectures",
        ),
        (
            "llama",
            json!({"hidden_size": null}),
            "'hidden_size' is missing",
        ),
        ("llama", json!({"hidden_size": 0}), "'hidden_size' is 0"),
        ("llama", json!({"hidden_size": -4}), "'hidden_size' is -4"),
        ("llama", json!({"hidden_size": 4.5}), "'hidden_size' is 4.5"),
        ("llama", json!({"hidden_size": huge}), "hidden_size"),
        (
            "llama",
            json!({"hidden_size": 8}),
            "model.embed_tokens.weight",
        ),
        (
            "llama",
            json!({"intermediate_size": 7}),
            "model.layers.0.mlp.",
        ),
        ("llama", json!({"num_hidden_layers": 2}), "model.layers.1."),
        (
            "llama",
            json!({"num_hidden_layers": 4_000_000}),
            "num_hidden_layers",
        ),
        (
            "llama",
            json!({"num_attention_heads": 3}),
            "model.layers.0.self_attn.q_proj",
        ),
        (
            "llama",
            json!({"num_key_value_heads": 0}),
            "num_key_value_heads",
        ),
        ("llama", json!({"head_dim": 3}), "rope"),
        ("llama", json!({"head_dim": 0}), "head_dim"),
        (
            "llama",
            json!({"max_position_embeddings": 4_000_000_000u64}),
            "max_position_embeddings",
        ),
        ("llama", json!({"rms_norm_eps": "small"}), "rms_norm_eps"),
        ("llama", json!({"rms_norm_eps": 2.0}), "rms_norm_eps"),
        ("llama", json!({"rope_theta": 0}), "rope_theta"),
        ("llama", json!({"vocab_size": 6}), "vocab_size"),
        (
            "llama",
            json!({"hidden_act": "gelu"}),
            "'hidden_act' is 'gelu'; expected silu",
        ),
        (
            "llama",
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
        ),
        ("llama", json!({"rope_scaling": 4}), "rope_scaling"),
        (
            "llama",
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            "'rope_scaling.type' is 'dynamic'",
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear"}}),
            "'rope_scaling.factor' is missing",
        ),
        (
            "llama",
            json!({"rope_scaling": {"type": "linear", "factor": -1}}),
            "rope_scaling.factor",
        ),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 0.5}}),
            "rope_parameters.factor",
        ),
        (
            "llama",
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 2, "truncate": false}}),
            "truncate",
        ),
        (
            "llama",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8}}),
            "low_freq_factor",
        ),
        (
            "llama",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}}),
            "high_freq_factor",
        ),
        (
            "llama",
            json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
            "rope_parameters.full_attention",
        ),
        ("mistral", json!({"sliding_window": 0}), "sliding_window"),
        (
            "mistral",
            json!({"layer_types": ["full_attention"]}),
            "layer_types",
        ),
        (
            "qwen2",
            json!({"layer_types": ["full_attention", "full_attention"]}),
            "layer_types",
        ),
        (
            "qwen2",
            json!({"layer_types": ["linear_attention"]}),
            "layer_types",
        ),
        (
            "qwen2",
            json!({"layer_types": ["sliding_attention"]}),
            "layer_types",
        ),
        (
            "mixtral",
            json!({"num_local_experts": 3}),
            "model.layers.0.block_sparse_moe.gate.weight",
        ),
        (
            "mixtral",
            json!({"num_local_experts": 0}),
            "'num_local_experts' is 0",
        ),
        (
            "mixtral",
            json!({"num_local_experts": null}),
            "'num_local_experts' is missing",
        ),
        (
            "mixtral",
            json!({"num_local_experts": 4_294_967_295u64}),
            "num_local_experts",
        ),
        (
            "mixtral",
            json!({"num_experts_per_tok": 3}),
            "num_experts_per_tok",
        ),
        (
            "mixtral",
            json!({"intermediate_size": 7}),
            "model.layers.0.block_sparse_moe.experts.*.w1",
        ),
        ("mixtral", json!({"sliding_window": 0}), "sliding_window"),
        (
            "qwen3_moe",
            json!({"norm_topk_prob": false}),
            "'norm_topk_prob' is false",
        ),
        (
            "qwen3_moe",
            json!({"norm_topk_prob": null}),
            "norm_topk_prob",
        ),
        (
            "qwen3_moe",
            json!({"mlp_only_layers": [0]}),
            "mlp_only_layers",
        ),
        (
            "qwen3_moe",
            json!({"decoder_sparse_step": 2}),
            "decoder_sparse_step",
        ),
        (
            "qwen3_moe",
            json!({"use_sliding_window": true}),
            "use_sliding_window",
        ),
        (
            "qwen3_moe",
            json!({"num_experts": 3}),
            "model.layers.0.mlp.gate.weight",
        ),
        (
            "gemma",
            json!({"hidden_act": "gelu"}),
            "'hidden_act' is 'gelu'; expected gelu_pytorch_tanh",
        ),
        (
            "gemma2",
            json!({"hidden_activation": "silu"}),
            "hidden_activation",
        ),
        (
            "gemma2",
            json!({"attn_logit_softcapping": -1}),
            "attn_logit_softcapping",
        ),
        (
            "gemma2",
            json!({"query_pre_attn_scalar": 0}),
            "query_pre_attn_scalar",
        ),
        (
            "gemma3_text",
            json!({"use_bidirectional_attention": true}),
            "use_bidirectional_attention",
        ),
        (
            "gemma3_text",
            json!({"layer_types": ["full_attention", "full_attention"]}),
            "layer_types",
        ),
        (
            "gemma3_text",
            json!({"sliding_window_pattern": 0}),
            "sliding_window_pattern",
        ),
        (
            "gemma3_text",
            json!({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2}}}),
            "rope_parameters.sliding_attention.rope_type",
        ),
        (
            "gemma3_text",
            json!({"rope_local_base_freq": -1}),
            "rope_local_base_freq",
        ),
        (
            "phi3",
            json!({"partial_rotary_factor": 1.5}),
            "partial_rotary_factor",
        ),
        (
            "phi3",
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}),
            "factor",
        ),
        (
            "phi3",
            json!({"original_max_position_embeddings": 4,
                "rope_scaling": {"type": "longrope", "short_factor": [1, 1], "long_factor": [1]}}),
            "'rope_scaling.short_factor' is a list of 2",
        ),
        (
            "phi3",
            json!({"original_max_position_embeddings": 4,
                "rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [0]}}),
            "rope_scaling.long_factor",
        ),
        (
            "phi3",
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            "or longrope",
        ),
        ("bert", json!({"is_decoder": true}), "is_decoder"),
        (
            "bert",
            json!({"position_embedding_type": "relative_key"}),
            "position_embedding_type",
        ),
        ("bert", json!({"hidden_act": "mish"}), "hidden_act"),
        (
            "bert",
            json!({"num_attention_heads": 3}),
            "num_attention_heads",
        ),
        (
            "bert",
            json!({"max_position_embeddings": 9}),
            "bert.embeddings.position_embeddings.weight",
        ),
        ("bert", json!({"layer_norm_eps": -1.0}), "layer_norm_eps"),
        ("distilbert", json!({"n_layers": 0}), "n_layers"),
        ("distilbert", json!({"activation": 3}), "activation"),
        (
            "mobilebert",
            json!({"use_bottleneck": false}),
            "use_bottleneck",
        ),
        (
            "mobilebert",
            json!({"normalization_type": "batch"}),
            "normalization_type",
        ),
        (
            "mobilebert",
            json!({"num_feedforward_networks": 3}),
            "mobilebert.encoder.layer.0.ffn.1.",
        ),
        (
            "mobilebert",
            json!({"num_feedforward_networks": huge}),
            "num_feedforward_networks",
        ),
        (
            "mobilebert",
            json!({"embedding_size": 3}),
            "mobilebert.embeddings.word_embeddings.weight",
        ),
    ]
}
