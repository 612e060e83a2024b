//! Rotary figures of a configuration, in both forms in use: `rope_parameters`, or `rope_theta` with
//! `rope_scaling` beside it. As `modeling_rope_utils.py` of the transformers package reads them.

use super::HuggingFaceError;
use super::config::Config;
use super::tables::{Meta, Translation};

/// Adds the rotary figures of `config`.
pub(super) fn translate(
    config: &Config<'_>,
    translation: &mut Translation,
) -> Result<(), HuggingFaceError> {
    let scaling = match config.object("rope_scaling")? {
        None => config.object("rope_parameters")?,
        old => old,
    };
    let base = match &scaling {
        Some(s) => s.positive("rope_theta")?,
        None => None,
    };
    let base = match base {
        None => config.positive("rope_theta")?,
        own => own,
    };
    let base = base.unwrap_or(10_000.0);
    translation.set("rope.freq_base", "rope_theta", Meta::Float(base));
    for holder in scaling.iter().chain([config]) {
        let factor = "partial_rotary_factor";
        if holder.number(factor)?.is_some_and(|x| x != 1.0) {
            return holder.refuse(factor, "1, as heads are rotated whole");
        }
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
    let factor = match (factor, config.count("max_position_embeddings")?, original) {
        (Some(factor), ..) => factor,
        (None, Some(longest), Some(original)) if name == "yarn" && original > 0 => {
            f64::from(longest) / f64::from(original)
        }
        _ => return scaling.refuse("factor", "a number above 0"),
    };
    translation.set("rope.scaling.factor", at("factor"), Meta::Float(factor));
    match name {
        "yarn" => yarn(&scaling, factor, translation),
        "llama3" => llama3(&scaling, translation),
        _ => Ok(()),
    }
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
