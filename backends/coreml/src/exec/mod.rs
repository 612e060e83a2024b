//! Running functions: what is the same wherever they run, and on Apple's systems Core ML itself.
//!
//! A [`CoreMlModule`]'s functions are run through [`Engine`], which Core ML is on Apple's systems (`apple`, which was
//! type-checked only: nobody has run it on such a system yet). Tests have another one on every host.
#![allow(unsafe_code)] // buffers are mapped, and Core ML's methods are called, here

#[cfg(target_vendor = "apple")]
mod apple;
mod engine;
mod numbers;
mod program;
mod run;
mod staged;
mod states;
mod surface;

#[cfg(target_vendor = "apple")]
pub(crate) use apple::compute_plan;
#[cfg(not(target_vendor = "apple"))]
pub(crate) use engine::not_apple;
pub use engine::{
    ArrayMemory, Engine, Given, Loaded, Model, StateMemory, System, Taken, system_engine,
};
pub(crate) use program::Program;
pub use run::CoreMlModule;
pub(crate) use run::CoreMlQueue;
pub(crate) use states::{Package, StateBuffer};
