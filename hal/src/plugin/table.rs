//! A plugin's table of functions, checked.
#![allow(unsafe_code)] // a table that a plugin points to is read

use anynpu_abi::*;

use super::PluginError;
use super::answers::{is_name, read_struct, read_text};

/// A plugin's functions: those that every plugin has, and those that it may have.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub name: String,
    pub version: String,
    /// Of the version that both sides use.
    pub minor: u16,
    raw: anynpu_backend,
}

// SAFETY: the pointers are a plugin's functions and its context, which the interface lets any thread use.
unsafe impl Send for Table {}
// SAFETY: as for Send.
unsafe impl Sync for Table {}

/// Takes functions that must be there out of the table.
macro_rules! required {
    ($($name:ident: $type:ty;)*) => {
        impl Table {
            $(
                /// The plugin's function of this name.
                pub fn $name(&self) -> $type {
                    // its presence was checked when the table was read
                    self.raw.$name.unwrap_or_else(|| unreachable!("checked"))
                }
            )*

            fn missing(raw: &anynpu_backend) -> Option<&'static str> {
                $(if raw.$name.is_none() {
                    return Some(stringify!($name));
                })*
                None
            }
        }
    };
}

type Tell = anynpu_tell_verdict;
type Device = *mut anynpu_device;
type Out = *mut anynpu_message;

required! {
    enumerate: unsafe extern "C" fn(*mut c_void, anynpu_tell_device, *mut c_void, Out) -> anynpu_status;
    open: unsafe extern "C" fn(*mut c_void, *const anynpu_open_request, *mut Device, Out) -> anynpu_status;
    close: unsafe extern "C" fn(Device);
    support: unsafe extern "C" fn(Device, *const anynpu_graph, Tell, *mut c_void, Out) -> anynpu_status;
    compile: unsafe extern "C" fn(Device, *const anynpu_compile_request, *mut *mut anynpu_module, Out) -> anynpu_status;
    destroy_module: unsafe extern "C" fn(Device, *mut anynpu_module);
    submit: unsafe extern "C" fn(Device, *const anynpu_submission, Out) -> anynpu_status;
}

impl Table {
    /// The table at `table`, which a plugin at `path` gave.
    ///
    /// # Errors
    /// Another version, a table that is too short, functions that are missing, a name that is none.
    ///
    /// # Safety
    /// `table` is null or points to a table as the interface has it, whatever its version and size.
    pub unsafe fn read(table: *const anynpu_backend, path: &str) -> Result<Table, PluginError> {
        let path = || path.to_owned();
        let own = (ANYNPU_ABI_MAJOR, ANYNPU_ABI_MINOR);
        if table.is_null() {
            return Err(PluginError::Refused {
                path: path(),
                major: own.0,
                minor: own.1,
            });
        }
        // SAFETY: by the contract, size and versions stand first, whatever follows.
        let (size, major) = unsafe {
            let size = (&raw const (*table).struct_size).read_unaligned();
            (size as usize, (&raw const (*table).major).read_unaligned())
        };
        if major != own.0 {
            return Err(PluginError::Version {
                path: path(),
                found: major,
                expected: own.0,
            });
        }
        // SAFETY: the table has the size that it tells.
        let raw = unsafe { read_struct(table, ANYNPU_BACKEND_SIZE_1_0) };
        let mut raw = raw.ok_or_else(|| PluginError::Short {
            path: path(),
            found: size,
            expected: ANYNPU_BACKEND_SIZE_1_0,
        })?;
        if raw.minor == 0 {
            // what stands past the end of 1.0 is not of that version, whatever the size says
            raw.counters = None;
            raw.link = None;
        }
        if let Some(member) = Table::missing(&raw) {
            return Err(PluginError::Missing {
                path: path(),
                member,
            });
        }
        let together = |all: &[(&'static str, bool)]| {
            let some = all.iter().any(|m| m.1);
            all.iter().find(|m| some && !m.1).map(|m| m.0)
        };
        let blobs = [
            ("compatibility", raw.compatibility.is_some()),
            ("save", raw.save.is_some()),
            ("check", raw.check.is_some()),
            ("load", raw.load.is_some()),
        ];
        let buffers = [
            ("allocate", raw.allocate.is_some()),
            ("free", raw.free.is_some()),
            ("map", raw.map.is_some()),
            ("unmap", raw.unmap.is_some()),
        ];
        if let Some(member) = together(&blobs).or_else(|| together(&buffers)) {
            return Err(PluginError::Missing {
                path: path(),
                member,
            });
        }
        // SAFETY: texts of a table live as long as it.
        let (name, version) = unsafe { (read_text(raw.name), read_text(raw.version)) };
        if !is_name(&name) {
            return Err(PluginError::Answer {
                driver: path(),
                what: "the driver's name".into(),
                found: format!("'{name}'"),
                expected: "1 to 64 lower-case letters, digits, '-' and '_'".into(),
            });
        }
        Ok(Table {
            name,
            version,
            minor: raw.minor.min(own.1),
            raw,
        })
    }

    /// The members that a plugin may leave out.
    pub fn optional(&self) -> &anynpu_backend {
        &self.raw
    }

    /// Whether the plugin has memory of its own.
    pub fn has_memory(&self) -> bool {
        self.raw.allocate.is_some()
    }
}
