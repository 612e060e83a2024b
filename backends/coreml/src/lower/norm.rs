//! Norms of rows.

use anynpu_ir::{Node, Op, ValueId};

use super::{Lowering, not_lowered};
use crate::CoreMlError;
use crate::package::{DataType, Literal, Tensor};

/// The least number that F16 has: what is added to a variance must be more than nothing.
const LEAST_F16: f32 = 5.960_464_5e-8;

/// What is added to a variance, as `dtype` has it.
pub(super) fn epsilon(dtype: DataType, eps: f32) -> Literal {
    match dtype {
        DataType::F16 => Literal::Float(dtype, eps.max(LEAST_F16)),
        _ => Literal::Float(dtype, eps),
    }
}

impl Lowering<'_> {
    /// The norm of rows, in F32 whatever the program computes in: squares of large numbers are none in F16.
    pub(super) fn norm(&mut self, node: &Node) -> Result<Tensor, CoreMlError> {
        let (name, wide, float) = (node.name.as_str(), DataType::F32, self.float);
        let x = self.value(node.inputs[0])?;
        let x = self.cast(&format!("{name}_wide"), x, wide)?;
        let last = self.f.dims(x).len() - 1;
        let gain = self.wide_weight(node.inputs[1])?;
        let made = match node.op {
            Op::RmsNorm { eps } => {
                let squares = self.unary("square", &format!("{name}_squares"), x)?;
                let mean = format!("{name}_mean");
                let mean = self.reduce("reduce_mean", &mean, squares, &[last], true)?;
                let eps = [("epsilon", epsilon(wide, eps).into())];
                let scale = self.unary_with("rsqrt", &format!("{name}_scale"), mean, &eps)?;
                let x = self.binary("mul", &format!("{name}_scaled"), x, scale)?;
                self.binary("mul", &format!("{name}_gained"), x, gain)?
            }
            Op::LayerNorm { eps } => {
                let mut params = vec![
                    ("axes", vec![last as i32].into()),
                    ("epsilon", epsilon(wide, eps).into()),
                    ("gamma", gain.into()),
                ];
                if let Some(&beta) = node.inputs.get(2) {
                    params.push(("beta", self.wide_weight(beta)?.into()));
                }
                self.unary_with("layer_norm", &format!("{name}_normed"), x, &params)?
            }
            _ => return Err(not_lowered(node)),
        };
        self.cast(name, made, float)
    }

    /// A weight of one dimension in F32.
    fn wide_weight(&mut self, value: ValueId) -> Result<Tensor, CoreMlError> {
        let dims = self.dims(value);
        let rows = 0..dims.first().copied().unwrap_or(1);
        self.rows_as(value, rows, &dims, DataType::F32)
    }
}
