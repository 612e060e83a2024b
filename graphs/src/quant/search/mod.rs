//! Quantisers that search for the codes and scales of least weighted error.
//!
//! The error of a block is `Σ wᵢ·(xᵢ − yᵢ)²`: `y` is what the block decodes to, scales rounded as
//! they are stored, and `w` how much each column matters (all alike if nothing is known). Scales
//! are tried on a grid and then fitted by least squares to the codes they give, over and over
//! while that helps; in the K formats the scales of sub-blocks and of the block are fitted
//! together. The result of the plain quantiser competes too, so a searched block never has the
//! larger error. Only f32 and f64 sums, products and quotients in a fixed order are used, so the
//! bytes are the same everywhere.

mod k;
mod legacy;

use anynpu_ir::block;
use anynpu_ir::{DType, block::BlockError};

use super::{QuantizeError, blocks_at, check_row, quantize_row};

/// Quantises one row as [`quantize_row`], but searches for the least error, each column weighted
/// by its `importance` if there is one (a mean square of what the column is multiplied with; only
/// ratios within a row matter). Plain types and values that the search can't improve are as from
/// [`quantize_row`].
///
/// # Errors
/// As [`quantize_row`]; [`QuantizeError::Importance`] for weights that are negative or not finite,
/// or another number of them than of elements.
pub fn quantize_row_searched(
    dtype: DType,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), QuantizeError> {
    check_row(dtype, row, out)?;
    if let Some(weights) = importance {
        check_importance(row, weights)?;
    }
    quantize_row(dtype, row, out)?;
    match dtype {
        DType::Q4_0 => each(row, importance, out, legacy::q4_0, dtype),
        DType::Q4_1 => each(row, importance, out, legacy::q4_1, dtype),
        DType::Q5_0 => each(row, importance, out, legacy::q5_0, dtype),
        DType::Q5_1 => each(row, importance, out, legacy::q5_1, dtype),
        DType::Q8_0 => each(row, importance, out, legacy::q8_0, dtype),
        DType::Q4_K => each(row, importance, out, k::q4_k, dtype),
        DType::Q5_K => each(row, importance, out, k::q5_k, dtype),
        DType::Q6_K => each(row, importance, out, k::q6_k, dtype),
        _ => Ok(()),
    }
}

fn check_importance(row: &[f32], weights: &[f32]) -> Result<(), QuantizeError> {
    if weights.len() != row.len() {
        return Err(QuantizeError::Importance {
            problem: format!("{} weights for {} elements", weights.len(), row.len()),
        });
    }
    match weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
        None => Ok(()),
        Some(i) => Err(QuantizeError::Importance {
            problem: format!("weight {i} is {}", weights[i]),
        }),
    }
}

/// A block to fit, brought to a largest magnitude of 1 so that no square leaves f32's range.
struct Problem<const LEN: usize> {
    /// The values.
    x: [f32; LEN],
    /// The weights; the largest is about 1.
    w: [f32; LEN],
    /// What one unit of `x` is.
    unit: f32,
}

/// Share of the largest weight that every column has at least, so that codes of columns that never
/// mattered so far still mean something.
const LEAST_WEIGHT: f32 = 1e-4;

impl<const LEN: usize> Problem<LEN> {
    /// `None` where no search can help: nothing but zeros, or values beneath every f16 scale.
    fn new(x: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Option<Self> {
        let unit = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        if unit < 1e-12 {
            return None;
        }
        let w = match importance {
            None => [1.0; LEN],
            Some(given) => {
                let largest = given.iter().fold(0.0f32, |a, &v| a.max(v));
                match largest < f32::MIN_POSITIVE {
                    true => [1.0; LEN],
                    false => given.map(|v| v / largest + LEAST_WEIGHT),
                }
            }
        };
        Some(Problem {
            x: x.map(|v| v / unit),
            w,
            unit,
        })
    }

    /// The weighted error of `y`, which is in the block's own unit.
    fn error_of(&self, y: &[f32; LEN]) -> f64 {
        let mut sum = 0.0;
        for ((x, w), y) in self.x.iter().zip(&self.w).zip(y) {
            let e = f64::from(*x) - f64::from(*y) / f64::from(self.unit);
            sum += f64::from(*w) * e * e;
        }
        sum
    }
}

/// Searches block by block and keeps what has a smaller error than what `out` holds already.
fn each<const LEN: usize, const BYTES: usize>(
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
    search: impl Fn(&Problem<LEN>, &mut [u8; BYTES]) -> Option<()>,
    dtype: DType,
) -> Result<(), QuantizeError> {
    let weights = importance.map(|w| w.as_chunks::<LEN>().0);
    let decode = |bytes: &[u8; BYTES]| -> Result<[f32; LEN], BlockError> {
        let mut y = [0.0; LEN];
        block::dequantize(dtype, bytes, &mut y)?;
        Ok(y)
    };
    for (i, (x, o)) in blocks_at(row, out).enumerate() {
        let Some(problem) = Problem::new(x, weights.map(|w| &w[i])) else {
            continue;
        };
        let mut found = [0; BYTES];
        // A scale that overflows is one that did not work; what `out` holds did.
        if search(&problem, &mut found).is_none() {
            continue;
        }
        let (new, old) = match (decode(&found), decode(o)) {
            (Ok(new), Ok(old)) => (problem.error_of(&new), problem.error_of(&old)),
            _ => return Err(QuantizeError::NotQuantizable { dtype }),
        };
        if new < old {
            *o = found;
        }
    }
    Ok(())
}

/// The nearest integer of a value between −2²² and 2²².
#[inline(always)]
fn nearest(v: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³: sums have no fraction bits
    (v + SHIFT) - SHIFT
}

/// The weighted sums that fit codes to values: of `q·x` and `q²`.
#[inline(always)]
fn symmetric_sums<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    inverse: f32,
    lo: f32,
    hi: f32,
) -> (f32, f32) {
    let (mut qx, mut qq) = ([0.0f32; LANES], [0.0f32; LANES]);
    for (xs, ws) in x
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(w.as_chunks::<LANES>().0)
    {
        for i in 0..LANES {
            let q = nearest((xs[i] * inverse).clamp(lo, hi));
            let wq = ws[i] * q;
            qx[i] += wq * xs[i];
            qq[i] += wq * q;
        }
    }
    (qx.iter().sum(), qq.iter().sum())
}

/// The weighted error of the codes nearest to `x / d`.
#[inline(always)]
fn symmetric_error<const N: usize>(x: &[f32; N], w: &[f32; N], d: f32, lo: f32, hi: f32) -> f32 {
    let inverse = inverse(d);
    let mut sum = [0.0f32; LANES];
    for (xs, ws) in x
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(w.as_chunks::<LANES>().0)
    {
        for i in 0..LANES {
            let q = nearest((xs[i] * inverse).clamp(lo, hi));
            let e = xs[i] - d * q;
            sum[i] += ws[i] * e * e;
        }
    }
    sum.iter().sum()
}

/// The scale, of either sign, whose codes from `lo` to `hi` fit best: a grid of `steps` scales a
/// side that put the extreme at an end of the codes, `stride` codes apart, then least squares.
fn symmetric_scale<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    (lo, hi): (f32, f32),
    steps: i32,
    stride: f32,
) -> f32 {
    let extreme = x
        .iter()
        .fold(0.0f32, |e, &v| if v.abs() > e.abs() { v } else { e });
    if extreme.abs() < 1e-12 {
        return 0.0;
    }
    let (mut best, mut scale) = (0.0f32, 0.0f32);
    let mut consider = |inverse: f32| {
        let (qx, qq) = symmetric_sums(x, w, inverse, lo, hi);
        if qq > 0.0 && qx * qx > best * qq {
            best = qx * qx / qq;
            scale = qx / qq;
        }
    };
    let ends: &[f32] = if hi == -lo { &[hi] } else { &[lo, hi] };
    for end in ends {
        for k in -steps..=steps {
            consider((end + stride * k as f32) / extreme);
        }
    }
    // Fitting the scale to the codes and the codes to the scale never raises the error.
    for _ in 0..4 {
        let (qx, qq) = symmetric_sums(x, w, inverse(scale), lo, hi);
        if !(qq > 0.0 && qx * qx > best * qq) {
            break;
        }
        best = qx * qx / qq;
        scale = qx / qq;
    }
    scale
}

#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// Sums are kept in so many parts, which a processor can add at once.
const LANES: usize = 8;

/// A scale and an offset: codes `q` from 0 stand for `d·q + m`.
#[derive(Clone, Copy, Debug)]
struct Line {
    d: f32,
    m: f32,
}

/// The weighted sums that fit a line to the codes nearest to it.
struct LineSums {
    q: f32,
    qq: f32,
    qx: f32,
    w: f32,
    x: f32,
    xx: f32,
}

impl LineSums {
    #[inline(always)]
    fn of<const N: usize>(x: &[f32; N], w: &[f32; N], line: Line, top: f32) -> Self {
        let inverse = inverse(line.d);
        let (mut q1, mut q2, mut qx) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        let (mut w0, mut x1, mut x2) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        for (xs, ws) in x
            .as_chunks::<LANES>()
            .0
            .iter()
            .zip(w.as_chunks::<LANES>().0)
        {
            for i in 0..LANES {
                let q = nearest(((xs[i] - line.m) * inverse).clamp(0.0, top));
                let wq = ws[i] * q;
                q1[i] += wq;
                q2[i] += wq * q;
                qx[i] += wq * xs[i];
                w0[i] += ws[i];
                x1[i] += ws[i] * xs[i];
                x2[i] += ws[i] * xs[i] * xs[i];
            }
        }
        LineSums {
            q: q1.iter().sum(),
            qq: q2.iter().sum(),
            qx: qx.iter().sum(),
            w: w0.iter().sum(),
            x: x1.iter().sum(),
            xx: x2.iter().sum(),
        }
    }

    /// The best line for these codes and its error; `m` at most `most`.
    fn fit(&self, most: f32) -> Option<(Line, f32)> {
        let determinant = self.w * self.qq - self.q * self.q;
        let mut line = match determinant > 1e-6 * self.w * self.qq {
            true => Line {
                d: (self.w * self.qx - self.x * self.q) / determinant,
                m: (self.qq * self.x - self.q * self.qx) / determinant,
            },
            false => return None,
        };
        if line.m > most {
            line.m = most;
            line.d = (self.qx - most * self.q) / self.qq;
        }
        let error = self.xx + line.d * line.d * self.qq + line.m * line.m * self.w
            - 2.0 * (line.d * self.qx + line.m * self.x - line.d * line.m * self.q);
        (line.d >= 0.0).then_some((line, error))
    }
}

/// The line whose codes from 0 to `top` fit best, its offset at most `most`: a grid of lines whose
/// ends are moved inwards and outwards, then least squares.
fn best_line<const N: usize>(x: &[f32; N], w: &[f32; N], top: f32, most: f32) -> Line {
    let (lo, hi) = x
        .iter()
        .fold((most, f32::MIN), |(lo, hi), &v| (lo.min(v), hi.max(v)));
    let range = hi - lo;
    if range < 1e-12 {
        return Line { d: 0.0, m: lo };
    }
    let mut best = Line {
        d: range / top,
        m: lo,
    };
    let mut least = f32::MAX;
    let step = range / top;
    for below in ENDS {
        for above in ENDS {
            let (from, to) = (lo + below * step, hi - above * step);
            let start = Line {
                d: (to - from) / top,
                m: from,
            };
            if let Some((line, error)) = LineSums::of(x, w, start, top).fit(most)
                && error < least
            {
                (best, least) = (line, error);
            }
        }
    }
    for _ in 0..4 {
        match LineSums::of(x, w, best, top).fit(most) {
            Some((line, error)) if error < least => (best, least) = (line, error),
            _ => break,
        }
    }
    best
}

/// How far the ends of a line are moved inwards, in steps of the codes.
const ENDS: [f32; 7] = [-0.4, -0.2, 0.0, 0.2, 0.4, 0.7, 1.0];

/// The weighted error of a line's nearest codes.
#[inline(always)]
fn line_error<const N: usize>(x: &[f32; N], w: &[f32; N], line: Line, top: f32) -> f32 {
    let inverse = inverse(line.d);
    let mut sum = [0.0f32; LANES];
    for (xs, ws) in x
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(w.as_chunks::<LANES>().0)
    {
        for i in 0..LANES {
            let q = nearest(((xs[i] - line.m) * inverse).clamp(0.0, top));
            let e = xs[i] - line.m - line.d * q;
            sum[i] += ws[i] * e * e;
        }
    }
    sum.iter().sum()
}

/// The code of one value on a line.
#[inline(always)]
fn line_code(x: f32, line: Line, top: f32) -> u8 {
    nearest(((x - line.m) * inverse(line.d)).clamp(0.0, top)) as u8
}
