//! A strict stand-in for Android's `libneuralnetworks.so`, for tests.
//!
//! It exports the functions of the Neural Networks API up to feature level 8 but for control flow, and those of hardware
//! buffers, which on Android are another library's. It holds every call to what the interface's documentation says:
//! types, counts and scales of operands, the order of calls, lifetimes, null pointers. What no runtime survives, such as
//! the use of an object that was freed, or a run that writes what it reads, ends the process. Operations are computed in
//! 64 bits by code of its own and rounded to the operands' types.
//!
//! A copy of it reads what it is from a file beside it: see [`Settings`]. [`place`] makes such copies.
//!
//! It depends on no package of the workspace, so that it shares no mistake with what is tested against it.
#![allow(unsafe_code)] // pointers of a C interface

mod api;
mod check;
mod codes;
mod compilation;
mod compute;
mod event;
mod execution;
mod hardware;
mod live;
mod memory;
mod model;
mod operand;
mod place;
mod settings;

pub use codes::{OPERATIONS, operation};
pub use place::place;
pub use settings::{Device, DeviceType, Fault, Settings};
