//! The operations on every path against each other, bit for bit, and against binary64.

use anynpu_ir::block::{LEGACY_BLOCK, Q8_0Block, dequantize};
use anynpu_ir::{Activation, DType, RopeStyle};
use half::f16;
use proptest::prelude::*;

use super::super::tests::{Random, Style, WEIGHTS, activations, assert_same, paths, weights};
use super::super::{Features, KernelError, Kernels, PackedMatrix, Scratch};
use super::*;
use crate::pool::Pool;

const ACTIVATIONS: [Activation; 5] = [
    Activation::Relu,
    Activation::Silu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::GeluQuick,
];

/// The largest error relative to the largest expected magnitude.
#[track_caller]
fn assert_close(what: &str, got: &[f32], expected: &[f64], bound: f64) {
    let size = expected.iter().fold(1e-30f64, |m, e| m.max(e.abs()));
    for (i, (&g, e)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(g) - e).abs() / size;
        assert!(
            error <= bound,
            "{what}: element {i} is {g}, expected {e}: {error:e}"
        );
    }
}

/// Runs `f` on every path, with one thread and with several; checks that all results are equal
/// and gives one of them.
fn same_on_all_paths(len: usize, f: impl Fn(&Kernels, &Pool, &mut [f32])) -> Vec<f32> {
    let mut first = vec![f32::NAN; len];
    f(
        &Kernels::new(Features::generic()),
        &Pool::new(1).unwrap(),
        &mut first,
    );
    for threads in [1, 3] {
        let pool = Pool::new(threads).unwrap();
        for kernels in paths() {
            let mut out = vec![f32::NAN; len];
            f(&kernels, &pool, &mut out);
            let what = format!("{} on {threads} threads", kernels.features());
            assert_same(&what, &out, &first);
        }
    }
    first
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| x.into()).collect()
}

#[test]
fn norms_and_softmax_are_the_same_everywhere_and_close() {
    let random = &mut Random(1);
    // The last is shared between threads.
    for (rows, width) in [
        (1, 1),
        (3, 15),
        (2, 16),
        (2, 64),
        (3, 100),
        (1, 2048),
        (40, 1000),
    ] {
        let x = activations(rows * width, Style::Plain, random);
        let (w, b) = (random.f32s(width), random.f32s(width));
        let eps = 1e-5f32;
        let rms = same_on_all_paths(x.len(), |k, pool, out| {
            k.rms_norm(pool, &x, &w, eps, out).unwrap();
        });
        let layer = same_on_all_paths(x.len(), |k, pool, out| {
            k.layer_norm(pool, &x, &w, Some(&b), eps, out).unwrap();
        });
        let plain = same_on_all_paths(x.len(), |k, pool, out| {
            k.layer_norm(pool, &x, &w, None, eps, out).unwrap();
        });
        let soft = same_on_all_paths(x.len(), |k, pool, out| {
            k.softmax(pool, &x, width, out).unwrap();
        });
        let n = width as f64;
        for r in 0..rows {
            let x = wide(&x[r * width..][..width]);
            let row = r * width..(r + 1) * width;
            let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / n + f64::from(eps)).sqrt();
            let expected: Vec<f64> = x
                .iter()
                .zip(&w)
                .map(|(x, &w)| x * scale * f64::from(w))
                .collect();
            assert_close("rms norm", &rms[row.clone()], &expected, 1e-6);

            let mean = x.iter().sum::<f64>() / n;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let scale = 1.0 / (variance + f64::from(eps)).sqrt();
            let mut expected: Vec<f64> = x
                .iter()
                .zip(&w)
                .map(|(x, &w)| (x - mean) * scale * f64::from(w))
                .collect();
            assert_close("layer norm", &plain[row.clone()], &expected, 2e-6);
            expected
                .iter_mut()
                .zip(&b)
                .for_each(|(e, &b)| *e += f64::from(b));
            assert_close("layer norm", &layer[row.clone()], &expected, 2e-6);

            let most = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x));
            let mut expected: Vec<f64> = x.iter().map(|x| (x - most).exp()).collect();
            let total: f64 = expected.iter().sum();
            expected.iter_mut().for_each(|e| *e /= total);
            assert_close("softmax", &soft[row], &expected, 1e-6);
        }
    }
}

#[test]
fn activations_and_arithmetic_are_the_same_everywhere_and_close() {
    let random = &mut Random(2);
    for len in [0, 1, 16, 33, 1000, 50_000] {
        let x: Vec<f32> = (0..len).map(|_| random.f32() * 12.0).collect();
        let y = random.f32s(len);
        for act in ACTIVATIONS {
            let plain = same_on_all_paths(len, |k, pool, out| {
                k.activation(pool, act, &x, out).unwrap();
            });
            let gated = same_on_all_paths(len, |k, pool, out| {
                k.gated_activation(pool, act, &x, &y, out).unwrap();
            });
            let expected: Vec<f64> = wide(&x)
                .into_iter()
                .map(|x| match act {
                    Activation::Relu => x.max(0.0),
                    Activation::Silu => x / (1.0 + (-x).exp()),
                    Activation::GeluQuick => x / (1.0 + (-1.702f64 * x).exp()),
                    Activation::GeluTanh => {
                        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                        0.5 * x * (1.0 + u.tanh())
                    }
                    _ => 0.5 * x * (1.0 + erf_64(x / 2f64.sqrt())),
                })
                .collect();
            for (i, (&got, e)) in plain.iter().zip(&expected).enumerate() {
                let error = (f64::from(got) - e).abs();
                assert!(
                    error <= 4e-7 * e.abs().max(1.0),
                    "{act:?}({}) = {got}, not {e}",
                    x[i]
                );
                assert_eq!(gated[i].to_bits(), (got * y[i]).to_bits());
            }
        }
        for (op, f) in [
            (Arithmetic::Add, (|a, b| a + b) as fn(f32, f32) -> f32),
            (Arithmetic::Sub, |a, b| a - b),
            (Arithmetic::Mul, |a, b| a * b),
        ] {
            let got = same_on_all_paths(len, |k, pool, out| {
                k.arithmetic(pool, op, &x, &y, out).unwrap();
            });
            let expected: Vec<f32> = x.iter().zip(&y).map(|(&a, &b)| f(a, b)).collect();
            assert_same("arithmetic", &got, &expected);
        }
    }
}

fn erf_64(x: f64) -> f64 {
    if x.abs() > 5.8 {
        return x.signum();
    }
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * x * (-x * x).exp() * sum
}

#[test]
fn rotation_is_the_same_everywhere_and_close() {
    let random = &mut Random(3);
    for style in [RopeStyle::Interleaved, RopeStyle::HalfSplit] {
        for (heads, head_dim, dims) in [(1, 2, 2), (3, 64, 64), (2, 80, 32), (4, 8, 8)] {
            let positions = [0, 1, 7, 131_072];
            let frequencies: Vec<f32> = (0..dims / 2)
                .map(|i| 10_000f32.powf(-2.0 * i as f32 / dims as f32))
                .collect();
            let tokens = positions.len();
            let (mut cos, mut sin) = (vec![0.0; tokens * dims / 2], vec![0.0; tokens * dims / 2]);
            rope_table(&positions, &frequencies, 1.25, &mut cos, &mut sin).unwrap();
            let x = random.f32s(tokens * heads * head_dim);
            let layout = RopeLayout {
                heads,
                head_dim,
                dims,
                style,
            };
            let got = same_on_all_paths(x.len(), |k, pool, out| {
                k.rope(pool, &x, &cos, &sin, &layout, out).unwrap();
            });
            let mut expected = wide(&x);
            for t in 0..tokens {
                for h in 0..heads {
                    let head = &mut expected[(t * heads + h) * head_dim..][..head_dim];
                    for (i, f) in frequencies.iter().enumerate() {
                        let angle = f64::from(positions[t] as f32 * f);
                        let (i, j) = match style {
                            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                            RopeStyle::HalfSplit => (i, i + dims / 2),
                        };
                        let (a, b) = (head[i], head[j]);
                        head[i] = 1.25 * (a * angle.cos() - b * angle.sin());
                        head[j] = 1.25 * (a * angle.sin() + b * angle.cos());
                    }
                }
            }
            assert_close("rope", &got, &expected, 3e-7);
        }
    }
}

/// Rows of keys or values as they are kept.
#[derive(Clone, Debug)]
enum Kept {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Q8_0(Vec<u8>),
}

impl Kept {
    fn new(dtype: DType, x: &[f32]) -> Kept {
        match dtype {
            DType::F32 => Kept::F32(x.to_vec()),
            DType::F16 => Kept::F16(x.iter().map(|&x| f16::from_f32(x)).collect()),
            _ => {
                let blocks = x.as_chunks::<LEGACY_BLOCK>().0.iter();
                Kept::Q8_0(blocks.flat_map(Q8_0Block::encode_or_nan).collect())
            }
        }
    }

    fn rows(&self) -> KvRows<'_> {
        match self {
            Kept::F32(x) => KvRows::F32(x),
            Kept::F16(x) => KvRows::F16(x),
            Kept::Q8_0(x) => KvRows::Q8_0(x),
        }
    }

    fn decoded(&self) -> Vec<f64> {
        match self {
            Kept::F32(x) => wide(x),
            Kept::F16(x) => x.iter().map(|x| x.to_f64()).collect(),
            Kept::Q8_0(x) => {
                let mut out = vec![0.0; x.len() / 34 * LEGACY_BLOCK];
                dequantize(DType::Q8_0, x, &mut out).unwrap();
                wide(&out)
            }
        }
    }
}

/// A problem of [`Kernels::attention`] that owns its operands.
#[derive(Clone, Debug)]
struct Problem {
    heads: usize,
    kv_heads: usize,
    k_dim: usize,
    v_dim: usize,
    rows: usize,
    positions: Option<Vec<i32>>,
    window: Option<u32>,
    soft_cap: Option<f32>,
    mask: Option<Vec<f32>>,
    /// Type that keys and values are kept in.
    kept: DType,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Problem {
    fn tokens(&self) -> usize {
        self.q.len() / (self.heads * self.k_dim)
    }

    /// Runs tokens `from..to` as a call of their own.
    fn run(
        &self,
        kernels: &Kernels,
        pool: &Pool,
        tokens: std::ops::Range<usize>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let (k, v) = (Kept::new(self.kept, &self.k), Kept::new(self.kept, &self.v));
        let width = self.heads * self.k_dim;
        let operands = Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            k_dim: self.k_dim,
            v_dim: self.v_dim,
            q: &self.q[tokens.start * width..tokens.end * width],
            k: k.rows(),
            v: v.rows(),
            rows: self.rows,
            positions: self.positions.as_ref().map(|p| &p[tokens.clone()]),
            mask: (self.mask.as_ref())
                .map(|m| &m[tokens.start * self.rows..tokens.end * self.rows]),
            scale: 0.3,
            soft_cap: self.soft_cap,
            window: self.window,
        };
        let mut scratch = Scratch::with_capacity(0).unwrap();
        kernels.attention(pool, &operands, out, &mut scratch)
    }

    /// By the definition, in binary64.
    fn exact(&self) -> Vec<f64> {
        let keys = Kept::new(self.kept, &self.k).decoded();
        let values = Kept::new(self.kept, &self.v).decoded();
        let mut out = Vec::new();
        for t in 0..self.tokens() {
            let end = self
                .positions
                .as_ref()
                .map_or(self.rows, |p| p[t] as usize + 1);
            let start = self.window.map_or(0, |w| end.saturating_sub(w as usize));
            for h in 0..self.heads {
                let kv_head = h / (self.heads / self.kv_heads);
                let q = &self.q[(t * self.heads + h) * self.k_dim..][..self.k_dim];
                let scores: Vec<f64> = (start..end)
                    .map(|j| {
                        let k = &keys[(j * self.kv_heads + kv_head) * self.k_dim..];
                        let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * k).sum();
                        let mut s = 0.3f32 as f64 * dot;
                        if let Some(cap) = self.soft_cap {
                            s = f64::from(cap) * (s / f64::from(cap)).tanh();
                        }
                        s + self
                            .mask
                            .as_ref()
                            .map_or(0.0, |m| f64::from(m[t * self.rows + j]))
                    })
                    .collect();
                let most = scores.iter().fold(f64::NEG_INFINITY, |m, &s| m.max(s));
                let p: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let total: f64 = p.iter().sum();
                for d in 0..self.v_dim {
                    let sum: f64 = (start..end)
                        .zip(&p)
                        .map(|(j, p)| p * values[(j * self.kv_heads + kv_head) * self.v_dim + d])
                        .sum();
                    out.push(sum / total);
                }
            }
        }
        out
    }
}

prop_compose! {
    fn problem(always_causal: bool)(
        kv_heads in 1usize..4,
        group in prop_oneof![1usize..5, Just(9)],
        k_dim in prop_oneof![Just(16usize), Just(64), 1usize..40],
        v_dim in prop_oneof![Just(16usize), Just(64), Just(80), 1usize..40],
        tokens in 1usize..20,
        cached in prop_oneof![0usize..10, 50usize..200],
        causal: bool,
        window in prop::option::of(1u32..100),
        soft_cap in prop::option::of(Just(5.0f32)),
        masked: bool,
        kept in prop::sample::select(vec![DType::F32, DType::F16, DType::Q8_0]),
        seed: u64,
    ) -> Problem {
        let causal = causal || always_causal;
        let random = &mut Random(seed);
        let rows = cached + tokens;
        let heads = kv_heads * group;
        let whole = |dim: usize| dim.next_multiple_of(kept.block_len());
        let (k_dim, v_dim) = (whole(k_dim), whole(v_dim));
        // Every token sees its own row at least, whatever the mask says.
        let mask = masked.then(|| {
            (0..tokens * rows)
                .map(|i| match random.next() % 3 {
                    0 if i % rows != i / rows + cached => f32::NEG_INFINITY,
                    _ => random.f32(),
                })
                .collect()
        });
        Problem {
            heads,
            kv_heads,
            k_dim,
            v_dim,
            rows,
            positions: causal.then(|| (cached..rows).map(|p| p as i32).collect()),
            window: window.filter(|_| causal),
            soft_cap,
            mask,
            kept,
            q: activations(tokens * heads * k_dim, Style::Plain, random),
            k: activations(rows * kv_heads * k_dim, Style::Plain, random),
            v: activations(rows * kv_heads * v_dim, Style::Plain, random),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn attention_is_the_same_everywhere_close_and_does_not_depend_on_chunks(p in problem(false)) {
        let width = p.heads * p.v_dim;
        let all = same_on_all_paths(p.tokens() * width, |k, pool, out| {
            p.run(k, pool, 0..p.tokens(), out).unwrap();
        });
        assert_close("attention", &all, &p.exact(), 3e-5);
        let kernels = Kernels::new(Features::detect());
        let pool = Pool::new(2).unwrap();
        for t in 0..p.tokens() {
            let mut one = vec![f32::NAN; width];
            p.run(&kernels, &pool, t..t + 1, &mut one).unwrap();
            assert_same("token by token", &one, &all[t * width..][..width]);
        }
    }

    #[test]
    fn attention_reads_nothing_past_what_a_token_sees(p in problem(true)) {
        let kernels = Kernels::new(Features::detect());
        let pool = Pool::new(1).unwrap();
        let mut first = vec![0.0; p.tokens() * p.heads * p.v_dim];
        p.run(&kernels, &pool, 0..p.tokens(), &mut first).unwrap();
        // The rows of tokens still to come hold NaN.
        let one = p.heads * p.v_dim;
        let mut early = p.clone();
        let seen = p.positions.as_ref().unwrap()[0] as usize + 1;
        early.k[seen * p.kv_heads * p.k_dim..].fill(f32::NAN);
        early.v[seen * p.kv_heads * p.v_dim..].fill(f32::NAN);
        let mut out = vec![0.0; one];
        early.run(&kernels, &pool, 0..1, &mut out).unwrap();
        assert_same("rows not seen", &out, &first[..one]);
    }
}

#[test]
fn attention_tells_what_it_cannot_do() {
    let random = &mut Random(9);
    let good = Problem {
        heads: 2,
        kv_heads: 1,
        k_dim: 4,
        v_dim: 4,
        rows: 3,
        positions: Some(vec![2]),
        window: None,
        soft_cap: None,
        mask: None,
        kept: DType::F32,
        q: random.f32s(8),
        k: random.f32s(12),
        v: random.f32s(12),
    };
    let run = |p: &Problem| {
        let kernels = Kernels::new(Features::detect());
        let pool = Pool::new(1).unwrap();
        p.run(&kernels, &pool, 0..1, &mut [0.0; 8])
    };
    run(&good).unwrap();
    let with = |change: &dyn Fn(&mut Problem)| {
        let mut p = good.clone();
        change(&mut p);
        run(&p)
    };
    assert!(matches!(
        with(&|p| p.positions = Some(vec![3])),
        Err(KernelError::Position { found: 3, rows: 3 })
    ));
    assert!(matches!(
        with(&|p| p.positions = Some(vec![-1])),
        Err(KernelError::Position { .. })
    ));
    assert!(matches!(
        with(&|p| p.mask = Some(vec![f32::NEG_INFINITY; 3])),
        Err(KernelError::NothingVisible)
    ));
    assert!(matches!(
        with(&|p| p.window = Some(0)),
        Err(KernelError::NothingVisible)
    ));
    assert!(matches!(
        with(&|p| {
            p.k.truncate(11);
        }),
        Err(KernelError::Size { what: "keys", .. })
    ));
    assert!(matches!(
        with(&|p| p.kept = DType::Q8_0),
        Err(KernelError::HeadBlocks {
            what: "keys",
            found: 4
        })
    ));
    assert!(matches!(
        with(&|p| p.kv_heads = 0),
        Err(KernelError::HeadDim { .. })
    ));
}

#[test]
fn attention_spreads_nan_and_uses_no_more_scratch_than_stated() {
    let kernels = Kernels::new(Features::detect());
    let pool = Pool::new(2).unwrap();
    let mut scratch = Scratch::with_capacity(Kernels::attention_scratch_bytes(&pool)).unwrap();
    let capacity = scratch.capacity();
    let (dim, rows) = (MAX_HEAD_DIM, 70);
    let k = vec![f16::NAN; rows * dim];
    let v = vec![f16::ONE; rows * dim];
    let q = vec![1.0; 10 * dim];
    let mut out = vec![0.0; 10 * dim];
    let operands = Attention {
        heads: 10,
        kv_heads: 1,
        k_dim: dim,
        v_dim: dim,
        q: &q,
        k: KvRows::F16(&k),
        v: KvRows::F16(&v),
        rows,
        positions: None,
        mask: None,
        scale: 1.0,
        soft_cap: None,
        window: None,
    };
    kernels
        .attention(&pool, &operands, &mut out, &mut scratch)
        .unwrap();
    assert!(out.iter().all(|x| x.is_nan()));
    assert_eq!(scratch.capacity(), capacity);
}

#[test]
fn operands_of_wrong_size_are_told() {
    let kernels = Kernels::new(Features::detect());
    let pool = Pool::new(1).unwrap();
    let (x, mut out) = ([1.0; 6], [0.0; 6]);
    let size =
        |r: Result<(), KernelError>| assert!(matches!(r, Err(KernelError::Size { .. })), "{r:?}");
    size(kernels.rms_norm(&pool, &x, &[1.0; 4], 0.0, &mut out));
    size(kernels.rms_norm(&pool, &x, &[1.0; 3], 0.0, &mut out[..3]));
    size(kernels.layer_norm(&pool, &x, &[1.0; 3], Some(&[1.0; 2]), 0.0, &mut out));
    size(kernels.softmax(&pool, &x, 4, &mut out));
    size(kernels.activation(&pool, Activation::Silu, &x, &mut out[..5]));
    size(kernels.gated_activation(&pool, Activation::Silu, &x, &x[..5], &mut out));
    size(kernels.arithmetic(&pool, Arithmetic::Add, &x[..5], &x, &mut out));
    let layout = RopeLayout {
        heads: 1,
        head_dim: 6,
        dims: 4,
        style: RopeStyle::HalfSplit,
    };
    size(kernels.rope(&pool, &x, &[1.0; 3], &[1.0; 2], &layout, &mut out));
    let odd = RopeLayout { dims: 5, ..layout };
    size(kernels.rope(&pool, &x, &[1.0; 2], &[1.0; 2], &odd, &mut out));
}

#[test]
fn results_are_the_same_bits_on_every_architecture() {
    // FNV-1a over results whose inputs come from integers alone. The value was computed on x86-64;
    // an aarch64 machine must get the same.
    const EXPECTED: u64 = 0x7538_a2a9_7793_f777;
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut take = |out: &[f32]| {
        for byte in out.iter().flat_map(|x| x.to_bits().to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    let random = &mut Random(2026);
    let kernels = Kernels::new(Features::detect());
    let pool = Pool::new(2).unwrap();
    let mut scratch = Scratch::with_capacity(0).unwrap();
    for dtype in WEIGHTS {
        let (rows, cols, tokens) = (40, 512, 6);
        let raw = weights(dtype, rows * cols / dtype.block_len(), Style::Plain, random);
        let packed = PackedMatrix::pack(&pool, dtype, rows, cols, &raw).unwrap();
        let x = random.f32s(tokens * cols);
        let mut out = vec![0.0; tokens * rows];
        kernels
            .matmul(&pool, &packed, &x, tokens, None, &mut out, &mut scratch)
            .unwrap();
        take(&out);
    }
    let (x, w) = (random.f32s(1000), random.f32s(100));
    let mut out = vec![0.0; 1000];
    kernels.rms_norm(&pool, &x, &w, 1e-5, &mut out).unwrap();
    take(&out);
    kernels
        .layer_norm(&pool, &x, &w, Some(&w), 1e-5, &mut out)
        .unwrap();
    take(&out);
    kernels.softmax(&pool, &x, 100, &mut out).unwrap();
    take(&out);
    let wide: Vec<f32> = x.iter().map(|x| x * 20.0).collect();
    for act in ACTIVATIONS {
        kernels.activation(&pool, act, &wide, &mut out).unwrap();
        take(&out);
    }
    let frequencies: Vec<f32> = (0..32).map(|i| 1.0 / (1.0 + i as f32)).collect();
    let (mut cos, mut sin) = (vec![0.0; 96], vec![0.0; 96]);
    rope_table(&[1, 77, 4000], &frequencies, 1.0, &mut cos, &mut sin).unwrap();
    take(&cos);
    take(&sin);
    for (kept, k_dim) in [(DType::F32, 48), (DType::F16, 48), (DType::Q8_0, 64)] {
        let p = Problem {
            heads: 6,
            kv_heads: 2,
            k_dim,
            v_dim: 32,
            rows: 150,
            positions: Some((145..150).collect()),
            window: Some(120),
            soft_cap: Some(3.0),
            mask: None,
            kept,
            q: random.f32s(5 * 6 * k_dim),
            k: random.f32s(150 * 2 * k_dim),
            v: random.f32s(150 * 2 * 32),
        };
        let mut out = vec![0.0; 5 * 6 * 32];
        p.run(&kernels, &pool, 0..5, &mut out).unwrap();
        take(&out);
    }
    assert_eq!(hash, EXPECTED, "{hash:#x}");
}
