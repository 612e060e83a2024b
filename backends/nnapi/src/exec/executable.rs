//! Compiled models that can be run.

use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::objects::{Burst, Compilation, Execution, Prepared};
use super::{
    BuiltModel, Device, Fence, MemoryHandle, NnapiError, Role, SharedMemory, check, function,
};
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

/// Prepared runs that are kept, each for other memory: those of sessions that take turns.
const MOST_PREPARED: usize = 16;

/// A model that one device compiled, with memory for its inputs and outputs. The device runs it or nobody: the runtime
/// is not asked to find another.
#[derive(Debug)]
pub struct Executable {
    /// Runs that can be made again, the one that was used last at the end.
    prepared: Vec<Bound>,
    burst: Option<Burst>,
    compilation: Arc<Compilation>,
    memory: SharedMemory,
    inputs: Vec<Slot>,
    outputs: Vec<Slot>,
    device: Device,
    timeout: Option<u64>,
}

/// A prepared run, and the memory that is bound to it: an address an input, then an output, 0 for its own.
#[derive(Debug)]
struct Bound {
    key: Vec<usize>,
    run: Arc<Prepared>,
}

/// What an input or output is bound to.
#[derive(Clone, Debug, Default)]
pub enum Region {
    /// The executable's own memory.
    #[default]
    Own,
    /// The first bytes of somebody's memory.
    Start(Arc<MemoryHandle>),
    /// Memory of the device's own, all of it.
    Whole(Arc<MemoryHandle>),
}

impl Region {
    fn memory(&self) -> Option<&Arc<MemoryHandle>> {
        match self {
            Region::Own => None,
            Region::Start(memory) | Region::Whole(memory) => Some(memory),
        }
    }

    fn key(&self) -> usize {
        self.memory().map_or(0, |m| m.as_ptr().addr())
    }
}

/// What inputs and outputs are bound to, in the order of the model's; those not named have the executable's own memory.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// The inputs.
    pub inputs: Vec<Region>,
    /// The outputs.
    pub outputs: Vec<Region>,
}

impl Bindings {
    fn keys(&self, (inputs, outputs): (usize, usize)) -> impl Iterator<Item = usize> {
        keys(&self.inputs, inputs).chain(keys(&self.outputs, outputs))
    }
}

fn keys(regions: &[Region], count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(|i| regions.get(i).map_or(0, Region::key))
}

/// A run that was started, and whose end its fence tells.
#[derive(Debug)]
pub struct Started {
    fence: Arc<Fence>,
    execution: Option<Execution>,
    run: Arc<Prepared>,
    began: Instant,
    timeout: Option<u64>,
}

/// Where an input or output is in the memory.
#[derive(Clone, Copy, Debug)]
struct Slot {
    offset: usize,
    bytes: usize,
}

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
        let model_handle = built.handle;
        let mut compilation = Compilation {
            runtime: runtime.clone(),
            handle: std::ptr::null_mut(),
            _model: built,
        };
        let devices = [device.handle()];
        // SAFETY: the model is finished and held alive; the device is the runtime's own.
        let code = unsafe {
            create(
                model_handle,
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
        let compilation = Arc::new(compilation);
        let mut burst = Burst {
            runtime: runtime.clone(),
            handle: std::ptr::null_mut(),
            _compilation: compilation.clone(),
        };
        if let Some(create) = runtime.functions.burst_create {
            // SAFETY: the compilation is finished, and outlives the burst.
            let code = unsafe { create(compilation.handle, &raw mut burst.handle) };
            // without it runs are only slower
            if let Err(e) = check("burst_create", name, code) {
                tracing::debug!("no burst: {e}");
            }
        }
        let mut executable = Executable {
            prepared: Vec::new(),
            burst: (!burst.handle.is_null()).then_some(burst),
            compilation,
            memory,
            inputs,
            outputs,
            device: device.clone(),
            timeout: settings.timeout,
        };
        // what can't be prepared is told now rather than in the first run
        let (run, execution) = executable.prepared(&Bindings::default())?;
        if reusable(runtime).is_some() {
            run.put(execution);
        }
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

    /// The use that input or output `index` makes of memory.
    pub fn role(&self, output: bool, index: u32) -> Role {
        Role {
            compilation: self.compilation.clone(),
            output,
            index,
        }
    }

    /// The bytes of input or output `index`.
    pub fn slot_bytes(&self, output: bool, index: usize) -> usize {
        let slots = match output {
            true => &self.outputs,
            false => &self.inputs,
        };
        slots.get(index).map_or(0, |s| s.bytes)
    }

    /// Runs it on what its inputs hold. Tells the nanoseconds that it took in the driver, if the driver measures them.
    ///
    /// # Errors
    /// The driver's and the runtime's own.
    pub fn compute(&mut self) -> Result<Option<u64>, NnapiError> {
        self.compute_on(&Bindings::default())
    }

    /// As [`Executable::compute`], with inputs and outputs bound to what `bindings` say.
    ///
    /// # Errors
    /// As [`Executable::compute`]; memory that the runtime does not bind.
    pub fn compute_on(&mut self, bindings: &Bindings) -> Result<Option<u64>, NnapiError> {
        let (run, execution) = self.prepared(bindings)?;
        let runtime = self.device.runtime();
        let burst = runtime.functions.execution_burst_compute;
        let began = Instant::now();
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
        check(call, "a run", code).map_err(|e| e.after(began.elapsed(), self.timeout))?;
        let took = duration(&execution, sys::DURATION_IN_DRIVER);
        // one that failed is made anew
        if reusable(runtime).is_some() {
            run.put(execution);
        }
        Ok(took)
    }

    /// Starts a run that begins when all of `after` have come, and whose end a fence tells.
    ///
    /// # Errors
    /// A runtime without fences; what the driver or the runtime refuses, or can tell at once.
    pub fn start(
        &mut self,
        bindings: &Bindings,
        after: &[Arc<Fence>],
    ) -> Result<Started, NnapiError> {
        let (run, execution) = self.prepared(bindings)?;
        let runtime = self.device.runtime();
        let start = function!(runtime, execution_start_compute_with_dependencies)?;
        let events: Vec<*const sys::Event> = after.iter().map(|f| f.handle.cast_const()).collect();
        let mut fence = Fence::none(runtime);
        let began = Instant::now();
        // SAFETY: the events are there during the call; all inputs and outputs are bound to memory that the execution
        // holds, which is kept until the fence has come. The time that a run may take is set already.
        let code = unsafe {
            start(
                execution.handle,
                events.as_ptr(),
                events.len() as u32,
                0,
                &raw mut fence.handle,
            )
        };
        let call = "execution_start_compute_with_dependencies";
        check(call, "a run", code).map_err(|e| e.after(began.elapsed(), self.timeout))?;
        Ok(Started {
            fence: Arc::new(fence),
            execution: Some(execution),
            run,
            began,
            timeout: self.timeout,
        })
    }

    /// A run with everything bound as `bindings` say, out of its place, and the place.
    fn prepared(&mut self, bindings: &Bindings) -> Result<(Arc<Prepared>, Execution), NnapiError> {
        let counts = (self.inputs.len(), self.outputs.len());
        let known = self.prepared.iter();
        let known = known
            .rev()
            .find(|b| b.key.iter().copied().eq(bindings.keys(counts)));
        if let Some((run, execution)) = known.and_then(|b| Some((b.run.clone(), b.run.take()?))) {
            return Ok((run, execution));
        }
        let execution = self.prepare(bindings)?;
        let run = Arc::new(Prepared::default());
        if reusable(self.device.runtime()).is_some() {
            self.prepared.retain(|b| !b.run.is_empty());
            if self.prepared.len() >= MOST_PREPARED {
                self.prepared.remove(0);
            }
            let regions = bindings.inputs.iter().chain(&bindings.outputs);
            for memory in regions.filter_map(Region::memory) {
                memory.used_by(&run);
            }
            self.prepared.push(Bound {
                key: bindings.keys(counts).collect(),
                run: run.clone(),
            });
        }
        Ok((run, execution))
    }

    /// A run with everything bound.
    fn prepare(&self, bindings: &Bindings) -> Result<Execution, NnapiError> {
        let runtime = self.device.runtime();
        let create = function!(runtime, execution_create)?;
        let regions = bindings.inputs.iter().chain(&bindings.outputs);
        let mut memories: Vec<_> = regions.filter_map(Region::memory).cloned().collect();
        memories.push(self.memory.handle().clone());
        let mut execution = Execution {
            runtime: runtime.clone(),
            handle: std::ptr::null_mut(),
            _compilation: self.compilation.clone(),
            _memories: memories,
        };
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
        let sets = [
            (set_input, &self.inputs, &bindings.inputs),
            (set_output, &self.outputs, &bindings.outputs),
        ];
        for (set, slots, regions) in sets {
            for (slot, index) in slots.iter().zip(0..) {
                let (memory, offset, bytes) = match regions.get(index) {
                    None | Some(Region::Own) => (self.memory.handle(), slot.offset, slot.bytes),
                    Some(Region::Start(memory)) => (memory, 0, slot.bytes),
                    // by the interface both are 0 of memory that a description made
                    Some(Region::Whole(memory)) => (memory, 0, 0),
                };
                // SAFETY: the slot is within the memory, which the execution holds; null stands for the operand's own
                // type.
                let code = unsafe {
                    set(
                        execution.handle,
                        index as i32,
                        std::ptr::null(),
                        memory.as_ptr(),
                        offset,
                        bytes,
                    )
                };
                check("execution_set_input_or_output", "a run", code)?;
            }
        }
        Ok(execution)
    }
}

impl Started {
    /// What tells its end.
    pub fn fence(&self) -> &Arc<Fence> {
        &self.fence
    }

    /// Waits for its end. Tells the nanoseconds that it took in the driver once it could begin, if the driver measures
    /// them.
    ///
    /// # Errors
    /// What it failed with.
    pub fn finish(mut self) -> Result<Option<u64>, NnapiError> {
        let waited = self.fence.wait();
        // by now it may be freed, or run again
        let Some(execution) = self.execution.take() else {
            return Ok(None);
        };
        waited.map_err(|e| e.after(self.began.elapsed(), self.timeout))?;
        let took = duration(&execution, sys::FENCED_DURATION_IN_DRIVER);
        if reusable(&execution.runtime).is_some() {
            self.run.put(execution);
        }
        Ok(took)
    }
}

impl Drop for Started {
    /// A run must have ended before it is freed.
    fn drop(&mut self) {
        if self.execution.is_some()
            && let Err(e) = self.fence.wait()
        {
            tracing::debug!("a run that nobody waited for: {e}");
        }
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

/// Nanoseconds that a run took by what `code` counts, if that is known.
fn duration(execution: &Execution, code: i32) -> Option<u64> {
    let ask = execution.runtime.functions.execution_get_duration?;
    let mut took = u64::MAX;
    // SAFETY: the run is complete; the function writes a number.
    let result = unsafe { ask(execution.handle, code, &raw mut took) };
    (result == sys::NO_ERROR && took != u64::MAX).then_some(took)
}
