//! Functions of single elements, softmax and conversions.

use anynpu_ir::{Activation, BinaryOp, DType, Node, Op, UnaryOp};

use super::{Lowering, not_lowered};
use crate::CoreMlError;
use crate::package::{DataType, Literal, Tensor};

type Made = Result<Tensor, CoreMlError>;

/// What logarithms and roots have added to their operand unless told otherwise; nothing in F16.
const NEXT_TO_NOTHING: f32 = 1e-45;

impl Lowering<'_> {
    pub(super) fn elementwise(&mut self, node: &Node) -> Made {
        let name = node.name.as_str();
        match &node.op {
            Op::Unary(f) => {
                let x = self.value(node.inputs[0])?;
                self.function(name, *f, x)
            }
            Op::Activation(f) => {
                let x = self.value(node.inputs[0])?;
                self.activation(name, *f, x)
            }
            Op::GatedActivation(f) => {
                let (gate, up) = (self.value(node.inputs[0])?, self.value(node.inputs[1])?);
                let gate = self.activation(&format!("{name}_gate"), *f, gate)?;
                self.binary("mul", name, gate, up)
            }
            Op::SoftCap { cap } => {
                let x = self.value(node.inputs[0])?;
                self.soft_cap(name, x, *cap)
            }
            Op::Binary(f) => {
                let (a, b) = (self.value(node.inputs[0])?, self.value(node.inputs[1])?);
                self.function_of_two(name, *f, a, b)
            }
            Op::Select => {
                let condition = self.value(node.inputs[0])?;
                let (a, b) = (self.value(node.inputs[1])?, self.value(node.inputs[2])?);
                self.select(name, condition, a, b)
            }
            Op::Softmax { axis } => {
                let x = self.value(node.inputs[0])?;
                self.softmax(name, x, *axis as usize)
            }
            Op::Cast { to } => {
                let x = self.value(node.inputs[0])?;
                let from = self.f.dtype(x);
                match to {
                    DType::I32 => self.cast(name, x, DataType::I32),
                    DType::Bool => self.cast(name, x, DataType::Bool),
                    // what is F16 in the graph is rounded to it
                    DType::F16 if from == DataType::F32 => {
                        let half = self.cast(&format!("{name}_half"), x, DataType::F16)?;
                        self.cast(name, half, DataType::F32)
                    }
                    _ => {
                        let float = self.float;
                        self.cast(name, x, float)
                    }
                }
            }
            _ => Err(not_lowered(node)),
        }
    }

    fn function(&mut self, name: &str, f: UnaryOp, x: Tensor) -> Made {
        let dtype = self.f.dtype(x);
        let epsilon = |x: f32| [("epsilon", Literal::Float(dtype, x).into())];
        match f {
            UnaryOp::Neg => {
                let minus = match dtype {
                    DataType::I32 => Literal::I32(-1),
                    _ => Literal::Float(dtype, -1.0),
                };
                let minus = self.f.constant(minus)?;
                self.binary("mul", name, x, minus)
            }
            UnaryOp::Reciprocal => {
                let one = self.f.constant(Literal::Float(dtype, 1.0))?;
                self.binary("real_div", name, one, x)
            }
            UnaryOp::Log => self.unary_with("log", name, x, &epsilon(NEXT_TO_NOTHING)),
            UnaryOp::Rsqrt => self.unary_with("rsqrt", name, x, &epsilon(NEXT_TO_NOTHING)),
            UnaryOp::Not => self.unary("logical_not", name, x),
            UnaryOp::Abs
            | UnaryOp::Exp
            | UnaryOp::Sqrt
            | UnaryOp::Sin
            | UnaryOp::Cos
            | UnaryOp::Tanh
            | UnaryOp::Sigmoid
            | UnaryOp::Erf
            | UnaryOp::Floor
            | UnaryOp::Ceil
            | UnaryOp::Round => self.unary(f.name(), name, x),
            _ => Err(CoreMlError::NotLowered {
                node: name.to_owned(),
                op: f.name().to_owned(),
            }),
        }
    }

    /// `f` of `x`.
    pub(super) fn activation(&mut self, name: &str, f: Activation, x: Tensor) -> Made {
        let mode = match f {
            Activation::Relu => return self.unary("relu", name, x),
            Activation::Silu => return self.unary("silu", name, x),
            Activation::Gelu => "EXACT",
            Activation::GeluTanh => "TANH_APPROXIMATION",
            // x·σ(1.702x), which is what the third mode is
            Activation::GeluQuick => "SIGMOID_APPROXIMATION",
            _ => {
                return Err(CoreMlError::NotLowered {
                    node: name.to_owned(),
                    op: f.name().to_owned(),
                });
            }
        };
        self.unary_with("gelu", name, x, &[("mode", mode.into())])
    }

    /// `cap · tanh(x / cap)`.
    pub(super) fn soft_cap(&mut self, name: &str, x: Tensor, cap: f32) -> Made {
        let x = self.times(&format!("{name}_part"), x, 1.0 / cap)?;
        let x = self.unary("tanh", &format!("{name}_tanh"), x)?;
        self.times(name, x, cap)
    }

    /// `f` of `a` and `b`.
    pub(super) fn function_of_two(
        &mut self,
        name: &str,
        f: BinaryOp,
        a: Tensor,
        b: Tensor,
    ) -> Made {
        let bool = DataType::Bool;
        let truth = self.f.dtype(a) == bool;
        match f {
            BinaryOp::Add => self.binary("add", name, a, b),
            BinaryOp::Sub => self.binary("sub", name, a, b),
            BinaryOp::Mul => self.binary("mul", name, a, b),
            BinaryOp::Div => self.binary("real_div", name, a, b),
            BinaryOp::Pow => self.binary("pow", name, a, b),
            BinaryOp::Max => self.binary("maximum", name, a, b),
            BinaryOp::Min => self.binary("minimum", name, a, b),
            BinaryOp::Equal if truth => {
                let other = self.binary("logical_xor", &format!("{name}_other"), a, b)?;
                self.unary("logical_not", name, other)
            }
            BinaryOp::Equal => self.binary_to("equal", name, a, b, bool),
            BinaryOp::Less => self.binary_to("less", name, a, b, bool),
            BinaryOp::LessEqual => self.binary_to("less_equal", name, a, b, bool),
            BinaryOp::Greater => self.binary_to("greater", name, a, b, bool),
            BinaryOp::GreaterEqual => self.binary_to("greater_equal", name, a, b, bool),
            BinaryOp::And => self.binary("logical_and", name, a, b),
            BinaryOp::Or => self.binary("logical_or", name, a, b),
            _ => Err(CoreMlError::NotLowered {
                node: name.to_owned(),
                op: f.name().to_owned(),
            }),
        }
    }
}
