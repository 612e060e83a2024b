//! Layers of the built-in model on devices of a stand-in for Android's runtime for neural networks.
#![cfg(target_os = "linux")]

mod common;

use anynpu_nnapi_double::{Device, Fault, Settings, place};
use common::{anynpu, done, json, text};

/// A prompt after which the likeliest token is clear: the built-in model's weights are blocks of 8 bits, whose products
/// the CPU rounds otherwise than a device that has them widened.
const RUN: &[&str] = &[
    "run",
    "-p",
    "The little dog",
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

/// Layers on the devices of the library at `path`, and their cache in the devices' memory.
fn states_there(path: &str) -> [&str; 8] {
    [
        "--device",
        "cpu,nnapi",
        "--place",
        "layers.*=nnapi",
        "--nnapi-library",
        path,
        "--nnapi-states",
        "device",
    ]
}

#[test]
fn the_story_goes_on_the_same_with_its_cache_in_the_devices_memory() {
    let cpu = json(&[RUN, &["--device", "cpu"]].concat());
    let (_folder, path) = placed(&Settings::new(1_000_008).with_accelerator());
    let there = states_there(&path);
    let run = json(&[RUN, &there[..]].concat());
    assert_eq!(run["tokens"], cpu["tokens"]);
    assert!(done(&["knobs"]).contains("ANYNPU_NNAPI_STATES"));
    // a process of its own has memory of the host between it and this one
    let isolated = json(&[RUN, &there[..], &["--isolate"]].concat());
    assert_eq!(isolated["tokens"], cpu["tokens"]);
    // a device that can't says why, and goes on
    let (_folder, path) = placed(&Settings::new(29).with_accelerator());
    let explain = [&["explain", "--json"], &states_there(&path)[..]].concat();
    let explained = json(&explain).to_string();
    assert!(
        explained.contains("memory of the device's own needs feature level 4 (30)"),
        "{explained}"
    );
}

#[test]
fn ranges_need_no_vendors_library_and_products_of_integers_use_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (story, ranges) = (path("story.txt"), path("ranges.json"));
    let text_of_it = done(&["run", "-n", "120", "--seed", "1"]);
    std::fs::write(&story, text_of_it).unwrap();
    let calibrate = |more: &[&str]| {
        let command = ["calibrate", "-f", &story, "-o", &ranges, "--json"];
        let absent = ["--qnn-library", "/nowhere/libQnnHtp.so"];
        anynpu(&[&command[..], &absent[..], more].concat())
    };
    let out = calibrate(&["--for", "nnapi"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let found: serde_json::Value = serde_json::from_str(&text(&out.stdout)).unwrap();
    assert_eq!(
        (&found["device"], &found["activations"]),
        (&"nnapi".into(), &"u8".into())
    );
    assert!(found["tensors"].as_u64().unwrap() > 50, "{found}");
    let (_folder, library) = placed(&Settings::new(1_000_008).with_accelerator());
    let perplexity = |more: &[&str]| {
        let command = ["perplexity", "-f", &story, "--ctx", "64", "--json"];
        json(&[&command[..], more].concat())["perplexity"]
            .as_f64()
            .unwrap()
    };
    let there = [
        "--device",
        "cpu,nnapi",
        "--place",
        "layers.*=nnapi",
        "--nnapi-library",
        &library,
        "--nnapi-weights",
        "int8",
        "--nnapi-ranges",
        &ranges,
    ];
    let apart = perplexity(&there) / perplexity(&["--device", "cpu"]) - 1.0;
    assert!(apart.abs() < 0.1, "{apart}");
    // what is not to be had is told
    let told = |more: &[&str]| {
        let out = calibrate(more);
        assert_eq!(out.status.code(), Some(1));
        text(&out.stderr)
    };
    let error = told(&["--for", "nnapi", "--activations", "u16"]);
    assert!(
        error.contains("nnapi holds activations in u8 only"),
        "{error}"
    );
    let error = told(&["--for", "qnn"]);
    assert!(error.contains("/nowhere/libQnnHtp.so"), "{error}");
    let error = told(&[]);
    assert!(error.contains("/nowhere/libQnnHtp.so"), "{error}");
}
