//! Simulated devices from the command line.

mod common;

use std::process::Command;

use common::{anynpu, done, json, refused, text};
use serde_json::Value;

/// The f32 model of 260 thousand weights, or the built-in one with a word on why.
fn models(test: &str) -> Vec<Option<String>> {
    let Some(folder) = std::env::var_os("ANYNPU_TEST_DATA") else {
        println!("SKIPPED {test} on stories260K: ANYNPU_TEST_DATA is not set");
        return vec![None];
    };
    let file = std::path::Path::new(&folder).join("stories260K/stories260K-F32.gguf");
    vec![None, Some(file.to_str().unwrap().to_owned())]
}

fn run(model: &Option<String>, more: &[&str]) -> Value {
    let mut args = vec!["run"];
    args.extend(model.as_deref());
    args.extend([
        "-p",
        "Once upon a time",
        "-n",
        "24",
        "--temp",
        "0",
        "--json",
    ]);
    args.extend(more);
    json(&args)
}

fn count(run: &Value, device: &str, what: &str) -> u64 {
    run["executed"]["devices"][device][what]
        .as_u64()
        .unwrap_or(0)
}

/// The nodes that the CPU and `sim` ran are every node of the model once a step.
fn check_all_ran(split: &Value, alone: &Value) {
    let steps = |run: &Value| run["executed"]["steps"].as_u64().unwrap();
    let nodes = count(alone, "cpu", "nodes") / steps(alone);
    let (cpu, sim) = (count(split, "cpu", "nodes"), count(split, "sim", "nodes"));
    assert!(cpu > 0 && sim > 0, "{cpu}, {sim}");
    assert_eq!(cpu + sim, steps(split) * nodes);
    assert!(count(split, "sim", "us") > 0);
}

#[test]
fn layers_on_a_simulated_device_in_f32_give_the_tokens_of_the_cpu() {
    for model in models("layers_on_a_simulated_device_in_f32_give_the_tokens_of_the_cpu") {
        let alone = run(&model, &[]);
        assert_eq!(alone["tokens"].as_array().unwrap().len(), 24);
        let on = |pins: &[&str]| {
            let mut args = vec!["--device", "cpu,sim:reference-f32", "--place", "*=cpu"];
            args.extend(pins.iter().flat_map(|pin| ["--place", *pin]));
            run(&model, &args)
        };
        for pins in [&["layers.*=sim"][..], &["layers.1-2=sim"]] {
            let split = on(pins);
            assert_eq!(split["tokens"], alone["tokens"], "{pins:?}");
            check_all_ran(&split, &alone);
            let sim = &split["executed"]["devices"]["sim"];
            assert_eq!(sim["dtype"], "f32");
            assert_eq!(sim["segments"], split["executed"]["steps"]);
            // memory is shared
            assert_eq!(count(&split, "sim", "bytes"), 0);
        }
    }
}

#[test]
fn layers_on_a_simulated_device_in_f16_say_their_type_and_values_are_copied() {
    for model in models("layers_on_a_simulated_device_in_f16_say_their_type_and_values_are_copied")
    {
        let alone = run(&model, &[]);
        let args = [
            "--device",
            "cpu,sim:reference-f16",
            "--place",
            "*=cpu",
            "--place",
            "layers.*=sim",
        ];
        let split = run(&model, &args);
        assert_eq!(split["tokens"].as_array().unwrap().len(), 24);
        check_all_ran(&split, &alone);
        assert_eq!(split["executed"]["devices"]["sim"]["dtype"], "f16");
        assert!(count(&split, "sim", "bytes") > 0);
        // how far apart the logits are, see the test of the sim package; the first token is the same
        assert_eq!(split["tokens"][0], alone["tokens"][0]);
    }
}

#[test]
fn the_whole_of_a_model_may_run_on_a_simulated_device() {
    let alone = run(&None, &[]);
    let there = run(
        &None,
        &["--device", "sim:reference-f32", "--require", "sim"],
    );
    assert_eq!(there["tokens"], alone["tokens"]);
    assert!(there["executed"]["devices"]["cpu"].is_null());
    let warned = there["warnings"][0].as_str().unwrap();
    assert!(warned.starts_with("'sim' is simulated"), "{warned}");
    let told = text(&anynpu(&["run", "-n", "1", "--device", "sim:reference-f32"]).stderr);
    assert_eq!(told.matches("is simulated").count(), 1, "{told}");
    assert!(alone["warnings"].as_array().unwrap().is_empty());
}

#[test]
fn shipped_descriptions_are_listed_and_unknown_or_bad_ones_refused() {
    let document: Value = serde_json::from_str(&done(&["devices", "--json"])).unwrap();
    let simulated = document["simulated"].as_array().unwrap();
    assert!(simulated.iter().any(|s| s["name"] == "sim:reference-f32"));
    // none of them is a device that was found
    let devices = document["devices"].as_array().unwrap();
    // an emulator of a vendor's is one of its driver's
    let mut own = devices.iter().filter(|d| d["driver"] != "qnn");
    assert!(own.all(|d| d["kind"] != "simulated"));
    assert!(done(&["devices"]).contains("sim:reference-f16"));

    let run = ["run", "-n", "1", "--device"];
    let with = |device: &'static str| [&run[..], &[device]].concat();
    refused(
        &with("cpu,sim:none"),
        1,
        &["'none'", "sim:FILE.toml", "sim:reference-f32"],
    );
    refused(&with("sim"), 1, &["sim:FILE.toml"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("device.toml");
    std::fs::write(&path, "name = \"x\"\nspeeed = 3\n").unwrap();
    let device = format!("cpu,sim:{}", path.display());
    let out = anynpu(&["run", "-n", "1", "--device", &device]);
    let error = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{error}");
    assert!(
        error.contains("device.toml") && error.contains("speeed"),
        "{error}"
    );
    assert!(error.contains("sim:reference-f32"), "{error}");
}

#[test]
fn what_a_simulated_device_compiles_is_kept_and_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().to_str().unwrap();
    let alone = run(&None, &[]);
    let again = || {
        let device = ["--device", "cpu,sim:reference-static", "--cache-dir", cache];
        let pins = ["--place", "*=cpu", "--place", "layers.*=sim"];
        let run = run(&None, &[&device[..], &pins].concat());
        assert_eq!(run["tokens"], alone["tokens"]);
        check_all_ran(&run, &alone);
        let files = std::fs::read_dir(cache).unwrap().map(|f| f.unwrap().path());
        let mut files: Vec<_> = files.map(|f| (std::fs::read(&f).unwrap(), f)).collect();
        assert_eq!(files.len(), 1);
        files.remove(0)
    };
    let (bytes, path) = again();
    assert_eq!(again(), (bytes.clone(), path.clone()));
    // a damaged one is made anew
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(again(), (bytes, path));
}

#[test]
fn two_devices_share_a_prompt_of_many_steps_and_take_as_long_as_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let description = include_str!("../../../backends/sim/devices/reference-f32.toml");
    let twin = folder.path().join("twin.toml");
    std::fs::write(&twin, description.replace("reference-f32", "twin")).unwrap();
    let devices = format!("sim:reference-f32,sim:{}", twin.display());
    let planned = |more: &[&str]| -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_anynpu"))
            .env("ANYNPU_PREFILL_CHUNK", "16")
            .args(["plan", "--prompt", "256", "-n", "2", "--objective", "ttft"])
            .args(["--compare", "--json", "--device", &devices])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let plan = planned(&["--check"]);
    let prefill = &plan["phases"][0];
    assert_eq!(
        prefill["segments"].as_array().unwrap().len(),
        2,
        "{prefill}"
    );
    let us = |value: &Value| value.as_f64().unwrap();
    let shared = us(&prefill["overlapped_us"]);
    // the one alone takes a little less than both in turn
    let alone = us(&plan["compare"]["sim:twin"]["prefill"]);
    assert!(shared < 0.7 * alone, "{shared} of {alone}");
    assert!((us(&plan["objective_us"]) - shared).abs() < 0.01 * shared);
    let measured = us(&plan["check"]["prefill"]["measured_us"]);
    assert!(measured < 0.75 * alone, "{measured} of {alone}");
    assert_eq!(us(&plan["check"]["prefill"]["predicted_us"]), shared);
}
