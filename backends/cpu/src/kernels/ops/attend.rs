//! Attention of some tokens' heads that share a key head, over [`Isa`].
//!
//! Keys are taken in blocks of 64 rows whose first is a multiple of 64, so where blocks begin does
//! not depend on the tokens. For each token's head, over the blocks it sees in order:
//!
//! ```text
//! s[j]  = scale · Σ_d q[d]·k[j][d]            one chain of fused multiply-adds over d
//! s[j]  = cap · tanh(s[j] / cap) + mask[j]    where given; −∞ for rows it does not see
//! m'    = max(m, s)
//! p[j]  = exp(s[j] − m')
//! l     = l · exp(m − m') + p                 16 lanes: row j in lane j mod 16, in order
//! o     = o · exp(m − m')
//! o     = fma(p[j], v[j], o)                  for each row j it sees, in order
//! ```
//!
//! and at the end `o / Σ l`. Keys are transposed into a panel, so that 16 of them fill a vector;
//! the panel serves all tokens and heads of the task that read the key head. Where there are few tokens, a task takes
//! several key heads in turn, block by block: their rows lie side by side, and memory is read in longer pieces.

use std::ops::Range;

use anynpu_ir::block::LEGACY_BLOCK;
use half::f16;

use super::super::buffer::{Shared, cast_mut};
use super::super::isa::Isa;
use super::attention::{Attention, KvRows};
use super::math;

/// Key rows of a block.
const BLOCK: usize = 64;
/// Vectors of a block's scores.
const VECTORS: usize = BLOCK / 16;
/// Most heads of a task that share a key head.
pub(super) const HEADS: usize = 8;
/// Most pairs of token and head of a task.
const PAIRS: usize = 128;

/// Some tokens' heads.
pub(in crate::kernels) struct Attend<'a> {
    pub operands: &'a Attention<'a>,
    /// At most [`tokens_of_a_task`].
    pub tokens: Range<usize>,
    /// As many as [`kv_heads_of_a_task`] allows.
    pub kv_heads: Range<usize>,
    /// At most [`HEADS`], counted from the first that reads a key head: of each of these.
    pub heads: Range<usize>,
    /// `[tokens, heads, v_dim]`; the task writes its tokens' heads only.
    pub out: Shared<f32>,
    /// [`space_bytes`] of this thread's own.
    pub space: &'a mut [u8],
}

/// Runs a task; false if a token sees no key. No other thread may touch the task's part of `out`,
/// and the processor must have the table's instructions.
pub(in crate::kernels) type AttendFn = unsafe fn(Attend<'_>) -> bool;

/// Tokens that share a task, when `heads` heads do.
pub(super) const fn tokens_of_a_task(heads: usize) -> usize {
    PAIRS / heads
}

/// Key heads that may share a task of `tokens` tokens, `heads` heads each.
pub(super) const fn kv_heads_of_a_task(tokens: usize, heads: usize) -> usize {
    PAIRS / (tokens * heads)
}

/// What a pair of token and head has summed so far.
#[derive(Clone, Copy)]
#[repr(C)]
struct Running {
    /// Lanes of `l`.
    sums: [f32; 16],
    scores: [[f32; 16]; VECTORS],
    /// `m`.
    largest: f32,
    unused: [f32; 15],
}

// SAFETY: only `f32`s, without padding.
unsafe impl super::super::buffer::Pod for Running {}

/// Bytes of working space of a task.
pub(super) const fn space_bytes(k_dim: usize, v_dim: usize) -> usize {
    let v_dim = v_dim.next_multiple_of(16);
    let panels = BLOCK * 4 * (k_dim + v_dim);
    panels + PAIRS * (size_of::<Running>() + 4 * v_dim)
}

/// The rows of a block of keys or values for one head.
#[derive(Clone, Copy)]
enum Rows<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    /// Blocks of a scale and 32 codes; heads are whole blocks.
    Q8_0(&'a [[u8; 34]]),
}

impl<'a> Rows<'a> {
    fn of(rows: KvRows<'a>) -> Rows<'a> {
        match rows {
            KvRows::F32(d) => Rows::F32(d),
            KvRows::F16(d) => Rows::F16(half_bits(d)),
            KvRows::Q8_0(d) => Rows::Q8_0(d.as_chunks().0),
        }
    }

    /// Up to 16 elements from `at`, the missing ones 0. In blocks, all 16 from a multiple of 16.
    #[inline(always)]
    fn load<I: Isa>(self, isa: I, at: usize, len: usize) -> I::F {
        match self {
            Rows::F32(d) => match d[at..at + len].try_into() {
                Ok(x) => isa.load(x),
                Err(_) => isa.load_part(&d[at..at + len], 0.0),
            },
            Rows::F16(d) => match d[at..at + len].try_into() {
                Ok(x) => isa.load_f16(x),
                Err(_) => {
                    let mut x = [0; 16];
                    x[..len].copy_from_slice(&d[at..at + len]);
                    isa.load_f16(&x)
                }
            },
            Rows::Q8_0(d) => {
                let [low, high, codes @ ..] = &d[at / LEGACY_BLOCK];
                let scale = isa.load_f16(&[u16::from_le_bytes([*low, *high]); 16]);
                // a block has two halves
                let codes = &codes.as_chunks::<16>().0[at % LEGACY_BLOCK / 16];
                isa.mul(scale, isa.to_f32(isa.load_i8(codes)))
            }
        }
    }
}

/// Asks for the rows `block` of one head, `dim` elements each, to be read soon. They lie a row of all heads apart,
/// too far for a processor to foresee.
#[inline(always)]
fn prefetch_rows<I: Isa>(
    isa: I,
    a: &Attention<'_>,
    rows: KvRows<'_>,
    dim: usize,
    kv_head: usize,
    block: Range<usize>,
) {
    let (first, row) = match rows {
        KvRows::F32(d) => (d.as_ptr().cast::<u8>(), 4 * dim),
        KvRows::F16(d) => (d.as_ptr().cast(), 2 * dim),
        KvRows::Q8_0(d) => (d.as_ptr(), dim / LEGACY_BLOCK * size_of::<[u8; 34]>()),
    };
    for j in block {
        for line in 0..row.div_ceil(64) {
            isa.prefetch(first.wrapping_add((j * a.kv_heads + kv_head) * row + 64 * line));
        }
    }
}

fn half_bits(x: &[f16]) -> &[u16] {
    use half::slice::HalfFloatSliceExt;
    x.reinterpret_cast()
}

/// Rows of values that can be read 16 elements at a time.
#[derive(Clone, Copy)]
struct Values<'a> {
    data: &'a [f32],
    /// Where row 0 of the block starts.
    first: usize,
    stride: usize,
}

/// Runs a task.
///
/// # Safety
/// No other thread touches the task's part of `out` while this runs.
#[inline(always)]
pub(in crate::kernels) unsafe fn attend<I: Isa>(isa: I, task: Attend<'_>) -> bool {
    let a = task.operands;
    let (k_dim, v_dim, v_pad) = (a.k_dim, a.v_dim, a.v_dim.next_multiple_of(16));
    let (heads, group) = (task.heads.len(), a.heads / a.kv_heads);
    // pairs of a key head
    let own = task.tokens.len() * heads;
    let pairs = task.kv_heads.len() * own;
    let heads_of = |kv_head: usize| {
        let first = kv_head * group;
        first + task.heads.start..first + task.heads.end
    };

    let (running, space) = task.space.split_at_mut(PAIRS * size_of::<Running>());
    let running = &mut cast_mut::<Running>(running)[..pairs];
    let (sums, space) = space.split_at_mut(PAIRS * v_pad * 4);
    let sums = &mut cast_mut::<f32>(sums)[..pairs * v_pad];
    let (keys, values) = space.split_at_mut(BLOCK * k_dim * 4);
    let keys = &mut cast_mut::<[f32; BLOCK]>(keys)[..k_dim];
    let values = cast_mut::<f32>(values);
    for r in &mut *running {
        r.sums = [0.0; 16];
        r.largest = f32::NEG_INFINITY;
    }
    sums.fill(0.0);

    // The rows that token `t` sees.
    let visible = |t: usize| -> Range<usize> {
        let end = a.positions.map_or(a.rows, |p| p[t] as usize + 1);
        match (a.positions, a.window) {
            (Some(_), Some(window)) => end.saturating_sub(window as usize)..end,
            _ => 0..end,
        }
    };
    let (mut first, mut last) = (usize::MAX, 0);
    for t in task.tokens.clone() {
        let seen = visible(t);
        if !seen.is_empty() {
            first = first.min(seen.start);
            last = last.max(seen.end);
        }
    }

    let mut block = first / BLOCK * BLOCK;
    while block < last {
        let end = last.min(block + BLOCK);
        let next = end..last.min(end + BLOCK);
        let all = running
            .chunks_exact_mut(own)
            .zip(sums.chunks_exact_mut(own * v_pad));
        for (kv_head, (running, sums)) in task.kv_heads.clone().zip(all) {
            transpose_keys(isa, a, kv_head, block..end, keys);
            prefetch_rows(isa, a, a.k, k_dim, kv_head, next.clone());
            let seen = |i: usize| {
                let seen = visible(task.tokens.start + i);
                seen.start.max(block)..seen.end.min(end)
            };
            let vectors = |i: usize| match seen(i) {
                seen if seen.is_empty() => 0,
                seen => (seen.end - block).div_ceil(16),
            };
            score(
                isa,
                &task.tokens,
                &heads_of(kv_head),
                a,
                keys,
                vectors,
                running,
            );

            let values = match a.v {
                KvRows::F32(data) if v_pad == v_dim => Values {
                    data,
                    first: (block * a.kv_heads + kv_head) * v_dim,
                    stride: a.kv_heads * v_dim,
                },
                _ => copy_values(isa, a, kv_head, block..end, &mut *values),
            };
            prefetch_rows(isa, a, a.v, v_dim, kv_head, next.clone());
            for (i, t) in task.tokens.clone().enumerate() {
                let (seen, vectors) = (seen(i), vectors(i));
                if seen.is_empty() {
                    continue;
                }
                let mask = a.mask.map(|m| &m[t * a.rows..][..a.rows]);
                let running = &mut running[i * heads..][..heads];
                let sums = &mut sums[i * heads * v_pad..][..heads * v_pad];
                for (running, sums) in running.iter_mut().zip(sums.chunks_exact_mut(v_pad)) {
                    soften(isa, a, mask, block, seen.clone(), vectors, running, sums);
                }
                let seen = seen.start - block..seen.end - block;
                let mut h = 0;
                while h + 4 <= heads {
                    let sums = &mut sums[h * v_pad..][..4 * v_pad];
                    add_values::<I, 4>(isa, &running[h..h + 4], values, seen.clone(), sums);
                    h += 4;
                }
                for h in h..heads {
                    let sums = &mut sums[h * v_pad..][..v_pad];
                    add_values::<I, 1>(isa, &running[h..h + 1], values, seen.clone(), sums);
                }
            }
        }
        block += BLOCK;
    }

    let mut all_see = true;
    let mut done = running.iter().zip(sums.chunks_exact(v_pad));
    for kv_head in task.kv_heads.clone() {
        for t in task.tokens.clone() {
            for (h, (running, sums)) in heads_of(kv_head).zip(&mut done) {
                let total = isa.sum(isa.load(&running.sums));
                all_see &= total != 0.0;
                // SAFETY: the caller's contract.
                let out = unsafe { task.out.slice((t * a.heads + h) * v_dim, v_dim) };
                let total = isa.splat(total);
                for (out, sum) in out.chunks_mut(16).zip(sums.as_chunks::<16>().0) {
                    let quotient = isa.div(isa.load(sum), total);
                    match out.as_mut_array() {
                        Some(out) => isa.store(quotient, out),
                        None => isa.store_part(quotient, out),
                    }
                }
            }
        }
    }
    all_see
}

/// `keys[d][j] = k[block + j][d]`, 0 up to the end of the last vector that has a row.
#[inline(always)]
fn transpose_keys<I: Isa>(
    isa: I,
    a: &Attention<'_>,
    kv_head: usize,
    block: Range<usize>,
    keys: &mut [[f32; BLOCK]],
) {
    let rows = Rows::of(a.k);
    for first in block.clone().step_by(16) {
        let count = 16.min(block.end - first);
        let column = first - block.start;
        for d in (0..a.k_dim).step_by(16) {
            let len = 16.min(a.k_dim - d);
            let mut tile = [isa.splat(0.0); 16];
            for j in 0..count {
                let at = ((first + j) * a.kv_heads + kv_head) * a.k_dim + d;
                tile[j] = rows.load(isa, at, len);
            }
            isa.transpose(&mut tile);
            for i in 0..len {
                let (vectors, _) = keys[d + i].as_chunks_mut::<16>();
                isa.store(tile[i], &mut vectors[column / 16]);
            }
        }
    }
}

/// Copies a block's values to `space` in binary32, rows padded to a multiple of 16.
#[inline(always)]
fn copy_values<'s, I: Isa>(
    isa: I,
    a: &Attention<'_>,
    kv_head: usize,
    block: Range<usize>,
    space: &'s mut [f32],
) -> Values<'s> {
    let rows = Rows::of(a.v);
    let stride = a.v_dim.next_multiple_of(16);
    for (j, out) in block.zip(space.chunks_exact_mut(stride.max(1))) {
        let at = (j * a.kv_heads + kv_head) * a.v_dim;
        let (out, _) = out.as_chunks_mut::<16>();
        for (i, out) in out.iter_mut().enumerate() {
            let len = 16.min(a.v_dim - 16 * i);
            isa.store(rows.load(isa, at + 16 * i, len), out);
        }
    }
    Values {
        data: space,
        first: 0,
        stride,
    }
}

/// Scores of all pairs, before scaling, against the panel's keys that they see: of the pairs of the task's token `i`
/// those of its first `vectors(i)` vectors.
#[inline(always)]
fn score<I: Isa>(
    isa: I,
    tokens: &Range<usize>,
    heads: &Range<usize>,
    a: &Attention<'_>,
    keys: &[[f32; BLOCK]],
    vectors: impl Fn(usize) -> usize,
    running: &mut [Running],
) {
    // Queries of pair `i`.
    let query = |i: usize| -> &[f32] {
        let (t, h) = (
            tokens.start + i / heads.len(),
            heads.start + i % heads.len(),
        );
        &a.q[(t * a.heads + h) * a.k_dim..][..a.k_dim]
    };
    let mut i = 0;
    while i + 4 <= running.len() {
        let mut count = 0;
        for token in i / heads.len()..=(i + 3) / heads.len() {
            count = count.max(vectors(token));
        }
        let q = [query(i), query(i + 1), query(i + 2), query(i + 3)];
        score_vectors::<I, 4>(isa, q, keys, count, &mut running[i..]);
        i += 4;
    }
    while i < running.len() {
        let count = vectors(i / heads.len());
        score_vectors::<I, 1>(isa, [query(i)], keys, count, &mut running[i..]);
        i += 1;
    }
}

/// Scores of `N` pairs against the panel's first `count` vectors of keys.
#[inline(always)]
fn score_vectors<I: Isa, const N: usize>(
    isa: I,
    q: [&[f32]; N],
    keys: &[[f32; BLOCK]],
    count: usize,
    running: &mut [Running],
) {
    let mut v = 0;
    while v < count {
        match count - v {
            4.. if I::ATTENTION_VECTORS >= 4 => {
                score_tile::<I, N, 4>(isa, q, keys, v, running);
                v += 4;
            }
            2.. if I::ATTENTION_VECTORS >= 2 => {
                score_tile::<I, N, 2>(isa, q, keys, v, running);
                v += 2;
            }
            _ => {
                score_tile::<I, N, 1>(isa, q, keys, v, running);
                v += 1;
            }
        }
    }
}

/// Scores of `N` pairs against `V` vectors of keys from vector `v` on.
#[inline(always)]
fn score_tile<I: Isa, const N: usize, const V: usize>(
    isa: I,
    q: [&[f32]; N],
    keys: &[[f32; BLOCK]],
    v: usize,
    running: &mut [Running],
) {
    let mut s = [[isa.splat(0.0); V]; N];
    for n in 0..N {
        assert_eq!(q[n].len(), keys.len());
    }
    for (d, keys) in keys.iter().enumerate() {
        let (keys, _) = keys.as_chunks::<16>();
        for i in 0..V {
            let k = isa.load(&keys[v + i]);
            for n in 0..N {
                s[n][i] = isa.fma(k, isa.splat(q[n][d]), s[n][i]);
            }
        }
    }
    for n in 0..N {
        for i in 0..V {
            isa.store(s[n][i], &mut running[n].scores[v + i]);
        }
    }
}

/// Turns a pair's scores of a block into weights `p`, and takes in what changes with them. `seen`
/// are the rows that the pair sees, all in the block.
#[allow(clippy::too_many_arguments)] // parts of one formula
#[inline(always)]
fn soften<I: Isa>(
    isa: I,
    a: &Attention<'_>,
    mask: Option<&[f32]>,
    block: usize,
    seen: Range<usize>,
    vectors: usize,
    running: &mut Running,
    sums: &mut [f32],
) {
    let mut largest = isa.splat(f32::NEG_INFINITY);
    for v in 0..vectors {
        let mut s = isa.mul(isa.load(&running.scores[v]), isa.splat(a.scale));
        if let Some(cap) = a.soft_cap {
            let cap = isa.splat(cap);
            s = isa.mul(cap, math::tanh(isa, isa.div(s, cap)));
        }
        let first = block + 16 * v;
        let whole = seen.start <= first && first + 16 <= seen.end;
        match mask {
            Some(mask) if whole => {
                s = isa.add(s, isa.load_part(&mask[first..first + 16], 0.0));
            }
            Some(mask) => {
                let end = mask.len().min(first + 16);
                s = isa.add(s, isa.load_part(&mask[first..end], 0.0));
            }
            None => {}
        }
        isa.store(s, &mut running.scores[v]);
        if !whole {
            for (i, s) in running.scores[v].iter_mut().enumerate() {
                if !seen.contains(&(first + i)) {
                    *s = f32::NEG_INFINITY;
                }
            }
            s = isa.load(&running.scores[v]);
        }
        largest = isa.max(s, largest);
    }
    let block_largest = isa.largest(largest);
    let before = running.largest;
    let now = if block_largest > before {
        block_largest
    } else {
        before
    };
    if now == f32::NEG_INFINITY {
        // Nothing seen yet, or NaN alone, which must not be lost.
        for scores in &mut running.scores[..vectors] {
            for s in scores {
                *s = if s.is_nan() { *s } else { 0.0 };
            }
        }
    } else {
        let now_16 = isa.splat(now);
        if now != before {
            let shrink = math::exp(isa, isa.sub(isa.splat(before), now_16));
            let l = isa.mul(isa.load(&running.sums), shrink);
            isa.store(l, &mut running.sums);
            let (sums, _) = sums.as_chunks_mut::<16>();
            for sum in sums {
                let scaled = isa.mul(isa.load(sum), shrink);
                isa.store(scaled, sum);
            }
        }
        running.largest = now;
        for v in 0..vectors {
            let s = isa.sub(isa.load(&running.scores[v]), now_16);
            isa.store(math::exp(isa, s), &mut running.scores[v]);
        }
    }
    let mut l = isa.load(&running.sums);
    for v in 0..vectors {
        l = isa.add(l, isa.load(&running.scores[v]));
    }
    isa.store(l, &mut running.sums);
}

/// `sums[n] += Σ_j p[n][j] · v[j]` over the rows `seen` of the block, in order.
#[inline(always)]
fn add_values<I: Isa, const N: usize>(
    isa: I,
    running: &[Running],
    values: Values<'_>,
    seen: Range<usize>,
    sums: &mut [f32],
) {
    let width = sums.len() / N;
    let mut at = 0;
    while at + 64 <= width && I::ATTENTION_VECTORS >= 4 {
        add_columns::<I, N, 4>(isa, running, values, seen.clone(), sums, width, at);
        at += 64;
    }
    while at + 32 <= width && I::ATTENTION_VECTORS >= 2 {
        add_columns::<I, N, 2>(isa, running, values, seen.clone(), sums, width, at);
        at += 32;
    }
    while at < width {
        add_columns::<I, N, 1>(isa, running, values, seen.clone(), sums, width, at);
        at += 16;
    }
}

/// [`add_values`] for `C` vectors of columns from `at` on.
#[inline(always)]
fn add_columns<I: Isa, const N: usize, const C: usize>(
    isa: I,
    running: &[Running],
    values: Values<'_>,
    seen: Range<usize>,
    sums: &mut [f32],
    width: usize,
    at: usize,
) {
    let mut acc = [[isa.splat(0.0); C]; N];
    for n in 0..N {
        let (sums, _) = sums[n * width + at..][..16 * C].as_chunks::<16>();
        for c in 0..C {
            acc[n][c] = isa.load(&sums[c]);
        }
    }
    for j in seen {
        let (row, _) =
            values.data[values.first + j * values.stride + at..][..16 * C].as_chunks::<16>();
        for c in 0..C {
            let v = isa.load(&row[c]);
            for n in 0..N {
                let p = isa.splat(running[n].scores[j / 16][j % 16]);
                acc[n][c] = isa.fma(p, v, acc[n][c]);
            }
        }
    }
    for n in 0..N {
        let (sums, _) = sums[n * width + at..][..16 * C].as_chunks_mut::<16>();
        for c in 0..C {
            isa.store(acc[n][c], &mut sums[c]);
        }
    }
}
