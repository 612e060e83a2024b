//! Products, norms, rotations and appended rows by operations of the interface.

use anynpu_hal::HalError;
use anynpu_ir::{BinaryOp, Node, Op, ReduceOp, RopeStyle, StateId, Symbol, UnaryOp, ValueId};

use super::activation::{activated, capped};
use super::attention::attend;
use super::{Feed, Fetch, Lowering, ProductForm, Rotation, StateForm, StepRows, moves, quantised};
use crate::model::{OperandId, OperandType};
use crate::sys;

/// Lowers `node`; its results. `None` if it is not lowered.
pub(super) fn lower(l: &mut Lowering<'_>, node: &Node) -> Result<Option<Vec<OperandId>>, HalError> {
    let name = node.name.as_str();
    let made = match &node.op {
        Op::Linear => product(l, node)?,
        Op::MatMul {
            transpose_a,
            transpose_b,
        } => {
            let (a, b) = (l.value(node.inputs[0])?, l.value(node.inputs[1])?);
            let dims = l.dims(node.outputs[0]);
            l.batched(name, (a, *transpose_a), (b, *transpose_b), &dims)
        }
        // both take an operand and which of its rows
        Op::Gather { .. } | Op::Embedding => {
            let x = l.value(node.inputs[0])?;
            let (chosen, rows) = (l.operand(node.inputs[1])?, l.dims(node.inputs[1]));
            let of = format!("{name}.chosen");
            let rows = l.input(of, OperandType::TensorInt32, &rows, Feed::Value(chosen));
            let (axis, dims) = (l.integer(0), l.dims(node.outputs[0]));
            l.op(name, sys::GATHER, &[x, axis, rows], &dims)
        }
        Op::RmsNorm { eps } => {
            let (x, weight) = (l.value(node.inputs[0])?, l.value(node.inputs[1])?);
            let share = inverse_deviation(l, name, x, *eps);
            let x = l.times(&format!("{name}.normed"), x, share);
            l.times(name, x, weight)
        }
        Op::LayerNorm { eps } => {
            let (x, gamma) = (l.value(node.inputs[0])?, l.value(node.inputs[1])?);
            let mean = mean(l, &format!("{name}.mean"), x);
            let x = l.pair(&format!("{name}.centred"), sys::SUB, x, mean);
            let share = inverse_deviation(l, name, x, *eps);
            let x = l.times(&format!("{name}.normed"), x, share);
            match node.inputs.get(2) {
                None => l.times(name, x, gamma),
                Some(&beta) => {
                    let x = l.times(&format!("{name}.scaled"), x, gamma);
                    let beta = l.value(beta)?;
                    l.pair(name, sys::ADD, x, beta)
                }
            }
        }
        Op::Activation(activation) => {
            let x = l.value(node.inputs[0])?;
            return Ok(activated(l, name, *activation, x).map(|y| vec![y]));
        }
        Op::GatedActivation(activation) => {
            let (x, up) = (l.value(node.inputs[0])?, l.value(node.inputs[1])?);
            let Some(gate) = activated(l, &format!("{name}.gate"), *activation, x) else {
                return Ok(None);
            };
            l.times(name, gate, up)
        }
        Op::SoftCap { cap } => {
            let x = l.value(node.inputs[0])?;
            capped(l, name, x, *cap)
        }
        Op::Softmax { axis } => {
            let x = l.value(node.inputs[0])?;
            l.softmax(name, x, *axis)
        }
        Op::Binary(op) => {
            let (a, b) = (l.value(node.inputs[0])?, l.value(node.inputs[1])?);
            let code = match op {
                BinaryOp::Add => sys::ADD,
                BinaryOp::Sub => sys::SUB,
                BinaryOp::Mul => sys::MUL,
                BinaryOp::Div => sys::DIV,
                _ => return Ok(None),
            };
            l.pair(name, code, a, b)
        }
        Op::Unary(op) => {
            let x = l.value(node.inputs[0])?;
            let code = match op {
                UnaryOp::Neg => sys::NEG,
                UnaryOp::Abs => sys::ABS,
                UnaryOp::Exp => sys::EXP,
                UnaryOp::Log => sys::LOG,
                UnaryOp::Sqrt => sys::SQRT,
                UnaryOp::Rsqrt => sys::RSQRT,
                UnaryOp::Sin => sys::SIN,
                UnaryOp::Tanh => sys::TANH,
                UnaryOp::Sigmoid => sys::LOGISTIC,
                _ => return Ok(None),
            };
            l.same(name, code, &[x])
        }
        Op::Reduce {
            op,
            axes,
            keep_dims,
        } => {
            let x = l.value(node.inputs[0])?;
            let code = match op {
                ReduceOp::Sum => sys::REDUCE_SUM,
                ReduceOp::Mean => sys::MEAN,
                _ => return Ok(None),
            };
            l.reduced(name, code, x, axes, *keep_dims)
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
                dims: *dims,
                base: *base,
                scaling: *scaling,
                factors,
            };
            rotate(l, name, node.inputs[0], rotation, *style)?
        }
        Op::KvAppend { state, .. } => {
            append(l, *state, node.inputs[0])?;
            return Ok(Some(Vec::new()));
        }
        Op::Attention { .. } => return Ok(attend(l, node)?.map(|y| vec![y])),
        _ => return moves::lower(l, node),
    };
    Ok(Some(vec![made]))
}

/// The mean of each row.
fn mean(l: &mut Lowering<'_>, name: &str, x: OperandId) -> OperandId {
    let last = l.dims_of(x).len().saturating_sub(1) as u32;
    l.reduced(name, sys::MEAN, x, &[last], true)
}

/// `1 / √(mean(x²) + eps)` of each row.
fn inverse_deviation(l: &mut Lowering<'_>, name: &str, x: OperandId, eps: f32) -> OperandId {
    let square = l.times(&format!("{name}.square"), x, x);
    let square = mean(l, &format!("{name}.mean_square"), square);
    // in 16 bits it must not become 0, or a row of zeros would be divided by it
    let eps = match l.ty() {
        OperandType::TensorFloat16 if eps > 0.0 => {
            eps.max(half::f16::MIN_POSITIVE_SUBNORMAL.to_f32())
        }
        _ => eps,
    };
    let square = l.plus(&format!("{name}.above_zero"), square, eps);
    l.same(&format!("{name}.share"), sys::RSQRT, &[square])
}

/// Rows of `x` times a matrix, and perhaps a bias.
fn product(l: &mut Lowering<'_>, node: &Node) -> Result<OperandId, HalError> {
    let name = node.name.as_str();
    if let Some(made) = quantised::product(l, node)? {
        return Ok(made);
    }
    let dims = l.dims(node.outputs[0]);
    let x = l.value(node.inputs[0])?;
    let matrix = l.matrix(node.inputs[1])?;
    let units = dims.last().copied().unwrap_or(1);
    let bias = match node.inputs.get(2) {
        Some(&bias) => l.value(bias)?,
        None => l.zeros(units),
    };
    let rows: u32 = dims.iter().rev().skip(1).product();
    match dims.len() {
        2 => Ok(l.connected(name, x, matrix, bias, &dims)),
        _ => {
            let flat = [rows, units];
            let made = l.connected(&format!("{name}.flat"), x, matrix, bias, &flat);
            Ok(l.reshaped(name, made, &dims))
        }
    }
}

impl Lowering<'_> {
    /// Rows of `x` times the matrix `w`, transposed, and a bias: `[rows, units]`.
    pub(super) fn connected(
        &mut self,
        name: &str,
        x: OperandId,
        w: OperandId,
        bias: OperandId,
        dims: &[u32],
    ) -> OperandId {
        let none = self.integer(sys::FUSED_NONE);
        self.op(name, sys::FULLY_CONNECTED, &[x, w, bias, none], dims)
    }

    /// Products of matrices, each perhaps transposed.
    pub(super) fn batched(
        &mut self,
        name: &str,
        a: (OperandId, bool),
        b: (OperandId, bool),
        dims: &[u32],
    ) -> OperandId {
        use crate::model::{Operand, Scalar};
        let flag = |l: &mut Self, yes| l.constant(Operand::scalar(Scalar::Bool(yes)));
        let (adj_a, adj_b) = (flag(self, a.1), flag(self, b.1));
        self.op(name, sys::BATCH_MATMUL, &[a.0, b.0, adj_a, adj_b], dims)
    }
}

fn rotate(
    l: &mut Lowering<'_>,
    name: &str,
    x: ValueId,
    rotation: Rotation,
    style: RopeStyle,
) -> Result<OperandId, HalError> {
    let dims = l.dims(x);
    let x = l.value(x)?;
    let (tokens, heads, width) = (dims[0], dims[1], dims[2]);
    let (rotated, pairs) = (rotation.dims, rotation.dims / 2);
    // angles are the same for every head
    let angles: &[u32] = match style {
        RopeStyle::HalfSplit => &[tokens, 1, pairs],
        RopeStyle::Interleaved => &[tokens, 1, pairs, 1],
    };
    let of = format!("angles.{}.{}", rotation.positions, l.feeds.len());
    let ty = l.ty();
    let cosines = Feed::Cosines(rotation.clone());
    let cosines = l.input(format!("{of}.cos"), ty, angles, cosines);
    let sines = l.input(format!("{of}.sin"), ty, angles, Feed::Sines(rotation));
    let turned = match rotated == width {
        true => x,
        false => l.cut(&format!("{name}.turned"), x, 2, 0, rotated),
    };
    let (paired, axis) = match style {
        RopeStyle::HalfSplit => (turned, 2),
        RopeStyle::Interleaved => {
            let dims = [tokens, heads, pairs, 2];
            (l.reshaped(&format!("{name}.paired"), turned, &dims), 3)
        }
    };
    let parts = l.parts(&format!("{name}.part"), paired, axis, 2);
    let (a, b) = (parts[0], parts[1]);
    let ac = l.times(&format!("{name}.a_cos"), a, cosines);
    let bs = l.times(&format!("{name}.b_sin"), b, sines);
    let as_ = l.times(&format!("{name}.a_sin"), a, sines);
    let bc = l.times(&format!("{name}.b_cos"), b, cosines);
    let first = l.pair(&format!("{name}.first"), sys::SUB, ac, bs);
    let second = l.pair(&format!("{name}.second"), sys::ADD, as_, bc);
    let joined = l.joined(&format!("{name}.joined"), &[first, second], axis);
    let made = match style {
        RopeStyle::HalfSplit => joined,
        RopeStyle::Interleaved => {
            let dims = [tokens, heads, rotated];
            l.reshaped(&format!("{name}.unpaired"), joined, &dims)
        }
    };
    if rotated == width {
        return Ok(made);
    }
    let rest = l.cut(&format!("{name}.rest"), x, 2, rotated, width - rotated);
    Ok(l.joined(name, &[made, rest], 2))
}

fn append(l: &mut Lowering<'_>, state: StateId, rows: ValueId) -> Result<(), HalError> {
    let from = l.value(rows)?;
    let at = l.state(state)?;
    if l.target.states == StateForm::Device {
        let whole = insert(l, state, at, from);
        l.give(whole, Fetch::State(at));
        l.whole.insert(state, whole);
        return Ok(());
    }
    l.give(from, Fetch::Rows(at));
    l.fresh.insert(state, from);
    Ok(())
}

/// All rows of `state` with the step's own in their places. The interface can't write rows of a tensor: those that stay
/// are multiplied by 1, the others by 0, and each new row is multiplied by 1 at its place, which no rounding changes.
fn insert(l: &mut Lowering<'_>, state: StateId, at: usize, new: OperandId) -> OperandId {
    let of = l.graph.state(state).name.clone();
    let dims = l.graph.state(state).ty.shape.dims().to_vec();
    let dims: Vec<u32> = dims.iter().map(|d| d.resolve(&l.symbols)).collect();
    let (capacity, tokens) = (dims[0], l.symbols.get(Symbol::TOKENS));
    let width: u32 = dims.iter().skip(1).product();
    let before = l.input(of.clone(), l.ty(), &dims, Feed::State(at));
    let mut column = vec![1; dims.len()];
    column[0] = capacity;
    let rows = StepRows { capacity };
    let kept = l.input("rows.kept".into(), l.ty(), &column, Feed::Kept(rows));
    let old = l.times(&format!("{of}.kept"), before, kept);
    let made = match tokens {
        1 => {
            let put = l.input("rows.put".into(), l.ty(), &column, Feed::Put(rows));
            l.times(&format!("{of}.put"), put, new)
        }
        _ => {
            let put = l.input(
                "rows.put".into(),
                l.ty(),
                &[capacity, tokens],
                Feed::Put(rows),
            );
            let new = l.reshaped(&format!("{of}.flat"), new, &[tokens, width]);
            let name = format!("{of}.put");
            let made = match l.target.products {
                ProductForm::Batched => {
                    let put = l.reshaped(&format!("{name}.by"), put, &[1, capacity, tokens]);
                    let new = l.reshaped(&format!("{name}.of"), new, &[1, tokens, width]);
                    l.batched(&name, (put, false), (new, false), &[1, capacity, width])
                }
                ProductForm::Connected => {
                    let new = l.transposed(&format!("{name}.of"), new, &[1, 0]);
                    let bias = l.zeros(width);
                    l.connected(&name, put, new, bias, &[capacity, width])
                }
                ProductForm::Summed => {
                    let put = l.reshaped(&format!("{name}.by"), put, &[capacity, tokens, 1]);
                    let new = l.reshaped(&format!("{name}.of"), new, &[1, tokens, width]);
                    let pairs = l.times(&format!("{name}.pairs"), put, new);
                    l.reduced(&name, sys::REDUCE_SUM, pairs, &[1], false)
                }
            };
            l.reshaped(&format!("{of}.new"), made, &dims)
        }
    };
    l.pair(&format!("{of}.all"), sys::ADD, old, made)
}
