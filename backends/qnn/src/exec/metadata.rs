//! What is in a compiled form, as `libQnnSystem.so` tells.

use std::ffi::{CStr, c_char, c_void};

use super::{Device, QnnError};
use crate::sys::{self, SystemTable, Version};

/// What is in a compiled form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryInfo {
    /// Number of the chip that it is for.
    pub soc: u32,
    /// The core API of the library that compiled it.
    pub core: Version,
    /// The build of that library.
    pub build: String,
    /// The most that any of its graphs spills into memory that contexts can have in common.
    pub spill_bytes: u64,
    /// Its graphs.
    pub graphs: Vec<GraphInfo>,
}

/// A graph of a compiled form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphInfo {
    /// Its name.
    pub name: String,
    /// What it reads, in order.
    pub inputs: Vec<TensorInfo>,
    /// What it writes, in order.
    pub outputs: Vec<TensorInfo>,
}

/// An input or output of a graph of a compiled form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its number.
    pub id: u32,
    /// Where its contents come from, by the interface's numbers.
    pub kind: u32,
    /// Type of its elements, by the interface's numbers.
    pub data_type: u32,
    /// Its dimensions.
    pub dims: Vec<u32>,
}

impl BinaryInfo {
    /// Whether `device` loads it, as far as this tells. If it does but its library would compile it anew otherwise, why.
    ///
    /// # Errors
    /// It is for another chip, or was compiled by a newer library.
    pub fn fits(&self, device: &Device) -> Result<Option<String>, QnnError> {
        let (soc, own) = (device.soc(), device.core_api());
        if self.soc != soc.id {
            return Err(QnnError::Binary {
                what: "its chip's number",
                found: self.soc.to_string(),
                expected: format!("{}, of {}", soc.id, soc.name),
            });
        }
        if self.core > own {
            return Err(QnnError::Binary {
                what: "the core API that compiled it",
                found: self.core.to_string(),
                expected: format!(
                    "at most {own}, the library's; install a newer one, or compile anew"
                ),
            });
        }
        let build = device.build().unwrap_or_default();
        let same = self.core == own && self.build == build;
        Ok((!same).then(|| {
            format!(
                "the library of core API {} ({}) compiled it, and that of {own} ({build}) is here",
                self.core, self.build
            )
        }))
    }

    /// What is in `binary`.
    ///
    /// # Errors
    /// No compiled form that the library knows.
    pub fn read(device: &Device, binary: &[u8]) -> Result<BinaryInfo, QnnError> {
        read(device, binary)
    }

    /// The names of the graphs, for people.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.graphs.iter().map(|g| g.name.as_str()).collect();
        names.join(", ")
    }
}

/// The form of the information that is understood.
const VERSION: u32 = 3;
/// Where members begin, after the version.
const INFO: usize = 8;
/// Bytes from one graph's information to the next.
const GRAPH_STRIDE: usize = 88;
/// Where the HTP's own information on a graph has the bytes that it spills.
const SPILL: usize = 8;
/// More than any compiled form has.
const MOST: usize = 4096;

/// What is in `binary`.
pub(super) fn read(device: &Device, binary: &[u8]) -> Result<BinaryInfo, QnnError> {
    let missing = |call| QnnError::Missing { call };
    let table: &SystemTable = device.system().ok_or(missing("libQnnSystem.so"))?;
    let create = table.create.ok_or(missing("systemContextCreate"))?;
    let free = table.free.ok_or(missing("systemContextFree"))?;
    let (call, get) = ("systemContextGetMetaData", table.get_meta_data);
    let get = get.ok_or(missing(call))?;
    let mut handle = std::ptr::null_mut();
    // SAFETY: the function writes a handle.
    let code = unsafe { create(&raw mut handle) };
    if code != 0 {
        return Err(device.error("systemContextCreate", "the library".into(), code));
    }
    let mut info: *const c_void = std::ptr::null();
    // SAFETY: the library reads the given bytes, checks them, and writes a pointer to information that lives as long
    // as the handle.
    let code = unsafe {
        get(
            handle,
            binary.as_ptr().cast(),
            binary.len() as u64,
            &raw mut info,
        )
    };
    let found = match (code, info.is_null()) {
        // SAFETY: the library made the information; it is copied before the handle is freed.
        (0, false) => unsafe { copy(info.cast()) },
        _ => Err(QnnError::Binary {
            what: "it",
            found: format!(
                "{} bytes that the library does not know (code {code})",
                binary.len()
            ),
            expected: "a compiled form of this library or an older one".into(),
        }),
    };
    // SAFETY: nothing of the handle's is used any more.
    let code = unsafe { free(handle) };
    tracing::trace!("systemContextFree: {code}");
    found
}

/// # Safety
/// `info` points to information as the library makes it.
unsafe fn copy(info: *const u8) -> Result<BinaryInfo, QnnError> {
    // SAFETY: every form begins with its version.
    let version = unsafe { number(info, 0) };
    if version != VERSION {
        return Err(QnnError::Binary {
            what: "the version of its information",
            found: version.to_string(),
            expected: VERSION.to_string(),
        });
    }
    // SAFETY: members of this version are at these places (version, then the union after 8 bytes).
    let (soc, count, graphs) = unsafe {
        (
            number(info, INFO + 128),
            number(info, INFO + 88) as usize,
            pointer(info, INFO + 96),
        )
    };
    // SAFETY: as before.
    let (build, core) = unsafe {
        let core = INFO + 16;
        (
            text(pointer(info, INFO + 8).cast()),
            Version {
                major: number(info, core),
                minor: number(info, core + 4),
                patch: number(info, core + 8),
            },
        )
    };
    let mut all = Vec::new();
    let mut spill_bytes = 0;
    for i in 0..bounded("its number of graphs", count)? {
        // SAFETY: there are `count` graphs with this distance.
        let graph = unsafe { graphs.add(i * GRAPH_STRIDE) };
        // SAFETY: members of a graph's information are at these places.
        let (name, inputs, outputs) = unsafe {
            (
                text(pointer(graph, 8).cast()),
                tensors(pointer(graph, 24), number(graph, 16) as usize)?,
                tensors(pointer(graph, 40), number(graph, 32) as usize)?,
            )
        };
        // SAFETY: members of a graph's information are at these places.
        let (bytes, blob) = unsafe { (number(graph, 64) as usize, pointer(graph, 72)) };
        if bytes >= SPILL + 8 && !blob.is_null() {
            // SAFETY: the HTP's own information on a graph has so many bytes.
            let spilled = unsafe { blob.add(SPILL).cast::<u64>().read_unaligned() };
            spill_bytes = spilled.max(spill_bytes);
        }
        all.push(GraphInfo {
            name,
            inputs,
            outputs,
        });
    }
    Ok(BinaryInfo {
        soc,
        core,
        build,
        spill_bytes,
        graphs: all,
    })
}

/// # Safety
/// `first` points to `count` tensors of the interface.
unsafe fn tensors(first: *const u8, count: usize) -> Result<Vec<TensorInfo>, QnnError> {
    let mut all = Vec::new();
    for i in 0..bounded("a number of tensors", count)? {
        // SAFETY: there are `count` tensors of this size.
        let tensor = unsafe { &*first.cast::<sys::Tensor>().add(i) };
        let v2 = &tensor.v2;
        let rank = bounded("a number of dimensions", v2.rank as usize)?;
        let dims = match v2.dimensions.is_null() {
            true => Vec::new(),
            // SAFETY: a tensor has `rank` dimensions.
            false => unsafe { std::slice::from_raw_parts(v2.dimensions, rank) }.to_vec(),
        };
        all.push(TensorInfo {
            // SAFETY: names end in 0.
            name: unsafe { text(v2.name) },
            id: v2.id,
            kind: v2.kind,
            data_type: v2.data_type,
            dims,
        });
    }
    Ok(all)
}

fn bounded(what: &'static str, count: usize) -> Result<usize, QnnError> {
    match count <= MOST {
        true => Ok(count),
        false => Err(QnnError::Binary {
            what,
            found: count.to_string(),
            expected: format!("at most {MOST}"),
        }),
    }
}

/// # Safety
/// `base + at` points to a number.
unsafe fn number(base: *const u8, at: usize) -> u32 {
    // SAFETY: by the contract.
    unsafe { base.add(at).cast::<u32>().read_unaligned() }
}

/// # Safety
/// `base + at` points to a pointer.
unsafe fn pointer(base: *const u8, at: usize) -> *const u8 {
    // SAFETY: by the contract.
    unsafe { base.add(at).cast::<*const u8>().read_unaligned() }
}

/// # Safety
/// `name` is null or points to a text that ends in 0.
unsafe fn text(name: *const c_char) -> String {
    match name.is_null() {
        true => String::new(),
        // SAFETY: by the contract.
        false => unsafe { CStr::from_ptr(name) }
            .to_string_lossy()
            .into_owned(),
    }
}
