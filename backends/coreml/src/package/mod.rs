//! Packages: what an `.mlpackage` folder holds, written beside its place and moved there whole.
//!
//! ```text
//! X.mlpackage/Manifest.json
//!            /Data/com.apple.CoreML/model.mlmodel        the specification, in protocol buffers
//!            /Data/com.apple.CoreML/weights/weight.bin   numbers of weights
//! ```
//!
//! The format is that of apple/coremltools: `mlmodel/format/*.proto`, `modelpackage/src/ModelPackage.cpp`,
//! `mlmodel/src/MILBlob/Blob`. `proto/coreml.proto` beside this crate's sources is the part of it that is written.

mod blob;
mod disk;
mod function;
#[rustfmt::skip]
#[allow(missing_docs, clippy::all, clippy::pedantic)] // generated
mod proto;
mod types;
mod writer;

pub use blob::{BlobWriter, pack};
pub use function::{
    ANY, BlobRef, Described, Feature, Function, MAX_RANK, MAX_SHAPES, Operand, Tensor,
    is_identifier, to_identifier,
};
pub use types::{DataType, Literal};
pub use writer::{Description, PackageInMemory, PackageWriter, WEIGHTS_NAME, Written};
