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
fn experts_that_are_not_alike_are_named() {
    let all = |last: &[u64]| {
        let shards = all_families();
        let mut tensors: Vec<(String, Vec<u64>)> = shards
            .tensors()
            .map(|t| (t.name().to_owned(), t.shape().to_vec()))
            .collect();
        let name = "model.layers.0.block_sparse_moe.experts.1.w1.weight";
        let one = tensors.iter_mut().find(|(n, _)| n == name);
        one.unwrap().1 = last.to_vec();
        tensors.retain(|(n, _)| n != name || !last.is_empty());
        let file = SafeTensors::from_vec("tensors", folders::tensors(&tensors)).unwrap();
        let config = config("mixtral").to_string();
        let folder = HuggingFaceFolder::in_memory("f", config.as_bytes(), Shards::of(file))?;
        Model::from_hugging_face(&HuggingFaceModel::new(&folder)?, 0)
    };
    all(&[6, 4]).unwrap();
    let missing = all(&[]).unwrap_err().to_string();
    assert!(
        missing.contains("asks for tensor") && missing.contains("experts.1.w1.weight"),
        "{missing}"
    );
    for shape in [&[6, 5][..], &[24], &[1, 6, 4]] {
        let error = all(shape).unwrap_err().to_string();
        assert!(
            error.contains("experts.1.w1.weight") && error.contains("experts.0.w1.weight"),
            "{error}"
        );
    }
}

/// What is made of tensors: norms with 1 added, experts joined.
#[test]
fn tensors_that_gguf_has_in_another_form_are_made() {
    let f32s = |model: &Model, name: &str| -> Vec<f32> {
        let (_, bytes) = model.data().tensor(name).unwrap();
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let (gemma, llama) = (build(&config("gemma")), build(&config("llama")));
    let (gemma, llama) = (gemma.unwrap(), llama.unwrap());
    for name in ["output_norm.weight", "blk.0.attn_norm.weight"] {
        let plain = f32s(&llama, name);
        let one_more: Vec<f32> = plain.iter().map(|x| x + 1.0).collect();
        assert_eq!(f32s(&gemma, name), one_more);
    }
    let mixtral = build(&config("mixtral")).unwrap();
    let shards = all_families();
    let expert = |n: u32| {
        let name = format!("model.layers.0.block_sparse_moe.experts.{n}.w2.weight");
        shards.tensor(&name).unwrap().data().to_vec()
    };
    let (dtype, stack) = mixtral.data().tensor("blk.0.ffn_down_exps.weight").unwrap();
    assert_eq!(dtype.name(), "f32");
    assert_eq!(*stack, [expert(0), expert(1)].concat());
    for model in [&mixtral, &gemma] {
        for weight in model
            .graph()
            .weights()
            .iter()
            .filter(|w| w.inline.is_none())
        {
            let data = model.data();
            let (_, bytes) = data.tensor(&weight.name).unwrap();
            let (len, first, last) = data.sample(&weight.name, 8).unwrap();
            assert_eq!(len, bytes.len() as u64);
            assert_eq!(
                (&first[..], &last[..]),
                (&bytes[..8], &bytes[bytes.len() - 8..])
            );
        }
    }
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
