//! The part of ONNX's protobuf messages that node tests need. Numbers and names are those of `onnx.proto`
//! (Apache-2.0); what is not listed is skipped when it is read.

use prost::Message;

use super::{Attribute, Data};

/// A model: its graph.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ModelProto {
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
}

/// A graph.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// A node.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    #[prost(string, tag = "7")]
    pub domain: String,
}

/// An attribute of a node.
#[derive(Clone, PartialEq, Message)]
pub(super) struct AttributeProto {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(float, tag = "2")]
    pub f: f32,
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    pub kind: i32,
}

/// The name of an input or output.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueInfoProto {
    #[prost(string, tag = "1")]
    pub name: String,
}

/// A tensor.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    #[prost(string, tag = "8")]
    pub name: String,
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw_data: Option<Vec<u8>>,
}

impl AttributeProto {
    /// Its value; `None` for kinds that no mapping reads.
    pub fn value(&self) -> Option<Attribute> {
        // AttributeProto.AttributeType
        match self.kind {
            1 => Some(Attribute::Float(self.f)),
            2 => Some(Attribute::Int(self.i)),
            3 => Some(Attribute::Text(String::from_utf8(self.s.clone()).ok()?)),
            6 => Some(Attribute::Floats(self.floats.clone())),
            7 => Some(Attribute::Ints(self.ints.clone())),
            _ => None,
        }
    }
}

impl TensorProto {
    /// The tensor with its elements little-endian.
    pub fn data(&self) -> Result<Data, String> {
        let (dtype, width) = match self.data_type {
            1 => ("float", 4),
            2 => ("uint8", 1),
            3 => ("int8", 1),
            4 => ("uint16", 2),
            5 => ("int16", 2),
            6 => ("int32", 4),
            7 => ("int64", 8),
            9 => ("bool", 1),
            10 => ("float16", 2),
            11 => ("double", 8),
            12 => ("uint32", 4),
            13 => ("uint64", 8),
            16 => ("bfloat16", 2),
            other => return Err(format!("a tensor of type {other}")),
        };
        let shape = self.dims.iter().map(|&d| usize::try_from(d).ok());
        let shape = shape.collect::<Option<Vec<usize>>>();
        let shape = shape.ok_or_else(|| format!("a tensor of dims {:?}", self.dims))?;
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let wanted = elements.and_then(|n| n.checked_mul(width));
        let bytes = match (&self.raw_data, dtype) {
            (Some(raw), _) => raw.clone(),
            (None, "float") => self
                .float_data
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect(),
            (None, "int64") => self
                .int64_data
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect(),
            // narrower types stand in an int32 each
            (None, _) => {
                let low = |x: &i32| x.to_le_bytes().into_iter().take(width);
                self.int32_data.iter().flat_map(low).collect()
            }
        };
        match wanted == Some(bytes.len()) {
            true => Ok(Data {
                dtype: dtype.into(),
                shape,
                bytes,
            }),
            false => Err(format!(
                "{} bytes for a {dtype} tensor of {shape:?}",
                bytes.len()
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tensor_is_read_from_either_form_of_its_data() {
        let mut tensor = TensorProto {
            dims: vec![2],
            data_type: 1,
            float_data: vec![1.0, -2.0],
            ..TensorProto::default()
        };
        let typed = tensor.data().unwrap();
        tensor.raw_data = Some(typed.bytes.clone());
        tensor.float_data.clear();
        let bytes = tensor.encode_to_vec();
        let read = TensorProto::decode(&bytes[..]).unwrap().data().unwrap();
        assert_eq!((read.dtype.as_str(), &read.shape[..]), ("float", &[2][..]));
        assert_eq!(read.bytes, typed.bytes);
        tensor.dims = vec![i64::MAX, i64::MAX];
        assert!(tensor.data().is_err());
        tensor.dims = vec![-1];
        assert!(tensor.data().is_err());
    }

    proptest! {
        /// Bytes of anyone are read or refused, never a panic.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(model) = ModelProto::decode(&bytes[..]) {
                for node in model.graph.iter().flat_map(|g| &g.node) {
                    node.attribute.iter().for_each(|a| drop(a.value()));
                }
            }
            if let Ok(tensor) = TensorProto::decode(&bytes[..]) {
                let _ = tensor.data();
            }
        }
    }
}
