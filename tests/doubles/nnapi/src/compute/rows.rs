//! Along axes.

use super::{Tensor, around};

pub fn softmax(name: &str, t: &[&Tensor]) -> Result<Tensor, String> {
    let x = t[0];
    let beta = t[1].number()?;
    if beta <= 0.0 {
        return Err(format!("beta {beta}"));
    }
    let axis = match t.get(2) {
        Some(axis) => axis.axis(x.dims.len())?,
        None => x.dims.len().checked_sub(1).ok_or("no dimensions")?,
    };
    let (before, size, after) = around(&x.dims, axis);
    let mut data = x.data.clone();
    for b in 0..before {
        for a in 0..after {
            let at = |i: usize| (b * size + i) * after + a;
            let most = (0..size)
                .map(|i| x.data[at(i)])
                .fold(f64::NEG_INFINITY, f64::max);
            let part = |i: usize| ((x.data[at(i)] - most) * beta).exp();
            let sum: f64 = (0..size).map(part).sum();
            for i in 0..size {
                data[at(i)] = match name {
                    "SOFTMAX" => part(i) / sum,
                    _ => (x.data[at(i)] - most) * beta - sum.ln(),
                };
            }
        }
    }
    Ok(Tensor::new(&x.dims, data))
}

pub fn reduce(name: &str, t: &[&Tensor]) -> Result<Tensor, String> {
    let x = t[0];
    let rank = x.dims.len();
    let keep = t[2].number()? != 0.0;
    let mut reduced = vec![false; rank];
    for axis in t[1].data.iter() {
        reduced[Tensor::new(&[], vec![*axis]).axis(rank)?] = true;
    }
    let kept: Vec<usize> = x
        .dims
        .iter()
        .zip(&reduced)
        .map(|(d, r)| if *r { 1 } else { *d })
        .collect();
    let count = kept.iter().product();
    let start = match name {
        "REDUCE_MAX" => f64::NEG_INFINITY,
        "REDUCE_MIN" => f64::INFINITY,
        _ => 0.0,
    };
    let mut data = vec![start; count];
    for (i, number) in x.data.iter().enumerate() {
        let (mut rest, mut at, mut step) = (i, 0, 1);
        for axis in (0..rank).rev() {
            let here = rest % x.dims[axis];
            rest /= x.dims[axis];
            if !reduced[axis] {
                at += here * step;
                step *= x.dims[axis];
            }
        }
        let so_far = &mut data[at];
        *so_far = match name {
            "REDUCE_MAX" => so_far.max(*number),
            "REDUCE_MIN" => so_far.min(*number),
            _ => *so_far + number,
        };
    }
    if name == "MEAN" {
        let each = (x.data.len() / count.max(1)) as f64;
        data.iter_mut().for_each(|x| *x /= each);
    }
    let mut dims = kept;
    if !keep {
        let mut at = reduced.iter();
        dims.retain(|_| !at.next().copied().unwrap_or(false));
        // a result has at least one dimension
        if dims.is_empty() {
            dims.push(1);
        }
    }
    Ok(Tensor { dims, data })
}

/// Numbers of the largest or smallest along an axis, the first of equal ones.
pub fn arg(name: &str, t: &[&Tensor]) -> Result<Tensor, String> {
    let x = t[0];
    let axis = t[1].axis(x.dims.len())?;
    let (before, size, after) = around(&x.dims, axis);
    let mut data = Vec::with_capacity(before * after);
    for b in 0..before {
        for a in 0..after {
            let at = |i: usize| x.data[(b * size + i) * after + a];
            let better = |i: usize, j: usize| {
                if name == "ARGMAX" {
                    at(i) > at(j)
                } else {
                    at(i) < at(j)
                }
            };
            let best = (1..size).fold(0, |best, i| if better(i, best) { i } else { best });
            data.push(best as f64);
        }
    }
    let mut dims = x.dims.clone();
    dims.remove(axis);
    if dims.is_empty() {
        dims.push(1);
    }
    Ok(Tensor { dims, data })
}

/// The largest of each row, and their numbers.
pub fn top(t: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    let x = t[0];
    let k = t[1].number()? as usize;
    let width = *x.dims.last().ok_or("no dimensions")?;
    if k > width {
        return Err(format!("{k} of {width}"));
    }
    let (mut values, mut numbers) = (Vec::new(), Vec::new());
    for row in x.data.chunks(width) {
        let mut order: Vec<usize> = (0..width).collect();
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
        for &i in &order[..k] {
            values.push(row[i]);
            numbers.push(i as f64);
        }
    }
    let mut dims = x.dims.clone();
    if let Some(last) = dims.last_mut() {
        *last = k;
    }
    Ok(vec![
        Tensor::new(&dims, values),
        Tensor::new(&dims, numbers),
    ])
}
