//! Types of tensors, and constants.

use super::function::ANY;
use super::proto;
use half::f16;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // each is the type its name says
pub enum DataType {
    Bool,
    String,
    F16,
    F32,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I4,
    U1,
    U2,
    U3,
    U4,
    U6,
}

impl DataType {
    /// Bits of an element; a Bool is a byte, a String has none.
    pub const fn bits(self) -> u32 {
        match self {
            DataType::String => 0,
            DataType::U1 => 1,
            DataType::U2 => 2,
            DataType::U3 => 3,
            DataType::I4 | DataType::U4 => 4,
            DataType::U6 => 6,
            DataType::Bool | DataType::I8 | DataType::U8 => 8,
            DataType::F16 | DataType::I16 | DataType::U16 => 16,
            DataType::F32 | DataType::I32 | DataType::U32 => 32,
        }
    }

    /// Whether elements are floating point numbers.
    pub const fn is_float(self) -> bool {
        matches!(self, DataType::F16 | DataType::F32)
    }

    /// The name that operations are told, as `fp16`.
    pub const fn name(self) -> &'static str {
        match self {
            DataType::Bool => "bool",
            DataType::String => "string",
            DataType::F16 => "fp16",
            DataType::F32 => "fp32",
            DataType::I8 => "int8",
            DataType::U8 => "uint8",
            DataType::I16 => "int16",
            DataType::U16 => "uint16",
            DataType::I32 => "int32",
            DataType::U32 => "uint32",
            DataType::I4 => "int4",
            DataType::U1 => "uint1",
            DataType::U2 => "uint2",
            DataType::U3 => "uint3",
            DataType::U4 => "uint4",
            DataType::U6 => "uint6",
        }
    }

    pub(super) fn proto(self) -> proto::DataType {
        match self {
            DataType::Bool => proto::DataType::Bool,
            DataType::String => proto::DataType::String,
            DataType::F16 => proto::DataType::Float16,
            DataType::F32 => proto::DataType::Float32,
            DataType::I8 => proto::DataType::Int8,
            DataType::U8 => proto::DataType::Uint8,
            DataType::I16 => proto::DataType::Int16,
            DataType::U16 => proto::DataType::Uint16,
            DataType::I32 => proto::DataType::Int32,
            DataType::U32 => proto::DataType::Uint32,
            DataType::I4 => proto::DataType::Int4,
            DataType::U1 => proto::DataType::Uint1,
            DataType::U2 => proto::DataType::Uint2,
            DataType::U3 => proto::DataType::Uint3,
            DataType::U4 => proto::DataType::Uint4,
            DataType::U6 => proto::DataType::Uint6,
        }
    }
}

/// A constant that stands in the program itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// A truth value.
    Bool(bool),
    /// Truth values, in one dimension.
    Bools(Vec<bool>),
    /// An integer.
    I32(i32),
    /// Integers, in one dimension.
    I32s(Vec<i32>),
    /// An integer of 8 bits.
    I8(i8),
    /// Integers without a sign, in one dimension.
    U32s(Vec<u32>),
    /// A word.
    Text(String),
    /// A number in F16 or F32; rounded to F16.
    Float(DataType, f32),
    /// Numbers in F16 or F32 in these dimensions; rounded to F16.
    Floats(DataType, Vec<u32>, Vec<f32>),
}

impl Literal {
    /// The type of the elements.
    pub fn dtype(&self) -> DataType {
        match self {
            Literal::Bool(_) | Literal::Bools(_) => DataType::Bool,
            Literal::I32(_) | Literal::I32s(_) => DataType::I32,
            Literal::I8(_) => DataType::I8,
            Literal::U32s(_) => DataType::U32,
            Literal::Text(_) => DataType::String,
            Literal::Float(dtype, _) | Literal::Floats(dtype, ..) => *dtype,
        }
    }

    /// The dimensions; none for a single element.
    pub fn dims(&self) -> Vec<u32> {
        match self {
            Literal::Bools(x) => vec![x.len() as u32],
            Literal::I32s(x) => vec![x.len() as u32],
            Literal::U32s(x) => vec![x.len() as u32],
            Literal::Floats(_, dims, _) => dims.clone(),
            _ => Vec::new(),
        }
    }

    pub(super) fn value(&self) -> proto::Value {
        use proto::tensor_value::{
            RepeatedBools, RepeatedBytes, RepeatedFloats, RepeatedInts, RepeatedStrings, Value,
        };
        let floats = |dtype: DataType, x: &[f32]| match dtype {
            DataType::F16 => Value::Bytes(RepeatedBytes {
                values: x
                    .iter()
                    .flat_map(|x| f16::from_f32(*x).to_le_bytes())
                    .collect(),
            }),
            _ => Value::Floats(RepeatedFloats { values: x.to_vec() }),
        };
        let value = match self {
            Literal::Bool(x) => Value::Bools(RepeatedBools { values: vec![*x] }),
            Literal::Bools(x) => Value::Bools(RepeatedBools { values: x.clone() }),
            Literal::I32(x) => Value::Ints(RepeatedInts { values: vec![*x] }),
            Literal::I32s(x) => Value::Ints(RepeatedInts { values: x.clone() }),
            Literal::I8(x) => Value::Bytes(RepeatedBytes {
                values: x.to_le_bytes().to_vec(),
            }),
            Literal::U32s(x) => Value::Bytes(RepeatedBytes {
                values: x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            }),
            Literal::Text(x) => Value::Strings(RepeatedStrings {
                values: vec![x.clone()],
            }),
            Literal::Float(dtype, x) => floats(*dtype, &[*x]),
            Literal::Floats(dtype, _, x) => floats(*dtype, x),
        };
        proto::Value {
            r#type: Some(value_type(self.dtype(), &self.dims())),
            value: Some(proto::value::Value::ImmediateValue(
                proto::value::ImmediateValue {
                    value: Some(proto::value::immediate_value::Value::Tensor(
                        proto::TensorValue { value: Some(value) },
                    )),
                },
            )),
        }
    }
}

/// The type of a tensor. One element without dimensions is written without any.
pub(super) fn value_type(dtype: DataType, dims: &[u32]) -> proto::ValueType {
    use proto::dimension::{ConstantDimension, Dimension, UnknownDimension};
    let dimension = |n: &u32| proto::Dimension {
        dimension: Some(match *n {
            ANY => Dimension::Unknown(UnknownDimension { variadic: false }),
            n => Dimension::Constant(ConstantDimension { size: n.into() }),
        }),
    };
    proto::ValueType {
        r#type: Some(proto::value_type::Type::TensorType(proto::TensorType {
            data_type: dtype.proto().into(),
            rank: dims.len() as i64,
            dimensions: dims.iter().map(dimension).collect(),
        })),
    }
}

/// The type of a state that holds such a tensor.
pub(super) fn state_type(dtype: DataType, dims: &[u32]) -> proto::ValueType {
    proto::ValueType {
        r#type: Some(proto::value_type::Type::StateType(Box::new(
            proto::StateType {
                wrapped_type: Some(Box::new(value_type(dtype, dims))),
            },
        ))),
    }
}

/// A constant that stands in the file of weights, at `offset`.
pub(super) fn blob_value(dtype: DataType, dims: &[u32], offset: u64) -> proto::Value {
    proto::Value {
        r#type: Some(value_type(dtype, dims)),
        value: Some(proto::value::Value::BlobFileValue(
            proto::value::BlobFileValue {
                file_name: "@model_path/weights/weight.bin".into(),
                offset,
            },
        )),
    }
}
