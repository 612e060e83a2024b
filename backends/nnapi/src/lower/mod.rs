//! Lowering runs of nodes to models of the Neural Networks API.
//!
//! Everything has fixed sizes. Values cross the boundary in F32 on the host's side. States in the host's memory are
//! inputs, and new rows are outputs that the host writes, so that a step which is run again overwrites the same rows;
//! states in the device's memory are read and written whole. What depends on positions is made by the host too: cosines
//! and sines of rotations, and a mask of finite numbers.

mod activation;
mod attention;
mod block;
mod feed;
mod moves;
mod quantised;
mod ranges;
mod target;
mod verdict;

use std::collections::BTreeMap;

use anynpu_hal::{Entry, EntryInfo, Extent, HalError, Reason, ReasonCode, Support, WeightSource};
use anynpu_ir::block::dequantize;
use anynpu_ir::{
    DType, Dim, Graph, Node, NodeId, StateId, Symbol, SymbolValues, ValueDef, ValueId,
};

use crate::FeatureLevel;
use crate::model::{
    Channels, Constants, Content, Model, Operand, OperandId, OperandType, Operation, OperationCode,
    Role, Scalar, constant_numbers, constant_rows,
};
use crate::sys;

pub use feed::{Feed, Fetch, MaskRows, Rotation, StepRows};
pub use ranges::{Quant8, Ranges, RangesError};
pub use target::{FormError, Numbers, ProductForm, StateForm, Target, WeightForm};
pub use verdict::verdict;

/// What comes of lowering.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The model.
    pub model: Model,
    /// What each of its inputs holds, in their order.
    pub feeds: Vec<Feed>,
    /// Where each of its outputs goes, in their order.
    pub fetches: Vec<Fetch>,
    /// The node that each of its operations is of, in their order.
    pub nodes: Vec<NodeId>,
}

/// Lowers `entry`, whose sizes must be exact, for states kept in `state_dtype`. What is too large to stand in the model
/// is added to `constants`. Without `weights`, what is made of their contents is blank: enough to know which operations
/// there are.
///
/// # Errors
/// Nodes that can't be lowered, with reasons; weights that can't be had; sizes that are not exact.
pub fn lower(
    device: &str,
    entry: &Entry,
    state_dtype: DType,
    target: &Target,
    constants: &mut Constants,
    weights: Option<&dyn WeightSource>,
) -> Result<Lowered, HalError> {
    let ports = EntryInfo::describe(entry, state_dtype)?;
    let mut refused: Vec<(NodeId, Reason)> = Vec::new();
    for n in entry.nodes.clone() {
        let node = &entry.graph.nodes()[n as usize];
        if let Support::No(reason) = verdict(&entry.graph, node, target) {
            refused.push((NodeId(n), reason));
        }
    }
    let rejected = |nodes| HalError::CompileRejected {
        device: device.into(),
        nodes,
    };
    if !refused.is_empty() {
        return Err(rejected(refused));
    }
    let mut model = Model::new(&entry.name);
    model.relaxed = target.numbers == Numbers::Relaxed;
    let mut lowering = Lowering {
        device,
        graph: &entry.graph,
        symbols: exact(entry)?,
        target,
        constants,
        weights,
        inputs: ports.inputs.iter().map(|p| p.value).collect(),
        states: ports.states.iter().map(|p| p.state).collect(),
        model,
        node: NodeId(entry.nodes.start),
        nodes: Vec::new(),
        values: BTreeMap::new(),
        small: BTreeMap::new(),
        fresh: BTreeMap::new(),
        whole: BTreeMap::new(),
        feeds: Vec::new(),
        given: Vec::new(),
    };
    for n in entry.nodes.clone() {
        let node = &entry.graph.nodes()[n as usize];
        lowering.node = NodeId(n);
        lowering.lower(node)?;
    }
    for (i, port) in ports.outputs.iter().enumerate() {
        let made = lowering.value(port.value)?;
        lowering.give(made, Fetch::Value(i));
    }
    let lowered = lowering.finish();
    if lowered.model.inputs.is_empty() {
        let what = "they read weights alone, and models of the interface have inputs";
        let each = entry.nodes.clone().map(NodeId);
        let reason = || Reason::new(ReasonCode::ShapeLimit, what);
        return Err(rejected(each.map(|n| (n, reason())).collect()));
    }
    match too_large(&lowered) {
        nodes if nodes.is_empty() => Ok(lowered),
        nodes => Err(rejected(nodes)),
    }
}

/// Nodes with tensors of more bytes than runtimes count, or none.
fn too_large(lowered: &Lowered) -> Vec<(NodeId, Reason)> {
    let mut refused: Vec<(NodeId, Reason)> = Vec::new();
    for (operation, node) in lowered.model.operations.iter().zip(&lowered.nodes) {
        let operands = operation.inputs.iter().chain(&operation.outputs);
        let mut operands = operands.filter_map(|id| lowered.model.operand(*id));
        let fits = |o: &Operand| {
            let bytes = o.bytes().unwrap_or(usize::MAX);
            (1..=i32::MAX as usize).contains(&bytes)
        };
        if !operands.all(fits) && refused.iter().all(|(known, _)| known != node) {
            let told = lowered.model.told(operation);
            let what = format!("{told}: tensors have 1 to {} bytes", i32::MAX);
            refused.push((*node, Reason::new(ReasonCode::ShapeLimit, what)));
        }
    }
    refused
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
        if !matches!(extent, Extent::Exact(_)) {
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
    target: &'a Target,
    constants: &'a mut Constants,
    weights: Option<&'a dyn WeightSource>,
    /// Operands of the entry, in the order they are bound.
    inputs: Vec<ValueId>,
    /// States of the entry, in the order they are bound.
    states: Vec<StateId>,
    model: Model,
    /// The node that is being lowered.
    node: NodeId,
    nodes: Vec<NodeId>,
    values: BTreeMap<ValueId, OperandId>,
    /// Small constants, by type, dimensions and bytes.
    small: BTreeMap<(i32, Vec<u32>, Vec<u8>), OperandId>,
    /// Rows that this run appends to a state.
    fresh: BTreeMap<StateId, OperandId>,
    /// All rows of a state that this run appends to, where they are in the device's memory.
    whole: BTreeMap<StateId, OperandId>,
    feeds: Vec<Feed>,
    /// What goes out, and the node that it is of.
    given: Vec<(OperandId, Fetch, NodeId)>,
}

/// Operations and operands.
impl Lowering<'_> {
    fn dims(&self, value: ValueId) -> Vec<u32> {
        let dims = self.graph.ty(value).shape.dims().iter();
        dims.map(|d| d.resolve(&self.symbols)).collect()
    }

    fn dims_of(&self, id: OperandId) -> Vec<u32> {
        let operand = self.model.operand(id);
        operand.map_or_else(Vec::new, |o| o.dims.clone())
    }

    fn capacity(&self) -> u32 {
        self.symbols.get(Symbol::CAPACITY)
    }

    /// The type of tensors of numbers.
    fn ty(&self) -> OperandType {
        self.target.numbers.tensor()
    }

    /// A tensor of numbers between operations.
    fn temporary(&mut self, name: &str, dims: &[u32]) -> OperandId {
        let operand = Operand::tensor(name, self.ty(), dims, Role::Temporary);
        self.model.add(operand)
    }

    fn operation(&mut self, code: i32, inputs: &[OperandId], outputs: &[OperandId]) {
        self.model.operations.push(Operation {
            code: OperationCode(code),
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
        });
        self.nodes.push(self.node);
    }

    /// An operation whose one result is a new tensor of `dims`.
    fn op(&mut self, name: &str, code: i32, inputs: &[OperandId], dims: &[u32]) -> OperandId {
        let made = self.temporary(name, dims);
        self.operation(code, inputs, &[made]);
        made
    }

    /// An operation whose result has the dimensions of its first operand.
    fn same(&mut self, name: &str, code: i32, inputs: &[OperandId]) -> OperandId {
        let dims = inputs.first().map_or_else(Vec::new, |x| self.dims_of(*x));
        self.op(name, code, inputs, &dims)
    }

    /// An operation on two tensors with an activation that it ends with, which is none.
    fn pair(&mut self, name: &str, code: i32, a: OperandId, b: OperandId) -> OperandId {
        let dims = broadcast(&self.dims_of(a), &self.dims_of(b));
        let none = self.integer(sys::FUSED_NONE);
        self.op(name, code, &[a, b, none], &dims)
    }

    fn times(&mut self, name: &str, a: OperandId, b: OperandId) -> OperandId {
        self.pair(name, sys::MUL, a, b)
    }

    /// `x` times a number.
    fn scaled(&mut self, name: &str, x: OperandId, by: f32) -> OperandId {
        let by = self.number(by);
        self.times(name, x, by)
    }

    /// `x` and a number.
    fn plus(&mut self, name: &str, x: OperandId, number: f32) -> OperandId {
        let number = self.number(number);
        self.pair(name, sys::ADD, x, number)
    }

    fn reshaped(&mut self, name: &str, x: OperandId, dims: &[u32]) -> OperandId {
        let shape: Vec<i32> = dims.iter().map(|d| *d as i32).collect();
        let shape = self.integers(&shape);
        self.op(name, sys::RESHAPE, &[x, shape], dims)
    }

    fn transposed(&mut self, name: &str, x: OperandId, order: &[u32]) -> OperandId {
        let dims = self.dims_of(x);
        let dims: Vec<u32> = order.iter().map(|i| dims[*i as usize]).collect();
        let order: Vec<i32> = order.iter().map(|i| *i as i32).collect();
        let order = self.integers(&order);
        self.op(name, sys::TRANSPOSE, &[x, order], &dims)
    }

    fn joined(&mut self, name: &str, parts: &[OperandId], axis: usize) -> OperandId {
        if let [whole] = parts {
            return *whole;
        }
        let mut dims = parts.first().map_or_else(Vec::new, |p| self.dims_of(*p));
        dims[axis] = parts.iter().map(|p| self.dims_of(*p)[axis]).sum();
        let mut inputs = parts.to_vec();
        inputs.push(self.integer(axis as i32));
        self.op(name, sys::CONCATENATION, &inputs, &dims)
    }

    /// Cuts `x` along `axis` in `count` equal parts.
    fn parts(&mut self, name: &str, x: OperandId, axis: usize, count: u32) -> Vec<OperandId> {
        if count == 1 {
            return vec![x];
        }
        let mut dims = self.dims_of(x);
        dims[axis] /= count;
        let made: Vec<OperandId> = (0..count)
            .map(|n| self.temporary(&format!("{name}.{n}"), &dims))
            .collect();
        let (axis, count) = (self.integer(axis as i32), self.integer(count as i32));
        self.operation(sys::SPLIT, &[x, axis, count], &made);
        made
    }

    /// The part of `x` along `axis` from `start` on of so many.
    fn cut(&mut self, name: &str, x: OperandId, axis: usize, start: u32, count: u32) -> OperandId {
        let mut dims = self.dims_of(x);
        let mut begin = vec![0; dims.len()];
        begin[axis] = start as i32;
        dims[axis] = count;
        let size: Vec<i32> = dims.iter().map(|d| *d as i32).collect();
        let (begin, size) = (self.integers(&begin), self.integers(&size));
        self.op(name, sys::SLICE, &[x, begin, size], &dims)
    }

    fn reduced(
        &mut self,
        name: &str,
        code: i32,
        x: OperandId,
        axes: &[u32],
        keep: bool,
    ) -> OperandId {
        let mut dims = self.dims_of(x);
        for axis in axes {
            dims[*axis as usize] = 1;
        }
        if !keep {
            let mut at = 0..;
            dims.retain(|_| at.next().is_none_or(|i| !axes.contains(&i)));
        }
        let axes: Vec<i32> = axes.iter().map(|a| *a as i32).collect();
        let axes = self.integers(&axes);
        // one keeps dimensions by a number, the others by a truth value
        let keep = match code {
            sys::MEAN => self.integer(i32::from(keep)),
            _ => self.constant(Operand::scalar(Scalar::Bool(keep))),
        };
        self.op(name, code, &[x, axes, keep], &dims)
    }

    fn softmax(&mut self, name: &str, x: OperandId, axis: u32) -> OperandId {
        let beta = match self.target.numbers {
            Numbers::F32 | Numbers::Relaxed => Scalar::F32(1.0),
            Numbers::F16 => Scalar::F16(half::f16::ONE),
        };
        let beta = self.constant(Operand::scalar(beta));
        let axis = self.integer(axis as i32);
        self.same(name, sys::SOFTMAX, &[x, beta, axis])
    }
}

/// Constants.
impl Lowering<'_> {
    /// A small constant, the same one wherever it is needed.
    fn constant(&mut self, operand: Operand) -> OperandId {
        let bytes = match &operand.role {
            Role::Scalar(number) => number.bytes(),
            Role::Copied(bytes) => bytes.clone(),
            _ => return self.model.add(operand),
        };
        let key = (operand.ty.code(), operand.dims.clone(), bytes);
        if let Some(known) = self.small.get(&key) {
            return *known;
        }
        let made = self.model.add(operand);
        self.small.insert(key, made);
        made
    }

    /// A single integer.
    fn integer(&mut self, n: i32) -> OperandId {
        self.constant(Operand::scalar(Scalar::I32(n)))
    }

    /// A row of integers.
    fn integers(&mut self, all: &[i32]) -> OperandId {
        let bytes = all.iter().flat_map(|n| n.to_ne_bytes()).collect();
        let dims = [all.len() as u32];
        let ty = OperandType::TensorInt32;
        self.constant(Operand::tensor("", ty, &dims, Role::Copied(bytes)))
    }

    /// A tensor of one number.
    fn number(&mut self, number: f32) -> OperandId {
        let mut bytes = Vec::new();
        self.target.numbers.held().encode(&[number], &mut bytes);
        let ty = self.ty();
        self.constant(Operand::tensor("", ty, &[1], Role::Copied(bytes)))
    }

    /// A tensor of so many zeros.
    fn zeros(&mut self, count: u32) -> OperandId {
        let (ty, dims) = (self.ty(), [count]);
        let key = (ty.code(), dims.to_vec(), Vec::new());
        if let Some(known) = self.small.get(&key) {
            return *known;
        }
        let bytes = count as usize * ty.bytes();
        let zeros = Role::Stored(self.constants.add(Content::Zeros, bytes));
        let name = format!("zeros.{count}");
        let made = self.model.add(Operand::tensor(name, ty, &dims, zeros));
        self.small.insert(key, made);
        made
    }

    /// The operand of the weight `value`, as numbers.
    fn weight(&mut self, value: ValueId) -> Result<OperandId, HalError> {
        let name = self.graph.value(value).name.clone();
        let ty = self.ty();
        // a single number has one dimension here
        let mut dims = self.dims(value);
        if dims.is_empty() {
            dims.push(1);
        }
        let count: usize = dims.iter().map(|d| *d as usize).product();
        let bytes = count.saturating_mul(ty.bytes());
        let inline = match self.graph.value(value).def {
            ValueDef::Weight(weight) => self.graph.weight(weight).inline.as_deref(),
            _ => None,
        };
        let role = match inline {
            None => {
                let content = Content::Numbers(name.clone(), self.target.numbers.held());
                Role::Stored(self.constants.add(content, bytes))
            }
            Some(inline) => {
                let mut numbers = vec![0f32; count];
                let dtype = self.graph.ty(value).dtype;
                dequantize(dtype, inline, &mut numbers).map_err(|e| HalError::Weight {
                    name: name.clone(),
                    why: e.to_string(),
                })?;
                let mut held = Vec::new();
                self.target.numbers.held().encode(&numbers, &mut held);
                match held.len() <= sys::MAX_SIZE_OF_IMMEDIATELY_COPIED_VALUES {
                    true => Role::Copied(held),
                    false => Role::Stored(self.constants.add(Content::Bytes(held), bytes)),
                }
            }
        };
        Ok(self.model.add(Operand::tensor(name, ty, &dims, role)))
    }

    /// The matrix `value` of a product, in the form that is wanted.
    fn matrix(&mut self, value: ValueId) -> Result<OperandId, HalError> {
        if let Some(&known) = self.values.get(&value) {
            return Ok(known);
        }
        let inline = match self.graph.value(value).def {
            ValueDef::Weight(weight) => self.graph.weight(weight).inline.is_some(),
            _ => false,
        };
        let made = match self.target.weights {
            WeightForm::Int8 if !inline => self.narrow(value)?,
            _ => self.weight(value)?,
        };
        self.values.insert(value, made);
        Ok(made)
    }

    /// The matrix `value` in 8 bits with a scale a row, which the device widens.
    fn narrow(&mut self, value: ValueId) -> Result<OperandId, HalError> {
        let name = self.graph.value(value).name.clone();
        let dims = self.dims(value);
        let columns = dims.last().map_or(1, |d| *d as usize);
        let count: usize = dims.iter().map(|d| *d as usize).product();
        let scales = match self.weights {
            Some(weights) => constant_rows(&constant_numbers(weights, &name, count)?, columns).1,
            None => vec![1.0; dims.first().map_or(0, |d| *d as usize)],
        };
        let content = Content::Rows(name.clone(), columns);
        let role = Role::Stored(self.constants.add(content, count));
        let ty = OperandType::TensorQuant8SymmPerChannel;
        let mut operand = Operand::tensor(&name, ty, &dims, role);
        operand.channels = Some(Channels { axis: 0, scales });
        let held = self.model.add(operand);
        Ok(self.op(&format!("{name}.wide"), sys::DEQUANTIZE, &[held], &dims))
    }

    /// The `count` numbers of the weight `value`, which the host computes with; ones if nobody has them.
    fn host_numbers(&self, value: ValueId, count: usize) -> Result<Vec<f32>, HalError> {
        let of = self.graph.value(value);
        let inline = match of.def {
            ValueDef::Weight(weight) => self.graph.weight(weight).inline.as_deref(),
            _ => None,
        };
        match (inline, self.weights) {
            (Some(bytes), _) => {
                let mut numbers = vec![1f32; count];
                let dtype = self.graph.ty(value).dtype;
                dequantize(dtype, bytes, &mut numbers).map_err(|e| HalError::Weight {
                    name: of.name.clone(),
                    why: e.to_string(),
                })?;
                Ok(numbers)
            }
            (None, Some(weights)) => constant_numbers(weights, &of.name, count),
            (None, None) => Ok(vec![1.0; count]),
        }
    }
}

/// What goes in and out.
impl Lowering<'_> {
    /// An input that the host fills as `feed` says, the same one wherever it is needed.
    fn input(&mut self, name: String, ty: OperandType, dims: &[u32], feed: Feed) -> OperandId {
        let known = self.feeds.iter().zip(&self.model.inputs);
        let mut known = known.filter(|(f, id)| {
            let operand = self.model.operand(**id);
            **f == feed && operand.is_some_and(|o| o.dims == dims)
        });
        if let Some((_, id)) = known.next() {
            return *id;
        }
        self.feeds.push(feed);
        self.model.add(Operand::tensor(name, ty, dims, Role::Input))
    }

    /// The operand of `value`: made before, a weight, or an operand of the entry.
    fn value(&mut self, value: ValueId) -> Result<OperandId, HalError> {
        if let Some(&known) = self.values.get(&value) {
            return Ok(known);
        }
        let made = match self.graph.value(value).def {
            ValueDef::Weight(_) => self.weight(value)?,
            _ => {
                let at = self.operand(value)?;
                let (name, dims) = (self.graph.value(value).name.clone(), self.dims(value));
                self.input(name, self.ty(), &dims, Feed::Value(at))
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

    /// Where `state` is bound.
    fn state(&self, state: StateId) -> Result<usize, HalError> {
        let at = self.states.iter().position(|s| *s == state);
        at.ok_or_else(|| HalError::InvalidUse {
            call: "compile",
            what: format!("state '{}'", self.graph.state(state).name),
            found: "not bound".into(),
            expected: "a state of the entry".into(),
        })
    }

    /// Has the host take `from`.
    fn give(&mut self, from: OperandId, fetch: Fetch) {
        self.given.push((from, fetch, self.node));
    }

    fn lower(&mut self, node: &Node) -> Result<(), HalError> {
        let made = block::lower(self, node)?;
        let Some(made) = made.filter(|m| m.len() == node.outputs.len()) else {
            let what = format!("{} is not lowered", node.op.name());
            return Err(HalError::CompileRejected {
                device: self.device.into(),
                nodes: vec![(self.node, Reason::new(ReasonCode::OpUnknown, what))],
            });
        };
        for (made, &value) in made.into_iter().zip(&node.outputs) {
            self.values.insert(value, made);
        }
        Ok(())
    }

    /// Makes outputs of what is given. What is read by an operation too, or is no operation's result, is copied:
    /// drivers differ in what they make of outputs that are read.
    fn finish(mut self) -> Lowered {
        let given = std::mem::take(&mut self.given);
        let mut fetches = Vec::new();
        for (from, fetch, node) in given {
            let operations = self.model.operations.iter();
            let read = operations.clone().any(|o| o.inputs.contains(&from));
            let operand = self.model.operands.get_mut(from.0 as usize);
            match operand {
                Some(operand) if operand.role == Role::Temporary && !read => {
                    operand.role = Role::Output;
                    self.model.outputs.push(from);
                }
                _ => {
                    self.node = node;
                    let dims = self.dims_of(from);
                    let name = self.model.operand(from).map(|o| o.name.clone());
                    let name = format!("{}.out", name.unwrap_or_default());
                    let to = self.reshaped(&name, from, &dims);
                    if let Some(operand) = self.model.operands.get_mut(to.0 as usize) {
                        operand.role = Role::Output;
                    }
                    self.model.outputs.push(to);
                }
            }
            fetches.push(fetch);
        }
        Lowered {
            model: self.model,
            feeds: self.feeds,
            fetches,
            nodes: self.nodes,
        }
    }
}

/// Dimensions of the result of two tensors that numpy would stretch to fit.
fn broadcast(a: &[u32], b: &[u32]) -> Vec<u32> {
    let rank = a.len().max(b.len());
    let at = |dims: &[u32], i: usize| -> u32 {
        let missing = rank - dims.len();
        i.checked_sub(missing).map_or(1, |i| dims[i])
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (1, other) | (other, 1) => other,
            (one, other) => one.max(other),
        })
        .collect()
}

/// The level that every operation of `model` is brought by, at most; an operation or type that lowering makes no use of
/// has none.
pub fn level(model: &Model) -> Option<FeatureLevel> {
    let operations = model.operations.iter();
    let mut each = operations.map(|o| {
        let ty = model.operand(*o.outputs.first()?)?.ty;
        o.code.level(ty)
    });
    each.try_fold(FeatureLevel::FL1, |most, level| Some(most.max(level?)))
}
