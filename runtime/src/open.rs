//! Reading a model: its file, its graph, its tokenizer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anynpu_graphs::Model;
use anynpu_graphs::arch::{MetaValue, ModelFile};
use anynpu_graphs::import::gguf::Gguf;
use anynpu_graphs::import::hugging_face::{HuggingFaceFolder, HuggingFaceGguf, HuggingFaceModel};
use anynpu_hal::WeightSource;

use crate::RuntimeError;
use crate::exec::weights_of;
use crate::folder::{self, TokenizerFiles};
use crate::tokenize::{TokenizeError, Tokenizer, Vocabulary};

/// Where a model comes from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ModelSource {
    /// A GGUF file or a Hugging Face folder (or its `config.json`, index or file of tensors), which
    /// is mapped and must not change meanwhile.
    File(PathBuf),
    /// The bytes of a GGUF file compiled into the program.
    Static {
        /// Name in messages.
        name: &'static str,
        /// The bytes.
        bytes: &'static [u8],
    },
    /// A GGUF file that was read already.
    Gguf(Gguf),
}

impl From<&str> for ModelSource {
    fn from(path: &str) -> Self {
        ModelSource::File(path.into())
    }
}

impl From<String> for ModelSource {
    fn from(path: String) -> Self {
        ModelSource::File(path.into())
    }
}

impl From<&Path> for ModelSource {
    fn from(path: &Path) -> Self {
        ModelSource::File(path.into())
    }
}

impl From<PathBuf> for ModelSource {
    fn from(path: PathBuf) -> Self {
        ModelSource::File(path)
    }
}

impl From<Gguf> for ModelSource {
    fn from(gguf: Gguf) -> Self {
        ModelSource::Gguf(gguf)
    }
}

/// A model that was read but not placed: its graph, its tensors, its tokenizer.
#[derive(Clone, Debug)]
pub struct OpenModel {
    model: Model,
    file: Option<File>,
    tokenizer: Result<Arc<Tokenizer>, Arc<TokenizeError>>,
}

/// What a model was read from.
#[derive(Clone, Debug)]
enum File {
    Gguf(Gguf),
    Folder(HuggingFaceModel),
}

impl OpenModel {
    /// Reads a model's metadata and builds its graph. Weights stay in the file.
    ///
    /// # Errors
    /// A file that can't be read, or whose architecture or tensors don't fit. A vocabulary that
    /// can't be used is told by [`OpenModel::tokenizer`].
    pub fn open(source: impl Into<ModelSource>) -> Result<Self, RuntimeError> {
        let gguf = match source.into() {
            ModelSource::File(path) if HuggingFaceFolder::is_at(&path) => {
                return Self::open_folder(&path);
            }
            ModelSource::File(path) => Gguf::open(path),
            ModelSource::Static { name, bytes } => Gguf::from_static(name, bytes),
            ModelSource::Gguf(gguf) => Ok(gguf),
        };
        let gguf = gguf.map_err(anynpu_graphs::ModelError::from)?;
        let model = Model::from_gguf(&gguf)?;
        let vocabulary = Vocabulary::from_gguf(&gguf);
        let tokenizer = vocabulary.and_then(|v| Tokenizer::new(&v));
        Ok(OpenModel {
            tokenizer: fitting(tokenizer, &model),
            model,
            file: Some(File::Gguf(gguf)),
        })
    }

    fn open_folder(path: &Path) -> Result<Self, RuntimeError> {
        let folder = HuggingFaceFolder::open(path).map_err(anynpu_graphs::ModelError::from)?;
        let tokenizer = folder::tokenizer(&folder)?;
        let folder = HuggingFaceModel::new(&folder).map_err(anynpu_graphs::ModelError::from)?;
        let model = Model::from_hugging_face(&folder, 0)?;
        Ok(OpenModel {
            tokenizer: fitting(tokenizer, &model),
            model,
            file: Some(File::Folder(folder)),
        })
    }

    /// A model made elsewhere, with its tokenizer if it has one. A tokenizer with more tokens than the model has logits
    /// is refused by [`OpenModel::tokenizer`].
    pub fn new(model: Model, tokenizer: Option<Tokenizer>) -> Self {
        let none = || TokenizeError::UnknownModel {
            model: "none".into(),
            known: "a tokenizer given with the model".into(),
        };
        OpenModel {
            tokenizer: fitting(tokenizer.ok_or_else(none), &model),
            model,
            file: None,
        }
    }

    /// The same with the graph that a context of `context` tokens needs.
    ///
    /// # Errors
    /// As [`OpenModel::open`].
    pub fn for_context(mut self, context: u32) -> Result<Self, RuntimeError> {
        let switch = self.model.info().context_switch;
        if switch.is_some_and(|s| context > s) {
            self.model = match &self.file {
                Some(File::Gguf(gguf)) => Model::from_gguf_for(gguf, context)?,
                Some(File::Folder(folder)) => Model::from_hugging_face(folder, context)?,
                None => self.model,
            };
        }
        Ok(self)
    }

    /// The same with a graph whose texts may be padded, if it is one of whole texts.
    pub(crate) fn padded(mut self) -> Result<Self, RuntimeError> {
        if let Some(padded) = self.model.padded()? {
            self.model = padded;
        }
        Ok(self)
    }

    /// The graph, its figures and tensors.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Its tensors as devices read them.
    pub fn weights(&self) -> Arc<dyn WeightSource> {
        weights_of(&self.model)
    }

    /// The GGUF file, if it came from one.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.file {
            Some(File::Gguf(gguf)) => Some(gguf),
            _ => None,
        }
    }

    /// The Hugging Face folder, if it came from one.
    pub fn folder(&self) -> Option<&HuggingFaceModel> {
        match &self.file {
            Some(File::Folder(folder)) => Some(folder),
            _ => None,
        }
    }

    /// The GGUF file of a model that came from a Hugging Face folder, with its vocabulary; to be
    /// written by [`anynpu_graphs::quant::quantize_file`].
    ///
    /// # Errors
    /// A model that came from elsewhere; one whose architecture or vocabulary has no exact
    /// counterpart in GGUF.
    pub fn to_gguf(&self) -> Result<HuggingFaceGguf, RuntimeError> {
        let Some(folder) = self.folder() else {
            return Err(RuntimeError::NotAFolder {
                model: self.model.info().name.clone(),
            });
        };
        let mut gguf = folder.to_gguf()?;
        let Some(files) = TokenizerFiles::read(folder.folder())? else {
            let header = gguf.header().set("tokenizer.ggml.model", "none");
            header.map_err(anynpu_graphs::ModelError::GgufWrite)?;
            gguf.warn(
                "the folder has no tokenizer.json, so the file has no vocabulary and the model runs \
                 on token ids only"
                    .to_owned(),
            );
            return Ok(gguf);
        };
        let tokenizer = self.tokenizer()?;
        let architecture = &self.model.info().architecture;
        let (mut vocabulary, warnings) =
            Vocabulary::from_hugging_face(&files.json, files.config.as_deref(), architecture)?;
        vocabulary.chat_templates = tokenizer.chat_templates().to_vec();
        let ends = folder::folder_ends(folder.folder(), tokenizer.token_count())?;
        let known = Tokenizer::new(&vocabulary)?;
        let unknown = ends.into_iter().filter(|&id| !known.ends_generation(id));
        let mut unknown = unknown.collect::<Vec<_>>().into_iter();
        // the format has room for two beside the end token
        vocabulary.special.end_of_turn = unknown.next();
        vocabulary.special.end_of_message = unknown.next();
        if let Some(id) = unknown.next() {
            gguf.warn(format!(
                "token {id} and {} others end generation, for which GGUF has no place",
                unknown.len()
            ));
        }
        // other readers expect a token for each row
        vocabulary.pad(gguf.vocabulary());
        let written = vocabulary.write_gguf(gguf.header());
        written.map_err(anynpu_graphs::ModelError::GgufWrite)?;
        warnings.into_iter().for_each(|w| gguf.warn(w));
        Ok(gguf)
    }

    /// Its metadata, in GGUF's terms.
    pub(crate) fn metadata(&self, key: &str) -> Option<MetaValue<'_>> {
        match self.file.as_ref()? {
            File::Gguf(gguf) => ModelFile::metadata(gguf, key),
            File::Folder(folder) => folder.metadata(key),
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// What is wrong with the model's vocabulary.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>, RuntimeError> {
        let tokenizer = self.tokenizer.as_ref();
        tokenizer.map_err(|e| RuntimeError::Vocabulary(e.clone()))
    }

    /// The context that is used if none is asked for: the model's own, at most
    /// [`DEFAULT_CONTEXT`].
    pub fn default_context(&self) -> u32 {
        self.model.info().context_length.min(DEFAULT_CONTEXT)
    }
}

/// The tokenizer, if every token of it has a logit.
fn fitting(
    tokenizer: Result<Tokenizer, TokenizeError>,
    model: &Model,
) -> Result<Arc<Tokenizer>, Arc<TokenizeError>> {
    let checked = tokenizer.and_then(|tokenizer| {
        tokenizer.check_model(model.info().vocabulary)?;
        Ok(tokenizer)
    });
    checked.map(Arc::new).map_err(Arc::new)
}

/// Largest context that is used without being asked for.
pub const DEFAULT_CONTEXT: u32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CONTEXT, tiny_llama};

    #[test]
    fn the_default_context_is_the_model_s_up_to_a_bound() {
        let open = OpenModel::new(tiny_llama(1), None);
        assert_eq!(open.default_context(), CONTEXT);
        assert!(open.tokenizer().is_err() && open.gguf().is_none());
    }
}
