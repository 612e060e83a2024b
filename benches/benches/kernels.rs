//! Matrix products of every weight format, for one token and for many:
//! `cargo bench -p anynpu-bench --bench kernels`. Bytes a second are those of the weights' file
//! format, to be read beside the machine's memory bandwidth; elements a second are multiply-adds.

use std::hint::black_box;

use anynpu_cpu::kernels::{Features, Kernels, PackedMatrix, Scratch};
use anynpu_cpu::pool::Pool;
use anynpu_graphs::quant::quantize_row;
use anynpu_ir::DType;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Rows and columns: larger than most caches in F16, as a feed-forward layer of a small model.
const ROWS: usize = 4096;
const COLS: usize = 2048;
/// Tokens of a step of prefill.
const MANY: usize = 128;

const FORMATS: [DType; 8] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q6_K,
    DType::Q5_0,
    DType::Q4_K,
    DType::Q4_0,
];

/// A fixed pseudo-random sequence in ±1.
fn noise(count: usize) -> Vec<f32> {
    let mut seed = 1u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Packed, F16 also rounded to BF16 if that is asked for; and the bytes of the file's format.
fn weights(pool: &Pool, dtype: DType, rounded: bool) -> (PackedMatrix, usize) {
    let row_bytes = dtype.row_bytes(COLS).expect("whole blocks");
    let mut bytes = vec![0; ROWS * row_bytes];
    let values = noise(ROWS * COLS);
    for (row, out) in values.chunks(COLS).zip(bytes.chunks_mut(row_bytes)) {
        quantize_row(dtype, row, out).expect("a format that is written");
    }
    let pack = if rounded {
        PackedMatrix::round
    } else {
        PackedMatrix::pack
    };
    let packed = pack(pool, dtype, ROWS, COLS, &bytes);
    (packed.expect("a format that is run"), bytes.len())
}

fn products(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = Pool::new(threads).expect("threads");
    let kernels = Kernels::new(Features::detect());
    let x = noise(MANY * COLS);
    let mut out = vec![0.0; MANY * ROWS];
    let bytes = Kernels::scratch_bytes(&pool, COLS, MANY);
    let mut scratch = Scratch::with_capacity(bytes).expect("scratch");
    for (name, tokens) in [("one token", 1), ("128 tokens", MANY)] {
        let mut group = c.benchmark_group(format!("{ROWS}x{COLS}, {name}, {threads} threads"));
        let rounded = [(DType::F16, true)];
        for (dtype, rounded) in FORMATS.map(|d| (d, false)).into_iter().chain(rounded) {
            let (matrix, bytes) = weights(&pool, dtype, rounded);
            let name = match rounded {
                true => format!("{dtype}, rounded to bf16"),
                false => dtype.to_string(),
            };
            group.throughput(match tokens {
                1 => Throughput::Bytes(bytes as u64),
                _ => Throughput::Elements((ROWS * COLS * tokens) as u64),
            });
            let (x, out) = (&x[..tokens * COLS], &mut out[..tokens * ROWS]);
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    let x = black_box(x);
                    kernels
                        .matmul(&pool, &matrix, x, tokens, None, out, &mut scratch)
                        .expect("operands that fit");
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = products
}
criterion_main!(benches);
