//! Reductions and searches along axes.

use std::cmp::Ordering;

use anynpu_ir::{DType, ReduceOp};

use super::elementwise::{max, min};
use super::index::{offsets, strides, without};
use super::{Call, ReferenceError, Tensor};

pub(super) fn reduce(
    call: &Call<'_>,
    op: ReduceOp,
    axes: &[u32],
) -> Result<Tensor, ReferenceError> {
    let x = call.input(0);
    let (mut kept, mut reduced) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for (axis, (&n, stride)) in x.shape().iter().zip(strides(x.shape())).enumerate() {
        let side = match axes.contains(&(axis as u32)) {
            true => &mut reduced,
            false => &mut kept,
        };
        side.0.push(n);
        side.1.push(stride);
    }
    let starts = offsets(&kept.0, &kept.1);
    let group = offsets(&reduced.0, &reduced.1);
    if !x.dtype().is_float() {
        let x = x.integers()?;
        let (first, f): (i64, fn(i64, i64) -> i64) = match op {
            ReduceOp::Max => (i64::MIN, i64::max),
            ReduceOp::Min => (i64::MAX, i64::min),
            ReduceOp::Sum => (0, i64::wrapping_add),
            _ => return Err(call.unknown()),
        };
        let reduce = |start: usize| group.iter().fold(first, |r, i| f(r, x[start + i]));
        return call.integers(starts.into_iter().map(reduce).collect());
    }
    let x = x.floats()?;
    let (first, f): (f64, fn(f64, f64) -> f64) = match op {
        ReduceOp::Max => (f64::NEG_INFINITY, max),
        ReduceOp::Min => (f64::INFINITY, min),
        ReduceOp::Sum | ReduceOp::Mean => (0.0, |a, b| a + b),
        _ => return Err(call.unknown()),
    };
    let divisor = match op {
        ReduceOp::Mean => group.len() as f64,
        _ => 1.0,
    };
    let reduce = |start: usize| {
        let result = group.iter().fold(first, |r, i| f(r, x[start + i].into()));
        (result / divisor) as f32
    };
    call.floats(starts.into_iter().map(reduce).collect())
}

pub(super) fn top_k(call: &Call<'_>, k: usize) -> Result<Vec<Tensor>, ReferenceError> {
    let x = call.input(0);
    let n = x.dim(x.shape().len() - 1);
    let x = x.floats()?;
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(n) {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| compare(row[b], row[a]));
        values.extend(order[..k].iter().map(|&i| row[i]));
        indices.extend(order[..k].iter().map(|&i| i as i64));
    }
    Ok(vec![
        call.floats(values)?,
        Tensor::from_i64(DType::I32, call.shape(), indices)?,
    ])
}

pub(super) fn arg_max(call: &Call<'_>, axis: usize) -> Result<Tensor, ReferenceError> {
    let x = call.input(0);
    let (shape, steps) = (x.shape(), strides(x.shape()));
    let (n, step) = (shape[axis], steps[axis]);
    let starts = offsets(&without(shape, axis), &without(&steps, axis));
    let found: Vec<i64> = match x.dtype().is_float() {
        true => {
            let x = x.floats()?;
            let search = |start: usize| first_largest(n, |i| x[start + i * step], compare);
            starts.into_iter().map(search).collect()
        }
        false => {
            let x = x.integers()?;
            let search = |start: usize| first_largest(n, |i| x[start + i * step], |a, b| a.cmp(&b));
            starts.into_iter().map(search).collect()
        }
    };
    call.integers(found)
}

fn first_largest<T>(n: usize, at: impl Fn(usize) -> T, order: impl Fn(T, T) -> Ordering) -> i64 {
    let mut best = 0;
    for i in 1..n {
        if order(at(i), at(best)) == Ordering::Greater {
            best = i;
        }
    }
    best as i64
}

/// Ascending; all NaN are equal and above every number, −0 equals 0.
fn compare(a: f32, b: f32) -> Ordering {
    match a.partial_cmp(&b) {
        Some(order) => order,
        None => a.is_nan().cmp(&b.is_nan()),
    }
}
