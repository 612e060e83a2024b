//! What goes wrong in the runtime.

use std::ops::Range;
use std::time::Duration;

use anynpu_hal::{HalError, Reason, ReasonCode};
use anynpu_ir::NodeId;
use thiserror::Error;

use crate::sys::{self, LoadError};

/// A failure of the runtime or of a driver behind it, or a model that can't be given to it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NnapiError {
    /// The runtime can't be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The runtime lacks a function.
    #[error("this runtime has no function '{call}'")]
    Missing {
        /// The function.
        call: &'static str,
    },
    /// A function failed.
    #[error("{call} of {what} failed with {} ({code})", sys::name_of(sys::RESULTS, *code))]
    Call {
        /// The function.
        call: &'static str,
        /// What it was called for.
        what: String,
        /// Its result.
        code: i32,
    },
    /// A deadline was missed.
    #[error("{call} of {what} took {waited:?}, past its deadline of {limit:?} ({})", sys::name_of(sys::RESULTS, *code))]
    Deadline {
        /// The function.
        call: &'static str,
        /// What it was called for.
        what: String,
        /// How long it took until it gave up.
        waited: Duration,
        /// The deadline that was set; what it took, if it was the driver's own.
        limit: Duration,
        /// Its result.
        code: i32,
    },
    /// A model that can't be.
    #[error("{what} is {found}, expected {expected}")]
    Model {
        /// What of it.
        what: String,
        /// What it is.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// Memory that the system does not give.
    #[error("no {bytes} bytes of shared memory for {what}: {why}")]
    Memory {
        /// How much.
        bytes: usize,
        /// For what.
        what: String,
        /// What the system said.
        why: String,
    },
    /// A weight that can't be had.
    #[error(transparent)]
    Weight(HalError),
}

impl NnapiError {
    /// The runtime's code, if it is its error.
    pub const fn code(&self) -> Option<i32> {
        match self {
            NnapiError::Call { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The error with how long the call took that failed, where it missed a deadline.
    pub(super) fn after(self, waited: Duration, limit: Option<u64>) -> NnapiError {
        match self {
            NnapiError::Call { call, what, code }
                if [
                    sys::MISSED_DEADLINE_TRANSIENT,
                    sys::MISSED_DEADLINE_PERSISTENT,
                ]
                .contains(&code) =>
            {
                NnapiError::Deadline {
                    call,
                    what,
                    waited,
                    limit: limit.map_or(waited, Duration::from_nanos),
                    code,
                }
            }
            other => other,
        }
    }

    /// The error of compiling the nodes `nodes` as device `device` tells it: a refusal of them, if the driver refused
    /// the model that they became.
    pub fn of_nodes(self, device: &str, nodes: Range<u32>) -> HalError {
        let refused = matches!(
            self.code(),
            Some(sys::BAD_DATA | sys::OP_FAILED | sys::INCOMPLETE | sys::BAD_STATE)
        );
        if !refused {
            return self.of_device(device);
        }
        let reason = self.reason();
        HalError::CompileRejected {
            device: device.into(),
            nodes: nodes.map(|n| (NodeId(n), reason.clone())).collect(),
        }
    }

    /// The error as device `device` tells it.
    pub fn of_device(self, device: &str) -> HalError {
        let text = self.to_string();
        let device = device.to_owned();
        match self {
            NnapiError::Weight(e) => e,
            NnapiError::Memory { bytes, what, .. } => HalError::OutOfMemory {
                device,
                bytes: bytes as u64,
                what,
            },
            NnapiError::Deadline {
                call,
                what,
                waited,
                limit,
                ..
            } => HalError::Timeout {
                what: format!("{call} of {what} on device '{device}'"),
                waited,
                limit,
            },
            NnapiError::Call { call, code, .. } => match code {
                sys::DEAD_OBJECT | sys::UNAVAILABLE_DEVICE => {
                    HalError::DeviceLost { device, why: text }
                }
                sys::OUT_OF_MEMORY
                | sys::RESOURCE_EXHAUSTED_TRANSIENT
                | sys::RESOURCE_EXHAUSTED_PERSISTENT => HalError::OutOfMemory {
                    device,
                    // the interface does not tell how much
                    bytes: 0,
                    what: text,
                },
                code => HalError::Vendor {
                    device,
                    call: call.into(),
                    code: i64::from(code),
                    text,
                },
            },
            NnapiError::Load(_) | NnapiError::Missing { .. } | NnapiError::Model { .. } => {
                HalError::Vendor {
                    device,
                    call: sys::LIBRARY.into(),
                    code: 0,
                    text,
                }
            }
        }
    }

    /// The error as a verdict on a node.
    pub fn reason(&self) -> Reason {
        let code = match self.code() {
            Some(
                sys::OUT_OF_MEMORY
                | sys::RESOURCE_EXHAUSTED_TRANSIENT
                | sys::RESOURCE_EXHAUSTED_PERSISTENT,
            ) => ReasonCode::MemoryLimit,
            Some(sys::DEAD_OBJECT | sys::UNAVAILABLE_DEVICE) => ReasonCode::DeviceLost,
            _ => ReasonCode::VendorRejected,
        };
        Reason::new(code, self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use anynpu_hal::Scope;

    use super::*;

    #[test]
    fn failures_reach_as_far_as_they_do() {
        let call = |code| NnapiError::Call {
            call: "execution_compute",
            what: "'m'".into(),
            code,
        };
        for (code, scope) in [
            (sys::DEAD_OBJECT, Scope::Device),
            (sys::UNAVAILABLE_DEVICE, Scope::Device),
            (sys::RESOURCE_EXHAUSTED_TRANSIENT, Scope::Plan),
            (sys::RESOURCE_EXHAUSTED_PERSISTENT, Scope::Plan),
            (sys::OUT_OF_MEMORY, Scope::Plan),
            (sys::MISSED_DEADLINE_TRANSIENT, Scope::Device),
            (sys::MISSED_DEADLINE_PERSISTENT, Scope::Device),
            (sys::OP_FAILED, Scope::Device),
        ] {
            let e = call(code).after(Duration::from_millis(7), Some(5_000_000));
            assert_eq!(e.of_device("nnapi").scope(), scope, "{code}");
        }
        let late = call(sys::MISSED_DEADLINE_TRANSIENT);
        let late = late.after(Duration::from_millis(7), Some(5_000_000));
        let told = late.of_device("nnapi").to_string();
        let expected = "waited 7ms for execution_compute of 'm' on device 'nnapi', longer than the limit of 5ms";
        assert_eq!(told, expected);
        assert_eq!(
            call(sys::OP_FAILED).of_nodes("nnapi", 1..3).scope(),
            Scope::Subgraph
        );
        assert_eq!(
            call(sys::DEAD_OBJECT).of_nodes("nnapi", 1..3).scope(),
            Scope::Device
        );
        let told = call(sys::OP_FAILED).to_string();
        assert_eq!(told, "execution_compute of 'm' failed with OP_FAILED (5)");
        let reason = call(sys::RESOURCE_EXHAUSTED_PERSISTENT).reason();
        assert_eq!(reason.code, ReasonCode::MemoryLimit);
    }
}
