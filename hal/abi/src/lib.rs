//! The C interface between anynpu and backends that are built apart from it: plugins.
//!
//! A plugin is a shared library with one symbol, `anynpu_backend_query`. It gives a table of functions,
//! [`anynpu_backend`]; what it needs of anynpu comes in another, [`anynpu_host`]. C compilers take the same interface
//! from `hal/include/anynpu.h`, which is made from this package; names are C's for that reason. This package declares
//! only: it has no dependencies, needs no standard library, and runs nothing.
//!
//! The three main types: [`anynpu_backend`], [`anynpu_graph`], [`anynpu_submission`].
//!
#![doc = include_str!("../rules.md")]
#![no_std]
#![allow(non_camel_case_types)] // the names are C's

mod backend;
mod codes;
mod device;
mod graph;
mod host;
#[cfg(target_pointer_width = "64")]
mod layout;

pub use backend::*;
pub use codes::*;
pub use device::*;
pub use graph::*;
pub use host::*;

/// Nothing: an object that only its maker knows.
pub use core::ffi::c_void;
