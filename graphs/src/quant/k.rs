//! The K formats, each sub-block scaled so that its whole range is covered.
//!
//! Scales are rounded away from zero, so no value but an opposite extreme in `Q6_K` is clamped,
//! and steps of a sub-block exceed the ideal ones by at most one unit of the block's scale. Codes
//! are taken with the scale after it is rounded. Layouts are documented at [`anynpu_ir::block`].
//! Every function gives `None` when an f16 field overflows.

use anynpu_ir::block::{K_BLOCK, pack_scales_mins};
use half::f16;

use super::f16_at_least;

type Block = [f32; K_BLOCK];

pub(super) fn q4_k(x: &Block, out: &mut [u8; 144]) -> Option<()> {
    Affine::new(x, 15)?.store_q4_k(out);
    Some(())
}

pub(super) fn q5_k(x: &Block, out: &mut [u8; 176]) -> Option<()> {
    Affine::new(x, 31)?.store_q5_k(out);
    Some(())
}

pub(super) fn q6_k(x: &Block, out: &mut [u8; 210]) -> Option<()> {
    let (subs, _) = x.as_chunks::<16>();
    // The extreme of each sub-block is given code −32, so its sign is the scale's, reversed.
    let steps: [f64; 16] = std::array::from_fn(|s| {
        let extreme = subs[s]
            .iter()
            .fold(0.0, |e: f32, &v| if v.abs() > e.abs() { v } else { e });
        f64::from(extreme) / -32.0
    });
    let largest = steps.iter().fold(0.0, |a: f64, s| a.max(s.abs()));
    let d = f16_at_least((largest / 127.0) as f32)?;
    let scales = steps.map(|step| {
        let scale = integer_at_least(step.abs(), d, 127) as i8;
        if step < 0.0 { -scale } else { scale }
    });
    let code = |i: usize| {
        let step = f64::from(d.to_f32()) * f64::from(scales[i / 16]);
        let q = nearest_code(f64::from(x[i]), step);
        (q.clamp(-32.0, 31.0) as i32 + 32) as u8
    };
    let codes: [u8; K_BLOCK] = std::array::from_fn(code);
    Signed { d, scales, codes }.store(out);
    Some(())
}

/// A block of 16 sub-blocks with a signed scale each.
pub(super) struct Signed {
    pub d: f16,
    pub scales: [i8; 16],
    /// From 0 to 63, for −32 to 31 times a sub-block's step.
    pub codes: [u8; K_BLOCK],
}

impl Signed {
    pub(super) fn store(&self, out: &mut [u8; 210]) {
        for half in 0..2 {
            for i in 0..32 {
                let [a, b, c, e] =
                    [0, 1, 2, 3].map(|quarter| self.codes[128 * half + 32 * quarter + i]);
                out[64 * half + i] = (a & 15) | (c & 15) << 4;
                out[64 * half + 32 + i] = (b & 15) | (e & 15) << 4;
                out[128 + 32 * half + i] = a >> 4 | (b >> 4) << 2 | (c >> 4) << 4 | (e >> 4) << 6;
            }
        }
        for (o, s) in out[192..208].iter_mut().zip(self.scales) {
            *o = s as u8;
        }
        out[208..].copy_from_slice(&self.d.to_le_bytes());
    }
}

/// A block of 8 sub-blocks with a scale and a minimum each.
pub(super) struct Affine {
    pub d: f16,
    pub dmin: f16,
    pub scales: [u8; 8],
    pub mins: [u8; 8],
    pub codes: [u8; K_BLOCK],
}

impl Affine {
    fn new(x: &Block, top: u8) -> Option<Affine> {
        let (subs, _) = x.as_chunks::<32>();
        // 0 belongs to every range: a minimum is subtracted and can't be negative.
        let ranges: [(f64, f64); 8] = std::array::from_fn(|s| {
            let (lo, hi) = subs[s]
                .iter()
                .fold((0.0f32, f32::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
            (f64::from(lo), f64::from(hi))
        });
        let largest = ranges.iter().fold(0.0, |a: f64, (lo, _)| a.max(-lo));
        let dmin = f16_at_least((largest / 63.0) as f32)?;
        let mins = ranges.map(|(lo, _)| integer_at_least(-lo, dmin, 63));
        let min = |s: usize| f64::from(dmin.to_f32()) * f64::from(mins[s]);

        let steps: [f64; 8] =
            std::array::from_fn(|s| (ranges[s].1 + min(s)).max(0.0) / f64::from(top));
        let largest = steps.iter().fold(0.0, |a: f64, &s| a.max(s));
        let d = f16_at_least((largest / 63.0) as f32)?;
        let scales = steps.map(|step| integer_at_least(step, d, 63));
        let codes = std::array::from_fn(|i| {
            let s = i / 32;
            let step = f64::from(d.to_f32()) * f64::from(scales[s]);
            nearest_code(f64::from(x[i]) + min(s), step).clamp(0.0, f64::from(top)) as u8
        });
        Some(Affine {
            d,
            dmin,
            scales,
            mins,
            codes,
        })
    }

    pub(super) fn store_q4_k(&self, out: &mut [u8; 144]) {
        let (head, low) = out.split_at_mut(16);
        self.store_head(head);
        self.store_low_nibbles(low);
    }

    pub(super) fn store_q5_k(&self, out: &mut [u8; 176]) {
        let (head, rest) = out.split_at_mut(16);
        let (high, low) = rest.split_at_mut(32);
        self.store_head(head);
        self.store_low_nibbles(low);
        for (i, h) in high.iter_mut().enumerate() {
            *h = (0..8).fold(0, |bits, sub| {
                bits | (self.codes[32 * sub + i] >> 4 & 1) << sub
            });
        }
    }

    fn store_head(&self, out: &mut [u8]) {
        out[..2].copy_from_slice(&self.d.to_le_bytes());
        out[2..4].copy_from_slice(&self.dmin.to_le_bytes());
        out[4..].copy_from_slice(&pack_scales_mins(&self.scales, &self.mins));
    }

    fn store_low_nibbles(&self, out: &mut [u8]) {
        for (i, o) in out.iter_mut().enumerate() {
            let at = 64 * (i / 32) + i % 32;
            *o = (self.codes[at] & 15) | (self.codes[at + 32] & 15) << 4;
        }
    }
}

/// The smallest multiple of `unit` that is no less than `v` ≥ 0, in units and at most `top`.
fn integer_at_least(v: f64, unit: f16, top: u8) -> u8 {
    let unit = f64::from(unit.to_f32());
    if unit == 0.0 {
        0
    } else {
        (v / unit).ceil().min(f64::from(top)) as u8
    }
}

fn nearest_code(v: f64, step: f64) -> f64 {
    if step == 0.0 { 0.0 } else { (v / step).round() }
}
