//! Reading a GGUF file, however broken, never panics and allocates in proportion to its size.
//!
//! One test in a program of its own, since the allocator counts for the whole process.
#![allow(unsafe_code)]

mod hostile;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use anynpu_graphs::import::gguf::{Array, Gguf, GgufWriter, Value};
use anynpu_ir::{DType, block};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Files refused and files read, so that the changes are seen to give both.
static REFUSED: AtomicUsize = AtomicUsize::new(0);
static READ: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is handed to the system's allocator unchanged; counting touches no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and `at` came from the system.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may live at the same time.
        grow(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`, and `at` came from the system.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Reads the file and all that is in it; the most bytes held meanwhile over those held before.
fn peak_of_reading(bytes: Vec<u8>) -> usize {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    walk(bytes);
    PEAK.load(Ordering::Relaxed) - before
}

fn walk(bytes: Vec<u8>) {
    let Ok(file) = Gguf::from_vec("mutated", bytes).map_err(|e| black_box(e.to_string())) else {
        REFUSED.fetch_add(1, Ordering::Relaxed);
        return;
    };
    READ.fetch_add(1, Ordering::Relaxed);
    for (key, value) in file.metadata().iter() {
        assert!(file.metadata().get(key).is_some());
        black_box(value.to_string());
        if let Value::Array(array) = value {
            walk_array(array);
        }
        let _ = black_box(file.metadata().find::<Vec<&[u8]>>(key));
        let _ = black_box(file.metadata().find::<u32>(key));
    }
    let mut out = [0.0; 256];
    for tensor in file.tensors() {
        assert!(file.tensor(tensor.name()).is_some());
        let _ = black_box(tensor.tensor_type());
        if let (Ok(dtype), Ok(data)) = (tensor.dtype(), tensor.data())
            && tensor.dims().first().is_some_and(|&n| n <= 256)
        {
            let row = tensor.dims()[0] as usize;
            let _ = black_box(block::dequantize_row(dtype, data, 0, &mut out[..row]));
        }
    }
}

fn walk_array(array: Array<'_>) {
    assert_eq!(array.iter().count(), array.len());
    for element in array.iter().take(100) {
        if let Value::Array(inner) = element {
            walk_array(inner);
        }
    }
}

/// A file as models have them: a vocabulary, some tensors.
fn model() -> Vec<u8> {
    let mut plan = GgufWriter::new();
    plan.set("general.architecture", "llama").unwrap();
    let tokens: Vec<String> = (0..200).map(|i| format!("token {i}")).collect();
    plan.set("tokenizer.ggml.tokens", &tokens).unwrap();
    plan.set("tokenizer.ggml.scores", &vec![0.25f32; 200])
        .unwrap();
    let names: Vec<String> = (0..12).map(|i| format!("blk.{i}.attn_q.weight")).collect();
    for name in &names {
        plan.tensor(name, DType::Q4_0, &[64, 4]).unwrap();
    }
    let mut out = plan.begin(Vec::new()).unwrap();
    for name in &names {
        out.append(name, &[0x5a; 144]).unwrap();
    }
    out.finish().unwrap()
}

#[derive(Clone, Debug)]
enum Change {
    Cut,
    Flip { bit: u8 },
    Byte(u8),
    Word(u32),
    Long(u64),
    Insert(Vec<u8>),
    Remove(usize),
    Repeat(usize),
}

fn change() -> impl Strategy<Value = (f64, Change)> {
    let interesting = prop_oneof![
        Just(0u64),
        Just(1),
        Just(u64::MAX),
        Just(u64::MAX - 31),
        Just(1 << 63),
        Just(1 << 61),
        Just(1 << 32),
        0u64..70000,
        any::<u64>(),
    ];
    let change = prop_oneof![
        1 => Just(Change::Cut),
        2 => (0u8..8).prop_map(|bit| Change::Flip { bit }),
        2 => any::<u8>().prop_map(Change::Byte),
        2 => (0u32..45).prop_map(Change::Word),
        3 => interesting.prop_map(Change::Long),
        1 => proptest::collection::vec(any::<u8>(), 1..40).prop_map(Change::Insert),
        1 => (1usize..100).prop_map(Change::Remove),
        1 => (1usize..400).prop_map(Change::Repeat),
    ];
    // Most of what the reader looks at stands at the beginning.
    ((0.0f64..1.0).prop_map(|x| x * x), change)
}

fn apply(bytes: &mut Vec<u8>, place: f64, change: &Change) {
    let at = (place * bytes.len() as f64) as usize;
    let end = |n: usize| (at + n).min(bytes.len());
    match change {
        Change::Cut => bytes.truncate(at),
        Change::Flip { bit } => {
            if let Some(b) = bytes.get_mut(at) {
                *b ^= 1 << bit;
            }
        }
        Change::Byte(new) => {
            if let Some(b) = bytes.get_mut(at) {
                *b = *new;
            }
        }
        Change::Word(n) => {
            let end = end(4);
            bytes[at..end].copy_from_slice(&n.to_le_bytes()[..end - at]);
        }
        Change::Long(n) => {
            let end = end(8);
            bytes[at..end].copy_from_slice(&n.to_le_bytes()[..end - at]);
        }
        Change::Insert(new) => {
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Remove(n) => {
            bytes.drain(at..end(*n));
        }
        Change::Repeat(n) => {
            let again = bytes[at..end(*n)].to_vec();
            bytes.splice(at..at, again);
        }
    }
}

/// As many of the smallest entries as fit: the worst that a header can ask for.
fn many_entries(count: u64) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend_from_slice(&0u64.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    for _ in 0..count {
        bytes.extend_from_slice(&[0; 13]);
    }
    bytes
}

fn many_tensors(count: u64) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(&0u64.to_le_bytes());
    for _ in 0..count {
        bytes.extend_from_slice(&[0; 24]);
    }
    bytes
}

#[test]
fn reading_broken_files_allocates_in_proportion_to_their_size() {
    let allowed = |len: usize| 16 * len + 16 * 1024;
    let check = |name: &str, bytes: Vec<u8>| {
        let (len, peak) = (bytes.len(), peak_of_reading(bytes));
        assert!(
            peak <= allowed(len),
            "{name}: {peak} bytes allocated for a file of {len}"
        );
    };
    for case in hostile::cases() {
        check(case.name, case.bytes);
    }
    check("many entries", many_entries(100_000));
    check("many tensors", many_tensors(100_000));
    let huge = hostile::cases()
        .into_iter()
        .find(|c| c.name == "sound")
        .unwrap()
        .bytes;
    assert!(peak_of_reading(huge) > 0, "the allocator doesn't count");

    let bases = [model(), hostile::sound()];
    let config = Config {
        cases: 4096,
        failure_persistence: None,
        ..Config::default()
    };
    let strategy = (0..bases.len(), proptest::collection::vec(change(), 1..4));
    TestRunner::new(config)
        .run(&strategy, |(base, changes)| {
            let mut bytes = bases[base].clone();
            for (place, change) in &changes {
                apply(&mut bytes, *place, change);
            }
            let (len, peak) = (bytes.len(), peak_of_reading(bytes));
            prop_assert!(peak <= allowed(len), "{} for a file of {}", peak, len);
            Ok(())
        })
        .unwrap();
    let (read, refused) = (
        READ.load(Ordering::Relaxed),
        REFUSED.load(Ordering::Relaxed),
    );
    assert!(
        read > 300 && refused > 300,
        "{read} read, {refused} refused: the changes should give both"
    );
}
