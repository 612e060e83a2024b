//! Memory that the runtime and drivers see too.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;

use anynpu_hal::{HalError, WeightSource};

use super::{NnapiError, check, function};
use crate::model::{ConstantId, Constants};
use crate::sys::{self, Runtime};

/// Memory with a file descriptor, seen by the runtime, and by this process if it is to write it.
#[derive(Debug)]
pub struct SharedMemory {
    runtime: Arc<Runtime>,
    handle: *mut sys::Memory,
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
        // SAFETY: a new mapping disturbs no other memory.
        let bytes = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if bytes == libc::MAP_FAILED {
            return Err(none(std::io::Error::last_os_error()));
        }
        let mut memory = SharedMemory {
            runtime: runtime.clone(),
            handle: std::ptr::null_mut(),
            bytes: NonNull::new(bytes.cast()),
            size,
        };
        memory.give(&fd, libc::PROT_READ | libc::PROT_WRITE, what)?;
        Ok(memory)
    }

    /// All of `file`, to read; this process does not see it here.
    ///
    /// # Errors
    /// The runtime's own.
    pub fn of_file(runtime: &Arc<Runtime>, file: File, what: &str) -> Result<Self, NnapiError> {
        let length = file.metadata().map_err(|e| NnapiError::Memory {
            bytes: 0,
            what: what.into(),
            why: e.to_string(),
        })?;
        let mut memory = SharedMemory {
            runtime: runtime.clone(),
            handle: std::ptr::null_mut(),
            bytes: None,
            size: usize::try_from(length.len()).unwrap_or(usize::MAX),
        };
        memory.give(&file.into(), libc::PROT_READ, what)?;
        Ok(memory)
    }

    /// Tells the runtime of it, which keeps the memory, not the descriptor.
    fn give(&mut self, fd: &OwnedFd, protection: i32, what: &str) -> Result<(), NnapiError> {
        let create = function!(self.runtime, memory_create_from_fd)?;
        // SAFETY: the descriptor has so many bytes; the function writes a pointer to a new object.
        let code = unsafe {
            create(
                self.size,
                protection,
                fd.as_raw_fd(),
                0,
                &raw mut self.handle,
            )
        };
        check("memory_create_from_fd", what, code)
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

    pub(super) fn handle(&self) -> *const sys::Memory {
        self.handle
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        if let Some(free) = self.runtime.functions.memory_free
            && !self.handle.is_null()
        {
            // SAFETY: the runtime made the object, and those who use it hold this alive.
            unsafe { free(self.handle) };
        }
        if let Some(bytes) = self.bytes {
            // SAFETY: it was mapped with this size, and nobody has its bytes any more.
            unsafe { libc::munmap(bytes.as_ptr().cast(), self.size) };
        }
    }
}

/// The constants of a module's models, in memory that the runtime reads in place: those that a file has as they are
/// needed in the file, the rest in memory of their own.
#[derive(Debug)]
pub struct Store {
    memories: Vec<SharedMemory>,
    /// Of each constant, which memory, from where on, and how many bytes.
    places: Vec<(usize, usize, usize)>,
    made: u64,
}

impl Store {
    /// The contents of `constants`. `progress` is called with how many of how many there are, and stops the work by
    /// `false`.
    ///
    /// # Errors
    /// Weights that can't be had, no memory, [`HalError::Cancelled`].
    pub fn new(
        runtime: &Arc<Runtime>,
        constants: &Constants,
        weights: &dyn WeightSource,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Store, NnapiError> {
        let mut files: BTreeMap<PathBuf, Option<usize>> = BTreeMap::new();
        let mut memories = Vec::new();
        let (mut places, mut made, mut size) = (Vec::new(), Vec::new(), 0usize);
        for constant in constants.all() {
            let span = constant.span(weights);
            let place = span.and_then(|span| {
                let memory = files.entry(span.path.clone()).or_insert_with(|| {
                    // one that the runtime does not take is copied
                    let file = File::open(&span.path).ok()?;
                    let shown = span.path.display().to_string();
                    memories.push(SharedMemory::of_file(runtime, file, &shown).ok()?);
                    Some(memories.len() - 1)
                });
                Some(((*memory)?, usize::try_from(span.offset).ok()?))
            });
            match place {
                Some((memory, offset)) => places.push((memory, offset, constant.bytes)),
                None => {
                    made.push(places.len());
                    places.push((usize::MAX, size, constant.bytes));
                    size = size.saturating_add(constant.bytes.next_multiple_of(64));
                }
            }
        }
        let mut own = SharedMemory::new(runtime, size, "constants")?;
        let total = made.len() as u64;
        for (at, done) in made.into_iter().zip(0..) {
            if !progress(done, total) {
                return Err(NnapiError::Weight(HalError::Cancelled {
                    what: "compiling".into(),
                }));
            }
            let (memory, offset, bytes) = &mut places[at];
            *memory = memories.len();
            let contents = constants.all()[at].contents(weights);
            let contents = contents.map_err(NnapiError::Weight)?;
            let to = own.bytes_mut().get_mut(*offset..*offset + *bytes);
            match to {
                Some(to) if to.len() == contents.len() => to.copy_from_slice(&contents),
                _ => {
                    return Err(NnapiError::Model {
                        what: format!("constant {at}"),
                        found: format!("{} bytes", contents.len()),
                        expected: format!("{bytes} bytes"),
                    });
                }
            }
        }
        progress(total, total);
        memories.push(own);
        Ok(Store {
            memories,
            places,
            made: size as u64,
        })
    }

    /// Memory with zeros for every constant: enough to ask drivers about models.
    ///
    /// # Errors
    /// There is none.
    pub fn blank(runtime: &Arc<Runtime>, constants: &Constants) -> Result<Store, NnapiError> {
        let all = constants.all();
        let most = all.iter().map(|c| c.bytes).max().unwrap_or(0);
        Ok(Store {
            memories: vec![SharedMemory::new(runtime, most, "constants")?],
            places: all.iter().map(|c| (0, 0, c.bytes)).collect(),
            made: 0,
        })
    }

    /// Bytes in memory of their own.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// The first `bytes` of constant `id`: the memory, and where they begin.
    pub(super) fn place(
        &self,
        id: ConstantId,
        bytes: usize,
    ) -> Option<(*const sys::Memory, usize)> {
        let (memory, offset, has) = *self.places.get(id.0 as usize)?;
        let memory = self.memories.get(memory)?;
        (bytes <= has).then(|| (memory.handle(), offset))
    }
}
