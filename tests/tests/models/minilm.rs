//! all-MiniLM-L6-v2 against float64 arithmetic of transformers: a public model that is not
//! committed, found in the folder that `ANYNPU_MINILM` names.

use std::path::PathBuf;

use anynpu_runtime::{LoadOptions, Pooling, Runtime};
use anynpu_tests::test_data;
use serde_json::Value;

use crate::ids;

#[test]
fn minilm_embeds_every_sentence_as_its_reference() {
    let test = "minilm_embeds_every_sentence_as_its_reference";
    let Some(golden) = test_data(test, "minilm/golden.json") else {
        return;
    };
    let Some(folder) = std::env::var_os("ANYNPU_MINILM").map(PathBuf::from) else {
        println!("SKIPPED {test}: ANYNPU_MINILM is not set");
        return;
    };
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let drivers = anynpu_backends::drivers();
    let runtime = Runtime::builder().drivers(drivers).build().unwrap();
    let model = runtime.load(folder, LoadOptions::new()).unwrap();
    let mut embedder = model.embedder().unwrap();
    let sentences = golden["sentences"].as_array().unwrap();
    assert_eq!(sentences.len(), 20);
    for (i, sentence) in sentences.iter().enumerate() {
        let found = embedder
            .embed(sentence.as_str().unwrap(), Pooling::Mean)
            .unwrap();
        let expected = golden["embedding"][i].as_array().unwrap();
        assert_eq!(found.len(), expected.len());
        let pairs = found.iter().zip(expected);
        let worst = pairs.map(|(&f, e)| (f64::from(f) - e.as_f64().unwrap()).abs());
        let worst = worst.fold(0.0, f64::max);
        assert!(worst <= 1e-4, "{sentence}: differs by up to {worst}");
        let tokens = ids(&golden["token_ids"][i]);
        assert_eq!(
            embedder.embed_tokens(&tokens, Pooling::Mean).unwrap(),
            found
        );
    }
}
