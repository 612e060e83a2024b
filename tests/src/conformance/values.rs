//! Numbers for operands, the same for the same seed.

use anynpu_cpu::reference::Tensor;
use anynpu_graphs::quant::quantize_row;
use anynpu_ir::DType;

use crate::cases::tensor;

/// A sequence of numbers that looks random (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Values(u64);

impl Values {
    /// The sequence of `seed` for what is called `name`.
    pub fn new(seed: u64, name: &str) -> Self {
        let hash = blake3::hash(name.as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        Values(u64::from_le_bytes(first) ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, or 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// A multiple of 1/16 within ±2: every float type holds it exactly.
    pub fn grid(&mut self) -> f32 {
        (self.below(65) as f32 - 32.0) / 16.0
    }

    /// Floats of [`Values::grid`].
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.grid()).collect()
    }

    /// A tensor of any type: floats of [`Values::grid`], blocks of such, small integers, truth values.
    pub fn tensor(&mut self, dtype: DType, shape: &[usize]) -> Tensor {
        let n: usize = shape.iter().product();
        let small = |v: &mut Values| v.below(15) as i32 - 7;
        match dtype {
            DType::Bool => tensor(
                shape,
                (0..n).map(|_| self.below(2) == 1).collect::<Vec<_>>(),
            ),
            DType::I8 => tensor(shape, (0..n).map(|_| small(self) as i8).collect::<Vec<_>>()),
            DType::U8 => tensor(
                shape,
                (0..n).map(|_| self.below(15) as u8).collect::<Vec<_>>(),
            ),
            DType::I16 => tensor(
                shape,
                (0..n).map(|_| small(self) as i16).collect::<Vec<_>>(),
            ),
            DType::I32 => tensor(shape, (0..n).map(|_| small(self)).collect::<Vec<_>>()),
            DType::I64 => tensor(
                shape,
                (0..n).map(|_| small(self).into()).collect::<Vec<i64>>(),
            ),
            DType::F32 | DType::F16 | DType::BF16 => float_tensor(dtype, shape, self.floats(n)),
            _ => blocks(dtype, shape, &self.floats(n)),
        }
    }

    /// Indices below `n`.
    pub fn indices(&mut self, shape: &[usize], n: usize) -> Tensor {
        let count: usize = shape.iter().product();
        tensor(
            shape,
            (0..count).map(|_| self.below(n) as i32).collect::<Vec<_>>(),
        )
    }
}

/// A tensor of a float type.
pub(crate) fn float_tensor(dtype: DType, shape: &[usize], values: Vec<f32>) -> Tensor {
    Tensor::from_f32(dtype, shape, values).expect("as many floats as the shape says")
}

/// `values` in blocks of `dtype`, row by row.
fn blocks(dtype: DType, shape: &[usize], values: &[f32]) -> Tensor {
    let row = *shape.last().expect("blocks have rows");
    let bytes = dtype.row_bytes(row).expect("rows of whole blocks");
    let mut out = vec![0; values.len() / row.max(1) * bytes];
    for (from, to) in values.chunks(row.max(1)).zip(out.chunks_mut(bytes.max(1))) {
        quantize_row(dtype, from, to).expect("rows of whole blocks");
    }
    Tensor::from_bytes(dtype, shape, &out).expect("as many blocks as the shape says")
}
