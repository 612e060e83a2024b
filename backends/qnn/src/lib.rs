//! Qualcomm QNN: graphs for the HTP, Qualcomm's neural processor.
//!
//! [`htp`] describes such graphs as plain data, on every host. [`exec`] runs them with Qualcomm's own library,
//! `libQnnHtp.so`, which is loaded at run time; [`sys`] declares its interface. On x86-64 Linux the library
//! computes in an emulator: its numbers count, its times don't.
//!
//! It knows the HAL, never files of models or other backends. The three main types: [`htp::Graph`],
//! [`exec::Device`], [`Soc`].

pub mod exec;
pub mod htp;
mod soc;
pub mod sys;

pub use soc::Soc;
