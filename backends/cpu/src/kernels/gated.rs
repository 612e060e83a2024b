//! Two products of the same activations of which one gates the other, as they are called.
//!
//! A thread computes some groups of both for some tokens, which stay in its cache, and writes only what comes of them.

use std::ops::Range;

use anynpu_ir::Activation;

use super::buffer::{Scratch, Shared};
use super::linear::{Forms, Part, Tiles, check_product, share_of};
use super::matmul::{MAX_PANEL_GROUPS, Places, chunk_tokens};
use super::ops::{GatedRows, check_activation};
use super::pack::{PackedMatrix, ROWS};
use super::sources::PanelBlock;
use super::{KernelError, Kernels, check_len};
use crate::pool::Pool;

/// Most tokens whose sums are kept at a time.
const TOKENS: usize = 1024;
/// Most groups whose sums are kept at a time, where there are few tokens: memory is read in long runs then.
const GROUPS: usize = 64;

/// What a [`Kernels::gated_matmul`] computes: `out = act(gate) · up` of two products of the same activations.
#[derive(Debug)]
pub struct GatedLinear<'a> {
    /// `act`.
    pub act: Activation,
    /// Weights `[rows, cols]` of the gate and of what it gates.
    pub weights: [&'a PackedMatrix; 2],
    /// Their `[rows]`.
    pub bias: [Option<&'a [f32]>; 2],
    /// `[tokens, rows]`, overwritten.
    pub out: &'a mut [f32],
}

impl Kernels {
    /// Two products of the same activations, `act(gate) · up`: as the two and then
    /// [`Kernels::gated_activation`], bit for bit, without their results in memory.
    ///
    /// # Errors
    /// As [`Kernels::matmul`]; [`KernelError::Activation`] for an activation this build does not know.
    pub fn gated_matmul(
        &self,
        pool: &Pool,
        gated: GatedLinear<'_>,
        x: &[f32],
        tokens: usize,
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        check_activation(gated.act)?;
        let cols = gated.weights[0].cols();
        check_len("activations", tokens, cols, x.len())?;
        let mut forms = Forms::default();
        for (weights, bias) in gated.weights.into_iter().zip(gated.bias) {
            check_product(weights, cols, tokens, bias, gated.out.len())?;
            forms.note(weights);
        }
        if tokens == 0 || gated.out.is_empty() {
            return Ok(());
        }
        if cols == 0 {
            return self.gated_biases(gated);
        }
        let sums = sums_bytes(tokens);
        let (tiles, room) = self.lay_out_all(pool, x, cols, tokens, forms, sums, scratch)?;
        let part = |i: usize| {
            Ok::<_, KernelError>(Part {
                weights: gated.weights[i],
                bias: gated.bias[i],
                plus: None,
                out: Shared::new(&mut []),
                run: self.products(gated.weights[i])?,
            })
        };
        let parts = [part(0)?, part(1)?];
        let out = Shared::new(gated.out);
        let groups = parts[0].weights.groups();
        let share = share_of(groups, pool);
        pool.run_indexed(groups.div_ceil(share), |thread, task| {
            // SAFETY: no two tasks run with the same thread index at a time.
            let room = unsafe { room.of(thread) };
            let groups = task * share..groups.min((task + 1) * share);
            self.gated_groups(gated.act, parts, groups, &tiles, out, room);
        });
        Ok(())
    }

    /// Some groups of a [`Kernels::gated_matmul`]: some tokens by some groups of both products, and then their result.
    fn gated_groups(
        &self,
        act: Activation,
        parts: [Part<'_>; 2],
        groups: Range<usize>,
        tiles: &Tiles<'_>,
        out: Shared<f32>,
        (panel, sums): (&mut [PanelBlock], &mut [f32]),
    ) {
        let rows = parts[0].weights.rows();
        let (most_tokens, groups_at_once) = at_once(tiles.tokens);
        // Whole tiles of both kinds that a cache holds.
        let [(gate_token, gate_widest), (up_token, up_widest)] = parts.map(|p| self.tile_of(&p));
        let widest = match gate_widest == up_widest {
            true => gate_widest,
            false => gate_widest * up_widest,
        };
        let chunk = chunk_tokens(gate_token.max(up_token), widest);
        let tokens_at_once = match most_tokens.min(chunk) {
            all if all == tiles.tokens => all,
            some => (some / widest).max(1) * widest,
        };
        let (gates, ups) = sums.split_at_mut(sums.len() / 2);
        for start in (0..tiles.tokens).step_by(tokens_at_once) {
            let tokens = start..tiles.tokens.min(start + tokens_at_once);
            for first in groups.clone().step_by(groups_at_once) {
                let some = first..groups.end.min(first + groups_at_once);
                let stride = some.len() * ROWS;
                for (part, sums) in parts.into_iter().zip([&mut *gates, &mut *ups]) {
                    let places = Places {
                        first: 0,
                        stride,
                        row: first * ROWS,
                    };
                    let part = Part {
                        out: Shared::new(sums),
                        ..part
                    };
                    self.groups(&part, some.clone(), tokens.clone(), places, tiles, panel);
                }
                let task = GatedRows {
                    act,
                    gate: &gates[..tokens.len() * stride],
                    up: &ups[..tokens.len() * stride],
                    stride,
                    rows: rows.min(some.end * ROWS) - first * ROWS,
                    out,
                    at: start * rows + first * ROWS,
                    out_stride: rows,
                };
                // SAFETY: `self.features` proves that the processor has the instructions; the rows of these groups
                // are this task's, and `out` stays borrowed until all are done.
                unsafe { (self.table.gated_rows)(task) };
            }
        }
    }

    /// A [`Kernels::gated_matmul`] over no columns.
    fn gated_biases(&self, gated: GatedLinear<'_>) -> Result<(), KernelError> {
        let rows = gated.weights[0].rows();
        let zeros = vec![0.0; rows];
        let [gate, up] = gated.bias.map(|bias| bias.unwrap_or(&zeros));
        for out in gated.out.chunks_exact_mut(rows) {
            // SAFETY: `self.features` proves that the processor has the instructions.
            unsafe { (self.table.gated)(gated.act, gate, up, out) };
        }
        Ok(())
    }
}

/// Tokens and groups whose sums a thread keeps at a time: with those of what is gated, up to a quarter of a
/// second-level cache.
fn at_once(tokens: usize) -> (usize, usize) {
    let tokens = tokens.clamp(1, TOKENS);
    let groups = TOKENS * MAX_PANEL_GROUPS / tokens / MAX_PANEL_GROUPS * MAX_PANEL_GROUPS;
    (tokens, groups.min(GROUPS))
}

/// Bytes of the sums of both products that a thread keeps.
fn sums_bytes(tokens: usize) -> usize {
    let (tokens, groups) = at_once(tokens);
    2 * tokens * groups * ROWS * size_of::<f32>()
}

/// The most of them, for any number of tokens.
pub(super) const MOST_SUMS_BYTES: usize = 2 * TOKENS * MAX_PANEL_GROUPS * ROWS * size_of::<f32>();
