//! An encoder on the chip, with texts padded to the sizes that it is compiled for.

use std::path::Path;

use anynpu_runtime::plan::Placement;
use anynpu_runtime::{KvType, LoadOptions, LoadedModel, ModelSource, OpenModel, Pooling, Runtime};

use crate::operations::one_at_a_time;

#[test]
fn texts_of_every_length_have_the_vectors_of_the_cpu() {
    let _one = one_at_a_time();
    let test = "texts_of_every_length_have_the_vectors_of_the_cpu";
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return;
    }
    let runtime = Runtime::builder()
        .drivers(anynpu_backends::drivers())
        .device("cpu")
        .device("qnn");
    let runtime = runtime.without_cache().build().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/architectures/bert.gguf");
    let open = OpenModel::open(ModelSource::File(file)).unwrap();
    let context = open.model().info().context_length.min(40);
    let load = |pin: &str| -> LoadedModel {
        let placement = Placement {
            pins: vec![pin.parse().unwrap()],
            require: None,
        };
        let options = LoadOptions::new().context(context).kv_type(KvType::F32);
        let loaded = runtime.load_open(open.clone(), options.placement(placement));
        loaded.unwrap()
    };
    let (alone, there) = (load("*=cpu"), load("layers.*=qnn"));
    let (mut one, mut other) = (alone.embedder().unwrap(), there.embedder().unwrap());
    for length in [1, 31, 32, context] {
        let tokens: Vec<u32> = (0..length).map(|i| (7 * i + 3) % 64).collect();
        let expected = one.embed_tokens(&tokens, Pooling::Mean).unwrap();
        let found = other.embed_tokens(&tokens, Pooling::Mean).unwrap();
        // both are of length 1
        let cosine: f32 = found.iter().zip(&expected).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.999, "{length}: {cosine}");
    }
    assert!(other.executed().devices["qnn"].nodes > 0);
}
