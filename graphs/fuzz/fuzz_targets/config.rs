//! Reads arbitrary bytes as the configuration of a folder with tensors of every family, and builds
//! the graph.

#![no_main]

#[path = "../../tests/folders/mod.rs"]
mod folders;

use std::hint::black_box;
use std::sync::LazyLock;

use anynpu_graphs::import::hugging_face::{HuggingFaceFolder, HuggingFaceModel};
use anynpu_graphs::import::safetensors::Shards;
use anynpu_graphs::{Model, ModelError};
use libfuzzer_sys::fuzz_target;

static TENSORS: LazyLock<Shards> = LazyLock::new(folders::all_families);

fuzz_target!(|bytes: &[u8]| {
    match build(bytes) {
        Ok(model) => {
            let weights = model.graph().weights().iter();
            for weight in weights.filter(|w| w.inline.is_none()) {
                assert!(model.data().tensor(&weight.name).is_some());
            }
        }
        Err(error) => drop(black_box(error.to_string())),
    }
});

fn build(config: &[u8]) -> Result<Model, ModelError> {
    let folder = HuggingFaceFolder::in_memory("fuzzed", config, TENSORS.clone())?;
    Model::from_hugging_face(&HuggingFaceModel::new(&folder)?, 0)
}
