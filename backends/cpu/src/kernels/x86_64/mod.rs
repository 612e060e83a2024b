//! The 16 lanes in AVX2 and AVX-512 registers.

mod avx2;
mod avx512;

pub(super) use avx2::Avx2;
pub(super) use avx512::Avx512;
