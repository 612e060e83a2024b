//! The operations around the matrix products: norms, softmax, rotary embedding, activations,
//! arithmetic and attention.

mod attend;
mod attention;
mod math;
mod rows;
#[cfg(test)]
mod tests;

use anynpu_ir::{Activation, RopeStyle};

use super::buffer::Shared;
use super::{KernelError, Kernels, check_len};
use crate::pool::Pool;

pub(super) use attend::{Attend, AttendFn, attend};
pub use attention::{ATTENTIONS, Attention, AttentionOf, KvRows, MAX_HEAD_DIM};
pub(super) use rows::{
    GatedRows, activation, arithmetic, gated, gated_rows, layer_norm, rms_norm, rope, scale,
    soft_cap, softmax,
};

/// Elements from which sharing a loop between threads is worth a fork.
const PARALLEL: usize = 1 << 15;

/// Calls `row(i, out_row)` for every row of `out`, on several threads if it is large.
fn each_row(pool: &Pool, out: &mut [f32], width: usize, row: impl Fn(usize, &mut [f32]) + Sync) {
    if width == 0 {
        return;
    }
    if out.len() < PARALLEL {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            row(i, out);
        }
        return;
    }
    let rows = out.len() / width;
    let shared = Shared::new(out);
    pool.run(rows, |i| {
        // SAFETY: each row is written by one task, and `out` stays borrowed until all are done.
        row(i, unsafe { shared.slice(i * width, width) });
    });
}

/// Calls `piece(at, out_piece)` for pieces that cover `out`, on several threads if it is large.
fn each_piece(pool: &Pool, out: &mut [f32], piece: impl Fn(usize, &mut [f32]) + Sync) {
    const PIECE: usize = PARALLEL / 4;
    if out.len() < PARALLEL {
        return piece(0, out);
    }
    let len = out.len();
    let shared = Shared::new(out);
    pool.run(len.div_ceil(PIECE), |i| {
        let at = i * PIECE;
        // SAFETY: each piece is written by one task, and `out` stays borrowed until all are done.
        piece(at, unsafe { shared.slice(at, PIECE.min(len - at)) });
    });
}

/// Checks that `x` and `out` are the same whole number of rows.
fn check_rows(what: &'static str, x: usize, width: usize, out: usize) -> Result<(), KernelError> {
    check_len(what, 1, x, out)?;
    let rows = x.checked_div(width).unwrap_or(0);
    check_len(what, rows, width, x)
}

/// Fills `cos` and `sin`, each `[positions, frequencies]`, with those of `position · frequency`
/// (rounded to binary32), times `magnitude`.
///
/// # Errors
/// [`KernelError::Size`] if the tables have another size.
pub fn rope_table(
    positions: &[i32],
    frequencies: &[f32],
    magnitude: f32,
    cos: &mut [f32],
    sin: &mut [f32],
) -> Result<(), KernelError> {
    check_len("cosines", positions.len(), frequencies.len(), cos.len())?;
    check_len("sines", positions.len(), frequencies.len(), sin.len())?;
    let mut entries = cos.iter_mut().zip(sin);
    for &p in positions {
        for (f, (cos, sin)) in frequencies.iter().zip(&mut entries) {
            let (s, c) = math::sin_cos(f64::from(p as f32 * f));
            (*cos, *sin) = (c as f32 * magnitude, s as f32 * magnitude);
        }
    }
    Ok(())
}

/// Shape of the operand of [`Kernels::rope`].
#[derive(Clone, Copy, Debug)]
pub struct RopeLayout {
    /// Heads of a token.
    pub heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Rotated elements of a head, even, at most `head_dim`.
    pub dims: usize,
    /// Which elements pair up.
    pub style: RopeStyle,
}

/// Elementwise arithmetic of [`Kernels::arithmetic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the operation its name says
pub enum Arithmetic {
    Add,
    Sub,
    Mul,
}

/// Whether the kernels know the activation.
pub(super) fn check_activation(act: Activation) -> Result<(), KernelError> {
    match act {
        Activation::Relu
        | Activation::Silu
        | Activation::Gelu
        | Activation::GeluTanh
        | Activation::GeluQuick => Ok(()),
        asked => Err(KernelError::Activation { asked }),
    }
}

/// In the methods below, `self.features` proves that the processor has the instructions of
/// `self.table`, which is what calling the table's functions requires.
impl Kernels {
    /// `out = x / √(mean(x²) + eps) · weight`, row by row of `weight.len()` elements.
    ///
    /// # Errors
    /// [`KernelError::Size`] if `x` and `out` differ in size or are not whole rows.
    pub fn rms_norm(
        &self,
        pool: &Pool,
        x: &[f32],
        weight: &[f32],
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let width = weight.len();
        check_rows("norm", x.len(), width, out.len())?;
        each_row(pool, out, width, |i, out| {
            // SAFETY: the processor has the instructions (see above).
            unsafe { (self.table.rms_norm)(&x[i * width..][..width], weight, eps, out) }
        });
        Ok(())
    }

    /// `out = (x − mean) / √(variance + eps) · gamma + beta`, row by row.
    ///
    /// # Errors
    /// As [`Kernels::rms_norm`]; also if `beta` is not as long as `gamma`.
    pub fn layer_norm(
        &self,
        pool: &Pool,
        x: &[f32],
        gamma: &[f32],
        beta: Option<&[f32]>,
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let width = gamma.len();
        check_rows("norm", x.len(), width, out.len())?;
        if let Some(beta) = beta {
            check_len("beta", 1, width, beta.len())?;
        }
        each_row(pool, out, width, |i, out| {
            // SAFETY: the processor has the instructions (see above).
            unsafe { (self.table.layer_norm)(&x[i * width..][..width], gamma, beta, eps, out) }
        });
        Ok(())
    }

    /// `out = softmax(x)`, row by row of `width` elements.
    ///
    /// # Errors
    /// [`KernelError::Size`] if `x` and `out` differ in size or are not whole rows.
    pub fn softmax(
        &self,
        pool: &Pool,
        x: &[f32],
        width: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_rows("softmax", x.len(), width, out.len())?;
        each_row(pool, out, width, |i, out| {
            // SAFETY: the processor has the instructions (see above).
            unsafe { (self.table.softmax)(&x[i * width..][..width], out) }
        });
        Ok(())
    }

    /// Rotates `x` `[tokens, heads, head_dim]` by the tables of [`rope_table`],
    /// `[tokens, dims/2]`: a pair `(a, b)` becomes `(a·cos − b·sin, a·sin + b·cos)`.
    ///
    /// # Errors
    /// [`KernelError::Size`] if operands don't fit the layout.
    pub fn rope(
        &self,
        pool: &Pool,
        x: &[f32],
        cos: &[f32],
        sin: &[f32],
        layout: &RopeLayout,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (width, pairs) = (layout.heads * layout.head_dim, layout.dims / 2);
        if layout.dims > layout.head_dim || !layout.dims.is_multiple_of(2) {
            return Err(KernelError::Size {
                what: "rotated elements of a head",
                expected: layout.head_dim,
                found: layout.dims,
            });
        }
        check_rows("rope", x.len(), width, out.len())?;
        let tokens = x.len().checked_div(width).unwrap_or(0);
        check_len("cosines", tokens, pairs, cos.len())?;
        check_len("sines", tokens, pairs, sin.len())?;
        each_row(pool, out, width, |t, out| {
            let (cos, sin) = (&cos[t * pairs..][..pairs], &sin[t * pairs..][..pairs]);
            // SAFETY: the processor has the instructions (see above).
            unsafe { (self.table.rope)(&x[t * width..][..width], cos, sin, layout, out) }
        });
        Ok(())
    }

    /// `out = act(x)`.
    ///
    /// # Errors
    /// [`KernelError::Size`] if the operands differ in size; [`KernelError::Activation`] for an
    /// activation this build does not know.
    pub fn activation(
        &self,
        pool: &Pool,
        act: Activation,
        x: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_activation(act)?;
        check_len("result", 1, x.len(), out.len())?;
        each_piece(pool, out, |at, out| {
            // SAFETY: the processor has the instructions (see above).
            unsafe { (self.table.activation)(act, &x[at..], out) }
        });
        Ok(())
    }

    /// `out = act(gate) · up`.
    ///
    /// # Errors
    /// As [`Kernels::activation`].
    pub fn gated_activation(
        &self,
        pool: &Pool,
        act: Activation,
        gate: &[f32],
        up: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_activation(act)?;
        check_len("gate", 1, out.len(), gate.len())?;
        check_len("up", 1, out.len(), up.len())?;
        each_piece(pool, out, |at, out| {
            // SAFETY: the processor has the instructions (see above).
            unsafe { (self.table.gated)(act, &gate[at..], &up[at..], out) }
        });
        Ok(())
    }

    /// `out = cap · tanh(x / cap)`.
    ///
    /// # Errors
    /// [`KernelError::Size`] if the operands differ in size.
    pub fn soft_cap(
        &self,
        pool: &Pool,
        cap: f32,
        x: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_len("result", 1, x.len(), out.len())?;
        each_piece(pool, out, |at, out| {
            // SAFETY: the processor has the instructions (see above).
            unsafe { (self.table.soft_cap)(cap, &x[at..], out) }
        });
        Ok(())
    }

    /// `out = x · factor`.
    ///
    /// # Errors
    /// [`KernelError::Size`] if the operands differ in size.
    pub fn scale(
        &self,
        pool: &Pool,
        factor: f32,
        x: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_len("result", 1, x.len(), out.len())?;
        each_piece(pool, out, |at, out| {
            // SAFETY: the processor has the instructions (see above).
            unsafe { (self.table.scale)(factor, &x[at..], out) }
        });
        Ok(())
    }

    /// `out = a ∘ b` of equal sizes.
    ///
    /// # Errors
    /// [`KernelError::Size`] if the operands differ in size.
    pub fn arithmetic(
        &self,
        pool: &Pool,
        op: Arithmetic,
        a: &[f32],
        b: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        check_len("first operand", 1, out.len(), a.len())?;
        check_len("second operand", 1, out.len(), b.len())?;
        each_piece(pool, out, |at, out| {
            // SAFETY: the processor has the instructions (see above).
            unsafe { (self.table.arithmetic)(op, &a[at..], &b[at..], out) }
        });
        Ok(())
    }

    /// `out = a ∘ b` for every row of `a`, `b` being as long as a row.
    ///
    /// # Errors
    /// [`KernelError::Size`] if `a` and `out` differ in size or are not whole rows.
    pub fn row_arithmetic(
        &self,
        pool: &Pool,
        op: Arithmetic,
        a: &[f32],
        b: &[f32],
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let width = b.len();
        check_rows("first operand", a.len(), width, out.len())?;
        each_row(pool, out, width, |i, out| {
            // SAFETY: the processor has the instructions (see above).
            unsafe { (self.table.arithmetic)(op, &a[i * width..][..width], b, out) }
        });
        Ok(())
    }
}
