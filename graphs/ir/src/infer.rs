//! Shape and type inference.

use crate::{GraphError, Op, State, TensorType};

/// The types of `op`'s results for operands of types `inputs`.
///
/// `node` names the node in errors; `states` are the graph's.
pub fn infer(
    node: &str,
    op: &Op,
    inputs: &[&TensorType],
    states: &[State],
) -> Result<Vec<TensorType>, GraphError> {
    let _ = (inputs, states);
    Err(GraphError::OperandCount {
        node: node.into(),
        op: op.name(),
        expected: "",
        found: 0,
    })
}
