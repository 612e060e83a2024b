//! The figures of a decoder, read from a file's metadata.

use anynpu_ir::RopeScaling;

use super::decoder::EMBEDDING;
use super::family::{Experts, Family, SoftCaps, Windows};
use super::{MetaValue, Metadata, ModelFile};
use crate::ModelError;

/// The figures of a decoder, checked against one another.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// What the architecture's name says.
    pub family: &'static Family,
    /// Repeated blocks.
    pub layers: u32,
    /// Elements of the residual stream.
    pub hidden: u32,
    /// Elements between the feed-forward layers; of an expert where [`DecoderConfig::experts`] is
    /// given.
    pub ffn: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Elements of a query or key head.
    pub key_dim: u32,
    /// Elements of a value head.
    pub value_dim: u32,
    /// Tokens.
    pub vocabulary: u32,
    /// Positions the model was trained for.
    pub context_length: u32,
    /// Positions it was trained for before its context was extended.
    pub original_context: u32,
    /// Added to the mean square in norms.
    pub norm_eps: f32,
    /// Rotated elements of a head, even.
    pub rope_dims: u32,
    /// How layers that see everything rotate.
    pub rope: Rope,
    /// How layers with a window rotate.
    pub window_rope: Rope,
    /// Multiplies scores.
    pub attention_scale: f32,
    /// Bounds of scores and logits.
    pub soft_caps: SoftCaps,
    /// By layer: the width of its window, if it has one.
    pub windows: Vec<Option<u32>>,
    /// The mixture of experts that stands in each layer, if any.
    pub experts: Option<ExpertsConfig>,
}

/// How positions rotate heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub base: f32,
    /// Context extension. GGUF's files have Llama 3's as the tensor `rope_freqs.weight` instead.
    pub scaling: RopeScaling,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpertsConfig {
    /// Experts of a layer.
    pub count: u32,
    /// Experts that a token visits.
    pub used: u32,
    /// Multiplies their weights.
    pub scale: f32,
}

pub(super) const MAX_LAYERS: u32 = 4096;
pub(super) const MAX_WIDTH: u32 = 1 << 24;
pub(super) const MAX_HEADS: u32 = 1 << 16;
const MAX_HEAD_DIM: u32 = 1 << 16;
pub(super) const MAX_CONTEXT: u32 = i32::MAX as u32;
const MAX_EXPERTS: u32 = 1 << 12;

impl DecoderConfig {
    /// Reads and checks the metadata of `file`.
    ///
    /// # Errors
    /// Names the key that is missing or doesn't fit, with what was found and what would fit.
    pub fn read(file: &dyn ModelFile, family: &'static Family) -> Result<Self, ModelError> {
        let meta = Metadata::new(file, family.name);
        let layers = meta.required("block_count", 1..=MAX_LAYERS)?;
        let hidden = meta.required("embedding_length", 1..=MAX_WIDTH)?;
        let heads = meta.required("attention.head_count", 1..=MAX_HEADS)?;
        let kv_heads = meta.count("attention.head_count_kv", 1..=heads)?;
        let kv_heads = kv_heads.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(ModelError::Key {
                key: meta.key("attention.head_count_kv"),
                found: kv_heads.to_string(),
                expected: format!("a divisor of attention.head_count, which is {heads}"),
            });
        }
        let experts = experts(&meta, family)?;
        let key_dim = key_dim(&meta, hidden, heads)?;
        let value_dim = meta.count("attention.value_length", 1..=MAX_HEAD_DIM)?;
        let rope_dims = meta.count("rope.dimension_count", 2..=key_dim)?;
        let rope_dims = rope_dims.unwrap_or(key_dim);
        if !rope_dims.is_multiple_of(2) {
            return Err(ModelError::Key {
                key: meta.key("rope.dimension_count"),
                found: rope_dims.to_string(),
                expected: format!("an even number up to the head's {key_dim}"),
            });
        }
        let eps = "attention.layer_norm_rms_epsilon";
        let norm_eps = match meta.float(eps, |x| (0.0..1.0).contains(&x), "from 0 to 1")? {
            Some(eps) => eps,
            None => return meta.refuse(&meta.key(eps), None, "a number from 0 to 1"),
        };
        let context_length = meta.required("context_length", 1..=MAX_CONTEXT)?;
        let original = "rope.scaling.original_context_length";
        let original_context = meta.count(original, 1..=MAX_CONTEXT)?;
        let original_context = original_context.unwrap_or(context_length);
        let rope_base = meta.float("rope.freq_base", |x| x > 0.0, "a number above 0")?;
        let rope = Rope {
            base: rope_base.unwrap_or(10_000.0),
            scaling: rope_scaling(&meta, original_context)?,
        };
        let own_scale = meta.float("attention.scale", |x| x >= 0.0, "a number, 0 or above")?;
        let scale_by = match family.wide_scale_layers.contains(&layers) {
            true => hidden / heads,
            false => key_dim,
        };
        Ok(DecoderConfig {
            family,
            layers,
            hidden,
            ffn: feed_forward(&meta, family, experts)?,
            heads,
            kv_heads,
            key_dim,
            value_dim: value_dim.unwrap_or(key_dim),
            vocabulary: vocabulary(file, hidden)?,
            context_length,
            original_context,
            norm_eps,
            rope_dims,
            rope,
            window_rope: window_rope(&meta, family, rope)?,
            // 0 stands for "not given"
            attention_scale: own_scale
                .filter(|&x| x > 0.0)
                .unwrap_or(1.0 / (scale_by as f32).sqrt()),
            soft_caps: soft_caps(&meta, family)?,
            windows: windows(&meta, family, layers)?,
            experts,
        })
    }
}

/// Elements of a query or key head.
fn key_dim(meta: &Metadata<'_>, hidden: u32, heads: u32) -> Result<u32, ModelError> {
    match meta.count("attention.key_length", 1..=MAX_HEAD_DIM)? {
        Some(n) => Ok(n),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => Err(ModelError::Key {
            key: meta.key("attention.head_count"),
            found: heads.to_string(),
            expected: format!(
                "a divisor of embedding_length, which is {hidden}, as attention.key_length is missing"
            ),
        }),
    }
}

/// Elements between the feed-forward layers, or of each expert.
fn feed_forward(
    meta: &Metadata<'_>,
    family: &Family,
    experts: Option<ExpertsConfig>,
) -> Result<u32, ModelError> {
    if let Some(experts) = experts {
        if let Some(own) = meta.count("expert_feed_forward_length", 1..=MAX_WIDTH)? {
            return Ok(own);
        }
        let all = meta.required("feed_forward_length", 1..=MAX_WIDTH)?;
        // Mixtral's files tell an expert's width, others that of all experts a token visits
        return Ok(match family.experts {
            Experts::Always => (all / experts.used).max(1),
            _ => all,
        });
    }
    meta.required("feed_forward_length", 1..=MAX_WIDTH)
}

/// The mixture of experts.
fn experts(meta: &Metadata<'_>, family: &Family) -> Result<Option<ExpertsConfig>, ModelError> {
    let count = match family.experts {
        Experts::Always => Some(meta.required("expert_count", 1..=MAX_EXPERTS)?),
        _ => meta
            .count("expert_count", 0..=MAX_EXPERTS)?
            .filter(|&n| n > 0),
    };
    let Some(count) = count else {
        return Ok(None);
    };
    if family.experts == Experts::Never {
        return Err(ModelError::Unsupported {
            what: "a mixture of experts in this architecture",
            key: meta.key("expert_count"),
            found: count.to_string(),
        });
    }
    let scale = meta.float("expert_weights_scale", |x| x >= 0.0, "a number, 0 or above")?;
    Ok(Some(ExpertsConfig {
        count,
        used: meta.required("expert_used_count", 1..=count)?,
        // 0 stands for "not given"
        scale: scale.filter(|&x| x > 0.0).unwrap_or(1.0),
    }))
}

/// Bounds of scores and logits: the file's, or the family's.
fn soft_caps(meta: &Metadata<'_>, family: &Family) -> Result<SoftCaps, ModelError> {
    let Some(usual) = family.soft_caps else {
        return Ok(SoftCaps {
            attention: None,
            logits: None,
        });
    };
    let read = |name: &str, usual: Option<f32>| {
        let cap = meta.float(name, |x| x >= 0.0, "a number, 0 or above")?;
        // 0 stands for "none"
        Ok::<_, ModelError>(cap.or(usual).filter(|&x| x > 0.0))
    };
    Ok(SoftCaps {
        attention: read("attn_logit_softcapping", usual.attention)?,
        logits: read("final_logit_softcapping", usual.logits)?,
    })
}

/// The width of each layer's window.
fn windows(
    meta: &Metadata<'_>,
    family: &Family,
    layers: u32,
) -> Result<Vec<Option<u32>>, ModelError> {
    let name = "attention.sliding_window_pattern";
    let key = meta.key(name);
    let listed = match meta.file.metadata(&key) {
        Some(MetaValue::List(count)) => Some(count),
        _ => None,
    };
    let (period, default) = match family.windows {
        Windows::Pattern {
            period, default, ..
        } => (period, default),
        Windows::Listed if listed.is_some() => (1, None),
        Windows::Listed => return Ok(vec![None; layers as usize]),
    };
    // 0 stands for "none"
    let width = meta.count("attention.sliding_window", 0..=MAX_CONTEXT)?;
    let Some(width) = width.or(default).filter(|&w| w > 0) else {
        return Ok(vec![None; layers as usize]);
    };
    if let Some(count) = listed {
        let expected = format!("{layers} truth values, one a layer");
        if count != layers as usize {
            return meta.refuse(&key, Some(MetaValue::List(count)), expected);
        }
        let windowed = |n: u32| match meta.file.list_item(&key, n as usize) {
            Some(MetaValue::Bool(windowed)) => Ok(windowed.then_some(width)),
            Some(MetaValue::Unsigned(n @ 0..=1)) => Ok((n == 1).then_some(width)),
            Some(MetaValue::Signed(n @ 0..=1)) => Ok((n == 1).then_some(width)),
            found => meta.refuse(&format!("{key}[{n}]"), found, "a truth value"),
        };
        return (0..layers).map(windowed).collect();
    }
    let period = meta.count(name, 0..=MAX_LAYERS)?.unwrap_or(period);
    // a period of 0: all layers
    let windowed = |n: u32| period == 0 || n % period < period - 1;
    Ok((0..layers).map(|n| windowed(n).then_some(width)).collect())
}

/// How layers with a window rotate.
fn window_rope(meta: &Metadata<'_>, family: &Family, rope: Rope) -> Result<Rope, ModelError> {
    let Windows::Pattern { rope_base, .. } = family.windows else {
        return Ok(rope);
    };
    let own = meta.float("rope.freq_base_swa", |x| x > 0.0, "a number above 0")?;
    Ok(match (own.or(rope_base), rope_base) {
        (None, _) => rope,
        (Some(base), None) => Rope { base, ..rope },
        (Some(base), Some(_)) => Rope {
            base,
            scaling: RopeScaling::None,
        },
    })
}

/// Rows of the token embedding.
fn vocabulary(file: &dyn ModelFile, hidden: u32) -> Result<u32, ModelError> {
    let expected = || format!("[vocabulary, {hidden}]");
    let Some(ty) = file.tensor(EMBEDDING)? else {
        return Err(ModelError::MissingTensor {
            name: EMBEDDING.into(),
            expected: expected(),
        });
    };
    match ty.shape.as_fixed().as_deref() {
        Some(&[rows, width]) if width == hidden && (1..=i32::MAX as u32).contains(&rows) => {
            Ok(rows)
        }
        _ => Err(ModelError::TensorShape {
            name: EMBEDDING.into(),
            found: ty,
            expected: expected(),
        }),
    }
}

/// Context extension as the metadata has it; a factor without a type is linear.
fn rope_scaling(meta: &Metadata<'_>, original_context: u32) -> Result<RopeScaling, ModelError> {
    let positive = |name: &str| meta.float(name, |x| x > 0.0, "a number above 0");
    let finite = |name: &str| meta.float(name, |_| true, "a finite number");
    let factor = || {
        // 0 stands for "not given" in files of early converters
        let given = |name: &str| meta.float(name, |x| x >= 0.0, "a number, 0 or above");
        let factor = given("rope.scaling.factor")?.filter(|&x| x > 0.0);
        let factor = match factor {
            None => given("rope.scale_linear")?.filter(|&x| x > 0.0),
            some => some,
        };
        Ok::<_, ModelError>(factor.unwrap_or(1.0))
    };
    let attn_factor = positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
    match meta.text("rope.scaling.type")? {
        Some("none") => Ok(RopeScaling::None),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor: factor()?,
            original_context,
            ext_factor: finite("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0),
            attn_factor,
            beta_fast: positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        }),
        Some("llama3") => {
            let required = |name: &str| match positive(name)? {
                Some(x) => Ok(x),
                None => meta.refuse(&meta.key(name), None, "a number above 0"),
            };
            Ok(RopeScaling::Llama3 {
                factor: required("rope.scaling.factor")?,
                low_freq_factor: required("rope.scaling.low_freq_factor")?,
                high_freq_factor: required("rope.scaling.high_freq_factor")?,
                original_context,
            })
        }
        // The frequencies of "longrope" come as tensors, its magnitude as an attention factor.
        None | Some("linear" | "longrope") => Ok(match (factor()?, attn_factor) {
            (1.0, 1.0) => RopeScaling::None,
            (factor, 1.0) => RopeScaling::Linear { factor },
            (factor, attn_factor) => RopeScaling::Yarn {
                factor,
                original_context,
                ext_factor: 0.0,
                attn_factor,
                beta_fast: 32.0,
                beta_slow: 1.0,
            },
        }),
        Some(other) => {
            let key = meta.key("rope.scaling.type");
            let expected = "none, linear, yarn, llama3 or longrope";
            meta.refuse(&key, Some(MetaValue::Text(other)), expected)
        }
    }
}
