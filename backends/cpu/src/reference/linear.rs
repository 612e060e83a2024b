//! Products with matrices and rows of tables.

use super::index::{broadcast_offsets, strides};
use super::{Call, ReferenceError, Tensor};

pub(super) fn linear(call: &Call<'_>) -> Result<Tensor, ReferenceError> {
    let (x, w) = (call.input(0), call.input(1));
    let bias = call.optional_floats(2)?;
    let (n, k) = (w.dim(0), w.dim(1));
    let tokens: usize = x.shape()[..x.shape().len() - 1].iter().product();
    let x = x.floats()?;
    let mut out = vec![0.0; tokens * n];
    for row in 0..n {
        let weights = w.float_row(row)?;
        let bias = bias.as_ref().map_or(0.0, |b| b[row].into());
        for t in 0..tokens {
            out[t * n + row] = (dot(&x[t * k..][..k], &weights) + bias) as f32;
        }
    }
    call.floats(out)
}

pub(super) fn expert_linear(call: &Call<'_>) -> Result<Tensor, ReferenceError> {
    let (x, w) = (call.input(0), call.input(1));
    let ids = call.indices(2, "ids", w.dim(0))?;
    let (rows, chosen) = (x.dim(1), call.shape()[1]);
    let (n, k) = (w.dim(1), w.dim(2));
    let x = x.floats()?;
    let mut out = Vec::with_capacity(ids.len() * n);
    for (i, expert) in ids.into_iter().enumerate() {
        let (t, s) = (i / chosen, i % chosen);
        let row = t * rows + if rows == 1 { 0 } else { s };
        let x = &x[row * k..][..k];
        for r in 0..n {
            out.push(dot(x, &w.float_row(expert * n + r)?) as f32);
        }
    }
    call.floats(out)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
    products.sum()
}

pub(super) fn matmul(
    call: &Call<'_>,
    transpose_a: bool,
    transpose_b: bool,
) -> Result<Tensor, ReferenceError> {
    let (a, b) = (call.input(0), call.input(1));
    let (batch, matrix) = call.shape().split_at(call.shape().len() - 2);
    let (m, n) = (matrix[0], matrix[1]);
    let (a_batch, a_matrix) = a.shape().split_at(a.shape().len() - 2);
    let (b_batch, b_matrix) = b.shape().split_at(b.shape().len() - 2);
    let k = a_matrix[usize::from(!transpose_a)];
    let swap = |[rows, cols]: [usize; 2], transposed: bool| match transposed {
        true => [cols, rows],
        false => [rows, cols],
    };
    let [a_row, a_col] = swap([strides(a_matrix)[0], 1], transpose_a);
    let [b_row, b_col] = swap([strides(b_matrix)[0], 1], transpose_b);
    let starts = broadcast_offsets(a_batch, batch)
        .into_iter()
        .zip(broadcast_offsets(b_batch, batch));
    let (a, b) = (a.floats()?, b.floats()?);
    let mut out = Vec::with_capacity(call.shape().iter().product());
    for (a_start, b_start) in starts {
        let a = |i: usize, j: usize| a[a_start * m * k + i * a_row + j * a_col];
        let b = |i: usize, j: usize| b[b_start * k * n + i * b_row + j * b_col];
        for i in 0..m {
            for j in 0..n {
                let products = (0..k).map(|l| f64::from(a(i, l)) * f64::from(b(l, j)));
                out.push(products.sum::<f64>() as f32);
            }
        }
    }
    call.floats(out)
}

pub(super) fn embedding(call: &Call<'_>) -> Result<Tensor, ReferenceError> {
    let table = call.input(0);
    let mut out = Vec::new();
    for id in call.indices(1, "ids", table.dim(0))? {
        out.extend_from_slice(&table.float_row(id)?);
    }
    call.floats(out)
}
