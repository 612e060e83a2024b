//! Conversions between element types.

use anynpu_ir::DType;

use super::{Call, ReferenceError, Tensor, TensorRef};

pub(super) fn cast(call: &Call<'_>, to: DType) -> Result<Tensor, ReferenceError> {
    let x = call.input(0);
    let from_floats = x.dtype().is_float() || x.dtype().is_block();
    match (from_floats, to.is_float()) {
        (true, true) => call.floats(x.floats()?.into_owned()),
        (true, false) => {
            let saturate = |x: f32| match to {
                DType::I8 => (x as i8).into(),
                DType::U8 => (x as u8).into(),
                DType::I16 => (x as i16).into(),
                DType::I32 => (x as i32).into(),
                DType::Bool => (x != 0.0).into(),
                _ => x as i64,
            };
            call.integers(x.floats()?.iter().map(|&x| saturate(x)).collect())
        }
        (false, true) => call.floats(x.integers()?.into_iter().map(|x| x as f32).collect()),
        (false, false) => call.integers(x.integers()?),
    }
}

pub(super) fn quantize(
    call: &Call<'_>,
    to: DType,
    axis: Option<u32>,
) -> Result<Tensor, ReferenceError> {
    let x = call.input(0);
    let (low, high) = match to {
        DType::I8 => (i8::MIN.into(), i8::MAX.into()),
        DType::U8 => (0, u8::MAX.into()),
        DType::I16 => (i16::MIN.into(), i16::MAX.into()),
        _ => (i32::MIN.into(), i32::MAX.into()),
    };
    let channels = channels(x, axis);
    let (scale, zero_point) = (call.input(1).floats()?, call.input(2).integers()?);
    let quantize = |(&x, c): (&f32, usize)| {
        let rounded = (x / scale[c]).round_ties_even() as i64;
        rounded.saturating_add(zero_point[c]).clamp(low, high)
    };
    call.integers(x.floats()?.iter().zip(channels).map(quantize).collect())
}

pub(super) fn dequantize(call: &Call<'_>, axis: Option<u32>) -> Result<Tensor, ReferenceError> {
    let q = call.input(0);
    let channels = channels(q, axis);
    let (scale, zero_point) = (call.input(1).floats()?, call.input(2).integers()?);
    let dequantize =
        |(q, c): (i64, usize)| ((q - zero_point[c]) as f64 * f64::from(scale[c])) as f32;
    call.floats(
        q.integers()?
            .into_iter()
            .zip(channels)
            .map(dequantize)
            .collect(),
    )
}

/// For each element of `x`, which quantisation parameters are its own.
fn channels(x: TensorRef<'_>, axis: Option<u32>) -> impl Iterator<Item = usize> {
    let (count, inner) = match axis {
        Some(axis) => {
            let axis = axis as usize;
            (x.dim(axis), x.shape()[axis + 1..].iter().product())
        }
        None => (1, 1),
    };
    (0..x.elements()).map(move |i| i / inner % count)
}
