//! Configurations. Lists of them are arrays of pointers that end in null.

use std::ffi::c_void;
use std::mem::{offset_of, size_of};

use super::Handle;

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
pub const HTP_CONTEXT_GROUP: u32 = 2;

/// Contexts that spill numbers into one memory, as they are not run at once.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HtpContextGroup {
    /// The first context; null for itself.
    pub first: Handle,
    /// The most that any of them spills.
    pub spill_bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union HtpContextValue {
    /// Of [`HTP_CONTEXT_WEIGHT_SHARING`].
    pub enabled: u8,
    /// Of [`HTP_CONTEXT_GROUP`].
    pub group: HtpContextGroup,
    pub raw: [u64; 4],
}

/// The HTP's configuration of a context.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HtpContextConfig {
    pub option: u32,
    pub value: HtpContextValue,
}

const _: () = {
    assert!(offset_of!(HtpContextConfig, value) == 8);
    assert!(size_of::<HtpContextGroup>() == 16);
    assert!(offset_of!(HtpContextGroup, spill_bytes) == 8);
};
