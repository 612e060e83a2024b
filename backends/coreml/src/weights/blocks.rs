//! Blocks of files as integers with a scale and an offset.
//!
//! `(code − offset) · scale`, where the file says `code · d` or `code · d + m`: the offset is `−m / d`. Scales of files may
//! be negative, and stay so.

use anynpu_ir::DType;
use anynpu_ir::block::{
    K_BLOCK, LEGACY_BLOCK, Q4_0Block, Q4_1Block, Q4KBlock, Q5_0Block, Q5_1Block, Q5KBlock,
    Q6KBlock, Q8_0Block, unpack_scales_mins,
};

use crate::package::DataType;

/// What has one scale.
pub(super) struct Part<'a> {
    pub scale: f32,
    pub offset: f32,
    pub has_offset: bool,
    /// Two's complement where the type is signed.
    pub codes: &'a [u8],
}

/// Takes the blocks of a row apart, in order.
pub(super) type Split = fn(&[u8], &mut dyn FnMut(Part<'_>));

/// How blocks of `dtype` are split into `codes` with a scale for `block` of them, if that is how they are.
pub(super) fn of_file(dtype: DType, codes: DataType, block: usize, offset: bool) -> Option<Split> {
    Some(match (dtype, codes, block, offset) {
        (DType::Q4_0, DataType::I4, 32, false) => q4_0,
        (DType::Q4_1, DataType::U4, 32, true) => q4_1,
        (DType::Q5_0, DataType::I8, 32, false) => q5_0,
        (DType::Q5_1, DataType::U8, 32, true) => q5_1,
        (DType::Q8_0, DataType::I8, 32, false) => q8_0,
        (DType::Q4_K, DataType::U4, 32, true) => q4_k,
        (DType::Q5_K, DataType::U8, 32, true) => q5_k,
        (DType::Q6_K, DataType::I8, 16, false) => q6_k,
        _ => return None,
    })
}

type Take<'a> = &'a mut dyn FnMut(Part<'_>);

fn symmetric(take: Take<'_>, scale: f32, codes: &[u8]) {
    take(Part {
        scale,
        offset: 0.0,
        has_offset: false,
        codes,
    });
}

/// Offsets beyond this are those of blocks whose steps vanish beside the minimum; F16 has 65504.
const MOST_OFFSET: f32 = 3e4;

/// `code · d + m`. Where `d` is nothing beside `m` all numbers are `m`.
fn with_minimum(take: Take<'_>, d: f32, m: f32, codes: &[u8]) {
    let offset = -m / d;
    let (scale, offset, codes) = match offset.abs() <= MOST_OFFSET {
        true => (d, offset, codes),
        // neither does m matter if it is 0
        false => (m, -1.0, &[0; LEGACY_BLOCK][..codes.len().min(LEGACY_BLOCK)]),
    };
    take(Part {
        scale,
        offset,
        has_offset: true,
        codes,
    });
}

/// Codes of 4 bits: the low halves of the bytes, then the high ones; less `less`.
fn nibbles(qs: &[u8; 16], less: u8) -> [u8; LEGACY_BLOCK] {
    std::array::from_fn(|i| {
        let byte = qs[i % 16];
        let code = if i < 16 { byte & 15 } else { byte >> 4 };
        code.wrapping_sub(less)
    })
}

/// Codes of 5 bits likewise, their highest bits in `qh`.
fn fives(qs: &[u8; 16], qh: u32, less: u8) -> [u8; LEGACY_BLOCK] {
    let low = nibbles(qs, 0);
    std::array::from_fn(|i| (low[i] | ((qh >> i & 1) as u8) << 4).wrapping_sub(less))
}

/// Calls `each` with the blocks of `row`.
fn blocks<const N: usize>(row: &[u8], mut each: impl FnMut(&[u8; N])) {
    let (whole, _) = row.as_chunks::<N>();
    whole.iter().for_each(&mut each);
}

fn q4_0(row: &[u8], take: Take<'_>) {
    blocks(row, |bytes| {
        let b = Q4_0Block::new(bytes);
        symmetric(take, b.d, &nibbles(b.qs, 8));
    });
}

fn q4_1(row: &[u8], take: Take<'_>) {
    blocks(row, |bytes| {
        let b = Q4_1Block::new(bytes);
        with_minimum(take, b.d, b.m, &nibbles(b.qs, 0));
    });
}

fn q5_0(row: &[u8], take: Take<'_>) {
    blocks(row, |bytes| {
        let b = Q5_0Block::new(bytes);
        symmetric(take, b.d, &fives(b.qs, b.qh, 16));
    });
}

fn q5_1(row: &[u8], take: Take<'_>) {
    blocks(row, |bytes| {
        let b = Q5_1Block::new(bytes);
        with_minimum(take, b.d, b.m, &fives(b.qs, b.qh, 0));
    });
}

fn q8_0(row: &[u8], take: Take<'_>) {
    blocks(row, |bytes| {
        let b = Q8_0Block::new(bytes);
        symmetric(take, b.d, b.qs);
    });
}

fn q4_k(row: &[u8], take: Take<'_>) {
    blocks(row, |bytes| {
        let b = Q4KBlock::new(bytes);
        let (scales, mins) = unpack_scales_mins(b.scales);
        for sub in 0..8 {
            let codes: [u8; 32] = std::array::from_fn(|i| {
                let q = b.qs[32 * (sub / 2) + i];
                if sub % 2 == 0 { q & 15 } else { q >> 4 }
            });
            let (d, m) = (b.d * f32::from(scales[sub]), b.dmin * f32::from(mins[sub]));
            with_minimum(take, d, -m, &codes);
        }
    });
}

fn q5_k(row: &[u8], take: Take<'_>) {
    blocks(row, |bytes| {
        let b = Q5KBlock::new(bytes);
        let (scales, mins) = unpack_scales_mins(b.scales);
        for sub in 0..8 {
            let codes: [u8; 32] = std::array::from_fn(|i| {
                let q = b.qs[32 * (sub / 2) + i];
                let low = if sub % 2 == 0 { q & 15 } else { q >> 4 };
                low | (b.qh[i] >> sub & 1) << 4
            });
            let (d, m) = (b.d * f32::from(scales[sub]), b.dmin * f32::from(mins[sub]));
            with_minimum(take, d, -m, &codes);
        }
    });
}

fn q6_k(row: &[u8], take: Take<'_>) {
    blocks(row, |bytes| {
        let b = Q6KBlock::new(bytes);
        let codes: [u8; K_BLOCK] = std::array::from_fn(|i| b.code(i).wrapping_sub(32));
        for (part, scale) in codes.chunks(16).zip(b.scales) {
            symmetric(take, b.d * f32::from(*scale as i8), part);
        }
    });
}
