//! A device as the HAL knows it.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anynpu_hal::{
    Bounds, Buffer, BufferDesc, Capabilities, CompileOptions, Device, DeviceInfo, Entry, EntryInfo,
    Extent, ExternalHandle, FixedPoint, FixedShapes, HalError, MemoryKind, MemoryNeed, Module,
    Queue, Reason, ReasonCode, StateSupport, Support, WeightSource, WeightView,
};
use anynpu_ir::{
    AttentionKv, DType, Dim, Graph, NodeId, Op, Shape, Subgraph, Symbol, SymbolValues, TensorType,
};
use parking_lot::Mutex;

use crate::exec::{
    self, Buffers, BuiltModel, CompileSettings, Executable, NnapiError, NnapiModule, NnapiQueue,
    Program, Store, hardware_buffers, no_domains, supported,
};
use crate::lower::{Feed, Lowered, ProductForm, StateForm, Target, WeightForm, lower, verdict};
use crate::model::{Constants, Content};
use crate::sys;

/// Tokens of the steps that models are compiled for.
const TOKENS: [u32; 2] = [1, 32];

/// Tokens of the texts that models of whole texts are compiled for, up to their context.
const TEXTS: [u32; 3] = [32, 128, 512];

/// A device of the runtime.
#[derive(Debug)]
pub struct NnapiDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    device: exec::Device,
    target: Target,
    settings: DeviceSettings,
    queue: NnapiQueue,
    buffers: Buffers,
    /// Why states are in the host's memory, where the device's was asked for.
    host_states: Option<Reason>,
    /// What the driver said of nodes, by what they became.
    asked: Mutex<HashMap<String, Option<Reason>>>,
}

/// How a device is used.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceSettings {
    /// What compilations are to be like; tokens of caches are made for each.
    pub compile: CompileSettings,
    /// The folder in which drivers keep what they compiled.
    pub cache: Option<std::path::PathBuf>,
}

impl NnapiDevice {
    /// The device of `info`, which is `device`. It is asked what products of computed matrices are to be made of.
    pub(crate) fn new(
        info: DeviceInfo,
        device: exec::Device,
        mut target: Target,
        settings: DeviceSettings,
        artificial: bool,
    ) -> NnapiDevice {
        let mut capabilities = Capabilities::new();
        capabilities.states = StateSupport::InPlaceIo;
        capabilities.compute = vec![target.numbers.computed()];
        let weights = DType::ALL.iter().copied();
        capabilities.weights = weights
            .filter(|d| anynpu_ir::block::is_decodable(*d))
            .collect();
        let runtime = device.runtime().clone();
        let hardware = hardware_buffers(&runtime);
        capabilities.memory = vec![MemoryKind::Host];
        if hardware.is_ok() {
            capabilities.memory.push(MemoryKind::AHardwareBuffer);
        }
        capabilities.features.artificial = artificial;
        capabilities.fixed_shapes = Some(FixedShapes {
            tokens: TOKENS.to_vec(),
            capacities: Vec::new(),
        });
        capabilities.text_sizes = TEXTS.to_vec();
        // products of integers take and give 8 bits
        if target.ranges.is_some() && target.weights != WeightForm::Numbers {
            capabilities.fixed_point = Some(FixedPoint::U8);
        }
        let forms = ProductForm::at(target.level).iter();
        let fitting = forms.copied().find(|form| {
            let target = Target {
                products: *form,
                ..target.clone()
            };
            runs_attention(&info.name, &device, &target)
        });
        target.products = fitting.unwrap_or(ProductForm::at(target.level)[0]);
        let queue = NnapiQueue::new(&info.name, &runtime);
        capabilities.features.asynchronous = queue.no_fences().is_none();
        let mut made = NnapiDevice {
            buffers: Buffers::new(&info.name, &runtime, hardware),
            queue,
            info,
            capabilities,
            device,
            target,
            settings,
            host_states: None,
            asked: Mutex::new(HashMap::new()),
        };
        if made.target.states == StateForm::Device {
            made.host_states = made.no_states();
            match &made.host_states {
                None => {
                    made.capabilities.states = StateSupport::Native;
                    made.capabilities.memory.push(MemoryKind::DeviceLocal);
                }
                Some(why) => {
                    tracing::warn!(
                        "'{}' has states in the host's memory: {why}",
                        made.info.name
                    );
                    made.target.states = StateForm::Host;
                }
            }
        }
        made
    }

    /// Why states are in the host's memory, where memory of the device was asked for.
    pub fn host_states(&self) -> Option<&Reason> {
        self.host_states.as_ref()
    }

    /// Why runs here can't begin behind others by fences, if they can't: each ends before the next is started.
    pub fn no_fences(&self) -> Option<&Reason> {
        self.queue.no_fences()
    }

    /// Why the device keeps no states in memory of its own, if it does not: it is tried on a small one.
    fn no_states(&self) -> Option<Reason> {
        let runtime = self.device.runtime();
        if let Some(why) = no_domains(runtime, self.device.level()) {
            return Some(why);
        }
        let entry = match appending() {
            Ok(graph) => entry(&Arc::new(graph), 0..1),
            Err(e) => return Some(Reason::new(ReasonCode::State, e.to_string())),
        };
        let options = CompileOptions::new(self.target.numbers.held().dtype());
        let compiled = self.compiled(&self.target, &[entry], &options, &NoWeights, &mut |_, _| {
            true
        });
        match compiled {
            Err(e) => Some(Reason::new(ReasonCode::VendorRejected, e.to_string())),
            Ok(module) => module.try_domains(runtime).err().map(|e| e.reason()),
        }
    }

    /// Compiles `entries` as they are lowered for `target`.
    fn compiled(
        &self,
        target: &Target,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<NnapiModule, HalError> {
        let name = &self.info.name;
        let mut constants = Constants::new();
        let mut lowered = Vec::new();
        for entry in entries {
            let dtype = options.state_dtype;
            lowered.push(lower(
                name,
                entry,
                dtype,
                target,
                &mut constants,
                Some(weights),
            )?);
        }
        let runtime = self.device.runtime();
        let store = Store::new(runtime, &constants, weights, progress);
        let store = Arc::new(store.map_err(|e| self.refused(e))?);
        let digest = match self.settings.cache {
            Some(_) => digest(&constants, weights)?,
            None => [0; blake3::OUT_LEN],
        };
        let (mut infos, mut programs) = (Vec::new(), Vec::new());
        for (entry, lowered) in entries.iter().zip(lowered) {
            let info = EntryInfo::describe(entry, options.state_dtype)?;
            let refused = |e: NnapiError| e.of_nodes(name, entry.nodes.clone());
            let built = BuiltModel::new(runtime, &lowered.model, &store).map_err(refused)?;
            let settings = self.compile_settings(&lowered, &digest);
            let executable = Executable::new(&self.device, &lowered.model, built, &settings);
            let executable = executable.map_err(refused)?;
            let numbers = target.numbers.held();
            programs.push(Program::new(lowered, &info, numbers, executable));
            infos.push(info);
        }
        Ok(NnapiModule::new(infos, programs, &store))
    }

    /// What models are lowered for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether the driver runs what node `id` becomes by itself.
    fn asked(&self, graph: &Arc<Graph>, id: NodeId) -> Support {
        let entry = entry(graph, id.0..id.0 + 1);
        let mut constants = Constants::new();
        let lowered = lower(
            &self.info.name,
            &entry,
            DType::F32,
            &self.target,
            &mut constants,
            None,
        );
        // of what can't be lowered alone, compiling tells more
        let Ok(lowered) = lowered else {
            return Support::Yes;
        };
        let operations = lowered.model.operations.iter();
        let key: Vec<String> = operations.map(|o| lowered.model.told(o)).collect();
        let key = key.join("\n");
        let known = self.asked.lock().get(&key).cloned();
        let said = known.unwrap_or_else(|| {
            let refused = refusals(&self.device, &lowered, &constants);
            let said = match refused {
                Ok(refused) => refused.into_values().next(),
                Err(e) => Some(e.reason()),
            };
            self.asked.lock().insert(key, said.clone());
            said
        });
        said.map_or(Support::Yes, Support::No)
    }

    /// The driver's settings for `lowered`, with a token by which it is known again in caches.
    fn compile_settings(
        &self,
        lowered: &Lowered,
        constants: &[u8; blake3::OUT_LEN],
    ) -> CompileSettings {
        let mut settings = self.settings.compile.clone();
        settings.cache = self.settings.cache.as_ref().map(|folder| {
            let mut hash = blake3::Hasher::new();
            let model = &lowered.model;
            for part in [
                self.device.name(),
                self.device.version(),
                &model.to_string(),
            ] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part.as_bytes());
            }
            for operand in &model.operands {
                for scale in operand.channels.iter().flat_map(|c| &c.scales) {
                    hash.update(&scale.to_le_bytes());
                }
            }
            hash.update(constants);
            let mut token = [0; sys::BYTE_SIZE_OF_CACHE_TOKEN];
            hash.finalize_xof().fill(&mut token);
            (folder.clone(), token)
        });
        settings
    }

    fn refused(&self, why: NnapiError) -> HalError {
        why.of_device(&self.info.name)
    }
}

/// Nodes of `graph` in the sizes in which drivers are asked about them.
fn entry(graph: &Arc<Graph>, nodes: std::ops::Range<u32>) -> Entry {
    let tokens = TOKENS[1];
    let sizes = SymbolValues::step(tokens, 0, 1, 2 * tokens);
    let mut bounds = Bounds::new();
    for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
        bounds = bounds.with(symbol, Extent::Exact(sizes.get(symbol)));
    }
    Entry {
        name: "asked".into(),
        graph: graph.clone(),
        nodes,
        bounds,
    }
}

/// The nodes of `lowered` that `device` does not run, each with the first operation of it that it refuses.
fn refusals(
    device: &exec::Device,
    lowered: &Lowered,
    constants: &Constants,
) -> Result<BTreeMap<NodeId, Reason>, NnapiError> {
    let runtime = device.runtime();
    let store = Arc::new(Store::blank(runtime, constants)?);
    let built = BuiltModel::new(runtime, &lowered.model, &store)?;
    let answers = supported(&built, device)?;
    let mut refused = BTreeMap::new();
    let each = lowered.model.operations.iter().zip(&lowered.nodes);
    for ((operation, node), runs) in each.zip(answers) {
        if !runs {
            let what = format!(
                "'{}' does not run {}",
                device.name(),
                lowered.model.told(operation)
            );
            let reason = Reason::new(ReasonCode::VendorRejected, what);
            refused.entry(*node).or_insert(reason);
        }
    }
    Ok(refused)
}

/// A graph that appends rows to a state.
fn appending() -> Result<Graph, anynpu_ir::GraphError> {
    let mut graph = Graph::new("candidate");
    let rows = |of: Dim| TensorType::new(DType::F32, [of, Dim::Fixed(2), Dim::Fixed(8)]);
    let state = graph.add_state("state", rows(Dim::CAPACITY), 0)?;
    let new = graph.add_input("new", rows(Dim::TOKENS))?;
    let at = Dim::CACHED;
    graph.add_node("append", Op::KvAppend { state, at }, &[new])?;
    Ok(graph)
}

/// Where there are no weights.
#[derive(Debug)]
struct NoWeights;

impl WeightSource for NoWeights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        Err(HalError::Weight {
            name: name.into(),
            why: "a candidate has none".into(),
        })
    }
}

/// Whether `device` says that it runs an attention as it is lowered for `target`.
fn runs_attention(name: &str, device: &exec::Device, target: &Target) -> bool {
    let candidate = || {
        let mut graph = Graph::new("candidate");
        let rows = TensorType::new(DType::F32, Shape::fixed(&[TOKENS[1], 2, 8]));
        let q = graph.add_input("q", rows.clone()).ok()?;
        let k = graph.add_input("k", rows.clone()).ok()?;
        let v = graph.add_input("v", rows).ok()?;
        let attention = Op::Attention {
            kv: AttentionKv::Operands,
            causal: false,
            mask: false,
            scale: 0.5,
            soft_cap: None,
            window: None,
        };
        let y = graph.add("y", attention, &[q, k, v]).ok()?;
        graph.set_output(y).ok()?;
        let entry = entry(&Arc::new(graph), 0..1);
        let mut constants = Constants::new();
        let lowered = lower(name, &entry, DType::F32, target, &mut constants, None).ok()?;
        refusals(device, &lowered, &constants).ok()
    };
    candidate().is_some_and(|refused| refused.is_empty())
}

/// What tells the contents of `constants` apart.
fn digest(
    constants: &Constants,
    weights: &dyn WeightSource,
) -> Result<[u8; blake3::OUT_LEN], HalError> {
    let mut hash = blake3::Hasher::new();
    for constant in constants.all() {
        hash.update(&(constant.bytes as u64).to_le_bytes());
        match &constant.content {
            Content::Zeros => hash.update(b"zeros"),
            Content::Bytes(bytes) => hash.update(bytes),
            Content::Numbers(name, _) | Content::Rows(name, _) | Content::Tensor(name) => {
                let view = weights.weight(name)?;
                hash.update(view.dtype.name().as_bytes());
                hash.update(&view.bytes)
            }
        };
    }
    Ok(*hash.finalize().as_bytes())
}

impl Device for NnapiDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        let whole = Arc::new(graph.graph().clone());
        let nodes = graph.nodes();
        nodes
            .map(|(id, node)| match verdict(&whole, node, &self.target) {
                Support::No(reason) => Support::No(reason),
                said => match (self.asked(&whole, id), &self.host_states) {
                    (Support::Yes, Some(why)) if matches!(node.op, Op::KvAppend { .. }) => {
                        Support::Emulated(why.clone())
                    }
                    (Support::Yes, _) => said,
                    (refused, _) => refused,
                },
            })
            .collect()
    }

    /// The driver's own word on the model that the whole run becomes.
    fn validate(&self, graph: &Subgraph<'_>) -> Result<Vec<Support>, HalError> {
        let mut said = self.support(graph);
        if said.iter().any(|s| matches!(s, Support::No(_))) {
            return Ok(said);
        }
        let ids: Vec<NodeId> = graph.nodes().map(|(id, _)| id).collect();
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else {
            return Ok(said);
        };
        let entry = entry(&Arc::new(graph.graph().clone()), first.0..last.0 + 1);
        let mut constants = Constants::new();
        let name = &self.info.name;
        let lowered = lower(name, &entry, DType::F32, &self.target, &mut constants, None)?;
        let refused = refusals(&self.device, &lowered, &constants);
        let refused = refused.map_err(|e| self.refused(e))?;
        for (said, id) in said.iter_mut().zip(&ids) {
            if let Some(reason) = refused.get(id) {
                *said = Support::No(reason.clone());
            }
        }
        Ok(said)
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
        let compiled = self.compiled(&self.target, entries, options, &*weights, progress)?;
        if self.target.states == StateForm::Host {
            return Ok(Arc::new(compiled));
        }
        let Err(e) = compiled.try_domains(self.device.runtime()) else {
            return Ok(Arc::new(compiled));
        };
        drop(compiled);
        let why = e.reason();
        tracing::warn!("'{name}' has states in the host's memory: {why}");
        let target = Target {
            states: StateForm::Host,
            ..self.target.clone()
        };
        let compiled = self.compiled(&target, entries, options, &*weights, progress)?;
        Ok(Arc::new(compiled.with_host_states(why)))
    }

    /// Constants as the device holds them, which is wider than most files do, inputs and outputs, and states in memory of
    /// the device. What a driver takes besides is not to be known.
    fn memory_need(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
    ) -> Result<Option<MemoryNeed>, HalError> {
        let mut constants = Constants::new();
        let mut need = MemoryNeed::default();
        let (name, dtype) = (&self.info.name, options.state_dtype);
        let mut kept = BTreeMap::new();
        for entry in entries {
            let lowered = lower(name, entry, dtype, &self.target, &mut constants, None)?;
            let model = &lowered.model;
            if self.target.states == StateForm::Device {
                let states = EntryInfo::describe(entry, dtype)?.states;
                for (feed, id) in lowered.feeds.iter().zip(&model.inputs) {
                    if let Feed::State(at) | Feed::StateOfStep(at) = feed {
                        let bytes = model.operand(*id).and_then(|o| o.bytes()).unwrap_or(0);
                        kept.insert(states.get(*at).map(|s| s.state), bytes as u64);
                    }
                }
            }
            for id in model.inputs.iter().chain(&model.outputs) {
                let bytes = model.operand(*id).and_then(|o| o.bytes()).unwrap_or(0);
                let aligned = bytes.saturating_add(exec::MOST_ALIGN as usize);
                need.resident = need.resident.saturating_add(aligned as u64);
            }
        }
        // two of each, besides that of the host
        let twice = kept.values().map(|bytes| bytes.saturating_mul(2));
        need.resident = twice.fold(need.resident, u64::saturating_add);
        for constant in constants.all() {
            let bytes = constant.bytes as u64;
            match constant.span(weights) {
                Some(_) => need.in_place = need.in_place.saturating_add(bytes),
                None => {
                    let aligned = bytes.saturating_add(64);
                    need.resident = need.resident.saturating_add(aligned);
                    // numbers, then what they become
                    need.transient = need.transient.max(bytes.saturating_mul(3));
                }
            }
        }
        Ok(Some(need))
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        self.buffers.allocate(desc)
    }

    /// It works in memory of the host, whoever allocated it, and in hardware buffers of bytes.
    fn import(&self, handle: ExternalHandle, _: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        self.buffers.import(handle)
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
