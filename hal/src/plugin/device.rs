//! An opened device of a plugin.
#![allow(unsafe_code)] // a plugin's functions are called

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anynpu_abi::*;
use anynpu_ir::Subgraph;
use parking_lot::{Mutex, MutexGuard};

use super::answers::{Described, Message, support_of};
use super::array::Array;
use super::buffer::PluginBuffer;
use super::module::{self, PluginModule};
use super::queue::PluginQueue;
use super::table::Table;
use super::tables::GraphTables;
use super::{PluginOptions, answers, tables};
use crate::{
    BlobCompatibility, Buffer, BufferDesc, Capabilities, CompileOptions, Device, DeviceInfo, Entry,
    ExternalHandle, FormReader, FormWriter, HalError, HostBuffer, Link, LinkMode, MemoryKind,
    MemoryNeed, Module, OpenOptions, Queue, Reason, ReasonCode, Support, WeightSource, has_form,
};

/// What begins a compiled form of a plugin's device.
const FORM: &[u8; 8] = b"anynpupl";

/// How long a call waits for one that does not return, on a device that was given up.
const PATIENCE: Duration = Duration::from_millis(200);

/// A device as the plugin knows it. Modules, buffers and runs keep it open.
pub(super) struct Opened {
    pub table: Arc<Table>,
    pub name: Arc<str>,
    handle: *mut anynpu_device,
    /// Held during calls.
    calls: Mutex<()>,
    given_up: AtomicBool,
    pub generation: u64,
    /// Whether elements of arrays have more behind them than is known.
    pub spread: bool,
    pub counting: Arc<Counting>,
}

// SAFETY: the handle is the plugin's, which lets any thread use it, one at a time; `calls` sees to that.
unsafe impl Send for Opened {}
// SAFETY: as for Send.
unsafe impl Sync for Opened {}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("name", &self.name).finish()
    }
}

/// The right to call a device.
pub(super) struct Calling<'a> {
    pub table: &'a Table,
    pub device: *mut anynpu_device,
    _turn: MutexGuard<'a, ()>,
}

impl Opened {
    /// Waits for other calls to the device to return.
    pub fn call(&self) -> Result<Calling<'_>, HalError> {
        let turn = match self.given_up.load(Ordering::Relaxed) {
            false => Some(self.calls.lock()),
            true => self.calls.try_lock_for(PATIENCE),
        };
        let turn = turn.ok_or_else(|| HalError::DeviceLost {
            device: self.name.to_string(),
            why: "it was given up, and a call to it has not returned".into(),
        })?;
        Ok(Calling {
            table: &self.table,
            device: self.handle,
            _turn: turn,
        })
    }

    /// As [`Opened::call`], where nobody can be told: what can't be given back is left.
    pub fn call_at_end(&self, what: &str, call: impl FnOnce(&Calling<'_>)) {
        match self.call() {
            Ok(calling) => call(&calling),
            Err(e) => tracing::warn!("{what} is left to the plugin: {e}"),
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.given_up.load(Ordering::Relaxed) && self.calls.is_locked() {
            tracing::warn!("'{}' stays open: a call to it has not returned", self.name);
            return;
        }
        // SAFETY: nothing of the device is left: modules, buffers and runs hold it open.
        unsafe { self.table.close()(self.handle) }
    }
}

/// What has run on a device, and what runs that have ended held.
#[derive(Debug, Default)]
pub(super) struct Counting {
    pub submissions: AtomicU64,
    pub nodes: AtomicU64,
    pub busy_ns: AtomicU64,
    /// Of runs that have ended: dropped in a call of the host's own, never in the plugin's.
    ended: Mutex<Vec<Kept>>,
    closed: AtomicBool,
}

/// What a run holds.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub module: Option<Arc<dyn Module>>,
    pub buffers: Vec<Arc<dyn Buffer>>,
    pub nodes: u64,
}

impl Kept {
    /// Fails if a buffer with guards around it was written past its ends.
    pub fn intact(&self, device: &str) -> Result<(), HalError> {
        for buffer in &self.buffers {
            let host = buffer.as_any().downcast_ref::<HostBuffer>();
            // SAFETY: the run has ended, so nobody writes.
            let at = host.and_then(|h| unsafe { h.overwritten() });
            if let Some(at) = at {
                return Err(HalError::Vendor {
                    device: device.into(),
                    call: "submit".into(),
                    code: 0,
                    text: format!(
                        "it wrote past the ends of '{}', a buffer of {} bytes, at byte {at}",
                        buffer.desc().name,
                        buffer.desc().bytes
                    ),
                });
            }
        }
        Ok(())
    }
}

impl Counting {
    /// A run has ended.
    pub fn ended(&self, kept: Kept, took: Duration, succeeded: bool) {
        if succeeded {
            let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            self.submissions.fetch_add(1, Ordering::Relaxed);
            self.nodes.fetch_add(kept.nodes, Ordering::Relaxed);
            self.busy_ns.fetch_add(took, Ordering::Relaxed);
        }
        match self.closed.load(Ordering::Acquire) {
            false => self.ended.lock().push(kept),
            // the plugin is calling, so that its functions are called from elsewhere
            true => drop(std::thread::spawn(move || drop(kept))),
        }
    }

    /// Room for what a run holds, and drops what runs that have ended held.
    pub fn room(&self) -> Kept {
        let mut room = self.ended.lock().pop().unwrap_or_default();
        room.buffers.clear();
        room.module = None;
        room
    }
}

/// An opened device of a plugin.
#[derive(Debug)]
pub(super) struct PluginDevice {
    opened: Arc<Opened>,
    info: DeviceInfo,
    capabilities: Capabilities,
    options: PluginOptions,
    queue: PluginQueue,
}

impl Drop for PluginDevice {
    fn drop(&mut self) {
        let counting = &self.opened.counting;
        counting.closed.store(true, Ordering::Release);
        let ended = std::mem::take(&mut *counting.ended.lock());
        drop(ended);
    }
}

impl PluginDevice {
    /// Opens a device that was described so.
    pub fn open(
        table: &Arc<Table>,
        described: Described,
        options: &OpenOptions,
        plugin: PluginOptions,
    ) -> Result<PluginDevice, HalError> {
        let name = described.exposed.info.name.clone();
        let power = options.options.get("power").map(String::as_str);
        let power = match power {
            None => ANYNPU_POWER_DEFAULT,
            Some("burst") => ANYNPU_POWER_BURST,
            Some("sustained") => ANYNPU_POWER_SUSTAINED,
            Some("saver") => ANYNPU_POWER_SAVER,
            Some(other) => {
                return Err(HalError::InvalidUse {
                    call: "open",
                    what: format!("option 'power' of '{name}'"),
                    found: other.into(),
                    expected: "burst, sustained or saver".into(),
                });
            }
        };
        let pairs = options.options.iter().map(|(n, v)| pair(n, v));
        let pairs = Array::of(pairs, plugin.guarded);
        let target = options.options.get("target").map_or("", String::as_str);
        let request = anynpu_open_request {
            struct_size: size_of::<anynpu_open_request>() as u32,
            threads: options
                .threads
                .map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX)),
            name: tables::text(&name),
            target: tables::text(target),
            power,
            reserved: 0,
            options: pairs.as_ptr(),
            option_count: pairs.len(),
            option_stride: pairs.stride(),
        };
        let (mut handle, mut message) = (std::ptr::null_mut(), Message::new());
        // SAFETY: all that is given lives during the call.
        let status = unsafe {
            table.open()(
                table.optional().context,
                &raw const request,
                &raw mut handle,
                message.raw(),
            )
        };
        if status != ANYNPU_OK {
            return Err(message.error(&name, "open", status));
        }
        let opened = Arc::new(Opened {
            table: table.clone(),
            name: name.into(),
            handle,
            calls: Mutex::new(()),
            given_up: AtomicBool::new(false),
            generation: super::host::generation(),
            spread: plugin.guarded,
            counting: Arc::default(),
        });
        Ok(PluginDevice {
            queue: PluginQueue::new(opened.clone()),
            opened,
            info: described.exposed.info,
            capabilities: described.capabilities,
            options: plugin,
        })
    }

    fn verdicts(&self, run: &Subgraph<'_>, validate: bool) -> Result<Vec<Support>, HalError> {
        let tables = GraphTables::of(run, None, &|_| None, self.opened.spread);
        let nothing = || {
            let why = "the plugin said nothing of the node";
            Support::No(Reason::new(ReasonCode::OpUnknown, why))
        };
        let mut told: Vec<Support> = run.nodes().map(|_| nothing()).collect();
        let calling = self.opened.call()?;
        let (call, function) = match (validate, calling.table.optional().validate) {
            (true, Some(validate)) => ("validate", validate),
            _ => ("support", calling.table.support()),
        };
        let mut message = Message::new();
        // SAFETY: all that is given lives during the call; `tell` is given what it expects.
        let status = unsafe {
            function(
                calling.device,
                tables.graph(),
                Some(tell),
                (&raw mut told).cast(),
                message.raw(),
            )
        };
        match status {
            ANYNPU_OK => Ok(told),
            other => Err(message.error(&self.info.name, call, other)),
        }
    }

    fn head(&self, entries: &[Entry], options: &CompileOptions) -> FormWriter {
        let mut head = FormWriter::new(FORM);
        head.text(&self.opened.table.name);
        head.text(&self.opened.table.version);
        head.text(&self.info.name);
        head.entries(entries, options);
        head
    }

    /// What a compiled form was compiled from, and the plugin's own bytes.
    fn read_form<'a>(
        &self,
        blob: &'a [u8],
    ) -> Result<(Vec<Entry>, CompileOptions, &'a [u8]), String> {
        let read = || {
            let mut form = FormReader::new(blob, FORM, &format!("'{}'", self.info.name))?;
            let of = [form.text()?, form.text()?, form.text()?].map(str::to_owned);
            let (entries, options) = form.entries()?;
            let own = form.bytes()?;
            form.end()?;
            Ok::<_, crate::FormError>((of, entries, options, own))
        };
        let ([driver, version, device], entries, options, own) =
            read().map_err(|e| e.to_string())?;
        let table = &self.opened.table;
        if (&driver, &version, &device) != (&table.name, &table.version, &self.info.name) {
            return Err(format!(
                "it is of '{device}' of {driver} {version}, this is '{}' of {} {}",
                self.info.name, table.name, table.version
            ));
        }
        Ok((entries, options, own))
    }
}

pub(super) fn pair(name: &str, value: &str) -> anynpu_option {
    anynpu_option {
        name: tables::text(name),
        value: tables::text(value),
    }
}

/// Notes a verdict in the list that `context` is.
unsafe extern "C" fn tell(
    context: *mut c_void,
    node: usize,
    support: anynpu_support,
    reason: anynpu_reason,
    detail: anynpu_text,
) {
    // SAFETY: the context is the list given beside this function, and nobody else has it during the call.
    let (told, detail) = unsafe {
        let told = context.cast::<Vec<Support>>().as_mut();
        (told, answers::read_text(detail))
    };
    if let Some(verdict) = told.and_then(|t| t.get_mut(node)) {
        *verdict = support_of(support, reason, detail);
    }
}

/// Adds bytes to those that `context` is.
pub(super) unsafe extern "C" fn take_bytes(
    context: *mut c_void,
    data: *const c_void,
    length: usize,
) {
    if data.is_null() || length > isize::MAX as usize {
        return;
    }
    // SAFETY: the context is the bytes given beside this function; what is told of can be read during the call.
    unsafe {
        if let Some(bytes) = context.cast::<Vec<u8>>().as_mut() {
            bytes.extend_from_slice(std::slice::from_raw_parts(data.cast(), length));
        }
    }
}

impl Device for PluginDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        self.verdicts(graph, false).unwrap_or_else(|e| {
            let why = Reason::new(ReasonCode::VendorRejected, e.to_string());
            vec![Support::No(why); graph.nodes().len()]
        })
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
        let has_form = self.opened.table.optional().save.is_some() && has_form(entries);
        let head = has_form.then(|| self.head(entries, options));
        let source = module::Source::Compile;
        let module = PluginModule::make(
            &self.opened,
            entries,
            options,
            weights,
            progress,
            source,
            head,
        )?;
        Ok(Arc::new(module))
    }

    fn memory_need(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: &dyn WeightSource,
    ) -> Result<Option<MemoryNeed>, HalError> {
        module::memory_need(&self.opened, entries, options, weights)
    }

    fn compatibility(&self) -> Vec<u8> {
        let Some(compatibility) = self.opened.table.optional().compatibility else {
            return Vec::new();
        };
        let table = &self.opened.table;
        let mut bytes =
            format!("{} {} {}\n", table.name, table.version, self.info.name).into_bytes();
        if let Ok(calling) = self.opened.call() {
            // SAFETY: `take_bytes` is given what it expects.
            unsafe { compatibility(calling.device, Some(take_bytes), (&raw mut bytes).cast()) }
        }
        bytes
    }

    fn check_blob(&self, blob: &[u8]) -> BlobCompatibility {
        let Some(check) = self.opened.table.optional().check else {
            return BlobCompatibility::Unsupported("this device has no compiled blobs".into());
        };
        let own = match self.read_form(blob) {
            Ok((_, _, own)) => own,
            Err(why) => return BlobCompatibility::Unsupported(why),
        };
        let calling = match self.opened.call() {
            Ok(calling) => calling,
            Err(e) => return BlobCompatibility::Unsupported(e.to_string()),
        };
        let mut message = Message::new();
        // SAFETY: the bytes and the message live during the call.
        let verdict = unsafe {
            check(
                calling.device,
                own.as_ptr().cast(),
                own.len(),
                message.raw(),
            )
        };
        match verdict {
            ANYNPU_BLOB_OPTIMAL => BlobCompatibility::Optimal,
            ANYNPU_BLOB_PREFER_RECOMPILE => BlobCompatibility::PreferRecompile(message.text()),
            _ => BlobCompatibility::Unsupported(message.text()),
        }
    }

    fn load(
        &self,
        blob: &[u8],
        weights: Arc<dyn WeightSource>,
    ) -> Result<Arc<dyn Module>, HalError> {
        let rejected = |why: String| HalError::BlobRejected {
            device: self.info.name.clone(),
            why,
        };
        if self.opened.table.optional().load.is_none() {
            return Err(HalError::Unsupported {
                device: self.info.name.clone(),
                call: "load",
            });
        }
        let (entries, options, own) = self.read_form(blob).map_err(rejected)?;
        let source = module::Source::Load(own);
        let head = Some(self.head(&entries, &options));
        let module = PluginModule::make(
            &self.opened,
            &entries,
            &options,
            weights,
            &mut |_, _| true,
            source,
            head,
        )?;
        Ok(Arc::new(module))
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        match (self.opened.table.has_memory(), self.options.guarded) {
            (true, _) => Ok(Arc::new(PluginBuffer::new(&self.opened, desc)?)),
            (false, false) => Ok(Arc::new(HostBuffer::new(desc.clone())?)),
            (false, true) => Ok(Arc::new(HostBuffer::guarded(desc.clone())?)),
        }
    }

    fn import(
        &self,
        handle: ExternalHandle,
        desc: &BufferDesc,
    ) -> Result<Arc<dyn Buffer>, HalError> {
        let refused = |found: &str, expected: &str| {
            Err(HalError::InvalidUse {
                call: "import",
                what: format!("buffer '{}'", desc.name),
                found: found.into(),
                expected: expected.into(),
            })
        };
        if self.options.guarded {
            return refused("memory of others", "memory with guards around it");
        }
        match handle {
            ExternalHandle::Shared(buffer) => {
                let host = buffer.as_any().is::<HostBuffer>();
                if self.opened.table.has_memory() || !host {
                    return refused(
                        "memory of another device",
                        "host memory for a device without its own",
                    );
                }
                match buffer.desc().bytes >= desc.bytes && desc.kind == MemoryKind::Host {
                    true => Ok(buffer),
                    false => refused("too small or of another kind", "as large as is asked for"),
                }
            }
            #[allow(unreachable_patterns)] // other handles exist on some systems only
            _ => refused("a file descriptor", "a buffer of this program"),
        }
    }

    fn trim(&self) -> u64 {
        let trim = self.opened.table.optional().trim;
        match (trim, self.opened.call()) {
            // SAFETY: the device is open.
            (Some(trim), Ok(calling)) => unsafe { trim(calling.device) },
            _ => 0,
        }
    }

    fn give_up(&self) {
        self.opened.given_up.store(true, Ordering::Relaxed);
        if let Some(give_up) = self.opened.table.optional().give_up {
            // SAFETY: the device is open; this call alone may come during others.
            unsafe { give_up(self.opened.handle) }
        }
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn refine_link(&self, other: &DeviceInfo, link: Link) -> Link {
        let (Some(refine), LinkMode::Copy, Ok(calling)) = (
            self.opened.table.optional().link,
            link.mode,
            self.opened.call(),
        ) else {
            return link;
        };
        let mut told = anynpu_link {
            struct_size: size_of::<anynpu_link>() as u32,
            reserved: 0,
            bytes_per_second: link.bytes_per_second.unwrap_or(0.0),
            latency_us: link.latency_us,
        };
        let kind = kind_code(other);
        // SAFETY: what is given lives during the call.
        unsafe {
            refine(
                calling.device,
                tables::text(&other.name),
                kind,
                &raw mut told,
            );
        }
        let usable = |x: f64| x.is_finite() && x > 0.0;
        Link {
            mode: link.mode,
            bytes_per_second: match usable(told.bytes_per_second) {
                true => Some(told.bytes_per_second),
                false => link.bytes_per_second,
            },
            latency_us: match told.latency_us.is_finite() && told.latency_us >= 0.0 {
                true => told.latency_us,
                false => link.latency_us,
            },
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn kind_code(info: &DeviceInfo) -> anynpu_device_kind {
    use crate::DeviceKind;
    match info.kind {
        DeviceKind::Cpu => ANYNPU_KIND_CPU,
        DeviceKind::Gpu => ANYNPU_KIND_GPU,
        DeviceKind::Npu => ANYNPU_KIND_NPU,
        DeviceKind::Simulated => ANYNPU_KIND_SIMULATED,
        DeviceKind::Other => ANYNPU_KIND_OTHER,
    }
}
