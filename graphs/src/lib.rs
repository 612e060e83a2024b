//! Model importers, architectures and quantisers.
//!
//! An importer reads a file; an architecture turns its metadata and tensor types into an
//! [`anynpu_ir::Graph`]. This crate knows files and models, never devices; of the workspace it
//! depends on `anynpu-ir` alone. Files are untrusted: nothing in them is believed unchecked.
//!
//! The main types: [`import::gguf::Gguf`], [`arch::Architecture`], [`Model`].

pub mod arch;
mod error;
pub mod import;
mod model;
mod padding;
pub mod quant;

pub use error::ModelError;
pub use model::{FormatShare, Model, ModelInfo, TensorData};
