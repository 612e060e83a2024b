//! Decoders: what their configurations mean.

use serde_json::Value;

use super::HuggingFaceError;
use super::config::Config;
use super::rope;
use super::tables::{Meta, Translation, has_architecture};

/// How the configurations of one `model_type` are read. Where a member is missing, the value holds
/// that the type's class in the transformers package has.
#[derive(Debug)]
pub(super) struct Decoder {
    model_type: &'static str,
    /// GGUF's name.
    architecture: &'static str,
    /// Whether a missing count of key and value heads stands for as many as query heads.
    kv_heads_are_heads: bool,
    /// Elements of a head where none are given; else the hidden size is divided by the heads.
    head_dim: Option<u32>,
    attention_bias: Bias,
    /// Whether `mlp_bias` is a member.
    mlp_bias: bool,
    window: Window,
    head_norms: bool,
}

/// Which attention projections have a bias.
#[derive(Debug, PartialEq)]
enum Bias {
    Never,
    /// All, if the member `attention_bias` says so.
    Told,
    /// Queries, keys and values.
    Inputs,
}

/// Which layers see a sliding window only.
#[derive(Debug, PartialEq)]
enum Window {
    Never,
    /// All, if there is one; a missing width is this.
    All(u32),
    /// With `use_sliding_window`: those of `layer_types`, or from `max_window_layers` on.
    Upper {
        width: u32,
        from: u32,
    },
}

const LLAMA: Decoder = Decoder {
    model_type: "llama",
    architecture: "llama",
    kv_heads_are_heads: true,
    head_dim: None,
    attention_bias: Bias::Told,
    mlp_bias: true,
    window: Window::Never,
    head_norms: false,
};

const DECODERS: &[Decoder] = &[
    LLAMA,
    Decoder {
        model_type: "mistral",
        kv_heads_are_heads: false,
        attention_bias: Bias::Never,
        mlp_bias: false,
        window: Window::All(4096),
        ..LLAMA
    },
    Decoder {
        model_type: "qwen2",
        architecture: "qwen2",
        kv_heads_are_heads: false,
        attention_bias: Bias::Inputs,
        mlp_bias: false,
        window: Window::Upper {
            width: 4096,
            from: 28,
        },
        ..LLAMA
    },
    Decoder {
        model_type: "qwen3",
        architecture: "qwen3",
        kv_heads_are_heads: false,
        head_dim: Some(128),
        mlp_bias: false,
        window: Window::Upper {
            width: 4096,
            from: 28,
        },
        head_norms: true,
        ..LLAMA
    },
];

pub(super) fn find(model_type: &str) -> Option<&'static Decoder> {
    DECODERS.iter().find(|d| d.model_type == model_type)
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    DECODERS.iter().map(|d| d.model_type)
}

pub(super) fn translate(
    config: &Config<'_>,
    decoder: &Decoder,
) -> Result<Translation, HuggingFaceError> {
    let mut t = Translation::new(decoder.architecture, "model.");
    t.half_split_rope = true;
    let causal = has_architecture(config, "ForCausalLM")?.unwrap_or(true);
    if !causal && !has_architecture(config, "Model")?.unwrap_or(true) {
        return config.refuse("architectures", "one that ends in ForCausalLM or Model");
    }
    let layers = t.count(config, "num_hidden_layers", "block_count")?;
    t.count(config, "hidden_size", "embedding_length")?;
    t.count(config, "intermediate_size", "feed_forward_length")?;
    t.count(config, "max_position_embeddings", "context_length")?;
    let heads = t.count(config, "num_attention_heads", "attention.head_count")?;
    let kv_heads = "num_key_value_heads";
    let absent_is_heads = decoder.kv_heads_are_heads || config.members.contains_key(kv_heads);
    match config.count(kv_heads)? {
        Some(n) => t.set(
            "attention.head_count_kv",
            kv_heads,
            Meta::Unsigned(n.into()),
        ),
        None if absent_is_heads => {
            let heads = Meta::Unsigned(heads.into());
            t.set("attention.head_count_kv", kv_heads, heads);
        }
        None => return config.refuse(kv_heads, "an integer"),
    }
    if let Some(dim) = config.count("head_dim")?.or(decoder.head_dim) {
        for key in ["attention.key_length", "attention.value_length"] {
            t.set(key, "head_dim", Meta::Unsigned(dim.into()));
        }
    }
    let eps = config.positive("rms_norm_eps")?.unwrap_or(1e-6);
    let key = "attention.layer_norm_rms_epsilon";
    t.set(key, "rms_norm_eps", Meta::Float(eps));
    if !matches!(config.text("hidden_act")?, None | Some("silu" | "swish")) {
        return config.refuse("hidden_act", "silu");
    }
    rope::translate(config, &mut t)?;
    window(config, decoder, layers, &mut t)?;
    tensors(config, decoder, &mut t)?;
    Ok(t)
}

fn tensors(
    config: &Config<'_>,
    decoder: &Decoder,
    t: &mut Translation,
) -> Result<(), HuggingFaceError> {
    let told = config.flag("attention_bias")?.unwrap_or(false);
    let (inputs, output) = match decoder.attention_bias {
        Bias::Told => (told, told),
        Bias::Inputs => (true, false),
        Bias::Never => (false, false),
    };
    let mlp = decoder.mlp_bias && config.flag("mlp_bias")?.unwrap_or(false);
    t.add(
        false,
        &[
            ("token_embd", "@embed_tokens"),
            ("output_norm", "@norm"),
            ("blk.#.attn_norm", "@layers.#.input_layernorm"),
            ("blk.#.ffn_norm", "@layers.#.post_attention_layernorm"),
        ],
    );
    t.add(
        inputs,
        &[
            ("blk.#.attn_q", "@layers.#.self_attn.q_proj"),
            ("blk.#.attn_k", "@layers.#.self_attn.k_proj"),
            ("blk.#.attn_v", "@layers.#.self_attn.v_proj"),
        ],
    );
    t.add(
        output,
        &[("blk.#.attn_output", "@layers.#.self_attn.o_proj")],
    );
    t.add(
        mlp,
        &[
            ("blk.#.ffn_gate", "@layers.#.mlp.gate_proj"),
            ("blk.#.ffn_up", "@layers.#.mlp.up_proj"),
            ("blk.#.ffn_down", "@layers.#.mlp.down_proj"),
        ],
    );
    if decoder.head_norms {
        t.add(
            false,
            &[
                ("blk.#.attn_q_norm", "@layers.#.self_attn.q_norm"),
                ("blk.#.attn_k_norm", "@layers.#.self_attn.k_norm"),
            ],
        );
    }
    if !config.flag("tie_word_embeddings")?.unwrap_or(false) {
        t.add(false, &[("output", "lm_head")]);
    }
    Ok(())
}

/// Adds the window and the layers that have it.
fn window(
    config: &Config<'_>,
    decoder: &Decoder,
    layers: u32,
    t: &mut Translation,
) -> Result<(), HuggingFaceError> {
    let key = "sliding_window";
    // null stands for none, and a missing member for the usual
    let told = config.members.contains_key(key);
    let width = |usual: u32| match told {
        true => config.count(key),
        false => Ok(Some(usual)),
    };
    let types = config.list("layer_types")?;
    if types.is_some_and(|types| types.len() != layers as usize) {
        return config.refuse("layer_types", format!("a list of {layers}, one a layer"));
    }
    let (width, windowed) = match decoder.window {
        Window::Never => return Ok(()),
        Window::All(_) if types.is_some() => {
            return config.refuse("layer_types", "none, as all layers are alike");
        }
        Window::All(usual) => (width(usual)?, vec![true; layers.min(MAX_LISTED) as usize]),
        Window::Upper { width: usual, from } => {
            let used = config.flag("use_sliding_window")?.unwrap_or(false);
            let width = if used { width(usual)? } else { None };
            let from = config.count("max_window_layers")?.unwrap_or(from);
            let windowed = match types {
                Some(types) => layer_types(config, types)?,
                None => (0..layers.min(MAX_LISTED)).map(|n| n >= from).collect(),
            };
            if types.is_some() && width.is_none() && windowed.contains(&true) {
                return config.refuse(
                    "layer_types",
                    "full_attention only, as there is no sliding_window",
                );
            }
            (width, windowed)
        }
    };
    let Some(width) = width else {
        return Ok(());
    };
    if width == 0 {
        return config.refuse(key, "an integer above 0, or null");
    }
    t.set(
        "attention.sliding_window",
        key,
        Meta::Unsigned(width.into()),
    );
    let key = "attention.sliding_window_pattern";
    t.set(key, "layer_types", Meta::Flags(windowed));
    Ok(())
}

/// More layers than any model has; architectures refuse so many.
const MAX_LISTED: u32 = 1 << 16;

/// Whether each layer has a window.
fn layer_types(config: &Config<'_>, types: &[Value]) -> Result<Vec<bool>, HuggingFaceError> {
    let windowed = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    match types.iter().map(windowed).collect() {
        Some(windowed) => Ok(windowed),
        None => config.refuse("layer_types", "full_attention and sliding_attention only"),
    }
}
