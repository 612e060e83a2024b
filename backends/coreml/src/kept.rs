//! What was compiled, kept in folders.
//!
//! ```text
//! <cache>/<what was compiled>.<the system>/0.mlmodelc     as Core ML made it
//!                                         /record.json    what its functions are given, and what runs where
//! ```
//!
//! A folder is made beside its place and moved there whole, so that what is there is complete. Another system compiles
//! anew, and what older ones made of the same goes. All together take at most a number of bytes: what was used longest ago
//! goes first, but nothing that is in use, which a lock on its record tells other processes. Nothing in the folder is
//! trusted: what can't be read, or is of something else, is compiled anew. Without a cache a folder is a temporary one that
//! goes with whoever holds it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::CoreMlError;
use crate::binding::FunctionPlan;
use crate::plan::ComputePlan;

/// The form of records.
const SCHEMA: u32 = 2;
/// The file that a record is in.
const RECORD: &str = "record.json";
/// Most bytes that a record has: it tells of each operation of a model.
const MOST_RECORD: u64 = 1 << 28;
/// How the names of folders begin that are being made.
const MAKING: &str = ".making-";
/// How the names of folders begin that are being removed.
const REMOVING: &str = ".removing-";
/// Age from which such a folder was left by a process that ended.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A folder in which what was compiled is kept.
#[derive(Clone, Debug)]
pub struct CacheFolder {
    /// Where it is.
    pub path: PathBuf,
    /// Most bytes that all in it may take.
    pub limit: u64,
}

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
        let last = self.functions.iter().map(|f| f.package).max();
        last.map_or(0, |n| n.saturating_add(1))
    }

    /// Why it can't be one that was written here, if so.
    fn fault(&self) -> Option<String> {
        if self.schema_version != SCHEMA {
            return Some(format!("its form is {}, not {SCHEMA}", self.schema_version));
        }
        let (packages, functions) = (self.packages(), self.functions.len());
        (packages > functions)
            .then(|| format!("it has {packages} packages of {functions} functions"))
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
    /// Its record, locked, so that no process removes it.
    _in_use: Option<File>,
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

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A name that no other process and nobody else in this one gives.
fn own_name(beginning: &str) -> String {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{beginning}anynpu-coreml-{}-{number}", std::process::id())
}

/// Removes a folder, which nobody finds half removed; what stays is told, and hurts nobody.
fn remove(path: &Path) {
    let aside = path.with_file_name(own_name(REMOVING));
    let from = match fs::rename(path, &aside) {
        Ok(()) => &aside,
        // another process was first
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(_) => path,
    };
    let removed = match fs::symlink_metadata(from).is_ok_and(|m| m.is_dir()) {
        true => fs::remove_dir_all(from),
        // something else has the name
        false => fs::remove_file(from),
    };
    if let Err(e) = removed {
        tracing::debug!("{} stays: {e}", from.display());
    }
}

/// Locks the record at `path` for use, and opens it. `None` where it went meanwhile.
fn in_use(path: &Path) -> io::Result<Option<File>> {
    let file = File::open(path)?;
    match file.try_lock_shared() {
        // a disk without locks: nobody removes what was just used
        Ok(()) | Err(TryLockError::Error(_)) => {}
        // it is being removed
        Err(TryLockError::WouldBlock) => return Ok(None),
    }
    // whoever removes it moves it while it is locked, so that it is not there now if that was before
    Ok(is_at(&file, path).then_some(file))
}

/// Whether `file` is what is at `path` now.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if (open.dev(), open.ino()) != (there.dev(), there.ino()) {
            return false;
        }
    }
    open.is_file() && there.is_file()
}

/// Notes that a record was used now.
fn touch(record: &File) {
    if let Err(e) = record.set_modified(SystemTime::now()) {
        tracing::debug!("a record keeps its time: {e}");
    }
}

/// The record in `file`.
fn read(file: &mut File) -> Result<Record, String> {
    let mut bytes = Vec::new();
    let read = file.take(MOST_RECORD + 1).read_to_end(&mut bytes);
    read.map_err(|e| e.to_string())?;
    if bytes.len() as u64 > MOST_RECORD {
        return Err(format!("its record has more than {MOST_RECORD} bytes"));
    }
    let record: Record = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    match record.fault() {
        Some(fault) => Err(fault),
        None => Ok(record),
    }
}

/// What is kept in `cache` under `key`. What can't be read is not there.
pub fn find(cache: &CacheFolder, key: &Key) -> Option<(Kept, Record)> {
    let path = cache.path.join(key.name());
    let mut file = match in_use(&path.join(RECORD)) {
        Ok(file) => file?,
        Err(e) => {
            if e.kind() != io::ErrorKind::NotFound {
                tracing::debug!("{}: compiled anew: {e}", path.display());
            }
            return None;
        }
    };
    match read(&mut file) {
        Ok(record) => {
            touch(&file);
            let kept = Kept {
                path,
                temporary: false,
                _in_use: Some(file),
            };
            Some((kept, record))
        }
        Err(why) => {
            tracing::debug!("{}: compiled anew: {why}", path.display());
            remove(&path);
            None
        }
    }
}

/// Makes a folder of its own in `parent`.
fn own_folder(parent: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(parent)?;
    loop {
        let path = parent.join(own_name(MAKING));
        match fs::create_dir(&path) {
            // left by a process that had the number of this one
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path),
        }
    }
}

/// Has `make` fill a folder, and keeps it in `cache` under `key`, or as long as it is held if there is none, or if it has
/// more bytes than the cache may.
///
/// # Errors
/// Those of `make`; a folder that can't be made or written. Nothing is left then.
pub fn make(
    cache: Option<(&CacheFolder, &Key)>,
    make: impl FnOnce(&Path) -> Result<Record, CoreMlError>,
) -> Result<(Kept, Record), CoreMlError> {
    let parent = match cache {
        Some((cache, _)) => cache.path.clone(),
        None => std::env::temp_dir(),
    };
    let failed = |what: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| CoreMlError::Io { what, path, source }
    };
    let path = own_folder(&parent).map_err(failed("making a folder in", &parent))?;
    // from here on it is removed if anything fails
    let mut made = Kept {
        path,
        temporary: true,
        _in_use: None,
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
    let bytes = size(made.path());
    if bytes > cache.limit {
        let (path, limit) = (cache.path.display(), cache.limit);
        tracing::debug!("{bytes} bytes are not kept: {path} may have {limit}");
        return Ok((made, record));
    }
    // whoever looks for room next finds it in use
    made._in_use = in_use(&file).map_err(failed("locking", &file))?;
    let place = cache.path.join(key.name());
    let mut placed = fs::rename(made.path(), &place);
    if placed.is_err() && !place.join(RECORD).is_file() {
        // what has its name is no such folder
        remove(&place);
        placed = fs::rename(made.path(), &place);
    }
    match placed {
        Ok(()) => {
            made.path = place;
            made.temporary = false;
            forget_older(&cache.path, key);
            make_room(cache);
        }
        // another process was first: both are the same
        Err(e) => tracing::debug!("{} is not replaced: {e}", place.display()),
    }
    Ok((made, record))
}

/// Bytes of all files below `folder`, as far as they can be counted. Links are not followed.
fn size(folder: &Path) -> u64 {
    let Ok(all) = fs::read_dir(folder) else {
        return 0;
    };
    let each = all.filter_map(Result::ok).map(|entry| {
        let told = entry.metadata();
        match told.as_ref().map(fs::Metadata::is_dir) {
            Ok(true) => size(&entry.path()),
            _ => told.map_or(0, |m| m.len()),
        }
    });
    each.fold(0, u64::saturating_add)
}

/// Removes what was used longest ago until the rest is within the limit of `cache`, and what was left half made.
fn make_room(cache: &CacheFolder) {
    let Ok(all) = fs::read_dir(&cache.path) else {
        return;
    };
    let mut entries = Vec::new();
    for entry in all.filter_map(Result::ok) {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy().into_owned();
        if [MAKING, REMOVING].iter().any(|b| name.starts_with(b)) {
            let changed = entry.metadata().and_then(|m| m.modified());
            let age = changed.map(|t| SystemTime::now().duration_since(t));
            if age.is_ok_and(|age| age.is_ok_and(|age| age > ABANDONED)) {
                remove(&path);
            }
        } else if is_name(&name) {
            let used = fs::metadata(path.join(RECORD)).and_then(|m| m.modified());
            // without a record it is of no use
            entries.push((used.unwrap_or(SystemTime::UNIX_EPOCH), size(&path), path));
        }
    }
    entries.sort();
    let held = entries.iter().map(|(_, bytes, _)| *bytes);
    let mut total = held.fold(0, u64::saturating_add);
    for (_, bytes, path) in entries {
        if total <= cache.limit {
            break;
        }
        if remove_unused(&path) {
            total = total.saturating_sub(bytes);
        }
    }
}

/// Whether folders of what was compiled are called so: others are nobody's to remove.
fn is_name(name: &str) -> bool {
    let hexadecimal = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_hexdigit());
    name.split_once('.')
        .is_some_and(|(model, system)| hexadecimal(model) && hexadecimal(system))
}

/// Removes a folder unless somebody uses it. Whether it is gone.
fn remove_unused(path: &Path) -> bool {
    let record = match File::open(path.join(RECORD)) {
        Ok(record) => Some(record),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(_) => return false,
    };
    if let Some(record) = &record
        && let Err(TryLockError::WouldBlock) = record.try_lock()
    {
        return false;
    }
    remove(path);
    !path.exists()
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
            remove_unused(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests;
