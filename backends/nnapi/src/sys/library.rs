//! Finding and loading the runtime.

use std::ffi::OsStr;
use std::path::Path;

use anynpu_hal::{HardwareBuffers, Library, LibraryError};
use thiserror::Error;

use super::Functions;
use crate::FeatureLevel;

/// The runtime's name on Android.
pub const LIBRARY: &str = "libneuralnetworks.so";

/// A runtime that can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It does not load, or is no such runtime.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// None is named, and this system has none.
    #[error("{LIBRARY} is part of Android, and this is {os}")]
    NotAndroid {
        /// This system.
        os: &'static str,
    },
    /// Its devices can't be named.
    #[error(
        "{path} has feature level {found}, whose devices can't be named; needed is {needed}, of Android 10, or a newer one"
    )]
    Level {
        /// The library.
        path: String,
        /// Its level.
        found: FeatureLevel,
        /// The least that would do.
        needed: FeatureLevel,
    },
}

/// A loaded runtime. It stays loaded until the program ends.
#[derive(Debug)]
pub struct Runtime {
    /// Where from.
    pub path: String,
    /// Its feature level.
    pub level: FeatureLevel,
    /// Its functions.
    pub functions: Functions,
    library: Library,
}

impl Runtime {
    /// The functions for hardware buffers that the library brings itself, as none of Android does.
    ///
    /// # Errors
    /// The first that it lacks.
    pub fn hardware_buffers(&self) -> Result<HardwareBuffers, LibraryError> {
        // SAFETY: functions of these names have these types wherever they are; another library's of the same name are
        // not told apart, as with every C interface.
        unsafe { HardwareBuffers::of(&self.library, &self.path) }
    }
}

/// Loads the runtime from `path`, or on Android from where the system's loader finds it.
///
/// # Errors
/// No such library; another one; one whose devices can't be named, so that nobody could tell what runs where.
pub fn load(path: Option<&Path>) -> Result<Runtime, LoadError> {
    let name = match path {
        Some(path) => path.as_os_str(),
        None if cfg!(target_os = "android") => OsStr::new(LIBRARY),
        None => {
            return Err(LoadError::NotAndroid {
                os: std::env::consts::OS,
            });
        }
    };
    let shown = name.to_string_lossy().into_owned();
    // SAFETY: the user named the library, or the system has it.
    let library = unsafe { Library::open(name) }?;
    // SAFETY: functions of these names have these types in every runtime; another library's of the same name are not
    // told apart, as with every C interface.
    let functions = unsafe { Functions::load(&library, &shown) }?;
    let level = level(&functions);
    let needed = FeatureLevel::FL3;
    if level < needed {
        return Err(LoadError::Level {
            path: shown,
            found: level,
            needed,
        });
    }
    Ok(Runtime {
        path: shown,
        level,
        functions,
        library,
    })
}

/// The runtime's own word, or what its functions tell, as runtimes before level 5 have no word.
fn level(functions: &Functions) -> FeatureLevel {
    if let Some(told) = functions.get_runtime_feature_level {
        // SAFETY: it takes nothing, and may be called at any time.
        return FeatureLevel::of_number(unsafe { told() });
    }
    let symbols = [
        (
            functions.compilation_set_priority.is_some(),
            FeatureLevel::FL4,
        ),
        (functions.get_device_count.is_some(), FeatureLevel::FL3),
        (
            functions
                .model_relax_computation_float32_to_float16
                .is_some(),
            FeatureLevel::FL2,
        ),
    ];
    let newest = symbols.into_iter().find(|(has, _)| *has);
    newest.map_or(FeatureLevel::FL1, |(_, level)| level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_that_is_not_there_is_named_with_what_the_loader_said() {
        let e = load(Some(Path::new("/nowhere/libneuralnetworks.so"))).unwrap_err();
        assert!(matches!(e, LoadError::Library(_)), "{e}");
        let told = e.to_string();
        assert!(told.contains("/nowhere/libneuralnetworks.so"), "{told}");
    }

    #[test]
    #[cfg(not(target_os = "android"))]
    fn without_a_path_other_systems_have_none() {
        let told = load(None).unwrap_err().to_string();
        let expected = format!(
            "libneuralnetworks.so is part of Android, and this is {}",
            std::env::consts::OS
        );
        assert_eq!(told, expected);
    }
}
