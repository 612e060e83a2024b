//! Memory that devices read and write.
#![allow(unsafe_code)] // mapping hands out raw memory; see `Buffer::map`

use std::any::Any;
use std::fmt::Debug;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::{HalError, ZeroedMemory};

/// Least alignment of host buffers, in bytes: a cache line, and the widest vector.
pub const HOST_ALIGN: usize = 64;

/// What kind of memory a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MemoryKind {
    /// Ordinary coherent host memory.
    Host,
    /// Anonymous memory with a file descriptor, for drivers in another process.
    MemFd,
    /// A DMA-BUF (also Qualcomm's rpcmem).
    DmaBuf,
    /// An Android hardware buffer.
    AHardwareBuffer,
    /// An Apple IOSurface.
    IoSurface,
    /// Memory only its device can touch.
    DeviceLocal,
}

/// What a buffer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferDesc {
    /// Name for errors and reports.
    pub name: String,
    /// Size.
    pub bytes: usize,
    /// Alignment, a power of two; raised to [`HOST_ALIGN`].
    pub align: usize,
    /// Kind of memory.
    pub kind: MemoryKind,
}

impl BufferDesc {
    /// Host memory of `bytes`.
    pub fn host(name: impl Into<String>, bytes: usize) -> Self {
        BufferDesc {
            name: name.into(),
            bytes,
            align: HOST_ALIGN,
            kind: MemoryKind::Host,
        }
    }
}

/// Memory owned by someone else, to be imported.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExternalHandle {
    /// A file descriptor (memfd or DMA-BUF) that the importer takes over and closes.
    #[cfg(unix)]
    Fd {
        /// The descriptor.
        fd: std::os::fd::OwnedFd,
        /// Where the buffer starts.
        offset: u64,
    },
    /// An existing buffer whose memory is shared; it stays alive as long as the import.
    Shared(Arc<dyn Buffer>),
    /// An Android hardware buffer of bytes. The handle holds a reference of its own, which the importer takes over and
    /// gives back.
    HardwareBuffer(Arc<crate::HardwareMemory>),
}

impl ExternalHandle {
    /// For a device that works in memory of the host, whoever allocated it.
    ///
    /// # Errors
    /// [`HalError::Unsupported`], by `device`, for anything else.
    pub fn into_host(self, device: &str) -> Result<Arc<dyn Buffer>, HalError> {
        match self {
            ExternalHandle::Shared(buffer) if buffer.desc().kind == MemoryKind::Host => Ok(buffer),
            _ => Err(HalError::Unsupported {
                device: device.to_owned(),
                call: "import",
            }),
        }
    }
}

/// What a mapping is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// Memory that a device can read or write.
pub trait Buffer: Debug + Send + Sync + Any {
    /// What it is.
    fn desc(&self) -> &BufferDesc;

    /// Makes the buffer visible to the host and returns its memory.
    ///
    /// # Safety
    /// Until [`Buffer::unmap`], no submission that writes the buffer may be in flight, nor one
    /// that reads it if `access` is [`Access::Write`], and no other mapping may write it. The
    /// memory may not be touched after `unmap`.
    unsafe fn map(&self, access: Access) -> Result<NonNull<[u8]>, HalError>;

    /// Ends a mapping; writes become visible to the device.
    fn unmap(&self);

    /// For a device to recognise its own buffers.
    fn as_any(&self) -> &dyn Any;
}

/// Ordinary host memory, zeroed at first, aligned to at least [`HOST_ALIGN`].
#[derive(Debug)]
pub struct HostBuffer {
    desc: BufferDesc,
    memory: NonNull<u8>,
    owner: Owner,
}

/// What the guards of a [`HostBuffer`] hold.
const GUARD: u8 = 0xa5;

/// What keeps the memory of a [`HostBuffer`].
#[derive(Debug)]
enum Owner {
    /// The buffer.
    Own { _kept: ZeroedMemory },
    /// The buffer, with this many bytes of guards before it, and as many after it.
    Guarded { _kept: ZeroedMemory, guard: usize },
    /// Somebody else's, who keeps it as long as the buffer lives.
    Lent,
    /// Somebody else's, who is kept with it.
    Kept(Arc<dyn Any + Send + Sync>),
    /// A mapping of a file that other processes may see too.
    Mapping { _kept: memmap2::MmapRaw, file: File },
}

// SAFETY: the memory is owned by the buffer and only reachable through `map` and `as_ptr`, whose
// callers vouch for the absence of conflicting access.
unsafe impl Send for HostBuffer {}
// SAFETY: as above; `&HostBuffer` itself never touches the memory.
unsafe impl Sync for HostBuffer {}

impl HostBuffer {
    /// Allocates zeroed memory as `desc` says (its kind must be [`MemoryKind::Host`]).
    pub fn new(desc: BufferDesc) -> Result<Self, HalError> {
        let own = zeroed("HostBuffer::new", &desc, Some(desc.bytes), desc.align)?;
        Ok(HostBuffer {
            desc,
            memory: own.start(),
            owner: Owner::Own { _kept: own },
        })
    }

    /// As [`HostBuffer::new`], with guards before and after it, by which [`HostBuffer::overwritten`] tells whether
    /// anything was written past its ends.
    ///
    /// # Errors
    /// As [`HostBuffer::new`].
    pub fn guarded(desc: BufferDesc) -> Result<Self, HalError> {
        let guard = desc.align.max(HOST_ALIGN);
        let bytes = desc.bytes.checked_add(2 * guard);
        let mut whole = zeroed("HostBuffer::guarded", &desc, bytes, guard)?;
        let memory = whole.as_mut_slice();
        memory[..guard].fill(GUARD);
        memory[guard + desc.bytes..].fill(GUARD);
        // SAFETY: the memory has a guard before the buffer.
        let memory = unsafe { whole.start().add(guard) };
        Ok(HostBuffer {
            desc,
            memory,
            owner: Owner::Guarded {
                _kept: whole,
                guard,
            },
        })
    }

    /// Where the first byte of the guards is that was written, counted from the buffer's own first byte; `None` if none
    /// was, or there are none.
    ///
    /// # Safety
    /// Nothing may write the buffer meanwhile.
    pub unsafe fn overwritten(&self) -> Option<isize> {
        let Owner::Guarded { guard, .. } = self.owner else {
            return None;
        };
        let end = self.desc.bytes as isize;
        let mut all = (-(guard as isize)..0).chain(end..end + guard as isize);
        // SAFETY: guards of this size lie before and after the memory; nobody writes, by the contract.
        all.find(|&at| unsafe { self.memory.as_ptr().offset(at).read_volatile() } != GUARD)
    }

    /// Makes memory of somebody else a buffer.
    ///
    /// # Errors
    /// Memory that is not aligned as `desc` says, or null.
    ///
    /// # Safety
    /// `memory` leads to at least `desc.bytes` bytes that can be read and written as long as the buffer lives, by the rules
    /// of [`Buffer::map`].
    pub unsafe fn lent(desc: BufferDesc, memory: *mut u8) -> Result<Self, HalError> {
        let align = desc.align.max(HOST_ALIGN);
        match NonNull::new(memory).filter(|m| m.as_ptr().addr().is_multiple_of(align)) {
            Some(memory) => Ok(HostBuffer {
                desc,
                memory,
                owner: Owner::Lent,
            }),
            None => Err(HalError::InvalidUse {
                call: "HostBuffer::lent",
                what: format!("memory of '{}'", desc.name),
                found: format!("{memory:p}"),
                expected: format!("an address that {align} divides"),
            }),
        }
    }

    /// Makes memory a buffer that `keeper` keeps: a device recognises by [`HostBuffer::keeper`] what it allocated itself,
    /// and others see plain host memory.
    ///
    /// # Errors
    /// As [`HostBuffer::lent`].
    ///
    /// # Safety
    /// As [`HostBuffer::lent`], as long as `keeper` lives.
    pub unsafe fn kept(
        desc: BufferDesc,
        memory: *mut u8,
        keeper: Arc<dyn Any + Send + Sync>,
    ) -> Result<Self, HalError> {
        // SAFETY: by the contract, as the buffer holds the keeper.
        let mut buffer = unsafe { HostBuffer::lent(desc, memory) }?;
        buffer.owner = Owner::Kept(keeper);
        Ok(buffer)
    }

    /// Who keeps its memory, if it was made by [`HostBuffer::kept`].
    pub fn keeper(&self) -> Option<&Arc<dyn Any + Send + Sync>> {
        match &self.owner {
            Owner::Kept(keeper) => Some(keeper),
            _ => None,
        }
    }

    /// A buffer over the first bytes of `file`, which others may map too. The file must be at least as large as `desc`
    /// says, and stay so.
    ///
    /// # Errors
    /// What keeps the file from being mapped; a size or alignment that the mapping has not.
    pub fn of_file(desc: BufferDesc, file: File) -> Result<Self, HalError> {
        let failed = |why: std::io::Error| HalError::Vendor {
            device: "host".into(),
            call: "map a file".into(),
            code: why.raw_os_error().unwrap_or(0).into(),
            text: format!("{} bytes for '{}': {why}", desc.bytes, desc.name),
        };
        let size = desc.bytes.max(1);
        let length = file.metadata().map_err(failed)?.len();
        if length < size as u64 {
            return Err(HalError::InvalidUse {
                call: "HostBuffer::of_file",
                what: format!("file for '{}'", desc.name),
                found: format!("{length} bytes"),
                expected: format!("{size} bytes"),
            });
        }
        let mapping = memmap2::MmapOptions::new().len(size).map_raw(&file);
        let mapping = mapping.map_err(failed)?;
        let memory = NonNull::new(mapping.as_mut_ptr());
        let align = desc.align.max(HOST_ALIGN);
        let fits = |m: &NonNull<u8>| {
            mapping.len() >= desc.bytes && m.as_ptr().addr().is_multiple_of(align)
        };
        match memory.filter(fits) {
            Some(memory) => Ok(HostBuffer {
                desc,
                memory,
                owner: Owner::Mapping {
                    _kept: mapping,
                    file,
                },
            }),
            None => Err(HalError::InvalidUse {
                call: "HostBuffer::of_file",
                what: format!("mapping for '{}'", desc.name),
                found: format!("{} bytes", mapping.len()),
                expected: format!("{} bytes aligned to {align}", desc.bytes),
            }),
        }
    }

    /// The file whose first bytes are its memory, if it was made by [`HostBuffer::of_file`].
    pub fn file(&self) -> Option<&File> {
        match &self.owner {
            Owner::Mapping { file, .. } => Some(file),
            _ => None,
        }
    }

    /// The memory. Access is bound by the same rules as [`Buffer::map`].
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.as_ptr()
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.desc.bytes
    }

    /// Whether the size is 0.
    pub fn is_empty(&self) -> bool {
        self.desc.bytes == 0
    }
}

/// `bytes` of memory for a buffer that `desc` describes, `None` being too many.
fn zeroed(
    call: &'static str,
    desc: &BufferDesc,
    bytes: Option<usize>,
    align: usize,
) -> Result<ZeroedMemory, HalError> {
    if desc.kind != MemoryKind::Host {
        return Err(HalError::InvalidUse {
            call,
            what: format!("kind of '{}'", desc.name),
            found: format!("{:?}", desc.kind),
            expected: "Host".into(),
        });
    }
    let memory = bytes.and_then(|bytes| ZeroedMemory::new(bytes, align.max(HOST_ALIGN)));
    memory.ok_or_else(|| HalError::OutOfMemory {
        device: "host".into(),
        bytes: desc.bytes as u64,
        what: desc.name.clone(),
    })
}

impl Buffer for HostBuffer {
    fn desc(&self) -> &BufferDesc {
        &self.desc
    }

    unsafe fn map(&self, _access: Access) -> Result<NonNull<[u8]>, HalError> {
        Ok(NonNull::slice_from_raw_parts(self.memory, self.desc.bytes))
    }

    fn unmap(&self) {}

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Copies `data` to `offset` of `buffer`.
///
/// # Safety
/// As [`Buffer::map`] with [`Access::Write`].
pub unsafe fn write_bytes(buffer: &dyn Buffer, offset: usize, data: &[u8]) -> Result<(), HalError> {
    check_range("write_bytes", buffer, offset, data.len())?;
    // SAFETY: the caller vouches for exclusive access, the range was checked, and `data` can't
    // overlap memory that nobody else may hold.
    unsafe {
        let memory = buffer.map(Access::Write)?;
        let to = memory.cast::<u8>().as_ptr().add(offset);
        std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
    }
    buffer.unmap();
    Ok(())
}

/// Copies from `offset` of `buffer` into `out`.
///
/// # Safety
/// As [`Buffer::map`] with [`Access::Read`].
pub unsafe fn read_bytes(
    buffer: &dyn Buffer,
    offset: usize,
    out: &mut [u8],
) -> Result<(), HalError> {
    check_range("read_bytes", buffer, offset, out.len())?;
    // SAFETY: the caller vouches that nobody writes, the range was checked, and `out` is
    // exclusively ours.
    unsafe {
        let memory = buffer.map(Access::Read)?;
        let from = memory.cast::<u8>().as_ptr().add(offset);
        std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), out.len());
    }
    buffer.unmap();
    Ok(())
}

fn check_range(
    call: &'static str,
    buffer: &dyn Buffer,
    offset: usize,
    len: usize,
) -> Result<(), HalError> {
    let size = buffer.desc().bytes;
    if offset.checked_add(len).is_some_and(|end| end <= size) {
        return Ok(());
    }
    Err(HalError::InvalidUse {
        call,
        what: format!("range of buffer '{}'", buffer.desc().name),
        found: format!("{len} bytes at {offset}"),
        expected: format!("within {size} bytes"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_buffers_are_aligned_zeroed_and_bounded() {
        let b = HostBuffer::new(BufferDesc::host("b", 100)).unwrap();
        assert_eq!(b.as_ptr() as usize % HOST_ALIGN, 0);
        let mut out = [1u8; 4];
        // SAFETY: nothing else holds the buffer.
        unsafe {
            read_bytes(&b, 96, &mut out).unwrap();
            assert_eq!(out, [0; 4]);
            write_bytes(&b, 96, &[1, 2, 3, 4]).unwrap();
            read_bytes(&b, 96, &mut out).unwrap();
            assert_eq!(out, [1, 2, 3, 4]);
            assert!(read_bytes(&b, 97, &mut out).is_err());
            assert!(write_bytes(&b, usize::MAX, &[1]).is_err());
        }
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn buffers_that_are_dropped_leave_nothing_behind() {
        // names so long that one left behind each time is told from what other tests hold
        let name = "n".repeat(4 << 20);
        let rounds = || {
            for _ in 0..32 {
                let desc = BufferDesc::host(&name, 100);
                drop(HostBuffer::new(desc.clone()).unwrap());
                drop(HostBuffer::guarded(desc).unwrap());
            }
            crate::heap_bytes().unwrap()
        };
        // what is left behind grows in every round, whatever other tests hold for a while
        let held: [u64; 6] = std::array::from_fn(|_| rounds());
        let grew = held.windows(2).all(|two| two[1] > two[0] + (64 << 20));
        assert!(!grew, "{held:?}");
    }

    #[test]
    fn guards_tell_of_what_is_written_past_the_ends_of_a_buffer() {
        let b = HostBuffer::guarded(BufferDesc::host("b", 100)).unwrap();
        assert_eq!(b.as_ptr() as usize % HOST_ALIGN, 0);
        // SAFETY: nothing else holds the buffer; the guards are 64 bytes each.
        unsafe {
            write_bytes(&b, 0, &[1; 100]).unwrap();
            assert_eq!(b.overwritten(), None);
            b.as_ptr().add(130).write(7);
            assert_eq!(b.overwritten(), Some(130));
            b.as_ptr().sub(1).write(7);
            assert_eq!(b.overwritten(), Some(-1));
        }
        let e = HostBuffer::guarded(BufferDesc::host("huge", usize::MAX - 7)).unwrap_err();
        assert!(matches!(e, HalError::OutOfMemory { .. }), "{e}");
        let mut shared = BufferDesc::host("shared", 64);
        shared.kind = MemoryKind::DmaBuf;
        for make in [HostBuffer::new, HostBuffer::guarded] {
            let e = make(shared.clone()).unwrap_err();
            assert!(matches!(e, HalError::InvalidUse { .. }), "{e}");
        }
    }

    #[test]
    fn memory_that_is_kept_lives_with_the_buffer_and_tells_its_keeper() {
        let own = HostBuffer::new(BufferDesc::host("own", 64)).unwrap();
        let (memory, own) = (own.as_ptr(), Arc::new(own));
        let keeper: Arc<dyn Any + Send + Sync> = own.clone();
        // SAFETY: the keeper has so many bytes.
        let kept = unsafe { HostBuffer::kept(BufferDesc::host("kept", 64), memory, keeper) };
        let kept = kept.unwrap();
        assert_eq!(Arc::strong_count(&own), 2);
        assert!(kept.keeper().unwrap().is::<HostBuffer>() && own.keeper().is_none());
        drop(kept);
        assert_eq!(Arc::strong_count(&own), 1);
    }

    #[test]
    fn an_allocation_that_can_not_be_had_is_an_error() {
        let e = HostBuffer::new(BufferDesc::host("huge", isize::MAX as usize)).unwrap_err();
        assert!(matches!(e, HalError::OutOfMemory { .. }), "{e}");
    }
}
