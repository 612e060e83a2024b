//! Runs language models over the devices it is given.
//!
//! A [`Runtime`] opens devices; [`Runtime::load`] reads a model, plans which device runs which
//! nodes and compiles it there; a [`Session`] of the [`LoadedModel`] is one context, which takes
//! tokens and generates text. What ran where is counted by the executor and the devices.
//!
//! Of the workspace it may depend on the graphs and the HAL, never on a backend: drivers are given
//! by value.
//!
//! The three main types: [`Runtime`], [`LoadedModel`], [`Session`].

mod absent;
mod background;
mod batch;
mod cache;
mod cancel;
pub mod chat;
pub mod cost;
mod embed;
mod error;
pub mod evaluate;
mod exec;
mod explain;
mod fallback;
mod folder;
mod generate;
mod health;
pub mod knobs;
mod load_options;
pub mod memory;
mod model;
mod obstacles;
mod open;
pub mod plan;
pub mod probe;
pub mod profile;
mod runner;
mod runtime;
pub mod sample;
mod self_check;
mod session;
mod snapshot;
#[cfg(test)]
mod testing;
pub mod tokenize;

pub use anynpu_graphs::arch::Kind;
pub use batch::{Apart, Batch, BatchSteps};
pub use cancel::CancelToken;
pub use chat::{Chat, Message};
pub use embed::{Embedder, Pooling};
pub use error::RuntimeError;
pub use evaluate::{Divergence, EVALUATION_CONTEXT, EvaluateOptions, Evaluation};
pub use exec::{Executed, ExecutedDevice, Logits, SegmentRun};
pub use explain::{ExplainedNode, ExplainedVerdict, Explanation, OfPhases};
pub use fallback::Fallback;
pub use generate::{
    FinishReason, GenerateOptions, GenerationReport, MemoryUse, OnFull, Piece, Prompt, Timing,
};
pub use load_options::{
    KvType, LoadOptions, LoadProgress, LoadStage, Precision, ProgressFn, SMALL_CACHE,
};
pub use model::LoadedModel;
pub use open::{DEFAULT_CONTEXT, ModelSource, OpenModel};
pub use runtime::{Runtime, RuntimeBuilder};
pub use self_check::{CheckedKind, Outcome, SelfCheck};
pub use session::{Session, SessionOptions};
pub use snapshot::{SNAPSHOT_VERSION, SnapshotError};

/// A token's number in its model's vocabulary.
pub type TokenId = u32;
