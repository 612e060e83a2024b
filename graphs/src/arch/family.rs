//! The families of decoders: what their files say only by the architecture's name.

use anynpu_ir::{Activation, RopeStyle};

/// How a family of decoders differs from the others.
///
/// All are `x + attention(norm(x))`, then `x + ffn(norm(x))`, with RMS norms, rotary positions,
/// grouped-query attention and a gated feed-forward layer. Biases, joined projections (`attn_qkv`,
/// `ffn_up` holding gate and up) and an output matrix of its own are used wherever a file has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// The architecture's name in files.
    pub name: &'static str,
    /// Which elements of a head rotate together.
    pub rope: RopeStyle,
    /// Applied to the gate.
    pub activation: Activation,
    /// The embedding is multiplied by √hidden.
    pub scaled_embedding: bool,
    /// Attention and feed-forward results are normed before they are added.
    pub post_norms: bool,
    /// Each head of the queries and keys is normed before it rotates.
    pub head_norms: bool,
    /// Whether feed-forward layers may or must be mixtures of experts.
    pub experts: Experts,
    /// Which layers see a sliding window only.
    pub windows: Windows,
    /// Bounds of attention scores and of logits where the file names none.
    pub soft_caps: Option<SoftCaps>,
    /// Numbers of layers for which scores are divided by √(hidden/heads) instead of √head_dim:
    /// those of the family's largest models, which files don't tell otherwise.
    pub wide_scale_layers: &'static [u32],
}

/// Whether a family has mixtures of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Experts {
    /// No file of the family has.
    Never,
    /// Those whose `expert_count` is above zero.
    Optional,
    /// All.
    Always,
}

/// Which layers of a family see a sliding window only.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Windows {
    /// Those that the metadata lists one by one, if it does; a width alone is not used.
    Listed,
    /// All but every `period`-th layer, where the file names no other pattern.
    Pattern {
        /// Layers of a repetition, the last of which sees everything.
        period: u32,
        /// Width where the file names none; without either there are no windows.
        default: Option<u32>,
        /// Rotary base of the windowed layers where the file names none; theirs are unscaled. `None`:
        /// they rotate as the others.
        rope_base: Option<f32>,
    },
}

/// Bounds of magnitudes, `cap · tanh(x / cap)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoftCaps {
    /// Of attention scores.
    pub attention: Option<f32>,
    /// Of logits.
    pub logits: Option<f32>,
}

/// What most families are.
const PLAIN: Family = Family {
    name: "llama",
    rope: RopeStyle::HalfSplit,
    activation: Activation::Silu,
    scaled_embedding: false,
    post_norms: false,
    head_norms: false,
    experts: Experts::Never,
    windows: Windows::Listed,
    soft_caps: None,
    wide_scale_layers: &[],
};

const GEMMA: Family = Family {
    name: "gemma",
    activation: Activation::GeluTanh,
    scaled_embedding: true,
    ..PLAIN
};

/// Every family.
pub const FAMILIES: &[Family] = &[
    // Query and key rows of its files are ordered for neighbours to rotate together.
    Family {
        rope: RopeStyle::Interleaved,
        experts: Experts::Optional,
        ..PLAIN
    },
    Family {
        name: "qwen2",
        ..PLAIN
    },
    Family {
        name: "qwen3",
        head_norms: true,
        ..PLAIN
    },
    Family {
        name: "qwen3moe",
        head_norms: true,
        experts: Experts::Always,
        ..PLAIN
    },
    GEMMA,
    Family {
        name: "gemma2",
        post_norms: true,
        windows: Windows::Pattern {
            period: 2,
            default: Some(4096),
            rope_base: None,
        },
        soft_caps: Some(SoftCaps {
            attention: Some(50.0),
            logits: Some(30.0),
        }),
        wide_scale_layers: &[46],
        ..GEMMA
    },
    Family {
        name: "gemma3",
        post_norms: true,
        head_norms: true,
        windows: Windows::Pattern {
            period: 6,
            default: None,
            rope_base: Some(10_000.0),
        },
        soft_caps: Some(SoftCaps {
            attention: None,
            logits: None,
        }),
        wide_scale_layers: &[62],
        ..GEMMA
    },
    // Its files' windows are not to be trusted: converters wrote wrong ones, and other engines
    // ignore them too.
    Family {
        name: "phi3",
        ..PLAIN
    },
];

impl Family {
    /// The family that files call `name`.
    pub fn find(name: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|f| f.name == name)
    }
}
