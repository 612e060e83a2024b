//! Where the blocks of a group of 16 rows come from: the packed codes as they lie ([`Direct`]), or a
//! panel of them, unpacked ([`Panel`]).

use std::marker::PhantomData;

use super::buffer::{Pod, cast};
use super::isa::{Isa, OffsetCodes, Quads};
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
    /// log₂ of what unsigned codes count from as they are read, if not 0.
    const OFFSET: Option<u32>;
    /// Whether [`SUPER`] blocks share numbers.
    const SUPERS: bool;
    /// Whether activations have a scale of their own in each block, not a power of two times the token's.
    const OWN_SCALES: bool;
    /// Only the first `blocks` blocks. A loop over just as many pays for no checks of bounds.
    fn first(self, blocks: usize) -> Self;
    /// What the blocks `SUPER · s ..` share, for [`Source::block`]; only where there is any.
    fn supers(self, isa: I, s: usize) -> [I::F; 2];
    fn block(self, isa: I, b: usize, supers: [I::F; 2]) -> Block<I, Self::Codes>;
    /// The blocks where they lie unpacked, if they do.
    #[allow(dead_code)] // not every architecture reads them
    #[inline(always)]
    fn unpacked(&self) -> Option<&[PanelBlock]> {
        None
    }
    /// The bits of a code, and the codes and the scales of the blocks where they lie packed, if [`SUPER`] blocks share
    /// numbers.
    #[allow(dead_code)] // not every architecture reads them
    #[inline(always)]
    fn super_blocks(&self) -> Option<(u32, (*const u8, *const u8))> {
        None
    }
    /// Asks for what comes some blocks after block `b` to be read.
    #[inline(always)]
    fn prefetch(self, _isa: I, _b: usize) {}
}

/// How far ahead of its use packed memory is asked for, in bytes of codes: what the nearest cache holds beside the
/// activations.
const AHEAD: usize = 2048;

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

/// Scales of a block format, in the records that [`super::pack`] draws.
pub(super) trait Scales: Copy {
    /// Of a block.
    type Record: Pod;
    /// Of [`SUPER`] blocks.
    type Super: Pod;
    /// As [`Source::MIN`].
    const MIN: bool = false;
    /// As [`Source::HALVES`].
    const HALVES: bool = false;
    /// As [`Source::SUPERS`].
    const SUPERS: bool = false;
    /// As [`Source::supers`].
    #[inline(always)]
    fn supers<I: Isa>(isa: I, _: &Self::Super) -> [I::F; 2] {
        [isa.splat(0.0); 2]
    }
    /// [`Block::d`] and [`Block::e`].
    fn block<I: Isa>(isa: I, record: &Self::Record, supers: [I::F; 2]) -> (I::F, I::F);
}

/// One binary16.
#[derive(Clone, Copy)]
pub(super) struct Half;
impl Scales for Half {
    type Record = [u16; 16];
    type Super = [u16; 16];
    #[inline(always)]
    fn block<I: Isa>(isa: I, d: &[u16; 16], _: [I::F; 2]) -> (I::F, I::F) {
        let d = isa.load_f16(d);
        (d, d)
    }
}

/// Scale and minimum in binary16.
#[derive(Clone, Copy)]
pub(super) struct HalfMin;
impl Scales for HalfMin {
    type Record = [[u16; 16]; 2];
    type Super = [u16; 16];
    const MIN: bool = true;
    #[inline(always)]
    fn block<I: Isa>(isa: I, record: &[[u16; 16]; 2], _: [I::F; 2]) -> (I::F, I::F) {
        (isa.load_f16(&record[0]), isa.load_f16(&record[1]))
    }
}

/// 6-bit scale and minimum times binary16 ones.
#[derive(Clone, Copy)]
pub(super) struct SuperMin;
impl Scales for SuperMin {
    type Record = [[u8; 16]; 2];
    type Super = [[u16; 16]; 2];
    const MIN: bool = true;
    const SUPERS: bool = true;
    #[inline(always)]
    fn supers<I: Isa>(isa: I, record: &[[u16; 16]; 2]) -> [I::F; 2] {
        let [d, m] = [isa.load_f16(&record[0]), isa.load_f16(&record[1])];
        if I::BYTE_UNIT == 1.0 {
            return [d, m];
        }
        // Exact, as it is a power of two.
        let unit = isa.splat(1.0 / I::BYTE_UNIT);
        [isa.mul(d, unit), isa.mul(m, unit)]
    }
    #[inline(always)]
    fn block<I: Isa>(isa: I, record: &[[u8; 16]; 2], [d, m]: [I::F; 2]) -> (I::F, I::F) {
        let scale = isa.load_u8_as_f32(&record[0]);
        let min = isa.load_u8_as_f32(&record[1]);
        (isa.mul(d, scale), isa.mul(m, min))
    }
}

/// Signed 8-bit scales of the halves times a binary16 one.
#[derive(Clone, Copy)]
pub(super) struct SuperHalves;
impl Scales for SuperHalves {
    type Record = [[u8; 16]; 2];
    type Super = [u16; 16];
    const HALVES: bool = true;
    const SUPERS: bool = true;
    #[inline(always)]
    fn supers<I: Isa>(isa: I, record: &[u16; 16]) -> [I::F; 2] {
        [isa.load_f16(record); 2]
    }
    #[inline(always)]
    fn block<I: Isa>(isa: I, record: &[[u8; 16]; 2], [d, _]: [I::F; 2]) -> (I::F, I::F) {
        let low = isa.load_i8_as_f32(&record[0]);
        let high = isa.load_i8_as_f32(&record[1]);
        (isa.mul(d, low), isa.mul(d, high))
    }
}

/// A block format's records, as [`super::pack`] draws them.
pub(super) trait Format: Copy {
    /// Vectors of codes of a block.
    type Codes: Pod + AsRef<[[u8; 64]]>;
    const BITS: u32;
    const OFFSET: Option<u32>;
    type Scales: Scales;
}

macro_rules! formats {
    ($($name:ident: $vectors:literal, $bits:literal, $offset:expr, $scales:ident;)*) => {
        $(
            #[derive(Clone, Copy)]
            pub(super) struct $name;
            impl Format for $name {
                type Codes = [[u8; 64]; $vectors];
                const BITS: u32 = $bits;
                const OFFSET: Option<u32> = $offset;
                type Scales = $scales;
            }
        )*
    };
}

formats! {
    Q40: 4, 4, Some(3), Half;
    Q41: 4, 4, None, HalfMin;
    Q50: 5, 5, Some(4), Half;
    Q51: 5, 5, None, HalfMin;
    Q80: 8, 8, None, Half;
    Q4K: 4, 4, None, SuperMin;
    Q5K: 5, 5, None, SuperMin;
    Q6K: 6, 6, Some(5), SuperHalves;
}

/// log₂ of what [`OffsetCodes::Raised`] codes count from.
const RAISED_OFFSET: u32 = 7;

/// log₂ of what codes count from where they are read, if it is `offset` as they are packed.
const fn offset(codes: OffsetCodes, offset: Option<u32>) -> Option<u32> {
    match (codes, offset) {
        (OffsetCodes::Raised, Some(_)) => Some(RAISED_OFFSET),
        (_, offset) => offset,
    }
}

/// log₂ of what codes of format `F` are multiplied by where they are read ([`OffsetCodes::Raised`]).
#[inline(always)]
const fn raised_by<I: Isa, F: Format>() -> u32 {
    match (I::OFFSET_CODES, F::OFFSET) {
        (OffsetCodes::Raised, Some(offset)) => RAISED_OFFSET - offset,
        _ => 0,
    }
}

/// The lower or the upper half of each byte, from bit `to` on.
#[inline(always)]
fn nibble<I: Isa>(isa: I, both: I::B, lower: bool, to: u32) -> I::B {
    moved(isa, both, if lower { 0 } else { 4 }, to, 0x0f << to)
}

/// The bits from `from` on of each byte from bit `to` on, where `mask` has them.
#[inline(always)]
fn moved<I: Isa>(isa: I, x: I::B, from: u32, to: u32, mask: u8) -> I::B {
    if from == to {
        isa.and_b(x, mask)
    } else if from < to {
        isa.shl_and_b(x, to - from, mask)
    } else {
        isa.shr_and_b(x, from - to, mask)
    }
}

/// The packed codes of a block of format `F`.
pub(super) struct Packed<'a, F: Format> {
    codes: &'a F::Codes,
}

impl<F: Format> Clone for Packed<'_, F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for Packed<'_, F> {}

impl<I: Isa, F: Format> Quads<I> for Packed<'_, F> {
    const BITS: u32 = F::BITS;

    #[inline(always)]
    fn quad(self, isa: I, j: usize) -> I::B {
        let vectors = self.codes.as_ref();
        if F::BITS == 8 {
            return isa.prepare_signed(isa.load_b(&vectors[j]));
        }
        let to = raised_by::<I, F>();
        let low = nibble(isa, isa.load_b(&vectors[j % 4]), j < 4, to);
        if F::BITS == 4 {
            return low;
        }
        let high_bits = F::BITS - 4;
        let quads = 8 / high_bits as usize;
        let from = (j % quads) as u32 * high_bits;
        let high = isa.load_b(&vectors[4 + j / quads]);
        let mask = ((1u8 << high_bits) - 1) << (4 + to);
        isa.or_b(low, moved(isa, high, from, 4 + to, mask))
    }

    #[inline(always)]
    fn pair(self, isa: I, j: usize) -> [I::B; 2] {
        if F::BITS != 4 {
            return isa.pair([self.quad(isa, j), self.quad(isa, j + 1)]);
        }
        // Those of the lower and of the upper halves of bytes move together.
        let vectors = self.codes.as_ref();
        let [a, b] = isa.pair([isa.load_b(&vectors[j % 4]), isa.load_b(&vectors[j % 4 + 1])]);
        let to = raised_by::<I, F>();
        [nibble(isa, a, j < 4, to), nibble(isa, b, j < 4, to)]
    }

    #[inline(always)]
    fn nibbles(&self) -> Option<&[[u8; 64]; 4]> {
        self.codes.as_ref().try_into().ok()
    }
}

/// One group read as it is packed.
pub(super) struct Direct<'a, F: Format> {
    codes: &'a [F::Codes],
    scales: &'a [<F::Scales as Scales>::Record],
    supers: &'a [<F::Scales as Scales>::Super],
}

impl<F: Format> Clone for Direct<'_, F> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Format> Copy for Direct<'_, F> {}

impl<'a, F: Format> Direct<'a, F> {
    #[inline(always)]
    pub(super) fn group(weights: &'a PackedMatrix, g: usize) -> Direct<'a, F> {
        let (codes, scales, supers) = weights.group(g);
        Direct {
            codes: cast(codes),
            scales: cast(scales),
            supers: cast(supers),
        }
    }
}

/// Scales for codes that are multiplied by [`raised_by`], exactly.
#[inline(always)]
fn lowered<I: Isa, F: Format>(isa: I, scales: [I::F; 2]) -> [I::F; 2] {
    let by = raised_by::<I, F>();
    if by == 0 {
        return scales;
    }
    let (n, turns) = (isa.splat_i(-(by as i32)), isa.splat(-(by as f32)));
    [
        isa.ldexp(scales[0], n, turns),
        isa.ldexp(scales[1], n, turns),
    ]
}

impl<'a, I: Isa, F: Format> Source<I> for Direct<'a, F> {
    type Codes = Packed<'a, F>;
    const MIN: bool = F::Scales::MIN;
    const HALVES: bool = F::Scales::HALVES;
    const OFFSET: Option<u32> = offset(I::OFFSET_CODES, F::OFFSET);
    const SUPERS: bool = F::Scales::SUPERS;
    const OWN_SCALES: bool = F::BITS == 8;

    #[inline(always)]
    fn first(self, blocks: usize) -> Self {
        Direct {
            codes: &self.codes[..blocks],
            scales: &self.scales[..blocks],
            supers: self.supers,
        }
    }

    #[inline(always)]
    fn supers(self, isa: I, s: usize) -> [I::F; 2] {
        lowered::<I, F>(isa, F::Scales::supers(isa, &self.supers[s]))
    }

    #[inline(always)]
    fn block(self, isa: I, b: usize, supers: [I::F; 2]) -> Block<I, Packed<'a, F>> {
        let codes = Packed {
            codes: &self.codes[b],
        };
        let (mut d, mut e) = F::Scales::block(isa, &self.scales[b], supers);
        if !F::Scales::SUPERS {
            [d, e] = lowered::<I, F>(isa, [d, e]);
        }
        Block { codes, d, e }
    }

    #[inline(always)]
    fn super_blocks(&self) -> Option<(u32, (*const u8, *const u8))> {
        let at = (self.codes.as_ptr().cast(), self.scales.as_ptr().cast());
        F::Scales::SUPERS.then_some((F::BITS, at))
    }

    #[inline(always)]
    fn prefetch(self, isa: I, b: usize) {
        // Groups follow one another in every plane, so behind a group's end is the next one.
        let ahead = b + AHEAD / size_of::<F::Codes>();
        let codes = self.codes.as_ptr().wrapping_add(ahead).cast::<u8>();
        for line in 0..size_of::<F::Codes>() / 64 {
            isa.prefetch_once(codes.wrapping_add(64 * line));
        }
        isa.prefetch_once(self.scales.as_ptr().wrapping_add(ahead).cast());
    }
}

/// An unpacked block: a byte for each code, scales in binary32.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct PanelBlock {
    /// The quads, each two that follow one another as [`Isa::pair`] leaves them.
    pub codes: [[u8; 64]; 8],
    pub d: [f32; 16],
    pub e: [f32; 16],
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
    const OFFSET: Option<u32> = match I::OFFSET_CODES {
        OffsetCodes::Signed => None,
        codes => offset(codes, K::OFFSET),
    };
    const SUPERS: bool = false;
    const OWN_SCALES: bool = K::BITS == 8;

    #[inline(always)]
    fn first(self, blocks: usize) -> Self {
        Panel::new(&self.blocks[..blocks])
    }

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

    #[inline(always)]
    fn unpacked(&self) -> Option<&[PanelBlock]> {
        Some(self.blocks)
    }
}

/// Unpacks blocks `first ..` of group `g` into `panel`; `first` is a multiple of [`SUPER`]. Codes become
/// what [`Isa::OFFSET_CODES`] says.
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
        for j in [0, 4, 2, 6] {
            let mut pair = block.codes.pair(isa, j);
            if let (OffsetCodes::Signed, Some(offset)) = (I::OFFSET_CODES, F::OFFSET) {
                pair = [
                    isa.sub_b(pair[0], 1 << offset),
                    isa.sub_b(pair[1], 1 << offset),
                ];
            }
            isa.store_b(pair[0], &mut out.codes[j]);
            isa.store_b(pair[1], &mut out.codes[j + 1]);
        }
        isa.store(block.d, &mut out.d);
        isa.store(block.e, &mut out.e);
    }
}
