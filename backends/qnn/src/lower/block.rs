//! The operations that transformers are made of, by those of the HTP.

use anynpu_hal::HalError;
use anynpu_ir::{Activation, AttentionKv, BinaryOp, DType, Node, Op, RopeStyle, StateId, ValueId};
use half::f16;

use super::{Feed, Fetch, Lowering, MaskRows, Rotation};
use crate::htp::{DataType, Encoding, Param, Scalar, TensorId, TensorKind};

fn number(n: u32) -> Param {
    Param::Scalar(Scalar::U32(n))
}

/// Lowers `node`; its result, if it has one.
pub(super) fn lower(l: &mut Lowering<'_>, node: &Node) -> Result<Option<TensorId>, HalError> {
    let name = node.name.as_str();
    let made = match &node.op {
        Op::Linear => {
            let inputs = l.operands(node)?;
            let dims = l.dims(node.outputs[0]);
            l.op(name, "FullyConnected", &inputs, &dims, &[])
        }
        Op::RmsNorm { eps } | Op::LayerNorm { eps } => {
            let mut inputs = l.operands(node)?;
            let dims = l.dims(node.outputs[0]);
            let width = dims.last().copied().unwrap_or(1);
            let rows = dims.iter().rev().skip(1).product();
            let flat = [rows, width];
            // over the last of three dimensions the library gives other numbers, without a word
            if dims.len() != 2 {
                inputs[0] = l.op(&format!("{name}.flat"), "Reshape", &inputs[..1], &flat, &[]);
            }
            let axes = l.numbers(&[1], &[1]);
            let eps = Param::Scalar(Scalar::F32(*eps));
            let op = match node.op {
                Op::RmsNorm { .. } => "RmsNorm",
                _ => "LayerNorm",
            };
            let params = [("epsilon", eps), ("axes", Param::Tensor(axes))];
            match dims.len() {
                2 => l.op(name, op, &inputs, &dims, &params),
                _ => {
                    let made = l.op(&format!("{name}.norm"), op, &inputs, &flat, &params);
                    l.op(name, "Reshape", &[made], &dims, &[])
                }
            }
        }
        Op::Reshape { .. } => {
            let x = l.value(node.inputs[0])?;
            let dims = l.dims(node.outputs[0]);
            l.op(name, "Reshape", &[x], &dims, &[])
        }
        Op::Activation(activation) => {
            let x = l.value(node.inputs[0])?;
            let dims = l.dims(node.outputs[0]);
            activated(l, name, *activation, x, &dims)
        }
        Op::GatedActivation(activation) => {
            let (gate, up) = (l.value(node.inputs[0])?, l.value(node.inputs[1])?);
            let dims = l.dims(node.outputs[0]);
            let gate = activated(l, &format!("{name}.gate"), *activation, gate, &dims);
            l.op(name, "ElementWiseMultiply", &[gate, up], &dims, &[])
        }
        Op::Binary(op) => {
            let inputs = l.operands(node)?;
            let dims = l.dims(node.outputs[0]);
            let op = match op {
                BinaryOp::Add => "ElementWiseAdd",
                BinaryOp::Sub => "ElementWiseSubtract",
                BinaryOp::Mul => "ElementWiseMultiply",
                _ => return Ok(None),
            };
            l.op(name, op, &inputs, &dims, &[])
        }
        Op::Rope {
            style,
            dims,
            base,
            scaling,
        } => {
            let rotation = Rotation {
                positions: l.operand(node.inputs[1])?,
                style: *style,
                dims: *dims,
                base: *base,
                scaling: *scaling,
            };
            rotate(l, name, node.inputs[0], rotation)?
        }
        Op::KvAppend { state, .. } => {
            append(l, name, *state, node.inputs[0])?;
            return Ok(None);
        }
        Op::Attention {
            kv: AttentionKv::State { k, v },
            scale,
            window,
            ..
        } => attend(l, node, *k, *v, *scale, *window)?,
        _ => return Ok(None),
    };
    Ok(Some(made))
}

impl Lowering<'_> {
    fn operands(&mut self, node: &Node) -> Result<Vec<TensorId>, HalError> {
        node.inputs.iter().map(|&v| self.value(v)).collect()
    }
}

fn activated(
    l: &mut Lowering<'_>,
    name: &str,
    activation: Activation,
    x: TensorId,
    dims: &[u32],
) -> TensorId {
    match activation {
        Activation::Silu => {
            let share = l.op(&format!("{name}.sigmoid"), "Sigmoid", &[x], dims, &[]);
            l.op(
                &format!("{name}.silu"),
                "ElementWiseMultiply",
                &[x, share],
                dims,
                &[],
            )
        }
        Activation::Relu => l.op(&format!("{name}.relu"), "Relu", &[x], dims, &[]),
        _ => l.op(&format!("{name}.gelu"), "Gelu", &[x], dims, &[]),
    }
}

/// Cuts `x` of `dims` along `axis` at `at`.
fn split(
    l: &mut Lowering<'_>,
    name: &str,
    x: TensorId,
    dims: &[u32],
    axis: usize,
    at: u32,
) -> (TensorId, TensorId) {
    let (mut first, mut second) = (dims.to_vec(), dims.to_vec());
    first[axis] = at;
    second[axis] = dims[axis] - at;
    let first = l.native(format!("{name}.first"), &first);
    let second = l.native(format!("{name}.second"), &second);
    let index = l.numbers(&[1], &[at]);
    let params = [
        ("axis", number(axis as u32)),
        ("split_index", Param::Tensor(index)),
    ];
    l.out.node(name, "Split", &[x], &[first, second], &params);
    (first, second)
}

fn rotate(
    l: &mut Lowering<'_>,
    name: &str,
    x: ValueId,
    rotation: Rotation,
) -> Result<TensorId, HalError> {
    let dims = l.dims(x);
    let x = l.value(x)?;
    let (tokens, heads, width) = (dims[0], dims[1], dims[2]);
    let (rotated, pairs) = (rotation.dims, rotation.dims / 2);
    // angles are the same for every head
    let angles = [tokens, 1, pairs];
    let of = format!("angles.{}.{}", rotation.positions, rotation.dims);
    let cosines = Feed::Cosines(rotation.clone());
    let cosines = l.input(
        format!("{of}.{}.cos", l.feeds.len()),
        DataType::F16,
        &angles,
        cosines,
    );
    let sines = Feed::Sines(rotation.clone());
    let sines = l.input(
        format!("{of}.{}.sin", l.feeds.len()),
        DataType::F16,
        &angles,
        sines,
    );
    let (turned, rest) = match rotated == width {
        true => (x, None),
        false => {
            let (turned, rest) = split(l, &format!("{name}.part"), x, &dims, 2, rotated);
            (turned, Some(rest))
        }
    };
    let whole = [tokens, heads, rotated];
    let half = [tokens, heads, pairs];
    let (a, b) = match rotation.style {
        RopeStyle::HalfSplit => split(l, &format!("{name}.halves"), turned, &whole, 2, pairs),
        RopeStyle::Interleaved => {
            let paired = [tokens, heads, pairs, 2];
            let x = l.op(
                &format!("{name}.paired"),
                "Reshape",
                &[turned],
                &paired,
                &[],
            );
            let (a, b) = split(l, &format!("{name}.pairs"), x, &paired, 3, 1);
            let a = l.op(&format!("{name}.even"), "Reshape", &[a], &half, &[]);
            (a, l.op(&format!("{name}.odd"), "Reshape", &[b], &half, &[]))
        }
    };
    let mut times = |what: &str, x, angle| {
        l.op(
            &format!("{name}.{what}"),
            "ElementWiseMultiply",
            &[x, angle],
            &half,
            &[],
        )
    };
    let (ac, bs) = (times("a_cos", a, cosines), times("b_sin", b, sines));
    let (as_, bc) = (times("a_sin", a, sines), times("b_cos", b, cosines));
    let first = l.op(
        &format!("{name}.first"),
        "ElementWiseSubtract",
        &[ac, bs],
        &half,
        &[],
    );
    let second = l.op(
        &format!("{name}.second"),
        "ElementWiseAdd",
        &[as_, bc],
        &half,
        &[],
    );
    let made = match rotation.style {
        RopeStyle::HalfSplit => {
            let axis = [("axis", number(2))];
            l.op(
                &format!("{name}.joined"),
                "Concat",
                &[first, second],
                &whole,
                &axis,
            )
        }
        RopeStyle::Interleaved => {
            let single = [tokens, heads, pairs, 1];
            let first = l.op(&format!("{name}.first4"), "Reshape", &[first], &single, &[]);
            let second = l.op(
                &format!("{name}.second4"),
                "Reshape",
                &[second],
                &single,
                &[],
            );
            let paired = [tokens, heads, pairs, 2];
            let axis = [("axis", number(3))];
            let x = l.op(
                &format!("{name}.zipped"),
                "Concat",
                &[first, second],
                &paired,
                &axis,
            );
            l.op(&format!("{name}.unpaired"), "Reshape", &[x], &whole, &[])
        }
    };
    Ok(match rest {
        None => made,
        Some(rest) => {
            let axis = [("axis", number(2))];
            l.op(name, "Concat", &[made, rest], &dims, &axis)
        }
    })
}

fn append(l: &mut Lowering<'_>, name: &str, state: StateId, rows: ValueId) -> Result<(), HalError> {
    let dims = l.dims(rows);
    let from = l.value(rows)?;
    let dtype = match l.state_dtype {
        DType::F16 => DataType::F16,
        _ => DataType::F32,
    };
    let at = index(l, state)?;
    match dtype {
        // a cast to the same type is none
        DataType::F16 => {
            let kind = TensorKind::Output;
            let to = l
                .out
                .tensor(format!("{name}.rows"), kind, dtype, &dims, Encoding::None);
            l.out.node(name, "Reshape", &[from], &[to], &[]);
            l.fetches.push(Fetch::Rows(at));
        }
        _ => l.output(&format!("{name}.rows"), from, dtype, &dims, Fetch::Rows(at)),
    }
    l.fresh.insert(state, from);
    Ok(())
}

/// Where `state` is bound.
fn index(l: &Lowering<'_>, state: StateId) -> Result<usize, HalError> {
    let at = l.states.iter().position(|s| *s == state);
    at.ok_or_else(|| HalError::InvalidUse {
        call: "compile",
        what: format!("state '{}'", l.graph.state(state).name),
        found: "not bound".into(),
        expected: "a state of the entry".into(),
    })
}

/// All rows of `state`: those from before, then those of this run; `[kv_heads, rows, width]`.
fn rows(l: &mut Lowering<'_>, name: &str, state: StateId) -> Result<(TensorId, u32), HalError> {
    let at = index(l, state)?;
    let dims = l.graph.state(state).ty.shape.dims().to_vec();
    let dims: Vec<u32> = dims.iter().map(|d| d.resolve(&l.symbols)).collect();
    let (capacity, heads, width) = (dims[0], dims[1], dims[2]);
    let before = match l.cached.get(&state) {
        Some(&known) => known,
        None => {
            let of = l.graph.state(state).name.clone();
            let made = match l.state_dtype {
                DType::F16 => l.input(of, DataType::F16, &dims, Feed::State(at)),
                _ => {
                    let given = l.input(of.clone(), DataType::F32, &dims, Feed::State(at));
                    l.op(&format!("{of}.cast"), "Cast", &[given], &dims, &[])
                }
            };
            l.cached.insert(state, made);
            made
        }
    };
    let (all, count) = match l.fresh.get(&state) {
        None => (before, capacity),
        Some(&fresh) => {
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
    let order = l.numbers(&[3], &[1, 0, 2]);
    let order = [("perm", Param::Tensor(order))];
    let dims = [heads, count, width];
    Ok((
        l.op(
            &format!("{name}.by_head"),
            "Transpose",
            &[all],
            &dims,
            &order,
        ),
        count,
    ))
}

/// Heads that share rows are the rows of one product: queries `[kv_heads, group · tokens, width]`.
fn attend(
    l: &mut Lowering<'_>,
    node: &Node,
    k: StateId,
    v: StateId,
    scale: f32,
    window: Option<u32>,
) -> Result<TensorId, HalError> {
    let name = node.name.as_str();
    let q = l.dims(node.inputs[0]);
    let (tokens, heads, width) = (q[0], q[1], q[2]);
    let out = l.dims(node.outputs[0]);
    let kv_heads = {
        let dims = l.graph.state(k).ty.shape.dims();
        dims[1].resolve(&l.symbols)
    };
    let group = heads / kv_heads.max(1);
    let (keys, count) = rows(l, &format!("{name}.k"), k)?;
    let (values, _) = rows(l, &format!("{name}.v"), v)?;
    let mask = MaskRows {
        positions: l.operand(node.inputs[1])?,
        capacity: l.capacity(),
        fresh: count - l.capacity(),
        window,
    };
    let mask_name = format!("mask.{}", l.feeds.len());
    let mask = l.input(
        mask_name,
        DataType::F16,
        &[1, tokens, count],
        Feed::Mask(mask),
    );
    let x = l.value(node.inputs[0])?;
    let factor = {
        let kind = TensorKind::Static(f16::from_f32(scale).to_le_bytes().to_vec());
        l.out.tensor(
            format!("{name}.scale"),
            kind,
            DataType::F16,
            &[1],
            Encoding::None,
        )
    };
    let x = l.op(
        &format!("{name}.scaled"),
        "ElementWiseMultiply",
        &[x, factor],
        &q,
        &[],
    );
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
    let x = l.op(&format!("{name}.scores"), "MatMul", &[x, keys], &dims, &yes);
    let each = [heads, tokens, count];
    let x = l.op(&format!("{name}.by_query"), "Reshape", &[x], &each, &[]);
    let x = l.op(
        &format!("{name}.masked"),
        "ElementWiseAdd",
        &[x, mask],
        &each,
        &[],
    );
    let axis = [("axis", number(2))];
    let x = l.op(&format!("{name}.shares"), "Softmax", &[x], &each, &axis);
    let x = l.op(&format!("{name}.by_kv"), "Reshape", &[x], &dims, &[]);
    let width = out[2];
    let dims = [kv_heads, group * tokens, width];
    let x = l.op(&format!("{name}.mixed"), "MatMul", &[x, values], &dims, &[]);
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
    Ok(l.op(name, "Reshape", &[x], &out, &[]))
}
