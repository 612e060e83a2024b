//! Copies of the library for tests.

use std::io;
use std::path::{Path, PathBuf};

use crate::Settings;

/// The file of the library, beside the running test program.
fn own_file() -> io::Result<PathBuf> {
    let name = format!(
        "{}anynpu_nnapi_double{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    let program = std::env::current_exe()?;
    let folders = program.ancestors().skip(1).take(2);
    let mut files = folders.map(|f| f.join(&name)).filter(|f| f.is_file());
    files.next().ok_or_else(|| {
        let what = format!("{name} is not beside {}", program.display());
        io::Error::new(io::ErrorKind::NotFound, what)
    })
}

/// Makes a copy of the library in `folder` that is what `settings` say, and lacks the functions of later levels and
/// those named in `without`, as older runtimes do. Each copy is a library of its own to the system's loader.
///
/// # Errors
/// The library was not built, or the folder can't be written.
pub fn place(folder: &Path, settings: &Settings, without: &[&str]) -> io::Result<PathBuf> {
    let mut bytes = std::fs::read(own_file()?)?;
    let later = crate::api::symbols().filter(|(level, _)| *level > settings.level.min(31));
    let later = later.map(|(_, symbol)| symbol);
    for symbol in later.chain(without.iter().copied()) {
        hide(&mut bytes, symbol);
    }
    let path = folder.join("libneuralnetworks.so");
    std::fs::write(&path, bytes)?;
    std::fs::write(folder.join("libneuralnetworks.so.txt"), settings.text())?;
    Ok(path)
}

/// Gives `symbol` another name in a library's tables: by its own it is not found any more.
fn hide(bytes: &mut [u8], symbol: &str) {
    let name = [b"\0", symbol.as_bytes(), b"\0"].concat();
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(name.len()).position(|w| w == name) {
        bytes[from + at + 1] = b'X';
        from += at + name.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_is_hidden_as_a_whole_word() {
        let mut bytes = b"\0Model_free\0Model_freed\0Model_free\0".to_vec();
        hide(&mut bytes, "Model_free");
        assert_eq!(bytes, b"\0Xodel_free\0Model_freed\0Xodel_free\0");
    }
}
