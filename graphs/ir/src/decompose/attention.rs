//! Decompositions of rotary embedding, attention and its mask.

use super::build::{Build, Step, swap_outer};
use crate::{
    AttentionKv, BinaryOp, Dim, Op, ReduceOp, RopeScaling, RopeStyle, UnaryOp, ValueId,
    rope_frequencies,
};

/// Added to hidden scores: finite, so that no NaN can arise, and so low that softmax gives them 0
/// beside any score that a model can have.
const HIDDEN: f32 = -1e30;

pub(super) fn rope(
    b: &mut Build<'_, '_>,
    inputs: &[ValueId],
    style: RopeStyle,
    dims: u32,
    base: f32,
    scaling: RopeScaling,
) -> Step {
    let half = dims / 2;
    let (frequencies, magnitude) = rope_frequencies(dims, base, scaling, None);
    let mut frequency = b.vector("frequency", &frequencies)?;
    if let Some(&factors) = inputs.get(2) {
        frequency = b.binary("stretched", BinaryOp::Div, frequency, factors)?;
    }
    let rows = b.dims(inputs[1])[0];
    let column = vec![rows, Dim::Fixed(1), Dim::Fixed(1)];
    let positions = b.f32("positions", inputs[1])?;
    let positions = b.reshape("column", column, positions)?;
    let angle = b.binary("angle", BinaryOp::Mul, positions, frequency)?;
    let mut cos = b.unary("cos", UnaryOp::Cos, angle)?;
    let mut sin = b.unary("sin", UnaryOp::Sin, angle)?;
    if magnitude != 1.0 {
        let magnitude = b.number("magnitude", magnitude, angle)?;
        cos = b.binary("cos_scaled", BinaryOp::Mul, cos, magnitude)?;
        sin = b.binary("sin_scaled", BinaryOp::Mul, sin, magnitude)?;
    }

    let x = b.f32("x", inputs[0])?;
    let shape = b.dims(x);
    let slice = |start, end, step| Op::Slice {
        axis: 2,
        start,
        end,
        step,
    };
    let (first, second) = match style {
        RopeStyle::Interleaved => (slice(0, dims, 2), slice(1, dims, 2)),
        RopeStyle::HalfSplit => (slice(0, half, 1), slice(half, dims, 1)),
    };
    let first = b.step("first", first, &[x])?;
    let second = b.step("second", second, &[x])?;
    let first_cos = b.binary("first_cos", BinaryOp::Mul, first, cos)?;
    let first_sin = b.binary("first_sin", BinaryOp::Mul, first, sin)?;
    let second_cos = b.binary("second_cos", BinaryOp::Mul, second, cos)?;
    let second_sin = b.binary("second_sin", BinaryOp::Mul, second, sin)?;
    let first = b.binary("first_turned", BinaryOp::Sub, first_cos, second_sin)?;
    let second = b.binary("second_turned", BinaryOp::Add, first_sin, second_cos)?;

    let rest = match Dim::Fixed(dims) == shape[2] {
        true => None,
        false => {
            let end = shape[2].fixed().unwrap_or(dims);
            Some(b.step("rest", slice(dims, end, 1), &[x])?)
        }
    };
    let join = Op::Concat { axis: 2 };
    if style == RopeStyle::HalfSplit {
        let parts: Vec<ValueId> = [Some(first), Some(second), rest]
            .into_iter()
            .flatten()
            .collect();
        return b.finish(join, &parts);
    }
    let single = vec![shape[0], shape[1], Dim::Fixed(half), Dim::Fixed(1)];
    let first = b.reshape("first_column", single.clone(), first)?;
    let second = b.reshape("second_column", single, second)?;
    let pairs = b.step("pairs", Op::Concat { axis: 3 }, &[first, second])?;
    let flat = vec![shape[0], shape[1], Dim::Fixed(dims)];
    match rest {
        None => b.finish(Op::Reshape { shape: flat.into() }, &[pairs]),
        Some(rest) => {
            let turned = b.reshape("turned", flat, pairs)?;
            b.finish(join, &[turned, rest])
        }
    }
}

/// The attributes of [`Op::Attention`].
pub(super) struct Form {
    pub(super) kv: AttentionKv,
    pub(super) causal: bool,
    pub(super) mask: bool,
    pub(super) scale: f32,
    pub(super) soft_cap: Option<f32>,
    pub(super) window: Option<u32>,
}

/// Scores are `[heads, T, S]`, or `[kv_heads, heads / kv_heads, T, S]` where several query heads read
/// each of several key heads.
pub(super) fn attention(b: &mut Build<'_, '_>, inputs: &[ValueId], form: Form) -> Step {
    let (k, v, own) = match form.kv {
        AttentionKv::Operands => (inputs[1], inputs[2], 3),
        AttentionKv::State { k, v } => (
            b.step("k_rows", Op::StateRead { state: k }, &[])?,
            b.step("v_rows", Op::StateRead { state: v }, &[])?,
            1,
        ),
    };
    let (q_dims, k_dims, v_dims) = (b.dims(inputs[0]), b.dims(k), b.dims(v));
    let (rows, keys) = (q_dims[0], k_dims[0]);
    let heads = q_dims[1].fixed().unwrap_or(1);
    let kv_heads = k_dims[1].fixed().unwrap_or(1);
    let grouped = kv_heads > 1 && heads > kv_heads;

    let mut q = b.swap_outer("q_heads", inputs[0])?;
    let mut k = b.swap_outer("k_heads", k)?;
    let mut v = b.swap_outer("v_heads", v)?;
    if grouped {
        let (outer, group) = (Dim::Fixed(kv_heads), Dim::Fixed(heads / kv_heads));
        let one = Dim::Fixed(1);
        q = b.reshape("q_groups", vec![outer, group, rows, q_dims[2]], q)?;
        k = b.reshape("k_groups", vec![outer, one, keys, k_dims[2]], k)?;
        v = b.reshape("v_groups", vec![outer, one, keys, v_dims[2]], v)?;
    }
    let dot = Op::MatMul {
        transpose_a: false,
        transpose_b: true,
    };
    let mut scores = b.step("scores", dot, &[q, k])?;
    if form.scale != 1.0 {
        let scale = b.number("scale", form.scale, scores)?;
        scores = b.binary("scaled", BinaryOp::Mul, scores, scale)?;
    }
    if let Some(cap) = form.soft_cap {
        scores = b.step("capped", Op::SoftCap { cap }, &[scores])?;
    }
    if form.mask {
        let mask = inputs[inputs.len() - 1];
        scores = b.binary("masked", BinaryOp::Add, scores, mask)?;
    }
    let last_seen = match (form.causal, form.kv) {
        (true, _) => Some(inputs[own]),
        (false, AttentionKv::Operands) => None,
        (false, AttentionKv::State { .. }) => Some(last_row(b)?),
    };
    if let Some(positions) = last_seen {
        let mask = Op::CausalMask {
            keys,
            window: form.window,
            hidden: HIDDEN,
        };
        let mask = b.step("mask", mask, &[positions])?;
        scores = b.binary("visible", BinaryOp::Add, scores, mask)?;
    }
    let axis = b.ty(scores).shape.rank() as u32 - 1;
    let weights = b.step("weights", Op::Softmax { axis }, &[scores])?;
    let mix = Op::MatMul {
        transpose_a: false,
        transpose_b: false,
    };
    let mut mixed = b.step("mixed", mix, &[weights, v])?;
    if grouped {
        let dims = vec![q_dims[1], rows, v_dims[2]];
        mixed = b.reshape("mixed_heads", dims, mixed)?;
    }
    b.finish(swap_outer(), &[mixed])
}

/// The last row of the states that holds anything, `P + T − 1`, as positions of one row.
fn last_row(b: &mut Build<'_, '_>) -> Step {
    let step_rows = Op::Iota {
        start: Dim::CACHED,
        length: Dim::TOKENS,
    };
    let step_rows = b.step("step_rows", step_rows, &[])?;
    b.reduce("last_row", ReduceOp::Max, 0, step_rows)
}

pub(super) fn causal_mask(
    b: &mut Build<'_, '_>,
    inputs: &[ValueId],
    keys: Dim,
    window: Option<u32>,
    hidden: f32,
) -> Step {
    let all = Op::Iota {
        start: Dim::Fixed(0),
        length: keys,
    };
    let all = b.step("keys", all, &[])?;
    let column = vec![b.dims(inputs[0])[0], Dim::Fixed(1)];
    let position = b.reshape("column", column, inputs[0])?;
    let mut visible = b.binary("past", BinaryOp::LessEqual, all, position)?;
    if let Some(window) = window {
        // Inference keeps the window within i32.
        let window = b.integer("window", window as i32, position)?;
        let edge = b.binary("edge", BinaryOp::Sub, position, window)?;
        let recent = b.binary("recent", BinaryOp::Greater, all, edge)?;
        visible = b.binary("both", BinaryOp::And, visible, recent)?;
    }
    let zero = b.number("zero", 0.0, visible)?;
    let hidden = b.number("hidden", hidden, visible)?;
    b.finish(Op::Select, &[visible, zero, hidden])
}
