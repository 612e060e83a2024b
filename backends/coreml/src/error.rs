//! What can go wrong.

use std::path::PathBuf;

use anynpu_hal::{HalError, Reason};
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
    /// A graph that breaks a rule of the HAL.
    #[error(transparent)]
    Hal(#[from] HalError),
    /// A graph that can't be rewritten.
    #[error(transparent)]
    Graph(#[from] anynpu_ir::GraphError),
}
