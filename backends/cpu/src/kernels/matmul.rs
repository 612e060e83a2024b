//! Products of packed weights with tiles of activations, written once over [`Isa`].
//!
//! A task computes some groups of 16 rows for all tokens. With few tokens, or where that is as fast
//! ([`Isa::DIRECT_TOKENS`]), it reads the packed codes as they lie ([`direct`]). Else it unpacks part of a group into a panel that stays in
//! the cache ([`sources::unpack`](super::sources::unpack)) and reads that for every tile of tokens ([`panel_tile`]); formats whose
//! panels look alike share that code. Either way each output runs through the same operations in the same order. Products
//! of weights in float types are in [`super::plain`].

use std::ops::Range;

use super::activations::{quantised_tile, tile_width, with_width};
use super::buffer::{Shared, cast};
use super::isa::{Dot, Isa, Quads, XBlock};
use super::pack::{PackedMatrix, ROWS, SUPER};
use super::sources::{Direct, Format, Kind, Panel, PanelBlock, Source, next_supers};

/// Most tokens for which a group is read directly before the next one is: their activations stay in a second-level cache.
const DIRECT_CHUNK: usize = 64;
/// Blocks of a group in a panel: 128 × 640 bytes for each of up to [`MAX_PANEL_GROUPS`], which a second-level
/// cache holds beside some of the activations.
pub(super) const PANEL_BLOCKS: usize = 128;
const _: () = assert!(PANEL_BLOCKS.is_multiple_of(SUPER));
/// Activations worked on before the next group: part of a second-level cache.
const CHUNK_BYTES: usize = 1536 << 10;

/// Some groups' rows of one product.
pub(super) struct Task<'a> {
    pub weights: &'a PackedMatrix,
    pub groups: Range<usize>,
    /// Tiles, quantised for block formats and plain otherwise.
    pub x: &'a [u8],
    pub tokens: usize,
    /// Whether there is one token in all, whose tile is of one: the last of many has a wider one.
    pub single: bool,
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
    /// Asks for the sums' places: stores to lines that are not in a cache hold up those that come after them.
    #[inline(always)]
    fn prefetch<I: Isa>(&self, isa: I) {
        for t in 0..self.tokens {
            isa.prefetch(self.out.address(self.at + t * self.stride));
        }
    }

    /// # Safety
    /// As [`Shared::slice`] for these places.
    #[inline(always)]
    pub(super) unsafe fn write<I: Isa, const N: usize>(&self, isa: I, acc: &[I::F; N]) {
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
    pub(super) unsafe fn read<I: Isa, const N: usize>(&self, isa: I) -> [I::F; N] {
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
                    let (sum, high) = (x.minus_sum[t], x.minus_sum_high[t]);
                    low[t] = times_two_to(isa, isa.splat_difference(sum, high), s);
                    init[t] = times_two_to(isa, isa.splat_i(high), s);
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

/// `sum · 2^shift` of a [`XBlock::minus_sum`], which is multiplied by no more than that.
#[inline(always)]
fn times_two_to<I: Isa>(isa: I, sum: I::I, shift: u32) -> I::I {
    match shift - I::SUM_SHIFT {
        0 => sum,
        more => isa.shl_i(sum, more),
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
        sums[g].prefetch(isa);
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

/// A task over weights of block format `F` that reads them as they are packed.
///
/// # Safety
/// No other thread touches the task's rows of `out` while this runs.
#[inline(always)]
pub(super) unsafe fn direct<I: Isa, F: Format>(isa: I, task: Task<'_>) {
    if task.single {
        for g in task.groups.clone() {
            // SAFETY: the caller's contract.
            unsafe { direct_tile::<I, F, 1>(isa, &task, g, 0) };
        }
        return;
    }
    // With up to four tokens there is one tile of four.
    let widest = match I::DIRECT_TOKENS[F::BITS as usize] {
        ..=4 => 4,
        _ => I::TILE,
    };
    let chunk = DIRECT_CHUNK / widest * widest;
    for start in (0..task.tokens).step_by(chunk) {
        let end = task.tokens.min(start + chunk);
        for g in task.groups.clone() {
            // What the first tile read is in the nearest caches for the next ones.
            let mut t = start;
            while t < end {
                let width = tile_width(end - t, widest);
                // SAFETY: the caller's contract.
                with_width!(widest, width, N => unsafe {
                    direct_tile::<I, F, N>(isa, &task, g, t);
                });
                t += width;
            }
        }
    }
}

/// Group `g` for the `N` tokens from `t` on.
///
/// # Safety
/// As [`direct`].
#[inline(always)]
unsafe fn direct_tile<I: Isa, F: Format, const N: usize>(
    isa: I,
    task: &Task<'_>,
    g: usize,
    t: usize,
) {
    let source = Direct::<F>::group(task.weights, g);
    let (x, scales) = quantised_tile::<N>(task.x, t, task.weights.cols());
    let sums = Sums {
        scales: Some(scales),
        ..task.sums(g, t, N, true)
    };
    if N > 1 {
        sums.prefetch(isa);
    }
    let mut acc = [[isa.splat(0.0); N]];
    isa.tile([source], x, &mut acc);
    // SAFETY: the caller's contract.
    unsafe { sums.write(isa, &acc[0]) };
}
