//! Models from a Hugging Face folder: `config.json` beside `model.safetensors`, or beside several
//! such files that `model.safetensors.index.json` joins.
//!
//! [`HuggingFaceFolder::open`] reads and checks the files; [`HuggingFaceModel::new`] says what they
//! mean: it translates the configuration's members to GGUF's metadata keys, and GGUF's tensor names
//! to the folder's, so that the architectures of [`crate::arch`] are built from either. A member that
//! changes results is followed or refused by name.

mod config;
mod decoders;
mod encoders;
mod error;
mod model;
mod rope;
mod tables;
mod to_gguf;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::excerpt;
use super::safetensors::{INDEX, SINGLE, SafeTensors, SafeTensorsError, Shards};

pub use error::HuggingFaceError;
pub use model::HuggingFaceModel;
pub use to_gguf::HuggingFaceGguf;

use config::Config;

/// Name of the file with a model's figures.
pub const CONFIG: &str = "config.json";
/// Files of JSON larger than this are not read.
const MAX_JSON: u64 = 64 << 20;
/// More files of a kind than any folder has.
const MAX_NAMES: usize = 1000;

/// The files of a folder, read and checked. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct HuggingFaceFolder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Absent for a folder in memory.
    path: Option<PathBuf>,
    /// Its name without the path.
    name: String,
    /// The configuration's name, for messages.
    config_label: Arc<str>,
    config: Map<String, Value>,
    /// How sentences are pooled, if the folder is also one of the sentence-transformers package.
    pooling: Option<Map<String, Value>>,
    tensors: Shards,
}

impl HuggingFaceFolder {
    /// Whether `path` is a folder, or a file within one that stands for it.
    pub fn is_at(path: &Path) -> bool {
        let extension = path.extension().and_then(|e| e.to_str());
        let name = path.file_name().and_then(|n| n.to_str());
        path.is_dir() || extension == Some("safetensors") || matches!(name, Some(CONFIG | INDEX))
    }

    /// Reads the folder at `path`, which may also be its `config.json`, its index or its only file of
    /// tensors. Tensors stay in their files, which must not change meanwhile.
    ///
    /// # Errors
    /// Files that are missing or not sound.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, HuggingFaceError> {
        let path = path.as_ref();
        let (folder, file) = match path.is_dir() {
            true => (path, None),
            false if Self::is_at(path) => {
                // the folder of a bare file name is the current one
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                (parent.unwrap_or(Path::new(".")), Some(path))
            }
            false => {
                let path = path.to_owned();
                return Err(HuggingFaceError::NotAFolder { path });
            }
        };
        let file = file.filter(|f| f.extension().is_some_and(|e| e == "safetensors"));
        let config_path = folder.join(CONFIG);
        let config = read_json(&config_path)?.ok_or_else(|| HuggingFaceError::Io {
            source: std::io::ErrorKind::NotFound.into(),
            path: config_path.clone(),
        })?;
        let name = folder.canonicalize().unwrap_or(folder.to_owned());
        let name = name.file_name().map(|n| n.to_string_lossy().into_owned());
        Ok(HuggingFaceFolder {
            inner: Arc::new(Inner {
                name: name.unwrap_or_default(),
                config_label: config_path.display().to_string().into(),
                config,
                pooling: read_json(&folder.join("1_Pooling").join(CONFIG))?,
                tensors: tensors(folder, file)?,
                path: Some(folder.to_owned()),
            }),
        })
    }

    /// A folder in memory called `name`, of the text of its configuration and of its tensors.
    ///
    /// # Errors
    /// A configuration that is no JSON object.
    pub fn in_memory(name: &str, config: &[u8], tensors: Shards) -> Result<Self, HuggingFaceError> {
        let label: Arc<str> = format!("{name}/{CONFIG}").into();
        Ok(HuggingFaceFolder {
            inner: Arc::new(Inner {
                path: None,
                name: name.to_owned(),
                config: parse(&label, config)?,
                config_label: label,
                pooling: None,
                tensors,
            }),
        })
    }

    /// Where it is, unless in memory.
    pub fn path(&self) -> Option<&Path> {
        self.inner.path.as_deref()
    }

    /// Its name without the path.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The members of its configuration.
    pub fn config(&self) -> &Map<String, Value> {
        &self.inner.config
    }

    /// Its tensors.
    pub fn tensors(&self) -> &Shards {
        &self.inner.tensors
    }

    /// The text of a JSON file in the folder, e.g. `tokenizer.json`; `None` if it isn't there.
    ///
    /// # Errors
    /// A file that can't be read or is larger than 64 MiB.
    pub fn read_text(&self, name: &str) -> Result<Option<Vec<u8>>, HuggingFaceError> {
        match &self.inner.path {
            Some(folder) => read(&folder.join(name)),
            None => Ok(None),
        }
    }

    /// The names, without `.extension`, of the files in its folder `inner` that end so, in order; none
    /// if there is no such folder.
    ///
    /// # Errors
    /// A folder that can't be read, or has more than 1000 such files.
    pub fn names_in(&self, inner: &str, extension: &str) -> Result<Vec<String>, HuggingFaceError> {
        let Some(folder) = &self.inner.path else {
            return Ok(Vec::new());
        };
        let path = folder.join(inner);
        let failed = |source| HuggingFaceError::Io {
            path: path.clone(),
            source,
        };
        let entries = match fs::read_dir(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_str().and_then(|n| n.strip_suffix(extension));
            if let Some(name) = name.and_then(|n| n.strip_suffix('.')) {
                names.push(name.to_owned());
            }
            if names.len() > MAX_NAMES {
                let problem = format!("has more than {MAX_NAMES} files");
                return Err(failed(std::io::Error::other(problem)));
            }
        }
        names.sort();
        Ok(names)
    }

    fn reader(&self) -> Config<'_> {
        Config {
            file: self.inner.config_label.clone(),
            prefix: String::new(),
            members: &self.inner.config,
        }
    }
}

/// The tensors of a folder, or of `file` in it.
fn tensors(folder: &Path, file: Option<&Path>) -> Result<Shards, HuggingFaceError> {
    let single = folder.join(SINGLE);
    let index = folder.join(INDEX);
    // a shard stands for its folder, as its tensors alone are no model
    if let Some(file) = file
        && !index.is_file()
    {
        return Ok(Shards::of(SafeTensors::open(file)?));
    }
    if single.is_file() {
        return Ok(Shards::of(SafeTensors::open(single)?));
    }
    if index.is_file() {
        return Ok(Shards::open(&index)?);
    }
    let others = [
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
        "tf_model.h5",
        "flax_model.msgpack",
    ];
    Err(HuggingFaceError::NoWeights {
        found: others.into_iter().find(|name| folder.join(name).exists()),
        folder: folder.to_owned(),
    })
}

/// The bytes of a file of text; `None` if it isn't there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, HuggingFaceError> {
    let failed = |source| HuggingFaceError::Io {
        path: path.to_owned(),
        source,
    };
    let found = match fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(failed)?,
    };
    if !found.is_file() {
        return Err(failed(std::io::Error::other("is not a regular file")));
    }
    if found.len() > MAX_JSON {
        return Err(HuggingFaceError::TooLarge {
            path: path.to_owned(),
            bytes: found.len(),
            most: MAX_JSON,
        });
    }
    Ok(Some(fs::read(path).map_err(failed)?))
}

fn read_json(path: &Path) -> Result<Option<Map<String, Value>>, HuggingFaceError> {
    let label = path.display().to_string().into();
    let bytes = read(path)?;
    bytes.map(|bytes| parse(&label, &bytes)).transpose()
}

fn parse(label: &Arc<str>, bytes: &[u8]) -> Result<Map<String, Value>, HuggingFaceError> {
    serde_json::from_slice(bytes).map_err(|e| HuggingFaceError::Json {
        file: label.clone(),
        problem: excerpt(&e.to_string()),
    })
}

impl From<HuggingFaceError> for crate::ModelError {
    fn from(e: HuggingFaceError) -> Self {
        crate::ModelError::HuggingFace(Box::new(e))
    }
}

impl From<SafeTensorsError> for crate::ModelError {
    fn from(e: SafeTensorsError) -> Self {
        HuggingFaceError::from(e).into()
    }
}
