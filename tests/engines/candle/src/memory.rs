//! Bytes of bound buffers.
#![allow(unsafe_code)] // buffers hand out raw memory

use anynpu_hal::{Buffer, HalError, read_bytes, write_bytes};

/// Copies `bytes` from `offset` of `buffer`.
///
/// # Errors
/// As [`read_bytes`], and where there is no memory for them.
pub(crate) fn read(buffer: &dyn Buffer, offset: usize, bytes: usize) -> Result<Vec<u8>, HalError> {
    let mut out = Vec::new();
    if out.try_reserve_exact(bytes).is_err() {
        return Err(HalError::OutOfMemory {
            device: crate::NAME.into(),
            bytes: bytes as u64,
            what: format!("a copy of '{}'", buffer.desc().name),
        });
    }
    out.resize(bytes, 0);
    // SAFETY: the buffer is bound to the submission that runs, whose caller keeps others from writing it, and
    // this queue runs one submission at a time.
    unsafe { read_bytes(buffer, offset, &mut out)? }
    Ok(out)
}

/// Copies `data` to `offset` of `buffer`.
///
/// # Errors
/// As [`write_bytes`].
pub(crate) fn write(buffer: &dyn Buffer, offset: usize, data: &[u8]) -> Result<(), HalError> {
    // SAFETY: as in `read`; nothing that is written is bound twice, which was checked before the run.
    unsafe { write_bytes(buffer, offset, data) }
}
