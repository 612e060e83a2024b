//! GGUF files, versions 2 and 3, little endian.
//!
//! A file is: the magic `GGUF`, a u32 version, u64 counts of tensors and of metadata entries; the
//! entries (key, u32 type, value); the tensors (name, u32 rank, u64 dimensions innermost first,
//! u32 type, u64 offset); padding to the alignment; the tensors' data. Strings are a u64 length
//! and bytes. The format is described in the `docs/gguf.md` of the ggml project.
//!
//! [`Gguf::open`] checks the whole header; what it returns can be walked without further care:
//! every tensor lies within the file, on bytes of its own. A tensor of a type that isn't supported
//! is an error only when its data or type is asked for, so that such a file can still be inspected.

mod error;
mod metadata;
mod reader;
mod tensor;
mod writer;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anynpu_ir::{DType, TensorType};

use super::{MappedFile, excerpt};
use crate::arch::{MetaValue, ModelFile};
use crate::{ModelError, TensorData};

pub use error::{Fault, GgufError};
pub use metadata::{Array, ArrayIter, FromValue, MAX_ARRAY_DEPTH, Metadata, Value, ValueType};
pub use tensor::{GgmlType, MAX_RANK, Tensor};
pub use writer::{ByteString, GgufWriteError, GgufWriter, TensorWriter, WriteValue};

use metadata::Entry;
use tensor::TensorInfo;

const MAGIC: &[u8] = b"GGUF";
const ALIGNMENT_KEY: &str = "general.alignment";
/// Alignment where the file names none.
const DEFAULT_ALIGNMENT: u32 = 32;
/// The largest page size in use; more than that would be waste.
const MAX_ALIGNMENT: u32 = 65536;
/// The format's limit on a key's length.
const MAX_KEY: usize = 65535;
/// The format's limit on a tensor name's length.
const MAX_TENSOR_NAME: usize = 64;

/// A GGUF file whose header was read and checked. Cloning is cheap; clones share the file.
///
/// ```no_run
/// use anynpu_graphs::import::gguf::Gguf;
///
/// let file = Gguf::open("model.gguf")?;
/// let layers: u32 = file.metadata().require("llama.block_count")?;
/// let tokens: Vec<&[u8]> = file.metadata().require("tokenizer.ggml.tokens")?;
/// let embedding = file.require_tensor("token_embd.weight")?;
/// println!("{layers} layers, {} tokens, {}", tokens.len(), embedding.tensor_type()?);
/// # Ok::<(), anynpu_graphs::import::gguf::GgufError>(())
/// ```
#[derive(Clone)]
pub struct Gguf {
    inner: Arc<Inner>,
}

struct Inner {
    file: MappedFile,
    /// The file's name, shared with errors.
    label: Arc<str>,
    version: u32,
    alignment: u64,
    data_start: u64,
    /// All keys and tensor names, one after the other.
    names: String,
    entries: Vec<Entry>,
    keys_sorted: Vec<u32>,
    tensors: Vec<TensorInfo>,
    tensors_sorted: Vec<u32>,
}

impl Inner {
    fn key(&self, entry: &Entry) -> &str {
        &self.names[entry.key_start..entry.key_start + entry.key_len as usize]
    }
}

impl Gguf {
    /// Maps and reads a file. See [`MappedFile`] for what must not happen to it meanwhile.
    ///
    /// # Errors
    /// [`GgufError::File`] if it can't be opened, [`GgufError::Malformed`] if it isn't a sound file
    /// of version 2 or 3.
    pub fn open(path: impl AsRef<Path>) -> Result<Gguf, GgufError> {
        Self::read(MappedFile::open(path)?)
    }

    /// Reads bytes compiled into the program; `name` stands for the path in messages.
    ///
    /// # Errors
    /// As [`Gguf::read`].
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Gguf, GgufError> {
        Self::read(MappedFile::from_static(name, bytes))
    }

    /// Reads bytes in memory; `name` stands for the path in messages.
    ///
    /// # Errors
    /// As [`Gguf::read`].
    pub fn from_vec(name: &str, bytes: Vec<u8>) -> Result<Gguf, GgufError> {
        Self::read(MappedFile::from_vec(name, bytes))
    }

    /// Reads an opened file.
    ///
    /// # Errors
    /// [`GgufError::Malformed`] if it isn't a sound file of version 2 or 3.
    pub fn read(file: MappedFile) -> Result<Gguf, GgufError> {
        let inner = Arc::new(reader::read(file)?);
        Ok(Gguf { inner })
    }

    /// The file's bytes.
    pub fn file(&self) -> &MappedFile {
        &self.inner.file
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.inner.version
    }

    /// What tensors' offsets are multiples of.
    pub fn alignment(&self) -> u64 {
        self.inner.alignment
    }

    /// Where the tensors' data starts.
    pub fn data_start(&self) -> u64 {
        self.inner.data_start
    }

    /// The metadata.
    pub fn metadata(&self) -> Metadata<'_> {
        Metadata { gguf: self }
    }

    /// The tensors in the file's order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.inner
            .tensors
            .iter()
            .map(|info| Tensor { gguf: self, info })
    }

    /// The tensor called `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let at = |i: u32| Tensor {
            gguf: self,
            info: &self.inner.tensors[i as usize],
        };
        let sorted = &self.inner.tensors_sorted;
        let found = sorted.binary_search_by(|&i| at(i).name().cmp(name)).ok()?;
        Some(at(sorted[found]))
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`].
    pub fn require_tensor(&self, name: &str) -> Result<Tensor<'_>, GgufError> {
        self.tensor(name).ok_or_else(|| GgufError::MissingTensor {
            file: self.inner.label.clone(),
            tensor: excerpt(name),
        })
    }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("file", &self.inner.file)
            .field("version", &self.inner.version)
            .field("metadata", &self.inner.entries.len())
            .field("tensors", &self.inner.tensors.len())
            .finish_non_exhaustive()
    }
}

impl ModelFile for Gguf {
    fn metadata(&self, key: &str) -> Option<MetaValue<'_>> {
        self.metadata().get(key).map(meta_value)
    }

    fn list_item(&self, key: &str, index: usize) -> Option<MetaValue<'_>> {
        match self.metadata().get(key)? {
            Value::Array(array) => array.get(index).map(meta_value),
            _ => None,
        }
    }

    fn tensor(&self, name: &str) -> Result<Option<TensorType>, ModelError> {
        match Gguf::tensor(self, name) {
            None => Ok(None),
            Some(tensor) => Ok(Some(tensor.tensor_type()?)),
        }
    }
}

/// The value as architectures see it.
fn meta_value(value: Value<'_>) -> MetaValue<'_> {
    match value {
        Value::U8(n) => MetaValue::Unsigned(n.into()),
        Value::U16(n) => MetaValue::Unsigned(n.into()),
        Value::U32(n) => MetaValue::Unsigned(n.into()),
        Value::U64(n) => MetaValue::Unsigned(n),
        Value::I8(n) => MetaValue::Signed(n.into()),
        Value::I16(n) => MetaValue::Signed(n.into()),
        Value::I32(n) => MetaValue::Signed(n.into()),
        Value::I64(n) => MetaValue::Signed(n),
        Value::F32(x) => MetaValue::Float(x.into()),
        Value::F64(x) => MetaValue::Float(x),
        Value::Bool(b) => MetaValue::Bool(b),
        Value::String(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => MetaValue::Text(text),
            Err(_) => MetaValue::Bytes(bytes),
        },
        Value::Array(array) => MetaValue::List(array.len()),
    }
}

impl TensorData for Gguf {
    fn tensor(&self, name: &str) -> Option<(DType, Cow<'_, [u8]>)> {
        let tensor = Gguf::tensor(self, name)?;
        Some((tensor.dtype().ok()?, tensor.data().ok()?.into()))
    }

    fn span(&self, name: &str) -> Option<(PathBuf, u64, u64)> {
        let tensor = Gguf::tensor(self, name)?;
        let path = std::path::absolute(self.inner.file.path()?).ok()?;
        Some((path, tensor.offset(), tensor.byte_len()?))
    }

    fn release(&self, name: &str) {
        if let Some(tensor) = Gguf::tensor(self, name)
            && let Some(bytes) = tensor.byte_len()
        {
            let start = tensor.offset() as usize;
            self.inner.file.release(start..start + bytes as usize);
        }
    }
}
