//! Runs of nodes cut out of real models.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use anynpu_cpu::reference::{StateStore, States, Tensor, TensorRef, evaluate_node};
use anynpu_graphs::import::gguf::Gguf;
use anynpu_graphs::{Model, arch};
use anynpu_hal::{HalError, WeightSource, WeightView};
use anynpu_ir::{DType, Graph, Symbol, SymbolValues, ValueDef, ValueId};
use parking_lot::Mutex;

use super::bounds::{Bound, Class, compute, magnitude};
use super::job::{Job, exact, sizes, verdicts};
use super::outcome::{Check, Stop};
use super::suite::{Context, SuiteOptions, TestCase};
use super::values::Values;
use crate::cases::tensor;

/// A model that is part of the suite.
struct Built {
    name: &'static str,
    bytes: &'static [u8],
    /// Runs that are drawn of it, and in the quick part.
    runs: [usize; 2],
}

macro_rules! small {
    ($name:literal) => {
        include_bytes!(concat!("../../data/architectures/", $name, ".gguf"))
    };
}

const MODELS: &[Built] = &[
    Built {
        name: "story",
        bytes: include_bytes!("../../../graphs/story-model/story-Q8_0.gguf"),
        runs: [6, 1],
    },
    Built {
        name: "llama",
        bytes: small!("llama"),
        runs: [16, 4],
    },
    Built {
        name: "bert",
        bytes: small!("bert"),
        runs: [16, 4],
    },
    Built {
        name: "gemma2",
        bytes: small!("gemma2"),
        runs: [8, 2],
    },
    Built {
        name: "mixtral",
        bytes: small!("mixtral"),
        runs: [8, 2],
    },
    Built {
        name: "phi3",
        bytes: small!("phi3"),
        runs: [4, 1],
    },
];

/// A model's weights, by name.
#[derive(Debug)]
struct Weights(Model);

impl WeightSource for Weights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let found = self.0.data().tensor(name);
        let (dtype, bytes) = found.ok_or_else(|| HalError::Weight {
            name: name.into(),
            why: "the model has no tensor of this name".into(),
        })?;
        Ok(WeightView { dtype, bytes })
    }
}

/// One step of a model on the reference.
struct Trace {
    symbols: SymbolValues,
    /// Every value of the graph that is no weight.
    values: Vec<Option<Tensor>>,
    /// What the states held before the step.
    states: StateStore,
}

/// A model with what the reference makes of it, for the sizes that were asked for.
struct Loaded {
    built: &'static Built,
    graph: Arc<Graph>,
    weights: Arc<Weights>,
    vocabulary: u32,
    trace: Mutex<Option<Arc<Trace>>>,
}

fn fault(e: impl std::fmt::Display) -> Stop {
    Stop::failed(format!("the suite's own model fails: {e}"), "a model")
}

fn load(built: &'static Built) -> Result<Loaded, Stop> {
    let gguf = Gguf::from_static(built.name, built.bytes).map_err(fault)?;
    let model = Model::from_gguf(&gguf).map_err(fault)?;
    Ok(Loaded {
        built,
        graph: model.graph().clone(),
        vocabulary: model.info().vocabulary,
        weights: Arc::new(Weights(model)),
        trace: Mutex::new(None),
    })
}

/// The models, each loaded when it is first used.
struct Shelf {
    built: &'static Built,
    loaded: OnceLock<Result<Loaded, Stop>>,
}

impl Shelf {
    fn get(&self) -> Result<&Loaded, Stop> {
        let loaded = self.loaded.get_or_init(|| load(self.built));
        loaded.as_ref().map_err(Clone::clone)
    }
}

/// The cases `graph/MODEL/…` and `verdict/…/MODEL`.
pub(super) fn cases(options: &SuiteOptions) -> Vec<TestCase> {
    let mut cases = Vec::new();
    for built in MODELS {
        let shelf = Arc::new(Shelf {
            built,
            loaded: OnceLock::new(),
        });
        let nodes = shelf.get().map_or(1, |l| l.graph.nodes().len());
        let name = built.name;
        for i in 0..built.runs[usize::from(options.quick)] {
            let seed = options.seed + i as u64;
            let run = drawn(seed, name, nodes);
            let id = format!("graph/{name}/seed{seed}/run{}-{}", run.start, run.end);
            let shelf = shelf.clone();
            cases.push(TestCase::new(id, None, move |context| {
                shelf.get()?.check(context, run.clone())
            }));
        }
        if built.runs[0] > 4 && !(options.quick && name == "story") {
            let own = shelf.clone();
            cases.push(TestCase::new(
                format!("graph/{name}/whole"),
                None,
                move |context| own.get()?.check(context, 0..nodes as u32),
            ));
        }
        let own = shelf.clone();
        cases.push(TestCase::new(
            format!("verdict/each_node_by_itself/{name}"),
            None,
            move |context| own.get()?.each_node(context),
        ));
    }
    cases
}

/// A run of at least one node, drawn; half of them short.
fn drawn(seed: u64, name: &str, nodes: usize) -> Range<u32> {
    let mut values = Values::new(seed, name);
    let start = values.below(nodes);
    let most = if seed.is_multiple_of(2) { 6 } else { nodes };
    let length = 1 + values.below(most.min(nodes - start));
    start as u32..(start + length) as u32
}

impl Loaded {
    fn trace(&self, context: &Context) -> Result<Arc<Trace>, Stop> {
        let decoder = !self.graph.states().is_empty();
        let cached = if decoder { 3 } else { 0 };
        let symbols = sizes(context.capabilities(), 4, cached, 2, 16);
        let mut kept = self.trace.lock();
        if let Some(trace) = kept.as_ref().filter(|t| t.symbols == symbols) {
            return Ok(trace.clone());
        }
        let trace = Arc::new(self.evaluate(symbols)?);
        *kept = Some(trace.clone());
        Ok(trace)
    }

    fn evaluate(&self, symbols: SymbolValues) -> Result<Trace, Stop> {
        let graph = &*self.graph;
        let mut numbers = Values::new(1, self.built.name);
        let mut states = StateStore::kept(graph, &symbols, Some(DType::F32)).map_err(fault)?;
        let cached = symbols.get(Symbol::CACHED) as usize;
        let held: Vec<Vec<u8>> = graph
            .states()
            .iter()
            .map(|state| {
                let shape = state.ty.shape.resolve(&symbols);
                let mut rows = numbers.floats(shape.iter().product());
                let row: usize = shape[1..].iter().product();
                // only the rows of earlier steps were written
                rows[cached * row..].fill(0.0);
                rows.iter().flat_map(|x| x.to_le_bytes()).collect()
            })
            .collect();
        super::states::fill(&mut states, graph, &held);
        let before = states.clone();
        let mut values: Vec<Option<Tensor>> = vec![None; graph.values().len()];
        let (tokens, outputs) = (symbols.get(Symbol::TOKENS), symbols.get(Symbol::OUTPUTS));
        for &id in graph.inputs() {
            let name = graph.value(id).name.as_str();
            let shape = graph.ty(id).shape.resolve(&symbols);
            values[id.index()] = Some(match name {
                arch::input::POSITIONS => {
                    let all = (0..tokens).map(|t| (cached as u32 + t) as i32);
                    tensor(&shape, all.collect::<Vec<_>>())
                }
                arch::input::OUTPUT_ROWS => {
                    let rows = (0..outputs).map(|r| (tokens - 1 - r.min(tokens - 1)) as i32);
                    tensor(&shape, rows.collect::<Vec<_>>())
                }
                arch::input::TOKEN_TYPES => numbers.indices(&shape, 2),
                _ => numbers.indices(&shape, self.vocabulary as usize),
            });
        }
        for node in graph.nodes() {
            let mut own = Vec::new();
            for &id in &node.inputs {
                own.push(self.operand(id, &values, &symbols)?);
            }
            let views: Vec<TensorRef<'_>> = own.iter().map(Tensor::view).collect();
            let made = evaluate_node(&node.name, &node.op, &views, &mut states, &symbols);
            for (&id, tensor) in node.outputs.iter().zip(made.map_err(fault)?) {
                values[id.index()] = Some(tensor);
            }
        }
        Ok(Trace {
            symbols,
            values,
            states: before,
        })
    }

    fn operand(
        &self,
        id: ValueId,
        values: &[Option<Tensor>],
        symbols: &SymbolValues,
    ) -> Result<Tensor, Stop> {
        let value = self.graph.value(id);
        let ValueDef::Weight(weight) = value.def else {
            return values[id.index()]
                .clone()
                .ok_or_else(|| fault("a value is missing"));
        };
        let weight = self.graph.weight(weight);
        let shape = value.ty.shape.resolve(symbols);
        match &weight.inline {
            Some(bytes) => Tensor::from_bytes(value.ty.dtype, shape, bytes).map_err(fault),
            None => {
                let view = self.weights.weight(&weight.name)?;
                Tensor::from_bytes(view.dtype, shape, &view.bytes).map_err(fault)
            }
        }
    }

    /// The states before node `first`: earlier nodes of the step have appended their rows.
    fn states_before(&self, trace: &Trace, first: u32) -> Result<StateStore, Stop> {
        let mut states = trace.states.clone();
        for node in &self.graph.nodes()[..first as usize] {
            if let anynpu_ir::Op::KvAppend { .. } = node.op {
                let rows = trace.values[node.inputs[0].index()].as_ref();
                let rows = rows.ok_or_else(|| fault("rows are missing"))?;
                evaluate_node(
                    &node.name,
                    &node.op,
                    &[rows.view()],
                    &mut states,
                    &trace.symbols,
                )
                .map_err(fault)?;
            }
        }
        Ok(states)
    }

    /// Nodes `run` with the values that the reference has there.
    fn job(&self, trace: &Trace, run: Range<u32>) -> Result<Job, Stop> {
        let boundary = self.graph.subgraph(run.clone()).map_err(fault)?;
        let inputs = boundary
            .inputs()
            .iter()
            .map(|id| trace.values[id.index()].clone());
        let inputs: Option<Vec<Tensor>> = inputs.collect();
        Ok(Job {
            graph: self.graph.clone(),
            nodes: run.clone(),
            inputs: inputs.ok_or_else(|| fault("an operand is missing"))?,
            weights: self.weights.clone(),
            symbols: trace.symbols,
            bounds: exact(&trace.symbols),
            state_dtype: DType::F32,
            states: self.states_before(trace, run.start)?,
        })
    }

    /// Runs each longest part of `run` that the device claims.
    fn check(&self, context: &Context, run: Range<u32>) -> Check {
        let boundary = self.graph.subgraph(run.clone()).map_err(fault)?;
        let verdicts = verdicts(context.device(), &boundary)?;
        let trace = self.trace(context)?;
        let mut parts: Vec<Range<u32>> = Vec::new();
        for (i, verdict) in (run.start..).zip(&verdicts) {
            match (verdict, parts.last_mut()) {
                (None, Some(last)) if last.end == i => last.end = i + 1,
                (None, _) => parts.push(i..i + 1),
                _ => {}
            }
        }
        if parts.is_empty() {
            let why = verdicts.into_iter().flatten().next();
            return Err(Stop::NotClaimed(why.unwrap_or_else(|| "no nodes".into())));
        }
        for part in parts {
            let place = format!("nodes {}..{}", part.start, part.end);
            self.part(context, &trace, part).map_err(|e| e.at(&place))?;
        }
        Ok(())
    }

    fn part(&self, context: &Context, trace: &Trace, part: Range<u32>) -> Check {
        let job = self.job(trace, part)?;
        let run = job.run();
        let blocks = run
            .weights()
            .iter()
            .any(|&w| self.graph.ty(self.graph.weight(w).value).dtype.is_block());
        let class = if blocks {
            Class::LayersInBlocks
        } else {
            Class::Layers
        };
        let found = job.run_on(context.bench())?;
        for (&id, found) in run.outputs().iter().zip(&found.outputs) {
            let expected = trace.values[id.index()].as_ref();
            let expected = expected.ok_or_else(|| fault("a result is missing"))?;
            let bound = Bound {
                class,
                computed: compute(context.capabilities()),
                scale: magnitude(expected),
            };
            let value = self.graph.value(id);
            let maker = match value.def {
                ValueDef::Node { node, .. } => self.graph.node(node).op.name(),
                _ => "none",
            };
            bound.check(&format!("'{}' ({maker})", value.name), found, expected)?;
        }
        self.rows_kept(&job, &found.states)
    }

    /// That rows of states outside of the step are as they were.
    fn rows_kept(&self, job: &Job, found: &[Vec<u8>]) -> Check {
        let run = job.run();
        let (first, n) = (
            job.symbols.get(Symbol::CACHED),
            job.symbols.get(Symbol::TOKENS),
        );
        for (&id, found) in run.states().iter().zip(found) {
            let Some(state) = job.states.get(id) else {
                continue;
            };
            let rows = state.tensor.shape().first().copied().unwrap_or(1).max(1);
            let before = state.tensor.to_tensor().map_err(fault)?.to_bytes();
            let row = (before.len() / rows).max(1);
            let pairs = before.chunks(row).zip(found.chunks(row)).enumerate();
            for (at, (before, found)) in pairs {
                if !(first..first + n).contains(&(at as u32)) && before != found {
                    return Err(Stop::failed(
                        format!("row {at} of state '{}' was changed", state.name),
                        format!("only rows {first}..{} written", first + n),
                    ));
                }
            }
        }
        Ok(())
    }

    /// That every node which is claimed by itself compiles, and that there is a verdict for each of any run.
    fn each_node(&self, context: &Context) -> Check {
        let trace = self.trace(context)?;
        let nodes = self.graph.nodes().len() as u32;
        verdicts(context.device(), &self.graph.whole())?;
        let step = if context.options().quick { 7 } else { 1 };
        let mut claimed = 0;
        let mut why = None;
        for i in (0..nodes).step_by(step) {
            let job = self.job(&trace, i..i + 1)?;
            let place = format!("node {i} ({})", self.graph.nodes()[i as usize].op.name());
            let verdict = verdicts(context.device(), &job.run()).map_err(|e| e.at(&place))?;
            match verdict.into_iter().flatten().next() {
                Some(reason) => {
                    why.get_or_insert(reason);
                }
                None => {
                    claimed += 1;
                    let module = job.compile(context.device());
                    let module = module.map_err(|e| Stop::from(e).at(&place))?;
                    job.described(&*module, 0).map_err(|e| e.at(&place))?;
                }
            }
        }
        match (claimed, why) {
            (0, Some(why)) => Err(Stop::NotClaimed(why)),
            _ => Ok(()),
        }
    }
}
