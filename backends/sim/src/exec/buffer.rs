//! Buffers of a simulated device: the engine's memory, counted against the device's.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use anynpu_hal::{Access, Buffer, BufferDesc, HalError, MemoryKind};

use crate::error::invalid;
use crate::memory::{Charge, Ledger};

/// A buffer that counts as the simulated device's.
///
/// In memory shared with the host it is seen through: other devices recognise the buffer inside. Memory of
/// the device's own is recognised by the device alone.
#[derive(Debug)]
pub(crate) struct SimBuffer {
    inner: Arc<dyn Buffer>,
    desc: BufferDesc,
    charge: Charge,
}

impl SimBuffer {
    /// Makes `inner` memory of `kind` that was taken as `charge` says.
    pub fn new(inner: Arc<dyn Buffer>, kind: MemoryKind, charge: Charge) -> Self {
        let desc = BufferDesc {
            kind,
            ..inner.desc().clone()
        };
        SimBuffer {
            inner,
            desc,
            charge,
        }
    }
}

impl Buffer for SimBuffer {
    fn desc(&self) -> &BufferDesc {
        &self.desc
    }

    unsafe fn map(&self, access: Access) -> Result<NonNull<[u8]>, HalError> {
        // SAFETY: the caller vouches for what `Buffer::map` asks, and this buffer's memory is the inner's.
        unsafe { self.inner.map(access) }
    }

    fn unmap(&self) {
        self.inner.unmap();
    }

    fn as_any(&self) -> &dyn Any {
        match self.desc.kind {
            MemoryKind::Host => self.inner.as_any(),
            _ => self,
        }
    }
}

/// The buffer as the engine knows it, for a device with the memory `ledger` that is its own (`own`) or the
/// host's.
pub(super) fn engine_buffer(
    buffer: &Arc<dyn Buffer>,
    ledger: &Arc<Ledger>,
    own: bool,
) -> Result<Arc<dyn Buffer>, HalError> {
    if !own {
        return Ok(buffer.clone());
    }
    match buffer.as_any().downcast_ref::<SimBuffer>() {
        Some(sim) if Arc::ptr_eq(sim.charge.ledger(), ledger) => Ok(sim.inner.clone()),
        _ => {
            let what = format!("buffer '{}'", buffer.desc().name);
            let found = "memory of another device";
            Err(invalid(
                "submit",
                what,
                found,
                "memory this device allocated",
            ))
        }
    }
}
