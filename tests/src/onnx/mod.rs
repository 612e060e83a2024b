//! The single-node tests of the ONNX standard, as cases in our op set.
//!
//! A node of ONNX becomes one of our ops where there is such, else a small graph of ours that an
//! importer could write. What neither gives is skipped with the reason.

mod attention;
mod lower;
mod products;
mod simple;

use std::io::Read;
use std::path::PathBuf;

use anynpu_cpu::reference::Tensor;
use anynpu_ir::DType;
use serde::Deserialize;

use crate::Case;
use lower::Lower;

/// Why a node test was not made a case.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// Our op set is not meant to hold this.
    Skip(String),
    /// The mapping is wrong.
    Fault(String),
}

/// A node test: its name, and its case or why there is none.
pub type Mapped = (String, Result<Case, Refusal>);

/// All node tests.
///
/// # Errors
/// Text telling what is wrong with the file they come from.
pub fn cases() -> Result<Vec<Mapped>, String> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/onnx_node/onnx_node_llm.json.gz");
    let file = std::fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    let file: File = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let map = |test: NodeTest| {
        let name = format!("onnx/{}", test.test);
        let case = Lower::new(&test).and_then(|lower| lower.case(&name));
        (name, case)
    };
    Ok(file.tests.into_iter().map(map).collect())
}

#[derive(Deserialize)]
struct File {
    tests: Vec<NodeTest>,
}

/// One node with its operands and results.
#[derive(Deserialize)]
struct NodeTest {
    test: String,
    op: String,
    attrs: serde_json::Map<String, serde_json::Value>,
    sets: [Set; 1],
}

#[derive(Deserialize)]
struct Set {
    inputs: Vec<Option<Data>>,
    outputs: Vec<Option<Data>>,
}

/// A tensor of ONNX.
#[derive(Deserialize)]
struct Data {
    dtype: String,
    shape: Vec<usize>,
    /// Little-endian elements.
    b64: String,
}

impl Data {
    /// The tensor as ours.
    fn tensor(&self) -> Result<Tensor, Refusal> {
        let dtype = match self.dtype.as_str() {
            "float" => DType::F32,
            "float16" => DType::F16,
            "bfloat16" => DType::BF16,
            "int8" => DType::I8,
            "uint8" => DType::U8,
            "int16" => DType::I16,
            "int32" => DType::I32,
            "int64" => DType::I64,
            "bool" => DType::Bool,
            other => return Err(Refusal::Skip(format!("we have no type {other}"))),
        };
        let bytes = base64(&self.b64).ok_or_else(|| Refusal::Fault("not base64".into()))?;
        Tensor::from_bytes(dtype, &self.shape[..], &bytes)
            .map_err(|e| Refusal::Fault(e.to_string()))
    }
}

/// Decodes RFC 4648 base64 with padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let (mut out, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for c in text.bytes() {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_decodes_every_length_and_refuses_other_text() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8=", b"fo"),
            ("Zm9v", b"foo"),
            ("+/8A", &[0xfb, 0xff, 0x00]),
        ] {
            assert_eq!(base64(text).as_deref(), Some(bytes));
        }
        assert_eq!(base64("Zm 9v"), None);
    }
}
