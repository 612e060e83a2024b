//! Loading vendors' libraries.
#![allow(unsafe_code)] // code of others is loaded and called

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use thiserror::Error;

/// A library that can't be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LibraryError {
    /// The system's loader does not load it.
    #[error("{path}: {why}{hint}")]
    NotLoaded {
        /// What was looked for.
        path: String,
        /// What the loader said.
        why: String,
        /// What may be wrong, if the file tells; else empty.
        hint: String,
    },
    /// It lacks a function that every library of its kind has.
    #[error("{path} has no '{symbol}'")]
    NoSymbol {
        /// The library.
        path: String,
        /// The function.
        symbol: &'static str,
    },
}

/// A loaded library. It is never unloaded, as nobody can tell when the last of its code has run.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    handle: &'static libloading::Library,
}

impl Library {
    /// Loads the library at `name`, or one of that name from where the system's loader looks.
    ///
    /// # Errors
    /// What the loader says, and whether the file is for another processor.
    ///
    /// # Safety
    /// The library's initialisers run. Load only what the user named or the system offers.
    pub unsafe fn open(name: &OsStr) -> Result<Library, LibraryError> {
        // SAFETY: by the contract.
        let library = unsafe { libloading::Library::new(name) };
        let library = library.map_err(|e| LibraryError::NotLoaded {
            path: name.to_string_lossy().into_owned(),
            why: match std::error::Error::source(&e) {
                // what the loader itself said
                Some(said) => format!("{e}: {said}"),
                None => e.to_string(),
            },
            hint: hint(Path::new(name)),
        })?;
        Ok(Library {
            handle: Box::leak(Box::new(library)),
        })
    }

    /// The function or object called `symbol`; `path` is what errors call the library.
    ///
    /// # Errors
    /// There is none.
    ///
    /// # Safety
    /// `T` is its type: a function pointer, or a pointer to the object.
    pub unsafe fn symbol<T: Copy + 'static>(
        &self,
        path: &str,
        symbol: &'static str,
    ) -> Result<T, LibraryError> {
        // SAFETY: by the contract; the library is never unloaded, so the copy stays valid.
        let found = unsafe { self.handle.get::<T>(symbol) };
        found
            .map(|found| *found)
            .map_err(|_| LibraryError::NoSymbol {
                path: path.into(),
                symbol,
            })
    }
}

/// What a file that does not load is, if its header tells: a library for another processor.
fn hint(path: &Path) -> String {
    let mut header = [0u8; 20];
    let read = File::open(path).and_then(|mut f| f.read_exact(&mut header));
    if read.is_err() || header[..4] != *b"\x7fELF" {
        return String::new();
    }
    // the machines of the ELF specification
    let machine = match u16::from_le_bytes([header[18], header[19]]) {
        3 => "x86",
        40 => "arm",
        62 => "x86_64",
        164 => "hexagon",
        183 => "aarch64",
        _ => "another processor",
    };
    let own = std::env::consts::ARCH;
    match machine == own {
        true => String::new(),
        false => format!("; the library is for {machine}, this program for {own}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str) -> Result<Library, LibraryError> {
        // SAFETY: the tests name files without initialisers, and a library of the system's.
        unsafe { Library::open(OsStr::new(name)) }
    }

    #[test]
    fn a_library_that_is_not_there_is_named_with_what_the_loader_said() {
        let e = open("/nowhere/libvendor.so").unwrap_err();
        assert!(matches!(e, LibraryError::NotLoaded { .. }), "{e}");
        assert!(e.to_string().contains("/nowhere/libvendor.so"), "{e}");
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn functions_are_found_by_name_and_others_are_named() {
        let library = open("libm.so.6").unwrap();
        type Cosine = unsafe extern "C" fn(f64) -> f64;
        // SAFETY: this is the type of the C library's function.
        let cosine: Cosine = unsafe { library.symbol("libm.so.6", "cos") }.unwrap();
        // SAFETY: it may be called with any number.
        assert_eq!(unsafe { cosine(0.0) }, 1.0);
        // SAFETY: nothing is found.
        let none = unsafe { library.symbol::<Cosine>("libm.so.6", "sinecos") };
        let told = none.unwrap_err().to_string();
        assert_eq!(told, "libm.so.6 has no 'sinecos'");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_library_for_another_processor_is_named_as_such() {
        let other = match std::env::consts::ARCH {
            "aarch64" => 62u16,
            _ => 183,
        };
        let path = std::env::temp_dir().join(format!("anynpu-{}.so", std::process::id()));
        let mut header = vec![0u8; 64];
        header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        header[16] = 3;
        header[18..20].copy_from_slice(&other.to_le_bytes());
        std::fs::write(&path, header).unwrap();
        let e = open(path.to_str().unwrap()).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(e.contains("; the library is for "), "{e}");
    }
}
