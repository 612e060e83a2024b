//! Devices of an exported driver, and what they say of graphs.
#![allow(unsafe_code)] // functions that a host calls, with what it points to

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anynpu_abi::*;
use anynpu_ir::DType;

use super::super::answers::{read_struct, read_text, reason_of};
use super::super::read::read_graph;
use super::super::tables::{dtype_code, text};
use super::{Failure, answer, missing};
use crate::{Device, DeviceKind, Driver, OpenOptions, ReasonCode, StateSupport, Support, Timeline};

/// An open device behind its handle.
pub(super) struct Open {
    pub device: Arc<dyn Device>,
    pub timeline: Timeline,
    pub submitted: AtomicU64,
}

pub(super) unsafe extern "C" fn enumerate(
    context: *mut c_void,
    tell: anynpu_tell_device,
    to: *mut c_void,
    message: *mut anynpu_message,
) -> anynpu_status {
    answer(message, || {
        // SAFETY: the context is the driver that the table was made for.
        let driver = unsafe { context.cast::<Box<dyn Driver>>().as_ref() };
        let (driver, tell) = (driver.ok_or_else(|| missing("the context"))?, tell);
        let tell = tell.ok_or_else(|| missing("the function to tell"))?;
        let found = driver
            .enumerate()
            .map_err(|u| Failure::new(ANYNPU_UNAVAILABLE, u.reason))?;
        for exposed in found {
            let device = match driver.open(&exposed, &OpenOptions::default()) {
                Ok(device) => device,
                Err(e) => {
                    tracing::warn!("'{}' does not open: {e}", exposed.info.name);
                    continue;
                }
            };
            let claims = device.capabilities();
            let codes = |types: &[DType]| types.iter().map(|d| dtype_code(*d)).collect::<Vec<_>>();
            let (compute, weights) = (codes(&claims.compute), codes(&claims.weights));
            let shapes = claims.fixed_shapes.clone().unwrap_or_default();
            let rates = claims.claimed_rates.as_ref();
            let rate = |&(dtype, operations_per_second): &(DType, f64)| anynpu_rate {
                dtype: dtype_code(dtype),
                reserved: 0,
                operations_per_second,
            };
            let each: Vec<anynpu_rate> =
                rates.map_or_else(Vec::new, |r| r.operations.iter().map(rate).collect());
            let feature = |has: bool, bit: u64| if has { bit } else { 0 };
            let features = claims.features;
            let info = anynpu_device_info {
                struct_size: size_of::<anynpu_device_info>() as u32,
                kind: match exposed.info.kind {
                    DeviceKind::Cpu => ANYNPU_KIND_CPU,
                    DeviceKind::Gpu => ANYNPU_KIND_GPU,
                    DeviceKind::Npu => ANYNPU_KIND_NPU,
                    DeviceKind::Simulated => ANYNPU_KIND_SIMULATED,
                    DeviceKind::Other => ANYNPU_KIND_OTHER,
                },
                name: text(&exposed.info.name),
                description: text(&exposed.info.description),
                op_set: claims.op_set,
                states: match claims.states {
                    StateSupport::InPlaceIo => ANYNPU_STATES_IN_PLACE,
                    _ => ANYNPU_STATES_NONE,
                },
                features: feature(features.baseline, ANYNPU_FEATURE_BASELINE)
                    | feature(features.dynamic_shapes, ANYNPU_FEATURE_DYNAMIC_SHAPES)
                    | feature(exposed.artificial, ANYNPU_FEATURE_ARTIFICIAL),
                compute: compute.as_ptr(),
                compute_count: compute.len(),
                weights: weights.as_ptr(),
                weight_count: weights.len(),
                memory_limit: claims.memory_limit.unwrap_or(0),
                tokens: shapes.tokens.as_ptr(),
                token_count: shapes.tokens.len(),
                capacities: shapes.capacities.as_ptr(),
                capacity_count: shapes.capacities.len(),
                rates: each.as_ptr(),
                rate_count: each.len(),
                rate_stride: size_of::<anynpu_rate>(),
                bytes_per_second: rates.map_or(0.0, |r| r.bytes_per_second),
                dispatch_us: rates.map_or(0.0, |r| r.dispatch_us),
                busy_watts: rates.and_then(|r| r.busy_watts).unwrap_or(0.0),
            };
            // SAFETY: the function and what it is given are the host's; the description lives during the call.
            unsafe { tell(to, &raw const info) }
        }
        Ok(())
    })
}

pub(super) unsafe extern "C" fn open(
    context: *mut c_void,
    request: *const anynpu_open_request,
    device: *mut *mut anynpu_device,
    message: *mut anynpu_message,
) -> anynpu_status {
    answer(message, || {
        // SAFETY: the context is the driver that the table was made for; the request is the host's for the time of the
        // call, as are its lists.
        let (driver, name, target, threads, options) = unsafe {
            let driver = context.cast::<Box<dyn Driver>>().as_ref();
            let driver = driver.ok_or_else(|| missing("the context"))?;
            let request = read_struct(request, size_of::<anynpu_open_request>());
            let request = request.ok_or_else(|| missing("the request"))?;
            let options = pairs(request.options, request.option_count, request.option_stride);
            let (name, target) = (read_text(request.name), read_text(request.target));
            (driver, name, target, request.threads, options)
        };
        if !target.is_empty() {
            let why = format!("nothing is compiled for '{target}' ahead of time");
            return Err(Failure::new(ANYNPU_UNSUPPORTED, why));
        }
        let found = driver
            .enumerate()
            .map_err(|u| Failure::new(ANYNPU_UNAVAILABLE, u.reason))?;
        let exposed = found.iter().find(|d| d.info.name == name);
        let gone = || Failure::new(ANYNPU_UNAVAILABLE, format!("there is no device '{name}'"));
        let open = OpenOptions {
            threads: (threads > 0).then_some(threads as usize),
            options: options.into_iter().collect(),
        };
        let opened = driver.open(exposed.ok_or_else(gone)?, &open)?;
        let open = Open {
            timeline: Timeline::new(name),
            device: opened,
            submitted: AtomicU64::new(0),
        };
        // SAFETY: the place is the host's, for the handle.
        unsafe { device.write(Box::into_raw(Box::new(open)).cast()) }
        Ok(())
    })
}

/// # Safety
/// As a request has them.
pub(super) unsafe fn pairs(
    data: *const anynpu_option,
    count: usize,
    stride: usize,
) -> Vec<(String, String)> {
    if data.is_null() || stride < size_of::<anynpu_option>() {
        return Vec::new();
    }
    let at = |n: usize| {
        data.cast::<u8>()
            .wrapping_add(n * stride)
            .cast::<anynpu_option>()
    };
    // SAFETY: by the contract.
    let read = |n| unsafe {
        let option = at(n).read_unaligned();
        (read_text(option.name), read_text(option.value))
    };
    (0..count).map(read).collect()
}

pub(super) unsafe extern "C" fn close(device: *mut anynpu_device) {
    let closed = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the handle was made by `open`, and is given once.
        drop(unsafe { Box::from_raw(device.cast::<Open>()) });
    }));
    if closed.is_err() {
        tracing::error!("a panic while a device was closed");
    }
}

/// # Safety
/// The handle was made by `open` and not closed.
pub(super) unsafe fn opened<'a>(device: *mut anynpu_device) -> Result<&'a Open, Failure> {
    // SAFETY: by the contract.
    unsafe { device.cast::<Open>().as_ref() }.ok_or_else(|| missing("the device"))
}

/// Has the device say whether it runs the nodes of a graph.
///
/// # Safety
/// As the functions of the table that do so.
pub(super) unsafe fn verdicts(
    device: *mut anynpu_device,
    graph: *const anynpu_graph,
    tell: anynpu_tell_verdict,
    to: *mut c_void,
    message: *mut anynpu_message,
    validate: bool,
) -> anynpu_status {
    answer(message, || {
        // SAFETY: the handle is an open device, the graph is the host's for the time of the call.
        let (open, read) = unsafe { (opened(device)?, read_graph(graph)?) };
        let tell = tell.ok_or_else(|| missing("the function to tell"))?;
        let run = read.graph.whole();
        let told = match validate {
            true => open.device.validate(&run)?,
            false => open.device.support(&run),
        };
        for (node, verdict) in told.iter().enumerate() {
            let kind = match verdict {
                Support::Yes => ANYNPU_SUPPORT_YES,
                Support::Emulated(_) => ANYNPU_SUPPORT_EMULATED,
                Support::No(_) => ANYNPU_SUPPORT_NO,
            };
            let reason = verdict.reason();
            let code = reason.map_or(ANYNPU_REASON_OP_UNKNOWN, |r| reason_code(r.code));
            let detail = reason.map_or("", |r| r.detail.as_str());
            // SAFETY: the function and what it is given are the host's.
            unsafe { tell(to, node, kind, code, text(detail)) }
        }
        Ok(())
    })
}

/// The number of a reason; of those that have none, the vendor's own.
pub(super) fn reason_code(code: ReasonCode) -> anynpu_reason {
    let known = ANYNPU_REASON_OP_UNKNOWN..=ANYNPU_REASON_VENDOR_REJECTED;
    let found = known.into_iter().find(|n| reason_of(*n) == code);
    found.unwrap_or(ANYNPU_REASON_VENDOR_REJECTED)
}

pub(super) unsafe extern "C" fn support(
    device: *mut anynpu_device,
    graph: *const anynpu_graph,
    tell: anynpu_tell_verdict,
    to: *mut c_void,
    message: *mut anynpu_message,
) -> anynpu_status {
    // SAFETY: as the interface has it.
    unsafe { verdicts(device, graph, tell, to, message, false) }
}

pub(super) unsafe extern "C" fn validate(
    device: *mut anynpu_device,
    graph: *const anynpu_graph,
    tell: anynpu_tell_verdict,
    to: *mut c_void,
    message: *mut anynpu_message,
) -> anynpu_status {
    // SAFETY: as the interface has it.
    unsafe { verdicts(device, graph, tell, to, message, true) }
}
