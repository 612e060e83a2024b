//! States at their home: appending rows and attending over them.

use anynpu_hal::HalError;
use anynpu_ir::block::{LEGACY_BLOCK, Q8_0Block};
use anynpu_ir::{DType, Dim, Symbol};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Frame, host, invalid, kernel_error};
use crate::kernels::ops::{Attention, KvRows};
use crate::kernels::{Kernels, Scratch};
use crate::lower::{AttentionStep, Kv, Operand};
use crate::pool::Pool;

impl Frame<'_> {
    /// Start of the home of state `slot`, and how many rows of `row_bytes` it holds.
    pub(super) fn state_memory(
        &self,
        slot: usize,
        row_bytes: usize,
    ) -> Result<(*mut u8, usize), HalError> {
        let home = host(&self.submission.states[slot])?;
        let rows = home.len().checked_div(row_bytes).unwrap_or(0);
        Ok((home.as_ptr(), rows))
    }

    /// Writes `data`, rows of a value of type `rows`, to state `slot` from row `at` on.
    ///
    /// # Safety
    /// Nothing else may touch the state's home meanwhile.
    pub(super) unsafe fn append(
        &self,
        data: &[f32],
        rows: &Operand,
        slot: usize,
        at: Dim,
    ) -> Result<(), HalError> {
        let (id, dtype) = self.program.states[slot];
        let count = rows.ty.shape.dims().first();
        let count = count.map_or(0, |d| d.resolve(self.symbols()) as usize);
        let width = data.len().checked_div(count).unwrap_or(0);
        let row_bytes = self.row_bytes(slot, width)?;
        let (start, capacity) = self.state_memory(slot, row_bytes)?;
        let capacity = capacity.min(self.symbols().get(Symbol::CAPACITY) as usize);
        let at = at.resolve(self.symbols()) as usize;
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
        let dim = |o: &Operand, axis: usize| {
            let dim = o.ty.shape.dims().get(axis);
            dim.map_or(0, |d| d.resolve(self.symbols()) as usize)
        };
        // SAFETY: placement gives the operands and the result disjoint memory, the states are
        // bound once, and nothing else runs in them.
        unsafe {
            let (k, v, rows, kv_heads, v_dim) = match &step.kv {
                Kv::Operands { k, v } => {
                    let data = (self.read::<f32>(k)?, self.read::<f32>(v)?);
                    let (k_rows, v_rows) = (KvRows::F32(data.0), KvRows::F32(data.1));
                    (k_rows, v_rows, dim(k, 0), dim(k, 1), dim(v, 2))
                }
                &Kv::States {
                    k,
                    v,
                    kv_heads,
                    k_dim,
                    v_dim,
                } => {
                    let cached = self.symbols().get(Symbol::CACHED) as usize;
                    let rows = cached + self.symbols().get(Symbol::TOKENS) as usize;
                    let k = self.state_rows(k, kv_heads * k_dim, rows)?;
                    let v = self.state_rows(v, kv_heads * v_dim, rows)?;
                    (k, v, rows, kv_heads, v_dim)
                }
            };
            let positions = step.positions.as_ref();
            let mask = step.mask.as_ref();
            let mask = mask.map(|m| self.read::<f32>(m)).transpose()?;
            let operands = Attention {
                heads: dim(&step.q, 1),
                kv_heads,
                k_dim: dim(&step.q, 2),
                v_dim,
                q: self.read::<f32>(&step.q)?,
                k,
                v,
                rows,
                positions: positions.map(|p| self.read::<i32>(p)).transpose()?,
                mask,
                scale: step.scale,
                soft_cap: step.soft_cap,
                window: step.window,
            };
            let out = self.write::<f32>(&step.out)?;
            kernels
                .attention(pool, &operands, out, scratch)
                .map_err(kernel_error)
        }
    }

    /// The first `rows` rows of state `slot`, `width` elements each.
    ///
    /// # Safety
    /// Nothing may write the state's home while the slice lives.
    unsafe fn state_rows(
        &self,
        slot: usize,
        width: usize,
        rows: usize,
    ) -> Result<KvRows<'_>, HalError> {
        let (id, dtype) = self.program.states[slot];
        let row_bytes = self.row_bytes(slot, width)?;
        let (start, capacity) = self.state_memory(slot, row_bytes)?;
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
