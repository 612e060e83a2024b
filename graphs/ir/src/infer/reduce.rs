//! Reductions and searches along axes.

use super::{Cx, Inferred, one};
use crate::{DType, Dim, ReduceOp, TensorType};

pub(super) fn reduce(cx: &Cx<'_>, op: ReduceOp, axes: &[u32], keep_dims: bool) -> Inferred {
    let [x] = cx.args(["x"])?;
    let x = match op {
        ReduceOp::Mean => x.float()?,
        ReduceOp::Sum | ReduceOp::Max | ReduceOp::Min => x.require(
            x.ty.dtype.is_float() || x.ty.dtype.is_integer(),
            "a float or integer type",
        )?,
    };
    let ascending = axes.windows(2).all(|w| w[0] < w[1]);
    let last = axes.last().copied();
    if !ascending || last.is_none_or(|last| last as usize >= x.rank()) {
        return cx.attribute(
            "axes",
            format_args!("{axes:?}"),
            format!("ascending axes of x, at least one; x is {}", x.ty),
        );
    }
    let mut dims = Vec::with_capacity(x.rank());
    for (i, &dim) in x.dims().iter().enumerate() {
        match axes.contains(&(i as u32)) {
            false => dims.push(dim),
            true if op != ReduceOp::Sum && dim == Dim::Fixed(0) => {
                return x.wrong("at least one element along the reduced axes");
            }
            true if keep_dims => dims.push(Dim::Fixed(1)),
            true => {}
        }
    }
    one(x.ty.dtype, dims)
}

pub(super) fn top_k(cx: &Cx<'_>, k: u32) -> Inferred {
    let [x] = cx.args(["x"])?;
    let x = x.float()?.at_least(1, "[…, N]")?;
    let last = x.rank() - 1;
    let n = x.fixed_axis("N", last as u32)?;
    if k == 0 || k > n {
        return cx.attribute("k", k, format!("from 1 to {n}"));
    }
    let mut dims = x.dims().to_vec();
    dims[last] = Dim::Fixed(k);
    Ok(vec![
        TensorType::new(x.ty.dtype, dims.clone()),
        TensorType::new(DType::I32, dims),
    ])
}

pub(super) fn arg_max(cx: &Cx<'_>, axis: u32) -> Inferred {
    let [x] = cx.args(["x"])?;
    let number = x.ty.dtype.is_float() || x.ty.dtype.is_integer();
    let x = x.require(number, "a float or integer type")?;
    x.filled_axis("axis", axis)?;
    let mut dims = x.dims().to_vec();
    dims.remove(axis as usize);
    one(DType::I32, dims)
}
