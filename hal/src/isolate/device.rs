//! The program's side of a device in a helper.

use std::any::Any;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anynpu_ir::Subgraph;
use parking_lot::Mutex;

use super::host::Host;
use super::wire::{self, Answer, Call, WireCompile, WireWeight};
use super::{Helper, shared};
use crate::module::weight_names;
use crate::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Counters, Device, DeviceInfo, Entry,
    EntryInfo, ExternalHandle, HalError, HostBuffer, MemoryKind, MemoryNeed, Module, OpenOptions,
    Queue, Submission, Support, WeightSource, write_bytes,
};

/// Starts a helper and opens the device called `name` in it.
pub(super) fn open(
    name: &str,
    helper: &Helper,
    options: &OpenOptions,
) -> Result<Arc<dyn Device>, HalError> {
    let start = Start {
        name: name.into(),
        helper: helper.clone(),
        options: options.clone(),
    };
    let (host, mut info, capabilities) = start.start()?;
    info.description = format!("{}, in a process of its own", info.description);
    Ok(Arc::new(IsolatedDevice {
        info,
        capabilities,
        queue: IsolatedQueue {
            host: Mutex::new(host),
            start,
            buffers: Arc::default(),
        },
        next_buffer: AtomicU64::new(1),
    }))
}

/// How a helper with the device open is had.
#[derive(Debug)]
struct Start {
    name: String,
    helper: Helper,
    options: OpenOptions,
}

impl Start {
    fn start(&self) -> Result<(Arc<Host>, DeviceInfo, Capabilities), HalError> {
        let name = &self.name;
        let host = Arc::new(Host::start(name, &self.helper)?);
        let answer = host.call(Call::Open {
            name: name.clone(),
            threads: self.options.threads,
            options: self.options.options.clone(),
        })?;
        let Answer::Opened { info, capabilities } = answer else {
            return Err(unexpected(name, &answer));
        };
        let info = info.into_info();
        if info.name != *name {
            return Err(nonsense(name, format!("it opened '{}'", info.name)));
        }
        let capabilities = capabilities.into_capabilities();
        Ok((host, info, capabilities.map_err(|e| nonsense(name, e))?))
    }
}

fn nonsense(device: &str, why: String) -> HalError {
    HalError::DeviceLost {
        device: device.into(),
        why: format!("its helper answered nonsense: {why}"),
    }
}

fn unexpected(device: &str, answer: &Answer) -> HalError {
    nonsense(device, answer.name().to_owned())
}

/// The number of the process that serves `device` now; `None` if it is in no helper, or its helper is gone and no
/// other was started yet.
pub fn helper_process(device: &dyn Device) -> Option<u32> {
    let device = device.as_any().downcast_ref::<IsolatedDevice>()?;
    let host = device.queue.host.lock();
    (!host.is_lost()).then(|| host.process())
}

/// What [`heap_bytes`](crate::heap_bytes) says in the process that serves `device`; `None` also if it is in no helper, or
/// its helper is gone.
pub fn helper_heap(device: &dyn Device) -> Option<u64> {
    let device = device.as_any().downcast_ref::<IsolatedDevice>()?;
    let host = device.queue.host.lock().clone();
    match host.call(Call::Heap) {
        Ok(Answer::Heap(bytes)) => bytes,
        _ => None,
    }
}

#[derive(Debug)]
struct IsolatedDevice {
    info: DeviceInfo,
    capabilities: Capabilities,
    queue: IsolatedQueue,
    next_buffer: AtomicU64,
}

struct IsolatedQueue {
    /// The helper in use; another one after it was lost.
    host: Mutex<Arc<Host>>,
    start: Start,
    buffers: Arc<Mutex<Numbers>>,
}

/// By the address of a buffer's memory here, its helper's process and number there.
type Numbers = HashMap<usize, (u32, u64)>;

impl std::fmt::Debug for IsolatedQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IsolatedQueue")
            .field("name", &self.start.name)
            .finish()
    }
}

/// A module in the helper; dropped, it is dropped there.
#[derive(Debug)]
struct IsolatedModule {
    host: Arc<Host>,
    number: u64,
    infos: Vec<EntryInfo>,
    resident: u64,
    /// Whether each entry takes several sequences.
    sequences: Vec<Support>,
}

impl Drop for IsolatedModule {
    fn drop(&mut self) {
        self.host.tell(Call::DropModule(self.number));
    }
}

impl Module for IsolatedModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.infos
    }

    fn resident_bytes(&self) -> u64 {
        self.resident
    }

    fn sequences(&self, entry: usize) -> Support {
        let told = self.sequences.get(entry).cloned();
        told.unwrap_or_else(|| {
            let what = "the helper did not say whether its runs take several sequences";
            Support::No(crate::Reason::new(crate::ReasonCode::State, what))
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Memory that the helper maps too; dropped, it is freed there.
#[derive(Debug)]
struct IsolatedBuffer {
    inner: HostBuffer,
    host: Arc<Host>,
    number: u64,
    buffers: Arc<Mutex<Numbers>>,
}

impl IsolatedDevice {
    fn verdicts(&self, graph: &Subgraph<'_>, validate: bool) -> Result<Vec<Support>, HalError> {
        let nodes = graph.range();
        let answer = self.queue.working_host()?.call(Call::Support {
            graph: graph.graph().to_string(),
            nodes: (nodes.start, nodes.end),
            validate,
        })?;
        match answer {
            Answer::Verdicts(v) if v.len() == nodes.len() => {
                Ok(v.into_iter().map(|s| s.into_support()).collect())
            }
            Answer::Verdicts(v) => Err(nonsense(
                &self.info.name,
                format!("{} verdicts on {} nodes", v.len(), nodes.len()),
            )),
            other => Err(unexpected(&self.info.name, &other)),
        }
    }

    /// The entries with where their weights are; those in no file are written to one that lives as long as the
    /// result.
    fn wire(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
    ) -> Result<(WireCompile, Option<tempfile::TempPath>), HalError> {
        let mut wire = WireCompile::of(entries, options);
        let mut spilled = Vec::new();
        let mut at = 0u64;
        for (name, dtype, bytes) in named_weights(entries, weights)? {
            if let Some(span) = weights.span(&name) {
                let file = file_index(&mut wire.files, span.path);
                wire.weights.push(WireWeight {
                    name,
                    dtype: dtype.into(),
                    file,
                    offset: span.offset,
                    length: span.length,
                });
                continue;
            }
            spilled.push((wire.weights.len(), at));
            wire.weights.push(WireWeight {
                name,
                dtype: dtype.into(),
                file: usize::MAX,
                offset: at,
                length: bytes,
            });
            // types of up to 64 bytes stay aligned
            at = at.saturating_add(bytes).next_multiple_of(64);
        }
        if spilled.is_empty() {
            return Ok((wire, None));
        }
        let size = usize::try_from(at).map_err(|_| HalError::OutOfMemory {
            device: self.info.name.clone(),
            bytes: at,
            what: "weights".into(),
        })?;
        let (memory, path) = shared::create(BufferDesc::host("weights", size))?;
        let file = file_index(&mut wire.files, path.to_path_buf());
        for (index, offset) in spilled {
            let weight = &mut wire.weights[index];
            weight.file = file;
            let view = weights.weight(&weight.name)?;
            // SAFETY: the memory was made just now and nobody else was told of it yet.
            #[allow(unsafe_code)]
            unsafe {
                write_bytes(&memory, offset as usize, &view.bytes)?;
            }
        }
        Ok((wire, Some(path)))
    }
}

/// The weights that entries use, each once: name, type and bytes.
fn named_weights(
    entries: &[Entry],
    weights: &dyn WeightSource,
) -> Result<Vec<(String, &'static str, u64)>, HalError> {
    let mut found = Vec::new();
    for name in weight_names(entries) {
        let view = weights.weight(name)?;
        found.push((name.to_owned(), view.dtype.name(), view.bytes.len() as u64));
    }
    Ok(found)
}

fn file_index(files: &mut Vec<PathBuf>, path: PathBuf) -> usize {
    let known = files.iter().position(|f| *f == path);
    known.unwrap_or_else(|| {
        files.push(path);
        files.len() - 1
    })
}

impl Device for IsolatedDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        match self.verdicts(graph, false) {
            Ok(verdicts) => verdicts,
            Err(e) => {
                let why = crate::Reason::new(crate::ReasonCode::DeviceLost, e.to_string());
                vec![Support::No(why); graph.range().len()]
            }
        }
    }

    fn validate(&self, graph: &Subgraph<'_>) -> Result<Vec<Support>, HalError> {
        self.verdicts(graph, true)
    }

    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let infos: Result<Vec<EntryInfo>, HalError> = entries
            .iter()
            .map(|e| EntryInfo::describe(e, options.state_dtype))
            .collect();
        let infos = infos?;
        let (wire, _spilled) = self.wire(entries, options, &*weights)?;
        let host = self.queue.working_host()?;
        match host.call_with_progress(Call::Compile(wire), progress)? {
            Answer::Compiled {
                module,
                resident,
                sequences,
            } => Ok(Arc::new(IsolatedModule {
                host: host.clone(),
                number: module,
                infos,
                resident,
                sequences: sequences.into_iter().map(|s| s.into_support()).collect(),
            })),
            other => Err(unexpected(&self.info.name, &other)),
        }
    }

    fn memory_need(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
    ) -> Result<Option<MemoryNeed>, HalError> {
        let (wire, _spilled) = self.wire(entries, options, weights)?;
        match self.queue.working_host()?.call(Call::MemoryNeed(wire))? {
            Answer::MemoryNeed(need) => Ok(need.map(wire::into_memory_need)),
            other => Err(unexpected(&self.info.name, &other)),
        }
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        if desc.kind != MemoryKind::Host {
            return Err(HalError::InvalidUse {
                call: "allocate",
                what: format!("kind of '{}'", desc.name),
                found: format!("{:?}", desc.kind),
                expected: "Host".into(),
            });
        }
        let (memory, path) = shared::create(desc.clone())?;
        let number = self.next_buffer.fetch_add(1, Ordering::Relaxed);
        let host = self.queue.working_host()?;
        let answer = host.call(Call::Allocate {
            buffer: number,
            name: desc.name.clone(),
            bytes: desc.bytes,
            align: desc.align,
            path: path.to_path_buf(),
        })?;
        if !matches!(answer, Answer::Allocated) {
            return Err(unexpected(&self.info.name, &answer));
        }
        let address = memory.as_ptr().addr();
        let known = (host.process(), number);
        self.queue.buffers.lock().insert(address, known);
        Ok(Arc::new(IsolatedBuffer {
            inner: memory,
            host,
            number,
            buffers: self.queue.buffers.clone(),
        }))
    }

    fn import(
        &self,
        handle: ExternalHandle,
        desc: &BufferDesc,
    ) -> Result<Arc<dyn Buffer>, HalError> {
        let ours = match &handle {
            ExternalHandle::Shared(buffer) => self.queue.number(&**buffer).is_some(),
            #[allow(unreachable_patterns)] // other handles exist on some systems only
            _ => false,
        };
        match handle {
            ExternalHandle::Shared(buffer) if ours && buffer.desc().bytes >= desc.bytes => {
                Ok(buffer)
            }
            _ => Err(HalError::InvalidUse {
                call: "import",
                what: format!("buffer '{}'", desc.name),
                found: "memory that the helper does not map".into(),
                expected: "memory that this device allocated".into(),
            }),
        }
    }

    fn trim(&self) -> u64 {
        match self.queue.host.lock().call(Call::Trim) {
            Ok(Answer::Trimmed(bytes)) => bytes,
            _ => 0,
        }
    }

    fn give_up(&self) {
        let host = self.queue.host.lock().clone();
        host.stop("its helper was given up");
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl IsolatedQueue {
    /// The helper, started again if it is gone. What the lost one held stays lost.
    fn working_host(&self) -> Result<Arc<Host>, HalError> {
        let mut host = self.host.lock();
        if host.is_lost() {
            *host = self.start.start()?.0;
        }
        Ok(host.clone())
    }

    /// The numbers that `host` has of buffers.
    fn numbers(&self, host: &Host, buffers: &[Arc<dyn Buffer>]) -> Result<Vec<u64>, HalError> {
        let process = host.process();
        let number = |buffer: &Arc<dyn Buffer>| match self.number(&**buffer) {
            Some((of, number)) if of == process => Ok(number),
            _ => Err(HalError::InvalidUse {
                call: "submit",
                what: format!("buffer '{}'", buffer.desc().name),
                found: "one of another device, or of a helper that is gone".into(),
                expected: format!("one allocated by '{}'", self.start.name),
            }),
        };
        buffers.iter().map(number).collect()
    }

    fn number(&self, buffer: &dyn Buffer) -> Option<(u32, u64)> {
        let memory = buffer.as_any().downcast_ref::<HostBuffer>()?;
        let numbers = self.buffers.lock();
        numbers.get(&memory.as_ptr().addr()).copied()
    }
}

impl Queue for IsolatedQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        s.check(s.entry_info()?)?;
        let module = s.module.as_any().downcast_ref::<IsolatedModule>();
        let module = module.ok_or_else(|| HalError::InvalidUse {
            call: "submit",
            what: "module".into(),
            found: "one of another device".into(),
            expected: format!("one compiled by '{}'", self.start.name),
        })?;
        let host = &module.host;
        for point in s.wait {
            point.wait(WAIT_LIMIT)?;
        }
        let call = Call::Submit {
            module: module.number,
            entry: s.entry,
            inputs: self.numbers(host, s.inputs)?,
            outputs: self.numbers(host, s.outputs)?,
            states: self.numbers(host, s.states)?,
            sequences: s.sequences.iter().map(|s| (s.tokens, s.cached)).collect(),
            symbols: wire::symbols(&s.symbols),
        };
        host.submit(call, s.signal.clone())
    }

    fn counters(&self) -> Counters {
        self.host.lock().counters()
    }
}

/// How long a submission waits for the points it depends on.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

impl Buffer for IsolatedBuffer {
    fn desc(&self) -> &BufferDesc {
        self.inner.desc()
    }

    #[allow(unsafe_code)]
    unsafe fn map(&self, access: crate::Access) -> Result<std::ptr::NonNull<[u8]>, HalError> {
        // SAFETY: the caller keeps the rules of `map` for this buffer, whose memory is `inner`'s.
        unsafe { self.inner.map(access) }
    }

    fn unmap(&self) {
        self.inner.unmap();
    }

    /// Other devices of this program know it as the host memory it is.
    fn as_any(&self) -> &dyn Any {
        &self.inner
    }
}

impl Drop for IsolatedBuffer {
    fn drop(&mut self) {
        self.buffers.lock().remove(&self.inner.as_ptr().addr());
        self.host.tell(Call::Free(self.number));
    }
}
