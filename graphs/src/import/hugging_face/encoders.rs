//! Encoders: what their configurations mean.

use super::HuggingFaceError;
use super::config::Config;
use super::tables::{Meta, Translation, has_architecture};

/// Tensors that BERT and MobileBERT share.
const SHARED: &[(&str, &str)] = &[
    ("token_embd", "@embeddings.word_embeddings"),
    ("token_types", "@embeddings.token_type_embeddings"),
    ("position_embd", "@embeddings.position_embeddings"),
    ("token_embd_norm", "@embeddings.LayerNorm"),
    ("blk.#.attn_q", "@encoder.layer.#.attention.self.query"),
    ("blk.#.attn_k", "@encoder.layer.#.attention.self.key"),
    ("blk.#.attn_v", "@encoder.layer.#.attention.self.value"),
    (
        "blk.#.attn_output",
        "@encoder.layer.#.attention.output.dense",
    ),
    (
        "blk.#.attn_output_norm",
        "@encoder.layer.#.attention.output.LayerNorm",
    ),
    ("blk.#.ffn_up", "@encoder.layer.#.intermediate.dense"),
    ("blk.#.ffn_down", "@encoder.layer.#.output.dense"),
    (
        "blk.#.layer_output_norm",
        "@encoder.layer.#.output.LayerNorm",
    ),
];

const DISTILBERT: &[(&str, &str)] = &[
    ("token_embd", "@embeddings.word_embeddings"),
    ("position_embd", "@embeddings.position_embeddings"),
    ("token_embd_norm", "@embeddings.LayerNorm"),
    ("blk.#.attn_q", "@transformer.layer.#.attention.q_lin"),
    ("blk.#.attn_k", "@transformer.layer.#.attention.k_lin"),
    ("blk.#.attn_v", "@transformer.layer.#.attention.v_lin"),
    (
        "blk.#.attn_output",
        "@transformer.layer.#.attention.out_lin",
    ),
    (
        "blk.#.attn_output_norm",
        "@transformer.layer.#.sa_layer_norm",
    ),
    ("blk.#.ffn_up", "@transformer.layer.#.ffn.lin1"),
    ("blk.#.ffn_down", "@transformer.layer.#.ffn.lin2"),
    (
        "blk.#.layer_output_norm",
        "@transformer.layer.#.output_layer_norm",
    ),
];

const BOTTLENECKS: &[(&str, &str)] = &[
    (
        "blk.#.bottleneck",
        "@encoder.layer.#.bottleneck.input.dense",
    ),
    (
        "blk.#.bottleneck_norm",
        "@encoder.layer.#.bottleneck.input.LayerNorm",
    ),
    (
        "blk.#.attn_bottleneck",
        "@encoder.layer.#.bottleneck.attention.dense",
    ),
    (
        "blk.#.attn_bottleneck_norm",
        "@encoder.layer.#.bottleneck.attention.LayerNorm",
    ),
    (
        "blk.#.ffn.#.up",
        "@encoder.layer.#.ffn.#.intermediate.dense",
    ),
    ("blk.#.ffn.#.down", "@encoder.layer.#.ffn.#.output.dense"),
    (
        "blk.#.ffn.#.norm",
        "@encoder.layer.#.ffn.#.output.LayerNorm",
    ),
    ("blk.#.output", "@encoder.layer.#.output.bottleneck.dense"),
    (
        "blk.#.output_norm",
        "@encoder.layer.#.output.bottleneck.LayerNorm",
    ),
];

/// BERT, and what has its form: MiniLM, TinyBERT.
pub(super) fn bert(config: &Config<'_>) -> Result<Translation, HuggingFaceError> {
    let mut t = Translation::new("bert", "bert.");
    figures(config, &mut t)?;
    if !matches!(
        config.text("position_embedding_type")?,
        None | Some("absolute")
    ) {
        return config.refuse("position_embedding_type", "absolute");
    }
    for key in ["is_decoder", "add_cross_attention"] {
        if config.flag(key)? == Some(true) {
            return config.refuse(key, "false: an encoder");
        }
    }
    t.add(true, SHARED);
    head(config, &mut t, Some("@pooler.dense"), "tanh")?;
    Ok(t)
}

/// DistilBERT.
pub(super) fn distilbert(config: &Config<'_>) -> Result<Translation, HuggingFaceError> {
    let mut t = Translation::new("distilbert", "distilbert.");
    t.count(config, "n_layers", "block_count")?;
    t.count(config, "dim", "embedding_length")?;
    t.count(config, "hidden_dim", "feed_forward_length")?;
    t.count(config, "n_heads", "attention.head_count")?;
    t.count(config, "max_position_embeddings", "context_length")?;
    let eps = Meta::Float(1e-12);
    t.set("attention.layer_norm_epsilon", "model_type", eps);
    activation(config, "activation", &mut t)?;
    t.add(true, DISTILBERT);
    head(config, &mut t, Some("pre_classifier"), "relu")?;
    Ok(t)
}

/// MobileBERT.
pub(super) fn mobilebert(config: &Config<'_>) -> Result<Translation, HuggingFaceError> {
    let mut t = Translation::new("mobilebert", "mobilebert.");
    figures(config, &mut t)?;
    if config.flag("use_bottleneck")? == Some(false) {
        return config.refuse("use_bottleneck", "true");
    }
    let flag =
        |key: &str, usual: bool| Ok::<_, HuggingFaceError>(config.flag(key)?.unwrap_or(usual));
    let width = t.count(config, "embedding_size", "token_embedding_length")?;
    t.count(config, "intra_bottleneck_size", "bottleneck_length")?;
    t.count(config, "num_feedforward_networks", "feed_forward_count")?;
    let trigram = flag("trigram_input", true)?;
    t.set("trigram", "trigram_input", Meta::Bool(trigram));
    for (from, key, usual) in [
        (
            "key_query_shared_bottleneck",
            "attention.shared_bottleneck",
            true,
        ),
        ("use_bottleneck_attention", "attention.bottleneck", false),
    ] {
        t.set(key, from, Meta::Bool(flag(from, usual)?));
    }
    let norm = match config.text("normalization_type")? {
        None | Some("no_norm") => "no_norm",
        Some("layer_norm") => "layer_norm",
        Some(_) => return config.refuse("normalization_type", "no_norm or layer_norm"),
    };
    t.set("norm", "normalization_type", Meta::Text(norm));
    t.add(true, SHARED);
    t.add(true, BOTTLENECKS);
    // the tensor is stored even where it isn't used
    if trigram || width != config.required("hidden_size")? {
        let transform = (
            "token_embd_transform",
            "@embeddings.embedding_transformation",
        );
        t.add(true, &[transform]);
    }
    let pooled = flag("classifier_activation", true)?;
    head(config, &mut t, pooled.then_some("@pooler.dense"), "tanh")?;
    Ok(t)
}

/// Figures that BERT and MobileBERT share.
fn figures(config: &Config<'_>, t: &mut Translation) -> Result<(), HuggingFaceError> {
    t.count(config, "num_hidden_layers", "block_count")?;
    t.count(config, "hidden_size", "embedding_length")?;
    t.count(config, "intermediate_size", "feed_forward_length")?;
    t.count(config, "num_attention_heads", "attention.head_count")?;
    t.count(config, "max_position_embeddings", "context_length")?;
    let eps = config.positive("layer_norm_eps")?.unwrap_or(1e-12);
    let key = "attention.layer_norm_epsilon";
    t.set(key, "layer_norm_eps", Meta::Float(eps));
    activation(config, "hidden_act", t)
}

fn activation(
    config: &Config<'_>,
    member: &str,
    t: &mut Translation,
) -> Result<(), HuggingFaceError> {
    let mobile = t.architecture == "mobilebert";
    let ours = match config.text(member)? {
        None if mobile => "relu",
        None | Some("gelu" | "gelu_python") => "gelu",
        Some("gelu_new" | "gelu_fast" | "gelu_pytorch_tanh") => "gelu_new",
        Some("relu") => "relu",
        Some("silu" | "swish") => "silu",
        Some(_) => return config.refuse(member, "gelu, gelu_new, relu or silu"),
    };
    t.set("feed_forward_activation", member, Meta::Text(ours));
    Ok(())
}

/// Adds the head of a classifier of sequences: the layer `pooler` of the first token's vector with
/// its activation, if there is one, and the scores.
fn head(
    config: &Config<'_>,
    t: &mut Translation,
    pooler: Option<&'static str>,
    activation: &'static str,
) -> Result<(), HuggingFaceError> {
    if has_architecture(config, "ForSequenceClassification")? != Some(true) {
        return Ok(());
    }
    let activation = if pooler.is_some() { activation } else { "none" };
    t.set(
        "classifier.activation",
        "architectures",
        Meta::Text(activation),
    );
    if let Some(pooler) = pooler {
        t.add(true, &[("cls", pooler)]);
    }
    t.add(true, &[("cls.output", "classifier")]);
    Ok(())
}
