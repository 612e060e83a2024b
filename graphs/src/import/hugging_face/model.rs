//! A folder as architectures and runtimes see it.

use std::borrow::Cow;
use std::sync::Arc;

use anynpu_ir::{DType, Dim, RopeStyle, Shape, TensorType};
use half::{bf16, f16};
use serde_json::Value;

use super::tables::{Form, Meta, Name, Translation, translate};
use super::{HuggingFaceError, HuggingFaceFolder};
use crate::arch::{MetaValue, ModelFile};
use crate::import::safetensors::Tensor;
use crate::model::sample;
use crate::{ModelError, TensorData};

/// A folder whose configuration was understood; its metadata and tensors have GGUF's names.
///
/// Tensors stay in their files, but for what GGUF has in another form and is made whenever it is
/// read: vectors of 16-bit elements (norms and biases) are F32, Gemma's norms have 1 added, and the
/// matrices of a layer's experts, each a tensor of its own in the folder, are one.
#[derive(Clone, Debug)]
pub struct HuggingFaceModel {
    folder: HuggingFaceFolder,
    translation: Arc<Translation>,
    /// Whether the folder's names have [`Translation::base`] before them.
    based: bool,
}

/// Vectors longer than this stay as they are.
const LONGEST_WIDENED: u64 = 1 << 24;

/// Where a tensor that GGUF has comes from.
enum Source<'a> {
    /// One of the folder's tensors.
    Tensor(Tensor<'a>, Form),
    /// One a matrix.
    Experts(Vec<Tensor<'a>>),
    /// The configuration.
    Figures(&'a [f32]),
}

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
        let base = translation.base;
        let mut tensors = folder.tensors().tensors();
        let model = HuggingFaceModel {
            based: tensors.any(|t| t.name().starts_with(base)),
            folder: folder.clone(),
            translation: Arc::new(translation),
        };
        for name in &model.translation.names {
            if !name.ours.contains('#') {
                model.find(&format!("{}.weight", name.ours))?;
            }
        }
        if let Some(vocabulary) = config.count("vocab_size")?
            && let Some(Source::Tensor(table, _)) = model.find("token_embd.weight")?
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

    pub(super) fn translation(&self) -> &Translation {
        &self.translation
    }

    /// The folder's name of a tensor that GGUF calls `ours`, with `*` for an expert's number, if the
    /// model has it.
    fn translated(&self, ours: &str) -> Option<(String, &Name)> {
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
        Some((format!("{theirs}.{kind}"), name))
    }

    /// The folder's tensor of this name.
    fn theirs(&self, theirs: String) -> Result<Tensor<'_>, HuggingFaceError> {
        let tensors = self.folder.tensors();
        let found = tensors.tensor(&theirs).or_else(|| {
            // as the first releases named norms
            let stem = theirs.strip_suffix("LayerNorm.weight");
            let old = stem.map(|s| format!("{s}LayerNorm.gamma"));
            let stem = theirs.strip_suffix("LayerNorm.bias");
            let old = old.or(stem.map(|s| format!("{s}LayerNorm.beta")));
            tensors.tensor(&old?)
        });
        found.ok_or_else(|| HuggingFaceError::MissingTensor {
            file: self.folder.reader().file,
            tensor: theirs,
        })
    }

    /// Where the tensor that GGUF calls `ours` comes from; `None` if the model is without it. An
    /// error if the folder lacks it.
    fn find(&self, ours: &str) -> Result<Option<Source<'_>>, HuggingFaceError> {
        if let Some(figures) = self.translation.figures.get(ours) {
            return Ok(Some(Source::Figures(figures)));
        }
        let Some((theirs, name)) = self.translated(ours) else {
            return Ok(None);
        };
        if name.form != Form::Experts {
            return Ok(Some(Source::Tensor(self.theirs(theirs)?, name.form)));
        }
        let expert = |n: u32| self.theirs(theirs.replace('*', &n.to_string()));
        let experts = (0..self.translation.experts).map(expert);
        Ok(Some(Source::Experts(experts.collect::<Result<_, _>>()?)))
    }

    /// `error` with the names that the folder has.
    pub(crate) fn explain(&self, error: ModelError) -> ModelError {
        let origins = &self.translation.origins;
        let member = |key: String| match origins.get(&key) {
            Some(origin) => origin.clone(),
            None => key,
        };
        let tensor = |ours: String| match self.translated(&ours) {
            Some((theirs, _)) => theirs,
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
        Ok(match self.find(name)? {
            None => None,
            Some(Source::Figures(figures)) => {
                let count = u32::try_from(figures.len()).unwrap_or(u32::MAX);
                Some(TensorType::new(DType::F32, Shape::fixed(&[count])))
            }
            Some(Source::Tensor(tensor, form)) => {
                let mut ty = tensor.tensor_type()?;
                if is_made(&tensor, form) {
                    ty.dtype = DType::F32;
                }
                Some(ty)
            }
            Some(Source::Experts(experts)) => Some(self.stacked(&experts)?),
        })
    }
}

impl HuggingFaceModel {
    /// The type of all experts' matrices as one tensor.
    fn stacked(&self, experts: &[Tensor<'_>]) -> Result<TensorType, ModelError> {
        let mut one: Option<TensorType> = None;
        for expert in experts {
            let ty = expert.tensor_type()?;
            if one.as_ref().is_some_and(|one| *one != ty) || ty.shape.rank() != 2 {
                return Err(HuggingFaceError::Experts {
                    file: self.folder.reader().file,
                    tensor: expert.name().to_owned(),
                    found: ty,
                    first: experts[0].name().to_owned(),
                    expected: experts[0].tensor_type()?,
                }
                .into());
            }
            one = Some(ty);
        }
        let count = u32::try_from(experts.len()).unwrap_or(u32::MAX);
        let one = one.unwrap_or(TensorType::new(DType::F32, []));
        let mut dims = vec![Dim::Fixed(count)];
        dims.extend_from_slice(one.shape.dims());
        Ok(TensorType::new(one.dtype, dims))
    }
}

impl TensorData for HuggingFaceModel {
    fn tensor(&self, name: &str) -> Option<(DType, Cow<'_, [u8]>)> {
        match self.find(name).ok()?? {
            Source::Figures(figures) => {
                let bytes = figures.iter().flat_map(|x| x.to_le_bytes()).collect();
                Some((DType::F32, Cow::Owned(bytes)))
            }
            Source::Tensor(tensor, form) => {
                let (dtype, data) = (tensor.dtype().ok()?, tensor.data());
                Some(match is_made(&tensor, form) {
                    true => (DType::F32, made(dtype, data, form).into()),
                    false => (dtype, data.into()),
                })
            }
            Source::Experts(experts) => {
                let dtype = experts.first()?.dtype().ok()?;
                let bytes = experts.iter().map(|e| e.data().len()).sum();
                let mut stack = Vec::with_capacity(bytes);
                for expert in experts {
                    stack.extend_from_slice(expert.data());
                    // not held beside the copy; read again it is there again
                    expert.release();
                }
                Some((dtype, stack.into()))
            }
        }
    }

    /// Of experts those of the first and the last, which need not be copied for that.
    fn sample(&self, name: &str, most: usize) -> Option<(u64, Vec<u8>, Vec<u8>)> {
        if let Source::Experts(experts) = self.find(name).ok()?? {
            let len = experts.iter().map(Tensor::byte_len).sum();
            let (first, last) = (experts.first()?.data(), experts.last()?.data());
            return Some(sample(first, last, len, most));
        }
        let (_, bytes) = TensorData::tensor(self, name)?;
        Some(sample(&bytes, &bytes, bytes.len() as u64, most))
    }

    fn release(&self, name: &str) {
        match self.find(name) {
            Ok(Some(Source::Tensor(tensor, _))) => tensor.release(),
            Ok(Some(Source::Experts(experts))) => experts.iter().for_each(Tensor::release),
            _ => {}
        }
    }
}

/// Whether the elements are other ones than the folder's.
fn is_made(tensor: &Tensor<'_>, form: Form) -> bool {
    let vector = tensor.shape().len() == 1 && tensor.shape()[0] <= LONGEST_WIDENED;
    match tensor.dtype() {
        Ok(DType::F16 | DType::BF16) => vector,
        Ok(DType::F32) => vector && form == Form::PlusOne,
        _ => false,
    }
}

/// The elements as F32, in `form`.
fn made(dtype: DType, data: &[u8], form: Form) -> Vec<u8> {
    let add = if form == Form::PlusOne { 1.0 } else { 0.0 };
    let bytes = |x: f32| (x + add).to_le_bytes();
    let (pairs, _) = data.as_chunks::<2>();
    match dtype {
        DType::BF16 => pairs
            .iter()
            .flat_map(|b| bytes(bf16::from_le_bytes(*b).to_f32()))
            .collect(),
        DType::F16 => pairs
            .iter()
            .flat_map(|b| bytes(f16::from_le_bytes(*b).to_f32()))
            .collect(),
        _ => {
            let (words, _) = data.as_chunks::<4>();
            words
                .iter()
                .flat_map(|b| bytes(f32::from_le_bytes(*b)))
                .collect()
        }
    }
}
