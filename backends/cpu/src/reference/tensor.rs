//! Tensors, owned and borrowed.

use std::borrow::Cow;

use anynpu_ir::block::{LEGACY_BLOCK, Q8_0Block};
use anynpu_ir::{DType, TensorType, block};
use half::{bf16, f16};

use super::ReferenceError;

/// Elements of an owned tensor.
///
/// Types without a variant of their own (F16, BF16, the block formats) are `Raw`: their bytes,
/// little endian.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each holds the type its name says
pub enum TensorData {
    F32(Vec<f32>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    I16(Vec<i16>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
    Raw { dtype: DType, bytes: Vec<u8> },
}

/// Elements of a borrowed tensor.
///
/// `Raw` is allowed for every type: little-endian bytes without any alignment, such as a mapped
/// file or a device's buffer. A raw Bool is true unless it is 0.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // each holds the type its name says
pub enum DataRef<'a> {
    F32(&'a [f32]),
    I64(&'a [i64]),
    I32(&'a [i32]),
    I16(&'a [i16]),
    I8(&'a [i8]),
    U8(&'a [u8]),
    Bool(&'a [bool]),
    Raw { dtype: DType, bytes: &'a [u8] },
}

/// A dense row-major tensor. Its data has exactly the length its shape says.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    shape: Vec<usize>,
    data: TensorData,
}

/// A borrowed [`Tensor`].
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    shape: &'a [usize],
    data: DataRef<'a>,
}

impl Tensor {
    /// A tensor of `data`.
    ///
    /// # Errors
    /// [`ReferenceError::DataLength`] if the data is not exactly that of the shape.
    pub fn new(
        shape: impl Into<Vec<usize>>,
        data: impl Into<TensorData>,
    ) -> Result<Self, ReferenceError> {
        let tensor = Tensor {
            shape: shape.into(),
            data: data.into(),
        };
        let view = TensorRef::new(&tensor.shape, tensor.data.view())?;
        match &tensor.data {
            TensorData::Raw { .. } => view.to_tensor(),
            _ => Ok(tensor),
        }
    }

    /// A tensor of a scalar shape, `[]`.
    pub fn scalar<T>(value: T) -> Self
    where
        TensorData: From<Vec<T>>,
    {
        Tensor {
            shape: Vec::new(),
            data: vec![value].into(),
        }
    }

    /// A tensor from little-endian bytes.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_bytes(
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        bytes: &[u8],
    ) -> Result<Self, ReferenceError> {
        let shape = shape.into();
        TensorRef::new(&shape, DataRef::Raw { dtype, bytes })?.to_tensor()
    }

    /// A tensor of floats rounded to `dtype`, F32, F16 or BF16.
    ///
    /// # Errors
    /// As [`Tensor::new`]; [`ReferenceError::ElementType`] for another type.
    pub fn from_f32(
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        values: Vec<f32>,
    ) -> Result<Self, ReferenceError> {
        match dtype {
            DType::F32 => Tensor::new(shape, values),
            _ => Tensor::from_bytes(dtype, shape, &encode(dtype, &values)?),
        }
    }

    /// A tensor of integers of which each keeps the low bits that `dtype`, an integer type or
    /// Bool, holds.
    pub(super) fn from_i64(
        dtype: DType,
        shape: impl Into<Vec<usize>>,
        values: Vec<i64>,
    ) -> Result<Self, ReferenceError> {
        let data = match dtype {
            DType::I64 => TensorData::I64(values),
            DType::I32 => TensorData::I32(values.iter().map(|&v| v as i32).collect()),
            DType::I16 => TensorData::I16(values.iter().map(|&v| v as i16).collect()),
            DType::I8 => TensorData::I8(values.iter().map(|&v| v as i8).collect()),
            DType::U8 => TensorData::U8(values.iter().map(|&v| v as u8).collect()),
            DType::Bool => TensorData::Bool(values.iter().map(|&v| v != 0).collect()),
            found => {
                return Err(ReferenceError::ElementType {
                    found,
                    expected: "integers",
                });
            }
        };
        Tensor::new(shape, data)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.view().dtype()
    }

    /// Dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements.
    pub fn data(&self) -> &TensorData {
        &self.data
    }

    /// The tensor, borrowed.
    pub fn view(&self) -> TensorRef<'_> {
        TensorRef {
            shape: &self.shape,
            data: self.data.view(),
        }
    }

    /// Elements as f32, decoded where they are not.
    ///
    /// # Errors
    /// [`ReferenceError::ElementType`] for integers and Bool.
    pub fn to_f32(&self) -> Result<Vec<f32>, ReferenceError> {
        Ok(self.view().floats()?.into_owned())
    }

    /// Elements of an integer type or Bool.
    ///
    /// # Errors
    /// [`ReferenceError::ElementType`] for floats.
    pub fn to_i64(&self) -> Result<Vec<i64>, ReferenceError> {
        self.view().integers()
    }

    /// Elements as little-endian bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.view().bytes().into_owned()
    }

    /// The same elements in another shape of as many.
    pub fn reshaped(self, shape: impl Into<Vec<usize>>) -> Result<Self, ReferenceError> {
        Tensor::new(shape, self.data)
    }
}

impl TensorData {
    fn view(&self) -> DataRef<'_> {
        match self {
            TensorData::F32(v) => DataRef::F32(v),
            TensorData::I64(v) => DataRef::I64(v),
            TensorData::I32(v) => DataRef::I32(v),
            TensorData::I16(v) => DataRef::I16(v),
            TensorData::I8(v) => DataRef::I8(v),
            TensorData::U8(v) => DataRef::U8(v),
            TensorData::Bool(v) => DataRef::Bool(v),
            TensorData::Raw { dtype, bytes } => DataRef::Raw {
                dtype: *dtype,
                bytes,
            },
        }
    }
}

macro_rules! from_elements {
    ($($element:ty => $variant:ident),+) => {$(
        impl From<Vec<$element>> for TensorData {
            fn from(v: Vec<$element>) -> Self {
                TensorData::$variant(v)
            }
        }

        impl<'a> From<&'a [$element]> for DataRef<'a> {
            fn from(v: &'a [$element]) -> Self {
                DataRef::$variant(v)
            }
        }
    )+};
}
from_elements!(f32 => F32, i64 => I64, i32 => I32, i16 => I16, i8 => I8, u8 => U8, bool => Bool);

impl<'a> TensorRef<'a> {
    /// A view of `data`.
    ///
    /// # Errors
    /// [`ReferenceError::DataLength`] if the data is not exactly that of the shape.
    pub fn new(shape: &'a [usize], data: impl Into<DataRef<'a>>) -> Result<Self, ReferenceError> {
        let tensor = TensorRef {
            shape,
            data: data.into(),
        };
        let dtype = tensor.dtype();
        let (expected, found) = (bytes_of(dtype, shape), tensor.data.byte_len());
        match expected == Some(found) {
            true => Ok(tensor),
            false => Err(ReferenceError::DataLength {
                dtype,
                shape: shape.to_vec(),
                expected: expected.unwrap_or(usize::MAX),
                found,
            }),
        }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self.data {
            DataRef::F32(_) => DType::F32,
            DataRef::I64(_) => DType::I64,
            DataRef::I32(_) => DType::I32,
            DataRef::I16(_) => DType::I16,
            DataRef::I8(_) => DType::I8,
            DataRef::U8(_) => DType::U8,
            DataRef::Bool(_) => DType::Bool,
            DataRef::Raw { dtype, .. } => dtype,
        }
    }

    /// Dimensions.
    pub fn shape(&self) -> &'a [usize] {
        self.shape
    }

    /// Dimension `axis`.
    pub(super) fn dim(&self, axis: usize) -> usize {
        self.shape[axis]
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Type and shape as inference takes them.
    pub(super) fn ty(&self) -> Result<TensorType, ReferenceError> {
        let dims = self
            .shape
            .iter()
            .map(|&d| u32::try_from(d).map_err(|_| ReferenceError::Dimension { found: d }))
            .collect::<Result<Vec<u32>, _>>()?;
        Ok(TensorType {
            dtype: self.dtype(),
            shape: anynpu_ir::Shape::fixed(&dims),
        })
    }

    /// A copy.
    ///
    /// # Errors
    /// [`ReferenceError::ElementType`] for a type this build does not know.
    pub fn to_tensor(&self) -> Result<Tensor, ReferenceError> {
        let data = match self.data {
            DataRef::F32(v) => v.to_vec().into(),
            DataRef::I64(v) => v.to_vec().into(),
            DataRef::I32(v) => v.to_vec().into(),
            DataRef::I16(v) => v.to_vec().into(),
            DataRef::I8(v) => v.to_vec().into(),
            DataRef::U8(v) => v.to_vec().into(),
            DataRef::Bool(v) => v.to_vec().into(),
            DataRef::Raw { dtype, bytes } => match dtype {
                DType::F32 => self.floats()?.into_owned().into(),
                DType::I64 | DType::I32 | DType::I16 | DType::I8 | DType::U8 | DType::Bool => {
                    return Tensor::from_i64(dtype, self.shape, self.integers()?);
                }
                _ => TensorData::Raw {
                    dtype,
                    bytes: bytes.to_vec(),
                },
            },
        };
        Ok(Tensor {
            shape: self.shape.to_vec(),
            data,
        })
    }

    /// Elements as f32: borrowed if they are, else decoded.
    pub(super) fn floats(&self) -> Result<Cow<'a, [f32]>, ReferenceError> {
        match self.data {
            DataRef::F32(v) => Ok(Cow::Borrowed(v)),
            DataRef::Raw { dtype, bytes } if block::is_decodable(dtype) => {
                let mut out = vec![0.0; self.elements()];
                block::dequantize(dtype, bytes, &mut out)?;
                Ok(Cow::Owned(out))
            }
            _ => self.wrong("floats"),
        }
    }

    /// Row `row` of the matrix whose rows are the last axis, as f32.
    pub(super) fn float_row(&self, row: usize) -> Result<Cow<'a, [f32]>, ReferenceError> {
        let cols = self.shape.last().copied().unwrap_or(1);
        match self.data {
            DataRef::F32(v) => Ok(Cow::Borrowed(&v[row * cols..][..cols])),
            DataRef::Raw { dtype, bytes } if block::is_decodable(dtype) => {
                let mut out = vec![0.0; cols];
                block::dequantize_row(dtype, bytes, row, &mut out)?;
                Ok(Cow::Owned(out))
            }
            _ => self.wrong("floats"),
        }
    }

    /// Elements of an integer type or Bool.
    pub(super) fn integers(&self) -> Result<Vec<i64>, ReferenceError> {
        Ok(match self.data {
            DataRef::I64(v) => v.to_vec(),
            DataRef::I32(v) => v.iter().map(|&v| v.into()).collect(),
            DataRef::I16(v) => v.iter().map(|&v| v.into()).collect(),
            DataRef::I8(v) => v.iter().map(|&v| v.into()).collect(),
            DataRef::U8(v) => v.iter().map(|&v| v.into()).collect(),
            DataRef::Bool(v) => v.iter().map(|&v| v.into()).collect(),
            DataRef::Raw { dtype, bytes } => match dtype {
                DType::I64 => each(bytes, |b| i64::from_le_bytes(*b)),
                DType::I32 => each(bytes, |b| i32::from_le_bytes(*b).into()),
                DType::I16 => each(bytes, |b| i16::from_le_bytes(*b).into()),
                DType::I8 => each(bytes, |b| i8::from_le_bytes(*b).into()),
                DType::U8 => each(bytes, |b| u8::from_le_bytes(*b).into()),
                DType::Bool => each(bytes, |b: &[u8; 1]| (b[0] != 0).into()),
                _ => return self.wrong("integers"),
            },
            DataRef::F32(_) => return self.wrong("integers"),
        })
    }

    /// Elements as little-endian bytes: borrowed if they are, else encoded.
    pub(super) fn bytes(&self) -> Cow<'a, [u8]> {
        match self.data {
            DataRef::F32(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DataRef::I64(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DataRef::I32(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DataRef::I16(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DataRef::I8(v) => v.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DataRef::U8(v) => Cow::Borrowed(v),
            DataRef::Bool(v) => v.iter().map(|&v| u8::from(v)).collect(),
            DataRef::Raw { bytes, .. } => Cow::Borrowed(bytes),
        }
    }

    fn wrong<T>(&self, expected: &'static str) -> Result<T, ReferenceError> {
        Err(ReferenceError::ElementType {
            found: self.dtype(),
            expected,
        })
    }
}

impl DataRef<'_> {
    fn byte_len(&self) -> usize {
        match *self {
            DataRef::F32(v) => size_of_val(v),
            DataRef::I64(v) => size_of_val(v),
            DataRef::I32(v) => size_of_val(v),
            DataRef::I16(v) => size_of_val(v),
            DataRef::I8(v) => size_of_val(v),
            DataRef::U8(v) => v.len(),
            DataRef::Bool(v) => v.len(),
            DataRef::Raw { bytes, .. } => bytes.len(),
        }
    }
}

/// Floats as little-endian bytes of `dtype`: F32, F16 or BF16, rounded to nearest even, or Q8_0, whole
/// blocks of it.
pub(super) fn encode(dtype: DType, values: &[f32]) -> Result<Vec<u8>, ReferenceError> {
    match dtype {
        DType::F32 => Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        DType::F16 => Ok(values
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect()),
        DType::BF16 => Ok(values
            .iter()
            .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
            .collect()),
        DType::Q8_0 if values.len().is_multiple_of(LEGACY_BLOCK) => {
            let blocks = values.as_chunks::<LEGACY_BLOCK>().0.iter();
            Ok(blocks.flat_map(Q8_0Block::encode_or_nan).collect())
        }
        found => Err(ReferenceError::ElementType {
            found,
            expected: "floats to round to",
        }),
    }
}

/// Bytes of a tensor, or `None` on overflow or a row that is not whole blocks.
pub(super) fn bytes_of(dtype: DType, shape: &[usize]) -> Option<usize> {
    let (row, rows) = match shape.split_last() {
        Some((&row, rows)) => (row, rows),
        None => (1, shape),
    };
    rows.iter()
        .try_fold(dtype.row_bytes(row)?, |n, &d| n.checked_mul(d))
}

fn each<const N: usize>(bytes: &[u8], decode: impl Fn(&[u8; N]) -> i64) -> Vec<i64> {
    bytes.as_chunks::<N>().0.iter().map(decode).collect()
}
