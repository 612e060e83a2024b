//! The figures of an encoder, read from a file's metadata.

use anynpu_ir::Activation;

use super::config::{MAX_CONTEXT, MAX_HEADS, MAX_LAYERS, MAX_WIDTH};
use super::{MetaValue, Metadata, ModelFile};
use crate::ModelError;

/// Architectures of encoders, as files name them.
pub(super) const ENCODERS: &[&str] = &["bert", "distilbert", "mobilebert"];

/// The figures of an encoder, checked against one another.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Repeated blocks.
    pub layers: u32,
    /// Elements of a token's vector between blocks.
    pub hidden: u32,
    /// Elements of a token's vector within a block; `hidden` but for [`EncoderConfig::bottleneck`].
    pub width: u32,
    /// Elements between the feed-forward layers.
    pub ffn: u32,
    /// Feed-forward layers of a block.
    pub feed_forwards: u32,
    /// Attention heads; divides `width`.
    pub heads: u32,
    /// Tokens.
    pub vocabulary: u32,
    /// Elements of a row of the token table.
    pub token_width: u32,
    /// Rows of the table of token types.
    pub token_types: u32,
    /// Positions the model has.
    pub context_length: u32,
    /// Beside each token's row stand those of its neighbours.
    pub trigram: bool,
    /// How vectors are normed.
    pub norm: Norm,
    /// Between the feed-forward layers.
    pub activation: Activation,
    /// Whether blocks work on fewer elements than they take, and how attention is fed then.
    pub bottleneck: Option<Bottleneck>,
    /// What makes scores of a text.
    pub head: Option<Head>,
}

/// How vectors are normed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Norm {
    /// Mean and variance taken out, then scaled and shifted.
    Layer {
        /// Added to the variance.
        eps: f32,
    },
    /// Scaled and shifted only.
    Affine,
}

/// Where attention within a bottleneck takes its operands from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bottleneck {
    /// All from the block's input.
    Own,
    /// Queries and keys from a bottleneck of their own, values from the block's input.
    SharedQueryKey,
    /// All from the bottleneck.
    All,
}

/// What makes scores of a text from the vector of its first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Scores.
    pub labels: u32,
    /// Between the pooling layer and the scores.
    pub activation: HeadActivation,
}

/// An activation of a [`Head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadActivation {
    /// The identity.
    None,
    /// tanh.
    Tanh,
    /// max(x, 0).
    Relu,
}

impl EncoderConfig {
    /// Reads and checks the metadata of `file`, an encoder called `name`.
    ///
    /// # Errors
    /// Names the key that is missing or doesn't fit, with what was found and what would fit.
    pub fn read(file: &dyn ModelFile, name: &'static str) -> Result<Self, ModelError> {
        let meta = Metadata::new(file, name);
        let mobile = name == "mobilebert";
        let hidden = meta.required("embedding_length", 1..=MAX_WIDTH)?;
        let heads = meta.required("attention.head_count", 1..=MAX_HEADS)?;
        let narrow = match mobile {
            true => Some(meta.required("bottleneck_length", 1..=MAX_WIDTH)?),
            false => None,
        };
        let width = narrow.unwrap_or(hidden);
        if !width.is_multiple_of(heads) {
            return Err(ModelError::Key {
                key: meta.key("attention.head_count"),
                found: heads.to_string(),
                expected: format!("a divisor of the block's width, which is {width}"),
            });
        }
        let token_width = match mobile {
            true => meta.required("token_embedding_length", 1..=MAX_WIDTH)?,
            false => hidden,
        };
        let feed_forwards = match mobile {
            true => meta.required("feed_forward_count", 1..=MAX_LAYERS)?,
            false => 1,
        };
        let bottleneck = match (
            mobile,
            meta.flag("attention.bottleneck")?,
            meta.flag("attention.shared_bottleneck")?,
        ) {
            (false, ..) => None,
            (true, true, _) => Some(Bottleneck::All),
            (true, false, true) => Some(Bottleneck::SharedQueryKey),
            (true, false, false) => Some(Bottleneck::Own),
        };
        Ok(EncoderConfig {
            layers: meta.required("block_count", 1..=MAX_LAYERS)?,
            hidden,
            width,
            ffn: meta.required("feed_forward_length", 1..=MAX_WIDTH)?,
            feed_forwards,
            heads,
            vocabulary: rows(file, "token_embd.weight", token_width)?,
            token_width,
            token_types: match file.tensor("token_types.weight")? {
                Some(_) => rows(file, "token_types.weight", hidden)?,
                None => 0,
            },
            context_length: meta.required("context_length", 1..=MAX_CONTEXT)?,
            trigram: mobile && meta.flag("trigram")?,
            norm: norm(&meta)?,
            activation: activation(&meta)?,
            bottleneck,
            head: head(file, &meta, hidden)?,
        })
    }
}

/// Rows of a table of `width` columns.
fn rows(file: &dyn ModelFile, name: &str, width: u32) -> Result<u32, ModelError> {
    let expected = || format!("[rows, {width}]");
    let Some(ty) = file.tensor(name)? else {
        return Err(ModelError::MissingTensor {
            name: name.into(),
            expected: expected(),
        });
    };
    match ty.shape.as_fixed().as_deref() {
        Some(&[rows, cols]) if cols == width && (1..=MAX_CONTEXT).contains(&rows) => Ok(rows),
        _ => Err(ModelError::TensorShape {
            name: name.into(),
            found: ty,
            expected: expected(),
        }),
    }
}

fn norm(meta: &Metadata<'_>) -> Result<Norm, ModelError> {
    match meta.text("norm")? {
        Some("no_norm") => Ok(Norm::Affine),
        None | Some("layer_norm") => {
            let eps = "attention.layer_norm_epsilon";
            match meta.float(eps, |x| (0.0..1.0).contains(&x), "from 0 to 1")? {
                Some(eps) => Ok(Norm::Layer { eps }),
                None => meta.refuse(&meta.key(eps), None, "a number from 0 to 1"),
            }
        }
        Some(other) => {
            let found = Some(MetaValue::Text(other));
            meta.refuse(&meta.key("norm"), found, "layer_norm or no_norm")
        }
    }
}

/// The activation between the feed-forward layers; GGUF's files name none and mean GELU.
fn activation(meta: &Metadata<'_>) -> Result<Activation, ModelError> {
    let name = "feed_forward_activation";
    Ok(match meta.text(name)? {
        None | Some("gelu") => Activation::Gelu,
        Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        Some("silu" | "swish") => Activation::Silu,
        Some(other) => {
            let found = Some(MetaValue::Text(other));
            return meta.refuse(&meta.key(name), found, "gelu, gelu_new, relu or silu");
        }
    })
}

/// The head, if the file has its tensors.
fn head(
    file: &dyn ModelFile,
    meta: &Metadata<'_>,
    hidden: u32,
) -> Result<Option<Head>, ModelError> {
    if file.tensor("cls.output.weight")?.is_none() {
        return Ok(None);
    }
    let name = "classifier.activation";
    let activation = match meta.text(name)? {
        None | Some("tanh") => HeadActivation::Tanh,
        Some("relu") => HeadActivation::Relu,
        Some("none") => HeadActivation::None,
        Some(other) => {
            let found = Some(MetaValue::Text(other));
            return meta.refuse(&meta.key(name), found, "tanh, relu or none");
        }
    };
    Ok(Some(Head {
        labels: rows(file, "cls.output.weight", hidden)?,
        activation,
    }))
}
