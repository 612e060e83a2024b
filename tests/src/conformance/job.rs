//! Running a run of nodes on a device and on the reference.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anynpu_cpu::reference::{ReferenceError, StateStore, States, Tensor, TensorRef, evaluate};
use anynpu_hal::{
    Bounds, Capabilities, CompileOptions, Device, Entry, EntryInfo, Extent, HalError, Module,
    ReasonCode, Support, WeightSource, WeightView,
};
use anynpu_ir::{DType, Graph, Subgraph, Symbol, SymbolValues};

use super::bind::{Bench, Binding};
use super::outcome::Stop;

/// A run of nodes with all that it takes.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub graph: Arc<Graph>,
    pub nodes: Range<u32>,
    /// In the order of [`Subgraph::inputs`].
    pub inputs: Vec<Tensor>,
    pub weights: Arc<dyn WeightSource>,
    pub symbols: SymbolValues,
    pub bounds: Bounds,
    pub state_dtype: DType,
    /// What the states hold before.
    pub states: StateStore,
}

/// What a job gave.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// In the order of [`Subgraph::outputs`].
    pub outputs: Vec<Tensor>,
    /// In the order of [`Subgraph::states`], in the type they are kept in.
    pub states: Vec<Vec<u8>>,
}

impl Job {
    /// All of `graph`, `inputs` being in the order of [`Graph::inputs`], with empty states.
    pub fn whole(
        graph: Arc<Graph>,
        inputs: &[Tensor],
        weights: Arc<dyn WeightSource>,
        symbols: SymbolValues,
    ) -> Result<Self, ReferenceError> {
        let states = StateStore::kept(&graph, &symbols, Some(DType::F32))?;
        let own = |id| graph.inputs().iter().position(|&i| i == id);
        let whole = graph.whole();
        let ids = whole.inputs().iter();
        let inputs = ids
            .filter_map(|&id| own(id).map(|at| inputs[at].clone()))
            .collect();
        Ok(Job {
            nodes: 0..graph.nodes().len() as u32,
            inputs,
            weights,
            symbols,
            bounds: exact(&symbols),
            state_dtype: DType::F32,
            states,
            graph: graph.clone(),
        })
    }

    /// The nodes with their boundary.
    pub fn run(&self) -> Subgraph<'_> {
        self.graph
            .subgraph(self.nodes.clone())
            .expect("a job's nodes are a run of its graph")
    }

    /// As an entry called `name`.
    pub fn entry(&self, name: &str) -> Entry {
        Entry {
            name: name.into(),
            graph: self.graph.clone(),
            nodes: self.nodes.clone(),
            bounds: self.bounds.clone(),
        }
    }

    fn options(&self) -> CompileOptions {
        CompileOptions::new(self.state_dtype)
    }

    fn state_bytes(&self, states: &StateStore) -> Vec<Vec<u8>> {
        let bytes = |id| states.get(id).and_then(|s| s.tensor.to_tensor().ok());
        let run = self.run();
        run.states()
            .iter()
            .filter_map(|&id| bytes(id))
            .map(|t| t.to_bytes())
            .collect()
    }

    /// What the reference gives.
    pub fn reference(&self) -> Result<Given, ReferenceError> {
        let mut states = self.states.clone();
        let views: Vec<TensorRef<'_>> = self.inputs.iter().map(Tensor::view).collect();
        let outputs = evaluate(
            &self.run(),
            &views,
            &*self.weights,
            &mut states,
            &self.symbols,
        )?;
        Ok(Given {
            outputs,
            states: self.state_bytes(&states),
        })
    }

    /// Compiles the job.
    pub fn compile(&self, device: &dyn Device) -> Result<Arc<dyn Module>, HalError> {
        let entries = [self.entry("run")];
        device.compile(
            &entries,
            &self.options(),
            self.weights.clone(),
            &mut |_, _| true,
        )
    }

    /// Buffers that hold what the job takes.
    pub fn bind(&self, device: &dyn Device, info: &EntryInfo) -> Result<Binding, Stop> {
        let run = self.run();
        let input = |id| {
            let at = run.inputs().iter().position(|&i| i == id);
            at.map_or_else(Vec::new, |at| self.inputs[at].to_bytes())
        };
        Binding::new(
            device,
            info,
            &self.symbols,
            input,
            &self.state_bytes(&self.states),
        )
    }

    /// Checks that a module describes the job's entry as it was given.
    pub fn described(&self, module: &dyn Module, at: usize) -> Result<EntryInfo, Stop> {
        let wanted = EntryInfo::describe(&self.entry("run"), self.state_dtype)?;
        let Some(found) = module.entries().get(at) else {
            let found = format!("a module of {} entries", module.entries().len());
            return Err(Stop::failed(found, format!("an entry {at}")));
        };
        let same = found.inputs == wanted.inputs
            && found.outputs == wanted.outputs
            && found.states == wanted.states
            && found.nodes == wanted.nodes;
        match same {
            true => Ok(found.clone()),
            false => Err(Stop::failed(
                format!("a module that describes its entry as {found:?}"),
                format!("{wanted:?}"),
            )),
        }
    }

    /// Compiles, runs once, and checks that nothing else was written.
    pub fn run_on(&self, bench: &Bench) -> Result<Given, Stop> {
        let module = self.compile(&*bench.device);
        let module = module.map_err(|e| claimed_but(&e, "compile"))?;
        self.run_module(bench, &module, 0)
    }

    /// Runs entry `entry` of a module, which is this job, and checks that nothing else was written.
    pub fn run_module(
        &self,
        bench: &Bench,
        module: &Arc<dyn Module>,
        entry: usize,
    ) -> Result<Given, Stop> {
        let info = self.described(&**module, entry)?;
        let binding = self.bind(&*bench.device, &info)?;
        let ran = binding.run(bench, module, entry);
        ran.map_err(|e| claimed_but(&e, "run"))?;
        binding.check_bounds()?;
        Ok(Given {
            outputs: binding.outputs(&info, &self.graph)?,
            states: binding.states()?,
        })
    }
}

/// A claimed run that the device then did not do.
pub(crate) fn claimed_but(error: &HalError, call: &str) -> Stop {
    Stop::error(
        error,
        &format!("a {call} that works, as the device claims the nodes"),
    )
}

/// Why the device does not claim some node of `run`, or `None` if it claims all. Checks the verdicts' number.
pub(crate) fn obstacle(device: &dyn Device, run: &Subgraph<'_>) -> Result<Option<String>, Stop> {
    Ok(verdicts(device, run)?.into_iter().flatten().next())
}

/// For each node of `run` why the device does not claim it.
pub(crate) fn verdicts(
    device: &dyn Device,
    run: &Subgraph<'_>,
) -> Result<Vec<Option<String>>, Stop> {
    let nodes = run.nodes().len();
    let counted = |call: &str, verdicts: Vec<Support>| match verdicts.len() == nodes {
        true => Ok(verdicts),
        false => Err(Stop::failed(
            format!("{} verdicts of {call}", verdicts.len()),
            format!("one for each of {nodes} nodes"),
        )),
    };
    let table = counted("support", device.support(run))?;
    let lost = |v: &&Support| v.reason().is_some_and(|r| r.code == ReasonCode::DeviceLost);
    if let Some(reason) = table.iter().find(lost).and_then(Support::reason) {
        let found = format!("crashed while it was asked for verdicts: {}", reason.detail);
        return Err(Stop::failed(found, "verdicts"));
    }
    let own = counted("validate", device.validate(run)?)?;
    let refusal = |(a, b): (&Support, &Support)| {
        let no = [a, b].into_iter().find(|v| matches!(v, Support::No(_)))?;
        no.reason().map(ToString::to_string)
    };
    Ok(table.iter().zip(&own).map(refusal).collect())
}

/// Every symbol exactly as in `symbols`.
pub(crate) fn exact(symbols: &SymbolValues) -> Bounds {
    let mut bounds = Bounds::new();
    for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
        bounds = bounds.with(symbol, Extent::Exact(symbols.get(symbol)));
    }
    bounds
}

/// Every symbol up to its value in `symbols`.
pub(crate) fn at_most(symbols: &SymbolValues) -> Bounds {
    let mut bounds = Bounds::new();
    for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
        bounds = bounds.with(symbol, Extent::AtMost(symbols.get(symbol)));
    }
    bounds
}

/// The sizes nearest above these that the device can be compiled for; for a graph without sizes of its own
/// too, as a device of fixed sizes takes no others.
pub(crate) fn sizes(
    capabilities: &Capabilities,
    tokens: u32,
    cached: u32,
    outputs: u32,
    capacity: u32,
) -> SymbolValues {
    let Some(fixed) = capabilities.fixed_shapes.as_ref() else {
        return SymbolValues::step(tokens, cached, outputs, capacity);
    };
    let fit = |wanted: u32, sizes: &[u32]| {
        let above = sizes.iter().copied().filter(|&n| n >= wanted).min();
        above
            .or(sizes.iter().copied().max())
            .unwrap_or(wanted.max(1))
    };
    let tokens = fit(tokens, &fixed.tokens);
    let capacity = fit(capacity.max(cached + tokens), &fixed.capacities);
    SymbolValues::step(tokens, cached, outputs, capacity)
}

/// Weights by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Named(pub BTreeMap<String, Tensor>);

impl WeightSource for Named {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let tensor = self.0.get(name).ok_or_else(|| HalError::Weight {
            name: name.into(),
            why: "there is no weight of this name".into(),
        })?;
        Ok(WeightView {
            dtype: tensor.dtype(),
            bytes: tensor.to_bytes().into(),
        })
    }
}
