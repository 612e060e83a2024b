//! What devices say of themselves, and what they are asked.

use core::ffi::c_void;

use crate::{
    anynpu_device_kind, anynpu_dtype, anynpu_graph, anynpu_memory_kind, anynpu_point, anynpu_power,
    anynpu_reason, anynpu_state_support, anynpu_support, anynpu_text,
};

/// An opened device, as the plugin knows it.
pub type anynpu_device = c_void;
/// Compiled entries, as the plugin knows them.
pub type anynpu_module = c_void;
/// Memory of the plugin's own, as the plugin knows it.
pub type anynpu_buffer = c_void;

/// Operations per second of products with weights of one type. A multiply-add is two.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_rate {
    /// Type of the weights.
    pub dtype: anynpu_dtype,
    /// Not used.
    pub reserved: u32,
    /// Operations per second.
    pub operations_per_second: f64,
}

/// What a device says of itself.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_device_info {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// What it is.
    pub kind: anynpu_device_kind,
    /// Its name: lower-case letters, digits, `-` and `_`, unique among the driver's devices.
    pub name: anynpu_text,
    /// For people: product, cores, what is used.
    pub description: anynpu_text,
    /// The op set that it was written for.
    pub op_set: u32,
    /// How it keeps states.
    pub states: anynpu_state_support,
    /// `ANYNPU_FEATURE_…`, added up.
    pub features: u64,
    /// Plain types that it computes in, preferred first.
    pub compute: *const anynpu_dtype,
    /// How many.
    pub compute_count: usize,
    /// Types that it reads weights in.
    pub weights: *const anynpu_dtype,
    /// How many.
    pub weight_count: usize,
    /// Most bytes that its modules and buffers may take; 0 if that is not bounded.
    pub memory_limit: u64,
    /// Without ANYNPU_FEATURE_DYNAMIC_SHAPES: the numbers of tokens that a step may have, ascending; none for any.
    pub tokens: *const u32,
    /// How many.
    pub token_count: usize,
    /// Likewise the rows that a state may have.
    pub capacities: *const u32,
    /// How many.
    pub capacity_count: usize,
    /// A hint for plans until the device is measured: its speed, the usual type of weights first. None if unknown.
    pub rates: *const anynpu_rate,
    /// How many.
    pub rate_count: usize,
    /// Bytes from one to the next.
    pub rate_stride: usize,
    /// Hint: bytes read from memory per second.
    pub bytes_per_second: f64,
    /// Hint: microseconds of starting a submission.
    pub dispatch_us: f64,
    /// Hint: watts while it works; 0 if unknown.
    pub busy_watts: f64,
}

/// An option by name.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_option {
    /// Its name.
    pub name: anynpu_text,
    /// What it is set to.
    pub value: anynpu_text,
}

/// How to open a device.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_open_request {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// Threads, where the device uses the host's; 0 for its own choice.
    pub threads: u32,
    /// The device's name, as it was told by `enumerate`.
    pub name: anynpu_text,
    /// If not empty, the device is not here: what is compiled for it is for the target of this name, is written to a
    /// file and run there. A plugin that can't do that answers ANYNPU_UNSUPPORTED.
    pub target: anynpu_text,
    /// What it is asked to be.
    pub power: anynpu_power,
    /// Not used.
    pub reserved: u32,
    /// Vendor options.
    pub options: *const anynpu_option,
    /// How many.
    pub option_count: usize,
    /// Bytes from one to the next.
    pub option_stride: usize,
}

/// What a symbol may be in an entry.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_extent {
    /// 1 if it is exactly `limit`, 0 if it is anything up to it.
    pub exact: u32,
    /// The number.
    pub limit: u32,
}

/// Nodes to compile, with the sizes that they will be given.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_entry {
    /// Its name, unique in the module.
    pub name: anynpu_text,
    /// The nodes, with all that crosses their boundary. Entries of the same nodes have the same tables.
    pub graph: *const anynpu_graph,
    /// Extents of the symbols, by their numbers.
    pub extents: *const anynpu_extent,
    /// How many; a symbol past the last is exactly 0.
    pub extent_count: usize,
}

/// What to compile, and how.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_compile_request {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// Not used.
    pub reserved: u32,
    /// Entries that share one set of weights.
    pub entries: *const anynpu_entry,
    /// How many.
    pub entry_count: usize,
    /// Bytes from one to the next.
    pub entry_stride: usize,
    /// Vendor options.
    pub options: *const anynpu_option,
    /// How many.
    pub option_count: usize,
    /// Bytes from one to the next.
    pub option_stride: usize,
    /// Given to the functions below.
    pub context: *mut c_void,
    /// Tells how far the work has come, in any unit. 0 asks to stop, with ANYNPU_CANCELLED. May be null.
    pub progress: Option<unsafe extern "C" fn(context: *mut c_void, done: u64, total: u64) -> u32>,
    /// Tells of a node that it is refused: the numbers of its entry and of it there. May be null.
    pub refuse: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            entry: usize,
            node: usize,
            reason: anynpu_reason,
            detail: anynpu_text,
        ),
    >,
}

/// Memory that compiling will take, in bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct anynpu_memory_need {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// Not used.
    pub reserved: u32,
    /// Held as long as the module lives.
    pub resident: u64,
    /// Of the weights in the host's memory, read in place while running.
    pub in_place: u64,
    /// Shared by all modules of the device.
    pub scratch: u64,
    /// Held while compiling.
    pub transient: u64,
}

/// What a buffer must be.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_buffer_request {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// What kind of memory.
    pub kind: anynpu_memory_kind,
    /// For messages.
    pub name: anynpu_text,
    /// Size.
    pub bytes: usize,
    /// Alignment, a power of two, at least 64.
    pub align: usize,
}

/// Memory that is bound to a submission.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_binding {
    /// Its first byte in the host's memory, aligned to 64 bytes; null for memory of the plugin's own.
    pub data: *mut c_void,
    /// Bytes, at least as many as the value needs under the submission's symbols.
    pub bytes: usize,
    /// The plugin's own buffer; null for the host's memory.
    pub buffer: *mut anynpu_buffer,
}

/// One run of one entry.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_submission {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// Not used.
    pub reserved: u32,
    /// What was compiled.
    pub module: *mut anynpu_module,
    /// The number of the entry.
    pub entry: usize,
    /// Inputs, as the entry's graph lists them.
    pub inputs: *const anynpu_binding,
    /// How many.
    pub input_count: usize,
    /// Outputs, as the entry's graph lists them.
    pub outputs: *const anynpu_binding,
    /// How many.
    pub output_count: usize,
    /// States, as the entry's graph lists them.
    pub states: *const anynpu_binding,
    /// How many.
    pub state_count: usize,
    /// Bytes from one binding to the next, in all three lists.
    pub binding_stride: usize,
    /// The symbols' values, by their numbers.
    pub symbols: *const u32,
    /// How many; a symbol past the last is 0.
    pub symbol_count: usize,
    /// To be signalled once the run has ended, but not if `submit` fails.
    pub done: anynpu_point,
}

/// What a device has run since it was opened.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct anynpu_counters {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// Not used.
    pub reserved: u32,
    /// Submissions that succeeded.
    pub submissions: u64,
    /// Nodes that they ran.
    pub nodes: u64,
    /// Nanoseconds that they took.
    pub busy_ns: u64,
}

/// What copying values from one device to another costs.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct anynpu_link {
    /// Bytes of this structure.
    pub struct_size: u32,
    /// Not used.
    pub reserved: u32,
    /// Bytes per second of a copy.
    pub bytes_per_second: f64,
    /// Microseconds of a transfer however small.
    pub latency_us: f64,
}

/// Is told of a device that was found.
pub type anynpu_tell_device =
    Option<unsafe extern "C" fn(context: *mut c_void, info: *const anynpu_device_info)>;
/// Is told of a node, by its number, whether the device runs it, and if not, or not natively, why.
pub type anynpu_tell_verdict = Option<
    unsafe extern "C" fn(
        context: *mut c_void,
        node: usize,
        support: anynpu_support,
        reason: anynpu_reason,
        detail: anynpu_text,
    ),
>;
/// Takes bytes; may be called several times, which adds up.
pub type anynpu_tell_bytes =
    Option<unsafe extern "C" fn(context: *mut c_void, data: *const c_void, length: usize)>;
