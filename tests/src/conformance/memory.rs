//! Buffers that show what a device did to them.
#![allow(unsafe_code)] // fills and reads a device's buffers

use std::sync::Arc;

use anynpu_hal::{
    Access, Buffer, BufferDesc, Device, HalError, MemoryKind, read_bytes, write_bytes,
};

/// Bytes after what a run needs, which it must leave alone.
pub(crate) const GUARD: usize = 192;

/// The byte at `i` of what nobody may write: no two neighbours are equal, none is 0.
fn pattern(i: usize) -> u8 {
    (i as u8).wrapping_mul(37) | 1
}

/// A buffer larger than is needed, the rest being a pattern.
///
/// A suite's thread touches one only before it is submitted or after that submission was seen to end; one whose
/// run was not seen to end is kept for good by [`Guarded::keep_for_good`].
#[derive(Debug)]
pub(crate) struct Guarded {
    buffer: Arc<dyn Buffer>,
    needed: usize,
}

impl Guarded {
    /// A buffer that holds `data`.
    pub fn holding(device: &dyn Device, name: &str, data: &[u8]) -> Result<Self, HalError> {
        let made = Guarded::new(device, name, data.len())?;
        made.fill(data)?;
        Ok(made)
    }

    /// A buffer for `needed` bytes that all hold the pattern.
    pub fn blank(device: &dyn Device, name: &str, needed: usize) -> Result<Self, HalError> {
        Guarded::new(device, name, needed)
    }

    fn new(device: &dyn Device, name: &str, needed: usize) -> Result<Self, HalError> {
        let out_of_memory = || HalError::OutOfMemory {
            device: "host".into(),
            bytes: needed as u64,
            what: name.into(),
        };
        let bytes = needed.checked_add(GUARD).ok_or_else(out_of_memory)?;
        let buffer = device.allocate(&desc(device, name, bytes))?;
        let pattern: Vec<u8> = (0..bytes).map(pattern).collect();
        // SAFETY: the buffer was just made, so nothing else uses its memory.
        unsafe { write_bytes(buffer.as_ref(), 0, &pattern)? };
        Ok(Guarded { buffer, needed })
    }

    /// Writes `data` to its start; no more than is needed.
    pub fn fill(&self, data: &[u8]) -> Result<(), HalError> {
        let data = &data[..data.len().min(self.needed)];
        // SAFETY: no run that uses the buffer is going on, as the type says.
        unsafe { write_bytes(self.buffer.as_ref(), 0, data) }
    }

    /// What it holds, without the guard.
    pub fn read(&self) -> Result<Vec<u8>, HalError> {
        let mut bytes = self.all()?;
        bytes.truncate(self.needed);
        Ok(bytes)
    }

    fn all(&self) -> Result<Vec<u8>, HalError> {
        let mut bytes = vec![0; self.needed + GUARD];
        // SAFETY: no run that writes the buffer is going on, as the type says.
        unsafe { read_bytes(self.buffer.as_ref(), 0, &mut bytes)? };
        Ok(bytes)
    }

    /// The first byte past the needed ones that was written, counted from them.
    pub fn trespass(&self) -> Result<Option<usize>, HalError> {
        self.written_from(self.needed)
    }

    /// The first byte from `start` on that does not hold the pattern, counted from there.
    pub fn written_from(&self, start: usize) -> Result<Option<usize>, HalError> {
        let all = self.all()?;
        let rest = all.iter().enumerate().skip(start);
        let written = rest
            .filter(|&(i, &b)| b != pattern(i))
            .map(|(i, _)| i - start);
        Ok(written.min())
    }

    /// The buffer, to be submitted.
    pub fn buffer(&self) -> &Arc<dyn Buffer> {
        &self.buffer
    }

    /// Never frees its memory: a run that was not seen to end may still use it.
    pub fn keep_for_good(&self) {
        std::mem::forget(self.buffer.clone());
    }
}

/// Memory that `device` takes, of its preferred kind if it does not take the host's.
pub(crate) fn desc(device: &dyn Device, name: &str, bytes: usize) -> BufferDesc {
    let memory = &device.capabilities().memory;
    let mut desc = BufferDesc::host(name, bytes);
    if !memory.contains(&MemoryKind::Host)
        && let Some(&kind) = memory.first()
    {
        desc.kind = kind;
    }
    desc
}

/// Whether the memory of `buffer` begins at a multiple of `align`.
pub(crate) fn aligned(buffer: &dyn Buffer, align: usize) -> Result<bool, HalError> {
    // SAFETY: the suite made the buffer for this alone; its memory is not touched.
    let start = unsafe { buffer.map(Access::Read)? };
    let aligned = start.cast::<u8>().as_ptr().addr().is_multiple_of(align);
    buffer.unmap();
    Ok(aligned)
}

/// What `buffer`, of which no run is going on, holds.
pub(crate) fn contents(buffer: &dyn Buffer) -> Result<Vec<u8>, HalError> {
    let mut bytes = vec![0; buffer.desc().bytes];
    // SAFETY: the caller awaited the run that wrote the buffer.
    unsafe { read_bytes(buffer, 0, &mut bytes)? };
    Ok(bytes)
}
