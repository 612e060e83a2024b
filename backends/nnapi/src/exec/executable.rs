//! Compiled models that can be run.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::{BuiltModel, Device, NnapiError, SharedMemory, check, function};
use crate::FeatureLevel;
use crate::model::{Model, OperandId};
use crate::settings::{Preference, Priority};
use crate::sys::{self, Runtime};

/// What a compilation is to be like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompileSettings {
    /// What it is to be good at.
    pub preference: Option<Preference>,
    /// How urgent its runs are beside those of others, from feature level 4 on.
    pub priority: Option<Priority>,
    /// The longest that compiling, and that a run may take, in nanoseconds, from feature level 4 on.
    pub timeout: Option<u64>,
    /// The folder in which drivers keep what they compiled, and what tells models apart there.
    pub cache: Option<(PathBuf, [u8; sys::BYTE_SIZE_OF_CACHE_TOKEN])>,
}

/// Least alignment of inputs and outputs in their memory, in bytes.
const ALIGN: u32 = 64;
/// Most alignment that drivers are given.
pub const MOST_ALIGN: u32 = 4096;

/// A model that one device compiled, with memory for its inputs and outputs. The device runs it or nobody: the runtime
/// is not asked to find another.
#[derive(Debug)]
pub struct Executable {
    // dropped in this order: what is used last
    execution: Option<Execution>,
    burst: Option<Burst>,
    compilation: Compilation,
    _model: BuiltModel,
    memory: SharedMemory,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    device: Device,
    timeout: Option<u64>,
}

/// Where an input or output is in the memory.
#[derive(Clone, Copy, Debug)]
struct Slot {
    offset: usize,
    bytes: usize,
}

/// An object of the runtime that is freed when it is dropped.
macro_rules! owned {
    ($(#[$doc:meta])* $name:ident $free:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        struct $name {
            runtime: Arc<Runtime>,
            handle: *mut sys::$name,
        }

        // SAFETY: the runtime's functions may be called from any thread, and the owner calls them one at a time.
        unsafe impl Send for $name {}

        impl $name {
            fn none(runtime: &Arc<Runtime>) -> $name {
                $name {
                    runtime: runtime.clone(),
                    handle: std::ptr::null_mut(),
                }
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                if let Some(free) = self.runtime.functions.$free
                    && !self.handle.is_null()
                {
                    // SAFETY: the runtime made it, and nobody uses it any more.
                    unsafe { free(self.handle) };
                }
            }
        }
    };
}
owned!(
    /// A run that is prepared.
    Execution execution_free);
owned!(
    /// Runs that follow each other fast.
    Burst burst_free);
owned!(
    /// A compiled model.
    Compilation compilation_free);

impl Executable {
    /// Compiles `built`, which was made of `model`, for `device` alone.
    ///
    /// # Errors
    /// The driver's and the runtime's own; no memory for inputs and outputs.
    pub fn new(
        device: &Device,
        model: &Model,
        built: BuiltModel,
        settings: &CompileSettings,
    ) -> Result<Executable, NnapiError> {
        let runtime = device.runtime();
        let name = &model.name;
        let create = function!(runtime, compilation_create_for_devices)?;
        let mut compilation = Compilation::none(runtime);
        let devices = [device.handle()];
        // SAFETY: the model is finished and held alive; the device is the runtime's own.
        let code = unsafe {
            create(
                built.handle,
                devices.as_ptr(),
                1,
                &raw mut compilation.handle,
            )
        };
        check("compilation_create_for_devices", name, code)?;
        set(device, name, &compilation, settings)?;
        let finish = function!(runtime, compilation_finish)?;
        let started = Instant::now();
        // SAFETY: the compilation is this object's own.
        let code = unsafe { finish(compilation.handle) };
        check("compilation_finish", name, code)
            .map_err(|e| e.after(started.elapsed(), settings.timeout))?;
        let mut size = 0usize;
        let mut slots = |ids: &[OperandId], outputs: bool| {
            let slots = ids.iter().zip(0..).map(|(id, index)| {
                let bytes = model.operand(*id).and_then(|o| o.bytes());
                let bytes = bytes.filter(|b| *b > 0).ok_or_else(|| NnapiError::Model {
                    what: format!("the size of input or output {index} of '{name}'"),
                    found: "unknown or 0".into(),
                    expected: "a known one".into(),
                })?;
                let align = alignment(device, &compilation, index, outputs);
                let offset = size.next_multiple_of(align as usize);
                size = offset.saturating_add(bytes);
                Ok(Slot { offset, bytes })
            });
            slots.collect::<Result<Vec<Slot>, NnapiError>>()
        };
        let (inputs, outputs) = (slots(&model.inputs, false)?, slots(&model.outputs, true)?);
        let memory = SharedMemory::new(runtime, size, "inputs and outputs")?;
        let mut burst = Burst::none(runtime);
        if let Some(create) = runtime.functions.burst_create {
            // SAFETY: the compilation is finished, and outlives the burst.
            let code = unsafe { create(compilation.handle, &raw mut burst.handle) };
            // without it runs are only slower
            if let Err(e) = check("burst_create", name, code) {
                tracing::debug!("no burst: {e}");
            }
        }
        let mut executable = Executable {
            execution: None,
            burst: (!burst.handle.is_null()).then_some(burst),
            compilation,
            _model: built,
            memory,
            inputs,
            outputs,
            device: device.clone(),
            timeout: settings.timeout,
        };
        // what can't be prepared is told now rather than in the first run
        executable.execution = Some(executable.prepare()?);
        Ok(executable)
    }

    /// Memory of input `index`, in the order of the model's; empty if there is none.
    pub fn input_mut(&mut self, index: usize) -> &mut [u8] {
        let slot = self.inputs.get(index).copied();
        let slot = slot.map(|s| s.offset..s.offset + s.bytes);
        let bytes = self.memory.bytes_mut();
        slot.and_then(|s| bytes.get_mut(s)).unwrap_or_default()
    }

    /// Memory of output `index`, likewise.
    pub fn output(&self, index: usize) -> &[u8] {
        let slot = self.outputs.get(index);
        let slot = slot.map(|s| s.offset..s.offset + s.bytes);
        let bytes = self.memory.bytes();
        slot.and_then(|s| bytes.get(s)).unwrap_or_default()
    }

    /// Bytes of its inputs and outputs.
    pub fn bytes(&self) -> u64 {
        self.memory.bytes().len() as u64
    }

    /// Runs it on what its inputs hold. Tells the nanoseconds that it took in the driver, if the driver measures them.
    ///
    /// # Errors
    /// The driver's and the runtime's own.
    pub fn compute(&mut self) -> Result<Option<u64>, NnapiError> {
        let execution = match self.execution.take() {
            Some(prepared) => prepared,
            None => self.prepare()?,
        };
        let runtime = self.device.runtime();
        let burst = runtime.functions.execution_burst_compute;
        let started = Instant::now();
        let (call, code) = match (&self.burst, burst) {
            (Some(own), Some(burst)) => {
                // SAFETY: the execution is of the burst's compilation; all inputs and outputs are bound to memory that
                // outlives it, and nobody else runs in the burst.
                let code = unsafe { burst(execution.handle, own.handle) };
                ("execution_burst_compute", code)
            }
            _ => {
                let compute = function!(runtime, execution_compute)?;
                // SAFETY: as above.
                let code = unsafe { compute(execution.handle) };
                ("execution_compute", code)
            }
        };
        check(call, "a run", code).map_err(|e| e.after(started.elapsed(), self.timeout))?;
        let took = duration(runtime, &execution);
        // one that failed is made anew
        if reusable(runtime).is_some() {
            self.execution = Some(execution);
        }
        Ok(took)
    }

    /// A run with everything bound.
    fn prepare(&self) -> Result<Execution, NnapiError> {
        let runtime = self.device.runtime();
        let create = function!(runtime, execution_create)?;
        let mut execution = Execution::none(runtime);
        // SAFETY: the compilation is finished, and outlives the execution.
        let code = unsafe { create(self.compilation.handle, &raw mut execution.handle) };
        check("execution_create", "a run", code)?;
        if let Some(reuse) = reusable(runtime) {
            // SAFETY: the execution was not started yet.
            let code = unsafe { reuse(execution.handle, true) };
            check("execution_set_reusable", "a run", code)?;
        }
        if let Some(measure) = runtime.functions.execution_set_measure_timing {
            // SAFETY: as above, and its compilation is for one device that was named.
            let code = unsafe { measure(execution.handle, true) };
            check("execution_set_measure_timing", "a run", code)?;
        }
        if let (Some(limit), Some(set)) = (self.timeout, runtime.functions.execution_set_timeout) {
            // SAFETY: as above.
            let code = unsafe { set(execution.handle, limit) };
            check("execution_set_timeout", "a run", code)?;
        }
        let set_input = function!(runtime, execution_set_input_from_memory)?;
        let set_output = function!(runtime, execution_set_output_from_memory)?;
        let sets = [(set_input, &self.inputs), (set_output, &self.outputs)];
        for (set, slots) in sets {
            for (slot, index) in slots.iter().zip(0..) {
                // SAFETY: the slot is within the memory, which outlives the execution; null stands for the operand's
                // own type.
                let code = unsafe {
                    set(
                        execution.handle,
                        index,
                        std::ptr::null(),
                        self.memory.handle(),
                        slot.offset,
                        slot.bytes,
                    )
                };
                check("execution_set_input_or_output", "a run", code)?;
            }
        }
        Ok(execution)
    }
}

/// What a function of executions that takes a truth value is.
type SetFlag = unsafe extern "C" fn(*mut sys::Execution, bool) -> std::ffi::c_int;

/// The function by which an execution can be run again, where there is one.
fn reusable(runtime: &Runtime) -> Option<SetFlag> {
    runtime
        .functions
        .execution_set_reusable
        .filter(|_| runtime.level >= FeatureLevel::FL5)
}

/// Tells the runtime what the compilation is to be like.
fn set(
    device: &Device,
    name: &str,
    compilation: &Compilation,
    settings: &CompileSettings,
) -> Result<(), NnapiError> {
    let runtime = device.runtime();
    let handle = compilation.handle;
    if let Some(preference) = settings.preference {
        let set = function!(runtime, compilation_set_preference)?;
        // SAFETY: the compilation is not finished yet.
        let code = unsafe { set(handle, preference.code()) };
        check("compilation_set_preference", name, code)?;
    }
    // devices of older levels take these as hints that they may ignore, older runtimes have no such functions
    if let (Some(priority), Some(set)) = (
        settings.priority,
        runtime.functions.compilation_set_priority,
    ) {
        // SAFETY: as above.
        let code = unsafe { set(handle, priority.code()) };
        check("compilation_set_priority", name, code)?;
    }
    if let (Some(limit), Some(set)) = (settings.timeout, runtime.functions.compilation_set_timeout)
    {
        // SAFETY: as above, and it is for one device.
        let code = unsafe { set(handle, limit) };
        check("compilation_set_timeout", name, code)?;
    }
    if let (Some((folder, token)), Some(set)) =
        (&settings.cache, runtime.functions.compilation_set_caching)
    {
        let path = folder.clone().into_os_string().into_vec();
        let path = CString::new(path).map_err(|_| NnapiError::Model {
            what: "the folder for caches".into(),
            found: folder.display().to_string(),
            expected: "a path without NUL".into(),
        })?;
        // SAFETY: the path ends in 0, and the token has the bytes of one.
        let code = unsafe { set(handle, path.as_ptr(), token.as_ptr()) };
        // without it compiling is only slower
        if let Err(e) = check("compilation_set_caching", name, code) {
            tracing::debug!("nothing is cached: {e}");
        }
    }
    Ok(())
}

/// How the driver wants an input or output aligned.
fn alignment(device: &Device, compilation: &Compilation, index: u32, output: bool) -> u32 {
    let functions = &device.runtime().functions;
    let ask = match output {
        false => functions.compilation_get_preferred_memory_alignment_for_input,
        true => functions.compilation_get_preferred_memory_alignment_for_output,
    };
    let mut wanted = 0;
    if let Some(ask) = ask {
        // SAFETY: the compilation is finished; the function writes a number.
        let code = unsafe { ask(compilation.handle, index, &raw mut wanted) };
        if code != sys::NO_ERROR {
            wanted = 0;
        }
    }
    match wanted.is_power_of_two() && wanted <= MOST_ALIGN {
        true => wanted.max(ALIGN),
        false => ALIGN,
    }
}

/// Nanoseconds that a run took in the driver, if that is known.
fn duration(runtime: &Runtime, execution: &Execution) -> Option<u64> {
    let ask = runtime.functions.execution_get_duration?;
    let mut took = u64::MAX;
    // SAFETY: the run is complete; the function writes a number.
    let code = unsafe { ask(execution.handle, sys::DURATION_IN_DRIVER, &raw mut took) };
    (code == sys::NO_ERROR && took != u64::MAX).then_some(took)
}
