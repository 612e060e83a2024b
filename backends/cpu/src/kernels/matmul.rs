//! Products of packed weights with tiles of activations, written once over [`Isa`].
//!
//! A task computes some groups of 16 rows for all tokens. With few tokens it reads the packed
//! codes as they lie ([`direct`]). With many it unpacks part of a group into a panel that stays in
//! the cache ([`unpack`]) and reads that for every tile of tokens ([`panel_tile`]); formats whose
//! panels look alike share that code. Either way each output runs through the same operations in
//! the same order.

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::{plain_tile, quantised_tile, tile_width, with_width};
use super::buffer::{Pod, Shared, cast};
use super::isa::{Isa, Quads, XBlock};
use super::pack::{PackedMatrix, ROWS, SUPER};

/// Up to this many tokens read packed codes directly.
pub(super) const DIRECT_TOKENS: usize = 4;
/// Blocks in a panel: 128 × 640 bytes, which a second-level cache holds beside the activations.
pub(super) const PANEL_BLOCKS: usize = 128;
/// Activations worked on before the next group: part of a second-level cache.
const CHUNK_BYTES: usize = 384 << 10;
/// Groups of plain weights that one token's product runs side by side, to hide latency.
const PLAIN_GROUPS: usize = 4;

/// Some groups' rows of one product.
pub(super) struct Task<'a> {
    pub weights: &'a PackedMatrix,
    pub groups: Range<usize>,
    /// Tiles, quantised for block formats and plain otherwise.
    pub x: &'a [u8],
    pub tokens: usize,
    pub bias: Option<&'a [f32]>,
    /// `[tokens, rows]`; this task writes its groups' rows only.
    pub out: Shared<f32>,
}

impl Task<'_> {
    /// The places of group `g`'s sums for the tokens from `t` on, at most `width` of them; with
    /// the bias, if the sums are `complete` when written.
    #[inline(always)]
    pub(super) fn sums(&self, g: usize, t: usize, width: usize, complete: bool) -> Sums<'_> {
        let rows = rows_of(self.weights, g);
        Sums {
            tokens: width.min(self.tokens - t),
            bias: self.bias.filter(|_| complete).map(|b| &b[rows.clone()]),
            at: t * self.weights.rows() + rows.start,
            stride: self.weights.rows(),
            rows: rows.len(),
            out: self.out,
        }
    }
}

/// The rows of group `g` that exist.
#[inline(always)]
fn rows_of(weights: &PackedMatrix, g: usize) -> Range<usize> {
    g * ROWS..weights.rows().min((g + 1) * ROWS)
}

/// Tokens worked on before the next group, at `bytes` of activations each: whole tiles.
#[inline(always)]
pub(super) fn chunk_tokens(bytes: usize, widest: usize) -> usize {
    (CHUNK_BYTES / bytes.max(1) / widest).max(1) * widest
}

/// Where one group's sums for a tile of tokens are kept.
#[derive(Clone, Copy)]
pub(super) struct Sums<'a> {
    /// Tokens that exist; the rest of the tile is padding.
    pub tokens: usize,
    /// Added when writing.
    pub bias: Option<&'a [f32]>,
    pub out: Shared<f32>,
    /// Index of the first token's first row.
    pub at: usize,
    /// Distance of tokens.
    pub stride: usize,
    /// Rows that exist, at most 16.
    pub rows: usize,
}

impl Sums<'_> {
    /// # Safety
    /// As [`Shared::slice`] for these places.
    #[inline(always)]
    unsafe fn write<I: Isa, const N: usize>(&self, isa: I, acc: &[I::F; N]) {
        for i in 0..N {
            if i < self.tokens {
                let mut sum = acc[i];
                if let Some(bias) = self.bias {
                    sum = isa.add(sum, isa.load_part(bias, 0.0));
                }
                // SAFETY: the caller's contract.
                let out = unsafe { self.out.slice(self.at + i * self.stride, self.rows) };
                if out.len() == ROWS {
                    isa.store(sum, &mut out.as_chunks_mut::<ROWS>().0[0]);
                } else {
                    isa.store_part(sum, out);
                }
            }
        }
    }

    /// # Safety
    /// As [`Shared::slice`] for these places.
    #[inline(always)]
    unsafe fn read<I: Isa, const N: usize>(&self, isa: I) -> [I::F; N] {
        let mut acc = [isa.splat(0.0); N];
        for i in 0..N {
            if i < self.tokens {
                // SAFETY: the caller's contract.
                let out = unsafe { self.out.slice(self.at + i * self.stride, self.rows) };
                acc[i] = if out.len() == ROWS {
                    isa.load(&out.as_chunks::<ROWS>().0[0])
                } else {
                    isa.load_part(out, 0.0)
                };
            }
        }
        acc
    }
}

/// Codes and scales of one block of 16 rows.
#[derive(Clone, Copy)]
struct Block<I: Isa, Q> {
    codes: Q,
    /// Scale; of the first half where halves differ.
    d: I::F,
    /// Scale of the second half where halves differ, else the minimum.
    e: I::F,
}

/// Where blocks of a group come from.
trait Source<I: Isa>: Copy {
    type Codes: Quads<I>;
    /// Whether a minimum is added.
    const MIN: bool;
    /// Whether the halves of a block have scales of their own.
    const HALVES: bool;
    /// log₂ of what unsigned codes count from, if not 0.
    const OFFSET: Option<u32>;
    fn block(self, isa: I, b: usize) -> Block<I, Self::Codes>;
}

/// `acc[t] += Σ` over the blocks of `x`, in order.
#[inline(always)]
fn tile<I: Isa, S: Source<I>, const N: usize>(
    isa: I,
    source: S,
    x: &[XBlock<N>],
    acc: &mut [I::F; N],
) {
    let shift = if S::Codes::BITS == 8 {
        I::SIGNED_SHIFT
    } else {
        S::OFFSET
    };
    for (b, x) in x.iter().enumerate() {
        let block = source.block(isa, b);
        let mut init = [isa.splat_i(0); N];
        if S::HALVES {
            let mut low = init;
            if let Some(s) = shift {
                for t in 0..N {
                    let high = isa.splat_i(x.minus_sum_high[t]);
                    init[t] = isa.shl_i(high, s);
                    low[t] = isa.shl_i(isa.sub_i(isa.splat_i(x.minus_sum[t]), high), s);
                }
            }
            let low = isa.dot::<N, 0, 4, _>(block.codes, x, low);
            for t in 0..N {
                let d = isa.mul(block.d, isa.splat(x.d[t]));
                acc[t] = isa.fma(d, isa.to_f32(low[t]), acc[t]);
            }
            let high = isa.dot::<N, 4, 8, _>(block.codes, x, init);
            for t in 0..N {
                let d = isa.mul(block.e, isa.splat(x.d[t]));
                acc[t] = isa.fma(d, isa.to_f32(high[t]), acc[t]);
            }
        } else {
            if let Some(s) = shift {
                for t in 0..N {
                    init[t] = isa.shl_i(isa.splat_i(x.minus_sum[t]), s);
                }
            }
            let sums = isa.dot::<N, 0, 8, _>(block.codes, x, init);
            for t in 0..N {
                let d = isa.mul(block.d, isa.splat(x.d[t]));
                acc[t] = isa.fma(d, isa.to_f32(sums[t]), acc[t]);
                if S::MIN {
                    acc[t] = isa.fma(block.e, isa.splat(x.ds[t]), acc[t]);
                }
            }
        }
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
struct Packed<'a, F> {
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
}

/// One group read as it is packed.
struct Direct<'a, F> {
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
    fn group(weights: &'a PackedMatrix, g: usize) -> Direct<'a, F> {
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

    #[inline(always)]
    fn block(self, isa: I, b: usize) -> Block<I, Packed<'a, F>> {
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
                let d = isa.load_f16(halves(self.supers, b / SUPER * 2));
                let m = isa.load_f16(halves(self.supers, b / SUPER * 2 + 1));
                let scale = isa.to_f32(isa.load_u8(bytes(2 * b)));
                let min = isa.to_f32(isa.load_u8(bytes(2 * b + 1)));
                (isa.mul(d, scale), isa.mul(m, min))
            }
            ScalesOf::SuperHalves => {
                let d = isa.load_f16(halves(self.supers, b / SUPER));
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
struct Unpacked<'a, K> {
    codes: &'a [[u8; 64]; 8],
    kind: PhantomData<K>,
}

impl<I: Isa, K: Kind> Quads<I> for Unpacked<'_, K> {
    const BITS: u32 = K::BITS;

    #[inline(always)]
    fn quad(self, isa: I, j: usize) -> I::B {
        isa.load_b(&self.codes[j])
    }
}

/// Part of a group, unpacked.
#[derive(Clone, Copy)]
struct Panel<'a, K> {
    blocks: &'a [PanelBlock],
    kind: PhantomData<K>,
}

impl<'a, I: Isa, K: Kind> Source<I> for Panel<'a, K> {
    type Codes = Unpacked<'a, K>;
    const MIN: bool = K::MIN;
    const HALVES: bool = K::HALVES;
    const OFFSET: Option<u32> = K::OFFSET;

    #[inline(always)]
    fn block(self, isa: I, b: usize) -> Block<I, Unpacked<'a, K>> {
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

/// Unpacks blocks `first ..` of group `g` into `panel`.
#[inline(always)]
pub(super) fn unpack<I: Isa, F: Format>(
    isa: I,
    weights: &PackedMatrix,
    g: usize,
    first: usize,
    panel: &mut [PanelBlock],
) {
    let group = Direct::<F>::group(weights, g);
    for (i, out) in panel.iter_mut().enumerate() {
        let block = group.block(isa, first + i);
        for j in 0..8 {
            isa.store_b(block.codes.quad(isa, j), &mut out.codes[j]);
        }
        isa.store(block.d, &mut out.d);
        isa.store(block.e, &mut out.e);
    }
}

/// A panel and the same columns of a tile of tokens.
pub(super) struct PanelTile<'a> {
    pub panel: &'a [PanelBlock],
    /// Blocks of the tile, as many as the panel's.
    pub x: &'a [u8],
    /// Tokens of the tile, with padding.
    pub width: usize,
    /// Whether the sums go on from what is there.
    pub resume: bool,
    pub sums: Sums<'a>,
}

/// Adds a panel's part to the sums of a tile.
///
/// # Safety
/// No other thread touches the sums' places while this runs.
#[inline(always)]
pub(super) unsafe fn panel_tile<I: Isa, K: Kind>(isa: I, task: PanelTile<'_>) {
    let source = Panel::<K> {
        blocks: task.panel,
        kind: PhantomData,
    };
    with_width!(I, task.width, N => {
        let mut acc = [isa.splat(0.0); N];
        if task.resume {
            // SAFETY: the caller's contract.
            acc = unsafe { task.sums.read(isa) };
        }
        tile(isa, source, &cast::<XBlock<N>>(task.x)[..task.panel.len()], &mut acc);
        // SAFETY: the caller's contract.
        unsafe { task.sums.write(isa, &acc) };
    });
}

/// A task over weights of block format `F` for up to [`DIRECT_TOKENS`] tokens.
///
/// # Safety
/// No other thread touches the task's rows of `out` while this runs.
#[inline(always)]
pub(super) unsafe fn direct<I: Isa, F: Format>(isa: I, task: Task<'_>) {
    let cols = task.weights.cols();
    for g in task.groups.clone() {
        let source = Direct::<F>::group(task.weights, g);
        let sums = task.sums(g, 0, DIRECT_TOKENS, true);
        if task.tokens == 1 {
            let mut acc = [isa.splat(0.0); 1];
            tile(isa, source, quantised_tile::<1>(task.x, 0, cols), &mut acc);
            // SAFETY: the caller's contract.
            unsafe { sums.write(isa, &acc) };
        } else {
            let mut acc = [isa.splat(0.0); 4];
            tile(isa, source, quantised_tile::<4>(task.x, 0, cols), &mut acc);
            // SAFETY: the caller's contract.
            unsafe { sums.write(isa, &acc) };
        }
    }
}

/// A column of 16 plain weights.
pub(super) trait Column<I: Isa>: Pod {
    fn load(&self, isa: I) -> I::F;
}

/// Element types of plain weights.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F32Column([f32; 16]);
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F16Column([u16; 16]);
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bf16Column([u16; 16]);
// SAFETY: the same layout as their arrays.
unsafe impl Pod for F32Column {}
// SAFETY: as above.
unsafe impl Pod for F16Column {}
// SAFETY: as above.
unsafe impl Pod for Bf16Column {}

impl<I: Isa> Column<I> for F32Column {
    #[inline(always)]
    fn load(&self, isa: I) -> I::F {
        isa.load(&self.0)
    }
}
impl<I: Isa> Column<I> for F16Column {
    #[inline(always)]
    fn load(&self, isa: I) -> I::F {
        isa.load_f16(&self.0)
    }
}
impl<I: Isa> Column<I> for Bf16Column {
    #[inline(always)]
    fn load(&self, isa: I) -> I::F {
        isa.load_bf16(&self.0)
    }
}

/// A task over plain weights.
///
/// # Safety
/// No other thread touches the task's rows of `out` while this runs.
#[inline(always)]
pub(super) unsafe fn plain<I: Isa, C: Column<I>>(isa: I, task: Task<'_>) {
    let cols = task.weights.cols();
    let column = |g: usize| cast::<C>(task.weights.group(g).0);
    if task.tokens == 1 {
        let x = plain_tile::<1>(task.x, 0, cols);
        let mut g = task.groups.start;
        while g + PLAIN_GROUPS <= task.groups.end {
            let w = [column(g), column(g + 1), column(g + 2), column(g + 3)];
            let w = w.map(|w| &w[..cols]);
            let mut acc = [isa.splat(0.0); PLAIN_GROUPS];
            for k in 0..cols {
                let x = isa.splat(x[k][0]);
                for i in 0..PLAIN_GROUPS {
                    acc[i] = isa.fma(w[i][k].load(isa), x, acc[i]);
                }
            }
            for i in 0..PLAIN_GROUPS {
                // SAFETY: the caller's contract.
                unsafe { task.sums(g + i, 0, 1, true).write(isa, &[acc[i]]) };
            }
            g += PLAIN_GROUPS;
        }
        for g in g..task.groups.end {
            let mut acc = [isa.splat(0.0)];
            plain_tokens(isa, column(g), x, &mut acc);
            // SAFETY: the caller's contract.
            unsafe { task.sums(g, 0, 1, true).write(isa, &acc) };
        }
        return;
    }
    let chunk = chunk_tokens(cols * 4, I::TILE);
    let mut start = 0;
    while start < task.tokens {
        let end = task.tokens.min(start + chunk);
        for g in task.groups.clone() {
            let mut t = start;
            while t < end {
                let width = tile_width(end - t, I::TILE);
                with_width!(I, width, N => {
                    let mut acc = [isa.splat(0.0); N];
                    plain_tokens(isa, column(g), plain_tile::<N>(task.x, t, cols), &mut acc);
                    // SAFETY: the caller's contract.
                    unsafe { task.sums(g, t, N, true).write(isa, &acc) };
                });
                t += width;
            }
        }
        start = end;
    }
}

/// `acc[t] += Σₖ w[k] · x[k][t]`, in order.
#[inline(always)]
fn plain_tokens<I: Isa, C: Column<I>, const N: usize>(
    isa: I,
    w: &[C],
    x: &[[f32; N]],
    acc: &mut [I::F; N],
) {
    for (w, x) in w.iter().zip(x) {
        let w = w.load(isa);
        for t in 0..N {
            acc[t] = isa.fma(w, isa.splat(x[t]), acc[t]);
        }
    }
}
