//! Products with matrices, and convolutions.

use anynpu_ir::{Node, Op, ValueId};

use super::{Lowering, not_lowered};
use crate::CoreMlError;
use crate::package::{Operand, Tensor};

type Made = Result<Tensor, CoreMlError>;

/// How a convolution steps, one number an axis.
pub(super) struct Steps<'a> {
    pub stride: &'a [u32],
    pub padding: &'a [u32],
    pub dilation: &'a [u32],
    pub groups: u32,
}

impl Lowering<'_> {
    pub(super) fn product(&mut self, node: &Node) -> Made {
        let name = node.name.as_str();
        match &node.op {
            Op::Linear => self.linear(node),
            Op::MatMul {
                transpose_a,
                transpose_b,
            } => {
                let (a, b) = (self.value(node.inputs[0])?, self.value(node.inputs[1])?);
                self.matmul(name, [a, b], [*transpose_a, *transpose_b])
            }
            Op::Conv1d {
                stride,
                padding,
                dilation,
                groups,
            } => {
                let steps = Steps {
                    stride: &[*stride],
                    padding: &[*padding],
                    dilation: &[*dilation],
                    groups: *groups,
                };
                self.filters(node, &steps)
            }
            Op::Conv2d {
                stride,
                padding,
                dilation,
                groups,
            } => {
                let steps = Steps {
                    stride,
                    padding,
                    dilation,
                    groups: *groups,
                };
                self.filters(node, &steps)
            }
            _ => Err(not_lowered(node)),
        }
    }

    fn linear(&mut self, node: &Node) -> Made {
        let name = node.name.as_str();
        let x = self.value(node.inputs[0])?;
        let dims = self.dims(node.outputs[0]);
        let (w, bias) = (node.inputs[1], node.inputs.get(2).copied());
        let constant = |v: ValueId| self.is_weight(v);
        if !constant(w) || bias.is_some_and(|b| !constant(b)) {
            let w = self.value(w)?;
            let x = self.flat(name, x)?;
            let made = self.matmul(&format!("{name}_product"), [x, w], [false, true])?;
            let made = match bias {
                None => made,
                Some(bias) => {
                    let bias = self.value(bias)?;
                    self.binary("add", &format!("{name}_biased"), made, bias)?
                }
            };
            return self.reshape(name, made, &dims);
        }
        let x = self.flat(name, x)?;
        let matrix = self.value(w)?;
        let columns = dims.last().copied().unwrap_or(1);
        let bias = match bias {
            Some(bias) => self.value(bias)?,
            // coremltools always writes one
            None => self.computed("no_bias", "zeros", &[columns], &vec![0.0; columns as usize])?,
        };
        let operands = [
            ("x", Operand::One(x)),
            ("weight", matrix.into()),
            ("bias", bias.into()),
        ];
        let flat = [self.f.dims(x)[0], columns];
        let (float, own) = (self.float, dims == flat);
        let called = if own {
            name.to_owned()
        } else {
            format!("{name}_flat")
        };
        let made = self.f.op("linear", &called, &operands, float, &flat)?;
        self.reshape(name, made, &dims)
    }

    /// `x` in two dimensions.
    fn flat(&mut self, name: &str, x: Tensor) -> Made {
        let dims = self.f.dims(x);
        let columns = dims.last().copied().unwrap_or(1);
        let rows = dims.iter().rev().skip(1).product();
        self.reshape(&format!("{name}_rows"), x, &[rows, columns])
    }

    fn filters(&mut self, node: &Node, steps: &Steps<'_>) -> Made {
        let x = self.value(node.inputs[0])?;
        let filters = self.value(node.inputs[1])?;
        let bias = match node.inputs.get(2) {
            Some(&bias) => Some(self.value(bias)?),
            None => None,
        };
        let dims = self.dims(node.outputs[0]);
        self.convolution(&node.name, [x, filters], bias, steps, &dims)
    }

    /// A convolution with a result of `dims`.
    pub(super) fn convolution(
        &mut self,
        name: &str,
        [x, filters]: [Tensor; 2],
        bias: Option<Tensor>,
        steps: &Steps<'_>,
        dims: &[u32],
    ) -> Made {
        let whole = |x: &[u32]| x.iter().map(|n| *n as i32).collect::<Vec<_>>();
        let pad: Vec<i32> = steps.padding.iter().flat_map(|p| [*p as i32; 2]).collect();
        let mut operands = vec![
            ("x", Operand::One(x)),
            ("weight", filters.into()),
            ("strides", whole(steps.stride).into()),
            ("pad_type", "custom".into()),
            ("pad", pad.into()),
            ("dilations", whole(steps.dilation).into()),
            ("groups", (steps.groups as i32).into()),
        ];
        if let Some(bias) = bias {
            operands.push(("bias", bias.into()));
        }
        let float = self.float;
        self.f.op("conv", name, &operands, float, dims)
    }
}
