//! Running models with the system's runtime.
//!
//! Each owner holds what it needs alive: an [`Executable`] its model and compilation, and the memory of constants, inputs
//! and outputs, which the runtime neither copies nor counts.
#![allow(unsafe_code)] // the runtime's functions are called here

mod buffers;
mod device;
mod domain;
mod error;
mod executable;
mod fence;
mod flight;
mod memory;
mod model;
mod objects;
mod run;
mod states;
mod store;

pub use buffers::HardwareImport;
pub(crate) use buffers::{Buffers, hardware_buffers};
pub use device::{Device, DeviceType, devices};
pub use domain::{Role, domain, no_domains};
pub use error::NnapiError;
pub use executable::{Bindings, CompileSettings, Executable, MOST_ALIGN, Region, Started};
pub use fence::{Fence, no_fences};
pub(crate) use flight::NnapiQueue;
pub use memory::{MemoryHandle, SharedMemory};
pub use model::{BuiltModel, supported};
pub use objects::Prepared;
pub use run::NnapiModule;
pub(crate) use run::Program;
pub use states::StateBuffer;
pub use store::Store;

/// The function, or an error that names it.
macro_rules! function {
    ($runtime:expr, $name:ident) => {
        $runtime
            .functions
            .$name
            .ok_or($crate::exec::NnapiError::Missing {
                call: stringify!($name),
            })
    };
}
use function;

/// The result of a call.
fn check(call: &'static str, what: &str, code: std::ffi::c_int) -> Result<(), NnapiError> {
    match code {
        crate::sys::NO_ERROR => Ok(()),
        code => Err(NnapiError::Call {
            call,
            what: what.into(),
            code,
        }),
    }
}
