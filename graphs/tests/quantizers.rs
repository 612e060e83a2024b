//! The reference quantisers: bytes against GGUF's where it defines them, error bounds for all.

use anynpu_graphs::quant::{QuantizeError, quantize_row};
use anynpu_ir::DType;
use anynpu_ir::block::{self, Q4KBlock, Q5KBlock, Q6KBlock, unpack_scales_mins};
use proptest::prelude::*;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!(
        "../../tests/data/gguf_quant/gguf_quant_golden.json"
    ))
    .unwrap()
}

fn round_trip(dtype: DType, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = vec![0; dtype.row_bytes(x.len()).unwrap()];
    quantize_row(dtype, x, &mut bytes).unwrap();
    let mut y = vec![0.0; x.len()];
    block::dequantize(dtype, &bytes, &mut y).unwrap();
    (bytes, y)
}

fn rmse(x: &[f32], y: &[f32]) -> f64 {
    let sum: f64 = x.iter().zip(y).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (sum / x.len() as f64).sqrt()
}

#[test]
fn plain_and_32_element_formats_give_the_reference_bytes() {
    let golden = golden();
    let x = floats(&golden["x"]);
    for (dtype, name) in [
        (DType::F16, "F16"),
        (DType::BF16, "BF16"),
        (DType::Q4_0, "Q4_0"),
        (DType::Q4_1, "Q4_1"),
        (DType::Q5_0, "Q5_0"),
        (DType::Q5_1, "Q5_1"),
        (DType::Q8_0, "Q8_0"),
    ] {
        let (bytes, _) = round_trip(dtype, &x);
        let wanted = base64(golden["types"][name]["raw"].as_str().unwrap());
        assert!(bytes == wanted, "{name} differs from the reference bytes");
    }
}

/// ggml's K quantisers search for better scales; ours may lose a tenth to them, no more.
#[test]
fn k_formats_lose_at_most_a_tenth_to_a_search() {
    let golden = golden();
    let x = floats(&golden["x"]);
    for (dtype, name) in [
        (DType::Q4_K, "Q4_K"),
        (DType::Q5_K, "Q5_K"),
        (DType::Q6_K, "Q6_K"),
    ] {
        let (_, y) = round_trip(dtype, &x);
        let wanted = golden["types"][name]["rmse"].as_f64().unwrap();
        let found = rmse(&x, &y);
        assert!(
            found <= wanted * 1.1,
            "{name}: rmse {found} against {wanted}"
        );
    }
}

/// How far rounding to f16 moves `v`.
fn e(v: f32) -> f32 {
    (v.abs() / 2048.0).max(2f32.powi(-25))
}

/// The documented bound of the 32-element formats for one block.
fn legacy_bound(dtype: DType, x: &[f32]) -> f32 {
    let a = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
    let min = x.iter().fold(f32::MAX, |a, &v| a.min(v));
    let max = x.iter().fold(f32::MIN, |a, &v| a.max(v));
    let r = max - min;
    let exact = match dtype {
        DType::Q4_0 => a / 8.0 + 8.0 * e(a / 8.0),
        DType::Q4_1 => r / 30.0 + 15.0 * e(r / 15.0) + e(min),
        DType::Q5_0 => a / 16.0 + 16.0 * e(a / 16.0),
        DType::Q5_1 => r / 62.0 + 31.0 * e(r / 31.0) + e(min),
        DType::Q8_0 => a / 254.0 + 128.0 * e(a / 127.0),
        _ => unreachable!(),
    };
    exact + 8.0 * f32::EPSILON * a
}

/// Magnitudes from subnormal to the largest that every format holds, mixed within a block.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -1.0f32..1.0,
        1 => Just(0.0f32),
        1 => -60000.0f32..60000.0,
        1 => -1e-6f32..1e-6,
        1 => -1e-39f32..1e-39,
    ]
}

fn block_of(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let mixed = proptest::collection::vec(value(), len);
    let scaled = (
        proptest::collection::vec(-1.0f32..1.0, len),
        -40i32..15,
        -1.0f32..1.0,
    )
        .prop_map(|(v, exponent, shift)| {
            v.iter()
                .map(|x| (x + shift) * 2f32.powi(exponent))
                .collect()
        });
    prop_oneof![mixed, scaled, value().prop_map(move |v| vec![v; len])]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_32_element_formats_keep_their_error_bound(
        dtype in proptest::sample::select(
            vec![DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0]),
        x in block_of(32),
    ) {
        let (_, y) = round_trip(dtype, &x);
        let bound = legacy_bound(dtype, &x);
        for (a, b) in x.iter().zip(&y) {
            prop_assert!((a - b).abs() <= bound, "{} {} -> {}, bound {}", dtype, a, b, bound);
        }
    }

    #[test]
    fn q4_k_and_q5_k_keep_their_error_bound(
        five in any::<bool>(),
        x in block_of(256),
    ) {
        let (dtype, n) = if five { (DType::Q5_K, 31.0) } else { (DType::Q4_K, 15.0) };
        let (bytes, y) = round_trip(dtype, &x);
        let (d, dmin, packed) = if five {
            let b = Q5KBlock::new(bytes.as_slice().try_into().unwrap());
            (b.d, b.dmin, *b.scales)
        } else {
            let b = Q4KBlock::new(bytes.as_slice().try_into().unwrap());
            (b.d, b.dmin, *b.scales)
        };
        let (scales, _) = unpack_scales_mins(&packed);
        let a = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        // below the normal range of f32 a block may be zeros
        let slack = 16.0 * f32::EPSILON * a + f32::MIN_POSITIVE;
        let range = |s: &[f32]| {
            let lo = s.iter().fold(0.0f32, |a, &v| a.min(v));
            (lo, s.iter().fold(0.0f32, |a, &v| a.max(v)) - lo)
        };
        let ranges: Vec<(f32, f32)> = x.chunks(32).map(range).collect();
        let deepest = ranges.iter().fold(0.0f32, |m, r| m.max(-r.0));
        let tiny = 2f32.powi(-24);
        prop_assert!(dmin <= 1.001 * deepest / 63.0 + tiny);
        let widest = ranges.iter().fold(0.0f32, |m, r| m.max((r.1 + dmin) / n));
        prop_assert!(d <= 1.001 * widest / 63.0 + tiny);
        for (s, (_, r)) in ranges.iter().enumerate() {
            let step = d * f32::from(scales[s]);
            prop_assert!(step <= (r + dmin) / n + d + slack, "step {}", step);
            for i in 32 * s..32 * (s + 1) {
                prop_assert!(
                    (x[i] - y[i]).abs() <= step / 2.0 + slack,
                    "{} {} -> {}, step {}", dtype, x[i], y[i], step
                );
            }
        }
    }

    #[test]
    fn q6_k_keeps_its_error_bound(x in block_of(256)) {
        let (bytes, y) = round_trip(DType::Q6_K, &x);
        let b = Q6KBlock::new(bytes.as_slice().try_into().unwrap());
        let a = x.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        // below the normal range of f32 a block may be zeros
        let slack = 16.0 * f32::EPSILON * a + f32::MIN_POSITIVE;
        prop_assert!(b.d <= 1.001 * a / 32.0 / 127.0 + 2f32.powi(-24));
        for (s, sub) in x.chunks(16).enumerate() {
            let extreme = sub.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let step = (b.d * f32::from(b.scales[s] as i8)).abs();
            prop_assert!(step <= extreme / 32.0 + b.d + slack, "step {}", step);
            for i in 16 * s..16 * (s + 1) {
                prop_assert!(
                    (x[i] - y[i]).abs() <= step + slack,
                    "{} -> {}, step {}", x[i], y[i], step
                );
            }
        }
    }

    #[test]
    fn any_finite_row_quantises_or_is_refused_as_too_large(
        bits in proptest::collection::vec(any::<u32>(), 256),
        dtype in proptest::sample::select(vec![
            DType::F32, DType::F16, DType::BF16, DType::Q4_0, DType::Q4_1, DType::Q5_0,
            DType::Q5_1, DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K]),
    ) {
        let x: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|v| v.is_finite()).collect();
        let x = &x[..x.len() / dtype.block_len() * dtype.block_len()];
        let mut bytes = vec![0; dtype.row_bytes(x.len()).unwrap()];
        match quantize_row(dtype, x, &mut bytes) {
            Ok(()) => {
                let mut y = vec![0.0; x.len()];
                block::dequantize(dtype, &bytes, &mut y).unwrap();
                prop_assert!(y.iter().all(|v| v.is_finite()), "{}: {:?} -> {:?}", dtype, x, y);
            }
            Err(QuantizeError::Overflow { magnitude, .. }) => prop_assert!(magnitude > 65504.0),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_with_the_place() {
    let mut x = vec![0.5; 64];
    let mut out = vec![0; 36];
    x[40] = f32::NAN;
    let error = quantize_row(DType::Q4_0, &x, &mut out).unwrap_err();
    assert!(error.to_string().contains("element 40 is NaN"), "{error}");
    x[40] = 1e30;
    assert_eq!(
        quantize_row(DType::Q4_0, &x, &mut out),
        Err(QuantizeError::Overflow {
            dtype: DType::Q4_0,
            index: 32,
            magnitude: 1e30
        })
    );
    assert!(matches!(
        quantize_row(DType::Q4_0, &x[..33], &mut out),
        Err(QuantizeError::PartialBlock { elements: 33, .. })
    ));
    assert!(matches!(
        quantize_row(DType::Q4_0, &x, &mut out[..35]),
        Err(QuantizeError::Length {
            wanted: 36,
            found: 35,
            ..
        })
    ));
    assert!(matches!(
        quantize_row(DType::I8, &x, &mut out),
        Err(QuantizeError::NotQuantizable { .. })
    ));
}

fn floats(value: &Value) -> Vec<f32> {
    base64(value.as_str().unwrap())
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect()
}

/// Standard base64 (RFC 4648) of well-formed text.
fn base64(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => panic!("{c} is not base64"),
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    out
}
