//! What a model itself says of how much columns matter.
//!
//! A matrix right behind an RMS or layer norm sees inputs of about the squares of the norm's
//! weights: normalised values have a mean square of 1. Where no importance matrix was measured,
//! these squares are the better guess than all columns alike.

use super::source::QuantizeSource;

/// A weight a column of the matrix called `name`, if it reads the output of a norm.
pub(super) fn implied_importance(
    source: QuantizeSource<'_>,
    name: &str,
    columns: u64,
) -> Option<Vec<f32>> {
    let mut squares = source.vector(&norm_before(name)?, columns)?;
    squares.iter_mut().for_each(|w| *w = w.powi(2));
    squares.iter().all(|s| s.is_finite()).then_some(squares)
}

/// The norm whose output the matrix reads, in models that normalise before each part.
fn norm_before(name: &str) -> Option<String> {
    if matches!(name, "output.weight" | "token_embd.weight") {
        return Some("output_norm.weight".to_owned());
    }
    let rest = name.strip_prefix("blk.")?;
    let (layer, part) = rest.split_once('.')?;
    let norm = match part.strip_suffix(".weight")? {
        "attn_q" | "attn_k" | "attn_v" | "attn_qkv" => "attn_norm",
        "ffn_gate" | "ffn_up" | "ffn_gate_exps" | "ffn_up_exps" => "ffn_norm",
        _ => return None,
    };
    Some(format!("blk.{layer}.{norm}.weight"))
}
