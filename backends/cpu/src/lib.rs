//! The CPU backend.

pub mod kernels;
pub mod pool;
