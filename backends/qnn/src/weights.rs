//! The forms that the weights of products are given to the library in. Activations are f16 beside all of them.

use std::fmt;
use std::str::FromStr;

use anynpu_hal::{HalError, WeightView};
use anynpu_ir::DType;
use anynpu_ir::block::dequantize;
use half::f16;

use crate::htp::{DataType, Encoding};

/// How the weights of products are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightForm {
    /// In 16-bit floating point.
    #[default]
    F16,
    /// In 8 bits, with a scale an output channel.
    Int8,
    /// In 4 bits, with a scale an output channel.
    Int4,
    /// In 4 bits, with a scale a block of 32, what the file has in blocks like that: exactly. The rest in f16.
    Blocks,
    /// In 4 bits, with a scale an output channel that each block of 32 has a small multiple of. Rows that are no whole
    /// blocks in 8 bits. For activations in fixed point only.
    Lpbq,
}

/// No form of weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no form of weights is called '{0}'; expected f16, int8, int4, blocks or lpbq")]
pub struct WeightFormError(String);

impl WeightForm {
    /// All of them.
    pub const ALL: [WeightForm; 5] = [
        WeightForm::F16,
        WeightForm::Int8,
        WeightForm::Int4,
        WeightForm::Blocks,
        WeightForm::Lpbq,
    ];

    /// Its name in options.
    pub const fn name(self) -> &'static str {
        match self {
            WeightForm::F16 => "f16",
            WeightForm::Int8 => "int8",
            WeightForm::Int4 => "int4",
            WeightForm::Blocks => "blocks",
            WeightForm::Lpbq => "lpbq",
        }
    }
}

impl fmt::Display for WeightForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightForm {
    type Err = WeightFormError;

    fn from_str(s: &str) -> Result<Self, WeightFormError> {
        let found = WeightForm::ALL.into_iter().find(|form| form.name() == s);
        found.ok_or_else(|| WeightFormError(s.to_owned()))
    }
}

/// Elements of a block in [`WeightForm::Blocks`], as in Q4_0.
const BLOCK: usize = 32;
/// Dimensions of a matrix in [`WeightForm::Lpbq`]: that of a convolution. As one of a plain product the library compiles
/// it only if it is not wider than high.
const FACTORED_DIMS: u32 = 4;
/// Bytes of a block of Q4_0: a scale in F16, then 32 numbers of 4 bits.
const Q4_0_BYTES: usize = 18;

/// A matrix as the library takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Elements, row-major, little-endian; numbers of 4 bits are a byte each.
    pub bytes: Vec<u8>,
    /// Their type.
    pub dtype: DataType,
    /// What they stand for.
    pub encoding: Encoding,
}

impl Matrix {
    /// The weight `name`, `[rows, columns]`, in `form`.
    ///
    /// # Errors
    /// Bytes that are not what the weight's type and size say.
    pub fn of(
        name: &str,
        view: &WeightView<'_>,
        rows: usize,
        columns: usize,
        form: WeightForm,
    ) -> Result<Matrix, HalError> {
        let wrong = |why: String| HalError::Weight {
            name: name.into(),
            why,
        };
        let count = rows.checked_mul(columns);
        let count = count.ok_or_else(|| wrong(format!("{rows} rows of {columns}")))?;
        if form == WeightForm::Blocks && view.dtype == DType::Q4_0 && columns.is_multiple_of(BLOCK)
        {
            let expected = (count / BLOCK).saturating_mul(Q4_0_BYTES);
            if view.bytes.len() != expected {
                let found = view.bytes.len();
                return Err(wrong(format!("{found} bytes instead of {expected}")));
            }
            return Ok(Matrix::of_q4_0(&view.bytes));
        }
        let mut numbers = vec![0f32; count];
        dequantize(view.dtype, &view.bytes, &mut numbers).map_err(|e| wrong(e.to_string()))?;
        Ok(match form {
            WeightForm::Int8 => Matrix::of_channels(&numbers, columns, 8),
            WeightForm::Int4 => Matrix::of_channels(&numbers, columns, 4),
            WeightForm::Lpbq => Matrix::of_factored(&numbers, columns),
            WeightForm::F16 | WeightForm::Blocks => Matrix::of_halves(&numbers),
        })
    }

    /// One without contents, as weights in `form` are held that have no form of their own.
    pub(crate) fn blank(form: WeightForm, columns: usize) -> Matrix {
        let scales = Vec::new();
        let (dtype, encoding) = match form {
            WeightForm::F16 | WeightForm::Blocks => (DataType::F16, Encoding::None),
            WeightForm::Lpbq if columns.is_multiple_of(BLOCK) => {
                let (axis, factors) = (FACTORED_DIMS - 1, Vec::new());
                (
                    DataType::Sfixed8,
                    Encoding::Factored {
                        axis,
                        scales,
                        factors,
                    },
                )
            }
            WeightForm::Int8 | WeightForm::Lpbq => {
                (DataType::Sfixed8, Encoding::Channels { axis: 0, scales })
            }
            WeightForm::Int4 => {
                let (bits, axis) = (4, 0);
                (
                    DataType::Sfixed8,
                    Encoding::NarrowChannels { bits, axis, scales },
                )
            }
        };
        Matrix {
            bytes: Vec::new(),
            dtype,
            encoding,
        }
    }

    fn of_halves(numbers: &[f32]) -> Matrix {
        let bytes = numbers.iter();
        let bytes = bytes.flat_map(|&x| f16::from_f32(x).to_le_bytes());
        Matrix {
            bytes: bytes.collect(),
            dtype: DataType::F16,
            encoding: Encoding::None,
        }
    }

    /// `[rows, columns]` as symmetric numbers of so many bits: the largest of a row is the largest number.
    pub fn of_channels(numbers: &[f32], columns: usize, bits: u32) -> Matrix {
        let most = ((1i32 << (bits - 1)) - 1) as f32;
        let mut bytes = Vec::with_capacity(numbers.len());
        let mut scales = Vec::new();
        for row in numbers.chunks(columns.max(1)) {
            let largest = row.iter().fold(0f32, |m, x| m.max(x.abs()));
            // a row of zeros needs a scale as well
            let scale = if largest > 0.0 { largest / most } else { 1.0 };
            scales.push(scale);
            let numbers = row.iter().map(|x| (x / scale).round().clamp(-most, most));
            bytes.extend(numbers.map(|x| x as i8 as u8));
        }
        Matrix {
            bytes,
            dtype: DataType::Sfixed8,
            encoding: match bits {
                8 => Encoding::Channels { axis: 0, scales },
                _ => Encoding::NarrowChannels {
                    bits,
                    axis: 0,
                    scales,
                },
            },
        }
    }

    /// `[rows, columns]` in blocks of 32 with 4 bits, symmetric: the largest of a block is the largest number.
    pub fn of_blocks(numbers: &[f32], columns: usize) -> Matrix {
        let blocks = Matrix::of_channels(numbers, BLOCK.min(columns), 4);
        let scales = match blocks.encoding {
            Encoding::NarrowChannels { scales, .. } => scales,
            _ => Vec::new(),
        };
        Matrix {
            encoding: Encoding::Blocks {
                block: vec![1, BLOCK.min(columns) as u32],
                scales,
            },
            ..blocks
        }
    }

    /// `[rows, columns]` in blocks of 32 with 4 bits, whose scales are those of their rows times 1 to 15: of the
    /// factors that are next to what a block needs, that which leaves the least error. Elements are `[columns, rows]`, as a
    /// convolution has them. In 8 bits, `[rows, columns]`, if rows are no whole blocks.
    pub fn of_factored(numbers: &[f32], columns: usize) -> Matrix {
        if columns == 0 || !columns.is_multiple_of(BLOCK) {
            return Matrix::of_channels(numbers, columns, 8);
        }
        let rows = numbers.len() / columns;
        let mut bytes = vec![0u8; numbers.len()];
        let (mut scales, mut factors) = (Vec::new(), Vec::new());
        for (r, row) in numbers.chunks(columns).enumerate() {
            let largest = row.iter().fold(0f32, |m, x| m.max(x.abs()));
            let scale = match largest > 0.0 {
                true => largest / (7.0 * 15.0),
                false => 1.0,
            };
            scales.push(scale);
            for (b, block) in row.chunks(BLOCK).enumerate() {
                let held = |factor: f32| {
                    let step = scale * factor;
                    let steps = block.iter().map(move |x| x / step);
                    steps.map(|x| x.round().clamp(-8.0, 7.0))
                };
                let error = |factor: &f32| -> f32 {
                    let off = held(*factor).zip(block);
                    let off = off.map(|(q, x)| q * scale * factor - x);
                    off.map(|off| off * off).sum()
                };
                let largest = block.iter().fold(0f32, |m, x| m.max(x.abs()));
                // the largest number is the largest element, or the least where that is better
                let own = [7.0, 8.0].map(|most| largest / (most * scale));
                let near = own.iter().flat_map(|x| [x.floor(), x.ceil()]);
                let near = near.map(|factor| factor.clamp(1.0, 15.0));
                let best = near.min_by(|a, b| error(a).total_cmp(&error(b)));
                let factor = best.unwrap_or(1.0);
                factors.push(factor as u8);
                for (i, q) in held(factor).enumerate() {
                    bytes[(b * BLOCK + i) * rows + r] = q as i8 as u8;
                }
            }
        }
        Matrix {
            bytes,
            dtype: DataType::Sfixed8,
            encoding: Encoding::Factored {
                axis: FACTORED_DIMS - 1,
                scales,
                factors,
            },
        }
    }

    /// The dimensions of its tensor: `dims` are those of the weight.
    pub(crate) fn dims(&self, dims: &[u32]) -> Vec<u32> {
        match (&self.encoding, dims) {
            (Encoding::Factored { .. }, [rows, columns]) => vec![1, 1, *columns, *rows],
            _ => dims.to_vec(),
        }
    }

    /// The blocks of Q4_0 as they are: the first half of a block is in the low bits, eight too many each.
    fn of_q4_0(blocks: &[u8]) -> Matrix {
        let count = blocks.len() / Q4_0_BYTES;
        let (mut bytes, mut scales) = (Vec::with_capacity(count * BLOCK), Vec::new());
        for block in blocks.chunks_exact(Q4_0_BYTES) {
            scales.push(f16::from_le_bytes([block[0], block[1]]).to_f32());
            let pairs = &block[2..];
            let number = |bits: u8| (bits as i8 - 8) as u8;
            bytes.extend(pairs.iter().map(|pair| number(pair & 0xf)));
            bytes.extend(pairs.iter().map(|pair| number(pair >> 4)));
        }
        Matrix {
            bytes,
            dtype: DataType::Sfixed8,
            encoding: Encoding::Blocks {
                block: vec![1, BLOCK as u32],
                scales,
            },
        }
    }

    /// What the elements stand for.
    pub fn numbers(&self, columns: usize) -> Vec<f32> {
        let fixed = || self.bytes.iter().map(|&b| f32::from(b as i8)).enumerate();
        match &self.encoding {
            Encoding::Channels { scales, .. } | Encoding::NarrowChannels { scales, .. } => fixed()
                .map(|(i, x)| x * scales[i / columns.max(1)])
                .collect(),
            Encoding::Blocks { scales, .. } => {
                fixed().map(|(i, x)| x * scales[i / BLOCK]).collect()
            }
            Encoding::Factored {
                scales, factors, ..
            } => {
                let rows = scales.len();
                let place = |i: usize| (i % columns) * rows + i / columns;
                let number = |i: usize| f32::from(self.bytes[place(i)] as i8);
                let scale = |i: usize| scales[i / columns] * f32::from(factors[i / BLOCK]);
                (0..self.bytes.len())
                    .map(|i| number(i) * scale(i))
                    .collect()
            }
            _ => {
                let pairs = self.bytes.chunks_exact(2);
                pairs
                    .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view(dtype: DType, bytes: Vec<u8>) -> WeightView<'static> {
        WeightView {
            dtype,
            bytes: bytes.into(),
        }
    }

    proptest! {
        #[test]
        fn blocks_of_q4_0_are_kept_exactly(bytes in prop::collection::vec(any::<u8>(), 6 * Q4_0_BYTES)) {
            let mut bytes = bytes;
            for block in bytes.chunks_exact_mut(Q4_0_BYTES) {
                // no infinite scales
                block[1] &= 0xbf;
            }
            let mut expected = vec![0f32; 6 * BLOCK];
            dequantize(DType::Q4_0, &bytes, &mut expected).unwrap();
            let view = view(DType::Q4_0, bytes);
            let found = Matrix::of("w", &view, 3, 2 * BLOCK, WeightForm::Blocks).unwrap();
            prop_assert_eq!(found.numbers(2 * BLOCK), expected);
        }

        #[test]
        fn channels_are_within_half_a_step(
            numbers in prop::collection::vec(-100f32..100.0, 4 * 7), narrow: bool,
        ) {
            let (form, most) = if narrow { (WeightForm::Int4, 7.0) } else { (WeightForm::Int8, 127.0) };
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            let found = Matrix::of("w", &view(DType::F32, bytes), 4, 7, form).unwrap().numbers(7);
            for (found, row) in found.chunks(7).zip(numbers.chunks(7)) {
                let step = row.iter().fold(0f32, |m, x| m.max(x.abs())) / most;
                for (f, x) in found.iter().zip(row) {
                    prop_assert!((f - x).abs() <= 0.5001 * step, "{f} {x} {step}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn blocks_with_factors_are_within_half_of_their_steps_on_average(
            numbers in prop::collection::vec(-100f32..100.0, 3 * 64), small in 0.0f32..1.0,
        ) {
            let mut numbers = numbers;
            numbers[..32].iter_mut().for_each(|x| *x *= small);
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            let held = Matrix::of("w", &view(DType::F32, bytes), 3, 64, WeightForm::Lpbq).unwrap();
            let Encoding::Factored { scales, factors, .. } = &held.encoding else {
                return Err(TestCaseError::fail("no factors"));
            };
            prop_assert_eq!((scales.len(), factors.len()), (3, 6));
            let found = held.numbers(64);
            for (b, (found, block)) in found.chunks(32).zip(numbers.chunks(32)).enumerate() {
                let largest = block.iter().fold(0f32, |m, x| m.max(x.abs()));
                // a factor that leaves no number out
                let step = scales[b / 2] * (largest / (7.0 * scales[b / 2])).ceil().max(1.0);
                let off: f32 = found.iter().zip(block).map(|(f, x)| (f - x).powi(2)).sum();
                prop_assert!(off <= 32.0 * (0.501 * step).powi(2), "{off} {step}");
            }
        }
    }

    #[test]
    fn weights_of_another_size_are_refused() {
        let short = view(DType::Q4_0, vec![0; 17]);
        for form in WeightForm::ALL {
            let e = Matrix::of("w", &short, 1, 32, form).unwrap_err();
            assert!(e.to_string().contains("'w'"), "{e}");
        }
        let zeros = view(DType::F32, vec![0; 4 * 8]);
        // rows of less than a block are in 8 bits in the last
        for form in [WeightForm::Int4, WeightForm::Int8, WeightForm::Lpbq] {
            let held = Matrix::of("w", &zeros, 2, 4, form).unwrap();
            assert_eq!(held.numbers(4), vec![0.0; 8]);
        }
        let zeros = view(DType::F32, vec![0; 4 * 64]);
        let held = Matrix::of("w", &zeros, 2, 32, WeightForm::Lpbq).unwrap();
        assert_eq!(held.numbers(32), vec![0.0; 64]);
    }

    #[test]
    fn forms_are_named() {
        for form in WeightForm::ALL {
            assert_eq!(form.to_string().parse(), Ok(form));
        }
        assert!("int2".parse::<WeightForm>().is_err());
    }
}
