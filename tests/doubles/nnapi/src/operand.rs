//! Operands: types, sizes, and what their bytes stand for.

use std::sync::Arc;

use half::f16;

use crate::codes::*;
use crate::memory;

/// An operand of a model.
#[derive(Clone)]
pub struct Operand {
    pub ty: i32,
    pub dims: Vec<u32>,
    pub scale: f32,
    pub zero_point: i32,
    pub channels: Option<Channels>,
    pub value: Value,
}

/// Scales of an axis.
#[derive(Clone)]
pub struct Channels {
    pub axis: usize,
    pub scales: Vec<f32>,
}

/// Where the contents of an operand come from.
#[derive(Clone)]
pub enum Value {
    /// An operation, or the application in each run.
    None,
    /// Omitted.
    Omitted,
    /// A copy.
    Copied(Vec<u8>),
    /// The application's memory, and a sum of what was there.
    Pointer(usize, usize, u64),
    /// Shared memory.
    Memory(Arc<memory::Inner>, usize, usize),
}

/// Bytes of an element; `None` of a type that there is not.
pub fn element_bytes(ty: i32) -> Option<usize> {
    Some(match ty {
        FLOAT32 | INT32 | UINT32 | TENSOR_FLOAT32 | TENSOR_INT32 => 4,
        TENSOR_QUANT16_SYMM | TENSOR_FLOAT16 | FLOAT16 | TENSOR_QUANT16_ASYMM => 2,
        BOOL
        | TENSOR_QUANT8_ASYMM
        | TENSOR_BOOL8
        | TENSOR_QUANT8_SYMM_PER_CHANNEL
        | TENSOR_QUANT8_SYMM
        | TENSOR_QUANT8_ASYMM_SIGNED => 1,
        _ => return None,
    })
}

/// Whether `ty` is a single number.
pub fn is_scalar(ty: i32) -> bool {
    matches!(ty, FLOAT32 | INT32 | UINT32 | BOOL | FLOAT16)
}

/// The feature level that brought `ty`.
pub fn type_level(ty: i32) -> i64 {
    match ty {
        FLOAT32 | INT32 | UINT32 | TENSOR_FLOAT32 | TENSOR_INT32 | TENSOR_QUANT8_ASYMM => 27,
        TENSOR_QUANT8_ASYMM_SIGNED => 30,
        _ => 29,
    }
}

/// Smallest and largest elements of a quantised type.
pub fn quantised(ty: i32) -> Option<(f64, f64)> {
    Some(match ty {
        TENSOR_QUANT8_ASYMM => (0.0, 255.0),
        TENSOR_QUANT8_ASYMM_SIGNED | TENSOR_QUANT8_SYMM => (-128.0, 127.0),
        TENSOR_QUANT8_SYMM_PER_CHANNEL => (-127.0, 127.0),
        TENSOR_QUANT16_SYMM => (-32768.0, 32767.0),
        TENSOR_QUANT16_ASYMM => (0.0, 65535.0),
        _ => return None,
    })
}

impl Operand {
    /// Whether its scale and zero point are such as its type has.
    pub fn has_right_scale(&self) -> bool {
        let positive = self.scale > 0.0 && self.scale.is_finite();
        match self.ty {
            TENSOR_QUANT8_ASYMM => positive && (0..=255).contains(&self.zero_point),
            TENSOR_QUANT8_ASYMM_SIGNED => positive && (-128..=127).contains(&self.zero_point),
            TENSOR_QUANT16_ASYMM => positive && (0..=65535).contains(&self.zero_point),
            TENSOR_QUANT8_SYMM | TENSOR_QUANT16_SYMM => positive && self.zero_point == 0,
            TENSOR_INT32 => self.scale >= 0.0 && self.zero_point == 0,
            _ => self.scale == 0.0 && self.zero_point == 0,
        }
    }

    /// Whether all of `dims` are known.
    pub fn is_specified(&self) -> bool {
        is_scalar(self.ty) || (!self.dims.is_empty() && self.dims.iter().all(|d| *d != 0))
    }

    /// Bytes of contents with dimensions `dims`.
    pub fn bytes_of(&self, dims: &[u32]) -> Option<usize> {
        let count = dims
            .iter()
            .try_fold(1usize, |n, d| n.checked_mul(*d as usize))?;
        count.checked_mul(element_bytes(self.ty)?)
    }

    /// Bytes of its contents, by its own dimensions.
    pub fn bytes(&self) -> Option<usize> {
        self.bytes_of(&self.dims)
    }

    /// What `bytes` stand for.
    pub fn decode(&self, bytes: &[u8]) -> Vec<f64> {
        let raw = raw(self.ty, bytes);
        if let Some(channels) = &self.channels {
            let inner: usize = self.dims[channels.axis + 1..]
                .iter()
                .map(|d| *d as usize)
                .product();
            let scales = &channels.scales;
            let scale = |i: usize| f64::from(scales[i / inner.max(1) % scales.len()]);
            return raw.iter().enumerate().map(|(i, x)| x * scale(i)).collect();
        }
        match self.scale == 0.0 {
            true => raw,
            false => {
                let (scale, zero) = (f64::from(self.scale), f64::from(self.zero_point));
                raw.iter().map(|x| (x - zero) * scale).collect()
            }
        }
    }

    /// The bytes that stand for `numbers`, rounded to its type.
    pub fn encode(&self, numbers: &[f64]) -> Vec<u8> {
        match quantised(self.ty) {
            Some(_) => {
                let (scale, zero) = (f64::from(self.scale), f64::from(self.zero_point));
                let raw: Vec<f64> = numbers.iter().map(|x| (x / scale).round() + zero).collect();
                of_raw(self.ty, &raw)
            }
            None => of_raw(self.ty, numbers),
        }
    }
}

/// Elements of type `ty` as they are.
pub fn raw(ty: i32, bytes: &[u8]) -> Vec<f64> {
    let two = |b: &[u8]| [b[0], b[1]];
    let four = |b: &[u8]| [b[0], b[1], b[2], b[3]];
    match ty {
        FLOAT32 | TENSOR_FLOAT32 => {
            let each = bytes.chunks_exact(4);
            each.map(|b| f64::from(f32::from_le_bytes(four(b))))
                .collect()
        }
        INT32 | TENSOR_INT32 => {
            let each = bytes.chunks_exact(4);
            each.map(|b| f64::from(i32::from_le_bytes(four(b))))
                .collect()
        }
        UINT32 => {
            let each = bytes.chunks_exact(4);
            each.map(|b| f64::from(u32::from_le_bytes(four(b))))
                .collect()
        }
        FLOAT16 | TENSOR_FLOAT16 => {
            let each = bytes.chunks_exact(2);
            each.map(|b| f16::from_le_bytes(two(b)).to_f64()).collect()
        }
        TENSOR_QUANT16_SYMM => {
            let each = bytes.chunks_exact(2);
            each.map(|b| f64::from(i16::from_le_bytes(two(b))))
                .collect()
        }
        TENSOR_QUANT16_ASYMM => {
            let each = bytes.chunks_exact(2);
            each.map(|b| f64::from(u16::from_le_bytes(two(b))))
                .collect()
        }
        TENSOR_QUANT8_SYMM | TENSOR_QUANT8_SYMM_PER_CHANNEL | TENSOR_QUANT8_ASYMM_SIGNED => {
            bytes.iter().map(|b| f64::from(*b as i8)).collect()
        }
        BOOL | TENSOR_BOOL8 => bytes.iter().map(|b| f64::from(u8::from(*b != 0))).collect(),
        _ => bytes.iter().map(|b| f64::from(*b)).collect(),
    }
}

/// The bytes of `numbers` as elements of type `ty`, held within what these can be.
pub fn of_raw(ty: i32, numbers: &[f64]) -> Vec<u8> {
    let each = numbers.iter().copied();
    match ty {
        FLOAT32 | TENSOR_FLOAT32 => each.flat_map(|x| (x as f32).to_le_bytes()).collect(),
        INT32 | TENSOR_INT32 => each.flat_map(|x| (x as i32).to_le_bytes()).collect(),
        UINT32 => each.flat_map(|x| (x as u32).to_le_bytes()).collect(),
        FLOAT16 | TENSOR_FLOAT16 => each.flat_map(|x| f16::from_f64(x).to_le_bytes()).collect(),
        TENSOR_QUANT16_SYMM => each.flat_map(|x| (x as i16).to_le_bytes()).collect(),
        TENSOR_QUANT16_ASYMM => each.flat_map(|x| (x as u16).to_le_bytes()).collect(),
        TENSOR_QUANT8_SYMM | TENSOR_QUANT8_SYMM_PER_CHANNEL | TENSOR_QUANT8_ASYMM_SIGNED => {
            each.map(|x| (x as i8) as u8).collect()
        }
        BOOL | TENSOR_BOOL8 => each.map(|x| u8::from(x != 0.0)).collect(),
        _ => each.map(|x| x as u8).collect(),
    }
}

/// A sum of `bytes` that tells whether they changed (FNV-1a).
pub fn sum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, b: &u8| (sum ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}
