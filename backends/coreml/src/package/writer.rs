//! Writing a package.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message;

use super::disk::{Disk, DiskFile, FileSystem, Memory};
use super::{ANY, BlobWriter, DataType, Feature, Function, proto};
use crate::{CoreMlError, DeploymentTarget};

/// Where packages keep the model, below `Data`.
const MODEL: &str = "com.apple.CoreML/model.mlmodel";
/// Where they keep its weights.
const WEIGHTS: &str = "com.apple.CoreML/weights";
/// Where both are in a package.
const MODEL_FILE: &str = "Data/com.apple.CoreML/model.mlmodel";
const WEIGHT_FILE: &str = "Data/com.apple.CoreML/weights/weight.bin";
/// What entries of the manifest are called; any two are right.
const MODEL_ID: &str = "2C3E6F5A-0B1D-4E7C-9A54-5D6B7F8E9A01";
const WEIGHTS_ID: &str = "7D1F0E9B-3A2C-4B5D-8E6F-1A2B3C4D5E02";

/// What a package says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// What the model is.
    pub text: String,
    /// Keys and values that its users read, as `com.anynpu.rotations`.
    pub entries: Vec<(String, String)>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file of weights.
    pub weight_bytes: u64,
    /// Bytes of the specification.
    pub model_bytes: u64,
}

/// A package that is in memory: what its files hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageInMemory {
    /// The specification.
    pub model: Vec<u8>,
    /// The file of weights.
    pub weights: Vec<u8>,
}

/// How specifications name the file of weights, but for where the package is.
pub const WEIGHTS_NAME: &str = "weights/weight.bin";

/// A package under construction: a folder beside its place, which is removed unless it is finished.
#[derive(Debug)]
pub struct PackageWriter {
    disk: Box<dyn Disk>,
    target: DeploymentTarget,
    path: PathBuf,
    /// Where it is written.
    folder: PathBuf,
    blobs: Option<BlobWriter<Box<dyn DiskFile>>>,
    functions: Vec<Function>,
    /// Where it is, if that is in memory.
    memory: Option<Memory>,
    /// The folder, which others leave alone as long as this is held.
    held: Option<File>,
}

/// How the names of folders begin in which packages are written.
const WRITING: &str = ".anynpu-packaging-";

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CoreMlError + use<> {
    let path = path.to_owned();
    move |source| CoreMlError::Io { what, path, source }
}

impl PackageWriter {
    /// Begins a package that will be at `path`.
    ///
    /// # Errors
    /// Something at `path` already; a folder that can't be written in.
    pub fn create(path: &Path, target: DeploymentTarget) -> Result<Self, CoreMlError> {
        Self::create_on(Box::new(FileSystem), path, target)
    }

    /// Begins a package in memory, which [`PackageWriter::finish_in_memory`] gives.
    ///
    /// # Errors
    /// None that memory can cause.
    pub fn in_memory(target: DeploymentTarget) -> Result<Self, CoreMlError> {
        let memory = Memory::default();
        let path = Path::new("memory.mlpackage");
        let mut package = Self::create_on(Box::new(memory.clone()), path, target)?;
        package.memory = Some(memory);
        Ok(package)
    }

    fn create_on(
        disk: Box<dyn Disk>,
        path: &Path,
        target: DeploymentTarget,
    ) -> Result<Self, CoreMlError> {
        if disk.has(path) {
            let there = "something is there; remove it, or name another place";
            let there = io::Error::new(io::ErrorKind::AlreadyExists, there);
            return Err(failed("writing", path)(there));
        }
        if path.file_name().is_none() {
            let nameless = io::Error::new(io::ErrorKind::InvalidInput, "it has no name");
            return Err(failed("writing", path)(nameless));
        }
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let hidden = format!("{WRITING}{}-{number}", std::process::id());
        let folder = path.with_file_name(hidden);
        disk.clear(path, WRITING);
        disk.make_folder(&folder).map_err(|source| {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
            failed("writing into", parent.unwrap_or(Path::new(".")))(source)
        })?;
        // from here on the folder is removed if anything fails
        let mut package = PackageWriter {
            held: disk.hold(&folder),
            disk,
            target,
            path: path.to_owned(),
            folder,
            blobs: None,
            functions: Vec::new(),
            memory: None,
        };
        for part in [
            "Data",
            "Data/com.apple.CoreML",
            "Data/com.apple.CoreML/weights",
        ] {
            let made = package.disk.make_folder(&package.folder.join(part));
            made.map_err(package.failed("making", part))?;
        }
        let file = package.disk.make_file(&package.folder.join(WEIGHT_FILE));
        let file = file.map_err(package.failed("making", WEIGHT_FILE))?;
        let blobs = BlobWriter::new(file).map_err(package.failed("writing", WEIGHT_FILE))?;
        package.blobs = Some(blobs);
        Ok(package)
    }

    /// What it is written for.
    pub fn target(&self) -> DeploymentTarget {
        self.target
    }

    /// The error of what was tried on `part` of the package, which is told where it will be.
    fn failed(
        &self,
        what: &'static str,
        part: &str,
    ) -> impl FnOnce(io::Error) -> CoreMlError + use<> {
        failed(what, &self.path.join(part))
    }

    /// Where the numbers called `name` are in the file of weights, if they are there.
    pub fn find_blob(&self, name: &str) -> Option<u64> {
        self.blobs.as_ref()?.find(name)
    }

    /// Appends numbers to the file of weights, see [`BlobWriter::append`].
    ///
    /// # Errors
    /// A disk that is full.
    pub fn append_blob(
        &mut self,
        name: &str,
        dtype: DataType,
        elements: u64,
        bytes: &[u8],
    ) -> Result<u64, CoreMlError> {
        let failed = self.failed("writing", WEIGHT_FILE);
        let finished = || io::Error::other("the file is finished");
        let appended = match &mut self.blobs {
            Some(blobs) => blobs.append(name, dtype, elements, bytes),
            None => Err(finished()),
        };
        appended.map_err(failed)
    }

    /// Adds a function. The first is the one that is loaded unless another is asked for; it is called `main` if it is
    /// the only one.
    ///
    /// # Errors
    /// A name that is taken; several functions for a target that has one.
    pub fn add(&mut self, function: Function) -> Result<(), CoreMlError> {
        let name = function.name();
        if self.functions.iter().any(|f| f.name() == name) {
            return Err(CoreMlError::Twice {
                what: "function",
                name: name.to_owned(),
            });
        }
        if !self.functions.is_empty() {
            self.target
                .need_ios18(format!("a second function, '{name}',"))?;
        }
        self.functions.push(function);
        Ok(())
    }

    /// Writes the rest and puts the package in its place.
    ///
    /// # Errors
    /// No function; a single one that is not `main`; what the system says.
    pub fn finish(mut self, description: &Description) -> Result<Written, CoreMlError> {
        match &self.functions[..] {
            [] => return Err(wrong_functions("none")),
            [one] if one.name() != "main" => return Err(wrong_functions(one.name())),
            _ => {}
        }
        let mut weight_bytes = 0;
        if let Some(blobs) = self.blobs.take() {
            weight_bytes = blobs.bytes();
            let file = blobs.finish();
            let synced = file.and_then(|mut f| f.sync());
            synced.map_err(self.failed("writing", WEIGHT_FILE))?;
        }
        let model = self.model(description).encode_to_vec();
        let manifest = manifest();
        for (part, bytes) in [
            (MODEL_FILE, &model[..]),
            ("Manifest.json", manifest.as_bytes()),
        ] {
            let file = self.disk.make_file(&self.folder.join(part));
            let written = file.and_then(|mut f| {
                f.write_all(bytes)?;
                f.sync()
            });
            written.map_err(self.failed("writing", part))?;
        }
        // on some systems what is open is not moved
        self.held = None;
        self.disk
            .rename(&self.folder, &self.path)
            .map_err(failed("putting in place", &self.path))?;
        // it is in its place, so there is nothing to remove
        self.folder.clear();
        Ok(Written {
            weight_bytes,
            model_bytes: model.len() as u64,
        })
    }

    /// Writes the rest of a package that is in memory.
    ///
    /// # Errors
    /// As [`PackageWriter::finish`]; a package that is on a disk.
    pub fn finish_in_memory(
        mut self,
        description: &Description,
    ) -> Result<PackageInMemory, CoreMlError> {
        let Some(memory) = self.memory.take() else {
            return Err(CoreMlError::Option {
                what: "where a package is".into(),
                found: self.path.display().to_string(),
                expected: "memory".into(),
            });
        };
        let path = self.path.clone();
        self.finish(description)?;
        Ok(PackageInMemory {
            model: memory.take(&path.join(MODEL_FILE)),
            weights: memory.take(&path.join(WEIGHT_FILE)),
        })
    }

    fn model(&self, about: &Description) -> proto::Model {
        let metadata = proto::Metadata {
            short_description: about.text.clone(),
            author: "anynpu".into(),
            user_defined: about.entries.iter().cloned().collect(),
            ..proto::Metadata::default()
        };
        let mut description = proto::ModelDescription {
            metadata: Some(metadata),
            ..proto::ModelDescription::default()
        };
        let given = |f: &Function| {
            let shapes = &f.described.shapes;
            let each = f.described.inputs.iter();
            each.map(|i| feature(i, shapes.get(&i.name))).collect()
        };
        let described = |f: &[Feature]| f.iter().map(|f| feature(f, None)).collect();
        let stateful = |f: &[Feature]| f.iter().map(state).collect();
        match &self.functions[..] {
            [one] => {
                description.input = given(one);
                description.output = described(&one.described.outputs);
                description.state = stateful(&one.described.states);
            }
            several => {
                description.functions = several
                    .iter()
                    .map(|f| proto::FunctionDescription {
                        name: f.name().to_owned(),
                        input: given(f),
                        output: described(&f.described.outputs),
                        state: stateful(&f.described.states),
                    })
                    .collect();
                let first = several.first().map_or("", |f| f.name());
                description.default_function_name = first.to_owned();
            }
        }
        let functions = self.functions.iter();
        let program = proto::Program {
            version: 1,
            functions: functions
                .map(|f| (f.name().to_owned(), f.proto()))
                .collect(),
            attributes: Default::default(),
        };
        proto::Model {
            specification_version: self.target.specification(),
            description: Some(description),
            r#type: Some(proto::model::Type::MlProgram(program)),
        }
    }
}

impl Drop for PackageWriter {
    fn drop(&mut self) {
        if !self.folder.as_os_str().is_empty() {
            self.blobs = None;
            self.held = None;
            // nobody is there to be told
            let _ = self.disk.remove(&self.folder);
        }
    }
}

fn wrong_functions(found: &str) -> CoreMlError {
    CoreMlError::Option {
        what: "the functions of a package".into(),
        found: found.to_owned(),
        expected: "one called main, or several".into(),
    }
}

fn array(feature: &Feature, shapes: Option<&Vec<Vec<u32>>>) -> proto::ArrayFeatureType {
    use proto::array_feature_type::{ArrayDataType, EnumeratedShapes, Shape, ShapeFlexibility};
    let dtype = match feature.dtype {
        DataType::F16 => ArrayDataType::Float16,
        DataType::F32 => ArrayDataType::Float32,
        _ => ArrayDataType::Int32,
    };
    let dims = |dims: &[u32]| dims.iter().map(|n| i64::from(*n)).collect();
    let shapes = shapes.map(|all| {
        let each = all.iter().map(|s| Shape { shape: dims(s) });
        ShapeFlexibility::EnumeratedShapes(EnumeratedShapes {
            shapes: each.collect(),
        })
    });
    proto::ArrayFeatureType {
        // an output whose shape differs has none here
        shape: match feature.dims.contains(&ANY) {
            true => Vec::new(),
            false => dims(&feature.dims),
        },
        data_type: dtype.into(),
        shape_flexibility: shapes,
    }
}

fn described(feature: &Feature, ty: proto::feature_type::Type) -> proto::FeatureDescription {
    proto::FeatureDescription {
        name: feature.name.clone(),
        short_description: feature.description.clone(),
        r#type: Some(proto::FeatureType { r#type: Some(ty) }),
    }
}

fn feature(of: &Feature, shapes: Option<&Vec<Vec<u32>>>) -> proto::FeatureDescription {
    let array = array(of, shapes);
    described(of, proto::feature_type::Type::MultiArrayType(array))
}

fn state(of: &Feature) -> proto::FeatureDescription {
    let ty = proto::StateFeatureType {
        r#type: Some(proto::state_feature_type::Type::ArrayType(array(of, None))),
    };
    described(of, proto::feature_type::Type::StateType(ty))
}

/// The manifest: which file is the model, and which its weights.
fn manifest() -> String {
    let item = |name: &str, path: &str, what: &str| {
        serde_json::json!({
            "author": "com.apple.CoreML",
            "description": what,
            "name": name,
            "path": path,
        })
    };
    let manifest = serde_json::json!({
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            MODEL_ID: item("model.mlmodel", MODEL, "CoreML Model Specification"),
            WEIGHTS_ID: item("weights", WEIGHTS, "CoreML Model Weights"),
        },
        "rootModelIdentifier": MODEL_ID,
    });
    format!("{manifest:#}\n")
}

#[cfg(test)]
mod tests;
