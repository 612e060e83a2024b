//! Running what a plugin compiled.
#![allow(unsafe_code)] // a plugin's functions are called

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anynpu_abi::*;
use anynpu_ir::Symbol;
use parking_lot::Mutex;

use super::answers::Message;
use super::array::Array;
use super::buffer::PluginBuffer;
use super::device::{Kept, Opened};
use super::host::{self, Pending};
use super::module::PluginModule;
use crate::{Buffer, Counters, HalError, HostBuffer, Queue, Submission};

/// Longest wait for what a submission depends on.
const WAIT_LIMIT: Duration = Duration::from_secs(600);

/// A device's queue.
#[derive(Debug)]
pub(super) struct PluginQueue {
    opened: Arc<Opened>,
    /// Room for what is bound.
    bindings: Mutex<Array<anynpu_binding>>,
}

impl PluginQueue {
    pub fn new(opened: Arc<Opened>) -> PluginQueue {
        PluginQueue {
            bindings: Mutex::new(Array::new(opened.spread)),
            opened,
        }
    }

    fn binding(&self, buffer: &Arc<dyn Buffer>) -> Result<anynpu_binding, HalError> {
        let any = buffer.as_any();
        if let Some(host) = any.downcast_ref::<HostBuffer>() {
            return Ok(anynpu_binding {
                data: host.as_ptr().cast(),
                bytes: host.len(),
                buffer: std::ptr::null_mut(),
            });
        }
        let own = any.downcast_ref::<PluginBuffer>();
        match own.and_then(|b| b.handle(&self.opened)) {
            Some(handle) => Ok(anynpu_binding {
                data: std::ptr::null_mut(),
                bytes: buffer.desc().bytes,
                buffer: handle,
            }),
            None => Err(invalid(
                format!("buffer '{}'", buffer.desc().name),
                "memory of another device".into(),
                format!("host memory, or memory of '{}'", self.opened.name),
            )),
        }
    }
}

fn invalid(what: String, found: String, expected: String) -> HalError {
    HalError::InvalidUse {
        call: "submit",
        what,
        found,
        expected,
    }
}

impl Queue for PluginQueue {
    fn submit(&self, s: &Submission<'_>) -> Result<(), HalError> {
        let info = s.entry_info()?;
        s.check(info)?;
        let module = s.module.as_any().downcast_ref::<PluginModule>();
        let module = module.filter(|m| m.is_of(&self.opened));
        let module = module.ok_or_else(|| {
            let expected = format!("one compiled by '{}'", self.opened.name);
            invalid("module".into(), "one of another device".into(), expected)
        })?;
        module.check(s)?;
        for point in s.wait {
            point.wait(WAIT_LIMIT)?;
        }
        let mut symbols = [0u32; ANYNPU_SYMBOLS as usize];
        for (at, symbol) in symbols.iter_mut().enumerate() {
            *symbol = s.symbols.get(Symbol(at as u16));
        }
        let mut kept = self.opened.counting.room();
        let mut bindings = self.bindings.lock();
        bindings.clear();
        for buffer in s.inputs.iter().chain(s.outputs).chain(s.states) {
            bindings.push(self.binding(buffer)?);
            kept.buffers.push(buffer.clone());
        }
        kept.module = Some(s.module.clone());
        kept.nodes = info.nodes.into();
        let (inputs, outputs) = (s.inputs.len(), s.outputs.len());
        let calling = self.opened.call()?;
        let done = host::expect(Pending {
            generation: self.opened.generation,
            point: s.signal.clone(),
            device: self.opened.name.clone(),
            kept,
            counting: self.opened.counting.clone(),
            started: Instant::now(),
        });
        let submission = anynpu_submission {
            struct_size: size_of::<anynpu_submission>() as u32,
            reserved: 0,
            module: module.handle(),
            entry: s.entry,
            inputs: bindings.at(0),
            input_count: inputs,
            outputs: bindings.at(inputs),
            output_count: outputs,
            states: bindings.at(inputs + outputs),
            state_count: s.states.len(),
            binding_stride: bindings.stride(),
            symbols: symbols.as_ptr(),
            symbol_count: symbols.len(),
            done,
        };
        let mut message = Message::new();
        // SAFETY: all that is given lives during the call. Buffers and module are kept until the run's end is told;
        // the plugin was told their sizes, which were checked to be what their values need.
        let status =
            unsafe { calling.table.submit()(calling.device, &raw const submission, message.raw()) };
        drop(calling);
        bindings.clear();
        drop(bindings);
        if status == ANYNPU_OK {
            return Ok(());
        }
        let started: Option<Kept> = host::forget(done).map(|p| p.kept);
        drop(started);
        Err(message.error(&self.opened.name, "submit", status))
    }

    fn counters(&self) -> Counters {
        let own = self.opened.table.optional().counters;
        if let (Some(counters), Ok(calling)) = (own, self.opened.call()) {
            let mut told = anynpu_counters {
                struct_size: size_of::<anynpu_counters>() as u32,
                ..anynpu_counters::default()
            };
            // SAFETY: the structure lives during the call.
            unsafe { counters(calling.device, &raw mut told) }
            return Counters {
                submissions: told.submissions,
                nodes: told.nodes,
                busy_ns: told.busy_ns,
            };
        }
        let counting = &self.opened.counting;
        Counters {
            submissions: counting.submissions.load(Ordering::Relaxed),
            nodes: counting.nodes.load(Ordering::Relaxed),
            busy_ns: counting.busy_ns.load(Ordering::Relaxed),
        }
    }
}
