//! The conformance harness: what tests that span packages share.
//!
//! A [`Case`] is a small graph with operands and what it must give; it can be run on the reference
//! ([`run_reference`]) and on any device. It may depend on every package of the workspace but the
//! command line.
//!
//! [`conformance`] is the suite that certifies a device.
//!
//! The three main types: [`Case`], [`Tolerance`], [`Report`].

mod case;
pub mod cases;
mod compare;
pub mod conformance;
mod data;
mod device;
mod eager;
pub mod onnx;
mod report;

pub use case::{Case, Expectation, graph_of, run_reference, type_of};
pub use compare::{Agreement, Mismatch, Tolerance, compare};
pub use data::{minilm, test_data};
pub use device::{adopted, fill, maps_alone, numbers_of, run_on, run_with};
pub use eager::Eager;
pub use report::Report;
