//! Sessions that are saved, restored, suspended, woken and trimmed.

mod common;

use std::ops::ControlFlow;
use std::path::Path;

use anynpu_runtime::{
    GenerateOptions, KvType, LoadOptions, LoadedModel, OpenModel, RuntimeError, Session,
    SessionOptions, SnapshotError,
};
use common::runtime;
use common::testing::{VOCABULARY, llama_with_heads_of, tiny_llama};
use proptest::prelude::*;

fn load(layers: u32, kv: KvType) -> LoadedModel {
    let model = match kv {
        // whole blocks of it
        KvType::Q8_0 => llama_with_heads_of(32, layers),
        _ => tiny_llama(layers),
    };
    let open = OpenModel::new(model, None);
    runtime(vec![], 2)
        .load_open(open, LoadOptions::new().kv_type(kv))
        .expect("the model loads")
}

fn session(model: &LoadedModel) -> Session {
    model.session(SessionOptions::new()).expect("a session")
}

fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| (7 * i + 3) % VOCABULARY).collect()
}

/// Logits after putting in one token more.
fn next(session: &mut Session) -> Vec<f32> {
    session.decode(5).expect("a step");
    session.logits().expect("logits").to_vec()
}

fn unfit(result: Result<(), RuntimeError>) -> String {
    match result {
        Err(RuntimeError::Snapshot(e @ SnapshotError::Unfit { .. })) => e.to_string(),
        other => panic!("expected a file that does not fit, found {other:?}"),
    }
}

#[test]
fn a_restored_session_goes_on_as_the_saved_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("session.kv");
    for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
        let model = load(2, kv);
        let mut saved = session(&model);
        saved.prefill(&tokens(20), None).unwrap();
        saved.save(&file).unwrap();
        let expected = next(&mut saved);
        let mut restored = session(&model);
        restored.prefill(&tokens(3), None).unwrap();
        restored.restore(&file).unwrap();
        assert_eq!(restored.tokens(), tokens(20));
        let before = restored.executed().steps;
        assert_eq!(next(&mut restored), expected);
        assert_eq!(
            restored.executed().steps,
            before + 1,
            "no token is read again"
        );
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing but the file is left");
}

#[test]
fn a_cache_in_blocks_is_planned_held_and_saved_at_34_bytes_for_32_elements() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(2, KvType::Q8_0);
    assert_eq!(model.kv_dtype().name(), "q8_0");
    // keys and values of two layers with two heads of 32 elements
    let row = 2 * 2 * 2 * 34;
    assert_eq!(model.memory().kv, u64::from(row * model.context()));
    let mut one = session(&model);
    let size = |session: &mut Session| {
        let file = folder.path().join("session.kv");
        session.save(&file).unwrap();
        std::fs::metadata(file).unwrap().len()
    };
    let empty = size(&mut one);
    one.prefill(&tokens(20), None).unwrap();
    assert_eq!(size(&mut one) - empty, u64::from(20 * (row + 4)));
}

#[test]
fn a_cache_in_blocks_does_not_depend_on_chunks() {
    let model = load(2, KvType::Q8_0);
    let mut whole = session(&model);
    whole.prefill(&tokens(40), None).unwrap();
    let expected = next(&mut whole);
    for chunk in [1, 3, 16] {
        let mut parts = session(&model);
        for part in tokens(40).chunks(chunk) {
            parts.prefill(part, None).unwrap();
        }
        assert_eq!(next(&mut parts), expected, "chunks of {chunk}");
    }
}

#[test]
fn a_file_that_does_not_fit_is_refused_and_the_session_stays() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("session.kv");
    let model = load(2, KvType::F32);
    let mut one = session(&model);
    one.prefill(&tokens(20), None).unwrap();
    one.save(&file).unwrap();

    let mut other = session(&load(1, KvType::F32));
    assert!(unfit(other.restore(&file)).contains("fingerprint"));
    let mut other = session(&load(2, KvType::F16));
    assert!(unfit(other.restore(&file)).contains("the cache's type is f32; expected f16"));
    let mut blocks = session(&load(2, KvType::Q8_0));
    assert!(unfit(blocks.restore(&file)).contains("the cache's type is f32; expected q8_0"));
    let eight = folder.path().join("eight.kv");
    blocks.save(&eight).unwrap();
    assert!(unfit(one.restore(&eight)).contains("the cache's type is q8_0; expected f32"));
    let short = SessionOptions::new().context(16);
    let mut other = model.session(short).unwrap();
    other.prefill(&tokens(4), None).unwrap();
    assert!(
        unfit(other.restore(&file)).contains("the number of tokens is 20; expected at most 16")
    );
    assert_eq!(other.tokens(), tokens(4));

    let missing = other.restore(folder.path().join("none"));
    assert!(matches!(
        missing,
        Err(RuntimeError::Snapshot(SnapshotError::File { .. }))
    ));
    let nowhere = one.save(folder.path().join("no/folder"));
    assert!(matches!(
        nowhere,
        Err(RuntimeError::Snapshot(SnapshotError::File { .. }))
    ));
}

/// A saved session's bytes, and a session to restore them into.
fn damaged(file: &Path) -> (Vec<u8>, Session) {
    let model = load(1, KvType::F32);
    let mut one = session(&model);
    one.prefill(&tokens(3), None).unwrap();
    one.save(file).unwrap();
    let bytes = std::fs::read(file).unwrap();
    one.prefill(&tokens(2), None).unwrap();
    (bytes, one)
}

#[test]
fn a_file_cut_short_or_too_long_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("session.kv");
    let (bytes, mut session) = damaged(&file);
    for length in 0..bytes.len() {
        std::fs::write(&file, &bytes[..length]).unwrap();
        unfit(session.restore(&file));
    }
    std::fs::write(&file, [&bytes[..], b"x"].concat()).unwrap();
    unfit(session.restore(&file));
    assert_eq!(session.tokens().len(), 5);
    std::fs::write(&file, &bytes).unwrap();
    session.restore(&file).unwrap();
    assert_eq!(session.tokens(), tokens(3));
}

proptest! {
    #[test]
    fn a_changed_byte_is_refused(at: prop::sample::Index, with in 1u8..=255) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("session.kv");
        let (mut bytes, mut session) = damaged(&file);
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        std::fs::write(&file, &bytes).unwrap();
        unfit(session.restore(&file));
        prop_assert_eq!(session.tokens().len(), 5);
    }
}

#[test]
fn a_suspended_session_gives_its_memory_back_and_wakes_by_itself() {
    for kv in [KvType::F32, KvType::Q8_0] {
        suspend_and_wake(&load(2, kv));
    }
}

fn suspend_and_wake(model: &LoadedModel) {
    let mut never = session(model);
    never.prefill(&tokens(30), None).unwrap();
    let expected = next(&mut never);

    let mut one = session(model);
    one.prefill(&tokens(30), None).unwrap();
    one.suspend();
    assert!(one.is_suspended());
    assert!(matches!(one.logits(), Err(RuntimeError::Suspended)));
    assert_eq!(one.tokens(), tokens(30));
    assert_eq!(next(&mut one), expected);
    assert!(!one.is_suspended());

    one.suspend();
    one.resume(None).unwrap();
    let last = one.logits().unwrap().to_vec();
    assert_eq!(last, expected);
    one.suspend();
    let stop = anynpu_runtime::CancelToken::new();
    stop.cancel();
    assert!(matches!(
        one.resume(Some(&stop)),
        Err(RuntimeError::Cancelled { .. })
    ));
    assert!(one.is_suspended());
    assert_eq!(one.tokens().len(), 31);
}

#[test]
fn what_two_prompts_have_in_common_is_read_once() {
    let model = load(2, KvType::F32);
    let (mut first, mut second) = (tokens(20), tokens(20));
    first.extend([1, 2, 3]);
    second.extend([4, 5]);
    let mut one = session(&model);
    assert_eq!(one.put(&first, None).unwrap(), 0);
    assert_eq!(one.put(&second, None).unwrap(), 20);
    assert_eq!(one.tokens(), second);
    let found = one.logits().unwrap().to_vec();
    assert_eq!(
        one.put(&second, None).unwrap(),
        21,
        "the last is put in for its logits"
    );
    assert_eq!(*one.logits().unwrap(), found[..]);
    let mut fresh = session(&model);
    fresh.prefill(&second, None).unwrap();
    assert_eq!(*fresh.logits().unwrap(), found[..]);
    assert!(matches!(one.put(&[], None), Err(RuntimeError::EmptyPrompt)));
    let long = tokens(200);
    assert!(matches!(
        one.put(&long, None),
        Err(RuntimeError::PromptTooLong { .. })
    ));
    assert_eq!(one.tokens(), second, "what does not fit changes nothing");
}

#[test]
fn trimming_frees_what_is_not_used_and_nothing_is_lost() {
    let model = load(2, KvType::F32);
    let mut one = session(&model);
    one.prefill(&tokens(10), None).unwrap();
    let expected = next(&mut one);
    // a larger context is compiled apart
    let large = SessionOptions::new().context(200);
    drop(model.session(large).unwrap());
    assert!(model.trim() > 0);
    let mut two = session(&model);
    two.prefill(&tokens(10), None).unwrap();
    assert_eq!(next(&mut two), expected);
    assert_eq!(one.tokens().len(), 11);
    one.decode(1).unwrap();
}

#[test]
fn sessions_over_one_model_do_not_disturb_one_another() {
    let model = load(2, KvType::F32);
    let alone = |seed: u32| {
        let mut s = session(&model);
        let own: Vec<u32> = tokens(12).iter().map(|t| (t + seed) % VOCABULARY).collect();
        s.prefill(&own, None).unwrap();
        next(&mut s)
    };
    let expected: Vec<_> = (0..4).map(alone).collect();
    let found: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|i| scope.spawn(move || alone(i))).collect();
        runs.into_iter().map(|r| r.join().unwrap()).collect()
    });
    assert_eq!(found, expected);
}

#[test]
fn pieces_tell_how_likely_their_tokens_were() {
    let name = "pieces_tell_how_likely_their_tokens_were";
    let Some(path) = common::test_data(name, "stories260K/stories260K-F32.gguf") else {
        return;
    };
    let model = runtime(vec![], 2).load(path, LoadOptions::new()).unwrap();
    let options = GenerateOptions::greedy().max_tokens(8).probabilities(3);
    let mut seen = 0;
    session(&model)
        .generate("Once upon a time", &options, |piece| {
            let Some(token) = piece.token else {
                return ControlFlow::Continue(());
            };
            let odds: Vec<f32> = piece.alternatives.iter().map(|a| a.1).collect();
            assert_eq!(odds.len(), 3);
            assert!(odds.is_sorted_by(|a, b| a >= b) && odds.iter().sum::<f32>() <= 1.0001);
            // greedy takes the likeliest
            assert_eq!(piece.alternatives[0], (token, piece.probability.unwrap()));
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, 8);
}
