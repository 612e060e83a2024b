//! Decoders: what their configurations mean.

use serde_json::Value;

use super::HuggingFaceError;
use super::config::Config;
use super::rope::{self, UsualRope};
use super::tables::{Form, Meta, Translation, has_architecture};
use crate::arch::family::Family;

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
    norm_eps: f64,
    /// Whether the embedding serves as the output matrix where nothing is said.
    tied: bool,
    rope: UsualRope,
    layer: Layer,
    experts: Experts,
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
    All(Option<u32>),
    /// With `use_sliding_window`: those of `layer_types`, or from `max_window_layers` on.
    Upper {
        width: u32,
        from: u32,
    },
    /// Those of `layer_types`, or all but every so many.
    Pattern {
        width: u32,
        period: u32,
    },
}

/// What the tensors of a layer are.
#[derive(Debug, PartialEq)]
enum Layer {
    /// A matrix for each projection.
    Plain,
    /// One for queries, keys and values, and one for gate and up.
    Joined,
    /// As `Plain`, with norms that are stored less 1, and GELU for SiLU.
    Gemma,
    /// As `Gemma`, with the results of both parts normed, too, and figures of scores and logits.
    GemmaPostNorms,
}

/// The mixture of experts in each layer.
#[derive(Debug, PartialEq)]
enum Experts {
    None,
    Mixtral,
    Qwen,
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
    norm_eps: 1e-6,
    tied: false,
    rope: UsualRope {
        base: 10_000.0,
        window_base: None,
        partial: false,
        long: false,
    },
    layer: Layer::Plain,
    experts: Experts::None,
};

const QWEN: Decoder = Decoder {
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
};

const GEMMA: Decoder = Decoder {
    model_type: "gemma",
    architecture: "gemma",
    kv_heads_are_heads: false,
    head_dim: Some(256),
    mlp_bias: false,
    tied: true,
    layer: Layer::Gemma,
    ..LLAMA
};

const DECODERS: &[Decoder] = &[
    LLAMA,
    Decoder {
        model_type: "mistral",
        kv_heads_are_heads: false,
        attention_bias: Bias::Never,
        mlp_bias: false,
        window: Window::All(Some(4096)),
        ..LLAMA
    },
    Decoder {
        model_type: "mixtral",
        kv_heads_are_heads: false,
        attention_bias: Bias::Never,
        mlp_bias: false,
        window: Window::All(None),
        norm_eps: 1e-5,
        rope: UsualRope {
            base: 1e6,
            ..LLAMA.rope
        },
        experts: Experts::Mixtral,
        ..LLAMA
    },
    QWEN,
    Decoder {
        model_type: "qwen3",
        architecture: "qwen3",
        head_dim: Some(128),
        attention_bias: Bias::Told,
        head_norms: true,
        ..QWEN
    },
    Decoder {
        model_type: "qwen3_moe",
        architecture: "qwen3moe",
        attention_bias: Bias::Told,
        window: Window::Never,
        head_norms: true,
        experts: Experts::Qwen,
        ..QWEN
    },
    GEMMA,
    Decoder {
        model_type: "gemma2",
        architecture: "gemma2",
        window: Window::Pattern {
            width: 4096,
            period: 2,
        },
        layer: Layer::GemmaPostNorms,
        ..GEMMA
    },
    Decoder {
        model_type: "gemma3_text",
        architecture: "gemma3",
        window: Window::Pattern {
            width: 4096,
            period: 6,
        },
        head_norms: true,
        rope: UsualRope {
            base: 1e6,
            window_base: Some(10_000.0),
            ..LLAMA.rope
        },
        layer: Layer::GemmaPostNorms,
        ..GEMMA
    },
    Decoder {
        model_type: "phi3",
        architecture: "phi3",
        attention_bias: Bias::Never,
        mlp_bias: false,
        window: Window::All(None),
        norm_eps: 1e-5,
        rope: UsualRope {
            partial: true,
            long: true,
            ..LLAMA.rope
        },
        layer: Layer::Joined,
        ..LLAMA
    },
];

pub(super) fn find(model_type: &str) -> Option<&'static Decoder> {
    DECODERS.iter().find(|d| d.model_type == model_type)
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    DECODERS.iter().map(|d| d.model_type)
}

impl Decoder {
    fn is_gemma(&self) -> bool {
        matches!(self.layer, Layer::Gemma | Layer::GemmaPostNorms)
    }
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
    let hidden = t.count(config, "hidden_size", "embedding_length")?;
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
    let own_dim = config.count("head_dim")?.or(decoder.head_dim);
    if let Some(dim) = own_dim {
        for key in ["attention.key_length", "attention.value_length"] {
            t.set(key, "head_dim", Meta::Unsigned(dim.into()));
        }
    }
    let head_dim = own_dim.unwrap_or(hidden / heads);
    let eps = config.positive("rms_norm_eps")?.unwrap_or(decoder.norm_eps);
    let key = "attention.layer_norm_rms_epsilon";
    t.set(key, "rms_norm_eps", Meta::Float(eps));
    activation(config, decoder)?;
    rope::translate(config, &decoder.rope, head_dim, &mut t)?;
    window(config, decoder, layers, &mut t)?;
    experts(config, decoder, &mut t)?;
    if decoder.layer == Layer::GemmaPostNorms {
        scores(config, decoder, [layers, hidden, heads, head_dim], &mut t)?;
    }
    tensors(config, decoder, &mut t)?;
    Ok(t)
}

/// Checks the activation of the feed-forward layers.
fn activation(config: &Config<'_>, decoder: &Decoder) -> Result<(), HuggingFaceError> {
    if !decoder.is_gemma() {
        return match config.text("hidden_act")? {
            None | Some("silu" | "swish") => Ok(()),
            Some(_) => config.refuse("hidden_act", "silu"),
        };
    }
    let member = match config.get("hidden_activation") {
        Some(_) => "hidden_activation",
        None => "hidden_act",
    };
    match config.text(member)? {
        None | Some("gelu_pytorch_tanh" | "gelu_new") => Ok(()),
        Some(_) => config.refuse(member, "gelu_pytorch_tanh"),
    }
}

/// Adds the mixture of experts.
fn experts(
    config: &Config<'_>,
    decoder: &Decoder,
    t: &mut Translation,
) -> Result<(), HuggingFaceError> {
    let count = match decoder.experts {
        Experts::None => return Ok(()),
        Experts::Qwen if config.get("num_experts").is_some() => "num_experts",
        Experts::Mixtral | Experts::Qwen => "num_local_experts",
    };
    t.experts = t.count(config, count, "expert_count")?;
    t.count(config, "num_experts_per_tok", "expert_used_count")?;
    if decoder.experts == Experts::Mixtral {
        return Ok(());
    }
    let width = "expert_feed_forward_length";
    t.count(config, "moe_intermediate_size", width)?;
    if config.flag("norm_topk_prob")? != Some(true) {
        return config.refuse(
            "norm_topk_prob",
            "true: weights of experts that sum to 1, as GGUF has them",
        );
    }
    if config.count("decoder_sparse_step")?.is_some_and(|n| n != 1) {
        return config.refuse("decoder_sparse_step", "1: experts in every layer");
    }
    if config
        .list("mlp_only_layers")?
        .is_some_and(|l| !l.is_empty())
    {
        return config.refuse("mlp_only_layers", "none: experts in every layer");
    }
    match config.flag("use_sliding_window")? {
        Some(true) => config.refuse("use_sliding_window", "false"),
        _ => Ok(()),
    }
}

/// Adds Gemma's figures of scores and logits.
fn scores(
    config: &Config<'_>,
    decoder: &Decoder,
    [layers, hidden, heads, head_dim]: [u32; 4],
    t: &mut Translation,
) -> Result<(), HuggingFaceError> {
    for member in ["attn_logit_softcapping", "final_logit_softcapping"] {
        let cap = match config.positive(member)? {
            Some(cap) => cap,
            // null stands for none, which is 0 in GGUF, and a missing member for the usual
            None if config.members.contains_key(member) => 0.0,
            None => continue,
        };
        t.set(member, member, Meta::Float(cap));
    }
    let wide = Family::find(decoder.architecture)
        .is_some_and(|family| family.wide_scale_layers.contains(&layers));
    let usual = if wide { hidden / heads } else { head_dim };
    let member = "query_pre_attn_scalar";
    let scalar = config.positive(member)?.unwrap_or(256.0);
    if scalar != f64::from(usual) {
        let scale = Meta::Float(1.0 / scalar.sqrt());
        t.set("attention.scale", member, scale);
    }
    match config.flag("use_bidirectional_attention")? {
        Some(true) => config.refuse("use_bidirectional_attention", "false"),
        _ => Ok(()),
    }
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
    let form = match decoder.is_gemma() {
        true => Form::PlusOne,
        false => Form::Plain,
    };
    t.add(false, &[("token_embd", "@embed_tokens")]);
    t.add_as(form, false, &[("output_norm", "@norm")]);
    t.add_as(form, false, norms(decoder));
    t.add(
        output,
        &[("blk.#.attn_output", "@layers.#.self_attn.o_proj")],
    );
    if decoder.layer == Layer::Joined {
        t.add(
            false,
            &[
                ("blk.#.attn_qkv", "@layers.#.self_attn.qkv_proj"),
                ("blk.#.ffn_up", "@layers.#.mlp.gate_up_proj"),
                ("blk.#.ffn_down", "@layers.#.mlp.down_proj"),
            ],
        );
    } else {
        t.add(
            inputs,
            &[
                ("blk.#.attn_q", "@layers.#.self_attn.q_proj"),
                ("blk.#.attn_k", "@layers.#.self_attn.k_proj"),
                ("blk.#.attn_v", "@layers.#.self_attn.v_proj"),
            ],
        );
    }
    match (&decoder.experts, &decoder.layer) {
        (Experts::None, Layer::Joined) => {}
        (Experts::None, _) => t.add(
            mlp,
            &[
                ("blk.#.ffn_gate", "@layers.#.mlp.gate_proj"),
                ("blk.#.ffn_up", "@layers.#.mlp.up_proj"),
                ("blk.#.ffn_down", "@layers.#.mlp.down_proj"),
            ],
        ),
        (Experts::Mixtral, _) => {
            let router = ("blk.#.ffn_gate_inp", "@layers.#.block_sparse_moe.gate");
            t.add(false, &[router]);
            t.add_as(Form::Experts, false, MIXTRAL);
        }
        (Experts::Qwen, _) => {
            t.add(false, &[("blk.#.ffn_gate_inp", "@layers.#.mlp.gate")]);
            t.add_as(Form::Experts, false, QWEN_EXPERTS);
        }
    }
    if decoder.head_norms {
        t.add_as(
            form,
            false,
            &[
                ("blk.#.attn_q_norm", "@layers.#.self_attn.q_norm"),
                ("blk.#.attn_k_norm", "@layers.#.self_attn.k_norm"),
            ],
        );
    }
    let tied = config.flag("tie_word_embeddings")?;
    if !tied.unwrap_or(decoder.tied) {
        t.add(false, &[("output", "lm_head")]);
    }
    Ok(())
}

const MIXTRAL: &[(&str, &str)] = &[
    (
        "blk.#.ffn_gate_exps",
        "@layers.#.block_sparse_moe.experts.*.w1",
    ),
    (
        "blk.#.ffn_up_exps",
        "@layers.#.block_sparse_moe.experts.*.w3",
    ),
    (
        "blk.#.ffn_down_exps",
        "@layers.#.block_sparse_moe.experts.*.w2",
    ),
];

const QWEN_EXPERTS: &[(&str, &str)] = &[
    ("blk.#.ffn_gate_exps", "@layers.#.mlp.experts.*.gate_proj"),
    ("blk.#.ffn_up_exps", "@layers.#.mlp.experts.*.up_proj"),
    ("blk.#.ffn_down_exps", "@layers.#.mlp.experts.*.down_proj"),
];

/// The norms of a layer.
fn norms(decoder: &Decoder) -> &'static [(&'static str, &'static str)] {
    match decoder.layer {
        Layer::GemmaPostNorms => &[
            ("blk.#.attn_norm", "@layers.#.input_layernorm"),
            (
                "blk.#.post_attention_norm",
                "@layers.#.post_attention_layernorm",
            ),
            ("blk.#.ffn_norm", "@layers.#.pre_feedforward_layernorm"),
            (
                "blk.#.post_ffw_norm",
                "@layers.#.post_feedforward_layernorm",
            ),
        ],
        _ => &[
            ("blk.#.attn_norm", "@layers.#.input_layernorm"),
            ("blk.#.ffn_norm", "@layers.#.post_attention_layernorm"),
        ],
    }
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
    let width = |usual: Option<u32>| match told {
        true => config.count(key),
        false => Ok(usual),
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
            let width = if used { width(Some(usual))? } else { None };
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
        Window::Pattern {
            width: usual,
            period,
        } => {
            let windowed = match types {
                Some(types) => layer_types(config, types)?,
                None => {
                    let own = ["sliding_window_pattern", "_sliding_window_pattern"];
                    let member = own.into_iter().find(|m| config.get(m).is_some());
                    let period = match member {
                        Some(member) => config.required(member)?,
                        None => period,
                    };
                    (1..=layers.min(MAX_LISTED))
                        .map(|n| n % period != 0)
                        .collect()
                }
            };
            // 0 stands for none in GGUF, where a missing width would be the usual one
            let none = Meta::Unsigned(0);
            t.set("attention.sliding_window", key, none);
            (width(Some(usual))?, windowed)
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
