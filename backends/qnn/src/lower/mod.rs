//! Lowering runs of nodes to graphs of the HTP, in 16-bit floating point.
//!
//! Everything has fixed sizes. Values cross the boundary in F32 and are F16 inside. States stay in the host's
//! memory: their rows are inputs, new rows are outputs that the host writes, so that a step which is run again
//! overwrites the same rows. What depends on positions is made by the host too: cosines and sines of rotations, and
//! a mask of finite numbers.

mod activation;
mod attention;
mod block;
mod feed;
mod verdict;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use anynpu_hal::{Entry, HalError, Reason, ReasonCode, Support, WeightSource, WeightView};
use anynpu_ir::block::dequantize;
use anynpu_ir::{
    DType, Dim, Graph, Node, NodeId, StateId, Symbol, SymbolValues, ValueDef, ValueId,
};

use crate::htp::{self, DataType, Encoding, TensorId, TensorKind};
use crate::weights::{Matrix, WeightForm};

pub use feed::{Feed, Fetch, MaskRows, Rotation};
pub use verdict::verdict;

/// What comes of lowering.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The graph.
    pub graph: htp::Graph,
    /// What each of its inputs holds, in their order.
    pub feeds: Vec<Feed>,
    /// Where each of its outputs goes, in their order.
    pub fetches: Vec<Fetch>,
}

/// Where the contents of weights come from.
#[derive(Clone, Copy, Debug)]
pub enum Contents<'a> {
    /// All of them from here.
    All(&'a dyn WeightSource),
    /// Those that the host computes with from here. Static tensors of the graph have none: enough to know what the host
    /// gives and takes.
    Host(&'a dyn WeightSource),
    /// None of them: enough to know which operations there are.
    None,
}

impl<'a> Contents<'a> {
    /// Where the contents of static tensors come from.
    fn device(self) -> Option<&'a dyn WeightSource> {
        match self {
            Contents::All(weights) => Some(weights),
            Contents::Host(_) | Contents::None => None,
        }
    }

    /// Where the contents of what the host computes with come from.
    fn host(self) -> Option<&'a dyn WeightSource> {
        match self {
            Contents::All(weights) | Contents::Host(weights) => Some(weights),
            Contents::None => None,
        }
    }
}

/// Lowers `entry`, whose sizes must be exact, for states kept in `state_dtype` and products of weights in `form`.
///
/// # Errors
/// Nodes that can't be lowered, with reasons; weights that can't be had; sizes that are not exact.
pub fn lower(
    device: &str,
    entry: &Entry,
    state_dtype: DType,
    form: WeightForm,
    weights: Contents<'_>,
) -> Result<Lowered, HalError> {
    let mut refused: Vec<(NodeId, Reason)> = Vec::new();
    for n in entry.nodes.clone() {
        let node = &entry.graph.nodes()[n as usize];
        if let Support::No(reason) = verdict(&entry.graph, node) {
            refused.push((NodeId(n), reason));
        }
    }
    if !refused.is_empty() {
        return Err(HalError::CompileRejected {
            device: device.into(),
            nodes: refused,
        });
    }
    let ports = anynpu_hal::EntryInfo::describe(entry, state_dtype)?;
    let mut lowering = Lowering {
        device,
        graph: &entry.graph,
        symbols: exact(entry)?,
        state_dtype,
        form,
        weights: weights.device(),
        host: weights.host(),
        inputs: ports.inputs.iter().map(|p| p.value).collect(),
        states: ports.states.iter().map(|p| p.state).collect(),
        out: htp::Graph::new(&entry.name),
        values: BTreeMap::new(),
        constants: BTreeMap::new(),
        fresh: BTreeMap::new(),
        cached: BTreeMap::new(),
        feeds: Vec::new(),
        fetches: Vec::new(),
    };
    for n in entry.nodes.clone() {
        let node = &entry.graph.nodes()[n as usize];
        lowering.node(NodeId(n), node)?;
    }
    for (i, port) in ports.outputs.iter().enumerate() {
        lowering.result(i, port.value)?;
    }
    Ok(Lowered {
        graph: lowering.out,
        feeds: lowering.feeds,
        fetches: lowering.fetches,
    })
}

/// The sizes of `entry`.
fn exact(entry: &Entry) -> Result<SymbolValues, HalError> {
    let nodes = entry.nodes.clone();
    let nodes = nodes.filter_map(|n| entry.graph.nodes().get(n as usize));
    let made: Vec<ValueId> = nodes.flat_map(|n| n.outputs.iter().copied()).collect();
    let has = |symbol: Symbol| {
        let dims = |v: &ValueId| entry.graph.ty(*v).shape.dims().contains(&Dim::Sym(symbol));
        symbol != Symbol::OUTPUTS || made.iter().any(dims)
    };
    for symbol in verdict::FIXED.into_iter().filter(|s| has(*s)) {
        let extent = entry.bounds.get(symbol);
        if !matches!(extent, anynpu_hal::Extent::Exact(_)) {
            return Err(HalError::InvalidUse {
                call: "compile",
                what: format!("the size of symbol {} in '{}'", symbol.0, entry.name),
                found: format!("{extent:?}"),
                expected: "an exact one".into(),
            });
        }
    }
    Ok(entry.bounds.limits())
}

struct Lowering<'a> {
    device: &'a str,
    graph: &'a Graph,
    symbols: SymbolValues,
    state_dtype: DType,
    form: WeightForm,
    /// Where the contents of static tensors come from.
    weights: Option<&'a dyn WeightSource>,
    /// Where the contents of what the host computes with come from.
    host: Option<&'a dyn WeightSource>,
    /// Operands of the entry, in the order they are bound.
    inputs: Vec<ValueId>,
    /// States of the entry, in the order they are bound.
    states: Vec<StateId>,
    out: htp::Graph,
    values: BTreeMap<ValueId, TensorId>,
    /// Parameters of nodes, by what they hold.
    constants: BTreeMap<Vec<u32>, TensorId>,
    /// Rows that this run appends to a state, in F16.
    fresh: BTreeMap<StateId, TensorId>,
    /// Rows of a state as they were before, in F16.
    cached: BTreeMap<StateId, TensorId>,
    feeds: Vec<Feed>,
    fetches: Vec<Fetch>,
}

impl Lowering<'_> {
    fn dims(&self, value: ValueId) -> Vec<u32> {
        let dims = self.graph.ty(value).shape.dims().iter();
        dims.map(|d| d.resolve(&self.symbols)).collect()
    }

    fn tokens(&self) -> u32 {
        self.symbols.get(Symbol::TOKENS)
    }

    fn capacity(&self) -> u32 {
        self.symbols.get(Symbol::CAPACITY)
    }

    /// A tensor between nodes.
    fn native(&mut self, name: String, dims: &[u32]) -> TensorId {
        let kind = TensorKind::Native;
        self.out
            .tensor(name, kind, DataType::F16, dims, Encoding::None)
    }

    /// A node whose one result is a new tensor.
    fn op(
        &mut self,
        name: &str,
        op: &'static str,
        inputs: &[TensorId],
        dims: &[u32],
        params: &[(&'static str, htp::Param)],
    ) -> TensorId {
        let made = self.native(format!("{name}.out"), dims);
        self.out.node(name, op, inputs, &[made], params);
        made
    }

    /// A static tensor of one number in F16.
    fn scalar(&mut self, name: &str, number: f32) -> TensorId {
        let kind = TensorKind::Static(half::f16::from_f32(number).to_le_bytes().to_vec());
        self.out
            .tensor(name, kind, DataType::F16, &[1], Encoding::None)
    }

    /// A static tensor of numbers that nodes are given.
    fn numbers(&mut self, dims: &[u32], numbers: &[u32]) -> TensorId {
        let key: Vec<u32> = dims
            .iter()
            .chain(&[u32::MAX])
            .chain(numbers)
            .copied()
            .collect();
        if let Some(&known) = self.constants.get(&key) {
            return known;
        }
        let name = format!("numbers.{}", self.constants.len());
        let made = self.out.numbers(name, dims, numbers);
        self.constants.insert(key, made);
        made
    }

    /// A static tensor of so many zeros in F16.
    fn zeros(&mut self, count: u32) -> TensorId {
        // no numbers have this key, as theirs begin with dimensions
        let key = vec![u32::MAX, count];
        if let Some(&known) = self.constants.get(&key) {
            return known;
        }
        let kind = TensorKind::Static(vec![0; 2 * count as usize]);
        let name = format!("zeros.{count}");
        let made = self
            .out
            .tensor(name, kind, DataType::F16, &[count], Encoding::None);
        self.constants.insert(key, made);
        made
    }

    /// An input of the graph that the host fills as `feed` says.
    fn input(&mut self, name: String, dtype: DataType, dims: &[u32], feed: Feed) -> TensorId {
        if let Some(at) = self.feeds.iter().position(|f| *f == feed) {
            let inputs = self.out.tensors.iter().enumerate();
            let mut inputs = inputs.filter(|(_, t)| matches!(t.kind, TensorKind::Input));
            if let Some((id, _)) = inputs.nth(at) {
                return TensorId(id as u32);
            }
        }
        self.feeds.push(feed);
        let kind = TensorKind::Input;
        self.out.tensor(name, kind, dtype, dims, Encoding::None)
    }

    /// The tensor of `value`: made before, or an operand of the entry brought to F16.
    fn value(&mut self, value: ValueId) -> Result<TensorId, HalError> {
        if let Some(&known) = self.values.get(&value) {
            return Ok(known);
        }
        let name = self.graph.value(value).name.clone();
        let dims = self.dims(value);
        let made = match self.graph.value(value).def {
            ValueDef::Weight(weight) => match &self.graph.weight(weight).inline {
                Some(bytes) => self.constant(value, &name, &dims, bytes)?,
                None => self.weight(&name, &dims)?,
            },
            _ => {
                let at = self.operand(value)?;
                let wide = format!("{name}.f32");
                let given = self.input(wide, DataType::F32, &dims, Feed::Value(at));
                self.op(&format!("{name}.cast"), "Cast", &[given], &dims, &[])
            }
        };
        self.values.insert(value, made);
        Ok(made)
    }

    /// Where the operand `value` of the entry is bound.
    fn operand(&self, value: ValueId) -> Result<usize, HalError> {
        let at = self.inputs.iter().position(|v| *v == value);
        at.ok_or_else(|| HalError::InvalidUse {
            call: "compile",
            what: format!("operand '{}'", self.graph.value(value).name),
            found: "made by no earlier node".into(),
            expected: "an operand of the entry".into(),
        })
    }

    /// The tensor of the weight `value` of a product, in the form that is wanted.
    fn matrix(&mut self, value: ValueId) -> Result<TensorId, HalError> {
        if let Some(&known) = self.values.get(&value) {
            return Ok(known);
        }
        let name = self.graph.value(value).name.clone();
        let dims = self.dims(value);
        let made = self.held(&name, &dims, self.form)?;
        self.values.insert(value, made);
        Ok(made)
    }

    /// Rows of the weight `value`: of a matrix in the form that is wanted for products, of anything else in f16.
    fn rows(&mut self, value: ValueId, rows: Range<u32>) -> Result<TensorId, HalError> {
        let name = self.graph.value(value).name.clone();
        let dims = self.dims(value);
        let form = match dims.len() {
            1 => WeightForm::F16,
            _ => self.form,
        };
        let columns: usize = dims.iter().skip(1).map(|d| *d as usize).product();
        let (first, count) = (rows.start as usize, rows.len());
        let held = match self.weights {
            None => Matrix::blank(form, columns),
            Some(weights) => {
                let whole = weights.weight(&name)?;
                let row = whole.dtype.row_bytes(columns);
                let from = row.and_then(|row| row.checked_mul(first));
                let bytes = row.and_then(|row| row.checked_mul(count));
                let end = from.zip(bytes).and_then(|(from, n)| from.checked_add(n));
                let found = from
                    .zip(end)
                    .and_then(|(from, end)| whole.bytes.get(from..end));
                let part = found.ok_or_else(|| HalError::Weight {
                    name: name.clone(),
                    why: format!(
                        "rows {} to {} of {columns} {} are not within its {} bytes",
                        rows.start,
                        rows.end,
                        whole.dtype,
                        whole.bytes.len()
                    ),
                })?;
                let part = WeightView {
                    dtype: whole.dtype,
                    bytes: Cow::Borrowed(part),
                };
                Matrix::of(&name, &part, count, columns, form)?
            }
        };
        let mut own = dims;
        own[0] = count as u32;
        Ok(self.static_of(&format!("{name}.{}", rows.start), &own, held))
    }

    /// The `count` numbers of the weight `value`, which the host computes with; ones if nobody has them.
    fn host_numbers(&self, value: ValueId, count: usize) -> Result<Vec<f32>, HalError> {
        let of = self.graph.value(value);
        let mut numbers = vec![1f32; count];
        let wrong = |e: &dyn std::fmt::Display| HalError::Weight {
            name: of.name.clone(),
            why: e.to_string(),
        };
        let inline = match of.def {
            ValueDef::Weight(weight) => self.graph.weight(weight).inline.as_deref(),
            _ => None,
        };
        if let Some(bytes) = inline {
            let dtype = self.graph.ty(value).dtype;
            dequantize(dtype, bytes, &mut numbers).map_err(|e| wrong(&e))?;
        } else if let Some(weights) = self.host {
            let view = weights.weight(&of.name)?;
            dequantize(view.dtype, &view.bytes, &mut numbers).map_err(|e| wrong(&e))?;
        }
        Ok(numbers)
    }

    /// A constant of the graph. One number has one dimension here, as tensors without any are not taken.
    fn constant(
        &mut self,
        value: ValueId,
        name: &str,
        dims: &[u32],
        bytes: &[u8],
    ) -> Result<TensorId, HalError> {
        let view = WeightView {
            dtype: self.graph.ty(value).dtype,
            bytes: Cow::Borrowed(bytes),
        };
        let dims = if dims.is_empty() { &[1] } else { dims };
        let count = dims.iter().map(|d| *d as usize).product();
        let held = Matrix::of(name, &view, 1, count, WeightForm::F16)?;
        Ok(self.static_of(name, dims, held))
    }

    fn weight(&mut self, name: &str, dims: &[u32]) -> Result<TensorId, HalError> {
        self.held(name, dims, WeightForm::F16)
    }

    fn held(&mut self, name: &str, dims: &[u32], form: WeightForm) -> Result<TensorId, HalError> {
        let columns = dims.last().map_or(1, |d| *d as usize);
        let held = match self.weights {
            None => Matrix::blank(form, columns),
            Some(weights) => {
                let rows = dims.iter().rev().skip(1).map(|d| *d as usize).product();
                let held = Matrix::of(name, &weights.weight(name)?, rows, columns, form)?;
                weights.release(name);
                held
            }
        };
        Ok(self.static_of(name, dims, held))
    }

    fn static_of(&mut self, name: &str, dims: &[u32], held: Matrix) -> TensorId {
        let dims = held.dims(dims);
        let kind = TensorKind::Static(held.bytes);
        self.out
            .tensor(name, kind, held.dtype, &dims, held.encoding)
    }

    /// Makes result `at` of the entry an output.
    fn result(&mut self, at: usize, value: ValueId) -> Result<(), HalError> {
        let from = self.value(value)?;
        let name = format!("{}.result", self.graph.value(value).name);
        let dims = self.dims(value);
        self.output(&name, from, DataType::F32, &dims, Fetch::Value(at));
        Ok(())
    }

    fn output(&mut self, name: &str, from: TensorId, dtype: DataType, dims: &[u32], fetch: Fetch) {
        let kind = TensorKind::Output;
        let to = self.out.tensor(name, kind, dtype, dims, Encoding::None);
        let cast = format!("{name}.cast");
        self.out.node(cast, "Cast", &[from], &[to], &[]);
        self.fetches.push(fetch);
    }

    fn node(&mut self, id: NodeId, node: &Node) -> Result<(), HalError> {
        let made = block::lower(self, node)?;
        match (made, node.outputs.first()) {
            (Some(made), Some(&value)) => {
                // however it came about, it is found by its name
                if let Some(tensor) = self.out.tensors.get_mut(made.0 as usize) {
                    tensor.name = format!("{}.out", node.name);
                }
                self.values.insert(value, made);
                Ok(())
            }
            (None, None) => Ok(()),
            _ => Err(HalError::CompileRejected {
                device: self.device.into(),
                nodes: vec![(
                    id,
                    Reason::new(
                        ReasonCode::OpUnknown,
                        format!("{} is not lowered", node.op.name()),
                    ),
                )],
            }),
        }
    }
}
