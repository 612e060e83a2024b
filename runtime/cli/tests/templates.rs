//! The templates of backends, built as their guide says, run parts of a model with the CPU's tokens.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::{anynpu, json, text};
use serde_json::Value;

fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("the top")
}

/// Where programs and libraries of this build are.
fn built() -> &'static Path {
    let program = Path::new(env!("CARGO_BIN_EXE_anynpu"));
    program.parent().expect("a folder")
}

fn must_succeed(command: &mut Command) {
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {error}");
}

/// The template in C.
fn template_c() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let build = || {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libanynpu_template_c.so");
        let flags = ["-shared", "-fPIC", "-Ihal/include", "-std=c99"];
        let strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
        let mut cc = Command::new("cc");
        cc.current_dir(root()).args(flags).args(strict);
        cc.args(["backends/template/c/template.c", "-lm", "-o"]);
        must_succeed(cc.arg(&library));
        (folder, library)
    };
    &BUILT.get_or_init(build).1
}

/// The template in Rust.
fn template_rust() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.current_dir(root()).args(["build", "--locked"]);
        build.args(["-p", "anynpu-template", "--target-dir"]);
        build.arg(built().parent().expect("the target folder"));
        if built().ends_with("release") {
            build.arg("--release");
        }
        must_succeed(&mut build);
        let name = library_name("anynpu_template_rust");
        built().join(name)
    })
}

fn library_name(name: &str) -> String {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    format!("{prefix}{name}{suffix}")
}

fn templates() -> [(&'static str, &'static str); 2] {
    [
        ("template_c", template_c().to_str().unwrap()),
        ("template_rust", template_rust().to_str().unwrap()),
    ]
}

const STORY: [&str; 6] = ["run", "-n", "12", "--temp", "0", "--json"];

fn story(more: &[&str]) -> Value {
    json(&[&STORY, more].concat())
}

#[test]
fn templates_run_parts_of_the_story_with_the_cpus_tokens() {
    let cpu = story(&["--device", "cpu"]);
    assert_eq!(cpu["tokens"].as_array().unwrap().len(), 12);
    for (name, library) in templates() {
        for more in [&[][..], &["--isolate"]] {
            let run = story(&[&["--driver", library], more].concat());
            assert_eq!(run["tokens"], cpu["tokens"], "{name} {more:?}");
            let nodes = run["executed"]["devices"][name]["nodes"].as_u64();
            assert!(nodes > Some(0), "{name} {more:?}: {}", run["executed"]);
            assert_eq!(run["executed"]["devices"][name]["dtype"], "f32", "{name}");
            assert_eq!(run["fallbacks"].as_array().map(Vec::len), Some(0), "{name}");
        }
    }
}

#[test]
fn every_node_has_a_verdict_of_a_template_and_every_no_a_reason() {
    for (name, library) in templates() {
        let explained = json(&["explain", "--driver", library, "--json"]);
        let nodes = explained["nodes"].as_array().unwrap();
        assert!(!nodes.is_empty());
        for node in nodes {
            let (op, verdict) = (node["op"].as_str().unwrap(), &node["verdicts"][name]);
            // the story's model has block weights that templates do not read only outside its layers
            let layer = !node["layer"].is_null();
            let runs = ["RmsNorm", "Linear", "GatedActivation"].contains(&op);
            let yes = verdict["support"] == "yes";
            if layer || !runs {
                assert_eq!(yes, runs, "{name}: {node}");
            }
            if !yes {
                assert!(verdict["detail"].as_str().is_some_and(|d| !d.is_empty()));
                assert!(verdict["code"].is_string(), "{name}: {node}");
            }
        }
    }
}

#[test]
fn templates_are_found_by_manifests_that_the_environment_names() {
    let folder = tempfile::tempdir().unwrap();
    for (name, library) in templates() {
        let manifest = folder.path().join(format!("{name}.json"));
        let document = serde_json::json!({
            "manifest": 1, "name": name, "library_path": library, "abi": "1.0",
            "arch": std::env::consts::ARCH,
        });
        std::fs::write(&manifest, document.to_string()).unwrap();
        let out = Command::new(env!("CARGO_BIN_EXE_anynpu"))
            .args(["devices", "--json"])
            .env("ANYNPU_DRIVER_FILES", &manifest)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let found: Value = serde_json::from_slice(&out.stdout).unwrap();
        let devices = found["devices"].as_array().unwrap();
        let device = devices.iter().find(|d| d["name"] == name).expect(name);
        assert_eq!(device["driver"], name);
        assert_eq!(device["kind"], "other");
    }
}

#[test]
fn a_template_that_can_not_be_loaded_is_an_error_that_names_it() {
    let out = anynpu(&["run", "--driver", "/nowhere/libvendor.so"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("/nowhere/libvendor.so"));
}
