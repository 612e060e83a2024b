//! The tables of functions.

use std::ffi::{c_char, c_void};
use std::mem::{offset_of, size_of};

use super::{
    ContextConfig, DeviceConfig, GraphConfig, Infrastructure, MemoryDescriptor, OpConfig, Tensor,
};

/// 0 for success.
pub type ErrorCode = u64;
/// Opaque; small numbers in some libraries.
pub type Handle = *mut c_void;
/// What the library logs: a `printf` format, the level (1 error to 5 debug), a time, and a `va_list`, which is passed
/// as a pointer on x86-64 and aarch64 Linux.
pub type LogCallback =
    unsafe extern "C" fn(format: *const c_char, level: u32, time: u64, arguments: *mut c_void);

/// Number of the HTP among backends.
pub const HTP_BACKEND: u32 = 6;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OpName {
    pub package: *const c_char,
    pub name: *const c_char,
    pub target: *const c_char,
}

/// A function that is not used here.
pub type Unused = Option<unsafe extern "C" fn()>;

/// The functions of a backend, in the order of the interface.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Table {
    pub property_has_capability: Option<unsafe extern "C" fn(u32) -> ErrorCode>,
    pub backend_create:
        Option<unsafe extern "C" fn(Handle, *const *const c_void, *mut Handle) -> ErrorCode>,
    pub backend_set_config: Unused,
    pub backend_get_api_version: Unused,
    pub backend_get_build_id: Option<unsafe extern "C" fn(*mut *const c_char) -> ErrorCode>,
    pub backend_register_op_package: Unused,
    pub backend_get_supported_operations:
        Option<unsafe extern "C" fn(Handle, *mut u32, *mut *const OpName) -> ErrorCode>,
    pub backend_validate_op_config: Option<unsafe extern "C" fn(Handle, OpConfig) -> ErrorCode>,
    pub backend_free: Option<unsafe extern "C" fn(Handle) -> ErrorCode>,
    pub context_create: Option<
        unsafe extern "C" fn(Handle, Handle, *const *const ContextConfig, *mut Handle) -> ErrorCode,
    >,
    pub context_set_config: Unused,
    pub context_get_binary_size: Option<unsafe extern "C" fn(Handle, *mut u64) -> ErrorCode>,
    pub context_get_binary:
        Option<unsafe extern "C" fn(Handle, *mut c_void, u64, *mut u64) -> ErrorCode>,
    pub context_create_from_binary: Option<
        unsafe extern "C" fn(
            Handle,
            Handle,
            *const *const ContextConfig,
            *const c_void,
            u64,
            *mut Handle,
            Handle,
        ) -> ErrorCode,
    >,
    pub context_free: Option<unsafe extern "C" fn(Handle, Handle) -> ErrorCode>,
    pub graph_create: Option<
        unsafe extern "C" fn(
            Handle,
            *const c_char,
            *const *const GraphConfig,
            *mut Handle,
        ) -> ErrorCode,
    >,
    pub graph_create_subgraph: Unused,
    pub graph_set_config: Unused,
    pub graph_add_node: Option<unsafe extern "C" fn(Handle, OpConfig) -> ErrorCode>,
    pub graph_finalize: Option<unsafe extern "C" fn(Handle, Handle, Handle) -> ErrorCode>,
    pub graph_retrieve:
        Option<unsafe extern "C" fn(Handle, *const c_char, *mut Handle) -> ErrorCode>,
    pub graph_execute: Option<
        unsafe extern "C" fn(
            Handle,
            *const Tensor,
            u32,
            *mut Tensor,
            u32,
            Handle,
            Handle,
        ) -> ErrorCode,
    >,
    pub graph_execute_async: Unused,
    pub tensor_create_context_tensor: Unused,
    pub tensor_create_graph_tensor: Option<unsafe extern "C" fn(Handle, *mut Tensor) -> ErrorCode>,
    pub log_create:
        Option<unsafe extern "C" fn(Option<LogCallback>, u32, *mut Handle) -> ErrorCode>,
    pub log_set_log_level: Option<unsafe extern "C" fn(Handle, u32) -> ErrorCode>,
    pub log_free: Option<unsafe extern "C" fn(Handle) -> ErrorCode>,
    pub profile: [Unused; 7],
    pub mem_register: Option<
        unsafe extern "C" fn(Handle, *const MemoryDescriptor, u32, *mut Handle) -> ErrorCode,
    >,
    pub mem_de_register: Option<unsafe extern "C" fn(*const Handle, u32) -> ErrorCode>,
    pub device_get_platform_info: Unused,
    pub device_free_platform_info: Unused,
    pub device_get_infrastructure:
        Option<unsafe extern "C" fn(*mut *const Infrastructure) -> ErrorCode>,
    pub device_create:
        Option<unsafe extern "C" fn(Handle, *const *const DeviceConfig, *mut Handle) -> ErrorCode>,
    pub device_set_config: Unused,
    pub device_get_info: Unused,
    pub device_free: Option<unsafe extern "C" fn(Handle) -> ErrorCode>,
    pub signal: [Unused; 4],
    pub error_get_message: Option<unsafe extern "C" fn(ErrorCode, *mut *const c_char) -> ErrorCode>,
}

/// What a library says of one backend in it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    pub backend: u32,
    pub name: *const c_char,
    pub core: Version,
    pub backend_version: Version,
    pub table: Table,
}

/// `QnnInterface_getProviders`.
pub type Providers = unsafe extern "C" fn(*mut *const *const Interface, *mut u32) -> ErrorCode;

/// The functions that read compiled forms.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SystemTable {
    pub create: Option<unsafe extern "C" fn(*mut Handle) -> ErrorCode>,
    pub get_binary_info: Unused,
    pub get_meta_data:
        Option<unsafe extern "C" fn(Handle, *const c_void, u64, *mut *const c_void) -> ErrorCode>,
    pub free: Option<unsafe extern "C" fn(Handle) -> ErrorCode>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SystemInterface {
    pub backend: u32,
    pub name: *const c_char,
    pub version: Version,
    pub table: SystemTable,
}

/// `QnnSystemInterface_getProviders`.
pub type SystemProviders =
    unsafe extern "C" fn(*mut *const *const SystemInterface, *mut u32) -> ErrorCode;

const SLOT: usize = size_of::<usize>();

const _: () = {
    assert!(size_of::<OpName>() == 24);
    assert!(offset_of!(Interface, name) == 8);
    assert!(offset_of!(Interface, core) == 16);
    assert!(offset_of!(Interface, backend_version) == 28);
    assert!(offset_of!(Interface, table) == 40);
    assert!(offset_of!(Table, backend_validate_op_config) == 7 * SLOT);
    assert!(offset_of!(Table, context_create) == 9 * SLOT);
    assert!(offset_of!(Table, context_create_from_binary) == 13 * SLOT);
    assert!(offset_of!(Table, graph_create) == 15 * SLOT);
    assert!(offset_of!(Table, graph_add_node) == 18 * SLOT);
    assert!(offset_of!(Table, graph_execute) == 21 * SLOT);
    assert!(offset_of!(Table, tensor_create_graph_tensor) == 24 * SLOT);
    assert!(offset_of!(Table, log_create) == 25 * SLOT);
    assert!(offset_of!(Table, mem_register) == 35 * SLOT);
    assert!(offset_of!(Table, device_get_infrastructure) == 39 * SLOT);
    assert!(offset_of!(Table, device_create) == 40 * SLOT);
    assert!(offset_of!(Table, device_free) == 43 * SLOT);
    assert!(offset_of!(Table, error_get_message) == 48 * SLOT);
    assert!(offset_of!(SystemInterface, version) == 16);
    assert!(offset_of!(SystemInterface, table) == 32);
    assert!(size_of::<SystemTable>() == 4 * SLOT);
};
