//! The graph: values, nodes in execution order, states, weights.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{Dim, GraphError, Op, Shape, Symbol, TensorType, infer};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u32);

        impl $name {
            /// The id as an index.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
id!(
    /// Index of a [`Value`] in its graph.
    ValueId
);
id!(
    /// Index of a [`Node`] in its graph: also its place in the execution order.
    NodeId
);
id!(
    /// Index of a [`State`] in its graph.
    StateId
);
id!(
    /// Index of a [`Weight`] in its graph.
    WeightId
);

/// What defines a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueDef {
    /// Given by the caller at every step.
    Input,
    /// Constant data.
    Weight(WeightId),
    /// The `output`-th result of `node`.
    Node {
        /// Producer.
        node: NodeId,
        /// Which of its results.
        output: u32,
    },
}

/// A typed value.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Unique in its graph.
    pub name: String,
    /// Element type and shape.
    pub ty: TensorType,
    /// Where it comes from.
    pub def: ValueDef,
}

/// Bytes of a small constant carried by the graph itself, in the weight's type, little endian.
pub type InlineWeight = Arc<[u8]>;

/// A constant tensor. Its data is either inline or found by name in a weight source.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Name of the tensor in the model file.
    pub name: String,
    /// The value that stands for it in the graph.
    pub value: ValueId,
    /// Data, if the graph carries it.
    pub inline: Option<InlineWeight>,
}

/// A tensor that lives from step to step, such as one layer's keys.
///
/// Writes carry an explicit position ([`Op::KvAppend`]), so a failed step can be run again.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Unique in its graph.
    pub name: String,
    /// Element type and shape; the home may hold it in a narrower type.
    pub ty: TensorType,
    /// The axis along which rows are appended.
    pub axis: u32,
}

/// One operation with its operands and results.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique in its graph; those of layer `N` start `layers.N.`.
    pub name: String,
    /// What it does.
    pub op: Op,
    /// Operands, in the order the op documents.
    pub inputs: Vec<ValueId>,
    /// Results.
    pub outputs: Vec<ValueId>,
}

impl Node {
    /// The layer `N` of a node named `layers.N.…`.
    pub fn layer(&self) -> Option<u32> {
        let rest = self.name.strip_prefix("layers.")?;
        rest.split('.').next()?.parse().ok()
    }
}

/// One step of building a graph again, see [`Graph::definitions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Definition {
    /// An input.
    Input(ValueId),
    /// A weight or constant.
    Weight(WeightId),
    /// A node.
    Node(NodeId),
}

/// What a name of a graph stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Named {
    Value(ValueId),
    State(StateId),
    /// A node of no or several results.
    Node,
}

/// A compute graph whose nodes are always in a valid execution order.
///
/// It only grows: a node can read nothing but values that exist already, so every contiguous run
/// of nodes is convex and can be given to one device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    name: String,
    values: Vec<Value>,
    nodes: Vec<Node>,
    states: Vec<State>,
    weights: Vec<Weight>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    names: HashMap<String, Named>,
}

impl Graph {
    /// The most bytes a name may have.
    pub const MAX_NAME: usize = 255;

    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Graph {
            name: name.into(),
            ..Graph::default()
        }
    }

    /// The model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// All states.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    /// All weights.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// Values the caller gives at every step.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// Values the caller gets from every step.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The value `id`. Panics if it is of another graph.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The node `id`. Panics if it is of another graph.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The state `id`. Panics if it is of another graph.
    pub fn state(&self, id: StateId) -> &State {
        &self.states[id.index()]
    }

    /// The weight `id`. Panics if it is of another graph.
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.index()]
    }

    /// The type of value `id`.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.value(id).ty
    }

    /// Adds an input.
    pub fn add_input(
        &mut self,
        name: impl Into<String>,
        ty: TensorType,
    ) -> Result<ValueId, GraphError> {
        let id = self.add_value(name.into(), ty, ValueDef::Input)?;
        self.inputs.push(id);
        Ok(id)
    }

    /// Adds a weight found by `name` in the model's weight source.
    pub fn add_weight(
        &mut self,
        name: impl Into<String>,
        ty: TensorType,
    ) -> Result<ValueId, GraphError> {
        self.push_weight(name.into(), ty, None)
    }

    /// Adds a small constant that the graph itself carries.
    ///
    /// Fails if `data` is not exactly the type's size.
    pub fn add_constant(
        &mut self,
        name: impl Into<String>,
        ty: TensorType,
        data: impl Into<InlineWeight>,
    ) -> Result<ValueId, GraphError> {
        let (name, data) = (name.into(), data.into());
        let wanted = ty
            .shape
            .as_fixed()
            .and_then(|_| ty.bytes(&Default::default()));
        if wanted != Some(data.len()) {
            return Err(GraphError::ConstantSize {
                name,
                ty,
                bytes: data.len(),
            });
        }
        self.push_weight(name, ty, Some(data))
    }

    fn push_weight(
        &mut self,
        name: String,
        ty: TensorType,
        inline: Option<InlineWeight>,
    ) -> Result<ValueId, GraphError> {
        if ty.shape.as_fixed().is_none() {
            return Err(GraphError::SymbolicWeight { name, ty });
        }
        let weight = WeightId(self.weights.len() as u32);
        let value = self.add_value(name.clone(), ty, ValueDef::Weight(weight))?;
        self.weights.push(Weight {
            name,
            value,
            inline,
        });
        Ok(value)
    }

    /// Adds a state; `axis` must be one of its dimensions.
    pub fn add_state(
        &mut self,
        name: impl Into<String>,
        ty: TensorType,
        axis: u32,
    ) -> Result<StateId, GraphError> {
        let name = name.into();
        if axis as usize >= ty.shape.rank() {
            return Err(GraphError::StateAxis { name, ty, axis });
        }
        check_type(&name, &ty)?;
        let id = StateId(self.states.len() as u32);
        self.take_name(&name, Named::State(id))?;
        self.states.push(State { name, ty, axis });
        Ok(id)
    }

    /// Appends a node and returns its results, whose types are inferred. On an error the graph is
    /// unchanged.
    ///
    /// A single result carries the node's name, several carry `name.0`, `name.1`, ….
    pub fn add_node(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        let name = name.into();
        for &id in inputs {
            if id.index() >= self.values.len() {
                return Err(GraphError::UnknownValue { node: name, id });
            }
        }
        let types: Vec<&TensorType> = inputs.iter().map(|&id| self.ty(id)).collect();
        let results = infer(&name, &op, &types, &self.states)?;
        let node = NodeId(self.nodes.len() as u32);
        let single = results.len() == 1;
        let value_name = |output: usize| match single {
            true => name.clone(),
            false => format!("{name}.{output}"),
        };
        self.check_name(&name)?;
        for (output, ty) in results.iter().enumerate() {
            let value_name = value_name(output);
            self.check_name(&value_name)?;
            check_type(&value_name, ty)?;
        }
        if !single {
            self.take_name(&name, Named::Node)?;
        }
        let mut outputs = Vec::with_capacity(results.len());
        for (output, ty) in results.into_iter().enumerate() {
            let def = ValueDef::Node {
                node,
                output: output as u32,
            };
            outputs.push(self.add_value(value_name(output), ty, def)?);
        }
        self.nodes.push(Node {
            name,
            op,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
        });
        Ok(outputs)
    }

    /// Appends a node of exactly one result and returns it.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        let name = name.into();
        let outputs = self.add_node(name.clone(), op, inputs)?;
        match outputs[..] {
            [one] => Ok(one),
            _ => Err(GraphError::ResultCount {
                node: name,
                expected: 1,
                found: outputs.len(),
            }),
        }
    }

    /// Marks a value as an output of the graph.
    pub fn set_output(&mut self, id: ValueId) -> Result<(), GraphError> {
        if id.index() >= self.values.len() {
            return Err(GraphError::UnknownValue {
                node: "output".into(),
                id,
            });
        }
        self.outputs.push(id);
        Ok(())
    }

    /// The value named `name`.
    pub fn find_value(&self, name: &str) -> Option<ValueId> {
        match self.names.get(name) {
            Some(&Named::Value(id)) => Some(id),
            _ => None,
        }
    }

    /// The state named `name`.
    pub fn find_state(&self, name: &str) -> Option<StateId> {
        match self.names.get(name) {
            Some(&Named::State(id)) => Some(id),
            _ => None,
        }
    }

    /// Whether a value, state or node is named `name`.
    pub fn has_name(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Inputs, weights and nodes in the order in which they were added: each reads only earlier ones.
    pub fn definitions(&self) -> impl Iterator<Item = Definition> + '_ {
        let mut nodes = 0..0;
        let mut values = self.values.iter().enumerate();
        let mut leaf = None;
        std::iter::from_fn(move || {
            loop {
                if let Some(id) = nodes.next() {
                    return Some(Definition::Node(NodeId(id)));
                }
                if let Some(leaf) = leaf.take() {
                    return Some(leaf);
                }
                // Nodes without results come before the next value that stands after them.
                match values.next() {
                    Some((i, value)) => {
                        let id = ValueId(i as u32);
                        match value.def {
                            ValueDef::Input => leaf = Some(Definition::Input(id)),
                            ValueDef::Weight(weight) => leaf = Some(Definition::Weight(weight)),
                            ValueDef::Node { node, .. } => nodes.end = nodes.end.max(node.0 + 1),
                        }
                    }
                    None if nodes.end as usize == self.nodes.len() => return None,
                    None => nodes.end = self.nodes.len() as u32,
                }
            }
        })
    }

    /// The shape of value `id`.
    pub fn shape(&self, id: ValueId) -> &Shape {
        &self.ty(id).shape
    }

    fn add_value(
        &mut self,
        name: String,
        ty: TensorType,
        def: ValueDef,
    ) -> Result<ValueId, GraphError> {
        check_type(&name, &ty)?;
        let id = ValueId(self.values.len() as u32);
        self.take_name(&name, Named::Value(id))?;
        self.values.push(Value { name, ty, def });
        Ok(id)
    }

    fn take_name(&mut self, name: &str, named: Named) -> Result<(), GraphError> {
        self.check_name(name)?;
        self.names.insert(name.to_owned(), named);
        Ok(())
    }

    fn check_name(&self, name: &str) -> Result<(), GraphError> {
        let legal = (1..=Graph::MAX_NAME).contains(&name.len())
            && name
                .chars()
                .all(|c| c.is_ascii_graphic() && !"(),=%@\"#:[]{}".contains(c));
        if !legal {
            return Err(GraphError::IllegalName { name: name.into() });
        }
        if self.has_name(name) {
            return Err(GraphError::DuplicateName { name: name.into() });
        }
        Ok(())
    }
}

/// Whether `ty` can be the type of a value or state.
fn check_type(name: &str, ty: &TensorType) -> Result<(), GraphError> {
    if ty.shape.rank() > Shape::MAX_RANK {
        return Err(GraphError::Rank {
            name: name.into(),
            rank: ty.shape.rank(),
        });
    }
    for dim in ty.shape.dims() {
        if let Dim::Sym(symbol) = *dim
            && symbol.0 as usize >= Symbol::COUNT
        {
            return Err(GraphError::SymbolRange {
                name: name.into(),
                symbol,
            });
        }
    }
    let row = ty.shape.last().and_then(Dim::fixed);
    if ty.dtype.is_block() && row.and_then(|n| ty.dtype.row_bytes(n as usize)).is_none() {
        return Err(GraphError::PartialBlock {
            name: name.into(),
            ty: ty.clone(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BinaryOp, DType};

    fn ty(dtype: DType, dims: &[Dim]) -> TensorType {
        TensorType::new(dtype, dims.to_vec())
    }

    #[test]
    fn a_node_that_fails_leaves_the_graph_unchanged() {
        let mut g = Graph::new("g");
        let x = g.add_input("x", ty(DType::F32, &[Dim::Fixed(4)])).unwrap();
        g.add_input("top.1", ty(DType::F32, &[])).unwrap();
        let before = g.clone();
        let top = Op::TopK { k: 2 };
        let taken = GraphError::DuplicateName {
            name: "top.1".into(),
        };
        assert_eq!(g.add_node("top", top.clone(), &[x]), Err(taken));
        assert!(g.add_node("bad", Op::TopK { k: 5 }, &[x]).is_err());
        let later = ValueId(9);
        let unknown = GraphError::UnknownValue {
            node: "n".into(),
            id: later,
        };
        assert_eq!(g.add_node("n", top.clone(), &[later]), Err(unknown));
        assert_eq!(g, before);
        assert_eq!(g.add_node("ok", top, &[x]).unwrap().len(), 2);
    }

    #[test]
    fn results_are_named_after_their_node() {
        let mut g = Graph::new("g");
        let x = g
            .add_input("layers.12.x", ty(DType::F32, &[Dim::TOKENS]))
            .unwrap();
        let add = Op::Binary(BinaryOp::Add);
        let y = g.add("layers.12.y", add, &[x, x]).unwrap();
        assert_eq!(g.find_value("layers.12.y"), Some(y));
        assert_eq!(g.node(NodeId(0)).layer(), Some(12));
        let cut = Op::Reshape {
            shape: vec![Dim::TOKENS, Dim::Fixed(1)].into(),
        };
        let column = g.add("column", cut, &[y]).unwrap();
        let parts = Op::Split {
            axis: 1,
            sizes: vec![1, 0],
        };
        let parts = g.add_node("parts", parts, &[column]).unwrap();
        assert_eq!(g.value(parts[1]).name, "parts.1");
        assert_eq!(g.find_value("parts"), None);
        assert!(g.has_name("parts"));
    }

    #[test]
    fn names_that_text_cannot_hold_are_refused() {
        let mut g = Graph::new("g");
        let scalar = ty(DType::F32, &[]);
        for name in ["", "a b", "a,b", "%a", "é", "a\n", &"n".repeat(256)] {
            let illegal = GraphError::IllegalName { name: name.into() };
            assert_eq!(g.add_input(name, scalar.clone()), Err(illegal));
        }
        assert!(g.add_input("n".repeat(255), scalar).is_ok());
    }

    #[test]
    fn types_that_no_value_can_have_are_refused() {
        let mut g = Graph::new("g");
        let f = Dim::Fixed;
        for dims in [&[f(2), f(33)][..], &[f(32), Dim::TOKENS], &[]] {
            let error = g.add_input("q", ty(DType::Q4_0, dims));
            assert!(matches!(error, Err(GraphError::PartialBlock { .. })));
        }
        let deep = g.add_input("x", ty(DType::F32, &[f(1); 9]));
        assert!(matches!(deep, Err(GraphError::Rank { rank: 9, .. })));
        let symbol = Dim::Sym(Symbol(Symbol::COUNT as u16));
        let state = g.add_state("s", ty(DType::F32, &[symbol]), 0);
        assert!(matches!(state, Err(GraphError::SymbolRange { .. })));
        let axis = g.add_state("s", ty(DType::F32, &[f(1)]), 1);
        assert!(matches!(axis, Err(GraphError::StateAxis { axis: 1, .. })));
        let weight = g.add_weight("w", ty(DType::F32, &[Dim::TOKENS]));
        assert!(matches!(weight, Err(GraphError::SymbolicWeight { .. })));
        let short = g.add_constant("c", ty(DType::F32, &[f(2)]), vec![0; 7]);
        assert!(matches!(
            short,
            Err(GraphError::ConstantSize { bytes: 7, .. })
        ));
        assert_eq!(g, Graph::new("g"));
    }
}
