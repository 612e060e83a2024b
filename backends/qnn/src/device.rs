//! A chip as the HAL knows it.

use std::any::Any;
use std::sync::Arc;

use anynpu_hal::{
    BlobCompatibility, Bounds, Buffer, BufferDesc, Capabilities, CompileOptions, Device,
    DeviceInfo, Entry, EntryInfo, Extent, ExternalHandle, FixedPoint, FixedShapes, FormError,
    FormReader, FormWriter, HalError, HostBuffer, MemoryKind, MemoryNeed, Module, Queue, Reason,
    ReasonCode, StateSupport, Support, WeightSource, has_form,
};
use anynpu_ir::{DType, Graph, Node, NodeId, OP_SET_VERSION, Op, Subgraph, Symbol, SymbolValues};

use crate::activations::Activations;
use crate::exec::{self, Context, ContextOptions, LoweredPart, Memory, Power, QnnModule, QnnQueue};
use crate::htp::{FixedForm, fixed};
use crate::lower::{Contents, lower, verdict};
use crate::parts::{Cut, Limit};
use crate::sweep::SupportTable;
use crate::weights::WeightForm;

/// Tokens of the steps that graphs are compiled for.
const TOKENS: [u32; 2] = [1, 32];

/// Tokens of the texts that models of whole texts are compiled for, up to their context.
const TEXTS: [u32; 3] = [32, 128, 512];

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
    /// Bytes of weights that one context holds.
    pub context_bytes: u64,
    /// Where memory for inputs and outputs comes from.
    pub memory: Arc<dyn Memory>,
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
        power: Option<Power>,
    ) -> QnnDevice {
        let mut capabilities = Capabilities::new();
        capabilities.states = StateSupport::InPlaceIo;
        capabilities.compute = vec![DType::F16];
        capabilities.fixed_point = match &options.activations {
            Activations::Fixed(ranges) => Some(match ranges.form() {
                FixedForm::U8 => FixedPoint::U8,
                FixedForm::U16 => FixedPoint::U16,
            }),
            Activations::Float | Activations::Measured(_) => None,
        };
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
        capabilities.text_sizes = TEXTS.to_vec();
        QnnDevice {
            queue: QnnQueue::new(&info.name, !options.emulated, power),
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
const MAGIC: &[u8; 8] = b"anpuqnn3";

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

    /// The form of `entries`, cut as `cut` says, up to the library's own forms of these.
    fn head(&self, entries: &[Entry], options: &CompileOptions, cut: &Cut) -> FormWriter {
        let mut form = FormWriter::new(MAGIC);
        form.text(self.device.soc().name);
        form.text(&self.version());
        form.text(match self.shares_weights(entries) {
            true => SHARED,
            false => APART,
        });
        form.entries(entries, options);
        form.number(u32::from(cut.apart));
        form.number(cut.parts.len() as u32);
        for part in &cut.parts {
            form.number(part.end);
        }
        form
    }

    /// What was compiled, and the library's own forms of it.
    fn compiled(blob: &[u8]) -> Result<Compiled<'_>, FormError> {
        let mut form = reader(blob)?;
        let (_soc, _version, _weights) = (form.text()?, form.text()?, form.text()?);
        let (entries, options) = form.entries()?;
        let apart = form.number()? != 0;
        let (count, mut start) = (form.number()?, 0);
        let mut parts = Vec::new();
        for _ in 0..count {
            let end = form.number()?;
            parts.push(start..end);
            start = end;
        }
        let cut = Cut { parts, apart };
        let binaries = (0..cut.contexts(entries.len())).map(|_| form.bytes());
        let binaries = binaries.collect::<Result<Vec<&[u8]>, FormError>>()?;
        form.end()?;
        Ok(Compiled {
            entries,
            options,
            cut,
            binaries,
        })
    }

    /// How entries are cut into parts.
    fn limit(&self) -> Limit {
        Limit {
            bytes: self.options.context_bytes,
            form: self.options.form,
        }
    }

    /// What part number `p` of entry number `i` becomes; nothing of an entry that has no nodes there.
    fn lowered(
        &self,
        cut: &Cut,
        p: usize,
        (i, entries): (usize, &[Entry]),
        options: &CompileOptions,
        weights: Contents<'_>,
    ) -> Result<Option<LoweredPart>, HalError> {
        let (entry, part) = (&entries[i], &cut.parts[p]);
        let end = entry.nodes.start.saturating_add(part.end);
        let nodes = entry.nodes.start.saturating_add(part.start)..end.min(entry.nodes.end);
        if nodes.is_empty() {
            return Ok(None);
        }
        let own = Entry {
            name: match cut.parts.len() {
                1 => entry.name.clone(),
                _ => format!("{} part {p}", entry.name),
            },
            nodes,
            ..entry.clone()
        };
        let (name, form) = (&self.info.name, self.options.form);
        let lowered = lower(name, &own, options.state_dtype, form, weights)?;
        Ok(Some(LoweredPart {
            entry: i,
            nodes: own.nodes.clone(),
            context: cut.context(p, i, entries.len()),
            info: EntryInfo::describe(&own, options.state_dtype)?,
            held: match &self.options.activations {
                Activations::Fixed(ranges) => Some(ranges.apply(name, &lowered.graph)?),
                Activations::Float | Activations::Measured(_) => None,
            },
            lowered,
        }))
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
        let lowered = lower(
            &self.info.name,
            &entry,
            DType::F16,
            self.options.form,
            Contents::None,
        );
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
        if matches!(node.op, Op::Attention { mask: true, .. }) {
            let what = "a mask that is given would take up the range of fixed-point scores";
            return Support::No(Reason::new(ReasonCode::Quantization, what));
        }
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

    /// Whether this lowers as it was lowered for `blob`; what the library says of its own forms in it is another thing.
    fn check_head(&self, blob: &[u8]) -> BlobCompatibility {
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

    fn rejected(&self, why: String) -> HalError {
        HalError::BlobRejected {
            device: self.info.name.clone(),
            why,
        }
    }
}

/// A compiled form, taken apart.
struct Compiled<'a> {
    entries: Vec<Entry>,
    options: CompileOptions,
    cut: Cut,
    /// The library's own form of each context.
    binaries: Vec<&'a [u8]>,
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
                if said == Support::Yes
                    && let Some(why) = self.limit().obstacle(graph.graph(), node)
                {
                    said = Support::No(why);
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
        let share_weights = self.shares_weights(entries);
        let cut = self.limit().cut(name, entries, share_weights)?;
        let measured = matches!(self.options.activations, Activations::Measured(_));
        let keeps = self.device.reads_binaries() && has_form(entries) && !measured;
        let head = keeps.then(|| self.head(entries, options, &cut));
        let mut module = QnnModule::new(&self.options.memory, infos?, head);
        for _ in 0..cut.contexts(entries.len()) {
            let own = ContextOptions { share_weights };
            module.context(Context::new(&self.device, own).map_err(of_device)?);
        }
        let total = (cut.parts.len() * entries.len()) as u64;
        let each = (0..cut.parts.len()).flat_map(|p| (0..entries.len()).map(move |i| (p, i)));
        for ((p, i), done) in each.zip(0..) {
            if !progress(done, total) {
                return Err(HalError::Cancelled {
                    what: "compiling".into(),
                });
            }
            let source = Contents::All(&*weights);
            let lowered = self.lowered(&cut, p, (i, entries), options, source)?;
            match (lowered, &self.options.activations) {
                (None, _) => {}
                (Some(part), Activations::Measured(calibration)) => {
                    let calibration = calibration.clone();
                    module.measure(part, calibration).map_err(of_device)?;
                }
                (Some(part), _) => {
                    let nodes = part.nodes.clone();
                    let refused = |e: exec::QnnError| e.of_nodes(name, nodes);
                    module.compile(part).map_err(refused)?;
                }
            }
        }
        progress(total, total);
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
        let of_head = self.check_head(blob);
        if of_head != BlobCompatibility::Optimal {
            return of_head;
        }
        let compiled = match QnnDevice::compiled(blob) {
            Ok(compiled) => compiled,
            Err(e) => return BlobCompatibility::Unsupported(e.to_string()),
        };
        for binary in compiled.binaries {
            let info = exec::BinaryInfo::read(&self.device, binary);
            match info.and_then(|info| info.fits(&self.device)) {
                Err(e) => return BlobCompatibility::Unsupported(e.to_string()),
                Ok(Some(why)) => return BlobCompatibility::PreferRecompile(why),
                Ok(None) => {}
            }
        }
        BlobCompatibility::Optimal
    }

    fn load(
        &self,
        blob: &[u8],
        weights: Arc<dyn WeightSource>,
    ) -> Result<Arc<dyn Module>, HalError> {
        if let BlobCompatibility::Unsupported(why) = self.check_head(blob) {
            return Err(self.rejected(why));
        }
        let compiled = QnnDevice::compiled(blob).map_err(|e| self.rejected(e.to_string()))?;
        let Compiled {
            entries,
            options,
            cut,
            binaries,
        } = &compiled;
        let of_device = |e: exec::QnnError| e.of_device(&self.info.name);
        let contexts = Context::load_all(&self.device, binaries).map_err(of_device)?;
        let infos: Result<Vec<EntryInfo>, HalError> = entries
            .iter()
            .map(|e| EntryInfo::describe(e, options.state_dtype))
            .collect();
        let head = self.head(entries, options, cut);
        let mut module = QnnModule::new(&self.options.memory, infos?, Some(head));
        let mut found = Vec::with_capacity(contexts.len());
        for (context, info) in contexts {
            module.context(context);
            found.push(info);
        }
        for (p, i) in (0..cut.parts.len()).flat_map(|p| (0..entries.len()).map(move |i| (p, i))) {
            let lowered = self.lowered(cut, p, (i, entries), options, Contents::Host(&*weights))?;
            if let Some(part) = lowered {
                let info = &found[part.context];
                module.retrieve(info, part).map_err(of_device)?;
            }
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
