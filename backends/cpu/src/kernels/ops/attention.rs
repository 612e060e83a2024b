//! Attention over rows of keys and values, as it is called.

use anynpu_ir::DType;
use half::f16;
use smallvec::SmallVec;

use super::super::buffer::{ALIGN, Scratch, Shared};
use super::super::{KernelError, Kernels, check_len};
use super::attend::{Attend, HEADS, kv_heads_of_a_task, space_bytes, tokens_of_a_task};
use crate::pool::Pool;

/// Most elements of a head, of keys or of values.
pub const MAX_HEAD_DIM: usize = 512;

/// Rows of keys or values, `[rows, kv_heads, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub enum KvRows<'a> {
    /// In binary32.
    F32(&'a [f32]),
    /// In binary16.
    F16(&'a [f16]),
    /// In blocks of 32 elements along a head, as [`anynpu_ir::block::Q8_0Block`] describes them.
    Q8_0(&'a [u8]),
}

impl KvRows<'_> {
    fn len(&self) -> usize {
        match self {
            KvRows::F32(d) => d.len(),
            KvRows::F16(d) => d.len(),
            KvRows::Q8_0(d) => d.len() / DType::Q8_0.block_bytes() * DType::Q8_0.block_len(),
        }
    }
}

/// Operands of [`Kernels::attention`].
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a query and of a key.
    pub k_dim: usize,
    /// Elements of a value.
    pub v_dim: usize,
    /// `[tokens, heads, k_dim]`.
    pub q: &'a [f32],
    /// Keys; rows past `rows` are not read.
    pub k: KvRows<'a>,
    /// Values; rows past `rows` are not read.
    pub v: KvRows<'a>,
    /// Key rows there are.
    pub rows: usize,
    /// If given, a token sees key rows up to its position only.
    pub positions: Option<&'a [i32]>,
    /// `[tokens, rows]`, added to the scores.
    pub mask: Option<&'a [f32]>,
    /// Multiplies scores.
    pub scale: f32,
    /// Bounds scores by `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
    /// With positions: a token sees its last `window` key rows only.
    pub window: Option<u32>,
}

impl Attention<'_> {
    /// Checks the operands and the result's size; gives the number of tokens.
    fn check(&self, out: usize) -> Result<usize, KernelError> {
        let width = self.heads.saturating_mul(self.k_dim);
        let tokens = self.q.len().checked_div(width).unwrap_or(0);
        check_len("queries", tokens, width, self.q.len())?;
        check_len("result", tokens, self.heads.saturating_mul(self.v_dim), out)?;
        let dim = self.k_dim.max(self.v_dim);
        if dim > MAX_HEAD_DIM || self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(KernelError::HeadDim {
                found: dim,
                heads: self.heads,
                kv_heads: self.kv_heads,
            });
        }
        for (what, rows, head) in [
            ("keys", &self.k, self.k_dim),
            ("values", &self.v, self.v_dim),
        ] {
            let blocks = matches!(rows, KvRows::Q8_0(_));
            if blocks && !head.is_multiple_of(DType::Q8_0.block_len()) {
                return Err(KernelError::HeadBlocks { what, found: head });
            }
            let row = self.kv_heads.saturating_mul(head);
            let needed = self.rows.saturating_mul(row);
            if rows.len() < needed {
                return Err(KernelError::Size {
                    what,
                    expected: needed,
                    found: rows.len(),
                });
            }
        }
        if let Some(mask) = self.mask {
            check_len("mask", tokens, self.rows, mask.len())?;
        }
        if let Some(positions) = self.positions {
            check_len("positions", 1, tokens, positions.len())?;
            for &p in positions {
                if usize::try_from(p).map_or(true, |p| p >= self.rows) {
                    return Err(KernelError::Position {
                        found: p,
                        rows: self.rows,
                    });
                }
            }
        }
        Ok(tokens)
    }
}

impl Kernels {
    /// Bytes of scratch that any [`Kernels::attention`] uses: with a [`Scratch`] of that capacity
    /// it allocates nothing.
    pub fn attention_scratch_bytes(pool: &Pool) -> usize {
        pool.threads() * space_bytes(MAX_HEAD_DIM, MAX_HEAD_DIM).next_multiple_of(ALIGN)
    }

    /// `out[t, h] = Σ_j softmax_j(q[t, h] · k[j]) · v[j]`, `[tokens, heads, v_dim]`.
    ///
    /// The order of operations is that of `attend.rs`; it depends on a token's own position and
    /// window alone.
    ///
    /// # Errors
    /// [`KernelError::Size`] if operands don't fit, [`KernelError::HeadDim`] for heads too wide,
    /// [`KernelError::HeadBlocks`] for rows in blocks that heads do not fill,
    /// [`KernelError::Position`] if a token's position is not a key row,
    /// [`KernelError::NothingVisible`] if a token sees no key at all, and
    /// [`KernelError::OutOfMemory`] if the scratch has to grow and cannot.
    pub fn attention(
        &self,
        pool: &Pool,
        a: &Attention<'_>,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let operands = *a;
        self.attention_of_each(pool, &mut [AttentionOf { operands, out }], scratch)
    }

    /// [`Kernels::attention`] of each of `all`, spread over the threads together. Allocates nothing
    /// for [`ATTENTIONS`] of them or fewer.
    ///
    /// # Errors
    /// As [`Kernels::attention`].
    pub fn attention_of_each(
        &self,
        pool: &Pool,
        all: &mut [AttentionOf<'_, '_>],
        scratch: &mut Scratch,
    ) -> Result<(), KernelError> {
        let mut works = SmallVec::<[Work<'_>; ATTENTIONS]>::new();
        let (mut tasks, mut space) = (0, 0);
        let several = all.len();
        for AttentionOf { operands: a, out } in all {
            let tokens = a.check(out.len())?;
            if out.is_empty() {
                continue;
            }
            let group = a.heads / a.kv_heads;
            let parts = group.div_ceil(HEADS);
            let block = tokens_of_a_task(group.min(HEADS));
            let most = kv_heads_of_a_task(tokens.min(block), group.min(HEADS));
            let fair = (several * a.kv_heads).div_ceil(pool.threads());
            let together = fair.min(most).min(a.kv_heads);
            works.push(Work {
                operands: a,
                out: Shared::new(out),
                tokens,
                parts,
                block,
                together,
                first: tasks,
            });
            tasks += tokens.div_ceil(block) * a.kv_heads.div_ceil(together) * parts;
            space = space.max(space_bytes(a.k_dim, a.v_dim).next_multiple_of(ALIGN));
        }
        if tasks == 0 {
            return Ok(());
        }
        let spaces = Shared::new(scratch.get(pool.threads() * space)?);
        let blind = std::sync::atomic::AtomicBool::new(false);
        let works = &works[..];
        pool.run_indexed(tasks, |thread, task| {
            let Some(work) = works.iter().rfind(|work| work.first <= task) else {
                return;
            };
            // SAFETY: no two tasks run with the same thread index at a time, and the borrow of the
            // scratch outlives the pool's run.
            let space = unsafe { spaces.slice(thread * space, space) };
            let task = work.task(task - work.first, space);
            // SAFETY: `self.features` proves that the processor has the instructions; each
            // token's head is written by one task, and every `out` stays borrowed until all are done.
            if !unsafe { (self.table.attend)(task) } {
                blind.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        });
        if blind.into_inner() {
            return Err(KernelError::NothingVisible);
        }
        Ok(())
    }
}

/// One attention of several.
#[derive(Debug)]
pub struct AttentionOf<'a, 'o> {
    /// Its operands.
    pub operands: Attention<'a>,
    /// Its result.
    pub out: &'o mut [f32],
}

/// Attentions that [`Kernels::attention_of_each`] takes without allocating.
pub const ATTENTIONS: usize = 32;

/// An attention cut into tasks.
struct Work<'a> {
    operands: &'a Attention<'a>,
    out: Shared<f32>,
    tokens: usize,
    /// Parts of the query heads of a key head.
    parts: usize,
    /// Tokens of a task.
    block: usize,
    /// Key heads of a task.
    together: usize,
    /// Its first task among those of all.
    first: usize,
}

impl<'a> Work<'a> {
    fn task<'s>(&self, task: usize, space: &'s mut [u8]) -> Attend<'s>
    where
        'a: 's,
    {
        let a = self.operands;
        let group = a.heads / a.kv_heads;
        let (part, rest) = (task % self.parts, task / self.parts);
        let turns = a.kv_heads.div_ceil(self.together);
        let (turn, first) = (rest % turns, rest / turns * self.block);
        let kv_heads = turn * self.together..a.kv_heads.min((turn + 1) * self.together);
        Attend {
            operands: a,
            tokens: first..self.tokens.min(first + self.block),
            kv_heads,
            heads: part * HEADS..group.min((part + 1) * HEADS),
            out: self.out,
            space,
        }
    }
}
