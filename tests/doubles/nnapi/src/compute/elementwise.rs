//! Number by number.

use super::{Tensor, elements};
use crate::codes::TENSOR_INT32;
use crate::operand::{Operand, of_raw};

/// The dimensions of both, as numpy stretches them.
fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| -> usize {
        let missing = rank - dims.len();
        if i < missing { 1 } else { dims[i - missing] }
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(format!("{a:?} and {b:?} do not go together")),
        })
        .collect()
}

/// Where element `index` of `dims` is in a tensor of `own`, which was stretched.
fn place(index: usize, dims: &[usize], own: &[usize]) -> usize {
    let (mut rest, mut at, mut step) = (index, 0, 1);
    for (i, d) in dims.iter().enumerate().rev() {
        let here = rest % d;
        rest /= d;
        let missing = dims.len() - own.len();
        if i >= missing {
            let size = own[i - missing];
            if size != 1 {
                at += here * step;
            }
            step *= size;
        }
    }
    at
}

/// The largest number of those that are bounded, which infinity becomes, as in Android's own reference.
const MOST: f64 = f32::MAX as f64;

/// `x` where it is more than 0, and at most the largest; NaN is not.
fn relu(x: f64) -> f64 {
    if x > 0.0 { x.min(MOST) } else { 0.0 }
}

/// What operations end with: a bound, be it that of all numbers.
pub fn fused(x: f64, code: i64) -> Result<f64, String> {
    match code {
        0 => Ok(x.clamp(-MOST, MOST)),
        1 => Ok(relu(x)),
        2 => Ok(x.clamp(-1.0, 1.0)),
        3 => Ok(x.clamp(0.0, 6.0)),
        _ => Err(format!("{code} is no fused activation")),
    }
}

pub fn binary(name: &str, t: &[&Tensor], ty: i32) -> Result<Tensor, String> {
    let (a, b) = (t[0], t[1]);
    let fuse = t.get(2).map(|code| code.number()).transpose()?;
    if ty == TENSOR_INT32 && fuse.is_some_and(|code| code != 0.0) {
        return Err("integers are bounded by nothing".into());
    }
    let truth = |x: bool| f64::from(u8::from(x));
    let integers = ty == TENSOR_INT32;
    let f = |x: f64, y: f64| -> f64 {
        match name {
            "ADD" => x + y,
            "SUB" => x - y,
            "MUL" => x * y,
            "DIV" if integers => (x / y).floor(),
            "DIV" => x / y,
            "MAXIMUM" => x.max(y),
            "MINIMUM" => x.min(y),
            "POW" => x.powf(y),
            "EQUAL" => truth(x == y),
            "NOT_EQUAL" => truth(x != y),
            "GREATER" => truth(x > y),
            "GREATER_EQUAL" => truth(x >= y),
            "LESS" => truth(x < y),
            "LESS_EQUAL" => truth(x <= y),
            "LOGICAL_AND" => truth(x != 0.0 && y != 0.0),
            _ => truth(x != 0.0 || y != 0.0),
        }
    };
    let dims = broadcast(&a.dims, &b.dims)?;
    let count = dims.iter().product();
    let mut data = Vec::with_capacity(count);
    let same = a.dims == dims && b.dims == dims;
    for i in 0..count {
        let (i, j) = match same {
            true => (i, i),
            false => (place(i, &dims, &a.dims), place(i, &dims, &b.dims)),
        };
        let made = f(a.data[i], b.data[j]);
        data.push(match fuse {
            Some(code) => fused(made, code as i64)?,
            None => made,
        });
    }
    Ok(Tensor { dims, data })
}

pub fn unary(name: &str, x: &Tensor) -> Result<Tensor, String> {
    let f = |x: f64| -> f64 {
        match name {
            "EXP" => x.exp(),
            "LOG" => x.ln(),
            "NEG" => -x,
            "ABS" => x.abs(),
            "RSQRT" => 1.0 / x.sqrt(),
            "SQRT" => x.sqrt(),
            "SIN" => x.sin(),
            "FLOOR" => x.floor(),
            "LOGISTIC" => 1.0 / (1.0 + (-x).exp()),
            "TANH" => x.tanh(),
            "RELU" => relu(x),
            "LOGICAL_NOT" => f64::from(u8::from(x == 0.0)),
            _ => x,
        }
    };
    Ok(Tensor::new(&x.dims, x.data.iter().map(|x| f(*x)).collect()))
}

/// Elements as they are, whatever they stand for.
pub fn cast(from: &Operand, to: &Operand, x: &Tensor) -> Result<Tensor, String> {
    let own = elements(from, &x.data);
    Ok(Tensor::new(&x.dims, to.decode(&of_raw(to.ty, &own))))
}

pub fn select(t: &[&Tensor]) -> Result<Tensor, String> {
    let (c, a, b) = (t[0], t[1], t[2]);
    if c.dims != a.dims || a.dims != b.dims {
        return Err(format!(
            "{:?}, {:?} and {:?} differ",
            c.dims, a.dims, b.dims
        ));
    }
    let each = c.data.iter().zip(a.data.iter().zip(&b.data));
    let data = each.map(|(c, (a, b))| if *c != 0.0 { *a } else { *b });
    Ok(Tensor::new(&a.dims, data.collect()))
}
