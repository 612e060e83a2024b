//! Android's Neural Networks API: models for it, and the system's runtime that runs them.
//!
//! [`model`] describes such models as plain data and [`lower`] makes them of graphs' nodes, on every host. [`exec`] runs
//! them by the runtime, `libneuralnetworks.so`, which is loaded when the program runs; [`sys`] declares its interface.
//!
//! It knows the graph and the HAL, never files of models or other backends.

#[cfg(any(target_os = "android", target_os = "linux"))]
pub mod exec;
mod level;
pub mod lower;
pub mod model;
pub mod sys;

pub use level::FeatureLevel;
