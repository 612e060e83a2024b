//! What a plugin compiled.
#![allow(unsafe_code)] // a plugin's functions are called

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use anynpu_abi::*;
use anynpu_ir::{DType, Graph, NodeId, Symbol, TensorType};

use super::answers::{Message, read_text, reason_of};
use super::array::Array;
use super::device::{Opened, pair, take_bytes};
use super::tables::{self, GraphTables, WeightBytes};
use crate::module::weight_names;
use crate::{
    Bounds, CompileOptions, Entry, EntryInfo, Extent, FormWriter, HalError, MemoryNeed, Module,
    Reason, Submission, WeightSource,
};

/// What a module is made of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    /// Its entries.
    Compile,
    /// What the plugin made of them before.
    Load(&'a [u8]),
}

/// Compiled entries as the plugin knows them.
#[derive(Debug)]
pub(super) struct PluginModule {
    opened: Arc<Opened>,
    handle: *mut anynpu_module,
    entries: Vec<EntryInfo>,
    /// The types of states, and what symbols may be, of each entry.
    states: Vec<Vec<TensorType>>,
    bounds: Vec<Bounds>,
    resident: u64,
    /// What begins its compiled form, if it has one.
    head: Option<FormWriter>,
    /// What the plugin may read as long as the module lives.
    _weights: Lent,
    _source: Arc<dyn WeightSource>,
    _graphs: Vec<Arc<Graph>>,
}

// SAFETY: the handle is the plugin's, which lets any thread use it, one at a time.
unsafe impl Send for PluginModule {}
// SAFETY: as for Send.
unsafe impl Sync for PluginModule {}

/// Weights where a plugin reads them, as long as their source lives.
#[derive(Debug)]
struct Lent {
    bytes: HashMap<String, WeightBytes>,
    /// Bytes that the source made for this alone.
    _made: Vec<Vec<u8>>,
    made_bytes: u64,
    /// Open, so that their descriptors can be handed on.
    _files: HashMap<PathBuf, File>,
}

// SAFETY: the pointers lead to bytes that the source lends as long as it lives, or that are kept here; nobody writes them.
unsafe impl Send for Lent {}
// SAFETY: as for Send.
unsafe impl Sync for Lent {}

impl Lent {
    fn of(entries: &[Entry], source: &dyn WeightSource) -> Result<Lent, HalError> {
        let mut bytes = HashMap::new();
        let (mut made, mut files) = (Vec::new(), HashMap::new());
        for name in weight_names(entries) {
            let view = source.weight(name)?;
            let (data, length) = match view.bytes {
                Cow::Borrowed(lent) => (lent.as_ptr(), lent.len()),
                Cow::Owned(own) => {
                    let place = (own.as_ptr(), own.len());
                    made.push(own);
                    place
                }
            };
            let (fd, offset) = match source.span(name).filter(|s| s.length == length as u64) {
                Some(span) => (descriptor(&mut files, span.path), span.offset),
                None => (-1, 0),
            };
            let weight = WeightBytes {
                dtype: view.dtype,
                data: data.cast(),
                length: length as u64,
                fd,
                offset,
            };
            bytes.insert(name.to_owned(), weight);
        }
        let made_bytes = made.iter().map(|m| m.len() as u64).sum();
        Ok(Lent {
            bytes,
            _made: made,
            made_bytes,
            _files: files,
        })
    }
}

/// The descriptor of a file that stays open, or -1.
#[cfg(unix)]
fn descriptor(files: &mut HashMap<PathBuf, File>, path: PathBuf) -> i32 {
    use std::os::fd::AsRawFd;
    if let Some(file) = files.get(&path) {
        return file.as_raw_fd();
    }
    match File::open(&path) {
        Ok(file) => {
            let fd = file.as_raw_fd();
            files.insert(path, file);
            fd
        }
        Err(_) => -1,
    }
}

/// Files have descriptors elsewhere.
#[cfg(not(unix))]
fn descriptor(_: &mut HashMap<PathBuf, File>, _: PathBuf) -> i32 {
    -1
}

/// What a request's functions are given.
struct Context<'a> {
    progress: &'a mut dyn FnMut(u64, u64) -> bool,
    refused: Vec<(usize, usize, Reason)>,
}

unsafe extern "C" fn progress(context: *mut c_void, done: u64, total: u64) -> u32 {
    // SAFETY: the context is the one given beside this function, and nobody else has it during the call.
    let Some(context) = (unsafe { context.cast::<Context<'_>>().as_mut() }) else {
        return 0;
    };
    // a panic must not pass the plugin; it ends the work
    let go_on = catch_unwind(AssertUnwindSafe(|| (context.progress)(done, total)));
    go_on.unwrap_or(false).into()
}

unsafe extern "C" fn refuse(
    context: *mut c_void,
    entry: usize,
    node: usize,
    reason: anynpu_reason,
    detail: anynpu_text,
) {
    // SAFETY: as for `progress`; the text is the plugin's for the time of the call.
    let (context, detail) = unsafe { (context.cast::<Context<'_>>().as_mut(), read_text(detail)) };
    if let Some(context) = context {
        let reason = Reason::new(reason_of(reason), detail);
        context.refused.push((entry, node, reason));
    }
}

/// Has `call` make something of a request to compile `entries`.
fn request<R>(
    entries: &[Entry],
    options: &CompileOptions,
    weights: &dyn Fn(&str) -> Option<WeightBytes>,
    spread: bool,
    context: &mut Context<'_>,
    call: impl FnOnce(*const anynpu_compile_request) -> R,
) -> Result<R, HalError> {
    // entries of the same nodes have the same tables
    let mut tables: Vec<(&Entry, GraphTables)> = Vec::with_capacity(entries.len());
    let same = |a: &Entry, b: &Entry| Arc::ptr_eq(&a.graph, &b.graph) && a.nodes == b.nodes;
    for entry in entries {
        if tables.iter().any(|(known, _)| same(known, entry)) {
            continue;
        }
        let run = entry.subgraph().map_err(|e| HalError::InvalidUse {
            call: "compile",
            what: format!("nodes of entry '{}'", entry.name),
            found: format!("{}..{}", entry.nodes.start, entry.nodes.end),
            expected: e.to_string(),
        })?;
        let own = GraphTables::of(&run, Some(options.state_dtype), weights, spread);
        tables.push((entry, own));
    }
    let extents = |entry: &Entry| -> Vec<anynpu_extent> {
        let of = |symbol| match entry.bounds.get(Symbol(symbol)) {
            Extent::Exact(limit) => anynpu_extent { exact: 1, limit },
            Extent::AtMost(limit) => anynpu_extent { exact: 0, limit },
        };
        (0..Symbol::COUNT as u16).map(of).collect()
    };
    let extents: Vec<Vec<anynpu_extent>> = entries.iter().map(extents).collect();
    let each = entries.iter().zip(&extents).filter_map(|(entry, extents)| {
        let own = tables.iter().find(|(known, _)| same(known, entry))?;
        Some(anynpu_entry {
            name: tables::text(&entry.name),
            graph: own.1.graph(),
            extents: extents.as_ptr(),
            extent_count: extents.len(),
        })
    });
    let flat = Array::of(each, spread);
    let pairs = Array::of(options.vendor.iter().map(|(n, v)| pair(n, v)), spread);
    let request = anynpu_compile_request {
        struct_size: size_of::<anynpu_compile_request>() as u32,
        reserved: 0,
        entries: flat.as_ptr(),
        entry_count: flat.len(),
        entry_stride: flat.stride(),
        options: pairs.as_ptr(),
        option_count: pairs.len(),
        option_stride: pairs.stride(),
        context: (&raw mut *context).cast(),
        progress: Some(progress),
        refuse: Some(refuse),
    };
    Ok(call(&raw const request))
}

/// What the plugin says that compiling will take, if it can tell.
pub(super) fn memory_need(
    opened: &Arc<Opened>,
    entries: &[Entry],
    options: &CompileOptions,
    weights: &dyn WeightSource,
) -> Result<Option<MemoryNeed>, HalError> {
    let lent = Lent::of(entries, weights)?;
    let calling = opened.call()?;
    let Some(function) = calling.table.optional().memory_need else {
        return Ok(None);
    };
    let mut need = anynpu_memory_need {
        struct_size: size_of::<anynpu_memory_need>() as u32,
        ..anynpu_memory_need::default()
    };
    let mut message = Message::new();
    let mut context = Context {
        progress: &mut |_, _| true,
        refused: Vec::new(),
    };
    let bytes = |name: &str| lent.bytes.get(name).copied();
    let spread = opened.spread;
    let status = request(entries, options, &bytes, spread, &mut context, |request| {
        // SAFETY: all that is given lives during the call.
        unsafe { function(calling.device, request, &raw mut need, message.raw()) }
    })?;
    match status {
        ANYNPU_OK => Ok(Some(MemoryNeed {
            resident: need.resident,
            in_place: need.in_place,
            scratch: need.scratch,
            transient: need.transient,
        })),
        ANYNPU_UNSUPPORTED => Ok(None),
        other => Err(message.error(&opened.name, "memory_need", other)),
    }
}

impl PluginModule {
    /// Compiles entries, or loads what was compiled of them.
    pub fn make(
        opened: &Arc<Opened>,
        entries: &[Entry],
        options: &CompileOptions,
        source: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
        of: Source<'_>,
        head: Option<FormWriter>,
    ) -> Result<PluginModule, HalError> {
        let infos = entries
            .iter()
            .map(|e| EntryInfo::describe(e, options.state_dtype))
            .collect::<Result<Vec<EntryInfo>, HalError>>()?;
        let weights = Lent::of(entries, &*source)?;
        let mut context = Context {
            progress,
            refused: Vec::new(),
        };
        let (mut handle, mut message) = (std::ptr::null_mut(), Message::new());
        let calling = opened.call()?;
        let bytes = |name: &str| weights.bytes.get(name).copied();
        let call = match of {
            Source::Compile => "compile",
            Source::Load(_) => "load",
        };
        let spread = opened.spread;
        let status = request(entries, options, &bytes, spread, &mut context, |request| {
            let (device, module) = (calling.device, &raw mut handle);
            // SAFETY: all that is given lives during the call, and weights as long as the module.
            unsafe {
                match (of, calling.table.optional().load) {
                    (Source::Compile, _) => {
                        calling.table.compile()(device, request, module, message.raw())
                    }
                    (Source::Load(form), Some(load)) => {
                        let (data, length) = (form.as_ptr().cast(), form.len());
                        load(device, data, length, request, module, message.raw())
                    }
                    (Source::Load(_), None) => ANYNPU_UNSUPPORTED,
                }
            }
        })?;
        if status != ANYNPU_OK {
            return Err(match status {
                ANYNPU_COMPILE_REJECTED => HalError::CompileRejected {
                    device: opened.name.to_string(),
                    nodes: refused(entries, context.refused, &message),
                },
                ANYNPU_CANCELLED => HalError::Cancelled {
                    what: format!("compiling for '{}'", opened.name),
                },
                other => message.error(&opened.name, call, other),
            });
        }
        let resident = match calling.table.optional().resident_bytes {
            // SAFETY: the module was made just now.
            Some(resident) => unsafe { resident(calling.device, handle) },
            None => 0,
        };
        drop(calling);
        let state_types = |(entry, info): (&Entry, &EntryInfo)| {
            let ty = |port: &crate::StatePort| {
                let shape = entry.graph.state(port.state).ty.shape.clone();
                TensorType::new(port.dtype, shape)
            };
            info.states.iter().map(ty).collect()
        };
        let states = entries.iter().zip(&infos).map(state_types).collect();
        Ok(PluginModule {
            opened: opened.clone(),
            handle,
            states,
            entries: infos,
            bounds: entries.iter().map(|e| e.bounds.clone()).collect(),
            resident: resident.saturating_add(weights.made_bytes),
            head,
            _weights: weights,
            _source: source,
            _graphs: entries.iter().map(|e| e.graph.clone()).collect(),
        })
    }

    pub fn handle(&self) -> *mut anynpu_module {
        self.handle
    }

    pub fn is_of(&self, opened: &Arc<Opened>) -> bool {
        Arc::ptr_eq(&self.opened, opened)
    }

    /// Checks what [`Submission::check`] leaves: sizes of states, symbols, and that nothing that is written is bound
    /// twice.
    pub fn check(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let invalid = |what: String, found: String, expected: String| HalError::InvalidUse {
            call: "submit",
            what,
            found,
            expected,
        };
        let bounds = &self.bounds[s.entry];
        for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
            let (found, limit) = (s.symbols.get(symbol), bounds.get(symbol).limit());
            if found > limit {
                return Err(invalid(
                    format!("symbol {}", symbol.name()),
                    found.to_string(),
                    format!("at most {limit}, as compiled"),
                ));
            }
        }
        for (ty, buffer) in self.states[s.entry].iter().zip(s.states) {
            let found = buffer.desc().bytes;
            match ty.bytes(&s.symbols) {
                Some(needed) if needed <= found => {}
                needed => {
                    return Err(invalid(
                        format!("buffer '{}' for a state of {ty}", buffer.desc().name),
                        format!("{found} bytes"),
                        needed.map_or("less".into(), |n| format!("{n} bytes")),
                    ));
                }
            }
        }
        let all = || s.outputs.iter().chain(s.states).chain(s.inputs);
        let written = s.outputs.len() + s.states.len();
        for (at, a) in all().take(written).enumerate() {
            if let Some(b) = all().skip(at + 1).find(|b| Arc::ptr_eq(a, b)) {
                return Err(invalid(
                    format!("buffer '{}'", b.desc().name),
                    "bound twice".into(),
                    "bound once, being written".into(),
                ));
            }
        }
        Ok(())
    }
}

/// The refused nodes by their numbers in their graphs.
fn refused(
    entries: &[Entry],
    told: Vec<(usize, usize, Reason)>,
    message: &Message,
) -> Vec<(NodeId, Reason)> {
    let node = |(entry, node, reason): (usize, usize, Reason)| {
        let run = &entries.get(entry)?.nodes;
        let id = u32::try_from(node).ok()?.checked_add(run.start)?;
        run.contains(&id).then_some((NodeId(id), reason))
    };
    let mut nodes: Vec<_> = told.into_iter().filter_map(node).collect();
    if nodes.is_empty()
        && let Some(entry) = entries.first()
    {
        // it did not say which: then none of them is to be tried again
        let text = format!("refused without saying which node: {}", message.text());
        let reason = Reason::new(crate::ReasonCode::VendorRejected, text);
        nodes = entry
            .nodes
            .clone()
            .map(|n| (NodeId(n), reason.clone()))
            .collect();
    }
    nodes
}

impl Module for PluginModule {
    fn entries(&self) -> &[EntryInfo] {
        &self.entries
    }

    fn resident_bytes(&self) -> u64 {
        self.resident
    }

    fn blob(&self) -> Result<Option<Vec<u8>>, HalError> {
        let calling = self.opened.call()?;
        let (Some(save), Some(head)) = (calling.table.optional().save, &self.head) else {
            return Ok(None);
        };
        let (mut bytes, mut message) = (Vec::<u8>::new(), Message::new());
        // SAFETY: `take_bytes` is given what it expects; the module is the device's.
        let status = unsafe {
            save(
                calling.device,
                self.handle,
                Some(take_bytes),
                (&raw mut bytes).cast(),
                message.raw(),
            )
        };
        match status {
            ANYNPU_OK => {
                let mut form = head.clone();
                form.bytes(&bytes);
                Ok(Some(form.finish()))
            }
            ANYNPU_UNSUPPORTED => Ok(None),
            other => Err(message.error(&self.opened.name, "save", other)),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for PluginModule {
    fn drop(&mut self) {
        self.opened.call_at_end("a module", |calling| {
            // SAFETY: the module is the device's, and no run holds it any more.
            unsafe { calling.table.destroy_module()(calling.device, self.handle) }
        });
    }
}

/// Types cross the interface by their numbers.
const _: () = assert!(DType::Q6_K as u16 as u32 == ANYNPU_DTYPE_Q6_K);
