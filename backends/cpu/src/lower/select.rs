//! Which kernel runs a node, or several at once.

use anynpu_hal::HalError;
use anynpu_ir::{
    AttentionKv, BinaryOp, DType, Dim, Node, Op, RopeStyle, TensorType, ValueId, rope_frequencies,
};

use super::{Lowering, is_state_type};
use crate::fuse::Fused;
use crate::kernels::ops::{Arithmetic, MAX_HEAD_DIM};
use crate::place::Place;
use crate::program::{AttentionStep, Kv, KvStates, Operand, RopeTable, Step, Target};
use crate::weights::dequantized;

impl Lowering<'_> {
    /// The step of several nodes.
    pub(super) fn fused_step(&mut self, fused: Fused) -> Step {
        match fused {
            Fused::Gated {
                act,
                x,
                weights,
                bias,
                out,
            } => {
                let (x, out) = (self.operand(x), self.operand(out));
                self.note_linear(&x.ty);
                Step::GatedLinear {
                    act,
                    x,
                    weights,
                    bias,
                    out,
                }
            }
            Fused::Added {
                x,
                weight,
                bias,
                plus,
                out,
            } => {
                let x = self.operand(x);
                self.note_linear(&x.ty);
                let target = Target {
                    weight,
                    bias,
                    plus: Some(self.operand(plus)),
                    out: self.operand(out),
                };
                Step::Linear {
                    x,
                    targets: vec![target],
                }
            }
        }
    }

    /// The kernel step of `node`, or `None` if the reference has to run it.
    pub(super) fn kernel_step(&mut self, node: &Node) -> Result<Option<Step>, HalError> {
        let input = |i: usize| node.inputs.get(i).copied();
        let x = input(0).map(|id| self.operand(id));
        let out = node.outputs.first().map(|&id| self.operand(id));
        let all_f32 = node
            .inputs
            .iter()
            .chain(&node.outputs)
            .filter(|&&id| self.weight(id).is_none())
            .all(|&id| self.graph.ty(id).dtype == DType::F32);
        Ok(match (&node.op, x, out) {
            (Op::Reshape { .. }, Some(x), Some(out)) => {
                if x.place == out.place {
                    return Ok(Some(Step::Copy { from: x, out }));
                }
                let weight = matches!(x.place, Place::Weight(_));
                (!weight).then_some(Step::Copy { from: x, out })
            }
            (Op::Linear, Some(x), Some(out)) if all_f32 => {
                let weight = input(1).and_then(|id| self.weight(id));
                let bias = input(2).map(|id| self.weight(id));
                match (weight, bias) {
                    (Some(weight), None | Some(Some(_))) => {
                        self.note_linear(&x.ty);
                        let target = Target {
                            weight,
                            bias: bias.flatten(),
                            plus: None,
                            out,
                        };
                        Some(Step::Linear {
                            x,
                            targets: vec![target],
                        })
                    }
                    _ => None,
                }
            }
            (Op::ExpertLinear, Some(x), Some(out)) => self.experts(node, x, out),
            (Op::Embedding, Some(table), Some(out)) => match (table.place, input(1)) {
                (Place::Weight(table), Some(ids)) if self.graph.ty(ids).dtype == DType::I32 => {
                    let ids = self.operand(ids);
                    Some(Step::Embedding { table, ids, out })
                }
                _ => None,
            },
            (&Op::RmsNorm { eps }, Some(x), Some(out)) if all_f32 => input(1)
                .and_then(|id| self.weight(id))
                .map(|weight| Step::RmsNorm {
                    x,
                    weight,
                    eps,
                    out,
                }),
            (&Op::LayerNorm { eps }, Some(x), Some(out)) if all_f32 => {
                let gamma = input(1).and_then(|id| self.weight(id));
                let beta = input(2).map(|id| self.weight(id));
                match (gamma, beta) {
                    (Some(gamma), None | Some(Some(_))) => Some(Step::LayerNorm {
                        x,
                        gamma,
                        beta: beta.flatten(),
                        eps,
                        out,
                    }),
                    _ => None,
                }
            }
            (&Op::Rope { style, dims, .. }, Some(x), Some(out)) if x.ty.dtype == DType::F32 => {
                self.rope(node, x, style, dims, out)?
            }
            (&Op::KvAppend { state, at }, Some(rows), None) if rows.ty.dtype == DType::F32 => {
                let (slot, dtype) = self.state(state);
                (is_state_type(dtype) && self.graph.state(state).axis == 0).then_some(
                    Step::KvAppend {
                        rows,
                        state: slot,
                        at,
                    },
                )
            }
            (Op::Attention { .. }, Some(q), Some(out)) => self.attention(node, q, out),
            (&Op::Activation(act), Some(x), Some(out)) if all_f32 && !is_weight(&x) => {
                Some(Step::Activation { act, x, out })
            }
            (&Op::GatedActivation(act), Some(gate), Some(out)) if all_f32 => {
                let up = self.operand(node.inputs[1]);
                let inner = !is_weight(&gate) && !is_weight(&up);
                inner.then_some(Step::Gated { act, gate, up, out })
            }
            (&Op::SoftCap { cap }, Some(x), Some(out)) if all_f32 && !is_weight(&x) => {
                Some(Step::SoftCap { cap, x, out })
            }
            (&Op::Softmax { axis }, Some(x), Some(out)) if all_f32 && !is_weight(&x) => {
                let last = axis as usize + 1 == x.ty.shape.rank();
                last.then_some(Step::Softmax { x, out })
            }
            (Op::Split { axis, .. }, Some(x), Some(_)) if all_f32 && !is_weight(&x) => {
                let last = *axis as usize + 1 == x.ty.shape.rank();
                let parts = node.outputs.iter().map(|&id| self.operand(id)).collect();
                last.then_some(Step::Split { x, parts })
            }
            (&Op::Binary(op), Some(a), Some(out)) if all_f32 => {
                let b = self.operand(node.inputs[1]);
                if op == BinaryOp::Mul
                    && !is_weight(&a)
                    && let Some(factor) = self.number(node.inputs[1])
                {
                    return Ok(Some(Step::Scale { factor, x: a, out }));
                }
                let inner = !is_weight(&a) && !is_weight(&b) && a.ty.shape == b.ty.shape;
                let op = match op {
                    BinaryOp::Add => Some(Arithmetic::Add),
                    BinaryOp::Sub => Some(Arithmetic::Sub),
                    BinaryOp::Mul => Some(Arithmetic::Mul),
                    _ => None,
                };
                let row = self.weight(node.inputs[1]).filter(|_| {
                    b.ty.shape.rank() == 1
                        && a.ty.shape.rank() > 0
                        && !is_weight(&a)
                        && b.ty.shape.last() == a.ty.shape.last()
                });
                match (op, row) {
                    (Some(op), _) if inner => Some(Step::Arithmetic { op, a, b, out }),
                    (Some(op), Some(b)) => Some(Step::RowArithmetic { op, a, b, out }),
                    _ => None,
                }
            }
            (Op::Gather { axis: 0 }, Some(data), Some(out)) => {
                let rows = self.operand(node.inputs[1]);
                let fits = data.ty.dtype == DType::F32
                    && rows.ty.dtype == DType::I32
                    && !is_weight(&data)
                    && !is_weight(&rows);
                fits.then_some(Step::GatherRows { data, rows, out })
            }
            _ => None,
        })
    }

    fn experts(&mut self, node: &Node, x: Operand, out: Operand) -> Option<Step> {
        let ids = self.operand(node.inputs[2]);
        let weight = self.weight(node.inputs[1])?;
        if x.ty.dtype != DType::F32 || is_weight(&x) || is_weight(&ids) {
            return None;
        }
        // at most all rows share an expert
        let rows = ids.ty.shape.elements(&self.limits)?;
        let width = |ty: &TensorType| Some(ty.shape.last()?.resolve(&self.limits) as usize);
        let widths = [width(&x.ty)?, width(&out.ty)?];
        let gathered = widths.map(|w| self.reserve(rows, w));
        self.linear.cols = self.linear.cols.max(widths[0]);
        self.linear.tokens = self.linear.tokens.max(rows);
        Some(Step::Experts {
            x,
            weight,
            ids,
            out,
            gathered,
        })
    }

    /// The value of an f32 constant of one element, without dimensions.
    fn number(&self, id: ValueId) -> Option<f32> {
        let weight = self.graph.weight(self.weight(id)?);
        let ty = self.graph.ty(id);
        let bytes = weight.inline.as_ref()?;
        let plain = ty.dtype == DType::F32 && ty.shape.rank() == 0;
        let bytes: [u8; 4] = bytes[..].try_into().ok()?;
        plain.then(|| f32::from_le_bytes(bytes))
    }

    fn rope(
        &mut self,
        node: &Node,
        x: Operand,
        style: RopeStyle,
        dims: u32,
        out: Operand,
    ) -> Result<Option<Step>, HalError> {
        let positions = node.inputs[1];
        let factors = node.inputs.get(2).copied();
        let factor_weight = match factors {
            None => None,
            Some(id) => match self.weight(id) {
                Some(w) => Some(w),
                None => return Ok(None),
            },
        };
        if is_weight(&x) || self.weight(positions).is_some() {
            return Ok(None);
        }
        let known = self
            .tables
            .iter()
            .position(|t| t.positions == positions && t.factors == factors && t.op == node.op);
        let table = match known {
            Some(table) => table,
            None => {
                let Op::Rope { base, scaling, .. } = node.op else {
                    return Ok(None);
                };
                let factor_data = factor_weight
                    .map(|w| dequantized(self.graph, self.source, w))
                    .transpose()?;
                let (frequencies, magnitude) =
                    rope_frequencies(dims, base, scaling, factor_data.as_deref());
                let max_tokens = self.graph.ty(positions).shape.elements(&self.limits);
                let max_tokens = max_tokens.unwrap_or(0);
                let offset = self.reserve(max_tokens, dims as usize);
                self.tables.push(RopeTable {
                    positions,
                    factors,
                    op: node.op.clone(),
                    frequencies,
                    magnitude,
                    offset,
                    max_tokens,
                });
                let table = self.tables.len() - 1;
                let positions = self.operand(positions);
                self.steps.push(Step::RopeTable { table, positions });
                table
            }
        };
        Ok(Some(Step::Rope {
            x,
            table,
            style,
            dims,
            out,
        }))
    }

    fn attention(&self, node: &Node, q: Operand, out: Operand) -> Option<Step> {
        let Op::Attention {
            kv,
            causal,
            mask,
            scale,
            soft_cap,
            window,
        } = node.op
        else {
            return None;
        };
        let mut rest = node.inputs[1..].iter().map(|&id| self.operand(id));
        let kv = match kv {
            AttentionKv::Operands => Kv::Operands {
                k: rest.next()?,
                v: rest.next()?,
            },
            AttentionKv::State { k, v } => {
                let (k_slot, k_type) = self.state(k);
                let (v_slot, v_type) = self.state(v);
                let [_, Dim::Fixed(kv_heads), Dim::Fixed(k_dim)] =
                    self.graph.state(k).ty.shape.dims()
                else {
                    return None;
                };
                let v_dim = self.graph.state(v).ty.shape.last()?.fixed()?;
                if !is_state_type(k_type) || k_type != v_type {
                    return None;
                }
                Kv::States(KvStates {
                    k: k_slot,
                    v: v_slot,
                    kv_heads: *kv_heads as usize,
                    k_dim: *k_dim as usize,
                    v_dim: v_dim as usize,
                })
            }
        };
        let positions = if causal { Some(rest.next()?) } else { None };
        let mask = if mask { Some(rest.next()?) } else { None };
        let mut operands = vec![&q];
        if let Kv::Operands { k, v } = &kv {
            operands.extend([k, v]);
        }
        operands.extend(&mask);
        let plain = operands
            .iter()
            .all(|o| o.ty.dtype == DType::F32 && !is_weight(o));
        let heads = operands[0].ty.shape.dims().get(2).and_then(|d| d.fixed());
        let narrow = heads.is_some_and(|d| d as usize <= MAX_HEAD_DIM) && {
            let value = out.ty.shape.dims().get(2).and_then(|d| d.fixed());
            value.is_some_and(|d| d as usize <= MAX_HEAD_DIM)
        };
        let state_mask = mask.is_some() && matches!(kv, Kv::States(_));
        (plain && narrow && !state_mask).then_some(Step::Attention(AttentionStep {
            q,
            kv,
            positions,
            mask,
            scale,
            soft_cap,
            window,
            out,
        }))
    }
}

fn is_weight(operand: &Operand) -> bool {
    matches!(operand.place, Place::Weight(_))
}
