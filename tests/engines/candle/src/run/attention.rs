//! Attention and rotary positions, of candle's ops.

use std::ops::Range;

use anynpu_ir::{AttentionKv, RopeScaling, RopeStyle, Symbol, rope_frequencies};
use candle_core::{D, Device, Tensor};

use super::Call;
use super::elementwise::{capped, softmax_of};
use crate::{Fault, tensors};

/// The attributes of attention that decide its scores.
pub(super) struct Form {
    pub causal: bool,
    pub mask: bool,
    pub scale: f32,
    pub soft_cap: Option<f32>,
    pub window: Option<u32>,
}

pub(super) fn attention(call: &Call<'_>, kv: AttentionKv, form: &Form) -> Result<Tensor, Fault> {
    let q = call.float(0)?;
    let (k, v, at) = match kv {
        AttentionKv::Operands => (call.float(1)?, call.float(2)?, 3),
        AttentionKv::State { k, v } => {
            let step = [Symbol::CACHED, Symbol::TOKENS].map(|s| call.symbols.get(s) as usize);
            let rows = step[0].saturating_add(step[1]);
            (call.rows(k, rows)?, call.rows(v, rows)?, 1)
        }
    };
    let (tokens, rows) = (q.dim(0)?, k.dim(0)?);
    let mask = match form.mask {
        true => Some(
            call.float(call.operands.len().saturating_sub(1))?
                .narrow(1, 0, rows)?,
        ),
        false => None,
    };
    let seen: Vec<Range<usize>> = match form.causal {
        true => {
            let window = form.window.map_or(usize::MAX, |w| w as usize);
            let positions = call.indices(at, "positions", rows)?.into_iter();
            let ends = positions.map(|p| p as usize + 1);
            ends.map(|end| end.saturating_sub(window)..end).collect()
        }
        false => std::iter::repeat_n(0..rows, tokens).collect(),
    };
    something_is_seen(call, &seen, mask.as_ref())?;
    let hides = seen.iter().any(|s| *s != (0..rows));
    // hidden values must not count, and 0·∞ would
    if !hides || finite(&v)? {
        let visible = match hides {
            true => Some(visible(&seen, rows)?),
            false => None,
        };
        return attend(form, &q, &k, &v, mask.as_ref(), visible.as_ref());
    }
    let row = |(t, seen): (usize, &Range<usize>)| {
        let part = |x: &Tensor| x.narrow(0, seen.start, seen.len());
        let mask = mask
            .as_ref()
            .map(|m| m.narrow(0, t, 1)?.narrow(1, seen.start, seen.len()));
        attend(
            form,
            &q.narrow(0, t, 1)?,
            &part(&k)?,
            &part(&v)?,
            mask.transpose()?.as_ref(),
            None,
        )
    };
    let rows = seen.iter().enumerate().map(row);
    Ok(Tensor::cat(
        &rows.collect::<Result<Vec<Tensor>, Fault>>()?,
        0,
    )?)
}

/// Fails where a query sees no key.
fn something_is_seen(
    call: &Call<'_>,
    seen: &[Range<usize>],
    mask: Option<&Tensor>,
) -> Result<(), Fault> {
    let mask = mask.map(|m| m.to_vec2::<f32>()).transpose()?;
    let hidden = |(t, seen): &(usize, &Range<usize>)| {
        let masked = |row: &Vec<f32>| row[(*seen).clone()].iter().all(|&m| m == f32::NEG_INFINITY);
        seen.is_empty() || mask.as_ref().and_then(|m| m.get(*t)).is_some_and(masked)
    };
    match seen.iter().enumerate().find(hidden) {
        None => Ok(()),
        Some((t, _)) => Err(Fault::operand(
            format!("keys that query {t} of '{}' sees", call.node.name),
            "none".into(),
            "one at least".into(),
        )),
    }
}

/// Whether no element is NaN or infinite.
fn finite(x: &Tensor) -> Result<bool, Fault> {
    Ok(x.elem_count() == 0 || x.sub(x)?.sum_all()?.to_scalar::<f32>()? == 0.0)
}

/// 1 where query `t` sees row `s`, `[T, S]`.
fn visible(seen: &[Range<usize>], rows: usize) -> Result<Tensor, Fault> {
    let bit = |s: &Range<usize>| {
        let s = s.clone();
        (0..rows).map(move |row| u8::from(s.contains(&row)))
    };
    let bits: Vec<u8> = seen.iter().flat_map(bit).collect();
    Ok(Tensor::from_vec(bits, (seen.len(), rows), &Device::Cpu)?)
}

/// `q[T, H, D], k[S, G, D], v[S, G, Dv], mask[T, S]?, visible[T, S]? → [T, H, Dv]`.
fn attend(
    form: &Form,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    mask: Option<&Tensor>,
    visible: Option<&Tensor>,
) -> Result<Tensor, Fault> {
    let (tokens, heads, dims) = q.dims3()?;
    let (rows, groups, value_dims) = v.dims3()?;
    let group = heads / groups.max(1);
    // heads of a group are neighbours, so their queries are rows of one product
    let q = q.transpose(0, 1)?.contiguous()?;
    let q = q.reshape((groups, group * tokens, dims))?;
    let k = k.permute((1, 2, 0))?.contiguous()?;
    let v = v.transpose(0, 1)?.contiguous()?;
    let mut scores = (q.matmul(&k)? * f64::from(form.scale))?;
    if let Some(cap) = form.soft_cap {
        scores = capped(&scores, cap)?;
    }
    scores = scores.reshape((heads, tokens, rows))?;
    if let Some(mask) = mask {
        scores = scores.broadcast_add(mask)?;
    }
    if let Some(visible) = visible {
        let hidden = Tensor::full(f32::NEG_INFINITY, scores.shape(), &Device::Cpu)?;
        scores = visible
            .broadcast_as(scores.shape())?
            .where_cond(&scores, &hidden)?;
    }
    let weights = softmax_of(&scores, 2)?.reshape((groups, group * tokens, rows))?;
    let out = weights.matmul(&v)?.reshape((heads, tokens, value_dims))?;
    Ok(out.transpose(0, 1)?.contiguous()?)
}

pub(super) fn rope(
    call: &Call<'_>,
    style: RopeStyle,
    dims: u32,
    base: f32,
    scaling: RopeScaling,
) -> Result<Tensor, Fault> {
    let x = call.float(0)?;
    let (tokens, heads, width) = x.dims3()?;
    let (dims, pairs) = (dims as usize, dims as usize / 2);
    let factors = match call.optional(2)? {
        Some(factors) => Some(factors.to_vec1::<f32>()?),
        None => None,
    };
    let (frequencies, magnitude) = rope_frequencies(dims as u32, base, scaling, factors.as_deref());
    let frequencies = Tensor::from_vec(frequencies, (1, 1, pairs), &Device::Cpu)?;
    let positions = tensors::integers(call.operand(1)?)?;
    let positions: Vec<f32> = positions.into_iter().map(|p| p as f32).collect();
    let positions = Tensor::from_vec(positions, (tokens, 1, 1), &Device::Cpu)?;
    let angles = positions.broadcast_mul(&frequencies)?;
    let cos = (angles.cos()? * f64::from(magnitude))?;
    let sin = (angles.sin()? * f64::from(magnitude))?;

    let turned = x.narrow(D::Minus1, 0, dims)?;
    let (a, b) = match style {
        RopeStyle::Interleaved => {
            let split = turned.contiguous()?.reshape((tokens, heads, pairs, 2))?;
            let half = |i: usize| split.narrow(3, i, 1)?.squeeze(3);
            (half(0)?, half(1)?)
        }
        RopeStyle::HalfSplit => (
            turned.narrow(D::Minus1, 0, pairs)?,
            turned.narrow(D::Minus1, pairs, pairs)?,
        ),
    };
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (a.broadcast_mul(&sin)? + b.broadcast_mul(&cos)?)?;
    let turned = match style {
        RopeStyle::Interleaved => {
            Tensor::stack(&[first, second], 3)?.reshape((tokens, heads, dims))?
        }
        RopeStyle::HalfSplit => Tensor::cat(&[first, second], 2)?,
    };
    if dims == width {
        return Ok(turned);
    }
    let rest = x.narrow(D::Minus1, dims, width - dims)?.contiguous()?;
    Ok(Tensor::cat(&[turned, rest], 2)?)
}
