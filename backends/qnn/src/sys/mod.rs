//! Qualcomm's C interface, declared by hand from its published description: core API 2.36 to 2.40, on 64-bit
//! little-endian systems, where all enumerations have 32 bits.
//!
//! Sizes and offsets are asserted when this is compiled. Functions are in a table that newer libraries extend at
//! its end; every entry may be missing.
#![allow(unsafe_code)] // this is where the library's memory and functions are touched
#![allow(missing_docs)] // names and values are the interface's own

mod config;
mod interface;
mod library;
mod memory;
mod op;
mod power;
mod tensor;

pub use config::{
    CONFIG_CUSTOM, ContextConfig, DeviceConfig, GraphConfig, HTP_CONTEXT_GROUP,
    HTP_CONTEXT_WEIGHT_SHARING, HtpContextConfig, HtpContextGroup, HtpContextValue,
    HtpDeviceConfig,
};
pub use interface::{
    ErrorCode, HTP_BACKEND, Handle, Interface, LogCallback, OpName, Providers, SystemInterface,
    SystemProviders, SystemTable, Table, Version,
};
pub use library::{LoadError, Loaded, Quiet, load};
pub use memory::{MEMORY_ION, MemoryDescriptor, MemoryInfo, MemoryShape};
pub use op::{
    OP_CONFIG_V1, OpConfig, PARAM_SCALAR, PARAM_TENSOR, Param, ParamValue, Scalar, ScalarValue,
};
pub use power::{
    CORNER_MAX, CORNER_MIN, CORNER_SVS, CORNER_TURBO, DCVS_ADJUST_UP_DOWN, DCVS_PERFORMANCE,
    DcvsV3, INFRASTRUCTURE_PERFORMANCE, Infrastructure, POWER_DCVS_V3, POWER_RPC_POLLING,
    PowerConfig, PowerValue,
};
pub use tensor::{
    AxisScaleOffset, BlockEncoding, BlockwiseExpansion, BwAxisScaleOffset, ClientBuffer,
    DATA_FORMAT_FLAT, ENCODING_AXIS, ENCODING_BLOCK, ENCODING_BW_AXIS, ENCODING_DEFINED,
    ENCODING_EXPANSION, ENCODING_SCALE_OFFSET, ENCODING_UNDEFINED, Encoding, FACTORS_U8,
    MEMORY_HANDLE, QuantizeParams, ScaleOffset, TENSOR_APP_READ, TENSOR_APP_WRITE, TENSOR_NATIVE,
    TENSOR_STATIC, TENSOR_V2, Tensor, TensorContent, TensorV2,
};
