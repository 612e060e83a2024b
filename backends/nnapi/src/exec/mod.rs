//! Running models with the system's runtime.
//!
//! Each owner holds what it needs alive: an [`Executable`] its model and compilation, and the memory of constants, inputs
//! and outputs, which the runtime neither copies nor counts.
#![allow(unsafe_code)] // the runtime's functions are called here

mod device;
mod error;
mod executable;
mod memory;
mod model;
mod run;

pub use device::{Device, DeviceType, devices};
pub use error::NnapiError;
pub use executable::{CompileSettings, Executable, MOST_ALIGN};
pub use memory::{SharedMemory, Store};
pub use model::{BuiltModel, supported};
pub use run::NnapiModule;
pub(crate) use run::{NnapiQueue, Program};

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
