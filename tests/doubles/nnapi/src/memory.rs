//! Memory that models and executions share with the application.

use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::codes::{BAD_DATA, UNMAPPABLE};
use crate::live::Object;
use crate::model::told;
use crate::settings::Fault;

/// A memory object. What it stands for lives until the last user is gone.
pub struct Memory {
    pub inner: Arc<Inner>,
    /// What goes wrong with the device that it is of.
    pub fault: Option<Fault>,
}

/// What a memory object stands for.
pub struct Inner {
    bytes: NonNull<u8>,
    pub size: usize,
    pub writable: bool,
    /// Of memory that a description made: what it may be used for, and whether something was written.
    pub roles: Option<Roles>,
    owner: Owner,
}

/// What memory of a description may be used for.
pub struct Roles {
    pub roles: BTreeSet<Role>,
    pub written: AtomicBool,
}

/// A use: a compilation's address, whether it is an output, and its number.
pub type Role = (usize, bool, u32);

enum Owner {
    Mapping,
    Allocation(#[allow(dead_code)] Box<[u64]>), // kept, as `bytes` leads into it
    Other(#[allow(dead_code)] Arc<Inner>),      // likewise
}

// SAFETY: the memory is the object's own or shared by the application, which keeps order among those who write it.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Object for Memory {
    fn is_needed(&self) -> bool {
        Arc::strong_count(&self.inner) > 1
    }
}

impl Memory {
    /// Maps `size` bytes of `fd`.
    pub fn of_fd(size: usize, protection: i32, fd: i32, offset: usize) -> Result<Memory, i32> {
        if size == 0 || fd < 0 {
            return Err(BAD_DATA);
        }
        let mut about = std::mem::MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: the structure has room for what is told of the file.
        let end = match unsafe { libc::fstat(fd, about.as_mut_ptr()) } {
            // SAFETY: it was filled.
            0 => unsafe { about.assume_init() }.st_size as usize,
            _ => return Err(BAD_DATA),
        };
        // past its end a file has no memory
        if offset.checked_add(size).is_none_or(|e| e > end) {
            return Err(UNMAPPABLE);
        }
        let offset = libc::off_t::try_from(offset).map_err(|_| BAD_DATA)?;
        // SAFETY: a new mapping disturbs no other memory.
        let bytes = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                protection,
                libc::MAP_SHARED,
                fd,
                offset,
            )
        };
        match NonNull::new(bytes.cast::<u8>()) {
            Some(bytes) if bytes.as_ptr().cast() != libc::MAP_FAILED => Ok(Memory {
                inner: Arc::new(Inner {
                    bytes,
                    size,
                    writable: protection & libc::PROT_WRITE != 0,
                    roles: None,
                    owner: Owner::Mapping,
                }),
                fault: None,
            }),
            _ => Err(UNMAPPABLE),
        }
    }

    /// `size` bytes of the runtime's own for `roles`.
    pub fn of_roles(size: usize, roles: BTreeSet<Role>) -> Memory {
        let roles = Roles {
            roles,
            written: AtomicBool::new(false),
        };
        Memory {
            inner: Inner::allocated(size, Some(roles)),
            fault: None,
        }
    }
}

impl Inner {
    /// `size` bytes of its own.
    pub fn allocated(size: usize, roles: Option<Roles>) -> Arc<Inner> {
        let mut words = vec![0u64; size.div_ceil(8).max(1)].into_boxed_slice();
        Arc::new(Inner {
            bytes: NonNull::new(words.as_mut_ptr().cast()).unwrap_or(NonNull::dangling()),
            size,
            writable: true,
            roles,
            owner: Owner::Allocation(words),
        })
    }

    /// Another object for what `of` stands for.
    pub fn again(of: &Arc<Inner>) -> Arc<Inner> {
        Arc::new(Inner {
            bytes: of.bytes,
            size: of.size,
            writable: of.writable,
            roles: None,
            owner: Owner::Other(of.clone()),
        })
    }

    /// Where its bytes are.
    pub fn as_ptr(&self) -> *mut u8 {
        self.bytes.as_ptr()
    }

    /// Of memory of roles, forgets what was written: what wrote it failed.
    pub fn spoil(&self) {
        if let Some(roles) = &self.roles {
            roles.written.store(false, Ordering::Relaxed);
        }
    }

    /// Whether `length` bytes at `offset` are in it and it may be used so; of memory with roles both are 0.
    pub fn check(&self, role: Option<Role>, offset: usize, length: usize) -> Result<(), i32> {
        match (&self.roles, role) {
            (Some(roles), Some(role)) => {
                let whole = offset == 0 && length == 0;
                (whole && roles.roles.contains(&role))
                    .then_some(())
                    .ok_or(BAD_DATA)
            }
            (Some(_), None) => Err(BAD_DATA),
            (None, _) => {
                let end = offset.checked_add(length);
                end.filter(|e| *e <= self.size && length > 0)
                    .map(|_| ())
                    .ok_or(BAD_DATA)
            }
        }
    }

    /// `length` bytes at `offset`, which were checked.
    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        // SAFETY: the range was checked, and the application writes nothing there while it is used.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(offset), length) }.to_vec()
    }

    /// Writes `data` at `offset`, which was checked.
    pub fn write(&self, offset: usize, data: &[u8]) -> Result<(), i32> {
        if !self.writable {
            return Err(BAD_DATA);
        }
        // SAFETY: the range was checked, and nobody else uses it meanwhile.
        unsafe {
            let to = self.bytes.as_ptr().add(offset);
            std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
        }
        if let Some(roles) = &self.roles {
            roles.written.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Fails with `code` if it is memory of roles that nobody wrote yet.
    pub fn check_written(&self, code: i32) -> Result<(), i32> {
        let unwritten = |r: &Roles| !r.written.load(Ordering::Relaxed);
        match self.roles.as_ref().is_some_and(unwritten) {
            true => told(code, "memory that nothing was written to"),
            false => Ok(()),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if matches!(self.owner, Owner::Mapping) {
            // SAFETY: it was mapped with this size, and nobody uses it any more.
            unsafe { libc::munmap(self.bytes.as_ptr().cast(), self.size) };
        }
    }
}
