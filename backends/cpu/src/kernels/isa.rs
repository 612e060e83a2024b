//! The machine that kernels are written for: 16 lanes of 32 bits, or 64 of 8.
//!
//! Every kernel is written once over [`Isa`]. An implementation maps the 16 lanes onto what its
//! processor has (one 512-bit register, two of 256, four of 128, an array), and each operation is
//! exactly rounded as IEEE 754 says, so the same kernel gives the same bits everywhere.
//!
//! A value of an implementing type is proof that the processor has its instructions: the types
//! are made in one place each, by unsafe functions whose callers have checked. That makes the
//! arithmetic here safe to call.
//!
//! Kernel bodies are `#[inline(always)]` and end up inside functions marked with the instructions
//! of their `Isa` (see [`super::table`]); they use no closures or iterator adapters around vector
//! values, which might stay outside those functions.

/// Defines methods of an [`Isa`] whose bodies are intrinsics of its processor.
macro_rules! intrinsics {
    ($(fn $name:ident(self $(, $arg:ident: $ty:ty)*) $(-> $ret:ty)? $body:block)*) => {
        $(
            #[inline(always)]
            fn $name(self $(, $arg: $ty)*) $(-> $ret)? {
                // SAFETY: `self` exists only where the processor has the instructions, and loads
                // and stores touch no more than the arrays that the references are to.
                unsafe { $body }
            }
        )*
    };
}
pub(super) use intrinsics;

use super::activations;
use super::plain::{self, Column, PlainPair};
use super::sources::Source;

/// Token-interleaved quantised activations of one block of 32 for `N` tokens.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct XBlock<const N: usize> {
    /// `q[j][t]` are elements `4j .. 4j + 4` of token `t`; but see [`XBlock::quad_mut`].
    pub q: [[[i8; 4]; N]; 8],
    /// What the block's scale is, divided by the token's: `2ᵏ` as [`Isa::power`] gives it, or any number.
    pub factor: [f32; N],
    /// That times `Σq`.
    pub sum: [f32; N],
    /// `−Σq · 2^SUM_SHIFT` ([`Isa::SUM_SHIFT`]).
    pub minus_sum: [i32; N],
    /// The same over the second half of the block.
    pub minus_sum_high: [i32; N],
}

impl<const N: usize> XBlock<N> {
    /// Elements `4j .. 4j + 4` of token `t`. Where [`Isa::PAIRED`] holds, the memory of two quads
    /// `2i`, `2i + 1` has for each token its elements `8i .. 8i + 8` side by side.
    #[inline(always)]
    pub fn quad_mut<I: Isa>(&mut self, j: usize, t: usize) -> &mut [i8; 4] {
        if I::PAIRED {
            &mut self.q.as_flattened_mut()[(j / 2 * N + t) * 2 + j % 2]
        } else {
            &mut self.q[j][t]
        }
    }
}

/// Bytes of an [`XBlock`] per token.
pub(super) const XBLOCK_BYTES: usize = 48;

// SAFETY: all fields are arrays of 4-byte groups, so there is no padding; any bits are values.
unsafe impl<const N: usize> super::buffer::Pod for XBlock<N> {}

/// The eight vectors of codes of 16 rows × 32 columns: vector `j` holds columns `4j .. 4j + 4`,
/// row `r` in its lane `r`.
pub(super) trait Quads<I: Isa>: Copy {
    /// Bits of the largest code: 4, 5 or 6 for codes without sign, 8 for signed ones.
    const BITS: u32;
    /// Vector `j`, in `0..8`. Signed codes have passed [`Isa::prepare_signed`].
    fn quad(self, isa: I, j: usize) -> I::B;
    /// Vectors `j` (even) and `j + 1` as [`Isa::pair`] leaves them. Where that changes them, quads
    /// of a panel are read this way only.
    fn pair(self, isa: I, j: usize) -> [I::B; 2];
    /// The memory of codes that are packed in 4 bits each: the quad `j` in the lower halves of the `j`th 64 bytes, the
    /// quad `j + 4` in their upper halves.
    #[allow(dead_code)] // not every architecture reads it
    #[inline(always)]
    fn nibbles(&self) -> Option<&[[u8; 64]; 4]> {
        None
    }
}

/// How codes that count from another number than 0 are read.
#[allow(dead_code)] // no architecture has all of them
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OffsetCodes {
    /// As they are packed.
    AsPacked,
    /// From panels signed, counting from 0.
    Signed,
    /// Times what makes them count from 128, with scales divided by as much: one correction, kept with the activations,
    /// suits all of them and what [`Isa::prepare_signed`] makes of signed ones.
    Raised,
}

/// A processor's vector instructions. See the module documentation.
pub(super) trait Isa: Copy + Send + Sync + 'static {
    /// The widest tile of tokens that keeps the accumulators in registers: 1, 2, 4, 8 or 12.
    const TILE: usize;
    /// The same for plain weights.
    const PLAIN_TILE: usize = Self::TILE;
    /// By a code's bits, up to how many tokens read packed codes directly; more read them from panels.
    const DIRECT_TOKENS: [usize; 9] = [4; 9];
    /// Whether eight columns lie side by side, in activations ([`XBlock::quad_mut`]) and in panels
    /// ([`Isa::pair`]).
    const PAIRED: bool = false;

    /// Groups that a panel holds side by side, so that activations once read meet more rows: 1 or 2.
    const PANEL_GROUPS: usize = 1;
    /// How codes that count from another number than 0 are read.
    const OFFSET_CODES: OffsetCodes = OffsetCodes::AsPacked;
    /// log₂ of what [`XBlock::minus_sum`] is multiplied by.
    const SUM_SHIFT: u32 = 0;

    /// What a byte that counts 1 becomes in [`Isa::load_u8_as_f32`], a power of two.
    const BYTE_UNIT: f32 = 1.0;

    /// Whether plain weights for many tokens are first brought into the form that [`Isa::plain_pairs`] takes.
    const PLAIN_PAIRS: bool = false;

    /// Vectors of keys, or of a value's elements, that a tile of attention has beside four pairs of token and head:
    /// as many as keep the accumulators in registers, of 1, 2 and 4.
    const ATTENTION_VECTORS: usize = 1;

    /// Whether activations for rounded weights are pairs of bfloat16, for [`Isa::dot_bf16`]; else they are
    /// binary32 after rounding.
    const BF16: bool = false;

    /// 16 × f32.
    type F: Copy;
    /// 16 × i32.
    type I: Copy;
    /// 64 × 8 bits.
    type B: Copy;

    /// Asks for the cache line of an address, which may be any, to be read soon.
    #[inline(always)]
    fn prefetch(self, _address: *const u8) {}
    /// As [`Isa::prefetch`], of a line that is read once: it goes to the nearest cache and pushes nothing out of others.
    #[inline(always)]
    fn prefetch_once(self, _address: *const u8) {}

    // f32
    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; 16]) -> Self::F;
    fn store(self, x: Self::F, to: &mut [f32; 16]);
    /// From IEEE binary16 bits.
    fn load_f16(self, x: &[u16; 16]) -> Self::F;
    /// From bfloat16 bits.
    fn load_bf16(self, x: &[u16; 16]) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a·b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c − a·b`, rounded once.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `acc[t] = w·x[t] + acc[t]`, rounded once.
    #[inline(always)]
    fn fma_each<const N: usize>(self, w: Self::F, x: &[f32; N], acc: &mut [Self::F; N]) {
        for t in 0..N {
            acc[t] = self.fma(w, self.splat(x[t]), acc[t]);
        }
    }
    /// `if a > b { a } else { b }`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a > b { yes } else { no }`.
    fn if_gt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// To the nearest integer, half to even; for |a| < 2³¹.
    fn round_to_i32(self, a: Self::F) -> Self::I;
    /// `p · 2ⁿ`, rounded once, for the whole numbers `n`, also in binary32 as `turns`, from −252 to 254.
    #[inline(always)]
    fn ldexp(self, p: Self::F, n: Self::I, _turns: Self::F) -> Self::F {
        // In two factors, of which the first rounds nothing for `p` near 1.
        let half = self.shr_i(n, 1);
        let rest = self.sub_i(n, half);
        self.mul(
            self.mul(p, power_of_two(self, half)),
            power_of_two(self, rest),
        )
    }
    fn bits(self, a: Self::F) -> Self::I;
    fn of_bits(self, a: Self::I) -> Self::F;

    /// `2ᵏ`, for `k` up to [`MOST_POWER`](super::MOST_POWER), as [`Isa::times_power`] takes it.
    #[inline(always)]
    fn power(k: u32) -> f32 {
        f32::from_bits((127 + k) << 23)
    }
    /// `d · power`.
    fn times_power(self, d: Self::F, power: f32) -> Self::F;

    // i32
    fn splat_i(self, x: i32) -> Self::I;
    /// `a − b` in all lanes, wrapping.
    #[inline(always)]
    fn splat_difference(self, a: i32, b: i32) -> Self::I {
        self.splat_i(a.wrapping_sub(b))
    }
    fn store_i(self, x: Self::I, to: &mut [i32; 16]);
    /// From 16 bytes without sign.
    fn load_u8(self, x: &[u8; 16]) -> Self::I;
    /// From 16 signed bytes.
    fn load_i8(self, x: &[u8; 16]) -> Self::I;
    /// As bytes; for values in −128..128.
    fn store_i8(self, x: Self::I, to: &mut [i8; 16]);
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn and_i(self, a: Self::I, b: Self::I) -> Self::I;
    fn or_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The larger, signed.
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// By `s` < 32.
    fn shl_i(self, a: Self::I, s: u32) -> Self::I;
    /// Arithmetic shift right by `s` < 32.
    fn shr_i(self, a: Self::I, s: u32) -> Self::I;
    /// Nearest, half to even.
    fn to_f32(self, a: Self::I) -> Self::F;

    /// From 16 bytes without sign, times [`Isa::BYTE_UNIT`].
    #[inline(always)]
    fn load_u8_as_f32(self, x: &[u8; 16]) -> Self::F {
        self.to_f32(self.load_u8(x))
    }
    /// From 16 signed bytes.
    #[inline(always)]
    fn load_i8_as_f32(self, x: &[u8; 16]) -> Self::F {
        self.to_f32(self.load_i8(x))
    }

    // bytes
    fn load_b(self, x: &[u8; 64]) -> Self::B;
    fn store_b(self, x: Self::B, to: &mut [u8; 64]);
    /// `x & mask` in each byte.
    fn and_b(self, x: Self::B, mask: u8) -> Self::B;
    fn or_b(self, a: Self::B, b: Self::B) -> Self::B;
    /// `x − by` in each byte, wrapping.
    fn sub_b(self, x: Self::B, by: u8) -> Self::B;
    /// `(x << shift) & mask` in each byte; `mask` has no bit below `shift`.
    fn shl_and_b(self, x: Self::B, shift: u32, mask: u8) -> Self::B;
    /// `(x >> shift) & mask` in each byte; `mask` has no bit above `7 − shift`.
    fn shr_and_b(self, x: Self::B, shift: u32, mask: u8) -> Self::B;
    /// Brings signed codes into the form that [`Isa::tile`] takes.
    fn prepare_signed(self, x: Self::B) -> Self::B;
    /// Two quads that follow one another in the form that [`Isa::tile`] takes from a panel.
    #[inline(always)]
    fn pair(self, quads: [Self::B; 2]) -> [Self::B; 2] {
        quads
    }

    /// Quantises the rows `x`, of `cols` elements, into the tile `out` of `N` tokens, as
    /// [`activations::quantise_tile`] says; what is missing of `N` rows counts as zeros.
    #[inline(always)]
    fn quantise<const OWN: bool, const N: usize>(self, x: &[f32], cols: usize, out: &mut [u8]) {
        activations::quantise_rows::<Self, OWN, N>(self, x, cols, out);
    }

    /// Interleaves the rows `x`, of `cols` elements, into the tile `out` of `width` tokens, as
    /// [`activations::interleave_tile`] says; what is missing of `width` rows counts as zeros.
    #[inline(always)]
    fn interleave(self, x: &[f32], cols: usize, width: usize, out: &mut [u8]) {
        activations::interleave_rows(self, x, cols, width, out);
    }

    /// `acc[t] += Σₖ w[k] · x[k][t]`, in order.
    #[inline(always)]
    fn plain_tile<C: Column<Self>, const N: usize>(
        self,
        w: &[C],
        x: &[[f32; N]],
        acc: &mut [Self::F; N],
    ) {
        plain::plain_tile(self, w, x, acc);
    }

    /// [`Isa::plain_tile`] for pairs of columns.
    #[inline(always)]
    fn plain_pairs<const N: usize>(self, w: &[PlainPair], x: &[[f32; N]], acc: &mut [Self::F; N]) {
        for (w, x) in w.iter().zip(x.as_chunks::<2>().0) {
            let [first, second] = w.load(self);
            self.fma_each(first, &x[0], acc);
            self.fma_each(second, &x[1], acc);
        }
    }

    /// `fma(w₀, x₀, fma(w₁, x₁, acc))` for the pairs of bfloat16 in each lane, the first in its low half.
    #[inline(always)]
    fn dot_bf16(self, w: Self::F, x: Self::I, acc: Self::F) -> Self::F {
        dot_bf16(self, w, x, acc)
    }

    /// `acc[g][t] += Σ` over the blocks of `x` and of the groups' `sources`, in order, by the formula of
    /// the module [`super`].
    fn tile<const N: usize, const G: usize, S: Source<Self>>(
        self,
        sources: [S; G],
        x: &[XBlock<N>],
        acc: &mut [[Self::F; N]; G],
    );

    /// `out[i][j] = rows[j][i]`.
    fn transpose(self, rows: &mut [Self::F; 16]);

    /// The lanes summed: lane `i` with `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        let mut v = [0.0; 16];
        self.store(a, &mut v);
        let mut half = 8;
        while half > 0 {
            for i in 0..half {
                v[i] += v[i + half];
            }
            half /= 2;
        }
        v[0]
    }

    /// The largest lane by [`Isa::max`], paired as in [`Isa::sum`].
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        let mut v = [0.0; 16];
        self.store(a, &mut v);
        let mut half = 8;
        while half > 0 {
            for i in 0..half {
                v[i] = if v[i] > v[i + half] {
                    v[i]
                } else {
                    v[i + half]
                };
            }
            half /= 2;
        }
        v[0]
    }

    /// The largest lane.
    #[inline(always)]
    fn largest_i(self, a: Self::I) -> i32 {
        let mut v = [0; 16];
        self.store_i(a, &mut v);
        let mut largest = v[0];
        for x in v {
            largest = if x > largest { x } else { largest };
        }
        largest
    }

    /// The lanes summed.
    #[inline(always)]
    fn sum_i(self, a: Self::I) -> i32 {
        let mut v = [0; 16];
        self.store_i(a, &mut v);
        let mut sum = 0i32;
        for x in v {
            sum = sum.wrapping_add(x);
        }
        sum
    }

    /// Up to 16 elements, the missing ones `fill`.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::F {
        let mut v = [fill; 16];
        v[..x.len()].copy_from_slice(x);
        self.load(&v)
    }

    /// The first `to.len()` ≤ 16 lanes.
    #[inline(always)]
    fn store_part(self, x: Self::F, to: &mut [f32]) {
        let mut v = [0.0; 16];
        self.store(x, &mut v);
        to.copy_from_slice(&v[..to.len()]);
    }
}

/// 2ⁿ for −127 < n < 128.
#[inline(always)]
fn power_of_two<I: Isa>(isa: I, n: I::I) -> I::F {
    isa.of_bits(isa.shl_i(isa.add_i(n, isa.splat_i(127)), 23))
}

/// [`Isa::dot_bf16`] without an instruction of its own.
#[inline(always)]
pub(super) fn dot_bf16<I: Isa>(isa: I, w: I::F, x: I::I, acc: I::F) -> I::F {
    let [w, x] = [bf16_pair(isa, isa.bits(w)), bf16_pair(isa, x)];
    isa.fma(w[0], x[0], isa.fma(w[1], x[1], acc))
}

/// The two bfloat16 of each lane.
#[inline(always)]
pub(super) fn bf16_pair<I: Isa>(isa: I, pair: I::I) -> [I::F; 2] {
    let high = isa.and_i(pair, isa.splat_i(!0xffff));
    [isa.of_bits(isa.shl_i(pair, 16)), isa.of_bits(high)]
}

/// An [`Isa`] whose products are of all 16 rows at a time: with this, [`super::matmul::tile`] is its
/// [`Isa::tile`].
pub(super) trait Dot: Isa {
    /// What [`Isa::prepare_signed`] adds to signed codes, as a power of two to be taken off again
    /// (`−Σq · 2^SHIFT`); `None` if it adds nothing.
    const SIGNED_SHIFT: Option<u32>;

    /// `init[t] + Σ_j Σ_c w[g].quad(j)[lane · 4 + c] · x.q[j][t][c]` for `j` in `FROM..TO`, exactly, for
    /// each group `g`. For signed codes with a [`Dot::SIGNED_SHIFT`], `init` must hold the correction.
    fn dot<const N: usize, const G: usize, const FROM: usize, const TO: usize, Q: Quads<Self>>(
        self,
        w: [Q; G],
        x: &XBlock<N>,
        init: [Self::I; N],
    ) -> [[Self::I; N]; G];
}
