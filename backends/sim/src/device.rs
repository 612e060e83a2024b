//! The opened simulated device.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anynpu_hal::driver::chaos::Fault;
use anynpu_hal::{
    BlobCompatibility, Buffer, BufferDesc, Capabilities, CompileOptions, Device, DeviceInfo, Entry,
    EntryInfo, Extent, ExternalHandle, HalError, Link, LinkMode, MemoryKind, MemoryNeed, Module,
    Queue, Reason, ReasonCode, Support, WeightSource,
};
use anynpu_ir::{DType, Graph, Node, NodeId, Subgraph, Symbol};
use parking_lot::Mutex;

use crate::Description;
use crate::blob;
use crate::error::invalid;
use crate::exec::program::{Program, SlotPlan, Way, by_nodes, node_entries};
use crate::exec::{Lane, RoundedWeights, SimBuffer, SimModule, SimQueue};
use crate::memory::Ledger;
use crate::support::weights;

/// A device that behaves as its description says and computes on another device, the engine.
///
/// A device that computes in `f32` hands whole entries to the engine, so its numbers are the engine's. For
/// a narrower type every node is a run of its own: operands of an entry, `f32` weights and the results of
/// each node are rounded to that type; inside a node the engine's arithmetic stands. Constants that a graph
/// carries itself and states stay as they are given.
#[derive(Debug)]
pub struct SimDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    queue: SimQueue,
    compiles: AtomicU64,
    allocations: AtomicU64,
}

impl SimDevice {
    pub(crate) fn new(
        info: DeviceInfo,
        description: Arc<Description>,
        engine: Arc<dyn Device>,
        faults: Vec<Fault>,
    ) -> Self {
        SimDevice {
            capabilities: description.capabilities(),
            queue: SimQueue {
                name: info.name.clone(),
                ledger: Ledger::new(&info.name, description.memory_limit()),
                lane: Mutex::new(Lane::new(&info.name)),
                description,
                engine,
                faults,
            },
            info,
            compiles: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
        }
    }

    /// What it simulates.
    pub fn description(&self) -> &Description {
        &self.queue.description
    }

    /// Lets the device rest for some seconds of virtual time, so that it cools down. Virtual time passes
    /// by itself only while the device works.
    pub fn rest(&self, seconds: f64) {
        let mut lane = self.queue.lane.lock();
        lane.clock.rest(&self.queue.description, seconds);
    }

    fn engine(&self) -> &dyn Device {
        &*self.queue.engine
    }

    fn here(&self) -> Result<(), HalError> {
        match self.queue.lane.lock().lost {
            true => Err(self.queue.loss()),
            false => Ok(()),
        }
    }

    /// Fails with the nodes that can't be compiled: verdicts, sizes that are not fixed as the device
    /// needs them, and more weights than a module holds.
    fn check(&self, entries: &[Entry]) -> Result<(), HalError> {
        let mut refused: BTreeMap<NodeId, Reason> = BTreeMap::new();
        let description = &self.queue.description;
        for entry in entries {
            let run = subgraph(entry)?;
            for ((id, _), verdict) in run.nodes().zip(description.support(&run)) {
                if let Support::No(reason) = verdict {
                    refused.insert(id, reason);
                }
            }
            if let Some(reason) = self.size_obstacle(entry, &run) {
                let first = NodeId(entry.nodes.start);
                refused.entry(first).or_insert(reason);
            }
        }
        let nodes = entries.iter().flat_map(nodes);
        refused.extend(description.past_module_limit(nodes));
        match refused.is_empty() {
            true => Ok(()),
            false => Err(HalError::CompileRejected {
                device: self.info.name.clone(),
                nodes: refused.into_iter().collect(),
            }),
        }
    }

    /// What a device of fixed sizes has against the bounds of `entry`.
    fn size_obstacle(&self, entry: &Entry, run: &Subgraph<'_>) -> Option<Reason> {
        let shapes = self.queue.description.fixed_shapes()?;
        let wrong = |what: &str, extent: Extent, sizes: &[u32]| {
            let found = match extent {
                Extent::Exact(n) => n.to_string(),
                Extent::AtMost(n) => format!("any number up to {n}"),
            };
            let code = match extent {
                Extent::Exact(_) => ReasonCode::ShapeLimit,
                Extent::AtMost(_) => ReasonCode::DynamicShape,
            };
            let sizes = match sizes.is_empty() {
                true => "one number".to_owned(),
                false => format!("one of {sizes:?}"),
            };
            Reason::new(code, format!("{what}: {found}; the device takes {sizes}"))
        };
        let fits = |extent: Extent, sizes: &[u32]| match extent {
            Extent::Exact(n) => sizes.is_empty() || sizes.contains(&n),
            Extent::AtMost(_) => false,
        };
        let tokens = entry.bounds.get(Symbol::TOKENS);
        if !fits(tokens, &shapes.tokens) {
            return Some(wrong("tokens of a step", tokens, &shapes.tokens));
        }
        let rows = entry.bounds.get(Symbol::CAPACITY);
        if !run.states().is_empty() && !fits(rows, &shapes.capacities) {
            return Some(wrong("rows of a state", rows, &shapes.capacities));
        }
        let results = entry.bounds.get(Symbol::OUTPUTS);
        (!fits(results, &[])).then(|| wrong("rows of results", results, &[]))
    }

    /// Whether entries are run node by node.
    fn rounds(&self) -> bool {
        self.queue.description.compute() != DType::F32
    }

    /// The entries as the engine gets them.
    fn engine_entries(&self, entries: &[Entry]) -> Vec<Entry> {
        match self.rounds() {
            true => entries.iter().flat_map(node_entries).collect(),
            false => entries.to_vec(),
        }
    }

    /// How each entry is run, given the engine's entries, and the slots that takes.
    fn programs(
        &self,
        entries: &[Entry],
        infos: &[EntryInfo],
        engine: &[EntryInfo],
    ) -> Result<(Vec<Program>, SlotPlan), HalError> {
        let mut slots = SlotPlan::default();
        let mut first = 0;
        let mut programs = Vec::with_capacity(entries.len());
        for (i, (entry, info)) in entries.iter().zip(infos).enumerate() {
            if !self.rounds() {
                programs.push(Program {
                    graph: entry.graph.clone(),
                    nodes: entry.nodes.clone(),
                    way: Way::Whole(i),
                });
                continue;
            }
            let nodes = entry.nodes.len();
            let own = engine.get(first..first + nodes).ok_or_else(|| {
                let found = format!("{} entries", engine.len());
                invalid("compile", "module of the engine", found, "an entry a node")
            })?;
            programs.push(by_nodes(entry, info, own, first, &mut slots)?);
            first += nodes;
        }
        Ok((programs, slots))
    }

    fn describe(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
    ) -> Result<Vec<EntryInfo>, HalError> {
        let infos = entries.iter();
        infos
            .map(|e| EntryInfo::describe(e, options.state_dtype))
            .collect()
    }
    /// Compiles for the engine.
    fn prepare(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        self.check(entries)?;
        let infos = self.describe(entries, options)?;
        let for_engine = self.engine_entries(entries);
        let engine_infos = self.describe(&for_engine, options)?;
        let (programs, slots) = self.programs(entries, &infos, &engine_infos)?;
        let slot_bytes: u64 = slots.bytes.iter().map(|&n| n as u64).sum();
        let bytes = module_bytes(entries).saturating_add(slot_bytes);
        let charge = self.queue.ledger.take(bytes, "a module")?;
        let weights: Arc<dyn WeightSource> = match self.rounds() {
            true => Arc::new(RoundedWeights {
                source: weights,
                dtype: self.queue.description.compute(),
            }),
            false => weights,
        };
        let engine = self
            .engine()
            .compile(&for_engine, options, weights, progress)?;
        if engine.entries() != engine_infos {
            return Err(invalid(
                "compile",
                "entries of the engine's module",
                engine.entries().len(),
                "those it was given, described alike",
            ));
        }
        let slots = slots.bytes.iter().enumerate().map(|(i, &bytes)| {
            let desc = BufferDesc::host(format!("slot {i} of '{}'", self.info.name), bytes);
            self.engine().allocate(&desc)
        });
        Ok(Arc::new(SimModule {
            slots: Mutex::new(slots.collect::<Result<_, _>>()?),
            infos,
            programs,
            engine,
            slot_bytes,
            state_dtype: options.state_dtype,
            blob: (self.description().has_compiled_form() && anynpu_hal::has_form(entries))
                .then(|| blob::encode(self.description(), entries, options)),
            charge,
        }))
    }
}

impl Device for SimDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        self.queue.description.support(graph)
    }

    fn validate(&self, graph: &Subgraph<'_>) -> Result<Vec<Support>, HalError> {
        self.here()?;
        Ok(self.queue.description.validate(graph))
    }

    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        self.here()?;
        let n = self.compiles.fetch_add(1, Ordering::Relaxed) + 1;
        if self.queue.faults.contains(&Fault::RefuseCompile(n)) {
            let first = entries.first().map_or(0, |e| e.nodes.start);
            let reason = Reason::new(ReasonCode::VendorRejected, "its description says so");
            return Err(HalError::CompileRejected {
                device: self.info.name.clone(),
                nodes: vec![(NodeId(first), reason)],
            });
        }
        self.prepare(entries, options, weights, progress)
    }

    /// What the engine takes of the host's memory.
    fn memory_need(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
    ) -> Result<Option<MemoryNeed>, HalError> {
        let for_engine = self.engine_entries(entries);
        let need = self.engine().memory_need(&for_engine, options, weights)?;
        let Some(mut need) = need else {
            return Ok(None);
        };
        let infos = self.describe(entries, options)?;
        let engine_infos = self.describe(&for_engine, options)?;
        let (_, slots) = self.programs(entries, &infos, &engine_infos)?;
        let slots: u64 = slots.bytes.iter().map(|&n| n as u64).sum();
        need.resident = need.resident.saturating_add(slots);
        Ok(Some(need))
    }

    fn compatibility(&self) -> Vec<u8> {
        match self.description().has_compiled_form() {
            true => blob::version(self.description()).into_bytes(),
            false => Vec::new(),
        }
    }

    fn check_blob(&self, blob: &[u8]) -> BlobCompatibility {
        match self.description().has_compiled_form() {
            true => blob::check(self.description(), blob),
            false => BlobCompatibility::Unsupported("it has no compiled form".to_owned()),
        }
    }

    fn load(
        &self,
        blob: &[u8],
        weights: Arc<dyn WeightSource>,
    ) -> Result<Arc<dyn Module>, HalError> {
        self.here()?;
        let rejected = |why| HalError::BlobRejected {
            device: self.info.name.clone(),
            why,
        };
        if let BlobCompatibility::Unsupported(why) = self.check_blob(blob) {
            return Err(rejected(why));
        }
        let (entries, options) = blob::decode(blob).map_err(|e| rejected(e.to_string()))?;
        self.prepare(&entries, &options, weights, &mut |_, _| true)
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        self.here()?;
        let n = self.allocations.fetch_add(1, Ordering::Relaxed) + 1;
        if self.queue.faults.contains(&Fault::OutOfMemoryAtAllocate(n)) {
            return Err(HalError::OutOfMemory {
                device: self.info.name.clone(),
                bytes: desc.bytes as u64,
                what: format!("{}: its description says so", desc.name),
            });
        }
        let kind = self.queue.description.memory_kind();
        if desc.kind != kind && desc.kind != MemoryKind::Host {
            let what = format!("kind of '{}'", desc.name);
            return Err(invalid(
                "allocate",
                what,
                format!("{:?}", desc.kind),
                format!("{kind:?}"),
            ));
        }
        let charge = self.queue.ledger.take(desc.bytes as u64, &desc.name)?;
        let host = BufferDesc {
            kind: MemoryKind::Host,
            ..desc.clone()
        };
        let inner = self.engine().allocate(&host)?;
        Ok(Arc::new(SimBuffer::new(inner, kind, charge)))
    }

    fn import(
        &self,
        handle: ExternalHandle,
        desc: &BufferDesc,
    ) -> Result<Arc<dyn Buffer>, HalError> {
        match self.queue.description.shares_memory() {
            true => self.engine().import(handle, desc),
            false => Err(HalError::Unsupported {
                device: self.info.name.clone(),
                call: "import",
            }),
        }
    }

    fn trim(&self) -> u64 {
        self.engine().trim()
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn refine_link(&self, other: &DeviceInfo, link: Link) -> Link {
        match self.queue.description.link() {
            Some(own) if other.name != self.info.name && link.mode == LinkMode::Copy => own,
            _ => link,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn subgraph(entry: &Entry) -> Result<Subgraph<'_>, HalError> {
    entry.subgraph().map_err(|e| {
        let what = format!("nodes of entry '{}'", entry.name);
        let found = format!("{}..{}", entry.nodes.start, entry.nodes.end);
        invalid("compile", what, found, e.to_string())
    })
}

/// The nodes of `entry`, which was checked to be a run of its graph.
fn nodes(entry: &Entry) -> impl Iterator<Item = (&Graph, NodeId, &Node)> {
    let graph = &*entry.graph;
    let run = entry.nodes.clone();
    run.map(move |n| (graph, NodeId(n), graph.node(NodeId(n))))
}

/// Bytes of the weights that the entries of a module share; weights of one name are one weight.
fn module_bytes(entries: &[Entry]) -> u64 {
    let all = entries.iter().flat_map(nodes);
    let weights: BTreeMap<&str, u64> = all.flat_map(|(g, _, node)| weights(g, node)).collect();
    weights.values().fold(0, |all, &n| all.saturating_add(n))
}
