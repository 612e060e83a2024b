//! Every path against the plain reference, bit for bit.

use anynpu_ir::DType;
use half::f16;
use proptest::prelude::*;

use super::*;
use crate::pool::Pool;

pub(super) const WEIGHTS: [DType; 11] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
];

/// A small deterministic generator (splitmix64).
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in −1..1.
    pub fn f32(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn f32s(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.f32()).collect()
    }
}

/// What the numbers in an operand look like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Style {
    /// Of ordinary size.
    Plain,
    /// Some blocks all zero.
    Zeros,
    /// Scales from the smallest subnormal to the largest, either sign.
    Extreme,
    /// Any bits, so NaN and infinity too.
    AnyBits,
}

const STYLES: [Style; 4] = [Style::Plain, Style::Zeros, Style::Extreme, Style::AnyBits];

/// `n` blocks of `dtype` as a file holds them.
pub(super) fn weights(dtype: DType, n: usize, style: Style, random: &mut Random) -> Vec<u8> {
    let size = dtype.block_bytes();
    let mut bytes: Vec<u8> = (0..n * size).map(|_| random.next() as u8).collect();
    if style == Style::AnyBits {
        return bytes;
    }
    let number = |random: &mut Random| match style {
        Style::Extreme => {
            const EXTREMES: [f32; 6] = [6e-8, -6e-8, 6.1e-5, 65504.0, -65504.0, 1.0];
            EXTREMES[random.next() as usize % EXTREMES.len()]
        }
        _ => random.f32() * 0.1,
    };
    for block in bytes.chunks_exact_mut(size) {
        if style == Style::Zeros && random.next().is_multiple_of(2) {
            block.fill(0);
            continue;
        }
        let mut half_at = |at: usize, random: &mut Random| {
            let bits = f16::from_f32(number(random)).to_le_bytes();
            block[at..at + 2].copy_from_slice(&bits);
        };
        match dtype {
            DType::F32 => block.copy_from_slice(&random.f32().to_le_bytes()),
            DType::F16 => half_at(0, random),
            DType::BF16 => {
                block.copy_from_slice(&half::bf16::from_f32(number(random)).to_le_bytes());
            }
            DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => half_at(0, random),
            DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => {
                half_at(0, random);
                half_at(2, random);
            }
            _ => half_at(208, random),
        }
    }
    bytes
}

pub(super) fn activations(n: usize, style: Style, random: &mut Random) -> Vec<f32> {
    (0..n)
        .map(|i| match style {
            Style::Plain => random.f32() * 3.0,
            Style::Zeros if i / 32 % 3 == 0 => 0.0,
            Style::Zeros => random.f32(),
            Style::Extreme => {
                let exponent = [-149, -126, -121, -120, -60, 0, 60, 127][i / 32 % 8];
                (f64::from(random.f32()) * 2f64.powi(exponent)) as f32
            }
            Style::AnyBits => f32::from_bits(random.next() as u32),
        })
        .collect()
}

/// Panics unless all are equal bit for bit, any NaN being like any other.
#[track_caller]
pub(super) fn assert_same(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!(
            g.to_bits() == e.to_bits() || g.is_nan() && e.is_nan(),
            "{what}: element {i} is {g:e} ({:#x}), expected {e:e} ({:#x})",
            g.to_bits(),
            e.to_bits(),
        );
    }
}

pub(super) fn paths() -> Vec<Kernels> {
    Features::available().map(Kernels::new).collect()
}

/// Levels that this architecture has, whether or not this processor offers them.
const LEVELS: &[Level] = if cfg!(target_arch = "x86_64") {
    &[
        Level::Generic,
        Level::Avx2,
        Level::Avx512,
        Level::Avx512Vnni,
        Level::Avx512Bf16,
    ]
} else if cfg!(target_arch = "aarch64") {
    &[
        Level::Generic,
        Level::Neon,
        Level::NeonDotprod,
        Level::NeonDotprodFhm,
        Level::NeonI8mm,
        Level::NeonI8mmFhm,
    ]
} else {
    &[Level::Generic]
};

#[test]
fn each_level_has_kernels_of_its_own_that_the_tests_reach() {
    let paths = paths();
    for (i, path) in paths.iter().enumerate() {
        for other in &paths[..i] {
            assert!(
                !std::ptr::eq(path.table, other.table),
                "{path:?} and {other:?} are one"
            );
        }
    }
    for level in LEVELS {
        if !paths.iter().any(|p| p.features().level() == *level) {
            assert!(Features::parse(level.name()).is_err());
            println!(
                "SKIPPED kernels of {level} against the reference: this CPU has no {level} instructions"
            );
        }
    }
    assert!(paths.iter().all(|p| LEVELS.contains(&p.features().level())));
}

/// Checks every path on one problem.
fn check(dtype: DType, rows: usize, cols: usize, tokens: usize, styles: [Style; 2], seed: u64) {
    let random = &mut Random(seed);
    let raw = weights(dtype, rows * cols / dtype.block_len(), styles[0], random);
    let x = activations(tokens * cols, styles[1], random);
    let bias = seed.is_multiple_of(2).then(|| random.f32s(rows));
    let bias = bias.as_deref();
    // At an odd address, as in a mapped file.
    let mut shifted = vec![0];
    shifted.extend_from_slice(&raw);
    let expected = reference::matmul(dtype, rows, cols, &raw, &x, tokens, bias).unwrap();
    for threads in [1, 3] {
        let pool = Pool::new(threads).unwrap();
        let packed = PackedMatrix::pack(&pool, dtype, rows, cols, &shifted[1..]).unwrap();
        let mut scratch = Scratch::with_capacity(0).unwrap();
        for kernels in paths() {
            let mut out = vec![f32::NAN; tokens * rows];
            kernels
                .matmul(&pool, &packed, &x, tokens, bias, &mut out, &mut scratch)
                .unwrap();
            let what = format!(
                "{dtype} [{rows}, {cols}] × {tokens} tokens, {styles:?}, {threads} threads, {}",
                kernels.features()
            );
            assert_same(&what, &out, &expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases * 3 / 8))]

    #[test]
    fn products_equal_the_reference(
        dtype in 0..WEIGHTS.len(),
        rows in 1usize..70,
        blocks in 1usize..7,
        tokens in 1usize..30,
        styles in [0..STYLES.len(), 0..STYLES.len()],
        seed: u64,
    ) {
        let dtype = WEIGHTS[dtype];
        let cols = if dtype.is_block() { blocks * dtype.block_len() } else { blocks * 13 };
        check(dtype, rows, cols, tokens, styles.map(|s| STYLES[s]), seed);
    }
}

#[test]
fn every_format_and_tile_width_equals_the_reference() {
    for (i, dtype) in WEIGHTS.into_iter().enumerate() {
        for tokens in [1, 2, 3, 4, 5, 8, 12, 27] {
            let styles = [Style::Plain; 2];
            check(dtype, 17, 512, tokens, styles, (i * 100 + tokens) as u64);
        }
    }
}

/// `out[t, r]` by the module's formula for rounded weights.
fn rounded_reference(w: &[half::bf16], x: &[f32], cols: usize) -> Vec<f32> {
    let round = |x: f32| half::bf16::from_f32(x).to_f32();
    let mut out = Vec::new();
    for x in x.chunks(cols) {
        for w in w.chunks(cols) {
            let mut acc = 0.0f32;
            for (w, x) in w.chunks(2).zip(x.chunks(2)) {
                for i in (0..x.len()).rev() {
                    acc = w[i].to_f32().mul_add(round(x[i]), acc);
                }
            }
            out.push(acc);
        }
    }
    out
}

#[test]
fn products_with_rounded_weights_are_the_same_on_every_path() {
    let random = &mut Random(5);
    let pool = Pool::new(2).unwrap();
    let mut scratch = Scratch::with_capacity(0).unwrap();
    for (rows, cols) in [(1, 1), (17, 7), (40, 96), (70, 33)] {
        let w: Vec<half::bf16> = random
            .f32s(rows * cols)
            .into_iter()
            .map(half::bf16::from_f32)
            .collect();
        let bytes: Vec<u8> = w.iter().flat_map(|w| w.to_le_bytes()).collect();
        let packed = PackedMatrix::round(&pool, DType::BF16, rows, cols, &bytes).unwrap();
        for tokens in [1, 2, 5, 12, 27] {
            let x = random.f32s(tokens * cols);
            let expected = rounded_reference(&w, &x, cols);
            for kernels in paths() {
                let mut out = vec![f32::NAN; tokens * rows];
                kernels
                    .matmul(&pool, &packed, &x, tokens, None, &mut out, &mut scratch)
                    .unwrap();
                let what = format!("[{rows}, {cols}] × {tokens} tokens, {}", kernels.features());
                assert_same(&what, &out, &expected);
            }
        }
    }
}

/// `out[t, r]` by the module's formula for activations rounded to F16.
fn narrow_reference(w: &[f16], x: &[f32], cols: usize, bias: Option<&[f32]>) -> Vec<f32> {
    let mut out = Vec::new();
    for x in x.chunks(cols) {
        let exponent = x.iter().map(|x| x.abs().to_bits() >> 23).fold(15, u32::max);
        let up = 2f32.powi(141 - exponent as i32);
        let down = 2f32.powi(exponent as i32 - 141);
        for (r, w) in w.chunks(cols).enumerate() {
            let mut acc = 0.0f32;
            for (w, x) in w.iter().zip(x) {
                acc = w.to_f32().mul_add(f16::from_f32(x * up).to_f32(), acc);
            }
            out.push(acc * down + bias.map_or(-0.0, |bias| bias[r]));
        }
    }
    out
}

/// Checks every path on one problem with activations rounded to F16.
fn check_narrow(rows: usize, cols: usize, tokens: usize, styles: [Style; 2], seed: u64) {
    let random = &mut Random(seed);
    let raw = weights(DType::F16, rows * cols, styles[0], random);
    let w: Vec<f16> = raw
        .chunks(2)
        .map(|w| f16::from_le_bytes([w[0], w[1]]))
        .collect();
    let x = activations(tokens * cols, styles[1], random);
    let bias = seed.is_multiple_of(2).then(|| random.f32s(rows));
    let bias = bias.as_deref();
    let expected = narrow_reference(&w, &x, cols, bias);
    for threads in [1, 3] {
        let pool = Pool::new(threads).unwrap();
        let packed = PackedMatrix::narrow(&pool, rows, cols, &raw).unwrap();
        assert_eq!(packed.rounds_to(), Some(DType::F16));
        let mut scratch =
            Scratch::with_capacity(Kernels::scratch_bytes(&pool, cols, tokens)).unwrap();
        let capacity = scratch.capacity();
        for kernels in paths() {
            let mut out = vec![f32::NAN; tokens * rows];
            kernels
                .matmul(&pool, &packed, &x, tokens, bias, &mut out, &mut scratch)
                .unwrap();
            let what = format!(
                "[{rows}, {cols}] × {tokens} tokens, {styles:?}, {threads} threads, {}",
                kernels.features()
            );
            assert_same(&what, &out, &expected);
            // Each token by itself.
            for (x, expected) in x.chunks(cols).zip(expected.chunks(rows)) {
                let mut out = vec![f32::NAN; rows];
                kernels
                    .matmul(&pool, &packed, x, 1, bias, &mut out, &mut scratch)
                    .unwrap();
                assert_same(&what, &out, expected);
            }
        }
        assert_eq!(scratch.capacity(), capacity, "the stated scratch suffices");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 8))]

    #[test]
    fn products_with_activations_rounded_to_f16_are_the_same_on_every_path(
        rows in 1usize..150,
        cols in 1usize..90,
        tokens in 1usize..30,
        styles in [0..STYLES.len(), 0..STYLES.len()],
        seed: u64,
    ) {
        check_narrow(rows, cols, tokens, styles.map(|s| STYLES[s]), seed);
    }
}

#[test]
fn activations_rounded_to_f16_in_every_tile_width_are_the_same_on_every_path() {
    for tokens in [1, 2, 4, 5, 8, 12, 27] {
        check_narrow(17, 1100, tokens, [Style::Plain; 2], tokens as u64);
    }
    check_narrow(3, 2048, 300, [Style::Plain; 2], 9);
}

#[test]
fn activations_rounded_to_f16_keep_its_bits_at_any_size_and_what_is_no_number_stays_none() {
    let pool = Pool::new(1).unwrap();
    let (rows, cols) = (70, 45);
    let random = &mut Random(17);
    let raw = weights(DType::F16, rows * cols, Style::Plain, random);
    let narrow = PackedMatrix::narrow(&pool, rows, cols, &raw).unwrap();
    let exact = PackedMatrix::pack(&pool, DType::F16, rows, cols, &raw).unwrap();
    for kernels in paths() {
        for size in [1e30f32, 1e4, 1.0, 1e-4, 1e-30] {
            let x: Vec<f32> = random.f32s(cols).iter().map(|x| x * size).collect();
            let (found, expected) = (
                product(kernels, &narrow, &x, 1, None),
                product(kernels, &exact, &x, 1, None),
            );
            for (r, (f, e)) in found.iter().zip(&expected).enumerate() {
                // Each activation keeps 11 bits.
                let row = raw[2 * r * cols..].chunks(2).zip(&x);
                let sum: f32 = row
                    .map(|(w, x)| f16::from_le_bytes([w[0], w[1]]).to_f32().abs() * x.abs())
                    .sum();
                assert!(
                    (f - e).abs() <= sum / 2048.0,
                    "{f:e}, not {e:e}, {kernels:?}"
                );
            }
        }
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for tokens in [1, 6, 13] {
                let mut all = random.f32s(tokens * cols);
                all[tokens / 2 * cols + 7] = x;
                let found = product(kernels, &narrow, &all, tokens, None);
                for (t, out) in found.chunks(rows).enumerate() {
                    let what = format!("token {t} of {tokens} with {x}, {kernels:?}");
                    assert!(
                        out.iter().all(|o| o.is_finite() == (t != tokens / 2)),
                        "{what}"
                    );
                    assert!(t != tokens / 2 || out.iter().all(|o| o.is_nan() || !x.is_nan()));
                }
            }
        }
        assert!(
            product(kernels, &narrow, &vec![0.0; 2 * cols], 2, None)
                .iter()
                .all(|&o| o == 0.0)
        );
    }
}

#[test]
fn activations_for_rounded_weights_are_rounded_half_to_even_with_infinities_kept() {
    let given = [
        (1.0 + 3.0 / 256.0, 1.0 + 2.0 / 128.0), // half way, up to even
        (1.0 + 1.0 / 256.0, 1.0),               // half way, down to even
        (-1.0 - 1.1 / 256.0, -1.0 - 1.0 / 128.0),
        (f32::MAX, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
        (f32::MIN_POSITIVE, f32::MIN_POSITIVE),
        (f32::MIN_POSITIVE * 0.99, 0.0),
    ];
    let pool = Pool::new(1).unwrap();
    let one = half::bf16::from_f32(1.0).to_le_bytes();
    let packed = PackedMatrix::round(&pool, DType::BF16, 1, 1, &one).unwrap();
    let mut scratch = Scratch::with_capacity(0).unwrap();
    for kernels in paths() {
        let x = given.map(|(x, _)| x);
        let mut out = [f32::NAN; 7];
        kernels
            .matmul(&pool, &packed, &x, 7, None, &mut out, &mut scratch)
            .unwrap();
        let what = kernels.features().to_string();
        assert_same(&what, &out, &given.map(|(_, rounded)| rounded));
        for x in [f32::from_bits(0x7f80_0001), f32::from_bits(u32::MAX)] {
            let mut out = [0.0];
            kernels
                .matmul(&pool, &packed, &[x], 1, None, &mut out, &mut scratch)
                .unwrap();
            assert!(out[0].is_nan(), "{what}: {x:?} became {}", out[0]);
        }
    }
}

#[test]
fn products_over_more_columns_than_a_panel_holds_equal_the_reference() {
    for dtype in [
        DType::Q4_0,
        DType::Q8_0,
        DType::Q6_K,
        DType::F16,
        DType::BF16,
    ] {
        check(dtype, 18, 4096 + 256, 6, [Style::Plain; 2], 7);
    }
}

#[test]
fn products_over_more_tokens_than_a_chunk_holds_equal_the_reference() {
    for dtype in [DType::Q4_1, DType::BF16] {
        check(dtype, 3, 2048, 300, [Style::Plain; 2], 8);
    }
}

#[test]
fn the_smallest_and_largest_codes_do_not_overflow() {
    // All weights −128 · d and all activations of the same size: the largest sums there are.
    let cols = 64;
    let mut raw = Vec::new();
    for _ in 0..16 * cols / 32 {
        raw.extend_from_slice(&f16::ONE.to_le_bytes());
        raw.extend([0x80; 32]);
    }
    let pool = Pool::new(1).unwrap();
    let packed = PackedMatrix::pack(&pool, DType::Q8_0, 16, cols, &raw).unwrap();
    let mut scratch = Scratch::with_capacity(0).unwrap();
    for value in [127.0, -127.0] {
        for tokens in [1, 5, 12] {
            let x = vec![value; tokens * cols];
            for kernels in paths() {
                let mut out = vec![0.0; tokens * 16];
                kernels
                    .matmul(&pool, &packed, &x, tokens, None, &mut out, &mut scratch)
                    .unwrap();
                let expected = -128.0 * value * cols as f32;
                assert!(out.iter().all(|&o| o == expected), "{}", kernels.features());
            }
        }
    }
}

#[test]
fn many_products_at_once_equal_one_after_another() {
    let pool = Pool::new(3).unwrap();
    let random = &mut Random(5);
    let (cols, tokens) = (256, 3);
    let x = activations(tokens * cols, Style::Plain, random);
    // More than one fork's worth, of mixed types.
    let matrices: Vec<PackedMatrix> = (0..11)
        .map(|i| {
            let (dtype, rows) = (WEIGHTS[i], 5 + 20 * i);
            let raw = weights(dtype, rows * cols / dtype.block_len(), Style::Plain, random);
            PackedMatrix::pack(&pool, dtype, rows, cols, &raw).unwrap()
        })
        .collect();
    for kernels in paths() {
        let mut scratch =
            Scratch::with_capacity(Kernels::scratch_bytes(&pool, cols, tokens)).unwrap();
        let capacity = scratch.capacity();
        let mut outs: Vec<Vec<f32>> = matrices
            .iter()
            .map(|m| vec![f32::NAN; tokens * m.rows()])
            .collect();
        let mut products: Vec<Linear<'_>> = matrices
            .iter()
            .zip(&mut outs)
            .map(|(weights, out)| Linear {
                weights,
                bias: None,
                plus: None,
                out,
            })
            .collect();
        kernels
            .matmul_many(&pool, &mut products, &x, tokens, &mut scratch)
            .unwrap();
        assert_eq!(scratch.capacity(), capacity, "the stated scratch suffices");
        for (weights, many) in matrices.iter().zip(&outs) {
            let mut one = vec![f32::NAN; many.len()];
            kernels
                .matmul(&pool, weights, &x, tokens, None, &mut one, &mut scratch)
                .unwrap();
            assert_same("many against one", many, &one);
        }
    }
}

/// A product on one thread with nothing added: what fused ones are held to.
fn product(
    kernels: Kernels,
    weights: &PackedMatrix,
    x: &[f32],
    tokens: usize,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let pool = Pool::new(1).unwrap();
    let mut out = vec![f32::NAN; tokens * weights.rows()];
    let mut scratch = Scratch::with_capacity(0).unwrap();
    kernels
        .matmul(&pool, weights, x, tokens, bias, &mut out, &mut scratch)
        .unwrap();
    out
}

#[test]
fn a_gated_product_equals_two_products_and_the_gate() {
    use anynpu_ir::Activation;
    let random = &mut Random(11);
    let acts = [
        Activation::Relu,
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::GeluQuick,
    ];
    for (i, dtype) in WEIGHTS.into_iter().enumerate() {
        // The gate's type and another; rows that fill no group; more tokens than sums are kept of, once.
        let dtypes = [dtype, WEIGHTS[(i + i % 2) % WEIGHTS.len()]];
        let (rows, cols) = (16 * (i % 3) * 25 + 21, 256);
        let tokens = [1, 3, 4, 5, 29, if i == 0 || i == 4 { 1100 } else { 40 }];
        let threads = [1, 3][i % 2];
        let pool = Pool::new(threads).unwrap();
        let matrices = dtypes.map(|dtype| {
            let raw = weights(dtype, rows * cols / dtype.block_len(), Style::Plain, random);
            PackedMatrix::pack(&pool, dtype, rows, cols, &raw).unwrap()
        });
        let biases = [random.f32s(rows), random.f32s(rows)];
        let bias = [
            (i % 2 == 0).then_some(&biases[0][..]),
            (i % 3 == 0).then_some(&biases[1][..]),
        ];
        for kernels in paths() {
            for tokens in tokens {
                let act = acts[(i + tokens) % acts.len()];
                let x = activations(tokens * cols, Style::Plain, random);
                let [gate, up] =
                    [0, 1].map(|i| product(kernels, &matrices[i], &x, tokens, bias[i]));
                let mut expected = vec![f32::NAN; tokens * rows];
                kernels
                    .gated_activation(&pool, act, &gate, &up, &mut expected)
                    .unwrap();
                let bytes = Kernels::scratch_bytes(&pool, cols, tokens);
                let mut scratch = Scratch::with_capacity(bytes).unwrap();
                let capacity = scratch.capacity();
                let mut out = vec![f32::NAN; tokens * rows];
                let gated = GatedLinear {
                    act,
                    weights: [&matrices[0], &matrices[1]],
                    bias,
                    out: &mut out,
                };
                kernels
                    .gated_matmul(&pool, gated, &x, tokens, &mut scratch)
                    .unwrap();
                assert_eq!(scratch.capacity(), capacity, "the stated scratch suffices");
                let what =
                    format!("{dtypes:?}, {rows} rows, {tokens} tokens, {act:?}, {kernels:?}");
                assert_same(&what, &out, &expected);
            }
        }
    }
}

/// A token that is left over by itself lies in a tile of several.
#[test]
fn a_gated_product_of_one_token_more_than_is_kept_at_a_time_equals_the_same_token_alone() {
    let random = &mut Random(13);
    let pool = Pool::new(1).unwrap();
    let (rows, cols) = (21, 4096);
    for dtype in [DType::F32, DType::F16, DType::Q4_0] {
        let raw = weights(dtype, rows * cols / dtype.block_len(), Style::Plain, random);
        let mut packed = vec![PackedMatrix::pack(&pool, dtype, rows, cols, &raw).unwrap()];
        if dtype.is_float() {
            packed.push(PackedMatrix::round(&pool, dtype, rows, cols, &raw).unwrap());
        }
        if dtype == DType::F16 {
            packed.push(PackedMatrix::narrow(&pool, rows, cols, &raw).unwrap());
        }
        for kernels in paths() {
            let plain = matmul::chunk_tokens(cols * 4, kernels.table.plain_tile);
            let blocks = cols / 32 * isa::XBLOCK_BYTES;
            let blocks = matmul::chunk_tokens(blocks, kernels.table.tile);
            for tokens in [plain + 1, blocks + 1] {
                let x = activations(tokens * cols, Style::Plain, random);
                for weights in &packed {
                    let run = |x: &[f32], tokens: usize| {
                        let mut out = vec![f32::NAN; tokens * rows];
                        let gated = GatedLinear {
                            act: anynpu_ir::Activation::Silu,
                            weights: [weights; 2],
                            bias: [None; 2],
                            out: &mut out,
                        };
                        let mut scratch = Scratch::with_capacity(0).unwrap();
                        kernels
                            .gated_matmul(&pool, gated, x, tokens, &mut scratch)
                            .unwrap();
                        out
                    };
                    let (all, last) = (run(&x, tokens), run(&x[(tokens - 1) * cols..], 1));
                    let what = format!("{dtype}, {tokens} tokens, {kernels:?}");
                    assert_same(&what, &all[(tokens - 1) * rows..], &last);
                }
            }
        }
    }
}

#[test]
fn what_is_added_to_a_product_is_added_last() {
    let random = &mut Random(12);
    for (i, dtype) in WEIGHTS.into_iter().enumerate() {
        let (rows, cols) = (37, 256);
        let pool = Pool::new([1, 3][i % 2]).unwrap();
        let raw = weights(dtype, rows * cols / dtype.block_len(), Style::Plain, random);
        let weights = PackedMatrix::pack(&pool, dtype, rows, cols, &raw).unwrap();
        let bias = random.f32s(rows);
        let bias = (i % 2 == 0).then_some(&bias[..]);
        for kernels in paths() {
            for tokens in [1, 4, 13] {
                let x = activations(tokens * cols, Style::Plain, random);
                let plus = random.f32s(tokens * rows);
                let mut expected = product(kernels, &weights, &x, tokens, bias);
                for (sum, plus) in expected.iter_mut().zip(&plus) {
                    *sum += plus;
                }
                let mut out = vec![f32::NAN; tokens * rows];
                let linear = Linear {
                    weights: &weights,
                    bias,
                    plus: Some(&plus),
                    out: &mut out,
                };
                let mut scratch = Scratch::with_capacity(0).unwrap();
                kernels
                    .matmul_many(&pool, &mut [linear], &x, tokens, &mut scratch)
                    .unwrap();
                assert_same(
                    &format!("{dtype}, {tokens} tokens, {kernels:?}"),
                    &out,
                    &expected,
                );
            }
        }
    }
}

#[test]
fn quantised_activations_cost_no_more_than_half_a_step_each() {
    let random = &mut Random(11);
    let (rows, cols) = (24, 512);
    for dtype in WEIGHTS.into_iter().filter(|d| d.is_block()) {
        let raw = weights(dtype, rows * cols / dtype.block_len(), Style::Plain, random);
        let x = activations(cols, Style::Plain, random);
        let out = reference::matmul(dtype, rows, cols, &raw, &x, 1, None).unwrap();
        let row_bytes = dtype.row_bytes(cols).unwrap();
        let quantised = reference::quantise(dtype, &x);
        for r in 0..rows {
            let (mut exact, mut bound, mut size) = (0.0f64, 0.0f64, 0.0f64);
            for b in 0..cols / 32 {
                let w = raw::fields(dtype, &raw[r * row_bytes..][..row_bytes], b).decode(dtype);
                let x = &x[b * 32..][..32];
                let step = f64::from(quantised.blocks[b].factor) * f64::from(quantised.scale);
                let largest = f64::from(x.iter().fold(0.0f32, |a, x| a.max(x.abs())));
                assert!(
                    step <= 2.0 * largest / 127.0 * 1.0001,
                    "{step:e}, {largest:e}"
                );
                for i in 0..32 {
                    let w = f64::from(w.d[i / 16]) * f64::from(w.q[i]) + f64::from(w.m);
                    exact += w * f64::from(x[i]);
                    bound += step / 2.0 * w.abs();
                    size += (w * f64::from(x[i])).abs();
                }
            }
            // Rounding in binary32: a few steps for each block, relative to the terms' sizes; a
            // minimum and its scale term may cancel, hence the factor.
            let rounding = size * 32.0 * f64::from(f32::EPSILON);
            let error = (f64::from(out[r]) - exact).abs();
            assert!(
                error <= bound * 1.0001 + rounding,
                "{dtype} row {r}: error {error:e}, bound {bound:e}"
            );
        }
    }
}

#[test]
fn products_over_no_columns_are_what_is_added() {
    use anynpu_ir::Activation;
    let pool = Pool::new(1).unwrap();
    let kernels = Kernels::new(Features::detect());
    let weights = PackedMatrix::pack(&pool, DType::F32, 2, 0, &[]).unwrap();
    let mut scratch = Scratch::with_capacity(0).unwrap();
    let mut out = [f32::NAN; 4];
    let linear = Linear {
        weights: &weights,
        bias: Some(&[1.0, 2.0]),
        plus: Some(&[10.0, 20.0, 30.0, 40.0]),
        out: &mut out,
    };
    kernels
        .matmul_many(&pool, &mut [linear], &[], 2, &mut scratch)
        .unwrap();
    assert_eq!(out, [11.0, 22.0, 31.0, 42.0]);
    let gated = GatedLinear {
        act: Activation::Relu,
        weights: [&weights; 2],
        bias: [Some(&[3.0, -1.0]), Some(&[2.0, 2.0])],
        out: &mut out,
    };
    kernels
        .gated_matmul(&pool, gated, &[], 2, &mut scratch)
        .unwrap();
    assert_eq!(out, [6.0, 0.0, 6.0, 0.0]);
}

#[test]
fn empty_operands_are_fine_and_wrong_sizes_are_told() {
    let pool = Pool::new(2).unwrap();
    let mut scratch = Scratch::with_capacity(0).unwrap();
    let kernels = Kernels::new(Features::detect());
    let empty = PackedMatrix::pack(&pool, DType::Q4_0, 0, 32, &[]).unwrap();
    kernels
        .matmul(&pool, &empty, &[0.0; 32], 1, None, &mut [], &mut scratch)
        .unwrap();
    let narrow = PackedMatrix::pack(&pool, DType::F32, 2, 0, &[]).unwrap();
    let mut out = [9.0; 4];
    kernels
        .matmul(
            &pool,
            &narrow,
            &[],
            2,
            Some(&[1.0, 2.0]),
            &mut out,
            &mut scratch,
        )
        .unwrap();
    assert_eq!(out, [1.0, 2.0, 1.0, 2.0]);
    let w = PackedMatrix::pack(&pool, DType::F32, 2, 4, &[0; 32]).unwrap();
    kernels
        .matmul(&pool, &w, &[], 0, None, &mut [], &mut scratch)
        .unwrap();
    for (x, out, bias) in [(3, 2, 2), (4, 3, 2), (4, 2, 1)] {
        let e = kernels.matmul(
            &pool,
            &w,
            &vec![0.0; x],
            1,
            Some(&vec![0.0; bias]),
            &mut vec![0.0; out],
            &mut scratch,
        );
        assert!(matches!(e, Err(KernelError::Size { .. })), "{e:?}");
    }
}
