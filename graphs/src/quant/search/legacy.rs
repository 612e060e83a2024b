//! The searched formats with 32 elements to a block.

use anynpu_ir::block::LEGACY_BLOCK;
use half::f16;

use super::{Line, Problem, best_line, inverse, line_code, line_error, nearest};
use super::{symmetric_error, symmetric_scale};
use crate::quant::{legacy, nearest_f16};

type Block = Problem<LEGACY_BLOCK>;
type Codes = [u8; LEGACY_BLOCK];

pub(super) fn q4_0(p: &Block, out: &mut [u8; 18]) -> Option<()> {
    let (d, codes) = symmetric(p, (-8.0, 7.0), 12, 0.1)?;
    legacy::pack_q4_0(d, &codes, out);
    Some(())
}

pub(super) fn q5_0(p: &Block, out: &mut [u8; 22]) -> Option<()> {
    let (d, codes) = symmetric(p, (-16.0, 15.0), 12, 0.1)?;
    legacy::pack_q5_0(d, &codes, out);
    Some(())
}

pub(super) fn q8_0(p: &Block, out: &mut [u8; 34]) -> Option<()> {
    let (d, codes) = symmetric(p, (-127.0, 127.0), 24, 0.1)?;
    out[..2].copy_from_slice(&d.to_le_bytes());
    for (o, code) in out[2..].iter_mut().zip(codes) {
        *o = (i16::from(code) - 127) as i8 as u8;
    }
    Some(())
}

pub(super) fn q4_1(p: &Block, out: &mut [u8; 20]) -> Option<()> {
    let (d, m, codes) = affine(p, 15.0)?;
    legacy::pack_q4_1(d, m, &codes, out);
    Some(())
}

pub(super) fn q5_1(p: &Block, out: &mut [u8; 24]) -> Option<()> {
    let (d, m, codes) = affine(p, 31.0)?;
    legacy::pack_q5_1(d, m, &codes, out);
    Some(())
}

/// The scale and the codes above `lo`.
fn symmetric(p: &Block, (lo, hi): (f32, f32), steps: i32, stride: f32) -> Option<(f16, Codes)> {
    let scale = symmetric_scale(&p.x, &p.w, (lo, hi), steps, stride);
    let error = |d: f16| symmetric_error(&p.x, &p.w, d.to_f32() / p.unit, lo, hi);
    let d = neighbours(scale * p.unit)?
        .into_iter()
        .min_by(|a, b| error(*a).total_cmp(&error(*b)))?;
    let inverse = inverse(d.to_f32() / p.unit);
    let codes =
        p.x.map(|x| (nearest((x * inverse).clamp(lo, hi)) - lo) as u8);
    Some((d, codes))
}

fn affine(p: &Block, top: f32) -> Option<(f16, f16, Codes)> {
    let line = best_line(&p.x, &p.w, top, f32::MAX);
    let (mut least, mut best) = (f32::MAX, None);
    for d in neighbours(line.d * p.unit)? {
        for m in neighbours(line.m * p.unit)? {
            let rounded = Line {
                d: d.to_f32() / p.unit,
                m: m.to_f32() / p.unit,
            };
            let error = line_error(&p.x, &p.w, rounded, top);
            if error < least {
                least = error;
                best = Some((d, m, rounded));
            }
        }
    }
    let (d, m, line) = best?;
    Some((d, m, p.x.map(|x| line_code(x, line, top))))
}

/// The nearest f16 of `v` and those on both sides of it; `None` if it overflows.
fn neighbours(v: f32) -> Option<[f16; 3]> {
    let at = nearest_f16(v)?;
    let bits = at.to_bits();
    let beside = |step: i32| {
        // Stepping over zero would need the other sign; zero itself is as good.
        let moved = (i32::from(bits & 0x7fff) + step).clamp(0, 0x7bff);
        f16::from_bits(bits & 0x8000 | moved as u16)
    };
    Some([at, beside(-1), beside(1)])
}
