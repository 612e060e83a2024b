//! Products, norms, rotations and appended rows by operations of the HTP.

use anynpu_hal::HalError;
use anynpu_ir::{BinaryOp, DType, Node, Op, RopeStyle, StateId, ValueId};

use super::activation::{activated, capped};
use super::attention::attend;
use super::{Feed, Fetch, Lowering, Rotation};
use crate::htp::{DataType, Encoding, Param, Scalar, TensorId, TensorKind};

pub(super) fn number(n: u32) -> Param {
    Param::Scalar(Scalar::U32(n))
}

/// Lowers `node`; its result, if it has one.
pub(super) fn lower(l: &mut Lowering<'_>, node: &Node) -> Result<Option<TensorId>, HalError> {
    let name = node.name.as_str();
    let made = match &node.op {
        Op::Linear => product(l, node)?,
        Op::Gather { .. } => {
            let x = l.value(node.inputs[0])?;
            let chosen = Feed::Value(l.operand(node.inputs[1])?);
            let of = format!("{name}.chosen");
            let rows = l.dims(node.inputs[1]);
            let rows = l.input(of, DataType::I32, &rows, chosen);
            let dims = l.dims(node.outputs[0]);
            let axis = [("axis", Param::Scalar(Scalar::I32(0)))];
            l.op(name, "Gather", &[x, rows], &dims, &axis)
        }
        Op::RmsNorm { eps } | Op::LayerNorm { eps } => {
            let mut inputs = l.operands(node)?;
            let dims = l.dims(node.outputs[0]);
            let width = dims.last().copied().unwrap_or(1);
            let rows = dims.iter().rev().skip(1).product();
            let flat = [rows, width];
            // core APIs 2.36 and 2.37 say yes to a norm without it, and then can't compile it
            if inputs.len() == 2 {
                inputs.push(l.zeros(width));
            }
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
            return Ok(activated(l, name, *activation, x, &dims));
        }
        Op::GatedActivation(activation) => {
            let (x, up) = (l.value(node.inputs[0])?, l.value(node.inputs[1])?);
            let dims = l.dims(node.outputs[0]);
            let gate = format!("{name}.gate");
            let Some(gate) = activated(l, &gate, *activation, x, &dims) else {
                return Ok(None);
            };
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
            let pairs = *dims as usize / 2;
            let factors = match node.inputs.get(2) {
                Some(&factors) => Some(l.host_numbers(factors, pairs)?),
                None => None,
            };
            let rotation = Rotation {
                positions: l.operand(node.inputs[1])?,
                style: *style,
                dims: *dims,
                base: *base,
                scaling: *scaling,
                factors,
            };
            rotate(l, name, node.inputs[0], rotation)?
        }
        Op::KvAppend { state, .. } => {
            append(l, name, *state, node.inputs[0])?;
            return Ok(None);
        }
        Op::SoftCap { cap } => {
            let x = l.value(node.inputs[0])?;
            let dims = l.dims(node.outputs[0]);
            capped(l, name, x, &dims, *cap)
        }
        Op::Attention { .. } => return attend(l, node),
        _ => return Ok(None),
    };
    Ok(Some(made))
}

/// Rows of a matrix in one product; larger ones, as for the tokens of a vocabulary, are cut.
const PRODUCT_ROWS: u32 = 16384;

fn product(l: &mut Lowering<'_>, node: &Node) -> Result<TensorId, HalError> {
    let name = node.name.as_str();
    let dims = l.dims(node.outputs[0]);
    let rows = l.dims(node.inputs[1])[0];
    if rows <= PRODUCT_ROWS {
        // before the other operands, which would take it for any weight
        l.matrix(node.inputs[1])?;
        let inputs = l.operands(node)?;
        return Ok(times(l, name, &inputs, &dims));
    }
    let x = l.value(node.inputs[0])?;
    let mut parts = Vec::new();
    for first in (0..rows).step_by(PRODUCT_ROWS as usize) {
        let part = first..first.saturating_add(PRODUCT_ROWS).min(rows);
        let mut inputs = vec![x];
        for &weight in &node.inputs[1..] {
            inputs.push(l.rows(weight, part.clone())?);
        }
        let dims = [dims[0], part.len() as u32];
        let of = format!("{name}.{first}");
        parts.push(times(l, &of, &inputs, &dims));
    }
    for &weight in &node.inputs[1..] {
        l.release(weight);
    }
    Ok(l.op(name, "Concat", &parts, &dims, &[("axis", number(1))]))
}

/// The product of `inputs`: rows, a matrix as it is held, perhaps a bias.
fn times(l: &mut Lowering<'_>, name: &str, inputs: &[TensorId], dims: &[u32]) -> TensorId {
    let matrix = inputs.get(1).and_then(|id| l.out.get(*id));
    let columns = match matrix.map(|m| (&m.encoding, &m.dims[..])) {
        Some((Encoding::Factored { .. }, &[_, _, columns, _])) => columns,
        _ => return l.op(name, "FullyConnected", inputs, dims, &[]),
    };
    let (rows, wide) = (dims[0], dims[1]);
    let mut inputs = inputs.to_vec();
    let image = [1, 1, rows, columns];
    inputs[0] = l.op(
        &format!("{name}.image"),
        "Reshape",
        &inputs[..1],
        &image,
        &[],
    );
    let (stride, pad) = (l.numbers(&[2], &[1, 1]), l.numbers(&[2, 2], &[0; 4]));
    let params = [
        ("stride", Param::Tensor(stride)),
        ("pad_amount", Param::Tensor(pad)),
    ];
    let image = [1, 1, rows, wide];
    let made = l.op(
        &format!("{name}.products"),
        "Conv2d",
        &inputs,
        &image,
        &params,
    );
    l.op(name, "Reshape", &[made], dims, &[])
}

impl Lowering<'_> {
    fn release(&self, weight: ValueId) {
        if let Some(weights) = self.weights {
            weights.release(&self.graph.value(weight).name);
        }
    }

    fn operands(&mut self, node: &Node) -> Result<Vec<TensorId>, HalError> {
        node.inputs.iter().map(|&v| self.value(v)).collect()
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
pub(super) fn index(l: &Lowering<'_>, state: StateId) -> Result<usize, HalError> {
    let at = l.states.iter().position(|s| *s == state);
    at.ok_or_else(|| HalError::InvalidUse {
        call: "compile",
        what: format!("state '{}'", l.graph.state(state).name),
        found: "not bound".into(),
        expected: "a state of the entry".into(),
    })
}
