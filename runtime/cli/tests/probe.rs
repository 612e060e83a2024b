//! Measuring devices, and planning by what was measured.

mod common;

use std::process::Command;

use common::{anynpu, done, json, text};
use serde_json::Value;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// Standard error of a command that must fail at its work.
fn failed(args: &[&str]) -> String {
    let out = anynpu(args);
    let error = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{args:?}: {error}");
    error
}

#[test]
fn a_probe_gives_a_profile_by_which_plans_are_priced() {
    let folder = Folder::new();
    let path = folder.path("p.json");
    let told = anynpu(&[
        "probe", "--quick", "--device", "noop", "--save", &path, "--json",
    ]);
    assert_eq!(told.status.code(), Some(0), "{}", text(&told.stderr));
    assert!(text(&told.stderr).contains("noop: dispatch"));
    let profile: Value = serde_json::from_slice(&told.stdout).unwrap();
    let saved: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(profile, saved);
    assert_eq!(profile["schema_version"], 1);
    let device = &profile["devices"][0];
    assert_eq!(
        (&device["name"], &device["simulated"]),
        (&"noop".into(), &false.into())
    );
    let sample = &device["dispatch_us"];
    assert!(sample["median"].as_f64().unwrap() > 0.0 && sample["runs"].as_u64().unwrap() > 1);
    let plan = json(&["plan", "--device", "noop", "--profile", &path, "--json"]);
    assert_eq!(plan["phases"][0]["guess_share"], 0.0);
    let guessed = json(&["plan", "--device", "noop", "--json"]);
    assert_eq!(guessed["phases"][0]["guess_share"], 1.0);
    let with_knob = Command::new(env!("CARGO_BIN_EXE_anynpu"))
        .args(["plan", "--device", "noop", "--json"])
        .env("ANYNPU_PROFILE", &path)
        .output()
        .unwrap();
    let known: Value = serde_json::from_slice(&with_knob.stdout).unwrap();
    assert_eq!(known["objective_us"], plan["objective_us"]);
}

#[test]
fn what_went_wrong_when_a_device_was_measured_is_not_planned_on_it() {
    let folder = Folder::new();
    let path = folder.path("p.json");
    let told = anynpu(&["probe", "--quick", "--device", "cpu,noop", "--save", &path]);
    let told = text(&told.stdout);
    assert!(
        told.contains("wrong: Linear of q8_0: when it was tried"),
        "{told}"
    );
    // it would be the fastest by far
    let devices = ["--device", "noop,cpu", "--json"];
    let believed = json(&[&["plan"], &devices[..]].concat());
    assert_eq!(believed["phases"][0]["segments"][0]["device"], "noop");
    let explained = ["explain", "--profile", &path];
    let explained = json(&[&explained[..], &devices].concat());
    for node in explained["nodes"].as_array().unwrap() {
        let known = ["Linear", "RmsNorm", "Attention"];
        if known.iter().any(|op| node["op"] == *op) {
            assert_eq!(node["ran"]["decode"], "cpu", "{node}");
            assert_eq!(
                node["verdicts"]["noop"]["code"], "vendor_rejected",
                "{node}"
            );
        }
    }
}

#[test]
fn a_device_that_is_not_here_is_planned_for_by_its_profile_and_not_run_on() {
    let folder = Folder::new();
    let path = folder.path("p.json");
    let devices = "cpu,sim:snapdragon-8-gen-3";
    done(&["probe", "--quick", "--device", devices, "--save", &path]);
    let plan = |devices: &[&str]| {
        let plan = [
            "plan",
            "--profile",
            &path,
            // what a profile does not tell that a device runs is not planned there
            "--place",
            "*=cpu",
            "--place",
            "layers.*=sim",
            "--json",
        ];
        json(&[&plan[..], devices].concat())
    };
    let (here, elsewhere) = (plan(&["--device", devices]), plan(&[]));
    assert_eq!(here["objective_us"], elsewhere["objective_us"]);
    assert_eq!(here["phases"], elsewhere["phases"]);
    let told = elsewhere["warnings"].to_string();
    assert!(told.contains("'sim' is not here"), "{told}");
    assert_eq!(
        plan(&["--device", "cpu,sim"])["phases"],
        elsewhere["phases"]
    );
    let e = failed(&["run", "--device", "cpu,sim", "--profile", &path, "-n", "1"]);
    assert!(e.contains("'sim'"), "{e}");
}

#[test]
fn a_check_that_finds_predictions_off_corrects_later_ones() {
    let folder = Folder::new();
    let path = folder.path("p.json");
    // virtual time is the same in every run
    let device = ["--device", "sim:reference-f32"];
    done(&[&["probe", "--quick", "--save", &path], &device[..]].concat());
    let mut profile: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let measured = &mut profile["devices"][0];
    let anchors = measured["anchors"].as_array_mut().unwrap();
    for anchor in anchors {
        for part in ["median", "p10", "p90"] {
            anchor["us"][part] = (anchor["us"][part].as_f64().unwrap() / 2.0).into();
        }
    }
    std::fs::write(&path, profile.to_string()).unwrap();
    let check = |more: &[&str]| {
        let check = [
            "plan",
            "--profile",
            &path,
            "--check",
            "--prompt",
            "64",
            "-n",
            "4",
            "--json",
        ];
        let check = json(&[&check[..], &device, more].concat());
        let error = |phase: &str| check["check"][phase]["relative_error"].as_f64().unwrap();
        [error("prefill"), error("decode")]
    };
    let before = check(&["--learn"]);
    assert!(before.iter().all(|e| *e < -0.3), "{before:?}");
    let after = check(&[]);
    let closer = after
        .iter()
        .zip(&before)
        .all(|(a, b)| a.abs() < 0.5 * b.abs());
    assert!(closer, "{before:?} {after:?}");
    let alone = anynpu(&["plan", "--learn"]);
    assert_eq!(alone.status.code(), Some(2));
}

#[test]
fn a_probe_stores_nothing_unless_told_to_and_refuses_what_has_no_meaning() {
    let folder = Folder::new();
    let status = Command::new(env!("CARGO_BIN_EXE_anynpu"))
        .args(["probe", "--quick", "--device", "noop"])
        .current_dir(folder.0.path())
        .output()
        .unwrap();
    assert!(status.status.success());
    assert!(text(&status.stdout).contains("start of a segment"));
    assert_eq!(std::fs::read_dir(folder.0.path()).unwrap().count(), 0);
    let e = failed(&["probe", "--quick", "--place", "*=cpu"]);
    assert!(e.contains("--place has no meaning"), "{e}");
    let e = failed(&["probe", "--quick", "--save", &folder.path("none/p.json")]);
    assert!(e.contains("no such folder"), "{e}");
    let e = failed(&["probe", "--quick", "--device", "absent"]);
    assert!(e.contains("absent"), "{e}");
}

#[test]
fn profiles_that_make_no_sense_are_refused_with_file_and_key() {
    let folder = Folder::new();
    let absent = folder.path("absent.json");
    let cases = [
        (absent.clone(), "absent.json"),
        (folder.file("text.json", "hello"), "text.json"),
        (folder.file("none.json", "{}"), "schema_version"),
        (
            folder.file("new.json", r#"{"schema_version": 9}"#),
            "schema_version is 9; expected 1",
        ),
        (
            folder.file(
                "bad.json",
                r#"{"schema_version": 1, "host": {"system": "s", "cores": 1}, "devices": [{"name": "cpu",
                    "driver": "cpu", "kind": "cpu", "description": "", "taken_at": "", "simulated": false,
                    "quick": true, "node_us": {"median": 0, "p10": 0, "p90": 0, "runs": 1}}]}"#,
            ),
            "devices[0].node_us.median is 0; expected a number above 0",
        ),
    ];
    for (path, expected) in cases {
        let e = failed(&["plan", "--profile", &path]);
        assert!(e.contains(expected) && e.contains(".json"), "{e}");
    }
}

#[test]
fn a_check_runs_the_plan_and_shows_both_times() {
    let args = ["plan", "--check", "--prompt", "8", "-n", "4"];
    let plan = json(&[&args[..], &["--json"]].concat());
    for (phase, runs) in [("prefill", 5), ("decode", 5 * 4)] {
        let check = &plan["check"][phase];
        let us = |key: &str| check[key].as_f64().unwrap();
        assert!(us("predicted_us") > 0.0 && us("measured_us") > 0.0);
        assert_eq!(check["runs"], runs);
        let error = (us("predicted_us") - us("measured_us")) / us("measured_us");
        assert!((us("relative_error") - error).abs() < 1e-9);
        // the profile is of the moment, so what is predicted goes by the blocks between the runs
        assert!((us("planned_us") * us("pace") / us("predicted_us") - 1.0).abs() < 1e-9);
    }
    assert_eq!(plan["check"]["time"], "wall");
    // the device was measured for it
    assert_eq!(plan["phases"][0]["guess_share"], 0.0);
    let told = done(&args);
    assert!(
        told.contains("check of prefill") && told.contains("check of decode"),
        "{told}"
    );
    let simulated = json(&[&args[..], &["--device", "sim:reference-f32", "--json"]].concat());
    assert_eq!(simulated["check"]["time"], "virtual");
    let e = failed(&["plan", "--check", "--prompt", "500", "-n", "500"]);
    assert!(e.contains("lower --prompt or -n"), "{e}");
}

#[test]
fn budgets_bound_what_devices_hold_and_tell_what_would_fit() {
    let e = failed(&["plan", "--memory", "cpu=100K"]);
    assert!(
        e.contains("cpu=102400") && e.contains("these would: cpu="),
        "{e}"
    );
    let fits = e.split("these would: ").nth(1).unwrap();
    let fits = fits.split_whitespace().next().unwrap();
    assert!(done(&["plan", "--memory", fits]).contains("decode"));
    assert!(done(&["plan", "--memory", "cpu=1G"]).contains("decode"));
    let e = failed(&["plan", "--memory", "npu=1G"]);
    assert!(e.contains("the memory budget names device 'npu'"), "{e}");
    for bad in [
        "cpu",
        "cpu=",
        "=5",
        "cpu=-1",
        "cpu=1T",
        "cpu=99999999999999999999G",
    ] {
        let out = anynpu(&["plan", "--memory", bad]);
        assert_eq!(out.status.code(), Some(2), "{bad}");
    }
}

#[test]
fn objectives_count_what_they_say() {
    let plan = |objective: &str, more: &[&str]| {
        json(&[&["plan", "--objective", objective, "--json"], more].concat())
    };
    let latency = plan("latency", &[]);
    let us = |plan: &Value, phase: usize| plan["phases"][phase]["predicted_us"].as_f64().unwrap();
    let (prefill, decode) = (us(&latency, 0), us(&latency, 1));
    let close = |plan: &Value, us: f64| {
        let found = plan["objective_us"].as_f64().unwrap();
        assert!((found - us).abs() < 1e-3 * us, "{found} {us}");
    };
    close(&latency, prefill + 128.0 * decode);
    close(&plan("ttft", &[]), prefill);
    close(&plan("throughput", &[]), 128.0 * decode);
    let memory = plan("memory", &[]);
    assert_eq!(memory["objective_unit"], "bytes");
    assert!(memory["objective_value"].as_f64().unwrap() > 1e6);
    let energy = plan("energy", &["--compare"]);
    assert_eq!(energy["objective_unit"], "uJ");
    assert_eq!(
        energy["compare"]["cpu"]["objective_value"],
        energy["objective_value"]
    );
    let told = energy["warnings"].to_string();
    assert!(
        told.contains("the power of device 'cpu' is not known; 8 W are assumed"),
        "{told}"
    );
    assert_eq!(
        anynpu(&["plan", "--objective", "beauty"]).status.code(),
        Some(2)
    );
}
