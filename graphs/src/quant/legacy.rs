//! The formats with 32 elements to a block, as GGUF's reference quantiser defines them.
//!
//! Codes are taken with the scale before it is rounded to f16. Layouts are documented at
//! [`anynpu_ir::block`]. Every function gives `None` when an f16 field overflows.

use anynpu_ir::block::LEGACY_BLOCK;

use super::nearest_f16;

type Block = [f32; LEGACY_BLOCK];

pub(super) fn q4_0(x: &Block, out: &mut [u8; 18]) -> Option<()> {
    let d = extreme(x) / -8.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&nearest_f16(d)?.to_le_bytes());
    // The cast saturates and takes NaN (0 · ∞, where d is subnormal) to 0.
    let code = |v: f32| ((v * id + 8.5) as u8).min(15);
    for i in 0..16 {
        out[2 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
    Some(())
}

pub(super) fn q4_1(x: &Block, out: &mut [u8; 20]) -> Option<()> {
    let (min, max) = range(x);
    let d = (max - min) / 15.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&nearest_f16(d)?.to_le_bytes());
    out[2..4].copy_from_slice(&nearest_f16(min)?.to_le_bytes());
    let code = |v: f32| (((v - min) * id + 0.5) as u8).min(15);
    for i in 0..16 {
        out[4 + i] = code(x[i]) | code(x[i + 16]) << 4;
    }
    Some(())
}

pub(super) fn q5_0(x: &Block, out: &mut [u8; 22]) -> Option<()> {
    let d = extreme(x) / -16.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&nearest_f16(d)?.to_le_bytes());
    let code = |v: f32| ((v * id + 16.5) as u8).min(31);
    let (high, low) = out[2..].split_at_mut(4);
    store_five_bits(x, code, high, low);
    Some(())
}

pub(super) fn q5_1(x: &Block, out: &mut [u8; 24]) -> Option<()> {
    let (min, max) = range(x);
    let d = (max - min) / 31.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&nearest_f16(d)?.to_le_bytes());
    out[2..4].copy_from_slice(&nearest_f16(min)?.to_le_bytes());
    let code = |v: f32| (((v - min) * id + 0.5) as u8).min(31);
    let (high, low) = out[4..].split_at_mut(4);
    store_five_bits(x, code, high, low);
    Some(())
}

pub(super) fn q8_0(x: &Block, out: &mut [u8; 34]) -> Option<()> {
    let d = extreme(x).abs() / 127.0;
    let id = inverse(d);
    out[..2].copy_from_slice(&nearest_f16(d)?.to_le_bytes());
    for (o, v) in out[2..].iter_mut().zip(x) {
        *o = (v * id).round() as i8 as u8;
    }
    Some(())
}

/// The first value of the largest magnitude, with its sign.
fn extreme(x: &[f32]) -> f32 {
    x.iter()
        .fold(0.0, |e: f32, &v| if v.abs() > e.abs() { v } else { e })
}

fn range(x: &[f32]) -> (f32, f32) {
    x.iter()
        .fold((f32::MAX, f32::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)))
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

fn store_five_bits(x: &Block, code: impl Fn(f32) -> u8, high: &mut [u8], low: &mut [u8]) {
    let mut bits = 0u32;
    for i in 0..16 {
        let (a, b) = (code(x[i]), code(x[i + 16]));
        low[i] = (a & 15) | (b & 15) << 4;
        bits |= u32::from(a >> 4) << i | u32::from(b >> 4) << (i + 16);
    }
    high.copy_from_slice(&bits.to_le_bytes());
}
