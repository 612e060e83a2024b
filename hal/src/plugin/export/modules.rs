//! What an exported driver's devices compile, and its compiled forms.
#![allow(unsafe_code)] // functions that a host calls, with what it points to

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use anynpu_abi::*;
use anynpu_ir::{DType, Graph, Symbol};

use super::super::answers::{read_struct, read_text};
use super::super::read::{ReadWeight, read_graph};
use super::super::tables::text;
use super::devices::{opened, pairs, reason_code};
use super::{Failure, answer, missing};
use crate::{
    BlobCompatibility, Bounds, CompileOptions, Entry, Extent, HalError, MemoryNeed, Module,
    WeightSource, WeightView,
};

/// Weights that a request lends, until their module is destroyed.
#[derive(Debug, Default)]
pub(super) struct LentWeights(HashMap<String, ReadWeight>);

impl WeightSource for LentWeights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let found = self.0.get(name);
        match found.and_then(|w| Some((w.dtype, w.bytes?))) {
            Some((dtype, bytes)) => Ok(WeightView {
                dtype,
                bytes: bytes.into(),
            }),
            None => Err(HalError::Weight {
                name: name.into(),
                why: "the request has no such weight, or not its bytes".into(),
            }),
        }
    }
}

/// What a request asks for.
pub(super) struct Request {
    /// Entries of one graph each, with their numbers in the request.
    groups: Vec<(Vec<Entry>, Vec<usize>)>,
    options: CompileOptions,
    weights: Arc<LentWeights>,
    raw: anynpu_compile_request,
}

/// What was made of a request: a module for each of its graphs.
pub(super) struct Made {
    pub modules: Vec<Arc<dyn Module>>,
    /// The module of each entry, and its number there.
    pub places: Vec<(usize, usize)>,
}

impl Made {
    /// Has `make` make a module of each graph.
    fn of(
        request: &Request,
        mut make: impl FnMut(&[Entry]) -> Result<Arc<dyn Module>, HalError>,
    ) -> Result<Made, HalError> {
        let mut made = Made {
            modules: Vec::new(),
            places: vec![(0, 0); request.raw.entry_count],
        };
        for (number, (entries, own)) in request.groups.iter().enumerate() {
            made.modules.push(make(entries)?);
            for (at, &entry) in own.iter().enumerate() {
                made.places[entry] = (number, at);
            }
        }
        Ok(made)
    }

    /// The only module, where there is a compiled form.
    fn only(&self) -> Result<&Arc<dyn Module>, Failure> {
        match &self.modules[..] {
            [one] => Ok(one),
            _ => Err(Failure::new(
                ANYNPU_UNSUPPORTED,
                "entries of several graphs have no form",
            )),
        }
    }
}

/// Entries that have the same tables.
pub(super) struct Group {
    tables: *const anynpu_graph,
    graph: Arc<Graph>,
    entries: Vec<Entry>,
    numbers: Vec<usize>,
}

/// # Safety
/// `request` is a host's, with all that it points to.
pub(super) unsafe fn read_request(
    request: *const anynpu_compile_request,
) -> Result<Request, Failure> {
    // SAFETY: by the contract, for all that is read.
    unsafe {
        let raw = read_struct(request, size_of::<anynpu_compile_request>());
        let raw = raw.ok_or_else(|| missing("the request"))?;
        let mut weights = LentWeights::default();
        let mut groups: Vec<Group> = Vec::new();
        let mut state_dtype = None;
        for n in 0..raw.entry_count {
            let at = raw.entries.cast::<u8>().wrapping_add(n * raw.entry_stride);
            let entry = at.cast::<anynpu_entry>().read_unaligned();
            if groups.iter().all(|g| g.tables != entry.graph) {
                let read = read_graph(entry.graph)?;
                state_dtype = state_dtype.or(read.state_dtype);
                for weight in read.weights {
                    weights.0.insert(weight.name.clone(), weight);
                }
                groups.push(Group {
                    tables: entry.graph,
                    graph: Arc::new(read.graph),
                    entries: Vec::new(),
                    numbers: Vec::new(),
                });
            }
            let mut bounds = Bounds::new();
            for symbol in 0..entry.extent_count.min(Symbol::COUNT) {
                let extent = entry.extents.add(symbol).read_unaligned();
                let extent = match extent.exact {
                    0 => Extent::AtMost(extent.limit),
                    _ => Extent::Exact(extent.limit),
                };
                bounds = bounds.with(Symbol(symbol as u16), extent);
            }
            for group in groups.iter_mut().filter(|g| g.tables == entry.graph) {
                group.entries.push(Entry {
                    name: read_text(entry.name),
                    nodes: 0..group.graph.nodes().len() as u32,
                    graph: group.graph.clone(),
                    bounds: bounds.clone(),
                });
                group.numbers.push(n);
            }
        }
        let mut options = CompileOptions::new(state_dtype.unwrap_or(DType::F32));
        options.vendor = pairs(raw.options, raw.option_count, raw.option_stride);
        Ok(Request {
            groups: groups.into_iter().map(|g| (g.entries, g.numbers)).collect(),
            options,
            weights: Arc::new(weights),
            raw,
        })
    }
}

/// Hands a module to the host.
///
/// # Safety
/// `to` is the host's place for the handle.
pub(super) unsafe fn hand_over(made: Made, to: *mut *mut anynpu_module) {
    // SAFETY: by the contract.
    unsafe { to.write(Box::into_raw(Box::new(made)).cast()) }
}

pub(super) unsafe extern "C" fn compile(
    device: *mut anynpu_device,
    request: *const anynpu_compile_request,
    module: *mut *mut anynpu_module,
    message: *mut anynpu_message,
) -> anynpu_status {
    answer(message, || {
        // SAFETY: the handle is an open device, the request is the host's.
        let (open, request) = unsafe { (opened(device)?, read_request(request)?) };
        let raw = request.raw;
        let mut progress = |done, total| match raw.progress {
            // SAFETY: the function and its context are the request's.
            Some(progress) => unsafe { progress(raw.context, done, total) != 0 },
            None => true,
        };
        let mut numbers = request.groups.iter().map(|g| &g.1);
        let made = Made::of(&request, |entries| {
            let first = numbers.next().and_then(|n| n.first()).copied();
            let weights = request.weights.clone();
            let made = open
                .device
                .compile(entries, &request.options, weights, &mut progress);
            if let (Err(HalError::CompileRejected { nodes, .. }), Some(refuse)) =
                (&made, raw.refuse)
            {
                for (node, reason) in nodes {
                    let (node, code) = (node.0 as usize, reason_code(reason.code));
                    let entry = first.unwrap_or(0);
                    // SAFETY: as for `progress`.
                    unsafe { refuse(raw.context, entry, node, code, text(&reason.detail)) }
                }
            }
            made
        });
        // SAFETY: the place is the host's.
        unsafe { hand_over(made?, module) }
        Ok(())
    })
}

/// # Safety
/// The handle was made here and not destroyed.
pub(super) unsafe fn module_of<'a>(module: *mut anynpu_module) -> Result<&'a Made, Failure> {
    // SAFETY: by the contract.
    unsafe { module.cast::<Made>().as_ref() }.ok_or_else(|| missing("the module"))
}

pub(super) unsafe extern "C" fn destroy_module(_: *mut anynpu_device, module: *mut anynpu_module) {
    let destroyed = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the handle was made here, and is given once.
        drop(unsafe { Box::from_raw(module.cast::<Made>()) });
    }));
    if destroyed.is_err() {
        tracing::error!("a panic while a module was destroyed");
    }
}

pub(super) unsafe extern "C" fn memory_need(
    device: *mut anynpu_device,
    request: *const anynpu_compile_request,
    need: *mut anynpu_memory_need,
    message: *mut anynpu_message,
) -> anynpu_status {
    answer(message, || {
        // SAFETY: the handle is an open device, the request is the host's.
        let (open, request) = unsafe { (opened(device)?, read_request(request)?) };
        let mut told = MemoryNeed::default();
        for (entries, _) in &request.groups {
            let own = open
                .device
                .memory_need(entries, &request.options, &*request.weights)?;
            let own = own.ok_or_else(|| Failure::new(ANYNPU_UNSUPPORTED, "it can't tell"))?;
            told.resident = told.resident.saturating_add(own.resident);
            told.in_place = told.in_place.saturating_add(own.in_place);
            told.scratch = told.scratch.max(own.scratch);
            told.transient = told.transient.max(own.transient);
        }
        // SAFETY: the structure is the host's, of the version that both sides know.
        let need = unsafe { need.as_mut() }.ok_or_else(|| missing("the need"))?;
        need.resident = told.resident;
        need.in_place = told.in_place;
        need.scratch = told.scratch;
        need.transient = told.transient;
        Ok(())
    })
}

pub(super) unsafe extern "C" fn resident_bytes(
    _: *mut anynpu_device,
    module: *mut anynpu_module,
) -> u64 {
    // SAFETY: the handle was made here.
    let told = catch_unwind(|| unsafe {
        let modules = module_of(module).map(|m| m.modules.iter());
        modules.map_or(0, |all| all.map(|m| m.resident_bytes()).sum())
    });
    told.unwrap_or(0)
}

/// Tells the host bytes.
///
/// # Safety
/// The function and what it is given are the host's.
pub(super) unsafe fn tell_bytes(tell: anynpu_tell_bytes, to: *mut c_void, bytes: &[u8]) {
    if let Some(tell) = tell {
        // SAFETY: by the contract.
        unsafe { tell(to, bytes.as_ptr().cast(), bytes.len()) }
    }
}

pub(super) unsafe extern "C" fn compatibility(
    device: *mut anynpu_device,
    tell: anynpu_tell_bytes,
    to: *mut c_void,
) {
    answer(std::ptr::null_mut(), || {
        // SAFETY: the handle is an open device; the function and what it is given are the host's.
        unsafe { tell_bytes(tell, to, &opened(device)?.device.compatibility()) }
        Ok(())
    });
}

pub(super) unsafe extern "C" fn save(
    _: *mut anynpu_device,
    module: *mut anynpu_module,
    tell: anynpu_tell_bytes,
    to: *mut c_void,
    message: *mut anynpu_message,
) -> anynpu_status {
    answer(message, || {
        // SAFETY: the handle was made here; the function and what it is given are the host's.
        unsafe {
            let form = module_of(module)?.only()?.blob()?;
            let form =
                form.ok_or_else(|| Failure::new(ANYNPU_UNSUPPORTED, "it has no such form"))?;
            tell_bytes(tell, to, &form);
        }
        Ok(())
    })
}

/// The bytes of a compiled form.
///
/// # Safety
/// They are the host's for the time of the call.
pub(super) unsafe fn form<'a>(data: *const c_void, length: usize) -> &'a [u8] {
    match data.is_null() || length == 0 {
        true => &[],
        // SAFETY: by the contract.
        false => unsafe { std::slice::from_raw_parts(data.cast(), length) },
    }
}

pub(super) unsafe extern "C" fn check(
    device: *mut anynpu_device,
    data: *const c_void,
    length: usize,
    message: *mut anynpu_message,
) -> anynpu_compatibility {
    let mut verdict = ANYNPU_BLOB_UNSUPPORTED;
    answer(message, || {
        // SAFETY: the handle is an open device, the bytes are the host's.
        let told = unsafe { opened(device)?.device.check_blob(form(data, length)) };
        let (code, why) = match told {
            BlobCompatibility::Optimal => (ANYNPU_BLOB_OPTIMAL, String::new()),
            BlobCompatibility::PreferRecompile(why) => (ANYNPU_BLOB_PREFER_RECOMPILE, why),
            BlobCompatibility::Unsupported(why) => (ANYNPU_BLOB_UNSUPPORTED, why),
        };
        verdict = code;
        // for its text
        Err(Failure::new(ANYNPU_OK, why))
    });
    verdict
}

pub(super) unsafe extern "C" fn load(
    device: *mut anynpu_device,
    data: *const c_void,
    length: usize,
    request: *const anynpu_compile_request,
    module: *mut *mut anynpu_module,
    message: *mut anynpu_message,
) -> anynpu_status {
    answer(message, || {
        // SAFETY: the handle is an open device, bytes and request are the host's.
        unsafe {
            let (open, request) = (opened(device)?, read_request(request)?);
            if request.groups.len() != 1 {
                let why = "entries of several graphs have no form";
                return Err(Failure::new(ANYNPU_BLOB_REJECTED, why));
            }
            let made = Made::of(&request, |_| {
                open.device
                    .load(form(data, length), request.weights.clone())
            });
            hand_over(made?, module);
        }
        Ok(())
    })
}
