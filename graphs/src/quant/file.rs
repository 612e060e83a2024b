//! Writing a model again with other types.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anynpu_ir::block::BlockError;
use thiserror::Error;

use super::job::{Counted, Job};
use super::report::QuantizeReport;
use super::source::QuantizeSource;
use super::{Imatrix, ImatrixError, Mixture, QuantizeError};
use crate::import::gguf::{GgmlType, GgufError, GgufWriteError};

/// A model that can't be written with other types.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QuantizeFileError {
    /// The model can't be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The importance matrix doesn't fit the model.
    #[error(transparent)]
    Imatrix(#[from] ImatrixError),
    /// A row can't be had in the type chosen.
    #[error("tensor '{tensor}', row {row}: {source}")]
    Row {
        /// The tensor.
        tensor: String,
        /// The row.
        row: u64,
        /// What is wrong with it.
        source: QuantizeError,
    },
    /// A tensor that can't be decoded.
    #[error("tensor '{tensor}': {source}")]
    Decode {
        /// The tensor.
        tensor: String,
        /// Why not.
        source: BlockError,
    },
    /// A tensor that was there when the model was opened.
    #[error("tensor '{tensor}' can't be read any more; were the model's files changed meanwhile?")]
    MissingTensor {
        /// The tensor.
        tensor: String,
    },
    /// A tensor of a type with a layout that is not known.
    #[error("tensor '{tensor}' is {found}, which can't be decoded or copied")]
    Type {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: GgmlType,
    },
    /// One part of a model that is split into several files.
    #[error("the model is split into {parts} files; join them into one first")]
    Split {
        /// How many.
        parts: u64,
    },
    /// The output can't be written.
    #[error("writing {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why not.
        source: GgufWriteError,
    },
    /// The output is the input.
    #[error("{path} is the model that is read; name another file to write")]
    Same {
        /// The file.
        path: String,
    },
    /// A worker thread died, which only a fault of this program can cause.
    #[error("a quantising thread ended early in tensor '{tensor}'")]
    Thread {
        /// The tensor.
        tensor: String,
    },
    /// The caller asked to stop.
    #[error("quantising was cancelled")]
    Cancelled,
}

/// How to quantise a model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuantizeOptions {
    /// The types.
    pub mixture: Mixture,
    /// How much each column matters; all alike if not given.
    pub imatrix: Option<Imatrix>,
    /// Threads; all cores if not said. The bytes don't depend on it.
    pub threads: Option<NonZero<usize>>,
}

impl QuantizeOptions {
    /// With all cores and without an importance matrix.
    pub fn new(mixture: Mixture) -> Self {
        QuantizeOptions {
            mixture,
            imatrix: None,
            threads: None,
        }
    }

    /// Sets the importance matrix.
    #[must_use]
    pub fn imatrix(mut self, imatrix: Imatrix) -> Self {
        self.imatrix = Some(imatrix);
        self
    }

    /// Sets the number of threads.
    #[must_use]
    pub fn threads(mut self, threads: NonZero<usize>) -> Self {
        self.threads = Some(threads);
        self
    }
}

/// How far quantising has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuantizeProgress {
    /// Elements written.
    pub done: u64,
    /// Elements of all tensors.
    pub total: u64,
}

/// Writes `source` with other types to `path`, which is there whole or not at all: it is written
/// beside its place and moved there at the end. One tensor is worked on at a time; of those of a
/// folder that GGUF has in another form a copy is in memory, of others a part. `progress` stops the work by returning [`ControlFlow::Break`].
///
/// # Errors
/// A source that is split or has tensors that can't be decoded, values that a type can't hold, an
/// importance matrix of another model, an output that can't be written.
pub fn quantize_file<'a>(
    source: impl Into<QuantizeSource<'a>>,
    path: &Path,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(QuantizeProgress) -> ControlFlow<()>,
) -> Result<QuantizeReport, QuantizeFileError> {
    let source = source.into();
    if source.is_at(path) {
        return Err(QuantizeFileError::Same {
            path: path.display().to_string(),
        });
    }
    let failed = |source: GgufWriteError| QuantizeFileError::Write {
        path: path.display().to_string(),
        source,
    };
    let job = Job::plan(source, options).map_err(|e| e.at(path))?;
    let (part, file) = PartFile::beside(path).map_err(|e| failed(e.into()))?;
    let out = Counted::new(BufWriter::with_capacity(1 << 20, file));
    let (report, out) = job.write(out, progress).map_err(|e| e.at(path))?;
    let file = out
        .inner
        .into_inner()
        .map_err(|e| failed(e.into_error().into()))?;
    file.sync_all().map_err(|e| failed(e.into()))?;
    part.keep(path).map_err(|e| failed(e.into()))?;
    Ok(report)
}

/// Writes `source` with other types to `out`. As [`quantize_file`] otherwise.
///
/// # Errors
/// As [`quantize_file`].
pub fn quantize_gguf<'a, W: Write>(
    source: impl Into<QuantizeSource<'a>>,
    out: W,
    options: &QuantizeOptions,
    progress: &mut dyn FnMut(QuantizeProgress) -> ControlFlow<()>,
) -> Result<(QuantizeReport, W), QuantizeFileError> {
    let job = Job::plan(source.into(), options)?;
    let (report, out) = job.write(Counted::new(out), progress)?;
    Ok((report, out.inner))
}

impl QuantizeFileError {
    /// The same with the path of the output, where it was not known.
    fn at(self, path: &Path) -> Self {
        match self {
            QuantizeFileError::Write { source, .. } => QuantizeFileError::Write {
                path: path.display().to_string(),
                source,
            },
            other => other,
        }
    }
}

impl From<GgufWriteError> for QuantizeFileError {
    fn from(source: GgufWriteError) -> Self {
        QuantizeFileError::Write {
            path: "the output".into(),
            source,
        }
    }
}

/// A file that is removed unless it is kept.
struct PartFile {
    path: PathBuf,
    kept: bool,
}

impl PartFile {
    /// A new file in the folder of `path`.
    fn beside(path: &Path) -> io::Result<(Self, File)> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?;
        let mut tries = 0;
        loop {
            let mut part = name.to_owned();
            part.push(format!(".{}-{tries}.part", std::process::id()));
            let part = path.with_file_name(part);
            match OpenOptions::new().write(true).create_new(true).open(&part) {
                Ok(file) => {
                    let part = PartFile {
                        path: part,
                        kept: false,
                    };
                    return Ok((part, file));
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < 100 => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    /// Moves it to its place.
    fn keep(mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "unfinished file not removed");
        }
    }
}
