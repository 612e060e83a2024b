//! Normalisations.

use super::index::{offsets, strides, without};
use super::{Call, ReferenceError, Tensor};

pub(super) fn rms_norm(call: &Call<'_>, eps: f32) -> Result<Tensor, ReferenceError> {
    let weight = call.input(1).floats()?;
    each_row(call, |row| {
        let mean_square = mean(row.iter().map(|x| x * x));
        let scale = 1.0 / (mean_square + f64::from(eps)).sqrt();
        let scaled = row.iter().zip(&weight[..]);
        scaled.map(|(x, &w)| x * scale * f64::from(w)).collect()
    })
}

pub(super) fn layer_norm(call: &Call<'_>, eps: f32) -> Result<Tensor, ReferenceError> {
    let gamma = call.input(1).floats()?;
    let beta = call.optional_floats(2)?;
    each_row(call, |row| {
        let centre = mean(row.iter().copied());
        let variance = mean(row.iter().map(|x| (x - centre) * (x - centre)));
        let scale = 1.0 / (variance + f64::from(eps)).sqrt();
        let normed = row.iter().enumerate().map(|(i, x)| {
            let beta = beta.as_ref().map_or(0.0, |b| b[i].into());
            (x - centre) * scale * f64::from(gamma[i]) + beta
        });
        normed.collect()
    })
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// The last axis of operand 0, row by row.
fn each_row(call: &Call<'_>, f: impl Fn(&[f64]) -> Vec<f64>) -> Result<Tensor, ReferenceError> {
    let x = call.input(0);
    let cols = x.dim(x.shape().len() - 1);
    let x = x.floats()?;
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(cols.max(1)) {
        let row: Vec<f64> = row.iter().map(|&x| x.into()).collect();
        out.extend(f(&row).into_iter().map(|y| y as f32));
    }
    call.floats(out)
}

pub(super) fn softmax(call: &Call<'_>, axis: usize) -> Result<Tensor, ReferenceError> {
    let x = call.input(0);
    let (shape, steps) = (x.shape(), strides(x.shape()));
    let (n, step) = (shape[axis], steps[axis]);
    let starts = offsets(&without(shape, axis), &without(&steps, axis));
    let x = x.floats()?;
    let mut out = vec![0.0; x.len()];
    for start in starts {
        let row: Vec<f64> = (0..n).map(|i| x[start + i * step].into()).collect();
        for (i, p) in softmax_of(&row).into_iter().enumerate() {
            out[start + i * step] = p as f32;
        }
    }
    call.floats(out)
}

/// exp(x − max) / Σ exp(x − max).
pub(super) fn softmax_of(row: &[f64]) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = row.iter().map(|x| (x - largest).exp()).collect();
    let sum: f64 = exps.iter().sum();
    exps.into_iter().map(|e| e / sum).collect()
}
