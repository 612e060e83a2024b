//! Running graphs with Qualcomm's library.
//!
//! Each owner holds what it needs alive: an [`Executable`] its [`Context`], that its [`Device`], that the library's
//! backend. The library frees a device under a live context without complaint, so the order is kept here. It also
//! does not look at the sizes of buffers, so [`Executable::execute`] does.
#![allow(unsafe_code)] // the library's functions are called here

mod build;
mod context;
mod device;
mod error;
mod executable;
mod log;
mod memory;
mod metadata;
mod power;
mod run;

pub use context::{Context, ContextOptions};
pub use device::Device;
pub use error::QnnError;
pub use executable::{Executable, Port};
pub(crate) use memory::{HostMemory, Memory, RpcMemory};
pub use metadata::{BinaryInfo, GraphInfo, TensorInfo};
pub(crate) use power::Power;
pub use power::{PowerMode, PowerModeError};
pub use run::QnnModule;
pub(crate) use run::{LoweredPart, QnnQueue};
