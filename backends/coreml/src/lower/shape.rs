//! Data movement, look-ups, reductions and choices.

use anynpu_ir::{Dim, Node, Op, ReduceOp, Symbol};

use super::Lowering;
use crate::CoreMlError;
use crate::package::{DataType, Literal, Operand, Tensor};

impl Lowering<'_> {
    /// Lowers `node`; no results if it is none of these.
    pub(super) fn reshaped(&mut self, node: &Node) -> Result<Vec<Tensor>, CoreMlError> {
        let name = node.name.as_str();
        let mut operands = Vec::with_capacity(node.inputs.len());
        for &value in &node.inputs {
            operands.push(self.value(value)?);
        }
        let dims = match node.outputs.first() {
            Some(&value) => self.dims(value),
            None => Vec::new(),
        };
        let made = match &node.op {
            Op::Reshape { .. } => self.reshape(name, operands[0], &dims)?,
            Op::Broadcast { .. } => self.stretch(name, operands[0], &dims)?,
            Op::Transpose { perm } => {
                let perm: Vec<usize> = perm.iter().map(|p| *p as usize).collect();
                self.transpose(name, operands[0], &perm)?
            }
            Op::Slice {
                axis,
                start,
                end,
                step,
            } => self.slice(name, operands[0], *axis as usize, [*start, *end, *step])?,
            Op::Concat { axis } => self.concat(name, &operands, *axis as usize)?,
            Op::Split { axis, sizes } => {
                return self.split(name, operands[0], *axis as usize, sizes);
            }
            Op::Embedding => self.gather(name, operands[0], operands[1], 0)?,
            Op::Gather { axis } => self.gather(name, operands[0], operands[1], *axis as usize)?,
            Op::Scatter { axis } => self.scatter(name, &operands, *axis)?,
            Op::Reduce {
                op,
                axes,
                keep_dims,
            } => {
                let kind = match op {
                    ReduceOp::Sum => "reduce_sum",
                    ReduceOp::Mean => "reduce_mean",
                    ReduceOp::Max => "reduce_max",
                    ReduceOp::Min => "reduce_min",
                    _ => return Ok(Vec::new()),
                };
                let axes: Vec<usize> = axes.iter().map(|a| *a as usize).collect();
                self.reduce(kind, name, operands[0], &axes, *keep_dims)?
            }
            Op::TopK { k } => return self.top(name, operands[0], *k),
            Op::ArgMax { axis } => {
                let mut params = vec![
                    ("x", operands[0].into()),
                    ("axis", (*axis as i32).into()),
                    ("keep_dims", false.into()),
                ];
                if self.f.target().has_ios17() {
                    params.push(("output_dtype", "int32".into()));
                }
                self.f
                    .op("reduce_argmax", name, &params, DataType::I32, &dims)?
            }
            Op::Iota { start, length } => {
                let count = length.resolve(&self.symbols) as i32;
                match start {
                    Dim::Sym(Symbol::CACHED) => {
                        let steps = self.integers((0..count).collect())?;
                        let cached = self.cached_rows()?;
                        self.binary("add", name, steps, cached)?
                    }
                    start => {
                        let first = start.resolve(&self.symbols) as i32;
                        self.integers((first..first.saturating_add(count)).collect())?
                    }
                }
            }
            _ => return Ok(Vec::new()),
        };
        Ok(vec![made])
    }

    fn scatter(
        &mut self,
        name: &str,
        operands: &[Tensor],
        axis: u32,
    ) -> Result<Tensor, CoreMlError> {
        let (dtype, dims) = (self.f.dtype(operands[0]), self.f.dims(operands[0]).to_vec());
        let mut params = vec![
            ("data", Operand::One(operands[0])),
            ("indices", operands[1].into()),
            ("updates", operands[2].into()),
            ("axis", (axis as i32).into()),
            ("mode", "update".into()),
        ];
        if self.f.target().has_ios17() {
            params.push(("validate_indices", false.into()));
        }
        self.f.op("scatter", name, &params, dtype, &dims)
    }

    fn top(&mut self, name: &str, x: Tensor, k: u32) -> Result<Vec<Tensor>, CoreMlError> {
        let dtype = self.f.dtype(x);
        let mut dims = self.f.dims(x).to_vec();
        let axis = dims.len() as i32 - 1;
        if let Some(last) = dims.last_mut() {
            *last = k;
        }
        let mut params = vec![
            ("x", Operand::One(x)),
            ("k", Literal::I32(k as i32).into()),
            ("axis", axis.into()),
            ("ascending", false.into()),
        ];
        if self.f.target().has_ios16() {
            params.push(("sort", true.into()));
            params.push(("return_indices", true.into()));
        }
        if self.f.target().has_ios17() {
            params.push(("output_indices_dtype", "int32".into()));
        }
        let results = [(dtype, dims.clone()), (DataType::I32, dims)];
        self.f.op_of_many("topk", name, &params, &results)
    }
}
