//! Qualcomm QNN: graphs for the HTP, Qualcomm's neural processor.
//!
//! [`htp`] describes such graphs as plain data and [`lower`] makes them of models' nodes, with [`weights`] in several
//! forms, on every host. [`exec`] runs them with Qualcomm's own library, `libQnnHtp.so`, which is loaded at run time;
//! [`sys`] declares its interface, and [`sweep`] tries what it computes right. On x86-64 Linux the library computes in an
//! emulator: its numbers count, its times don't.
//!
//! It knows the graph and the HAL, never files of models or other backends. The three main types: [`QnnDriver`],
//! [`htp::Graph`], [`Soc`].

mod activations;
mod device;
mod driver;
pub mod exec;
pub mod htp;
pub mod lower;
mod parts;
mod soc;
pub mod sweep;
pub mod sys;
pub mod weights;

pub use activations::{Calibration, FixedFormError, Ranges, RangesError};
pub use device::QnnDevice;
pub use driver::{DEFAULT_SOC, QnnDriver};
pub use exec::PowerMode;
pub use soc::Soc;
pub use weights::WeightForm;
