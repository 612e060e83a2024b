//! Where plugins are named: manifests, and the environment.
//!
//! A manifest is a JSON file beside a plugin, or wherever its installer puts it:
//!
//! ```json
//! { "manifest": 1, "name": "vendor_npu", "library_path": "libvendor.so", "abi": "1.0", "arch": "aarch64" }
//! ```
//!
//! `library_path` is relative to the manifest's folder unless it is absolute. `abi` is the least version of the
//! interface that the plugin needs. `arch` may be left out; it is a word of Rust's `std::env::consts::ARCH`. Members that
//! are not known are ignored.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anynpu_abi::{ANYNPU_ABI_MAJOR, ANYNPU_ABI_MINOR};
use serde::Deserialize;

use super::PluginError;
use super::answers::is_name;

/// Most bytes of a manifest.
const MOST: u64 = 64 << 10;

/// The environment variable that names plugins and manifests, parted as in `PATH`.
pub const DRIVER_FILES: &str = "ANYNPU_DRIVER_FILES";

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The driver's name.
    pub name: String,
    /// The plugin.
    pub library: PathBuf,
    /// The least version of the interface that it needs.
    pub abi: (u16, u16),
}

#[derive(Deserialize)]
struct Written {
    manifest: u32,
    name: String,
    library_path: String,
    abi: String,
    arch: Option<String>,
}

impl Manifest {
    /// Reads the manifest at `path`.
    ///
    /// # Errors
    /// A file that can't be read or is too large, and as [`Manifest::parse`].
    pub fn read(path: &Path) -> Result<Manifest, PluginError> {
        let failed = |why: String| PluginError::Manifest {
            path: path.display().to_string(),
            why,
        };
        let length = std::fs::metadata(path)
            .map_err(|e| failed(e.to_string()))?
            .len();
        if length > MOST {
            return Err(failed(format!(
                "it has {length} bytes, at most {MOST} are read"
            )));
        }
        let bytes = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
        Manifest::parse(&bytes, path)
    }

    /// Reads a manifest that stands at `path`.
    ///
    /// # Errors
    /// [`PluginError::Manifest`]: no JSON, members that are missing or make no sense, another processor, an interface
    /// that this program does not have.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Manifest, PluginError> {
        let failed = |why: String| PluginError::Manifest {
            path: path.display().to_string(),
            why,
        };
        let wrong = |what: &str, found: &str, expected: &str| {
            failed(format!("'{what}' is '{found}', expected {expected}"))
        };
        let written: Written = serde_json::from_slice(bytes).map_err(|e| failed(e.to_string()))?;
        if written.manifest != 1 {
            return Err(wrong("manifest", &written.manifest.to_string(), "1"));
        }
        if !is_name(&written.name) {
            let expected = "1 to 64 lower-case letters, digits, '-' and '_'";
            return Err(wrong("name", &written.name, expected));
        }
        if written.library_path.is_empty() || written.library_path.contains('\0') {
            return Err(wrong("library_path", &written.library_path, "a path"));
        }
        let abi = version(&written.abi)
            .ok_or_else(|| wrong("abi", &written.abi, "MAJOR.MINOR, such as 1.0"))?;
        if abi.0 != ANYNPU_ABI_MAJOR || abi.1 > ANYNPU_ABI_MINOR {
            let known =
                format!("at most {ANYNPU_ABI_MAJOR}.{ANYNPU_ABI_MINOR}, which this program has");
            return Err(wrong("abi", &written.abi, &known));
        }
        let own = std::env::consts::ARCH;
        if let Some(arch) = written.arch.filter(|a| a != own) {
            let expected = format!("{own}, which this program is for");
            return Err(wrong("arch", &arch, &expected));
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok(Manifest {
            name: written.name,
            library: folder.join(&written.library_path),
            abi,
        })
    }
}

fn version(text: &str) -> Option<(u16, u16)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The files that the environment names, in order; none where the process has rights that its user has not, since then
/// the user could have it run anything.
pub fn driver_files() -> Vec<PathBuf> {
    let set = std::env::var_os(DRIVER_FILES).filter(|v| !v.is_empty());
    match (set, has_elevated_rights()) {
        (None, _) => Vec::new(),
        (Some(_), true) => {
            tracing::warn!(
                "{DRIVER_FILES} is not used: this process has more rights than its user"
            );
            Vec::new()
        }
        (Some(files), false) => split(&files),
    }
}

fn split(files: &OsString) -> Vec<PathBuf> {
    let paths = std::env::split_paths(files);
    paths.filter(|p| !p.as_os_str().is_empty()).collect()
}

/// Whether the system gave the process rights that its user has not: set-user-ID programs and those with capabilities.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
fn has_elevated_rights() -> bool {
    // SAFETY: the call reads what the kernel gave the process; nothing is passed that could be wrong.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// As above, by the users alone.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
#[allow(unsafe_code)]
fn has_elevated_rights() -> bool {
    // SAFETY: these calls have no preconditions.
    unsafe { libc::getuid() != libc::geteuid() || libc::getgid() != libc::getegid() }
}

/// Not known here, so that nothing is named by the environment.
#[cfg(not(unix))]
fn has_elevated_rights() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Manifest, PluginError> {
        Manifest::parse(text.as_bytes(), Path::new("/opt/vendor/npu.json"))
    }

    fn with(member: &str) -> String {
        format!(
            r#"{{"manifest": 1, "name": "npu", "library_path": "lib.so", "abi": "1.0"{member}}}"#
        )
    }

    #[test]
    fn a_library_is_looked_for_beside_its_manifest() {
        let found = parse(&with(r#", "later": [1]"#)).unwrap();
        assert_eq!(found.library, Path::new("/opt/vendor/lib.so"));
        assert_eq!((found.name.as_str(), found.abi), ("npu", (1, 0)));
        let absolute = with("").replace("lib.so", "/usr/lib/lib.so");
        assert_eq!(
            parse(&absolute).unwrap().library,
            Path::new("/usr/lib/lib.so")
        );
    }

    #[test]
    fn a_manifest_that_does_not_fit_says_what_it_has_and_what_would() {
        let told = |text: &str| parse(text).unwrap_err().to_string();
        assert!(told("{").contains("/opt/vendor/npu.json"));
        let e = told(&with("").replace("\"1.0\"", "\"1.9\""));
        assert!(e.contains("'abi' is '1.9', expected at most 1.1"), "{e}");
        let e = told(&with("").replace("\"1.0\"", "\"2.0\""));
        assert!(e.contains("'2.0'"), "{e}");
        let e = told(&with("").replace("\"1.0\"", "\"new\""));
        assert!(e.contains("MAJOR.MINOR"), "{e}");
        let e = told(&with(r#", "arch": "vax""#));
        assert!(e.contains("'arch' is 'vax', expected "), "{e}");
        let e = told(&with("").replace("npu\"", "N P U\""));
        assert!(e.contains("'N P U'"), "{e}");
        let e = told(&with("").replace("\"manifest\": 1", "\"manifest\": 2"));
        assert!(e.contains("'2', expected 1"), "{e}");
        assert!(told(&with("").replace("lib.so", "")).contains("library_path"));
        assert!(told(r#"{"manifest": 1}"#).contains("name"));
    }

    #[test]
    fn a_manifest_that_is_too_large_is_not_read() {
        let path = std::env::temp_dir().join(format!("anynpu-manifest-{}", std::process::id()));
        std::fs::write(&path, vec![b' '; MOST as usize + 1]).unwrap();
        let e = Manifest::read(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(e.contains("65537 bytes, at most 65536"), "{e}");
    }

    #[test]
    fn the_environment_names_files_as_a_path_does() {
        let files = split(&"/a/x.so::b.json".into());
        assert_eq!(files, [PathBuf::from("/a/x.so"), "b.json".into()]);
    }
}
