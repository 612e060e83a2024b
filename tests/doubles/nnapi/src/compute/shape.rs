//! Moves of numbers.

use super::{Tensor, around};

/// A tensor of `dims` whose element at each place is that of `x` where `from` says.
fn moved(x: &Tensor, dims: &[usize], from: impl Fn(&[usize]) -> Option<usize>) -> Tensor {
    let count: usize = dims.iter().product();
    let mut place = vec![0; dims.len()];
    let mut data = Vec::with_capacity(count);
    for _ in 0..count {
        data.push(from(&place).map_or(0.0, |at| x.data[at]));
        for axis in (0..dims.len()).rev() {
            place[axis] += 1;
            if place[axis] < dims[axis] {
                break;
            }
            place[axis] = 0;
        }
    }
    Tensor::new(dims, data)
}

/// Where the element at `place` is, row by row.
fn offset(dims: &[usize], place: impl Iterator<Item = usize>) -> usize {
    dims.iter().zip(place).fold(0, |at, (d, i)| at * d + i)
}

pub fn concatenated(parts: &[&Tensor], axis: usize) -> Result<Tensor, String> {
    let mut dims = parts[0].dims.clone();
    let others = |d: &[usize]| -> Vec<usize> {
        let each = d.iter().enumerate();
        each.filter(|(i, _)| *i != axis).map(|(_, d)| *d).collect()
    };
    let fits = |p: &&Tensor| p.dims.len() == dims.len() && others(&p.dims) == others(&dims);
    if !parts.iter().all(fits) {
        return Err("parts do not go together".into());
    }
    dims[axis] = parts.iter().map(|p| p.dims[axis]).sum();
    let (before, _, _) = around(&dims, axis);
    let mut data = Vec::with_capacity(dims.iter().product());
    for b in 0..before {
        for part in parts {
            let (_, size, after) = around(&part.dims, axis);
            data.extend_from_slice(&part.data[b * size * after..][..size * after]);
        }
    }
    Ok(Tensor { dims, data })
}

pub fn packed(t: &[&Tensor]) -> Result<Tensor, String> {
    let (axis, parts) = t.split_first().ok_or("no operands")?;
    let axis = axis.axis(parts[0].dims.len() + 1)?;
    let with_axis: Vec<Tensor> = parts
        .iter()
        .map(|p| {
            let mut dims = p.dims.clone();
            dims.insert(axis, 1);
            Tensor::new(&dims, p.data.clone())
        })
        .collect();
    concatenated(&with_axis.iter().collect::<Vec<_>>(), axis)
}

pub fn gathered(x: &Tensor, axis: usize, indices: &Tensor) -> Result<Tensor, String> {
    let (before, size, after) = around(&x.dims, axis);
    let mut dims = x.dims[..axis].to_vec();
    dims.extend(&indices.dims);
    dims.extend(&x.dims[axis + 1..]);
    let mut data = Vec::with_capacity(dims.iter().product());
    for b in 0..before {
        for index in indices.integers() {
            let index = usize::try_from(index).ok().filter(|i| *i < size);
            let index = index.ok_or("an index is out of range")?;
            data.extend_from_slice(&x.data[(b * size + index) * after..][..after]);
        }
    }
    Ok(Tensor { dims, data })
}

pub fn expanded(t: &[&Tensor]) -> Result<Tensor, String> {
    let mut dims = t[0].dims.clone();
    dims.insert(t[1].axis(dims.len() + 1)?, 1);
    Ok(Tensor::new(&dims, t[0].data.clone()))
}

pub fn padded(t: &[&Tensor]) -> Result<Tensor, String> {
    let (x, pads) = (t[0], t[1].integers());
    if t[1].dims != [x.dims.len(), 2] || pads.iter().any(|p| *p < 0) {
        return Err(format!("paddings of {:?}", t[1].dims));
    }
    let pad = |axis: usize| (pads[2 * axis] as usize, pads[2 * axis + 1] as usize);
    let each = x.dims.iter().enumerate();
    let dims: Vec<usize> = each.map(|(i, d)| d + pad(i).0 + pad(i).1).collect();
    Ok(moved(x, &dims, |place| {
        let inside = |(i, p): (usize, &usize)| p.checked_sub(pad(i).0).filter(|p| *p < x.dims[i]);
        let own: Option<Vec<usize>> = place.iter().enumerate().map(inside).collect();
        own.map(|own| offset(&x.dims, own.into_iter()))
    }))
}

pub fn reshaped(t: &[&Tensor]) -> Result<Tensor, String> {
    let x = t[0];
    let wanted = t[1].integers();
    let known: i64 = wanted.iter().filter(|d| **d != -1).product();
    let open = wanted.iter().filter(|d| **d == -1).count();
    let count = x.data.len() as i64;
    let fits = match open {
        0 => known == count,
        1 => known > 0 && count % known == 0,
        _ => false,
    };
    if !fits {
        return Err(format!("{:?} as {wanted:?}", x.dims));
    }
    let dim = |d: &i64| if *d == -1 { count / known } else { *d } as usize;
    let dims: Vec<usize> = wanted.iter().map(dim).collect();
    Ok(Tensor::new(&dims, x.data.clone()))
}

pub fn sliced(t: &[&Tensor]) -> Result<Tensor, String> {
    let x = t[0];
    let (begin, size) = (t[1].integers(), t[2].integers());
    if begin.len() != x.dims.len() || size.len() != x.dims.len() {
        return Err("a begin and a size for each dimension are needed".into());
    }
    let mut dims = Vec::new();
    for ((d, b), s) in x.dims.iter().zip(&begin).zip(&size) {
        let s = if *s == -1 { *d as i64 - b } else { *s };
        if *b < 0 || s < 0 || b + s > *d as i64 {
            return Err(format!("{s} from {b} on of {d}"));
        }
        dims.push(s as usize);
    }
    Ok(moved(x, &dims, |place| {
        Some(offset(
            &x.dims,
            place.iter().zip(&begin).map(|(p, b)| p + *b as usize),
        ))
    }))
}

pub fn split(t: &[&Tensor]) -> Result<Vec<Tensor>, String> {
    let x = t[0];
    let axis = t[1].axis(x.dims.len())?;
    let count = t[2].number()? as usize;
    if count == 0 || !x.dims[axis].is_multiple_of(count) {
        return Err(format!("{} in {count} parts", x.dims[axis]));
    }
    let size = x.dims[axis] / count;
    let mut dims = x.dims.clone();
    dims[axis] = size;
    let part = |n: usize| {
        moved(x, &dims, |place| {
            let own = place.iter().enumerate();
            Some(offset(
                &x.dims,
                own.map(|(i, p)| if i == axis { p + n * size } else { *p }),
            ))
        })
    };
    Ok((0..count).map(part).collect())
}

pub fn squeezed(t: &[&Tensor]) -> Result<Tensor, String> {
    let x = t[0];
    let axes = t[1].integers();
    let rank = x.dims.len() as i64;
    let named = |i: usize| axes.iter().any(|a| (*a + rank) % rank == i as i64);
    let each = x.dims.iter().enumerate();
    let gone = |i: usize, d: usize| if axes.is_empty() { d == 1 } else { named(i) };
    if x.dims
        .iter()
        .enumerate()
        .any(|(i, d)| gone(i, *d) && *d != 1)
    {
        return Err(format!("{axes:?} of {:?}", x.dims));
    }
    let mut dims: Vec<usize> = each
        .filter(|(i, d)| !gone(*i, **d))
        .map(|(_, d)| *d)
        .collect();
    if dims.is_empty() {
        dims.push(1);
    }
    Ok(Tensor::new(&dims, x.data.clone()))
}

pub fn strided(t: &[&Tensor]) -> Result<Tensor, String> {
    let x = t[0];
    let (begin, end, steps) = (t[1].integers(), t[2].integers(), t[3].integers());
    let mask = |i: usize| t[i].number().map(|n| n as i64);
    let (begin_mask, end_mask, shrink) = (mask(4)?, mask(5)?, mask(6)?);
    if [&begin, &end, &steps]
        .iter()
        .any(|l| l.len() != x.dims.len())
    {
        return Err("a beginning, an end and a step for each dimension are needed".into());
    }
    let (mut dims, mut starts) = (Vec::new(), Vec::new());
    for (i, d) in x.dims.iter().enumerate() {
        let (d, step) = (*d as i64, steps[i]);
        if step == 0 {
            return Err("a step of 0".into());
        }
        let bit = |mask: i64| mask & (1 << i) != 0;
        let (lowest, highest) = if step > 0 { (0, d) } else { (-1, d - 1) };
        let counted = |n: i64| (if n < 0 { n + d } else { n }).clamp(lowest, highest);
        let first = match bit(begin_mask) {
            true if step > 0 => 0,
            true => d - 1,
            false => counted(begin[i]),
        };
        let last = match (bit(shrink), bit(end_mask)) {
            (true, _) => first + 1,
            (false, true) if step > 0 => d,
            (false, true) => -1,
            (false, false) => counted(end[i]),
        };
        if bit(shrink) && !(0..d).contains(&first) {
            return Err(format!("{first} is none of {d}"));
        }
        let step = if bit(shrink) { 1 } else { step };
        let count = (last - first + step - step.signum()) / step;
        dims.push(count.max(0) as usize);
        starts.push((first, step));
    }
    let mut made = moved(x, &dims, |place| {
        let own = place.iter().zip(&starts);
        Some(offset(
            &x.dims,
            own.map(|(p, (first, step))| (first + *p as i64 * step) as usize),
        ))
    });
    let kept = dims
        .iter()
        .enumerate()
        .filter(|(i, _)| shrink & (1 << i) == 0);
    made.dims = kept.map(|(_, d)| *d).collect();
    if made.dims.is_empty() {
        made.dims.push(1);
    }
    Ok(made)
}

pub fn tiled(t: &[&Tensor]) -> Result<Tensor, String> {
    let x = t[0];
    let times = t[1].integers();
    if times.len() != x.dims.len() {
        return Err("a multiple for each dimension is needed".into());
    }
    let dims: Vec<usize> = x
        .dims
        .iter()
        .zip(&times)
        .map(|(d, n)| d * *n as usize)
        .collect();
    Ok(moved(x, &dims, |place| {
        Some(offset(
            &x.dims,
            place.iter().zip(&x.dims).map(|(p, d)| p % d),
        ))
    }))
}

pub fn transposed(t: &[&Tensor]) -> Result<Tensor, String> {
    let x = t[0];
    let rank = x.dims.len();
    let order: Vec<usize> = match t[1].data.is_empty() {
        true => (0..rank).rev().collect(),
        false => t[1].integers().iter().map(|i| *i as usize).collect(),
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return Err(format!("{order:?} is no order of {rank}"));
    }
    let dims: Vec<usize> = order.iter().map(|i| x.dims[*i]).collect();
    Ok(moved(x, &dims, |place| {
        let mut own = vec![0; rank];
        for (p, i) in place.iter().zip(&order) {
            own[*i] = *p;
        }
        Some(offset(&x.dims, own.into_iter()))
    }))
}
