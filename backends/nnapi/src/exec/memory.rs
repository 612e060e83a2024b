//! Memory that the runtime and drivers see too.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Weak};

use anynpu_hal::HardwareMemory;
use parking_lot::Mutex;

use super::objects::Prepared;
use super::{NnapiError, check, function};
use crate::sys::{self, Runtime};

/// A memory object of the runtime. Prepared runs hold it alive, as the runtime does not.
#[derive(Debug)]
pub struct MemoryHandle {
    runtime: Arc<Runtime>,
    handle: *mut sys::Memory,
    /// Prepared runs that it is bound to.
    users: Mutex<Vec<Weak<Prepared>>>,
    /// The hardware buffer that it is of, which must outlive it.
    _of: Option<Arc<HardwareMemory>>,
}

// SAFETY: the handle is a name to the runtime, whose functions may be called from any thread.
unsafe impl Send for MemoryHandle {}
// SAFETY: as for Send; nothing here changes through a shared reference but what the lock guards.
unsafe impl Sync for MemoryHandle {}

impl MemoryHandle {
    fn none(runtime: &Arc<Runtime>) -> MemoryHandle {
        MemoryHandle {
            runtime: runtime.clone(),
            handle: std::ptr::null_mut(),
            users: Mutex::new(Vec::new()),
            _of: None,
        }
    }

    /// `size` bytes of `fd` from `offset` on. The runtime keeps the memory, not the descriptor.
    fn of_fd(
        runtime: &Arc<Runtime>,
        fd: &OwnedFd,
        (protection, offset, size): (i32, usize, usize),
        what: &str,
    ) -> Result<MemoryHandle, NnapiError> {
        let create = function!(runtime, memory_create_from_fd)?;
        let mut memory = MemoryHandle::none(runtime);
        // SAFETY: the descriptor has so many bytes; the function writes a pointer to a new object.
        let code = unsafe {
            create(
                size,
                protection,
                fd.as_raw_fd(),
                offset,
                &raw mut memory.handle,
            )
        };
        check("memory_create_from_fd", what, code)?;
        Ok(memory)
    }

    /// The memory of a hardware buffer of bytes.
    ///
    /// # Errors
    /// A runtime or driver that takes none.
    pub fn of_hardware_buffer(
        runtime: &Arc<Runtime>,
        buffer: &Arc<HardwareMemory>,
        what: &str,
    ) -> Result<MemoryHandle, NnapiError> {
        let create = function!(runtime, memory_create_from_a_hardware_buffer)?;
        let mut memory = MemoryHandle::none(runtime);
        // SAFETY: the buffer is there, and outlives the object, which holds it.
        let code = unsafe { create(buffer.handle().as_ptr(), &raw mut memory.handle) };
        check("memory_create_from_a_hardware_buffer", what, code)?;
        memory._of = Some(buffer.clone());
        Ok(memory)
    }

    /// Memory that the device of `description`, which is finished, manages itself.
    pub(super) fn of_description(
        runtime: &Arc<Runtime>,
        description: *const sys::MemoryDesc,
        what: &str,
    ) -> Result<MemoryHandle, NnapiError> {
        let create = function!(runtime, memory_create_from_desc)?;
        let mut memory = MemoryHandle::none(runtime);
        // SAFETY: the description is finished, and need not outlive the object.
        let code = unsafe { create(description, &raw mut memory.handle) };
        check("memory_create_from_desc", what, code)?;
        Ok(memory)
    }

    /// Copies all of it to `to`, which is as large.
    ///
    /// # Errors
    /// The runtime's own: sizes that differ, memory of a device that nothing was written to.
    pub fn copy_to(&self, to: &MemoryHandle, what: &str) -> Result<(), NnapiError> {
        let copy = function!(self.runtime, memory_copy)?;
        // SAFETY: both objects are there, and whoever has them keeps runs away meanwhile.
        let code = unsafe { copy(self.handle, to.handle) };
        check("memory_copy", what, code)
    }

    /// Whether it is of the library that `runtime` is: of another, the address means nothing there.
    pub(super) fn is_of(&self, runtime: &Runtime) -> bool {
        let of = |r: &Runtime| r.functions.memory_free.map(|f| f as usize);
        of(&self.runtime) == of(runtime)
    }

    pub(super) fn as_ptr(&self) -> *const sys::Memory {
        self.handle
    }

    /// Notes that `prepared` has it bound.
    pub(super) fn used_by(&self, prepared: &Arc<Prepared>) {
        let mut users = self.users.lock();
        users.retain(|user| user.strong_count() > 0);
        users.push(Arc::downgrade(prepared));
    }

    /// Frees the prepared runs that it is bound to, as nobody will want them any more.
    pub(super) fn retire(&self) {
        let users = std::mem::take(&mut *self.users.lock());
        users.iter().filter_map(Weak::upgrade).for_each(|user| {
            user.take();
        });
    }
}

impl Drop for MemoryHandle {
    fn drop(&mut self) {
        if let Some(free) = self.runtime.functions.memory_free
            && !self.handle.is_null()
        {
            // SAFETY: the runtime made the object, and those who use it hold this alive.
            unsafe { free(self.handle) };
        }
    }
}

/// Memory with a file descriptor, seen by the runtime, and by this process if it is to write it.
#[derive(Debug)]
pub struct SharedMemory {
    handle: Arc<MemoryHandle>,
    /// Where this process sees it, if it does.
    bytes: Option<NonNull<u8>>,
    size: usize,
}

// SAFETY: the memory is this object's own, and the runtime's functions may be called from any thread.
unsafe impl Send for SharedMemory {}
// SAFETY: it is written by `&mut` only, or by runs, which their executable makes one at a time.
unsafe impl Sync for SharedMemory {}

/// Memory without a file that has a descriptor.
#[cfg(not(target_os = "android"))]
fn anonymous(size: usize) -> std::io::Result<OwnedFd> {
    memory_file(size)
}

/// Memory without a file that has a descriptor: the system's own kind, which drivers are allowed to see, or else the
/// kernel's.
#[cfg(target_os = "android")]
fn anonymous(size: usize) -> std::io::Result<OwnedFd> {
    type Create = unsafe extern "C" fn(*const std::ffi::c_char, usize) -> std::ffi::c_int;
    // SAFETY: the library is Android's own.
    let library = unsafe { anynpu_hal::Library::open("libandroid.so".as_ref()) };
    let create = library.ok().and_then(|library| {
        // SAFETY: this is the function's type since API level 26.
        unsafe { library.symbol::<Create>("libandroid.so", "ASharedMemory_create") }.ok()
    });
    let Some(create) = create else {
        return memory_file(size);
    };
    // SAFETY: the name ends in 0; a descriptor that is returned is new.
    match unsafe { create(c"anynpu".as_ptr(), size) } {
        fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The kernel's own kind, by number, as libraries of C have no function for it everywhere.
fn memory_file(size: usize) -> std::io::Result<OwnedFd> {
    // SAFETY: the name ends in 0.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_memfd_create,
            c"anynpu".as_ptr(),
            libc::MFD_CLOEXEC,
        )
    };
    let fd = i32::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(size as u64)?;
    Ok(file.into())
}

impl SharedMemory {
    /// `size` bytes, all 0, for `what`.
    ///
    /// # Errors
    /// There are none.
    pub fn new(
        runtime: &Arc<Runtime>,
        size: usize,
        what: &str,
    ) -> Result<SharedMemory, NnapiError> {
        let size = size.max(1);
        let none = |e: std::io::Error| NnapiError::Memory {
            bytes: size,
            what: what.into(),
            why: e.to_string(),
        };
        let fd = anonymous(size).map_err(none)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let handle = MemoryHandle::of_fd(runtime, &fd, (access, 0, size), what)?;
        // SAFETY: a new mapping disturbs no other memory.
        let bytes = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                access,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if bytes == libc::MAP_FAILED {
            return Err(none(std::io::Error::last_os_error()));
        }
        Ok(SharedMemory {
            handle: Arc::new(handle),
            bytes: NonNull::new(bytes.cast()),
            size,
        })
    }

    /// `size` bytes of `file` from `offset` on, which is a multiple of pages, to read; this process does not see them here.
    ///
    /// # Errors
    /// The runtime's own.
    pub fn of_file(
        runtime: &Arc<Runtime>,
        file: File,
        offset: usize,
        size: usize,
        what: &str,
    ) -> Result<Self, NnapiError> {
        let part = (libc::PROT_READ, offset, size);
        Ok(SharedMemory {
            handle: Arc::new(MemoryHandle::of_fd(runtime, &file.into(), part, what)?),
            bytes: None,
            size,
        })
    }

    /// The first `size` bytes of `file`, to read and write; this process does not see them here.
    ///
    /// # Errors
    /// The runtime's own.
    pub(super) fn over(
        runtime: &Arc<Runtime>,
        file: &File,
        size: usize,
        what: &str,
    ) -> Result<Self, NnapiError> {
        let none = |e: std::io::Error| NnapiError::Memory {
            bytes: size,
            what: what.into(),
            why: e.to_string(),
        };
        let fd = OwnedFd::from(file.try_clone().map_err(none)?);
        let all = (libc::PROT_READ | libc::PROT_WRITE, 0, size);
        Ok(SharedMemory {
            handle: Arc::new(MemoryHandle::of_fd(runtime, &fd, all, what)?),
            bytes: None,
            size,
        })
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self.bytes {
            // SAFETY: there are so many bytes, mapped until this is dropped.
            Some(bytes) => unsafe { std::slice::from_raw_parts(bytes.as_ptr(), self.size) },
            None => &[],
        }
    }

    /// Its bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self.bytes {
            // SAFETY: as in `bytes`, and nobody else has them.
            Some(bytes) => unsafe { std::slice::from_raw_parts_mut(bytes.as_ptr(), self.size) },
            None => &mut [],
        }
    }

    /// Where its bytes are, if this process sees them. What is read and written there is for the caller to order.
    pub(super) fn as_ptr(&self) -> Option<NonNull<u8>> {
        self.bytes
    }

    /// The runtime's object.
    pub fn handle(&self) -> &Arc<MemoryHandle> {
        &self.handle
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if let Some(bytes) = self.bytes {
            // SAFETY: it was mapped with this size, and nobody has its bytes any more.
            unsafe { libc::munmap(bytes.as_ptr().cast(), self.size) };
        }
    }
}
