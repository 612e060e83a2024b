//! States that a device keeps in memory of its own between steps.

use std::any::Any;
use std::ptr::NonNull;
use std::sync::Arc;

use anynpu_hal::{Access, Buffer, BufferDesc, HalError};
use parking_lot::Mutex;

use super::{MemoryHandle, NnapiError, Role, SharedMemory, domain};
use crate::sys::Runtime;

/// The home of a state: memory of the device's own that runs read and write whole, and memory of the host that the
/// state is copied to where the host wants to see it.
///
/// There are two memories of the device: a run reads one and writes the other, so that one that fails leaves what it
/// read as it was.
#[derive(Debug)]
pub struct StateBuffer {
    desc: BufferDesc,
    device: String,
    runtime: Arc<Runtime>,
    host: SharedMemory,
    home: Mutex<Home>,
}

#[derive(Debug, Default)]
struct Home {
    pair: Option<Pair>,
    newest: Newest,
}

/// Where the state is as the last run or the host left it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Newest {
    #[default]
    Host,
    Device,
    Both,
}

#[derive(Debug)]
struct Pair {
    roles: Arc<Vec<Role>>,
    read: Arc<MemoryHandle>,
    written: Arc<MemoryHandle>,
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.read.retire();
        self.written.retire();
    }
}

impl StateBuffer {
    /// A state of zeros as `desc` says, with the host at first.
    pub(super) fn new(
        device: &str,
        runtime: &Arc<Runtime>,
        desc: BufferDesc,
    ) -> Result<StateBuffer, NnapiError> {
        Ok(StateBuffer {
            host: SharedMemory::new(runtime, desc.bytes, &desc.name)?,
            device: device.into(),
            runtime: runtime.clone(),
            desc,
            home: Mutex::new(Home::default()),
        })
    }

    /// The memories that a run reads and writes, made for `roles`, with the state in the first.
    pub(super) fn bind(
        &self,
        roles: &Arc<Vec<Role>>,
    ) -> Result<[Arc<MemoryHandle>; 2], NnapiError> {
        let mut home = self.home.lock();
        let (name, runtime) = (&self.desc.name, &self.runtime);
        let fitting = |pair: &Pair| Arc::ptr_eq(&pair.roles, roles);
        if !home.pair.as_ref().is_some_and(fitting) {
            self.fetch(&mut home)?;
            home.pair = None;
            home.pair = Some(Pair {
                roles: roles.clone(),
                read: Arc::new(domain(runtime, roles, name)?),
                written: Arc::new(domain(runtime, roles, name)?),
            });
            home.newest = Newest::Host;
        }
        let Home { pair, newest } = &mut *home;
        let Some(pair) = pair else {
            return Err(NnapiError::Missing {
                call: "memory_create_from_desc",
            });
        };
        if *newest == Newest::Host {
            self.host.handle().copy_to(&pair.read, name)?;
            *newest = Newest::Both;
        }
        Ok([pair.read.clone(), pair.written.clone()])
    }

    /// Its memory of the host, if it has none of the device yet.
    pub(super) fn plain(&self) -> Option<&Arc<MemoryHandle>> {
        let home = self.home.lock();
        home.pair.is_none().then(|| self.host.handle())
    }

    /// Notes that a run wrote the memory that [`StateBuffer::bind`] gave it for that.
    pub(super) fn written(&self) {
        let mut home = self.home.lock();
        let Home { pair, newest } = &mut *home;
        if let Some(pair) = pair {
            std::mem::swap(&mut pair.read, &mut pair.written);
            *newest = Newest::Device;
        }
    }

    /// Brings the state to the host, if it is with the device alone.
    fn fetch(&self, home: &mut Home) -> Result<(), NnapiError> {
        if let (Newest::Device, Some(pair)) = (home.newest, &home.pair) {
            pair.read.copy_to(self.host.handle(), &self.desc.name)?;
            home.newest = Newest::Both;
        }
        Ok(())
    }
}

impl Drop for StateBuffer {
    fn drop(&mut self) {
        self.host.handle().retire();
    }
}

impl Buffer for StateBuffer {
    fn desc(&self) -> &BufferDesc {
        &self.desc
    }

    unsafe fn map(&self, access: Access) -> Result<NonNull<[u8]>, HalError> {
        let mut home = self.home.lock();
        let fetched = self.fetch(&mut home);
        fetched.map_err(|e| e.of_device(&self.device))?;
        if access == Access::Write {
            home.newest = Newest::Host;
        }
        let start = self.host.as_ptr().unwrap_or(NonNull::dangling());
        Ok(NonNull::slice_from_raw_parts(start, self.desc.bytes))
    }

    fn unmap(&self) {}

    fn as_any(&self) -> &dyn Any {
        self
    }
}
