//! A folder as architectures and runtimes see it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use anynpu_ir::{DType, RopeStyle, TensorType};
use half::{bf16, f16};
use serde_json::Value;

use super::tables::{Meta, Translation, translate};
use super::{HuggingFaceError, HuggingFaceFolder};
use crate::arch::{MetaValue, ModelFile};
use crate::import::safetensors::Tensor;
use crate::{ModelError, TensorData};

/// A folder whose configuration was understood; its metadata and tensors have GGUF's names.
///
/// Tensors stay in their files, but vectors of 16-bit elements (norms and biases), which are given
/// as F32 and copied when they are first read.
#[derive(Clone, Debug)]
pub struct HuggingFaceModel {
    folder: HuggingFaceFolder,
    translation: Arc<Translation>,
    /// Whether the folder's names have [`Translation::base`] before them.
    based: bool,
    /// By the folder's names: vectors widened to F32.
    widened: Arc<BTreeMap<String, OnceLock<Vec<u8>>>>,
}

/// Vectors longer than this stay as they are.
const LONGEST_WIDENED: u64 = 1 << 24;

impl HuggingFaceModel {
    /// Says what the configuration of `folder` means.
    ///
    /// # Errors
    /// An unknown `model_type`; members that are missing, out of range, or ask for what can't be
    /// computed; tensors outside the blocks that are missing.
    pub fn new(folder: &HuggingFaceFolder) -> Result<Self, HuggingFaceError> {
        let config = folder.reader();
        let mut translation = translate(&config)?;
        if let Some(pooling) = pooling(folder) {
            let key = format!("{}.pooling_type", translation.architecture);
            translation.metadata.insert(key, Meta::Unsigned(pooling));
        }
        let tensors = folder.tensors();
        let base = translation.base;
        let vector = |t: &Tensor<'_>| {
            t.shape().len() == 1
                && t.shape()[0] <= LONGEST_WIDENED
                && matches!(t.dtype(), Ok(DType::F16 | DType::BF16))
        };
        let vectors = tensors.tensors().filter(vector);
        let widened = vectors.map(|t| (t.name().to_owned(), OnceLock::new()));
        let model = HuggingFaceModel {
            based: tensors.tensors().any(|t| t.name().starts_with(base)),
            widened: Arc::new(widened.collect()),
            folder: folder.clone(),
            translation: Arc::new(translation),
        };
        for name in &model.translation.names {
            if !name.ours.contains('#') {
                model.find(&format!("{}.weight", name.ours))?;
            }
        }
        if let Some(vocabulary) = config.count("vocab_size")?
            && let Some(table) = model.find("token_embd.weight")?
            && table.shape().first() != Some(&vocabulary.into())
        {
            let rows = table.shape().first().copied().unwrap_or_default();
            let expected = format!("{rows}, the rows of tensor '{}'", table.name());
            return config.refuse("vocab_size", expected);
        }
        Ok(model)
    }

    /// The folder.
    pub fn folder(&self) -> &HuggingFaceFolder {
        &self.folder
    }

    /// The folder's name of a tensor that GGUF calls `ours`, if the model has it.
    fn translated(&self, ours: &str) -> Option<String> {
        let (stem, kind) = ours.rsplit_once('.')?;
        let mut numbers = Vec::new();
        let parts = stem.split('.').map(|part| {
            match !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
                true => {
                    numbers.push(part);
                    "#"
                }
                false => part,
            }
        });
        let pattern = parts.collect::<Vec<_>>().join(".");
        let name = self.translation.names.iter().find(|n| n.ours == pattern)?;
        if kind != "weight" && !(kind == "bias" && name.bias) {
            return None;
        }
        let base = if self.based {
            self.translation.base
        } else {
            ""
        };
        let mut theirs = name.theirs.replace('@', base);
        for number in numbers {
            theirs = theirs.replacen('#', number, 1);
        }
        Some(format!("{theirs}.{kind}"))
    }

    /// The tensor that GGUF calls `ours`; `None` if the model is without it. An error if the folder
    /// lacks it.
    fn find(&self, ours: &str) -> Result<Option<Tensor<'_>>, HuggingFaceError> {
        let Some(theirs) = self.translated(ours) else {
            return Ok(None);
        };
        let tensors = self.folder.tensors();
        let found = tensors.tensor(&theirs).or_else(|| {
            // as the first releases named norms
            let stem = theirs.strip_suffix("LayerNorm.weight");
            let old = stem.map(|s| format!("{s}LayerNorm.gamma"));
            let stem = theirs.strip_suffix("LayerNorm.bias");
            let old = old.or(stem.map(|s| format!("{s}LayerNorm.beta")));
            tensors.tensor(&old?)
        });
        match found {
            None => Err(HuggingFaceError::MissingTensor {
                file: self.folder.reader().file,
                tensor: theirs,
            }),
            found => Ok(found),
        }
    }

    /// `error` with the names that the folder has.
    pub(crate) fn explain(&self, error: ModelError) -> ModelError {
        let origins = &self.translation.origins;
        let member = |key: String| match origins.get(&key) {
            Some(origin) => origin.clone(),
            None => key,
        };
        let tensor = |ours: String| match self.translated(&ours) {
            Some(theirs) => theirs,
            None => ours,
        };
        match error {
            ModelError::MissingKey { key, expected } => ModelError::MissingKey {
                key: member(key),
                expected,
            },
            ModelError::Key {
                key,
                found,
                expected,
            } => ModelError::Key {
                key: member(key),
                found,
                expected,
            },
            ModelError::MissingTensor { name, expected } => ModelError::MissingTensor {
                name: tensor(name),
                expected,
            },
            ModelError::TensorShape {
                name,
                found,
                expected,
            } => ModelError::TensorShape {
                name: tensor(name),
                found,
                expected,
            },
            other => other,
        }
    }
}

/// How the sentence-transformers package pools with this folder, as GGUF numbers it.
fn pooling(folder: &HuggingFaceFolder) -> Option<u64> {
    let pooling = folder.inner.pooling.as_ref()?;
    let told = |name: &str| pooling.get(name).and_then(Value::as_bool) == Some(true);
    match (
        told("pooling_mode_mean_tokens"),
        told("pooling_mode_cls_token"),
    ) {
        (true, false) => Some(1),
        (false, true) => Some(2),
        _ => None,
    }
}

impl ModelFile for HuggingFaceModel {
    fn metadata(&self, key: &str) -> Option<MetaValue<'_>> {
        if key == "general.name" {
            return Some(MetaValue::Text(self.folder.name()));
        }
        Some(match self.translation.metadata.get(key)? {
            Meta::Unsigned(n) => MetaValue::Unsigned(*n),
            Meta::Float(x) => MetaValue::Float(*x),
            Meta::Bool(b) => MetaValue::Bool(*b),
            Meta::Text(t) => MetaValue::Text(t),
            Meta::Flags(flags) => MetaValue::List(flags.len()),
        })
    }

    fn list_item(&self, key: &str, index: usize) -> Option<MetaValue<'_>> {
        match self.translation.metadata.get(key)? {
            Meta::Flags(flags) => flags.get(index).copied().map(MetaValue::Bool),
            _ => None,
        }
    }

    fn rope_style(&self) -> Option<RopeStyle> {
        let half_split = self.translation.half_split_rope;
        half_split.then_some(RopeStyle::HalfSplit)
    }

    fn tensor(&self, name: &str) -> Result<Option<TensorType>, ModelError> {
        let Some(tensor) = self.find(name)? else {
            return Ok(None);
        };
        let mut ty = tensor.tensor_type()?;
        if self.widened.contains_key(tensor.name()) {
            ty.dtype = DType::F32;
        }
        Ok(Some(ty))
    }
}

impl TensorData for HuggingFaceModel {
    fn tensor(&self, name: &str) -> Option<(DType, &[u8])> {
        let tensor = self.find(name).ok()??;
        let (dtype, data) = (tensor.dtype().ok()?, tensor.data());
        match self.widened.get(tensor.name()) {
            None => Some((dtype, data)),
            Some(own) => Some((DType::F32, own.get_or_init(|| widened(dtype, data)))),
        }
    }

    fn release(&self, name: &str) {
        if let Ok(Some(tensor)) = self.find(name) {
            tensor.release();
        }
    }
}

/// 16-bit elements as F32.
fn widened(dtype: DType, data: &[u8]) -> Vec<u8> {
    let wide = |bits: &[u8]| {
        let bits = [bits[0], bits[1]];
        match dtype {
            DType::BF16 => bf16::from_le_bytes(bits).to_f32(),
            _ => f16::from_le_bytes(bits).to_f32(),
        }
    };
    data.chunks_exact(2)
        .flat_map(|b| wide(b).to_le_bytes())
        .collect()
}
