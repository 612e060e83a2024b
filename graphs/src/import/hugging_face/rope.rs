//! Rotary figures of a configuration, in both forms in use: `rope_parameters`, or `rope_theta` with
//! `rope_scaling` beside it. As `modeling_rope_utils.py` of the transformers package reads them.

use super::HuggingFaceError;
use super::config::Config;
use super::tables::{Meta, Translation};

/// What a kind of model has where its configuration says nothing, and what it may say.
#[derive(Clone, Copy, Debug)]
pub(super) struct UsualRope {
    /// Base of the frequencies.
    pub base: f64,
    /// Base in layers with a window, where these have figures of their own.
    pub window_base: Option<f64>,
    /// Whether heads may be rotated in part.
    pub partial: bool,
    /// Whether frequencies may be divided by listed factors, others for long contexts.
    pub long: bool,
}

/// Adds the rotary figures of `config`, whose heads have `head_dim` elements.
pub(super) fn translate(
    config: &Config<'_>,
    usual: &UsualRope,
    head_dim: u32,
    translation: &mut Translation,
) -> Result<(), HuggingFaceError> {
    let mut scaling = match config.object("rope_scaling")? {
        None => config.object("rope_parameters")?,
        old => old,
    };
    if let Some(usual) = usual.window_base {
        let by_kind = scaling.clone().filter(|s| {
            s.members.contains_key("full_attention") || s.members.contains_key("sliding_attention")
        });
        let window = match &by_kind {
            Some(kinds) => kinds.object("sliding_attention")?,
            None => None,
        };
        window_base(config, window.as_ref(), usual, translation)?;
        if let Some(kinds) = by_kind {
            scaling = kinds.object("full_attention")?;
        }
    }
    let base = match &scaling {
        Some(s) => s.positive("rope_theta")?,
        None => None,
    };
    let base = match base {
        None => config.positive("rope_theta")?,
        own => own,
    };
    let base = base.unwrap_or(usual.base);
    translation.set("rope.freq_base", "rope_theta", Meta::Float(base));
    let mut rotated = head_dim;
    for holder in [config].into_iter().chain(scaling.iter()) {
        let key = "partial_rotary_factor";
        let Some(share) = holder.number(key)?.filter(|&x| x != 1.0) else {
            continue;
        };
        if !usual.partial {
            return holder.refuse(key, "1, as heads are rotated whole");
        }
        rotated = (f64::from(head_dim) * share) as u32;
        if !(0.0..1.0).contains(&share) || rotated == 0 {
            return holder.refuse(key, "a part of a head, from 0 to 1");
        }
        let dims = Meta::Unsigned(rotated.into());
        let origin = format!("{}{key}", holder.prefix);
        translation.set("rope.dimension_count", origin, dims);
    }
    let Some(scaling) = scaling else {
        return Ok(());
    };
    if let Some((key, _)) = scaling.members.iter().find(|(_, v)| v.is_object()) {
        return scaling.refuse(key, "rotary figures of all layers, not by kind of layer");
    }
    let at = |key: &str| format!("{}{key}", scaling.prefix);
    let kind_key = match scaling.get("rope_type") {
        Some(_) => "rope_type",
        None => "type",
    };
    let kind = scaling.text(kind_key)?.unwrap_or("default");
    let name = match kind {
        "default" => return Ok(()),
        "linear" => "linear",
        "yarn" => "yarn",
        "llama3" => "llama3",
        "longrope" | "su" if usual.long => "longrope",
        _ if usual.long => {
            return scaling.refuse(kind_key, "default, linear, yarn, llama3 or longrope");
        }
        _ => return scaling.refuse(kind_key, "default, linear, yarn or llama3"),
    };
    translation.set("rope.scaling.type", at(kind_key), Meta::Text(name));
    let original = match config.count("original_max_position_embeddings")? {
        None => scaling.count("original_max_position_embeddings")?,
        own => own,
    };
    if let Some(n) = original {
        let origin = at("original_max_position_embeddings");
        let key = "rope.scaling.original_context_length";
        translation.set(key, origin, Meta::Unsigned(n.into()));
    }
    let factor = scaling.positive("factor")?;
    let longest = config.count("max_position_embeddings")?;
    let factor = match (factor, longest, original) {
        (Some(factor), ..) => factor,
        (None, Some(longest), Some(original))
            if matches!(name, "yarn" | "longrope") && original > 0 =>
        {
            f64::from(longest) / f64::from(original)
        }
        _ => return scaling.refuse("factor", "a number above 0"),
    };
    if name == "longrope" {
        return long(&scaling, factor, original, rotated / 2, translation);
    }
    translation.set("rope.scaling.factor", at("factor"), Meta::Float(factor));
    match name {
        "yarn" => yarn(&scaling, factor, translation),
        "llama3" => llama3(&scaling, translation),
        _ => Ok(()),
    }
}

/// Adds the base of layers with a window, which are not scaled.
fn window_base(
    config: &Config<'_>,
    window: Option<&Config<'_>>,
    usual: f64,
    translation: &mut Translation,
) -> Result<(), HuggingFaceError> {
    let mut base = config.positive("rope_local_base_freq")?;
    if let Some(window) = window {
        base = window.positive("rope_theta")?.or(base);
        for key in ["rope_type", "type"] {
            if !matches!(window.text(key)?, None | Some("default")) {
                return window.refuse(key, "default");
            }
        }
    }
    let base = Meta::Float(base.unwrap_or(usual));
    translation.set("rope.freq_base_swa", "rope_local_base_freq", base);
    Ok(())
}

/// Adds the listed divisors of frequencies for contexts within the original one and longer ones.
fn long(
    scaling: &Config<'_>,
    factor: f64,
    original: Option<u32>,
    pairs: u32,
    translation: &mut Translation,
) -> Result<(), HuggingFaceError> {
    let Some(original) = original.filter(|&n| n > 1) else {
        return scaling.refuse("original_max_position_embeddings", "an integer above 1");
    };
    let attention = match scaling.positive("attention_factor")? {
        Some(own) => own,
        None if factor <= 1.0 => 1.0,
        None => (1.0 + factor.ln() / f64::from(original).ln()).sqrt(),
    };
    let origin = format!("{}attention_factor", scaling.prefix);
    let attention = Meta::Float(attention);
    translation.set("rope.scaling.attn_factor", origin, attention);
    for (from, tensor) in [
        ("short_factor", "rope_factors_short.weight"),
        ("long_factor", "rope_factors_long.weight"),
    ] {
        let expected = format!("a list of {pairs} numbers above 0, one for two rotated elements");
        let Some(list) = scaling.list(from)?.filter(|l| l.len() == pairs as usize) else {
            return scaling.refuse(from, expected);
        };
        let divisor = |v: &serde_json::Value| {
            let x = v.as_f64().map(|x| x as f32);
            x.filter(|x| *x > 0.0 && x.is_finite())
        };
        let divisors: Option<Vec<f32>> = list.iter().map(divisor).collect();
        match divisors {
            Some(divisors) => translation.figures.insert(tensor, divisors),
            None => return scaling.refuse(from, expected),
        };
    }
    Ok(())
}

fn yarn(
    scaling: &Config<'_>,
    factor: f64,
    translation: &mut Translation,
) -> Result<(), HuggingFaceError> {
    if factor < 1.0 {
        return scaling.refuse("factor", "1 or above");
    }
    if scaling.flag("truncate")? == Some(false) {
        return scaling.refuse("truncate", "true");
    }
    let magnitude = |scale: f64| 0.1 * scale * factor.ln() + 1.0;
    let mscale = scaling.number("mscale")?.filter(|&x| x != 0.0);
    let all_dim = scaling.number("mscale_all_dim")?.filter(|&x| x != 0.0);
    let attention = match (scaling.positive("attention_factor")?, mscale, all_dim) {
        (Some(own), ..) => own,
        (None, Some(mscale), Some(all_dim)) => magnitude(mscale) / magnitude(all_dim),
        _ => magnitude(1.0),
    };
    // the graph's op multiplies by the usual magnitude itself
    let key = "rope.scaling.attn_factor";
    let origin = format!("{}attention_factor", scaling.prefix);
    translation.set(key, origin, Meta::Float(attention / magnitude(1.0)));
    for (from, key) in [
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ] {
        if let Some(x) = scaling.positive(from)? {
            translation.set(key, format!("{}{from}", scaling.prefix), Meta::Float(x));
        }
    }
    Ok(())
}

fn llama3(scaling: &Config<'_>, translation: &mut Translation) -> Result<(), HuggingFaceError> {
    let mut factors = [0.0; 2];
    for (factor, name) in factors
        .iter_mut()
        .zip(["low_freq_factor", "high_freq_factor"])
    {
        *factor = match scaling.positive(name)? {
            Some(x) => x,
            None => return scaling.refuse(name, "a number above 0"),
        };
        let origin = format!("{}{name}", scaling.prefix);
        translation.set(
            &format!("rope.scaling.{name}"),
            origin,
            Meta::Float(*factor),
        );
    }
    match factors[0] < factors[1] {
        true => Ok(()),
        false => scaling.refuse("high_freq_factor", "more than low_freq_factor"),
    }
}
