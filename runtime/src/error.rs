//! Errors of running models.

use std::sync::Arc;

use anynpu_graphs::ModelError;
use anynpu_hal::{HalError, Reason, RegistryError};
use anynpu_ir::DType;
use thiserror::Error;

use crate::chat::ChatError;
use crate::profile::ProfileError;
use crate::sample::SampleError;
use crate::snapshot::SnapshotError;
use crate::tokenize::TokenizeError;

/// What can go wrong when a model is loaded, planned or run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// A device that can't be had.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// No device is left to run on.
    #[error("there is no device to run on: {why}")]
    NoDevice {
        /// What was given and excluded.
        why: String,
    },
    /// A device failed outside a step.
    #[error(transparent)]
    Device(#[from] HalError),
    /// A device failed in a step.
    #[error("device '{device}' failed at {nodes}: {source}")]
    Step {
        /// Device name.
        device: String,
        /// The first and last node it was running.
        nodes: String,
        /// What it said.
        source: HalError,
    },
    /// An earlier step never ended, so its memory can't be used any more.
    #[error("this session stopped working when a step did not end ({why}); open a new session")]
    Abandoned {
        /// What was seen then.
        why: String,
    },
    /// A model that can't be used.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A model that is to be written as GGUF and wasn't read from a Hugging Face folder.
    #[error(
        "model '{model}' was not read from a Hugging Face folder, so it isn't converted to GGUF"
    )]
    NotAFolder {
        /// The model's name.
        model: String,
    },
    /// Text that can't be tokenised, or a vocabulary that can't be used.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    /// The model has no vocabulary that can be used, so text can be neither read nor written.
    #[error("this model's vocabulary can't be used: {0}")]
    Vocabulary(Arc<TokenizeError>),
    /// A conversation that can't become a prompt.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// Options of sampling, or logits, that make no sense.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A pin that can't be read.
    #[error("pin '{pin}': {why}; expected PATTERN=DEVICE, e.g. 'layers.0-3=cpu'")]
    PinSyntax {
        /// The pin.
        pin: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A pin whose pattern fits no node.
    #[error(
        "pin '{pin}' fits no node; names are like '{example}', layers go from 0 to {last_layer}"
    )]
    PinFitsNothing {
        /// The pin.
        pin: String,
        /// A node's name.
        example: String,
        /// The last layer.
        last_layer: u32,
    },
    /// A pin or requirement names a device that is not in use.
    #[error("{what} names device '{device}', which is not in use; in use: {devices}")]
    UnknownDevice {
        /// Who names it.
        what: String,
        /// The name.
        device: String,
        /// Devices in use, separated by commas.
        devices: String,
    },
    /// Nodes that must run on a device which refuses them.
    #[error("{what} can't be kept: device '{device}' refuses {} node(s); first: {}", nodes.len(), first(nodes))]
    PinRefused {
        /// The pin or requirement.
        what: String,
        /// The device.
        device: String,
        /// Each refused node's name with the reason.
        nodes: Vec<(String, Reason)>,
    },
    /// A required device that does not run what it should.
    #[error("device '{device}' is required for {node}, but it is pinned to '{other}'")]
    RequiredElsewhere {
        /// The device.
        device: String,
        /// A node it doesn't run.
        node: String,
        /// The device that does.
        other: String,
    },
    /// What ran is not what was planned, although a device is required.
    #[error("device '{device}' is required, but what ran is not what was planned: {what}")]
    NotAsPlanned {
        /// The device.
        device: String,
        /// What was counted and what was planned.
        what: String,
    },
    /// Nodes that no device runs.
    #[error("no device in use runs {} node(s); first: {}", nodes.len(), first(nodes))]
    Unplaceable {
        /// Each node's name with the reason of the most preferred device.
        nodes: Vec<(String, Reason)>,
    },
    /// A state that devices without common memory would have to share.
    #[error(
        "state '{state}' is used on '{first}' and '{second}', which share no memory; pin all nodes of its layer to one device"
    )]
    StateSplit {
        /// State name.
        state: String,
        /// One device.
        first: String,
        /// The other.
        second: String,
    },
    /// A KV cache in blocks that the model's heads do not fill.
    #[error(
        "the head dimension of KV cache '{state}' is {found}, which is no multiple of the {block} elements of a {dtype} block; keep the KV cache in f16"
    )]
    KvHeadDim {
        /// The type asked for.
        dtype: DType,
        /// A state of the cache.
        state: String,
        /// Its head dimension.
        found: String,
        /// Elements of a block.
        block: u32,
    },
    /// A graph that the executor can't feed.
    #[error("the graph's {what} is {found}; expected {expected}")]
    Graph {
        /// The input or output.
        what: String,
        /// What it is.
        found: String,
        /// What would fit.
        expected: &'static str,
    },
    /// More memory than there is.
    #[error("{what} needs {needed} bytes, but {available} bytes are available; {remedy}")]
    Memory {
        /// What for.
        what: String,
        /// Bytes needed, as a number or in words where it overflows.
        needed: String,
        /// Bytes that can be had.
        available: u64,
        /// What to do.
        remedy: String,
    },
    /// A prompt that doesn't fit.
    #[error(
        "the prompt has {prompt} tokens, but the context of {context} tokens has room for {room}; raise the context or shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// The context's size.
        context: u32,
        /// Tokens that still fit.
        room: u32,
    },
    /// More tokens than the context holds.
    #[error("the context of {context} tokens is full")]
    ContextFull {
        /// The context's size.
        context: u32,
    },
    /// Nothing to start from.
    #[error("the prompt is empty and this model has no begin token to start from; give a prompt")]
    EmptyPrompt,
    /// A token the model doesn't have.
    #[error("token {token} is out of range: the model has {vocabulary} tokens")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocabulary: u32,
    },
    /// A model of another kind than what is asked of it needs.
    #[error("the model is {found}; {what} needs {expected}")]
    Kind {
        /// What is asked of it.
        what: &'static str,
        /// What it is.
        found: &'static str,
        /// What would do.
        expected: &'static str,
    },
    /// A session in a batch of another model.
    #[error(
        "session {session} of the batch is of '{found}', the others are of '{expected}', which was loaded by itself; a batch is of one loaded model"
    )]
    OtherModel {
        /// Its number in the batch.
        session: usize,
        /// Its model's name.
        found: String,
        /// The name of the batch's.
        expected: String,
    },
    /// An option out of range.
    #[error("{option} is {found}; expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// Its value.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// An environment variable of the wrong type.
    #[error("environment variable {name} is '{found}'; expected a {expected}")]
    Knob {
        /// Its name.
        name: &'static str,
        /// Its value.
        found: String,
        /// Its type.
        expected: &'static str,
    },
    /// Memory budgets that no placement keeps.
    #[error("no placement fits the memory budgets {budgets}; these would: {fits}")]
    OverBudget {
        /// The budgets, `DEVICE=BYTES` separated by commas.
        budgets: String,
        /// Budgets that would do.
        fits: String,
    },
    /// A profile that can't be used.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A session's file.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The session gave its memory back and was not woken.
    #[error("the session is suspended; resume it first")]
    Suspended,
    /// The caller asked to stop.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was stopped.
        what: &'static str,
    },
}

fn first(nodes: &[(String, Reason)]) -> String {
    match nodes.first() {
        Some((name, reason)) => format!("{name} ({reason})"),
        None => "none".into(),
    }
}
