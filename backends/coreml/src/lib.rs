//! Apple's Core ML: models as ML Programs, written on every host, and run on Apple's systems.
//!
//! [`compile`] writes an `.mlpackage` that Apple's own tools and frameworks load; [`CoreMlDriver`] has Core ML run parts of
//! models. It may depend on the HAL and the IR.
//!
//! - [`package`] writes packages: the manifest, the program, its weights.
//! - [`lower`] makes programs of graphs, in a form for graphics processors and one for the Neural Engine.
//! - [`weights`] holds matrices in the forms that the format has.
//! - [`plan`] tells what Core ML would run where, from records that are made on Apple's systems.
//! - [`binding`] says what a run of a function is given and where its results go.
//! - [`exec`] runs functions, by an [`exec::Engine`] that is Core ML on Apple's systems.
//!
//! The three main types: [`PackageOptions`], [`package::PackageWriter`], [`CoreMlDriver`].

pub mod binding;
mod compile;
mod device;
mod driver;
mod entries;
mod error;
pub mod exec;
mod kept;
pub mod lower;
pub mod package;
pub mod plan;
mod target;
pub mod weights;

pub use compile::{
    FeatureReport, FunctionReport, HeldReport, PackageOptions, PackageReport, compile, compile_in,
};
pub use device::CoreMlDevice;
pub use driver::{CACHE_LIMIT, CoreMlDriver};
pub use error::CoreMlError;
pub use target::{ComputeUnits, DeploymentTarget, Platform, Precision};
