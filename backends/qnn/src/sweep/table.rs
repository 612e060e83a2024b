//! What came of trying a chip.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::forms;
use crate::htp::{DataType, Encoding, Graph, Node, TensorKind};

/// What came of a form.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Verdict {
    /// Its results are within the bound.
    Right {
        /// How far off they are.
        error: f64,
    },
    /// The library said no.
    Refused {
        /// Its code.
        code: u64,
        /// What it said.
        why: String,
    },
    /// The library said yes, and could not compile it.
    NotCompiled {
        /// Its code.
        code: u64,
        /// What it said.
        why: String,
    },
    /// It was compiled, and did not run.
    Failed {
        /// The library's code.
        code: u64,
        /// What it said.
        why: String,
    },
    /// It ran, and its results are not what they must be.
    Wrong {
        /// How far off they are.
        error: f64,
        /// How far off they may be.
        bound: f64,
    },
    /// It ended the process.
    Crashed {
        /// How that ended.
        how: String,
    },
    /// The chip can't do it for a known reason.
    NotTried {
        /// The reason.
        why: String,
    },
}

impl Verdict {
    /// Its code in tables.
    pub const fn code(&self) -> &'static str {
        match self {
            Verdict::Right { .. } => "right",
            Verdict::Refused { .. } => "refused",
            Verdict::NotCompiled { .. } => "not_compiled",
            Verdict::Failed { .. } => "failed",
            Verdict::Wrong { .. } => "wrong",
            Verdict::Crashed { .. } => "crashed",
            Verdict::NotTried { .. } => "not_tried",
        }
    }

    /// As the end of a sentence.
    pub fn told(&self) -> String {
        match self {
            Verdict::Right { .. } => "right".into(),
            Verdict::Refused { code, why } => format!("refused ({code}, {why})"),
            Verdict::NotCompiled { code, why } => {
                format!("accepted but not compiled ({code}, {why})")
            }
            Verdict::Failed { code, why } => format!("compiled but not run ({code}, {why})"),
            Verdict::Wrong { error, bound } => {
                format!("computed wrong without a word (off by {error}, of at most {bound})")
            }
            Verdict::Crashed { how } => format!("the end of the process ({how})"),
            Verdict::NotTried { why } => format!("not tried ({why})"),
        }
    }

    /// Whether the form may be used.
    pub const fn is_right(&self) -> bool {
        matches!(self, Verdict::Right { .. })
    }
}

/// What a chip computes right, by one library.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupportTable {
    /// [`SupportTable::VERSION`].
    pub version: u32,
    /// The library: core API and build.
    pub library: String,
    /// The chip's name.
    pub soc: String,
    /// Verdicts by the names of forms.
    pub forms: BTreeMap<String, Verdict>,
}

/// A table that can't be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TableError {
    /// No table in JSON.
    #[error("no table of support: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another version, library or chip.
    #[error("the table's {what} is {found}, expected {expected}")]
    Other {
        /// What of it.
        what: &'static str,
        /// What it is.
        found: String,
        /// What would fit.
        expected: String,
    },
}

impl SupportTable {
    /// The version of tables, which is another one whenever forms or bounds change.
    pub const VERSION: u32 = 3;

    /// The table of `soc` by `library`.
    pub fn new(library: String, soc: &str, forms: Vec<(String, Verdict)>) -> SupportTable {
        SupportTable {
            version: SupportTable::VERSION,
            library,
            soc: soc.into(),
            forms: forms.into_iter().collect(),
        }
    }

    /// The table in `bytes`, if it is that of `soc` by `library`.
    ///
    /// # Errors
    /// Bytes that are none, or another's.
    pub fn parse(bytes: &[u8], library: &str, soc: &str) -> Result<SupportTable, TableError> {
        let table: SupportTable = serde_json::from_slice(bytes)?;
        let same = |what, found: &str, expected: &str| match found == expected {
            true => Ok(()),
            false => Err(TableError::Other {
                what,
                found: found.into(),
                expected: expected.into(),
            }),
        };
        let (found, expected) = (table.version, SupportTable::VERSION);
        same("version", &found.to_string(), &expected.to_string())?;
        same("library", &table.library, library)?;
        same("chip", &table.soc, soc)?;
        Ok(table)
    }

    /// Why `graph` is not to be computed there: a node of it is in a form that did not come out right. Of forms that
    /// were not tried nothing is said.
    pub fn obstacle(&self, graph: &Graph) -> Option<String> {
        graph.nodes.iter().find_map(|node| {
            let ids = tried().get(&key(graph, node))?;
            let verdicts = ids.iter().filter_map(|id| Some((id, self.forms.get(id)?)));
            let mut not_right = verdicts.filter(|(_, verdict)| !verdict.is_right());
            let (id, verdict) = not_right.next()?;
            let (name, soc) = (&node.name, &self.soc);
            Some(format!(
                "'{name}' needs {id}, which was {} on {soc}",
                verdict.told()
            ))
        })
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        // names and numbers can't fail to be written
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// What an operation is tried as: its type, what it reads first, and how the weights beside that are held.
fn key(graph: &Graph, node: &Node) -> String {
    let tensor = |i: usize| node.inputs.get(i).and_then(|id| graph.get(*id));
    let first = tensor(0).map_or((DataType::F32, 0), |t| (t.dtype, t.dims.len()));
    let weights = match tensor(1) {
        Some(t) if matches!(t.kind, TensorKind::Static(_)) => match &t.encoding {
            Encoding::None => t.dtype.name(),
            Encoding::Scale { .. } => "one scale",
            Encoding::Channels { .. } => "channels",
            Encoding::NarrowChannels { .. } => "narrow channels",
            Encoding::Blocks { .. } => "blocks",
            Encoding::Factored { .. } => "factored",
        },
        _ => "",
    };
    format!("{} {} {} {weights}", node.op, first.0.name(), first.1)
}

/// The names of all forms by what they are tried as.
fn tried() -> &'static BTreeMap<String, Vec<String>> {
    static TRIED: OnceLock<BTreeMap<String, Vec<String>>> = OnceLock::new();
    TRIED.get_or_init(|| {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        // that all of them mean something is what a test holds
        for form in forms().unwrap_or_default() {
            for node in &form.graph.nodes {
                all.entry(key(&form.graph, node))
                    .or_default()
                    .push(form.id());
            }
        }
        all
    })
}
