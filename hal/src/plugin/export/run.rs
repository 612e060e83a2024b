//! Runs on an exported driver's devices.
#![allow(unsafe_code)] // functions that a host calls, with what it points to

use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anynpu_abi::*;
use anynpu_ir::{Symbol, SymbolValues};

use super::super::answers::read_struct;
use super::super::tables::text;
use super::devices::opened;
use super::modules::module_of;
use super::{Failure, HOST, answer, missing};
use crate::{Buffer, BufferDesc, HostBuffer, Submission};

/// # Safety
/// As a submission has them.
pub(super) unsafe fn buffers(
    data: *const anynpu_binding,
    count: usize,
    stride: usize,
    what: &str,
) -> Result<Vec<Arc<dyn Buffer>>, Failure> {
    let mut all: Vec<Arc<dyn Buffer>> = Vec::with_capacity(count);
    for n in 0..count {
        // SAFETY: by the contract.
        let binding = unsafe {
            let at = data.cast::<u8>().wrapping_add(n * stride);
            at.cast::<anynpu_binding>().read_unaligned()
        };
        let desc = BufferDesc::host(format!("{what} {n}"), binding.bytes);
        // SAFETY: the memory is bound until the run has ended, which is before the buffer is dropped.
        all.push(Arc::new(unsafe {
            HostBuffer::lent(desc, binding.data.cast())?
        }));
    }
    Ok(all)
}

pub(super) unsafe extern "C" fn submit(
    device: *mut anynpu_device,
    submission: *const anynpu_submission,
    message: *mut anynpu_message,
) -> anynpu_status {
    answer(message, || {
        // SAFETY: the handles are open, and the submission is the host's.
        let (open, raw, inputs, outputs, states, module, symbols) = unsafe {
            let raw = read_struct(submission, size_of::<anynpu_submission>());
            let raw = raw.ok_or_else(|| missing("the submission"))?;
            let stride = raw.binding_stride;
            let inputs = buffers(raw.inputs, raw.input_count, stride, "input")?;
            let outputs = buffers(raw.outputs, raw.output_count, stride, "output")?;
            let states = buffers(raw.states, raw.state_count, stride, "state")?;
            let mut symbols = SymbolValues::default();
            for n in 0..raw.symbol_count.min(Symbol::COUNT) {
                symbols.set(Symbol(n as u16), raw.symbols.add(n).read_unaligned());
            }
            let (open, module) = (opened(device)?, module_of(raw.module)?);
            (open, raw, inputs, outputs, states, module, symbols)
        };
        let place = module.places.get(raw.entry).copied();
        let place = place.and_then(|(m, e)| Some((module.modules.get(m)?, e)));
        let no_entry = || {
            Failure::new(
                ANYNPU_INVALID_USE,
                format!("there is no entry {}", raw.entry),
            )
        };
        let (module, entry) = place.ok_or_else(no_entry)?;
        let signal = open
            .timeline
            .point(open.submitted.load(Ordering::Relaxed) + 1);
        let run = open.device.queue().submit(&Submission {
            module,
            entry,
            inputs: &inputs,
            outputs: &outputs,
            states: &states,
            // the C ABI has no word for them
            sequences: &[],
            symbols,
            wait: &[],
            signal: &signal,
        });
        // the host has the deadline
        let ended = run.and_then(|()| signal.wait(Duration::MAX));
        match &ended {
            // the host has one call at a time
            Ok(()) => drop(open.submitted.fetch_add(1, Ordering::Relaxed)),
            Err(_) => {
                open.timeline.reset();
                open.submitted.store(0, Ordering::Relaxed);
            }
        }
        ended?;
        let host = *HOST.lock();
        // SAFETY: a host's table lives as long as the process, and its functions are for any thread.
        unsafe {
            let host = host.and_then(|h| h.0.as_ref());
            let signal = host.and_then(|h| Some((h.signal?, h.context)));
            let (signal, context) = signal.ok_or_else(|| missing("the host's function"))?;
            signal(context, raw.done, ANYNPU_OK, text(""));
        }
        Ok(())
    })
}

pub(super) unsafe extern "C" fn trim(device: *mut anynpu_device) -> u64 {
    // SAFETY: the handle is an open device.
    let told = catch_unwind(|| unsafe { opened(device).map_or(0, |o| o.device.trim()) });
    told.unwrap_or(0)
}

pub(super) unsafe extern "C" fn give_up(device: *mut anynpu_device) {
    answer(std::ptr::null_mut(), || {
        // SAFETY: the handle is an open device.
        unsafe { opened(device)? }.device.give_up();
        Ok(())
    });
}

pub(super) unsafe extern "C" fn counters(device: *mut anynpu_device, told: *mut anynpu_counters) {
    answer(std::ptr::null_mut(), || {
        // SAFETY: the handle is an open device, the structure is the host's.
        let (open, told) = unsafe { (opened(device)?, told.as_mut()) };
        let told = told.ok_or_else(|| missing("the counters"))?;
        let own = open.device.queue().counters();
        (told.submissions, told.nodes, told.busy_ns) = (own.submissions, own.nodes, own.busy_ns);
        Ok(())
    });
}
