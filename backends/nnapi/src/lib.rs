//! Android's Neural Networks API: models for it, and the system's runtime that runs them.
//!
//! [`model`] describes such models as plain data and [`lower`] makes them of graphs' nodes, on every host. [`exec`] runs
//! them by the runtime, `libneuralnetworks.so`, which is loaded when the program runs; [`sys`] declares its interface.
//!
//! It knows the graph and the HAL, never files of models or other backends. The three main types: [`NnapiDriver`],
//! [`model::Model`], [`FeatureLevel`].

#[cfg(any(target_os = "android", target_os = "linux"))]
mod device;
mod driver;
#[cfg(any(target_os = "android", target_os = "linux"))]
pub mod exec;
mod level;
pub mod lower;
pub mod model;
mod settings;
pub mod sys;

#[cfg(any(target_os = "android", target_os = "linux"))]
pub use device::NnapiDevice;
pub use driver::NnapiDriver;
pub use level::FeatureLevel;
pub use settings::{Preference, Priority};
