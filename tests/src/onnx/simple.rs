//! Nodes that are elementwise functions, moves and reductions.

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{Activation, BinaryOp, DType, Op, ReduceOp, Shape, UnaryOp, ValueId};

use super::Refusal;
use super::lower::{Lower, Step, skip};

/// The results of the node, or `None` if it is not one of these.
pub(super) fn lower(b: &mut Lower<'_>, op: &str) -> Result<Option<Vec<ValueId>>, Refusal> {
    let one = match op {
        "Abs" => unary(b, UnaryOp::Abs)?,
        "Neg" => unary(b, UnaryOp::Neg)?,
        "Exp" => unary(b, UnaryOp::Exp)?,
        "Log" => unary(b, UnaryOp::Log)?,
        "Sqrt" => unary(b, UnaryOp::Sqrt)?,
        "Reciprocal" => unary(b, UnaryOp::Reciprocal)?,
        "Sin" => unary(b, UnaryOp::Sin)?,
        "Cos" => unary(b, UnaryOp::Cos)?,
        "Tanh" => unary(b, UnaryOp::Tanh)?,
        "Sigmoid" => unary(b, UnaryOp::Sigmoid)?,
        "Erf" => unary(b, UnaryOp::Erf)?,
        "Floor" => unary(b, UnaryOp::Floor)?,
        "Round" => unary(b, UnaryOp::Round)?,
        "Not" => unary(b, UnaryOp::Not)?,
        "Relu" => activation(b, Activation::Relu)?,
        "Gelu" => match b.text("approximate") {
            Some("tanh") => activation(b, Activation::GeluTanh)?,
            _ => activation(b, Activation::Gelu)?,
        },
        "Swish" => match b.float("alpha", 1.0) {
            1.0 => activation(b, Activation::Silu)?,
            _ => return skip("we have no Swish with a factor"),
        },
        "HardSwish" => hard_swish(b)?,
        "Add" => binary(b, BinaryOp::Add)?,
        "Sub" => binary(b, BinaryOp::Sub)?,
        "Mul" => binary(b, BinaryOp::Mul)?,
        "Div" => binary(b, BinaryOp::Div)?,
        "And" => binary(b, BinaryOp::And)?,
        "Or" => binary(b, BinaryOp::Or)?,
        "Equal" => binary(b, BinaryOp::Equal)?,
        "Less" => binary(b, BinaryOp::Less)?,
        "Greater" => binary(b, BinaryOp::Greater)?,
        "Max" => binary(b, BinaryOp::Max)?,
        "Min" => binary(b, BinaryOp::Min)?,
        "Pow" => pow(b)?,
        "Clip" => clip(b)?,
        "Where" => {
            let inputs = [b.input(0)?, b.input(1)?, b.input(2)?];
            b.node(Op::Select, &inputs)?
        }
        "Softmax" => softmax(b)?,
        "LogSoftmax" => {
            let softmax = softmax(b)?;
            b.node(Op::Unary(UnaryOp::Log), &[softmax])?
        }
        // The result's shape says all that the node's further operands do.
        "Identity" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => b.input(0)?,
        "Expand" => {
            let dims: Vec<u32> = b.output_shape(0).iter().map(|&d| d as u32).collect();
            let x = b.input(0)?;
            let shape = Shape::fixed(&dims);
            b.node(Op::Broadcast { shape }, &[x])?
        }
        "Transpose" => {
            let x = b.input(0)?;
            let rank = b.dims(x).len() as i64;
            let perm = b.ints("perm").unwrap_or((0..rank).rev().collect());
            let perm: Vec<u32> = perm.iter().map(|&p| p as u32).collect();
            b.transpose(&perm, x)?
        }
        "Concat" => {
            let parts = (0..b.count()).map(|i| b.input(i));
            let parts = parts.collect::<Result<Vec<_>, _>>()?;
            let axis = b.axis(b.int("axis", 0), parts[0]);
            b.concat(axis, &parts)?
        }
        "Tile" => tile(b)?,
        "Slice" => slice(b)?,
        "Split" => return split(b).map(Some),
        "Gather" => gather(b)?,
        "ScatterND" => scatter(b)?,
        "ReduceSum" => reduce(b, ReduceOp::Sum)?,
        "ReduceMean" => reduce(b, ReduceOp::Mean)?,
        "ReduceMax" => reduce(b, ReduceOp::Max)?,
        "GlobalAveragePool" => {
            let x = b.input(0)?;
            let axes = (2..b.dims(x).len() as u32).collect();
            let reduce = Op::Reduce {
                op: ReduceOp::Mean,
                axes,
                keep_dims: true,
            };
            b.node(reduce, &[x])?
        }
        "ArgMax" => {
            if b.int("select_last_index", 0) == 1 {
                return skip("our ArgMax gives the first of equals");
            }
            let x = b.input(0)?;
            let axis = b.axis(b.int("axis", 0), x);
            b.node(Op::ArgMax { axis }, &[x])?
        }
        "TopK" => return top_k(b).map(Some),
        _ => return Ok(None),
    };
    Ok(Some(vec![one]))
}

fn unary(b: &mut Lower<'_>, f: UnaryOp) -> Step {
    let x = b.input(0)?;
    b.node(Op::Unary(f), &[x])
}

fn activation(b: &mut Lower<'_>, f: Activation) -> Step {
    let x = b.input(0)?;
    b.node(Op::Activation(f), &[x])
}

/// `x · max(0, min(1, x/6 + ½))`.
fn hard_swish(b: &mut Lower<'_>) -> Step {
    let x = b.input(0)?;
    let (sixth, half) = (b.number(1.0 / 6.0)?, b.number(0.5)?);
    let (zero, one) = (b.number(0.0)?, b.number(1.0)?);
    let gate = b.binary(BinaryOp::Mul, x, sixth)?;
    let gate = b.binary(BinaryOp::Add, gate, half)?;
    let gate = b.binary(BinaryOp::Min, gate, one)?;
    let gate = b.binary(BinaryOp::Max, gate, zero)?;
    b.binary(BinaryOp::Mul, x, gate)
}

/// Of two operands, or of any number one after the other.
fn binary(b: &mut Lower<'_>, f: BinaryOp) -> Step {
    let mut result = b.input(0)?;
    for i in 1..b.count() {
        let next = b.input(i)?;
        result = b.binary(f, result, next)?;
    }
    Ok(result)
}

fn pow(b: &mut Lower<'_>) -> Step {
    let (base, exponent) = (b.input(0)?, b.input(1)?);
    if !b.ty(base).dtype.is_float() {
        return skip("our Pow takes floats");
    }
    let exponent = b.cast(b.ty(base).dtype, exponent)?;
    b.binary(BinaryOp::Pow, base, exponent)
}

fn clip(b: &mut Lower<'_>) -> Step {
    let mut x = b.input(0)?;
    for (i, f) in [(1, BinaryOp::Max), (2, BinaryOp::Min)] {
        if b.has(i) {
            let bound = b.input(i)?;
            x = b.binary(f, x, bound)?;
        }
    }
    Ok(x)
}

fn softmax(b: &mut Lower<'_>) -> Step {
    let x = b.input(0)?;
    let axis = b.axis(b.int("axis", -1), x);
    b.node(Op::Softmax { axis }, &[x])
}

fn tile(b: &mut Lower<'_>) -> Step {
    let mut x = b.input(0)?;
    for (axis, times) in b.integers(1)?.into_iter().enumerate() {
        x = b.concat(axis as u32, &vec![x; times as usize])?;
    }
    Ok(x)
}

fn slice(b: &mut Lower<'_>) -> Step {
    let mut x = b.input(0)?;
    let (starts, ends) = (b.integers(1)?, b.integers(2)?);
    let axes = match b.has(3) {
        true => b.integers(3)?,
        false => (0..starts.len() as i64).collect(),
    };
    let steps = match b.has(4) {
        true => b.integers(4)?,
        false => vec![1; starts.len()],
    };
    if steps.iter().any(|&s| s < 1) {
        return skip("our Slice has no negative steps");
    }
    for i in 0..starts.len() {
        let axis = b.axis(axes[i], x);
        let n = b.dims(x)[axis as usize] as i64;
        let clamp = |at: i64| (if at < 0 { at + n } else { at }).clamp(0, n);
        let start = clamp(starts[i]);
        let slice = Op::Slice {
            axis,
            start: start as u32,
            end: clamp(ends[i]).max(start) as u32,
            step: steps[i] as u32,
        };
        x = b.node(slice, &[x])?;
    }
    Ok(x)
}

fn split(b: &mut Lower<'_>) -> Result<Vec<ValueId>, Refusal> {
    let x = b.input(0)?;
    let axis = b.axis(b.int("axis", 0), x);
    let sizes = (0..b.outputs()).map(|i| b.output_shape(i)[axis as usize] as u32);
    let sizes = sizes.collect();
    b.nodes(Op::Split { axis, sizes }, &[x])
}

fn gather(b: &mut Lower<'_>) -> Step {
    let data = b.input(0)?;
    let axis = b.axis(b.int("axis", 0), data);
    let n = b.dims(data)[axis as usize] as i64;
    let shape = b.tensor(1)?.shape().to_vec();
    let indices = counted_from_start(b.integers(1)?, n);
    let indices = Tensor::new(shape, indices).map_err(|e| Refusal::Fault(e.to_string()))?;
    let indices = b.given(indices)?;
    b.node(Op::Gather { axis }, &[data, indices])
}

/// Indices as ours are: an importer turns the negative ones, which count from the end.
fn counted_from_start(indices: Vec<i64>, n: i64) -> Vec<i64> {
    let turn = |i: i64| if i < 0 { i + n } else { i };
    indices.into_iter().map(turn).collect()
}

/// Whole slices of the first axis.
fn scatter(b: &mut Lower<'_>) -> Step {
    if b.text("reduction").is_some_and(|r| r != "none") {
        return skip("our Scatter replaces and does not reduce");
    }
    let (data, indices, updates) = (b.input(0)?, b.input(1)?, b.input(2)?);
    let shape = b.dims(indices);
    if shape.len() != 2 || shape[1] != 1 {
        return skip("our Scatter replaces whole slices");
    }
    let indices = b.reshape(&shape[..1], indices)?;
    b.node(Op::Scatter { axis: 0 }, &[data, indices, updates])
}

fn reduce(b: &mut Lower<'_>, op: ReduceOp) -> Step {
    let x = b.input(0)?;
    let mut axes: Vec<u32> = match b.has(1) {
        true => b.integers(1)?.iter().map(|&a| b.axis(a, x)).collect(),
        false => Vec::new(),
    };
    if axes.is_empty() && b.int("noop_with_empty_axes", 0) == 1 {
        return Ok(x);
    }
    if axes.is_empty() {
        axes = (0..b.dims(x).len() as u32).collect();
    }
    if b.ty(x).dtype == DType::Bool {
        return skip("our Reduce takes numbers");
    }
    let nothing = axes.iter().any(|&a| b.dims(x)[a as usize] == 0);
    if nothing && op != ReduceOp::Sum {
        return skip("our Reduce has no Max of nothing");
    }
    axes.sort_unstable();
    let keep_dims = b.int("keepdims", 1) == 1;
    let reduce = Op::Reduce {
        op,
        axes,
        keep_dims,
    };
    b.node(reduce, &[x])
}

fn top_k(b: &mut Lower<'_>) -> Result<Vec<ValueId>, Refusal> {
    let x = b.input(0)?;
    if b.int("largest", 1) == 0 {
        return skip("our TopK gives the largest");
    }
    if !b.ty(x).dtype.is_float() {
        return skip("our TopK takes floats");
    }
    if b.axis(b.int("axis", -1), x) as usize + 1 != b.dims(x).len() {
        return skip("our TopK searches the last axis");
    }
    let k = b.integers(1)?[0] as u32;
    b.nodes(Op::TopK { k }, &[x])
}
