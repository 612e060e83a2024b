//! Products, tables and norms.

use candle_core::{D, DType, Device, Tensor};

use super::Call;
use crate::Fault;

pub(super) fn linear(call: &Call<'_>) -> Result<Tensor, Fault> {
    let (x, w) = (call.float(0)?, call.float(1)?);
    let (_, inner) = w.dims2()?;
    let rows: usize = x.dims()[..x.rank().saturating_sub(1)].iter().product();
    let mut y = x.reshape((rows, inner))?.matmul(&w.t()?)?;
    if let Some(bias) = call.optional(2)? {
        y = y.broadcast_add(&bias)?;
    }
    Ok(y.reshape(call.shape())?)
}

pub(super) fn matmul(
    call: &Call<'_>,
    transpose_a: bool,
    transpose_b: bool,
) -> Result<Tensor, Fault> {
    let shape = call.shape();
    let lead = &shape[..shape.len().saturating_sub(2)];
    // stacks of matrices in one row: candle's own broadcasting trips over axes of size 1
    let side = |i: usize, transposed: bool| -> Result<Tensor, Fault> {
        let x = call.float(i)?;
        let x = if transposed { x.t()? } else { x };
        let matrix = &x.dims()[x.rank().saturating_sub(2)..];
        let flat = [&[lead.iter().product()][..], matrix].concat();
        let x = x.broadcast_as([lead, matrix].concat())?;
        Ok(x.contiguous()?.reshape(flat)?)
    };
    let product = side(0, transpose_a)?.matmul(&side(1, transpose_b)?)?;
    Ok(product.reshape(shape)?)
}

pub(super) fn embedding(call: &Call<'_>) -> Result<Tensor, Fault> {
    let table = call.operand(0)?.contiguous()?;
    let ids = call.indices(1, "ids", table.dim(0)?)?;
    let count = ids.len();
    let ids = Tensor::from_vec(ids, count, &Device::Cpu)?;
    let rows = table.index_select(&ids, 0)?.to_dtype(DType::F32)?;
    Ok(rows.reshape(call.shape())?)
}

pub(super) fn rms_norm(call: &Call<'_>, eps: f32) -> Result<Tensor, Fault> {
    let x = call.float(0)?;
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    let scale = (mean_square + f64::from(eps))?.sqrt()?.recip()?;
    Ok(x.broadcast_mul(&scale)?.broadcast_mul(&call.float(1)?)?)
}

pub(super) fn layer_norm(call: &Call<'_>, eps: f32) -> Result<Tensor, Fault> {
    let x = call.float(0)?;
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let scale = (variance + f64::from(eps))?.sqrt()?.recip()?;
    let y = centred
        .broadcast_mul(&scale)?
        .broadcast_mul(&call.float(1)?)?;
    match call.optional(2)? {
        Some(beta) => Ok(y.broadcast_add(&beta)?),
        None => Ok(y),
    }
}
