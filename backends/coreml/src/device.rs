//! A choice of processors as the HAL knows it.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Device, DeviceInfo, Entry, EntryInfo,
    ExternalHandle, FixedShapes, FormWriter, HalError, HostBuffer, MemoryKind, MemoryNeed, Module,
    Queue, StateSupport, Support, WeightSource, has_form,
};
use anynpu_ir::{DType, Graph, Node, OP_SET_VERSION, Op, Subgraph, Symbol, SymbolValues, ValueDef};
use parking_lot::Mutex;

use crate::binding::FunctionPlan;
use crate::entries::{self, InFolder, InMemory, compiled_path, package_path};
use crate::exec::{
    CoreMlModule, CoreMlQueue, Engine, Model, Package, Program, StateBuffer, System,
};
use crate::kept::{self, CacheFolder, Kept, Key, Record};
use crate::lower::{Form, States, verdict};
use crate::plan::{PlannedFunction, Processor};
use crate::weights::WeightForm;
use crate::{ComputeUnits, CoreMlError, DeploymentTarget, Precision};

/// Tokens of the steps that models are compiled for.
const TOKENS: [u32; 2] = [1, 64];

/// Most bytes of weights that are opened from memory, where nothing is kept: more are left to a temporary folder, which
/// Core ML maps.
const MOST_IN_MEMORY: u64 = 1 << 30;

/// A choice of processors.
#[derive(Debug)]
pub struct CoreMlDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    engine: Arc<dyn Engine>,
    system: System,
    form: Form,
    units: ComputeUnits,
    cache: Option<CacheFolder>,
    queue: CoreMlQueue,
    /// What Core ML said of nodes that were compiled, by what they are.
    told: Mutex<HashMap<String, Support>>,
}

/// How a device is used.
#[derive(Clone, Debug)]
pub(crate) struct DeviceSettings {
    /// What packages are written for.
    pub target: DeploymentTarget,
    /// The processors.
    pub units: ComputeUnits,
    /// What it computes in.
    pub precision: Precision,
    /// How matrices are held.
    pub weights: WeightForm,
    /// Where keys and values are; where the system has them best if absent.
    pub states: Option<States>,
    /// Where what was compiled is kept.
    pub cache: Option<CacheFolder>,
}

/// The processor that a device of `units` is meant for.
const fn processor(units: ComputeUnits) -> Processor {
    match units {
        ComputeUnits::NeuralEngine => Processor::Ane,
        ComputeUnits::All | ComputeUnits::Gpu => Processor::Gpu,
        ComputeUnits::Cpu => Processor::Cpu,
    }
}

impl CoreMlDevice {
    /// The device of `info` on `system`, run by `engine`.
    pub(crate) fn new(
        info: DeviceInfo,
        engine: Arc<dyn Engine>,
        system: System,
        settings: DeviceSettings,
        artificial: bool,
    ) -> CoreMlDevice {
        let engine_form = settings.units == ComputeUnits::NeuralEngine;
        // the Neural Engine writes no states, and what they hold is F16
        let has = settings.target.has_ios18() && !engine_form;
        let native = match settings.states {
            Some(States::Caller) => false,
            Some(States::Native) => has,
            None => has && settings.precision == Precision::F16,
        };
        let mut capabilities = Capabilities::new();
        capabilities.states = match native {
            true => StateSupport::Native,
            false => StateSupport::InPlaceIo,
        };
        capabilities.compute = vec![match settings.precision {
            Precision::F16 => DType::F16,
            Precision::F32 => DType::F32,
        }];
        let weights = DType::ALL.iter().copied();
        capabilities.weights = weights
            .filter(|d| anynpu_ir::block::is_decodable(*d))
            .collect();
        capabilities.memory = vec![MemoryKind::Host];
        if native {
            capabilities.memory.push(MemoryKind::DeviceLocal);
        }
        capabilities.features.artificial = artificial;
        capabilities.fixed_shapes = Some(FixedShapes {
            tokens: TOKENS.to_vec(),
            capacities: Vec::new(),
        });
        let form = Form {
            target: settings.target,
            engine: engine_form,
            precision: settings.precision,
            weights: settings.weights,
            states: match native {
                true => States::Native,
                false => States::Caller,
            },
            padded: false,
        };
        CoreMlDevice {
            queue: CoreMlQueue::new(&info.name),
            info,
            capabilities,
            engine,
            system,
            form,
            units: settings.units,
            cache: settings.cache,
            told: Mutex::new(HashMap::new()),
        }
    }

    /// What models are lowered to.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// What tells `entries` apart from all else that is compiled here; `None` where nothing is kept.
    fn key(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
    ) -> Result<Option<Key>, HalError> {
        if self.cache.is_none() || !has_form(entries) {
            return Ok(None);
        }
        let mut form = FormWriter::new(b"anpucml1");
        form.text(env!("CARGO_PKG_VERSION"));
        form.number(OP_SET_VERSION);
        let Form {
            target,
            engine,
            precision,
            weights: held,
            states,
            padded: _,
        } = &self.form;
        form.text(&format!("{target} {engine} {precision} {held} {states}"));
        // a record of what runs where is of these processors
        form.text(self.units.name());
        form.entries(entries, options);
        let mut hash = blake3::Hasher::new();
        hash.update(&form.finish());
        for name in weight_names(entries) {
            let view = weights.weight(&name)?;
            for part in [name.as_bytes(), view.dtype.name().as_bytes(), &view.bytes] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        let model = hash.finalize().to_hex().chars().take(32).collect();
        let system = blake3::hash(self.system.text.as_bytes());
        Ok(Some(Key {
            model,
            system: system.to_hex().chars().take(16).collect(),
        }))
    }

    /// Writes `entries`, and has them compiled and looked over, in `folder`.
    fn make(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
        folder: &Path,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Record, CoreMlError> {
        let mut packages = InFolder(folder);
        let (form, packages) = (&self.form, &mut packages);
        let written = entries::write(entries, options, form, weights, packages, progress)?;
        let mut record = Record::new(written.0, written.1);
        for n in 0..record.packages() {
            let (package, compiled) = (package_path(folder, n), compiled_path(folder, n));
            self.engine.compile(&package, &compiled)?;
            // it holds the weights a second time
            if let Err(source) = std::fs::remove_dir_all(&package) {
                let what = "removing";
                return Err(CoreMlError::Io {
                    what,
                    path: package,
                    source,
                });
            }
            let model = self.engine.open(&compiled)?;
            self.look_over(&*model, &mut record);
        }
        if record.plans.len() != record.packages() {
            record.plans.clear();
        }
        Ok(record)
    }

    /// Adds what would run where of `model` to `record`, if that is told.
    fn look_over(&self, model: &dyn Model, record: &mut Record) {
        match model.compute_plan(self.units) {
            Ok(plan) => record.plans.push(plan),
            Err(e) => tracing::debug!("what runs where is not known: {e}"),
        }
    }

    /// Writes `entries` to memory and loads them from there.
    fn load_in_memory(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<CoreMlModule, CoreMlError> {
        let mut packages = InMemory::default();
        let (form, to) = (&self.form, &mut packages);
        let written = entries::write(entries, options, form, weights, to, progress)?;
        let mut record = Record::new(written.0, written.1);
        let mut models = Vec::new();
        for package in packages.0 {
            let model = self.engine.open_memory(package)?;
            self.look_over(&*model, &mut record);
            models.push(model);
        }
        if record.plans.len() != record.packages() {
            record.plans.clear();
        }
        let opened = self.open(entries, options, &models, None, &record);
        Ok(opened.map_err(|(_, e)| e)?)
    }

    /// Loads what was compiled of `entries` from where it is kept.
    fn open_kept(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        kept: Kept,
        record: &Record,
    ) -> Result<CoreMlModule, (Option<Kept>, HalError)> {
        let mut models = Vec::new();
        for n in 0..record.packages() {
            match self.engine.open(&compiled_path(kept.path(), n)) {
                Ok(model) => models.push(model),
                Err(e) => {
                    let refused = e.of_nodes(&self.info.name, all_nodes(entries));
                    return Err((Some(kept), refused));
                }
            }
        }
        self.open(entries, options, &models, Some(kept), record)
    }

    /// Loads `entries` from `models`.
    fn open(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        models: &[Box<dyn Model>],
        kept: Option<Kept>,
        record: &Record,
    ) -> Result<CoreMlModule, (Option<Kept>, HalError)> {
        let mut infos = Vec::new();
        for entry in entries {
            match EntryInfo::describe(entry, options.state_dtype) {
                Ok(info) => infos.push(info),
                Err(e) => return Err((kept, e)),
            }
        }
        let mut described = record.functions.iter().zip(entries).zip(&infos);
        let fits = described.all(|((f, entry), info)| f.fits(entry, info));
        if !fits || record.functions.len() != infos.len() {
            let why = "what was kept is of other entries".to_owned();
            let device = self.info.name.clone();
            return Err((kept, HalError::BlobRejected { device, why }));
        }
        let (mut programs, mut placed) = (Vec::new(), Vec::new());
        let packages: Vec<Arc<Package>> = models.iter().map(|_| Arc::new(Package::new())).collect();
        for ((entry, info), function) in entries.iter().zip(&infos).zip(&record.functions) {
            let number = function.package;
            let model = models.get(number).zip(packages.get(number));
            let model = model.ok_or(CoreMlError::NotThere {
                what: "a package",
                why: format!("number {number} of {}", models.len()),
            });
            let loaded = model.and_then(|(m, package)| {
                let known = (package, programs.len());
                Ok(Program::new(
                    function.clone(),
                    info,
                    known,
                    m.load(function, self.units)?,
                ))
            });
            match loaded {
                Ok(program) => programs.push(program),
                Err(e) => return Err((kept, e.of_nodes(&self.info.name, entry.nodes.clone()))),
            }
            let planned = planned(record, function);
            self.note(entry, planned.as_ref());
            placed.push(planned.map_or_else(Vec::new, |p| p.processors_from(entry.nodes.start)));
        }
        let bytes = record.weight_bytes;
        Ok(CoreMlModule::new(infos, programs, placed, bytes, kept))
    }

    /// Keeps what Core ML says of the nodes of `entry`, for verdicts to come.
    fn note(&self, entry: &Entry, placed: Option<&PlannedFunction>) {
        let (Some(placed), Ok(run)) = (placed, entry.subgraph()) else {
            return;
        };
        let mut told = self.told.lock();
        for (_, node) in run.nodes() {
            if let Some(said) = placed.verdict(&node.name, processor(self.units)) {
                let key = told_key(&entry.graph, node);
                // of several sizes the least favourable stands
                match told.get(&key) {
                    Some(known) if rank(known) >= rank(&said) => {}
                    _ => drop(told.insert(key, said)),
                }
            }
        }
    }
}

/// How unfavourable a verdict is.
const fn rank(support: &Support) -> u8 {
    match support {
        Support::Yes => 0,
        Support::Emulated(_) => 1,
        Support::No(_) => 2,
    }
}

/// What a node is: that of another graph of the same name is another unless it does the same on the same types.
fn told_key(graph: &Graph, node: &Node) -> String {
    let types = node.inputs.iter().chain(&node.outputs);
    let types: Vec<String> = types.map(|v| graph.ty(*v).to_string()).collect();
    format!(
        "{} {} {:?} {}",
        graph.name(),
        node.name,
        node.op,
        types.join(" ")
    )
}

/// What would run where of `function`, with what its nodes became.
fn planned(record: &Record, function: &FunctionPlan) -> Option<PlannedFunction> {
    let plan = record.plans.get(function.package)?;
    let name = function.function.as_deref().unwrap_or("main");
    let mut found = plan.functions.iter().find(|f| f.name == name)?.clone();
    found.nodes.clone_from(&function.nodes);
    Some(found)
}

/// Names of the weights that entries use, each once.
fn weight_names(entries: &[Entry]) -> Vec<String> {
    let mut names: BTreeMap<String, ()> = BTreeMap::new();
    for entry in entries {
        let run = entry.nodes.start as usize..entry.nodes.end as usize;
        let nodes = entry.graph.nodes().get(run).unwrap_or_default();
        for &value in nodes.iter().flat_map(|n| &n.inputs) {
            if let ValueDef::Weight(id) = entry.graph.value(value).def {
                let weight = entry.graph.weight(id);
                if weight.inline.is_none() {
                    names.insert(weight.name.clone(), ());
                }
            }
        }
    }
    names.into_keys().collect()
}

/// From the first node of all `entries` to the last.
fn all_nodes(entries: &[Entry]) -> std::ops::Range<u32> {
    let first = entries.iter().map(|e| e.nodes.start).min();
    let last = entries.iter().map(|e| e.nodes.end).max();
    first.unwrap_or(0)..last.unwrap_or(0)
}

/// Most bytes that the weights of `entries` take.
fn weight_bytes(entries: &[Entry], weights: &dyn WeightSource) -> Result<u64, HalError> {
    let each = held(entries, weights)?.into_iter();
    let bytes = each.map(|(_, elements)| elements.saturating_mul(4));
    Ok(bytes.fold(0, u64::saturating_add))
}

/// What a weight takes in its file besides its numbers, and its constants.
const ALIGNED: u64 = 512;

/// The types and elements of the weights that entries use: those of graphs themselves too.
fn held(entries: &[Entry], weights: &dyn WeightSource) -> Result<Vec<(DType, u64)>, HalError> {
    let mut all: BTreeMap<&str, (DType, u64)> = BTreeMap::new();
    for entry in entries {
        let run = entry.nodes.start as usize..entry.nodes.end as usize;
        let nodes = entry.graph.nodes().get(run).unwrap_or_default();
        for &value in nodes.iter().flat_map(|n| &n.inputs) {
            let ValueDef::Weight(id) = entry.graph.value(value).def else {
                continue;
            };
            let weight = entry.graph.weight(id);
            let ty = entry.graph.ty(weight.value);
            let dtype = match weight.inline {
                Some(_) => ty.dtype,
                None => weights.weight(&weight.name)?.dtype,
            };
            let elements = ty.shape.elements(&entry.bounds.limits());
            let elements = elements.map_or(u64::MAX / 8, |n| n as u64);
            all.insert(weight.name.as_str(), (dtype, elements));
        }
    }
    Ok(all.into_values().collect())
}

/// Most bytes of memory for inputs and outputs of `entry` that do not cross as they are, and of constants.
fn staged(entry: &Entry, info: &EntryInfo) -> Result<u64, HalError> {
    let run = entry.subgraph().map_err(|e| HalError::InvalidUse {
        call: "memory_need",
        what: format!("the nodes of '{}'", entry.name),
        found: e.to_string(),
        expected: "a run of the graph".into(),
    })?;
    let (graph, limits) = (&entry.graph, entry.bounds.limits());
    let elements = |shape: &anynpu_ir::Shape| shape.elements(&limits).unwrap_or(usize::MAX / 64);
    let values = info.inputs.iter().chain(&info.outputs);
    let mut numbers: usize = values.map(|p| elements(&p.ty.shape)).sum();
    for port in &info.states {
        // its rows, and those of a step twice
        numbers = numbers.saturating_add(3 * elements(&graph.state(port.state).ty.shape));
    }
    for (_, node) in run.nodes() {
        let count = match node.op {
            // cosines and sines
            Op::Rope { .. } => 2 * elements(&graph.ty(node.inputs[0]).shape),
            // a mask over the rows of a cache and of the step
            Op::Attention { .. } => {
                let tokens = limits.get(Symbol::TOKENS) as usize;
                let rows = limits.get(Symbol::CAPACITY) as usize + tokens + 64;
                tokens.saturating_mul(rows)
            }
            _ => 0,
        };
        // constants that are no weights, as zeros where a product has no bias
        let made = node.outputs.iter();
        let made: usize = made.map(|v| elements(&graph.ty(*v).shape)).sum();
        numbers = numbers.saturating_add(count).saturating_add(made);
    }
    let constants = ALIGNED.saturating_mul(run.nodes().len() as u64);
    Ok((numbers as u64).saturating_mul(4).saturating_add(constants))
}

impl Device for CoreMlDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// What can be lowered; of nodes that were compiled before, what Core ML said of them.
    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        let sizes = SymbolValues::step(TOKENS[1], 0, 1, 2 * TOKENS[1]);
        let told = self.told.lock();
        let nodes = graph.nodes();
        nodes
            .map(|(_, node)| {
                let said = verdict(graph.graph(), node, &self.form, &sizes);
                match said {
                    Support::Yes => {
                        let key = told_key(graph.graph(), node);
                        told.get(&key).cloned().unwrap_or(said)
                    }
                    other => other,
                }
            })
            .collect()
    }

    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let name = &self.info.name;
        if ![DType::F32, DType::F16].contains(&options.state_dtype) {
            return Err(HalError::InvalidUse {
                call: "compile",
                what: "the type of states".into(),
                found: options.state_dtype.to_string(),
                expected: "f32 or f16".into(),
            });
        }
        let key = self.key(entries, options, &*weights)?;
        let cache = self.cache.as_ref().zip(key.as_ref());
        if let Some((kept, record)) = cache.and_then(|(folder, key)| kept::find(folder, key)) {
            match self.open_kept(entries, options, kept, &record) {
                Ok(module) => return Ok(Arc::new(module)),
                Err((kept, e)) => {
                    tracing::debug!("compiled anew: {e}");
                    kept.into_iter().for_each(Kept::discard);
                }
            }
        }
        let mut made = Err(None);
        if cache.is_some() {
            match kept::make(cache, |folder| {
                self.make(entries, options, &*weights, folder, progress)
            }) {
                Ok(kept) => made = Ok(kept),
                // a disk that is full, or that nobody may write, is no reason not to compile
                Err(e @ CoreMlError::Io { .. }) => {
                    tracing::warn!("'{name}' keeps nothing of what it compiles: {e}");
                    made = Err(Some(e));
                }
                Err(e) => return Err(e.of_nodes(name, all_nodes(entries))),
            }
        }
        if made.is_err()
            && self.engine.opens_memory().is_ok()
            && weight_bytes(entries, &*weights)? <= MOST_IN_MEMORY
        {
            match self.load_in_memory(entries, options, &*weights, progress) {
                Ok(module) => return Ok(Arc::new(module)),
                Err(e @ CoreMlError::Hal(HalError::Cancelled { .. })) => {
                    return Err(e.of_device(name));
                }
                Err(e) => tracing::debug!("not from memory: {e}"),
            }
        }
        let made = made.or_else(|first| {
            let made = kept::make(None, |folder| {
                self.make(entries, options, &*weights, folder, progress)
            });
            // the first refusal is of the folder that the user knows
            made.map_err(|e| first.unwrap_or(e))
        });
        let (kept, record) = made.map_err(|e| e.of_nodes(name, all_nodes(entries)))?;
        let opened = self.open_kept(entries, options, kept, &record);
        let module = opened.map_err(|(kept, e)| {
            kept.into_iter().for_each(Kept::discard);
            e
        })?;
        Ok(Arc::new(module))
    }

    /// Weights as the package holds them, and the driver's own memory, at most. What Core ML takes besides is not to be
    /// known.
    fn memory_need(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
    ) -> Result<Option<MemoryNeed>, HalError> {
        let mut need = MemoryNeed::default();
        let groups: Vec<&[Entry]> = match self.form.target.has_ios18() {
            true => vec![entries],
            false => entries.chunks(1).collect(),
        };
        for group in groups {
            for (dtype, elements) in held(group, weights)? {
                // blocks stay blocks, or become 8 bits and a scale a row; a norm's gain is there twice
                let bytes = match dtype.is_block() {
                    true => elements.saturating_add(elements / 4),
                    false => elements.saturating_mul(4),
                };
                let aligned = bytes.saturating_add(ALIGNED);
                need.resident = need.resident.saturating_add(aligned);
                // numbers, and what they become
                let numbers = elements.saturating_mul(4).saturating_add(bytes);
                need.transient = need.transient.max(numbers);
            }
        }
        for entry in entries {
            let staged = staged(entry, &EntryInfo::describe(entry, options.state_dtype)?)?;
            need.resident = need.resident.saturating_add(staged);
        }
        Ok(Some(need))
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        match desc.kind {
            MemoryKind::DeviceLocal if self.capabilities.keeps_states() => {
                Ok(Arc::new(StateBuffer::new(&self.info.name, desc.clone())))
            }
            _ => Ok(Arc::new(HostBuffer::new(desc.clone())?)),
        }
    }

    fn import(&self, handle: ExternalHandle, _: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        handle.into_host(&self.info.name)
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
