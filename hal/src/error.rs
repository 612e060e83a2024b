//! Errors of devices and what they reach.

use std::time::Duration;

use anynpu_ir::NodeId;
use thiserror::Error;

use crate::Reason;

/// What a failure takes down, and so what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One subgraph: place its nodes elsewhere.
    Subgraph,
    /// The plan: plan again with less memory.
    Plan,
    /// The device: stop using it for now.
    Device,
    /// The call was wrong; trying again or elsewhere won't help.
    Caller,
}

/// A device's failure.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum HalError {
    /// The device went away.
    #[error("device '{device}' is lost: {why}")]
    DeviceLost {
        /// Device name.
        device: String,
        /// What was seen.
        why: String,
    },
    /// Memory ran out.
    #[error("device '{device}' could not allocate {bytes} bytes for {what}")]
    OutOfMemory {
        /// Device name.
        device: String,
        /// Bytes asked for.
        bytes: u64,
        /// For what.
        what: String,
    },
    /// A wait passed its deadline.
    #[error("waited {waited:?} for {what}, longer than the limit of {limit:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The limit.
        limit: Duration,
    },
    /// Nodes that the device refused to compile.
    #[error("device '{device}' refused to compile {} node(s); first: node {} ({})",
        nodes.len(), nodes.first().map_or(0, |n| n.0.0),
        nodes.first().map_or_else(|| "no reason".to_owned(), |n| n.1.to_string()))]
    CompileRejected {
        /// Device name.
        device: String,
        /// Each refused node with its reason.
        nodes: Vec<(NodeId, Reason)>,
    },
    /// A compiled blob that the device can't load.
    #[error("device '{device}' refused a compiled blob: {why}")]
    BlobRejected {
        /// Device name.
        device: String,
        /// Why.
        why: String,
    },
    /// A weight that could not be had.
    #[error("weight '{name}': {why}")]
    Weight {
        /// Weight name.
        name: String,
        /// Why.
        why: String,
    },
    /// A submission or call that breaks the contract.
    #[error("{call}: {what} is {found}, expected {expected}")]
    InvalidUse {
        /// The call.
        call: &'static str,
        /// The argument.
        what: String,
        /// Its value.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// The caller asked to stop.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was stopped.
        what: String,
    },
    /// The device doesn't offer the call.
    #[error("device '{device}' does not offer {call}")]
    Unsupported {
        /// Device name.
        device: String,
        /// The call.
        call: &'static str,
    },
    /// A vendor library's own error.
    #[error("device '{device}': {call} failed with {code}: {text}")]
    Vendor {
        /// Device name.
        device: String,
        /// The vendor's function.
        call: String,
        /// Its code.
        code: i64,
        /// Its text.
        text: String,
    },
}

impl HalError {
    /// The device that failed, where the error tells.
    pub fn device(&self) -> Option<&str> {
        match self {
            HalError::DeviceLost { device, .. }
            | HalError::OutOfMemory { device, .. }
            | HalError::CompileRejected { device, .. }
            | HalError::BlobRejected { device, .. }
            | HalError::Unsupported { device, .. }
            | HalError::Vendor { device, .. } => Some(device),
            HalError::Timeout { .. }
            | HalError::Weight { .. }
            | HalError::InvalidUse { .. }
            | HalError::Cancelled { .. } => None,
        }
    }

    /// What the failure takes down.
    pub const fn scope(&self) -> Scope {
        match self {
            HalError::CompileRejected { .. } | HalError::BlobRejected { .. } => Scope::Subgraph,
            HalError::OutOfMemory { .. } => Scope::Plan,
            HalError::DeviceLost { .. } | HalError::Timeout { .. } | HalError::Vendor { .. } => {
                Scope::Device
            }
            HalError::Weight { .. }
            | HalError::InvalidUse { .. }
            | HalError::Cancelled { .. }
            | HalError::Unsupported { .. } => Scope::Caller,
        }
    }
}
