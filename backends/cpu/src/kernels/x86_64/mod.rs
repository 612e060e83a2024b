//! The 16 lanes in AVX2 and AVX-512 registers.

mod avx2;
mod avx512;
mod tables;

pub(super) use tables::{AVX2, AVX512, AVX512_BF16, AVX512_VNNI};
