//! Lowering runs of nodes to functions of ML Programs.
//!
//! Everything has fixed sizes. There are two forms. That for graphics processors keeps tensors as the graph has them,
//! `[tokens, features]`, with products by `linear`, `scaled_dot_product_attention` and matrices in blocks. That for the
//! Neural Engine has them channels first, `[1, features, 1, tokens]`, with products by convolutions of 1×1, attention head
//! by head, and nothing but F16 between: see [`engine`]. In both, what the graph has in F32 is in the program's precision.
//!
//! Keys and values are states of the program, which it writes, or inputs, to which it gives the new rows as outputs:
//! [`States`].

mod attention;
mod bound;
mod cache;
mod elementwise;
mod emit;
pub mod engine;
mod matrix;
mod norm;
mod product;
mod rotation;
mod shape;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

use anynpu_hal::{Entry, Extent, HalError, Support, WeightSource};
use anynpu_ir::{AttentionKv, DType, Graph, Node, Op, StateId, Symbol, SymbolValues, ValueId};

use crate::package::{DataType, Feature, Function, PackageWriter, Tensor, to_identifier};
use crate::plan::NodeResults;
use crate::target::words;
use crate::weights::{AddedError, Encoding, WeightForm};
use crate::{CoreMlError, DeploymentTarget, Precision};

use bound::Boundary;
pub use bound::{Feed, Fetch};
pub use rotation::Rotation;
pub(crate) use verdict::positions_at;
pub use verdict::verdict;

/// Where keys and values are between calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum States {
    /// In states of the program, `[1, heads, capacity, width]`.
    Native,
    /// With the caller: inputs `[1, heads, capacity, width]` of the rows before, and outputs of this step's rows. For
    /// the Neural Engine `[1, heads · width, 1, capacity]` and `[1, 1, tokens, heads · width]`.
    Caller,
}

words!(States, "place of states" {
    Native: "native",
    Caller: "caller",
});

/// What is lowered to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The system.
    pub target: DeploymentTarget,
    /// The form for the Neural Engine.
    pub engine: bool,
    /// What is computed in.
    pub precision: Precision,
    /// How matrices are held.
    pub weights: WeightForm,
    /// Where keys and values are.
    pub states: States,
    /// Whether attention over all tokens takes an input `mask` that is added to its scores, so that texts may be shorter
    /// than the step.
    pub padded: bool,
}

impl Form {
    /// The type that numbers have.
    pub fn float(&self) -> DataType {
        match self.precision {
            Precision::F16 => DataType::F16,
            Precision::F32 => DataType::F32,
        }
    }
}

/// Added to scores of what is hidden: finite, as the Neural Engine wants it, and within F16.
pub const HIDDEN: f32 = -4e4;

/// What weights take in a package, and how far they are from what they were.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals(BTreeMap<String, Total>);

/// What is held in one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    /// Weights.
    pub tensors: u32,
    /// Their elements.
    pub elements: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was changed.
    pub error: AddedError,
}

impl Totals {
    fn add(&mut self, encoding: Encoding, elements: u64, bytes: u64, error: AddedError) {
        let total = self.0.entry(encoding.to_string()).or_default();
        total.tensors += 1;
        total.elements = total.elements.saturating_add(elements);
        total.bytes = total.bytes.saturating_add(bytes);
        total.error.add(error);
    }

    /// Each way with what is held so.
    pub fn each(&self) -> impl Iterator<Item = (&str, &Total)> {
        self.0.iter().map(|(name, total)| (name.as_str(), total))
    }

    /// What was changed in all.
    pub fn error(&self) -> AddedError {
        let mut all = AddedError::default();
        self.0.values().for_each(|t| all.add(t.error));
        all
    }
}

/// What comes of lowering besides the function.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The function.
    pub function: Function,
    /// Rotations whose cosines and sines are inputs, in the order of these.
    pub rotations: Vec<Rotation>,
    /// What its inputs hold, in their order.
    pub feeds: Vec<Feed>,
    /// Where its outputs go, in their order.
    pub fetches: Vec<Fetch>,
    /// The states that it keeps itself, in their order, and whether it appends to them.
    pub kept: Vec<(StateId, bool)>,
    /// The operations that nodes became, by the names of their results.
    pub nodes: Vec<NodeResults>,
}

/// Lowers `entry`, whose sizes must be exact, to a function of its name. Weights go to `package`, and what they take to
/// `totals`. `progress` is called with the number of nodes that are done and stops the work by returning `false`. A run
/// that ends before the graph's outputs are made gives the rows that it appends, and no other results.
///
/// # Errors
/// Nodes that can't be lowered, with reasons; weights that can't be had or held; sizes that are not exact; names that
/// are no identifiers; a disk that is full.
pub fn lower(
    entry: &Entry,
    form: &Form,
    weights: &dyn WeightSource,
    package: &mut PackageWriter,
    totals: &mut Totals,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Lowered, CoreMlError> {
    lower_at(
        Boundary::Package,
        entry,
        &entry.name,
        form,
        weights,
        package,
        totals,
        progress,
    )
}

/// As [`lower`], to a function called `name` for a host that keeps states row by row: caches with the caller are inputs
/// `[1, capacity, heads, width]`, for the Neural Engine `[1, 1, capacity, heads · width]`, and new rows are given likewise.
/// All results of the run are outputs. Rows of a state of the caller's that the run reads and does not append are an input
/// too.
///
/// # Errors
/// As [`lower`].
#[allow(clippy::too_many_arguments)] // they are those of `lower`, and the name
pub fn lower_run(
    entry: &Entry,
    name: &str,
    form: &Form,
    weights: &dyn WeightSource,
    package: &mut PackageWriter,
    totals: &mut Totals,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Lowered, CoreMlError> {
    let at = Boundary::Host;
    lower_at(at, entry, name, form, weights, package, totals, progress)
}

#[allow(clippy::too_many_arguments)] // they are those of `lower`, and two
fn lower_at(
    boundary: Boundary,
    entry: &Entry,
    name: &str,
    form: &Form,
    weights: &dyn WeightSource,
    package: &mut PackageWriter,
    totals: &mut Totals,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Lowered, CoreMlError> {
    let graph: &Graph = &entry.graph;
    let run = entry.subgraph()?;
    let symbols = exact(entry)?;
    let refused: Vec<_> = run
        .nodes()
        .filter_map(|(id, node)| match verdict(graph, node, form, &symbols) {
            Support::No(reason) => Some((id, node.name.clone(), reason)),
            _ => None,
        })
        .collect();
    if !refused.is_empty() {
        return Err(CoreMlError::Refused { nodes: refused });
    }
    let mut lowering = Lowering {
        graph,
        symbols,
        form,
        float: form.float(),
        weights,
        boundary,
        feeds: Vec::new(),
        fetches: Vec::new(),
        appended: BTreeSet::new(),
        attended: BTreeSet::new(),
        operands: BTreeSet::new(),
        for_host: BTreeMap::new(),
        f: Function::new(name, form.target)?,
        package,
        totals,
        values: BTreeMap::new(),
        constants: BTreeMap::new(),
        computed: BTreeMap::new(),
        caches: BTreeMap::new(),
        masks: BTreeMap::new(),
        angles: Vec::new(),
        cached: None,
        key_positions: BTreeMap::new(),
    };
    for (_, node) in run.nodes() {
        lowering.note(node);
    }
    let results: Vec<ValueId> = match boundary {
        Boundary::Host => run.outputs().to_vec(),
        Boundary::Package => {
            let made = |v: &&ValueId| run.outputs().contains(v);
            graph.outputs().iter().filter(made).copied().collect()
        }
    };
    lowering.reserve(match boundary {
        Boundary::Host => &results,
        Boundary::Package => graph.outputs(),
    });
    for &value in run.inputs() {
        lowering.input(value)?;
    }
    lowering.engine_inputs(run.nodes().map(|(_, node)| node))?;
    for &state in run.states() {
        lowering.open_cache(state)?;
    }
    let mut nodes = Vec::new();
    for ((_, node), done) in run.nodes().zip(0..) {
        if !progress(done) {
            return Err(crate::compile::cancelled());
        }
        let before = lowering.f.operations();
        lowering.node(node)?;
        nodes.push(NodeResults {
            node: node.name.clone(),
            results: lowering.f.results_since(before),
        });
    }
    for value in results {
        lowering.result(value)?;
    }
    lowering.close_caches()?;
    let rotations = match form.engine {
        true => lowering.angles.iter().map(|a| a.rotation.clone()).collect(),
        false => Vec::new(),
    };
    let kept = match form.states {
        States::Native => run.states(),
        States::Caller => &[],
    };
    let kept = kept.iter().map(|s| (*s, lowering.appended.contains(s)));
    Ok(Lowered {
        kept: kept.collect(),
        function: lowering.f,
        rotations,
        feeds: lowering.feeds,
        fetches: lowering.fetches,
        nodes,
    })
}

/// The sizes of `entry`.
fn exact(entry: &Entry) -> Result<SymbolValues, CoreMlError> {
    for symbol in [Symbol::TOKENS, Symbol::OUTPUTS, Symbol::CAPACITY] {
        let extent = entry.bounds.get(symbol);
        if !matches!(extent, Extent::Exact(_)) {
            return Err(CoreMlError::Hal(HalError::InvalidUse {
                call: "compile",
                what: format!("the size of symbol {} in '{}'", symbol.name(), entry.name),
                found: format!("{extent:?}"),
                expected: "an exact one".into(),
            }));
        }
    }
    Ok(entry.bounds.limits())
}

/// A value of the graph in the program.
#[derive(Clone, Debug, Default)]
struct Held {
    /// As the graph has it.
    natural: Option<Tensor>,
    /// Its tokens last: `[1, features, 1, tokens]`; in parts along the features if they are many.
    channels: Vec<Tensor>,
}

/// What a constant is: its weight, rows of it, the dimensions they are given, and the type beside integers.
type ConstantKey = (ValueId, [u32; 2], Vec<u32>, DataType);

struct Lowering<'a> {
    graph: &'a Graph,
    symbols: SymbolValues,
    form: &'a Form,
    /// What numbers are computed in.
    float: DataType,
    weights: &'a dyn WeightSource,
    boundary: Boundary,
    feeds: Vec<Feed>,
    fetches: Vec<Fetch>,
    /// States that the run appends rows to.
    appended: BTreeSet<StateId>,
    /// States whose rows it reads.
    attended: BTreeSet<StateId>,
    /// Operands of the run.
    operands: BTreeSet<ValueId>,
    /// Of each operand of its nodes, whether only what the host makes of it is read.
    for_host: BTreeMap<ValueId, bool>,
    f: Function,
    package: &'a mut PackageWriter,
    totals: &'a mut Totals,
    values: BTreeMap<ValueId, Held>,
    constants: BTreeMap<ConstantKey, Tensor>,
    /// Numbers that are of no weight, by what they are.
    computed: BTreeMap<String, Tensor>,
    caches: BTreeMap<StateId, cache::Cache>,
    masks: BTreeMap<attention::MaskKey, Tensor>,
    angles: Vec<rotation::Angles>,
    /// Rows that caches hold before this step, `[1]`.
    cached: Option<Tensor>,
    /// Positions of keys, by how many rows of caches and how many of this step there are.
    key_positions: BTreeMap<(u32, u32), Tensor>,
}

impl Lowering<'_> {
    fn dims(&self, value: ValueId) -> Vec<u32> {
        let dims = self.graph.ty(value).shape.dims().iter();
        dims.map(|d| d.resolve(&self.symbols)).collect()
    }

    fn tokens(&self) -> u32 {
        self.symbols.get(Symbol::TOKENS)
    }

    fn capacity(&self) -> u32 {
        self.symbols.get(Symbol::CAPACITY)
    }

    /// The type of `value` in the program.
    fn dtype(&self, value: ValueId) -> DataType {
        match self.graph.ty(value).dtype {
            DType::I32 => DataType::I32,
            DType::Bool => DataType::Bool,
            _ => self.float,
        }
    }

    /// The type that `dtype` has outside of the program.
    fn outside(&self, dtype: DataType) -> DataType {
        match dtype {
            DataType::Bool => DataType::I32,
            DataType::F16 if !self.f.target().has_ios16() => DataType::F32,
            other => other,
        }
    }

    fn feature(&self, name: &str, description: String, dtype: DataType, dims: &[u32]) -> Feature {
        Feature {
            name: feature_name(name),
            description,
            dtype,
            dims: dims.to_vec(),
        }
    }

    /// Adds an input that holds `feed`.
    fn given(&mut self, feature: Feature, feed: Feed) -> Result<Tensor, CoreMlError> {
        self.feeds.push(feed);
        self.f.input(feature)
    }

    /// Makes `tensor` an output that goes to `fetch`.
    fn taken(&mut self, tensor: Tensor, feature: Feature, fetch: Fetch) -> Result<(), CoreMlError> {
        self.fetches.push(fetch);
        self.f.output(tensor, feature)
    }

    /// Notes which states `node` appends to and reads, and which of its operands are for the host alone.
    fn note(&mut self, node: &Node) {
        for (&value, i) in node.inputs.iter().zip(0..) {
            let by_host = match node.op {
                Op::Rope { .. } => i == 1,
                Op::Attention {
                    kv, causal: true, ..
                } => self.form.engine && i == positions_at(kv),
                _ => false,
            };
            let only = self.for_host.entry(value).or_insert(true);
            *only &= by_host;
        }
        match node.op {
            Op::KvAppend { state, .. } => drop(self.appended.insert(state)),
            Op::StateRead { state } => drop(self.attended.insert(state)),
            Op::Attention {
                kv: AttentionKv::State { k, v },
                ..
            } => self.attended.extend([k, v]),
            _ => {}
        }
    }

    /// Keeps the names that outputs, `results`, will have.
    fn reserve(&mut self, results: &[ValueId]) {
        for &value in results {
            let name = feature_name(&self.graph.value(value).name);
            let features: u32 = self.dims(value).iter().skip(1).product();
            for part in 0..features.div_ceil(engine::PART) {
                self.f.reserve(&format!("{name}_{part}"));
            }
            self.f.reserve(&name);
        }
        for state in self.graph.states() {
            self.f
                .reserve(&feature_name(&format!("{}_new", state.name)));
        }
    }

    /// Makes the operand `value` of the run an input.
    fn input(&mut self, value: ValueId) -> Result<(), CoreMlError> {
        let name = self.graph.value(value).name.clone();
        let dims = self.dims(value);
        let dtype = self.dtype(value);
        if self.is_every_token(value) {
            let made = self.integers((0..self.tokens() as i32).collect())?;
            self.hold(value, made);
            return Ok(());
        }
        // the host has the angles and the mask
        let host = match self.boundary {
            Boundary::Package => {
                self.form.engine && name == POSITIONS && !self.reads_positions(value)
            }
            Boundary::Host => self.for_host.get(&value) == Some(&true),
        };
        self.operands.insert(value);
        if host {
            return Ok(());
        }
        let description = match name.as_str() {
            TOKENS => "Numbers of the step's tokens",
            POSITIONS => "Their positions, one after the other",
            OUTPUT_ROWS => "The tokens of the step whose results are wanted, from 0 on",
            "token_types" => "Which of two texts each token is of",
            _ => "",
        };
        let outside = self.outside(dtype);
        let feature = self.feature(&name, description.into(), outside, &dims);
        let given = self.given(feature, Feed::Value(value))?;
        let made = self.cast(&format!("{name}_cast"), given, dtype)?;
        self.hold(value, made);
        Ok(())
    }

    /// Whether `value` names the tokens whose results are wanted, and those are all of them, in their order.
    fn is_every_token(&self, value: ValueId) -> bool {
        let tokens = self.tokens();
        // a host may name them in another order
        let known = self.boundary == Boundary::Package || tokens == 1;
        known && self.graph.value(value).name == OUTPUT_ROWS && self.dims(value) == [tokens]
    }

    fn hold(&mut self, value: ValueId, tensor: Tensor) {
        self.values.entry(value).or_default().natural = Some(tensor);
    }

    /// The tensor of `value` as the graph has it.
    fn value(&mut self, value: ValueId) -> Result<Tensor, CoreMlError> {
        let held = self.values.get(&value).cloned().unwrap_or_default();
        if let Some(known) = held.natural {
            return Ok(known);
        }
        let dims = self.dims(value);
        let made = match held.channels.is_empty() {
            false => self.tokens_first(value, &held.channels)?,
            true if self.is_weight(value) => self.weight(value, &dims)?,
            true => {
                return Err(CoreMlError::Hal(HalError::InvalidUse {
                    call: "compile",
                    what: format!("operand '{}'", self.graph.value(value).name),
                    found: "made by no earlier node".into(),
                    expected: "an operand of the run".into(),
                }));
            }
        };
        self.hold(value, made);
        Ok(made)
    }

    fn node(&mut self, node: &Node) -> Result<(), CoreMlError> {
        if self.form.engine && self.engine_node(node)? {
            return Ok(());
        }
        let made = self.dense(node)?;
        if made.len() != node.outputs.len() {
            return Err(not_lowered(node));
        }
        for (value, tensor) in node.outputs.iter().zip(made) {
            self.hold(*value, tensor);
        }
        Ok(())
    }

    /// Lowers `node` with tensors as the graph has them; its results.
    fn dense(&mut self, node: &Node) -> Result<Vec<Tensor>, CoreMlError> {
        let one = |made: Result<Tensor, CoreMlError>| made.map(|t| vec![t]);
        match &node.op {
            Op::KvAppend { state, .. } => {
                self.append(&node.name, *state, node.inputs[0])?;
                Ok(Vec::new())
            }
            Op::Linear | Op::MatMul { .. } | Op::Conv1d { .. } | Op::Conv2d { .. } => {
                one(self.product(node))
            }
            Op::RmsNorm { .. } | Op::LayerNorm { .. } => one(self.norm(node)),
            Op::Rope { .. } => one(self.rotate(node)),
            Op::Attention { .. } => one(self.attend(node)),
            Op::CausalMask { .. } | Op::StateRead { .. } => one(self.of_cache(node)),
            Op::Unary(_)
            | Op::Activation(_)
            | Op::GatedActivation(_)
            | Op::SoftCap { .. }
            | Op::Binary(_)
            | Op::Select
            | Op::Softmax { .. }
            | Op::Cast { .. } => one(self.elementwise(node)),
            _ => self.reshaped(node),
        }
    }

    /// Makes the result `value` of the run an output, or several if it is held in parts.
    fn result(&mut self, value: ValueId) -> Result<(), CoreMlError> {
        let name = self.graph.value(value).name.clone();
        let held = self.values.get(&value).cloned().unwrap_or_default();
        if held.natural.is_none() && !held.channels.is_empty() {
            return self.engine_result(value, &held.channels);
        }
        let made = self.value(value)?;
        let outside = self.outside(self.f.dtype(made));
        let made = self.cast(&format!("{name}_outside"), made, outside)?;
        let dims = self.f.dims(made).to_vec();
        let feature = self.feature(&name, String::new(), outside, &dims);
        self.taken(made, feature, Fetch::Value(value))
    }
}

/// That `node` is one that was forgotten.
fn not_lowered(node: &Node) -> CoreMlError {
    CoreMlError::NotLowered {
        node: node.name.clone(),
        op: format!("{:?}", node.op),
    }
}

/// Inputs of every language model, see `anynpu_graphs::arch`.
const TOKENS: &str = "tokens";
const POSITIONS: &str = "positions";
const OUTPUT_ROWS: &str = "output_rows";

/// What a value of this name is called outside of the program: `output.logits` is `logits`.
fn feature_name(name: &str) -> String {
    to_identifier(name.strip_prefix("output.").unwrap_or(name))
}
