//! The node tests that are part of the repository, recorded as JSON.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use super::{Attribute, Data, NodeTest};

/// Reads them.
pub(super) fn tests() -> Result<Vec<NodeTest>, String> {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/onnx_node/onnx_node_llm.json.gz");
    let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let packed = include_bytes!("../../data/onnx_node/onnx_node_llm.json.gz");
    let mut text = String::new();
    let mut reader = flate2::read::GzDecoder::new(&packed[..]);
    reader.read_to_string(&mut text).map_err(|e| named(&e))?;
    let file: File = serde_json::from_str(&text).map_err(|e| named(&e))?;
    let tests = file.tests.into_iter().map(Recorded::test);
    tests.collect::<Result<_, _>>().map_err(|e| named(&e))
}

#[derive(Deserialize)]
struct File {
    tests: Vec<Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    test: String,
    op: String,
    attrs: BTreeMap<String, Value>,
    sets: [Set; 1],
}

#[derive(Deserialize)]
struct Set {
    inputs: Vec<Option<Packed>>,
    outputs: Vec<Option<Packed>>,
}

#[derive(Deserialize)]
struct Packed {
    dtype: String,
    shape: Vec<usize>,
    /// Little-endian elements.
    b64: String,
}

impl Recorded {
    fn test(self) -> Result<NodeTest, String> {
        let [set] = self.sets;
        let unpack = |list: Vec<Option<Packed>>| {
            let each = list.into_iter().map(|p| p.map(Packed::data).transpose());
            each.collect::<Result<Vec<_>, String>>()
        };
        Ok(NodeTest {
            name: self.test,
            op: self.op,
            attributes: self.attrs.into_iter().filter_map(attribute).collect(),
            inputs: unpack(set.inputs)?,
            outputs: unpack(set.outputs)?,
        })
    }
}

fn attribute((name, value): (String, Value)) -> Option<(String, Attribute)> {
    let ints = |list: &[Value]| list.iter().map(Value::as_i64).collect::<Option<Vec<_>>>();
    let floats = |list: &[Value]| {
        let each = list.iter().map(|v| v.as_f64().map(|x| x as f32));
        each.collect::<Option<Vec<_>>>()
    };
    let value = match &value {
        Value::String(text) => Attribute::Text(text.clone()),
        Value::Number(n) => match n.as_i64() {
            Some(n) => Attribute::Int(n),
            None => Attribute::Float(n.as_f64()? as f32),
        },
        Value::Array(list) => match ints(list) {
            Some(ints) => Attribute::Ints(ints),
            None => Attribute::Floats(floats(list)?),
        },
        _ => return None,
    };
    Some((name, value))
}

impl Packed {
    fn data(self) -> Result<Data, String> {
        let bytes = base64(&self.b64).ok_or("not base64")?;
        Ok(Data {
            dtype: self.dtype,
            shape: self.shape,
            bytes,
        })
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
