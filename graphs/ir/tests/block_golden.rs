//! The block formats against values computed by the formats' reference implementation.

use anynpu_ir::{DType, block};
use serde_json::Value;

const TYPES: [(DType, &str); 10] = [
    (DType::F16, "F16"),
    (DType::BF16, "BF16"),
    (DType::Q4_0, "Q4_0"),
    (DType::Q4_1, "Q4_1"),
    (DType::Q5_0, "Q5_0"),
    (DType::Q5_1, "Q5_1"),
    (DType::Q8_0, "Q8_0"),
    (DType::Q4_K, "Q4_K"),
    (DType::Q5_K, "Q5_K"),
    (DType::Q6_K, "Q6_K"),
];

#[test]
fn every_format_decodes_bit_for_bit_as_the_reference() {
    let golden: Value = serde_json::from_str(include_str!(
        "../../../tests/data/gguf_quant/gguf_quant_golden.json"
    ))
    .unwrap();
    for (dtype, name) in TYPES {
        let case = &golden["types"][name];
        assert_eq!(case["block"], dtype.block_len(), "{name}");
        assert_eq!(case["bytes_per_block"], dtype.block_bytes(), "{name}");
        let raw = base64(case["raw"].as_str().unwrap());
        let wanted: Vec<u32> = base64(case["deq"].as_str().unwrap())
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| u32::from_le_bytes(*b))
            .collect();
        assert_eq!(wanted.len(), 512);
        let mut out = vec![0.0f32; 512];
        block::dequantize(dtype, &raw, &mut out).unwrap();
        for (i, (y, w)) in out.iter().zip(&wanted).enumerate() {
            assert_eq!(
                y.to_bits(),
                *w,
                "{name} element {i}: {y} against {}",
                f32::from_bits(*w)
            );
        }
    }
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
