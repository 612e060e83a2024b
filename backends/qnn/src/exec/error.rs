//! What goes wrong in the library.

use std::ops::Range;

use anynpu_hal::{HalError, Reason, ReasonCode};
use anynpu_ir::NodeId;
use thiserror::Error;

use crate::htp::GraphError;
use crate::sys::LoadError;

/// A failure of the library, or a use of it that it would not survive.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QnnError {
    /// The library can't be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The library lacks a function.
    #[error("the library has no function '{call}'")]
    Missing {
        /// The function.
        call: &'static str,
    },
    /// A function failed.
    #[error("{call} of {what} failed with {code}: {text}")]
    Call {
        /// The function.
        call: &'static str,
        /// What it was called for.
        what: String,
        /// The library's code.
        code: u64,
        /// The library's text.
        text: String,
    },
    /// A graph that can't be.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A name that C can't hold.
    #[error("the name '{name}' has a NUL in it")]
    Name {
        /// The name.
        name: String,
    },
    /// A buffer of another size than its tensor.
    #[error("{what} has {found} bytes, its tensor {expected}")]
    Size {
        /// Which buffer.
        what: String,
        /// Its size.
        found: usize,
        /// The tensor's size.
        expected: usize,
    },
    /// No memory for inputs and outputs.
    #[error("{from} has no {bytes} bytes for inputs and outputs")]
    Memory {
        /// How much.
        bytes: usize,
        /// Where it was to come from.
        from: String,
    },
    /// A wrong number of buffers.
    #[error("{found} {what} were given to a graph of {expected}")]
    Count {
        /// Inputs or outputs.
        what: &'static str,
        /// How many.
        found: usize,
        /// How many there are.
        expected: usize,
    },
    /// A compiled form that can't be used.
    #[error("compiled form: {what} is {found}, expected {expected}")]
    Binary {
        /// What of it.
        what: &'static str,
        /// What it is.
        found: String,
        /// What would fit.
        expected: String,
    },
}

/// The library has no memory, or can't make an op.
pub(super) const NO_MEMORY: u64 = 1002;
/// Codes of a backend that finds no chip.
const NO_BACKEND: u64 = 4000;
/// First and last codes that concern compiled forms.
const BINARY: std::ops::RangeInclusive<u64> = 30_000..=30_999;

impl QnnError {
    /// The library's code, if it is its error.
    pub const fn code(&self) -> Option<u64> {
        match self {
            QnnError::Call { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the library finds no chip that it could use.
    pub const fn finds_no_chip(&self) -> bool {
        matches!(self.code(), Some(NO_BACKEND))
    }

    /// The error of compiling the nodes `nodes` as device `device` tells it: a refusal of them, if the library refused
    /// the graph that they became.
    pub fn of_nodes(self, device: &str, nodes: Range<u32>) -> HalError {
        let refused = matches!(
            &self,
            QnnError::Call {
                call: "tensorCreateGraphTensor"
                    | "backendValidateOpConfig"
                    | "graphAddNode"
                    | "graphFinalize",
                ..
            }
        );
        if !refused {
            return self.of_device(device);
        }
        let reason = Reason::new(ReasonCode::VendorRejected, self.to_string());
        HalError::CompileRejected {
            device: device.into(),
            nodes: nodes.map(|n| (NodeId(n), reason.clone())).collect(),
        }
    }

    /// The error as device `device` tells it.
    pub fn of_device(self, device: &str) -> HalError {
        let device = device.to_owned();
        match self {
            QnnError::Call {
                code: NO_BACKEND,
                text,
                ..
            } => HalError::DeviceLost { device, why: text },
            QnnError::Call { code, text, .. } if BINARY.contains(&code) => {
                HalError::BlobRejected { device, why: text }
            }
            QnnError::Call {
                call, code, text, ..
            } => HalError::Vendor {
                device,
                call: call.into(),
                code: i64::try_from(code).unwrap_or(i64::MAX),
                text,
            },
            QnnError::Memory { bytes, from } => HalError::OutOfMemory {
                device,
                bytes: bytes as u64,
                what: format!("inputs and outputs by {from}"),
            },
            QnnError::Binary { .. } => HalError::BlobRejected {
                device,
                why: self.to_string(),
            },
            other => HalError::Vendor {
                device,
                call: "libQnnHtp".into(),
                code: 0,
                text: other.to_string(),
            },
        }
    }

    /// The error as a verdict on a node.
    pub fn reason(&self) -> Reason {
        let code = match self.code() {
            Some(NO_MEMORY) => ReasonCode::MemoryLimit,
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
        let call = |code| QnnError::Call {
            call: "graphExecute",
            what: "'g'".into(),
            code,
            text: "no".into(),
        };
        let HalError::CompileRejected { nodes, .. } = QnnError::Call {
            call: "graphFinalize",
            what: "'g'".into(),
            code: NO_MEMORY,
            text: "no".into(),
        }
        .of_nodes("qnn", 3..5) else {
            panic!("what the library can't compile is no lost device");
        };
        assert_eq!(nodes.iter().map(|n| n.0.0).collect::<Vec<_>>(), [3, 4]);
        assert!(nodes[0].1.detail.contains("graphFinalize of 'g'"));
        assert_eq!(call(6000).of_nodes("qnn", 3..5).scope(), Scope::Device);
        let scope = |code| call(code).of_device("qnn").scope();
        assert_eq!(scope(NO_BACKEND), Scope::Device);
        assert!(call(NO_BACKEND).finds_no_chip() && !call(6000).finds_no_chip());
        assert_eq!(scope(30_010), Scope::Subgraph);
        assert_eq!(scope(6000), Scope::Device);
        assert!(
            call(6000)
                .to_string()
                .contains("graphExecute of 'g' failed with 6000: no")
        );
    }
}
