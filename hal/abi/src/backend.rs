//! The plugin's table of functions.

use core::ffi::c_void;

use crate::{
    anynpu_binding, anynpu_buffer, anynpu_buffer_request, anynpu_compatibility,
    anynpu_compile_request, anynpu_counters, anynpu_device, anynpu_device_kind, anynpu_graph,
    anynpu_host, anynpu_link, anynpu_memory_need, anynpu_message, anynpu_module,
    anynpu_open_request, anynpu_status, anynpu_submission, anynpu_tell_bytes, anynpu_tell_device,
    anynpu_tell_verdict, anynpu_text,
};

/// Functions of a plugin. Members that are marked optional may be null.
///
/// `context` is the table's own, given to the first two; the others are given what they made.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct anynpu_backend {
    /// Bytes of this structure, as the plugin knows it.
    pub struct_size: u32,
    /// Major version that the plugin was written for.
    pub major: u16,
    /// Minor version that the plugin was written for.
    pub minor: u16,
    /// The driver's name: lower-case letters, digits, `-` and `_`.
    pub name: anynpu_text,
    /// The driver's own version, for people and for caches.
    pub version: anynpu_text,
    /// Given to `enumerate` and `open`.
    pub context: *mut c_void,

    /// Tells of each device that there is. ANYNPU_UNAVAILABLE with a message says why there is none.
    pub enumerate: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            tell: anynpu_tell_device,
            tell_context: *mut c_void,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,
    /// Opens a device.
    pub open: Option<
        unsafe extern "C" fn(
            context: *mut c_void,
            request: *const anynpu_open_request,
            device: *mut *mut anynpu_device,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,
    /// Closes a device, once all that it ran has ended. Its modules and buffers are gone by then.
    pub close: Option<unsafe extern "C" fn(device: *mut anynpu_device)>,

    /// Tells of each node whether the device runs it: quickly, from a table. Of a node that nothing is told of, the
    /// device does not run it.
    pub support: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            graph: *const anynpu_graph,
            tell: anynpu_tell_verdict,
            tell_context: *mut c_void,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,
    /// Compiles entries. Nothing of the request may be kept but pointers to weights.
    pub compile: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            request: *const anynpu_compile_request,
            module: *mut *mut anynpu_module,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,
    /// Destroys a module. Nothing of it runs any more.
    pub destroy_module:
        Option<unsafe extern "C" fn(device: *mut anynpu_device, module: *mut anynpu_module)>,
    /// Runs an entry, or starts to. After ANYNPU_OK the plugin signals `done` exactly once, before or after it returns;
    /// after anything else never. Submissions run in their order. Nothing past the bytes that a value needs may be
    /// written.
    pub submit: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            submission: *const anynpu_submission,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,

    /// Optional: as `support`, but by the vendor's own validator, for nodes that are about to be compiled.
    pub validate: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            graph: *const anynpu_graph,
            tell: anynpu_tell_verdict,
            tell_context: *mut c_void,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,
    /// Optional: the memory that compiling the same will take. Weights are valid during this call only.
    pub memory_need: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            request: *const anynpu_compile_request,
            need: *mut anynpu_memory_need,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,
    /// Optional: bytes that a module holds besides weights that it reads in the host's memory.
    pub resident_bytes:
        Option<unsafe extern "C" fn(device: *mut anynpu_device, module: *mut anynpu_module) -> u64>,

    /// Optional, the next four together: the bytes that decide whether a compiled form fits.
    pub compatibility: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            tell: anynpu_tell_bytes,
            tell_context: *mut c_void,
        ),
    >,
    /// The compiled form of a module.
    pub save: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            module: *mut anynpu_module,
            tell: anynpu_tell_bytes,
            tell_context: *mut c_void,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,
    /// Whether a compiled form fits; the message says why not. The bytes may be anything.
    pub check: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            data: *const c_void,
            length: usize,
            message: *mut anynpu_message,
        ) -> anynpu_compatibility,
    >,
    /// Makes a module of a compiled form. The request holds what the form was compiled from. The bytes may be anything.
    pub load: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            data: *const c_void,
            length: usize,
            request: *const anynpu_compile_request,
            module: *mut *mut anynpu_module,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,

    /// Optional, the next four together: memory of the plugin's own. Without them the host's memory is bound.
    pub allocate: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            request: *const anynpu_buffer_request,
            buffer: *mut *mut anynpu_buffer,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,
    /// Gives a buffer back.
    pub free: Option<unsafe extern "C" fn(device: *mut anynpu_device, buffer: *mut anynpu_buffer)>,
    /// Makes a buffer visible to the host until `unmap`, for reading or, if `write` is 1, for writing too. `binding`
    /// gets its memory and size.
    pub map: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            buffer: *mut anynpu_buffer,
            write: u32,
            binding: *mut anynpu_binding,
            message: *mut anynpu_message,
        ) -> anynpu_status,
    >,
    /// Ends a mapping: what was written is visible to the device.
    pub unmap: Option<unsafe extern "C" fn(device: *mut anynpu_device, buffer: *mut anynpu_buffer)>,

    /// Optional: gives back memory that it can have again, and tells how many bytes.
    pub trim: Option<unsafe extern "C" fn(device: *mut anynpu_device) -> u64>,
    /// Optional: nobody waits any longer for what was submitted. What can be stopped is stopped. It may come while
    /// another call to the device has not returned.
    pub give_up: Option<unsafe extern "C" fn(device: *mut anynpu_device)>,
    /// Optional: the process ends, or the application is done with the plugin. Called once, with `context`.
    pub shutdown: Option<unsafe extern "C" fn(context: *mut c_void)>,

    // From 1.1 on.
    /// Optional, from 1.1: what the device has run, by its own count. Without it the host counts.
    pub counters:
        Option<unsafe extern "C" fn(device: *mut anynpu_device, counters: *mut anynpu_counters)>,
    /// Optional, from 1.1, a hint: improves what is assumed of copies between this device and another, which `link`
    /// holds.
    pub link: Option<
        unsafe extern "C" fn(
            device: *mut anynpu_device,
            other: anynpu_text,
            other_kind: anynpu_device_kind,
            link: *mut anynpu_link,
        ),
    >,
}

// SAFETY: a table is only read; rules on threads are the crate's.
#[allow(unsafe_code)]
unsafe impl Sync for anynpu_backend {}

/// The one symbol of a plugin: its table for a host that knows no version above `max_major.max_minor`, or null if it
/// can serve none such. Both tables live until the process ends.
pub type anynpu_backend_query_fn = Option<
    unsafe extern "C" fn(
        max_major: u16,
        max_minor: u16,
        host: *const anynpu_host,
    ) -> *const anynpu_backend,
>;

/// Bytes of the table in version 1.0.
pub const ANYNPU_BACKEND_SIZE_1_0: usize = core::mem::offset_of!(anynpu_backend, counters);
