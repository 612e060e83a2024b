//! Products of rows with the experts chosen for them.

use anynpu_hal::HalError;
use anynpu_ir::WeightId;

use super::{Frame, index, invalid, kernel_error};
use crate::kernels::{Kernels, Linear, Scratch};
use crate::pool::Pool;
use crate::program::Operand;

/// Experts of one token whose products share a fork.
const AT_ONCE: usize = 8;

impl<'a> Frame<'a> {
    /// `out[t, s] = x[t, s or 0] · w[ids[t, s]]ᵀ`. Rows that share an expert are computed together,
    /// so that its matrix is read once.
    ///
    /// # Safety
    /// As [`Frame::step`].
    #[allow(clippy::too_many_arguments)] // the step's operands and what runs it
    pub(super) unsafe fn experts(
        &self,
        x: &Operand,
        weight: WeightId,
        ids: &Operand,
        out: &Operand,
        gathered: [usize; 2],
        kernels: &Kernels,
        pool: &Pool,
        scratch: &mut Scratch,
    ) -> Result<(), HalError> {
        let experts = self.module.weights.experts(weight);
        let (x_rows, cols) = self.rows_cols(&x.ty.shape);
        let (out_rows, width) = self.rows_cols(&out.ty.shape);
        // SAFETY: placement gives the operands and the result of one step disjoint memory.
        let (x, ids, out) = unsafe {
            (
                self.read::<f32>(x)?,
                self.read::<i32>(ids)?,
                self.write::<f32>(out)?,
            )
        };
        for &id in ids {
            index("expert", id, experts.len())?;
        }
        let tokens = x_rows.min(out_rows);
        // Rows of `out` for each row of `x`.
        let per_row = out_rows.checked_div(x_rows).unwrap_or(0);
        if tokens == 0 || width == 0 || per_row == 0 {
            return Ok(());
        }
        if x_rows == 1 {
            let mut rows = out.chunks_exact_mut(width).zip(ids);
            loop {
                let mut products: smallvec::SmallVec<[Linear<'_>; AT_ONCE]> = rows
                    .by_ref()
                    .take(AT_ONCE)
                    .map(|(out, &id)| Linear {
                        weights: &experts[id as usize],
                        bias: None,
                        plus: None,
                        out,
                    })
                    .collect();
                if products.is_empty() {
                    return Ok(());
                }
                kernels
                    .matmul_many(pool, &mut products, x, 1, scratch)
                    .map_err(kernel_error)?;
            }
        }
        // SAFETY: as lowering reserved, past everything the placement uses, for all rows of `out`.
        let (from, to) = unsafe {
            (
                self.floats_at(gathered[0], out_rows * cols)?,
                self.floats_at(gathered[1], out_rows * width)?,
            )
        };
        for (e, expert) in experts.iter().enumerate() {
            let chosen = || ids.iter().enumerate().filter(|(_, id)| **id as usize == e);
            let mut count = 0;
            for ((row, _), to) in chosen().zip(from.chunks_exact_mut(cols.max(1))) {
                to.copy_from_slice(&x[row / per_row * cols..][..cols]);
                count += 1;
            }
            if count == 0 {
                continue;
            }
            let (from, to) = (&from[..count * cols], &mut to[..count * width]);
            kernels
                .matmul(pool, expert, from, count, None, to, scratch)
                .map_err(kernel_error)?;
            for ((row, _), from) in chosen().zip(to.chunks_exact(width)) {
                out[row * width..][..width].copy_from_slice(from);
            }
        }
        Ok(())
    }

    /// `count` floats of the arena from `offset` on.
    ///
    /// # Safety
    /// They must have been reserved past what the placement uses, and no one else may use them.
    unsafe fn floats_at(&self, offset: usize, count: usize) -> Result<&'a mut [f32], HalError> {
        let arena = self
            .arena
            .ok_or_else(|| invalid("arena", "absent", "reserved when compiled"))?;
        let end = count.checked_mul(4).and_then(|n| n.checked_add(offset));
        if end.is_none_or(|end| end > arena.len()) {
            let expected = format!("{} bytes", arena.len());
            return Err(invalid(
                "arena",
                format!("{count} floats at {offset}"),
                expected,
            ));
        }
        // SAFETY: the range lies in the arena, which is aligned to 64 bytes as is every offset that
        // lowering reserved, and was zeroed when allocated; the caller vouches for exclusiveness.
        Ok(unsafe { std::slice::from_raw_parts_mut(arena.as_ptr().add(offset).cast(), count) })
    }
}
