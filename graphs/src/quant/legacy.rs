//! The formats with 32 elements to a block, as GGUF's reference quantiser defines them.
//!
//! Codes are taken with the scale before it is rounded to f16. Layouts are documented at
//! [`anynpu_ir::block`]. Every function gives `None` when an f16 field overflows.

use anynpu_ir::block::{LEGACY_BLOCK, Q8_0Block};

use half::f16;

use super::nearest_f16;

type Block = [f32; LEGACY_BLOCK];
type Codes = [u8; LEGACY_BLOCK];

pub(super) fn q4_0(x: &Block, out: &mut [u8; 18]) -> Option<()> {
    let d = extreme(x) / -8.0;
    let id = inverse(d);
    // The cast saturates and takes NaN (0 · ∞, where d is subnormal) to 0.
    let codes = x.map(|v| ((v * id + 8.5) as u8).min(15));
    pack_q4_0(nearest_f16(d)?, &codes, out);
    Some(())
}

/// Codes from 0 to 15 stand for −8 to 7 times `d`.
pub(super) fn pack_q4_0(d: f16, codes: &Codes, out: &mut [u8; 18]) {
    let (head, low) = out.split_at_mut(2);
    head.copy_from_slice(&d.to_le_bytes());
    store_nibbles(codes, low);
}

pub(super) fn q4_1(x: &Block, out: &mut [u8; 20]) -> Option<()> {
    let (min, max) = range(x);
    let d = (max - min) / 15.0;
    let id = inverse(d);
    let codes = x.map(|v| (((v - min) * id + 0.5) as u8).min(15));
    pack_q4_1(nearest_f16(d)?, nearest_f16(min)?, &codes, out);
    Some(())
}

/// Codes from 0 to 15 stand for so many times `d` above `min`.
pub(super) fn pack_q4_1(d: f16, min: f16, codes: &Codes, out: &mut [u8; 20]) {
    let (head, low) = out.split_at_mut(4);
    head[..2].copy_from_slice(&d.to_le_bytes());
    head[2..].copy_from_slice(&min.to_le_bytes());
    store_nibbles(codes, low);
}

pub(super) fn q5_0(x: &Block, out: &mut [u8; 22]) -> Option<()> {
    let d = extreme(x) / -16.0;
    let id = inverse(d);
    let codes = x.map(|v| ((v * id + 16.5) as u8).min(31));
    pack_q5_0(nearest_f16(d)?, &codes, out);
    Some(())
}

/// Codes from 0 to 31 stand for −16 to 15 times `d`.
pub(super) fn pack_q5_0(d: f16, codes: &Codes, out: &mut [u8; 22]) {
    out[..2].copy_from_slice(&d.to_le_bytes());
    let (high, low) = out[2..].split_at_mut(4);
    store_five_bits(codes, high, low);
}

pub(super) fn q5_1(x: &Block, out: &mut [u8; 24]) -> Option<()> {
    let (min, max) = range(x);
    let d = (max - min) / 31.0;
    let id = inverse(d);
    let codes = x.map(|v| (((v - min) * id + 0.5) as u8).min(31));
    pack_q5_1(nearest_f16(d)?, nearest_f16(min)?, &codes, out);
    Some(())
}

/// Codes from 0 to 31 stand for so many times `d` above `min`.
pub(super) fn pack_q5_1(d: f16, min: f16, codes: &Codes, out: &mut [u8; 24]) {
    out[..2].copy_from_slice(&d.to_le_bytes());
    out[2..4].copy_from_slice(&min.to_le_bytes());
    let (high, low) = out[4..].split_at_mut(4);
    store_five_bits(codes, high, low);
}

pub(super) fn q8_0(x: &Block, out: &mut [u8; 34]) -> Option<()> {
    *out = Q8_0Block::encode(x)?;
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

fn store_nibbles(codes: &Codes, low: &mut [u8]) {
    let (first, second) = codes.split_at(16);
    for ((o, a), b) in low.iter_mut().zip(first).zip(second) {
        *o = (a & 15) | (b & 15) << 4;
    }
}

fn store_five_bits(codes: &Codes, high: &mut [u8], low: &mut [u8]) {
    store_nibbles(codes, low);
    let bits = codes
        .iter()
        .enumerate()
        .fold(0u32, |bits, (i, code)| bits | u32::from(code >> 4) << i);
    high.copy_from_slice(&bits.to_le_bytes());
}
