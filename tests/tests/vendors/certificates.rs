//! The templates as they stand are certified.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{build_c, certify, must, root, text};

fn template_rust() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_anynpu-cts"));
    let built = built.parent().expect("a folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(root());
    build.args(["build", "--locked", "-p", "anynpu-template", "--target-dir"]);
    build.arg(built.parent().expect("the target folder"));
    if built.ends_with("release") {
        build.arg("--release");
    }
    must(&mut build);
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    built.join(format!("{prefix}anynpu_template_rust{suffix}"))
}

/// Certified, for what it claims: three ops pass, no other is claimed.
fn is_certified(library: &Path, name: &str) {
    let verdict = certify(library, &["--quick"]);
    let failures = verdict.failures();
    assert_eq!(verdict.status, Some(0), "{failures:?}\n{}", verdict.output);
    let report = &verdict.report;
    assert_eq!(report["verdict"], "certified");
    assert_eq!(report["device"]["name"], name);
    assert_eq!(report["suite"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["counts"]["failed"], 0);
    assert!(report["counts"]["not_claimed"].as_u64() > Some(0));
    let cases = report["cases"].as_array().expect("cases");
    let passed = cases
        .iter()
        .filter(|case| case["outcome"] == "passed" && text(&case["id"]).starts_with("op/"));
    let passed: BTreeSet<&str> = passed.map(|case| text(&case["op"])).collect();
    let passed: Vec<&str> = passed.into_iter().collect();
    assert_eq!(passed, ["GatedActivation", "Linear", "RmsNorm"]);
}

#[test]
fn the_template_in_c_is_certified() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = root().join("backends/template/c/template.c");
    is_certified(&build_c(&source, folder.path()), "template_c");
}

#[test]
fn the_template_in_rust_is_certified() {
    is_certified(&template_rust(), "template_rust");
}
