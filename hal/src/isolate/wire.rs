//! The messages between a program and its helper.
//!
//! A frame is the length of what follows as a little-endian u32 and one JSON document. The helper reads
//! [`Request`]s and writes [`Reply`]s; each reply carries the number of its request.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anynpu_ir::{DType, Graph, NodeId, Symbol, SymbolValues};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{
    Bounds, Capabilities, ClaimedRates, CompileOptions, Counters, DeviceInfo, DeviceKind, Entry,
    ExposedDevice, Extent, Features, FixedPoint, FixedShapes, HalError, MemoryKind, MemoryNeed,
    Reason, ReasonCode, StateSupport, Support,
};

/// Version of the messages; a helper of another one is refused.
pub(super) const VERSION: u32 = 4;

/// Most bytes of a frame: graphs are the largest thing sent.
const FRAME_LIMIT: usize = 256 << 20;

/// Writes a frame.
pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len())
        .ok()
        .filter(|&n| n as usize <= FRAME_LIMIT);
    let length = length.ok_or_else(|| io::Error::other("a message is too long"))?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(&text);
    to.write_all(&frame)?;
    to.flush()
}

/// Reads a frame; `None` at the end of the stream.
pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_LIMIT {
        return Err(io::Error::other(format!(
            "a message of {length} bytes; at most {FRAME_LIMIT} are read"
        )));
    }
    let mut text = Vec::new();
    let read = from.take(length as u64).read_to_end(&mut text)?;
    if read < length {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

/// What the program asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub id: u64,
    pub call: Call,
}

/// A call of the HAL.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    Version,
    Enumerate,
    Open {
        name: String,
        threads: Option<usize>,
        options: BTreeMap<String, String>,
    },
    Support {
        graph: String,
        nodes: (u32, u32),
        validate: bool,
    },
    MemoryNeed(WireCompile),
    Compile(WireCompile),
    /// Stops the compiling that request `0` asked for.
    Cancel(u64),
    DropModule(u64),
    Allocate {
        buffer: u64,
        name: String,
        bytes: usize,
        align: usize,
        path: PathBuf,
    },
    Free(u64),
    Submit {
        module: u64,
        entry: usize,
        inputs: Vec<u64>,
        outputs: Vec<u64>,
        states: Vec<u64>,
        /// Tokens and cached rows of each.
        sequences: Vec<(u32, u32)>,
        symbols: Vec<u32>,
    },
    Trim,
    /// What [`heap_bytes`](crate::heap_bytes) says there.
    Heap,
}

/// What the helper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub id: u64,
    pub result: Result<Answer, WireError>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Version(u32),
    Devices(Vec<WireExposed>),
    Unavailable {
        reason: String,
        remedy: Option<String>,
    },
    Opened {
        info: WireInfo,
        capabilities: Box<WireCapabilities>,
    },
    Verdicts(Vec<WireSupport>),
    MemoryNeed(Option<[u64; 4]>),
    /// Compiling goes on: (done, total) weights.
    Progress(u64, u64),
    Compiled {
        module: u64,
        resident: u64,
        /// Whether each entry takes several sequences.
        sequences: Vec<WireSupport>,
    },
    Allocated,
    /// A submission ended; the device's counters after it: submissions, nodes, nanoseconds.
    Ran([u64; 3]),
    Trimmed(u64),
    Heap(Option<u64>),
    Done,
}

impl Answer {
    pub fn name(&self) -> &'static str {
        match self {
            Answer::Version(_) => "a version",
            Answer::Devices(_) => "devices",
            Answer::Unavailable { .. } => "that there is no device",
            Answer::Opened { .. } => "a device",
            Answer::Verdicts(_) => "verdicts",
            Answer::MemoryNeed(_) => "memory",
            Answer::Progress(..) => "progress",
            Answer::Compiled { .. } => "a module",
            Answer::Allocated => "a buffer",
            Answer::Ran(_) => "a run",
            Answer::Trimmed(_) => "freed memory",
            Answer::Heap(_) => "its heap",
            Answer::Done => "that it is done",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireInfo {
    name: String,
    driver: String,
    kind: String,
    description: String,
}

impl WireInfo {
    pub fn of(info: &DeviceInfo) -> Self {
        WireInfo {
            name: info.name.clone(),
            driver: info.driver.clone(),
            kind: info.kind.name().into(),
            description: info.description.clone(),
        }
    }

    pub fn into_info(self) -> DeviceInfo {
        let kinds = [
            DeviceKind::Cpu,
            DeviceKind::Gpu,
            DeviceKind::Npu,
            DeviceKind::Simulated,
        ];
        let kind = kinds.into_iter().find(|k| k.name() == self.kind);
        DeviceInfo {
            name: self.name,
            driver: self.driver,
            kind: kind.unwrap_or(DeviceKind::Other),
            description: self.description,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireExposed {
    info: WireInfo,
    artificial: bool,
}

impl WireExposed {
    pub fn of(device: &ExposedDevice) -> Self {
        WireExposed {
            info: WireInfo::of(&device.info),
            artificial: device.artificial,
        }
    }

    pub fn into_exposed(self) -> Result<ExposedDevice, String> {
        if self.info.name.is_empty() {
            return Err("the helper found a device without a name".into());
        }
        Ok(ExposedDevice {
            info: self.info.into_info(),
            artificial: self.artificial,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireCapabilities {
    op_set: u32,
    baseline: bool,
    dynamic_shapes: bool,
    asynchronous: bool,
    artificial: bool,
    states: u8,
    compute: Vec<String>,
    fixed_point: Option<String>,
    weights: Vec<String>,
    memory_limit: Option<u64>,
    fixed_shapes: Option<(Vec<u32>, Vec<u32>)>,
    text_sizes: Vec<u32>,
    claimed_rates: Option<WireRates>,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireRates {
    operations: Vec<(String, f64)>,
    bytes_per_second: f64,
    dispatch_us: f64,
    busy_watts: Option<f64>,
}

const STATES: [StateSupport; 4] = [
    StateSupport::None,
    StateSupport::SliceIo,
    StateSupport::InPlaceIo,
    StateSupport::Native,
];

impl WireCapabilities {
    pub fn of(c: &Capabilities) -> Self {
        let names = |types: &[DType]| types.iter().map(|t| t.name().to_owned()).collect();
        let states = STATES.iter().position(|s| *s == c.states);
        WireCapabilities {
            op_set: c.op_set,
            baseline: c.features.baseline,
            dynamic_shapes: c.features.dynamic_shapes,
            asynchronous: c.features.asynchronous,
            artificial: c.features.artificial,
            states: states.unwrap_or(0) as u8,
            compute: names(&c.compute),
            fixed_point: c.fixed_point.map(|f| f.name().to_owned()),
            weights: names(&c.weights),
            memory_limit: c.memory_limit,
            fixed_shapes: c.fixed_shapes.clone().map(|f| (f.tokens, f.capacities)),
            text_sizes: c.text_sizes.clone(),
            claimed_rates: c.claimed_rates.as_ref().map(|r| WireRates {
                operations: r
                    .operations
                    .iter()
                    .map(|(t, n)| (t.name().into(), *n))
                    .collect(),
                bytes_per_second: r.bytes_per_second,
                dispatch_us: r.dispatch_us,
                busy_watts: r.busy_watts,
            }),
        }
    }

    /// The claims, with memory that both processes see.
    pub fn into_capabilities(self) -> Result<Capabilities, String> {
        let types = |names: &[String]| -> Result<Vec<DType>, String> {
            names.iter().map(|n| dtype(n)).collect()
        };
        let mut c = Capabilities::new();
        c.op_set = self.op_set;
        c.features = Features {
            baseline: self.baseline,
            dynamic_shapes: self.dynamic_shapes,
            asynchronous: true,
            artificial: self.artificial,
        };
        let states = STATES.get(usize::from(self.states));
        c.states = *states.ok_or("the helper claims states of an unknown kind")?;
        c.compute = types(&self.compute)?;
        c.fixed_point = match &self.fixed_point {
            None => None,
            Some(name) => {
                let known = FixedPoint::ALL.into_iter().find(|f| f.name() == name);
                Some(known.ok_or_else(|| format!("there are no fixed-point numbers '{name}'"))?)
            }
        };
        c.weights = types(&self.weights)?;
        c.memory = vec![MemoryKind::Host];
        c.memory_limit = self.memory_limit;
        c.fixed_shapes = self
            .fixed_shapes
            .map(|(tokens, capacities)| FixedShapes { tokens, capacities });
        c.text_sizes = self.text_sizes;
        if let Some(rates) = self.claimed_rates {
            let mut operations = Vec::new();
            for (name, rate) in rates.operations {
                operations.push((dtype(&name)?, rate));
            }
            let (bytes, dispatch) = (rates.bytes_per_second, rates.dispatch_us);
            let mut claimed = ClaimedRates::new(operations, bytes, dispatch);
            claimed.busy_watts = rates.busy_watts;
            c.claimed_rates = Some(claimed);
        }
        Ok(c)
    }
}

pub(super) fn dtype(name: &str) -> Result<DType, String> {
    DType::from_str(name).map_err(|()| format!("there is no element type '{name}'"))
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireSupport {
    Yes,
    Emulated(String, String),
    No(String, String),
}

impl WireSupport {
    pub fn of(support: &Support) -> Self {
        let parts = |r: &Reason| (r.code.name().to_owned(), r.detail.clone());
        match support {
            Support::Yes => WireSupport::Yes,
            Support::Emulated(r) => {
                let (code, detail) = parts(r);
                WireSupport::Emulated(code, detail)
            }
            Support::No(r) => {
                let (code, detail) = parts(r);
                WireSupport::No(code, detail)
            }
        }
    }

    pub fn into_support(self) -> Support {
        match self {
            WireSupport::Yes => Support::Yes,
            WireSupport::Emulated(code, detail) => Support::Emulated(reason(&code, detail)),
            WireSupport::No(code, detail) => Support::No(reason(&code, detail)),
        }
    }
}

fn reason(code: &str, detail: String) -> Reason {
    let known = ReasonCode::ALL.into_iter().find(|c| c.name() == code);
    match known {
        Some(code) => Reason::new(code, detail),
        // a code of a newer helper
        None => Reason::new(ReasonCode::VendorRejected, format!("{code}: {detail}")),
    }
}

/// Entries to compile, and where their weights are.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireCompile {
    graphs: Vec<String>,
    entries: Vec<WireEntry>,
    state_dtype: String,
    precision: Option<String>,
    vendor: Vec<(String, String)>,
    pub files: Vec<PathBuf>,
    pub weights: Vec<WireWeight>,
}

/// A weight: its type, and its bytes in one of the files.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireWeight {
    pub name: String,
    pub dtype: String,
    pub file: usize,
    pub offset: u64,
    pub length: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireEntry {
    name: String,
    graph: usize,
    nodes: (u32, u32),
    /// For each symbol, whether it is exact, and its size.
    bounds: Vec<(bool, u32)>,
}

impl WireCompile {
    pub fn of(entries: &[Entry], options: &CompileOptions) -> Self {
        let mut known: Vec<&Arc<Graph>> = Vec::new();
        let entries = entries.iter().map(|e| {
            let same = known.iter().position(|g| Arc::ptr_eq(g, &e.graph));
            let graph = same.unwrap_or_else(|| {
                known.push(&e.graph);
                known.len() - 1
            });
            let bounds = (0..Symbol::COUNT as u16).map(|s| match e.bounds.get(Symbol(s)) {
                Extent::Exact(n) => (true, n),
                Extent::AtMost(n) => (false, n),
            });
            WireEntry {
                name: e.name.clone(),
                graph,
                nodes: (e.nodes.start, e.nodes.end),
                bounds: bounds.collect(),
            }
        });
        let entries = entries.collect();
        WireCompile {
            graphs: known.iter().map(|g| g.to_string()).collect(),
            entries,
            state_dtype: options.state_dtype.name().into(),
            precision: options.precision.map(|p| p.name().into()),
            vendor: options.vendor.clone(),
            files: Vec::new(),
            weights: Vec::new(),
        }
    }

    pub fn entries(&self) -> Result<Vec<Entry>, String> {
        let graphs: Result<Vec<Arc<Graph>>, String> = self
            .graphs
            .iter()
            .map(|text| Graph::parse(text).map(Arc::new).map_err(|e| e.to_string()))
            .collect();
        let graphs = graphs?;
        let entry = |e: &WireEntry| {
            let mut bounds = Bounds::new();
            for (symbol, &(exact, n)) in (0u16..).zip(&e.bounds) {
                let extent = if exact {
                    Extent::Exact(n)
                } else {
                    Extent::AtMost(n)
                };
                bounds = bounds.with(Symbol(symbol), extent);
            }
            let graph = graphs.get(e.graph).ok_or("an entry of no graph")?;
            Ok(Entry {
                name: e.name.clone(),
                graph: graph.clone(),
                nodes: e.nodes.0..e.nodes.1,
                bounds,
            })
        };
        self.entries.iter().map(entry).collect()
    }

    pub fn options(&self) -> Result<CompileOptions, String> {
        let mut options = CompileOptions::new(dtype(&self.state_dtype)?);
        options.precision = self.precision.as_deref().map(dtype).transpose()?;
        options.vendor = self.vendor.clone();
        Ok(options)
    }
}

/// The symbols as numbers, and back.
pub(super) fn symbols(values: &SymbolValues) -> Vec<u32> {
    (0..Symbol::COUNT as u16)
        .map(|s| values.get(Symbol(s)))
        .collect()
}

pub(super) fn symbol_values(numbers: &[u32]) -> SymbolValues {
    let mut values = SymbolValues::default();
    for (symbol, &n) in (0..Symbol::COUNT as u16).zip(numbers) {
        values.set(Symbol(symbol), n);
    }
    values
}

pub(super) fn counters(c: Counters) -> [u64; 3] {
    [c.submissions, c.nodes, c.busy_ns]
}

pub(super) fn into_counters([submissions, nodes, busy_ns]: [u64; 3]) -> Counters {
    Counters {
        submissions,
        nodes,
        busy_ns,
    }
}

pub(super) fn memory_need(need: MemoryNeed) -> [u64; 4] {
    [need.resident, need.in_place, need.scratch, need.transient]
}

pub(super) fn into_memory_need([resident, in_place, scratch, transient]: [u64; 4]) -> MemoryNeed {
    MemoryNeed {
        resident,
        in_place,
        scratch,
        transient,
    }
}

/// A [`HalError`] as it is sent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireError {
    DeviceLost {
        device: String,
        why: String,
    },
    OutOfMemory {
        device: String,
        bytes: u64,
        what: String,
    },
    Timeout {
        what: String,
        waited: Duration,
        limit: Duration,
    },
    CompileRejected {
        device: String,
        nodes: Vec<(u32, String, String)>,
    },
    BlobRejected {
        device: String,
        why: String,
    },
    Weight {
        name: String,
        why: String,
    },
    InvalidUse {
        call: String,
        what: String,
        found: String,
        expected: String,
    },
    Cancelled {
        what: String,
    },
    Unsupported {
        device: String,
        call: String,
    },
    Vendor {
        device: String,
        call: String,
        code: i64,
        text: String,
    },
}

impl From<HalError> for WireError {
    fn from(e: HalError) -> Self {
        match e {
            HalError::DeviceLost { device, why } => WireError::DeviceLost { device, why },
            HalError::OutOfMemory {
                device,
                bytes,
                what,
            } => WireError::OutOfMemory {
                device,
                bytes,
                what,
            },
            HalError::Timeout {
                what,
                waited,
                limit,
            } => WireError::Timeout {
                what,
                waited,
                limit,
            },
            HalError::CompileRejected { device, nodes } => {
                let node = |(id, r): (NodeId, Reason)| (id.0, r.code.name().to_owned(), r.detail);
                WireError::CompileRejected {
                    device,
                    nodes: nodes.into_iter().map(node).collect(),
                }
            }
            HalError::BlobRejected { device, why } => WireError::BlobRejected { device, why },
            HalError::Weight { name, why } => WireError::Weight { name, why },
            HalError::InvalidUse {
                call,
                what,
                found,
                expected,
            } => WireError::InvalidUse {
                call: call.into(),
                what,
                found,
                expected,
            },
            HalError::Cancelled { what } => WireError::Cancelled { what },
            HalError::Unsupported { device, call } => WireError::Unsupported {
                device,
                call: call.into(),
            },
            HalError::Vendor {
                device,
                call,
                code,
                text,
            } => WireError::Vendor {
                device,
                call,
                code,
                text,
            },
        }
    }
}

impl From<WireError> for HalError {
    fn from(e: WireError) -> Self {
        match e {
            WireError::DeviceLost { device, why } => HalError::DeviceLost { device, why },
            WireError::OutOfMemory {
                device,
                bytes,
                what,
            } => HalError::OutOfMemory {
                device,
                bytes,
                what,
            },
            WireError::Timeout {
                what,
                waited,
                limit,
            } => HalError::Timeout {
                what,
                waited,
                limit,
            },
            WireError::CompileRejected { device, nodes } => {
                let node =
                    |(id, code, detail): (u32, String, String)| (NodeId(id), reason(&code, detail));
                HalError::CompileRejected {
                    device,
                    nodes: nodes.into_iter().map(node).collect(),
                }
            }
            WireError::BlobRejected { device, why } => HalError::BlobRejected { device, why },
            WireError::Weight { name, why } => HalError::Weight { name, why },
            WireError::InvalidUse {
                call,
                what,
                found,
                expected,
            } => HalError::InvalidUse {
                call: "a call of the helper",
                what: format!("{call}: {what}"),
                found,
                expected,
            },
            WireError::Cancelled { what } => HalError::Cancelled { what },
            WireError::Unsupported { device, call } => HalError::Vendor {
                device,
                call,
                code: 0,
                text: "the device does not offer it".into(),
            },
            WireError::Vendor {
                device,
                call,
                code,
                text,
            } => HalError::Vendor {
                device,
                call,
                code,
                text,
            },
        }
    }
}
