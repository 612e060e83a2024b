//! What a vendor does: builds a template, has it certified, and is told what is wrong with one that has a bug.

mod certificates;
mod mutants;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("the top")
}

/// Runs a command that must succeed.
fn must(command: &mut Command) {
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {error}");
}

/// Builds the plugin that `source` is, in C, in `folder`.
fn build_c(source: &Path, folder: &Path) -> PathBuf {
    let library = folder.join("libvendor.so");
    let mut cc = Command::new("cc");
    cc.current_dir(root());
    cc.args(["-shared", "-fPIC", "-O1", "-Ihal/include"]);
    cc.arg(source).args(["-lm", "-o"]).arg(&library);
    must(&mut cc);
    library
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What the suite says of a plugin.
#[derive(Debug)]
struct Verdict {
    status: Option<i32>,
    /// The certificate, or null if there is none.
    report: Value,
    output: String,
}

impl Verdict {
    /// Ops and ids of the cases that failed.
    fn failures(&self) -> Vec<(&str, &str)> {
        let cases = self.report["cases"].as_array();
        let failed = cases.into_iter().flatten();
        let failed = failed.filter(|case| case["outcome"] == "failed");
        failed
            .map(|case| (text(&case["op"]), text(&case["id"])))
            .collect()
    }
}

/// Runs the suite on the plugin at `library`.
fn certify(library: &Path, arguments: &[&str]) -> Verdict {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("report.json");
    let mut suite = Command::new(env!("CARGO_BIN_EXE_anynpu-cts"));
    suite.arg("--driver").arg(library);
    suite.arg("--report").arg(&file).args(arguments);
    let out = suite.output().expect("the suite starts");
    let report = std::fs::read(&file).unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Verdict {
        status: out.status.code(),
        report: serde_json::from_slice(&report).unwrap_or_default(),
        output: text(&out.stdout) + &text(&out.stderr),
    }
}
