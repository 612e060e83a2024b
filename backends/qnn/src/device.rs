//! A chip as the HAL knows it.

use std::any::Any;
use std::sync::Arc;

use anynpu_hal::{
    BlobCompatibility, Bounds, Buffer, BufferDesc, Capabilities, CompileOptions, Device,
    DeviceInfo, Entry, EntryInfo, Extent, ExternalHandle, FixedShapes, FormError, FormReader,
    FormWriter, HalError, HostBuffer, MemoryKind, MemoryNeed, Module, Queue, Reason, ReasonCode,
    StateSupport, Support, WeightSource, has_form,
};
use anynpu_ir::{DType, Graph, Node, NodeId, OP_SET_VERSION, Subgraph, Symbol, SymbolValues};

use crate::activations::Activations;
use crate::exec::{self, Context, ContextOptions, QnnModule, QnnQueue};
use crate::htp::fixed;
use crate::lower::{lower, verdict};
use crate::sweep::SupportTable;
use crate::weights::WeightForm;

/// Tokens of the steps that graphs are compiled for.
const TOKENS: [u32; 2] = [1, 32];

/// What the library takes for itself once it has compiled something.
const LIBRARY_BYTES: u64 = 112 << 20;

/// A chip.
#[derive(Debug)]
pub struct QnnDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    device: Arc<exec::Device>,
    options: ChipOptions,
    queue: QnnQueue,
}

/// How a chip is used.
#[derive(Clone, Debug)]
pub(crate) struct ChipOptions {
    /// How weights of products are held.
    pub form: WeightForm,
    /// Whether graphs of a compiled form hold common weights once.
    pub share_weights: bool,
    /// How activations are held.
    pub activations: Activations,
    /// Whether it is emulated: then it has no time.
    pub emulated: bool,
    /// What it computes right, if that was tried.
    pub tried: Option<SupportTable>,
}

impl QnnDevice {
    /// The device of `info`, whose chip is `device`.
    pub(crate) fn new(
        info: DeviceInfo,
        device: Arc<exec::Device>,
        options: ChipOptions,
    ) -> QnnDevice {
        let mut capabilities = Capabilities::new();
        capabilities.states = StateSupport::InPlaceIo;
        capabilities.compute = vec![DType::F16];
        let weights = DType::ALL.iter().copied();
        capabilities.weights = weights
            .filter(|d| anynpu_ir::block::is_decodable(*d))
            .collect();
        capabilities.memory = vec![MemoryKind::Host];
        capabilities.features.artificial = options.emulated;
        capabilities.fixed_shapes = Some(FixedShapes {
            tokens: TOKENS.to_vec(),
            capacities: Vec::new(),
        });
        QnnDevice {
            queue: QnnQueue::new(&info.name, !options.emulated),
            info,
            capabilities,
            device,
            options,
        }
    }
}

/// How the weights of graphs are held in a compiled form: once for all, or once for each.
const SHARED: &str = "shared weights";
const APART: &str = "weights apart";

/// How compiled forms begin.
const MAGIC: &[u8; 8] = b"anpuqnn2";

impl QnnDevice {
    /// What decides besides the chip whether a compiled form fits: what lowered it.
    fn version(&self) -> String {
        let mut version = format!(
            "{} {} op set {OP_SET_VERSION} weights {}",
            env!("CARGO_PKG_NAME"),
            env!("CARGO_PKG_VERSION"),
            self.options.form
        );
        if let Activations::Fixed(ranges) = &self.options.activations {
            version += &format!(" activations {} in {}", ranges.form(), ranges.digest());
        }
        version
    }

    /// The form of `entries` up to the library's own.
    fn head(&self, entries: &[Entry], options: &CompileOptions) -> FormWriter {
        let mut form = FormWriter::new(MAGIC);
        form.text(self.device.soc().name);
        form.text(&self.version());
        form.text(match self.shares_weights(entries) {
            true => SHARED,
            false => APART,
        });
        form.entries(entries, options);
        form
    }

    /// What was compiled, and the library's own form of it.
    fn parts(blob: &[u8]) -> Result<(Vec<Entry>, CompileOptions, &[u8]), FormError> {
        let mut form = reader(blob)?;
        let (_soc, _version, _weights) = (form.text()?, form.text()?, form.text()?);
        let (entries, options) = form.entries()?;
        let binary = form.bytes()?;
        form.end()?;
        Ok((entries, options, binary))
    }

    /// Whether the graphs of `entries` are to hold common weights once.
    fn shares_weights(&self, entries: &[Entry]) -> bool {
        self.options.share_weights && entries.len() > 1
    }

    /// Whether what node `id` becomes was computed right when that was tried.
    fn tried(&self, table: &SupportTable, graph: &Arc<Graph>, id: NodeId) -> Support {
        let mut bounds = Bounds::new();
        let sizes = SymbolValues::step(TOKENS[1], 0, 1, 2 * TOKENS[1]);
        for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
            bounds = bounds.with(symbol, Extent::Exact(sizes.get(symbol)));
        }
        let entry = Entry {
            name: "tried".into(),
            graph: graph.clone(),
            nodes: id.0..id.0 + 1,
            bounds,
        };
        let lowered = lower(&self.info.name, &entry, DType::F16, self.options.form, None);
        let held = lowered.ok().and_then(|lowered| {
            match &self.options.activations {
                // how numbers are held does not depend on their ranges
                Activations::Fixed(ranges) => fixed(&lowered.graph, &[], ranges.form()).ok(),
                Activations::Float => Some(lowered.graph),
                Activations::Measured(_) => None,
            }
        });
        // of what can't be lowered alone, compiling tells more
        match held.and_then(|graph| table.obstacle(&graph)) {
            None => Support::Yes,
            Some(why) => Support::No(Reason::new(ReasonCode::VendorRejected, why)),
        }
    }

    /// Whether it is known between which numbers the result of `node` is, where that must be.
    fn ranged(&self, graph: &Graph, node: &Node) -> Support {
        let Activations::Fixed(ranges) = &self.options.activations else {
            return Support::Yes;
        };
        let names = node.outputs.iter().map(|v| graph.value(*v).name.as_str());
        let mut unknown = names.filter(|name| ranges.of_value(name).is_none());
        match unknown.next() {
            None => Support::Yes,
            Some(name) => Support::No(Reason::new(
                ReasonCode::VendorRejected,
                format!("the ranges of activations have none of '{name}'; calibrate this model"),
            )),
        }
    }

    fn rejected(&self, why: String) -> HalError {
        HalError::BlobRejected {
            device: self.info.name.clone(),
            why,
        }
    }
}

fn reader(blob: &[u8]) -> Result<FormReader<'_>, FormError> {
    FormReader::new(blob, MAGIC, "a Qualcomm chip")
}

impl Device for QnnDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        let tried = self.options.tried.as_ref();
        let whole = tried.map(|table| (table, Arc::new(graph.graph().clone())));
        let nodes = graph.nodes();
        nodes
            .map(|(id, node)| {
                let mut said = verdict(graph.graph(), node);
                if said == Support::Yes {
                    said = self.ranged(graph.graph(), node);
                }
                match (said, &whole) {
                    (Support::Yes, Some((table, whole))) => self.tried(table, whole, id),
                    (said, _) => said,
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
        let of_device = |e: exec::QnnError| e.of_device(name);
        let infos: Result<Vec<EntryInfo>, HalError> = entries
            .iter()
            .map(|e| EntryInfo::describe(e, options.state_dtype))
            .collect();
        let own = ContextOptions {
            share_weights: self.shares_weights(entries),
        };
        let context = Context::new(&self.device, own).map_err(of_device)?;
        let measured = matches!(self.options.activations, Activations::Measured(_));
        let keeps = self.device.reads_binaries() && has_form(entries) && !measured;
        let head = keeps.then(|| self.head(entries, options));
        let mut module = QnnModule::new(&context, infos?, head);
        for (i, entry) in entries.iter().enumerate() {
            if !progress(i as u64, entries.len() as u64) {
                return Err(HalError::Cancelled {
                    what: "compiling".into(),
                });
            }
            let lowered = lower(
                name,
                entry,
                options.state_dtype,
                self.options.form,
                Some(&*weights),
            )?;
            match &self.options.activations {
                Activations::Float => module.compile(lowered, None).map_err(of_device)?,
                Activations::Fixed(ranges) => {
                    let held = ranges.apply(name, &lowered.graph)?;
                    module.compile(lowered, Some(held)).map_err(of_device)?;
                }
                Activations::Measured(calibration) => {
                    module.measure(lowered, calibration.clone());
                }
            }
        }
        progress(entries.len() as u64, entries.len() as u64);
        Ok(Arc::new(module))
    }

    fn compatibility(&self) -> Vec<u8> {
        let measured = matches!(self.options.activations, Activations::Measured(_));
        match self.device.reads_binaries() && !measured {
            true => format!("{} {}", self.device.soc().name, self.version()).into_bytes(),
            false => Vec::new(),
        }
    }

    fn check_blob(&self, blob: &[u8]) -> BlobCompatibility {
        let own = self.device.soc().name;
        let head = reader(blob).and_then(|mut form| Ok((form.text()?, form.text()?, form.text()?)));
        match head {
            Err(e) => BlobCompatibility::Unsupported(e.to_string()),
            Ok((soc, ..)) if soc != own => {
                BlobCompatibility::Unsupported(format!("it was compiled for {soc}, not for {own}"))
            }
            Ok((_, version, _)) if version != self.version() => {
                BlobCompatibility::Unsupported(format!("it was lowered by {version}"))
            }
            // the library says so too, and crashes when it compiles the next graph
            Ok((.., weights)) if weights == SHARED && self.options.emulated => {
                BlobCompatibility::Unsupported(
                    "its graphs share their weights, which the emulator can't load".into(),
                )
            }
            Ok(_) => BlobCompatibility::Optimal,
        }
    }

    fn load(&self, blob: &[u8], _: Arc<dyn WeightSource>) -> Result<Arc<dyn Module>, HalError> {
        if let BlobCompatibility::Unsupported(why) = self.check_blob(blob) {
            return Err(self.rejected(why));
        }
        let parts = QnnDevice::parts(blob).map_err(|e| self.rejected(e.to_string()))?;
        let (entries, options, binary) = parts;
        let of_device = |e: exec::QnnError| e.of_device(&self.info.name);
        let (context, info) = Context::load(&self.device, binary).map_err(of_device)?;
        let infos: Result<Vec<EntryInfo>, HalError> = entries
            .iter()
            .map(|e| EntryInfo::describe(e, options.state_dtype))
            .collect();
        let head = self.head(&entries, &options);
        let mut module = QnnModule::new(&context, infos?, Some(head));
        for entry in &entries {
            let lowered = lower(
                &self.info.name,
                entry,
                options.state_dtype,
                self.options.form,
                None,
            )?;
            let held = match &self.options.activations {
                Activations::Fixed(ranges) => Some(ranges.apply(&self.info.name, &lowered.graph)?),
                _ => None,
            };
            module.retrieve(&info, lowered, held).map_err(of_device)?;
        }
        Ok(Arc::new(module))
    }

    /// What the emulator was seen to take: each entry its own copy of the weights and its compiled form, and while it
    /// compiles two more of one entry.
    fn memory_need(
        &self,
        entries: &[Entry],
        _: &CompileOptions,
        _: &dyn WeightSource,
    ) -> Result<Option<MemoryNeed>, HalError> {
        let mut need = MemoryNeed {
            scratch: LIBRARY_BYTES,
            ..MemoryNeed::default()
        };
        for entry in entries {
            let run = entry.subgraph().map_err(|e| HalError::InvalidUse {
                call: "memory_need",
                what: format!("the nodes of '{}'", entry.name),
                found: e.to_string(),
                expected: "a run of the graph".into(),
            })?;
            let weights = run.weights().iter().map(|&id| {
                let ty = entry.graph.ty(entry.graph.weight(id).value);
                let elements = ty.shape.elements(&entry.bounds.limits());
                2 * elements.unwrap_or(usize::MAX / 4) as u64
            });
            let bytes = weights.fold(0u64, u64::saturating_add);
            need.resident = need.resident.saturating_add(bytes.saturating_mul(2));
            need.transient = need.transient.max(bytes.saturating_mul(2));
        }
        Ok(Some(need))
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        Ok(Arc::new(HostBuffer::new(desc.clone())?))
    }

    /// It works in memory of the host, whoever allocated it.
    fn import(&self, handle: ExternalHandle, _: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        match handle {
            ExternalHandle::Shared(buffer) if buffer.desc().kind == MemoryKind::Host => Ok(buffer),
            _ => Err(HalError::Unsupported {
                device: self.info.name.clone(),
                call: "import",
            }),
        }
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
