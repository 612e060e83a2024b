//! A folder as the GGUF file of the same model.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anynpu_ir::{DType, RopeStyle, TensorType};

use super::HuggingFaceModel;
use super::tables::Meta;
use crate::arch::family::{Family, Windows};
use crate::arch::{Kind, MetaValue, ModelFile};
use crate::import::gguf::{GgufWriteError, GgufWriter};
use crate::{Model, ModelError, TensorData};

/// What a GGUF file of a folder's model holds: metadata, and tensors by name, in the conventions of
/// such files as llama.cpp reads them. The vocabulary is the caller's to add.
///
/// Against the folder, query and key rows of the `llama` architecture are ordered for neighbours to
/// rotate together, and Llama 3's scaling is the tensor `rope_freqs.weight`.
#[derive(Clone, Debug)]
pub struct HuggingFaceGguf {
    model: HuggingFaceModel,
    header: GgufWriter,
    /// In the order of the graph.
    tensors: Vec<(String, TensorType)>,
    /// Tensors that the folder has in no form.
    own: BTreeMap<&'static str, Vec<u8>>,
    /// Rows of a head by name of the tensor whose heads are ordered otherwise than in the folder.
    heads: BTreeMap<String, usize>,
    vocabulary: u32,
    warnings: Vec<String>,
}

const ROPE_FACTORS: &str = "rope_freqs.weight";
/// A key of this crate alone.
const ACTIVATION: &str = "feed_forward_activation";

impl HuggingFaceModel {
    /// The GGUF file of this model, without a vocabulary.
    ///
    /// # Errors
    /// As [`Model::from_hugging_face`]; a classifier or an architecture that GGUF doesn't have; what
    /// a configuration asks for and GGUF has no place for.
    pub fn to_gguf(&self) -> Result<HuggingFaceGguf, ModelError> {
        let model = Model::from_hugging_face(self, 0)?;
        let translation = self.translation();
        let architecture = translation.architecture;
        let family = Family::find(architecture);
        match (model.info().kind, architecture) {
            (Kind::Decoder, _) if family.is_some() => {}
            (Kind::Encoder, "bert") => {}
            (kind, _) => {
                return Err(ModelError::Unsupported {
                    what: match kind {
                        Kind::Encoder => {
                            "writing this encoder to GGUF, as only BERT's form can be,"
                        }
                        Kind::Classifier => "writing a classifier to GGUF",
                        _ => "writing this architecture to GGUF",
                    },
                    key: "model_type".into(),
                    found: architecture.into(),
                });
            }
        }
        let weights = model.graph().weights().iter();
        let weights = weights.filter(|w| w.inline.is_none());
        let mut tensors: Vec<(String, TensorType)> = weights
            .map(|w| (w.name.clone(), model.graph().ty(w.value).clone()))
            .collect();
        for name in translation.figures.keys() {
            if !tensors.iter().any(|(n, _)| n == name)
                && let Some(ty) = ModelFile::tensor(self, name)?
            {
                tensors.push(((*name).to_owned(), ty));
            }
        }
        let mut gguf = HuggingFaceGguf {
            model: self.clone(),
            header: GgufWriter::new(),
            vocabulary: model.info().vocabulary,
            heads: BTreeMap::new(),
            own: BTreeMap::new(),
            warnings: Vec::new(),
            tensors,
        };
        let written = match family {
            Some(family) => {
                gguf.order_heads(family);
                let scaled = gguf.llama3()?;
                gguf.check_attention(family)?;
                gguf.metadata(scaled)
            }
            None => {
                gguf.check_activation()?;
                gguf.metadata(false).and_then(|()| gguf.encoder())
            }
        };
        written.map_err(ModelError::GgufWrite)?;
        Ok(gguf)
    }
}

impl HuggingFaceGguf {
    /// The folder's model.
    pub fn model(&self) -> &HuggingFaceModel {
        &self.model
    }

    /// Its metadata, to which a vocabulary can be added.
    pub fn header(&mut self) -> &mut GgufWriter {
        &mut self.header
    }

    /// Rows of its embedding. A file that llama.cpp reads has as many tokens.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// Adds what the user should know of the result.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// What the user should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(crate) fn plan(&self) -> &GgufWriter {
        &self.header
    }

    /// Names and types of its tensors.
    pub(crate) fn tensors(&self) -> &[(String, TensorType)] {
        &self.tensors
    }

    /// The elements of the tensor called `name`.
    pub(crate) fn data(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        if let Some(own) = self.own.get(name) {
            return Some(own.into());
        }
        let (_, data) = TensorData::tensor(&self.model, name)?;
        let Some(&head) = self.heads.get(name) else {
            return Some(data);
        };
        let (_, ty) = self.tensors.iter().find(|(n, _)| n == name)?;
        let rows = ty.shape.dims().first()?.fixed()? as usize;
        let row = data.len().checked_div(rows)?;
        let mut ordered = Vec::with_capacity(data.len());
        for to in 0..rows {
            let (first, at) = (to - to % head, to % head);
            let from = first + at / 2 + (at % 2) * (head / 2);
            ordered.extend_from_slice(&data[from * row..(from + 1) * row]);
        }
        Some(ordered.into())
    }

    /// Finds the tensors whose rows the family's files have in another order.
    fn order_heads(&mut self, family: &Family) {
        if family.rope != RopeStyle::Interleaved || self.model.rope_style().is_none() {
            return;
        }
        for (name, ty) in &self.tensors {
            let part = name.rsplit('.').nth(1).unwrap_or_default();
            let heads = match part {
                "attn_q" => self.count("attention.head_count"),
                "attn_k" => self.count("attention.head_count_kv"),
                _ => continue,
            };
            let rows = ty.shape.dims().first().and_then(|d| d.fixed());
            // the graph was built, so heads divide the rows, and are even
            if let (Some(rows), Some(heads)) = (rows, heads) {
                self.heads
                    .insert(name.clone(), (u64::from(rows) / heads.max(1)) as usize);
            }
        }
    }

    fn count(&self, name: &str) -> Option<u64> {
        let key = self.key(name);
        match ModelFile::metadata(&self.model, &key) {
            Some(MetaValue::Unsigned(n)) => Some(n),
            _ => None,
        }
    }

    fn float(&self, name: &str) -> Option<f64> {
        let key = self.key(name);
        match ModelFile::metadata(&self.model, &key) {
            Some(MetaValue::Float(x)) => Some(x),
            _ => None,
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.model.translation().architecture)
    }

    /// Elements of a head.
    fn head_dim(&self) -> u64 {
        let own = self.count("attention.key_length");
        own.unwrap_or_else(|| {
            let hidden = self.count("embedding_length").unwrap_or(0);
            hidden / self.count("attention.head_count").unwrap_or(1).max(1)
        })
    }

    /// Adds Llama 3's scaling as divisors of the frequencies, if the model has it.
    fn llama3(&mut self) -> Result<bool, ModelError> {
        let key = self.key("rope.scaling.type");
        if ModelFile::metadata(&self.model, &key) != Some(MetaValue::Text("llama3")) {
            return Ok(false);
        }
        let figure = |name: &str| self.float(&format!("rope.scaling.{name}"));
        let (Some(factor), Some(low), Some(high)) = (
            figure("factor"),
            figure("low_freq_factor"),
            figure("high_freq_factor"),
        ) else {
            return Err(ModelError::MissingKey {
                key,
                expected: "Llama 3's factors beside it".into(),
            });
        };
        let original = self.count("rope.scaling.original_context_length");
        let original = original.or(self.count("context_length")).unwrap_or(0) as f64;
        let base = self.float("rope.freq_base").unwrap_or(10_000.0);
        let dim = self.head_dim();
        let divisor = |pair: u64| {
            let frequency = base.powf(-((2 * pair) as f64) / dim as f64);
            let turns = original * frequency / std::f64::consts::TAU;
            let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / (smooth + (1.0 - smooth) / factor)) as f32
        };
        let divisors = (0..dim / 2).flat_map(|pair| divisor(pair).to_le_bytes());
        self.own.insert(ROPE_FACTORS, divisors.collect());
        let shape = anynpu_ir::Shape::fixed(&[(dim / 2) as u32]);
        let ty = TensorType::new(DType::F32, shape);
        self.tensors.push((ROPE_FACTORS.to_owned(), ty));
        Ok(true)
    }

    /// Whether other readers of the file do what the configuration says of attention.
    fn check_attention(&mut self, family: &Family) -> Result<(), ModelError> {
        let usual = |name: &str, usual: f64| {
            let found = self.float(&format!("rope.scaling.{name}"));
            found.is_none_or(|x| x == usual)
        };
        if !usual("yarn_beta_fast", 32.0) || !usual("yarn_beta_slow", 1.0) {
            self.warnings.push(format!(
                "the model's YaRN has its own beta_fast and beta_slow; llama.cpp does not heed them \
                 in files of architecture '{}' and computes otherwise (anynpu heeds them)",
                family.name
            ));
        }
        let scale = self.key("attention.scale");
        if let Some(found) = ModelFile::metadata(&self.model, &scale) {
            return Err(ModelError::Unsupported {
                what: "writing scores of this scale to GGUF",
                key: "query_pre_attn_scalar".into(),
                found: format!("so that scores are multiplied by {found}"),
            });
        }
        let cap = self.float("attn_logit_softcapping");
        match family.name {
            "gemma2" if cap == Some(0.0) => {
                return Err(ModelError::Unsupported {
                    what: "writing scores without a bound to GGUF in this architecture",
                    key: "attn_logit_softcapping".into(),
                    found: "null".into(),
                });
            }
            "gemma3" if cap.is_some_and(|c| c > 0.0) => self.warnings.push(
                "the model bounds its scores (attn_logit_softcapping); llama.cpp does not heed that in \
                 files of architecture 'gemma3' and computes otherwise (anynpu heeds it)"
                    .to_owned(),
            ),
            _ => {}
        }
        let context = self.count("context_length").unwrap_or(0);
        let width = self.count("attention.sliding_window").unwrap_or(0);
        let windowed = self.flags().is_some_and(|flags| flags.contains(&true));
        if family.windows == Windows::Listed && windowed && width < context {
            self.warnings.push(format!(
                "the model sees a window of {width} tokens in some layers; llama.cpp does not heed it \
                 in files of architecture '{}' and computes otherwise in longer contexts (anynpu heeds \
                 it)",
                family.name
            ));
        }
        Ok(())
    }

    /// Which layers have a window, if the configuration tells.
    fn flags(&self) -> Option<&[bool]> {
        let key = self.key("attention.sliding_window_pattern");
        match self.model.translation().metadata.get(&key) {
            Some(Meta::Flags(flags)) => Some(flags),
            _ => None,
        }
    }

    /// Whether the layers with a window are those that readers take for such without being told.
    fn has_usual_windows(&self) -> bool {
        let family = Family::find(self.model.translation().architecture);
        let Some(Windows::Pattern { period, .. }) = family.map(|f| f.windows) else {
            return false;
        };
        let usual = |(n, windowed): (u32, &bool)| *windowed == (n % period < period - 1);
        self.flags()
            .is_some_and(|flags| (0..).zip(flags).all(usual))
    }

    /// Whether readers of GGUF take the encoder's activation for granted.
    fn check_activation(&self) -> Result<(), ModelError> {
        let key = self.key(ACTIVATION);
        match ModelFile::metadata(&self.model, &key) {
            None | Some(MetaValue::Text("gelu")) => Ok(()),
            Some(other) => Err(ModelError::Unsupported {
                what: "writing an encoder with this activation to GGUF, which has a place for GELU only,",
                key: "hidden_act".into(),
                found: other.to_string(),
            }),
        }
    }

    /// Adds what files of encoders say besides.
    fn encoder(&mut self) -> Result<(), GgufWriteError> {
        let types = self.tensors.iter().find(|(n, _)| n == "token_types.weight");
        let types = types.and_then(|(_, ty)| ty.shape.dims().first()?.fixed());
        let causal = self.key("attention.causal");
        self.header.set(&causal, &false)?;
        match types {
            Some(rows) => self.header.set("tokenizer.ggml.token_type_count", &rows),
            None => Ok(()),
        }
    }

    /// Writes the metadata; without the figures of a scaling that is a tensor.
    fn metadata(&mut self, scaled: bool) -> Result<(), GgufWriteError> {
        let translation = self.model.translation();
        let architecture = translation.architecture;
        let pattern = self.key("attention.sliding_window_pattern");
        let usual = self.has_usual_windows();
        let scaling = self.key("rope.scaling.");
        let mut plan = GgufWriter::new();
        plan.set("general.architecture", architecture)?;
        plan.set("general.type", "model")?;
        if !self.model.folder().name().is_empty() {
            plan.set("general.name", self.model.folder().name())?;
        }
        plan.set(&self.key("vocab_size"), &self.vocabulary)?;
        let dims = self.key("rope.dimension_count");
        if translation.half_split_rope && !translation.metadata.contains_key(&dims) {
            plan.set(&dims, &(self.head_dim() as u32))?;
        }
        for (key, value) in &translation.metadata {
            let ours = key.starts_with("general.");
            // older readers know the family's own pattern only
            let activation = key.ends_with(ACTIVATION);
            if ours
                || activation
                || (scaled && key.starts_with(&scaling))
                || (*key == pattern && usual)
            {
                continue;
            }
            match value {
                Meta::Unsigned(n) => plan.set(key, &u32::try_from(*n).unwrap_or(u32::MAX))?,
                Meta::Float(x) => plan.set(key, &(*x as f32))?,
                Meta::Bool(b) => plan.set(key, b)?,
                Meta::Text(t) => plan.set(key, *t)?,
                Meta::Flags(flags) => plan.set(key, flags)?,
            }
        }
        self.header = plan;
        Ok(())
    }
}
