//! What is quantised: a GGUF file, or a folder as one.

use std::borrow::Cow;
use std::path::Path;

use anynpu_ir::DType;

use super::QuantizeFileError;
use crate::TensorData;
use crate::arch::ModelFile;
use crate::import::gguf::{GgmlType, Gguf, GgufWriteError, GgufWriter};
use crate::import::hugging_face::HuggingFaceGguf;

/// A model to write with other types.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum QuantizeSource<'a> {
    /// A GGUF file.
    Gguf(&'a Gguf),
    /// A Hugging Face folder, as GGUF has it.
    HuggingFace(&'a HuggingFaceGguf),
}

impl<'a> From<&'a Gguf> for QuantizeSource<'a> {
    fn from(gguf: &'a Gguf) -> Self {
        QuantizeSource::Gguf(gguf)
    }
}

impl<'a> From<&'a HuggingFaceGguf> for QuantizeSource<'a> {
    fn from(folder: &'a HuggingFaceGguf) -> Self {
        QuantizeSource::HuggingFace(folder)
    }
}

/// A tensor of a source.
#[derive(Clone, Debug)]
pub(super) struct SourceTensor {
    pub name: String,
    /// Innermost first.
    pub dims: Vec<u64>,
    pub ggml_type: GgmlType,
    /// If its type's layout is known.
    pub bytes: Option<u64>,
}

impl SourceTensor {
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    pub fn columns(&self) -> u64 {
        self.dims.first().copied().unwrap_or(1)
    }
}

/// Keys that say how a file was quantised; those of the source are no longer true.
const IMATRIX_KEYS: &str = "quantize.imatrix.";
pub(super) const FILE_TYPE: &str = "general.file_type";
pub(super) const QUANTIZATION_VERSION: &str = "general.quantization_version";

impl<'a> QuantizeSource<'a> {
    /// Its metadata, in GGUF's terms.
    pub(super) fn file(self) -> &'a dyn ModelFile {
        match self {
            QuantizeSource::Gguf(gguf) => gguf,
            QuantizeSource::HuggingFace(folder) => folder.model(),
        }
    }

    pub(super) fn is_folder(self) -> bool {
        matches!(self, QuantizeSource::HuggingFace(_))
    }

    pub(super) fn tensors(self) -> Vec<SourceTensor> {
        match self {
            QuantizeSource::Gguf(gguf) => gguf
                .tensors()
                .map(|t| SourceTensor {
                    name: t.name().to_owned(),
                    dims: t.dims().to_vec(),
                    ggml_type: t.ggml_type(),
                    bytes: t.byte_len(),
                })
                .collect(),
            QuantizeSource::HuggingFace(folder) => {
                let tensor = |(name, ty): &(String, anynpu_ir::TensorType)| {
                    let dims = ty.shape.as_fixed().unwrap_or_default();
                    let bytes = ty.bytes(&anynpu_ir::SymbolValues::default());
                    Some(SourceTensor {
                        name: name.clone(),
                        dims: dims.iter().rev().map(|&d| d.into()).collect(),
                        ggml_type: GgmlType::of(ty.dtype)?,
                        bytes: bytes.map(|b| b as u64),
                    })
                };
                // a folder has plain types only, which GGUF has too
                folder.tensors().iter().filter_map(tensor).collect()
            }
        }
    }

    /// The bytes of the tensor called `name`.
    pub(super) fn data(self, name: &str) -> Result<Cow<'a, [u8]>, QuantizeFileError> {
        match self {
            QuantizeSource::Gguf(gguf) => Ok(gguf.require_tensor(name)?.data()?.into()),
            QuantizeSource::HuggingFace(folder) => {
                folder
                    .data(name)
                    .ok_or_else(|| QuantizeFileError::MissingTensor {
                        tensor: name.to_owned(),
                    })
            }
        }
    }

    /// The F32 vector called `name`, if there is one of `len` elements.
    pub(super) fn vector(self, name: &str, len: u64) -> Option<Vec<f32>> {
        let data = match self {
            QuantizeSource::Gguf(gguf) => {
                let tensor = gguf.tensor(name)?;
                let fits = tensor.dtype().ok()? == DType::F32 && tensor.elements() == len;
                fits.then(|| tensor.data().ok())??.into()
            }
            QuantizeSource::HuggingFace(folder) => {
                let (_, ty) = folder.tensors().iter().find(|(n, _)| n == name)?;
                let fits = ty.dtype == DType::F32
                    && ty
                        .shape
                        .as_fixed()?
                        .iter()
                        .map(|&d| u64::from(d))
                        .product::<u64>()
                        == len;
                fits.then(|| folder.data(name))??
            }
        };
        let (words, _) = data.as_chunks::<4>();
        Some(words.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    pub(super) fn release(self, name: &str) {
        match self {
            QuantizeSource::Gguf(gguf) => TensorData::release(gguf, name),
            QuantizeSource::HuggingFace(folder) => TensorData::release(folder.model(), name),
        }
    }

    /// The metadata of the result but for what the quantiser says of itself.
    pub(super) fn header(self) -> Result<GgufWriter, GgufWriteError> {
        let gguf = match self {
            QuantizeSource::Gguf(gguf) => gguf,
            QuantizeSource::HuggingFace(folder) => return Ok(folder.plan().clone()),
        };
        let mut plan = match gguf.metadata().get("general.alignment") {
            Some(_) => GgufWriter::with_alignment(gguf.alignment() as u32)?,
            None => GgufWriter::new(),
        };
        for (key, value) in gguf.metadata().iter() {
            let replaced = [FILE_TYPE, QUANTIZATION_VERSION, "general.alignment"].contains(&key);
            if !replaced && !key.starts_with(IMATRIX_KEYS) {
                plan.set_value(key, value)?;
            }
        }
        Ok(plan)
    }

    /// Bytes of the files with its tensors.
    pub(super) fn bytes(self) -> u64 {
        match self {
            QuantizeSource::Gguf(gguf) => gguf.file().len() as u64,
            QuantizeSource::HuggingFace(folder) => {
                let files = folder.model().folder().tensors().files();
                files.iter().map(|f| f.file().len() as u64).sum()
            }
        }
    }

    /// Whether `path` is one of its files.
    pub(super) fn is_at(self, path: &Path) -> bool {
        let same = |a: &Path| match (a.canonicalize(), path.canonicalize()) {
            (Ok(a), Ok(b)) => a == b,
            _ => false,
        };
        match self {
            QuantizeSource::Gguf(gguf) => gguf.file().path().is_some_and(same),
            QuantizeSource::HuggingFace(folder) => {
                let files = folder.model().folder().tensors().files();
                files.iter().any(|f| f.file().path().is_some_and(same))
            }
        }
    }

    /// Parts of a model that is split into several GGUF files.
    pub(super) fn parts(self) -> u64 {
        let QuantizeSource::Gguf(gguf) = self else {
            return 1;
        };
        let parts = gguf.metadata().get("split.count");
        let parts = parts.and_then(|v| v.as_integer()).unwrap_or(0);
        u64::try_from(parts.max(0)).unwrap_or(u64::MAX)
    }

    pub(super) fn warnings(self) -> &'a [String] {
        match self {
            QuantizeSource::Gguf(_) => &[],
            QuantizeSource::HuggingFace(folder) => folder.warnings(),
        }
    }
}
