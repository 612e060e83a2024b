//! Layers of the built-in model on devices of a stand-in for Android's runtime for neural networks.
#![cfg(target_os = "linux")]

mod common;

use anynpu_nnapi_double::{Device, Fault, Settings, place};
use common::{anynpu, done, json, text};

const RUN: &[&str] = &[
    "run",
    "-p",
    "Once upon a time",
    "-n",
    "8",
    "--temp",
    "0",
    "--ctx",
    "64",
    "--json",
];

/// A copy of the stand-in: its folder, which must stay, and its path.
fn placed(settings: &Settings) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = place(folder.path(), settings, &[]).unwrap();
    (folder, path.to_str().unwrap().to_owned())
}

#[test]
fn the_devices_of_a_runtime_are_listed_with_what_they_are() {
    let settings = Settings::new(1_000_008).with_accelerator();
    let (_folder, path) = placed(&settings);
    let list = json(&["devices", "--json", "--nnapi-library", &path]);
    let find = |name: &str| {
        let devices = list["devices"].as_array().unwrap().iter();
        devices
            .clone()
            .find(|d| d["name"] == name)
            .cloned()
            .unwrap()
    };
    let npu = find("nnapi");
    assert_eq!(
        (&npu["kind"], &npu["driver"]),
        (&"npu".into(), &"nnapi".into())
    );
    let told = npu["description"].as_str().unwrap();
    assert!(
        told.contains("double-npu double-1") && told.contains("feature level 8"),
        "{told}"
    );
    let reference = find("nnapi:nnapi-reference");
    assert_eq!(
        (&reference["kind"], &reference["artificial"]),
        (&"cpu".into(), &true.into())
    );
    let told = done(&["doctor", "--nnapi-library", &path]);
    assert!(told.contains("double-npu double-1"), "{told}");
    // without one the reason is told, and what to do
    let list = json(&["devices", "--json", "--nnapi-library", "/nowhere/lib.so"]);
    let absent = list["unavailable"].as_array().unwrap().iter();
    let absent = absent.clone().find(|u| u["driver"] == "nnapi").unwrap();
    assert!(
        absent["reason"]
            .as_str()
            .unwrap()
            .contains("/nowhere/lib.so")
    );
    assert!(done(&["knobs"]).contains("ANYNPU_NNAPI_LIBRARY"));
    let pinned = [
        "--place",
        "layers.*=nnapi",
        "--nnapi-library",
        "/nowhere/lib.so",
    ];
    let out = anynpu(&[RUN, &pinned[..]].concat());
    assert_eq!(out.status.code(), Some(1));
    let error = text(&out.stderr);
    assert!(
        error.contains("nnapi is not usable: /nowhere/lib.so"),
        "{error}"
    );
}

#[test]
fn the_story_goes_on_the_same_with_its_layers_there() {
    let cpu = json(&[RUN, &["--device", "cpu"]].concat());
    let settings = Settings::new(1_000_008).with_accelerator();
    let (_folder, path) = placed(&settings);
    let there = ["--place", "layers.*=nnapi", "--nnapi-library", &path];
    let run = json(&[RUN, &["--device", "cpu,nnapi"], &there[..]].concat());
    assert_eq!(run["tokens"], cpu["tokens"]);
    let executed = |what: &str| run["executed"]["devices"]["nnapi"][what].clone();
    assert_eq!(executed("segments"), run["executed"]["steps"]);
    assert!(executed("nodes").as_u64().unwrap() > 8 * 50);
    assert_eq!(executed("dtype"), "f32");
    // the reference device by its name alone, if there is no other
    let (_folder, path) = placed(&Settings::new(31));
    let there = ["--place", "layers.*=nnapi", "--nnapi-library", &path];
    let run = json(&[RUN, &there[..]].concat());
    assert_eq!(run["tokens"], cpu["tokens"]);
    assert!(
        run["executed"]["devices"]["nnapi"]["nodes"]
            .as_u64()
            .unwrap()
            > 8 * 50
    );
    let unnamed = json(&[RUN, &["--nnapi-library", &path]].concat());
    assert!(unnamed["executed"]["devices"].get("nnapi").is_none());
}

#[test]
fn a_driver_that_crashes_ends_only_its_own_process() {
    let fault = Fault::Crash("RSQRT".into());
    let device = Device::accelerator("npu", 1_000_008).failing(fault);
    let (_folder, path) = placed(&Settings::new(1_000_008).with(device));
    let there = ["--device", "cpu,nnapi", "--nnapi-library", &path];
    let run = [RUN, &there[..], &["--isolate", "--self-check"]].concat();
    let out = anynpu(&run);
    let error = text(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{error}");
    assert!(error.contains("'nnapi' is not used for"), "{error}");
    let cpu = json(&[RUN, &["--device", "cpu"]].concat());
    let run: serde_json::Value = serde_json::from_str(&text(&out.stdout)).unwrap();
    assert_eq!(run["tokens"], cpu["tokens"]);
}
