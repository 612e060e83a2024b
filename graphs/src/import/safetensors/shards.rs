//! A model's tensors in one file or several.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{IndexFault, SafeTensors, SafeTensorsError, Tensor};
use crate::import::{MappedFile, excerpt};

/// Name of the file in a folder that holds all tensors.
pub const SINGLE: &str = "model.safetensors";
/// Name of the index in a folder with several files.
pub const INDEX: &str = "model.safetensors.index.json";

/// The tensors of one file or of several that an index joins.
#[derive(Clone, Debug)]
pub struct Shards {
    files: Vec<SafeTensors>,
    /// By name: the file it is in.
    tensors: Arc<BTreeMap<String, usize>>,
}

/// The index as it stands in the file; its other members are of no use here.
#[derive(Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// Pairs of a tensor's name and a file's name, in the file's order.
struct WeightMap(Vec<(String, String)>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object that maps tensors to files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(WeightMap(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

impl Shards {
    /// The tensors of `file`.
    pub fn of(file: SafeTensors) -> Shards {
        let tensors = file.tensors().map(|t| (t.name().to_owned(), 0));
        Shards {
            tensors: Arc::new(tensors.collect()),
            files: vec![file],
        }
    }

    /// Maps the files that the index at `path` names, which stand beside it.
    ///
    /// # Errors
    /// [`SafeTensorsError::Index`] if the index isn't sound, names files outside its folder, or
    /// doesn't fit the files; what [`SafeTensors::open`] says of each.
    pub fn open(path: &Path) -> Result<Shards, SafeTensorsError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let index = MappedFile::open(path)?;
        let label: Arc<str> = index.name().into();
        Self::join(label, &index, |name| SafeTensors::open(folder.join(name)))
    }

    /// The tensors of the files that `index` names, each opened by `open`; `label` stands for the
    /// index in messages.
    ///
    /// # Errors
    /// As [`Shards::open`].
    pub fn join(
        label: Arc<str>,
        index: &[u8],
        mut open: impl FnMut(&str) -> Result<SafeTensors, SafeTensorsError>,
    ) -> Result<Shards, SafeTensorsError> {
        let refuse = |fault| SafeTensorsError::Index {
            file: label.clone(),
            fault,
        };
        let index: Index = serde_json::from_slice(index).map_err(|e| {
            refuse(IndexFault::Json {
                problem: excerpt(&e.to_string()),
            })
        })?;
        let mut wanted: BTreeMap<String, String> = BTreeMap::new();
        let mut names: Vec<String> = Vec::new();
        for (tensor, file) in index.weight_map.0 {
            if !is_plain(&file) {
                return Err(refuse(IndexFault::FileName {
                    tensor: excerpt(&tensor),
                    found: excerpt(&file),
                }));
            }
            names.push(file.clone());
            if wanted.insert(tensor.clone(), file).is_some() {
                let tensor = excerpt(&tensor);
                return Err(refuse(IndexFault::Duplicate { tensor }));
            }
        }
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Err(refuse(IndexFault::Empty));
        }
        let mut files = Vec::with_capacity(names.len());
        let mut tensors = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            let file = open(name)?;
            for tensor in file.tensors() {
                if let Some(first) = tensors.insert(tensor.name().to_owned(), at) {
                    let first: &String = &names[first];
                    return Err(refuse(IndexFault::InTwo {
                        tensor: excerpt(tensor.name()),
                        first: first.clone(),
                        second: name.clone(),
                    }));
                }
            }
            files.push(file);
        }
        for (tensor, shard) in wanted {
            if tensors.get(&tensor).is_none_or(|&at| names[at] != shard) {
                return Err(refuse(IndexFault::Missing {
                    tensor: excerpt(&tensor),
                    shard,
                }));
            }
        }
        Ok(Shards {
            files,
            tensors: Arc::new(tensors),
        })
    }

    /// The files, by name.
    pub fn files(&self) -> &[SafeTensors] {
        &self.files
    }

    /// The tensors of all files, by name.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor<'_>> {
        let tensors = self.tensors.iter();
        tensors.filter_map(|(name, &at)| self.files[at].tensor(name))
    }

    /// The tensor called `name`, if there is one.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        self.files[*self.tensors.get(name)?].tensor(name)
    }
}

/// Whether `name` is that of a safetensors file, and leads nowhere else.
fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+ ".contains(c);
    name.ends_with(".safetensors")
        && !name.starts_with('.')
        && name.len() <= 255
        && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_of_safetensors_files_are_followed() {
        for name in ["model-00001-of-00002.safetensors", "a b.safetensors"] {
            assert!(is_plain(name), "{name}");
        }
        for name in [
            "",
            "..",
            "../model.safetensors",
            "/etc/model.safetensors",
            "sub/model.safetensors",
            "sub\\model.safetensors",
            "C:model.safetensors",
            ".safetensors",
            "model.bin",
            "model\0.safetensors",
        ] {
            assert!(!is_plain(name), "{name:?}");
        }
    }
}
