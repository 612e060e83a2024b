//! Products of weights in float types with tiles of activations, written once over [`Isa`].
//!
//! Plain weights are brought into binary32 as they are read, or once for many tokens where a processor has to convert
//! them by themselves ([`PlainPair`]); rounded ones are multiplied in pairs. Either way each output runs through the
//! same operations in the same order.

use super::activations::{self, tile_width, with_width};
use super::buffer::{Pod, cast};
use super::isa::{Isa, bf16_pair};
use super::matmul::{Sums, Task, chunk_tokens};
use super::pack::ROWS;

/// Columns of plain weights that a loop does at a time.
const UNROLLED: usize = 4;
/// Groups of plain weights that one token's product runs side by side, to hide latency.
const PLAIN_GROUPS: usize = 4;

/// A column of 16 plain weights.
pub(super) trait Column<I: Isa>: Pod {
    fn load(&self, isa: I) -> I::F;
}

/// Element types of plain weights.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F32Column([f32; 16]);
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F16Column([u16; 16]);
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bf16Column([u16; 16]);
// SAFETY: the same layout as their arrays.
unsafe impl Pod for F32Column {}
// SAFETY: as above.
unsafe impl Pod for F16Column {}
// SAFETY: as above.
unsafe impl Pod for Bf16Column {}

impl<I: Isa> Column<I> for F32Column {
    #[inline(always)]
    fn load(&self, isa: I) -> I::F {
        isa.load(&self.0)
    }
}
impl<I: Isa> Column<I> for F16Column {
    #[inline(always)]
    fn load(&self, isa: I) -> I::F {
        isa.load_f16(&self.0)
    }
}

impl<I: Isa> Column<I> for Bf16Column {
    #[inline(always)]
    fn load(&self, isa: I) -> I::F {
        isa.load_bf16(&self.0)
    }
}

/// Two columns of 16 plain weights in binary32: of the first eight rows, then of the others.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct PlainPair([[[f32; 8]; 2]; 2]);
// SAFETY: the same layout as its array.
unsafe impl Pod for PlainPair {}

impl PlainPair {
    const ZERO: PlainPair = PlainPair([[[0.0; 8]; 2]; 2]);

    #[inline(always)]
    fn new<I: Isa, C: Column<I>>(isa: I, columns: &[C; 2]) -> PlainPair {
        let mut pair = PlainPair::ZERO;
        for c in 0..2 {
            let mut column = [0.0; ROWS];
            isa.store(columns[c].load(isa), &mut column);
            let (halves, _) = column.as_chunks();
            (pair.0[0][c], pair.0[1][c]) = (halves[0], halves[1]);
        }
        pair
    }

    /// The columns.
    #[inline(always)]
    pub(super) fn load<I: Isa>(&self, isa: I) -> [I::F; 2] {
        let mut columns = [[0.0; ROWS]; 2];
        for c in 0..2 {
            columns[c][..8].copy_from_slice(&self.0[0][c]);
            columns[c][8..].copy_from_slice(&self.0[1][c]);
        }
        [isa.load(&columns[0]), isa.load(&columns[1])]
    }
}

/// Pairs of columns that are kept in binary32 at a time: 64 KiB, part of a second-level cache.
const PLAIN_PAIRS: usize = 512;
/// From this many tokens on it is worth that.
const PLAIN_PAIR_TOKENS: usize = 12;

/// The sums of group `g` for the tokens `start..end`, with weights brought into the form of [`PlainPair`] once for all
/// of them.
///
/// # Safety
/// As [`plain`].
#[inline(always)]
unsafe fn plain_by_pairs<I: Isa, C: Column<I>>(
    isa: I,
    task: &Task<'_>,
    g: usize,
    (start, end): (usize, usize),
    pairs: &mut [PlainPair; PLAIN_PAIRS],
) {
    let cols = task.weights.cols();
    let column = &cast::<C>(task.weights.group(g).0)[..cols];
    let (whole, odd) = column.as_chunks::<2>();
    let mut first = 0;
    loop {
        let count = PLAIN_PAIRS.min(whole.len() - first);
        let last = first + count == whole.len();
        let pairs = &mut pairs[..count];
        for (pair, columns) in pairs.iter_mut().zip(&whole[first..]) {
            *pair = PlainPair::new(isa, columns);
        }
        let mut t = start;
        while t < end {
            let width = tile_width(end - t, I::PLAIN_TILE);
            with_width!(I::PLAIN_TILE, width, N => {
                let (x, scales) = tile_of::<N>(task, t);
                let mut sums = task.sums(g, t, N, last);
                sums.scales = scales.filter(|_| last);
                let mut acc = [isa.splat(0.0); N];
                if first > 0 {
                    // SAFETY: the caller's contract.
                    acc = unsafe { sums.read(isa) };
                }
                isa.plain_pairs(pairs, &x[2 * first..][..2 * count], &mut acc);
                if last && !odd.is_empty() {
                    isa.plain_tile(odd, &x[cols - 1..], &mut acc);
                }
                // SAFETY: as above.
                unsafe { sums.write(isa, &acc) };
            });
            t += width;
        }
        first += count;
        if last {
            return;
        }
    }
}

/// The tile of `N` tokens of a task over plain weights that starts at token `t`; and what sums are multiplied by, if
/// activations were scaled before they were rounded.
#[inline(always)]
fn tile_of<'a, const N: usize>(task: &Task<'a>, t: usize) -> (&'a [[f32; N]], Option<&'a [f32]>) {
    let (x, cols) = (task.x, task.weights.cols());
    if task.weights.rounds_to().is_none() {
        return (activations::plain_tile(x, t, cols), None);
    }
    let (x, undo) = activations::narrowed_tile(x, t, cols);
    (x, Some(undo))
}

/// A task over plain weights, of F16 also with activations that are rounded to it.
///
/// # Safety
/// No other thread touches the task's rows of `out` while this runs.
#[inline(always)]
pub(super) unsafe fn plain<I: Isa, C: Column<I>>(isa: I, task: Task<'_>) {
    let cols = task.weights.cols();
    let column = |g: usize| cast::<C>(task.weights.group(g).0);
    if task.single {
        let (x, scales) = tile_of::<1>(&task, 0);
        let sums = |g: usize| Sums {
            scales,
            ..task.sums(g, 0, 1, true)
        };
        let mut g = task.groups.start;
        while g + PLAIN_GROUPS <= task.groups.end {
            let w = [column(g), column(g + 1), column(g + 2), column(g + 3)];
            let mut acc = [isa.splat(0.0); PLAIN_GROUPS];
            let (some, rest) = x[..cols].as_chunks::<UNROLLED>();
            let parts = w.map(|w| w[..cols].as_chunks::<UNROLLED>());
            for c in 0..some.len() {
                for k in 0..UNROLLED {
                    for i in 0..PLAIN_GROUPS {
                        let w = parts[i].0[c][k].load(isa);
                        acc[i] = isa.fma(w, isa.splat(some[c][k][0]), acc[i]);
                    }
                }
            }
            for k in 0..rest.len() {
                for i in 0..PLAIN_GROUPS {
                    let w = parts[i].1[k].load(isa);
                    acc[i] = isa.fma(w, isa.splat(rest[k][0]), acc[i]);
                }
            }
            for i in 0..PLAIN_GROUPS {
                // SAFETY: the caller's contract.
                unsafe { sums(g + i).write(isa, &[acc[i]]) };
            }
            g += PLAIN_GROUPS;
        }
        for g in g..task.groups.end {
            let mut acc = [isa.splat(0.0)];
            isa.plain_tile(column(g), x, &mut acc);
            // SAFETY: the caller's contract.
            unsafe { sums(g).write(isa, &acc) };
        }
        return;
    }
    let chunk = chunk_tokens(cols * 4, I::PLAIN_TILE);
    if I::PLAIN_PAIRS && task.tokens >= PLAIN_PAIR_TOKENS {
        let mut pairs = [PlainPair::ZERO; PLAIN_PAIRS];
        for start in (0..task.tokens).step_by(chunk) {
            let end = task.tokens.min(start + chunk);
            for g in task.groups.clone() {
                // SAFETY: the caller's contract.
                unsafe { plain_by_pairs::<I, C>(isa, &task, g, (start, end), &mut pairs) };
            }
        }
        return;
    }
    let mut start = 0;
    while start < task.tokens {
        let end = task.tokens.min(start + chunk);
        for g in task.groups.clone() {
            let mut t = start;
            while t < end {
                let width = tile_width(end - t, I::PLAIN_TILE);
                with_width!(I::PLAIN_TILE, width, N => {
                    let mut acc = [isa.splat(0.0); N];
                    let (x, scales) = tile_of::<N>(&task, t);
                    isa.plain_tile(column(g), x, &mut acc);
                    let mut sums = task.sums(g, t, N, true);
                    sums.scales = scales;
                    // SAFETY: the caller's contract.
                    unsafe { sums.write(isa, &acc) };
                });
                t += width;
            }
        }
        start = end;
    }
}

/// A task over weights rounded to BF16.
///
/// # Safety
/// No other thread touches the task's rows of `out` while this runs.
#[inline(always)]
pub(super) unsafe fn rounded<I: Isa>(isa: I, task: Task<'_>) {
    if task.single {
        let mut g = task.groups.start;
        while g + PLAIN_GROUPS <= task.groups.end {
            // SAFETY: the caller's contract.
            unsafe { rounded_groups::<I, 1, PLAIN_GROUPS>(isa, &task, g, 0) };
            g += PLAIN_GROUPS;
        }
        for g in g..task.groups.end {
            // SAFETY: as above.
            unsafe { rounded_groups::<I, 1, 1>(isa, &task, g, 0) };
        }
        return;
    }
    let token = activations::rounded_bytes(task.weights.cols());
    let chunk = chunk_tokens(token, I::PLAIN_TILE);
    for start in (0..task.tokens).step_by(chunk) {
        let end = task.tokens.min(start + chunk);
        for g in task.groups.clone() {
            let mut t = start;
            while t < end {
                let width = tile_width(end - t, I::PLAIN_TILE);
                with_width!(I::PLAIN_TILE, width, N => {
                    // SAFETY: as above.
                    unsafe { rounded_groups::<I, N, 1>(isa, &task, g, t) };
                });
                t += width;
            }
        }
    }
}

/// The sums of `G` groups from `g` on for the `N` tokens from `t` on.
///
/// # Safety
/// As [`rounded`].
#[inline(always)]
unsafe fn rounded_groups<I: Isa, const N: usize, const G: usize>(
    isa: I,
    task: &Task<'_>,
    g: usize,
    t: usize,
) {
    let cols = task.weights.cols();
    let token = activations::rounded_bytes(cols);
    let x = &task.x[t * token..][..N * token];
    let pairs = cols.div_ceil(2);
    let mut w = [&cast::<[f32; 16]>(task.weights.group(g).0)[..pairs]; G];
    for i in 1..G {
        w[i] = &cast::<[f32; 16]>(task.weights.group(g + i).0)[..pairs];
    }
    let mut acc = [[isa.splat(0.0); N]; G];
    if I::BF16 {
        let x = &cast::<[i32; N]>(x)[..pairs];
        for k in 0..pairs {
            let mut codes = [isa.splat(0.0); G];
            for i in 0..G {
                codes[i] = isa.load(&w[i][k]);
            }
            for t in 0..N {
                let x = isa.splat_i(x[k][t]);
                for i in 0..G {
                    acc[i][t] = isa.dot_bf16(codes[i], x, acc[i][t]);
                }
            }
        }
    } else {
        let (x, _) = cast::<[f32; N]>(x).as_chunks::<2>();
        let x = &x[..pairs];
        for k in 0..pairs {
            for i in 0..G {
                let [even, odd] = bf16_pair(isa, isa.bits(isa.load(&w[i][k])));
                isa.fma_each(odd, &x[k][1], &mut acc[i]);
                isa.fma_each(even, &x[k][0], &mut acc[i]);
            }
        }
    }
    for i in 0..G {
        // SAFETY: the caller's contract.
        unsafe { task.sums(g + i, t, N, true).write(isa, &acc[i]) };
    }
}

/// [`Isa::plain_tile`] with all sums in registers.
#[inline(always)]
pub(super) fn plain_tile<I: Isa, C: Column<I>, const N: usize>(
    isa: I,
    w: &[C],
    x: &[[f32; N]],
    acc: &mut [I::F; N],
) {
    let (some, rest) = w.as_chunks::<UNROLLED>();
    let (some_x, rest_x) = x.as_chunks::<UNROLLED>();
    for (w, x) in some.iter().zip(some_x) {
        for k in 0..UNROLLED {
            isa.fma_each(w[k].load(isa), &x[k], acc);
        }
    }
    for (w, x) in rest.iter().zip(rest_x) {
        isa.fma_each(w.load(isa), x, acc);
    }
}
