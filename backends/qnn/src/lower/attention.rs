//! Attention by operations of the HTP.

use anynpu_hal::HalError;
use anynpu_ir::{AttentionKv, DType, Node, Op, StateId};

use super::activation::{capped, scaled};
use super::block::{index, number};
use super::{Feed, Lowering, MaskRows};
use crate::htp::{DataType, Param, Scalar, TensorId};

/// All rows of `state`: those from before, then those of this run, if there are `new` ones; `[kv_heads, rows, width]`, and
/// how many rows.
fn rows(
    l: &mut Lowering<'_>,
    name: &str,
    state: StateId,
    new: bool,
) -> Result<(TensorId, u32), HalError> {
    let at = index(l, state)?;
    let dims = l.graph.state(state).ty.shape.dims().to_vec();
    let dims: Vec<u32> = dims.iter().map(|d| d.resolve(&l.symbols)).collect();
    let (capacity, heads, width) = (dims[0], dims[1], dims[2]);
    let before = match l.cached.get(&state) {
        Some(&known) => known,
        None => {
            let of = l.graph.state(state).name.clone();
            let made = given(l, of, &dims, Feed::State(at));
            l.cached.insert(state, made);
            made
        }
    };
    let fresh = match l.fresh.get(&state) {
        Some(&fresh) => Some(fresh),
        None if new => {
            let of = format!("{}.new", l.graph.state(state).name);
            let dims = [l.tokens(), heads, width];
            let made = given(l, of, &dims, Feed::NewRows(at));
            l.fresh.insert(state, made);
            Some(made)
        }
        None => None,
    };
    let (all, count) = match fresh {
        None => (before, capacity),
        Some(fresh) => {
            let count = capacity + l.tokens();
            let axis = [("axis", number(0))];
            let dims = [count, heads, width];
            (
                l.op(
                    &format!("{name}.rows"),
                    "Concat",
                    &[before, fresh],
                    &dims,
                    &axis,
                ),
                count,
            )
        }
    };
    Ok((by_head(l, name, all, [count, heads, width]), count))
}

/// Rows of a state that the host gives, in F16.
fn given(l: &mut Lowering<'_>, name: String, dims: &[u32], feed: Feed) -> TensorId {
    match l.state_dtype {
        DType::F16 => l.input(name, DataType::F16, dims, feed),
        _ => {
            let given = l.input(name.clone(), DataType::F32, dims, feed);
            l.op(&format!("{name}.cast"), "Cast", &[given], dims, &[])
        }
    }
}

/// `x` of `[rows, heads, width]` as `[heads, rows, width]`.
fn by_head(l: &mut Lowering<'_>, name: &str, x: TensorId, dims: [u32; 3]) -> TensorId {
    let [rows, heads, width] = dims;
    let order = l.numbers(&[3], &[1, 0, 2]);
    let order = [("perm", Param::Tensor(order))];
    let name = format!("{name}.by_head");
    l.op(&name, "Transpose", &[x], &[heads, rows, width], &order)
}

/// Keys and values of an attention, `[kv_heads, rows, width]` each, and what is added to its scores.
struct Rows {
    keys: TensorId,
    values: TensorId,
    heads: u32,
    count: u32,
    /// `[1, tokens, rows]`.
    mask: Option<TensorId>,
}

/// What `node` attends to: rows of states, or values made before it.
fn attended(l: &mut Lowering<'_>, node: &Node) -> Result<Option<Rows>, HalError> {
    let Op::Attention {
        kv,
        causal,
        mask: masked,
        window,
        ..
    } = &node.op
    else {
        return Ok(None);
    };
    let name = node.name.as_str();
    let (keys, values, heads, count, capacity) = match kv {
        AttentionKv::State { k, v } => {
            let heads = l.graph.state(*k).ty.shape.dims()[1].resolve(&l.symbols);
            // where one of them has its new rows apart, so must the other
            let new = l.fresh.contains_key(k) || l.fresh.contains_key(v);
            let (keys, count) = rows(l, &format!("{name}.k"), *k, new)?;
            let (values, _) = rows(l, &format!("{name}.v"), *v, new)?;
            (keys, values, heads, count, l.capacity())
        }
        AttentionKv::Operands => {
            let mut given = |i: usize, what: &str| -> Result<(TensorId, [u32; 3]), HalError> {
                let dims = l.dims(node.inputs[i]);
                let dims = [dims[0], dims[1], dims[2]];
                let x = l.value(node.inputs[i])?;
                Ok((by_head(l, &format!("{name}.{what}"), x, dims), dims))
            };
            let (keys, [count, heads, _]) = given(1, "k")?;
            let (values, _) = given(2, "v")?;
            (keys, values, heads, count, count)
        }
    };
    let positions = match kv {
        AttentionKv::State { .. } => 1,
        AttentionKv::Operands => 3,
    };
    let mask = match (causal, masked) {
        (false, false) => None,
        (false, true) => {
            // the same for every head
            let mask = Feed::Added(l.operand(node.inputs[positions])?, count);
            let dims = [1, l.dims(node.inputs[0])[0], count];
            let of = l.graph.value(node.inputs[positions]).name.clone();
            let given = l.input(format!("{of}.f32"), DataType::F32, &dims, mask);
            Some(l.op(&format!("{name}.mask"), "Cast", &[given], &dims, &[]))
        }
        (true, _) => {
            let mask = Feed::Mask(MaskRows {
                positions: l.operand(node.inputs[positions])?,
                capacity,
                fresh: count - capacity,
                window: *window,
            });
            let dims = [1, l.dims(node.inputs[0])[0], count];
            let name = format!("mask.{}", l.feeds.len());
            Some(l.input(name, DataType::F16, &dims, mask))
        }
    };
    Ok(Some(Rows {
        keys,
        values,
        heads,
        count,
        mask,
    }))
}

/// Heads that share rows are the rows of one product: queries `[kv_heads, group · tokens, width]`.
pub(super) fn attend(l: &mut Lowering<'_>, node: &Node) -> Result<Option<TensorId>, HalError> {
    let Op::Attention {
        scale, soft_cap, ..
    } = &node.op
    else {
        return Ok(None);
    };
    let Some(rows) = attended(l, node)? else {
        return Ok(None);
    };
    let name = node.name.as_str();
    let q = l.dims(node.inputs[0]);
    let (tokens, heads, width) = (q[0], q[1], q[2]);
    let out = l.dims(node.outputs[0]);
    let (kv_heads, count) = (rows.heads, rows.count);
    let group = heads / kv_heads.max(1);
    let x = l.value(node.inputs[0])?;
    let x = scaled(l, &format!("{name}.scaled"), x, &q, *scale);
    let grouped = [tokens, kv_heads, group, width];
    let x = l.op(&format!("{name}.grouped"), "Reshape", &[x], &grouped, &[]);
    let order = l.numbers(&[4], &[1, 2, 0, 3]);
    let order = [("perm", Param::Tensor(order))];
    let dims = [kv_heads, group, tokens, width];
    let x = l.op(
        &format!("{name}.by_group"),
        "Transpose",
        &[x],
        &dims,
        &order,
    );
    let dims = [kv_heads, group * tokens, width];
    let x = l.op(&format!("{name}.queries"), "Reshape", &[x], &dims, &[]);
    let yes = [("transpose_in1", Param::Scalar(Scalar::Bool(true)))];
    let dims = [kv_heads, group * tokens, count];
    let scores = [x, rows.keys];
    let mut x = l.op(&format!("{name}.scores"), "MatMul", &scores, &dims, &yes);
    if let Some(cap) = soft_cap {
        x = capped(l, &format!("{name}.cap"), x, &dims, *cap);
    }
    let each = [heads, tokens, count];
    let x = l.op(&format!("{name}.by_query"), "Reshape", &[x], &each, &[]);
    let x = match rows.mask {
        None => x,
        Some(mask) => {
            let name = format!("{name}.masked");
            l.op(&name, "ElementWiseAdd", &[x, mask], &each, &[])
        }
    };
    let axis = [("axis", number(2))];
    let x = l.op(&format!("{name}.shares"), "Softmax", &[x], &each, &axis);
    let x = l.op(&format!("{name}.by_kv"), "Reshape", &[x], &dims, &[]);
    let width = out[2];
    let dims = [kv_heads, group * tokens, width];
    let x = l.op(
        &format!("{name}.mixed"),
        "MatMul",
        &[x, rows.values],
        &dims,
        &[],
    );
    let dims = [kv_heads, group, tokens, width];
    let x = l.op(&format!("{name}.ungrouped"), "Reshape", &[x], &dims, &[]);
    let order = l.numbers(&[4], &[2, 0, 1, 3]);
    let order = [("perm", Param::Tensor(order))];
    let dims = [tokens, kv_heads, group, width];
    let x = l.op(
        &format!("{name}.by_token"),
        "Transpose",
        &[x],
        &dims,
        &order,
    );
    Ok(Some(l.op(name, "Reshape", &[x], &out, &[])))
}
