//! Graphs out of the flat tables of the C interface: what a plugin does that is written in Rust.
#![allow(unsafe_code)] // tables that somebody else made are read

use anynpu_abi::*;
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, GraphError, Op, ReduceOp, RopeScaling,
    RopeStyle, Shape, StateId, Symbol, TensorType, UnaryOp, ValueId,
};
use thiserror::Error;

use super::answers::{dtype_of, read_text};

/// Most elements of a list of a graph.
const MOST: usize = 1 << 20;

/// Tables that are no graph.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum TableError {
    /// Something in them makes no sense.
    #[error("{what} is {found}, expected {expected}")]
    Value {
        /// What of them.
        what: String,
        /// What it is.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// Nodes that don't fit together.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

fn wrong(what: impl Into<String>, found: impl ToString, expected: &str) -> TableError {
    TableError::Value {
        what: what.into(),
        found: found.to_string(),
        expected: expected.into(),
    }
}

/// A weight of a graph that was read.
#[derive(Clone, Debug)]
pub struct ReadWeight {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Its bytes, as long as their owner says; none where a graph is only asked about.
    pub bytes: Option<&'static [u8]>,
}

/// A graph that was read: all its nodes are the run, and inputs, outputs and states have the tables' order.
#[derive(Clone, Debug)]
pub struct ReadGraph {
    /// The graph.
    pub graph: Graph,
    /// Its weights, constants aside.
    pub weights: Vec<ReadWeight>,
    /// The type that states are kept in at their home, if any is of floats.
    pub state_dtype: Option<DType>,
}

/// Reads a graph.
///
/// # Errors
/// Tables that are no graph.
///
/// # Safety
/// `raw` is null or points to tables as the interface has them: every pointer in them leads to as many elements as are
/// told, and texts and weights have their length. Numbers may be anything.
pub unsafe fn read_graph(raw: *const anynpu_graph) -> Result<ReadGraph, TableError> {
    // SAFETY: by the contract.
    let raw = unsafe { super::answers::read_struct(raw, size_of::<anynpu_graph>()) };
    let raw = raw.ok_or_else(|| wrong("a graph", "none, or a short one", "a whole one"))?;
    // SAFETY: by the contract, for all lists of the tables.
    unsafe {
        let values = list(raw.values, raw.value_count, raw.value_stride, "values")?;
        let nodes = list(raw.nodes, raw.node_count, raw.node_stride, "nodes")?;
        let states = list(raw.states, raw.state_count, raw.state_stride, "states")?;
        let weights = list(raw.weights, raw.weight_count, raw.weight_stride, "weights")?;
        let outputs = list(raw.outputs, raw.output_count, 4, "outputs")?;
        let inputs = list(raw.inputs, raw.input_count, 4, "inputs")?;
        let mut reader = Reader {
            graph: Graph::new(read_text(raw.name)),
            known: vec![None; values.len()],
            values,
            raw_weights: weights,
            weights: Vec::new(),
        };
        let mut state_dtype = None;
        for state in &states {
            let kept = dtype(state.dtype)?;
            // what is not plain integers is declared in floats, and kept in whatever its home has
            let declared = match kept.is_float() || kept.is_block() {
                true => {
                    state_dtype.get_or_insert(kept);
                    DType::F32
                }
                false => kept,
            };
            let ty = TensorType::new(declared, shape(state.dims, state.rank)?);
            reader
                .graph
                .add_state(read_text(state.name), ty, state.axis)?;
        }
        for node in &nodes {
            reader.node(node)?;
        }
        let found = reader.graph.whole().inputs().to_vec();
        let listed: Result<Vec<ValueId>, TableError> =
            inputs.iter().map(|&n| reader.known(n)).collect();
        if found != listed? {
            return Err(wrong(
                "inputs",
                format!("{inputs:?}"),
                "in order of first use",
            ));
        }
        for &output in &outputs {
            let id = reader.known(output)?;
            reader.graph.set_output(id)?;
        }
        let found = reader.graph.whole().outputs().to_vec();
        if found != reader.graph.outputs() {
            return Err(wrong(
                "outputs",
                format!("{outputs:?}"),
                "made by nodes, in order",
            ));
        }
        Ok(ReadGraph {
            graph: reader.graph,
            weights: reader.weights,
            state_dtype,
        })
    }
}

/// # Safety
/// As [`read_graph`].
unsafe fn list<T: Copy>(
    data: *const T,
    count: usize,
    stride: usize,
    what: &str,
) -> Result<Vec<T>, TableError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if data.is_null() || count > MOST || stride < size_of::<T>() {
        let found = format!("{count} elements, {stride} bytes apart");
        return Err(wrong(
            format!("the list of {what}"),
            found,
            "one that is there",
        ));
    }
    let at = |n: usize| data.cast::<u8>().wrapping_add(n * stride).cast::<T>();
    // SAFETY: by the contract; alignment is not relied on.
    let read = |n| unsafe { at(n).read_unaligned() };
    Ok((0..count).map(read).collect())
}

fn dtype(code: anynpu_dtype) -> Result<DType, TableError> {
    dtype_of(code).ok_or_else(|| wrong("an element type", code, "a known one"))
}

/// # Safety
/// As [`read_graph`].
unsafe fn shape(dims: *const anynpu_dim, rank: u32) -> Result<Shape, TableError> {
    if rank as usize > Shape::MAX_RANK {
        return Err(wrong("a rank", rank, "at most 8"));
    }
    // SAFETY: by the contract.
    let dims = unsafe { list(dims, rank as usize, size_of::<anynpu_dim>(), "dimensions")? };
    Ok(dims.into_iter().map(dim).collect::<Vec<Dim>>().into())
}

fn dim(dim: anynpu_dim) -> Dim {
    match dim.is_symbol {
        0 => Dim::Fixed(dim.size),
        // one that no graph can have is refused when a value is made of it
        _ => Dim::Sym(Symbol(u16::try_from(dim.size).unwrap_or(u16::MAX))),
    }
}

struct Reader {
    graph: Graph,
    values: Vec<anynpu_value>,
    known: Vec<Option<ValueId>>,
    raw_weights: Vec<anynpu_weight>,
    weights: Vec<ReadWeight>,
}

impl Reader {
    fn known(&self, number: u32) -> Result<ValueId, TableError> {
        let known = self.known.get(number as usize).copied().flatten();
        known.ok_or_else(|| wrong("a value", number, "one that was made before"))
    }

    /// # Safety
    /// As [`read_graph`].
    unsafe fn operand(&mut self, number: u32) -> Result<ValueId, TableError> {
        if let Ok(id) = self.known(number) {
            return Ok(id);
        }
        let value = self.values.get(number as usize).copied();
        let value = value.ok_or_else(|| wrong("a value", number, "one of the graph's"))?;
        // SAFETY: by the contract.
        let (name, ty) = unsafe {
            let ty = TensorType::new(dtype(value.dtype)?, shape(value.dims, value.rank)?);
            (read_text(value.name), ty)
        };
        let id = match value.source {
            ANYNPU_VALUE_INPUT => self.graph.add_input(name, ty)?,
            ANYNPU_VALUE_WEIGHT => {
                let weight = self.raw_weights.get(value.index as usize).copied();
                let weight = weight.filter(|w| w.value == number);
                let weight =
                    weight.ok_or_else(|| wrong("a weight", value.index, "one of the value's"))?;
                // SAFETY: by the contract.
                unsafe { self.weight(&weight, ty)? }
            }
            other => return Err(wrong("a value's source", other, "made before it is read")),
        };
        self.known[number as usize] = Some(id);
        Ok(id)
    }

    /// # Safety
    /// As [`read_graph`].
    unsafe fn weight(
        &mut self,
        weight: &anynpu_weight,
        ty: TensorType,
    ) -> Result<ValueId, TableError> {
        // SAFETY: by the contract.
        let name = unsafe { read_text(weight.name) };
        let length = usize::try_from(weight.length).ok();
        let length = length.filter(|n| *n <= isize::MAX as usize);
        let length =
            length.ok_or_else(|| wrong("a weight's size", weight.length, "one that fits"))?;
        let bytes = (!weight.data.is_null())
            // SAFETY: by the contract; the bytes live as long as their owner says.
            .then(|| unsafe { std::slice::from_raw_parts(weight.data.cast::<u8>(), length) });
        if let (true, Some(bytes)) = (weight.is_constant != 0, bytes) {
            return Ok(self.graph.add_constant(name, ty, bytes.to_vec())?);
        }
        let id = self.graph.add_weight(name.clone(), ty)?;
        self.weights.push(ReadWeight {
            name,
            dtype: dtype(weight.dtype)?,
            bytes,
        });
        Ok(id)
    }

    /// # Safety
    /// As [`read_graph`].
    unsafe fn node(&mut self, node: &anynpu_node) -> Result<(), TableError> {
        // SAFETY: by the contract.
        unsafe {
            let name = read_text(node.name);
            let mut inputs = Vec::new();
            for number in list(node.inputs, node.input_count, 4, "operands")? {
                inputs.push(self.operand(number)?);
            }
            let outputs = list(node.outputs, node.output_count, 4, "results")?;
            let stride = node.attribute_stride;
            let attributes = list(node.attributes, node.attribute_count, stride, "attributes")?;
            let op = op(node.op, &Attributes(attributes))?;
            if let Some(state) = op
                .states()
                .find(|s| s.0 as usize >= self.graph.states().len())
            {
                return Err(wrong("a state", state.0, "one of the graph's"));
            }
            let made = self.graph.add_node(name, op, &inputs)?;
            if made.len() != outputs.len() {
                return Err(wrong(
                    "the number of results",
                    outputs.len(),
                    "as the op has",
                ));
            }
            for (id, number) in made.into_iter().zip(outputs) {
                let told = self.values.get(number as usize).copied();
                let told = told.ok_or_else(|| wrong("a result", number, "one of the values"))?;
                let ty = TensorType::new(dtype(told.dtype)?, shape(told.dims, told.rank)?);
                if *self.graph.ty(id) != ty {
                    let expected = self.graph.ty(id).to_string();
                    return Err(wrong("a result's type", ty, &expected));
                }
                let known = &mut self.known[number as usize];
                if known.replace(id).is_some() {
                    return Err(wrong("a value", number, "made once"));
                }
            }
            Ok(())
        }
    }
}

/// The attributes of a node.
struct Attributes(Vec<anynpu_attribute>);

impl Attributes {
    fn find(&self, key: anynpu_key) -> Option<&anynpu_attribute> {
        self.0.iter().find(|a| a.key == key)
    }

    fn of_kind(
        &self,
        key: anynpu_key,
        kind: anynpu_attribute_kind,
    ) -> Result<&anynpu_attribute, TableError> {
        let found = self.find(key).filter(|a| a.kind == kind);
        found.ok_or_else(|| {
            wrong(
                format!("attribute {key}"),
                "absent or of another kind",
                "there",
            )
        })
    }

    fn integer(&self, key: anynpu_key) -> Result<i64, TableError> {
        let found = self.of_kind(key, ANYNPU_ATTRIBUTE_INTEGER)?;
        // SAFETY: the kind says which value it is.
        Ok(unsafe { found.value.integer })
    }

    fn number(&self, key: anynpu_key) -> Result<u32, TableError> {
        let found = self.integer(key)?;
        u32::try_from(found).map_err(|_| wrong(format!("attribute {key}"), found, "a u32"))
    }

    fn optional_number(&self, key: anynpu_key) -> Result<Option<u32>, TableError> {
        self.find(key).map(|_| self.number(key)).transpose()
    }

    fn real(&self, key: anynpu_key) -> Result<f32, TableError> {
        let found = self.of_kind(key, ANYNPU_ATTRIBUTE_REAL)?;
        // SAFETY: the kind says which value it is.
        Ok(unsafe { found.value.real } as f32)
    }

    fn optional_real(&self, key: anynpu_key) -> Result<Option<f32>, TableError> {
        self.find(key).map(|_| self.real(key)).transpose()
    }

    fn integers(&self, key: anynpu_key) -> Result<Vec<u32>, TableError> {
        let found = self.of_kind(key, ANYNPU_ATTRIBUTE_INTEGERS)?;
        // SAFETY: the kind says which value it is, and a list has its count.
        let all = unsafe { list(found.value.integers, found.count, 8, "integers")? };
        let number = |n: i64| {
            u32::try_from(n)
                .map_err(|_| wrong(format!("an element of attribute {key}"), n, "a u32"))
        };
        all.into_iter().map(number).collect()
    }

    /// One for each of `N` axes.
    fn axes<const N: usize>(&self, key: anynpu_key) -> Result<[u32; N], TableError> {
        let all = self.integers(key)?;
        let count = all.len();
        let fits = <[u32; N]>::try_from(all);
        fits.map_err(|_| {
            wrong(
                format!("attribute {key}"),
                format!("{count} elements"),
                "one an axis",
            )
        })
    }

    fn reals(&self, key: anynpu_key) -> Result<Vec<f32>, TableError> {
        let found = self.of_kind(key, ANYNPU_ATTRIBUTE_REALS)?;
        // SAFETY: the kind says which value it is, and a list has its count.
        unsafe { list(found.value.reals, found.count, 4, "reals") }
    }

    fn shape(&self, key: anynpu_key) -> Result<Shape, TableError> {
        let found = self.of_kind(key, ANYNPU_ATTRIBUTE_DIMS)?;
        let count = u32::try_from(found.count).unwrap_or(u32::MAX);
        // SAFETY: the kind says which value it is, and a list has its count.
        unsafe { shape(found.value.dims, count) }
    }

    fn dim(&self, key: anynpu_key) -> Result<Dim, TableError> {
        let shape = self.shape(key)?;
        match shape.dims() {
            [one] => Ok(*one),
            other => Err(wrong(
                format!("attribute {key}"),
                other.len(),
                "one dimension",
            )),
        }
    }

    fn flag(&self, key: anynpu_key) -> Result<bool, TableError> {
        Ok(self.integer(key)? != 0)
    }

    /// The word with this number, which is its place in the list of all.
    fn word<T: Copy>(&self, key: anynpu_key, all: &[T]) -> Result<T, TableError> {
        let found = self.integer(key)?;
        let word = usize::try_from(found).ok().and_then(|n| all.get(n));
        word.copied()
            .ok_or_else(|| wrong(format!("attribute {key}"), found, "a known word"))
    }

    fn dtype(&self, key: anynpu_key) -> Result<DType, TableError> {
        dtype(self.number(key)?)
    }

    fn scaling(&self) -> Result<RopeScaling, TableError> {
        let way = self.integer(ANYNPU_KEY_SCALING)?;
        let parameters = self.reals(ANYNPU_KEY_SCALING_PARAMETERS)?;
        match (way, &parameters[..]) {
            (ANYNPU_SCALING_NONE, []) => Ok(RopeScaling::None),
            (ANYNPU_SCALING_LINEAR, &[factor]) => Ok(RopeScaling::Linear { factor }),
            (
                ANYNPU_SCALING_YARN,
                &[
                    factor,
                    context,
                    ext_factor,
                    attn_factor,
                    beta_fast,
                    beta_slow,
                ],
            ) => Ok(RopeScaling::Yarn {
                factor,
                original_context: context as u32,
                ext_factor,
                attn_factor,
                beta_fast,
                beta_slow,
            }),
            (ANYNPU_SCALING_LLAMA3, &[factor, low_freq_factor, high_freq_factor, context]) => {
                Ok(RopeScaling::Llama3 {
                    factor,
                    low_freq_factor,
                    high_freq_factor,
                    original_context: context as u32,
                })
            }
            (way, parameters) => {
                let found = format!("{way} with {} parameters", parameters.len());
                Err(wrong("the scaling of frequencies", found, "a known one"))
            }
        }
    }
}

fn op(code: anynpu_op, a: &Attributes) -> Result<Op, TableError> {
    Ok(match code {
        ANYNPU_OP_LINEAR => Op::Linear,
        ANYNPU_OP_EXPERT_LINEAR => Op::ExpertLinear,
        ANYNPU_OP_MATMUL => Op::MatMul {
            transpose_a: a.flag(ANYNPU_KEY_TRANSPOSE_A)?,
            transpose_b: a.flag(ANYNPU_KEY_TRANSPOSE_B)?,
        },
        ANYNPU_OP_EMBEDDING => Op::Embedding,
        ANYNPU_OP_RMS_NORM => Op::RmsNorm {
            eps: a.real(ANYNPU_KEY_EPS)?,
        },
        ANYNPU_OP_LAYER_NORM => Op::LayerNorm {
            eps: a.real(ANYNPU_KEY_EPS)?,
        },
        ANYNPU_OP_ROPE => Op::Rope {
            style: match a.integer(ANYNPU_KEY_STYLE)? {
                ANYNPU_ROPE_INTERLEAVED => RopeStyle::Interleaved,
                ANYNPU_ROPE_HALF_SPLIT => RopeStyle::HalfSplit,
                other => return Err(wrong("the style of a rotation", other, "a known one")),
            },
            dims: a.number(ANYNPU_KEY_ROTATED)?,
            base: a.real(ANYNPU_KEY_BASE)?,
            scaling: a.scaling()?,
        },
        ANYNPU_OP_ATTENTION => Op::Attention {
            kv: match (
                a.optional_number(ANYNPU_KEY_KEY_STATE)?,
                a.optional_number(ANYNPU_KEY_VALUE_STATE)?,
            ) {
                (Some(k), Some(v)) => AttentionKv::State {
                    k: StateId(k),
                    v: StateId(v),
                },
                _ => AttentionKv::Operands,
            },
            causal: a.flag(ANYNPU_KEY_CAUSAL)?,
            mask: a.flag(ANYNPU_KEY_MASK)?,
            scale: a.real(ANYNPU_KEY_SCALE)?,
            soft_cap: a.optional_real(ANYNPU_KEY_SOFT_CAP)?,
            window: a.optional_number(ANYNPU_KEY_WINDOW)?,
        },
        ANYNPU_OP_KV_APPEND => Op::KvAppend {
            state: StateId(a.number(ANYNPU_KEY_STATE)?),
            at: a.dim(ANYNPU_KEY_AT)?,
        },
        ANYNPU_OP_STATE_READ => Op::StateRead {
            state: StateId(a.number(ANYNPU_KEY_STATE)?),
        },
        ANYNPU_OP_CAUSAL_MASK => Op::CausalMask {
            keys: a.dim(ANYNPU_KEY_KEYS)?,
            window: a.optional_number(ANYNPU_KEY_WINDOW)?,
            hidden: a.real(ANYNPU_KEY_HIDDEN)?,
        },
        ANYNPU_OP_SOFTMAX => Op::Softmax {
            axis: a.number(ANYNPU_KEY_AXIS)?,
        },
        ANYNPU_OP_UNARY => Op::Unary(a.word(ANYNPU_KEY_FUNCTION, UnaryOp::ALL)?),
        ANYNPU_OP_ACTIVATION => Op::Activation(a.word(ANYNPU_KEY_FUNCTION, Activation::ALL)?),
        ANYNPU_OP_GATED_ACTIVATION => {
            Op::GatedActivation(a.word(ANYNPU_KEY_FUNCTION, Activation::ALL)?)
        }
        ANYNPU_OP_SOFT_CAP => Op::SoftCap {
            cap: a.real(ANYNPU_KEY_SOFT_CAP)?,
        },
        ANYNPU_OP_BINARY => Op::Binary(a.word(ANYNPU_KEY_FUNCTION, BinaryOp::ALL)?),
        ANYNPU_OP_SELECT => Op::Select,
        ANYNPU_OP_GATHER => Op::Gather {
            axis: a.number(ANYNPU_KEY_AXIS)?,
        },
        ANYNPU_OP_SCATTER => Op::Scatter {
            axis: a.number(ANYNPU_KEY_AXIS)?,
        },
        ANYNPU_OP_RESHAPE => Op::Reshape {
            shape: a.shape(ANYNPU_KEY_SHAPE)?,
        },
        ANYNPU_OP_TRANSPOSE => Op::Transpose {
            perm: a.integers(ANYNPU_KEY_PERM)?,
        },
        ANYNPU_OP_BROADCAST => Op::Broadcast {
            shape: a.shape(ANYNPU_KEY_SHAPE)?,
        },
        ANYNPU_OP_SLICE => Op::Slice {
            axis: a.number(ANYNPU_KEY_AXIS)?,
            start: a.number(ANYNPU_KEY_START)?,
            end: a.number(ANYNPU_KEY_END)?,
            step: a.number(ANYNPU_KEY_STEP)?,
        },
        ANYNPU_OP_CONCAT => Op::Concat {
            axis: a.number(ANYNPU_KEY_AXIS)?,
        },
        ANYNPU_OP_SPLIT => Op::Split {
            axis: a.number(ANYNPU_KEY_AXIS)?,
            sizes: a.integers(ANYNPU_KEY_SIZES)?,
        },
        ANYNPU_OP_REDUCE => Op::Reduce {
            op: a.word(ANYNPU_KEY_FUNCTION, ReduceOp::ALL)?,
            axes: a.integers(ANYNPU_KEY_AXES)?,
            keep_dims: a.flag(ANYNPU_KEY_KEEP_DIMS)?,
        },
        ANYNPU_OP_CAST => Op::Cast {
            to: a.dtype(ANYNPU_KEY_TO)?,
        },
        ANYNPU_OP_QUANTIZE => Op::Quantize {
            to: a.dtype(ANYNPU_KEY_TO)?,
            axis: a.optional_number(ANYNPU_KEY_AXIS)?,
        },
        ANYNPU_OP_DEQUANTIZE => Op::Dequantize {
            axis: a.optional_number(ANYNPU_KEY_AXIS)?,
        },
        ANYNPU_OP_TOP_K => Op::TopK {
            k: a.number(ANYNPU_KEY_COUNT)?,
        },
        ANYNPU_OP_ARG_MAX => Op::ArgMax {
            axis: a.number(ANYNPU_KEY_AXIS)?,
        },
        ANYNPU_OP_CONV1D => {
            let [stride] = a.axes(ANYNPU_KEY_STRIDE)?;
            let [padding] = a.axes(ANYNPU_KEY_PADDING)?;
            let [dilation] = a.axes(ANYNPU_KEY_DILATION)?;
            Op::Conv1d {
                stride,
                padding,
                dilation,
                groups: a.number(ANYNPU_KEY_GROUPS)?,
            }
        }
        ANYNPU_OP_CONV2D => Op::Conv2d {
            stride: a.axes(ANYNPU_KEY_STRIDE)?,
            padding: a.axes(ANYNPU_KEY_PADDING)?,
            dilation: a.axes(ANYNPU_KEY_DILATION)?,
            groups: a.number(ANYNPU_KEY_GROUPS)?,
        },
        ANYNPU_OP_IOTA => Op::Iota {
            start: a.dim(ANYNPU_KEY_AT)?,
            length: a.dim(ANYNPU_KEY_LENGTH)?,
        },
        other => return Err(wrong("an op", other, "a known one")),
    })
}
