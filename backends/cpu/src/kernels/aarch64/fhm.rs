//! Products of weights in F16 with a single token's activations rounded to F16, by FHM: an instruction adds four
//! products of binary16, which are exact, to sums in binary32, rounding once. That is what a conversion and a
//! multiplication in binary32 give, so products with several tokens are those of [`plain`](crate::kernels::plain).

use std::arch::aarch64::*;
use std::arch::asm;

use super::tables::NEON;
use super::{F, Neon};
use crate::kernels::activations::{narrow_factors, plain_bytes, with_width};
use crate::kernels::buffer::{cast, cast_mut};
use crate::kernels::isa::Isa;
use crate::kernels::matmul::{Sums, Task};

/// Columns whose activations a register holds.
const COLUMNS: usize = 8;
/// Groups that run side by side: their sums take 16 registers, enough to hide latency.
const GROUPS: usize = 4;

/// A column of 16 weights.
type Column = [u16; 16];

/// Scales the rows `x`, of `cols` elements, and rounds them to binary16, into the tile `out` of `width` tokens; a single
/// token stays in binary16.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn narrow_tile<const LEVEL: u8>(
    _isa: Neon<LEVEL>,
    x: &[f32],
    cols: usize,
    width: usize,
    out: &mut [u8],
) {
    let (out, undo) = out.split_at_mut(width * plain_bytes(cols));
    let undo = cast_mut::<f32>(undo);
    let mut factors = [0.0; 12];
    // SAFETY: the caller's contract.
    unsafe {
        for (t, row) in x.chunks_exact(cols).enumerate() {
            (factors[t], undo[t]) = narrow_factors(largest_bits(row));
        }
        if width == 1 {
            return one_token(x, factors[0], &mut cast_mut(out)[..cols]);
        }
        with_width!(12, width, N => tokens::<N>(x, cols, &factors, out));
    }
}

/// The upper bits of the largest magnitude, with its exponent; the others are 0.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn largest_bits(row: &[f32]) -> u32 {
    let (blocks, rest) = row.as_chunks::<32>();
    let most = rest.iter().fold(0, |most, x| x.abs().to_bits().max(most));
    // SAFETY: the caller's contract; the loads cover a block.
    unsafe {
        let mut largest = [vdupq_n_u16(0); 2];
        for block in blocks {
            for h in 0..2 {
                let x = vld1q_u16_x4(block[16 * h..].as_ptr().cast());
                for upper in [vuzp2q_u16(x.0, x.1), vuzp2q_u16(x.2, x.3)] {
                    let magnitude = vandq_u16(upper, vdupq_n_u16(0x7fff));
                    largest[h] = vmaxq_u16(largest[h], magnitude);
                }
            }
        }
        let largest = vmaxvq_u16(vmaxq_u16(largest[0], largest[1]));
        (most >> 16).max(largest.into()) << 16
    }
}

/// Eight numbers, multiplied by `factor` and rounded to binary16.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn round_eight(x: &[f32; COLUMNS], factor: f32) -> uint16x8_t {
    // SAFETY: the caller's contract; the load covers `x`.
    unsafe {
        let x = vld1q_f32_x2(x.as_ptr());
        let low = vcvt_f16_f32(vmulq_n_f32(x.0, factor));
        vreinterpretq_u16_f16(vcvt_high_f16_f32(low, vmulq_n_f32(x.1, factor)))
    }
}

/// The same of fewer numbers, and zeros behind them.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn round_part(x: &[f32], factor: f32) -> uint16x8_t {
    let mut eight = [0.0; COLUMNS];
    eight[..x.len()].copy_from_slice(x);
    // SAFETY: the caller's contract.
    unsafe { round_eight(&eight, factor) }
}

/// The tile of a single token.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn one_token(x: &[f32], factor: f32, out: &mut [u16]) {
    let (some, rest) = x.as_chunks::<COLUMNS>();
    let (to, last) = out.as_chunks_mut::<COLUMNS>();
    // SAFETY: the caller's contract; the stores are of eight numbers each.
    unsafe {
        for (x, to) in some.iter().zip(to) {
            vst1q_u16(to.as_mut_ptr(), round_eight(x, factor));
        }
        let mut eight = [0; COLUMNS];
        vst1q_u16(eight.as_mut_ptr(), round_part(rest, factor));
        last.copy_from_slice(&eight[..last.len()]);
    }
}

/// The tile of `N` tokens in binary32, four of them by eight columns at a time.
///
/// # Safety
/// The processor has NEON; `N` is a multiple of 4.
#[inline(always)]
unsafe fn tokens<const N: usize>(x: &[f32], cols: usize, factors: &[f32; 12], out: &mut [u8]) {
    let out = cast_mut::<[f32; N]>(out);
    for first in (0..N).step_by(4) {
        let mut rows = [&[] as &[f32]; 4];
        for (row, x) in rows.iter_mut().zip(x.chunks_exact(cols).skip(first)) {
            *row = x;
        }
        let factor = |t: usize| factors[first + t];
        let (columns, last) = out.as_chunks_mut::<COLUMNS>();
        // SAFETY: the caller's contract.
        unsafe {
            if rows[3].is_empty() {
                // Some are missing.
                for (i, columns) in columns.iter_mut().enumerate() {
                    let part = |t: usize| match rows[t].as_chunks().0.get(i) {
                        Some(x) => round_eight(x, factor(t)),
                        None => vdupq_n_u16(0),
                    };
                    place([part(0), part(1), part(2), part(3)], first, columns);
                }
            } else {
                let each = rows.map(|row| row.as_chunks::<COLUMNS>().0);
                let each = each[0].iter().zip(each[1]).zip(each[2]).zip(each[3]);
                for (columns, (((a, b), c), d)) in columns.iter_mut().zip(each) {
                    let [a, b] = [round_eight(a, factor(0)), round_eight(b, factor(1))];
                    let [c, d] = [round_eight(c, factor(2)), round_eight(d, factor(3))];
                    place([a, b, c, d], first, columns);
                }
            }
            let part = |t: usize| match rows[t].get(cols - last.len()..) {
                Some(x) => round_part(x, factor(t)),
                None => vdupq_n_u16(0),
            };
            place([part(0), part(1), part(2), part(3)], first, last);
        }
    }
}

/// Puts up to eight columns of four tokens, from token `first` on, into a tile.
///
/// # Safety
/// The processor has NEON, and `first + 4 ≤ N`.
#[inline(always)]
unsafe fn place<const N: usize>(x: [uint16x8_t; 4], first: usize, columns: &mut [[f32; N]]) {
    // SAFETY: the caller's contract; the stores are of four numbers each.
    unsafe {
        let (low, high) = (vzipq_u16(x[0], x[2]), vzipq_u16(x[1], x[3]));
        let (a, b) = (vzipq_u16(low.0, high.0), vzipq_u16(low.1, high.1));
        for (pair, two) in columns.chunks_mut(2).zip([a.0, a.1, b.0, b.1]) {
            let two = vreinterpretq_f16_u16(two);
            let to = |column: &mut [f32; N]| column[first..][..4].as_mut_ptr();
            vst1q_f32(to(&mut pair[0]), vcvt_f32_f16(vget_low_f16(two)));
            if let Some(column) = pair.get_mut(1) {
                vst1q_f32(to(column), vcvt_high_f32_f16(two));
            }
        }
    }
}

/// A task over weights in F16 with activations rounded to it.
///
/// # Safety
/// The processor has FHM. No other thread touches the task's rows of `out` while this runs.
#[inline(always)]
pub(super) unsafe fn narrow<const LEVEL: u8>(isa: Neon<LEVEL>, task: Task<'_>) {
    // SAFETY: the caller's contract; the groups are the task's.
    unsafe {
        if !task.single {
            return (NEON.narrow)(task);
        }
        let mut g = task.groups.start;
        while g + GROUPS <= task.groups.end {
            groups::<LEVEL, GROUPS>(isa, &task, g);
            g += GROUPS;
        }
        for g in g..task.groups.end {
            groups::<LEVEL, 1>(isa, &task, g);
        }
    }
}

/// The sums of the `G` groups from `g` on.
///
/// # Safety
/// As [`narrow`]; the groups are the task's.
#[inline(always)]
unsafe fn groups<const LEVEL: u8, const G: usize>(isa: Neon<LEVEL>, task: &Task<'_>, g: usize) {
    let cols = task.weights.cols();
    let (x, undo) = task.x.split_at(plain_bytes(cols));
    let (x, undo) = (&cast::<u16>(x)[..cols], &cast::<f32>(undo)[..1]);
    let (some, rest) = x.as_chunks::<COLUMNS>();
    let mut acc = [isa.splat(0.0); G];
    let mut columns = [&[] as &[Column]; G];
    let mut w = [std::ptr::null(); G];
    for i in 0..G {
        columns[i] = &cast::<Column>(task.weights.group(g + i).0)[..cols];
        w[i] = columns[i].as_ptr();
    }
    // SAFETY: the caller's contract; of each group the loop reads as many columns as of the token.
    unsafe {
        for x in some {
            let x = vld1q_u16(x.as_ptr());
            for i in 0..G {
                add_two_columns::<0>(&mut w[i], x, &mut acc[i]);
            }
            for i in 0..G {
                add_two_columns::<2>(&mut w[i], x, &mut acc[i]);
            }
            for i in 0..G {
                add_two_columns::<4>(&mut w[i], x, &mut acc[i]);
            }
            for i in 0..G {
                add_two_columns::<6>(&mut w[i], x, &mut acc[i]);
            }
        }
        for (k, &x) in rest.iter().enumerate() {
            let x = isa.load_f16(&[x; 16]);
            for i in 0..G {
                let w = isa.load_f16(&columns[i][COLUMNS * some.len() + k]);
                acc[i] = isa.fma(w, x, acc[i]);
            }
        }
        for i in 0..G {
            let sums = Sums {
                scales: Some(undo),
                ..task.sums(g + i, 0, 1, true)
            };
            sums.write(isa, &[acc[i]]);
        }
    }
}

/// Adds the products of the two columns at `w` with the lanes `LANE` and `LANE + 1` of `x`. Leaves the pointer at the
/// next column.
///
/// # Safety
/// The processor has FHM, and two columns may be read.
#[inline(always)]
unsafe fn add_two_columns<const LANE: usize>(w: &mut *const Column, x: uint16x8_t, sums: &mut F) {
    let [a, b, c, d] = sums;
    // SAFETY: the caller's contract; beside that it reads and writes the named registers only.
    unsafe {
        asm!(
            "ld1 {{v16.8h-v19.8h}}, [{w}], #64",
            "fmlal {a:v}.4s, v16.4h, {x:v}.h[{first}]",
            "fmlal2 {b:v}.4s, v16.4h, {x:v}.h[{first}]",
            "fmlal {c:v}.4s, v17.4h, {x:v}.h[{first}]",
            "fmlal2 {d:v}.4s, v17.4h, {x:v}.h[{first}]",
            "fmlal {a:v}.4s, v18.4h, {x:v}.h[{second}]",
            "fmlal2 {b:v}.4s, v18.4h, {x:v}.h[{second}]",
            "fmlal {c:v}.4s, v19.4h, {x:v}.h[{second}]",
            "fmlal2 {d:v}.4s, v19.4h, {x:v}.h[{second}]",
            w = inout(reg) *w,
            // By lane only of the first 16 registers.
            x = in(vreg_low16) x,
            first = const LANE,
            second = const LANE + 1,
            a = inout(vreg) *a,
            b = inout(vreg) *b,
            c = inout(vreg) *c,
            d = inout(vreg) *d,
            out("v16") _,
            out("v17") _,
            out("v18") _,
            out("v19") _,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
}
