//! Errors of reference evaluation.

use anynpu_hal::HalError;
use anynpu_ir::block::BlockError;
use anynpu_ir::{DType, GraphError, StateId};
use thiserror::Error;

/// A node that can't be evaluated.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The op doesn't take these operands.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The op is newer than this reference.
    #[error("node '{node}': op {op} has no reference; it is newer than this build")]
    UnknownOp {
        /// Node name.
        node: String,
        /// Op name.
        op: &'static str,
    },
    /// An index or id past the end.
    #[error(
        "node '{node}' ({op}): element {at} of {operand} is {index}, must be 0 to below {limit}"
    )]
    Index {
        /// Node name.
        node: String,
        /// Op name.
        op: &'static str,
        /// Operand name, e.g. `ids`.
        operand: &'static str,
        /// Which element of the operand.
        at: usize,
        /// Its value.
        index: i64,
        /// One past the largest allowed.
        limit: usize,
    },
    /// A query that no key row is visible to.
    #[error("node '{node}': query {query} sees none of {keys} key rows; it must see at least one")]
    NothingVisible {
        /// Node name.
        node: String,
        /// Row of `q`.
        query: usize,
        /// Key rows there are.
        keys: usize,
    },
    /// A state that was not bound.
    #[error("node '{node}': state number {} is not bound", id.0)]
    UnknownState {
        /// Node name.
        node: String,
        /// The state.
        id: StateId,
    },
    /// Rows of a state past its capacity.
    #[error(
        "node '{node}': rows {start}..{end} of state '{state}' are past its {capacity}; bind a \
         larger capacity"
    )]
    StateRows {
        /// Node name.
        node: String,
        /// State name.
        state: String,
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
        /// Rows it has.
        capacity: usize,
    },
    /// A state of another shape than the graph declares under the bound symbols.
    #[error("state '{state}' is bound with shape {found:?}, the graph declares {expected:?}")]
    StateShape {
        /// State name.
        state: String,
        /// Bound.
        found: Vec<usize>,
        /// Declared.
        expected: Vec<usize>,
    },
    /// Data of another length than its shape says.
    #[error("a {dtype} tensor of shape {shape:?} takes {expected} bytes, {found} given")]
    DataLength {
        /// Element type.
        dtype: DType,
        /// Shape.
        shape: Vec<usize>,
        /// Bytes it takes (saturated at the largest `usize`).
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// Elements of another type than the op reads.
    #[error("elements of type {found} can't be read as {expected}")]
    ElementType {
        /// The elements' type.
        found: DType,
        /// What was to be read.
        expected: &'static str,
    },
    /// A dimension that no graph could hold.
    #[error("a dimension of {found} is too large, at most {} is allowed", u32::MAX)]
    Dimension {
        /// The dimension.
        found: usize,
    },
    /// A result that does not fit in memory.
    #[error("node '{node}': its result of {shape:?} {dtype} does not fit in memory")]
    OutOfMemory {
        /// Node name.
        node: String,
        /// Element type.
        dtype: DType,
        /// Shape.
        shape: Vec<usize>,
    },
    /// The wrong number of inputs.
    #[error("the run takes {expected} inputs, got {found}")]
    InputCount {
        /// Inputs of the run.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// A value of another type than the graph declares under the bound symbols.
    #[error(
        "value '{value}' is {found_dtype}{found:?}, the graph declares \
         {expected_dtype}{expected:?}"
    )]
    ValueType {
        /// Value name.
        value: String,
        /// Type found.
        found_dtype: DType,
        /// Shape found.
        found: Vec<usize>,
        /// Type declared.
        expected_dtype: DType,
        /// Shape declared.
        expected: Vec<usize>,
    },
    /// Quantised data that can't be decoded.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A weight that can't be read.
    #[error(transparent)]
    Weight(#[from] HalError),
}
