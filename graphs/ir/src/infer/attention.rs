//! Positions, attention and the states that it reads.

use super::{Cx, Inferred, one};
use crate::{AttentionKv, DType, Dim, GraphError, RopeScaling, State, StateId, TensorType};

pub(super) fn rope(cx: &Cx<'_>, dims: u32, base: f32, scaling: RopeScaling) -> Inferred {
    cx.positive("base", base)?;
    check_scaling(cx, scaling)?;
    cx.count(2, 3, "2 or 3")?;
    let x = cx.arg(0, "x").float()?.of_rank(3, "[T, H, D]")?;
    let d = x.fixed_axis("D", 2)?;
    if dims == 0 || !dims.is_multiple_of(2) || dims > d {
        return cx.attribute("dims", dims, format!("an even number from 2 to {d}"));
    }
    positions(cx, 1, ("x", x.ty))?;
    if let Some(factors) = cx.optional(2, "freq_factors") {
        let factors = factors.is(DType::F32)?.of_rank(1, "a vector")?;
        if factors.dims()[0] != Dim::Fixed(dims / 2) {
            return factors.wrong(format!("{} elements, one per pair", dims / 2));
        }
    }
    one(DType::F32, x.ty.shape.clone())
}

fn check_scaling(cx: &Cx<'_>, scaling: RopeScaling) -> Result<(), GraphError> {
    let context = |n: u32| cx.nonzero("original_context", n);
    match scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => cx.positive("factor", factor),
        RopeScaling::Yarn {
            factor,
            original_context,
            ext_factor,
            attn_factor,
            beta_fast,
            beta_slow,
        } => {
            cx.positive("factor", factor)?;
            context(original_context)?;
            cx.finite("ext_factor", ext_factor)?;
            cx.finite("attn_factor", attn_factor)?;
            cx.positive("beta_fast", beta_fast)?;
            cx.positive("beta_slow", beta_slow)
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => {
            cx.positive("factor", factor)?;
            cx.positive("low_freq_factor", low_freq_factor)?;
            cx.positive("high_freq_factor", high_freq_factor)?;
            if high_freq_factor <= low_freq_factor {
                return cx.attribute(
                    "high_freq_factor",
                    high_freq_factor,
                    format!("above low_freq_factor, which is {low_freq_factor}"),
                );
            }
            context(original_context)
        }
    }
}

pub(super) fn attention(
    cx: &Cx<'_>,
    kv: AttentionKv,
    causal: bool,
    mask: bool,
    window: Option<u32>,
) -> Inferred {
    if window.is_some() && !causal {
        return cx.attribute("window", "set", "unset, as attention is not causal");
    }
    check_window(cx, window)?;
    let own = match kv {
        AttentionKv::Operands => 3,
        AttentionKv::State { .. } => 1,
    };
    let count = own + usize::from(causal) + usize::from(mask);
    cx.count(count, count, ["0", "1", "2", "3", "4", "5"][count])?;

    let q = cx.arg(0, "q").float()?.of_rank(3, "[T, heads, D]")?;
    let ((k_name, k), (v_name, v)) = match kv {
        AttentionKv::Operands => {
            let k = cx.arg(1, "k").float()?.of_rank(3, "[S, kv_heads, D]")?;
            let v = cx.arg(2, "v").float()?.of_rank(3, "[S, kv_heads, Dv]")?;
            ((k.name, k.ty), (v.name, v.ty))
        }
        AttentionKv::State { k, v } => {
            let (k, v) = (cx.state("k", k)?, cx.state("v", v)?);
            for state in [k, v] {
                float_state(cx, state)?;
                if state.ty.shape.rank() != 3 || state.axis != 0 {
                    return cx.state_error(state, "[C, kv_heads, D] with axis 0");
                }
            }
            (("state k", &k.ty), ("state v", &v.ty))
        }
    };
    let (kd, vd) = (k.shape.dims(), v.shape.dims());
    if kd[..2] != vd[..2] {
        let rule = "keys and values must have the same rows and heads";
        return cx.mismatch((k_name, k), (v_name, v), rule);
    }
    if q.dims()[2] != kd[2] {
        return cx.mismatch((q.name, q.ty), (k_name, k), "head sizes must agree");
    }
    if kd[0] == Dim::Fixed(0) {
        return cx.mismatch((q.name, q.ty), (k_name, k), "there must be a key row");
    }
    let heads = (q.dims()[1].fixed(), kd[1].fixed());
    let (Some(heads), Some(kv_heads)) = heads else {
        return cx.mismatch((q.name, q.ty), (k_name, k), "head counts must be fixed");
    };
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        let rule = "the query heads must be a multiple of the key heads";
        return cx.mismatch((q.name, q.ty), (k_name, k), rule);
    }
    if causal {
        positions(cx, own, ("q", q.ty))?;
    }
    if mask {
        let mask = cx.arg(count - 1, "mask").is(DType::F32)?;
        if *mask.dims() != [q.dims()[0], kd[0]] {
            return mask.wrong(format!("[{}, {}]: queries, keys", q.dims()[0], kd[0]));
        }
    }
    one(DType::F32, vec![q.dims()[0], q.dims()[1], vd[2]])
}

pub(super) fn kv_append(cx: &Cx<'_>, state: StateId, at: Dim) -> Inferred {
    let state = cx.state("state", state)?;
    float_state(cx, state)?;
    cx.dim(at)?;
    let [rows] = cx.args(["rows"])?;
    let rows = rows.float()?;
    let (have, want) = (rows.dims(), state.ty.shape.dims());
    let axis = state.axis as usize;
    let fits = have.len() == want.len() && (0..want.len()).all(|i| i == axis || have[i] == want[i]);
    if !fits {
        let rule = "rows must have the state's shape but for its append axis";
        return cx.mismatch((rows.name, rows.ty), ("state", &state.ty), rule);
    }
    Ok(Vec::new())
}

pub(super) fn state_read(cx: &Cx<'_>, state: StateId) -> Inferred {
    let state = cx.state("state", state)?;
    float_state(cx, state)?;
    let [] = cx.args([])?;
    one(DType::F32, state.ty.shape.clone())
}

pub(super) fn causal_mask(cx: &Cx<'_>, keys: Dim, window: Option<u32>, hidden: f32) -> Inferred {
    cx.finite("hidden", hidden)?;
    check_window(cx, window)?;
    let keys = cx.dim(keys)?;
    let [p] = cx.args(["positions"])?;
    let p = p.is(DType::I32)?.of_rank(1, "[T]")?;
    one(DType::F32, vec![p.dims()[0], keys])
}

/// Fails unless operand `i` is `positions[T]`, `T` being the first dimension of `of`.
fn positions(cx: &Cx<'_>, i: usize, of: (&'static str, &TensorType)) -> Result<(), GraphError> {
    let p = cx.arg(i, "positions").is(DType::I32)?.of_rank(1, "[T]")?;
    match p.dims()[0] == of.1.shape.dims()[0] {
        true => Ok(()),
        false => cx.mismatch(of, (p.name, p.ty), "there must be one position per row"),
    }
}

fn check_window(cx: &Cx<'_>, window: Option<u32>) -> Result<(), GraphError> {
    match window {
        Some(n) if n == 0 || n > i32::MAX as u32 => {
            cx.attribute("window", n, "from 1 to 2147483647")
        }
        _ => Ok(()),
    }
}

fn float_state(cx: &Cx<'_>, state: &State) -> Result<(), GraphError> {
    match state.ty.dtype.is_float() && (state.axis as usize) < state.ty.shape.rank() {
        true => Ok(()),
        false => cx.state_error(state, "f32, f16 or bf16"),
    }
}
