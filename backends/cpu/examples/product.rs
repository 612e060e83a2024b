//! One matrix product on one thread, several times: for a profiler or a counter of instructions, as
//! `benches/instructions.sh` runs it.
//!
//! usage: product TYPE[-rounded] ROWS COLUMNS TOKENS TIMES [LEVEL]
//!
//! `f16-rounded` is with activations rounded to F16, other floats are rounded to BF16 with their activations.

use std::env;
use std::error::Error;
use std::hint::black_box;

use anynpu_cpu::kernels::{Features, Kernels, PackedMatrix, Scratch};
use anynpu_cpu::pool::Pool;
use anynpu_ir::DType;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (dtype, sizes, level) = match arguments.as_slice() {
        [dtype, sizes @ .., level] if sizes.len() == 4 => (dtype, sizes, Some(level)),
        [dtype, sizes @ ..] if sizes.len() == 4 => (dtype, sizes, None),
        _ => return Err("usage: product TYPE[-rounded] ROWS COLUMNS TOKENS TIMES [LEVEL]".into()),
    };
    let (name, rounded) = match dtype.strip_suffix("-rounded") {
        Some(name) => (name, true),
        None => (dtype.as_str(), false),
    };
    let dtype: DType = name.parse().map_err(|()| format!("no type {name}"))?;
    let size = |i: usize| sizes[i].parse::<usize>();
    let (rows, cols, tokens, times) = (size(0)?, size(1)?, size(2)?, size(3)?);
    let features = match level {
        Some(name) => Features::parse(name)?,
        None => Features::detect(),
    };
    let (pool, kernels) = (Pool::new(1)?, Kernels::new(features));
    // Any bytes are weights, and what is executed depends on none.
    let row_bytes = dtype
        .row_bytes(cols)
        .ok_or("columns are not whole blocks")?;
    let bytes = vec![0x11; rows * row_bytes];
    let weights = match (rounded, dtype) {
        (false, _) => PackedMatrix::pack(&pool, dtype, rows, cols, &bytes)?,
        (true, DType::F16) => PackedMatrix::narrow(&pool, rows, cols, &bytes)?,
        (true, _) => PackedMatrix::round(&pool, dtype, rows, cols, &bytes)?,
    };
    let x: Vec<f32> = (0..tokens * cols)
        .map(|i| (i % 251) as f32 - 125.0)
        .collect();
    let mut out = vec![0.0; tokens * rows];
    let mut scratch = Scratch::with_capacity(Kernels::scratch_bytes(&pool, cols, tokens))?;
    for _ in 0..times {
        let x = black_box(&x);
        kernels.matmul(&pool, &weights, x, tokens, None, &mut out, &mut scratch)?;
        black_box(&mut out);
    }
    Ok(())
}
