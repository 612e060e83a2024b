//! Configurations. Lists of them are arrays of pointers that end in null.

use std::ffi::c_void;
use std::mem::{offset_of, size_of};

/// The option of a generic configuration that points to one of the backend's own.
pub const CONFIG_CUSTOM: u32 = 0;

macro_rules! generic {
    ($($name:ident),*) => {
        $(
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name {
                pub option: u32,
                pub custom: *const c_void,
            }

            const _: () = {
                assert!(size_of::<$name>() == 16);
                assert!(offset_of!($name, custom) == 8);
            };
        )*
    };
}
generic!(DeviceConfig, ContextConfig, GraphConfig);

/// The HTP's configuration of a device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HtpDeviceConfig([u32; 8]);

impl HtpDeviceConfig {
    /// For the chip of this number. Published versions of the interface have the number after 4 bytes or after 8,
    /// so it stands at both; the option is 0.
    pub const fn soc(id: u32) -> Self {
        HtpDeviceConfig([0, id, id, 0, 0, 0, 0, 0])
    }
}

pub const HTP_CONTEXT_WEIGHT_SHARING: u32 = 1;

/// The HTP's configuration of a context, as used for [`HTP_CONTEXT_WEIGHT_SHARING`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HtpContextConfig {
    pub option: u32,
    pub pad: u32,
    pub enabled: u8,
    pub rest: [u8; 31],
}

const _: () = {
    assert!(offset_of!(HtpContextConfig, enabled) == 8);
};
