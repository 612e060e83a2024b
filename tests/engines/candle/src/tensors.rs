//! Bytes of the graph's types as candle's tensors, and back.

use anynpu_ir::DType;
use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use candle_core::{Device, Tensor};

use crate::Fault;

/// The type candle keeps values of `dtype` in: block formats decoded, bytes of any meaning as such. `None` if it
/// has none.
pub(crate) fn kept(dtype: DType) -> Option<candle_core::DType> {
    Some(match dtype {
        DType::F32 => candle_core::DType::F32,
        DType::F16 => candle_core::DType::F16,
        DType::BF16 => candle_core::DType::BF16,
        DType::I16 => candle_core::DType::I16,
        DType::I32 => candle_core::DType::I32,
        DType::I64 => candle_core::DType::I64,
        DType::I8 | DType::U8 | DType::Bool => candle_core::DType::U8,
        _ => block(dtype).map(|_| candle_core::DType::F32)?,
    })
}

/// The block format as candle calls it.
fn block(dtype: DType) -> Option<GgmlDType> {
    Some(match dtype {
        DType::Q4_0 => GgmlDType::Q4_0,
        DType::Q4_1 => GgmlDType::Q4_1,
        DType::Q5_0 => GgmlDType::Q5_0,
        DType::Q5_1 => GgmlDType::Q5_1,
        DType::Q8_0 => GgmlDType::Q8_0,
        DType::Q4_K => GgmlDType::Q4K,
        DType::Q5_K => GgmlDType::Q5K,
        DType::Q6_K => GgmlDType::Q6K,
        _ => return None,
    })
}

/// Bytes of a value of `dtype` and `shape`, or `None` if that is no whole number of blocks or too many.
pub(crate) fn bytes_of(dtype: DType, shape: &[usize]) -> Option<usize> {
    let Some((&last, lead)) = shape.split_last() else {
        return Some(dtype.block_bytes());
    };
    let row = dtype.row_bytes(last)?;
    lead.iter().try_fold(row, |n, &d| n.checked_mul(d))
}

/// A tensor of `bytes`, block formats decoded by candle.
///
/// # Errors
/// For bytes that are not as many as the shape says, and what candle refuses.
pub(crate) fn tensor(dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<Tensor, Fault> {
    let wanted = bytes_of(dtype, shape);
    if wanted != Some(bytes.len()) {
        return Err(Fault::operand(
            format!("a value of {dtype} {shape:?}"),
            format!("{} bytes", bytes.len()),
            wanted.map_or("a size that fits".into(), |n| format!("{n} bytes")),
        ));
    }
    if let Some(format) = block(dtype) {
        if shape.contains(&0) {
            return Ok(Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu)?);
        }
        // blocks hold 16-bit numbers: candle reads them in place
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        let aligned = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()];
        aligned.copy_from_slice(bytes);
        let blocks = qtensor_from_ggml(format, aligned, shape.to_vec(), &Device::Cpu)?;
        return Ok(blocks.dequantize(&Device::Cpu)?);
    }
    let Some(kept) = kept(dtype) else {
        return Err(Fault::operand(
            "element type".into(),
            dtype.to_string(),
            "one that candle has".into(),
        ));
    };
    Ok(Tensor::from_raw_buffer(bytes, kept, shape, &Device::Cpu)?)
}

/// The elements of `tensor` in row-major order.
///
/// # Errors
/// None that a value of the graph can cause.
pub(crate) fn bytes(tensor: &Tensor) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::with_capacity(tensor.elem_count() * tensor.dtype().size_in_bytes());
    tensor.write_bytes(&mut out)?;
    Ok(out)
}

/// Whole numbers, row by row.
///
/// # Errors
/// For a tensor of other elements.
pub(crate) fn integers(tensor: &Tensor) -> Result<Vec<i64>, Fault> {
    let flat = tensor.flatten_all()?;
    match tensor.dtype() {
        candle_core::DType::I64 => Ok(flat.to_vec1::<i64>()?),
        _ => Ok(flat.to_vec1::<i32>()?.into_iter().map(i64::from).collect()),
    }
}
