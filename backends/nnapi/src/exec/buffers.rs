//! Buffers whose memory the runtime sees too, so that runs read and write them in place.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use anynpu_hal::{
    Access, Buffer, BufferDesc, ExternalHandle, HalError, HardwareBuffers, HardwareMemory,
    HostBuffer, MemoryKind, Reason, ReasonCode,
};

use super::{MemoryHandle, NnapiError, SharedMemory, StateBuffer};
use crate::sys::Runtime;

/// Most alignment that shared memory has: it begins at a page.
const PAGE: usize = 4096;

/// What keeps the memory of a [`HostBuffer`] that the runtime sees too.
#[derive(Debug)]
struct Keeper {
    memory: SharedMemory,
    /// The buffer whose memory it is, if that is not its own.
    _of: Option<Arc<dyn Buffer>>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.memory.handle().retire();
    }
}

/// What hands out buffers for a device.
#[derive(Debug)]
pub(crate) struct Buffers {
    device: String,
    runtime: Arc<Runtime>,
    /// The system's hardware buffers, or why there are none.
    hardware: Result<HardwareBuffers, Reason>,
}

/// The system's hardware buffers for `runtime`, or why it takes none. Elsewhere than on Android only a library that
/// brings both has them.
pub(crate) fn hardware_buffers(runtime: &Runtime) -> Result<HardwareBuffers, Reason> {
    if runtime
        .functions
        .memory_create_from_a_hardware_buffer
        .is_none()
    {
        let what = "this runtime has no function 'memory_create_from_a_hardware_buffer'";
        return Err(Reason::new(ReasonCode::OpVersion, what));
    }
    let found = match cfg!(target_os = "android") {
        true => HardwareBuffers::of_system(),
        false => runtime.hardware_buffers(),
    };
    found.map_err(|e| {
        let what = format!("this system has no hardware buffers: {e}");
        Reason::new(ReasonCode::Layout, what)
    })
}

impl Buffers {
    pub fn new(
        device: &str,
        runtime: &Arc<Runtime>,
        hardware: Result<HardwareBuffers, Reason>,
    ) -> Buffers {
        Buffers {
            device: device.into(),
            runtime: runtime.clone(),
            hardware,
        }
    }

    /// A buffer as `desc` says: of the host, of the device where runs keep states there, or a hardware buffer.
    pub fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        let refused = |e: NnapiError| e.of_device(&self.device);
        match desc.kind {
            MemoryKind::AHardwareBuffer => {
                let memory = Arc::new(self.hardware()?.allocate(desc.clone())?);
                clear(&*memory)?;
                Ok(Arc::new(self.imported(memory).map_err(refused)?))
            }
            MemoryKind::DeviceLocal => {
                let state = StateBuffer::new(&self.device, &self.runtime, desc.clone());
                Ok(Arc::new(state.map_err(refused)?))
            }
            _ => Ok(Arc::new(self.host(desc)?)),
        }
    }

    /// Memory of the host that the runtime sees too; plain memory, which runs copy from and to, if it takes none such.
    fn host(&self, desc: &BufferDesc) -> Result<HostBuffer, HalError> {
        if desc.kind != MemoryKind::Host || desc.align > PAGE {
            return HostBuffer::new(desc.clone());
        }
        let memory = match SharedMemory::new(&self.runtime, desc.bytes, &desc.name) {
            Ok(memory) => memory,
            Err(e @ NnapiError::Memory { .. }) => return Err(e.of_device(&self.device)),
            Err(e) => {
                tracing::debug!("'{}' is not shared with the runtime: {e}", desc.name);
                return HostBuffer::new(desc.clone());
            }
        };
        let start = memory
            .as_ptr()
            .map_or(std::ptr::null_mut(), NonNull::as_ptr);
        let keeper = Arc::new(Keeper { memory, _of: None });
        // SAFETY: the keeper has so many bytes mapped, all written, as long as it lives.
        unsafe { HostBuffer::kept(desc.clone(), start, keeper) }
    }

    /// Memory of the host that is of a file is the runtime's memory too; other memory is as it is.
    fn shared(&self, buffer: Arc<dyn Buffer>) -> Result<Arc<dyn Buffer>, HalError> {
        let any = buffer.as_any().downcast_ref::<HostBuffer>();
        let Some((host, file)) = any.and_then(|host| Some((host, host.file()?))) else {
            return Ok(buffer);
        };
        let (desc, start) = (host.desc().clone(), host.as_ptr());
        let memory = SharedMemory::over(&self.runtime, file, desc.bytes.max(1), &desc.name);
        let memory = match memory {
            Ok(memory) => memory,
            Err(e) => {
                tracing::debug!("'{}' is not shared with the runtime: {e}", desc.name);
                return Ok(buffer);
            }
        };
        let keeper = Keeper {
            memory,
            _of: Some(buffer),
        };
        // SAFETY: the keeper holds the buffer, whose memory is so large and initialised.
        Ok(Arc::new(unsafe {
            HostBuffer::kept(desc, start, Arc::new(keeper))?
        }))
    }

    /// Takes over memory of somebody else: host memory, a hardware buffer as the runtime's memory too.
    pub fn import(&self, handle: ExternalHandle) -> Result<Arc<dyn Buffer>, HalError> {
        match handle {
            ExternalHandle::Shared(buffer) if buffer.desc().kind == MemoryKind::Host => {
                self.shared(buffer)
            }
            ExternalHandle::Shared(buffer) if self.knows(&*buffer) => Ok(buffer),
            ExternalHandle::HardwareBuffer(buffer) => {
                self.hardware()?;
                let imported = self.imported(buffer);
                Ok(Arc::new(imported.map_err(|e| e.of_device(&self.device))?))
            }
            _ => Err(HalError::Unsupported {
                device: self.device.clone(),
                call: "import",
            }),
        }
    }

    /// Whether `buffer` is one that this runtime's devices made.
    fn knows(&self, buffer: &dyn Buffer) -> bool {
        let import = buffer.as_any().downcast_ref::<HardwareImport>();
        import.is_some_and(|b| b.memory.is_of(&self.runtime))
    }

    fn imported(&self, buffer: Arc<HardwareMemory>) -> Result<HardwareImport, NnapiError> {
        let name = buffer.desc().name.clone();
        let memory = MemoryHandle::of_hardware_buffer(&self.runtime, &buffer, &name)?;
        Ok(HardwareImport {
            memory: Arc::new(memory),
            buffer,
        })
    }

    fn hardware(&self) -> Result<&HardwareBuffers, HalError> {
        self.hardware.as_ref().map_err(|why| HalError::InvalidUse {
            call: "import",
            what: format!("a hardware buffer for '{}'", self.device),
            found: why.to_string(),
            expected: "a system and a runtime that have hardware buffers".into(),
        })
    }
}

/// Writes zeros, as buffers have at first.
fn clear(buffer: &dyn Buffer) -> Result<(), HalError> {
    // SAFETY: the buffer was just made, so nobody else has it.
    let memory = unsafe { buffer.map(Access::Write)? };
    // SAFETY: the mapping has so many bytes, which nobody else touches.
    unsafe { memory.cast::<u8>().as_ptr().write_bytes(0, memory.len()) };
    buffer.unmap();
    Ok(())
}

/// The runtime's memory behind `buffer`, if it is one that devices of `runtime` made.
pub(super) fn memory_of<'a>(
    buffer: &'a Arc<dyn Buffer>,
    runtime: &Runtime,
) -> Option<&'a Arc<MemoryHandle>> {
    let any = buffer.as_any();
    let memory = if let Some(host) = any.downcast_ref::<HostBuffer>() {
        host.keeper()?.downcast_ref::<Keeper>()?.memory.handle()
    } else if let Some(state) = any.downcast_ref::<StateBuffer>() {
        state.plain()?
    } else {
        &any.downcast_ref::<HardwareImport>()?.memory
    };
    memory.is_of(runtime).then_some(memory)
}

/// A hardware buffer that the runtime sees too.
#[derive(Debug)]
pub struct HardwareImport {
    memory: Arc<MemoryHandle>,
    buffer: Arc<HardwareMemory>,
}

impl Drop for HardwareImport {
    fn drop(&mut self) {
        self.memory.retire();
    }
}

impl Buffer for HardwareImport {
    fn desc(&self) -> &BufferDesc {
        self.buffer.desc()
    }

    unsafe fn map(&self, access: Access) -> Result<NonNull<[u8]>, HalError> {
        // SAFETY: by the contract.
        unsafe { self.buffer.map(access) }
    }

    fn unmap(&self) {
        self.buffer.unmap();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
