//! Operations on rows: norms, softmax, rotations, sums.

use super::{Operands, count, index, strides};
use crate::htp::GraphError;

impl Operands<'_> {
    /// The result of an operation on rows, or `None` of another operation.
    pub(super) fn rows(&self) -> Result<Option<Vec<f64>>, GraphError> {
        match self.node.op {
            "RmsNorm" => self.norm(false).map(Some),
            "LayerNorm" => self.norm(true).map(Some),
            "Softmax" => self.softmax().map(Some),
            "RotaryEmbedding" => self.rotation().map(Some),
            "ReduceSum" => self.reduced(|row| row.iter().sum()).map(Some),
            "ReduceMean" => {
                let mean = |row: &[f64]| row.iter().sum::<f64>() / row.len().max(1) as f64;
                self.reduced(mean).map(Some)
            }
            "ReduceMax" => {
                let most = |row: &[f64]| row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                self.reduced(most).map(Some)
            }
            "ReduceMin" => {
                let least = |row: &[f64]| row.iter().copied().fold(f64::INFINITY, f64::min);
                self.reduced(least).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn norm(&self, centred: bool) -> Result<Vec<f64>, GraphError> {
        let (x, gamma) = (self.input(0)?, self.input(1)?);
        let beta = match self.node.inputs.len() {
            0..=2 => None,
            _ => Some(self.input(2)?),
        };
        let width = gamma.numbers.len();
        if width == 0 || !x.numbers.len().is_multiple_of(width) {
            return Err(self.fault(format!("of {:?} and {:?}", x.dims, gamma.dims)));
        }
        let epsilon = self.scalar("epsilon").unwrap_or(1e-6);
        let mut found = Vec::with_capacity(x.numbers.len());
        for row in x.numbers.chunks_exact(width) {
            let n = width as f64;
            let mean = if centred {
                row.iter().sum::<f64>() / n
            } else {
                0.0
            };
            let square = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let scale = 1.0 / (square + epsilon).sqrt();
            for (i, x) in row.iter().enumerate() {
                let beta = beta.and_then(|b| b.numbers.get(i).copied()).unwrap_or(0.0);
                found.push((x - mean) * scale * gamma.numbers[i] + beta);
            }
        }
        Ok(found)
    }

    fn softmax(&self) -> Result<Vec<f64>, GraphError> {
        let x = self.input(0)?;
        if self.axis()? + 1 != x.dims.len() {
            return Err(self.fault("is of the last dimension only"));
        }
        let beta = self.scalar("beta").unwrap_or(1.0);
        let rows = x.numbers.chunks(x.width());
        Ok(rows
            .flat_map(|row| {
                let most = row.iter().fold(f64::NEG_INFINITY, |m, x| m.max(*x));
                let of = move |x: &f64| (beta * (x - most)).exp();
                let sum: f64 = row.iter().map(of).sum();
                row.iter().map(move |x| of(x) / sum)
            })
            .collect())
    }

    /// Of `[B, H, S, D]` by cosines and sines of `[B, S, D/2]`.
    fn rotation(&self) -> Result<Vec<f64>, GraphError> {
        let (x, cosines, sines) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let &[_, _, tokens, width] = x.dims else {
            return Err(self.fault("is of 4 dimensions"));
        };
        let neighbours = self.scalar("interleaved").is_some_and(|i| i != 0.0);
        let (width, half) = (width as usize, width as usize / 2);
        let mut found = x.numbers.to_vec();
        for (row, numbers) in found.chunks_exact_mut(width).enumerate() {
            let heads = x.dims[1] as usize * tokens as usize;
            let at = (row / heads * tokens as usize + row % tokens as usize) * half;
            for i in 0..half {
                let (first, second) = match neighbours {
                    true => (2 * i, 2 * i + 1),
                    false => (i, i + half),
                };
                let angle = |of: &[f64]| of.get(at + i).copied();
                let (Some(cosine), Some(sine)) = (angle(cosines.numbers), angle(sines.numbers))
                else {
                    return Err(self.fault("has too few angles"));
                };
                let (a, b) = (numbers[first], numbers[second]);
                numbers[first] = a * cosine - b * sine;
                numbers[second] = a * sine + b * cosine;
            }
        }
        Ok(found)
    }

    fn reduced(&self, of: impl Fn(&[f64]) -> f64) -> Result<Vec<f64>, GraphError> {
        let (x, axes) = (self.input(0)?, self.list("axes")?);
        let kept = |i: usize| !axes.contains(&(i as i64));
        let dims: Vec<u32> = (0..x.dims.len())
            .map(|i| if kept(i) { x.dims[i] } else { 1 })
            .collect();
        let mut groups = vec![Vec::new(); count(&dims)];
        let steps = strides(&dims);
        for (i, number) in x.numbers.iter().enumerate() {
            let at = index(i, x.dims);
            let own = at.iter().zip(&steps).enumerate();
            let own: usize = own
                .map(|(i, (at, s))| if kept(i) { at * s } else { 0 })
                .sum();
            groups[own].push(*number);
        }
        Ok(groups.iter().map(|group| of(group)).collect())
    }
}
