//! Android's Neural Networks API: the system's runtime for devices of phones.
//!
//! [`sys`] declares its interface and loads it, `libneuralnetworks.so`, when the program runs.
//!
//! It knows the graph and the HAL, never files of models or other backends.

mod level;
pub mod sys;

pub use level::FeatureLevel;
