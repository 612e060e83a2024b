//! The matrix products as they are called: operands checked, activations laid out, rows shared
//! out over the threads.
//!
//! What follows a product is done while its sums are near: a residual is added as they are written; of a gate and
//! what it gates see [`super::gated`].

use std::marker::PhantomData;
use std::ops::Range;

use anynpu_ir::DType;

use super::activations::{
    narrow_bytes, padded, plain_bytes, quantised_bytes, rounded_bytes, tile_width,
};
use super::buffer::{ALIGN, Scratch, Shared, cast, cast_mut};
use super::gated::MOST_SUMS_BYTES;
use super::isa::XBLOCK_BYTES;
use super::matmul::{MAX_PANEL_GROUPS, PANEL_BLOCKS, PanelTile, Places, Sums, Task, chunk_tokens};
use super::pack::PackedMatrix;
use super::sources::PanelBlock;
use super::table::{BlockProducts, Products};
use super::{KernelError, Kernels, check_len};
use crate::pool::Pool;

/// Elements of activations from which laying them out is worth a fork.
const PARALLEL_LAYOUT: usize = 32 << 10;
/// Tasks per thread: more than one, so that a thread that is late or slow takes fewer.
const TASKS_PER_THREAD: usize = 8;

/// One product of a [`Kernels::matmul_many`]: `out[t, r] = plus[t, r] + (Σ_k x[t, k] · weights[r, k] + bias[r])`.
#[derive(Debug)]
pub struct Linear<'a> {
    /// `[rows, cols]`.
    pub weights: &'a PackedMatrix,
    /// `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// `[tokens, rows]`.
    pub plus: Option<&'a [f32]>,
    /// `[tokens, rows]`, overwritten.
    pub out: &'a mut [f32],
}

/// Bytes of a panel.
const PANEL_BYTES: usize = MAX_PANEL_GROUPS * PANEL_BLOCKS * size_of::<PanelBlock>();
/// Products of one fork.
const AT_ONCE: usize = 8;

/// A [`Linear`] whose output several threads write.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub weights: &'a PackedMatrix,
    pub bias: Option<&'a [f32]>,
    pub plus: Option<&'a [f32]>,
    pub out: Shared<f32>,
    pub run: Products,
}

/// Activations as the products of a call read them.
pub(super) struct Tiles<'a> {
    pub tokens: usize,
    /// For weights of up to 6 bits, and for those of 8.
    quantised: [&'a [u8]; 2],
    plain: &'a [u8],
    rounded: &'a [u8],
    narrow: &'a [u8],
}

impl<'a> Tiles<'a> {
    /// Those for `weights`, and the bytes of a token.
    pub(super) fn of(&self, weights: &PackedMatrix, run: Products) -> (&'a [u8], usize) {
        let cols = weights.cols();
        match run {
            Products::Blocks(_) => (self.quantised[of_8_bits(weights)], quantised_bytes(cols)),
            Products::Plain(_) => (self.plain, plain_bytes(cols)),
            Products::Rounded(_) => (self.rounded, rounded_bytes(cols)),
            Products::Narrow(_) => (self.narrow, narrow_bytes(cols)),
        }
    }
}

/// Forms of activations that a call's products read.
#[derive(Clone, Copy, Default)]
pub(super) struct Forms {
    /// For weights of up to 6 bits, and for those of 8.
    quantised: [bool; 2],
    plain: bool,
    rounded: bool,
    narrow: bool,
}

impl Forms {
    /// All that are of one size or a larger one: rounded tiles are no larger than narrow ones.
    const LARGEST: Forms = Forms {
        quantised: [true; 2],
        plain: true,
        rounded: false,
        narrow: true,
    };

    pub(super) fn note(&mut self, weights: &PackedMatrix) {
        match weights.rounds_to() {
            Some(DType::F16) => self.narrow = true,
            Some(_) => self.rounded = true,
            None if weights.dtype().is_block() => self.quantised[of_8_bits(weights)] = true,
            None => self.plain = true,
        }
    }
}

/// 1 for weights of 8 bits, whose activations are quantised another way, else 0.
fn of_8_bits(weights: &PackedMatrix) -> usize {
    usize::from(weights.dtype() == DType::Q8_0)
}

/// Where things lie in a call's scratch, activations for weights of up to 6 bits first.
struct Layout {
    quantised_8: usize,
    plain: usize,
    rounded: usize,
    narrow: usize,
    /// Of each thread: a panel, then the sums that it keeps.
    threads: usize,
    /// Bytes of each thread.
    thread: usize,
    total: usize,
}

impl Layout {
    /// For up to `sums` bytes of sums that each thread keeps.
    fn new(
        cols: usize,
        tokens: usize,
        threads: usize,
        forms: Forms,
        sums: usize,
    ) -> Option<Layout> {
        let after = |start: usize, used: bool, token: usize| {
            let bytes = if used {
                token.checked_mul(padded(tokens))?
            } else {
                0
            };
            start.checked_add(bytes)?.checked_next_multiple_of(ALIGN)
        };
        let quantised_8 = after(0, forms.quantised[0], quantised_bytes(cols))?;
        let plain = after(quantised_8, forms.quantised[1], quantised_bytes(cols))?;
        let rounded = after(plain, forms.plain, plain_bytes(cols))?;
        let narrow = after(rounded, forms.rounded, rounded_bytes(cols))?;
        let first = after(narrow, forms.narrow, narrow_bytes(cols))?;
        let thread = match forms.quantised {
            [false, false] => sums,
            _ => PANEL_BYTES.checked_add(sums)?,
        };
        let thread = thread.checked_next_multiple_of(ALIGN)?;
        Some(Layout {
            quantised_8,
            plain,
            rounded,
            narrow,
            threads: first,
            thread,
            total: first.checked_add(thread.checked_mul(threads)?)?,
        })
    }
}

/// What the threads of a call work in.
pub(super) struct Room<'a> {
    shared: Shared<u8>,
    thread: usize,
    panel: usize,
    borrow: PhantomData<&'a mut [u8]>,
}

impl Room<'_> {
    /// The panel and the sums of thread `thread`.
    ///
    /// # Safety
    /// No two users have the same thread's room at a time.
    #[allow(clippy::mut_from_ref)] // exclusive by the contract
    pub(super) unsafe fn of(&self, thread: usize) -> (&mut [PanelBlock], &mut [f32]) {
        // SAFETY: the room was borrowed for as long as `self` lives, and this part is this thread's alone.
        let room = unsafe { self.shared.slice(thread * self.thread, self.thread) };
        let (panel, sums) = room.split_at_mut(self.panel);
        (cast_mut(panel), cast_mut(sums))
    }
}

impl Kernels {
    /// Bytes of scratch that a [`Kernels::matmul_many`] or [`Kernels::gated_matmul`] over `cols` columns and up to
    /// `tokens` tokens uses, whatever the weights' types, as long as no two round activations to different ones: with a
    /// [`Scratch`] of that capacity it allocates nothing.
    pub fn scratch_bytes(pool: &Pool, cols: usize, tokens: usize) -> usize {
        let threads = pool.threads();
        Layout::new(cols, tokens, threads, Forms::LARGEST, MOST_SUMS_BYTES)
            .map_or(usize::MAX, |l| l.total)
    }

    /// `out[t, r] = Σ_k x[t, k] · weights[r, k] + bias[r]` with `x` `[tokens, cols]` and `out`
    /// `[tokens, rows]`, by the formulas of the module [`super`].
    ///
    /// # Errors
    /// [`KernelError::Size`] if an operand does not fit the shapes; [`KernelError::OutOfMemory`]
    /// if the scratch has to grow and cannot.
    #[allow(clippy::too_many_arguments)] // the operation's operands
    pub fn matmul(
        &self,
        pool: &Pool,
        weights: &PackedMatrix,
        x: &[f32],
        tokens: usize,
        bias: Option<&[f32]>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let linear = Linear {
            weights,
            bias,
            plus: None,
            out,
        };
        self.matmul_many(pool, &mut [linear], x, tokens, scratch)
    }

    /// Several products of the same activations at once, as of q, k and v: `x` is laid out once, and
    /// threads are forked and joined once. All weights have the same number of columns.
    ///
    /// # Errors
    /// As [`Kernels::matmul`].
    pub fn matmul_many(
        &self,
        pool: &Pool,
        products: &mut [Linear<'_>],
        x: &[f32],
        tokens: usize,
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let Some(first) = products.first() else {
            return Ok(());
        };
        let cols = first.weights.cols();
        check_len("activations", tokens, cols, x.len())?;
        let mut forms = Forms::default();
        for product in &*products {
            let weights = product.weights;
            check_product(weights, cols, tokens, product.bias, product.out.len())?;
            if let Some(plus) = product.plus {
                check_len("what is added", tokens, weights.rows(), plus.len())?;
            }
            forms.note(weights);
        }
        if tokens == 0 {
            return Ok(());
        }
        if cols == 0 {
            for product in products {
                without_columns(product);
            }
            return Ok(());
        }
        let (tiles, room) = self.lay_out_all(pool, x, cols, tokens, forms, 0, scratch)?;
        for some in products.chunks_mut(AT_ONCE) {
            let mut parts = [None; AT_ONCE];
            for (part, product) in parts.iter_mut().zip(some) {
                *part = Some(Part {
                    weights: product.weights,
                    bias: product.bias,
                    plus: product.plus,
                    out: Shared::new(product.out),
                    run: self.products(product.weights)?,
                });
            }
            self.share_out(pool, &parts, &tiles, &room);
        }
        Ok(())
    }

    pub(super) fn products(&self, weights: &PackedMatrix) -> Result<Products, KernelError> {
        let dtype = weights.dtype();
        self.table
            .products(weights)
            .ok_or(KernelError::DType { dtype })
    }

    /// Bytes of activations of a token that are in use at a time, and the widest tile of tokens.
    pub(super) fn tile_of(&self, part: &Part<'_>) -> (usize, usize) {
        let cols = part.weights.cols();
        match part.run {
            Products::Blocks(_) => (PANEL_BLOCKS.min(cols / 32) * XBLOCK_BYTES, self.table.tile),
            Products::Plain(_) => (plain_bytes(cols), self.table.plain_tile),
            Products::Rounded(_) => (rounded_bytes(cols), self.table.plain_tile),
            Products::Narrow(_) => (narrow_bytes(cols), self.table.plain_tile),
        }
    }

    /// Lays out `x`, of at least one column and token, in all `forms`; gives the rest of the scratch, with `sums`
    /// bytes of sums for each thread.
    #[allow(clippy::too_many_arguments)] // the operation's operands
    pub(super) fn lay_out_all<'s>(
        &self,
        pool: &Pool,
        x: &[f32],
        cols: usize,
        tokens: usize,
        forms: Forms,
        sums: usize,
        scratch: &'s mut Scratch,
    ) -> Result<(Tiles<'s>, Room<'s>), KernelError> {
        let overflow = KernelError::Overflow {
            what: "activations",
            rows: tokens,
            cols,
        };
        let layout = Layout::new(cols, tokens, pool.threads(), forms, sums).ok_or(overflow)?;
        let scratch = scratch.get(layout.total)?;
        let (tiles, room) = scratch.split_at_mut(layout.threads);
        let (for_6, rest) = tiles.split_at_mut(layout.quantised_8);
        let (for_8, rest) = rest.split_at_mut(layout.plain - layout.quantised_8);
        let (for_plain, rest) = rest.split_at_mut(layout.rounded - layout.plain);
        let (for_rounded, for_narrow) = rest.split_at_mut(layout.narrow - layout.rounded);
        for (i, tiles) in [&mut *for_6, &mut *for_8].into_iter().enumerate() {
            if !forms.quantised[i] {
                continue;
            }
            let quantise = self.table.quantise_tile[i];
            let of = (quantised_bytes(cols), self.table.tile);
            lay_out(pool, x, tokens, tiles, of, |x, width, out| {
                // SAFETY: `self.features` proves that the processor has the instructions.
                unsafe { quantise(x, cols, width, out) }
            });
        }
        let table = self.table;
        for (used, form, tiles, token) in [
            (
                forms.plain,
                table.interleave_tile,
                &mut *for_plain,
                plain_bytes(cols),
            ),
            (
                forms.rounded,
                table.round_tile,
                &mut *for_rounded,
                rounded_bytes(cols),
            ),
            (
                forms.narrow,
                table.narrow_tile,
                &mut *for_narrow,
                narrow_bytes(cols),
            ),
        ] {
            if used {
                lay_out(
                    pool,
                    x,
                    tokens,
                    tiles,
                    (token, table.plain_tile),
                    |x, width, out| {
                        // SAFETY: `self.features` proves that the processor has the instructions.
                        unsafe { form(x, cols, width, out) }
                    },
                );
            }
        }
        let panel = match forms.quantised {
            [false, false] => 0,
            _ => PANEL_BYTES,
        };
        let tiles = Tiles {
            tokens,
            quantised: [for_6, for_8],
            plain: for_plain,
            rounded: for_rounded,
            narrow: for_narrow,
        };
        let room = Room {
            shared: Shared::new(room),
            thread: layout.thread,
            panel,
            borrow: PhantomData,
        };
        Ok((tiles, room))
    }

    /// Computes all products' rows over the threads. At most [`AT_ONCE`] products.
    fn share_out(
        &self,
        pool: &Pool,
        parts: &[Option<Part<'_>>; AT_ONCE],
        tiles: &Tiles<'_>,
        room: &Room<'_>,
    ) {
        let parts = || parts.iter().flatten();
        let groups: usize = parts().map(|p| p.weights.groups()).sum();
        let share = share_of(groups, pool);
        pool.run_indexed(groups.div_ceil(share), |thread, task| {
            let (from, to) = (task * share, groups.min((task + 1) * share));
            // SAFETY: no two tasks run with the same thread index at a time.
            let (panel, _) = unsafe { room.of(thread) };
            let mut before = 0;
            for part in parts() {
                let end = before + part.weights.groups();
                let (start, stop) = (from.max(before), to.min(end));
                if start < stop {
                    let places = Places {
                        first: 0,
                        stride: part.weights.rows(),
                        row: 0,
                    };
                    let groups = start - before..stop - before;
                    self.groups(part, groups, 0..tiles.tokens, places, tiles, panel);
                }
                before = end;
            }
        });
    }

    /// Some groups' rows of a product, of tokens whose first begins a tile. No one else may touch them, nor `panel`.
    pub(super) fn groups(
        &self,
        part: &Part<'_>,
        groups: Range<usize>,
        tokens: Range<usize>,
        places: Places,
        tiles: &Tiles<'_>,
        panel: &mut [PanelBlock],
    ) {
        let (x, token) = tiles.of(part.weights, part.run);
        let task = Task {
            weights: part.weights,
            groups,
            x: &x[tokens.start * token..],
            tokens: tokens.len(),
            single: tiles.tokens == 1,
            bias: part.bias,
            plus: part.plus,
            out: part.out,
            places,
        };
        match part.run {
            Products::Blocks(blocks) if tiles.tokens > blocks.direct_tokens => {
                self.by_panels(&task, blocks, panel);
            }
            // SAFETY: `self.features` proves that the processor has the instructions; the rows are the caller's.
            Products::Blocks(blocks) => unsafe { (blocks.direct)(task) },
            // SAFETY: as above.
            Products::Plain(run) | Products::Rounded(run) | Products::Narrow(run) => unsafe {
                run(task)
            },
        }
    }

    /// A task over block-quantised weights for many tokens: chunk of tokens by chunk, panel by
    /// panel, group by group, tile by tile. The task's rows of `out` are no other task's.
    fn by_panels(&self, task: &Task<'_>, blocks: BlockProducts, panel: &mut [PanelBlock]) {
        let widest = self.table.tile;
        let cols = task.weights.cols();
        let (token, all) = (quantised_bytes(cols), cols / 32);
        let chunk = chunk_tokens(all.min(PANEL_BLOCKS) * XBLOCK_BYTES, widest);
        for start in (0..task.tokens).step_by(chunk) {
            let end = task.tokens.min(start + chunk);
            for first in (0..all).step_by(PANEL_BLOCKS) {
                let count = PANEL_BLOCKS.min(all - first);
                let last = first + count == all;
                for g in task.groups.clone().step_by(self.table.panel_groups) {
                    let groups = self.table.panel_groups.min(task.groups.end - g);
                    let panel = &mut panel[..groups * count];
                    for (i, panel) in panel.chunks_exact_mut(count).enumerate() {
                        // SAFETY: `self.features` proves that the processor has the instructions.
                        unsafe { (blocks.unpack)(task.weights, g + i, first, panel) };
                    }
                    let mut t = start;
                    while t < end {
                        let width = tile_width(end - t, widest);
                        let bytes = width * XBLOCK_BYTES;
                        let (x, scales) = task.x[t * token..].split_at(all * bytes);
                        let scales = last.then(|| &cast(scales)[..width]);
                        let tile = PanelTile {
                            panel,
                            blocks: count,
                            x: &x[first * bytes..][..count * bytes],
                            width,
                            resume: first > 0,
                            sums: [g, g + groups - 1].map(|g| Sums {
                                scales,
                                ..task.sums(g, t, width, last)
                            }),
                        };
                        // SAFETY: as above; the task's rows are its own.
                        unsafe { (blocks.panel_tile)(tile) };
                        t += width;
                    }
                }
            }
        }
    }
}

/// Lays out the rows of `x` in tiles of up to `widest` tokens of `token` bytes each.
fn lay_out(
    pool: &Pool,
    x: &[f32],
    tokens: usize,
    out: &mut [u8],
    (token, widest): (usize, usize),
    lay_out: impl Fn(&[f32], usize, &mut [u8]) + Sync,
) {
    let cols = x.len() / tokens;
    let out = Shared::new(out);
    let task = |i: usize| {
        let t = i * widest;
        let end = tokens.min(t + widest);
        let width = match tokens {
            1 => 1,
            _ => tile_width(end - t, widest),
        };
        // SAFETY: this tile's bytes are written by this task alone, and the borrow of `out`
        // outlives the pool's run.
        let to = unsafe { out.slice(t * token, width * token) };
        lay_out(&x[t * cols..end * cols], width, to);
    };
    let tiles = tokens.div_ceil(widest);
    if x.len() < PARALLEL_LAYOUT {
        (0..tiles).for_each(task);
    } else {
        pool.run(tiles, task);
    }
}

/// Groups of a task: a multiple of four, which products with plain weights run side by side.
pub(super) fn share_of(groups: usize, pool: &Pool) -> usize {
    let most = match pool.threads() {
        1 => 1,
        threads => threads * TASKS_PER_THREAD,
    };
    groups.div_ceil(most).next_multiple_of(4).max(4)
}

/// Checks the operands of one product beside the activations.
pub(super) fn check_product(
    weights: &PackedMatrix,
    cols: usize,
    tokens: usize,
    bias: Option<&[f32]>,
    out: usize,
) -> Result<(), KernelError> {
    if weights.cols() != cols {
        return Err(KernelError::Size {
            what: "columns of the weights",
            expected: cols,
            found: weights.cols(),
        });
    }
    check_len("output", tokens, weights.rows(), out)?;
    match bias {
        Some(bias) => check_len("bias", 1, weights.rows(), bias.len()),
        None => Ok(()),
    }
}

/// The product over no columns: what is added to it.
fn without_columns(product: &mut Linear<'_>) {
    let rows = product.weights.rows();
    if rows == 0 {
        return;
    }
    for row in product.out.chunks_exact_mut(rows) {
        match product.bias {
            Some(bias) => row.copy_from_slice(bias),
            None => row.fill(0.0),
        }
    }
    for (out, plus) in product.out.iter_mut().zip(product.plus.unwrap_or(&[])) {
        *out += plus;
    }
}
