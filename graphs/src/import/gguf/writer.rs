//! Writes GGUF files, version 3, little endian.

use std::collections::BTreeSet;
use std::io::{self, Write};

use anynpu_ir::DType;
use thiserror::Error;

use super::tensor::MAX_RANK;
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, GgmlType, MAGIC, MAX_ALIGNMENT, MAX_KEY, MAX_TENSOR_NAME,
    Value, ValueType,
};
use crate::import::excerpt;

const VERSION: u32 = 3;

/// A file that can't be written as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GgufWriteError {
    /// The output refused.
    #[error("writing GGUF: {0}")]
    Io(#[from] io::Error),
    /// A name used twice or too long.
    #[error("{what} '{name}': {fault}")]
    Name {
        /// `metadata key` or `tensor`.
        what: &'static str,
        /// The name.
        name: String,
        /// What is wrong.
        fault: &'static str,
    },
    /// An alignment that isn't one.
    #[error("alignment {alignment}: expected a power of two up to {MAX_ALIGNMENT}")]
    Alignment {
        /// The alignment.
        alignment: u32,
    },
    /// A type that the format doesn't have, or no longer has.
    #[error("tensor '{tensor}': GGUF has no type {found}")]
    Type {
        /// The tensor.
        tensor: String,
        /// The type.
        found: String,
    },
    /// Dimensions that can't be written.
    #[error(
        "tensor '{tensor}' has dimensions {dims:?} of {ggml_type}: expected up to {MAX_RANK}, none \
         of them 0, the first a multiple of {block}, a size below 2^63 bytes"
    )]
    Dims {
        /// The tensor.
        tensor: String,
        /// Its dimensions, innermost first.
        dims: Vec<u64>,
        /// Its type.
        ggml_type: GgmlType,
        /// Elements of one of its type's blocks.
        block: u64,
    },
    /// Data for another tensor than the next.
    #[error("data for tensor '{found}' given, next is {expected}")]
    Order {
        /// The tensor given.
        found: String,
        /// What is next.
        expected: String,
    },
    /// More or less data than the tensor's type says.
    #[error("tensor '{tensor}' takes {wanted} bytes, {found} given")]
    Length {
        /// The tensor.
        tensor: String,
        /// Its length.
        wanted: u64,
        /// Bytes given.
        found: u64,
    },
}

/// Plans a file: first all metadata and tensors' types, then, by [`GgufWriter::begin`], the data.
///
/// The bytes depend on nothing but the calls and their order.
///
/// ```
/// use anynpu_graphs::import::gguf::{Gguf, GgufWriter};
/// use anynpu_ir::DType;
///
/// let mut plan = GgufWriter::new();
/// plan.set("general.architecture", "llama")?;
/// plan.set("llama.block_count", &2u32)?;
/// plan.set("tokenizer.ggml.tokens", &["a", "b"])?;
/// plan.tensor("output.weight", DType::F32, &[2, 1])?; // one row of two
/// let mut data = plan.begin(Vec::new())?;
/// data.append("output.weight", &[0; 8])?;
/// let bytes = data.finish()?;
///
/// let file = Gguf::from_vec("example", bytes)?;
/// assert_eq!(file.metadata().require::<u32>("llama.block_count")?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct GgufWriter {
    alignment: u32,
    keys: BTreeSet<String>,
    /// Entries as they will stand in the file.
    metadata: Vec<u8>,
    names: BTreeSet<String>,
    tensors: Vec<Planned>,
}

#[derive(Clone, Debug)]
struct Planned {
    name: String,
    ggml_type: GgmlType,
    dims: Vec<u64>,
    bytes: u64,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl GgufWriter {
    /// A file with nothing in it and the format's usual alignment.
    pub fn new() -> Self {
        GgufWriter {
            alignment: DEFAULT_ALIGNMENT,
            keys: BTreeSet::new(),
            metadata: Vec::new(),
            names: BTreeSet::new(),
            tensors: Vec::new(),
        }
    }

    /// As [`GgufWriter::new`] with tensors at multiples of `alignment`, which is also set as
    /// `general.alignment`.
    ///
    /// # Errors
    /// [`GgufWriteError::Alignment`] if it is no power of two or over 65536.
    pub fn with_alignment(alignment: u32) -> Result<Self, GgufWriteError> {
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return Err(GgufWriteError::Alignment { alignment });
        }
        let mut plan = Self::new();
        plan.entry(ALIGNMENT_KEY, ValueType::U32, |out| alignment.write(out))?;
        plan.alignment = alignment;
        Ok(plan)
    }

    /// Adds a metadata entry.
    ///
    /// # Errors
    /// [`GgufWriteError::Name`] for a key that is there already, longer than 65535 bytes or
    /// `general.alignment`.
    pub fn set<T: WriteValue + ?Sized>(
        &mut self,
        key: &str,
        value: &T,
    ) -> Result<(), GgufWriteError> {
        self.check_key(key)?;
        self.entry(key, T::TYPE, |out| value.write(out))
    }

    /// Adds a metadata entry read from another file.
    ///
    /// # Errors
    /// As [`GgufWriter::set`].
    pub fn set_value(&mut self, key: &str, value: Value<'_>) -> Result<(), GgufWriteError> {
        self.check_key(key)?;
        self.entry(key, value.value_type(), |out| match value {
            Value::U8(n) => n.write(out),
            Value::I8(n) => n.write(out),
            Value::U16(n) => n.write(out),
            Value::I16(n) => n.write(out),
            Value::U32(n) => n.write(out),
            Value::I32(n) => n.write(out),
            Value::F32(x) => x.write(out),
            Value::Bool(b) => b.write(out),
            Value::U64(n) => n.write(out),
            Value::I64(n) => n.write(out),
            Value::F64(x) => x.write(out),
            Value::String(bytes) => ByteString(bytes).write(out),
            Value::Array(array) => {
                array.element_type.id().write(out);
                (array.len as u64).write(out);
                out.extend_from_slice(array.bytes);
            }
        })
    }

    fn check_key(&self, key: &str) -> Result<(), GgufWriteError> {
        if key == ALIGNMENT_KEY {
            return Err(GgufWriteError::Name {
                what: "metadata key",
                name: key.to_owned(),
                fault: "is set by GgufWriter::with_alignment",
            });
        }
        Ok(())
    }

    fn entry(
        &mut self,
        key: &str,
        ty: ValueType,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), GgufWriteError> {
        check_name("metadata key", key, MAX_KEY, &mut self.keys)?;
        key.write(&mut self.metadata);
        ty.id().write(&mut self.metadata);
        write(&mut self.metadata);
        Ok(())
    }

    /// Adds a tensor of one of our types; `dims` innermost (the row length) first.
    ///
    /// # Errors
    /// [`GgufWriteError::Type`], [`GgufWriteError::Dims`], and [`GgufWriteError::Name`] for a name
    /// that is there already or longer than 64 bytes.
    pub fn tensor(&mut self, name: &str, dtype: DType, dims: &[u64]) -> Result<(), GgufWriteError> {
        let ggml_type = GgmlType::of(dtype).ok_or_else(|| GgufWriteError::Type {
            tensor: excerpt(name),
            found: dtype.to_string(),
        })?;
        self.tensor_of_type(name, ggml_type, dims)
    }

    /// As [`GgufWriter::tensor`] for any type whose layout the format defines.
    ///
    /// # Errors
    /// As [`GgufWriter::tensor`].
    pub fn tensor_of_type(
        &mut self,
        name: &str,
        ggml_type: GgmlType,
        dims: &[u64],
    ) -> Result<(), GgufWriteError> {
        let Some((block, size)) = ggml_type.block() else {
            return Err(GgufWriteError::Type {
                tensor: excerpt(name),
                found: ggml_type.to_string(),
            });
        };
        let bytes = dims
            .iter()
            .try_fold(1u64, |n, &d| n.checked_mul(d))
            .and_then(|n| (n / block).checked_mul(size))
            .filter(|&n| n > 0 && n < 1 << 63);
        let columns = dims.first().copied().unwrap_or(1);
        let bytes = match bytes {
            Some(bytes) if dims.len() <= MAX_RANK && columns.is_multiple_of(block) => bytes,
            _ => {
                return Err(GgufWriteError::Dims {
                    tensor: excerpt(name),
                    dims: dims.to_vec(),
                    ggml_type,
                    block,
                });
            }
        };
        check_name("tensor", name, MAX_TENSOR_NAME, &mut self.names)?;
        self.tensors.push(Planned {
            name: name.to_owned(),
            ggml_type,
            dims: dims.to_vec(),
            bytes,
        });
        Ok(())
    }

    /// Writes the header; the tensors' data follow through the result, in the order planned.
    ///
    /// # Errors
    /// [`GgufWriteError::Io`].
    pub fn begin<W: Write>(self, mut out: W) -> Result<TensorWriter<W>, GgufWriteError> {
        let alignment = u64::from(self.alignment);
        let mut header = Vec::with_capacity(self.metadata.len() + 24);
        header.extend_from_slice(MAGIC);
        VERSION.write(&mut header);
        (self.tensors.len() as u64).write(&mut header);
        (self.keys.len() as u64).write(&mut header);
        header.extend_from_slice(&self.metadata);
        let mut offset = 0u64;
        for tensor in &self.tensors {
            tensor.name.write(&mut header);
            (tensor.dims.len() as u32).write(&mut header);
            for dim in &tensor.dims {
                dim.write(&mut header);
            }
            tensor.ggml_type.0.write(&mut header);
            offset.write(&mut header);
            offset = offset
                .checked_add(tensor.bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| io::Error::other("the tensors take more than 2^64 bytes"))?;
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        out.write_all(&header)?;
        Ok(TensorWriter {
            out,
            alignment,
            tensors: self.tensors,
            current: 0,
            written: 0,
        })
    }
}

fn check_name(
    what: &'static str,
    name: &str,
    most: usize,
    taken: &mut BTreeSet<String>,
) -> Result<(), GgufWriteError> {
    let fault = if name.len() > most {
        "is longer than the format allows"
    } else if !taken.insert(name.to_owned()) {
        "is there already"
    } else {
        return Ok(());
    };
    Err(GgufWriteError::Name {
        what,
        name: excerpt(name),
        fault,
    })
}

/// Takes the tensors' data of a file whose header is written.
#[derive(Debug)]
pub struct TensorWriter<W> {
    out: W,
    alignment: u64,
    tensors: Vec<Planned>,
    /// The tensor that data is taken for.
    current: usize,
    /// Its bytes written so far.
    written: u64,
}

impl<W: Write> TensorWriter<W> {
    /// Adds to the data of `tensor`: all of it at once, or piece by piece.
    ///
    /// # Errors
    /// [`GgufWriteError::Order`] if an earlier tensor isn't complete or this one already is,
    /// [`GgufWriteError::Length`] if it is more than its type says, [`GgufWriteError::Io`].
    pub fn append(&mut self, tensor: &str, data: &[u8]) -> Result<(), GgufWriteError> {
        let Some(next) = self.tensors.get(self.current).filter(|t| t.name == tensor) else {
            let expected = match self.tensors.get(self.current) {
                Some(next) => format!("'{}'", excerpt(&next.name)),
                None => "the end of the file".to_owned(),
            };
            return Err(GgufWriteError::Order {
                found: excerpt(tensor),
                expected,
            });
        };
        let found = self.written.saturating_add(data.len() as u64);
        if found > next.bytes {
            return Err(GgufWriteError::Length {
                tensor: excerpt(tensor),
                wanted: next.bytes,
                found,
            });
        }
        self.out.write_all(data)?;
        self.written = found;
        if found == next.bytes {
            let padding = found.next_multiple_of(self.alignment) - found;
            self.out.write_all(&vec![0; padding as usize])?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Ends the file and gives the output back, flushed.
    ///
    /// # Errors
    /// [`GgufWriteError::Length`] if a tensor's data is missing, [`GgufWriteError::Io`].
    pub fn finish(mut self) -> Result<W, GgufWriteError> {
        if let Some(next) = self.tensors.get(self.current) {
            return Err(GgufWriteError::Length {
                tensor: excerpt(&next.name),
                wanted: next.bytes,
                found: self.written,
            });
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

/// What can be written as a metadata value: numbers, bools, texts, [`ByteString`]s, and slices,
/// arrays and `Vec`s of these.
pub trait WriteValue {
    /// Its type in the file.
    const TYPE: ValueType;

    /// Appends the value, without its type.
    fn write(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($ty:ty => $value_type:ident),*) => {$(
        impl WriteValue for $ty {
            const TYPE: ValueType = ValueType::$value_type;

            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

numbers!(
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    f32 => F32, f64 => F64
);

impl WriteValue for bool {
    const TYPE: ValueType = ValueType::Bool;

    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

/// A string given as bytes that need not be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteString<'a>(
    /// The bytes.
    pub &'a [u8],
);

impl WriteValue for ByteString<'_> {
    const TYPE: ValueType = ValueType::String;

    fn write(&self, out: &mut Vec<u8>) {
        (self.0.len() as u64).write(out);
        out.extend_from_slice(self.0);
    }
}

impl WriteValue for str {
    const TYPE: ValueType = ValueType::String;

    fn write(&self, out: &mut Vec<u8>) {
        ByteString(self.as_bytes()).write(out);
    }
}

impl WriteValue for String {
    const TYPE: ValueType = ValueType::String;

    fn write(&self, out: &mut Vec<u8>) {
        self.as_str().write(out);
    }
}

impl<T: WriteValue + ?Sized> WriteValue for &T {
    const TYPE: ValueType = T::TYPE;

    fn write(&self, out: &mut Vec<u8>) {
        (**self).write(out);
    }
}

impl<T: WriteValue> WriteValue for [T] {
    const TYPE: ValueType = ValueType::Array;

    fn write(&self, out: &mut Vec<u8>) {
        T::TYPE.id().write(out);
        (self.len() as u64).write(out);
        for element in self {
            element.write(out);
        }
    }
}

impl<T: WriteValue> WriteValue for Vec<T> {
    const TYPE: ValueType = ValueType::Array;

    fn write(&self, out: &mut Vec<u8>) {
        self.as_slice().write(out);
    }
}

impl<T: WriteValue, const N: usize> WriteValue for [T; N] {
    const TYPE: ValueType = ValueType::Array;

    fn write(&self, out: &mut Vec<u8>) {
        self.as_slice().write(out);
    }
}
