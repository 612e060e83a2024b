//! Architectures: from a model file's metadata and tensor types to a graph.
//!
//! Every graph of a language model has the same face:
//!
//! | | name | type |
//! |---|---|---|
//! | input | `tokens` | `[T]` I32, each below the vocabulary's size |
//! | input | `positions` | `[T]` I32, `P, P+1, …, P+T−1` |
//! | input | `output_rows` | `[R]` I32, rows `0..T` whose logits are wanted |
//! | output | `logits` node `output.logits` | `[R, vocabulary]` F32 |
//! | states | `layers.N.k`, `layers.N.v` | `[C, kv_heads, head_dim]`, appended along axis 0 |
//!
//! An encoder has no states, the input `token_types` (`[T]` I32, which of two texts a token belongs
//! to) if its file has a table of them, and the output `output.hidden` `[R, hidden]` or, with a
//! head, `output.scores` `[R, labels]`; all tokens of a text go in at once.
//!
//! Nodes of layer `N` start `layers.N.`; the others are `embed` and `output.*`.

mod config;
mod decoder;
mod encoder;
mod encoder_config;
pub mod family;

use std::fmt;
use std::ops::RangeInclusive;

use anynpu_ir::{Graph, Op, RopeStyle, Shape, TensorType, ValueId};

use crate::ModelError;
use crate::import::excerpt;

pub use config::{DecoderConfig, ExpertsConfig, Rope};
use encoder_config::ENCODERS;
pub use encoder_config::{Bottleneck, EncoderConfig, Head, HeadActivation, Norm};
use family::{FAMILIES, Family};

/// Names of the graph's inputs.
pub mod input {
    /// Token ids of the step.
    pub const TOKENS: &str = "tokens";
    /// Their positions.
    pub const POSITIONS: &str = "positions";
    /// Which of two texts each token belongs to; encoders only.
    pub const TOKEN_TYPES: &str = "token_types";
    /// Rows whose results are wanted.
    pub const OUTPUT_ROWS: &str = "output_rows";
    /// What attention adds to scores, so that tokens which a text does not have are not seen: encoders whose texts are
    /// padded only.
    pub const PADDING: &str = "padding";
}

/// Name of the node that gives the logits.
pub const LOGITS: &str = "output.logits";

/// Name of the node that gives an encoder's vectors.
pub const HIDDEN: &str = "output.hidden";

/// Name of the node that gives a classifier's scores.
pub const SCORES: &str = "output.scores";

/// Architectures that [`build`] knows, as files name them.
pub fn known() -> impl Iterator<Item = &'static str> {
    let decoders = FAMILIES.iter().map(|f| f.name);
    decoders.chain(ENCODERS.iter().copied())
}

/// What an architecture reads of a model file. Keys and tensor names are GGUF's; files of other
/// formats translate.
pub trait ModelFile {
    /// The metadata at `key`.
    fn metadata(&self, key: &str) -> Option<MetaValue<'_>>;

    /// Element `index` of the list at `key`, if it is a list that long.
    fn list_item(&self, key: &str, index: usize) -> Option<MetaValue<'_>>;

    /// How its query and key rows are ordered, if not as the architecture's GGUF files have them.
    fn rope_style(&self) -> Option<RopeStyle> {
        None
    }

    /// The type of the tensor called `name` if the file has it, outermost dimension first.
    ///
    /// # Errors
    /// If no graph can hold a tensor of its type.
    fn tensor(&self, name: &str) -> Result<Option<TensorType>, ModelError>;
}

/// One metadata value.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum MetaValue<'a> {
    /// An unsigned integer of any width.
    Unsigned(u64),
    /// A signed integer of any width.
    Signed(i64),
    /// A floating point number of any width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(&'a str),
    /// What should be a text but isn't UTF-8.
    Bytes(&'a [u8]),
    /// A list of this many elements.
    List(usize),
}

impl fmt::Display for MetaValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            MetaValue::Unsigned(n) => n.fmt(f),
            MetaValue::Signed(n) => n.fmt(f),
            MetaValue::Float(x) => x.fmt(f),
            MetaValue::Bool(b) => b.fmt(f),
            MetaValue::Text(t) => write!(f, "'{}'", excerpt(t)),
            MetaValue::Bytes(b) => write!(f, "{} bytes that are not UTF-8", b.len()),
            MetaValue::List(n) => write!(f, "a list of {n}"),
        }
    }
}

/// A graph with the figures of its architecture that a runtime needs.
#[derive(Clone, Debug)]
pub struct Architecture {
    /// The architecture's name, one of [`known`].
    pub name: &'static str,
    /// What it gives.
    pub kind: Kind,
    /// The graph.
    pub graph: Graph,
    /// Positions the model was trained for.
    pub context_length: u32,
    /// If longer contexts than this need another graph (see [`build_for`]): this.
    pub context_switch: Option<u32>,
    /// Tokens the model has logits for.
    pub vocabulary: u32,
    /// Repeated blocks.
    pub layers: u32,
    /// Elements of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
}

/// What a model gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// Logits of the next token.
    Decoder,
    /// A vector a token.
    Encoder,
    /// Scores of a text.
    Classifier,
}

/// Builds the graph of `file` as its `general.architecture` says, for contexts up to
/// [`Architecture::context_switch`].
///
/// # Errors
/// An unknown architecture; metadata or tensors that are missing or don't fit.
pub fn build(file: &dyn ModelFile) -> Result<Architecture, ModelError> {
    build_for(file, 0)
}

/// As [`build`], for a context of `context` tokens.
///
/// # Errors
/// As [`build`].
pub fn build_for(file: &dyn ModelFile, context: u32) -> Result<Architecture, ModelError> {
    let key = "general.architecture";
    match file.metadata(key) {
        Some(MetaValue::Text(name)) => match Family::find(name) {
            Some(family) => decoder::build(file, family, context),
            None => match ENCODERS.iter().find(|e| **e == name) {
                Some(encoder) => encoder::build(file, encoder),
                None => Err(ModelError::UnknownArchitecture {
                    found: excerpt(name),
                    known: known().collect::<Vec<_>>().join(", "),
                }),
            },
        },
        found => Metadata::new(file, "general").refuse(key, found, "the architecture's name"),
    }
}

/// Reads checked figures under an architecture's prefix.
struct Metadata<'f> {
    file: &'f dyn ModelFile,
    prefix: &'static str,
}

impl<'f> Metadata<'f> {
    fn new(file: &'f dyn ModelFile, prefix: &'static str) -> Self {
        Metadata { file, prefix }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn refuse<T>(
        &self,
        key: &str,
        found: Option<MetaValue<'_>>,
        expected: impl Into<String>,
    ) -> Result<T, ModelError> {
        let (key, expected) = (key.to_owned(), expected.into());
        Err(match found {
            None => ModelError::MissingKey { key, expected },
            Some(found) => ModelError::Key {
                key,
                found: found.to_string(),
                expected,
            },
        })
    }

    /// A number in `range`, if the key is there.
    fn count(&self, name: &str, range: RangeInclusive<u32>) -> Result<Option<u32>, ModelError> {
        let key = self.key(name);
        let found = self.file.metadata(&key);
        let number = match found {
            None => return Ok(None),
            Some(MetaValue::Unsigned(n)) => u32::try_from(n).ok(),
            Some(MetaValue::Signed(n)) => u32::try_from(n).ok(),
            Some(_) => None,
        };
        match number.filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => {
                let expected = format!("an integer from {} to {}", range.start(), range.end());
                self.refuse(&key, found, expected)
            }
        }
    }

    /// As [`Metadata::count`], the key being required.
    fn required(&self, name: &str, range: RangeInclusive<u32>) -> Result<u32, ModelError> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        match self.count(name, range)? {
            Some(n) => Ok(n),
            None => self.refuse(&self.key(name), None, expected),
        }
    }

    /// A finite number for which `holds`, if the key is there.
    fn float(
        &self,
        name: &str,
        holds: impl Fn(f32) -> bool,
        expected: &str,
    ) -> Result<Option<f32>, ModelError> {
        let key = self.key(name);
        let found = self.file.metadata(&key);
        let number = match found {
            None => return Ok(None),
            Some(MetaValue::Float(x)) => Some(x as f32),
            Some(MetaValue::Unsigned(n)) => Some(n as f32),
            Some(MetaValue::Signed(n)) => Some(n as f32),
            Some(_) => None,
        };
        match number.filter(|&x| x.is_finite() && holds(x)) {
            Some(x) => Ok(Some(x)),
            None => self.refuse(&key, found, expected),
        }
    }

    /// A truth value; false if the key isn't there.
    fn flag(&self, name: &str) -> Result<bool, ModelError> {
        let key = self.key(name);
        match self.file.metadata(&key) {
            None => Ok(false),
            Some(MetaValue::Bool(b)) => Ok(b),
            found => self.refuse(&key, found, "true or false"),
        }
    }

    /// A text, if the key is there.
    fn text(&self, name: &str) -> Result<Option<&'f str>, ModelError> {
        let key = self.key(name);
        match self.file.metadata(&key) {
            None => Ok(None),
            Some(MetaValue::Text(t)) => Ok(Some(t)),
            found => self.refuse(&key, found, "a text"),
        }
    }
}

/// Adds a file's tensors to a graph as its weights, their shapes checked.
struct Weights<'f> {
    file: &'f dyn ModelFile,
}

impl Weights<'_> {
    /// Whether the file has a tensor called `name`.
    fn has(&self, name: &str) -> Result<bool, ModelError> {
        Ok(self.file.tensor(name)?.is_some())
    }

    /// The tensor called `name`, whose shape must be `dims`.
    fn required(&self, graph: &mut Graph, name: &str, dims: &[u32]) -> Result<ValueId, ModelError> {
        match self.optional(graph, name, dims)? {
            Some(id) => Ok(id),
            None => Err(ModelError::MissingTensor {
                name: name.into(),
                expected: Shape::fixed(dims).to_string(),
            }),
        }
    }

    /// As [`Weights::required`] if the file has the tensor.
    fn optional(
        &self,
        graph: &mut Graph,
        name: &str,
        dims: &[u32],
    ) -> Result<Option<ValueId>, ModelError> {
        let Some(ty) = self.file.tensor(name)? else {
            return Ok(None);
        };
        let expected = Shape::fixed(dims);
        if ty.shape != expected {
            return Err(ModelError::TensorShape {
                name: name.into(),
                found: ty,
                expected: expected.to_string(),
            });
        }
        Ok(Some(graph.add_weight(name, ty)?))
    }
}

impl Weights<'_> {
    /// Node `name`: the product of `x` with tensor `from.weight` of shape `dims`, and tensor
    /// `from.bias` added if the file has it.
    fn linear(
        &self,
        graph: &mut Graph,
        name: &str,
        from: &str,
        x: ValueId,
        dims: [u32; 2],
    ) -> Result<ValueId, ModelError> {
        let weight = self.required(graph, &format!("{from}.weight"), &dims)?;
        let bias = self.optional(graph, &format!("{from}.bias"), &dims[..1])?;
        let mut operands = vec![x, weight];
        operands.extend(bias);
        Ok(graph.add(name, Op::Linear, &operands)?)
    }
}

/// The name of a node of layer `n`.
fn layer_name(n: u32, name: &str) -> String {
    format!("layers.{n}.{name}")
}

#[cfg(test)]
pub(crate) mod tests;
