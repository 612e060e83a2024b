//! Models of the Neural Networks API as plain data.

mod constants;
mod dump;
mod operand;

use crate::FeatureLevel;
use crate::sys;

pub use constants::{
    Constant, ConstantId, Constants, Content, NumberType, numbers as constant_numbers,
    rows as constant_rows, tensor as constant_tensor,
};
pub use operand::{Channels, Operand, OperandType, Role, Scalar};

/// A model: operands, and operations in an order in which they can run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// Its name, for messages.
    pub name: String,
    /// Its operands; [`OperandId`] is an index.
    pub operands: Vec<Operand>,
    /// Its operations. Each reads only what inputs, constants and earlier operations give.
    pub operations: Vec<Operation>,
    /// Operands that the caller gives in each run.
    pub inputs: Vec<OperandId>,
    /// Operands that the caller takes after each run.
    pub outputs: Vec<OperandId>,
    /// Whether devices may compute F32 in the range and precision of F16.
    pub relaxed: bool,
}

/// Index of an operand in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperandId(pub u32);

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Which.
    pub code: OperationCode,
    /// What it reads, in the order that the interface documents.
    pub inputs: Vec<OperandId>,
    /// What it writes.
    pub outputs: Vec<OperandId>,
}

/// Which operation: one of the numbers in [`sys::OPERATIONS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationCode(pub i32);

impl OperationCode {
    /// The operation called `name`, as `FULLY_CONNECTED`.
    pub fn named(name: &str) -> Option<OperationCode> {
        let known = sys::OPERATIONS.iter().find(|(n, _)| *n == name);
        known.map(|(_, code)| OperationCode(*code))
    }

    /// Its name.
    pub fn name(self) -> std::borrow::Cow<'static, str> {
        sys::name_of(sys::OPERATIONS, self.0)
    }

    /// The feature level that brought it for tensors of `ty`; `None` of operations that lowering makes no use of, and
    /// types that they don't take.
    pub fn level(self, ty: OperandType) -> Option<FeatureLevel> {
        use FeatureLevel as L;
        let half = ty == OperandType::TensorFloat16;
        let float = half || ty == OperandType::TensorFloat32;
        let integers = ty == OperandType::TensorQuant8Asymm;
        let of_floats = |single: L, half_level: L| match (float, half) {
            (true, false) => Some(single),
            (true, true) => Some(half_level),
            (false, _) => None,
        };
        match self.0 {
            sys::RESHAPE | sys::FULLY_CONNECTED if integers => Some(L::FL1),
            // with scales a channel
            sys::CONV_2D if integers => Some(L::FL3),
            sys::ADD
            | sys::MUL
            | sys::CONCATENATION
            | sys::FULLY_CONNECTED
            | sys::LOGISTIC
            | sys::TANH
            | sys::RELU
            | sys::RESHAPE => of_floats(L::FL1, L::FL3),
            sys::SUB | sys::DIV | sys::MEAN | sys::TRANSPOSE => of_floats(L::FL2, L::FL3),
            // with an axis, and of any number of dimensions
            sys::SOFTMAX => of_floats(L::FL3, L::FL3),
            sys::EXP
            | sys::LOG
            | sys::NEG
            | sys::ABS
            | sys::SIN
            | sys::SQRT
            | sys::RSQRT
            | sys::GATHER
            | sys::SLICE
            | sys::SPLIT
            | sys::REDUCE_SUM => of_floats(L::FL3, L::FL3),
            // of what has a scale a channel
            sys::DEQUANTIZE => of_floats(L::FL3, L::FL3),
            sys::QUANTIZE if ty == OperandType::TensorQuant8Asymm => Some(L::FL3),
            sys::BATCH_MATMUL => of_floats(L::FL6, L::FL6),
            _ => None,
        }
    }
}

impl Model {
    /// An empty one.
    pub fn new(name: impl Into<String>) -> Model {
        Model {
            name: name.into(),
            ..Model::default()
        }
    }

    /// The operand `id`.
    pub fn operand(&self, id: OperandId) -> Option<&Operand> {
        self.operands.get(id.0 as usize)
    }

    /// What `operation` is, with the types that it reads and writes.
    pub fn told(&self, operation: &Operation) -> String {
        let types = |ids: &[OperandId]| {
            let each = ids.iter().map(|id| match self.operand(*id) {
                Some(o) if o.dims.is_empty() => o.ty.short().to_owned(),
                Some(o) => format!("{}{:?}", o.ty.short(), o.dims),
                None => "?".into(),
            });
            each.collect::<Vec<_>>().join(", ")
        };
        let (name, inputs) = (operation.code.name(), types(&operation.inputs));
        format!("{name}({inputs}) -> {}", types(&operation.outputs))
    }

    /// Adds an operand.
    pub fn add(&mut self, operand: Operand) -> OperandId {
        let id = OperandId(self.operands.len() as u32);
        match operand.role {
            Role::Input => self.inputs.push(id),
            Role::Output => self.outputs.push(id),
            Role::Temporary
            | Role::Omitted
            | Role::Scalar(_)
            | Role::Copied(_)
            | Role::Stored(_) => {}
        }
        self.operands.push(operand);
        id
    }
}
