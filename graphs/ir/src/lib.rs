//! The compute graph of a language model, independent of any device.
//!
//! This crate knows shapes and meaning, never devices, files or passes. Importers build a
//! [`Graph`]; backends pattern-match its [`Op`]s; the runtime cuts it into [`Subgraph`]s.
//! It may depend on no other package of the workspace, does no I/O and has no `unsafe`.
//!
//! The three main types: [`Graph`], [`Op`], [`TensorType`].

pub mod block;
mod decompose;
mod dtype;
mod error;
mod graph;
mod infer;
mod op;
mod shape;
#[cfg(test)]
mod strategies;
mod subgraph;
mod text;

pub use decompose::{decompose, decompose_all};
pub use dtype::DType;
pub use error::{GraphError, ParseError};
pub use graph::{
    Graph, InlineWeight, Node, NodeId, State, StateId, Value, ValueDef, ValueId, Weight, WeightId,
};
pub use infer::infer;
pub use op::{
    Activation, AttentionKv, BinaryOp, OP_SET_VERSION, Op, ReduceOp, RopeScaling, RopeStyle,
    UnaryOp,
};
pub use shape::{Dim, Shape, Symbol, SymbolValues, TensorType};
pub use subgraph::Subgraph;
