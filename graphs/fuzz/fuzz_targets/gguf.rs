//! Reads arbitrary bytes as a GGUF file and everything that a file which is accepted holds.

#![no_main]

use std::hint::black_box;

use anynpu_graphs::arch;
use anynpu_graphs::import::gguf::{Array, Gguf, Value};
use anynpu_ir::block;
use libfuzzer_sys::fuzz_target;

/// Tensors of up to this many elements are decoded.
const SMALL: u64 = 4096;

fuzz_target!(|bytes: &[u8]| {
    let file = match Gguf::from_vec("fuzzed", bytes.to_vec()) {
        Ok(file) => file,
        Err(error) => {
            black_box(error.to_string());
            return;
        }
    };
    metadata(&file);
    tensors(&file);
    let _ = black_box(arch::build(&file).map_err(|e| e.to_string()));
});

fn metadata(file: &Gguf) {
    let m = file.metadata();
    assert_eq!(m.iter().count(), m.len());
    for (key, value) in m.iter() {
        black_box(value.to_string());
        assert_eq!(m.get(key).map(|v| v.value_type()), Some(value.value_type()));
        let _ = black_box(m.find::<u32>(key).map_err(|e| e.to_string()));
        let _ = black_box(m.find::<&str>(key).map_err(|e| e.to_string()));
        let _ = black_box(m.find::<Vec<&[u8]>>(key).map_err(|e| e.to_string()));
        let _ = black_box(m.find::<Vec<f32>>(key).map_err(|e| e.to_string()));
        if let Value::Array(array) = value {
            walk(array);
        }
    }
}

fn walk(array: Array<'_>) {
    assert_eq!(array.iter().count(), array.len());
    assert!(array.get(array.len()).is_none());
    for element in array.iter().take(64) {
        if let Value::Array(inner) = element {
            walk(inner);
        }
    }
}

fn tensors(file: &Gguf) {
    let len = file.file().len() as u64;
    let mut ranges = Vec::new();
    for tensor in file.tensors() {
        assert!(file.tensor(tensor.name()).is_some());
        let bytes = tensor.byte_len().unwrap_or(1);
        let end = tensor.offset() + bytes;
        assert!(end <= len && tensor.offset().is_multiple_of(file.alignment()));
        ranges.push((tensor.offset(), end));
        let _ = black_box(tensor.tensor_type().map_err(|e| e.to_string()));
        let (Ok(dtype), Ok(data)) = (tensor.dtype(), tensor.data()) else {
            continue;
        };
        assert_eq!(data.len() as u64, bytes);
        if block::is_decodable(dtype) && tensor.elements() <= SMALL {
            let mut out = vec![0.0; tensor.elements() as usize];
            block::dequantize(dtype, data, &mut out).expect("a checked tensor decodes");
            black_box(out);
        }
    }
    ranges.sort_unstable();
    assert!(
        ranges.windows(2).all(|w| w[0].1 <= w[1].0),
        "tensors overlap"
    );
}
