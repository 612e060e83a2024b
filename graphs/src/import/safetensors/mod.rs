//! safetensors files, one or several.
//!
//! A file is: a u64 length, little endian; that many bytes of JSON, which starts with `{` and may end
//! in spaces; the tensors' data. The JSON maps each tensor's name to its `dtype`, its `shape`
//! (outermost dimension first) and its `data_offsets` (first byte and the one after the last, from
//! the start of the data); `__metadata__` maps texts to texts. The tensors cover the data without
//! holes. The format is described in the README of the safetensors project.
//!
//! A model in several files comes with an index, `model.safetensors.index.json`, whose `weight_map`
//! maps each tensor's name to the file it is in.
//!
//! [`SafeTensors::open`] checks the whole header: every tensor lies within the file, on bytes of its
//! own, as many as its shape takes. A tensor of a type that isn't supported is an error only when
//! its type is asked for, so that such a file can still be inspected.

mod error;
mod header;
mod shards;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anynpu_ir::{DType, Shape, TensorType};

use super::MappedFile;

pub use error::{Fault, IndexFault, SafeTensorsError};
pub use header::StoredType;
pub use shards::{INDEX, SINGLE, Shards};

use header::TensorInfo;

/// The format's limit on the header's length.
pub const MAX_HEADER: u64 = 100_000_000;
/// The most dimensions a tensor may have.
pub const MAX_RANK: usize = Shape::MAX_RANK;

/// A safetensors file whose header was read and checked. Cloning is cheap; clones share the file.
///
/// ```no_run
/// use anynpu_graphs::import::safetensors::SafeTensors;
///
/// let file = SafeTensors::open("model.safetensors")?;
/// for tensor in file.tensors() {
///     println!("{} {} {:?}", tensor.name(), tensor.stored_type(), tensor.shape());
/// }
/// # Ok::<(), anynpu_graphs::import::safetensors::SafeTensorsError>(())
/// ```
#[derive(Clone)]
pub struct SafeTensors {
    inner: Arc<Inner>,
}

struct Inner {
    file: MappedFile,
    /// The file's name, shared with errors.
    label: Arc<str>,
    data_start: usize,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorInfo>,
}

impl SafeTensors {
    /// Maps and reads a file. See [`MappedFile`] for what must not happen to it meanwhile.
    ///
    /// # Errors
    /// [`SafeTensorsError::File`] if it can't be opened, [`SafeTensorsError::Malformed`] if it isn't
    /// sound.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SafeTensorsError> {
        Self::read(MappedFile::open(path)?)
    }

    /// Reads bytes in memory; `name` stands for the path in messages.
    ///
    /// # Errors
    /// As [`SafeTensors::read`].
    pub fn from_vec(name: &str, bytes: Vec<u8>) -> Result<Self, SafeTensorsError> {
        Self::read(MappedFile::from_vec(name, bytes))
    }

    /// Reads an opened file.
    ///
    /// # Errors
    /// [`SafeTensorsError::Malformed`] if it isn't sound.
    pub fn read(file: MappedFile) -> Result<Self, SafeTensorsError> {
        let label: Arc<str> = file.name().into();
        let header = header::read(&file).map_err(|fault| SafeTensorsError::Malformed {
            file: label.clone(),
            fault,
        })?;
        let inner = Inner {
            file,
            label,
            data_start: header.data_start,
            metadata: header.metadata,
            tensors: header.tensors,
        };
        Ok(SafeTensors {
            inner: Arc::new(inner),
        })
    }

    /// The file's bytes.
    pub fn file(&self) -> &MappedFile {
        &self.inner.file
    }

    /// The texts of `__metadata__`, by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.inner.metadata
    }

    /// The tensors, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = Tensor<'_>> {
        self.inner.tensors.iter().map(|(name, info)| Tensor {
            file: self,
            name,
            info,
        })
    }

    /// The tensor called `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let (name, info) = self.inner.tensors.get_key_value(name)?;
        Some(Tensor {
            file: self,
            name,
            info,
        })
    }
}

impl fmt::Debug for SafeTensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SafeTensors")
            .field("file", &self.inner.file)
            .field("tensors", &self.inner.tensors.len())
            .finish_non_exhaustive()
    }
}

/// One tensor of a file.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    file: &'a SafeTensors,
    name: &'a str,
    info: &'a TensorInfo,
}

impl<'a> Tensor<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The file it is in.
    pub fn file(&self) -> &'a SafeTensors {
        self.file
    }

    /// Its dimensions, outermost first.
    pub fn shape(&self) -> &'a [u64] {
        &self.info.shape
    }

    /// Its type as it stands in the file.
    pub fn stored_type(&self) -> StoredType {
        self.info.stored
    }

    /// Its first byte, from the start of the file.
    pub fn offset(&self) -> u64 {
        self.file.inner.data_start as u64 + self.info.start
    }

    /// Its length in bytes.
    pub fn byte_len(&self) -> u64 {
        self.info.end - self.info.start
    }

    /// Its element type.
    ///
    /// # Errors
    /// [`SafeTensorsError::UnsupportedType`] if models can't be computed with it.
    pub fn dtype(&self) -> Result<DType, SafeTensorsError> {
        let unsupported = || SafeTensorsError::UnsupportedType {
            file: self.file.inner.label.clone(),
            tensor: self.name.to_owned(),
            found: self.info.stored.name(),
        };
        self.info.stored.dtype().ok_or_else(unsupported)
    }

    /// Its element type and shape.
    ///
    /// # Errors
    /// [`SafeTensorsError::UnsupportedType`]; [`SafeTensorsError::Dimension`].
    pub fn tensor_type(&self) -> Result<TensorType, SafeTensorsError> {
        let dtype = self.dtype()?;
        let dims = self.info.shape.iter().map(|&d| match d {
            0 => None,
            d => u32::try_from(d).ok(),
        });
        let dims: Option<Vec<u32>> = dims.collect();
        let dims = dims.ok_or_else(|| SafeTensorsError::Dimension {
            file: self.file.inner.label.clone(),
            tensor: self.name.to_owned(),
            shape: self.info.shape.clone(),
        })?;
        Ok(TensorType::new(dtype, Shape::fixed(&dims)))
    }

    /// Its bytes, row-major, little endian. They may stand at any address.
    pub fn data(&self) -> &'a [u8] {
        // In range as checked when the file was read.
        let start = self.file.inner.data_start + self.info.start as usize;
        &self.file.inner.file[start..start + self.byte_len() as usize]
    }

    /// Tells that its bytes will not be read again.
    pub fn release(&self) {
        let start = self.offset() as usize;
        let end = start + self.byte_len() as usize;
        self.file.inner.file.release(start..end);
    }
}
