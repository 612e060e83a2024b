//! What can go wrong.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anynpu_hal::{HalError, Reason, ReasonCode};
use anynpu_ir::NodeId;
use thiserror::Error;

/// A package that can't be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CoreMlError {
    /// A name that Core ML does not take.
    #[error(
        "{what} '{name}' is no identifier; expected a letter or '_', then letters, digits and '_'"
    )]
    Identifier {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A name that is taken.
    #[error("{what} '{name}' is there already")]
    Twice {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Something that came with a later system.
    #[error("{what} needs {needs} or later, the target is {target}")]
    Target {
        /// What.
        what: String,
        /// The first system that has it.
        needs: &'static str,
        /// The system that is compiled for.
        target: String,
    },
    /// Words that name no target, unit or form.
    #[error("no {what} is called '{found}'; expected {expected}")]
    Word {
        /// What should be named.
        what: &'static str,
        /// What was written.
        found: String,
        /// What could be.
        expected: String,
    },
    /// Options that don't go together, or with the model.
    #[error("{what} is {found}, expected {expected}")]
    Option {
        /// The option.
        what: String,
        /// Its value.
        found: String,
        /// What would fit.
        expected: String,
    },
    /// Nodes that can't be lowered.
    #[error("{} node(s) can't be lowered; first: '{}' ({})", nodes.len(),
        nodes.first().map_or("", |n| &n.1), nodes.first().map_or_else(String::new, |n| n.2.to_string()))]
    Refused {
        /// Each with its name and the reason.
        nodes: Vec<(NodeId, String, Reason)>,
    },
    /// A node that verdicts took for one that is lowered.
    #[error("'{node}' is not lowered: {op}")]
    NotLowered {
        /// The node.
        node: String,
        /// What it does.
        op: String,
    },
    /// A weight that can't be had or held.
    #[error("weight '{name}': {why}")]
    Weight {
        /// The weight.
        name: String,
        /// Why.
        why: String,
    },
    /// A weight with a number that f16 has not.
    #[error(
        "element {index} of weight '{name}' is {value}, of at most 65504 in f16; keep it in f32 for the CPU or scale the layer"
    )]
    Overflow {
        /// The weight.
        name: String,
        /// Which element, counted row by row.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A tensor past a limit of the format.
    #[error("'{name}' has {found} {what}, of at most {limit}")]
    Limit {
        /// The tensor.
        name: String,
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: u64,
        /// The most.
        limit: u64,
    },
    /// A file or folder.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Something that this system has not.
    #[error("{what} is not there: {why}")]
    NotThere {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// What Core ML says.
    #[error("{call} failed with {code}: {text}")]
    Vendor {
        /// The method.
        call: &'static str,
        /// Its code.
        code: i64,
        /// Its text.
        text: String,
    },
    /// Core ML did not answer in time.
    #[error("{call} gave no answer within {limit:?}")]
    Late {
        /// The method.
        call: &'static str,
        /// The longest that it may take.
        limit: Duration,
    },
    /// Memory that the system does not give.
    #[error("{call} found no memory: {text}")]
    NoMemory {
        /// The method.
        call: &'static str,
        /// What the system says.
        text: String,
    },
    /// A graph that breaks a rule of the HAL.
    #[error(transparent)]
    Hal(#[from] HalError),
    /// A graph that can't be rewritten.
    #[error(transparent)]
    Graph(#[from] anynpu_ir::GraphError),
}

impl CoreMlError {
    /// The error as device `device` tells it.
    pub fn of_device(self, device: &str) -> HalError {
        let text = self.to_string();
        let device = device.to_owned();
        match self {
            CoreMlError::Hal(e) => e,
            CoreMlError::Weight { name, why } => HalError::Weight { name, why },
            CoreMlError::Overflow { name, .. } => HalError::Weight { name, why: text },
            CoreMlError::Refused { nodes } => HalError::CompileRejected {
                device,
                nodes: nodes.into_iter().map(|(id, _, why)| (id, why)).collect(),
            },
            CoreMlError::Late { call, limit } => HalError::Timeout {
                what: format!("{call} on device '{device}'"),
                waited: limit,
                limit,
            },
            CoreMlError::NoMemory { .. } => HalError::OutOfMemory {
                device,
                // the interface does not tell how much
                bytes: 0,
                what: text,
            },
            CoreMlError::NotThere { .. } => HalError::DeviceLost { device, why: text },
            CoreMlError::Vendor { call, code, text } => HalError::Vendor {
                device,
                call: call.into(),
                code,
                text,
            },
            _ => HalError::Vendor {
                device,
                call: "Core ML".into(),
                code: 0,
                text,
            },
        }
    }

    /// The error of compiling or loading the nodes `nodes` as device `device` tells it: a refusal of them, if Core ML
    /// refused the package that they became.
    pub fn of_nodes(self, device: &str, nodes: Range<u32>) -> HalError {
        let refused = matches!(
            self,
            CoreMlError::Vendor { .. }
                | CoreMlError::Limit { .. }
                | CoreMlError::Option { .. }
                | CoreMlError::NotLowered { .. }
                | CoreMlError::Target { .. }
                | CoreMlError::Twice { .. }
                | CoreMlError::Identifier { .. }
                | CoreMlError::Overflow { .. }
                // nothing of it can be written anywhere
                | CoreMlError::Io { .. }
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
}

#[cfg(test)]
mod tests {
    use anynpu_hal::Scope;

    use super::*;

    #[test]
    fn failures_reach_as_far_as_they_do() {
        let vendor = || CoreMlError::Vendor {
            call: "predictionFromFeatures",
            code: -14,
            text: "the engine is gone (com.apple.CoreML)".into(),
        };
        assert_eq!(vendor().of_device("coreml").scope(), Scope::Device);
        assert_eq!(vendor().of_nodes("coreml", 1..3).scope(), Scope::Subgraph);
        let told = vendor().of_device("coreml").to_string();
        let expected = "device 'coreml': predictionFromFeatures failed with -14: the engine is gone (com.apple.CoreML)";
        assert_eq!(told, expected);
        let memory = || CoreMlError::NoMemory {
            call: "modelWithContentsOfURL",
            text: "Cannot allocate memory".into(),
        };
        assert_eq!(memory().of_device("coreml").scope(), Scope::Plan);
        assert_eq!(memory().of_nodes("coreml", 1..3).scope(), Scope::Plan);
        let late = CoreMlError::Late {
            call: "compileModelAtURL",
            limit: Duration::from_secs(7),
        };
        assert_eq!(late.of_nodes("coreml", 1..3).scope(), Scope::Device);
        let refused = CoreMlError::Refused {
            nodes: vec![(
                NodeId(4),
                "x".into(),
                Reason::new(ReasonCode::Rank, "of 7 dimensions"),
            )],
        };
        assert_eq!(refused.of_device("coreml").scope(), Scope::Subgraph);
        let cancelled = crate::compile::cancelled().of_device("coreml");
        assert_eq!(cancelled.scope(), Scope::Caller);
    }
}
