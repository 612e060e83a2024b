//! Memory that two processes map.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use crate::{BufferDesc, HalError, HostBuffer};

/// Where files in memory are made: a file system in memory where there is one.
fn folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => memory.to_owned(),
        false => std::env::temp_dir(),
    }
}

/// A zeroed buffer over a new file, and the file's path, under which another process finds it until the path is
/// dropped.
pub(super) fn create(desc: BufferDesc) -> Result<(HostBuffer, TempPath), HalError> {
    let failed = |why: std::io::Error| HalError::Vendor {
        device: "host".into(),
        call: "share memory".into(),
        code: why.raw_os_error().unwrap_or(0).into(),
        text: format!("{} bytes for '{}': {why}", desc.bytes, desc.name),
    };
    let file = tempfile::Builder::new()
        .prefix("anynpu-")
        .tempfile_in(folder());
    let file = file.map_err(failed)?;
    file.as_file()
        .set_len(desc.bytes.max(1) as u64)
        .map_err(failed)?;
    let (file, path) = file.into_parts();
    Ok((HostBuffer::of_file(desc, file)?, path))
}

/// The buffer over the file that another process made.
pub(super) fn open(desc: BufferDesc, path: &Path) -> Result<HostBuffer, HalError> {
    let failed = |why: std::io::Error| HalError::Vendor {
        device: "helper".into(),
        call: "share memory".into(),
        code: why.raw_os_error().unwrap_or(0).into(),
        text: format!("{} for '{}': {why}", path.display(), desc.name),
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed)?;
    HostBuffer::of_file(desc, file)
}
