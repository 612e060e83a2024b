//! Products with weights: linear layers, embeddings, norms, convolutions.

use super::{Arg, Cx, Inferred, broadcast, one};
use crate::{DType, Dim, GraphError};

pub(super) fn linear(cx: &Cx<'_>) -> Inferred {
    cx.count(2, 3, "2 or 3")?;
    let x = cx.arg(0, "x").float()?.at_least(1, "[…, K]")?;
    let w = cx.arg(1, "w").float_or_block()?.of_rank(2, "[N, K]")?;
    let (n, k) = (w.dims()[0], w.dims()[1]);
    if x.ty.shape.last() != Some(k) {
        return x.against(w, "the last dimensions must agree");
    }
    if let Some(bias) = cx.optional(2, "bias") {
        vector(bias, w, n, "the bias must have one element per row of w")?;
    }
    one(DType::F32, replace_last(x.dims(), &[n]))
}

pub(super) fn expert_linear(cx: &Cx<'_>) -> Inferred {
    let [x, w, ids] = cx.args(["x", "w", "ids"])?;
    let x = x.float()?.of_rank(3, "[T, M, K]")?;
    let w = w.float_or_block()?.of_rank(3, "[E, N, K]")?;
    let ids = ids.is(DType::I32)?.of_rank(2, "[T, S]")?;
    if x.dims()[2] != w.dims()[2] {
        return x.against(w, "the last dimensions must agree");
    }
    if x.dims()[0] != ids.dims()[0] {
        return x.against(ids, "the first dimensions must agree");
    }
    if x.dims()[1] != Dim::Fixed(1) && x.dims()[1] != ids.dims()[1] {
        return x.against(ids, "x must have one row, or one for each id");
    }
    one(DType::F32, [ids.dims(), &[w.dims()[1]]].concat())
}

pub(super) fn matmul(cx: &Cx<'_>, transpose_a: bool, transpose_b: bool) -> Inferred {
    let [a, b] = cx.args(["a", "b"])?;
    let a = a.float()?.at_least(2, "a matrix or a stack of matrices")?;
    let b = b.float()?.at_least(2, "a matrix or a stack of matrices")?;
    let (mut m, mut ka) = (a.dims()[a.rank() - 2], a.dims()[a.rank() - 1]);
    let (mut kb, mut n) = (b.dims()[b.rank() - 2], b.dims()[b.rank() - 1]);
    if transpose_a {
        (m, ka) = (ka, m);
    }
    if transpose_b {
        (kb, n) = (n, kb);
    }
    if ka != kb {
        return a.against(b, "the inner dimensions must agree");
    }
    let batch = (&a.dims()[..a.rank() - 2], &b.dims()[..b.rank() - 2]);
    let Some(mut dims) = broadcast(batch.0, batch.1) else {
        return a.against(b, "the leading dimensions must broadcast");
    };
    dims.extend([m, n]);
    one(DType::F32, dims)
}

pub(super) fn embedding(cx: &Cx<'_>) -> Inferred {
    let [table, ids] = cx.args(["table", "ids"])?;
    let table = table.float_or_block()?.of_rank(2, "[V, D]")?;
    let ids = ids.is(DType::I32)?;
    let mut dims = ids.dims().to_vec();
    dims.push(table.dims()[1]);
    one(DType::F32, dims)
}

pub(super) fn rms_norm(cx: &Cx<'_>, eps: f32) -> Inferred {
    cx.epsilon(eps)?;
    let [x, weight] = cx.args(["x", "weight"])?;
    let x = x.float()?.at_least(1, "[…, D]")?;
    let d = x.filled_axis("D", x.rank() as u32 - 1)?;
    vector(weight, x, d, "the weight must be as long as a row of x")?;
    one(DType::F32, x.dims().to_vec())
}

pub(super) fn layer_norm(cx: &Cx<'_>, eps: f32) -> Inferred {
    cx.epsilon(eps)?;
    cx.count(2, 3, "2 or 3")?;
    let x = cx.arg(0, "x").float()?.at_least(1, "[…, D]")?;
    let d = x.filled_axis("D", x.rank() as u32 - 1)?;
    vector(
        cx.arg(1, "gamma"),
        x,
        d,
        "gamma must be as long as a row of x",
    )?;
    if let Some(beta) = cx.optional(2, "beta") {
        vector(beta, x, d, "beta must be as long as a row of x")?;
    }
    one(DType::F32, x.dims().to_vec())
}

/// A convolution over as many spatial axes as `stride` has.
pub(super) fn conv(
    cx: &Cx<'_>,
    stride: &[u32],
    padding: &[u32],
    dilation: &[u32],
    groups: u32,
) -> Inferred {
    let axes = stride.len();
    for (&stride, &dilation) in stride.iter().zip(dilation) {
        cx.nonzero("stride", stride)?;
        cx.nonzero("dilation", dilation)?;
    }
    cx.nonzero("groups", groups)?;
    cx.count(2, 3, "2 or 3")?;
    let (x_form, w_form) = match axes {
        1 => ("[B, C, L]", "[O, C/groups, K]"),
        _ => ("[B, C, H, W]", "[O, C/groups, KH, KW]"),
    };
    let x = cx.arg(0, "x").float()?.of_rank(axes + 2, x_form)?;
    let w = cx.arg(1, "w").float()?.of_rank(axes + 2, w_form)?;
    let Some(w_dims) = w.ty.shape.as_fixed() else {
        return w.wrong("fixed dimensions");
    };
    let channels = x.fixed_axis("channels", 1)?;
    if !channels.is_multiple_of(groups) || !w_dims[0].is_multiple_of(groups) {
        return x.against(w, "groups must divide the channels of both");
    }
    if channels / groups != w_dims[1] {
        return x.against(w, "w must have the channels of x divided by groups");
    }
    if let Some(bias) = cx.optional(2, "bias") {
        vector(bias, w, w.dims()[0], "the bias must be as long as w")?;
    }
    let mut dims = vec![x.dims()[0], w.dims()[0]];
    for i in 0..axes {
        let taps = w_dims[2 + i];
        if taps == 0 {
            return w.wrong("at least one tap along each axis");
        }
        let reach = u64::from(dilation[i]) * u64::from(taps - 1);
        let pad = 2 * u64::from(padding[i]);
        dims.push(match x.dims()[2 + i] {
            length @ Dim::Sym(_) if stride[i] == 1 && pad == reach => length,
            Dim::Sym(_) => {
                return x.wrong(format!(
                    "a fixed length along axis {}, as the result's length differs",
                    2 + i
                ));
            }
            Dim::Fixed(n) => {
                let Some(room) = (u64::from(n) + pad).checked_sub(reach + 1) else {
                    return x.against(w, "x with padding is shorter than the reach of w");
                };
                match u32::try_from(room / u64::from(stride[i]) + 1) {
                    Ok(n) => Dim::Fixed(n),
                    Err(_) => return x.against(w, "the result is longer than 2^32 − 1"),
                }
            }
        });
    }
    one(DType::F32, dims)
}

/// Fails unless `arg` is a float vector of `length`, a dimension of `of`.
fn vector(arg: Arg<'_>, of: Arg<'_>, length: Dim, rule: &'static str) -> Result<(), GraphError> {
    let arg = arg.float()?.of_rank(1, "a vector")?;
    match arg.dims()[0] == length {
        true => Ok(()),
        false => of.against(arg, rule),
    }
}

fn replace_last(dims: &[Dim], with: &[Dim]) -> Vec<Dim> {
    [&dims[..dims.len() - 1], with].concat()
}
