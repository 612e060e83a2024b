//! Graphs as the flat tables of the C interface.
#![allow(unsafe_code)] // unions of attributes are read in tests

use std::collections::HashMap;

use super::array::Array;
use anynpu_abi::*;
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, OP_SET_VERSION, Op, ReduceOp,
    RopeScaling, RopeStyle, Shape, StateId, Subgraph, UnaryOp, ValueDef, ValueId, rope_frequencies,
};

/// An op that the interface has no number for: no plugin runs it.
const UNKNOWN: anynpu_op = u32::MAX;

/// Where a weight's bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct WeightBytes {
    pub dtype: DType,
    pub data: *const c_void,
    pub length: u64,
    pub fd: i32,
    pub offset: u64,
}

/// A run of nodes as tables. What [`GraphTables::graph`] points to lives as long as this and the graph it is of.
#[derive(Debug)]
pub(super) struct GraphTables {
    graph: Box<anynpu_graph>,
    /// What the tables point to; never touched again, so that it stays where it is.
    _values: Array<anynpu_value>,
    _nodes: Array<anynpu_node>,
    _states: Array<anynpu_state>,
    _weights: Array<anynpu_weight>,
    _numbers: Vec<Box<[u32]>>,
    _dims: Vec<Box<[anynpu_dim]>>,
    _attributes: Vec<Array<anynpu_attribute>>,
    _integers: Vec<Box<[i64]>>,
    _reals: Vec<Box<[f32]>>,
}

impl GraphTables {
    /// Tables of `run`, with states kept in `state_dtype`, where that is known. `weights` tells where the bytes of a
    /// weight are that the graph does not carry; none where a device is only asked. With `spread`, elements of arrays
    /// have more behind them than is known.
    pub fn of(
        run: &Subgraph<'_>,
        state_dtype: Option<DType>,
        weights: &dyn Fn(&str) -> Option<WeightBytes>,
        spread: bool,
    ) -> GraphTables {
        Writer::new(run.graph(), spread).write(run, state_dtype, weights)
    }

    /// The tables.
    pub fn graph(&self) -> &anynpu_graph {
        &self.graph
    }
}

pub(super) fn text(text: &str) -> anynpu_text {
    anynpu_text {
        data: text.as_ptr().cast(),
        length: text.len(),
    }
}

/// What the interface calls a type.
pub(super) fn dtype_code(dtype: DType) -> anynpu_dtype {
    dtype as u16 as u32
}

struct Writer<'g> {
    graph: &'g Graph,
    /// Numbers in the tables.
    known: HashMap<ValueId, u32>,
    spread: bool,
    values: Array<anynpu_value>,
    weights: Array<anynpu_weight>,
    numbers: Vec<Box<[u32]>>,
    dims: Vec<Box<[anynpu_dim]>>,
    attributes: Vec<Array<anynpu_attribute>>,
    integers: Vec<Box<[i64]>>,
    reals: Vec<Box<[f32]>>,
}

impl<'g> Writer<'g> {
    fn new(graph: &'g Graph, spread: bool) -> Writer<'g> {
        Writer {
            graph,
            known: HashMap::new(),
            spread,
            values: Array::new(spread),
            weights: Array::new(spread),
            numbers: Vec::new(),
            dims: Vec::new(),
            attributes: Vec::new(),
            integers: Vec::new(),
            reals: Vec::new(),
        }
    }

    fn write(
        mut self,
        run: &Subgraph<'_>,
        state_dtype: Option<DType>,
        weights: &dyn Fn(&str) -> Option<WeightBytes>,
    ) -> GraphTables {
        let mut nodes = Array::new(self.spread);
        for (number, (_, node)) in run.nodes().enumerate() {
            let inputs = node
                .inputs
                .iter()
                .map(|&id| self.value(id, None, weights))
                .collect();
            let (inputs, input_count) = self.list(inputs);
            let outputs = node
                .outputs
                .iter()
                .map(|&id| self.value(id, Some(number as u32), weights))
                .collect();
            let (outputs, output_count) = self.list(outputs);
            let attributes = self.attributes_of(&node.op, run.states());
            let attributes = Array::of(attributes, self.spread);
            nodes.push(anynpu_node {
                name: text(&node.name),
                op: op_code(&node.op),
                reserved: 0,
                inputs,
                input_count,
                outputs,
                output_count,
                attributes: attributes.as_ptr(),
                attribute_count: attributes.len(),
                attribute_stride: attributes.stride(),
            });
            self.attributes.push(attributes);
        }
        let states = run.states().iter().map(|&id| {
            let state = self.graph.state(id);
            let kept = state_dtype.filter(|_| state.ty.dtype.is_float());
            anynpu_state {
                name: text(&state.name),
                dtype: dtype_code(kept.unwrap_or(state.ty.dtype)),
                rank: state.ty.shape.rank() as u32,
                dims: keep(&mut self.dims, dims(&state.ty.shape)),
                axis: state.axis,
                reserved: 0,
            }
        });
        let states = Array::of(states, self.spread);
        let inputs: Vec<u32> = run.inputs().iter().map(|id| self.known[id]).collect();
        let (inputs, input_count) = self.list(inputs);
        let outputs: Vec<u32> = run.outputs().iter().map(|id| self.known[id]).collect();
        let (outputs, output_count) = self.list(outputs);
        let (values, weights) = (self.values, self.weights);
        GraphTables {
            graph: Box::new(anynpu_graph {
                struct_size: size_of::<anynpu_graph>() as u32,
                op_set: OP_SET_VERSION,
                name: text(self.graph.name()),
                values: values.as_ptr(),
                value_count: values.len(),
                value_stride: values.stride(),
                nodes: nodes.as_ptr(),
                node_count: nodes.len(),
                node_stride: nodes.stride(),
                states: states.as_ptr(),
                state_count: states.len(),
                state_stride: states.stride(),
                weights: weights.as_ptr(),
                weight_count: weights.len(),
                weight_stride: weights.stride(),
                inputs,
                input_count,
                outputs,
                output_count,
            }),
            _values: values,
            _nodes: nodes,
            _states: states,
            _weights: weights,
            _numbers: self.numbers,
            _dims: self.dims,
            _attributes: self.attributes,
            _integers: self.integers,
            _reals: self.reals,
        }
    }

    /// The number of a value in the tables, where it stands from now on; `node` makes it, if it is of the run.
    fn value(
        &mut self,
        id: ValueId,
        node: Option<u32>,
        weights: &dyn Fn(&str) -> Option<WeightBytes>,
    ) -> u32 {
        if let Some(&number) = self.known.get(&id) {
            return number;
        }
        let number = self.values.len() as u32;
        let value = self.graph.value(id);
        let (source, index) = match (node, value.def) {
            (Some(node), _) => (ANYNPU_VALUE_NODE, node),
            (None, ValueDef::Weight(weight)) => {
                let weight = self.graph.weight(weight);
                let bytes = match &weight.inline {
                    Some(bytes) => Some(WeightBytes {
                        dtype: value.ty.dtype,
                        data: bytes.as_ptr().cast(),
                        length: bytes.len() as u64,
                        fd: -1,
                        offset: 0,
                    }),
                    None => weights(&weight.name),
                };
                let length = value.ty.bytes(&Default::default()).unwrap_or(0) as u64;
                let bytes = bytes.unwrap_or(WeightBytes {
                    dtype: value.ty.dtype,
                    data: std::ptr::null(),
                    length,
                    fd: -1,
                    offset: 0,
                });
                self.weights.push(anynpu_weight {
                    name: text(&weight.name),
                    value: number,
                    dtype: dtype_code(bytes.dtype),
                    data: bytes.data,
                    length: bytes.length,
                    fd: bytes.fd,
                    is_constant: weight.inline.is_some().into(),
                    offset: bytes.offset,
                });
                (ANYNPU_VALUE_WEIGHT, self.weights.len() as u32 - 1)
            }
            (None, _) => (ANYNPU_VALUE_INPUT, 0),
        };
        let dims = keep(&mut self.dims, dims(&value.ty.shape));
        self.values.push(anynpu_value {
            name: text(&value.name),
            dtype: dtype_code(value.ty.dtype),
            rank: value.ty.shape.rank() as u32,
            dims,
            source,
            index,
        });
        self.known.insert(id, number);
        number
    }

    fn list(&mut self, numbers: Vec<u32>) -> (*const u32, usize) {
        let count = numbers.len();
        (keep(&mut self.numbers, numbers), count)
    }

    fn attributes_of(&mut self, op: &Op, states: &[StateId]) -> Vec<anynpu_attribute> {
        let state = |id: StateId| states.iter().position(|s| *s == id).unwrap_or(0) as i64;
        let mut list = List {
            made: Vec::new(),
            writer: self,
        };
        match *op {
            Op::MatMul {
                transpose_a,
                transpose_b,
            } => {
                list.integer(ANYNPU_KEY_TRANSPOSE_A, transpose_a.into());
                list.integer(ANYNPU_KEY_TRANSPOSE_B, transpose_b.into());
            }
            Op::RmsNorm { eps } | Op::LayerNorm { eps } => list.real(ANYNPU_KEY_EPS, eps),
            Op::Rope {
                style,
                dims,
                base,
                scaling,
            } => {
                let (frequencies, magnitude) = rope_frequencies(dims, base, scaling, None);
                list.integer(
                    ANYNPU_KEY_STYLE,
                    match style {
                        RopeStyle::Interleaved => ANYNPU_ROPE_INTERLEAVED,
                        RopeStyle::HalfSplit => ANYNPU_ROPE_HALF_SPLIT,
                    },
                );
                list.integer(ANYNPU_KEY_ROTATED, dims.into());
                list.reals(ANYNPU_KEY_FREQUENCIES, frequencies);
                list.real(ANYNPU_KEY_MAGNITUDE, magnitude);
                list.real(ANYNPU_KEY_BASE, base);
                let (way, parameters) = scaling_parameters(scaling);
                list.integer(ANYNPU_KEY_SCALING, way);
                list.reals(ANYNPU_KEY_SCALING_PARAMETERS, parameters);
            }
            Op::Attention {
                kv,
                causal,
                mask,
                scale,
                soft_cap,
                window,
            } => {
                if let AttentionKv::State { k, v } = kv {
                    list.integer(ANYNPU_KEY_KEY_STATE, state(k));
                    list.integer(ANYNPU_KEY_VALUE_STATE, state(v));
                }
                list.integer(ANYNPU_KEY_CAUSAL, causal.into());
                list.integer(ANYNPU_KEY_MASK, mask.into());
                list.real(ANYNPU_KEY_SCALE, scale);
                if let Some(cap) = soft_cap {
                    list.real(ANYNPU_KEY_SOFT_CAP, cap);
                }
                if let Some(window) = window {
                    list.integer(ANYNPU_KEY_WINDOW, window.into());
                }
            }
            Op::KvAppend { state: id, at } => {
                list.integer(ANYNPU_KEY_STATE, state(id));
                list.dims(ANYNPU_KEY_AT, vec![dim(at)]);
            }
            Op::StateRead { state: id } => list.integer(ANYNPU_KEY_STATE, state(id)),
            Op::CausalMask {
                keys,
                window,
                hidden,
            } => {
                list.dims(ANYNPU_KEY_KEYS, vec![dim(keys)]);
                list.real(ANYNPU_KEY_HIDDEN, hidden);
                if let Some(window) = window {
                    list.integer(ANYNPU_KEY_WINDOW, window.into());
                }
            }
            Op::Softmax { axis }
            | Op::Gather { axis }
            | Op::Scatter { axis }
            | Op::Concat { axis }
            | Op::ArgMax { axis } => list.integer(ANYNPU_KEY_AXIS, axis.into()),
            Op::Unary(f) => list.integer(ANYNPU_KEY_FUNCTION, place(UnaryOp::ALL, &f)),
            Op::Activation(f) | Op::GatedActivation(f) => {
                list.integer(ANYNPU_KEY_FUNCTION, place(Activation::ALL, &f));
            }
            Op::SoftCap { cap } => list.real(ANYNPU_KEY_SOFT_CAP, cap),
            Op::Binary(f) => list.integer(ANYNPU_KEY_FUNCTION, place(BinaryOp::ALL, &f)),
            Op::Reshape { ref shape } | Op::Broadcast { ref shape } => {
                list.dims(ANYNPU_KEY_SHAPE, dims(shape));
            }
            Op::Transpose { ref perm } => list.integers(ANYNPU_KEY_PERM, perm),
            Op::Slice {
                axis,
                start,
                end,
                step,
            } => {
                list.integer(ANYNPU_KEY_AXIS, axis.into());
                list.integer(ANYNPU_KEY_START, start.into());
                list.integer(ANYNPU_KEY_END, end.into());
                list.integer(ANYNPU_KEY_STEP, step.into());
            }
            Op::Split { axis, ref sizes } => {
                list.integer(ANYNPU_KEY_AXIS, axis.into());
                list.integers(ANYNPU_KEY_SIZES, sizes);
            }
            Op::Reduce {
                op,
                ref axes,
                keep_dims,
            } => {
                list.integer(ANYNPU_KEY_FUNCTION, place(ReduceOp::ALL, &op));
                list.integers(ANYNPU_KEY_AXES, axes);
                list.integer(ANYNPU_KEY_KEEP_DIMS, keep_dims.into());
            }
            Op::Cast { to } => list.integer(ANYNPU_KEY_TO, dtype_code(to).into()),
            Op::Quantize { to, axis } => {
                list.integer(ANYNPU_KEY_TO, dtype_code(to).into());
                if let Some(axis) = axis {
                    list.integer(ANYNPU_KEY_AXIS, axis.into());
                }
            }
            Op::Dequantize { axis: Some(axis) } => list.integer(ANYNPU_KEY_AXIS, axis.into()),
            Op::Dequantize { axis: None } => {}
            Op::TopK { k } => list.integer(ANYNPU_KEY_COUNT, k.into()),
            Op::Conv1d {
                stride,
                padding,
                dilation,
                groups,
            } => list.convolution(&[stride], &[padding], &[dilation], groups),
            Op::Conv2d {
                stride,
                padding,
                dilation,
                groups,
            } => list.convolution(&stride, &padding, &dilation, groups),
            Op::Iota { start, length } => {
                list.dims(ANYNPU_KEY_AT, vec![dim(start)]);
                list.dims(ANYNPU_KEY_LENGTH, vec![dim(length)]);
            }
            // the others have none
            _ => {}
        }
        list.made
    }
}

/// Keeps a list where it is, and says where.
fn keep<T>(all: &mut Vec<Box<[T]>>, list: Vec<T>) -> *const T {
    let list: Box<[T]> = list.into();
    let at = list.as_ptr();
    all.push(list);
    at
}

fn dim(dim: Dim) -> anynpu_dim {
    match dim {
        Dim::Fixed(size) => anynpu_dim { is_symbol: 0, size },
        Dim::Sym(symbol) => anynpu_dim {
            is_symbol: 1,
            size: symbol.0.into(),
        },
    }
}

fn dims(shape: &Shape) -> Vec<anynpu_dim> {
    shape.dims().iter().copied().map(dim).collect()
}

/// The number that stands for a word: its place in the list of all, which is as the interface numbers them.
fn place<T: PartialEq>(all: &[T], word: &T) -> i64 {
    all.iter()
        .position(|w| w == word)
        .map_or(-1, |at| at as i64)
}

/// A way of stretching frequencies and what it takes.
fn scaling_parameters(scaling: RopeScaling) -> (i64, Vec<f32>) {
    match scaling {
        RopeScaling::Linear { factor } => (ANYNPU_SCALING_LINEAR, vec![factor]),
        RopeScaling::Yarn {
            factor,
            original_context,
            ext_factor,
            attn_factor,
            beta_fast,
            beta_slow,
        } => {
            let context = original_context as f32;
            let parameters = vec![
                factor,
                context,
                ext_factor,
                attn_factor,
                beta_fast,
                beta_slow,
            ];
            (ANYNPU_SCALING_YARN, parameters)
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => {
            let context = original_context as f32;
            let parameters = vec![factor, low_freq_factor, high_freq_factor, context];
            (ANYNPU_SCALING_LLAMA3, parameters)
        }
        _ => (ANYNPU_SCALING_NONE, Vec::new()),
    }
}

/// Attributes in the making.
struct List<'w, 'g> {
    made: Vec<anynpu_attribute>,
    writer: &'w mut Writer<'g>,
}

impl List<'_, '_> {
    fn push(
        &mut self,
        key: anynpu_key,
        kind: anynpu_attribute_kind,
        count: usize,
        value: anynpu_attribute_value,
    ) {
        self.made.push(anynpu_attribute {
            key,
            kind,
            count,
            value,
        });
    }

    fn integer(&mut self, key: anynpu_key, integer: i64) {
        let value = anynpu_attribute_value { integer };
        self.push(key, ANYNPU_ATTRIBUTE_INTEGER, 1, value);
    }

    fn real(&mut self, key: anynpu_key, real: f32) {
        let value = anynpu_attribute_value { real: real.into() };
        self.push(key, ANYNPU_ATTRIBUTE_REAL, 1, value);
    }

    fn integers(&mut self, key: anynpu_key, list: &[u32]) {
        let list: Vec<i64> = list.iter().map(|&n| n.into()).collect();
        let count = list.len();
        let integers = keep(&mut self.writer.integers, list);
        let value = anynpu_attribute_value { integers };
        self.push(key, ANYNPU_ATTRIBUTE_INTEGERS, count, value);
    }

    fn reals(&mut self, key: anynpu_key, list: Vec<f32>) {
        let count = list.len();
        let reals = keep(&mut self.writer.reals, list);
        let value = anynpu_attribute_value { reals };
        self.push(key, ANYNPU_ATTRIBUTE_REALS, count, value);
    }

    fn dims(&mut self, key: anynpu_key, list: Vec<anynpu_dim>) {
        let count = list.len();
        let dims = keep(&mut self.writer.dims, list);
        let value = anynpu_attribute_value { dims };
        self.push(key, ANYNPU_ATTRIBUTE_DIMS, count, value);
    }

    fn convolution(&mut self, stride: &[u32], padding: &[u32], dilation: &[u32], groups: u32) {
        self.integers(ANYNPU_KEY_STRIDE, stride);
        self.integers(ANYNPU_KEY_PADDING, padding);
        self.integers(ANYNPU_KEY_DILATION, dilation);
        self.integer(ANYNPU_KEY_GROUPS, groups.into());
    }
}

/// What the interface calls an op.
fn op_code(op: &Op) -> anynpu_op {
    match op {
        Op::Linear => ANYNPU_OP_LINEAR,
        Op::ExpertLinear => ANYNPU_OP_EXPERT_LINEAR,
        Op::MatMul { .. } => ANYNPU_OP_MATMUL,
        Op::Embedding => ANYNPU_OP_EMBEDDING,
        Op::RmsNorm { .. } => ANYNPU_OP_RMS_NORM,
        Op::LayerNorm { .. } => ANYNPU_OP_LAYER_NORM,
        Op::Rope { .. } => ANYNPU_OP_ROPE,
        Op::Attention { .. } => ANYNPU_OP_ATTENTION,
        Op::KvAppend { .. } => ANYNPU_OP_KV_APPEND,
        Op::StateRead { .. } => ANYNPU_OP_STATE_READ,
        Op::CausalMask { .. } => ANYNPU_OP_CAUSAL_MASK,
        Op::Softmax { .. } => ANYNPU_OP_SOFTMAX,
        Op::Unary(_) => ANYNPU_OP_UNARY,
        Op::Activation(_) => ANYNPU_OP_ACTIVATION,
        Op::GatedActivation(_) => ANYNPU_OP_GATED_ACTIVATION,
        Op::SoftCap { .. } => ANYNPU_OP_SOFT_CAP,
        Op::Binary(_) => ANYNPU_OP_BINARY,
        Op::Select => ANYNPU_OP_SELECT,
        Op::Gather { .. } => ANYNPU_OP_GATHER,
        Op::Scatter { .. } => ANYNPU_OP_SCATTER,
        Op::Reshape { .. } => ANYNPU_OP_RESHAPE,
        Op::Transpose { .. } => ANYNPU_OP_TRANSPOSE,
        Op::Broadcast { .. } => ANYNPU_OP_BROADCAST,
        Op::Slice { .. } => ANYNPU_OP_SLICE,
        Op::Concat { .. } => ANYNPU_OP_CONCAT,
        Op::Split { .. } => ANYNPU_OP_SPLIT,
        Op::Reduce { .. } => ANYNPU_OP_REDUCE,
        Op::Cast { .. } => ANYNPU_OP_CAST,
        Op::Quantize { .. } => ANYNPU_OP_QUANTIZE,
        Op::Dequantize { .. } => ANYNPU_OP_DEQUANTIZE,
        Op::TopK { .. } => ANYNPU_OP_TOP_K,
        Op::ArgMax { .. } => ANYNPU_OP_ARG_MAX,
        Op::Conv1d { .. } => ANYNPU_OP_CONV1D,
        Op::Conv2d { .. } => ANYNPU_OP_CONV2D,
        Op::Iota { .. } => ANYNPU_OP_IOTA,
        _ => UNKNOWN,
    }
}
