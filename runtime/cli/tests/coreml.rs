//! Packages for Apple's systems.

mod common;

use std::path::Path;

use common::{anynpu, done, json, refused};
use serde_json::{Value, json as value};

fn names(features: &Value) -> Vec<&str> {
    let features = features.as_array().unwrap().iter();
    features.map(|f| f["name"].as_str().unwrap()).collect()
}

#[test]
fn a_package_is_written_in_the_form_for_its_units() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let compile = |name: &str, more: &[&str]| {
        let to = path(name);
        let args = ["compile", "--target", "coreml:iOS18", "--json", "-o", &to];
        let told = json(&[&args, more].concat());
        let file = |name: &str| {
            let path = Path::new(&to).join("Data/com.apple.CoreML").join(name);
            path.metadata().unwrap().len()
        };
        assert!(Path::new(&to).join("Manifest.json").is_file());
        assert_eq!(told["weight_bytes"], file("weights/weight.bin"));
        assert_eq!(told["model_bytes"], file("model.mlmodel"));
        told
    };
    let all = compile("all.mlpackage", &[]);
    assert_eq!(
        (&all["target"], &all["units"]),
        (&value!("iOS18"), &value!("all"))
    );
    let functions = all["functions"].as_array().unwrap();
    assert_eq!(names(&all["functions"]), ["main", "prefill_64"]);
    assert_eq!(names(&functions[0]["inputs"]), ["tokens", "positions"]);
    assert_eq!(names(&functions[0]["outputs"]), ["logits"]);
    assert_eq!(functions[0]["states"].as_array().unwrap().len(), 8);
    assert_eq!(
        names(&functions[1]["inputs"]),
        ["tokens", "positions", "output_rows"]
    );
    // Q8_0 as it is
    assert!(all["added_error"].as_f64().unwrap() < 1e-3, "{all}");
    let engine = compile("ane.mlpackage", &["--units", "ane"]);
    let main = &engine["functions"][0];
    assert_eq!(main["states"], value!([]));
    let inputs = names(&main["inputs"]);
    for input in ["tokens", "cos", "sin", "mask", "layers_0_k", "layers_3_v"] {
        assert!(inputs.contains(&input), "{input}: {inputs:?}");
    }
    assert!(names(&main["outputs"]).contains(&"layers_3_v_new"));
    let small = compile("small.mlpackage", &["--coreml-weights", "lut4"]);
    let bytes = |told: &Value| told["weight_bytes"].as_u64().unwrap();
    assert!(bytes(&small) < bytes(&all) * 6 / 10);
    let said = done(&[
        "compile",
        "--target",
        "coreml:macOS12",
        "-o",
        &path("old.mlpackage"),
    ]);
    assert!(said.contains("main for macOS12 and later"), "{said}");
}

#[test]
fn what_does_not_go_together_is_told_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mlpackage");
    let to = path.to_str().unwrap();
    let told = |target: &str, more: &[&str], status: i32, words: &[&str]| {
        let args = ["compile", "--target", target, "-o", to];
        refused(&[&args, more].concat(), status, words);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "{words:?}"
        );
    };
    told("coreml:iOS14", &[], 2, &["iOS14", "iOS15, iOS16"]);
    told(
        "coreml:iOS18",
        &["--units", "npu"],
        2,
        &["npu", "all, ane, gpu, cpu"],
    );
    told(
        "qnn:SM8650",
        &["--units", "ane"],
        1,
        &["--units", "coreml:SYSTEM"],
    );
    told(
        "coreml:iOS18",
        &["--qnn-weights", "int8"],
        1,
        &["--qnn-weights", "qnn:CHIP"],
    );
    told("coreml:iOS18", &["--kv-type", "f16"], 1, &["--kv-type"]);
    let precise = ["--units", "ane", "--coreml-precision", "f32"];
    told(
        "coreml:iOS18",
        &precise,
        1,
        &["Neural Engine is f32, expected f16"],
    );
    let states = ["--coreml-states", "native"];
    told(
        "coreml:iOS17",
        &states,
        1,
        &["a state needs iOS18", "iOS17"],
    );
    told(
        "coreml:iOS15",
        &["--coreml-weights", "int8"],
        1,
        &["needs iOS16", "iOS15"],
    );
    told(
        "coreml:iOS17",
        &["--coreml-steps", "64"],
        1,
        &["a second function needs iOS18"],
    );
    told(
        "coreml:iOS18",
        &["--coreml-steps", "600"],
        1,
        &["600", "2 to 512"],
    );
    told(
        "coreml:iOS18",
        &["--units", "ane", "--ctx", "100"],
        1,
        &["100", "multiple of 32"],
    );
    std::fs::write(&path, "mine").unwrap();
    refused(
        &["compile", "--target", "coreml:iOS18", "-o", to],
        1,
        &["x.mlpackage: something is there; remove it, or name another place"],
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    std::fs::remove_file(&path).unwrap();
    told(
        "coreml:iOS18",
        &["--coreml-steps", "64,16,64"],
        1,
        &["the tokens of steps is 64 twice, expected each number once"],
    );
    // names and folders that are none
    for (name, words) in [
        ("plain", "a name that ends in .mlpackage"),
        ("x.mlmodel", "a name that ends in .mlpackage"),
        ("none/x.mlpackage", "writing into "),
    ] {
        let to = folder.path().join(name);
        let to = to.to_str().unwrap();
        let args = ["compile", "--target", "coreml:iOS18", "-o", to];
        refused(&args, 1, &[words]);
    }
    let to = folder.path().join(format!("{}.mlpackage", "n".repeat(235)));
    let to = to.to_str().unwrap();
    done(&["compile", "--target", "coreml:iOS18", "-o", to]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    // a file that is no model is named once
    let (passwd, other) = (
        folder.path().join("text"),
        folder.path().join("y.mlpackage"),
    );
    std::fs::write(&passwd, "root:x:0").unwrap();
    let (passwd, other) = (passwd.to_str().unwrap(), other.to_str().unwrap());
    let args = ["compile", passwd, "--target", "coreml:iOS18", "-o", other];
    let said = anynpu(&args);
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("text: is not a GGUF file"), "{said}");
    assert_eq!(said.matches(passwd).count(), 1, "{said}");
}

#[test]
fn doctor_records_what_it_found_and_what_core_ml_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("doctor.json");
    let told = json(&["doctor", "--json", "--record", path.to_str().unwrap()]);
    let record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(record["schema_version"], 1);
    assert_eq!(record["doctor"]["version"], told["version"]);
    let answers = record["coreml"].as_array().unwrap();
    assert_eq!(answers.len(), 2);
    for answer in answers {
        match cfg!(target_vendor = "apple") {
            true => assert_eq!(answer["plan"]["functions"][0]["name"], "main", "{answer}"),
            false => {
                let text = answer["error"]["text"].as_str().unwrap();
                assert!(text.starts_with("Core ML is not there"), "{text}");
            }
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let nowhere = folder.path().join("no/such/doctor.json");
    refused(
        &["doctor", "--record", nowhere.to_str().unwrap()],
        1,
        &["no/such/doctor.json"],
    );
}
