//! What plugins answer, read with care: sizes are bounded, texts need not be texts, numbers need not be known.
#![allow(unsafe_code)] // memory that a plugin points to is read

use std::mem::MaybeUninit;

use anynpu_abi::*;
use anynpu_ir::DType;

use super::PluginError;
use crate::{
    Capabilities, ClaimedRates, DeviceInfo, DeviceKind, ExposedDevice, FixedShapes, HalError,
    MemoryKind, Reason, ReasonCode, StateSupport, Support,
};

/// Most bytes of a text that are read.
const TEXT: usize = 4096;
/// Most elements of a list that are read.
const LIST: usize = 256;

/// The text, with what is no UTF-8 replaced, at most [`TEXT`] bytes of it.
///
/// # Safety
/// If `data` is not null, `length` bytes can be read there.
pub(super) unsafe fn read_text(text: anynpu_text) -> String {
    if text.data.is_null() || text.length == 0 {
        return String::new();
    }
    // SAFETY: by the contract.
    let bytes =
        unsafe { std::slice::from_raw_parts(text.data.cast::<u8>(), text.length.min(TEXT)) };
    String::from_utf8_lossy(bytes).into_owned()
}

/// The first bytes of a structure as this side knows it; what the plugin's has not is zero. `None` if it is shorter than
/// `least`.
///
/// # Safety
/// `struct_size` bytes can be read at `from`, where that number itself stands first. `T` is a structure of the interface,
/// of which all bits may be zero.
pub(super) unsafe fn read_struct<T: Copy>(from: *const T, least: usize) -> Option<T> {
    if from.is_null() {
        return None;
    }
    // SAFETY: by the contract; alignment is not relied on.
    let size = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    if size < least {
        return None;
    }
    let mut to = MaybeUninit::<T>::zeroed();
    // SAFETY: no more is read than the structure has, and no more is written than `T` has; zeros and what the plugin wrote
    // are a `T`.
    unsafe {
        let bytes = size.min(size_of::<T>());
        std::ptr::copy_nonoverlapping(from.cast::<u8>(), to.as_mut_ptr().cast(), bytes);
        Some(to.assume_init())
    }
}

/// At most [`LIST`] elements of a list.
///
/// # Safety
/// If `data` is not null, it leads to `count` elements, `stride` bytes apart.
unsafe fn read_list<T: Copy>(data: *const T, count: usize, stride: usize) -> Vec<T> {
    if data.is_null() || stride < size_of::<T>() {
        return Vec::new();
    }
    let at = |n: usize| data.cast::<u8>().wrapping_add(n * stride).cast::<T>();
    // SAFETY: by the contract; alignment is not relied on.
    let read = |n| unsafe { at(n).read_unaligned() };
    (0..count.min(LIST)).map(read).collect()
}

/// The type with this number.
pub(super) fn dtype_of(code: anynpu_dtype) -> Option<DType> {
    DType::ALL
        .into_iter()
        .find(|d| super::tables::dtype_code(*d) == code)
}

/// Whether a driver or device may be called so.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    (1..=64).contains(&name.len()) && name.chars().all(fits)
}

/// A device as it described itself.
#[derive(Clone, Debug)]
pub(super) struct Described {
    pub exposed: ExposedDevice,
    pub capabilities: Capabilities,
}

/// Reads what a device of `driver` says of itself; `own_memory` if the plugin has buffers of its own.
///
/// # Safety
/// `info` is null or points to a structure of the interface.
pub(super) unsafe fn read_device(
    info: *const anynpu_device_info,
    driver: &str,
    own_memory: bool,
) -> Result<Described, PluginError> {
    let wrong = |what: &str, found: String, expected: &str| PluginError::Answer {
        driver: driver.into(),
        what: what.into(),
        found,
        expected: expected.into(),
    };
    // SAFETY: by the contract.
    let info = unsafe { read_struct(info, size_of::<anynpu_device_info>()) };
    let info = info.ok_or_else(|| {
        wrong(
            "the size of a device's description",
            "none or too little".into(),
            "a whole structure",
        )
    })?;
    // SAFETY: the texts are the plugin's, for the time of the call.
    let (name, description) = unsafe { (read_text(info.name), read_text(info.description)) };
    if !is_name(&name) {
        let expected = "1 to 64 lower-case letters, digits, '-' and '_'";
        return Err(wrong("a device's name", format!("'{name}'"), expected));
    }
    // SAFETY: the lists are the plugin's, for the time of the call.
    let (compute, weights, tokens, capacities, rates) = unsafe {
        (
            read_list(info.compute, info.compute_count, 4),
            read_list(info.weights, info.weight_count, 4),
            read_list(info.tokens, info.token_count, 4),
            read_list(info.capacities, info.capacity_count, 4),
            read_list(info.rates, info.rate_count, info.rate_stride),
        )
    };
    let types = |codes: Vec<u32>| codes.into_iter().filter_map(dtype_of).collect::<Vec<_>>();
    let has = |feature: u64| info.features & feature != 0;
    let mut capabilities = Capabilities::new();
    capabilities.op_set = info.op_set;
    capabilities.features.baseline = has(ANYNPU_FEATURE_BASELINE);
    capabilities.features.dynamic_shapes = has(ANYNPU_FEATURE_DYNAMIC_SHAPES);
    capabilities.features.asynchronous = has(ANYNPU_FEATURE_ASYNCHRONOUS);
    capabilities.features.artificial = has(ANYNPU_FEATURE_ARTIFICIAL);
    capabilities.states = match info.states {
        ANYNPU_STATES_IN_PLACE => StateSupport::InPlaceIo,
        _ => StateSupport::None,
    };
    capabilities.compute = types(compute);
    capabilities.weights = types(weights);
    capabilities.memory = vec![match own_memory {
        true => MemoryKind::DeviceLocal,
        false => MemoryKind::Host,
    }];
    capabilities.memory_limit = (info.memory_limit > 0).then_some(info.memory_limit);
    if !capabilities.features.dynamic_shapes {
        capabilities.fixed_shapes = Some(FixedShapes {
            tokens: ascending(tokens),
            capacities: ascending(capacities),
        });
    }
    let operations: Vec<(DType, f64)> = rates
        .into_iter()
        .filter_map(|r| Some((dtype_of(r.dtype)?, r.operations_per_second)))
        .collect();
    if !operations.is_empty() {
        let mut claimed = ClaimedRates::new(operations, info.bytes_per_second, info.dispatch_us);
        claimed.busy_watts = (info.busy_watts > 0.0).then_some(info.busy_watts);
        capabilities.claimed_rates = Some(claimed);
    }
    Ok(Described {
        exposed: ExposedDevice {
            info: DeviceInfo {
                name,
                driver: driver.into(),
                kind: match info.kind {
                    ANYNPU_KIND_CPU => DeviceKind::Cpu,
                    ANYNPU_KIND_GPU => DeviceKind::Gpu,
                    ANYNPU_KIND_NPU => DeviceKind::Npu,
                    ANYNPU_KIND_SIMULATED => DeviceKind::Simulated,
                    _ => DeviceKind::Other,
                },
                description,
            },
            artificial: has(ANYNPU_FEATURE_ARTIFICIAL),
        },
        capabilities,
    })
}

fn ascending(mut list: Vec<u32>) -> Vec<u32> {
    list.retain(|&n| n > 0);
    list.sort_unstable();
    list.dedup();
    list
}

/// A verdict as it was told.
pub(super) fn support_of(
    support: anynpu_support,
    reason: anynpu_reason,
    detail: String,
) -> Support {
    let reason = Reason::new(reason_of(reason), detail);
    match support {
        ANYNPU_SUPPORT_YES => Support::Yes,
        ANYNPU_SUPPORT_EMULATED => Support::Emulated(reason),
        _ => Support::No(reason),
    }
}

/// The reason with this number; one that is not known is the vendor's own.
pub(super) fn reason_of(code: anynpu_reason) -> ReasonCode {
    match code {
        ANYNPU_REASON_OP_UNKNOWN => ReasonCode::OpUnknown,
        ANYNPU_REASON_OP_VERSION => ReasonCode::OpVersion,
        ANYNPU_REASON_DTYPE => ReasonCode::DType,
        ANYNPU_REASON_QUANTIZATION => ReasonCode::Quantization,
        ANYNPU_REASON_RANK => ReasonCode::Rank,
        ANYNPU_REASON_DYNAMIC_SHAPE => ReasonCode::DynamicShape,
        ANYNPU_REASON_SHAPE_LIMIT => ReasonCode::ShapeLimit,
        ANYNPU_REASON_LAYOUT => ReasonCode::Layout,
        ANYNPU_REASON_MEMORY_LIMIT => ReasonCode::MemoryLimit,
        ANYNPU_REASON_STATE => ReasonCode::State,
        _ => ReasonCode::VendorRejected,
    }
}

/// Room for why a call failed.
pub(super) struct Message {
    text: Box<[u8; TEXT]>,
    raw: anynpu_message,
}

impl Message {
    pub fn new() -> Message {
        let mut text = Box::new([0; TEXT]);
        let raw = anynpu_message {
            struct_size: size_of::<anynpu_message>() as u32,
            reserved: 0,
            text: text.as_mut_ptr().cast(),
            capacity: TEXT,
            length: 0,
            vendor_code: 0,
            bytes: 0,
        };
        Message { text, raw }
    }

    /// For a call to write to.
    pub fn raw(&mut self) -> *mut anynpu_message {
        &raw mut self.raw
    }

    /// What was written.
    pub fn text(&self) -> String {
        let length = self.raw.length.min(TEXT);
        String::from_utf8_lossy(&self.text[..length]).into_owned()
    }

    /// What `status` of `call` means.
    pub fn error(&self, device: &str, call: &'static str, status: anynpu_status) -> HalError {
        let mut text = self.text();
        if text.is_empty() {
            text = format!("the plugin said no more than status {status}");
        }
        error_of(
            device,
            call,
            status,
            text,
            self.raw.vendor_code,
            self.raw.bytes,
        )
    }
}

/// An error of the interface as ours.
pub(super) fn error_of(
    device: &str,
    call: &'static str,
    status: anynpu_status,
    text: String,
    vendor_code: i64,
    bytes: u64,
) -> HalError {
    let device = device.to_owned();
    match status {
        ANYNPU_DEVICE_LOST | ANYNPU_UNAVAILABLE => HalError::DeviceLost { device, why: text },
        ANYNPU_OUT_OF_MEMORY => HalError::OutOfMemory {
            device,
            bytes,
            what: format!("{call}: {text}"),
        },
        ANYNPU_COMPILE_REJECTED => HalError::CompileRejected {
            device,
            nodes: Vec::new(),
        },
        ANYNPU_BLOB_REJECTED => HalError::BlobRejected { device, why: text },
        ANYNPU_WEIGHT => HalError::Weight {
            name: String::new(),
            why: text,
        },
        ANYNPU_INVALID_USE => HalError::InvalidUse {
            call,
            what: format!("what '{device}' was given"),
            found: text,
            expected: "what its rules ask for".into(),
        },
        ANYNPU_CANCELLED => HalError::Cancelled { what: text },
        ANYNPU_UNSUPPORTED => HalError::Unsupported { device, call },
        _ => HalError::Vendor {
            device,
            call: call.into(),
            code: match status {
                ANYNPU_VENDOR => vendor_code,
                other => other.into(),
            },
            text,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_none_are_read_all_the_same() {
        let text = |bytes: &[u8]| anynpu_text {
            data: bytes.as_ptr().cast(),
            length: bytes.len(),
        };
        // SAFETY: the bytes are there, or there are none.
        unsafe {
            assert_eq!(read_text(text(b"a\xffb")), "a\u{fffd}b");
            assert_eq!(read_text(text(&vec![b'x'; 5000])).len(), TEXT);
            let none = anynpu_text {
                data: std::ptr::null(),
                length: 7,
            };
            assert_eq!(read_text(none), "");
        }
    }

    #[test]
    fn a_longer_structure_is_read_as_far_as_it_is_known_and_a_shorter_one_filled_with_zeros() {
        #[repr(C)]
        struct Longer {
            counters: anynpu_counters,
            more: [u64; 4],
        }
        let mut given = Longer {
            counters: anynpu_counters {
                struct_size: size_of::<Longer>() as u32,
                reserved: 0,
                submissions: 3,
                nodes: 4,
                busy_ns: 5,
            },
            more: [9; 4],
        };
        // SAFETY: the structure has the size that it tells.
        let read = |g: &Longer, least| unsafe { read_struct(&raw const g.counters, least) };
        assert_eq!(read(&given, 8).unwrap().busy_ns, 5);
        given.counters.struct_size = 24;
        let short = read(&given, 8).unwrap();
        assert_eq!((short.nodes, short.busy_ns), (4, 0));
        assert!(read(&given, 25).is_none());
        assert_eq!(given.more, [9; 4]);
    }

    #[test]
    fn every_type_has_the_number_that_the_header_gives_it() {
        let numbers = [
            (DType::F32, ANYNPU_DTYPE_F32),
            (DType::F16, ANYNPU_DTYPE_F16),
            (DType::BF16, ANYNPU_DTYPE_BF16),
            (DType::I8, ANYNPU_DTYPE_I8),
            (DType::U8, ANYNPU_DTYPE_U8),
            (DType::I16, ANYNPU_DTYPE_I16),
            (DType::I32, ANYNPU_DTYPE_I32),
            (DType::I64, ANYNPU_DTYPE_I64),
            (DType::Bool, ANYNPU_DTYPE_BOOL),
            (DType::Q4_0, ANYNPU_DTYPE_Q4_0),
            (DType::Q4_1, ANYNPU_DTYPE_Q4_1),
            (DType::Q5_0, ANYNPU_DTYPE_Q5_0),
            (DType::Q5_1, ANYNPU_DTYPE_Q5_1),
            (DType::Q8_0, ANYNPU_DTYPE_Q8_0),
            (DType::Q4_K, ANYNPU_DTYPE_Q4_K),
            (DType::Q5_K, ANYNPU_DTYPE_Q5_K),
            (DType::Q6_K, ANYNPU_DTYPE_Q6_K),
        ];
        assert_eq!(numbers.len(), DType::ALL.len());
        for (dtype, code) in numbers {
            assert_eq!(dtype_of(code), Some(dtype));
        }
        assert_eq!(dtype_of(99), None);
    }

    #[test]
    fn names_that_could_be_mistaken_are_refused() {
        for name in ["", "CPU", "a b", "sim:x", "é", "a,b", &"n".repeat(65)] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_name("vendor-npu_2"));
    }
}
