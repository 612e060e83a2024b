//! What inputs of a function hold, and where its outputs go.

use anynpu_ir::{StateId, ValueId};

use super::Rotation;

/// What an input of a function holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Feed {
    /// A value of the graph.
    Value(ValueId),
    /// The rows of a state from before the step. Others are hidden.
    State(StateId),
    /// The rows of a state that something else appended in this step.
    StepRows(StateId),
    /// How many rows states hold before the step.
    Cached,
    /// Cosines of a rotation's angles at the positions that the value has: a row a token, a number a pair.
    Cosines(Rotation, ValueId),
    /// Sines, likewise.
    Sines(Rotation, ValueId),
    /// What is added to scores of tokens at the positions that the value has.
    Mask {
        /// The positions.
        positions: ValueId,
        /// Rows of the state among the keys; 0 if keys are operands, the first of which is at position 0.
        old: u32,
        /// Keys that follow those.
        fresh: u32,
        /// Rows further back are hidden.
        window: Option<u32>,
    },
    /// What is added to scores of each token where a text may be shorter than the step.
    Padding,
}

/// Where an output of a function goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// To a value of the graph.
    Value(ValueId),
    /// To some columns of one, from this on: it is in parts along its features.
    Part(ValueId, u32),
    /// To a state, from the row of the step's first token on.
    Rows(StateId),
}

/// What is lowered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Boundary {
    /// A package for whoever loads it: caches as its form has them, the graph's outputs.
    Package,
    /// A host that runs a part of the graph: states as graphs have them, row by row, and all results of the run.
    Host,
}
