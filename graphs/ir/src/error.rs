//! Errors of building, inferring and parsing graphs.

use thiserror::Error;

use crate::{TensorType, ValueId};

/// A graph that can't be built.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum GraphError {
    /// A node got the wrong number of operands.
    #[error("node '{node}' ({op}): takes {expected} operands, got {found}")]
    OperandCount {
        /// Node name.
        node: String,
        /// Op name.
        op: &'static str,
        /// What the op takes, e.g. `2 or 3`.
        expected: &'static str,
        /// What it got.
        found: usize,
    },
    /// An operand's type or shape doesn't fit.
    #[error("node '{node}' ({op}): operand {operand} is {found}, expected {expected}")]
    Operand {
        /// Node name.
        node: String,
        /// Op name.
        op: &'static str,
        /// Operand name as the op documents it, e.g. `w`.
        operand: &'static str,
        /// Its type.
        found: TensorType,
        /// What would fit.
        expected: String,
    },
    /// Two operands don't fit each other.
    #[error("node '{node}' ({op}): {left} is {left_ty} but {right} is {right_ty}: {rule}")]
    Mismatch {
        /// Node name.
        node: String,
        /// Op name.
        op: &'static str,
        /// First operand's name.
        left: &'static str,
        /// Its type.
        left_ty: TensorType,
        /// Second operand's name.
        right: &'static str,
        /// Its type.
        right_ty: TensorType,
        /// The rule broken.
        rule: &'static str,
    },
    /// An attribute of the op is out of range.
    #[error("node '{node}' ({op}): attribute {attribute} is {found}, expected {expected}")]
    Attribute {
        /// Node name.
        node: String,
        /// Op name.
        op: &'static str,
        /// Attribute name.
        attribute: &'static str,
        /// Its value.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// A state that the op names can't be used by it.
    #[error("node '{node}' ({op}): state '{state}' is {found}, axis {axis}; expected {expected}")]
    StateType {
        /// Node name.
        node: String,
        /// Op name.
        op: &'static str,
        /// State name.
        state: String,
        /// Its type.
        found: TensorType,
        /// Its axis.
        axis: u32,
        /// What would fit.
        expected: &'static str,
    },
    /// A tensor of too many dimensions.
    #[error(
        "'{name}' would have {rank} dimensions, at most {} are allowed; reshape first",
        crate::Shape::MAX_RANK
    )]
    Rank {
        /// Node or value name.
        name: String,
        /// Dimensions asked for.
        rank: usize,
    },
    /// A symbol past [`crate::Symbol::COUNT`].
    #[error("'{name}' uses symbol number {}, a graph has only {}", symbol.0, crate::Symbol::COUNT)]
    SymbolRange {
        /// Node or value name.
        name: String,
        /// The symbol.
        symbol: crate::Symbol,
    },
    /// The wrong number of results was asked for.
    #[error("node '{node}': has {found} results, expected {expected}")]
    ResultCount {
        /// Node name.
        node: String,
        /// Asked for.
        expected: usize,
        /// Has.
        found: usize,
    },
    /// A value id that the graph doesn't have.
    #[error("node '{node}': value {} does not exist yet", id.0)]
    UnknownValue {
        /// Node name.
        node: String,
        /// The id.
        id: ValueId,
    },
    /// A name used twice.
    #[error("the name '{name}' is already used in this graph")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A name that a text dump could not hold.
    #[error(
        "the name {name:?} is empty, longer than {} bytes, or has a space, control or punctuation \
         character",
        crate::Graph::MAX_NAME
    )]
    IllegalName {
        /// The name.
        name: String,
    },
    /// A quantised row that is not a whole number of blocks.
    #[error(
        "'{name}' is {ty}: its rows must be a fixed multiple of {} elements",
        ty.dtype.block_len()
    )]
    PartialBlock {
        /// Value name.
        name: String,
        /// Its type.
        ty: TensorType,
    },
    /// A weight with a run-time dimension.
    #[error("weight '{name}' is {ty}: a weight's dimensions must be fixed")]
    SymbolicWeight {
        /// Weight name.
        name: String,
        /// Its type.
        ty: TensorType,
    },
    /// Inline data of another size than its type says.
    #[error("constant '{name}' is {ty} but carries {bytes} bytes")]
    ConstantSize {
        /// Constant name.
        name: String,
        /// Its type.
        ty: TensorType,
        /// Bytes given.
        bytes: usize,
    },
    /// A state whose axis is not one of its dimensions.
    #[error("state '{name}' is {ty}: it has no axis {axis}")]
    StateAxis {
        /// State name.
        name: String,
        /// Its type.
        ty: TensorType,
        /// The axis.
        axis: u32,
    },
    /// A range of nodes that the graph doesn't have.
    #[error("nodes {start}..{end} asked for, the graph has {nodes}")]
    NodeRange {
        /// First node.
        start: u32,
        /// One past the last.
        end: u32,
        /// Nodes in the graph.
        nodes: usize,
    },
}

/// A text dump that can't be parsed.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum ParseError {
    /// The text is not in the dump's form.
    #[error("line {line}: expected {expected}, found {found:?}")]
    Syntax {
        /// 1-based line.
        line: usize,
        /// What would fit.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The text is well formed but the graph isn't.
    #[error("line {line}: {source}")]
    Graph {
        /// 1-based line.
        line: usize,
        /// The graph's error.
        source: GraphError,
    },
    /// A result's type is not the one that inference finds.
    #[error("line {line}: '{name}' is written as {written} but is {inferred}")]
    Type {
        /// 1-based line.
        line: usize,
        /// Node name.
        name: String,
        /// As written.
        written: String,
        /// As inferred.
        inferred: String,
    },
    /// A limit that guards against hostile text.
    #[error("line {line}: {found} {what}, at most {limit} are read")]
    Limit {
        /// 1-based line.
        line: usize,
        /// What is counted.
        what: &'static str,
        /// How many there are, at least.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The dump was written in a newer form.
    #[error("the dump is of form {found}, this build reads form {known}")]
    Form {
        /// In the dump.
        found: u32,
        /// Known here.
        known: u32,
    },
    /// The dump was written by a newer op set.
    #[error("the dump uses op set {found}, this build knows up to {known}")]
    OpSet {
        /// In the dump.
        found: u32,
        /// Known here.
        known: u32,
    },
}
