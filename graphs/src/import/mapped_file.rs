//! Bytes of a model file: mapped from disk, or held in memory.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};
use thiserror::Error;

/// A file that can't be opened as bytes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MappedFileError {
    /// No such file.
    #[error("{}: no such file; check the path", path.display())]
    Missing {
        /// The path asked for.
        path: PathBuf,
    },
    /// A directory.
    #[error("{}: is a directory; name a file in it", path.display())]
    Directory {
        /// The path asked for.
        path: PathBuf,
    },
    /// A pipe, socket or device.
    #[error("{}: is not a regular file and can't be mapped; copy it to a file first", path.display())]
    NotRegular {
        /// The path asked for.
        path: PathBuf,
    },
    /// A file of no bytes.
    #[error("{}: is empty (0 bytes); the download or copy probably failed", path.display())]
    Empty {
        /// The path asked for.
        path: PathBuf,
    },
    /// A file that this process can't address.
    #[error("{}: has {bytes} bytes, more than this machine can map ({})", path.display(), isize::MAX)]
    TooLarge {
        /// The path asked for.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The operating system refused.
    #[error("{}: can't be {doing}: {source}", path.display())]
    Io {
        /// The path asked for.
        path: PathBuf,
        /// What was tried, e.g. `opened`.
        doing: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

/// Bytes that live as long as any clone of this value; cloning is cheap.
///
/// # A mapped file must not change
/// The bytes of an opened file are read from the file each time they are touched. If another
/// process overwrites the file meanwhile, values change under the reader; if it cuts the file
/// short, touching a page past the new end kills this process (`SIGBUS` on Unix). No library can
/// prevent that without copying the file. Replace model files by renaming a new one into place,
/// never by writing into the old one.
#[derive(Clone)]
pub struct MappedFile {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    bytes: Bytes,
}

enum Bytes {
    Mapped {
        map: Mmap,
        file: File,
        path: PathBuf,
    },
    Static(&'static [u8]),
    Owned(Vec<u8>),
}

impl MappedFile {
    /// Maps a regular file, read-only.
    ///
    /// # Errors
    /// A path that is missing, a directory, not a regular file, empty or unreadable.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, MappedFileError> {
        let path = path.as_ref();
        let io = |doing| {
            move |source: io::Error| match source.kind() {
                io::ErrorKind::NotFound => MappedFileError::Missing { path: path.into() },
                _ => MappedFileError::Io {
                    path: path.into(),
                    doing,
                    source,
                },
            }
        };
        // Asked before opening, since opening a pipe waits for its other end.
        regular(path, &std::fs::metadata(path).map_err(io("opened"))?)?;
        let file = File::open(path).map_err(io("opened"))?;
        let metadata = file.metadata().map_err(io("examined"))?;
        regular(path, &metadata)?;
        let len = metadata.len();
        if len == 0 {
            return Err(MappedFileError::Empty { path: path.into() });
        }
        let len = usize::try_from(len)
            .ok()
            .filter(|&n| n <= isize::MAX as usize)
            .ok_or_else(|| MappedFileError::TooLarge {
                path: path.into(),
                bytes: len,
            })?;
        // SAFETY: the mapping is read-only and kept alive beside every borrow of it. That the file
        // isn't changed while mapped can't be ensured here: it is the documented condition of this
        // type, and readers of the bytes check again whatever they index by.
        let map = unsafe { MmapOptions::new().len(len).map(&file) }.map_err(io("mapped"))?;
        let bytes = Bytes::Mapped {
            map,
            file,
            path: path.into(),
        };
        Ok(Self::new(path.display().to_string(), bytes))
    }

    /// Bytes compiled into the program; `name` stands for the path in messages.
    pub fn from_static(name: impl Into<String>, bytes: &'static [u8]) -> Self {
        Self::new(name.into(), Bytes::Static(bytes))
    }

    /// Bytes in memory; `name` stands for the path in messages.
    pub fn from_vec(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self::new(name.into(), Bytes::Owned(bytes))
    }

    fn new(name: String, bytes: Bytes) -> Self {
        MappedFile {
            inner: Arc::new(Inner { name, bytes }),
        }
    }

    /// The path as given to [`MappedFile::open`], or the name given instead of one.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The path, if the bytes are a file's.
    pub fn path(&self) -> Option<&Path> {
        match &self.inner.bytes {
            Bytes::Mapped { path, .. } => Some(path),
            Bytes::Static(_) | Bytes::Owned(_) => None,
        }
    }

    /// The open file, if the bytes are a file's, so that another process can map it too.
    pub fn file(&self) -> Option<&File> {
        match &self.inner.bytes {
            Bytes::Mapped { file, .. } => Some(file),
            Bytes::Static(_) | Bytes::Owned(_) => None,
        }
    }

    /// Gives the memory of the pages that hold `range` back to the system; they are read from the
    /// file again when next touched. Parts outside the file, and bytes that are no file's, are
    /// left alone. Only a hint: does nothing where the system knows no such call.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped { map, .. } = &self.inner.bytes {
            let end = range.end.min(map.len());
            if range.start < end {
                let advice = memmap2::UncheckedAdvice::DontNeed;
                // SAFETY: the map is a read-only shared mapping of a file, so dropped pages hold
                // nothing that the file doesn't, and come back with the same contents.
                let done =
                    unsafe { map.unchecked_advise_range(advice, range.start, end - range.start) };
                if let Err(error) = done {
                    tracing::debug!(file = self.name(), %error, "pages not released");
                }
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.inner.bytes {
            Bytes::Mapped { map, .. } => map,
            Bytes::Static(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedFile")
            .field("name", &self.name())
            .field("bytes", &self.len())
            .finish_non_exhaustive()
    }
}

fn regular(path: &Path, metadata: &std::fs::Metadata) -> Result<(), MappedFileError> {
    if metadata.is_dir() {
        Err(MappedFileError::Directory { path: path.into() })
    } else if !metadata.is_file() {
        Err(MappedFileError::NotRegular { path: path.into() })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_and_survives_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(&path, b"hello").unwrap();
        let file = MappedFile::open(&path).unwrap();
        let clone = file.clone();
        drop(file);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(&clone[..], b"hello");
        assert_eq!(clone.path(), Some(path.as_path()));
        assert!(clone.file().is_some());
    }

    #[test]
    fn released_pages_come_back_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let data: Vec<u8> = (0..20_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &data).unwrap();
        let file = MappedFile::open(&path).unwrap();
        assert_eq!(&file[..], &data[..]);
        file.release(5000..9000);
        file.release(9000..usize::MAX);
        #[allow(clippy::reversed_empty_ranges)]
        file.release(7..3);
        assert_eq!(&file[..], &data[..]);
    }

    #[test]
    fn what_is_no_file_is_refused_by_kind() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none");
        assert!(matches!(
            MappedFile::open(&missing),
            Err(MappedFileError::Missing { .. })
        ));
        assert!(matches!(
            MappedFile::open(dir.path()),
            Err(MappedFileError::Directory { .. })
        ));
        let empty = dir.path().join("empty");
        File::create(&empty).unwrap();
        assert!(matches!(
            MappedFile::open(&empty),
            Err(MappedFileError::Empty { .. })
        ));
        #[cfg(unix)]
        assert!(matches!(
            MappedFile::open("/dev/null"),
            Err(MappedFileError::NotRegular { .. })
        ));
        assert!(matches!(
            MappedFile::open("nul\0inside"),
            Err(MappedFileError::Io { .. })
        ));
    }

    #[test]
    fn bytes_in_memory_need_no_file() {
        static DATA: &[u8] = b"abc";
        let file = MappedFile::from_static("built in", DATA);
        assert_eq!(file.as_ptr(), DATA.as_ptr());
        assert_eq!((file.name(), file.path()), ("built in", None));
        file.release(0..3);
        assert_eq!(&MappedFile::from_vec("v", vec![1, 2])[..], [1, 2]);
    }
}
