//! Products of plain weights with several tokens: 8 rows by up to 12 tokens stay in registers.

use std::arch::aarch64::*;
use std::arch::asm;
use std::hint::black_box;

use super::{F, transpose_4};
use crate::kernels::buffer::cast_mut;
use crate::kernels::plain::PlainPair;

/// From the eight rows of a pair of columns to those of the next: between them lie the other eight rows.
const TO_NEXT_W: usize = size_of::<PlainPair>();
/// Pairs of columns that a loop does at a time.
const UNROLLED: usize = 4;

/// The products of a column of eight rows, in `$low` and `$high`, with four tokens, in `$x`.
macro_rules! four_tokens {
    ($low:literal, $high:literal, $x:literal, $($t:literal $a:literal $b:literal),*) => {
        concat!($(
            "fmla {", $a, ":v}.4s, ", $low, ".4s, ", $x, ".s[", $t, "]\n",
            "fmla {", $b, ":v}.4s, ", $high, ".4s, ", $x, ".s[", $t, "]\n",
        )*)
    };
}

/// Assembly that goes on with a pair of columns: `$tokens` loads a column's tokens, `$name`s are the sums.
macro_rules! pair_of_columns {
    ($w:ident, $x:ident, $tokens:literal, $bytes:expr, [$($line:expr),*], [$($more:expr),*], [$($name:ident),*]) => {
        asm!(
            "ld1 {{v3.4s-v6.4s}}, [{w}], {to_next_w}",
            concat!("ld1 {{", $tokens, "}}, [{x}], #{bytes}"),
            $($line,)*
            concat!("ld1 {{", $tokens, "}}, [{x}], #{bytes}"),
            $($more,)*
            w = inout(reg) *$w,
            x = inout(reg) *$x,
            to_next_w = in(reg) TO_NEXT_W,
            bytes = const $bytes,
            $($name = inout(vreg) *$name,)*
            out("v0") _,
            out("v1") _,
            out("v2") _,
            out("v3") _,
            out("v4") _,
            out("v5") _,
            out("v6") _,
            options(readonly, nostack, preserves_flags),
        )
    };
}

/// Adds the products of a pair of columns with 4, 8 or 12 tokens: `sums[4q + t][r]` is of the `t`th token of the `q`th
/// four and the rows from `4r` on. Leaves the pointers at the next pair.
///
/// # Safety
/// The processor has NEON; eight rows of a pair of columns lie at `w`, and both columns of a tile of as many tokens as
/// there are sums at `x`.
#[inline(always)]
unsafe fn add_pair(w: &mut *const f32, x: &mut *const f32, sums: &mut [[float32x4_t; 2]]) {
    // SAFETY: the caller's contract; beside that only the named registers are read and written.
    unsafe {
        match sums {
            [[a, b], [c, d], [e, f], [g, h]] => pair_of_columns!(
                w,
                x,
                "v0.4s",
                16,
                [
                    four_tokens!("v3", "v4", "v0", "0" "a" "b", "1" "c" "d", "2" "e" "f", "3" "g" "h")
                ],
                [
                    four_tokens!("v5", "v6", "v0", "0" "a" "b", "1" "c" "d", "2" "e" "f", "3" "g" "h")
                ],
                [a, b, c, d, e, f, g, h]
            ),
            [
                [a, b],
                [c, d],
                [e, f],
                [g, h],
                [i, j],
                [k, l],
                [m, n],
                [o, p],
            ] => pair_of_columns!(
                w,
                x,
                "v0.4s-v1.4s",
                32,
                [
                    four_tokens!("v3", "v4", "v0", "0" "a" "b", "1" "c" "d", "2" "e" "f", "3" "g" "h"),
                    four_tokens!("v3", "v4", "v1", "0" "i" "j", "1" "k" "l", "2" "m" "n", "3" "o" "p")
                ],
                [
                    four_tokens!("v5", "v6", "v0", "0" "a" "b", "1" "c" "d", "2" "e" "f", "3" "g" "h"),
                    four_tokens!("v5", "v6", "v1", "0" "i" "j", "1" "k" "l", "2" "m" "n", "3" "o" "p")
                ],
                [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
            ),
            [
                [a, b],
                [c, d],
                [e, f],
                [g, h],
                [i, j],
                [k, l],
                [m, n],
                [o, p],
                [q, r],
                [s, t],
                [u, v],
                [y, z],
            ] => pair_of_columns!(
                w,
                x,
                "v0.4s-v2.4s",
                48,
                [
                    four_tokens!("v3", "v4", "v0", "0" "a" "b", "1" "c" "d", "2" "e" "f", "3" "g" "h"),
                    four_tokens!("v3", "v4", "v1", "0" "i" "j", "1" "k" "l", "2" "m" "n", "3" "o" "p"),
                    four_tokens!("v3", "v4", "v2", "0" "q" "r", "1" "s" "t", "2" "u" "v", "3" "y" "z")
                ],
                [
                    four_tokens!("v5", "v6", "v0", "0" "a" "b", "1" "c" "d", "2" "e" "f", "3" "g" "h"),
                    four_tokens!("v5", "v6", "v1", "0" "i" "j", "1" "k" "l", "2" "m" "n", "3" "o" "p"),
                    four_tokens!("v5", "v6", "v2", "0" "q" "r", "1" "s" "t", "2" "u" "v", "3" "y" "z")
                ],
                [
                    a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, y, z
                ]
            ),
            _ => unreachable!("no such tile width"),
        }
    }
}

/// `acc[t] += Σₖ w[k] · x[k][t]`, in order, for the two registers of rows from `FIRST` on.
///
/// # Safety
/// The processor has NEON; `N` is 4, 8 or 12, and `x` has two columns for each pair.
#[inline(always)]
pub(super) unsafe fn pairs<const N: usize, const FIRST: usize>(
    w: &[PlainPair],
    x: &[[f32; N]],
    acc: &mut [F; N],
) {
    // What another part works on is to be in memory meanwhile, not in registers.
    let acc = black_box(acc);
    let mut sums = [[acc[0][0]; 2]; N];
    for t in 0..N {
        sums[t] = [acc[t][FIRST], acc[t][FIRST + 1]];
    }
    let mut from = w.as_ptr().cast::<f32>().wrapping_add(8 * FIRST);
    let mut x = x.as_ptr().cast::<f32>();
    // SAFETY: the caller's contract; the loops go over as many pairs as there are.
    unsafe {
        for _ in 0..w.len() / UNROLLED {
            for _ in 0..UNROLLED {
                add_pair(&mut from, &mut x, &mut sums);
            }
        }
        for _ in 0..w.len() % UNROLLED {
            add_pair(&mut from, &mut x, &mut sums);
        }
    }
    for t in 0..N {
        [acc[t][FIRST], acc[t][FIRST + 1]] = sums[t];
    }
}

/// [`Isa::interleave`](crate::kernels::isa::Isa::interleave) for `N` tokens, four of them by four columns at a time.
///
/// # Safety
/// The processor has NEON; `N` is a multiple of 4.
#[inline(always)]
pub(super) unsafe fn interleave<const N: usize>(x: &[f32], cols: usize, out: &mut [u8]) {
    if x.len() < N * cols {
        out.fill(0);
    }
    let out = cast_mut::<[f32; N]>(out);
    let tokens = x.len() / cols;
    let mut done = 0;
    if cols.is_multiple_of(4) {
        let (out, _) = out.as_chunks_mut::<4>();
        while done + 4 <= tokens {
            let row = |i: usize| x[(done + i) * cols..][..cols].as_chunks::<4>().0;
            let rows = row(0).iter().zip(row(1)).zip(row(2)).zip(row(3));
            for (columns, (((a, b), c), d)) in out.iter_mut().zip(rows) {
                // SAFETY: the caller's contract; loads and stores are of four numbers each.
                unsafe {
                    let load = |of: &[f32; 4]| vld1q_f32(of.as_ptr());
                    let four = transpose_4([load(a), load(b), load(c), load(d)]);
                    for i in 0..4 {
                        vst1q_f32(columns[i][done..][..4].as_mut_ptr(), four[i]);
                    }
                }
            }
            done += 4;
        }
    }
    for (t, row) in x.chunks_exact(cols).enumerate().skip(done) {
        for (column, &x) in out.iter_mut().zip(row) {
            column[t] = x;
        }
    }
}
