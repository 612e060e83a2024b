//! What can be wrong with a Hugging Face folder.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use anynpu_ir::TensorType;
use thiserror::Error;

use crate::import::safetensors::{INDEX, SINGLE, SafeTensorsError};

/// A folder that no model can be read from.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HuggingFaceError {
    /// A path that isn't a folder, nor a file of one.
    #[error(
        "{}: is not a Hugging Face folder; name a folder with config.json and {SINGLE} (or {INDEX})",
        path.display()
    )]
    NotAFolder {
        /// The path asked for.
        path: PathBuf,
    },
    /// A folder without weights.
    #[error("{}: has neither {SINGLE} nor {INDEX}{}", folder.display(), hint(found))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// Weights of another form that are there.
        found: Option<&'static str>,
    },
    /// A file that can't be read.
    #[error("{}: can't be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A file of text that is too large to be what it should.
    #[error("{}: has {bytes} bytes; at most {most} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// Longest allowed.
        most: u64,
    },
    /// A file that is not the JSON it should be.
    #[error("{file}: is not a valid JSON object: {problem}")]
    Json {
        /// The file.
        file: Arc<str>,
        /// Where and what.
        problem: String,
    },
    /// A kind of model that isn't read from such folders.
    #[error(
        "{file}: model_type is '{found}', which can't be read from a Hugging Face folder; known: \
         {known}"
    )]
    ModelType {
        /// The configuration.
        file: Arc<str>,
        /// What it says.
        found: String,
        /// Types that can be read.
        known: String,
    },
    /// A member of the configuration that is missing.
    #[error("{file}: '{key}' is missing; expected {expected}")]
    MissingKey {
        /// The configuration.
        file: Arc<str>,
        /// The member.
        key: String,
        /// What it should hold.
        expected: String,
    },
    /// A member of the configuration that can't be followed.
    #[error("{file}: '{key}' is {found}; expected {expected}")]
    Key {
        /// The configuration.
        file: Arc<str>,
        /// The member.
        key: String,
        /// Its value.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// A tensor that the configuration asks for.
    #[error("{file}: asks for tensor '{tensor}', which the folder's .safetensors files don't have")]
    MissingTensor {
        /// The configuration.
        file: Arc<str>,
        /// The tensor.
        tensor: String,
    },
    /// Experts that are not alike.
    #[error(
        "{file}: tensor '{tensor}' is {found}; expected {expected}, a matrix as tensor '{first}' of \
         the first expert is"
    )]
    Experts {
        /// The configuration.
        file: Arc<str>,
        /// The tensor.
        tensor: String,
        /// What it is.
        found: TensorType,
        /// The first expert's.
        first: String,
        /// What that is.
        expected: TensorType,
    },
    /// The tensors can't be read.
    #[error(transparent)]
    SafeTensors(#[from] SafeTensorsError),
}

fn hint(found: &Option<&'static str>) -> String {
    match found {
        None => "; is the download complete?".into(),
        Some(name) => format!("; {name} is there: convert it to safetensors"),
    }
}
