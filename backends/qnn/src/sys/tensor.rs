//! Tensors.

use std::ffi::{c_char, c_void};
use std::mem::{align_of, offset_of, size_of};

use super::Handle;

pub const TENSOR_V2: u32 = 2;
pub const TENSOR_APP_WRITE: u32 = 0;
pub const TENSOR_APP_READ: u32 = 1;
pub const TENSOR_NATIVE: u32 = 3;
pub const TENSOR_STATIC: u32 = 4;
pub const DATA_FORMAT_FLAT: u32 = 0;

pub const ENCODING_DEFINED: u32 = 1;
pub const ENCODING_UNDEFINED: u32 = 0x7fff_ffff;
pub const ENCODING_SCALE_OFFSET: u32 = 0;
pub const ENCODING_AXIS: u32 = 1;
pub const ENCODING_BW_AXIS: u32 = 3;
pub const ENCODING_BLOCK: u32 = 4;
pub const ENCODING_EXPANSION: u32 = 5;
/// Factors of blocks are a byte each.
pub const FACTORS_U8: u32 = 0;

/// `real = scale · (stored + offset)`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ScaleOffset {
    pub scale: f32,
    pub offset: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AxisScaleOffset {
    pub axis: i32,
    pub count: u32,
    pub scales: *const ScaleOffset,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BwAxisScaleOffset {
    pub bits: u32,
    pub axis: i32,
    pub count: u32,
    pub scales: *const f32,
    pub offsets: *const i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BlockEncoding {
    /// One a dimension.
    pub block: *const u32,
    pub scales: *const ScaleOffset,
}

/// A scale a channel, and in each of its blocks that times a factor.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BlockwiseExpansion {
    pub axis: i32,
    pub scales: *const ScaleOffset,
    pub blocks_per_channel: u32,
    pub factor_bits: u32,
    /// [`FACTORS_U8`].
    pub factor_type: u32,
    pub factors: *const u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union Encoding {
    pub scale_offset: ScaleOffset,
    pub axis: AxisScaleOffset,
    pub bw_axis: BwAxisScaleOffset,
    pub block: BlockEncoding,
    pub expansion: *const BlockwiseExpansion,
    pub raw: [u64; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct QuantizeParams {
    pub definition: u32,
    pub kind: u32,
    pub encoding: Encoding,
}

impl QuantizeParams {
    /// Of tensors whose elements stand for themselves.
    pub const UNDEFINED: QuantizeParams = QuantizeParams {
        definition: ENCODING_UNDEFINED,
        kind: ENCODING_UNDEFINED,
        encoding: Encoding { raw: [0; 4] },
    };
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ClientBuffer {
    pub data: *mut c_void,
    pub bytes: u32,
}

/// Contents are in memory that the context was told of.
pub const MEMORY_HANDLE: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub union TensorContent {
    pub client: ClientBuffer,
    /// Of [`MEMORY_HANDLE`].
    pub handle: Handle,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct TensorV2 {
    pub id: u32,
    pub name: *const c_char,
    pub kind: u32,
    pub data_format: u32,
    pub data_type: u32,
    pub quantize: QuantizeParams,
    pub rank: u32,
    pub dimensions: *const u32,
    /// 0: the memory of `client`; or [`MEMORY_HANDLE`].
    pub memory_type: u32,
    pub content: TensorContent,
    pub is_dynamic: *const u8,
    pub sparse: [u32; 3],
    pub is_produced: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tensor {
    /// [`TENSOR_V2`].
    pub version: u32,
    pub v2: TensorV2,
}

const _: () = {
    assert!(size_of::<ScaleOffset>() == 8);
    assert!(size_of::<AxisScaleOffset>() == 16);
    assert!(size_of::<BwAxisScaleOffset>() == 32);
    assert!(offset_of!(BwAxisScaleOffset, scales) == 16);
    assert!(offset_of!(BwAxisScaleOffset, offsets) == 24);
    assert!(size_of::<BlockEncoding>() == 16);
    assert!(size_of::<BlockwiseExpansion>() == 40);
    assert!(offset_of!(BlockwiseExpansion, scales) == 8);
    assert!(offset_of!(BlockwiseExpansion, blocks_per_channel) == 16);
    assert!(offset_of!(BlockwiseExpansion, factor_bits) == 20);
    assert!(offset_of!(BlockwiseExpansion, factor_type) == 24);
    assert!(offset_of!(BlockwiseExpansion, factors) == 32);
    assert!(size_of::<QuantizeParams>() == 40);
    assert!(offset_of!(QuantizeParams, encoding) == 8);
    assert!(size_of::<ClientBuffer>() == 16);
    assert!(size_of::<TensorV2>() == 136);
    assert!(offset_of!(TensorV2, name) == 8);
    assert!(offset_of!(TensorV2, kind) == 16);
    assert!(offset_of!(TensorV2, data_format) == 20);
    assert!(offset_of!(TensorV2, data_type) == 24);
    assert!(offset_of!(TensorV2, quantize) == 32);
    assert!(offset_of!(TensorV2, rank) == 72);
    assert!(offset_of!(TensorV2, dimensions) == 80);
    assert!(offset_of!(TensorV2, memory_type) == 88);
    assert!(offset_of!(TensorV2, content) == 96);
    assert!(size_of::<TensorContent>() == 16);
    assert!(offset_of!(TensorV2, is_dynamic) == 112);
    assert!(offset_of!(TensorV2, sparse) == 120);
    assert!(offset_of!(TensorV2, is_produced) == 132);
    assert!(size_of::<Tensor>() == 144);
    assert!(offset_of!(Tensor, v2) == 8);
    assert!(align_of::<Tensor>() == 8);
};
