//! Benchmarks of kernels and of whole models.
//!
//! `cargo bench -p anynpu-bench` times kernels; `benches/compare.sh` times whole models beside
//! llama.cpp. Results with their commands stand in `benches/README.md`. [`synthetic`] makes models
//! of real shapes with random weights, so that speed can be measured without downloading any.
//!
//! It may depend on every package. The main type: [`synthetic::Shape`].

pub mod synthetic;
