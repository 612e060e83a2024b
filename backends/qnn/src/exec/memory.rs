//! Memory of graphs' inputs and outputs: of the process, or such as a chip reads and writes in place.

use std::ffi::{OsStr, c_void};
use std::fmt::Debug;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;

use anynpu_hal::Library;

use super::executable::Port;
use super::{Context, QnnError};
use crate::sys::{Handle, LoadError, MEMORY_ION, MemoryDescriptor, MemoryInfo, MemoryShape};

/// Where memory for inputs and outputs comes from.
pub(crate) trait Memory: Debug + Send + Sync {
    /// So many bytes, all 0.
    ///
    /// # Errors
    /// There are none.
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Region>, QnnError>;
}

/// Some memory, of its own.
pub(crate) trait Region: Debug + Send + Sync {
    /// Its bytes.
    fn bytes(&self) -> &[u8];

    /// Its bytes, to write.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// What stands for it among processes and devices, if anything does.
    fn fd(&self) -> Option<i32>;
}

/// Memory of the process, which the library copies where a chip can't see it.
#[derive(Debug)]
pub(crate) struct HostMemory;

impl Memory for HostMemory {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Region>, QnnError> {
        Ok(Box::new(vec![0u8; bytes]))
    }
}

impl Region for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn fd(&self) -> Option<i32> {
        None
    }
}

/// The heap of the system that chips see (`RPCMEM_HEAP_ID_SYSTEM`), and memory that caches hold
/// (`RPCMEM_DEFAULT_FLAGS`).
const SYSTEM_HEAP: i32 = 25;
const CACHED: u32 = 1;

type Allocate = unsafe extern "C" fn(heap: i32, flags: u32, bytes: i32) -> *mut c_void;
type Free = unsafe extern "C" fn(memory: *mut c_void);
type ToFd = unsafe extern "C" fn(memory: *mut c_void) -> i32;

/// Memory that processor and HTP have in common, by `libcdsprpc.so`.
#[derive(Clone, Debug)]
pub(crate) struct RpcMemory {
    path: String,
    allocate: Allocate,
    free: Free,
    to_fd: ToFd,
}

impl RpcMemory {
    /// The library at `path`, or where the system's loader finds it.
    ///
    /// # Errors
    /// No such library, or another one.
    pub fn load(path: Option<&Path>) -> Result<RpcMemory, LoadError> {
        let name = path.map_or(OsStr::new("libcdsprpc.so"), Path::as_os_str);
        let shown = name.to_string_lossy().into_owned();
        // SAFETY: the user named the library, or the system's search path has it.
        let library = unsafe { Library::open(name) }?;
        // SAFETY: functions of these names have these types in every version.
        let (allocate, free, to_fd) = unsafe {
            (
                library.symbol::<Allocate>(&shown, "rpcmem_alloc")?,
                library.symbol::<Free>(&shown, "rpcmem_free")?,
                library.symbol::<ToFd>(&shown, "rpcmem_to_fd")?,
            )
        };
        Ok(RpcMemory {
            path: shown,
            allocate,
            free,
            to_fd,
        })
    }
}

impl Memory for RpcMemory {
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Region>, QnnError> {
        let none = || QnnError::Memory {
            bytes,
            from: self.path.clone(),
        };
        let size = i32::try_from(bytes.max(1)).map_err(|_| none())?;
        // SAFETY: the library is loaded for good, and fails by null.
        let memory = unsafe { (self.allocate)(SYSTEM_HEAP, CACHED, size) };
        if memory.is_null() {
            return Err(none());
        }
        // SAFETY: the memory has so many bytes, which are nobody else's.
        unsafe { memory.cast::<u8>().write_bytes(0, bytes) };
        // SAFETY: the memory was allocated by this library.
        let fd = unsafe { (self.to_fd)(memory) };
        Ok(Box::new(RpcRegion {
            memory: memory.cast(),
            bytes,
            fd: (fd >= 0).then_some(fd),
            free: self.free,
        }))
    }
}

#[derive(Debug)]
struct RpcRegion {
    memory: *mut u8,
    bytes: usize,
    fd: Option<i32>,
    free: Free,
}

// SAFETY: the memory is this region's own, and no thread's.
unsafe impl Send for RpcRegion {}
// SAFETY: it is written by `&mut` only.
unsafe impl Sync for RpcRegion {}

impl Region for RpcRegion {
    fn bytes(&self) -> &[u8] {
        // SAFETY: there are so many bytes, written when they were allocated, until this is dropped.
        unsafe { std::slice::from_raw_parts(self.memory, self.bytes) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.memory, self.bytes) }
    }

    fn fd(&self) -> Option<i32> {
        self.fd
    }
}

impl Drop for RpcRegion {
    fn drop(&mut self) {
        // SAFETY: the memory is the library's, and nobody has it any more.
        unsafe { (self.free)(self.memory.cast()) };
    }
}

/// The memory of an input or output, of exactly its size.
#[derive(Debug)]
pub(crate) struct Slot {
    region: Box<dyn Region>,
    registered: Option<Registered>,
}

/// Memory that a context knows.
#[derive(Debug)]
struct Registered {
    context: Arc<Context>,
    handle: Handle,
}

// SAFETY: as for the context; the handle is a number to the library.
unsafe impl Send for Registered {}
// SAFETY: as for Send.
unsafe impl Sync for Registered {}

impl Slot {
    /// One of so many bytes.
    ///
    /// # Errors
    /// There are none.
    pub fn new(memory: &dyn Memory, bytes: usize) -> Result<Slot, QnnError> {
        Ok(Slot {
            region: memory.allocate(bytes)?,
            registered: None,
        })
    }

    /// Tells `context` of the memory, that of `port`, if something stands for it. A library that does not take it is
    /// given the bytes in each run instead.
    pub fn register(&mut self, context: &Arc<Context>, port: &Port) {
        let Some(fd) = self.region.fd() else {
            return;
        };
        let device = context.device();
        let Some(register) = device.table().mem_register else {
            return;
        };
        let mut info = MemoryInfo { raw: [0; 2] };
        info.fd = fd;
        let descriptor = MemoryDescriptor {
            shape: MemoryShape {
                rank: port.dims.len() as u32,
                dimensions: port.dims.as_ptr(),
                config: std::ptr::null(),
            },
            data_type: port.data_type(),
            kind: MEMORY_ION,
            info,
        };
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the context is alive; the descriptor and all that it points to live during the call.
        let code = unsafe { register(context.handle(), &raw const descriptor, 1, &raw mut handle) };
        if code == 0 {
            let context = context.clone();
            self.registered = Some(Registered { context, handle });
        } else {
            let e = device.error("memRegister", format!("'{}'", port.name), code);
            tracing::debug!("copied in each run: {e}");
        }
    }

    /// What stands for the memory in its context, if that knows it.
    pub fn handle(&self) -> Option<Handle> {
        self.registered.as_ref().map(|r| r.handle)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(forget) = self.context.device().table().mem_de_register {
            // SAFETY: the context is alive and gave the handle.
            let code = unsafe { forget(&raw const self.handle, 1) };
            tracing::trace!("memDeRegister: {code}");
        }
    }
}

impl Deref for Slot {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.region.bytes()
    }
}

impl DerefMut for Slot {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.region.bytes_mut()
    }
}
