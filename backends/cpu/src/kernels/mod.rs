//! Kernels of the operations that a decoder spends its time in, for several instruction sets with
//! the same results on all of them.
//!
//! # Same bits everywhere
//! A kernel's result depends on its operands only: not on how many tokens share the call, nor on
//! the number of threads, nor on the instructions used ([`Level`]). So a sequence fed in chunks
//! gives the same state as fed whole, and a run on one machine can be repeated on another. (The
//! payload of a NaN is an exception.) Every kernel is therefore written in terms of exactly
//! rounded operations in a stated order, over 16 lanes (see `isa.rs`), and no kernel chooses its
//! order by the size of its work.
//!
//! # Products with quantised weights
//! Activations are quantised in blocks of 32, with a scale `X·f`. `A = max |x|` over the token's columns, `a` over the
//! block's. For weights of 8 bits (Q8_0), whose own error is as small, each block has a scale of its own:
//!
//! ```text
//! X = 1    f = a / 127    q = round(x · (127 / a)), half to even        a ≥ 2⁻¹²⁰
//!          f = 0          q = 0                                         a < 2⁻¹²⁰
//!          f = NaN        q = 0                                         a infinite or NaN
//! ```
//!
//! For weights of fewer bits, a token's scales are powers of two apart, as then a unit that is idle while others
//! multiply integers can scale. `k` is 15 less the power of two that lies between `A` and `a`, rounded down, and not
//! less than 0:
//!
//! ```text
//! X = A / 127 · 2⁻¹⁵    f = 2ᵏ    q = round(x · (127 / A · 2¹⁵⁻ᵏ)), half to even        A ≥ 2⁻¹⁰⁰
//! X = 0                 f = 1     q = 0                                                 A < 2⁻¹⁰⁰
//! X = NaN               f = 1     q = 0                                                 A infinite or NaN
//! ```
//!
//! So a block's scale is at most twice `a / 127`, unless that is below 2⁻¹⁵ of the token's.
//!
//! A weight block reads `d·c + m` with an integer code `c` (Q6_K: a scale `d` for each half of the
//! 32; for K-quants `d` and `m` are products of the block's and the sub-block's scales, exact in
//! binary32). An output is accumulated in binary32 over the blocks in order, starting at 0:
//!
//! ```text
//! acc = fma(d · f, Σ c·q, acc)                       the sum is an exact integer
//! acc = fma(m, f · Σ q, acc)                         formats with a minimum
//! ```
//!
//! multiplied by `X`, and the bias, if any, is added last. Against the same product with activations that are not
//! quantised, the error of an output is at most `Σ_blocks X·f/2 · Σ_i |w_i|` plus rounding in
//! binary32: an error of half a step in each activation.
//!
//! # Products with F32, F16 and BF16 weights
//! `acc = fma(w[k], x[k], acc)` over the columns in order, starting at 0, after conversion of the
//! weight to binary32, which is exact.
//!
//! # Products with weights rounded to BF16
//! Where that is asked for ([`PackedMatrix::round`]), activations are rounded to bfloat16 as well, half to
//! even. Columns are taken in pairs, the odd one first, as the instruction of x86-64 does:
//!
//! ```text
//! acc = fma(w[2i + 1], x[2i + 1], acc)          acc = fma(w[2i], x[2i], acc)
//! ```
//!
//! Weights and activations below 2⁻¹²⁶ in magnitude count as zero. A sum below that may become zero, or
//! not: the other exception, beside NaN, from the same bits everywhere.
//!
//! # Products of F16 weights with activations rounded to F16
//! Where that is asked for ([`PackedMatrix::narrow`]), a token's activations are first multiplied by a power of two
//! that brings the largest to between 2¹⁴ and 2¹⁵: the largest sums and products there are then stay finite. `e` is the
//! exponent of `A`, as its bits have it, but at least 15:
//!
//! ```text
//! y[k] = binary16(x[k] · 2¹⁴¹⁻ᵉ), half to even          acc = fma(w[k], y[k], acc)
//! ```
//!
//! over the columns in order, starting at 0; `acc · 2ᵉ⁻¹⁴¹` is the product, to which the bias is added. Of a token with
//! an infinity or a NaN the largest has the exponent 255, and each output is one of them.
//!
//! [`reference::matmul`] is both written out; the tests hold every path to it.
#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop)] // an index here is a lane, a token or a column

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod activations;
mod buffer;
mod features;
mod gated;
mod generic;
mod isa;
mod linear;
mod matmul;
pub mod ops;
mod pack;
mod plain;
mod raw;
pub mod reference;
mod sources;
mod table;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use anynpu_ir::DType;

pub use buffer::Scratch;
pub use features::{Features, Level};
pub use gated::GatedLinear;
pub use linear::Linear;
pub use pack::PackedMatrix;

use table::Table;

/// Tokens whose largest magnitude is below this count as zero (2⁻¹⁰⁰), where scales are powers of two apart: above it all
/// scales are normal numbers.
const SMALLEST_TOKEN: f32 = f32::from_bits((127 - 100) << 23);
/// Blocks whose largest magnitude is below this count as zero (2⁻¹²⁰), where they have scales of their own: above it
/// `127 / a` is finite.
const SMALLEST_BLOCK: f32 = f32::from_bits((127 - 120) << 23);
/// The largest `k` of a block's scale.
const MOST_POWER: u32 = 15;
/// `2^−MOST_POWER`.
const LEAST_POWER: f32 = f32::from_bits((127 - MOST_POWER) << 23);
/// The least exponent, as bits have it, of what a token's activations are scaled by before they are rounded to F16:
/// from it on that is a normal number, and so is its inverse.
const LEAST_EXPONENT: u32 = 15;

/// Why a kernel refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No kernel takes the element type.
    #[error("no kernel takes {dtype} here; convert the tensor first")]
    DType {
        /// The type.
        dtype: DType,
    },
    /// Rows of a block format are not whole blocks.
    #[error("rows of {cols} elements are not whole blocks of {dtype}, which hold {} each", .dtype.block_len())]
    PartialBlock {
        /// The type.
        dtype: DType,
        /// Elements in a row.
        cols: usize,
    },
    /// An operand has another size than the shapes say.
    #[error("{what}: {expected} elements or bytes expected from the shapes, {found} given")]
    Size {
        /// Which operand.
        what: &'static str,
        /// Size from the shapes.
        expected: usize,
        /// Size given.
        found: usize,
    },
    /// A shape's size does not fit the address space.
    #[error("{what}: {rows} × {cols} does not fit the address space")]
    Overflow {
        /// Which operand.
        what: &'static str,
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
    },
    /// An activation that this build does not know.
    #[error("no kernel computes the activation {asked:?}")]
    Activation {
        /// The activation.
        asked: anynpu_ir::Activation,
    },
    /// Heads that attention can't take.
    #[error(
        "attention with {heads} heads over {kv_heads} key heads of {found} elements: the first must be a multiple of the second, and a head at most {} elements",
        ops::MAX_HEAD_DIM
    )]
    HeadDim {
        /// Elements of a head.
        found: usize,
        /// Query heads.
        heads: usize,
        /// Key heads.
        kv_heads: usize,
    },
    /// Heads that are not whole blocks of the type their rows are kept in.
    #[error(
        "attention over {what} in Q8_0 with {found} elements a head: must be a multiple of {}; keep them in f16",
        DType::Q8_0.block_len()
    )]
    HeadBlocks {
        /// Keys or values.
        what: &'static str,
        /// Elements of a head.
        found: usize,
    },
    /// A token's position is not a row of the keys.
    #[error("position {found} is not one of the {rows} key rows")]
    Position {
        /// The position.
        found: i32,
        /// Key rows there are.
        rows: usize,
    },
    /// A token sees no key at all.
    #[error("a token sees no key: its mask hides every row")]
    NothingVisible,
    /// Memory could not be had.
    #[error("{bytes} bytes of memory could not be allocated; use a smaller model or context")]
    OutOfMemory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// No instruction set has the name.
    #[error("no CPU feature level is called {asked:?}; known are {known}")]
    UnknownFeature {
        /// The name asked for.
        asked: String,
        /// Names that exist.
        known: String,
    },
    /// The processor lacks the instruction set.
    #[error("this processor does not offer {asked}; it offers {available}")]
    MissingFeature {
        /// The level asked for.
        asked: Level,
        /// Names of the levels offered.
        available: String,
    },
}

/// The kernels of one instruction set, chosen once.
#[derive(Clone, Copy)]
pub struct Kernels {
    features: Features,
    table: &'static Table,
}

impl Kernels {
    /// The kernels for `features`.
    pub fn new(features: Features) -> Kernels {
        let table = match features.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => &x86_64::AVX2,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => &x86_64::AVX512,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => &x86_64::AVX512_VNNI,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => &x86_64::AVX512_BF16,
            #[cfg(target_arch = "aarch64")]
            Level::Neon => &aarch64::NEON,
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotprod => &aarch64::NEON_DOTPROD,
            #[cfg(target_arch = "aarch64")]
            Level::NeonI8mm => &aarch64::NEON_I8MM,
            #[cfg(target_arch = "aarch64")]
            Level::NeonDotprodFhm => &aarch64::NEON_DOTPROD_FHM,
            #[cfg(target_arch = "aarch64")]
            Level::NeonI8mmFhm => &aarch64::NEON_I8MM_FHM,
            _ => &generic::GENERIC,
        };
        Kernels { features, table }
    }

    /// Whether products with float weights are faster with the weights rounded to BF16
    /// ([`PackedMatrix::round`]).
    pub fn prefers_bf16(&self) -> bool {
        self.table.bf16_pairs
    }

    /// Whether products with weights in F16 and one token are faster with activations rounded to it
    /// ([`PackedMatrix::narrow`]).
    pub fn prefers_f16(&self) -> bool {
        self.table.f16_products
    }

    /// The instruction set they use.
    pub fn features(&self) -> Features {
        self.features
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernels").field(&self.features).finish()
    }
}

/// Checks `found` against `rows · cols`.
fn check_len(
    what: &'static str,
    rows: usize,
    cols: usize,
    found: usize,
) -> Result<(), KernelError> {
    let expected = rows
        .checked_mul(cols)
        .ok_or(KernelError::Overflow { what, rows, cols })?;
    if found == expected {
        Ok(())
    } else {
        Err(KernelError::Size {
            what,
            expected,
            found,
        })
    }
}

/// Checks a matrix of weights as a file holds it; gives the bytes of a row.
fn check_weights(
    dtype: DType,
    rows: usize,
    cols: usize,
    bytes: &[u8],
) -> Result<usize, KernelError> {
    if !dtype.is_float() && !dtype.is_block() {
        return Err(KernelError::DType { dtype });
    }
    if !cols.is_multiple_of(dtype.block_len()) {
        return Err(KernelError::PartialBlock { dtype, cols });
    }
    let row_bytes = dtype.row_bytes(cols).ok_or(KernelError::Overflow {
        what: "weights",
        rows,
        cols,
    })?;
    check_len("weights", rows, row_bytes, bytes.len())?;
    Ok(row_bytes)
}
