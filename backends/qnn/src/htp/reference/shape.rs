//! Operations that move numbers.

use super::{Operands, count, index, spread, strides};
use crate::htp::GraphError;

impl Operands<'_> {
    /// The results of an operation that moves numbers.
    pub(super) fn shape(&self) -> Result<Vec<Vec<f64>>, GraphError> {
        let one = match self.node.op {
            "Reshape" => self.input(0)?.numbers.to_vec(),
            "Transpose" => self.transposed()?,
            "Concat" => self.joined()?,
            "Split" => return self.split(),
            "StridedSlice" => self.slice()?,
            "Tile" => self.tiled()?,
            "Pad" => self.padded()?,
            "Gather" => self.gathered()?,
            "ScatterNd" => self.scattered()?,
            "TopK" => return self.most(),
            "Argmax" => self.places()?,
            _ => return Err(self.fault("is not known here")),
        };
        Ok(vec![one])
    }

    /// Numbers of operand 0 at the places that `at` makes of those of the result.
    fn moved(&self, at: impl Fn(&[usize]) -> Option<Vec<usize>>) -> Result<Vec<f64>, GraphError> {
        let (x, dims) = (self.input(0)?, self.result(0)?);
        let steps = strides(x.dims);
        let each = (0..count(dims)).map(|i| {
            let Some(from) = at(&index(i, dims)) else {
                return Some(0.0);
            };
            let place: usize = from.iter().zip(&steps).map(|(i, s)| i * s).sum();
            x.numbers.get(place).copied()
        });
        let found: Option<Vec<f64>> = each.collect();
        found.ok_or_else(|| self.fault("reads beyond its operand"))
    }

    fn transposed(&self) -> Result<Vec<f64>, GraphError> {
        let order = self.list("perm")?;
        self.moved(|at| {
            let mut from = vec![0; at.len()];
            for (i, axis) in at.iter().zip(&order) {
                if let Some(place) = from.get_mut(*axis as usize) {
                    *place = *i;
                }
            }
            Some(from)
        })
    }

    fn joined(&self) -> Result<Vec<f64>, GraphError> {
        let (axis, dims) = (self.axis()?, self.result(0)?);
        let mut found = Vec::with_capacity(count(dims));
        for outer in 0..count(&dims[..axis]) {
            for i in 0..self.node.inputs.len() {
                let x = self.input(i)?;
                let run = count(&x.dims[axis..]);
                let from = x.numbers.get(outer * run..(outer + 1) * run);
                found.extend(from.ok_or_else(|| self.fault("joins other sizes"))?);
            }
        }
        Ok(found)
    }

    fn split(&self) -> Result<Vec<Vec<f64>>, GraphError> {
        let (x, axis) = (self.input(0)?, self.axis()?);
        let run = count(&x.dims[axis..]);
        let mut begin = 0;
        let mut all = Vec::new();
        for i in 0..self.node.outputs.len() {
            let own = count(&self.result(i)?[axis..]);
            let rows = x.numbers.chunks_exact(run.max(1));
            let part: Option<Vec<&[f64]>> = rows.map(|row| row.get(begin..begin + own)).collect();
            let part = part.ok_or_else(|| self.fault("splits beyond its operand"))?;
            all.push(part.concat());
            begin += own;
        }
        Ok(all)
    }

    fn slice(&self) -> Result<Vec<f64>, GraphError> {
        let ranges = self.list("ranges")?;
        self.moved(|at| {
            let each = at.iter().zip(ranges.chunks_exact(3));
            let from = each.map(|(i, range)| (range[0] + *i as i64 * range[2]) as usize);
            Some(from.collect())
        })
    }

    fn tiled(&self) -> Result<Vec<f64>, GraphError> {
        let dims = self.input(0)?.dims;
        self.moved(|at| Some(at.iter().zip(dims).map(|(i, d)| i % *d as usize).collect()))
    }

    /// With zeros.
    fn padded(&self) -> Result<Vec<f64>, GraphError> {
        let (dims, amounts) = (self.input(0)?.dims, self.list("pad_amount")?);
        self.moved(|at| {
            let each = at.iter().zip(dims).zip(amounts.chunks_exact(2));
            each.map(|((i, d), amount)| {
                let from = usize::try_from(*i as i64 - amount[0]).ok()?;
                Some(from).filter(|f| *f < *d as usize)
            })
            .collect()
        })
    }

    fn gathered(&self) -> Result<Vec<f64>, GraphError> {
        let (x, chosen, axis) = (self.input(0)?, self.input(1)?, self.axis()?);
        let run = count(&x.dims[axis + 1..]);
        let mut found = Vec::new();
        for rows in x.numbers.chunks_exact((run * x.dims[axis] as usize).max(1)) {
            for &row in chosen.numbers {
                let row = row as usize;
                let from = rows.get(row * run..(row + 1) * run);
                found.extend(from.ok_or_else(|| self.fault(format!("reads row {row}")))?);
            }
        }
        Ok(found)
    }

    fn scattered(&self) -> Result<Vec<f64>, GraphError> {
        let (x, places, given) = (self.input(0)?, self.input(1)?, self.input(2)?);
        let depth = places.width();
        let Some(inner) = x.dims.get(depth..) else {
            return Err(self.fault("has places of more dimensions than its operand"));
        };
        let run = count(inner);
        let mut found = x.numbers.to_vec();
        let own = places.numbers.chunks_exact(depth);
        for (at, row) in own.zip(given.numbers.chunks_exact(run.max(1))) {
            let at: Vec<usize> = at.iter().map(|i| *i as usize).collect();
            let place = spread(&at, &x.dims[..depth]) * run;
            let to = found.get_mut(place..place + run);
            to.ok_or_else(|| self.fault("writes beyond its operand"))?
                .copy_from_slice(row);
        }
        Ok(found)
    }

    /// The largest of each row, and where they are.
    fn most(&self) -> Result<Vec<Vec<f64>>, GraphError> {
        let (x, k) = (self.input(0)?, self.scalar("k").unwrap_or(1.0) as usize);
        let mut all = vec![Vec::new(), Vec::new()];
        for row in x.numbers.chunks_exact(x.width()) {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
            all[0].extend(order.iter().take(k).map(|i| row[*i]));
            all[1].extend(order.iter().take(k).map(|i| *i as f64));
        }
        Ok(all)
    }

    /// Where the largest of each row is.
    fn places(&self) -> Result<Vec<f64>, GraphError> {
        let x = self.input(0)?;
        if self.axis()? + 1 != x.dims.len() {
            return Err(self.fault("is of the last dimension only"));
        }
        let rows = x.numbers.chunks_exact(x.width());
        let place = |row: &[f64]| {
            let each = row.iter().enumerate();
            each.fold(0, |best, (i, x)| if *x > row[best] { i } else { best })
        };
        Ok(rows.map(|row| place(row) as f64).collect())
    }
}
