//! Reads arbitrary bytes as a safetensors file, and as the index of files that are sound.

#![no_main]

use std::hint::black_box;

use anynpu_graphs::import::safetensors::{SafeTensors, Shards};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match SafeTensors::from_vec("fuzzed", bytes.to_vec()) {
        Ok(file) => walk(&file),
        Err(error) => drop(black_box(error.to_string())),
    }
    let empty = || SafeTensors::from_vec("empty", b"\x02\0\0\0\0\0\0\0{}".to_vec());
    let joined = Shards::join("fuzzed".into(), bytes, |name| {
        assert!(!name.contains(['/', '\\', ':', '\0']) && name != "..");
        empty()
    });
    let _ = black_box(joined.map_err(|e| e.to_string()));
});

fn walk(file: &SafeTensors) {
    let len = file.file().len() as u64;
    let mut ranges = Vec::new();
    for tensor in file.tensors() {
        assert!(file.tensor(tensor.name()).is_some());
        assert_eq!(tensor.data().len() as u64, tensor.byte_len());
        ranges.push((tensor.offset(), tensor.offset() + tensor.byte_len()));
        let _ = black_box(tensor.tensor_type().map_err(|e| e.to_string()));
    }
    ranges.sort_unstable();
    // no overlaps, no holes, nothing left over
    assert!(ranges.windows(2).all(|w| w[0].1 == w[1].0));
    assert!(ranges.last().is_none_or(|last| last.1 == len));
    for tensor in file.tensors() {
        tensor.release();
    }
}
