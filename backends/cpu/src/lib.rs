//! The CPU backend: the device every phone and laptop has, and the yardstick of the others.
//!
//! It runs the whole op set and never says no: hot ops on [`kernels`] chosen at run time for the
//! CPU's features, the rest on the slow, obvious [`mod@reference`]. Results are the same bits whatever
//! the number of tokens in a step, the number of threads and the feature path.
//!
//! It knows the graph and the HAL, never files, models or other backends. A submission is
//! complete when `submit` returns.
//!
//! The three main types: [`CpuDriver`], [`CpuDevice`], [`kernels::PackedMatrix`].

mod cores;
mod device;
mod driver;
mod exec;
mod fuse;
pub mod kernels;
mod lower;
mod place;
pub mod pool;
mod program;
pub mod reference;
mod sequences;
mod sys;
mod weights;

pub use device::CpuDevice;
pub use driver::{CpuDriver, default_threads};
