//! Memory of a plugin's own.
#![allow(unsafe_code)] // a plugin's functions are called

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use anynpu_abi::*;

use super::answers::Message;
use super::device::Opened;
use super::tables;
use crate::{Access, Buffer, BufferDesc, HOST_ALIGN, HalError, MemoryKind};

/// A buffer as the plugin knows it.
#[derive(Debug)]
pub(super) struct PluginBuffer {
    opened: Arc<Opened>,
    desc: BufferDesc,
    handle: *mut anynpu_buffer,
}

// SAFETY: the handle is the plugin's, which lets any thread use it, one at a time.
unsafe impl Send for PluginBuffer {}
// SAFETY: as for Send.
unsafe impl Sync for PluginBuffer {}

impl PluginBuffer {
    pub fn new(opened: &Arc<Opened>, desc: &BufferDesc) -> Result<PluginBuffer, HalError> {
        let request = anynpu_buffer_request {
            struct_size: size_of::<anynpu_buffer_request>() as u32,
            kind: match desc.kind {
                MemoryKind::Host => ANYNPU_MEMORY_HOST,
                MemoryKind::MemFd => ANYNPU_MEMORY_MEMFD,
                MemoryKind::DmaBuf => ANYNPU_MEMORY_DMA_BUF,
                MemoryKind::AHardwareBuffer => ANYNPU_MEMORY_AHARDWAREBUFFER,
                MemoryKind::IoSurface => ANYNPU_MEMORY_IOSURFACE,
                MemoryKind::DeviceLocal => ANYNPU_MEMORY_DEVICE,
            },
            name: tables::text(&desc.name),
            bytes: desc.bytes,
            align: desc.align.max(HOST_ALIGN),
        };
        let unsupported = || HalError::Unsupported {
            device: opened.name.to_string(),
            call: "allocate",
        };
        let calling = opened.call()?;
        let allocate = calling.table.optional().allocate.ok_or_else(unsupported)?;
        let (mut handle, mut message) = (std::ptr::null_mut(), Message::new());
        // SAFETY: what is given lives during the call.
        let status = unsafe {
            allocate(
                calling.device,
                &raw const request,
                &raw mut handle,
                message.raw(),
            )
        };
        match status {
            ANYNPU_OK => Ok(PluginBuffer {
                opened: opened.clone(),
                desc: desc.clone(),
                handle,
            }),
            other => Err(message.error(&opened.name, "allocate", other)),
        }
    }

    /// The plugin's handle, if the buffer is of this device.
    pub fn handle(&self, opened: &Arc<Opened>) -> Option<*mut anynpu_buffer> {
        Arc::ptr_eq(&self.opened, opened).then_some(self.handle)
    }
}

impl Buffer for PluginBuffer {
    fn desc(&self) -> &BufferDesc {
        &self.desc
    }

    unsafe fn map(&self, access: Access) -> Result<NonNull<[u8]>, HalError> {
        let calling = self.opened.call()?;
        let mut binding = anynpu_binding {
            data: std::ptr::null_mut(),
            bytes: 0,
            buffer: self.handle,
        };
        let mut message = Message::new();
        let status = match calling.table.optional().map {
            // SAFETY: what is given lives during the call, and the buffer is the device's.
            Some(map) => unsafe {
                map(
                    calling.device,
                    self.handle,
                    (access == Access::Write).into(),
                    &raw mut binding,
                    message.raw(),
                )
            },
            None => ANYNPU_UNSUPPORTED,
        };
        if status != ANYNPU_OK {
            return Err(message.error(&self.opened.name, "map", status));
        }
        match NonNull::new(binding.data.cast::<u8>()) {
            Some(data) if binding.bytes >= self.desc.bytes => {
                Ok(NonNull::slice_from_raw_parts(data, self.desc.bytes))
            }
            _ => Err(HalError::Vendor {
                device: self.opened.name.to_string(),
                call: "map".into(),
                code: 0,
                text: format!(
                    "{} bytes of '{}' were mapped, it has {}",
                    binding.bytes, self.desc.name, self.desc.bytes
                ),
            }),
        }
    }

    fn unmap(&self) {
        self.opened.call_at_end("a mapping", |calling| {
            if let Some(unmap) = calling.table.optional().unmap {
                // SAFETY: the buffer is the device's.
                unsafe { unmap(calling.device, self.handle) }
            }
        });
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for PluginBuffer {
    fn drop(&mut self) {
        self.opened.call_at_end("a buffer", |calling| {
            if let Some(free) = calling.table.optional().free {
                // SAFETY: the buffer is the device's, and nobody has it any more.
                unsafe { free(calling.device, self.handle) }
            }
        });
    }
}
