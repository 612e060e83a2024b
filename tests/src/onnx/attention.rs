//! Nodes that are attention and rotary embedding.

use anynpu_ir::{AttentionKv, BinaryOp, DType, Op, ValueId};

use super::Refusal;
use super::lower::{Lower, Step, skip};
use crate::cases::tensor;

/// The results of the node, or `None` if it is not one of these.
pub(super) fn lower(b: &mut Lower<'_>, op: &str) -> Result<Option<Vec<ValueId>>, Refusal> {
    match op {
        "Attention" => attention(b).map(Some),
        "RotaryEmbedding" => rotary(b).map(|y| Some(vec![y])),
        _ => Ok(None),
    }
}

/// Operand `i` as `[B, heads, rows, D]`.
fn by_heads(b: &mut Lower<'_>, i: usize, heads: &str) -> Step {
    let x = b.input(i)?;
    let [batch, rows, width] = b.dims(x)[..] else {
        return Ok(x);
    };
    let heads = b.int(heads, 1) as usize;
    let x = b.reshape(&[batch, rows, heads, width / heads], x)?;
    b.transpose(&[0, 2, 1, 3], x)
}

/// Every batch on its own, and every head where heads have masks of their own.
fn attention(b: &mut Lower<'_>) -> Result<Vec<ValueId>, Refusal> {
    let q = by_heads(b, 0, "q_num_heads")?;
    let mut k = by_heads(b, 1, "kv_num_heads")?;
    let mut v = by_heads(b, 2, "kv_num_heads")?;
    let mut past = 0;
    if b.has(4) && b.has(5) {
        let (past_k, past_v) = (b.input(4)?, b.input(5)?);
        past = b.dims(past_k)[2];
        k = b.concat(2, &[past_k, k])?;
        v = b.concat(2, &[past_v, v])?;
    }
    let ([batches, heads, tokens, d], keys) = (four(b, q), b.dims(k)[2]);
    let kv_heads = b.dims(k)[1];
    let valid = match b.has(6) {
        true => b.integers(6)?,
        false => vec![keys as i64; batches],
    };
    let mask = mask(b)?;
    let masks = mask.map_or([1, 1], |m| [b.dims(m)[0], b.dims(m)[1]]);
    let causal = b.int("is_causal", 0) == 1;
    let soft_cap = Some(b.float("softcap", 0.0)).filter(|&cap| cap != 0.0);
    let op = Op::Attention {
        kv: AttentionKv::Operands,
        causal,
        mask: mask.is_some(),
        scale: b.float("scale", 1.0 / (d as f32).sqrt()),
        soft_cap,
        window: None,
    };
    let positions = match causal {
        true => {
            let positions: Vec<i32> = (0..tokens).map(|t| (past + t) as i32).collect();
            Some(b.given(tensor(&[tokens], positions))?)
        }
        false => None,
    };
    let parts = if masks[1] == 1 { 1 } else { heads };
    let mut batch_results = Vec::new();
    for (batch, &valid) in valid.iter().enumerate() {
        let mut keys = valid as usize;
        let mut part_results = Vec::new();
        for part in 0..parts {
            let own = |of: usize| {
                let n = (of / parts).max(1);
                let first = part * of / parts;
                first..first + n
            };
            let mask = match mask {
                None => None,
                Some(m) => {
                    let (i, j) = (batch.min(masks[0] - 1), part.min(masks[1] - 1));
                    let m = b.slice(0, i, i + 1, m)?;
                    let m = b.slice(1, j, j + 1, m)?;
                    // Keys past the mask's end are hidden.
                    keys = keys.min(b.dims(m)[3]);
                    let m = b.slice(3, 0, keys, m)?;
                    Some(b.reshape(&[tokens, keys], m)?)
                }
            };
            let mut operands = Vec::new();
            for (x, of, rows) in [(q, heads, tokens), (k, kv_heads, keys), (v, kv_heads, keys)] {
                let range = own(of);
                let x = b.slice(0, batch, batch + 1, x)?;
                let x = b.slice(1, range.start, range.end, x)?;
                let x = b.slice(2, 0, rows, x)?;
                let x = b.transpose(&[0, 2, 1, 3], x)?;
                let [_, rows, heads, d] = four(b, x);
                operands.push(b.reshape(&[rows, heads, d], x)?);
            }
            operands.extend(positions);
            operands.extend(mask);
            part_results.push(b.node(op.clone(), &operands)?);
        }
        let y = b.concat(1, &part_results)?;
        let dv = b.dims(y)[2];
        batch_results.push(b.reshape(&[1, tokens, heads, dv], y)?);
    }
    let mut y = b.concat(0, &batch_results)?;
    if b.tensor(0)?.shape().len() == 4 {
        y = b.transpose(&[0, 2, 1, 3], y)?;
    }
    Ok(vec![y, k, v])
}

fn four(b: &Lower<'_>, x: ValueId) -> [usize; 4] {
    b.dims(x).try_into().unwrap_or_default()
}

/// The mask as `[B or 1, heads or 1, T, S]`, F32.
fn mask(b: &mut Lower<'_>) -> Result<Option<ValueId>, Refusal> {
    if !b.has(3) {
        return Ok(None);
    }
    let mut mask = b.input(3)?;
    if b.ty(mask).dtype == DType::Bool {
        let (seen, hidden) = (b.number(0.0)?, b.number(f32::NEG_INFINITY)?);
        mask = b.node(Op::Select, &[mask, seen, hidden])?;
    }
    let mask = b.cast(DType::F32, mask)?;
    let mut dims = b.dims(mask);
    while dims.len() < 4 {
        dims.insert(0, 1);
    }
    b.reshape(&dims, mask).map(Some)
}

/// With the cosines and sines given, which our Rope computes itself, this is a rotation written in
/// primitives.
fn rotary(b: &mut Lower<'_>) -> Step {
    let mut x = b.input(0)?;
    let flat = b.dims(x).len() == 3;
    if flat {
        let heads = b.int("num_heads", 1) as usize;
        let [batch, rows, width] = b.dims(x)[..] else {
            return skip("three axes");
        };
        x = b.reshape(&[batch, rows, heads, width / heads], x)?;
    } else {
        x = b.transpose(&[0, 2, 1, 3], x)?;
    }
    let [batch, rows, heads, d] = four(b, x);
    let dims = match b.int("rotary_embedding_dim", 0) {
        0 => d,
        n => n as usize,
    };
    let mut tables = Vec::new();
    for i in [1, 2] {
        let mut table = b.input(i)?;
        if b.has(3) {
            let positions = b.input(3)?;
            table = b.node(Op::Gather { axis: 0 }, &[table, positions])?;
        }
        tables.push(b.reshape(&[batch, rows, 1, dims / 2], table)?);
    }
    let interleaved = b.int("interleaved", 0) == 1;
    let turned = b.slice(3, 0, dims, x)?;
    let (first, second) = match interleaved {
        false => (
            b.slice(3, 0, dims / 2, turned)?,
            b.slice(3, dims / 2, dims, turned)?,
        ),
        true => {
            let mut odd = |start| {
                let slice = Op::Slice {
                    axis: 3,
                    start,
                    end: dims as u32,
                    step: 2,
                };
                b.node(slice, &[turned])
            };
            (odd(0)?, odd(1)?)
        }
    };
    let mut turn = |f, x, by, y, by_other| {
        let left = b.binary(BinaryOp::Mul, x, by)?;
        let right = b.binary(BinaryOp::Mul, y, by_other)?;
        b.binary(f, left, right)
    };
    let (cos, sin) = (tables[0], tables[1]);
    let real = turn(BinaryOp::Sub, first, cos, second, sin)?;
    let imaginary = turn(BinaryOp::Add, first, sin, second, cos)?;
    let mut parts = match interleaved {
        false => vec![real, imaginary],
        true => {
            let shape = [batch, rows, heads, dims / 2, 1];
            let pair = [b.reshape(&shape, real)?, b.reshape(&shape, imaginary)?];
            let pairs = b.concat(4, &pair)?;
            vec![b.reshape(&[batch, rows, heads, dims], pairs)?]
        }
    };
    parts.push(b.slice(3, dims, d, x)?);
    let y = b.concat(3, &parts)?;
    match flat {
        true => Ok(y),
        false => b.transpose(&[0, 2, 1, 3], y),
    }
}
