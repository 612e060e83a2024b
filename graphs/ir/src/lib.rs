//! The compute graph of a language model, independent of any device.
//!
//! This crate knows shapes and meaning, never devices, files or passes. Importers build a
//! [`Graph`]; backends pattern-match its [`Op`]s; the runtime cuts it into [`Subgraph`]s.
//! It may depend on no other package of the workspace, does no I/O and has no `unsafe`.
//!
//! The three main types: [`Graph`], [`Op`], [`TensorType`].
//!
//! # Values, states, symbols
//! A graph has typed values in an execution order: inputs given at every step, weights found by
//! name in a model file, small constants that the graph carries, and results of nodes. Types of
//! results are inferred when a node is added, so a graph that exists is well typed. Dimensions are
//! numbers or [`Symbol`]s that are bound when a step is submitted. What lives from step to step is a
//! [`State`], written only at an explicit position.
//!
//! # An example
//! A norm and a quantised projection over `T` tokens; the text form reads back to the same graph.
//! ```
//! use anynpu_ir::{DType, Dim, Graph, Op, TensorType};
//!
//! let mut g = Graph::new("tiny");
//! let x = g.add_input("x", TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(256)]))?;
//! let gain = g.add_weight("norm.weight", TensorType::new(DType::F32, [Dim::Fixed(256)]))?;
//! let up = TensorType::new(DType::Q4_K, [Dim::Fixed(512), Dim::Fixed(256)]);
//! let up = g.add_weight("up.weight", up)?;
//! let h = g.add("norm", Op::RmsNorm { eps: 1e-5 }, &[x, gain])?;
//! let y = g.add("up", Op::Linear, &[h, up])?;
//! g.set_output(y)?;
//!
//! assert_eq!(g.ty(y).to_string(), "f32[T, 512]");
//! let text = g.to_string();
//! assert!(text.contains("%up: f32[T, 512] = Linear(%norm, %up.weight)"));
//! assert_eq!(Graph::parse(&text)?, g);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod block;
mod decompose;
mod dtype;
mod error;
mod graph;
mod infer;
mod op;
mod rope;
mod shape;
#[cfg(test)]
mod strategies;
mod subgraph;
mod text;
mod work;

pub use decompose::{decompose, decompose_all, decompose_where};
pub use dtype::DType;
pub use error::{GraphError, ParseError};
pub use graph::{
    Definition, Graph, InlineWeight, Node, NodeId, State, StateId, Value, ValueDef, ValueId,
    Weight, WeightId,
};
pub use infer::infer;
pub use op::{
    Activation, AttentionKv, BinaryOp, OP_SET_VERSION, Op, ReduceOp, RopeScaling, RopeStyle,
    UnaryOp,
};
pub use rope::rope_frequencies;
pub use shape::{Dim, Shape, Symbol, SymbolValues, TensorType};
pub use subgraph::Subgraph;
pub use work::{Work, weight_dtype};
