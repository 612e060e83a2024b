//! Compiled forms kept on disk, so that a device compiles a model once.
//!
//! A [`Cache`] is a folder of entries, one a compiled module, named by a [`Key`] over all that decides what
//! compiling gives. Nothing in it is trusted: an entry that is damaged, of another key, or refused by its device is
//! a miss, and a folder that can't be read or written only costs time. Processes may share a folder: entries are
//! written beside and renamed.

mod entry;
mod key;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anynpu_hal::{
    BlobCompatibility, CompileOptions, Device, Entry, HalError, Module, WeightSource,
};
use parking_lot::Mutex;

pub(crate) use key::Key;

/// A folder of compiled modules.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Where what was compiled is kept, if it is.
    folder: Option<PathBuf>,
    /// Folders of entries that were compiled ahead of time. They are only read.
    given: Vec<PathBuf>,
    /// Bytes that all entries may take together.
    limit: u64,
    /// What the user should know, each once.
    notes: Mutex<Vec<String>>,
    background: Mutex<Vec<JoinHandle<()>>>,
}

/// What compiling takes.
pub(crate) struct Request<'a> {
    pub device: &'a Arc<dyn Device>,
    pub entries: &'a [Entry],
    pub options: &'a CompileOptions,
    pub weights: &'a Arc<dyn WeightSource>,
}

impl Request<'_> {
    /// Compiles without looking anywhere.
    pub fn compile(
        &self,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let weights = self.weights.clone();
        self.device
            .compile(self.entries, self.options, weights, progress)
    }
}

impl Cache {
    /// A cache in `folder`, which is made when it is first written, of at most `limit` bytes, and in the folders
    /// `given`, which are looked into first.
    pub fn new(folder: Option<PathBuf>, given: Vec<PathBuf>, limit: u64) -> Self {
        Cache {
            folder,
            given,
            limit,
            notes: Mutex::new(Vec::new()),
            background: Mutex::new(Vec::new()),
        }
    }

    /// The module that `request` asks for: loaded if it is kept and its device takes it, else compiled and kept.
    pub fn compile(
        self: &Arc<Self>,
        request: &Request<'_>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let compatibility = request.device.compatibility();
        if compatibility.is_empty() {
            // it has no compiled form that could be kept
            return request.compile(progress);
        }
        let key = Key::of(request, &compatibility)?;
        if let Some(module) = self.load(request, &key, &compatibility) {
            progress(1, 1);
            return Ok(module);
        }
        let module = request.compile(progress)?;
        self.keep(&key, &compatibility, &*module);
        Ok(module)
    }

    /// What the user should know and was not told yet.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock())
    }

    /// Waits for what is compiled again in the background.
    #[cfg(test)]
    pub fn finish(&self) {
        let running = std::mem::take(&mut *self.background.lock());
        running.into_iter().for_each(|thread| drop(thread.join()));
    }

    fn load(
        self: &Arc<Self>,
        request: &Request<'_>,
        key: &Key,
        compatibility: &[u8],
    ) -> Option<Arc<dyn Module>> {
        let file = format!("{key}.{EXTENSION}");
        let mut absent = !self.given.is_empty();
        let given = self.given.iter().find_map(|folder| {
            let path = folder.join(&file);
            let blob = read(&path, u64::MAX, key);
            absent &= matches!(blob, Ok(None));
            let blob = blob.inspect_err(|e| self.not_used(&path, e)).ok()??;
            let module = request.device.load(&blob, request.weights.clone());
            let module = module.inspect_err(|e| self.not_used(&path, e)).ok()?;
            (module.entries().len() == request.entries.len()).then_some(module)
        });
        if given.is_some() {
            return given;
        }
        if absent {
            let folders = self.given.iter().map(|f| f.display().to_string());
            self.note(format!(
                "nothing is loaded from {}: no compiled form there is of this model, chip and options; compile for \
                 them, or give the options that its manifest.json lists",
                folders.collect::<Vec<_>>().join(", ")
            ));
        }
        let path = self.folder.as_ref()?.join(&file);
        let blob = match read(&path, self.limit, key) {
            Ok(blob) => blob?,
            Err(e) => {
                self.not_used(&path, e);
                return None;
            }
        };
        let device = request.device;
        let name = &device.info().name;
        let prefer = match device.check_blob(&blob) {
            BlobCompatibility::Optimal => None,
            BlobCompatibility::PreferRecompile(why) => Some(why),
            BlobCompatibility::Unsupported(why) => {
                tracing::info!("'{name}' refuses {}: {why}", path.display());
                self.remove(&path);
                return None;
            }
        };
        match device.load(&blob, request.weights.clone()) {
            Ok(module) if module.entries().len() == request.entries.len() => {
                touch(&path);
                if let Some(why) = prefer {
                    tracing::info!(
                        "'{name}' would rather have {} compiled anew: {why}",
                        path.display()
                    );
                    self.compile_again(request, key, compatibility);
                }
                Some(module)
            }
            Ok(module) => {
                let found = module.entries().len();
                let expected = request.entries.len();
                self.note(format!(
                    "{} is not used: '{name}' loaded {found} entries from it, expected {expected}",
                    path.display()
                ));
                self.remove(&path);
                None
            }
            Err(e) => {
                self.not_used(&path, e);
                self.remove(&path);
                None
            }
        }
    }

    fn not_used(&self, path: &Path, why: impl std::fmt::Display) {
        self.note(format!("{} is not used: {why}", path.display()));
    }

    /// Compiles `request` on a thread of its own and keeps the result for the next start.
    fn compile_again(self: &Arc<Self>, request: &Request<'_>, key: &Key, compatibility: &[u8]) {
        let cache = self.clone();
        let (device, weights) = (request.device.clone(), request.weights.clone());
        let (entries, options) = (request.entries.to_vec(), request.options.clone());
        let (key, compatibility) = (key.clone(), compatibility.to_vec());
        let thread = std::thread::Builder::new().name("compile again".into());
        let started = thread.spawn(move || {
            match device.compile(&entries, &options, weights, &mut |_, _| true) {
                Ok(module) => cache.keep(&key, &compatibility, &*module),
                Err(e) => tracing::info!("compiling again failed: {e}"),
            }
        });
        match started {
            Ok(thread) => self.background.lock().push(thread),
            Err(e) => tracing::info!("compiling again was not started: {e}"),
        }
    }

    fn keep(&self, key: &Key, compatibility: &[u8], module: &dyn Module) {
        let Some(folder) = &self.folder else {
            return;
        };
        let blob = match module.blob() {
            Ok(Some(blob)) => blob,
            Ok(None) => return,
            Err(e) => return self.note(format!("the compiled form is not kept: {e}")),
        };
        let bytes = entry::encode(key, compatibility, &blob);
        if bytes.len() as u64 > self.limit {
            let (size, limit) = (bytes.len(), self.limit);
            return self.note(format!(
                "the compiled form of {size} bytes is not kept: the cache {} holds at most {limit}",
                folder.display()
            ));
        }
        self.make_room(folder, bytes.len() as u64);
        let path = folder.join(format!("{key}.{EXTENSION}"));
        if let Err(e) = write(&path, &bytes) {
            self.note(format!(
                "the compiled form is not kept in {}: {e}",
                folder.display()
            ));
        }
    }

    /// Removes the entries that were used longest ago until `bytes` more fit.
    fn make_room(&self, folder: &Path, bytes: u64) {
        let Ok(files) = fs::read_dir(folder) else {
            return;
        };
        let entries = files.filter_map(|file| {
            let path = file.ok()?.path();
            let told = fs::metadata(&path).ok()?;
            let used = told.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if is_abandoned(&path, used) {
                self.remove(&path);
                return None;
            }
            let ours = path.extension().is_some_and(|e| e == EXTENSION);
            (ours && told.is_file()).then_some((used, told.len(), path))
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort();
        let held = entries.iter().map(|e| e.1);
        let mut total = held.fold(bytes, u64::saturating_add);
        for (_, size, path) in entries {
            if total <= self.limit {
                break;
            }
            self.remove(&path);
            total = total.saturating_sub(size);
        }
    }

    fn remove(&self, path: &Path) {
        match fs::remove_file(path) {
            Ok(()) => {}
            // another process was first
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => self.note(format!("{} can't be removed: {e}", path.display())),
        }
    }

    fn note(&self, text: String) {
        let mut notes = self.notes.lock();
        if !notes.contains(&text) {
            notes.push(text);
        }
    }
}

/// Ending of the names of entries.
const EXTENSION: &str = "anynpu-compiled";
/// Beginning of the names of files that are being written.
const WRITING: &str = "writing-";
/// Age from which a file that is being written was left by a process that ended.
const ABANDONED: Duration = Duration::from_secs(3600);

fn is_abandoned(path: &Path, modified: SystemTime) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let age = SystemTime::now().duration_since(modified);
    name.is_some_and(|name| name.starts_with(WRITING)) && age.is_ok_and(|age| age > ABANDONED)
}

/// The blob in the entry at `path`, `None` if there is none.
fn read(path: &Path, limit: u64, key: &Key) -> Result<Option<Vec<u8>>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let length = file.metadata().map_err(|e| e.to_string())?.len();
    if length > limit {
        return Err(format!(
            "it has {length} bytes, more than the {limit} of the whole cache"
        ));
    }
    let mut bytes = Vec::new();
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    entry::decode(bytes, key).map(Some)
}

/// Writes a file whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new()
        .prefix(WRITING)
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// Notes that an entry was used.
fn touch(path: &Path) {
    let now = SystemTime::now();
    let touched = File::options().append(true).open(path);
    if let Err(e) = touched.and_then(|file| file.set_modified(now)) {
        tracing::debug!("{} keeps its time: {e}", path.display());
    }
}

#[cfg(test)]
mod tests;
