//! In the steady state, decoding allocates nothing, on whichever thread.
#![allow(unsafe_code)] // an allocator that counts

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anynpu_runtime::plan::Placement;
use anynpu_runtime::tokenize::{TokenEntry, TokenKind, Tokenizer, Vocabulary, VocabularyKind};
use anynpu_runtime::{Batch, GenerateOptions, LoadOptions, LoadedModel, OpenModel, SessionOptions};
use common::testing::{VOCABULARY, tiny_llama};
use common::{RenamedCpu, runtime};

/// The system's allocator, counting what all threads ask of it.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

fn tokenizer() -> Tokenizer {
    let token = |i: u32| TokenEntry {
        text: format!("▁t{i}").into(),
        score: 0.0,
        kind: TokenKind::Normal,
    };
    let tokens = (0..VOCABULARY).map(token).collect();
    Tokenizer::new(&Vocabulary::new(VocabularyKind::Spm, tokens)).expect("a tokenizer")
}

fn load(renamed: Vec<RenamedCpu>, threads: usize, pins: &[&str]) -> LoadedModel {
    let placement = Placement {
        pins: pins.iter().map(|p| p.parse().expect("a pin")).collect(),
        ..Placement::default()
    };
    let options = LoadOptions::new().placement(placement);
    let open = OpenModel::new(tiny_llama(3), Some(tokenizer()));
    runtime(renamed, threads)
        .load_open(open, options)
        .expect("the model loads")
}

// One test, so that nothing else allocates meanwhile.
#[test]
fn decoding_allocates_nothing_in_the_steady_state() {
    let before = allocations();
    drop(std::hint::black_box(vec![1u8; 10]));
    assert_eq!(allocations(), before + 1, "the counter sees an allocation");

    let apart = || {
        vec![RenamedCpu {
            name: "cpu2",
            shares_memory: false,
        }]
    };
    for (what, model) in [
        ("one thread", load(vec![], 1, &[])),
        ("two threads", load(vec![], 2, &[])),
        ("two devices", load(apart(), 2, &["*=cpu", "layers.1=cpu2"])),
    ] {
        let mut session = model.session(SessionOptions::new()).expect("a session");
        session.prefill(&[1, 2, 3], None).expect("a prefill");
        for token in 0..8 {
            session.decode(token).expect("a step");
        }
        // the first time a thread ever parks, its lock allocates; let all of them do so
        let (lock, never) = (parking_lot::Mutex::new(()), parking_lot::Condvar::new());
        never.wait_for(&mut lock.lock(), Duration::from_millis(50));
        let mut sum = 0.0;
        let windows: Vec<u64> = (0..5)
            .map(|_| {
                let before = allocations();
                for token in 0..16 {
                    session.decode(token).expect("a step");
                    sum += session.logits().expect("logits")[0];
                }
                allocations() - before
            })
            .collect();
        // a thread that was too busy to park before may still do so once
        let busy = windows.iter().filter(|&&n| n > 0).count();
        assert!(
            busy <= 1 && windows.iter().sum::<u64>() <= 4,
            "{what}: {windows:?}"
        );
        assert!(sum.is_finite());
        let executed = session.executed();
        let copies: u64 = executed.devices.values().map(|d| d.copies_in).sum();
        assert_eq!(copies > 0, what == "two devices");

        // and with sampling, rendering and stop texts around it
        session.truncate(0);
        let options = GenerateOptions::new().max_tokens(40).stop("never there");
        let mut marks = Vec::with_capacity(64);
        let prompt: &[u32] = &[1, 2, 3];
        let report = session
            .generate(prompt, &options, |piece| {
                marks.push((allocations(), piece.text.len()));
                ControlFlow::Continue(())
            })
            .expect("a text");
        assert_eq!(report.tokens.len(), 40);
        // all but the first few tokens, in which buffers grow to their size
        let steady = &marks[8..40];
        assert_eq!(steady[0].0, steady[31].0, "{what}: {marks:?}");
        assert!(steady.iter().any(|m| m.1 > 0));
        together(&model, what);
    }
}

/// Several sessions that go on together, or, where a step is several segments, one by one.
fn together(model: &LoadedModel, what: &str) {
    let session = |length: u32| {
        let mut session = model.session(SessionOptions::new()).expect("a session");
        let prompt: Vec<u32> = (1..=length).collect();
        session.prefill(&prompt, None).expect("a prefill");
        session
    };
    // more than attention takes at a time
    let sessions: Vec<_> = (0..40).map(|n| session(1 + n % 5)).collect();
    let mut batch = Batch::new(sessions).expect("sessions of one model");
    assert_eq!(batch.together().is_err(), what == "two devices");
    let tokens: Vec<_> = (0..40).map(|n| (n % 7 != 3).then_some(n)).collect();
    for _ in 0..4 {
        batch.decode(&tokens).expect("a step");
    }
    let mut sum = 0.0;
    let mut window = || {
        let before = allocations();
        for _ in 0..4 {
            batch.decode(&tokens).expect("a step");
            let logits = batch.sessions().map(|s| s.logits().expect("logits")[0]);
            sum += logits.sum::<f32>();
        }
        allocations() - before
    };
    let windows: Vec<u64> = (0..5).map(|_| window()).collect();
    // as above
    let busy = windows.iter().filter(|&&n| n > 0).count();
    assert!(
        busy <= 1 && windows.iter().sum::<u64>() <= 4,
        "together, {what}: {windows:?}"
    );
    assert!(sum.is_finite());
}
