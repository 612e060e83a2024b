//! Convolutions.

use super::index::strides;
use super::{Call, ReferenceError, Tensor};

/// A convolution over as many spatial axes as `stride` has.
pub(super) fn conv(
    call: &Call<'_>,
    stride: &[u32],
    padding: &[u32],
    dilation: &[u32],
    groups: u32,
) -> Result<Tensor, ReferenceError> {
    let (x, w) = (call.input(0), call.input(1));
    let bias = call.optional_floats(2)?;
    let batches = x.dim(0);
    let (outputs, group_channels) = (w.dim(0), w.dim(1));
    let group_outputs = outputs / groups as usize;
    let (size, taps, places) = (&x.shape()[2..], &w.shape()[2..], &call.shape()[2..]);
    let (x_stride, w_stride) = (strides(x.shape()), strides(w.shape()));
    let place_count: usize = places.iter().product();
    let tap_count: usize = taps.iter().product();
    let (x, w) = (x.floats()?, w.floats()?);

    let mut out = Vec::with_capacity(batches * outputs * place_count);
    for b in 0..batches {
        for o in 0..outputs {
            let first_channel = o / group_outputs * group_channels;
            for place in 0..place_count {
                let place = unravel(place, places);
                let mut sum = bias.as_ref().map_or(0.0, |b| f64::from(b[o]));
                for tap in 0..tap_count {
                    let tap = unravel(tap, taps);
                    let source = |axis: usize| {
                        let at = place[axis] * stride[axis] as usize
                            + tap[axis] * dilation[axis] as usize;
                        let at = at.checked_sub(padding[axis] as usize)?;
                        (at < size[axis]).then_some(at * x_stride[2 + axis])
                    };
                    let Some(x_tap) = (0..size.len()).map(source).sum::<Option<usize>>() else {
                        continue;
                    };
                    let w_tap: usize = (0..taps.len()).map(|a| tap[a] * w_stride[2 + a]).sum();
                    for c in 0..group_channels {
                        let x_at = b * x_stride[0] + (first_channel + c) * x_stride[1] + x_tap;
                        let w_at = o * w_stride[0] + c * w_stride[1] + w_tap;
                        sum += f64::from(x[x_at]) * f64::from(w[w_at]);
                    }
                }
                out.push(sum as f32);
            }
        }
    }
    call.floats(out)
}

/// The indices along each axis of the `flat`-th element of `shape`.
fn unravel(flat: usize, shape: &[usize]) -> Vec<usize> {
    let steps = strides(shape);
    let axes = shape.iter().zip(steps);
    axes.map(|(&n, step)| flat / step % n).collect()
}
