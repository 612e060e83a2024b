//! A small graph with operands and what it must give.

use anynpu_cpu::reference::{ReferenceError, StateStore, States, Tensor, TensorRef, evaluate};
use anynpu_hal::{HalError, WeightSource, WeightView};
use anynpu_ir::{Graph, GraphError, Op, Shape, SymbolValues, TensorType};

use crate::{Tolerance, compare};

/// What a case must give.
#[derive(Clone, Debug)]
pub enum Expectation {
    /// These outputs, in the order of [`Graph::outputs`].
    Values(Vec<Tensor>, Tolerance),
    /// An error whose message contains this.
    Error(String),
}

/// A graph of fixed shapes without weights, its operands and what it must give.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique name, for reports.
    pub name: String,
    /// The graph.
    pub graph: Graph,
    /// Operands, in the order of [`Graph::inputs`].
    pub inputs: Vec<Tensor>,
    /// What it must give.
    pub expected: Expectation,
}

impl Case {
    /// A case of a single op on `inputs`.
    ///
    /// # Errors
    /// [`GraphError`] if the op does not take them.
    pub fn op(
        name: impl Into<String>,
        op: Op,
        inputs: Vec<Tensor>,
        expected: Expectation,
    ) -> Result<Self, GraphError> {
        Ok(Case {
            name: name.into(),
            graph: graph_of(op, &inputs)?,
            inputs,
            expected,
        })
    }

    /// Whether `outcome`, what running the case gave, is what it must give; else what is wrong.
    pub fn check<E: std::fmt::Display>(
        &self,
        outcome: Result<Vec<Tensor>, E>,
    ) -> Result<(), String> {
        match (&self.expected, outcome) {
            (Expectation::Values(expected, tolerance), Ok(found)) => {
                if found.len() != expected.len() {
                    return Err(format!(
                        "{} outputs found, {} expected",
                        found.len(),
                        expected.len()
                    ));
                }
                for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                    compare(found, expected, *tolerance).map_err(|e| format!("output {i}: {e}"))?;
                }
                Ok(())
            }
            (Expectation::Error(part), Err(error)) => {
                let message = error.to_string();
                match message.contains(part) {
                    true => Ok(()),
                    false => Err(format!("error {message:?} does not tell {part:?}")),
                }
            }
            (Expectation::Values(..), Err(error)) => Err(format!("failed: {error}")),
            (Expectation::Error(part), Ok(_)) => {
                Err(format!("succeeded, an error telling {part:?} was expected"))
            }
        }
    }
}

/// The graph of a single op that takes operands like `inputs` and gives all its results.
///
/// # Errors
/// [`GraphError`] if the op does not take them.
pub fn graph_of(op: Op, inputs: &[Tensor]) -> Result<Graph, GraphError> {
    let mut graph = Graph::new("case");
    let mut operands = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        operands.push(graph.add_input(format!("operand{i}"), type_of(input))?);
    }
    for id in graph.add_node("node", op, &operands)? {
        graph.set_output(id)?;
    }
    Ok(graph)
}

/// Runs all of `graph` on the reference; `inputs` and the outputs are in the graph's own order.
///
/// # Errors
/// As [`evaluate`]; weights are those that the graph carries inline.
///
/// # Panics
/// If an output of the graph is not made by one of its nodes.
pub fn run_reference(
    graph: &Graph,
    inputs: &[Tensor],
    states: &mut dyn States,
    symbols: &SymbolValues,
) -> Result<Vec<Tensor>, ReferenceError> {
    let run = graph.whole();
    let operands: Vec<TensorRef<'_>> = run
        .inputs()
        .iter()
        .map(|id| {
            let at = graph.inputs().iter().position(|i| i == id);
            inputs[at.expect("a whole graph's inputs are its own")].view()
        })
        .collect();
    let made = evaluate(&run, &operands, &NoWeights, states, symbols)?;
    let find = |id| {
        let at = run.outputs().iter().position(|i| i == id);
        made[at.expect("outputs are made by nodes")].clone()
    };
    Ok(graph.outputs().iter().map(find).collect())
}

impl Case {
    /// Runs the case on the reference.
    ///
    /// # Errors
    /// As [`run_reference`].
    pub fn run_reference(&self) -> Result<Vec<Tensor>, ReferenceError> {
        let symbols = SymbolValues::default();
        let mut states = StateStore::new(&self.graph, &symbols)?;
        run_reference(&self.graph, &self.inputs, &mut states, &symbols)
    }
}

/// The type of a tensor as a graph writes it.
pub fn type_of(tensor: &Tensor) -> TensorType {
    let dims: Vec<u32> = tensor.shape().iter().map(|&d| d as u32).collect();
    TensorType::new(tensor.dtype(), Shape::fixed(&dims))
}

/// A source without weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoWeights;

impl WeightSource for NoWeights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        Err(HalError::Weight {
            name: name.into(),
            why: "a case's graph carries its weights itself".into(),
        })
    }
}
