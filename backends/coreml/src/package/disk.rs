//! What packages are written on.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, BufWriter, Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Age up to which a folder may not be held yet by whoever made it.
const NEW: Duration = Duration::from_secs(60);

/// What a package needs of a file system.
pub(super) trait Disk: Debug {
    /// Whether there is anything at `path`.
    fn has(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok()
    }
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Keeps others from taking the folder at `path` for one that was left, as long as this is held.
    fn hold(&self, _path: &Path) -> Option<File> {
        None
    }
    /// Removes folders beside `path` whose names begin so, and that a process left when it was ended.
    fn clear(&self, _path: &Path, _beginning: &str) {}
    fn make_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, folder: &Path) -> io::Result<()>;
}

/// A file that is being written.
pub(super) trait DiskFile: Write + Seek + Debug {
    /// Puts it on the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file system.
#[derive(Debug)]
pub(super) struct FileSystem;

impl Disk for FileSystem {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn hold(&self, path: &Path) -> Option<File> {
        let folder = File::open(path).ok()?;
        folder.try_lock().ok()?;
        Some(folder)
    }

    fn clear(&self, path: &Path, beginning: &str) {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        let Ok(all) = fs::read_dir(parent.unwrap_or(Path::new("."))) else {
            return;
        };
        for entry in all.filter_map(Result::ok) {
            let named = entry.file_name().to_string_lossy().starts_with(beginning);
            let told = entry.metadata().ok().filter(|m| named && m.is_dir());
            let changed = told.and_then(|m| m.modified().ok());
            let age = changed.and_then(|t| SystemTime::now().duration_since(t).ok());
            // a new one may not be held yet
            if age.is_some_and(|age| age > NEW)
                && let Some(left) = self.hold(&entry.path())
            {
                if let Err(e) = fs::remove_dir_all(entry.path()) {
                    tracing::debug!("{} stays: {e}", entry.path().display());
                }
                drop(left);
            }
        }
    }

    fn make_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = File::options().write(true).create_new(true).open(path)?;
        Ok(Box::new(Buffered(BufWriter::with_capacity(1 << 20, file))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, folder: &Path) -> io::Result<()> {
        fs::remove_dir_all(folder)
    }
}

#[derive(Debug)]
struct Buffered(BufWriter<File>);

impl Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for Buffered {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl DiskFile for Buffered {
    fn sync(&mut self) -> io::Result<()> {
        self.0.flush()?;
        self.0.get_ref().sync_all()
    }
}

/// Files by their paths.
type Files = Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>;

/// A file system in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Files);

impl Memory {
    /// What is in the file at `path`, which is none from then on; nothing if there is none.
    pub fn take(&self, path: &Path) -> Vec<u8> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.remove(path).unwrap_or_default()
    }
}

impl Disk for Memory {
    fn has(&self, path: &Path) -> bool {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.keys().any(|p| p.starts_with(path))
    }

    fn make_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn make_file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(MemoryFile {
            files: self.0.clone(),
            path: path.to_owned(),
            bytes: Cursor::default(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = std::mem::take(&mut *files).into_iter();
        *files = all
            .map(|(path, bytes)| match path.strip_prefix(from) {
                Ok(below) => (to.join(below), bytes),
                Err(_) => (path, bytes),
            })
            .collect();
        Ok(())
    }

    fn remove(&self, folder: &Path) -> io::Result<()> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.retain(|path, _| !path.starts_with(folder));
        Ok(())
    }
}

/// A file in memory, which is there once it is synced.
#[derive(Debug)]
struct MemoryFile {
    files: Files,
    path: PathBuf,
    bytes: Cursor<Vec<u8>>,
}

impl Write for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for MemoryFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.bytes.seek(to)
    }
}

impl DiskFile for MemoryFile {
    fn sync(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.bytes).into_inner();
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(self.path.clone(), bytes);
        Ok(())
    }
}
