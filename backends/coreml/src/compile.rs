//! Models as packages.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anynpu_hal::{Bounds, Entry, Extent, HalError, WeightSource};
use anynpu_ir::{Graph, Op, Symbol, SymbolValues, decompose_where};
use serde::Serialize;

use crate::lower::{self, Form, Rotation, States, Totals};
use crate::package::{Description, Feature, PackageWriter};
use crate::plan::NodeResults;
use crate::weights::WeightForm;
use crate::{ComputeUnits, CoreMlError, DeploymentTarget, Precision};

/// How a model is written.
#[derive(Clone, Debug, PartialEq)]
pub struct PackageOptions {
    /// The oldest system that it is for.
    pub target: DeploymentTarget,
    /// The processors that it is written for.
    pub units: ComputeUnits,
    /// What it computes in. The Neural Engine has F16 alone.
    pub precision: Precision,
    /// How matrices are held.
    pub weights: WeightForm,
    /// Where keys and values are. Unless it is told: in states of the program where the target and the units have them and
    /// it computes in F16, which states have; else with the caller.
    pub states: Option<States>,
    /// Positions that there is room for; of an encoder the tokens of a text.
    pub context: u32,
    /// Tokens of the further functions, `prefill_<T>`, of encoders `tokens_<T>`. Targets before iOS 18 have none.
    pub steps: Vec<u32>,
    /// What the package says it is.
    pub description: String,
}

impl PackageOptions {
    /// For `target` with room for `context` positions, everything else as it is best for most.
    pub fn new(target: DeploymentTarget, context: u32) -> Self {
        PackageOptions {
            target,
            units: ComputeUnits::All,
            precision: Precision::F16,
            weights: WeightForm::Model,
            states: None,
            context,
            steps: Vec::new(),
            description: String::new(),
        }
    }

    /// The form that `graph` is lowered to.
    ///
    /// # Errors
    /// Options that do not go together.
    pub fn form(&self, graph: &Graph) -> Result<Form, CoreMlError> {
        let wrong = |what: &str, found: String, expected: &str| CoreMlError::Option {
            what: what.into(),
            found,
            expected: expected.into(),
        };
        let engine = self.units == ComputeUnits::NeuralEngine;
        if engine && self.precision != Precision::F16 {
            let found = self.precision.to_string();
            return Err(wrong("the precision for the Neural Engine", found, "f16"));
        }
        if self.context == 0 || self.context > i32::MAX as u32 / 4 {
            let found = self.context.to_string();
            return Err(wrong(
                "the context",
                found,
                "1 or more, and fewer than 2^29",
            ));
        }
        if engine && !self.context.is_multiple_of(32) {
            let found = self.context.to_string();
            let expected = "a multiple of 32, as rows are 64 bytes there";
            return Err(wrong("the context for the Neural Engine", found, expected));
        }
        let native = self.target.has_ios18() && !engine && self.precision == Precision::F16;
        let states = match self.states {
            Some(States::Native) if engine => {
                let expected = "caller, as it writes no state";
                return Err(wrong(
                    "states for the Neural Engine",
                    "native".into(),
                    expected,
                ));
            }
            Some(States::Native) => {
                self.target.need_ios18("a state")?;
                States::Native
            }
            Some(States::Caller) => States::Caller,
            None if native => States::Native,
            None => States::Caller,
        };
        Ok(Form {
            target: self.target,
            engine,
            precision: self.precision,
            weights: self.weights,
            states,
            padded: graph.states().is_empty(),
        })
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PackageReport {
    /// The system.
    pub target: String,
    /// The processors.
    pub units: &'static str,
    /// What it computes in.
    pub precision: &'static str,
    /// Positions that there is room for.
    pub context: u32,
    /// Where keys and values are: `native`, `caller`, or `none` of an encoder.
    pub states: &'static str,
    /// Its functions, the first of which is loaded unless another is asked for.
    pub functions: Vec<FunctionReport>,
    /// Bytes of the file of weights.
    pub weight_bytes: u64,
    /// Bytes of the specification.
    pub model_bytes: u64,
    /// Weights by how they are held.
    pub weights: Vec<HeldReport>,
    /// The root of the mean square of what that changed, as a share of that of the weights.
    pub added_error: f64,
    /// Rotations whose cosines and sines the caller gives, in the order of `cos` and `sin`, `cos_1` and `sin_1`, ….
    #[serde(skip)]
    pub rotations: Vec<Rotation>,
}

/// A function of a package.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FunctionReport {
    /// Its name.
    pub name: String,
    /// Tokens of a step.
    pub tokens: u32,
    /// What it is given.
    pub inputs: Vec<FeatureReport>,
    /// What it gives.
    pub outputs: Vec<FeatureReport>,
    /// What lives from step to step.
    pub states: Vec<FeatureReport>,
    /// Operations, constants included.
    pub operations: usize,
    /// What nodes of the graph became.
    #[serde(skip)]
    pub nodes: Vec<NodeResults>,
}

/// An input, output or state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FeatureReport {
    /// Its name.
    pub name: String,
    /// The type of its elements, as `fp16`.
    pub dtype: &'static str,
    /// Its dimensions.
    pub shape: Vec<u32>,
}

impl From<&Feature> for FeatureReport {
    fn from(feature: &Feature) -> Self {
        FeatureReport {
            name: feature.name.clone(),
            dtype: feature.dtype.name(),
            shape: feature.dims.clone(),
        }
    }
}

/// Weights that are held alike.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeldReport {
    /// How.
    pub form: String,
    /// Weights.
    pub tensors: u32,
    /// Their elements.
    pub elements: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What that changed, see [`PackageReport::added_error`].
    pub added_error: f64,
}

/// A function that is to be made.
struct Wanted {
    name: String,
    tokens: u32,
    outputs: u32,
    nodes: Range<u32>,
}

/// Writes `graph` as a package at `path`, where nothing may be yet. `progress` is called with (done, total) nodes and
/// stops the work by returning `false`, which gives [`HalError::Cancelled`].
///
/// # Errors
/// Options that do not go together; nodes that the format has not; weights that can't be had, or that F16 has not; a
/// disk that is full. There is no package then.
pub fn compile(
    graph: &Arc<Graph>,
    weights: &dyn WeightSource,
    options: &PackageOptions,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<PackageReport, CoreMlError> {
    let form = options.form(graph)?;
    compile_in(&form, graph, weights, options, path, progress)
}

/// As [`compile`], in a form that need not be what the options say: in that for the Neural Engine with F32 numbers can be
/// compared, although nothing of it runs there.
///
/// # Errors
/// As [`compile`].
pub fn compile_in(
    form: &Form,
    graph: &Arc<Graph>,
    weights: &dyn WeightSource,
    options: &PackageOptions,
    path: &Path,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<PackageReport, CoreMlError> {
    // chosen experts are rows of a matrix that are looked up
    let graph = match graph.nodes().iter().any(|n| n.op == Op::ExpertLinear) {
        true => Arc::new(decompose_where(graph, |_, op| *op == Op::ExpertLinear)?),
        false => graph.clone(),
    };
    let wanted = wanted(&graph, options, form)?;
    let total: u64 = wanted.iter().map(|w| w.nodes.len() as u64).sum();
    let mut package = PackageWriter::create(path, options.target)?;
    let (mut totals, mut functions) = (Totals::default(), Vec::new());
    let mut rotations: Vec<Rotation> = Vec::new();
    let mut done = 0;
    for wanted in wanted {
        let entry = entry(&graph, &wanted, options.context);
        let count = wanted.nodes.len() as u64;
        let mut step = |n: u64| progress(done + n, total);
        let lowered = lower::lower(&entry, form, weights, &mut package, &mut totals, &mut step)?;
        done += count;
        let function = lowered.function;
        let described = function.described();
        let report = |features: &[Feature]| features.iter().map(FeatureReport::from).collect();
        functions.push(FunctionReport {
            name: wanted.name,
            tokens: wanted.tokens,
            inputs: report(&described.inputs),
            outputs: report(&described.outputs),
            states: report(&described.states),
            operations: function.operations(),
            nodes: lowered.nodes,
        });
        if rotations.len() < lowered.rotations.len() {
            rotations = lowered.rotations;
        }
        package.add(function)?;
    }
    let states = match (graph.states().is_empty(), form.states) {
        (true, _) => "none",
        (false, States::Native) => "native",
        (false, States::Caller) => "caller",
    };
    let description = Description {
        text: options.description.clone(),
        entries: entries(options, states, &rotations),
    };
    let written = package.finish(&description)?;
    let weights = totals.each().map(|(form, total)| HeldReport {
        form: form.to_owned(),
        tensors: total.tensors,
        elements: total.elements,
        bytes: total.bytes,
        added_error: total.error.share(),
    });
    Ok(PackageReport {
        target: options.target.to_string(),
        units: options.units.name(),
        precision: form.precision.name(),
        context: options.context,
        states,
        functions,
        weight_bytes: written.weight_bytes,
        model_bytes: written.model_bytes,
        weights: weights.collect(),
        added_error: totals.error().share(),
        rotations,
    })
}

/// The functions of a package of `graph`.
fn wanted(
    graph: &Graph,
    options: &PackageOptions,
    form: &Form,
) -> Result<Vec<Wanted>, CoreMlError> {
    let all = 0..graph.nodes().len() as u32;
    let encoder = graph.states().is_empty();
    if !options.steps.is_empty() {
        options.target.need_ios18("a second function")?;
    }
    let mut functions = vec![Wanted {
        name: "main".into(),
        tokens: if encoder { options.context } else { 1 },
        outputs: if encoder { options.context } else { 1 },
        nodes: all.clone(),
    }];
    for &tokens in &options.steps {
        let name = match encoder {
            true => format!("tokens_{tokens}"),
            false => format!("prefill_{tokens}"),
        };
        if functions.iter().skip(1).any(|f| f.tokens == tokens) {
            return Err(CoreMlError::Option {
                what: "the tokens of steps".into(),
                found: format!("{tokens} twice"),
                expected: "each number once".into(),
            });
        }
        if !(2..=options.context).contains(&tokens) {
            return Err(CoreMlError::Option {
                what: "the tokens of a step".into(),
                found: tokens.to_string(),
                expected: format!("2 to {}, the context", options.context),
            });
        }
        functions.push(Wanted {
            name,
            tokens,
            outputs: if encoder { tokens } else { 1 },
            nodes: match form.engine && !encoder {
                // it adds rows to the caches, and nothing else
                true => 0..last_append(graph),
                false => all.clone(),
            },
        });
    }
    Ok(functions)
}

/// One past the last node that appends rows to a state.
fn last_append(graph: &Graph) -> u32 {
    let appends = |op: &Op| matches!(op, Op::KvAppend { .. });
    let last = graph.nodes().iter().rposition(|n| appends(&n.op));
    last.map_or(0, |n| n as u32 + 1)
}

fn entry(graph: &Arc<Graph>, wanted: &Wanted, context: u32) -> Entry {
    let sizes = SymbolValues::step(wanted.tokens, 0, wanted.outputs, context);
    let mut bounds = Bounds::new();
    for symbol in [Symbol::TOKENS, Symbol::OUTPUTS, Symbol::CAPACITY] {
        bounds = bounds.with(symbol, Extent::Exact(sizes.get(symbol)));
    }
    Entry {
        name: wanted.name.clone(),
        graph: graph.clone(),
        nodes: wanted.nodes.clone(),
        bounds,
    }
}

/// What a program that loads the package reads of it.
fn entries(
    options: &PackageOptions,
    states: &str,
    rotations: &[Rotation],
) -> Vec<(String, String)> {
    let entry = |key: &str, value: String| (format!("com.anynpu.{key}"), value);
    let mut entries = vec![
        entry("version", env!("CARGO_PKG_VERSION").into()),
        entry("context", options.context.to_string()),
        entry("units", options.units.to_string()),
        entry("weights", options.weights.to_string()),
        entry("states", states.into()),
    ];
    if !rotations.is_empty() {
        let each = rotations.iter().map(|r| {
            let (frequencies, magnitude) = r.frequencies();
            serde_json::json!({ "frequencies": frequencies, "magnitude": magnitude })
        });
        let all: Vec<serde_json::Value> = each.collect();
        entries.push(entry("rotations", serde_json::Value::from(all).to_string()));
    }
    entries
}

/// The error of work that was stopped.
pub(crate) fn cancelled() -> CoreMlError {
    CoreMlError::Hal(HalError::Cancelled {
        what: "compiling".into(),
    })
}
