//! Apple's Core ML: models as ML Programs, written on every host.
//!
//! [`compile`] writes an `.mlpackage` that Apple's own tools and frameworks load. Nothing here runs on a device. It may
//! depend on the HAL and the IR.
//!
//! - [`package`] writes packages: the manifest, the program, its weights.
//! - [`lower`] makes programs of graphs, in a form for graphics processors and one for the Neural Engine.
//! - [`weights`] holds matrices in the forms that the format has.
//! - [`plan`] tells what Core ML would run where, from records that are made on Apple's systems.
//!
//! The three main types: [`PackageOptions`], [`package::Function`], [`package::PackageWriter`].

mod compile;
mod error;
#[cfg(target_vendor = "apple")]
mod exec;
pub mod lower;
pub mod package;
pub mod plan;
mod target;
pub mod weights;

pub use compile::{
    FeatureReport, FunctionReport, HeldReport, PackageOptions, PackageReport, compile, compile_in,
};
pub use error::CoreMlError;
pub use target::{ComputeUnits, DeploymentTarget, Platform, Precision};
