//! After construction, choosing tokens and rendering them as text allocates nothing.

use allocation_counter::measure;
use anynpu_runtime::sample::{SampleOptions, Sampler};
use anynpu_runtime::tokenize::{
    DetokenizeOptions, StopMatcher, TokenEntry, TokenKind, Tokenizer, Vocabulary, VocabularyKind,
};

const TOKENS: u32 = 1000;

fn logits(step: u32) -> Vec<f32> {
    (0..TOKENS)
        .map(|token| ((token * 7919 + step * 104_729) % 1009) as f32 / 100.0)
        .collect()
}

#[test]
fn the_counter_sees_an_allocation() {
    assert_eq!(
        measure(|| drop(std::hint::black_box(vec![1u8; 10]))).count_total,
        1
    );
}

#[test]
fn sampling_allocates_nothing_after_construction() {
    let all = SampleOptions {
        repeat_penalty: 1.1,
        logit_bias: vec![(3, f32::NEG_INFINITY)],
        ..SampleOptions::default()
    };
    let wide = SampleOptions {
        top_k: 0,
        top_p: 0.9999,
        temperature: 5.0,
        ..all.clone()
    };
    let bare = SampleOptions {
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        ..SampleOptions::default()
    };
    for options in [SampleOptions::greedy(), all, wide, bare] {
        let mut sampler = Sampler::new(options, TOKENS).unwrap();
        let steps: Vec<Vec<f32>> = (0..200).map(logits).collect();
        let counted = measure(|| {
            for logits in &steps {
                let token = sampler.sample(logits).unwrap();
                sampler.accept(token).unwrap();
            }
        });
        assert_eq!(counted.count_total, 0, "{:?}", sampler.options());
    }
}

#[test]
fn rendering_tokens_allocates_nothing_once_the_buffers_have_grown() {
    let bytes = (0..=255u8).map(|byte| TokenEntry {
        text: format!("<0x{byte:02X}>").into(),
        score: 0.0,
        kind: TokenKind::Byte,
    });
    let words = ["▁word", "▁日本", "a", "<end"].map(|text| TokenEntry {
        text: text.into(),
        score: 0.0,
        kind: TokenKind::Normal,
    });
    let vocabulary = Vocabulary::new(VocabularyKind::Spm, bytes.chain(words).collect());
    let tokenizer = Tokenizer::new(&vocabulary).unwrap();
    let mut stream = tokenizer.detokenizer(DetokenizeOptions::default());
    let mut stops = StopMatcher::new(&["<end>", "\n\n\n"]).unwrap();
    let mut render = |steps: u32| {
        let mut shown = 0;
        for step in 0..steps {
            let text = stream.push(step * 7919 % tokenizer.token_count()).unwrap();
            shown += stops.push(text).text.len();
        }
        assert!(shown > 0);
    };
    render(1000);
    assert_eq!(measure(|| render(1000)).count_total, 0);
}
