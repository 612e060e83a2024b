//! Benchmarks of whole models.
//!
//! `benches/compare.sh` times them beside llama.cpp; results with their commands stand in
//! `benches/README.md`. [`synthetic`] makes models of real shapes with random weights, so that
//! speed can be measured without downloading any.
//!
//! It may depend on every package. The main type: [`synthetic::Shape`].

pub mod synthetic;
