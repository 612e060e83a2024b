//! Operations.

use std::ffi::c_char;
use std::mem::{offset_of, size_of};

use super::Tensor;

pub const PARAM_SCALAR: u32 = 0;
pub const PARAM_TENSOR: u32 = 1;
pub const OP_CONFIG_V1: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub union ScalarValue {
    pub u32: u32,
    pub i32: i32,
    pub f32: f32,
    pub bool8: u8,
    pub raw: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scalar {
    pub data_type: u32,
    pub value: ScalarValue,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union ParamValue {
    pub scalar: Scalar,
    pub tensor: Tensor,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Param {
    pub kind: u32,
    pub name: *const c_char,
    pub value: ParamValue,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct OpConfig {
    /// [`OP_CONFIG_V1`].
    pub version: u32,
    pub name: *const c_char,
    pub package: *const c_char,
    pub op: *const c_char,
    pub param_count: u32,
    pub params: *const Param,
    pub input_count: u32,
    pub inputs: *const Tensor,
    pub output_count: u32,
    pub outputs: *const Tensor,
}

const _: () = {
    assert!(size_of::<Scalar>() == 16);
    assert!(offset_of!(Scalar, value) == 8);
    assert!(size_of::<Param>() == 160);
    assert!(offset_of!(Param, name) == 8);
    assert!(offset_of!(Param, value) == 16);
    assert!(size_of::<OpConfig>() == 80);
    assert!(offset_of!(OpConfig, name) == 8);
    assert!(offset_of!(OpConfig, package) == 16);
    assert!(offset_of!(OpConfig, op) == 24);
    assert!(offset_of!(OpConfig, param_count) == 32);
    assert!(offset_of!(OpConfig, params) == 40);
    assert!(offset_of!(OpConfig, input_count) == 48);
    assert!(offset_of!(OpConfig, inputs) == 56);
    assert!(offset_of!(OpConfig, output_count) == 64);
    assert!(offset_of!(OpConfig, outputs) == 72);
};
