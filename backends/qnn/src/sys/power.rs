//! Votes for clocks. The chip follows the highest vote of all programs.

use std::mem::{offset_of, size_of};

use super::ErrorCode;
use super::interface::Unused;

/// The kind of infrastructure that votes are given to.
pub const INFRASTRUCTURE_PERFORMANCE: u32 = 0;

pub const POWER_DCVS_V3: u32 = 1;
pub const POWER_RPC_POLLING: u32 = 3;

/// Clocks rise and fall with what is to be done.
pub const DCVS_ADJUST_UP_DOWN: u32 = 1;
/// Clocks are kept up.
pub const DCVS_PERFORMANCE: u32 = 0x10;

pub const CORNER_MIN: u32 = 0x20;
pub const CORNER_SVS: u32 = 0x40;
pub const CORNER_TURBO: u32 = 0x80;
pub const CORNER_MAX: u32 = 0xa0;

/// Voltages and clocks of core and bus.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DcvsV3 {
    pub context: u32,
    pub set_dcvs: u32,
    pub dcvs: u32,
    pub mode: u32,
    pub set_sleep_latency: u32,
    /// Microseconds.
    pub sleep_latency: u32,
    pub set_sleep_disable: u32,
    pub sleep_disable: u32,
    pub set_bus: u32,
    pub bus_min: u32,
    pub bus_target: u32,
    pub bus_max: u32,
    pub set_core: u32,
    pub core_min: u32,
    pub core_target: u32,
    pub core_max: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union PowerValue {
    /// Of [`POWER_DCVS_V3`].
    pub dcvs: DcvsV3,
    /// Of [`POWER_RPC_POLLING`]: microseconds that a call is waited for busily.
    pub polling: u32,
    pub raw: [u32; 16],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct PowerConfig {
    pub option: u32,
    pub value: PowerValue,
}

/// Functions that votes are given by.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Infrastructure {
    /// [`INFRASTRUCTURE_PERFORMANCE`].
    pub kind: u32,
    pub create_power_config:
        Option<unsafe extern "C" fn(device: u32, core: u32, id: *mut u32) -> ErrorCode>,
    pub destroy_power_config: Option<unsafe extern "C" fn(id: u32) -> ErrorCode>,
    pub set_power_config:
        Option<unsafe extern "C" fn(id: u32, configs: *const *const PowerConfig) -> ErrorCode>,
    pub set_memory_config: Unused,
}

const _: () = {
    assert!(size_of::<DcvsV3>() == 64);
    assert!(offset_of!(DcvsV3, sleep_latency) == 20);
    assert!(offset_of!(DcvsV3, bus_min) == 36);
    assert!(offset_of!(DcvsV3, core_min) == 52);
    assert!(offset_of!(PowerConfig, value) == 4);
    assert!(size_of::<PowerConfig>() == 68);
    assert!(offset_of!(Infrastructure, create_power_config) == 8);
    assert!(offset_of!(Infrastructure, destroy_power_config) == 16);
    assert!(offset_of!(Infrastructure, set_power_config) == 24);
    assert!(offset_of!(Infrastructure, set_memory_config) == 32);
};
