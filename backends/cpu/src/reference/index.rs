//! Offsets of a tensor's elements.

/// Distance in elements between neighbours along each axis of a row-major tensor.
pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].wrapping_mul(shape[axis]);
    }
    strides
}

/// The offset of every index of `shape`, in row-major order, in memory laid out by `strides`.
pub(super) fn offsets(shape: &[usize], strides: &[usize]) -> Vec<usize> {
    if shape.contains(&0) {
        return Vec::new();
    }
    let mut all = vec![0];
    for (&n, &stride) in shape.iter().zip(strides) {
        all = all
            .iter()
            .flat_map(|&start| (0..n).map(move |i| start + i * stride))
            .collect();
    }
    all
}

/// Strides of a tensor of shape `from` read as if it had been broadcast to `to`.
pub(super) fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let mut out = vec![0; to.len()];
    let skipped = to.len() - from.len();
    for (axis, stride) in strides(from).into_iter().enumerate() {
        if from[axis] != 1 {
            out[skipped + axis] = stride;
        }
    }
    out
}

/// For every element of a tensor of shape `to`, the offset of the element of `from` that
/// broadcasting puts there.
pub(super) fn broadcast_offsets(from: &[usize], to: &[usize]) -> Vec<usize> {
    offsets(to, &broadcast_strides(from, to))
}

/// `all` without element `i`.
pub(super) fn without(all: &[usize], i: usize) -> Vec<usize> {
    [&all[..i], &all[i + 1..]].concat()
}
