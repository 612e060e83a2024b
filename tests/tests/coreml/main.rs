//! Core ML packages of models' nodes, checked by Apple's own definitions of operations.
//!
//! The checker is a program in Python that is not part of the repository: it holds a package to what coremltools knows of the
//! format and computes it operation by operation. `ANYNPU_COREML_CHECKER` says where it is, and `ANYNPU_COREML_PYTHON`
//! which Python has coremltools 9.0; `.ci/run coreml` sets both.

mod cases;
mod certified;
mod checker;
mod computed;
mod executed;
mod models;
mod mutants;
mod npz;
mod operations;
mod shapes;
mod stateful;

/// Numbers in -1..1 of a sequence.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
