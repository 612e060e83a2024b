//! Tensors of a GGUF file and their types.

use std::fmt;

use anynpu_ir::{DType, Shape, TensorType};

use super::{Gguf, GgufError};

/// The most dimensions a tensor may have.
pub const MAX_RANK: usize = 4;

/// The type id of a tensor as it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GgmlType(
    /// The id.
    pub u32,
);

/// Types by id: name, elements and bytes of a block (0 where the format dropped the type), and ours.
#[rustfmt::skip]
const TYPES: &[(u32, &str, u64, u64, Option<DType>)] = &[
    (0, "F32", 1, 4, Some(DType::F32)),
    (1, "F16", 1, 2, Some(DType::F16)),
    (2, "Q4_0", 32, 18, Some(DType::Q4_0)),
    (3, "Q4_1", 32, 20, Some(DType::Q4_1)),
    (4, "Q4_2", 0, 0, None),
    (5, "Q4_3", 0, 0, None),
    (6, "Q5_0", 32, 22, Some(DType::Q5_0)),
    (7, "Q5_1", 32, 24, Some(DType::Q5_1)),
    (8, "Q8_0", 32, 34, Some(DType::Q8_0)),
    (9, "Q8_1", 32, 36, None),
    (10, "Q2_K", 256, 84, None),
    (11, "Q3_K", 256, 110, None),
    (12, "Q4_K", 256, 144, Some(DType::Q4_K)),
    (13, "Q5_K", 256, 176, Some(DType::Q5_K)),
    (14, "Q6_K", 256, 210, Some(DType::Q6_K)),
    (15, "Q8_K", 256, 292, None),
    (16, "IQ2_XXS", 256, 66, None),
    (17, "IQ2_XS", 256, 74, None),
    (18, "IQ3_XXS", 256, 98, None),
    (19, "IQ1_S", 256, 50, None),
    (20, "IQ4_NL", 32, 18, None),
    (21, "IQ3_S", 256, 110, None),
    (22, "IQ2_S", 256, 82, None),
    (23, "IQ4_XS", 256, 136, None),
    (24, "I8", 1, 1, Some(DType::I8)),
    (25, "I16", 1, 2, Some(DType::I16)),
    (26, "I32", 1, 4, Some(DType::I32)),
    (27, "I64", 1, 8, Some(DType::I64)),
    (28, "F64", 1, 8, None),
    (29, "IQ1_M", 256, 56, None),
    (30, "BF16", 1, 2, Some(DType::BF16)),
    (31, "Q4_0_4_4", 0, 0, None),
    (32, "Q4_0_4_8", 0, 0, None),
    (33, "Q4_0_8_8", 0, 0, None),
    (34, "TQ1_0", 256, 54, None),
    (35, "TQ2_0", 256, 66, None),
    (36, "IQ4_NL_4_4", 0, 0, None),
    (37, "IQ4_NL_4_8", 0, 0, None),
    (38, "IQ4_NL_8_8", 0, 0, None),
    (39, "MXFP4", 32, 17, None),
    (40, "NVFP4", 64, 36, None),
];

impl GgmlType {
    /// The id of one of our types, if GGUF has it.
    pub fn of(dtype: DType) -> Option<GgmlType> {
        TYPES
            .iter()
            .find(|row| row.4 == Some(dtype))
            .map(|row| GgmlType(row.0))
    }

    /// The id called `name`, e.g. `Q2_K`.
    pub fn by_name(name: &str) -> Option<GgmlType> {
        let row = TYPES.iter().find(|row| row.1 == name)?;
        Some(GgmlType(row.0))
    }

    fn row(self) -> Option<&'static (u32, &'static str, u64, u64, Option<DType>)> {
        TYPES.get(self.0 as usize).filter(|row| row.0 == self.0)
    }

    /// Its name, if the id is known.
    pub fn name(self) -> Option<&'static str> {
        Some(self.row()?.1)
    }

    /// Ours, if we can compute with it.
    pub fn dtype(self) -> Option<DType> {
        self.row()?.4
    }

    /// Elements and bytes of one block, if the id is known and its layout still defined.
    pub fn block(self) -> Option<(u64, u64)> {
        self.row().map(|row| (row.2, row.3)).filter(|b| b.0 > 0)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (id {})", self.name().unwrap_or("unknown"), self.0)
    }
}

/// What the file says of one tensor, checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorInfo {
    /// Start of its name in the names.
    pub name_start: usize,
    /// Length of its name.
    pub name_len: u32,
    /// Dimensions used.
    pub rank: u32,
    /// Dimensions, innermost first; 1 past `rank`.
    pub dims: [u64; MAX_RANK],
    /// Type.
    pub ggml_type: GgmlType,
    /// First byte, from the start of the file.
    pub offset: u64,
    /// Bytes, if its type's layout is known.
    pub bytes: Option<u64>,
}

/// One tensor of a file.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) info: &'a TensorInfo,
}

impl<'a> Tensor<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        let (start, len) = (self.info.name_start, self.info.name_len as usize);
        &self.gguf.inner.names[start..start + len]
    }

    /// Dimensions in the file's order: innermost (the row length) first.
    pub fn dims(&self) -> &'a [u64] {
        &self.info.dims[..self.info.rank as usize]
    }

    /// The product of its dimensions.
    pub fn elements(&self) -> u64 {
        self.dims().iter().product()
    }

    /// Its type as it stands in the file.
    pub fn ggml_type(&self) -> GgmlType {
        self.info.ggml_type
    }

    /// Its first byte, from the start of the file.
    pub fn offset(&self) -> u64 {
        self.info.offset
    }

    /// Its length in bytes; `None` if its type's layout isn't known.
    pub fn byte_len(&self) -> Option<u64> {
        self.info.bytes
    }

    /// Its element type.
    ///
    /// # Errors
    /// [`GgufError::UnsupportedType`] if we have no such type.
    pub fn dtype(&self) -> Result<DType, GgufError> {
        self.info
            .ggml_type
            .dtype()
            .ok_or_else(|| self.unsupported())
    }

    /// Its element type and shape, outermost dimension first.
    ///
    /// # Errors
    /// [`GgufError::UnsupportedType`]; [`GgufError::DimensionTooLarge`].
    pub fn tensor_type(&self) -> Result<TensorType, GgufError> {
        let dtype = self.dtype()?;
        let dims: Result<Vec<u32>, _> = self.dims().iter().rev().map(|&d| d.try_into()).collect();
        let dims = dims.map_err(|_| GgufError::DimensionTooLarge {
            file: self.gguf.inner.label.clone(),
            tensor: self.name().to_owned(),
            dims: self.dims().to_vec(),
        })?;
        Ok(TensorType::new(dtype, Shape::fixed(&dims)))
    }

    /// Its bytes, in the file's format. They may stand at any address: the file's alignment counts
    /// from its start, and a file in memory may start anywhere.
    ///
    /// # Errors
    /// [`GgufError::UnsupportedType`] if its type's layout isn't known. A type with a known layout
    /// that we can't compute with has bytes.
    pub fn data(&self) -> Result<&'a [u8], GgufError> {
        let bytes = self.info.bytes.ok_or_else(|| self.unsupported())?;
        // In range as checked when the file was read.
        let start = self.info.offset as usize;
        Ok(&self.gguf.inner.file[start..start + bytes as usize])
    }

    fn unsupported(&self) -> GgufError {
        GgufError::UnsupportedType {
            file: self.gguf.inner.label.clone(),
            tensor: self.name().to_owned(),
            ggml_type: self.info.ggml_type,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_at_their_place_and_agree_with_our_types() {
        for (i, row) in TYPES.iter().enumerate() {
            assert_eq!(row.0 as usize, i);
            let ty = GgmlType(row.0);
            assert_eq!(ty.name(), Some(row.1));
            if let Some(dtype) = ty.dtype() {
                let ours = (dtype.block_len() as u64, dtype.block_bytes() as u64);
                assert_eq!(ty.block(), Some(ours), "{ty}");
                assert_eq!(GgmlType::of(dtype), Some(ty));
                assert_eq!(dtype.name().to_uppercase(), row.1);
            }
        }
        assert_eq!(GgmlType(41).name(), None);
        assert_eq!(GgmlType(u32::MAX).block(), None);
    }

    #[test]
    fn block_sizes_agree_with_the_reference() {
        let golden: serde_json::Value = serde_json::from_str(include_str!(
            "../../../../tests/data/gguf_quant/gguf_quant_golden.json"
        ))
        .unwrap();
        let types = golden["types"].as_object().unwrap();
        assert_eq!(types.len(), 27);
        for (name, case) in types {
            let ty = GgmlType::by_name(name).unwrap();
            assert_eq!(case["ggml_type"], ty.0, "{name}");
            let (elements, bytes) = ty.block().unwrap();
            assert_eq!(case["block"], elements, "{name}");
            assert_eq!(case["bytes_per_block"], bytes, "{name}");
        }
    }
}
