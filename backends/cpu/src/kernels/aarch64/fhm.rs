//! Products of weights in F16 with a single token's activations rounded to F16, by FHM: an instruction adds four
//! products of binary16, which are exact, to sums in binary32, rounding once. That is what a conversion and a
//! multiplication in binary32 give, so products with several tokens are those of [`plain`](crate::kernels::plain).

use std::arch::aarch64::*;
use std::arch::asm;

use super::tables::NEON;
use super::{F, Neon};
use crate::kernels::activations::{narrow_factors, plain_bytes};
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
    isa: Neon<LEVEL>,
    x: &[f32],
    cols: usize,
    width: usize,
    out: &mut [u8],
) {
    if width > 1 {
        // SAFETY: the caller's contract.
        return unsafe { (NEON.narrow_tile)(x, cols, width, out) };
    }
    let (out, undo) = out.split_at_mut(plain_bytes(cols));
    let mut largest = isa.splat_i(0);
    let (some, rest) = x.as_chunks::<16>();
    let rest = isa.load_part(rest, 0.0);
    let magnitudes = |x: F| isa.and_i(isa.bits(x), isa.splat_i(i32::MAX));
    for x in some {
        largest = isa.max_i(largest, magnitudes(isa.load(x)));
    }
    largest = isa.max_i(largest, magnitudes(rest));
    let (factor, inverse) = narrow_factors(isa.largest_i(largest) as u32);
    cast_mut::<f32>(undo)[0] = inverse;
    let factor = isa.splat(factor);
    let (columns, last) = cast_mut::<u16>(out)[..cols].as_chunks_mut::<16>();
    for (x, to) in some.iter().zip(columns) {
        // SAFETY: the caller's contract.
        unsafe { store_f16(isa.mul(isa.load(x), factor), to) };
    }
    let mut to = [0; 16];
    // SAFETY: as above.
    unsafe { store_f16(isa.mul(rest, factor), &mut to) };
    last.copy_from_slice(&to[..last.len()]);
}

/// Rounds to binary16.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn store_f16(x: F, to: &mut Column) {
    // SAFETY: the caller's contract; each store is of eight numbers.
    unsafe {
        for h in 0..2 {
            let low = vcvt_f16_f32(x[2 * h]);
            let both = vreinterpretq_u16_f16(vcvt_high_f16_f32(low, x[2 * h + 1]));
            vst1q_u16(to.as_mut_ptr().add(8 * h), both);
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
