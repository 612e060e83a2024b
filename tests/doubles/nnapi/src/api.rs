//! The exported functions.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use crate::codes::*;
use crate::compilation::{Compilation, supports};
use crate::event::Event;
use crate::execution::{Burst, Execution, Place, failing};
use crate::live::{Object, free, get, give};
use crate::memory::{Memory, Role};
use crate::model::{Model, Type, told};
use crate::operand::element_bytes;
use crate::settings::{self, DeviceType, Fault, REFERENCE, Settings};

/// `ANeuralNetworksOperandType`.
#[repr(C)]
struct OperandType {
    ty: i32,
    dimension_count: u32,
    dimensions: *const u32,
    scale: f32,
    zero_point: i32,
}

/// `ANeuralNetworksSymmPerChannelQuantParams`.
#[repr(C)]
struct Channels {
    axis: u32,
    count: u32,
    scales: *const f32,
}

/// A device, which is there as long as the library.
struct Device {
    name: CString,
    about: settings::Device,
}

/// Memory that is described by its uses.
#[derive(Default)]
struct Description {
    roles: BTreeSet<Role>,
    /// The type and dimensions of what it is for.
    ty: Option<i32>,
    dims: Vec<u32>,
    finished: bool,
    /// What goes wrong with the device that it is for.
    fault: Option<Fault>,
}

struct Runtime {
    level: i64,
    devices: Vec<Device>,
}

/// What this copy of the library is.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let settings = own_settings().unwrap_or_else(|| Settings::new(1_000_008));
        let reference = settings::Device {
            name: REFERENCE.into(),
            ty: DeviceType::Cpu,
            level: settings.level,
            lacks: Vec::new(),
            fault: None,
        };
        let all = settings.devices.into_iter().chain([reference]);
        let devices = all.map(|about| Device {
            name: CString::new(about.name.clone()).unwrap_or_default(),
            about,
        });
        Runtime {
            level: settings.level,
            devices: devices.collect(),
        }
    })
}

/// What the file beside this copy says.
fn own_settings() -> Option<Settings> {
    let mut about = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let own: *const c_void = (runtime as fn() -> &'static Runtime) as *const c_void;
    // SAFETY: the address is of this library, and the structure has room for what is told.
    let path = unsafe {
        if libc::dladdr(own, about.as_mut_ptr()) == 0 {
            return None;
        }
        CStr::from_ptr(about.assume_init().dli_fname)
    };
    let text = std::fs::read_to_string(format!("{}.txt", path.to_str().ok()?)).ok()?;
    Settings::parse(&text)
}

/// The list that a pointer and a count stand for.
///
/// # Safety
/// They do, as long as the list is used.
unsafe fn list<'a, T>(pointer: *const T, count: u32) -> Result<&'a [T], c_int> {
    match (pointer.is_null(), count) {
        (true, 0) => Ok(&[]),
        (true, _) => Err(UNEXPECTED_NULL),
        // SAFETY: by the contract.
        (false, _) => Ok(unsafe { std::slice::from_raw_parts(pointer, count as usize) }),
    }
}

/// What an operand type says.
///
/// # Safety
/// The pointer is null or leads to an operand type, whose dimensions are there.
unsafe fn type_of(ty: *const OperandType) -> Result<Option<Type>, c_int> {
    // SAFETY: by the contract.
    unsafe {
        let Some(ty) = ty.as_ref() else {
            return Ok(None);
        };
        let dims = list(ty.dimensions, ty.dimension_count)?;
        Ok(Some(Type {
            ty: ty.ty,
            dims: dims.to_vec(),
            scale: ty.scale,
            zero_point: ty.zero_point,
        }))
    }
}

/// Writes `value` where `pointer` leads.
///
/// # Safety
/// It is null, or may be written.
unsafe fn put<T>(pointer: *mut T, value: T) -> Result<(), c_int> {
    if pointer.is_null() {
        return Err(UNEXPECTED_NULL);
    }
    // SAFETY: by the contract.
    unsafe { pointer.write(value) };
    Ok(())
}

/// What a function returns.
fn code(function: impl FnOnce() -> Result<(), c_int>) -> c_int {
    function().map_or_else(|code| code, |()| NO_ERROR)
}

/// The object at a pointer, which may not be null.
macro_rules! object {
    ("execution", $pointer:expr) => {{
        if crate::live::is_busy($pointer.addr()) {
            return told(BAD_STATE, "an execution that is under way was used");
        }
        get("execution", $pointer.cast_mut()).ok_or(UNEXPECTED_NULL)?
    }};
    ($kind:literal, $pointer:expr) => {
        get($kind, $pointer.cast_mut()).ok_or(UNEXPECTED_NULL)?
    };
}

/// Exported functions that give a code.
macro_rules! exports {
    ($($level:literal fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $body:block)+) => {
        const CODED: &[(i64, &str)] = &[$(($level, stringify!($name))),+];
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $ty),*) -> c_int {
                // SAFETY: the application keeps to the interface's contract as to what pointers lead to; objects are
                // looked up before they are touched.
                code(|| unsafe { $body })
            }
        )+
    };
}

/// Exported functions that free objects.
macro_rules! frees {
    ($($level:literal fn $name:ident($kind:literal $ty:ty))+) => {
        const FREEING: &[(i64, &str)] = &[$(($level, stringify!($name))),+];
        $(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name(object: *mut $ty) {
                // SAFETY: the application uses the object no more.
                unsafe { free($kind, object) };
            }
        )+
    };
}

frees! {
    27 fn ANeuralNetworksMemory_free("memory" Memory)
    27 fn ANeuralNetworksModel_free("model" Model)
    27 fn ANeuralNetworksCompilation_free("compilation" Compilation)
    27 fn ANeuralNetworksExecution_free("execution" Execution)
    27 fn ANeuralNetworksEvent_free("event" Event)
    29 fn ANeuralNetworksBurst_free("burst" Burst)
    30 fn ANeuralNetworksMemoryDesc_free("description" Description)
}

exports! {
    27 fn ANeuralNetworksMemory_createFromFd(
        size: usize,
        protection: c_int,
        fd: c_int,
        offset: usize,
        memory: *mut *mut Memory,
    ) {
        put(memory, std::ptr::null_mut())?;
        let made = Memory::of_fd(size, protection, fd, offset)?;
        put(memory, give("memory", made))
    }
    27 fn ANeuralNetworksModel_create(model: *mut *mut Model) {
        if model.is_null() {
            return Err(UNEXPECTED_NULL);
        }
        put(model, give("model", Model::new(runtime().level)))
    }
    27 fn ANeuralNetworksModel_finish(model: *mut Model) {
        object!("model", model.cast_const()).finish()
    }
    27 fn ANeuralNetworksModel_addOperand(model: *mut Model, ty: *const OperandType) {
        let model = object!("model", model.cast_const());
        model.add_operand(type_of(ty)?.ok_or(UNEXPECTED_NULL)?)
    }
    27 fn ANeuralNetworksModel_setOperandValue(
        model: *mut Model,
        index: i32,
        buffer: *const c_void,
        length: usize,
    ) {
        let model = object!("model", model.cast_const());
        match (buffer.is_null(), length) {
            (true, 0) => model.omit(index),
            (true, _) => Err(UNEXPECTED_NULL),
            (false, _) => {
                let pointer = std::ptr::with_exposed_provenance::<u8>(buffer.expose_provenance());
                model.set_value(index, std::slice::from_raw_parts(pointer, length))
            }
        }
    }
    27 fn ANeuralNetworksModel_setOperandValueFromMemory(
        model: *mut Model,
        index: i32,
        memory: *const Memory,
        offset: usize,
        length: usize,
    ) {
        let model = object!("model", model.cast_const());
        let memory = object!("memory", memory);
        model.set_value_from_memory(index, memory, offset, length)
    }
    27 fn ANeuralNetworksModel_addOperation(
        model: *mut Model,
        ty: i32,
        input_count: u32,
        inputs: *const u32,
        output_count: u32,
        outputs: *const u32,
    ) {
        let model = object!("model", model.cast_const());
        model.add_operation(ty, list(inputs, input_count)?, list(outputs, output_count)?)
    }
    27 fn ANeuralNetworksModel_identifyInputsAndOutputs(
        model: *mut Model,
        input_count: u32,
        inputs: *const u32,
        output_count: u32,
        outputs: *const u32,
    ) {
        let model = object!("model", model.cast_const());
        model.identify(list(inputs, input_count)?, list(outputs, output_count)?)
    }
    27 fn ANeuralNetworksCompilation_create(model: *mut Model, compilation: *mut *mut Compilation) {
        put(compilation, std::ptr::null_mut())?;
        let model = object!("model", model.cast_const());
        let all = runtime().devices.iter().map(|d| d.about.clone());
        let made = Compilation::new(model, all.collect(), false)?;
        put(compilation, give("compilation", made))
    }
    27 fn ANeuralNetworksCompilation_setPreference(compilation: *mut Compilation, preference: i32) {
        let compilation = object!("compilation", compilation.cast_const());
        compilation.changeable()?;
        match preference {
            0..=2 => Ok(()),
            _ => Err(BAD_DATA),
        }
    }
    27 fn ANeuralNetworksCompilation_finish(compilation: *mut Compilation) {
        object!("compilation", compilation.cast_const()).finish()
    }
    27 fn ANeuralNetworksExecution_create(
        compilation: *mut Compilation,
        execution: *mut *mut Execution,
    ) {
        put(execution, std::ptr::null_mut())?;
        let own = object!("compilation", compilation.cast_const());
        let made = Execution::new(&own.inner, compilation.addr())?;
        put(execution, give("execution", made))
    }
    27 fn ANeuralNetworksExecution_setInput(
        execution: *mut Execution,
        index: i32,
        ty: *const OperandType,
        buffer: *const c_void,
        length: usize,
    ) {
        let execution = object!("execution", execution.cast_const());
        execution.bind(false, index, type_of(ty)?, place(buffer, length)?)
    }
    27 fn ANeuralNetworksExecution_setInputFromMemory(
        execution: *mut Execution,
        index: i32,
        ty: *const OperandType,
        memory: *const Memory,
        offset: usize,
        length: usize,
    ) {
        let execution = object!("execution", execution.cast_const());
        let memory = object!("memory", memory).inner.clone();
        execution.bind(false, index, type_of(ty)?, Place::Memory(memory, offset, length))
    }
    27 fn ANeuralNetworksExecution_setOutput(
        execution: *mut Execution,
        index: i32,
        ty: *const OperandType,
        buffer: *mut c_void,
        length: usize,
    ) {
        let execution = object!("execution", execution.cast_const());
        execution.bind(true, index, type_of(ty)?, place(buffer, length)?)
    }
    27 fn ANeuralNetworksExecution_setOutputFromMemory(
        execution: *mut Execution,
        index: i32,
        ty: *const OperandType,
        memory: *const Memory,
        offset: usize,
        length: usize,
    ) {
        let execution = object!("execution", execution.cast_const());
        let memory = object!("memory", memory).inner.clone();
        execution.bind(true, index, type_of(ty)?, Place::Memory(memory, offset, length))
    }
    27 fn ANeuralNetworksExecution_startCompute(execution: *mut Execution, event: *mut *mut Event) {
        put(event, std::ptr::null_mut())?;
        let result = object!("execution", execution.cast_const()).compute();
        let result = result.map_or_else(|code| code, |()| NO_ERROR);
        put(event, give("event", Event::ended(result)))
    }
    27 fn ANeuralNetworksEvent_wait(event: *mut Event) {
        object!("event", event.cast_const()).wait()
    }
    28 fn ANeuralNetworksModel_relaxComputationFloat32toFloat16(model: *mut Model, _allow: bool) {
        match object!("model", model.cast_const()).finished {
            true => Err(BAD_STATE),
            false => Ok(()),
        }
    }
    29 fn ANeuralNetworks_getDeviceCount(count: *mut u32) {
        put(count, runtime().devices.len() as u32)
    }
    29 fn ANeuralNetworks_getDevice(index: u32, device: *mut *const Device) {
        let found = runtime().devices.get(index as usize).ok_or(BAD_DATA)?;
        put(device, found)
    }
    29 fn ANeuralNetworksDevice_getName(device: *const Device, name: *mut *const c_char) {
        put(name, device.as_ref().ok_or(UNEXPECTED_NULL)?.name.as_ptr())
    }
    29 fn ANeuralNetworksDevice_getVersion(device: *const Device, version: *mut *const c_char) {
        device.as_ref().ok_or(UNEXPECTED_NULL)?;
        put(version, c"double-1".as_ptr())
    }
    29 fn ANeuralNetworksDevice_getType(device: *const Device, ty: *mut i32) {
        put(ty, device.as_ref().ok_or(UNEXPECTED_NULL)?.about.ty as i32)
    }
    29 fn ANeuralNetworksDevice_getFeatureLevel(device: *const Device, level: *mut i64) {
        put(level, device.as_ref().ok_or(UNEXPECTED_NULL)?.about.level)
    }
    29 fn ANeuralNetworksModel_getSupportedOperationsForDevices(
        model: *const Model,
        devices: *const *const Device,
        count: u32,
        supported: *mut bool,
    ) {
        let model = object!("model", model);
        let devices = named(devices, count)?;
        if supported.is_null() {
            return Err(UNEXPECTED_NULL);
        }
        if !model.finished {
            return told(BAD_STATE, "support for a model that is not finished");
        }
        for (i, operation) in model.operations.iter().enumerate() {
            let runs = |d: &settings::Device| supports(d, operation.code, operation.level);
            supported.add(i).write(devices.iter().any(runs));
        }
        Ok(())
    }
    29 fn ANeuralNetworksCompilation_createForDevices(
        model: *mut Model,
        devices: *const *const Device,
        count: u32,
        compilation: *mut *mut Compilation,
    ) {
        put(compilation, std::ptr::null_mut())?;
        let model = object!("model", model.cast_const());
        let made = Compilation::new(model, named(devices, count)?, true)?;
        put(compilation, give("compilation", made))
    }
    29 fn ANeuralNetworksCompilation_setCaching(
        compilation: *mut Compilation,
        folder: *const c_char,
        token: *const u8,
    ) {
        let compilation = object!("compilation", compilation.cast_const());
        if folder.is_null() || token.is_null() {
            return Err(UNEXPECTED_NULL);
        }
        let folder = CStr::from_ptr(folder).to_string_lossy().into_owned();
        compilation.set_caching(folder.as_ref(), std::slice::from_raw_parts(token, 32))
    }
    29 fn ANeuralNetworksExecution_compute(execution: *mut Execution) {
        object!("execution", execution.cast_const()).compute()
    }
    29 fn ANeuralNetworksExecution_getOutputOperandRank(
        execution: *mut Execution,
        index: i32,
        rank: *mut u32,
    ) {
        let execution = object!("execution", execution.cast_const());
        put(rank, execution.result(index)?.len() as u32)
    }
    29 fn ANeuralNetworksExecution_getOutputOperandDimensions(
        execution: *mut Execution,
        index: i32,
        dimensions: *mut u32,
    ) {
        let execution = object!("execution", execution.cast_const());
        if dimensions.is_null() {
            return Err(UNEXPECTED_NULL);
        }
        for (i, d) in execution.result(index)?.iter().enumerate() {
            dimensions.add(i).write(*d);
        }
        Ok(())
    }
    29 fn ANeuralNetworksExecution_setMeasureTiming(execution: *mut Execution, measure: bool) {
        let execution = object!("execution", execution.cast_const());
        execution.preparing()?;
        execution.has_one_device()?;
        execution.timed = measure;
        Ok(())
    }
    29 fn ANeuralNetworksExecution_getDuration(
        execution: *const Execution,
        code: i32,
        duration: *mut u64,
    ) {
        let execution = object!("execution", execution);
        match code {
            0..=3 => put(duration, execution.duration()?),
            _ => Err(BAD_DATA),
        }
    }
    29 fn ANeuralNetworksBurst_create(compilation: *mut Compilation, burst: *mut *mut Burst) {
        put(burst, std::ptr::null_mut())?;
        let own = object!("compilation", compilation.cast_const());
        if !own.inner.finished {
            return told(BAD_STATE, "a burst of a compilation that is not finished");
        }
        let made = Burst {
            compilation: own.inner.clone(),
            busy: AtomicBool::new(false),
        };
        put(burst, give("burst", made))
    }
    29 fn ANeuralNetworksExecution_burstCompute(execution: *mut Execution, burst: *mut Burst) {
        let execution = object!("execution", execution.cast_const());
        object!("burst", burst.cast_const()).compute(execution)
    }
    29 fn ANeuralNetworksMemory_createFromAHardwareBuffer(
        buffer: *const c_void,
        memory: *mut *mut Memory,
    ) {
        put(memory, std::ptr::null_mut())?;
        put(memory, give("memory", crate::hardware::memory(buffer)?))
    }
    29 fn ANeuralNetworksModel_setOperandSymmPerChannelQuantParams(
        model: *mut Model,
        index: i32,
        channels: *const Channels,
    ) {
        let model = object!("model", model.cast_const());
        let channels = channels.as_ref().ok_or(UNEXPECTED_NULL)?;
        model.set_channels(index, channels.axis, list(channels.scales, channels.count)?)
    }
    30 fn ANeuralNetworksMemoryDesc_create(description: *mut *mut Description) {
        if description.is_null() {
            return Err(UNEXPECTED_NULL);
        }
        put(description, give("description", Description::default()))
    }
    30 fn ANeuralNetworksMemoryDesc_addInputRole(
        description: *mut Description,
        compilation: *const Compilation,
        index: u32,
        frequency: f32,
    ) {
        let own = object!("compilation", compilation);
        let list = own.inner.model.inputs.clone();
        let description = object!("description", description.cast_const());
        description.add(own, (compilation.addr(), false, index), &list, frequency)
    }
    30 fn ANeuralNetworksMemoryDesc_addOutputRole(
        description: *mut Description,
        compilation: *const Compilation,
        index: u32,
        frequency: f32,
    ) {
        let own = object!("compilation", compilation);
        let list = own.inner.model.outputs.clone();
        let description = object!("description", description.cast_const());
        description.add(own, (compilation.addr(), true, index), &list, frequency)
    }
    30 fn ANeuralNetworksMemoryDesc_setDimensions(
        description: *mut Description,
        rank: u32,
        dimensions: *const u32,
    ) {
        let description = object!("description", description.cast_const());
        let dims = list(dimensions, rank)?;
        if description.finished {
            return Err(BAD_STATE);
        }
        description.narrow(dims)
    }
    30 fn ANeuralNetworksMemoryDesc_finish(description: *mut Description) {
        let description = object!("description", description.cast_const());
        match (description.finished, description.roles.is_empty()) {
            (true, _) => Err(BAD_STATE),
            (false, true) => told(BAD_DATA, "a description without roles"),
            (false, false) => {
                description.finished = true;
                Ok(())
            }
        }
    }
    30 fn ANeuralNetworksMemory_createFromDesc(
        description: *const Description,
        memory: *mut *mut Memory,
    ) {
        put(memory, std::ptr::null_mut())?;
        let description = object!("description", description);
        if !description.finished {
            return Err(BAD_STATE);
        }
        let fault = description.fault.as_ref();
        if let Some(code) = fault.and_then(|f| failing(f, "createFromDesc")) {
            return told(code, "memory of a description");
        }
        let elements = description.ty.and_then(element_bytes).unwrap_or_default();
        let count = description.dims.iter().map(|d| *d as usize).product::<usize>();
        if description.dims.is_empty() || count == 0 {
            return told(OP_FAILED, "memory of open dimensions");
        }
        let mut made = Memory::of_roles(elements * count, description.roles.clone());
        made.fault = description.fault.clone();
        put(memory, give("memory", made))
    }
    30 fn ANeuralNetworksMemory_copy(from: *const Memory, to: *const Memory) {
        let (from, to) = (object!("memory", from), object!("memory", to));
        let fault = from.fault.as_ref().or(to.fault.as_ref());
        let fails = fault.and_then(|f| failing(f, "copy"));
        let (from, to) = (from.inner.clone(), to.inner.clone());
        let copied = (|| {
            if from.size != to.size {
                return told(BAD_DATA, &format!("{} bytes to {}", from.size, to.size));
            }
            if let Some(code) = fails {
                return told(code, "a copy");
            }
            from.check_written(BAD_DATA)?;
            to.write(0, &from.read(0, from.size))
        })();
        if copied.is_err() {
            to.spoil();
        }
        copied
    }
    30 fn ANeuralNetworksDevice_wait(device: *const Device) {
        device.as_ref().map(|_| ()).ok_or(UNEXPECTED_NULL)
    }
    30 fn ANeuralNetworksCompilation_setPriority(compilation: *mut Compilation, priority: c_int) {
        let compilation = object!("compilation", compilation.cast_const());
        compilation.changeable()?;
        match priority {
            90 | 100 | 110 => Ok(()),
            _ => Err(BAD_DATA),
        }
    }
    30 fn ANeuralNetworksCompilation_setTimeout(compilation: *mut Compilation, nanoseconds: u64) {
        object!("compilation", compilation.cast_const()).set_timeout(nanoseconds)
    }
    30 fn ANeuralNetworksExecution_setTimeout(execution: *mut Execution, nanoseconds: u64) {
        object!("execution", execution.cast_const()).set_timeout(nanoseconds)
    }
    30 fn ANeuralNetworksExecution_setLoopTimeout(execution: *mut Execution, _nanoseconds: u64) {
        object!("execution", execution.cast_const()).preparing()
    }
    30 fn ANeuralNetworksEvent_createFromSyncFenceFd(fence: c_int, event: *mut *mut Event) {
        put(event, std::ptr::null_mut())?;
        put(event, give("event", Event::of_fence(fence)?))
    }
    30 fn ANeuralNetworksEvent_getSyncFenceFd(event: *const Event, fence: *mut c_int) {
        put(fence, -1)?;
        match object!("event", event).fence() {
            Some(own) => put(fence, own),
            None => Err(BAD_DATA),
        }
    }
    30 fn ANeuralNetworksExecution_startComputeWithDependencies(
        execution: *mut Execution,
        dependencies: *const *const Event,
        count: u32,
        nanoseconds: u64,
        event: *mut *mut Event,
    ) {
        put(event, std::ptr::null_mut())?;
        let execution = object!("execution", execution.cast_const());
        let mut after = Vec::new();
        for dependency in list(dependencies, count)? {
            after.push(&*object!("event", *dependency));
        }
        let started = Event::start(execution, &after, nanoseconds)?;
        put(event, give("event", started))
    }
    31 fn ANeuralNetworksExecution_setReusable(execution: *mut Execution, reusable: bool) {
        let execution = object!("execution", execution.cast_const());
        execution.preparing()?;
        execution.reusable = reusable;
        Ok(())
    }
    31 fn ANeuralNetworksExecution_enableInputAndOutputPadding(
        execution: *mut Execution,
        enable: bool,
    ) {
        let execution = object!("execution", execution.cast_const());
        execution.preparing()?;
        if execution.has_bound() {
            return told(BAD_STATE, "padding is allowed after something was bound");
        }
        execution.padded = enable;
        Ok(())
    }
    31 fn ANeuralNetworksCompilation_getPreferredMemoryAlignmentForInput(
        compilation: *const Compilation,
        index: u32,
        alignment: *mut u32,
    ) {
        let own = object!("compilation", compilation);
        preferred(own, index, own.inner.model.inputs.len(), alignment)
    }
    31 fn ANeuralNetworksCompilation_getPreferredMemoryPaddingForInput(
        compilation: *const Compilation,
        index: u32,
        padding: *mut u32,
    ) {
        let own = object!("compilation", compilation);
        preferred(own, index, own.inner.model.inputs.len(), padding)
    }
    31 fn ANeuralNetworksCompilation_getPreferredMemoryAlignmentForOutput(
        compilation: *const Compilation,
        index: u32,
        alignment: *mut u32,
    ) {
        let own = object!("compilation", compilation);
        preferred(own, index, own.inner.model.outputs.len(), alignment)
    }
    31 fn ANeuralNetworksCompilation_getPreferredMemoryPaddingForOutput(
        compilation: *const Compilation,
        index: u32,
        padding: *mut u32,
    ) {
        let own = object!("compilation", compilation);
        preferred(own, index, own.inner.model.outputs.len(), padding)
    }
}

/// `ANeuralNetworks_getRuntimeFeatureLevel`.
#[unsafe(no_mangle)]
extern "C" fn ANeuralNetworks_getRuntimeFeatureLevel() -> i64 {
    runtime().level
}

/// `ANeuralNetworks_getDefaultLoopTimeout`: two seconds.
#[unsafe(no_mangle)]
extern "C" fn ANeuralNetworks_getDefaultLoopTimeout() -> u64 {
    2_000_000_000
}

/// `ANeuralNetworks_getMaximumLoopTimeout`: fifteen seconds.
#[unsafe(no_mangle)]
extern "C" fn ANeuralNetworks_getMaximumLoopTimeout() -> u64 {
    15_000_000_000
}

/// The other functions, with the API levels that brought them.
const OTHERS: &[(i64, &str)] = &[
    (31, "ANeuralNetworks_getRuntimeFeatureLevel"),
    (30, "ANeuralNetworks_getDefaultLoopTimeout"),
    (30, "ANeuralNetworks_getMaximumLoopTimeout"),
];

/// Every exported function, with the API level that brought it.
pub fn symbols() -> impl Iterator<Item = (i64, &'static str)> {
    let all = CODED.iter().chain(FREEING).chain(OTHERS);
    all.chain(crate::hardware::SYMBOLS).copied()
}

/// Memory of the application.
fn place(buffer: *const c_void, length: usize) -> Result<Place, c_int> {
    match (buffer.is_null(), length) {
        (true, 0) => Ok(Place::Omitted),
        (true, _) => Err(UNEXPECTED_NULL),
        (false, _) => Ok(Place::Pointer(buffer.expose_provenance(), length)),
    }
}

/// Devices that the application names, each once.
///
/// # Safety
/// The list is there.
unsafe fn named(devices: *const *const Device, count: u32) -> Result<Vec<settings::Device>, c_int> {
    // SAFETY: by the contract.
    let devices = unsafe { list(devices, count) }?;
    if devices.is_empty() {
        return told(BAD_DATA, "no devices");
    }
    let mut found: Vec<settings::Device> = Vec::new();
    for device in devices {
        let known = runtime().devices.iter().find(|d| std::ptr::eq(*d, *device));
        let about = known.ok_or(UNEXPECTED_NULL)?.about.clone();
        if found.contains(&about) {
            return told(BAD_DATA, "a device was named twice");
        }
        found.push(about);
    }
    Ok(found)
}

impl Object for Description {}

impl Description {
    fn add(
        &mut self,
        compilation: &Compilation,
        role: Role,
        list: &[u32],
        frequency: f32,
    ) -> Result<(), c_int> {
        if self.finished || !compilation.inner.finished {
            return Err(BAD_STATE);
        }
        let number = *list.get(role.2 as usize).ok_or(BAD_DATA)?;
        let operand = &compilation.inner.model.operands[number as usize];
        let same = self.ty.is_none_or(|ty| ty == operand.ty);
        let frequent = frequency > 0.0 && frequency <= 1.0;
        if !same || !frequent || !self.roles.insert(role) {
            return told(BAD_DATA, "a role that can't be");
        }
        self.ty = Some(operand.ty);
        let fault = compilation.inner.fault().cloned();
        self.fault = self.fault.take().or(fault);
        let dims = operand.dims.clone();
        self.narrow(&dims)
    }

    /// Takes dimensions in that must go with those known.
    fn narrow(&mut self, dims: &[u32]) -> Result<(), c_int> {
        if self.dims.is_empty() {
            self.dims = dims.to_vec();
            return Ok(());
        }
        let goes = |(a, b): (&u32, &u32)| *a == 0 || *b == 0 || a == b;
        if !dims.is_empty()
            && (dims.len() != self.dims.len() || !self.dims.iter().zip(dims).all(goes))
        {
            return told(BAD_DATA, "dimensions that do not go together");
        }
        for (own, more) in self.dims.iter_mut().zip(dims) {
            *own = (*own).max(*more);
        }
        Ok(())
    }
}

/// Tells the preferred alignment or padding of a port, which is that of a cache line.
///
/// # Safety
/// The number may be written.
unsafe fn preferred(
    compilation: &Compilation,
    index: u32,
    count: usize,
    number: *mut u32,
) -> Result<(), c_int> {
    if !compilation.inner.finished {
        return Err(BAD_STATE);
    }
    if index as usize >= count {
        return Err(BAD_DATA);
    }
    // SAFETY: by the contract.
    unsafe { put(number, 64) }
}
