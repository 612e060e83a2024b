//! The searched K formats.

use anynpu_ir::block::K_BLOCK;
use half::f16;

use super::{Line, Problem, best_line, line_code, line_error, nearest};
use super::{inverse, symmetric_error, symmetric_scale};
use crate::quant::k::{Affine, Signed};
use crate::quant::nearest_f16;

type Block = Problem<K_BLOCK>;

pub(super) fn q4_k(p: &Block, out: &mut [u8; 144]) -> Option<()> {
    affine(p, 15.0)?.store_q4_k(out);
    Some(())
}

pub(super) fn q5_k(p: &Block, out: &mut [u8; 176]) -> Option<()> {
    affine(p, 31.0)?.store_q5_k(out);
    Some(())
}

pub(super) fn q6_k(p: &Block, out: &mut [u8; 210]) -> Option<()> {
    signed(p)?.store(out);
    Some(())
}

/// Largest integer scale or minimum of a sub-block of Q4_K and Q5_K.
const TOP_SCALE: f32 = 63.0;
/// Rounds of fitting sub-blocks to the block and the block to them.
const ROUNDS: usize = 4;

/// Scales and minima of a block in its own unit: of the block, and integers of its sub-blocks.
#[derive(Clone)]
struct AffineScales {
    d: f16,
    dmin: f16,
    scales: [f32; 8],
    mins: [f32; 8],
}

impl AffineScales {
    fn line(&self, sub: usize, unit: f32) -> Line {
        Line {
            d: self.d.to_f32() / unit * self.scales[sub],
            m: -(self.dmin.to_f32() / unit * self.mins[sub]),
        }
    }
}

fn affine(p: &Block, top: f32) -> Option<Affine> {
    let (xs, ws) = (p.x.as_chunks::<32>().0, p.w.as_chunks::<32>().0);
    let error = |s: &AffineScales| -> f32 {
        (0..8)
            .map(|i| line_error(&xs[i], &ws[i], s.line(i, p.unit), top))
            .sum()
    };
    let lines: [Line; 8] = std::array::from_fn(|i| best_line(&xs[i], &ws[i], top, 0.0));
    let largest = |of: fn(&Line) -> f32| lines.iter().map(of).fold(0.0f32, f32::max);
    let d = nearest_f16(largest(|l| l.d) * p.unit / TOP_SCALE)?;
    let dmin = nearest_f16(largest(|l| -l.m) * p.unit / TOP_SCALE)?;
    let integer =
        |v: f32, unit: f16| nearest((v * p.unit * inverse(unit.to_f32())).clamp(0.0, TOP_SCALE));
    let mut best = AffineScales {
        d,
        dmin,
        scales: std::array::from_fn(|i| integer(lines[i].d, d)),
        mins: std::array::from_fn(|i| integer(-lines[i].m, dmin)),
    };
    let mut least = error(&best);
    for _ in 0..ROUNDS {
        let mut next = best.clone();
        for i in 0..8 {
            fit_sub_block(&mut next, i, &xs[i], &ws[i], p.unit, top);
        }
        if let Some((d, dmin)) = fit_block(&next, p, top) {
            let fitted = AffineScales {
                d,
                dmin,
                ..next.clone()
            };
            if error(&fitted) < error(&next) {
                next = fitted;
            }
        }
        let found = error(&next);
        if found >= least {
            break;
        }
        (best, least) = (next, found);
    }
    let mut codes = [0; K_BLOCK];
    for (i, code) in codes.iter_mut().enumerate() {
        *code = line_code(p.x[i], best.line(i / 32, p.unit), top);
    }
    Some(Affine {
        d: best.d,
        dmin: best.dmin,
        scales: best.scales.map(|s| s as u8),
        mins: best.mins.map(|m| m as u8),
        codes,
    })
}

/// The best integer scale and minimum near those that a sub-block has.
fn fit_sub_block(
    s: &mut AffineScales,
    sub: usize,
    x: &[f32; 32],
    w: &[f32; 32],
    unit: f32,
    top: f32,
) {
    let (scale, min) = (s.scales[sub], s.mins[sub]);
    let mut least = line_error(x, w, s.line(sub, unit), top);
    let mut best = (scale, min);
    for ds in [-1.0, 0.0, 1.0] {
        for dm in [-1.0, 0.0, 1.0] {
            if ds == 0.0 && dm == 0.0 {
                continue;
            }
            s.scales[sub] = (scale + ds).clamp(0.0, TOP_SCALE);
            s.mins[sub] = (min + dm).clamp(0.0, TOP_SCALE);
            let error = line_error(x, w, s.line(sub, unit), top);
            if error < least {
                least = error;
                best = (s.scales[sub], s.mins[sub]);
            }
        }
    }
    (s.scales[sub], s.mins[sub]) = best;
}

/// The block's scales of least error for the codes and integer scales that it has.
fn fit_block(s: &AffineScales, p: &Block, top: f32) -> Option<(f16, f16)> {
    // x ≈ d·a − dmin·b with a = scale·code, b = min
    let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
    for (i, (&x, &w)) in p.x.iter().zip(&p.w).enumerate() {
        let sub = i / 32;
        let code = line_code(x, s.line(sub, p.unit), top);
        let a = f64::from(s.scales[sub]) * f64::from(code);
        let b = f64::from(s.mins[sub]);
        let (x, w) = (f64::from(x), f64::from(w));
        aa += w * a * a;
        ab += w * a * b;
        bb += w * b * b;
        ax += w * a * x;
        bx += w * b * x;
    }
    let determinant = aa * bb - ab * ab;
    let (d, dmin) = match determinant > 1e-9 * aa * bb {
        true => (
            (ax * bb - bx * ab) / determinant,
            (ax * ab - bx * aa) / determinant,
        ),
        false if aa > 0.0 => (
            (ax + ab * f64::from(s.dmin.to_f32() / p.unit)) / aa,
            f64::from(s.dmin.to_f32() / p.unit),
        ),
        false => return None,
    };
    if d < 0.0 || dmin < 0.0 {
        return None;
    }
    let unit = f64::from(p.unit);
    Some((
        nearest_f16((d * unit) as f32)?,
        nearest_f16((dmin * unit) as f32)?,
    ))
}

/// Codes of Q6_K.
const CODES: (f32, f32) = (-32.0, 31.0);

fn signed(p: &Block) -> Option<Signed> {
    let (xs, ws) = (p.x.as_chunks::<16>().0, p.w.as_chunks::<16>().0);
    let steps: [f32; 16] = std::array::from_fn(|i| symmetric_scale(&xs[i], &ws[i], CODES, 10, 0.1));
    let largest = steps
        .iter()
        .fold(0.0f32, |a, s| if s.abs() > a.abs() { *s } else { a });
    // The largest scale becomes −128, so that all of an i8 is used.
    let mut d = nearest_f16(largest * p.unit / -128.0)?;
    let error = |d: f16, scales: &[f32; 16]| -> f32 {
        let d = d.to_f32() / p.unit;
        (0..16)
            .map(|i| symmetric_error(&xs[i], &ws[i], d * scales[i], CODES.0, CODES.1))
            .sum()
    };
    let id = inverse(d.to_f32() / p.unit);
    let mut scales = steps.map(|s| nearest((s * id).clamp(-128.0, 127.0)));
    let mut least = error(d, &scales);
    for _ in 0..ROUNDS {
        let mut next = scales;
        let unit = d.to_f32() / p.unit;
        for i in 0..16 {
            let of = |scale: f32| symmetric_error(&xs[i], &ws[i], unit * scale, CODES.0, CODES.1);
            let mut fewest = of(next[i]);
            for ds in [-2.0, -1.0, 1.0, 2.0] {
                let scale = (scales[i] + ds).clamp(-128.0, 127.0);
                let e = of(scale);
                if e < fewest {
                    (fewest, next[i]) = (e, scale);
                }
            }
        }
        let next_d = fit_signed(&next, d, p)
            .filter(|fitted| error(*fitted, &next) < error(d, &next))
            .unwrap_or(d);
        let found = error(next_d, &next);
        if found >= least {
            break;
        }
        (d, scales, least) = (next_d, next, found);
    }
    let unit = d.to_f32() / p.unit;
    let codes = std::array::from_fn(|i| {
        let q = (p.x[i] * inverse(unit * scales[i / 16])).clamp(CODES.0, CODES.1);
        (nearest(q) - CODES.0) as u8
    });
    Some(Signed {
        d,
        scales: scales.map(|s| s as i8),
        codes,
    })
}

/// The block's scale of least error for the codes and integer scales that it has.
fn fit_signed(scales: &[f32; 16], d: f16, p: &Block) -> Option<f16> {
    let unit = d.to_f32() / p.unit;
    let (mut aa, mut ax) = (0.0f64, 0.0f64);
    for (i, (&x, &w)) in p.x.iter().zip(&p.w).enumerate() {
        let scale = scales[i / 16];
        let q = nearest((x * inverse(unit * scale)).clamp(CODES.0, CODES.1));
        let a = f64::from(scale) * f64::from(q);
        aa += f64::from(w) * a * a;
        ax += f64::from(w) * a * f64::from(x);
    }
    match aa > 0.0 {
        true => nearest_f16((ax / aa * f64::from(p.unit)) as f32),
        false => None,
    }
}
