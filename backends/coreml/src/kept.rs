//! What was compiled, kept in folders.
//!
//! ```text
//! <cache>/<what was compiled>.<the system>/0.mlmodelc     as Core ML made it
//!                                         /record.json    what its functions are given, and what runs where
//! ```
//!
//! A folder is made beside its place and moved there whole, so that what is there is complete. Another system compiles
//! anew, and what older ones made of the same goes. Without a cache the folder is a temporary one that goes with whoever
//! holds it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::CoreMlError;
use crate::binding::FunctionPlan;
use crate::plan::ComputePlan;

/// The form of records.
const SCHEMA: u32 = 1;
/// The file that a record is in.
const RECORD: &str = "record.json";
/// How the names of folders begin that are being made.
const MAKING: &str = ".making-";

/// What is known of what was compiled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    schema_version: u32,
    /// The functions, one for each entry.
    pub functions: Vec<FunctionPlan>,
    /// Bytes of the weights of all packages.
    pub weight_bytes: u64,
    /// What would run where of each package; none where the system does not tell.
    pub plans: Vec<ComputePlan>,
}

impl Record {
    /// A record of these, of which plans are not known yet.
    pub fn new(functions: Vec<FunctionPlan>, weight_bytes: u64) -> Record {
        Record {
            schema_version: SCHEMA,
            functions,
            weight_bytes,
            plans: Vec::new(),
        }
    }

    /// How many packages there are.
    pub fn packages(&self) -> usize {
        let last = self.functions.iter().map(|f| f.package + 1).max();
        last.unwrap_or(0)
    }
}

/// What tells things that were compiled apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// What was compiled.
    pub model: String,
    /// The system that compiled it.
    pub system: String,
}

impl Key {
    fn name(&self) -> String {
        format!("{}.{}", self.model, self.system)
    }
}

/// A folder with what was compiled, removed with this if it is a temporary one.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    temporary: bool,
}

impl Kept {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, as it is of no use.
    pub fn discard(mut self) {
        self.temporary = true;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.temporary {
            remove(&self.path);
        }
    }
}

/// Removes a folder; what stays is told, and hurts nobody.
fn remove(path: &Path) {
    if let Err(e) = fs::remove_dir_all(path) {
        tracing::debug!("{} stays: {e}", path.display());
    }
}

/// What is kept in `cache` under `key`. What can't be read is not there.
pub fn find(cache: &Path, key: &Key) -> Option<(Kept, Record)> {
    let path = cache.join(key.name());
    let bytes = match fs::read(path.join(RECORD)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => {
            tracing::debug!("{}: compiled anew: {e}", path.display());
            return None;
        }
    };
    let kept = Kept {
        path,
        temporary: false,
    };
    match serde_json::from_slice::<Record>(&bytes) {
        Ok(record) if record.schema_version == SCHEMA => Some((kept, record)),
        Ok(record) => {
            let found = record.schema_version;
            tracing::debug!(
                "{}: compiled anew: its form is {found}, not {SCHEMA}",
                kept.path.display()
            );
            kept.discard();
            None
        }
        Err(e) => {
            tracing::debug!("{}: compiled anew: {e}", kept.path.display());
            kept.discard();
            None
        }
    }
}

/// Has `make` fill a folder, and keeps it in `cache` under `key`, or as long as it is held if there is none.
///
/// # Errors
/// Those of `make`; a folder that can't be made or moved. Nothing is left then.
pub fn make(
    cache: Option<(&Path, &Key)>,
    make: impl FnOnce(&Path) -> Result<Record, CoreMlError>,
) -> Result<(Kept, Record), CoreMlError> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let parent = match cache {
        Some((cache, _)) => cache.to_owned(),
        None => std::env::temp_dir(),
    };
    let name = format!("{MAKING}anynpu-coreml-{}-{number}", std::process::id());
    let path = parent.join(name);
    let failed = |what: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| CoreMlError::Io { what, path, source }
    };
    fs::create_dir_all(&path).map_err(failed("making", &path))?;
    // from here on it is removed if anything fails
    let mut made = Kept {
        path,
        temporary: true,
    };
    let record = make(made.path())?;
    let Some((cache, key)) = cache else {
        return Ok((made, record));
    };
    let text = serde_json::to_vec(&record)
        .map_err(io::Error::from)
        .map_err(failed("writing", made.path()))?;
    let file = made.path().join(RECORD);
    let written = File::create(&file).and_then(|mut f| f.write_all(&text));
    written.map_err(failed("writing", &file))?;
    sync(made.path()).map_err(failed("writing", made.path()))?;
    let place = cache.join(key.name());
    match fs::rename(made.path(), &place) {
        Ok(()) => {
            made.path.clone_from(&place);
            made.temporary = false;
            forget_older(cache, key);
            Ok((made, record))
        }
        // another process was first: both are the same
        Err(_) if place.join(RECORD).is_file() => Ok((made, record)),
        Err(e) => Err(failed("putting in place", &place)(e)),
    }
}

/// Puts all files below `folder` on the disk.
fn sync(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync(&entry.path())?,
            false => File::open(entry.path())?.sync_all()?,
        }
    }
    Ok(())
}

/// Removes what other systems made of the same.
fn forget_older(cache: &Path, key: &Key) {
    let Ok(all) = fs::read_dir(cache) else {
        return;
    };
    let same = format!("{}.", key.model);
    let own = key.name();
    for entry in all.filter_map(Result::ok) {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&same) && *name != own {
            remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(model: &str, system: &str) -> Key {
        Key {
            model: model.into(),
            system: system.into(),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let all = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = all
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn fill(folder: &Path) -> Result<Record, CoreMlError> {
        fs::create_dir(folder.join("0.mlmodelc")).unwrap();
        fs::write(folder.join("0.mlmodelc/weights"), "w").unwrap();
        Ok(Record::new(Vec::new(), 0))
    }

    #[test]
    fn what_was_made_is_found_until_another_system_makes_it() {
        let cache = tempfile::tempdir().unwrap();
        let first = key("m", "macos-14");
        assert!(find(cache.path(), &first).is_none());
        let (kept, _) = make(Some((cache.path(), &first)), fill).unwrap();
        drop(kept);
        let (kept, record) = find(cache.path(), &first).unwrap();
        assert_eq!(record.packages(), 0);
        assert!(kept.path().join("0.mlmodelc/weights").is_file());
        drop(kept);
        drop(make(Some((cache.path(), &key("n", "macos-14"))), fill).unwrap());
        drop(make(Some((cache.path(), &key("m", "macos-15"))), fill).unwrap());
        assert_eq!(names(cache.path()), ["m.macos-15", "n.macos-14"]);
        // a second one of the same is used by whoever made it, and goes
        let again = make(Some((cache.path(), &key("n", "macos-14"))), fill).unwrap();
        assert!(again.0.path().join("0.mlmodelc").is_dir());
        drop(again);
        assert_eq!(names(cache.path()), ["m.macos-15", "n.macos-14"]);
    }

    #[test]
    fn what_fails_or_is_broken_leaves_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let key = key("m", "macos-14");
        let failing = |folder: &Path| {
            fill(folder)?;
            Err(CoreMlError::NotThere {
                what: "a compiler",
                why: "a test".into(),
            })
        };
        assert!(make(Some((cache.path(), &key)), failing).is_err());
        assert_eq!(names(cache.path()), Vec::<String>::new());
        drop(make(Some((cache.path(), &key)), fill).unwrap());
        let record = cache.path().join("m.macos-14").join(RECORD);
        for broken in [
            "",
            "{}",
            r#"{"schema_version":9,"functions":[],"weight_bytes":0,"plans":[]}"#,
        ] {
            drop(make(Some((cache.path(), &key)), fill).unwrap());
            fs::write(&record, broken).unwrap();
            assert!(find(cache.path(), &key).is_none(), "{broken}");
            assert_eq!(names(cache.path()), Vec::<String>::new());
        }
    }

    #[test]
    fn without_a_cache_it_lives_as_long_as_it_is_held() {
        let (kept, _) = make(None, fill).unwrap();
        let path = kept.path().to_owned();
        assert!(path.join("0.mlmodelc/weights").is_file());
        drop(kept);
        assert!(!path.exists());
    }
}
