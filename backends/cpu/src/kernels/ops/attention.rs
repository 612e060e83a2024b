//! Attention over rows of keys and values, one pass with a running maximum.
//!
//! For each token and head, keys are taken in blocks of [`BLOCK`] rows from the first visible one:
//! scores of the block, the new maximum, a rescale of what was summed, then the values row by
//! row. The order depends on the token's position and window alone, so neither chunking nor
//! threads change a bit.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::super::buffer::Shared;
use super::super::{KernelError, check_len};
use super::{dot, exp, sum};
use crate::pool::Pool;

/// Keys scored together.
const BLOCK: usize = 32;
/// Heads that share a conversion of keys and values.
const HEADS: usize = 8;
/// Most elements of a head, of keys or of values.
pub const MAX_HEAD_DIM: usize = 512;

/// Rows of keys or values, `[rows, kv_heads, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub enum KvRows<'a> {
    /// In binary32.
    F32(&'a [f32]),
    /// In binary16.
    F16(&'a [f16]),
}

/// Operands of [`attention`].
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a query and of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// `[tokens, heads, k_dim]`.
    pub q: &'a [f32],
    /// Keys; rows past `rows` are not read.
    pub k: KvRows<'a>,
    /// Values; rows past `rows` are not read.
    pub v: KvRows<'a>,
    /// Key rows there are.
    pub rows: usize,
    /// If given, a token sees key rows up to its position only.
    pub positions: Option<&'a [i32]>,
    /// `[tokens, rows]`, added to the scores.
    pub mask: Option<&'a [f32]>,
    /// Multiplies scores.
    pub scale: f32,
    /// Bounds scores by `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// With positions: a token sees its last `window` key rows only.
    pub window: Option<u32>,
}

impl KvRows<'_> {
    fn len(&self) -> usize {
        match self {
            KvRows::F32(d) => d.len(),
            KvRows::F16(d) => d.len(),
        }
    }

    /// `len` elements from `at`, converted into `space` if need be.
    #[inline(always)]
    fn row<'s>(&'s self, at: usize, len: usize, space: &'s mut [f32; MAX_HEAD_DIM]) -> &'s [f32] {
        match self {
            KvRows::F32(d) => &d[at..at + len],
            KvRows::F16(d) => {
                d[at..at + len].convert_to_f32_slice(&mut space[..len]);
                &space[..len]
            }
        }
    }
}

/// `out[t, h] = Σ_j softmax_j(q[t, h] · k[j]) · v[j]`, `[tokens, heads, v_dim]`.
///
/// # Errors
/// [`KernelError::Size`] if operands don't fit, [`KernelError::HeadDim`] for heads too wide,
/// [`KernelError::Position`] if a token's position is not a key row, and
/// [`KernelError::NothingVisible`] if a token sees no key at all.
pub fn attention(pool: &Pool, a: &Attention<'_>, out: &mut [f32]) -> Result<(), KernelError> {
    let width = a.heads * a.k_dim;
    let tokens = a.q.len().checked_div(width).unwrap_or(0);
    check_len("queries", tokens, width, a.q.len())?;
    check_len("result", tokens, a.heads * a.v_dim, out.len())?;
    let dim = a.k_dim.max(a.v_dim);
    if dim > MAX_HEAD_DIM || a.kv_heads == 0 || !a.heads.is_multiple_of(a.kv_heads) {
        return Err(KernelError::HeadDim {
            found: dim,
            heads: a.heads,
            kv_heads: a.kv_heads,
        });
    }
    for (what, rows, head) in [("keys", &a.k, a.k_dim), ("values", &a.v, a.v_dim)] {
        let needed = a.rows.saturating_mul(a.kv_heads * head);
        if rows.len() < needed {
            return Err(KernelError::Size {
                what,
                expected: needed,
                found: rows.len(),
            });
        }
    }
    if let Some(mask) = a.mask {
        check_len("mask", tokens, a.rows, mask.len())?;
    }
    if let Some(positions) = a.positions {
        check_len("positions", 1, tokens, positions.len())?;
        for &p in positions {
            if usize::try_from(p).map_or(true, |p| p >= a.rows) {
                return Err(KernelError::Position {
                    found: p,
                    rows: a.rows,
                });
            }
        }
    }
    let group = a.heads / a.kv_heads;
    let parts = group.div_ceil(HEADS);
    let shared = Shared::new(out);
    let blind = std::sync::atomic::AtomicBool::new(false);
    pool.run(tokens * a.kv_heads * parts, |task| {
        let (part, rest) = (task % parts, task / parts);
        let (kv_head, t) = (rest % a.kv_heads, rest / a.kv_heads);
        let first = kv_head * group + part * HEADS;
        let count = HEADS.min(group - part * HEADS);
        let at = (t * a.heads + first) * a.v_dim;
        // SAFETY: each group of heads of a token is written by one task, and `out` stays
        // borrowed until all are done.
        let out = unsafe { shared.slice(at, count * a.v_dim) };
        if !attend(a, t, kv_head, first, count, out) {
            blind.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    if blind.into_inner() {
        return Err(KernelError::NothingVisible);
    }
    Ok(())
}

/// Attention of `count` heads from `first` that share a key head; whether each saw a key.
fn attend(
    a: &Attention<'_>,
    t: usize,
    kv_head: usize,
    first: usize,
    count: usize,
    out: &mut [f32],
) -> bool {
    let end = a.positions.map_or(a.rows, |p| p[t] as usize + 1);
    let start = match (a.positions, a.window) {
        (Some(_), Some(window)) => end.saturating_sub(window as usize),
        _ => 0,
    };
    let mut space = [0f32; MAX_HEAD_DIM];
    let mut scores = [[0f32; BLOCK]; HEADS];
    let mut maximum = [f32::NEG_INFINITY; HEADS];
    let mut total = [0f32; HEADS];
    out.fill(0.0);
    for block in (start..end).step_by(BLOCK) {
        let keys = block..end.min(block + BLOCK);
        for (j, row) in keys.clone().enumerate() {
            let k =
                a.k.row((row * a.kv_heads + kv_head) * a.k_dim, a.k_dim, &mut space);
            for (h, scores) in scores[..count].iter_mut().enumerate() {
                let q = &a.q[(t * a.heads + first + h) * a.k_dim..][..a.k_dim];
                let mut score = dot(q, k) * a.scale;
                if let Some(cap) = a.soft_cap {
                    score = cap * super::tanh(score / cap);
                }
                if let Some(mask) = a.mask {
                    score += mask[t * a.rows + row];
                }
                scores[j] = score;
            }
        }
        let len = keys.len();
        for h in 0..count {
            let scores = &mut scores[h][..len];
            let highest = scores
                .iter()
                .fold(maximum[h], |m, &s| if s > m { s } else { m });
            if highest == f32::NEG_INFINITY {
                // Nothing visible yet (or NaN only, which then spreads from the sum below).
                scores
                    .iter_mut()
                    .for_each(|s| *s = if s.is_nan() { *s } else { 0.0 });
                total[h] += sum(scores);
                continue;
            }
            let shrink = exp(maximum[h] - highest);
            if shrink != 1.0 {
                total[h] *= shrink;
                for o in &mut out[h * a.v_dim..][..a.v_dim] {
                    *o *= shrink;
                }
            }
            maximum[h] = highest;
            scores.iter_mut().for_each(|s| *s = exp(*s - highest));
            total[h] += sum(scores);
        }
        for (j, row) in keys.enumerate() {
            let v =
                a.v.row((row * a.kv_heads + kv_head) * a.v_dim, a.v_dim, &mut space);
            for h in 0..count {
                if maximum[h] == f32::NEG_INFINITY {
                    continue;
                }
                let p = scores[h][j];
                for (o, v) in out[h * a.v_dim..][..a.v_dim].iter_mut().zip(v) {
                    *o += p * v;
                }
            }
        }
    }
    for h in 0..count {
        let factor = 1.0 / total[h];
        for o in &mut out[h * a.v_dim..][..a.v_dim] {
            *o *= factor;
        }
    }
    total[..count].iter().all(|&t| t != 0.0)
}
