//! Attention, its positions and its mask.

use anynpu_ir::{
    AttentionKv, RopeScaling, RopeStyle, StateId, Symbol, SymbolValues, rope_frequencies,
};

use super::norm::softmax_of;
use super::state::bound;
use super::{Call, ReferenceError, States, Tensor, TensorRef};

/// The attributes of attention that decide its scores.
pub(super) struct Scores {
    pub causal: bool,
    pub mask: bool,
    pub scale: f64,
    pub soft_cap: Option<f64>,
    pub window: Option<u32>,
}

pub(super) fn attention(
    call: &Call<'_>,
    kv: AttentionKv,
    scores: &Scores,
    states: &dyn States,
    symbols: &SymbolValues,
) -> Result<Tensor, ReferenceError> {
    let q = call.input(0);
    let (k, v, rows) = match kv {
        AttentionKv::Operands => (call.input(1), call.input(2), call.input(1).dim(0)),
        AttentionKv::State { k, v } => stored(call, [k, v], states, symbols)?,
    };
    let positions = match (scores.causal, kv) {
        (false, _) => None,
        (true, AttentionKv::Operands) => Some(call.indices(3, "positions", rows)?),
        (true, AttentionKv::State { .. }) => Some(call.indices(1, "positions", rows)?),
    };
    let mask = match scores.mask {
        true => Some(call.input(call.inputs.len() - 1).floats()?),
        false => None,
    };
    let (tokens, heads, d) = (q.dim(0), q.dim(1), q.dim(2));
    let (capacity, kv_heads, dv) = (v.dim(0), v.dim(1), v.dim(2));
    let (q, k, v) = (q.floats()?, k.floats()?, v.floats()?);
    let mask_at = |t: usize, s: usize| mask.as_ref().map_or(0.0, |m| m[t * capacity + s].into());

    let mut out = Vec::with_capacity(tokens * heads * dv);
    for t in 0..tokens {
        let position = positions.as_ref().map(|p| p[t] as i64);
        let visible: Vec<usize> = (0..rows)
            .filter(|&s| position.is_none_or(|p| sees(p, s, scores.window)))
            .collect();
        if visible.iter().all(|&s| mask_at(t, s) == f64::NEG_INFINITY) {
            return Err(ReferenceError::NothingVisible {
                node: call.node.into(),
                query: t,
                keys: rows,
            });
        }
        for h in 0..heads {
            let group = h / (heads / kv_heads);
            let query = &q[(t * heads + h) * d..][..d];
            let row: Vec<f64> = visible
                .iter()
                .map(|&s| {
                    let key = &k[(s * kv_heads + group) * d..][..d];
                    let products = query
                        .iter()
                        .zip(key)
                        .map(|(&a, &b)| f64::from(a) * f64::from(b));
                    let score = products.sum::<f64>() * scores.scale;
                    let capped = scores
                        .soft_cap
                        .map_or(score, |cap| cap * (score / cap).tanh());
                    capped + mask_at(t, s)
                })
                .collect();
            let weights = softmax_of(&row);
            for i in 0..dv {
                let terms = visible.iter().zip(&weights);
                let terms = terms.map(|(&s, w)| w * f64::from(v[(s * kv_heads + group) * dv + i]));
                out.push(terms.sum::<f64>() as f32);
            }
        }
    }
    call.floats(out)
}

/// Keys and values from states, and how many of their rows are filled.
fn stored<'a>(
    call: &Call<'_>,
    [k, v]: [StateId; 2],
    states: &'a dyn States,
    symbols: &SymbolValues,
) -> Result<(TensorRef<'a>, TensorRef<'a>, usize), ReferenceError> {
    let (k, v) = (bound(call.node, k, states)?, bound(call.node, v, states)?);
    let cached = symbols.get(Symbol::CACHED) as usize;
    let rows = cached.saturating_add(symbols.get(Symbol::TOKENS) as usize);
    let capacity = k.tensor.dim(0);
    match rows <= capacity {
        true => Ok((k.tensor, v.tensor, rows)),
        false => Err(ReferenceError::StateRows {
            node: call.node.into(),
            state: k.name.into(),
            start: 0,
            end: rows,
            capacity,
        }),
    }
}

/// Whether a query at `position` sees key row `s`.
fn sees(position: i64, s: usize, window: Option<u32>) -> bool {
    let s = s as i64;
    s <= position && window.is_none_or(|w| s > position - i64::from(w))
}

pub(super) fn causal_mask(
    call: &Call<'_>,
    window: Option<u32>,
    hidden: f32,
) -> Result<Tensor, ReferenceError> {
    let keys = call.shape()[1];
    let mut out = Vec::new();
    for position in call.input(0).integers()? {
        let row = (0..keys).map(|s| sees(position, s, window));
        out.extend(row.map(|seen| if seen { 0.0 } else { hidden }));
    }
    call.floats(out)
}

pub(super) fn rope(
    call: &Call<'_>,
    style: RopeStyle,
    dims: u32,
    base: f32,
    scaling: RopeScaling,
) -> Result<Tensor, ReferenceError> {
    let x = call.input(0);
    let (heads, d) = (x.dim(1), x.dim(2));
    let positions = call.input(1).integers()?;
    let factors = call.optional_floats(2)?;
    let (frequencies, magnitude) = rope_frequencies(dims, base, scaling, factors.as_deref());
    let mut out = x.floats()?.into_owned();
    for (row, head) in out.chunks_exact_mut(d.max(1)).enumerate() {
        let position = positions[row / heads] as f32;
        for (pair, frequency) in frequencies.iter().enumerate() {
            let (i, j) = match style {
                RopeStyle::Interleaved => (2 * pair, 2 * pair + 1),
                RopeStyle::HalfSplit => (pair, pair + dims as usize / 2),
            };
            let (sin, cos) = f64::from(position * frequency).sin_cos();
            let (sin, cos) = (sin * f64::from(magnitude), cos * f64::from(magnitude));
            let (a, b) = (f64::from(head[i]), f64::from(head[j]));
            head[i] = (a * cos - b * sin) as f32;
            head[j] = (a * sin + b * cos) as f32;
        }
    }
    call.floats(out)
}
