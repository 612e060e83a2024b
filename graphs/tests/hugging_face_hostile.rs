//! Hostile safetensors files, indices and configurations are refused with the fault named.

mod folders;

use std::path::Path;

use anynpu_graphs::import::hugging_face::{HuggingFaceFolder, HuggingFaceModel};
use anynpu_graphs::import::safetensors::{Fault, SafeTensors, SafeTensorsError, Shards};
use anynpu_graphs::{Model, ModelError};
use folders::{MODEL_TYPES, all_families, cases, config, config_with, file, refused, sound};
use serde_json::{Value, json};

fn fault(bytes: &[u8]) -> Result<SafeTensors, Fault> {
    match SafeTensors::from_vec("hostile", bytes.to_vec()) {
        Ok(file) => Ok(file),
        Err(SafeTensorsError::Malformed { fault, file }) => {
            assert_eq!(&*file, "hostile");
            Err(fault)
        }
        Err(other) => panic!("not a fault of the contents: {other}"),
    }
}

#[test]
fn each_class_is_refused_by_its_name() {
    for case in cases() {
        match (fault(&case.bytes), case.fault) {
            (Err(found), Some(expected)) => {
                assert!(expected(&found), "{}: {found}", case.name);
                assert!(found.to_string().len() < 400, "{}: {found}", case.name);
            }
            (Ok(_), None) => {}
            (Ok(_), Some(_)) => panic!("{} was accepted", case.name),
            (Err(found), None) => panic!("{} was refused: {found}", case.name),
        }
    }
}

#[test]
fn every_cut_of_a_sound_file_is_refused() {
    let bytes = sound();
    for len in 0..bytes.len() {
        assert!(fault(&bytes[..len]).is_err(), "accepted at {len} bytes");
    }
    let file = fault(&bytes).unwrap();
    assert_eq!(file.metadata()["format"], "pt");
    let names: Vec<_> = file.tensors().map(|t| (t.name(), t.data().len())).collect();
    assert_eq!(names, [("a", 8), ("b", 12)]);
}

#[test]
fn a_type_that_is_not_computed_with_is_an_error_when_it_is_used() {
    let header = r#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    let file = SafeTensors::from_vec("ids", file(header, 8)).unwrap();
    let tensor = file.tensor("a").unwrap();
    assert_eq!(tensor.stored_type().name(), "I64");
    let e = tensor.tensor_type().unwrap_err().to_string();
    assert!(
        e.contains("ids") && e.contains("'a'") && e.contains("I64"),
        "{e}"
    );
}

fn index(map: &str) -> String {
    let half = |name: &str| {
        let header = format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#);
        SafeTensors::from_vec(name, file(&header, 1))
    };
    let joined = Shards::join("index".into(), map.as_bytes(), |name| match name {
        "1.safetensors" => half("a"),
        "2.safetensors" => half("b"),
        "3.safetensors" => half("a"),
        other => panic!("{other} was opened"),
    });
    match joined {
        Ok(shards) => shards.tensors().map(|t| t.name()).collect(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn an_index_joins_files_of_its_own_folder_only() {
    let sound = r#"{"metadata":{},"weight_map":{"a":"1.safetensors","b":"2.safetensors"}}"#;
    assert_eq!(index(sound), "ab");
    for (map, named) in [
        ("", "not a valid index"),
        ("[]", "not a valid index"),
        (r#"{"weight_map":[]}"#, "not a valid index"),
        (r#"{"weight_map":{"a":1}}"#, "not a valid index"),
        (r#"{"weight_map":{}}"#, "names no tensors"),
        (
            r#"{"weight_map":{"a":"../1.safetensors"}}"#,
            "../1.safetensors",
        ),
        (r#"{"weight_map":{"a":"/1.safetensors"}}"#, "plain name"),
        (r#"{"weight_map":{"a":"1.bin"}}"#, "1.bin"),
        (
            r#"{"weight_map":{"a":"1.safetensors","a":"2.safetensors"}}"#,
            "'a' twice",
        ),
        (r#"{"weight_map":{"b":"1.safetensors"}}"#, "no such tensor"),
        (
            r#"{"weight_map":{"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"}}"#,
            "'c' in '2.safetensors'",
        ),
        (
            r#"{"weight_map":{"a":"1.safetensors","x":"3.safetensors"}}"#,
            "both '1.safetensors' and '3.safetensors'",
        ),
    ] {
        let e = index(map);
        assert!(e.contains(named) && e.starts_with("index: "), "{map}: {e}");
    }
}

fn build(config: &Value) -> Result<Model, ModelError> {
    let config = config.to_string();
    let folder = HuggingFaceFolder::in_memory("folder", config.as_bytes(), all_families())?;
    let folder = HuggingFaceModel::new(&folder)?;
    Model::from_hugging_face(&folder, 0)
}

#[test]
fn every_model_type_is_built() {
    for model_type in MODEL_TYPES {
        let model = build(&config(model_type));
        let model = model.unwrap_or_else(|e| panic!("{model_type}: {e}"));
        assert_eq!(model.info().layers, 1, "{model_type}");
        let weights = model.graph().weights().iter();
        for weight in weights.filter(|w| w.inline.is_none()) {
            let found = model.data().tensor(&weight.name);
            assert!(found.is_some(), "{model_type}: {}", weight.name);
        }
    }
}

#[test]
fn what_a_configuration_asks_for_is_followed_or_refused_by_name() {
    for (model_type, members, named) in refused() {
        match build(&config_with(model_type, &members)) {
            Ok(_) => panic!("{model_type} with {members} was accepted"),
            Err(e) => {
                let e = e.to_string();
                assert!(e.contains(named), "{model_type} with {members}: {e}");
            }
        }
    }
}

#[test]
fn biases_are_used_as_the_configuration_says_not_as_the_file_has_them() {
    let biases = |members: Value| {
        let model = build(&config_with("llama", &members)).unwrap();
        let names = model.graph().weights().iter().map(|w| &w.name);
        names.filter(|n| n.ends_with(".bias")).count()
    };
    assert_eq!(biases(json!({})), 7);
    assert_eq!(biases(json!({"attention_bias": false})), 3);
    assert_eq!(biases(json!({"mlp_bias": false})), 4);
    assert_eq!(biases(json!({"mlp_bias": null, "attention_bias": null})), 0);
}

#[test]
fn a_folder_without_its_files_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let open = || HuggingFaceFolder::open(dir.path()).unwrap_err().to_string();
    assert!(open().contains("config.json"), "{}", open());
    std::fs::write(dir.path().join("config.json"), "[").unwrap();
    assert!(open().contains("not a valid JSON object"), "{}", open());
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    assert!(open().contains("model.safetensors"), "{}", open());
    std::fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(open().contains("pytorch_model.bin is there"), "{}", open());
    let e = HuggingFaceFolder::open(Path::new("/nowhere.gguf")).unwrap_err();
    assert!(e.to_string().contains("not a Hugging Face folder"), "{e}");
}
