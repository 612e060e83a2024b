//! Graphs in the terms of the HTP, as plain data: built and tested on every host, without Qualcomm's library.

mod dump;
mod fixed;
mod graph;
mod number;
pub mod reference;

pub use fixed::{FixedForm, Range, fixed};
pub use graph::{
    DataType, Encoding, Graph, GraphError, Node, Param, Scalar, Tensor, TensorId, TensorKind,
};
