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
    &BUILT.get_or_init(|| changed_template_c("", "")).1
}

/// The template in C with one text of it, which occurs once, replaced by another.
fn changed_template_c(text: &str, by: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (
        folder.path().join("template.c"),
        folder.path().join("libanynpu_template_c.so"),
    );
    let template = std::fs::read_to_string(root().join("backends/template/c/template.c")).unwrap();
    assert!(
        text.is_empty() || template.matches(text).count() == 1,
        "{text}"
    );
    let changed = match text {
        "" => template,
        text => template.replace(text, by),
    };
    std::fs::write(&source, changed).unwrap();
    let flags = ["-shared", "-fPIC", "-Ihal/include", "-std=c99"];
    let strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
    let mut cc = Command::new("cc");
    cc.current_dir(root()).args(flags).args(strict);
    must_succeed(cc.arg(&source).args(["-lm", "-o"]).arg(&library));
    (folder, library)
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

/// What the template does at the end of a run.
const SIGNAL: &str =
    "    host->signal(host->context, s->done, ANYNPU_OK, (anynpu_text)TEXT(\"\"));";

#[test]
fn a_plugin_that_crashes_or_hangs_in_a_run_is_a_lost_device_and_the_story_goes_on() {
    let cpu = story(&["--device", "cpu"]);
    let crash = "    static int runs; if (++runs == 40) *(volatile int *)0 = 1;";
    let hang = "    static int runs; if (++runs == 40) for (;;) { }";
    for (fault, told) in [
        (crash, "its helper ended (signal: 11"),
        (hang, "longer than the limit of 2s"),
    ] {
        let (_folder, library) = changed_template_c(SIGNAL, &format!("{fault}\n{SIGNAL}"));
        let out = Command::new(env!("CARGO_BIN_EXE_anynpu"))
            .args(STORY)
            .args(["--isolate", "--no-cache", "--driver"])
            .arg(&library)
            .env("ANYNPU_STEP_TIMEOUT_MS", "2000")
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        let run: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(run["tokens"], cpu["tokens"]);
        let fallback = run["fallbacks"][0].to_string();
        assert!(
            fallback.contains("template_c") && fallback.contains(told),
            "{fallback}"
        );
    }
}

#[test]
fn plugins_that_crash_or_hang_when_they_are_asked_are_errors() {
    let query = "    host = given;";
    let (_folder, library) =
        changed_template_c(query, "    *(volatile int *)0 = 1;\n    host = given;");
    let library = library.to_str().unwrap();
    let out = anynpu(&["run", "--driver", library]);
    assert_eq!(out.status.code(), Some(1));
    let error = text(&out.stderr);
    assert!(
        error.contains(library) && error.contains("signal: 11"),
        "{error}"
    );
    // a list of devices does not fail because one plugin does
    let found = json(&["devices", "--driver", library, "--json"]);
    let told = found["unavailable"].to_string();
    assert!(told.contains("signal: 11"), "{told}");
    assert!(
        found["devices"]
            .as_array()
            .unwrap()
            .iter()
            .any(|d| d["name"] == "cpu")
    );
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
