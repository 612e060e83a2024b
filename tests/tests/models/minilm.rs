//! all-MiniLM-L6-v2 against float64 arithmetic of transformers: a public model that is not
//! committed, found in the folder that `ANYNPU_MINILM` names.

use std::ops::ControlFlow;

use anynpu_graphs::import::gguf::Gguf;
use anynpu_graphs::import::hugging_face::HuggingFaceGguf;
use anynpu_graphs::quant::{Mixture, QuantizeOptions, quantize_gguf};
use anynpu_runtime::{Embedder, LoadOptions, OpenModel, Pooling, Runtime};
use anynpu_tests::minilm;
use serde_json::Value;

use crate::ids;

#[test]
fn minilm_embeds_every_sentence_as_its_reference_and_closely_in_q8_0() {
    let test = "minilm_embeds_every_sentence_as_its_reference_and_closely_in_q8_0";
    let Some((golden, folder)) = minilm(test) else {
        return;
    };
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let open = OpenModel::open(folder).unwrap();
    let mut quantised = quantised(&open.to_gguf().unwrap());
    let mut embedder = embedder(open);
    let sentences = golden["sentences"].as_array().unwrap();
    assert_eq!(sentences.len(), 20);
    for (i, sentence) in sentences.iter().enumerate() {
        let sentence = sentence.as_str().unwrap();
        let found = embedder.embed(sentence, Pooling::Mean).unwrap();
        let expected: Vec<f64> = golden["embedding"][i]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e.as_f64().unwrap())
            .collect();
        assert_eq!(found.len(), expected.len());
        let pairs = found.iter().zip(&expected);
        let worst = pairs.map(|(&f, e)| (f64::from(f) - e).abs());
        let worst = worst.fold(0.0, f64::max);
        assert!(worst <= 1e-4, "{sentence}: differs by up to {worst}");
        let tokens = ids(&golden["token_ids"][i]);
        assert_eq!(
            embedder.embed_tokens(&tokens, Pooling::Mean).unwrap(),
            found
        );
        // both are of length 1
        let found = quantised.embed(sentence, Pooling::Mean).unwrap();
        let cosine: f64 = found
            .iter()
            .zip(&expected)
            .map(|(&f, e)| f64::from(f) * e)
            .sum();
        assert!(cosine >= 0.999, "{sentence} in Q8_0: {cosine}");
    }
}

fn embedder(open: OpenModel) -> Embedder {
    let runtime = Runtime::builder().drivers(anynpu_backends::drivers());
    let model = runtime.build().unwrap().load_open(open, LoadOptions::new());
    model.unwrap().embedder().unwrap()
}

/// The same in Q8_0.
fn quantised(gguf: &HuggingFaceGguf) -> Embedder {
    let options = QuantizeOptions::new(Mixture::Q8_0);
    let go_on = &mut |_| ControlFlow::Continue(());
    let (_, bytes) = quantize_gguf(gguf, Vec::new(), &options, go_on).unwrap();
    embedder(OpenModel::open(Gguf::from_vec("q8_0", bytes).unwrap()).unwrap())
}
