//! Importance matrices: for each matrix of a model the mean square of every column's input, as
//! measured on some text. Both forms that llama.cpp writes are read.
//!
//! The present form is a GGUF file with, for each tensor `NAME`, `NAME.in_sum2` (f32, the sums of
//! squares: columns, then one row a matrix, several for experts) and `NAME.counts` (f32, one number
//! a matrix), and `imatrix.datasets`, `imatrix.chunk_count`. The old form (`.dat`, little endian) is
//! an i32 number of entries, each an i32 name length, the name, i32 number of calls, i32 number of
//! values, f32 values; then, in later files, an i32 number of chunks, an i32 length and the data
//! set's name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;

use crate::import::gguf::{Gguf, GgufError, Value};
use crate::import::{MappedFile, MappedFileError, excerpt};

/// An importance matrix that can't be read, or isn't of this model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImatrixError {
    /// The file can't be opened.
    #[error(transparent)]
    File(#[from] MappedFileError),
    /// The file starts as GGUF but isn't sound.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The file isn't an importance matrix.
    #[error("{file}: not an importance matrix: {problem}")]
    Malformed {
        /// The file.
        file: Arc<str>,
        /// What is wrong and where.
        problem: String,
    },
    /// An entry of another size than the model's tensor.
    #[error(
        "{file}: '{tensor}' has {found} weights, but the model's has {columns} columns in \
         {matrices} matrices; the importance matrix is of another model"
    )]
    Shape {
        /// The file.
        file: Arc<str>,
        /// The tensor.
        tensor: String,
        /// Weights in the file.
        found: usize,
        /// Columns of the tensor.
        columns: u64,
        /// Matrices of the tensor.
        matrices: u64,
    },
    /// No entry names a tensor of the model.
    #[error(
        "{file}: none of its {entries} entries names a matrix of the model; the first is '{first}'"
    )]
    NoneUsed {
        /// The file.
        file: Arc<str>,
        /// How many entries it has.
        entries: usize,
        /// The first one's name.
        first: String,
    },
}

/// An importance matrix, checked: every weight is finite and not negative.
#[derive(Clone, Debug, PartialEq)]
pub struct Imatrix {
    file: Arc<str>,
    entries: BTreeMap<String, Vec<f32>>,
    datasets: Vec<String>,
    chunks: Option<u32>,
}

/// A name longer than that is no tensor's.
const MAX_NAME: usize = 64;

impl Imatrix {
    /// Reads a file of either form.
    ///
    /// # Errors
    /// A file that can't be opened, that is no importance matrix, or with a weight that is negative
    /// or not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Imatrix, ImatrixError> {
        Self::read(MappedFile::open(path)?)
    }

    /// Reads bytes in memory; `name` stands for the path in messages.
    ///
    /// # Errors
    /// As [`Imatrix::open`].
    pub fn from_vec(name: &str, bytes: Vec<u8>) -> Result<Imatrix, ImatrixError> {
        Self::read(MappedFile::from_vec(name, bytes))
    }

    fn read(file: MappedFile) -> Result<Imatrix, ImatrixError> {
        let label: Arc<str> = file.name().into();
        let read = match file.starts_with(b"GGUF") {
            true => from_gguf(&Gguf::read(file)?, &label),
            false => from_legacy(&file, &label),
        };
        let imatrix = read.map_err(|problem| ImatrixError::Malformed {
            file: label.clone(),
            problem,
        })?;
        match imatrix.entries.is_empty() {
            true => Err(ImatrixError::Malformed {
                file: label,
                problem: "it has no entries".into(),
            }),
            false => Ok(imatrix),
        }
    }

    /// Where it came from, for messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// How many tensors it has weights for.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none; never true of what was read.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names of the tensors it has weights for.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The texts it was measured on, if the file says.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// Chunks of text it was measured on, if the file says.
    pub fn chunks(&self) -> Option<u32> {
        self.chunks
    }

    /// The weights of a tensor of `matrices` matrices with `columns` columns: those of the first
    /// matrix, then the next. `None` if it has none.
    ///
    /// # Errors
    /// [`ImatrixError::Shape`] if it has another number.
    pub fn weights(
        &self,
        tensor: &str,
        columns: u64,
        matrices: u64,
    ) -> Result<Option<&[f32]>, ImatrixError> {
        let Some(weights) = self.entries.get(tensor) else {
            return Ok(None);
        };
        match columns.checked_mul(matrices) == Some(weights.len() as u64) {
            true => Ok(Some(weights)),
            false => Err(ImatrixError::Shape {
                file: self.file.clone(),
                tensor: excerpt(tensor),
                found: weights.len(),
                columns,
                matrices,
            }),
        }
    }

    pub(super) fn none_used(&self) -> ImatrixError {
        ImatrixError::NoneUsed {
            file: self.file.clone(),
            entries: self.len(),
            first: excerpt(self.tensors().next().unwrap_or_default()),
        }
    }
}

/// `sum / count` of each, checked.
fn means(name: &str, sums: &[f32], count: f32) -> Result<Vec<f32>, String> {
    if !count.is_finite() || count < 0.0 {
        return Err(format!("'{}' was measured {count} times", excerpt(name)));
    }
    let mean = |(i, &sum): (usize, &f32)| {
        // What was never measured (an expert never chosen) matters equally in all its columns.
        let mean = if count > 0.0 { sum / count } else { 1.0 };
        match sum >= 0.0 && sum.is_finite() && mean.is_finite() {
            true => Ok(mean),
            false => Err(format!(
                "weight {i} of '{}' is {sum} of {count}; expected a finite number from 0",
                excerpt(name)
            )),
        }
    };
    sums.iter().enumerate().map(mean).collect()
}

fn from_gguf(gguf: &Gguf, label: &Arc<str>) -> Result<Imatrix, String> {
    let floats = |name: &str| -> Result<Vec<f32>, String> {
        let missing = || format!("tensor '{}' is missing", excerpt(name));
        let tensor = gguf.tensor(name).ok_or_else(missing)?;
        if tensor.dtype().ok() != Some(anynpu_ir::DType::F32) {
            let found = tensor.ggml_type();
            return Err(format!(
                "tensor '{}' is {found}; expected F32",
                excerpt(name)
            ));
        }
        let data = tensor.data().map_err(|e| e.to_string())?;
        Ok(data
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect())
    };
    let mut entries = BTreeMap::new();
    for tensor in gguf.tensors() {
        let Some(name) = tensor.name().strip_suffix(".in_sum2") else {
            continue;
        };
        let sums = floats(tensor.name())?;
        let counts = floats(&format!("{name}.counts"))?;
        if counts.is_empty() || sums.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            return Err(format!(
                "'{}' has {} weights for {} counts",
                excerpt(name),
                sums.len(),
                counts.len()
            ));
        }
        let mut weights = Vec::with_capacity(sums.len());
        for (sums, &count) in sums.chunks(sums.len() / counts.len()).zip(&counts) {
            weights.extend(means(name, sums, count)?);
        }
        entries.insert(name.to_owned(), weights);
    }
    let metadata = gguf.metadata();
    let text = |v: Value<'_>| match v {
        Value::String(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    };
    let datasets = match metadata.get("imatrix.datasets") {
        Some(Value::Array(array)) => array.iter().filter_map(text).collect(),
        _ => Vec::new(),
    };
    let chunks = metadata.get("imatrix.chunk_count");
    Ok(Imatrix {
        file: label.clone(),
        entries,
        datasets,
        chunks: chunks
            .and_then(|v| v.as_integer())
            .and_then(|n| u32::try_from(n).ok()),
    })
}

/// Reads forward through the old form.
struct Cursor<'a> {
    left: &'a [u8],
    len: usize,
}

impl<'a> Cursor<'a> {
    fn bytes(&mut self, what: &str, count: usize) -> Result<&'a [u8], String> {
        let Some((taken, left)) = self.left.split_at_checked(count) else {
            return Err(format!(
                "{what} takes {count} bytes, but {} are left at byte {}",
                self.left.len(),
                self.len - self.left.len()
            ));
        };
        self.left = left;
        Ok(taken)
    }

    /// An i32 from `least` on.
    fn count(&mut self, what: &str, least: i32) -> Result<usize, String> {
        let at = self.len - self.left.len();
        let bytes = self.bytes(what, 4)?;
        let n = bytes.try_into().map_or(-1, i32::from_le_bytes);
        match n >= least {
            true => Ok(n as usize),
            false => Err(format!("{what} is {n} (at byte {at})")),
        }
    }
}

fn from_legacy(bytes: &[u8], label: &Arc<str>) -> Result<Imatrix, String> {
    let mut from = Cursor {
        left: bytes,
        len: bytes.len(),
    };
    let count = from.count("the number of entries", 1)?;
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let length = from.count("the length of a name", 1)?;
        if length > MAX_NAME {
            return Err(format!(
                "a name has {length} bytes; at most {MAX_NAME} are allowed"
            ));
        }
        let name = from.bytes("a name", length)?;
        let name = std::str::from_utf8(name).map_err(|_| {
            format!(
                "a name is not UTF-8: {}",
                excerpt(&String::from_utf8_lossy(name))
            )
        })?;
        let calls = from.count("the number of calls", 0)?;
        let values = from.count("the number of weights", 1)?;
        let size = values.checked_mul(4).ok_or("too many weights")?;
        let data = from.bytes("the weights", size)?;
        let sums: Vec<f32> = data
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect();
        let weights = means(name, &sums, calls.max(1) as f32)?;
        if entries.insert(name.to_owned(), weights).is_some() {
            return Err(format!("'{}' is there twice", excerpt(name)));
        }
    }
    let (mut chunks, mut datasets) = (None, Vec::new());
    if !from.left.is_empty() {
        chunks = u32::try_from(from.count("the number of chunks", 0)?).ok();
        let length = from.count("the length of the data set's name", 0)?;
        let name = from.bytes("the data set's name", length)?;
        datasets.push(String::from_utf8_lossy(name).into_owned());
    }
    Ok(Imatrix {
        file: label.clone(),
        entries,
        datasets,
        chunks,
    })
}
