//! Products.

use super::Tensor;
use super::elementwise::fused;

/// `x·wᵀ + bias`, with `x` as rows of the length that the weights have.
pub fn fully_connected(t: &[&Tensor]) -> Result<Tensor, String> {
    let (x, w, bias) = (t[0], t[1], t[2]);
    let fuse = t[3].number()? as i64;
    let [units, width] = w.dims[..] else {
        return Err(format!("weights of {:?}", w.dims));
    };
    if x.dims.len() < 2 || width == 0 || !x.data.len().is_multiple_of(width) {
        return Err(format!("{:?} are no rows of {width}", x.dims));
    }
    if bias.dims != [units] {
        return Err(format!("a bias of {:?} for {units}", bias.dims));
    }
    let rows = x.data.len() / width;
    let mut data = Vec::with_capacity(rows * units);
    for row in x.data.chunks(width) {
        for (w, bias) in w.data.chunks(width).zip(&bias.data) {
            let sum: f64 = row.iter().zip(w).map(|(x, w)| x * w).sum();
            data.push(fused(sum + bias, fuse)?);
        }
    }
    Ok(Tensor::new(&[rows, units], data))
}

/// Products of matrices, those of each index of the leading dimensions.
pub fn batched(t: &[&Tensor]) -> Result<Tensor, String> {
    let (a, b) = (t[0], t[1]);
    let (adj_a, adj_b) = (t[2].number()? != 0.0, t[3].number()? != 0.0);
    let rank = a.dims.len();
    if rank < 2 || b.dims.len() != rank || a.dims[..rank - 2] != b.dims[..rank - 2] {
        return Err(format!("{:?} and {:?} do not go together", a.dims, b.dims));
    }
    let sizes = |dims: &[usize], adjoint: bool| match adjoint {
        true => (dims[rank - 1], dims[rank - 2]),
        false => (dims[rank - 2], dims[rank - 1]),
    };
    let ((rows, inner), (other, columns)) = (sizes(&a.dims, adj_a), sizes(&b.dims, adj_b));
    if inner != other {
        return Err(format!("{inner} columns and {other} rows"));
    }
    let batches: usize = a.dims[..rank - 2].iter().product();
    let mut data = Vec::with_capacity(batches * rows * columns);
    for n in 0..batches {
        let a = &a.data[n * rows * inner..][..rows * inner];
        let b = &b.data[n * inner * columns..][..inner * columns];
        for r in 0..rows {
            for c in 0..columns {
                let left = |k: usize| {
                    if adj_a {
                        a[k * rows + r]
                    } else {
                        a[r * inner + k]
                    }
                };
                let right = |k: usize| {
                    if adj_b {
                        b[c * inner + k]
                    } else {
                        b[k * columns + c]
                    }
                };
                data.push((0..inner).map(|k| left(k) * right(k)).sum());
            }
        }
    }
    let mut dims = a.dims[..rank - 2].to_vec();
    dims.extend([rows, columns]);
    Ok(Tensor { dims, data })
}

/// A convolution over height and width; `explicit` says how its padding is given.
pub fn convolution(t: &[&Tensor], explicit: bool) -> Result<Tensor, String> {
    let (x, filter, bias) = (t[0], t[1], t[2]);
    let number = |i: usize| t.get(i).map_or(Ok(0.0), |t| t.number());
    let whole = |i: usize| number(i).map(|n| n as usize);
    let rest = if explicit { 7 } else { 4 };
    let (stride_w, stride_h, fuse) = (whole(rest)?, whole(rest + 1)?, number(rest + 2)? as i64);
    let channels_first = number(rest + 3)? != 0.0;
    let dilation = |i: usize| whole(i).map(|n| n.max(1));
    let (dilation_w, dilation_h) = (dilation(rest + 4)?, dilation(rest + 5)?);
    let [batches, height, width, depth] = match (channels_first, &x.dims[..]) {
        (false, &[b, h, w, d]) => [b, h, w, d],
        (true, &[b, d, h, w]) => [b, h, w, d],
        _ => return Err(format!("an image of {:?}", x.dims)),
    };
    let [units, filter_h, filter_w, filter_d] = filter.dims[..] else {
        return Err(format!("a filter of {:?}", filter.dims));
    };
    if filter_d != depth || bias.dims != [units] || stride_w == 0 || stride_h == 0 {
        return Err(format!("a filter of {:?} for {:?}", filter.dims, x.dims));
    }
    let (reach_h, reach_w) = (
        (filter_h - 1) * dilation_h + 1,
        (filter_w - 1) * dilation_w + 1,
    );
    let size = |whole: usize, reach: usize, stride: usize| {
        (whole + stride).checked_sub(reach).map(|n| n / stride)
    };
    let (top, left, out_h, out_w) = if explicit {
        let (left, right, top, bottom) = (whole(3)?, whole(4)?, whole(5)?, whole(6)?);
        let out_h = size(height + top + bottom, reach_h, stride_h);
        (
            top,
            left,
            out_h,
            size(width + left + right, reach_w, stride_w),
        )
    } else {
        match number(3)? as i64 {
            1 => {
                let (out_h, out_w) = (height.div_ceil(stride_h), width.div_ceil(stride_w));
                let pad = |out: usize, stride: usize, reach: usize, whole: usize| {
                    ((out - 1) * stride + reach).saturating_sub(whole) / 2
                };
                let top = pad(out_h, stride_h, reach_h, height);
                (
                    top,
                    pad(out_w, stride_w, reach_w, width),
                    Some(out_h),
                    Some(out_w),
                )
            }
            2 => (
                0,
                0,
                size(height, reach_h, stride_h),
                size(width, reach_w, stride_w),
            ),
            other => return Err(format!("{other} is no padding scheme")),
        }
    };
    let (Some(out_h), Some(out_w)) = (out_h, out_w) else {
        return Err("the filter is larger than the image".into());
    };
    let at = |b: usize, h: usize, w: usize, d: usize| match channels_first {
        false => x.data[((b * height + h) * width + w) * depth + d],
        true => x.data[((b * depth + d) * height + h) * width + w],
    };
    let pixel = |b: usize, oh: usize, ow: usize, unit: usize| -> f64 {
        let mut sum = bias.data[unit];
        for fh in 0..filter_h {
            for fw in 0..filter_w {
                let h = (oh * stride_h + fh * dilation_h)
                    .checked_sub(top)
                    .filter(|h| *h < height);
                let w = (ow * stride_w + fw * dilation_w)
                    .checked_sub(left)
                    .filter(|w| *w < width);
                if let (Some(h), Some(w)) = (h, w) {
                    for d in 0..depth {
                        let f = ((unit * filter_h + fh) * filter_w + fw) * depth + d;
                        sum += at(b, h, w, d) * filter.data[f];
                    }
                }
            }
        }
        sum
    };
    let dims = match channels_first {
        false => [batches, out_h, out_w, units],
        true => [batches, units, out_h, out_w],
    };
    let mut data = Vec::with_capacity(dims.iter().product());
    for b in 0..batches {
        for i in 0..dims[1] {
            for j in 0..dims[2] {
                for k in 0..dims[3] {
                    let made = match channels_first {
                        false => pixel(b, i, j, k),
                        true => pixel(b, j, k, i),
                    };
                    data.push(fused(made, fuse)?);
                }
            }
        }
    }
    Ok(Tensor::new(&dims, data))
}
