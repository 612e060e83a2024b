//! What packages are written on.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

/// What a package needs of a file system.
pub(super) trait Disk: Debug {
    fn make_folder(&self, path: &Path) -> io::Result<()>;
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
