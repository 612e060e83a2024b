//! Finding and loading the library.

use std::ffi::{CStr, OsString};
use std::path::{Path, PathBuf};

use anynpu_hal::{Library, LibraryError};
use thiserror::Error;

use super::{
    HTP_BACKEND, Interface, Providers, SystemInterface, SystemProviders, SystemTable, Table,
    Version,
};

/// The oldest core API whose structures are the declared ones.
const OLDEST: Version = Version {
    major: 2,
    minor: 36,
    patch: 0,
};
/// The newest core API that was tried.
const NEWEST_MINOR: u32 = 40;
/// The oldest core API 2.x that writes nothing while it compiles.
const FIRST_QUIET_MINOR: u32 = 40;

/// A library that can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It does not load, or is no library of QNN.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// It offers no HTP.
    #[error("{path} has no HTP backend; it has {found}")]
    NoBackend {
        /// The library.
        path: String,
        /// What it offers.
        found: String,
    },
    /// Its interface is another.
    #[error("{path} has core API {found}, needed is {needed}: install a newer Qualcomm AI runtime")]
    Version {
        /// The library.
        path: String,
        /// Its version.
        found: String,
        /// What would fit.
        needed: String,
    },
}

/// A loaded library. It stays loaded until the program ends.
#[derive(Debug)]
pub struct Loaded {
    /// Where from.
    pub path: String,
    /// Its core API.
    pub core: Version,
    /// Its functions.
    pub table: Table,
    /// The functions of `libQnnSystem.so` beside it, if that is there.
    pub system: Option<SystemTable>,
    /// What the user should know of it.
    pub warnings: Vec<String>,
}

/// Loads `libQnnHtp.so` from `path`, or from where the system's loader finds it.
///
/// # Errors
/// No such library; one of another kind or version.
pub fn load(path: Option<&Path>) -> Result<Loaded, LoadError> {
    let name = path.map_or_else(|| OsString::from("libQnnHtp.so"), |p| p.as_os_str().into());
    let shown = name.to_string_lossy().into_owned();
    let quiet = Quiet::begin();
    // SAFETY: the user named the library, or the system's search path has it.
    let library = unsafe { Library::open(&name) }?;
    drop(quiet);
    // SAFETY: QNN's libraries export a function of this name and type; another library's symbol of the same name is
    // not told apart, as with every C interface.
    let providers: Providers = unsafe { library.symbol(&shown, "QnnInterface_getProviders") }?;
    let mut list = std::ptr::null();
    let mut count = 0;
    // SAFETY: the function writes a pointer to an array that lives as long as the library, and its length.
    let code = unsafe { providers(&raw mut list, &raw mut count) };
    let mut found = Vec::new();
    for i in 0..if code == 0 && !list.is_null() {
        count as usize
    } else {
        0
    } {
        // SAFETY: the array has `count` pointers.
        let provider = unsafe { *list.add(i) };
        if provider.is_null() {
            continue;
        }
        // SAFETY: each points to an interface whose first members every version has: number, name and version.
        let (backend, name, core) =
            unsafe { ((*provider).backend, (*provider).name, (*provider).core) };
        if backend == HTP_BACKEND {
            check_version(&shown, core)?;
            // SAFETY: from the oldest version that passed on, the table has at least the declared functions.
            let table = unsafe { (*provider).table };
            return Ok(loaded(path, shown, core, table));
        }
        found.push(text(name).unwrap_or_else(|| format!("backend {backend}")));
    }
    Err(LoadError::NoBackend {
        path: shown,
        found: match found.is_empty() {
            true => format!("none (code {code})"),
            false => found.join(", "),
        },
    })
}

/// Sends to standard error what goes to standard output, where programs have their results: a library says a word there
/// when it is loaded, and ones before core API 2.40 tell there how far a graph is compiled.
///
/// There is one standard output for all threads: what others write meanwhile goes to standard error too.
#[derive(Debug)]
pub struct Quiet(());

/// How many [`Quiet`] there are, and what standard output was before the first, if it could be kept.
#[cfg(unix)]
static QUIET: parking_lot::Mutex<(usize, Option<std::os::fd::OwnedFd>)> =
    parking_lot::Mutex::new((0, None));

impl Quiet {
    /// Until it is dropped.
    pub fn begin() -> Quiet {
        #[cfg(unix)]
        {
            use std::os::fd::AsFd;

            let mut quiet = QUIET.lock();
            if quiet.0 == 0 {
                quiet.1 = std::io::stdout().as_fd().try_clone_to_owned().ok();
                if quiet.1.is_some() {
                    // SAFETY: both descriptors are the program's own; the second is put back by the last `drop`.
                    unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) };
                }
            }
            quiet.0 += 1;
        }
        Quiet(())
    }

    /// While a library of this version compiles, if it does not keep quiet by itself.
    pub fn compiling(core: Version) -> Option<Quiet> {
        (core.minor < FIRST_QUIET_MINOR).then(Quiet::begin)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        #[cfg(unix)]
        {
            use std::os::fd::AsRawFd;

            let mut quiet = QUIET.lock();
            quiet.0 -= 1;
            if quiet.0 == 0
                && let Some(output) = quiet.1.take()
            {
                // SAFETY: null stands for every stream; what C's library still holds goes where it was meant to go.
                unsafe { libc::fflush(std::ptr::null_mut()) };
                // SAFETY: as in `begin`; `output` is what the descriptor was.
                unsafe { libc::dup2(output.as_raw_fd(), libc::STDOUT_FILENO) };
            }
        }
    }
}

impl Version {
    /// Whether this core API, or a newer one, was tried.
    pub const fn was_tried(self) -> bool {
        self.minor <= NEWEST_MINOR
    }
}

fn loaded(path: Option<&Path>, shown: String, core: Version, table: Table) -> Loaded {
    let mut warnings = Vec::new();
    if !core.was_tried() {
        warnings.push(format!(
            "{shown} has core API {}.{}, newer than 2.{NEWEST_MINOR}, the newest that was tried",
            core.major, core.minor
        ));
    }
    let beside = path
        .and_then(Path::parent)
        .map(|f| f.join("libQnnSystem.so"));
    let system = beside.unwrap_or_else(|| PathBuf::from("libQnnSystem.so"));
    let system = load_system(&system);
    if let Err(e) = &system {
        warnings.push(format!("compiled forms can't be looked into: {e}"));
    }
    Loaded {
        path: shown,
        core,
        table,
        system: system.ok(),
        warnings,
    }
}

fn load_system(path: &Path) -> Result<SystemTable, LoadError> {
    let shown = path.display().to_string();
    // SAFETY: it stands beside a library that the user named, or the system's search path has it.
    let library = unsafe { Library::open(path.as_os_str()) }?;
    // SAFETY: as in `load`.
    let providers: SystemProviders =
        unsafe { library.symbol(&shown, "QnnSystemInterface_getProviders") }?;
    let mut list: *const *const SystemInterface = std::ptr::null();
    let mut count = 0;
    // SAFETY: as in `load`.
    let code = unsafe { providers(&raw mut list, &raw mut count) };
    let none = || LoadError::NoBackend {
        path: shown.clone(),
        found: format!("none (code {code})"),
    };
    if code != 0 || list.is_null() || count == 0 {
        return Err(none());
    }
    // SAFETY: the array has at least one pointer.
    let provider = unsafe { *list };
    if provider.is_null() {
        return Err(none());
    }
    // SAFETY: it points to an interface, whose first four functions are in every version.
    let table = unsafe { (*provider).table };
    Ok(table)
}

fn check_version(path: &str, found: Version) -> Result<(), LoadError> {
    if found.major == OLDEST.major && found >= OLDEST {
        return Ok(());
    }
    let Version { major, minor, .. } = found;
    Err(LoadError::Version {
        path: path.into(),
        found: format!("{major}.{minor}"),
        needed: format!(
            "{}.{} or a newer {}.x",
            OLDEST.major, OLDEST.minor, OLDEST.major
        ),
    })
}

/// The text at `pointer`, a string of the library's own.
fn text(pointer: *const std::ffi::c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: names in interfaces are strings that end in 0 and live as long as the library.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(text.to_string_lossy().into_owned())
}

/// The fields that are not declared here follow the declared ones.
const _: () = assert!(std::mem::size_of::<Interface>() >= 40 + 49 * 8);

#[cfg(test)]
mod tests {
    use super::*;

    fn version(major: u32, minor: u32) -> Version {
        Version {
            major,
            minor,
            patch: 0,
        }
    }

    #[test]
    fn versions_before_the_structures_were_as_declared_are_refused() {
        for (major, minor) in [(2, 35), (1, 99), (3, 0), (0, 0)] {
            let e = check_version("x.so", version(major, minor)).unwrap_err();
            let e = e.to_string();
            assert!(e.contains(&format!("core API {major}.{minor}")), "{e}");
            assert!(e.contains("2.36 or a newer 2.x"), "{e}");
        }
        for minor in [36, 40, 41, 99] {
            check_version("x.so", version(2, minor)).unwrap();
        }
    }

    #[test]
    fn a_library_that_is_not_there_is_named_with_what_the_loader_said() {
        let e = load(Some(Path::new("/nowhere/libQnnHtp.so"))).unwrap_err();
        assert!(matches!(e, LoadError::Library(_)), "{e}");
        assert!(e.to_string().contains("/nowhere/libQnnHtp.so"), "{e}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn another_library_is_told_from_one_of_qnn() {
        let e = load(Some(Path::new("libm.so.6"))).unwrap_err();
        let told = "libm.so.6 has no 'QnnInterface_getProviders'";
        assert_eq!(e.to_string(), told);
    }
}
