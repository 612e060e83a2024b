//! The catalogue of quirks: rules of real accelerators, as data that support verdicts read.

use std::sync::OnceLock;

use anynpu_hal::{Reason, ReasonCode, Support};
use anynpu_ir::{DType, Dim, Graph, Node, Op, TensorType, ValueDef, ValueId};
use serde::Deserialize;

use crate::SimError;
use crate::description::OPS;
use crate::figure::Checker;

/// All known quirks.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalogue(Vec<Quirk>);

/// One rule that a device's table of ops does not tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Quirk {
    /// What descriptions call it.
    pub name: String,
    /// What happens, and what would fit.
    pub what: String,
    /// Where it was reported.
    pub source: String,
    code: ReasonCode,
    effect: Effect,
    rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Effect {
    /// The node does not run.
    Refused,
    /// It runs, but not as it is written.
    Emulated,
}

/// What a quirk applies to.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Rule {
    /// Masks that hold -inf in the device's type, or may.
    InfiniteMask,
    /// Ops by name, on devices that compute in a type.
    Ops {
        ops: Vec<String>,
        compute: Option<String>,
    },
    /// The last dimension of an operand or result.
    LastDimension { at_most: u32 },
    /// Any dimension of an operand.
    OperandDimension { at_most: u32 },
    /// Rows of a table that is looked up.
    TableRows { at_most: u32 },
    /// Dimensions of operands and results, of some ops or all.
    Rank {
        at_most: u32,
        #[serde(default)]
        ops: Vec<String>,
    },
    /// Ops that read or write a state.
    StatefulOps,
    /// Fixed dimensions of states.
    StateDimension { multiple_of: u32 },
    /// Any block-quantised weight.
    BlockWeights,
    /// Weights of some types.
    WeightTypes { types: Vec<String> },
    /// Bytes of the weights of one module.
    ModuleBytes { at_most: u64 },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    quirk: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    what: String,
    effect: Effect,
    code: String,
    source: String,
    rule: Rule,
}

impl Catalogue {
    /// The catalogue of this build, `backends/sim/quirks.toml`.
    pub fn shipped() -> &'static Catalogue {
        static SHIPPED: OnceLock<Catalogue> = OnceLock::new();
        SHIPPED.get_or_init(|| {
            Catalogue::parse(include_str!("../quirks.toml"), "quirks.toml")
                .expect("a test reads the catalogue of this build")
        })
    }

    /// Reads a catalogue from `text`, which errors call `origin`.
    ///
    /// # Errors
    /// Text that is no catalogue; the error names the key, its value and what would fit.
    pub fn parse(text: &str, origin: &str) -> Result<Catalogue, SimError> {
        let file: File = toml::from_str(text).map_err(|e| SimError::Syntax {
            origin: origin.to_owned(),
            text: e.to_string().trim_end().to_owned(),
        })?;
        let c = Checker { origin };
        let mut quirks: Vec<Quirk> = Vec::new();
        for entry in file.quirk {
            c.name("quirk.name", &entry.name)?;
            if quirks.iter().any(|q| q.name == entry.name) {
                return Err(c.wrong("quirk.name", &entry.name, "each name once"));
            }
            c.text("quirk.what", &entry.what)?;
            c.source("quirk", &entry.source)?;
            entry.rule.check(&c)?;
            let code = CODES.iter().find(|code| code.name() == entry.code);
            let code = code.ok_or_else(|| {
                let known: Vec<&str> = CODES.iter().map(|c| c.name()).collect();
                let expected = format!("one of {}", known.join(", "));
                c.wrong("quirk.code", entry.code.escape_debug(), expected)
            })?;
            quirks.push(Quirk {
                name: entry.name,
                what: entry.what,
                source: entry.source,
                code: *code,
                effect: entry.effect,
                rule: entry.rule,
            });
        }
        Ok(Catalogue(quirks))
    }

    /// The quirks, in the file's order.
    pub fn quirks(&self) -> &[Quirk] {
        &self.0
    }

    /// The quirk called `name`.
    pub fn find(&self, name: &str) -> Option<&Quirk> {
        self.0.iter().find(|q| q.name == name)
    }
}

impl Rule {
    fn check(&self, c: &Checker<'_>) -> Result<(), SimError> {
        let known_ops = |names: &[String]| {
            let unknown = names.iter().find(|n| !OPS.contains(&n.as_str()));
            unknown.map_or(Ok(()), |n| {
                Err(c.wrong("quirk.rule.ops", n.escape_debug(), OPS.join(", ")))
            })
        };
        let known_type = |name: &String| match name.parse::<DType>() {
            Ok(_) => Ok(()),
            Err(()) => Err(c.wrong("quirk.rule", name.escape_debug(), "an element type")),
        };
        match self {
            Rule::Ops { ops, compute } => {
                known_ops(ops)?;
                compute.iter().try_for_each(known_type)
            }
            Rule::Rank { ops, .. } => known_ops(ops),
            Rule::WeightTypes { types } => types.iter().try_for_each(known_type),
            Rule::StateDimension { multiple_of: 0 } => {
                Err(c.wrong("quirk.rule.multiple_of", 0, "1 or more"))
            }
            _ => Ok(()),
        }
    }
}

const CODES: [ReasonCode; 7] = [
    ReasonCode::DType,
    ReasonCode::Quantization,
    ReasonCode::Rank,
    ReasonCode::ShapeLimit,
    ReasonCode::Layout,
    ReasonCode::MemoryLimit,
    ReasonCode::State,
];

impl Quirk {
    /// What the quirk says of `node` on a device that computes in `compute`; nothing where it does not
    /// apply.
    pub(crate) fn verdict(&self, graph: &Graph, node: &Node, compute: DType) -> Option<Support> {
        let found = self.rule.applies(graph, node, compute)?;
        let detail = format!("{found}; {} (quirk {})", self.what, self.name);
        let reason = Reason::new(self.code, detail);
        Some(match self.effect {
            Effect::Refused => Support::No(reason),
            Effect::Emulated => Support::Emulated(reason),
        })
    }

    /// The most bytes of weights of one module, if that is what it is about.
    pub(crate) fn module_limit(&self) -> Option<u64> {
        match self.rule {
            Rule::ModuleBytes { at_most } => Some(at_most),
            _ => None,
        }
    }
}

impl Rule {
    /// What was found in `node`, if the rule applies to it.
    fn applies(&self, graph: &Graph, node: &Node, compute: DType) -> Option<String> {
        let values = || node.inputs.iter().chain(&node.outputs);
        let size = |dims: &mut dyn Iterator<Item = Dim>, at_most: u32| {
            let over = dims.filter_map(Dim::fixed).find(|n| *n > at_most)?;
            Some(format!("a dimension of {over}"))
        };
        match self {
            Rule::InfiniteMask => infinite_mask(graph, node, compute),
            Rule::Ops { ops, compute: only } => {
                let here = only.as_ref().is_none_or(|name| name == compute.name());
                let named = ops.iter().any(|op| op == node.op.name());
                (here && named).then(|| format!("{} in {compute}", node.op.name()))
            }
            Rule::LastDimension { at_most } => {
                let mut last = values().filter_map(|&v| graph.shape(v).last());
                size(&mut last, *at_most)
            }
            Rule::OperandDimension { at_most } => {
                let dims = node.inputs.iter();
                let mut dims = dims.flat_map(|&v| graph.shape(v).dims().iter().copied());
                size(&mut dims, *at_most)
            }
            Rule::TableRows { at_most } => {
                let table = match node.op {
                    Op::Embedding | Op::Gather { axis: 0 } => node.inputs.first(),
                    _ => None,
                };
                let rows = graph.shape(*table?).dims().first()?.fixed()?;
                (rows > *at_most).then(|| format!("a table of {rows} rows"))
            }
            Rule::Rank { at_most, ops } => {
                let named = ops.is_empty() || ops.iter().any(|op| op == node.op.name());
                let rank = values().map(|&v| graph.shape(v).rank()).max()?;
                let over = named && rank > *at_most as usize;
                over.then(|| format!("a tensor of {rank} dimensions"))
            }
            Rule::StatefulOps => {
                let state = node.op.states().next()?;
                Some(format!("state '{}'", graph.state(state).name))
            }
            Rule::StateDimension { multiple_of } => {
                let states = node.op.states().map(|s| graph.state(s));
                let mut odd = states.filter_map(|s| {
                    let dims = s.ty.shape.dims().iter().filter_map(|d| d.fixed());
                    let odd = { dims }.find(|n| !n.is_multiple_of(*multiple_of))?;
                    Some(format!("state '{}' with a dimension of {odd}", s.name))
                });
                odd.next()
            }
            Rule::BlockWeights => weights(graph, node)
                .find(|ty| ty.dtype.is_block())
                .map(|ty| format!("weights in {}", ty.dtype)),
            Rule::WeightTypes { types } => weights(graph, node)
                .find(|ty| types.iter().any(|t| t == ty.dtype.name()))
                .map(|ty| format!("weights in {}", ty.dtype)),
            Rule::ModuleBytes { at_most } => {
                let one = Default::default();
                let bytes = weights(graph, node).filter_map(|ty| ty.bytes(&one));
                let bytes: u64 = bytes.map(|n| n as u64).sum();
                (bytes > *at_most).then(|| format!("{bytes} bytes of weights"))
            }
        }
    }
}

/// Types of the weights that `node` reads.
pub(crate) fn weights<'g>(
    graph: &'g Graph,
    node: &'g Node,
) -> impl Iterator<Item = &'g TensorType> {
    let weight = |v: &&ValueId| matches!(graph.value(**v).def, ValueDef::Weight(_));
    node.inputs.iter().filter(weight).map(|&v| graph.ty(v))
}

/// Whether `node` makes or takes a mask that may hold -inf when computed in `compute`.
fn infinite_mask(graph: &Graph, node: &Node, compute: DType) -> Option<String> {
    let lowest = match compute {
        DType::F16 => f32::from(half::f16::MIN),
        DType::BF16 => f32::from(half::bf16::MIN),
        _ => f32::MIN,
    };
    let too_low = |hidden: f32| {
        (hidden < lowest || hidden.is_nan())
            .then(|| format!("a mask of {hidden}, below the lowest {compute} of {lowest}"))
    };
    match node.op {
        Op::CausalMask { hidden, .. } => too_low(hidden),
        Op::Attention { mask: true, .. } => {
            let mask = *node.inputs.last()?;
            match graph.value(mask).def {
                ValueDef::Node { node: maker, .. } => match graph.node(maker).op {
                    Op::CausalMask { hidden, .. } => too_low(hidden),
                    _ => Some(format!(
                        "a mask '{}' that is computed and may hold -inf",
                        graph.value(mask).name
                    )),
                },
                ValueDef::Weight(weight) => {
                    let data = graph.weight(weight).inline.as_ref();
                    let data = data.filter(|_| graph.ty(mask).dtype == DType::F32);
                    let Some(data) = data else {
                        return Some("a mask from the model's file that may hold -inf".to_owned());
                    };
                    let (numbers, _) = data.as_chunks::<4>();
                    let numbers = numbers.iter().map(|b| f32::from_le_bytes(*b));
                    numbers.filter_map(too_low).next()
                }
                ValueDef::Input => Some(format!(
                    "a mask '{}' that is given and may hold -inf",
                    graph.value(mask).name
                )),
            }
        }
        _ => None,
    }
}
