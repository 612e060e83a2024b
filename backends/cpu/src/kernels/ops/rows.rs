//! Norms, softmax, rotation and elementwise functions, over [`Isa`].
//!
//! A sum over a row runs in four vectors of 16 lanes (element `i` in lane `i mod 16` of vector
//! `i/16 mod 4`), which are added as `(0 + 1) + (2 + 3)`, and then the lanes as in [`Isa::sum`].

use anynpu_ir::{Activation, RopeStyle};

use super::super::buffer::Shared;
use super::super::isa::Isa;
use super::math;
use super::{Arithmetic, RopeLayout};

/// Runs `$body` for each 16 elements of `$out` (fewer at its end) with `$load` reading the same
/// elements of another slice.
macro_rules! each_16 {
    ($isa:ident, $out:ident, |$load:ident| $body:expr) => {{
        let whole = $out.len() / 16 * 16;
        let mut at = 0;
        while at < whole {
            macro_rules! $load {
                ($x:expr) => {
                    $isa.load($x[at..at + 16].try_into().expect("16 elements"))
                };
            }
            let y = $body;
            $isa.store(y, (&mut $out[at..at + 16]).try_into().expect("16 elements"));
            at += 16;
        }
        if at < $out.len() {
            let end = $out.len();
            macro_rules! $load {
                ($x:expr) => {
                    $isa.load_part(&$x[at..end], 0.0)
                };
            }
            let y = $body;
            $isa.store_part(y, &mut $out[at..end]);
        }
    }};
}

/// Adds the four vectors of a row's sum.
#[inline(always)]
fn total<I: Isa>(isa: I, s: [I::F; 4]) -> f32 {
    isa.sum(isa.add(isa.add(s[0], s[1]), isa.add(s[2], s[3])))
}

/// `Σ (x − centre)²`.
#[inline(always)]
fn sum_of_squares<I: Isa>(isa: I, x: &[f32], centre: f32) -> f32 {
    let mut sums = [isa.splat(0.0); 4];
    let centre_16 = isa.splat(centre);
    let (whole, rest) = x.as_chunks::<16>();
    for (i, x) in whole.iter().enumerate() {
        let x = isa.sub(isa.load(x), centre_16);
        sums[i % 4] = isa.fma(x, x, sums[i % 4]);
    }
    if !rest.is_empty() {
        let x = isa.sub(isa.load_part(rest, centre), centre_16);
        sums[whole.len() % 4] = isa.fma(x, x, sums[whole.len() % 4]);
    }
    total(isa, sums)
}

/// `Σ x`.
#[inline(always)]
fn sum<I: Isa>(isa: I, x: &[f32]) -> f32 {
    let mut sums = [isa.splat(0.0); 4];
    let (whole, rest) = x.as_chunks::<16>();
    for (i, x) in whole.iter().enumerate() {
        sums[i % 4] = isa.add(sums[i % 4], isa.load(x));
    }
    if !rest.is_empty() {
        sums[whole.len() % 4] = isa.add(sums[whole.len() % 4], isa.load_part(rest, 0.0));
    }
    total(isa, sums)
}

/// `out = x · (1 / √(mean(x²) + eps)) · weight`.
#[inline(always)]
pub(in crate::kernels) fn rms_norm<I: Isa>(
    isa: I,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let (x, weight) = (&x[..out.len()], &weight[..out.len()]);
    let scale = 1.0 / (sum_of_squares(isa, x, 0.0) / x.len() as f32 + eps).sqrt();
    let scale = isa.splat(scale);
    each_16!(isa, out, |load| isa
        .mul(isa.mul(load!(x), scale), load!(weight)));
}

/// `out = (x − mean) · (1 / √(variance + eps)) · gamma + beta`.
#[inline(always)]
pub(in crate::kernels) fn layer_norm<I: Isa>(
    isa: I,
    x: &[f32],
    gamma: &[f32],
    beta: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) {
    let (x, gamma) = (&x[..out.len()], &gamma[..out.len()]);
    let n = x.len() as f32;
    let mean = sum(isa, x) / n;
    let scale = 1.0 / (sum_of_squares(isa, x, mean) / n + eps).sqrt();
    let (mean, scale) = (isa.splat(mean), isa.splat(scale));
    match beta {
        Some(beta) => each_16!(isa, out, |load| {
            let x = isa.mul(isa.sub(load!(x), mean), scale);
            isa.fma(x, load!(gamma), load!(beta))
        }),
        None => each_16!(isa, out, |load| {
            let x = isa.mul(isa.sub(load!(x), mean), scale);
            isa.mul(x, load!(gamma))
        }),
    }
}

/// `out = eˣ⁻ᵐ / Σ eˣ⁻ᵐ` with `m` the largest of `x`.
#[inline(always)]
pub(in crate::kernels) fn softmax<I: Isa>(isa: I, x: &[f32], out: &mut [f32]) {
    let x = &x[..out.len()];
    let mut largest = isa.splat(f32::NEG_INFINITY);
    let (whole, rest) = x.as_chunks::<16>();
    for x in whole {
        largest = isa.max(isa.load(x), largest);
    }
    largest = isa.max(isa.load_part(rest, f32::NEG_INFINITY), largest);
    let largest = isa.splat(isa.largest(largest));
    each_16!(isa, out, |load| math::exp(isa, isa.sub(load!(x), largest)));
    let total = isa.splat(sum(isa, out));
    each_16!(isa, out, |load| isa.div(load!(out), total));
}

/// Rotates one token's heads by its cosines and sines.
#[inline(always)]
pub(in crate::kernels) fn rope<I: Isa>(
    _isa: I,
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    layout: &RopeLayout,
    out: &mut [f32],
) {
    let (dim, pairs) = (layout.head_dim, layout.dims / 2);
    let (cos, sin) = (&cos[..pairs], &sin[..pairs]);
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let (x, kept) = x.split_at(layout.dims);
        let (out, out_kept) = out.split_at_mut(layout.dims);
        match layout.style {
            RopeStyle::Interleaved => {
                let (x, _) = x.as_chunks::<2>();
                let (out, _) = out.as_chunks_mut::<2>();
                for i in 0..pairs {
                    let [a, b] = x[i];
                    out[i] = [a * cos[i] - b * sin[i], a * sin[i] + b * cos[i]];
                }
            }
            RopeStyle::HalfSplit => {
                let ((a, b), (out_a, out_b)) = (x.split_at(pairs), out.split_at_mut(pairs));
                for i in 0..pairs {
                    out_a[i] = a[i] * cos[i] - b[i] * sin[i];
                    out_b[i] = a[i] * sin[i] + b[i] * cos[i];
                }
            }
        }
        out_kept.copy_from_slice(kept);
    }
}

/// `$body` with `$f` the function of `$act`, which the table's user has checked to be known.
macro_rules! with_activation {
    ($act:expr, $f:ident => $body:expr) => {
        match $act {
            Activation::Relu => {
                use math::relu as $f;
                $body
            }
            Activation::Silu => {
                use math::silu as $f;
                $body
            }
            Activation::Gelu => {
                use math::gelu as $f;
                $body
            }
            Activation::GeluTanh => {
                use math::gelu_tanh as $f;
                $body
            }
            Activation::GeluQuick => {
                use math::gelu_quick as $f;
                $body
            }
            _ => unreachable!("no such activation"),
        }
    };
}

/// `out = act(x)`.
#[inline(always)]
pub(in crate::kernels) fn activation<I: Isa>(isa: I, act: Activation, x: &[f32], out: &mut [f32]) {
    let x = &x[..out.len()];
    with_activation!(act, f => each_16!(isa, out, |load| f(isa, load!(x))));
}

/// `out = act(gate) · up`.
#[inline(always)]
pub(in crate::kernels) fn gated<I: Isa>(
    isa: I,
    act: Activation,
    gate: &[f32],
    up: &[f32],
    out: &mut [f32],
) {
    let (gate, up) = (&gate[..out.len()], &up[..out.len()]);
    with_activation!(act, f => {
        each_16!(isa, out, |load| isa.mul(f(isa, load!(gate)), load!(up)))
    });
}

/// Rows of a [`gated`] that do not follow one another.
pub(in crate::kernels) struct GatedRows<'a> {
    pub act: Activation,
    /// Whole rows of `stride` elements, of which `rows` are used.
    pub gate: &'a [f32],
    /// The same.
    pub up: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub out: Shared<f32>,
    /// Where the first row goes.
    pub at: usize,
    /// Distance of rows there.
    pub out_stride: usize,
}

/// [`gated`] of every row.
///
/// # Safety
/// No other thread touches the rows of `out` while this runs.
#[inline(always)]
pub(in crate::kernels) unsafe fn gated_rows<I: Isa>(isa: I, task: GatedRows<'_>) {
    let (gates, ups) = (task.gate, task.up);
    with_activation!(task.act, f => {
        for (i, (gate, up)) in gates.chunks_exact(task.stride).zip(ups.chunks_exact(task.stride)).enumerate() {
            // SAFETY: the caller's contract.
            let out = unsafe { task.out.slice(task.at + i * task.out_stride, task.rows) };
            each_16!(isa, out, |load| isa.mul(f(isa, load!(gate)), load!(up)))
        }
    });
}

/// `out = cap · tanh(x / cap)`.
#[inline(always)]
pub(in crate::kernels) fn soft_cap<I: Isa>(isa: I, cap: f32, x: &[f32], out: &mut [f32]) {
    let x = &x[..out.len()];
    let cap = isa.splat(cap);
    each_16!(isa, out, |load| isa
        .mul(cap, math::tanh(isa, isa.div(load!(x), cap))));
}

/// `out = x · factor`.
#[inline(always)]
pub(in crate::kernels) fn scale<I: Isa>(isa: I, factor: f32, x: &[f32], out: &mut [f32]) {
    let x = &x[..out.len()];
    let factor = isa.splat(factor);
    each_16!(isa, out, |load| isa.mul(load!(x), factor));
}

/// `out = a ∘ b`.
#[inline(always)]
pub(in crate::kernels) fn arithmetic<I: Isa>(
    isa: I,
    op: Arithmetic,
    a: &[f32],
    b: &[f32],
    out: &mut [f32],
) {
    let (a, b) = (&a[..out.len()], &b[..out.len()]);
    match op {
        Arithmetic::Add => each_16!(isa, out, |load| isa.add(load!(a), load!(b))),
        Arithmetic::Sub => each_16!(isa, out, |load| isa.sub(load!(a), load!(b))),
        Arithmetic::Mul => each_16!(isa, out, |load| isa.mul(load!(a), load!(b))),
    }
}
