//! Reads arbitrary bytes as an importance matrix, of either form.

#![no_main]

use std::hint::black_box;

use anynpu_graphs::quant::Imatrix;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let imatrix = match Imatrix::from_vec("fuzzed", bytes.to_vec()) {
        Ok(imatrix) => imatrix,
        Err(error) => return drop(black_box(error.to_string())),
    };
    assert!(!imatrix.is_empty() && imatrix.tensors().count() == imatrix.len());
    for tensor in imatrix.tensors() {
        match imatrix.weights(tensor, 4, 1) {
            Ok(weights) => {
                let weights = weights.expect("a tensor that it lists");
                assert_eq!(weights.len(), 4);
                assert!(weights.iter().all(|w| w.is_finite() && *w >= 0.0));
            }
            Err(error) => drop(black_box(error.to_string())),
        }
        let _ = black_box(
            imatrix
                .weights(tensor, u64::MAX, u64::MAX)
                .map_err(|e| e.to_string()),
        );
    }
    black_box((imatrix.datasets(), imatrix.chunks()));
});
