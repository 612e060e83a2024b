//! Ops that move elements and leave their values.

use super::{Arg, Cx, Inferred, broadcast, one};
use crate::{DType, Dim, GraphError, Shape, Symbol, TensorType};

pub(super) fn gather(cx: &Cx<'_>, axis: u32) -> Inferred {
    let [data, indices] = cx.args(["data", "indices"])?;
    let indices = indices.index()?;
    data.axis("axis", axis)?;
    let dtype = match data.ty.dtype.is_block() {
        true if axis != 0 || data.rank() < 2 => {
            return data.wrong("a plain type, as the axis crosses quantised blocks");
        }
        true => DType::F32,
        false => data.ty.dtype,
    };
    let (before, after) = data.dims().split_at(axis as usize);
    let rank = data.rank() - 1 + indices.rank();
    if rank > Shape::MAX_RANK {
        let name = cx.node.into();
        return Err(GraphError::Rank { name, rank });
    }
    one(dtype, [before, indices.dims(), &after[1..]].concat())
}

pub(super) fn scatter(cx: &Cx<'_>, axis: u32) -> Inferred {
    let [data, indices, updates] = cx.args(["data", "indices", "updates"])?;
    let data = data.plain()?;
    let indices = indices.index()?.of_rank(1, "a vector")?;
    let updates = updates.same_dtype(data)?;
    data.axis("axis", axis)?;
    let mut wanted = data.dims().to_vec();
    wanted[axis as usize] = indices.dims()[0];
    if updates.dims() != wanted {
        return updates.wrong(format!(
            "{}: data with its axis as long as indices",
            Shape(wanted)
        ));
    }
    Ok(vec![data.ty.clone()])
}

pub(super) fn reshape(cx: &Cx<'_>, shape: &Shape) -> Inferred {
    let shape = cx.shape(shape)?;
    let [x] = cx.args(["x"])?;
    let x = x.plain()?;
    let (Some(have), Some(want)) = (Count::of(x.dims()), Count::of(shape.dims())) else {
        return x.wrong("fewer than 2^64 elements");
    };
    match have == want {
        true => one(x.ty.dtype, shape),
        false => x.wrong(format!("as many elements, symbol for symbol, as {shape}")),
    }
}

/// Number of elements: the symbols, sorted, and the product of the fixed dimensions.
#[derive(PartialEq)]
struct Count {
    symbols: Vec<Symbol>,
    fixed: u64,
}

impl Count {
    fn of(dims: &[Dim]) -> Option<Self> {
        let mut count = Count {
            symbols: Vec::new(),
            fixed: 1,
        };
        for &dim in dims {
            match dim {
                Dim::Sym(s) => count.symbols.push(s),
                Dim::Fixed(n) => count.fixed = count.fixed.checked_mul(n.into())?,
            }
        }
        count.symbols.sort_unstable();
        Some(count)
    }
}

pub(super) fn transpose(cx: &Cx<'_>, perm: &[u32]) -> Inferred {
    let [x] = cx.args(["x"])?;
    let x = x.plain()?;
    let mut seen = vec![false; x.rank()];
    let each_once = perm.len() == x.rank()
        && perm.iter().all(|&axis| {
            let slot = seen.get_mut(axis as usize);
            slot.is_some_and(|seen| !std::mem::replace(seen, true))
        });
    if !each_once {
        return cx.attribute(
            "perm",
            format_args!("{perm:?}"),
            format!("each axis of x once, which is {}", x.ty),
        );
    }
    let dims: Vec<Dim> = perm.iter().map(|&axis| x.dims()[axis as usize]).collect();
    one(x.ty.dtype, dims)
}

pub(super) fn broadcast_to(cx: &Cx<'_>, shape: &Shape) -> Inferred {
    let shape = cx.shape(shape)?;
    let [x] = cx.args(["x"])?;
    let x = x.plain()?;
    match broadcast(x.dims(), shape.dims()) {
        Some(dims) if dims == shape.0 => one(x.ty.dtype, shape),
        _ => x.wrong(format!("a shape that broadcasts to {shape}")),
    }
}

pub(super) fn slice(cx: &Cx<'_>, axis: u32, start: u32, end: u32, step: u32) -> Inferred {
    cx.nonzero("step", step)?;
    let [x] = cx.args(["x"])?;
    let x = x.plain()?;
    let n = x.fixed_axis("axis", axis)?;
    if start > end || end > n {
        return cx.attribute(
            "start..end",
            format_args!("{start}..{end}"),
            format!("a range of axis {axis} of x, which is {}", x.ty),
        );
    }
    with_axis(x, axis, (end - start).div_ceil(step))
}

pub(super) fn concat(cx: &Cx<'_>, axis: u32) -> Inferred {
    cx.count(1, usize::MAX, "1 or more")?;
    let first = cx.arg(0, "the first operand").plain()?;
    let at = axis as usize;
    let dim = first.axis("axis", axis)?;
    let mut total = u64::from(dim.fixed().unwrap_or(0));
    for i in 1..cx.inputs.len() {
        let next = cx.arg(i, "a later operand").same_dtype(first)?;
        let fits = next.rank() == first.rank()
            && (0..next.rank()).all(|i| i == at || next.dims()[i] == first.dims()[i]);
        if !fits {
            return first.against(next, "shapes must be equal but for the joined axis");
        }
        match (dim, next.dims()[at]) {
            (Dim::Fixed(_), Dim::Fixed(n)) => total = total.saturating_add(n.into()),
            _ => return first.against(next, "the joined axis must be fixed in both"),
        }
    }
    match (dim, u32::try_from(total)) {
        (Dim::Sym(_), _) => Ok(vec![first.ty.clone()]),
        (Dim::Fixed(_), Ok(total)) => with_axis(first, axis, total),
        (Dim::Fixed(_), Err(_)) => {
            cx.attribute("axis", axis, "a joined length of at most 2^32 − 1")
        }
    }
}

pub(super) fn split(cx: &Cx<'_>, axis: u32, sizes: &[u32]) -> Inferred {
    let [x] = cx.args(["x"])?;
    let x = x.plain()?;
    let n = x.fixed_axis("axis", axis)?;
    let total: Option<u32> = sizes.iter().try_fold(0, |t: u32, &s| t.checked_add(s));
    if sizes.is_empty() || total != Some(n) {
        return cx.attribute(
            "sizes",
            format_args!("{sizes:?}"),
            format!("one or more numbers whose sum is {n}"),
        );
    }
    let mut parts = Vec::with_capacity(sizes.len());
    for &size in sizes {
        parts.extend(with_axis(x, axis, size)?);
    }
    Ok(parts)
}

pub(super) fn iota(cx: &Cx<'_>, start: Dim, length: Dim) -> Inferred {
    let [] = cx.args([])?;
    cx.dim(start)?;
    one(DType::I32, vec![cx.dim(length)?])
}

/// `x` with `axis` of size `n`.
fn with_axis(x: Arg<'_>, axis: u32, n: u32) -> Inferred {
    let mut ty: TensorType = x.ty.clone();
    ty.shape.0[axis as usize] = Dim::Fixed(n);
    Ok(vec![ty])
}
