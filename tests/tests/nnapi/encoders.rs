//! Encoders on a device of the stand-in, with texts padded to the sizes that it is compiled for.

use anynpu_nnapi::lower::Numbers;
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{KvType, LoadOptions, LoadedModel, Pooling, Runtime};
use anynpu_tests::minilm;
use serde_json::Value;

use crate::models::{error, runtime};
use crate::{LEVELS, Placed, architecture};

fn load(runtime: &Runtime, there: bool, context: u32) -> LoadedModel {
    let pin = match there {
        true => "layers.*=nnapi",
        false => "*=cpu",
    };
    let placement = Placement {
        pins: vec![pin.parse().unwrap()],
        require: None,
    };
    let options = LoadOptions::new().context(context).kv_type(KvType::F32);
    let loaded = runtime.load_open(architecture("bert"), options.placement(placement));
    loaded.unwrap()
}

#[test]
fn texts_of_every_length_have_the_vectors_of_the_cpu() {
    for (level, numbers, bound) in [
        (LEVELS[0], Numbers::F32, 2e-5),
        (LEVELS[1], Numbers::F32, 2e-5),
        (LEVELS[2], Numbers::F32, 2e-5),
        (LEVELS[0], Numbers::F16, 1e-2),
    ] {
        texts(&Placed::accelerated(level), numbers, bound);
    }
}

/// Texts of every length, held to the vectors of the CPU.
pub fn texts(placed: &Placed, numbers: Numbers, bound: f32) {
    {
        let runtime = runtime(placed, |d| d.numbers = Some(numbers));
        let context = architecture("bert").model().info().context_length.min(40);
        let (alone, there) = (
            load(&runtime, false, context),
            load(&runtime, true, context),
        );
        let vocabulary = alone.open().model().info().vocabulary;
        let (mut one, mut other) = (alone.embedder().unwrap(), there.embedder().unwrap());
        for length in [1, 2, 31, 32, 33, context] {
            let tokens: Vec<u32> = (0..length).map(|i| (7 * i + 3) % vocabulary).collect();
            for pooling in [Pooling::Mean, Pooling::Cls] {
                let expected = one.embed_tokens(&tokens, pooling).unwrap();
                let found = other.embed_tokens(&tokens, pooling).unwrap();
                let e = error(&found, &expected);
                assert!(e < bound, "{length} {pooling:?}: {e}");
            }
            let expected = one.hidden(&tokens, &[]).unwrap().to_vec();
            let found = other.hidden(&tokens, &[]).unwrap().to_vec();
            assert_eq!(found.len(), expected.len());
            assert!(error(&found, &expected) < bound);
        }
        let executed = other.executed();
        assert!(executed.devices["nnapi"].nodes > 0, "{executed:?}");
        let explanation = there.explain().unwrap();
        for node in explanation.nodes.iter().filter(|n| n.layer.is_some()) {
            assert_eq!(node.ran.prefill.as_deref(), Some("nnapi"), "{}", node.name);
        }
    }
}

#[test]
fn minilm_embeds_sentences_there_as_its_reference() {
    let test = "minilm_embeds_sentences_there_as_its_reference";
    sentences(test, &Placed::accelerated(LEVELS[0]));
}

/// Sentences that MiniLM embeds on the device of `placed`.
pub fn sentences(test: &str, placed: &Placed) {
    let Some((golden, folder)) = minilm(test) else {
        return;
    };
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let runtime = runtime(placed, |_| {});
    let placement = Placement {
        pins: vec!["layers.*=nnapi".parse().unwrap()],
        require: None,
    };
    // the stand-in is slow: the shortest and the longest sentence
    let options = LoadOptions::new().context(64).placement(placement);
    let model = runtime.load(folder, options).unwrap();
    let mut embedder = model.embedder().unwrap();
    let sentences = golden["sentences"].as_array().unwrap();
    let length = |i: &usize| golden["token_ids"][*i].as_array().unwrap().len();
    let fitting = || (0..sentences.len()).filter(|i| length(i) <= 64);
    let (short, long) = (fitting().min_by_key(length), fitting().max_by_key(length));
    for i in [short.unwrap(), long.unwrap()] {
        let sentence = sentences[i].as_str().unwrap();
        let found = embedder.embed(sentence, Pooling::Mean).unwrap();
        let expected = golden["embedding"][i].as_array().unwrap();
        let apart = found.iter().zip(expected);
        let apart = apart.map(|(f, e)| (f64::from(*f) - e.as_f64().unwrap()).abs());
        let worst = apart.fold(0.0, f64::max);
        assert!(worst <= 1e-4, "{sentence}: differs by up to {worst}");
    }
    let nodes = embedder.executed().devices["nnapi"].nodes;
    assert!(nodes > 0);
}
