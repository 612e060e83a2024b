//! Ops that move elements.

use candle_core::{Device, Tensor};

use super::Call;
use crate::Fault;

pub(super) fn reshape(call: &Call<'_>) -> Result<Tensor, Fault> {
    Ok(call.operand(0)?.reshape(call.shape())?)
}

pub(super) fn transpose(call: &Call<'_>, perm: &[u32]) -> Result<Tensor, Fault> {
    let perm: Vec<usize> = perm.iter().map(|&axis| axis as usize).collect();
    Ok(call.operand(0)?.permute(perm)?.contiguous()?)
}

pub(super) fn broadcast(call: &Call<'_>) -> Result<Tensor, Fault> {
    Ok(call.operand(0)?.broadcast_as(call.shape())?.contiguous()?)
}

/// `x[start..end:step]` along `axis`.
pub(super) fn slice(
    call: &Call<'_>,
    axis: usize,
    [start, end, step]: [u32; 3],
) -> Result<Tensor, Fault> {
    let x = call.operand(0)?;
    if step == 1 {
        let len = end.saturating_sub(start) as usize;
        return Ok(x.narrow(axis, start as usize, len)?.contiguous()?);
    }
    let rows: Vec<u32> = (start..end).step_by(step.max(1) as usize).collect();
    let count = rows.len();
    let rows = Tensor::from_vec(rows, count, &Device::Cpu)?;
    Ok(x.contiguous()?.index_select(&rows, axis)?)
}

pub(super) fn concat(call: &Call<'_>, axis: usize) -> Result<Tensor, Fault> {
    let parts = call.operands.iter().filter(|t| t.elem_count() > 0);
    let parts = parts.map(Tensor::contiguous);
    let parts = parts.collect::<Result<Vec<Tensor>, _>>()?;
    Ok(Tensor::cat(&parts, axis)?)
}

pub(super) fn split(call: &Call<'_>, axis: usize, sizes: &[u32]) -> Result<Vec<Tensor>, Fault> {
    let x = call.operand(0)?;
    let mut start = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for &size in sizes {
        parts.push(x.narrow(axis, start, size as usize)?.contiguous()?);
        start += size as usize;
    }
    Ok(parts)
}

pub(super) fn gather(call: &Call<'_>, axis: usize) -> Result<Tensor, Fault> {
    let data = call.operand(0)?.contiguous()?;
    let indices = call.indices(1, "indices", data.dim(axis)?)?;
    let count = indices.len();
    let indices = Tensor::from_vec(indices, count, &Device::Cpu)?;
    Ok(data.index_select(&indices, axis)?.reshape(call.shape())?)
}
