//! Constants that are too large to be copied into models: several models of a module have them in common.

use half::f16;

use anynpu_hal::{FileSpan, HalError, WeightSource};
use anynpu_ir::DType;
use anynpu_ir::block::dequantize;

use super::OperandType;

/// Constants, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constants {
    all: Vec<Constant>,
}

/// Index of a constant in its [`Constants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConstantId(pub u32);

/// A constant.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// What it holds.
    pub content: Content,
    /// How many bytes it has.
    pub bytes: usize,
}

/// The type of numbers that are neither integers nor quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NumberType {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
}

impl NumberType {
    /// The operand type of tensors.
    pub const fn tensor(self) -> OperandType {
        match self {
            NumberType::F32 => OperandType::TensorFloat32,
            NumberType::F16 => OperandType::TensorFloat16,
        }
    }

    /// The element type.
    pub const fn dtype(self) -> DType {
        match self {
            NumberType::F32 => DType::F32,
            NumberType::F16 => DType::F16,
        }
    }

    /// The bytes of `numbers`, rounded.
    pub fn encode(self, numbers: &[f32], out: &mut Vec<u8>) {
        match self {
            NumberType::F32 => out.extend(numbers.iter().flat_map(|x| x.to_ne_bytes())),
            NumberType::F16 => {
                let each = numbers.iter();
                out.extend(each.flat_map(|x| f16::from_f32(*x).to_ne_bytes()));
            }
        }
    }
}

/// What a constant holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Zeros.
    Zeros,
    /// These bytes.
    Bytes(Vec<u8>),
    /// The weight of this name as numbers, row-major.
    Numbers(String, NumberType),
    /// The weight of this name, a matrix of rows of so many columns, in 8 bits with a scale a row.
    Rows(String, usize),
    /// The weight of this name in 8 bits without sign, with one scale and the zero point 128.
    Tensor(String),
}

impl Constants {
    /// None.
    pub fn new() -> Constants {
        Constants::default()
    }

    /// A constant of `bytes`, the same one if it was added before. Zeros grow to the largest.
    pub fn add(&mut self, content: Content, bytes: usize) -> ConstantId {
        let known = self.all.iter().position(|c| c.content == content);
        let zeros = content == Content::Zeros;
        if let Some(at) = known
            && (!zeros || self.all[at].bytes >= bytes)
        {
            return ConstantId(at as u32);
        }
        match known {
            Some(at) => {
                self.all[at].bytes = bytes;
                ConstantId(at as u32)
            }
            None => {
                self.all.push(Constant { content, bytes });
                ConstantId(self.all.len() as u32 - 1)
            }
        }
    }

    /// The constant `id`.
    pub fn get(&self, id: ConstantId) -> Option<&Constant> {
        self.all.get(id.0 as usize)
    }

    /// All of them.
    pub fn all(&self) -> &[Constant] {
        &self.all
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.all
            .iter()
            .map(|c| c.bytes)
            .fold(0, usize::saturating_add)
    }
}

impl Constant {
    /// Where in a file its bytes are as they are, if they are in one.
    pub fn span(&self, weights: &dyn WeightSource) -> Option<FileSpan> {
        let Content::Numbers(name, ty) = &self.content else {
            return None;
        };
        let span = weights.span(name)?;
        let whole = span.length == self.bytes as u64 && cfg!(target_endian = "little");
        let aligned = span.offset.is_multiple_of(ty.tensor().bytes() as u64);
        let same = weights.weight(name).is_ok_and(|w| w.dtype == ty.dtype());
        (whole && aligned && same).then_some(span)
    }

    /// Its bytes.
    ///
    /// # Errors
    /// Weights that can't be had, or have not the size that their type says.
    pub fn contents(&self, weights: &dyn WeightSource) -> Result<Vec<u8>, HalError> {
        match &self.content {
            Content::Zeros => Ok(vec![0; self.bytes]),
            Content::Bytes(bytes) => Ok(bytes.clone()),
            Content::Numbers(name, ty) => {
                let count = self.bytes / ty.tensor().bytes();
                let numbers = numbers(weights, name, count)?;
                let mut bytes = Vec::with_capacity(self.bytes);
                ty.encode(&numbers, &mut bytes);
                weights.release(name);
                Ok(bytes)
            }
            Content::Rows(name, columns) => {
                let numbers = numbers(weights, name, self.bytes)?;
                let (bytes, _) = rows(&numbers, *columns);
                weights.release(name);
                Ok(bytes)
            }
            Content::Tensor(name) => {
                let (bytes, _) = tensor(&numbers(weights, name, self.bytes)?);
                weights.release(name);
                Ok(bytes)
            }
        }
    }
}

/// The `count` numbers of the weight `name`.
///
/// # Errors
/// It can't be had, or has another size.
pub fn numbers(weights: &dyn WeightSource, name: &str, count: usize) -> Result<Vec<f32>, HalError> {
    let view = weights.weight(name)?;
    let mut numbers = vec![0f32; count];
    dequantize(view.dtype, &view.bytes, &mut numbers).map_err(|e| HalError::Weight {
        name: name.into(),
        why: e.to_string(),
    })?;
    Ok(numbers)
}

/// Numbers in 8 bits with a scale for each row of `columns`: bytes, then scales.
pub fn rows(numbers: &[f32], columns: usize) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = Vec::with_capacity(numbers.len());
    let mut scales = Vec::new();
    for row in numbers.chunks(columns.max(1)) {
        let most = row.iter().fold(0f32, |m, x| m.max(x.abs()));
        // a scale must be above 0
        let scale = match most > 0.0 && most.is_finite() {
            true => (most / 127.0).max(f32::MIN_POSITIVE),
            false => 1.0,
        };
        scales.push(scale);
        let each = row.iter().map(|x| (x / scale).round().clamp(-127.0, 127.0));
        bytes.extend(each.map(|x| (x as i8) as u8));
    }
    (bytes, scales)
}

/// Numbers in 8 bits without sign around 128, with one scale: bytes, then the scale.
pub fn tensor(numbers: &[f32]) -> (Vec<u8>, f32) {
    let (bytes, scales) = rows(numbers, numbers.len());
    let moved = bytes.iter().map(|b| b.wrapping_add(128)).collect();
    (moved, scales.first().copied().unwrap_or(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_there_once_and_zeros_grow() {
        let mut all = Constants::new();
        let zeros = all.add(Content::Zeros, 100);
        let w = all.add(Content::Numbers("w".into(), NumberType::F32), 400);
        assert_eq!(
            all.add(Content::Numbers("w".into(), NumberType::F32), 400),
            w
        );
        assert_eq!(all.add(Content::Zeros, 50), zeros);
        assert_eq!((all.all().len(), all.bytes()), (2, 500));
        assert_eq!(all.add(Content::Zeros, 200), zeros);
        assert_eq!(all.get(zeros).unwrap().bytes, 200);
        assert_eq!(all.bytes(), 600);
    }

    #[test]
    fn rows_are_off_by_at_most_half_a_step() {
        let numbers = [0.5, -1.0, 0.25, 0.0, 0.0, 0.0, 100.0, -3.0, 40.0];
        let (bytes, scales) = rows(&numbers, 3);
        assert_eq!(scales, [1.0 / 127.0, 1.0, 100.0 / 127.0]);
        for ((x, b), i) in numbers.iter().zip(bytes).zip(0..) {
            let scale = scales[i / 3];
            let found = f32::from(b as i8) * scale;
            assert!((found - x).abs() <= 0.501 * scale, "{x}: {found}");
        }
    }
}
