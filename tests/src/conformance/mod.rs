//! The conformance suite: what a device must do to be certified, as cases that run on any
//! [`anynpu_hal::Device`].
//!
//! A case has an id that stays the same from version to version, a deadline and a check. Numbers are
//! compared with the slow reference within the bounds of [`bounds`]; everything else is what the
//! hardware abstraction layer's documentation says. A device is held to what it claims: nodes it refuses
//! are counted, nodes it claims must be right.
//!
//! The three main types: [`Suite`], [`Subject`], [`Certificate`].

mod bind;
pub mod bounds;
mod contract;
mod expect;
mod glob;
mod graphs;
mod job;
mod junit;
mod memory;
mod onnx;
mod ops;
mod outcome;
mod report;
mod runner;
mod sample;
mod states;
mod subject;
mod suite;
mod values;

pub use expect::{ExpectError, Expectations, Expected};
pub use glob::Glob;
pub use junit::junit;
pub use outcome::{Check, Finding, Outcome, Stop};
pub use report::{
    CaseRecord, Certificate, Counts, DeviceRecord, OpCounts, SCHEMA_VERSION, SuiteRecord,
};
pub use runner::{Progress, run};
pub use subject::Subject;
pub use suite::{Context, Selection, Suite, SuiteError, SuiteOptions, TestCase};
