//! Products.

use super::{Array, Operands, count, index, spread};
use crate::htp::GraphError;

impl Operands<'_> {
    /// The result of a product, or `None` of another operation.
    pub(super) fn product(&self) -> Result<Option<Vec<f64>>, GraphError> {
        match self.node.op {
            "MatMul" => self.matrices().map(Some),
            "FullyConnected" => self.connected().map(Some),
            "Conv2d" => self.convolution().map(Some),
            _ => Ok(None),
        }
    }

    fn matrices(&self) -> Result<Vec<f64>, GraphError> {
        let (a, b, dims) = (self.input(0)?, self.input(1)?, self.result(0)?);
        let turned = |name: &str| self.scalar(name).is_some_and(|t| t != 0.0);
        let (first, second) = (turned("transpose_in0"), turned("transpose_in1"));
        let split = |x: &Array<'_>| -> Result<(usize, usize, usize), GraphError> {
            match x.dims {
                [.., rows, columns] => {
                    let batch = x.dims.len() - 2;
                    Ok((batch, *rows as usize, *columns as usize))
                }
                _ => Err(self.fault("has an operand of less than 2 dimensions")),
            }
        };
        let ((a_batch, a_rows, a_columns), (b_batch, b_rows, b_columns)) = (split(&a)?, split(&b)?);
        let inner = if first { a_rows } else { a_columns };
        if inner != if second { b_columns } else { b_rows } {
            return Err(self.fault(format!("of {:?} and {:?}", a.dims, b.dims)));
        }
        let [.., rows, columns] = dims else {
            return Err(self.fault("has a result of less than 2 dimensions"));
        };
        let (rows, columns) = (*rows as usize, *columns as usize);
        let made = (
            if first { a_columns } else { a_rows },
            if second { b_rows } else { b_columns },
        );
        if made != (rows, columns) {
            return Err(self.fault(format!("gives {made:?}, not {dims:?}")));
        }
        let batch = &dims[..dims.len() - 2];
        let mut found = Vec::with_capacity(count(dims));
        for n in 0..count(batch) {
            let at = index(n, batch);
            let part = |x: &Array<'_>, batch: usize, size: usize| {
                let begin = spread(&at, &x.dims[..batch]) * size;
                x.numbers.get(begin..begin + size).map(<[f64]>::to_vec)
            };
            let (a, b) = (
                part(&a, a_batch, a_rows * a_columns),
                part(&b, b_batch, b_rows * b_columns),
            );
            let (Some(a), Some(b)) = (a, b) else {
                return Err(self.fault(format!("has no operands for {dims:?}")));
            };
            for i in 0..rows {
                for j in 0..columns {
                    let of = |k: usize| {
                        let a = a[if first {
                            k * a_columns + i
                        } else {
                            i * a_columns + k
                        }];
                        let b = b[if second {
                            j * b_columns + k
                        } else {
                            k * b_columns + j
                        }];
                        a * b
                    };
                    found.push((0..inner).map(of).sum());
                }
            }
        }
        Ok(found)
    }

    fn bias(&self) -> Result<Option<Array<'_>>, GraphError> {
        match self.node.inputs.len() {
            0..=2 => Ok(None),
            _ => self.input(2).map(Some),
        }
    }

    fn connected(&self) -> Result<Vec<f64>, GraphError> {
        let (x, w, bias) = (self.input(0)?, self.input(1)?, self.bias()?);
        let inner = w.width();
        if !x.numbers.len().is_multiple_of(inner) {
            return Err(self.fault(format!("of {:?} and {:?}", x.dims, w.dims)));
        }
        let mut found = Vec::new();
        for row in x.numbers.chunks_exact(inner) {
            for (n, w) in w.numbers.chunks_exact(inner).enumerate() {
                let bias = bias.and_then(|b| b.numbers.get(n).copied()).unwrap_or(0.0);
                found.push(row.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() + bias);
            }
        }
        Ok(found)
    }

    /// Of `[N, H, W, C]` by `[H, W, C, O]`.
    fn convolution(&self) -> Result<Vec<f64>, GraphError> {
        let (x, w, bias) = (self.input(0)?, self.input(1)?, self.bias()?);
        let (stride, pad) = (self.list("stride")?, self.list("pad_amount")?);
        let (&[_, height, width, channels], &[high, wide, taps, outputs]) = (x.dims, w.dims) else {
            return Err(self.fault("is of 4 dimensions each"));
        };
        let (&[sy, sx], &[top, _, left, _]) = (&stride[..], &pad[..]) else {
            return Err(self.fault("has 2 strides and 4 paddings"));
        };
        let dims = self.result(0)?;
        if taps != channels || dims.first() != x.dims.first() || dims.last() != Some(&outputs) {
            return Err(self.fault(format!("of {:?} and {:?} to {dims:?}", x.dims, w.dims)));
        }
        let mut found = Vec::with_capacity(count(dims));
        for i in 0..count(dims) {
            let &[n, y, x_out, o] = &index(i, dims)[..] else {
                return Err(self.fault("has a result of 4 dimensions"));
            };
            let mut sum = bias.and_then(|b| b.numbers.get(o).copied()).unwrap_or(0.0);
            for (dy, dx) in
                (0..i64::from(high)).flat_map(|y| (0..i64::from(wide)).map(move |x| (y, x)))
            {
                let (at_y, at_x) = (y as i64 * sy + dy - top, x_out as i64 * sx + dx - left);
                let inside =
                    (0..i64::from(height)).contains(&at_y) && (0..i64::from(width)).contains(&at_x);
                if !inside {
                    continue;
                }
                let at = (n as i64 * i64::from(height) + at_y) * i64::from(width) + at_x;
                for c in 0..channels as usize {
                    let x = x.numbers[at as usize * channels as usize + c];
                    let tap = (dy * i64::from(wide) + dx) as usize * channels as usize + c;
                    sum += x * w.numbers[tap * outputs as usize + o];
                }
            }
            found.push(sum);
        }
        Ok(found)
    }
}
