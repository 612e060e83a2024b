//! The reference of the whole op set: slow, obvious, and what every kernel is compared with.
//!
//! [`evaluate_node`] runs one op on borrowed operands, [`evaluate`] a run of nodes. What each op
//! means stands at [`Op`]; where that leaves room, the reference does this:
//! - Arithmetic on floats is done in f64, sums included, and rounded to F32 once at the end, then
//!   to the result's type. Exceptions, where a step would show: Quantize divides in F32, and Rope's
//!   angles are F32 products.
//! - A query of attention whose every key row is hidden or masked by −∞ is an error. A Softmax over
//!   nothing but −∞ is NaN.
//!
//! Operands are checked by [`anynpu_ir::infer`] with their actual sizes before anything is
//! computed, so that operands that don't fit are errors too, never panics.

mod attention;
mod conv;
mod elementwise;
mod error;
mod index;
mod linear;
mod norm;
mod quant;
mod reduce;
mod shape_ops;
mod state;
mod tensor;

use std::borrow::Cow;

use anynpu_hal::WeightSource;
use anynpu_ir::{
    AttentionKv, DType, Dim, Op, Shape, State, StateId, Subgraph, SymbolValues, TensorType,
    ValueId, infer,
};

pub use error::ReferenceError;
pub use state::{NoStates, StateDataMut, StateMut, StateRef, StateStore, States};
pub use tensor::{DataRef, Tensor, TensorData, TensorRef};

/// Evaluates one op on `inputs`, its operands in the order it documents.
///
/// `node` names it in errors. `states` are read and written by the ops that have any; `symbols`
/// give run-time sizes in the op's attributes, and the rows of states that attention sees.
///
/// # Errors
/// [`ReferenceError`] naming the node, for operands that don't fit, indices out of range and
/// results that don't fit in memory. A failed KvAppend has written nothing.
pub fn evaluate_node(
    node: &str,
    op: &Op,
    inputs: &[TensorRef<'_>],
    states: &mut dyn States,
    symbols: &SymbolValues,
) -> Result<Vec<Tensor>, ReferenceError> {
    let op = resolve(op, symbols);
    let results = infer_actual(node, &op, inputs, states)?;
    let call = Call {
        node,
        op: &op,
        inputs,
        results,
    };
    let empty = |r: &ResultType| r.shape.contains(&0);
    if !call.results.is_empty() && call.results.iter().all(empty) {
        return call.results.iter().map(ResultType::empty).collect();
    }
    let one = |tensor: Result<Tensor, ReferenceError>| tensor.map(|t| vec![t]);
    match *op {
        Op::Linear => one(linear::linear(&call)),
        Op::ExpertLinear => one(linear::expert_linear(&call)),
        Op::MatMul {
            transpose_a,
            transpose_b,
        } => one(linear::matmul(&call, transpose_a, transpose_b)),
        Op::Embedding => one(linear::embedding(&call)),
        Op::RmsNorm { eps } => one(norm::rms_norm(&call, eps)),
        Op::LayerNorm { eps } => one(norm::layer_norm(&call, eps)),
        Op::Softmax { axis } => one(norm::softmax(&call, axis as usize)),
        Op::Rope {
            style,
            dims,
            base,
            scaling,
        } => one(attention::rope(&call, style, dims, base, scaling)),
        Op::Attention {
            kv,
            causal,
            mask,
            scale,
            soft_cap,
            window,
        } => {
            let scores = attention::Scores {
                causal,
                mask,
                scale: scale.into(),
                soft_cap: soft_cap.map(f64::from),
                window,
            };
            one(attention::attention(&call, kv, &scores, states, symbols))
        }
        Op::CausalMask { window, hidden, .. } => one(attention::causal_mask(&call, window, hidden)),
        Op::KvAppend { state, at } => {
            state::kv_append(&call, state, at.resolve(symbols) as usize, states)?;
            Ok(Vec::new())
        }
        Op::StateRead { state } => one(state::state_read(&call, state, states)),
        Op::Unary(f) => one(elementwise::unary(&call, f)),
        Op::Activation(f) => one(elementwise::activation(&call, f)),
        Op::GatedActivation(f) => one(elementwise::gated(&call, f)),
        Op::SoftCap { cap } => one(elementwise::soft_cap(&call, cap)),
        Op::Binary(f) => one(elementwise::binary(&call, f)),
        Op::Select => one(elementwise::select(&call)),
        Op::Gather { axis } => one(shape_ops::gather(&call, axis as usize)),
        Op::Scatter { axis } => one(shape_ops::scatter(&call, axis as usize)),
        Op::Reshape { .. } => one(shape_ops::reshape(&call)),
        Op::Transpose { ref perm } => one(shape_ops::transpose(&call, perm)),
        Op::Broadcast { .. } => one(shape_ops::broadcast(&call)),
        Op::Slice {
            axis, start, step, ..
        } => one(shape_ops::slice(
            &call,
            axis as usize,
            start as usize,
            step as usize,
        )),
        Op::Concat { axis } => one(shape_ops::concat(&call, axis as usize)),
        Op::Split { axis, ref sizes } => shape_ops::split(&call, axis as usize, sizes),
        Op::Iota { start, .. } => one(shape_ops::iota(&call, start.resolve(symbols))),
        Op::Reduce { op, ref axes, .. } => one(reduce::reduce(&call, op, axes)),
        Op::TopK { k } => reduce::top_k(&call, k as usize),
        Op::ArgMax { axis } => one(reduce::arg_max(&call, axis as usize)),
        Op::Cast { to } => one(quant::cast(&call, to)),
        Op::Quantize { to, axis } => one(quant::quantize(&call, to, axis)),
        Op::Dequantize { axis } => one(quant::dequantize(&call, axis)),
        Op::Conv1d {
            stride,
            padding,
            dilation,
            groups,
        } => one(conv::conv(
            &call,
            &[stride],
            &[padding],
            &[dilation],
            groups,
        )),
        Op::Conv2d {
            ref stride,
            ref padding,
            ref dilation,
            groups,
        } => one(conv::conv(&call, stride, padding, dilation, groups)),
        _ => Err(call.unknown()),
    }
}

/// Evaluates `run` on `inputs`, in the order of [`Subgraph::inputs`], and returns its outputs in
/// the order of [`Subgraph::outputs`].
///
/// # Errors
/// As [`evaluate_node`]; also for inputs, weights and states of other types than the graph
/// declares under `symbols`. States written before the error stay written.
pub fn evaluate(
    run: &Subgraph<'_>,
    inputs: &[TensorRef<'_>],
    weights: &dyn WeightSource,
    states: &mut dyn States,
    symbols: &SymbolValues,
) -> Result<Vec<Tensor>, ReferenceError> {
    let graph = run.graph();
    if inputs.len() != run.inputs().len() {
        return Err(ReferenceError::InputCount {
            expected: run.inputs().len(),
            found: inputs.len(),
        });
    }
    for &id in run.states() {
        state::check_shape(graph.state(id), id, states, symbols)?;
    }
    let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(graph.values().len());
    shapes.extend(graph.values().iter().map(|v| v.ty.shape.resolve(symbols)));
    let check = |id: ValueId, found: TensorRef<'_>| {
        let value = graph.value(id);
        let expected = &shapes[id.index()];
        match found.dtype() == value.ty.dtype && found.shape() == &expected[..] {
            true => Ok(()),
            false => Err(ReferenceError::ValueType {
                value: value.name.clone(),
                found_dtype: found.dtype(),
                found: found.shape().to_vec(),
                expected_dtype: value.ty.dtype,
                expected: expected.clone(),
            }),
        }
    };
    let mut given: Vec<Option<TensorRef<'_>>> = vec![None; graph.values().len()];
    for (&id, &input) in run.inputs().iter().zip(inputs) {
        check(id, input)?;
        given[id.index()] = Some(input);
    }
    let mut views = Vec::with_capacity(run.weights().len());
    for &w in run.weights() {
        let weight = graph.weight(w);
        views.push(match &weight.inline {
            Some(bytes) => (graph.ty(weight.value).dtype, Cow::Borrowed(&bytes[..])),
            None => {
                let view = weights.weight(&weight.name)?;
                (view.dtype, view.bytes)
            }
        });
    }
    for (&w, (dtype, bytes)) in run.weights().iter().zip(&views) {
        let (weight, dtype) = (graph.weight(w), *dtype);
        let shape = &shapes[weight.value.index()];
        let tensor = TensorRef::new(shape, DataRef::Raw { dtype, bytes })?;
        check(weight.value, tensor)?;
        given[weight.value.index()] = Some(tensor);
    }
    let mut made: Vec<Option<Tensor>> = vec![None; graph.values().len()];
    for (_, node) in run.nodes() {
        let operands: Vec<TensorRef<'_>> = node
            .inputs
            .iter()
            .map(|id| {
                let made = made[id.index()].as_ref().map(Tensor::view);
                made.or(given[id.index()])
                    .expect("a run's operands are its inputs, its weights or made earlier")
            })
            .collect();
        let results = evaluate_node(&node.name, &node.op, &operands, states, symbols)?;
        for (&id, result) in node.outputs.iter().zip(results) {
            check(id, result.view())?;
            made[id.index()] = Some(result);
        }
    }
    Ok(run
        .outputs()
        .iter()
        .map(|id| made[id.index()].clone().expect("a run makes its outputs"))
        .collect())
}

/// One call of [`evaluate_node`] whose operands fit the op.
struct Call<'a> {
    node: &'a str,
    op: &'a Op,
    inputs: &'a [TensorRef<'a>],
    results: Vec<ResultType>,
}

/// Type of a result.
struct ResultType {
    dtype: DType,
    shape: Vec<usize>,
}

impl ResultType {
    /// The result if it has no elements.
    fn empty(&self) -> Result<Tensor, ReferenceError> {
        Tensor::from_bytes(self.dtype, &self.shape[..], &[])
    }
}

impl<'a> Call<'a> {
    /// Operand `i`.
    fn input(&self, i: usize) -> TensorRef<'a> {
        self.inputs[i]
    }

    /// Operand `i` if it was given.
    fn optional(&self, i: usize) -> Option<TensorRef<'a>> {
        self.inputs.get(i).copied()
    }

    /// Elements of operand `i`, if it was given, as f32.
    fn optional_floats(&self, i: usize) -> Result<Option<Cow<'a, [f32]>>, ReferenceError> {
        self.optional(i).map(|t| t.floats()).transpose()
    }

    /// Shape of the first result.
    fn shape(&self) -> &[usize] {
        &self.results[0].shape
    }

    /// Element type of the first result.
    fn dtype(&self) -> DType {
        self.results[0].dtype
    }

    /// The first result, of floats, rounded to its type.
    fn floats(&self, values: Vec<f32>) -> Result<Tensor, ReferenceError> {
        Tensor::from_f32(self.dtype(), self.shape(), values)
    }

    /// The first result, of integers or truth values, wrapped to its type.
    fn integers(&self, values: Vec<i64>) -> Result<Tensor, ReferenceError> {
        Tensor::from_i64(self.dtype(), self.shape(), values)
    }

    /// The first result, from little-endian bytes of its type.
    fn bytes(&self, bytes: &[u8]) -> Result<Tensor, ReferenceError> {
        Tensor::from_bytes(self.dtype(), self.shape(), bytes)
    }

    /// The op or its function is one that this reference lacks.
    fn unknown(&self) -> ReferenceError {
        ReferenceError::UnknownOp {
            node: self.node.into(),
            op: self.op.name(),
        }
    }

    /// Elements of operand `i`, each an index below `limit`.
    fn indices(
        &self,
        i: usize,
        operand: &'static str,
        limit: usize,
    ) -> Result<Vec<usize>, ReferenceError> {
        let values = self.input(i).integers()?;
        let checked = values.into_iter().enumerate().map(|(at, index)| {
            usize::try_from(index)
                .ok()
                .filter(|&n| n < limit)
                .ok_or_else(|| ReferenceError::Index {
                    node: self.node.into(),
                    op: self.op.name(),
                    operand,
                    at,
                    index,
                    limit,
                })
        });
        checked.collect()
    }
}

/// `op` with the run-time sizes in its attributes as numbers.
fn resolve<'a>(op: &'a Op, symbols: &SymbolValues) -> Cow<'a, Op> {
    let fix = |dim: Dim| Dim::Fixed(dim.resolve(symbols));
    let fix_all = |shape: &Shape| Shape(shape.0.iter().map(|&d| fix(d)).collect());
    Cow::Owned(match op {
        Op::KvAppend { state, at } => Op::KvAppend {
            state: *state,
            at: fix(*at),
        },
        Op::CausalMask {
            keys,
            window,
            hidden,
        } => Op::CausalMask {
            keys: fix(*keys),
            window: *window,
            hidden: *hidden,
        },
        Op::Reshape { shape } => Op::Reshape {
            shape: fix_all(shape),
        },
        Op::Broadcast { shape } => Op::Broadcast {
            shape: fix_all(shape),
        },
        Op::Iota { start, length } => Op::Iota {
            start: fix(*start),
            length: fix(*length),
        },
        _ => return Cow::Borrowed(op),
    })
}

/// Types of the results for operands and states of the sizes they actually have.
fn infer_actual(
    node: &str,
    op: &Op,
    inputs: &[TensorRef<'_>],
    states: &dyn States,
) -> Result<Vec<ResultType>, ReferenceError> {
    let types = inputs
        .iter()
        .map(|t| t.ty())
        .collect::<Result<Vec<TensorType>, _>>()?;
    let types: Vec<&TensorType> = types.iter().collect();
    let mut bound = Vec::new();
    let op = renumber(op, |id| {
        let state = states.get(id).ok_or_else(|| ReferenceError::UnknownState {
            node: node.into(),
            id,
        })?;
        let mut ty = state.tensor.ty()?;
        // graphs declare floats, whatever their home keeps of them
        if ty.dtype == DType::Q8_0 {
            ty.dtype = DType::F32;
        }
        bound.push(State {
            name: state.name.into(),
            ty,
            axis: state.axis,
        });
        Ok(StateId(bound.len() as u32 - 1))
    })?;
    let symbols = SymbolValues::default();
    infer(node, &op, &types, &bound)?
        .into_iter()
        .map(|ty| {
            let shape = ty.shape.resolve(&symbols);
            let fits = tensor::bytes_of(DType::I64, &shape)
                .is_some_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok());
            match fits {
                true => Ok(ResultType {
                    dtype: ty.dtype,
                    shape,
                }),
                false => Err(ReferenceError::OutOfMemory {
                    node: node.into(),
                    dtype: ty.dtype,
                    shape,
                }),
            }
        })
        .collect()
}

/// `op` with each of its states replaced.
fn renumber(
    op: &Op,
    mut number: impl FnMut(StateId) -> Result<StateId, ReferenceError>,
) -> Result<Cow<'_, Op>, ReferenceError> {
    let mut op = Cow::Borrowed(op);
    if op.states().next().is_none() {
        return Ok(op);
    }
    match op.to_mut() {
        Op::Attention {
            kv: AttentionKv::State { k, v },
            ..
        } => (*k, *v) = (number(*k)?, number(*v)?),
        Op::KvAppend { state, .. } | Op::StateRead { state } => *state = number(*state)?,
        _ => {}
    }
    Ok(op)
}
