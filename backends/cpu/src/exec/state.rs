//! States at their home: appending rows and attending over them.

use anynpu_hal::{HalError, Sequence};
use anynpu_ir::block::{LEGACY_BLOCK, Q8_0Block};
use anynpu_ir::{DType, Dim, Symbol};
use half::f16;
use half::slice::HalfFloatSliceExt;
use smallvec::SmallVec;

use super::{Frame, host, invalid, kernel_error};
use crate::kernels::ops::{ATTENTIONS, Attention, AttentionOf, KvRows};
use crate::kernels::{Kernels, Scratch};
use crate::pool::Pool;
use crate::program::{AttentionStep, Kv, KvStates, Operand};

/// What a run has of one sequence.
#[derive(Clone, Copy)]
struct Part {
    /// Its place among the run's sequences.
    number: usize,
    /// Its first token among the run's.
    first: usize,
    tokens: usize,
    /// Rows in its states before the run.
    cached: usize,
}

impl Part {
    /// Its elements of a value of the run with `width` a token.
    fn of<'v, T>(&self, values: &'v [T], width: usize) -> Result<&'v [T], HalError> {
        let range = self.first * width..(self.first + self.tokens) * width;
        let found = values.len();
        values.get(range.clone()).ok_or_else(|| {
            let expected = format!("at least {}, for the tokens of all sequences", range.end);
            invalid("elements of a value", found, expected)
        })
    }
}

impl Frame<'_> {
    /// Tokens and cached rows by sequence; of one if the run tells of none.
    fn parts(&self) -> impl Iterator<Item = Part> {
        let symbol = |s: Symbol| self.symbols().get(s);
        let whole = Sequence {
            tokens: symbol(Symbol::TOKENS),
            cached: symbol(Symbol::CACHED),
        };
        let sequences = self.submission.sequences;
        let one = sequences.is_empty().then_some(whole);
        let all = one.into_iter().chain(sequences.iter().copied());
        all.scan(0, |next, s| {
            let first = *next;
            *next += s.tokens as usize;
            Some((first, s))
        })
        .enumerate()
        .map(|(number, (first, s))| Part {
            number,
            first,
            tokens: s.tokens as usize,
            cached: s.cached as usize,
        })
    }

    /// Start of the home of state `slot` of sequence `number`, and how many rows of `row_bytes` it holds.
    pub(super) fn state_memory(
        &self,
        slot: usize,
        number: usize,
        row_bytes: usize,
    ) -> Result<(*mut u8, usize), HalError> {
        let home = host(&self.submission.states[number * self.program.states.len() + slot])?;
        let rows = home.len().checked_div(row_bytes).unwrap_or(0);
        Ok((home.as_ptr(), rows))
    }

    /// Writes `data`, rows of a value of type `rows`, to state `slot`: from row `at` on, or, of
    /// sequences, behind the rows of each.
    ///
    /// # Safety
    /// Nothing else may touch the state's homes meanwhile.
    pub(super) unsafe fn append(
        &self,
        data: &[f32],
        rows: &Operand,
        slot: usize,
        at: Dim,
    ) -> Result<(), HalError> {
        let count = rows.ty.shape.dims().first();
        let count = count.map_or(0, |d| d.resolve(self.symbols()) as usize);
        let width = data.len().checked_div(count).unwrap_or(0);
        // SAFETY: the caller vouches for the homes.
        unsafe {
            if self.submission.sequences.is_empty() {
                let at = at.resolve(self.symbols()) as usize;
                return self.append_rows(data, width, slot, 0, at);
            }
            for part in self.parts() {
                let rows = part.of(data, width)?;
                self.append_rows(rows, width, slot, part.number, part.cached)?;
            }
        }
        Ok(())
    }

    /// Writes rows of `width` elements to state `slot` of sequence `number` from row `at` on.
    ///
    /// # Safety
    /// As [`Frame::append`].
    unsafe fn append_rows(
        &self,
        data: &[f32],
        width: usize,
        slot: usize,
        number: usize,
        at: usize,
    ) -> Result<(), HalError> {
        let (id, dtype) = self.program.states[slot];
        let count = data.len().checked_div(width).unwrap_or(0);
        let row_bytes = self.row_bytes(slot, width)?;
        let (start, capacity) = self.state_memory(slot, number, row_bytes)?;
        let capacity = capacity.min(self.symbols().get(Symbol::CAPACITY) as usize);
        if count > 0 && at + count > capacity {
            let what = format!("rows of state '{}'", self.program.graph.state(id).name);
            let expected = format!("within its {capacity} rows");
            return Err(invalid(what, format!("{at}..{}", at + count), expected));
        }
        // SAFETY: rows `at .. at + count`, of `row_bytes` each, were just checked to lie in the home,
        // whose memory is aligned to 64 bytes and this submission's alone.
        unsafe {
            match dtype {
                DType::F32 => {
                    let to = start.cast::<f32>().add(at * width);
                    std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len());
                }
                DType::Q8_0 => {
                    let to = start.add(at * row_bytes);
                    let to = std::slice::from_raw_parts_mut(to, count * row_bytes);
                    let blocks = data.as_chunks::<LEGACY_BLOCK>().0;
                    for (to, x) in to.as_chunks_mut::<34>().0.iter_mut().zip(blocks) {
                        *to = Q8_0Block::encode_or_nan(x);
                    }
                }
                _ => {
                    let to = start.cast::<f16>().add(at * width);
                    std::slice::from_raw_parts_mut(to, data.len()).convert_from_f32_slice(data);
                }
            }
        }
        Ok(())
    }

    /// # Safety
    /// As [`Frame::step`].
    pub(super) unsafe fn attention(
        &self,
        step: &AttentionStep,
        kernels: &Kernels,
        pool: &Pool,
        scratch: &mut Scratch,
    ) -> Result<(), HalError> {
        // SAFETY: placement gives the operands and the result disjoint memory, every home is bound
        // once, and nothing else runs in them.
        unsafe {
            let (q, out) = (self.read::<f32>(&step.q)?, self.write::<f32>(&step.out)?);
            let positions = step.positions.as_ref();
            let positions = positions.map(|p| self.read::<i32>(p)).transpose()?;
            let mask = step.mask.as_ref();
            let mask = mask.map(|m| self.read::<f32>(m)).transpose()?;
            let whole = Attention {
                heads: self.dim(&step.q, 1),
                kv_heads: 0,
                k_dim: self.dim(&step.q, 2),
                v_dim: 0,
                q,
                k: KvRows::F32(&[]),
                v: KvRows::F32(&[]),
                rows: 0,
                positions,
                mask,
                scale: step.scale,
                soft_cap: step.soft_cap,
                window: step.window,
            };
            match &step.kv {
                Kv::Operands { k, v } => {
                    let operands = Attention {
                        kv_heads: self.dim(k, 1),
                        v_dim: self.dim(v, 2),
                        k: KvRows::F32(self.read::<f32>(k)?),
                        v: KvRows::F32(self.read::<f32>(v)?),
                        rows: self.dim(k, 0),
                        ..whole
                    };
                    let done = kernels.attention(pool, &operands, out, scratch);
                    done.map_err(kernel_error)
                }
                Kv::States(states) => {
                    self.attention_over_states(states, &whole, out, kernels, pool, scratch)
                }
            }
        }
    }

    /// Attention over the states of each sequence; `whole` has all but keys and values.
    ///
    /// # Safety
    /// As [`Frame::step`].
    unsafe fn attention_over_states(
        &self,
        states: &KvStates,
        whole: &Attention<'_>,
        mut out: &mut [f32],
        kernels: &Kernels,
        pool: &Pool,
        scratch: &mut Scratch,
    ) -> Result<(), HalError> {
        let (kv_heads, v_dim) = (states.kv_heads, states.v_dim);
        let over = |part: &Part| -> Result<Attention<'_>, HalError> {
            let rows = part.cached + part.tokens;
            // SAFETY: rows were appended by an earlier step, and none is written by this one.
            let (k, v) = unsafe {
                let k = self.state_rows(states.k, part.number, kv_heads * states.k_dim, rows)?;
                let v = self.state_rows(states.v, part.number, kv_heads * v_dim, rows)?;
                (k, v)
            };
            Ok(Attention {
                kv_heads,
                v_dim,
                k,
                v,
                rows,
                ..*whole
            })
        };
        let mut all = SmallVec::<[AttentionOf<'_, '_>; ATTENTIONS]>::new();
        for part in self.parts() {
            let mut operands = over(&part)?;
            if self.submission.sequences.is_empty() {
                let done = kernels.attention(pool, &operands, out, scratch);
                return done.map_err(kernel_error);
            }
            operands.q = part.of(whole.q, whole.heads * whole.k_dim)?;
            let positions = whole.positions.map(|p| part.of(p, 1));
            operands.positions = positions.transpose()?;
            let (found, width) = (out.len(), part.tokens * whole.heads * v_dim);
            let cut = std::mem::take(&mut out).split_at_mut_checked(width);
            let (own, rest) = cut.ok_or_else(|| {
                let expected = format!("at least {width}, for the tokens of all sequences");
                invalid("elements left of a result", found, expected)
            })?;
            out = rest;
            all.push(AttentionOf { operands, out: own });
            if all.len() == ATTENTIONS {
                let done = kernels.attention_of_each(pool, &mut all, scratch);
                done.map_err(kernel_error)?;
                all.clear();
            }
        }
        let done = kernels.attention_of_each(pool, &mut all, scratch);
        done.map_err(kernel_error)
    }

    fn dim(&self, operand: &Operand, axis: usize) -> usize {
        let dim = operand.ty.shape.dims().get(axis);
        dim.map_or(0, |d| d.resolve(self.symbols()) as usize)
    }

    /// The first `rows` rows of state `slot` of sequence `number`, `width` elements each.
    ///
    /// # Safety
    /// Nothing may write the state's home while the slice lives.
    unsafe fn state_rows(
        &self,
        slot: usize,
        number: usize,
        width: usize,
        rows: usize,
    ) -> Result<KvRows<'_>, HalError> {
        let (id, dtype) = self.program.states[slot];
        let row_bytes = self.row_bytes(slot, width)?;
        let (start, capacity) = self.state_memory(slot, number, row_bytes)?;
        if rows > capacity {
            let what = format!("rows of state '{}'", self.program.graph.state(id).name);
            return Err(invalid(what, rows, format!("within its {capacity} rows")));
        }
        // SAFETY: `rows` rows of `width` elements in `row_bytes` were just checked to lie in the home,
        // whose memory is aligned to 64 bytes, was zeroed when allocated, and holds any bits for these
        // types.
        Ok(unsafe {
            match dtype {
                DType::F32 => KvRows::F32(std::slice::from_raw_parts(start.cast(), rows * width)),
                DType::Q8_0 => KvRows::Q8_0(std::slice::from_raw_parts(start, rows * row_bytes)),
                _ => KvRows::F16(std::slice::from_raw_parts(start.cast(), rows * width)),
            }
        })
    }

    /// Bytes of a row of `width` elements of state `slot`.
    pub(super) fn row_bytes(&self, slot: usize, width: usize) -> Result<usize, HalError> {
        let (id, dtype) = self.program.states[slot];
        dtype.row_bytes(width).ok_or_else(|| {
            let what = format!("row of state '{}'", self.program.graph.state(id).name);
            let found = format!("{width} elements of {dtype}");
            invalid(
                what,
                found,
                format!("whole blocks of {}", dtype.block_len()),
            )
        })
    }
}
