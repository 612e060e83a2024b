//! Type and shape inference: what each op takes and gives.
//!
//! The rules stand at the variants of [`Op`]. Symbols are compared by identity: a symbol agrees
//! with itself only, and only the fixed number 1 broadcasts.

mod attention;
mod elementwise;
mod layout;
mod linear;
mod reduce;

use std::fmt::Display;

use crate::{DType, Dim, GraphError, Op, Shape, State, StateId, Symbol, TensorType};

/// The types of `op`'s results for operands of types `inputs`.
///
/// `node` names the node in errors; `states` are the graph's. Never panics, whatever the operands.
///
/// # Errors
/// [`GraphError`] naming the node, the op and the operand or attribute that doesn't fit.
pub fn infer(
    node: &str,
    op: &Op,
    inputs: &[&TensorType],
    states: &[State],
) -> Result<Vec<TensorType>, GraphError> {
    let cx = Cx {
        node,
        op,
        inputs,
        states,
    };
    match *op {
        Op::Linear => linear::linear(&cx),
        Op::ExpertLinear => linear::expert_linear(&cx),
        Op::MatMul {
            transpose_a,
            transpose_b,
        } => linear::matmul(&cx, transpose_a, transpose_b),
        Op::Embedding => linear::embedding(&cx),
        Op::RmsNorm { eps } => linear::rms_norm(&cx, eps),
        Op::LayerNorm { eps } => linear::layer_norm(&cx, eps),
        Op::Conv1d {
            stride,
            padding,
            dilation,
            groups,
        } => linear::conv(&cx, &[stride], &[padding], &[dilation], groups),
        Op::Conv2d {
            stride,
            padding,
            dilation,
            groups,
        } => linear::conv(&cx, &stride, &padding, &dilation, groups),
        Op::Rope {
            dims,
            base,
            scaling,
            ..
        } => attention::rope(&cx, dims, base, scaling),
        Op::Attention {
            kv,
            causal,
            mask,
            scale,
            soft_cap,
            window,
        } => {
            cx.finite("scale", scale)?;
            if let Some(cap) = soft_cap {
                cx.positive("soft_cap", cap)?;
            }
            attention::attention(&cx, kv, causal, mask, window)
        }
        Op::KvAppend { state, at } => attention::kv_append(&cx, state, at),
        Op::StateRead { state } => attention::state_read(&cx, state),
        Op::CausalMask {
            keys,
            window,
            hidden,
        } => attention::causal_mask(&cx, keys, window, hidden),
        Op::Softmax { axis } => elementwise::softmax(&cx, axis),
        Op::Unary(f) => elementwise::unary(&cx, f),
        Op::Activation(_) => elementwise::float_map(&cx),
        Op::GatedActivation(_) => elementwise::gated(&cx),
        Op::SoftCap { cap } => {
            cx.positive("cap", cap)?;
            elementwise::float_map(&cx)
        }
        Op::Binary(f) => elementwise::binary(&cx, f),
        Op::Select => elementwise::select(&cx),
        Op::Cast { to } => elementwise::cast(&cx, to),
        Op::Quantize { to, axis } => elementwise::quantize(&cx, to, axis),
        Op::Dequantize { axis } => elementwise::dequantize(&cx, axis),
        Op::Gather { axis } => layout::gather(&cx, axis),
        Op::Scatter { axis } => layout::scatter(&cx, axis),
        Op::Reshape { ref shape } => layout::reshape(&cx, shape),
        Op::Transpose { ref perm } => layout::transpose(&cx, perm),
        Op::Broadcast { ref shape } => layout::broadcast_to(&cx, shape),
        Op::Slice {
            axis,
            start,
            end,
            step,
        } => layout::slice(&cx, axis, start, end, step),
        Op::Concat { axis } => layout::concat(&cx, axis),
        Op::Split { axis, ref sizes } => layout::split(&cx, axis, sizes),
        Op::Iota { start, length } => layout::iota(&cx, start, length),
        Op::Reduce {
            op,
            ref axes,
            keep_dims,
        } => reduce::reduce(&cx, op, axes, keep_dims),
        Op::TopK { k } => reduce::top_k(&cx, k),
        Op::ArgMax { axis } => reduce::arg_max(&cx, axis),
    }
}

/// What a rule returns.
type Inferred = Result<Vec<TensorType>, GraphError>;

/// One call of [`infer`]: its arguments, and the errors that name them.
struct Cx<'a> {
    node: &'a str,
    op: &'a Op,
    inputs: &'a [&'a TensorType],
    states: &'a [State],
}

/// An operand under the name that its op documents.
#[derive(Clone, Copy)]
struct Arg<'a> {
    cx: &'a Cx<'a>,
    name: &'static str,
    ty: &'a TensorType,
}

impl<'a> Cx<'a> {
    /// Fails unless there are `min` to `max` operands; `expected` says the same in words.
    fn count(&self, min: usize, max: usize, expected: &'static str) -> Result<(), GraphError> {
        let found = self.inputs.len();
        match (min..=max).contains(&found) {
            true => Ok(()),
            false => Err(GraphError::OperandCount {
                node: self.node.into(),
                op: self.op.name(),
                expected,
                found,
            }),
        }
    }

    /// Exactly these operands.
    fn args<const N: usize>(
        &'a self,
        names: [&'static str; N],
    ) -> Result<[Arg<'a>; N], GraphError> {
        let expected = ["no", "1", "2", "3", "4", "5"].get(N).copied();
        self.count(N, N, expected.unwrap_or("other"))?;
        Ok(std::array::from_fn(|i| self.arg(i, names[i])))
    }

    /// Operand `i`, which [`Cx::count`] has shown to exist.
    fn arg(&'a self, i: usize, name: &'static str) -> Arg<'a> {
        Arg {
            cx: self,
            name,
            ty: self.inputs[i],
        }
    }

    /// Operand `i`, if given.
    fn optional(&'a self, i: usize, name: &'static str) -> Option<Arg<'a>> {
        (i < self.inputs.len()).then(|| self.arg(i, name))
    }

    fn attribute<T>(
        &self,
        attribute: &'static str,
        found: impl Display,
        expected: impl Into<String>,
    ) -> Result<T, GraphError> {
        Err(GraphError::Attribute {
            node: self.node.into(),
            op: self.op.name(),
            attribute,
            found: found.to_string(),
            expected: expected.into(),
        })
    }

    fn finite(&self, attribute: &'static str, value: f32) -> Result<(), GraphError> {
        match value.is_finite() {
            true => Ok(()),
            false => self.attribute(attribute, value, "a finite number"),
        }
    }

    fn positive(&self, attribute: &'static str, value: f32) -> Result<(), GraphError> {
        match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => self.attribute(attribute, value, "a finite number above 0"),
        }
    }

    fn epsilon(&self, value: f32) -> Result<(), GraphError> {
        match value.is_finite() && value >= 0.0 {
            true => Ok(()),
            false => self.attribute("eps", value, "a finite number, 0 or above"),
        }
    }

    fn nonzero(&self, attribute: &'static str, value: u32) -> Result<(), GraphError> {
        match value {
            0 => self.attribute(attribute, value, "1 or more"),
            _ => Ok(()),
        }
    }

    /// A dimension given as an attribute.
    fn dim(&self, dim: Dim) -> Result<Dim, GraphError> {
        match dim {
            Dim::Sym(symbol) if symbol.0 as usize >= Symbol::COUNT => {
                Err(GraphError::SymbolRange {
                    name: self.node.into(),
                    symbol,
                })
            }
            _ => Ok(dim),
        }
    }

    /// A shape given as an attribute.
    fn shape(&self, shape: &Shape) -> Result<Shape, GraphError> {
        if shape.rank() > Shape::MAX_RANK {
            return Err(GraphError::Rank {
                name: self.node.into(),
                rank: shape.rank(),
            });
        }
        for &dim in shape.dims() {
            self.dim(dim)?;
        }
        Ok(shape.clone())
    }

    /// The state `id`.
    fn state(&self, attribute: &'static str, id: StateId) -> Result<&'a State, GraphError> {
        match self.states.get(id.index()) {
            Some(state) => Ok(state),
            None => self.attribute(
                attribute,
                format_args!("state number {}", id.0),
                format!("one of the graph's {} states", self.states.len()),
            ),
        }
    }

    fn state_error<T>(&self, state: &State, expected: &'static str) -> Result<T, GraphError> {
        Err(GraphError::StateType {
            node: self.node.into(),
            op: self.op.name(),
            state: state.name.clone(),
            found: state.ty.clone(),
            axis: state.axis,
            expected,
        })
    }

    /// `left` and `right`, operands or states, break `rule`.
    fn mismatch<T>(
        &self,
        left: (&'static str, &TensorType),
        right: (&'static str, &TensorType),
        rule: &'static str,
    ) -> Result<T, GraphError> {
        Err(GraphError::Mismatch {
            node: self.node.into(),
            op: self.op.name(),
            left: left.0,
            left_ty: left.1.clone(),
            right: right.0,
            right_ty: right.1.clone(),
            rule,
        })
    }
}

impl<'a> Arg<'a> {
    fn dims(&self) -> &'a [Dim] {
        self.ty.shape.dims()
    }

    fn rank(&self) -> usize {
        self.dims().len()
    }

    /// It is not what its op takes.
    fn wrong<T>(&self, expected: impl Into<String>) -> Result<T, GraphError> {
        Err(GraphError::Operand {
            node: self.cx.node.into(),
            op: self.cx.op.name(),
            operand: self.name,
            found: self.ty.clone(),
            expected: expected.into(),
        })
    }

    /// It doesn't fit `other`.
    fn against<T>(&self, other: Arg<'_>, rule: &'static str) -> Result<T, GraphError> {
        self.cx
            .mismatch((self.name, self.ty), (other.name, other.ty), rule)
    }

    fn require(self, holds: bool, expected: &str) -> Result<Self, GraphError> {
        match holds {
            true => Ok(self),
            false => self.wrong(expected),
        }
    }

    fn float(self) -> Result<Self, GraphError> {
        self.require(self.ty.dtype.is_float(), "f32, f16 or bf16")
    }

    fn float_or_block(self) -> Result<Self, GraphError> {
        let ok = self.ty.dtype.is_float() || self.ty.dtype.is_block();
        self.require(ok, "f32, f16, bf16 or a block-quantised type")
    }

    /// Of a plain type.
    fn plain(self) -> Result<Self, GraphError> {
        self.require(!self.ty.dtype.is_block(), "not block-quantised; cast first")
    }

    fn is(self, dtype: DType) -> Result<Self, GraphError> {
        match self.ty.dtype == dtype {
            true => Ok(self),
            false => self.wrong(dtype.name()),
        }
    }

    fn index(self) -> Result<Self, GraphError> {
        let ok = matches!(self.ty.dtype, DType::I32 | DType::I64);
        self.require(ok, "i32 or i64")
    }

    fn of_rank(self, rank: usize, form: &str) -> Result<Self, GraphError> {
        self.require(self.rank() == rank, form)
    }

    fn at_least(self, rank: usize, form: &str) -> Result<Self, GraphError> {
        self.require(self.rank() >= rank, form)
    }

    fn same_dtype(self, other: Arg<'_>) -> Result<Self, GraphError> {
        match self.ty.dtype == other.ty.dtype {
            true => Ok(self),
            false => other.against(self, "element types must agree; cast one"),
        }
    }

    /// Dimension `axis`, which the attribute `attribute` names.
    fn axis(&self, attribute: &'static str, axis: u32) -> Result<Dim, GraphError> {
        match self.dims().get(axis as usize) {
            Some(&dim) => Ok(dim),
            None => self.cx.attribute(
                attribute,
                axis,
                format!("an axis of {}, which is {}", self.name, self.ty),
            ),
        }
    }

    /// As [`Arg::axis`], the dimension not being 0.
    fn filled_axis(&self, attribute: &'static str, axis: u32) -> Result<Dim, GraphError> {
        match self.axis(attribute, axis)? {
            Dim::Fixed(0) => self.wrong(format!("at least one element along axis {axis}")),
            dim => Ok(dim),
        }
    }

    /// As [`Arg::axis`], the dimension being fixed.
    fn fixed_axis(&self, attribute: &'static str, axis: u32) -> Result<u32, GraphError> {
        match self.axis(attribute, axis)? {
            Dim::Fixed(n) => Ok(n),
            Dim::Sym(_) => self.wrong(format!("a fixed size along axis {axis}")),
        }
    }
}

/// One result.
fn one(dtype: DType, shape: impl Into<Shape>) -> Inferred {
    Ok(vec![TensorType::new(dtype, shape)])
}

/// The numpy broadcast of two lists of dimensions; only `Fixed(1)` stretches.
fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let mut out = long.to_vec();
    for (o, &s) in out[long.len() - short.len()..].iter_mut().zip(short) {
        match (*o, s) {
            (x, y) if x == y => {}
            (Dim::Fixed(1), y) => *o = y,
            (_, Dim::Fixed(1)) => {}
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests;
