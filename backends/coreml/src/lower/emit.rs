//! Operations of MIL with the types of their results.

use crate::CoreMlError;
use crate::package::{DataType, Literal, Operand, Tensor};

use super::Lowering;

type Made = Result<Tensor, CoreMlError>;

/// What two shapes broadcast to, as numpy does it.
pub(super) fn broadcast(a: &[u32], b: &[u32]) -> Vec<u32> {
    let rank = a.len().max(b.len());
    let at = |dims: &[u32], i: usize| match (i + dims.len()).checked_sub(rank) {
        Some(i) => dims[i],
        None => 1,
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (1, n) => n,
            (n, _) => n,
        })
        .collect()
}

impl Lowering<'_> {
    /// A number in the program's precision.
    pub(super) fn number(&mut self, x: f32) -> Made {
        let literal = Literal::Float(self.float, x);
        self.f.constant(literal)
    }

    /// An operation of one operand that keeps its type.
    pub(super) fn unary(&mut self, kind: &str, name: &str, x: Tensor) -> Made {
        self.unary_with(kind, name, x, &[])
    }

    /// The same with parameters.
    pub(super) fn unary_with(
        &mut self,
        kind: &str,
        name: &str,
        x: Tensor,
        params: &[(&str, Operand)],
    ) -> Made {
        let (dtype, dims) = (self.f.dtype(x), self.f.dims(x).to_vec());
        let mut operands = vec![("x", Operand::One(x))];
        operands.extend_from_slice(params);
        self.f.op(kind, name, &operands, dtype, &dims)
    }

    /// An operation of two operands that broadcasts them.
    pub(super) fn binary(&mut self, kind: &str, name: &str, a: Tensor, b: Tensor) -> Made {
        let dtype = self.f.dtype(a);
        self.binary_to(kind, name, a, b, dtype)
    }

    /// The same with a result of another type.
    pub(super) fn binary_to(
        &mut self,
        kind: &str,
        name: &str,
        a: Tensor,
        b: Tensor,
        dtype: DataType,
    ) -> Made {
        let dims = broadcast(self.f.dims(a), self.f.dims(b));
        let operands = [("x", a.into()), ("y", b.into())];
        self.f.op(kind, name, &operands, dtype, &dims)
    }

    /// `x` times a number.
    pub(super) fn times(&mut self, name: &str, x: Tensor, factor: f32) -> Made {
        if factor == 1.0 {
            return Ok(x);
        }
        let factor = Literal::Float(self.f.dtype(x), factor);
        let factor = self.f.constant(factor)?;
        self.binary("mul", name, x, factor)
    }

    /// `x` in `dims`, of as many elements.
    pub(super) fn reshape(&mut self, name: &str, x: Tensor, dims: &[u32]) -> Made {
        if self.f.dims(x) == dims {
            return Ok(x);
        }
        let dtype = self.f.dtype(x);
        let shape = dims.iter().map(|n| *n as i32).collect::<Vec<_>>();
        let operands = [("x", x.into()), ("shape", shape.into())];
        self.f.op("reshape", name, &operands, dtype, dims)
    }

    /// Output axis `i` is input axis `perm[i]`.
    pub(super) fn transpose(&mut self, name: &str, x: Tensor, perm: &[usize]) -> Made {
        let (dtype, from) = (self.f.dtype(x), self.f.dims(x));
        let dims: Vec<u32> = perm.iter().map(|p| from[*p]).collect();
        // axes of one element move for nothing
        let wide = |p: &&usize| from[**p] != 1;
        if perm.iter().filter(wide).is_sorted() {
            return self.reshape(name, x, &dims);
        }
        let perm = perm.iter().map(|p| *p as i32).collect::<Vec<_>>();
        let operands = [("x", x.into()), ("perm", perm.into())];
        self.f.op("transpose", name, &operands, dtype, &dims)
    }

    /// `x` converted.
    pub(super) fn cast(&mut self, name: &str, x: Tensor, dtype: DataType) -> Made {
        if self.f.dtype(x) == dtype {
            return Ok(x);
        }
        let dims = self.f.dims(x).to_vec();
        let operands = [("x", x.into()), ("dtype", dtype.name().into())];
        self.f.op("cast", name, &operands, dtype, &dims)
    }

    /// `x` in the program's precision.
    pub(super) fn cast_to_float(&mut self, name: &str, x: Tensor) -> Made {
        let float = self.float;
        self.cast(name, x, float)
    }

    /// Tensors joined along `axis`.
    pub(super) fn concat(&mut self, name: &str, parts: &[Tensor], axis: usize) -> Made {
        if let [one] = parts {
            return Ok(*one);
        }
        let dtype = self.f.dtype(parts[0]);
        let mut dims = self.f.dims(parts[0]).to_vec();
        dims[axis] = parts.iter().map(|p| self.f.dims(*p)[axis]).sum();
        let operands = [
            ("values", parts.into()),
            ("axis", (axis as i32).into()),
            ("interleave", false.into()),
        ];
        self.f.op("concat", name, &operands, dtype, &dims)
    }

    /// `x[start..end:step]` along `axis`.
    pub(super) fn slice(
        &mut self,
        name: &str,
        x: Tensor,
        axis: usize,
        [start, end, step]: [u32; 3],
    ) -> Made {
        let (dtype, mut dims) = (self.f.dtype(x), self.f.dims(x).to_vec());
        if (start, end, step) == (0, dims[axis], 1) {
            return Ok(x);
        }
        let rank = dims.len();
        let (mut begin, mut stop, mut stride) = (vec![0; rank], vec![0; rank], vec![1; rank]);
        for (stop, n) in stop.iter_mut().zip(&dims) {
            *stop = *n as i32;
        }
        (begin[axis], stop[axis], stride[axis]) = (start as i32, end as i32, step as i32);
        dims[axis] = end.saturating_sub(start).div_ceil(step.max(1));
        let others: Vec<bool> = (0..rank).map(|i| i != axis).collect();
        let operands = [
            ("x", x.into()),
            ("begin", begin.into()),
            ("end", stop.into()),
            ("stride", stride.into()),
            ("begin_mask", others.clone().into()),
            ("end_mask", others.into()),
            ("squeeze_mask", vec![false; rank].into()),
        ];
        self.f.op("slice_by_index", name, &operands, dtype, &dims)
    }

    /// The parts of `sizes` along `axis`.
    pub(super) fn split(
        &mut self,
        name: &str,
        x: Tensor,
        axis: usize,
        sizes: &[u32],
    ) -> Result<Vec<Tensor>, CoreMlError> {
        if sizes.len() == 1 {
            return Ok(vec![x]);
        }
        let dtype = self.f.dtype(x);
        let results: Vec<(DataType, Vec<u32>)> = sizes
            .iter()
            .map(|n| {
                let mut dims = self.f.dims(x).to_vec();
                dims[axis] = *n;
                (dtype, dims)
            })
            .collect();
        let sizes: Vec<i32> = sizes.iter().map(|n| *n as i32).collect();
        let operands = [
            ("x", x.into()),
            ("split_sizes", sizes.into()),
            ("axis", (axis as i32).into()),
        ];
        self.f.op_of_many("split", name, &operands, &results)
    }

    /// The slices of `x` along `axis` that `indices` name.
    pub(super) fn gather(&mut self, name: &str, x: Tensor, indices: Tensor, axis: usize) -> Made {
        let (dtype, from) = (self.f.dtype(x), self.f.dims(x));
        let mut dims = from[..axis].to_vec();
        dims.extend_from_slice(self.f.dims(indices));
        dims.extend_from_slice(&from[axis + 1..]);
        let mut operands = vec![
            ("x", Operand::One(x)),
            ("indices", indices.into()),
            ("axis", (axis as i32).into()),
        ];
        if self.f.target().has_ios16() {
            operands.push(("batch_dims", 0.into()));
        }
        if self.f.target().has_ios17() {
            operands.push(("validate_indices", false.into()));
        }
        self.f.op("gather", name, &operands, dtype, &dims)
    }

    /// `x` stretched to `dims` where it has 1.
    pub(super) fn stretch(&mut self, name: &str, x: Tensor, dims: &[u32]) -> Made {
        let mut from = vec![1; dims.len().saturating_sub(self.f.dims(x).len())];
        from.extend_from_slice(self.f.dims(x));
        let x = self.reshape(&format!("{name}_rank"), x, &from)?;
        if from == dims {
            return Ok(x);
        }
        let dtype = self.f.dtype(x);
        let reps = dims
            .iter()
            .zip(&from)
            .map(|(to, n)| (to / n.max(&1)) as i32);
        let reps: Vec<i32> = reps.collect();
        let operands = [("x", x.into()), ("reps", reps.into())];
        self.f.op("tile", name, &operands, dtype, dims)
    }

    /// A reduction over `axes`.
    pub(super) fn reduce(
        &mut self,
        kind: &str,
        name: &str,
        x: Tensor,
        axes: &[usize],
        keep: bool,
    ) -> Made {
        let dtype = self.f.dtype(x);
        let dims = self.f.dims(x).iter().enumerate();
        let dims: Vec<u32> = dims
            .filter_map(|(i, n)| match (axes.contains(&i), keep) {
                (true, true) => Some(1),
                (true, false) => None,
                (false, _) => Some(*n),
            })
            .collect();
        let axes: Vec<i32> = axes.iter().map(|a| *a as i32).collect();
        let operands = [
            ("x", x.into()),
            ("axes", axes.into()),
            ("keep_dims", keep.into()),
        ];
        self.f.op(kind, name, &operands, dtype, &dims)
    }

    /// Shares that sum to 1 along `axis`.
    pub(super) fn softmax(&mut self, name: &str, x: Tensor, axis: usize) -> Made {
        self.unary_with("softmax", name, x, &[("axis", (axis as i32).into())])
    }

    /// `a · b` of the last two dimensions; `b` given as `[…, N, K]` if `turned`.
    pub(super) fn matmul(
        &mut self,
        name: &str,
        [a, b]: [Tensor; 2],
        [a_turned, b_turned]: [bool; 2],
    ) -> Made {
        let dtype = self.f.dtype(a);
        let (x, y) = (self.f.dims(a), self.f.dims(b));
        let (m, n) = (x.len(), y.len());
        let rows = x[if a_turned { m - 1 } else { m - 2 }];
        let columns = y[if b_turned { n - 2 } else { n - 1 }];
        let mut dims = broadcast(&x[..m - 2], &y[..n - 2]);
        dims.extend([rows, columns]);
        let operands = [
            ("x", a.into()),
            ("y", b.into()),
            ("transpose_x", a_turned.into()),
            ("transpose_y", b_turned.into()),
        ];
        self.f.op("matmul", name, &operands, dtype, &dims)
    }

    /// `a` where `condition`, else `b`; all of them stretched to one shape.
    pub(super) fn select(&mut self, name: &str, condition: Tensor, a: Tensor, b: Tensor) -> Made {
        let dtype = self.f.dtype(a);
        let dims = broadcast(self.f.dims(a), self.f.dims(b));
        let dims = broadcast(&dims, self.f.dims(condition));
        let condition = self.stretch(&format!("{name}_if"), condition, &dims)?;
        let a = self.stretch(&format!("{name}_then"), a, &dims)?;
        let b = self.stretch(&format!("{name}_else"), b, &dims)?;
        let operands = [("cond", condition.into()), ("a", a.into()), ("b", b.into())];
        self.f.op("select", name, &operands, dtype, &dims)
    }

    /// Integers in one dimension.
    pub(super) fn integers(&mut self, numbers: Vec<i32>) -> Made {
        self.f.constant(Literal::I32s(numbers))
    }
}
