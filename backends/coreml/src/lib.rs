//! Apple's Core ML: models as ML Programs, written on every host.
//!
//! [`package`] writes packages: the manifest, the program, its weights. It may depend on the HAL and the IR.
//!
//! The three main types: [`package::Function`], [`package::PackageWriter`], [`DeploymentTarget`].

mod error;
pub mod package;
mod target;
pub mod weights;

pub use error::CoreMlError;
pub use target::{ComputeUnits, DeploymentTarget, Platform, Precision};
