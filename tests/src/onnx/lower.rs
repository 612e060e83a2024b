//! Building one case from one node.

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{BinaryOp, DType, Graph, GraphError, Op, Shape, TensorType, ValueId};

use super::{Attribute, NodeTest, Refusal, attention, products, simple};
use crate::{Case, Expectation, Tolerance, type_of};

/// What a step gives.
pub(super) type Step = Result<ValueId, Refusal>;

/// A skip because our op set lacks something.
pub(super) fn skip<T>(why: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Skip(why.into()))
}

impl From<GraphError> for Refusal {
    fn from(e: GraphError) -> Self {
        Refusal::Fault(format!("inference refuses it: {e}"))
    }
}

/// A graph being built for a node.
pub(super) struct Lower<'t> {
    test: &'t NodeTest,
    /// Operands of the node as ours; `None` where it has none.
    pub(super) inputs: Vec<Option<Tensor>>,
    graph: Graph,
    given: Vec<Tensor>,
    bound: Vec<Option<ValueId>>,
}

impl<'t> Lower<'t> {
    pub(super) fn new(test: &'t NodeTest) -> Result<Self, Refusal> {
        let tensor = |data: &Option<super::Data>| data.as_ref().map(|d| d.tensor()).transpose();
        let inputs: Vec<_> = test.inputs.iter().map(tensor).collect::<Result<_, _>>()?;
        for output in test.outputs.iter().flatten() {
            output.tensor()?;
        }
        Ok(Lower {
            test,
            bound: vec![None; inputs.len()],
            inputs,
            graph: Graph::new("node"),
            given: Vec::new(),
        })
    }

    /// The case; the node's first results are compared, as many as the mapping gives.
    pub(super) fn case(mut self, name: &str) -> Result<Case, Refusal> {
        let op = self.test.op.clone();
        let made = match simple::lower(&mut self, &op)? {
            Some(made) => made,
            None => match products::lower(&mut self, &op)? {
                Some(made) => made,
                None => match attention::lower(&mut self, &op)? {
                    Some(made) => made,
                    None => return skip(format!("we have no {op}")),
                },
            },
        };
        let mut expected = Vec::new();
        for (i, id) in made.into_iter().enumerate() {
            let Some(data) = self.test.outputs.get(i).and_then(Option::as_ref) else {
                continue;
            };
            let tensor = data.tensor()?;
            // Results of another type or shape, such as I32 indices, are converted to ONNX's.
            let id = self.cast(tensor.dtype(), id)?;
            let id = self.reshape(tensor.shape(), id)?;
            self.graph.set_output(id)?;
            expected.push(tensor);
        }
        let narrow = self
            .inputs
            .iter()
            .flatten()
            .any(|t| t.dtype() == DType::F16);
        let tolerance = match narrow {
            // ONNX computes in F16 throughout, we round once.
            true => Tolerance::new(2e-3, 2e-3),
            false => Tolerance::new(2e-6, 1e-5),
        };
        Ok(Case {
            name: name.into(),
            graph: self.graph,
            inputs: self.given,
            expected: Expectation::Values(expected, tolerance),
        })
    }

    /// Whether operand `i` is given.
    pub(super) fn has(&self, i: usize) -> bool {
        self.inputs.get(i).is_some_and(Option::is_some)
    }

    /// How many operands are given.
    pub(super) fn count(&self) -> usize {
        self.inputs.iter().flatten().count()
    }

    /// Operand `i`.
    pub(super) fn tensor(&self, i: usize) -> Result<&Tensor, Refusal> {
        let tensor = self.inputs.get(i).and_then(Option::as_ref);
        tensor.ok_or_else(|| Refusal::Fault(format!("operand {i} is missing")))
    }

    /// Operand `i`, bound to an input of the graph.
    pub(super) fn input(&mut self, i: usize) -> Step {
        if let Some(id) = self.bound.get(i).copied().flatten() {
            return Ok(id);
        }
        let tensor = self.tensor(i)?.clone();
        let id = self.given(tensor)?;
        self.bound[i] = Some(id);
        Ok(id)
    }

    /// A new input of the graph that is given `tensor`.
    pub(super) fn given(&mut self, tensor: Tensor) -> Step {
        let name = format!("operand{}", self.given.len());
        let id = self.graph.add_input(name, type_of(&tensor))?;
        self.given.push(tensor);
        Ok(id)
    }

    /// The integers in operand `i`, which the mapping needs while the graph is built.
    pub(super) fn integers(&self, i: usize) -> Result<Vec<i64>, Refusal> {
        let integers = self.tensor(i)?.to_i64();
        integers.map_err(|e| Refusal::Fault(e.to_string()))
    }

    /// An integer attribute.
    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        match self.attribute(name) {
            Some(&Attribute::Int(n)) => n,
            _ => default,
        }
    }

    /// A float attribute.
    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        match self.attribute(name) {
            Some(&Attribute::Float(x)) => x,
            // as the recorded tests write whole numbers
            Some(&Attribute::Int(n)) => n as f32,
            _ => default,
        }
    }

    /// A text attribute.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.attribute(name)? {
            Attribute::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An attribute that is a list of integers.
    pub(super) fn ints(&self, name: &str) -> Option<Vec<i64>> {
        match self.attribute(name)? {
            Attribute::Ints(list) => Some(list.clone()),
            _ => None,
        }
    }

    fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.test.attributes.get(name)
    }

    /// The shape of result `i` as ONNX gives it.
    pub(super) fn output_shape(&self, i: usize) -> Vec<usize> {
        let output = self.test.outputs.get(i).and_then(Option::as_ref);
        output.map(|d| d.shape.clone()).unwrap_or_default()
    }

    /// How many results ONNX gives.
    pub(super) fn outputs(&self) -> usize {
        self.test.outputs.len()
    }

    pub(super) fn ty(&self, id: ValueId) -> &TensorType {
        self.graph.ty(id)
    }

    /// The dimensions of a value.
    pub(super) fn dims(&self, id: ValueId) -> Vec<usize> {
        self.ty(id).shape.resolve(&Default::default())
    }

    /// An axis, counted from the end if negative.
    pub(super) fn axis(&self, axis: i64, id: ValueId) -> u32 {
        let rank = self.ty(id).shape.rank() as i64;
        (if axis < 0 { axis + rank } else { axis }) as u32
    }

    /// Adds an op of one result.
    pub(super) fn node(&mut self, op: Op, inputs: &[ValueId]) -> Step {
        let name = format!("node{}", self.graph.nodes().len());
        Ok(self.graph.add(name, op, inputs)?)
    }

    /// Adds an op of several results.
    pub(super) fn nodes(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, Refusal> {
        let name = format!("node{}", self.graph.nodes().len());
        Ok(self.graph.add_node(name, op, inputs)?)
    }

    pub(super) fn binary(&mut self, f: BinaryOp, a: ValueId, b: ValueId) -> Step {
        self.node(Op::Binary(f), &[a, b])
    }

    /// `x` of another shape. Always a node, so that an operand can be a result.
    pub(super) fn reshape(&mut self, shape: &[usize], x: ValueId) -> Step {
        let dims: Vec<u32> = shape.iter().map(|&d| d as u32).collect();
        let shape = Shape::fixed(&dims);
        self.node(Op::Reshape { shape }, &[x])
    }

    /// `x` as `to`.
    pub(super) fn cast(&mut self, to: DType, x: ValueId) -> Step {
        match self.ty(x).dtype == to {
            true => Ok(x),
            false => self.node(Op::Cast { to }, &[x]),
        }
    }

    pub(super) fn transpose(&mut self, perm: &[u32], x: ValueId) -> Step {
        let perm = perm.to_vec();
        self.node(Op::Transpose { perm }, &[x])
    }

    pub(super) fn slice(&mut self, axis: u32, start: usize, end: usize, x: ValueId) -> Step {
        let slice = Op::Slice {
            axis,
            start: start as u32,
            end: end as u32,
            step: 1,
        };
        self.node(slice, &[x])
    }

    pub(super) fn concat(&mut self, axis: u32, parts: &[ValueId]) -> Step {
        self.node(Op::Concat { axis }, parts)
    }

    /// A constant.
    pub(super) fn constant(&mut self, tensor: &Tensor) -> Step {
        let name = format!("constant{}", self.graph.weights().len());
        let (ty, bytes) = (type_of(tensor), tensor.to_bytes());
        Ok(self.graph.add_constant(name, ty, bytes)?)
    }

    /// A constant F32 scalar.
    pub(super) fn number(&mut self, value: f32) -> Step {
        self.constant(&Tensor::scalar(value))
    }
}
