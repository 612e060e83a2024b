//! Errors of turning a model file into a graph.

use anynpu_ir::{GraphError, TensorType};
use thiserror::Error;

use crate::import::gguf::{GgufError, GgufWriteError};
use crate::import::hugging_face::HuggingFaceError;

/// A model file that no graph can be built from.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The architecture is not one of ours.
    #[error("architecture '{found}' (general.architecture) is not known; known: {known}")]
    UnknownArchitecture {
        /// What the file says.
        found: String,
        /// Architectures that can be built, separated by commas.
        known: String,
    },
    /// Metadata that the architecture can't do without.
    #[error("metadata '{key}' is missing; expected {expected}")]
    MissingKey {
        /// The key.
        key: String,
        /// What it should hold.
        expected: String,
    },
    /// Metadata of the wrong type or out of range.
    #[error("metadata '{key}' is {found}; expected {expected}")]
    Key {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// A tensor that the architecture can't do without.
    #[error("tensor '{name}' is missing; expected it with shape {expected}")]
    MissingTensor {
        /// Its name.
        name: String,
        /// The shape it should have, outermost dimension first.
        expected: String,
    },
    /// A tensor of the wrong shape.
    #[error("tensor '{name}' is {found}; expected shape {expected}")]
    TensorShape {
        /// Its name.
        name: String,
        /// What it is, outermost dimension first.
        found: TensorType,
        /// The shape it should have.
        expected: String,
    },
    /// A part of the architecture that is not built yet.
    #[error("{what} is not supported ('{key}' is {found})")]
    Unsupported {
        /// The part.
        what: &'static str,
        /// The metadata key that asks for it.
        key: String,
        /// Its value.
        found: String,
    },
    /// The file can't be read, or has a tensor that no graph can hold.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The folder can't be read, or asks for what can't be computed.
    #[error(transparent)]
    HuggingFace(Box<HuggingFaceError>),
    /// The model can't be written as GGUF.
    #[error(transparent)]
    GgufWrite(GgufWriteError),
    /// The tensors don't fit together.
    #[error("the graph of this model can't be built: {0}")]
    Graph(#[from] GraphError),
}
