//! The C interface of Android's Neural Networks API, declared by hand from its published description.
//!
//! All functions are looked for by name when the runtime is loaded, as older ones have fewer.
#![allow(unsafe_code)] // this is where the runtime's memory and functions are touched
#![allow(missing_docs)] // names and values are the interface's own

mod codes;
mod functions;
mod library;

use std::marker::{PhantomData, PhantomPinned};

pub use codes::*;
pub use functions::Functions;
pub use library::{LIBRARY, LoadError, Runtime, load};

/// Objects of the runtime, known by their addresses alone.
macro_rules! opaque {
    ($($name:ident)+) => {
        $(
            #[repr(C)]
            #[derive(Debug)]
            pub struct $name {
                _bytes: [u8; 0],
                _marker: PhantomData<(*mut u8, PhantomPinned)>,
            }
        )+
    };
}
opaque!(Model Compilation Execution Memory MemoryDesc Burst Event Device);

/// `ANeuralNetworksOperandType`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OperandType {
    pub ty: i32,
    pub dimension_count: u32,
    pub dimensions: *const u32,
    pub scale: f32,
    pub zero_point: i32,
}

/// `ANeuralNetworksSymmPerChannelQuantParams`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SymmPerChannelQuantParams {
    pub channel_dim: u32,
    pub scale_count: u32,
    pub scales: *const f32,
}

#[cfg(test)]
mod tests {
    use std::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn structures_are_laid_out_as_those_of_the_ndk() {
        use ndk_sys::ANeuralNetworksOperandType as TheirType;
        use ndk_sys::ANeuralNetworksSymmPerChannelQuantParams as TheirChannels;
        let own = [
            size_of::<OperandType>(),
            align_of::<OperandType>(),
            offset_of!(OperandType, ty),
            offset_of!(OperandType, dimension_count),
            offset_of!(OperandType, dimensions),
            offset_of!(OperandType, scale),
            offset_of!(OperandType, zero_point),
        ];
        let theirs = [
            size_of::<TheirType>(),
            align_of::<TheirType>(),
            offset_of!(TheirType, type_),
            offset_of!(TheirType, dimensionCount),
            offset_of!(TheirType, dimensions),
            offset_of!(TheirType, scale),
            offset_of!(TheirType, zeroPoint),
        ];
        assert_eq!(own, theirs);
        let own = [
            size_of::<SymmPerChannelQuantParams>(),
            align_of::<SymmPerChannelQuantParams>(),
            offset_of!(SymmPerChannelQuantParams, channel_dim),
            offset_of!(SymmPerChannelQuantParams, scale_count),
            offset_of!(SymmPerChannelQuantParams, scales),
        ];
        let theirs = [
            size_of::<TheirChannels>(),
            align_of::<TheirChannels>(),
            offset_of!(TheirChannels, channelDim),
            offset_of!(TheirChannels, scaleCount),
            offset_of!(TheirChannels, scales),
        ];
        assert_eq!(own, theirs);
    }
}
