//! Attention by operations of the interface.

use anynpu_hal::HalError;
use anynpu_ir::{AttentionKv, Node, Op, StateId, Symbol};

use super::activation::capped;
use super::{Feed, Lowering, MaskRows, ProductForm};
use crate::model::OperandId;
use crate::sys;

/// All rows of `state`: those from before, then those of this run, if there are `new` ones; `[rows, heads, width]`.
fn rows(
    l: &mut Lowering<'_>,
    name: &str,
    state: StateId,
    new: bool,
) -> Result<OperandId, HalError> {
    if let Some(&whole) = l.whole.get(&state) {
        return Ok(whole);
    }
    let at = l.state(state)?;
    let dims = l.graph.state(state).ty.shape.dims().to_vec();
    let dims: Vec<u32> = dims.iter().map(|d| d.resolve(&l.symbols)).collect();
    let feed = match new {
        true => Feed::State(at),
        false => Feed::StateOfStep(at),
    };
    let of = l.graph.state(state).name.clone();
    let before = l.input(of, l.ty(), &dims, feed);
    let fresh = match (l.fresh.get(&state), new) {
        (Some(&fresh), _) => fresh,
        (None, false) => return Ok(before),
        (None, true) => {
            let mut dims = dims;
            dims[0] = l.symbols.get(Symbol::TOKENS);
            let of = format!("{name}.new");
            l.input(of, l.ty(), &dims, Feed::NewRows(at))
        }
    };
    Ok(l.joined(&format!("{name}.rows"), &[before, fresh], 0))
}

/// Keys and values of an attention, `[rows, kv_heads, width]` each, and what is added to its scores.
struct Rows {
    keys: OperandId,
    values: OperandId,
    heads: u32,
    count: u32,
    /// `[1, tokens, rows]`.
    mask: Option<OperandId>,
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
    let (keys, values, positions) = match kv {
        AttentionKv::State { k, v } => {
            // where one of them has its new rows apart, so must the other
            let new = l.fresh.contains_key(k) || l.fresh.contains_key(v);
            let keys = rows(l, &format!("{name}.k"), *k, new)?;
            (keys, rows(l, &format!("{name}.v"), *v, new)?, 1)
        }
        AttentionKv::Operands => (l.value(node.inputs[1])?, l.value(node.inputs[2])?, 3),
    };
    let dims = l.dims_of(keys);
    let (count, heads) = (dims[0], dims[1]);
    let capacity = match kv {
        AttentionKv::State { .. } => l.capacity(),
        AttentionKv::Operands => count,
    };
    let mask = match (causal, masked) {
        (false, false) => None,
        (false, true) => {
            // the same for every head
            let mask = Feed::Added(l.operand(node.inputs[positions])?);
            let dims = [1, l.dims(node.inputs[0])[0], count];
            let name = l.graph.value(node.inputs[positions]).name.clone();
            Some(l.input(name, l.ty(), &dims, mask))
        }
        (true, _) => {
            let mask = Feed::Mask(MaskRows {
                positions: l.operand(node.inputs[positions])?,
                capacity,
                fresh: count.saturating_sub(capacity),
                window: *window,
            });
            let dims = [1, l.dims(node.inputs[0])[0], count];
            let name = format!("mask.{}", l.feeds.len());
            Some(l.input(name, l.ty(), &dims, mask))
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
pub(super) fn attend(l: &mut Lowering<'_>, node: &Node) -> Result<Option<OperandId>, HalError> {
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
    let x = l.scaled(&format!("{name}.scaled"), x, *scale);
    let grouped = [tokens, kv_heads, group, width];
    let x = l.reshaped(&format!("{name}.grouped"), x, &grouped);
    let x = l.transposed(&format!("{name}.by_group"), x, &[1, 2, 0, 3]);
    let flat = [kv_heads, group * tokens, width];
    let x = l.reshaped(&format!("{name}.queries"), x, &flat);
    let mut x = scores(l, name, x, rows.keys);
    if let Some(cap) = soft_cap {
        x = capped(l, &format!("{name}.cap"), x, *cap);
    }
    let each = [heads, tokens, count];
    let x = l.reshaped(&format!("{name}.by_query"), x, &each);
    let x = match rows.mask {
        None => x,
        Some(mask) => l.pair(&format!("{name}.masked"), sys::ADD, x, mask),
    };
    let x = l.softmax(&format!("{name}.shares"), x, 2);
    let flat = [kv_heads, group * tokens, count];
    let x = l.reshaped(&format!("{name}.by_kv"), x, &flat);
    let x = mixed(l, name, x, rows.values);
    let grouped = [kv_heads, group, tokens, out[2]];
    let x = l.reshaped(&format!("{name}.ungrouped"), x, &grouped);
    let x = l.transposed(&format!("{name}.by_token"), x, &[2, 0, 1, 3]);
    Ok(Some(l.reshaped(name, x, &out)))
}

/// `[kv_heads, queries, rows]` of queries `[kv_heads, queries, width]` and keys `[rows, kv_heads, width]`.
fn scores(l: &mut Lowering<'_>, name: &str, q: OperandId, keys: OperandId) -> OperandId {
    let (q_dims, k_dims) = (l.dims_of(q), l.dims_of(keys));
    let (heads, queries, width, count) = (q_dims[0], q_dims[1], q_dims[2], k_dims[0]);
    let keys = l.transposed(&format!("{name}.k.by_head"), keys, &[1, 0, 2]);
    let dims = [heads, queries, count];
    let of = format!("{name}.scores");
    match l.target.products {
        ProductForm::Batched => l.batched(&of, (q, false), (keys, true), &dims),
        ProductForm::Connected => by_head(l, &of, q, keys, &dims),
        ProductForm::Summed => {
            let q = l.reshaped(&format!("{of}.q"), q, &[heads, queries, 1, width]);
            let keys = l.reshaped(&format!("{of}.k"), keys, &[heads, 1, count, width]);
            let pairs = l.times(&format!("{of}.pairs"), q, keys);
            l.reduced(&of, sys::REDUCE_SUM, pairs, &[3], false)
        }
    }
}

/// `[kv_heads, queries, width]` of shares `[kv_heads, queries, rows]` and values `[rows, kv_heads, width]`.
fn mixed(l: &mut Lowering<'_>, name: &str, shares: OperandId, values: OperandId) -> OperandId {
    let (s_dims, v_dims) = (l.dims_of(shares), l.dims_of(values));
    let (heads, queries, count, width) = (s_dims[0], s_dims[1], s_dims[2], v_dims[2]);
    let dims = [heads, queries, width];
    let of = format!("{name}.mixed");
    let by = format!("{name}.v.by_head");
    match l.target.products {
        ProductForm::Batched => {
            let values = l.transposed(&by, values, &[1, 0, 2]);
            l.batched(&of, (shares, false), (values, false), &dims)
        }
        ProductForm::Connected => {
            let values = l.transposed(&by, values, &[1, 2, 0]);
            by_head(l, &of, shares, values, &dims)
        }
        ProductForm::Summed => {
            let values = l.transposed(&by, values, &[1, 0, 2]);
            let shares = l.reshaped(&format!("{of}.s"), shares, &[heads, queries, count, 1]);
            let values = l.reshaped(&format!("{of}.v"), values, &[heads, 1, count, width]);
            let pairs = l.times(&format!("{of}.pairs"), shares, values);
            l.reduced(&of, sys::REDUCE_SUM, pairs, &[2], false)
        }
    }
}

/// `[heads, a, b]` of `x[heads, a, k]` and `w[heads, b, k]`: a product for each head, with weights that are computed.
fn by_head(
    l: &mut Lowering<'_>,
    name: &str,
    x: OperandId,
    w: OperandId,
    dims: &[u32; 3],
) -> OperandId {
    let [heads, rows, units] = *dims;
    let inner = l.dims_of(w)[2];
    let xs = l.parts(&format!("{name}.x"), x, 0, heads);
    let ws = l.parts(&format!("{name}.w"), w, 0, heads);
    let bias = l.zeros(units);
    let mut made = Vec::new();
    for ((x, w), n) in xs.into_iter().zip(ws).zip(0..) {
        let w = l.reshaped(&format!("{name}.w{n}"), w, &[units, inner]);
        made.push(l.connected(&format!("{name}.{n}"), x, w, bias, &[rows, units]));
    }
    let joined = l.joined(&format!("{name}.all"), &made, 0);
    l.reshaped(name, joined, dims)
}
