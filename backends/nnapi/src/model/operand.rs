//! Operands.

use super::ConstantId;
use crate::sys;

/// An operand: a tensor, or a single number.
#[derive(Clone, Debug, PartialEq)]
pub struct Operand {
    /// Its name, for messages.
    pub name: String,
    /// Its type.
    pub ty: OperandType,
    /// Its dimensions, outermost first; none of a single number.
    pub dims: Vec<u32>,
    /// What an element of a quantised type is multiplied by; 0 of other types.
    pub scale: f32,
    /// The element that stands for 0.
    pub zero_point: i32,
    /// Scales of an axis, of [`OperandType::TensorQuant8SymmPerChannel`].
    pub channels: Option<Channels>,
    /// Where its contents come from and go to.
    pub role: Role,
}

/// Scales of an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Channels {
    /// The axis.
    pub axis: u32,
    /// One for each of its indices.
    pub scales: Vec<f32>,
}

/// Where the contents of an operand come from and go to.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// From the caller, in each run.
    Input,
    /// To the caller, in each run.
    Output,
    /// From operation to operation.
    Temporary,
    /// Nowhere: it is optional and left out.
    Omitted,
    /// A single number.
    Scalar(Scalar),
    /// At most 128 bytes, row-major, which the runtime copies.
    Copied(Vec<u8>),
    /// A constant of the model's [`super::Constants`], which outlives it: its first bytes, as many as the operand has.
    Stored(ConstantId),
}

/// A single number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// An integer.
    I32(i32),
    /// True or false.
    Bool(bool),
    /// A number.
    F32(f32),
    /// A number of 16 bits.
    F16(half::f16),
}

impl Scalar {
    /// Its type.
    pub const fn ty(self) -> OperandType {
        match self {
            Scalar::I32(_) => OperandType::Int32,
            Scalar::Bool(_) => OperandType::Bool,
            Scalar::F32(_) => OperandType::Float32,
            Scalar::F16(_) => OperandType::Float16,
        }
    }

    /// Its bytes.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Scalar::I32(n) => n.to_ne_bytes().to_vec(),
            Scalar::Bool(b) => vec![u8::from(b)],
            Scalar::F32(x) => x.to_ne_bytes().to_vec(),
            Scalar::F16(x) => x.to_ne_bytes().to_vec(),
        }
    }
}

/// Types of operands, with the interface's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(i32)]
pub enum OperandType {
    /// A single number of 32 bits.
    Float32 = sys::FLOAT32,
    /// A single integer.
    Int32 = sys::INT32,
    /// A single integer without sign.
    Uint32 = sys::UINT32,
    /// Numbers of 32 bits.
    TensorFloat32 = sys::TENSOR_FLOAT32,
    /// Integers.
    TensorInt32 = sys::TENSOR_INT32,
    /// 8-bit numbers without sign, with a scale and a zero point.
    TensorQuant8Asymm = sys::TENSOR_QUANT8_ASYMM,
    /// A single truth value, of one byte.
    Bool = sys::BOOL,
    /// 16-bit numbers with sign, with a scale.
    TensorQuant16Symm = sys::TENSOR_QUANT16_SYMM,
    /// Numbers of 16 bits.
    TensorFloat16 = sys::TENSOR_FLOAT16,
    /// Truth values, of one byte each.
    TensorBool8 = sys::TENSOR_BOOL8,
    /// A single number of 16 bits.
    Float16 = sys::FLOAT16,
    /// 8-bit numbers with sign, with a scale for each index of an axis.
    TensorQuant8SymmPerChannel = sys::TENSOR_QUANT8_SYMM_PER_CHANNEL,
    /// 16-bit numbers without sign, with a scale and a zero point.
    TensorQuant16Asymm = sys::TENSOR_QUANT16_ASYMM,
    /// 8-bit numbers with sign, with a scale.
    TensorQuant8Symm = sys::TENSOR_QUANT8_SYMM,
    /// 8-bit numbers with sign, with a scale and a zero point.
    TensorQuant8AsymmSigned = sys::TENSOR_QUANT8_ASYMM_SIGNED,
}

impl OperandType {
    /// All of them.
    pub const ALL: [OperandType; 15] = [
        OperandType::Float32,
        OperandType::Int32,
        OperandType::Uint32,
        OperandType::TensorFloat32,
        OperandType::TensorInt32,
        OperandType::TensorQuant8Asymm,
        OperandType::Bool,
        OperandType::TensorQuant16Symm,
        OperandType::TensorFloat16,
        OperandType::TensorBool8,
        OperandType::Float16,
        OperandType::TensorQuant8SymmPerChannel,
        OperandType::TensorQuant16Asymm,
        OperandType::TensorQuant8Symm,
        OperandType::TensorQuant8AsymmSigned,
    ];

    /// The interface's number.
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// The interface's name.
    pub fn name(self) -> std::borrow::Cow<'static, str> {
        sys::name_of(sys::OPERAND_TYPES, self.code())
    }

    /// The type of the interface's name.
    pub fn named(name: &str) -> Option<OperandType> {
        OperandType::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            OperandType::Float32
            | OperandType::Int32
            | OperandType::Uint32
            | OperandType::TensorFloat32
            | OperandType::TensorInt32 => 4,
            OperandType::TensorQuant16Symm
            | OperandType::TensorFloat16
            | OperandType::Float16
            | OperandType::TensorQuant16Asymm => 2,
            OperandType::TensorQuant8Asymm
            | OperandType::Bool
            | OperandType::TensorBool8
            | OperandType::TensorQuant8SymmPerChannel
            | OperandType::TensorQuant8Symm
            | OperandType::TensorQuant8AsymmSigned => 1,
        }
    }

    /// Its short name in dumps.
    pub const fn short(self) -> &'static str {
        match self {
            OperandType::Float32 | OperandType::TensorFloat32 => "f32",
            OperandType::Int32 | OperandType::TensorInt32 => "i32",
            OperandType::Uint32 => "u32",
            OperandType::Float16 | OperandType::TensorFloat16 => "f16",
            OperandType::Bool | OperandType::TensorBool8 => "bool",
            OperandType::TensorQuant8Asymm => "quant8",
            OperandType::TensorQuant16Symm => "quant16_symm",
            OperandType::TensorQuant8SymmPerChannel => "quant8_per_channel",
            OperandType::TensorQuant16Asymm => "quant16",
            OperandType::TensorQuant8Symm => "quant8_symm",
            OperandType::TensorQuant8AsymmSigned => "quant8_signed",
        }
    }
}

impl Operand {
    /// A tensor without a scale.
    pub fn tensor(name: impl Into<String>, ty: OperandType, dims: &[u32], role: Role) -> Operand {
        Operand {
            name: name.into(),
            ty,
            dims: dims.to_vec(),
            scale: 0.0,
            zero_point: 0,
            channels: None,
            role,
        }
    }

    /// A single number.
    pub fn scalar(number: Scalar) -> Operand {
        Operand::tensor("", number.ty(), &[], Role::Scalar(number))
    }

    /// Elements; `None` if there are more than can be.
    pub fn elements(&self) -> Option<usize> {
        let each = self.dims.iter();
        each.map(|d| *d as usize).try_fold(1, usize::checked_mul)
    }

    /// Bytes of its contents.
    pub fn bytes(&self) -> Option<usize> {
        self.elements()?.checked_mul(self.ty.bytes())
    }
}
