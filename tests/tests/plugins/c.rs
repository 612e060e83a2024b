//! Plugins from C.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// The C compiler that there is.
pub fn compiler() -> Option<String> {
    let named = std::env::var("CC").ok();
    let known = ["cc", "gcc", "clang"].map(str::to_owned);
    named.into_iter().chain(known).find(|cc| {
        let asked = Command::new(cc).arg("--version").output();
        asked.is_ok_and(|o| o.status.success())
    })
}

/// The top of the checkout.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A library compiled from C, which lives as long as this.
pub struct Plugin {
    folder: TempDir,
}

impl Plugin {
    /// `tests/data/plugins/shapes.c` with these macros.
    pub fn shaped(macros: &[&str]) -> Plugin {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let plugin = Plugin { folder };
        let mut cc = Command::new(compiler().expect("a C compiler"));
        cc.args([
            "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
        ]);
        cc.arg(plugin.path())
            .arg("-I")
            .arg(root().join("hal/include"));
        cc.args(macros.iter().map(|m| format!("-D{m}")));
        cc.arg(root().join("tests/data/plugins/shapes.c"));
        let made = cc.output().expect("the compiler starts");
        let told = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{told}");
        plugin
    }

    /// Where the library is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("libshapes.so")
    }

    /// A file beside it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
