//! Ops that move elements and leave their values.

use super::index::{broadcast_offsets, offsets, strides};
use super::{Call, ReferenceError, Tensor};

pub(super) fn reshape(call: &Call<'_>) -> Result<Tensor, ReferenceError> {
    call.input(0).to_tensor()?.reshaped(call.shape())
}

pub(super) fn transpose(call: &Call<'_>, perm: &[u32]) -> Result<Tensor, ReferenceError> {
    let steps = strides(call.input(0).shape());
    let steps: Vec<usize> = perm.iter().map(|&axis| steps[axis as usize]).collect();
    take(call, 0, &offsets(call.shape(), &steps))
}

pub(super) fn broadcast(call: &Call<'_>) -> Result<Tensor, ReferenceError> {
    take(
        call,
        0,
        &broadcast_offsets(call.input(0).shape(), call.shape()),
    )
}

pub(super) fn slice(
    call: &Call<'_>,
    axis: usize,
    start: usize,
    step: usize,
) -> Result<Tensor, ReferenceError> {
    let mut steps = strides(call.input(0).shape());
    let first = start * steps[axis];
    steps[axis] *= step;
    let from: Vec<usize> = offsets(call.shape(), &steps)
        .into_iter()
        .map(|i| first + i)
        .collect();
    take(call, 0, &from)
}

pub(super) fn split(
    call: &Call<'_>,
    axis: usize,
    sizes: &[u32],
) -> Result<Vec<Tensor>, ReferenceError> {
    let steps = strides(call.input(0).shape());
    let mut first = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for (result, &size) in sizes.iter().enumerate() {
        let from: Vec<usize> = offsets(&call.results[result].shape, &steps)
            .into_iter()
            .map(|i| first + i)
            .collect();
        parts.push(take(call, result, &from)?);
        first += size as usize * steps[axis];
    }
    Ok(parts)
}

/// The elements of operand 0 at the offsets `from`, as result `result`.
fn take(call: &Call<'_>, result: usize, from: &[usize]) -> Result<Tensor, ReferenceError> {
    let x = call.input(0);
    let (size, bytes) = (x.dtype().block_bytes(), x.bytes());
    let mut out = Vec::with_capacity(from.len() * size);
    for &i in from {
        out.extend_from_slice(&bytes[i * size..][..size]);
    }
    Tensor::from_bytes(x.dtype(), &call.results[result].shape[..], &out)
}

pub(super) fn concat(call: &Call<'_>, axis: usize) -> Result<Tensor, ReferenceError> {
    let outer: usize = call.shape()[..axis].iter().product();
    let parts: Vec<_> = call.inputs.iter().map(|x| x.bytes()).collect();
    let mut out = Vec::with_capacity(parts.iter().map(|p| p.len()).sum());
    for i in 0..outer {
        for part in &parts {
            let len = part.len() / outer;
            out.extend_from_slice(&part[i * len..][..len]);
        }
    }
    call.bytes(&out)
}

pub(super) fn gather(call: &Call<'_>, axis: usize) -> Result<Tensor, ReferenceError> {
    let data = call.input(0);
    let indices = call.indices(1, "indices", data.dim(axis))?;
    let outer: usize = data.shape()[..axis].iter().product();
    let inner: usize = data.shape()[axis + 1..].iter().product();
    if data.dtype().is_block() {
        let all = data.floats()?;
        let rows = indices.iter().flat_map(|&i| &all[i * inner..][..inner]);
        return call.floats(rows.copied().collect());
    }
    let (bytes, slice) = (data.bytes(), inner * data.dtype().block_bytes());
    let mut out = Vec::new();
    for i in 0..outer {
        for &index in &indices {
            out.extend_from_slice(&bytes[(i * data.dim(axis) + index) * slice..][..slice]);
        }
    }
    call.bytes(&out)
}

pub(super) fn scatter(call: &Call<'_>, axis: usize) -> Result<Tensor, ReferenceError> {
    let (data, updates) = (call.input(0), call.input(2));
    let n = data.dim(axis);
    let indices = call.indices(1, "indices", n)?;
    let outer: usize = data.shape()[..axis].iter().product();
    let inner: usize = data.shape()[axis + 1..].iter().product();
    let slice = inner * data.dtype().block_bytes();
    let updates = updates.bytes();
    let mut out = data.bytes().into_owned();
    for i in 0..outer {
        for (j, &index) in indices.iter().enumerate() {
            let from = &updates[(i * indices.len() + j) * slice..][..slice];
            out[(i * n + index) * slice..][..slice].copy_from_slice(from);
        }
    }
    call.bytes(&out)
}

pub(super) fn iota(call: &Call<'_>, start: u32) -> Result<Tensor, ReferenceError> {
    let first = i64::from(start);
    call.integers((first..).take(call.shape()[0]).collect())
}
