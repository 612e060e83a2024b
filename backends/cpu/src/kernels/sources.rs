//! Where the blocks of a group of 16 rows come from: the packed codes as they lie ([`Direct`]), or a
//! panel of them, unpacked ([`Panel`]).

use std::marker::PhantomData;

use super::buffer::{Pod, cast};
use super::isa::{Isa, Quads};
use super::pack::{PackedMatrix, SUPER};

/// Codes and scales of one block of 16 rows.
#[derive(Clone, Copy)]
pub(super) struct Block<I: Isa, Q> {
    pub codes: Q,
    /// Scale; of the first half where halves differ.
    pub d: I::F,
    /// Scale of the second half where halves differ, else the minimum.
    pub e: I::F,
}

/// Where blocks of a group come from.
pub(super) trait Source<I: Isa>: Copy {
    type Codes: Quads<I>;
    /// Whether a minimum is added.
    const MIN: bool;
    /// Whether the halves of a block have scales of their own.
    const HALVES: bool;
    /// log₂ of what unsigned codes count from, if not 0.
    const OFFSET: Option<u32>;
    /// Whether [`SUPER`] blocks share numbers.
    const SUPERS: bool;
    /// What the blocks `SUPER · s ..` share, for [`Source::block`]; only where there is any.
    fn supers(self, isa: I, s: usize) -> [I::F; 2];
    fn block(self, isa: I, b: usize, supers: [I::F; 2]) -> Block<I, Self::Codes>;
}

/// `supers` for block `b`: read anew where it is the first of those that share them. In a loop
/// over the blocks they stay in registers.
#[inline(always)]
pub(super) fn next_supers<I: Isa, S: Source<I>>(
    isa: I,
    source: S,
    b: usize,
    supers: [I::F; 2],
) -> [I::F; 2] {
    if S::SUPERS && b.is_multiple_of(SUPER) {
        source.supers(isa, b / SUPER)
    } else {
        supers
    }
}

/// A block format's records, as [`super::pack`] draws them.
pub(super) trait Format: Copy {
    const CODES: usize;
    const BITS: u32;
    const OFFSET: Option<u32>;
    const SCALES: ScalesOf;
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ScalesOf {
    /// One binary16.
    Half,
    /// Scale and minimum in binary16.
    HalfMin,
    /// 6-bit scale and minimum times binary16 ones.
    SuperMin,
    /// Signed 8-bit scales of the halves times a binary16 one.
    SuperHalves,
}

macro_rules! formats {
    ($($name:ident: $codes:literal, $bits:literal, $offset:expr, $scales:ident;)*) => {
        $(
            #[derive(Clone, Copy)]
            pub(super) struct $name;
            impl Format for $name {
                const CODES: usize = $codes;
                const BITS: u32 = $bits;
                const OFFSET: Option<u32> = $offset;
                const SCALES: ScalesOf = ScalesOf::$scales;
            }
        )*
    };
}

formats! {
    Q40: 256, 4, Some(3), Half;
    Q41: 256, 4, None, HalfMin;
    Q50: 320, 5, Some(4), Half;
    Q51: 320, 5, None, HalfMin;
    Q80: 512, 8, None, Half;
    Q4K: 256, 4, None, SuperMin;
    Q5K: 320, 5, None, SuperMin;
    Q6K: 384, 6, Some(5), SuperHalves;
}

/// The packed codes of a block of format `F`.
pub(super) struct Packed<'a, F> {
    /// `F::CODES` bytes.
    bytes: &'a [u8],
    format: PhantomData<F>,
}

impl<F> Clone for Packed<'_, F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Packed<'_, F> {}

/// 64 bytes at `at`.
#[inline(always)]
fn vector(bytes: &[u8], at: usize) -> &[u8; 64] {
    &cast::<[u8; 64]>(&bytes[at..at + 64])[0]
}

impl<I: Isa, F: Format> Quads<I> for Packed<'_, F> {
    const BITS: u32 = F::BITS;

    #[inline(always)]
    fn quad(self, isa: I, j: usize) -> I::B {
        if F::BITS == 8 {
            return isa.prepare_signed(isa.load_b(vector(self.bytes, j * 64)));
        }
        let both = isa.load_b(vector(self.bytes, j % 4 * 64));
        let low = if j < 4 {
            isa.and_b(both, 0x0f)
        } else {
            isa.shr_and_b(both, 4, 0x0f)
        };
        if F::BITS == 4 {
            return low;
        }
        let high_bits = F::BITS - 4;
        let quads = 8 / high_bits as usize;
        let high = isa.load_b(vector(self.bytes, 256 + j / quads * 64));
        let mask = ((1 << high_bits) - 1) << 4;
        // The bits are to move from `from` to 4.
        let from = (j % quads) as u32 * high_bits;
        let high = if from <= 4 {
            isa.shl_and_b(high, 4 - from, mask)
        } else {
            isa.shr_and_b(high, from - 4, mask)
        };
        isa.or_b(low, high)
    }

    #[inline(always)]
    fn pair(self, isa: I, j: usize) -> [I::B; 2] {
        isa.pair([self.quad(isa, j), self.quad(isa, j + 1)])
    }
}

/// One group read as it is packed.
pub(super) struct Direct<'a, F> {
    codes: &'a [u8],
    scales: &'a [u8],
    supers: &'a [u8],
    format: PhantomData<F>,
}

impl<F> Clone for Direct<'_, F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Direct<'_, F> {}

impl<'a, F: Format> Direct<'a, F> {
    #[inline(always)]
    pub(super) fn group(weights: &'a PackedMatrix, g: usize) -> Direct<'a, F> {
        let (codes, scales, supers) = weights.group(g);
        Direct {
            codes,
            scales,
            supers,
            format: PhantomData,
        }
    }
}

impl<'a, I: Isa, F: Format> Source<I> for Direct<'a, F> {
    type Codes = Packed<'a, F>;
    const MIN: bool = matches!(F::SCALES, ScalesOf::HalfMin | ScalesOf::SuperMin);
    const HALVES: bool = matches!(F::SCALES, ScalesOf::SuperHalves);
    const OFFSET: Option<u32> = F::OFFSET;
    const SUPERS: bool = matches!(F::SCALES, ScalesOf::SuperMin | ScalesOf::SuperHalves);

    #[inline(always)]
    fn supers(self, isa: I, s: usize) -> [I::F; 2] {
        let halves = cast::<[u16; 16]>(self.supers);
        match F::SCALES {
            ScalesOf::SuperMin => [
                isa.load_f16(&halves[2 * s]),
                isa.load_f16(&halves[2 * s + 1]),
            ],
            _ => [isa.load_f16(&halves[s]); 2],
        }
    }

    #[inline(always)]
    fn block(self, isa: I, b: usize, supers: [I::F; 2]) -> Block<I, Packed<'a, F>> {
        let codes = Packed {
            bytes: &self.codes[b * F::CODES..][..F::CODES],
            format: PhantomData,
        };
        let halves = |bytes: &'a [u8], i: usize| -> &'a [u16; 16] { &cast::<[u16; 16]>(bytes)[i] };
        let bytes = |i: usize| -> &'a [u8; 16] { &cast::<[u8; 16]>(self.scales)[i] };
        let (d, e) = match F::SCALES {
            ScalesOf::Half => {
                let d = isa.load_f16(halves(self.scales, b));
                (d, d)
            }
            ScalesOf::HalfMin => (
                isa.load_f16(halves(self.scales, 2 * b)),
                isa.load_f16(halves(self.scales, 2 * b + 1)),
            ),
            ScalesOf::SuperMin => {
                let [d, m] = supers;
                let scale = isa.to_f32(isa.load_u8(bytes(2 * b)));
                let min = isa.to_f32(isa.load_u8(bytes(2 * b + 1)));
                (isa.mul(d, scale), isa.mul(m, min))
            }
            ScalesOf::SuperHalves => {
                let [d, _] = supers;
                let low = isa.to_f32(isa.load_i8(bytes(2 * b)));
                let high = isa.to_f32(isa.load_i8(bytes(2 * b + 1)));
                (isa.mul(d, low), isa.mul(d, high))
            }
        };
        Block { codes, d, e }
    }
}

/// An unpacked block: a byte for each code, scales in binary32.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct PanelBlock {
    /// The quads, each two that follow one another as [`Isa::pair`] leaves them.
    codes: [[u8; 64]; 8],
    d: [f32; 16],
    e: [f32; 16],
}

// SAFETY: arrays of bytes and of f32 whose sizes leave no padding; any bits are values.
unsafe impl Pod for PanelBlock {}

/// What a panel's codes mean.
pub(super) trait Kind: Copy {
    const BITS: u32;
    const OFFSET: Option<u32>;
    const MIN: bool;
    const HALVES: bool;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident: $bits:literal, $offset:expr, $min:literal, $halves:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy)]
            pub(super) struct $name;
            impl Kind for $name {
                const BITS: u32 = $bits;
                const OFFSET: Option<u32> = $offset;
                const MIN: bool = $min;
                const HALVES: bool = $halves;
            }
        )*
    };
}

kinds! {
    /// Q4_0.
    Offset8: 4, Some(3), false, false;
    /// Q5_0.
    Offset16: 5, Some(4), false, false;
    /// Q8_0.
    Signed: 8, None, false, false;
    /// Q4_1, Q5_1, Q4_K, Q5_K.
    Minimum: 5, None, true, false;
    /// Q6_K.
    Halves: 6, Some(5), false, true;
}

#[derive(Clone, Copy)]
pub(super) struct Unpacked<'a, K> {
    codes: &'a [[u8; 64]; 8],
    kind: PhantomData<K>,
}

impl<I: Isa, K: Kind> Quads<I> for Unpacked<'_, K> {
    const BITS: u32 = K::BITS;

    #[inline(always)]
    fn quad(self, isa: I, j: usize) -> I::B {
        isa.load_b(&self.codes[j])
    }

    #[inline(always)]
    fn pair(self, isa: I, j: usize) -> [I::B; 2] {
        [isa.load_b(&self.codes[j]), isa.load_b(&self.codes[j + 1])]
    }
}

/// Part of a group, unpacked.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a, K> {
    blocks: &'a [PanelBlock],
    kind: PhantomData<K>,
}

impl<'a, K: Kind> Panel<'a, K> {
    #[inline(always)]
    pub(super) fn new(blocks: &'a [PanelBlock]) -> Panel<'a, K> {
        Panel {
            blocks,
            kind: PhantomData,
        }
    }
}

impl<'a, I: Isa, K: Kind> Source<I> for Panel<'a, K> {
    type Codes = Unpacked<'a, K>;
    const MIN: bool = K::MIN;
    const HALVES: bool = K::HALVES;
    const OFFSET: Option<u32> = K::OFFSET;
    const SUPERS: bool = false;

    #[inline(always)]
    fn supers(self, isa: I, _s: usize) -> [I::F; 2] {
        [isa.splat(0.0); 2]
    }

    #[inline(always)]
    fn block(self, isa: I, b: usize, _supers: [I::F; 2]) -> Block<I, Unpacked<'a, K>> {
        let block = &self.blocks[b];
        Block {
            codes: Unpacked {
                codes: &block.codes,
                kind: PhantomData,
            },
            d: isa.load(&block.d),
            e: isa.load(&block.e),
        }
    }
}

/// Unpacks blocks `first ..` of group `g` into `panel`; `first` is a multiple of [`SUPER`].
#[inline(always)]
pub(super) fn unpack<I: Isa, F: Format>(
    isa: I,
    weights: &PackedMatrix,
    g: usize,
    first: usize,
    panel: &mut [PanelBlock],
) {
    let group = Direct::<F>::group(weights, g);
    let mut supers = [isa.splat(0.0); 2];
    for (i, out) in panel.iter_mut().enumerate() {
        supers = next_supers(isa, group, first + i, supers);
        let block = group.block(isa, first + i, supers);
        for j in [0, 2, 4, 6] {
            let pair = block.codes.pair(isa, j);
            isa.store_b(pair[0], &mut out.codes[j]);
            isa.store_b(pair[1], &mut out.codes[j + 1]);
        }
        isa.store(block.d, &mut out.d);
        isa.store(block.e, &mut out.e);
    }
}
