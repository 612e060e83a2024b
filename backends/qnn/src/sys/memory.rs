//! Memory that the CPU and the chip have in common.

use std::mem::{offset_of, size_of};

/// Memory of the kernel's allocator that a file descriptor stands for.
pub const MEMORY_ION: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MemoryShape {
    pub rank: u32,
    pub dimensions: *const u32,
    pub config: *const u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union MemoryInfo {
    /// Of [`MEMORY_ION`].
    pub fd: i32,
    pub raw: [u64; 2],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemoryDescriptor {
    pub shape: MemoryShape,
    pub data_type: u32,
    pub kind: u32,
    pub info: MemoryInfo,
}

const _: () = {
    assert!(offset_of!(MemoryShape, dimensions) == 8);
    assert!(size_of::<MemoryShape>() == 24);
    assert!(offset_of!(MemoryDescriptor, data_type) == 24);
    assert!(offset_of!(MemoryDescriptor, kind) == 28);
    assert!(offset_of!(MemoryDescriptor, info) == 32);
};
