//! Products of packed weights with tiles of activations, written once over [`Isa`].
//!
//! A task computes some groups of 16 rows for all tokens. With few tokens it reads the packed
//! codes as they lie ([`direct`]). With many it unpacks part of a group into a panel that stays in
//! the cache ([`sources::unpack`](super::sources::unpack)) and reads that for every tile of tokens ([`panel_tile`]); formats whose
//! panels look alike share that code. Plain weights are brought into binary32 once for many tokens where a
//! processor has to convert them by themselves ([`PlainPair`]). Either way each output runs through the
//! same operations in the same order.

use std::ops::Range;

use super::activations::{self, quantised_tile, tile_width, with_width};
use super::buffer::{Pod, Shared, cast};
use super::isa::{Dot, Isa, Quads, XBlock, bf16_pair};
use super::pack::{PackedMatrix, ROWS, SUPER};
use super::sources::{Direct, Format, Kind, Panel, PanelBlock, Source, next_supers};

/// Up to this many tokens read packed codes directly.
pub(super) const DIRECT_TOKENS: usize = 4;
/// Blocks of a group in a panel: 128 × 640 bytes for each of up to [`MAX_PANEL_GROUPS`], which a second-level
/// cache holds beside some of the activations.
pub(super) const PANEL_BLOCKS: usize = 128;
const _: () = assert!(PANEL_BLOCKS.is_multiple_of(SUPER));
/// Activations worked on before the next group: part of a second-level cache.
const CHUNK_BYTES: usize = 1536 << 10;
/// Columns of plain weights that a loop does at a time.
const UNROLLED: usize = 4;
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
    /// Added last, at the places of `out`.
    pub plus: Option<&'a [f32]>,
    /// This task writes its groups' rows of its tokens only.
    pub out: Shared<f32>,
    pub places: Places,
}

/// Where sums lie: row `r` of the task's token `t` at `first + t · stride + r`, from `row` on.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// Of the first token's row `row`.
    pub first: usize,
    /// Distance of tokens.
    pub stride: usize,
    /// The first row that there is a place for.
    pub row: usize,
}

impl Task<'_> {
    /// The places of group `g`'s sums for the tokens from `t` on, at most `width` of them; with
    /// the bias, if the sums are `complete` when written.
    #[inline(always)]
    pub(super) fn sums(&self, g: usize, t: usize, width: usize, complete: bool) -> Sums<'_> {
        let rows = rows_of(self.weights, g);
        Sums {
            tokens: width.min(self.tokens - t),
            scales: None,
            bias: self.bias.filter(|_| complete).map(|b| &b[rows.clone()]),
            plus: self.plus.filter(|_| complete),
            at: self.places.first + t * self.places.stride + rows.start - self.places.row,
            stride: self.places.stride,
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
    /// Of each token: multiplied by when writing.
    pub scales: Option<&'a [f32]>,
    /// Added after that.
    pub bias: Option<&'a [f32]>,
    /// Added last, from the same places as those of `out`.
    pub plus: Option<&'a [f32]>,
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
                if let Some(scales) = self.scales {
                    sum = isa.mul(sum, isa.splat(scales[i]));
                }
                if let Some(bias) = self.bias {
                    sum = isa.add(sum, isa.load_part(bias, 0.0));
                }
                let at = self.at + i * self.stride;
                if let Some(plus) = self.plus {
                    let plus = &plus[at..at + self.rows];
                    let plus = match plus.try_into() {
                        Ok(plus) => isa.load(plus),
                        Err(_) => isa.load_part(plus, 0.0),
                    };
                    sum = isa.add(plus, sum);
                }
                // SAFETY: the caller's contract.
                let out = unsafe { self.out.slice(at, self.rows) };
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

/// [`Isa::tile`] by [`Dot::dot`].
#[inline(always)]
pub(super) fn tile<I: Dot, S: Source<I>, const N: usize, const G: usize>(
    isa: I,
    mut sources: [S; G],
    x: &[XBlock<N>],
    acc: &mut [[I::F; N]; G],
) {
    let shift = if S::Codes::BITS == 8 {
        I::SIGNED_SHIFT
    } else {
        S::OFFSET
    };
    let mut supers = [[isa.splat(0.0); 2]; G];
    for g in 0..G {
        sources[g] = sources[g].first(x.len());
    }
    for (b, x) in x.iter().enumerate() {
        for g in 0..G {
            sources[g].prefetch(isa, b);
        }
        supers[0] = next_supers(isa, sources[0], b, supers[0]);
        let block = sources[0].block(isa, b, supers[0]);
        let (mut codes, mut d, mut e) = ([block.codes; G], [block.d; G], [block.e; G]);
        for g in 1..G {
            supers[g] = next_supers(isa, sources[g], b, supers[g]);
            let block = sources[g].block(isa, b, supers[g]);
            (codes[g], d[g], e[g]) = (block.codes, block.d, block.e);
        }
        let mut init = [isa.splat_i(0); N];
        if S::HALVES {
            let mut low = init;
            if let Some(s) = shift {
                for t in 0..N {
                    let high = isa.splat_i(x.minus_sum_high[t]);
                    init[t] = times_two_to(isa, high, s);
                    let sum = isa.splat_i(x.minus_sum[t]);
                    low[t] = times_two_to(isa, isa.sub_i(sum, high), s);
                }
            }
            let low = isa.dot::<N, G, 0, 4, _>(codes, x, low);
            add_scaled::<I, S, N, G>(isa, d, x, &low, acc);
            let high = isa.dot::<N, G, 4, 8, _>(codes, x, init);
            add_scaled::<I, S, N, G>(isa, e, x, &high, acc);
        } else {
            if let Some(s) = shift {
                for t in 0..N {
                    init[t] = times_two_to(isa, isa.splat_i(x.minus_sum[t]), s);
                }
            }
            let sums = isa.dot::<N, G, 0, 8, _>(codes, x, init);
            add_scaled::<I, S, N, G>(isa, d, x, &sums, acc);
            if S::MIN {
                for t in 0..N {
                    let sum = isa.splat(x.sum[t]);
                    for g in 0..G {
                        acc[g][t] = isa.fma(e[g], sum, acc[g][t]);
                    }
                }
            }
        }
    }
}

/// `acc = fma(d · f, sums, acc)`, `f` being the blocks' factor.
#[inline(always)]
fn add_scaled<I: Isa, S: Source<I>, const N: usize, const G: usize>(
    isa: I,
    d: [I::F; G],
    x: &XBlock<N>,
    sums: &[[I::I; N]; G],
    acc: &mut [[I::F; N]; G],
) {
    for g in 0..G {
        for t in 0..N {
            let d = if S::OWN_SCALES {
                isa.mul(d[g], isa.splat(x.factor[t]))
            } else {
                isa.times_power(d[g], x.factor[t])
            };
            acc[g][t] = isa.fma(d, isa.to_f32(sums[g][t]), acc[g][t]);
        }
    }
}

/// `sum · 2^shift` of a [`XBlock::minus_sum`].
#[inline(always)]
fn times_two_to<I: Isa>(isa: I, sum: I::I, shift: u32) -> I::I {
    if shift > I::SUM_SHIFT {
        isa.shl_i(sum, shift - I::SUM_SHIFT)
    } else if shift < I::SUM_SHIFT {
        isa.shr_i(sum, I::SUM_SHIFT - shift)
    } else {
        sum
    }
}

/// Most groups of a panel ([`Isa::PANEL_GROUPS`]).
pub(super) const MAX_PANEL_GROUPS: usize = 2;

/// A panel and the same columns of a tile of tokens.
pub(super) struct PanelTile<'a> {
    /// Of one group or of [`Isa::PANEL_GROUPS`], one after the other.
    pub panel: &'a [PanelBlock],
    /// Blocks of each group.
    pub blocks: usize,
    /// Blocks of the tile, as many.
    pub x: &'a [u8],
    /// Tokens of the tile, with padding.
    pub width: usize,
    /// Whether the sums go on from what is there.
    pub resume: bool,
    /// Of each group.
    pub sums: [Sums<'a>; MAX_PANEL_GROUPS],
}

/// Adds a panel's part to the sums of a tile.
///
/// # Safety
/// No other thread touches the sums' places while this runs.
#[inline(always)]
pub(super) unsafe fn panel_tile<I: Isa, K: Kind>(isa: I, task: PanelTile<'_>) {
    let groups = task.panel.len() / task.blocks;
    with_width!(I::TILE, task.width, N => {
        // With scales of halves, twice as many numbers wait to be scaled: of one group they stay in registers.
        if I::PANEL_GROUPS == 2 && !K::HALVES && groups == 2 {
            // SAFETY: the caller's contract.
            unsafe { panel_groups::<I, K, N, 2>(isa, &task, 0) };
        } else {
            for first in 0..groups {
                // SAFETY: the caller's contract.
                unsafe { panel_groups::<I, K, N, 1>(isa, &task, first) };
            }
        }
    });
}

/// [`panel_tile`] for `N` tokens and the `G` groups from the `first` on.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn panel_groups<I: Isa, K: Kind, const N: usize, const G: usize>(
    isa: I,
    task: &PanelTile<'_>,
    first: usize,
) {
    let mut sources = [Panel::<K>::new(&task.panel[..task.blocks]); G];
    let mut acc = [[isa.splat(0.0); N]; G];
    let sums = &task.sums[first..][..G];
    for g in 0..G {
        sources[g] = Panel::new(&task.panel[(first + g) * task.blocks..][..task.blocks]);
        // Stores to lines that are not in a cache would hold up those that come after them.
        for t in 0..N.min(sums[g].tokens) {
            isa.prefetch(sums[g].out.address(sums[g].at + t * sums[g].stride));
        }
        if task.resume {
            // SAFETY: the caller's contract.
            acc[g] = unsafe { sums[g].read(isa) };
        }
    }
    isa.tile(sources, &cast::<XBlock<N>>(task.x)[..task.blocks], &mut acc);
    for g in 0..G {
        // SAFETY: the caller's contract.
        unsafe { sums[g].write(isa, &acc[g]) };
    }
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
        let mut sums = task.sums(g, 0, DIRECT_TOKENS, true);
        if task.tokens == 1 {
            let (x, scales) = quantised_tile::<1>(task.x, 0, cols);
            sums.scales = Some(scales);
            let mut acc = [[isa.splat(0.0); 1]];
            isa.tile([source], x, &mut acc);
            // SAFETY: the caller's contract.
            unsafe { sums.write(isa, &acc[0]) };
        } else {
            let (x, scales) = quantised_tile::<4>(task.x, 0, cols);
            sums.scales = Some(scales);
            let mut acc = [[isa.splat(0.0); 4]];
            isa.tile([source], x, &mut acc);
            // SAFETY: the caller's contract.
            unsafe { sums.write(isa, &acc[0]) };
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

/// Two columns of 16 plain weights in binary32: of the first eight rows, then of the others.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct PlainPair([[[f32; 8]; 2]; 2]);
// SAFETY: the same layout as its array.
unsafe impl Pod for PlainPair {}

impl PlainPair {
    const ZERO: PlainPair = PlainPair([[[0.0; 8]; 2]; 2]);

    #[inline(always)]
    fn new<I: Isa, C: Column<I>>(isa: I, columns: &[C; 2]) -> PlainPair {
        let mut pair = PlainPair::ZERO;
        for c in 0..2 {
            let mut column = [0.0; ROWS];
            isa.store(columns[c].load(isa), &mut column);
            let (halves, _) = column.as_chunks();
            (pair.0[0][c], pair.0[1][c]) = (halves[0], halves[1]);
        }
        pair
    }

    /// The columns.
    #[inline(always)]
    pub(super) fn load<I: Isa>(&self, isa: I) -> [I::F; 2] {
        let mut columns = [[0.0; ROWS]; 2];
        for c in 0..2 {
            columns[c][..8].copy_from_slice(&self.0[0][c]);
            columns[c][8..].copy_from_slice(&self.0[1][c]);
        }
        [isa.load(&columns[0]), isa.load(&columns[1])]
    }
}

/// Pairs of columns that are kept in binary32 at a time: 64 KiB, part of a second-level cache.
const PLAIN_PAIRS: usize = 512;
/// From this many tokens on it is worth that.
const PLAIN_PAIR_TOKENS: usize = 12;

/// The sums of group `g` for the tokens `start..end`, with weights brought into the form of [`PlainPair`] once for all
/// of them.
///
/// # Safety
/// As [`plain`].
#[inline(always)]
unsafe fn plain_by_pairs<I: Isa, C: Column<I>>(
    isa: I,
    task: &Task<'_>,
    g: usize,
    (start, end): (usize, usize),
    pairs: &mut [PlainPair; PLAIN_PAIRS],
) {
    let cols = task.weights.cols();
    let column = &cast::<C>(task.weights.group(g).0)[..cols];
    let (whole, odd) = column.as_chunks::<2>();
    let mut first = 0;
    loop {
        let count = PLAIN_PAIRS.min(whole.len() - first);
        let last = first + count == whole.len();
        let pairs = &mut pairs[..count];
        for (pair, columns) in pairs.iter_mut().zip(&whole[first..]) {
            *pair = PlainPair::new(isa, columns);
        }
        let mut t = start;
        while t < end {
            let width = tile_width(end - t, I::PLAIN_TILE);
            with_width!(I::PLAIN_TILE, width, N => {
                let x = activations::plain_tile::<N>(task.x, t, cols);
                let sums = task.sums(g, t, N, last);
                let mut acc = [isa.splat(0.0); N];
                if first > 0 {
                    // SAFETY: the caller's contract.
                    acc = unsafe { sums.read(isa) };
                }
                isa.plain_pairs(pairs, &x[2 * first..][..2 * count], &mut acc);
                if last && !odd.is_empty() {
                    isa.plain_tile(odd, &x[cols - 1..], &mut acc);
                }
                // SAFETY: as above.
                unsafe { sums.write(isa, &acc) };
            });
            t += width;
        }
        first += count;
        if last {
            return;
        }
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
        let x = activations::plain_tile::<1>(task.x, 0, cols);
        let mut g = task.groups.start;
        while g + PLAIN_GROUPS <= task.groups.end {
            let w = [column(g), column(g + 1), column(g + 2), column(g + 3)];
            let mut acc = [isa.splat(0.0); PLAIN_GROUPS];
            let (some, rest) = x[..cols].as_chunks::<UNROLLED>();
            let parts = w.map(|w| w[..cols].as_chunks::<UNROLLED>());
            for c in 0..some.len() {
                for k in 0..UNROLLED {
                    for i in 0..PLAIN_GROUPS {
                        let w = parts[i].0[c][k].load(isa);
                        acc[i] = isa.fma(w, isa.splat(some[c][k][0]), acc[i]);
                    }
                }
            }
            for k in 0..rest.len() {
                for i in 0..PLAIN_GROUPS {
                    let w = parts[i].1[k].load(isa);
                    acc[i] = isa.fma(w, isa.splat(rest[k][0]), acc[i]);
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
            isa.plain_tile(column(g), x, &mut acc);
            // SAFETY: the caller's contract.
            unsafe { task.sums(g, 0, 1, true).write(isa, &acc) };
        }
        return;
    }
    let chunk = chunk_tokens(cols * 4, I::PLAIN_TILE);
    if I::PLAIN_PAIRS && task.tokens >= PLAIN_PAIR_TOKENS {
        let mut pairs = [PlainPair::ZERO; PLAIN_PAIRS];
        for start in (0..task.tokens).step_by(chunk) {
            let end = task.tokens.min(start + chunk);
            for g in task.groups.clone() {
                // SAFETY: the caller's contract.
                unsafe { plain_by_pairs::<I, C>(isa, &task, g, (start, end), &mut pairs) };
            }
        }
        return;
    }
    let mut start = 0;
    while start < task.tokens {
        let end = task.tokens.min(start + chunk);
        for g in task.groups.clone() {
            let mut t = start;
            while t < end {
                let width = tile_width(end - t, I::PLAIN_TILE);
                with_width!(I::PLAIN_TILE, width, N => {
                    let mut acc = [isa.splat(0.0); N];
                    isa.plain_tile(column(g), activations::plain_tile::<N>(task.x, t, cols), &mut acc);
                    // SAFETY: the caller's contract.
                    unsafe { task.sums(g, t, N, true).write(isa, &acc) };
                });
                t += width;
            }
        }
        start = end;
    }
}

/// A task over weights rounded to BF16.
///
/// # Safety
/// No other thread touches the task's rows of `out` while this runs.
#[inline(always)]
pub(super) unsafe fn rounded<I: Isa>(isa: I, task: Task<'_>) {
    if task.tokens == 1 {
        let mut g = task.groups.start;
        while g + PLAIN_GROUPS <= task.groups.end {
            // SAFETY: the caller's contract.
            unsafe { rounded_groups::<I, 1, PLAIN_GROUPS>(isa, &task, g, 0) };
            g += PLAIN_GROUPS;
        }
        for g in g..task.groups.end {
            // SAFETY: as above.
            unsafe { rounded_groups::<I, 1, 1>(isa, &task, g, 0) };
        }
        return;
    }
    let token = activations::rounded_bytes(task.weights.cols());
    let chunk = chunk_tokens(token, I::PLAIN_TILE);
    for start in (0..task.tokens).step_by(chunk) {
        let end = task.tokens.min(start + chunk);
        for g in task.groups.clone() {
            let mut t = start;
            while t < end {
                let width = tile_width(end - t, I::PLAIN_TILE);
                with_width!(I::PLAIN_TILE, width, N => {
                    // SAFETY: as above.
                    unsafe { rounded_groups::<I, N, 1>(isa, &task, g, t) };
                });
                t += width;
            }
        }
    }
}

/// The sums of `G` groups from `g` on for the `N` tokens from `t` on.
///
/// # Safety
/// As [`rounded`].
#[inline(always)]
unsafe fn rounded_groups<I: Isa, const N: usize, const G: usize>(
    isa: I,
    task: &Task<'_>,
    g: usize,
    t: usize,
) {
    let cols = task.weights.cols();
    let token = activations::rounded_bytes(cols);
    let x = &task.x[t * token..][..N * token];
    let pairs = cols.div_ceil(2);
    let mut w = [&cast::<[f32; 16]>(task.weights.group(g).0)[..pairs]; G];
    for i in 1..G {
        w[i] = &cast::<[f32; 16]>(task.weights.group(g + i).0)[..pairs];
    }
    let mut acc = [[isa.splat(0.0); N]; G];
    if I::BF16 {
        let x = &cast::<[i32; N]>(x)[..pairs];
        for k in 0..pairs {
            let mut codes = [isa.splat(0.0); G];
            for i in 0..G {
                codes[i] = isa.load(&w[i][k]);
            }
            for t in 0..N {
                let x = isa.splat_i(x[k][t]);
                for i in 0..G {
                    acc[i][t] = isa.dot_bf16(codes[i], x, acc[i][t]);
                }
            }
        }
    } else {
        let (x, _) = cast::<[f32; N]>(x).as_chunks::<2>();
        let x = &x[..pairs];
        for k in 0..pairs {
            for i in 0..G {
                let [even, odd] = bf16_pair(isa, isa.bits(isa.load(&w[i][k])));
                isa.fma_each(odd, &x[k][1], &mut acc[i]);
                isa.fma_each(even, &x[k][0], &mut acc[i]);
            }
        }
    }
    for i in 0..G {
        // SAFETY: the caller's contract.
        unsafe { task.sums(g + i, t, N, true).write(isa, &acc[i]) };
    }
}

/// [`Isa::plain_tile`] with all sums in registers.
#[inline(always)]
pub(super) fn plain_tile<I: Isa, C: Column<I>, const N: usize>(
    isa: I,
    w: &[C],
    x: &[[f32; N]],
    acc: &mut [I::F; N],
) {
    let (some, rest) = w.as_chunks::<UNROLLED>();
    let (some_x, rest_x) = x.as_chunks::<UNROLLED>();
    for (w, x) in some.iter().zip(some_x) {
        for k in 0..UNROLLED {
            isa.fma_each(w[k].load(isa), &x[k], acc);
        }
    }
    for (w, x) in rest.iter().zip(rest_x) {
        isa.fma_each(w.load(isa), x, acc);
    }
}
