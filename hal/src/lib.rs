//! The hardware abstraction layer of anynpu.
//!
//! A [`Driver`] finds devices and opens them; a [`Device`] says what it can run and why not,
//! compiles entries of a graph into a [`Module`] and runs them through its [`Queue`]. Choosing a
//! device is not done here, and a device never falls back to another silently.
//!
//! This crate knows devices, never files, models or passes; of the workspace it depends on
//! `anynpu-ir` alone. Everything is object-safe, so drivers can come from outside the tree.
//!
//! The contract: callers bind what [`EntryInfo`] asks for; a device checks sizes again at
//! submit, because a short buffer must never become a wild write. Errors are values with a
//! [`Scope`] that says what to do; nothing here panics on a device's behaviour.
//!
//! The three main types: [`Driver`], [`Device`], [`HalError`].

mod buffer;
mod capabilities;
mod device;
pub mod driver;
mod error;
mod form;
mod hardware_buffer;
mod heap;
pub mod isolate;
mod library;
mod link;
mod module;
pub mod plugin;
mod queue;
mod registry;
mod support;
mod timeline;
mod zeroed;

pub use buffer::{
    Access, Buffer, BufferDesc, ExternalHandle, HOST_ALIGN, HostBuffer, MemoryKind, read_bytes,
    write_bytes,
};
pub use capabilities::{
    Capabilities, ClaimedRates, Features, FixedPoint, FixedShapes, StateSupport,
};
pub use device::{
    BlobCompatibility, CompileOptions, Device, DeviceInfo, DeviceKind, FileSpan, WeightSource,
    WeightView,
};
pub use driver::{Driver, DriverVariable, ExposedDevice, OpenOptions, Unavailable};
pub use error::{HalError, Scope};
pub use form::{FormError, FormReader, FormWriter, MOST as MOST_IN_FORMS, has_form};
pub use hardware_buffer::{HardwareBuffers, HardwareMemory};
pub use heap::heap_bytes;
pub use library::{Library, LibraryError};
pub use link::{Link, LinkMode};
pub use module::{Bounds, Entry, EntryInfo, Extent, MemoryNeed, Module, Port, StatePort};
pub use queue::{Counters, Queue, Sequence, Submission};
pub use registry::{Registry, RegistryError};
pub use support::{Reason, ReasonCode, Support};
pub use timeline::{Point, Signalled, Timeline};
pub use zeroed::ZeroedMemory;
