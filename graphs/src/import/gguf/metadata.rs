//! Metadata: typed values by key.

use std::fmt;
use std::sync::Arc;

use super::{Gguf, GgufError};
use crate::import::excerpt;

/// Arrays may be nested this deep; the format names no limit, and files in use have one level.
pub const MAX_ARRAY_DEPTH: u32 = 4;

/// The type of a metadata value. Discriminants are the format's ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// The type with this id.
    pub fn from_id(id: u32) -> Option<ValueType> {
        Self::ALL.get(id as usize).copied()
    }

    /// The format's id.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of one value; `None` for strings and arrays, whose length varies.
    pub const fn size(self) -> Option<usize> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::String | ValueType::Array => None,
        }
    }

    /// The fewest bytes that one value takes in a file.
    pub(super) const fn min_size(self) -> usize {
        match self {
            ValueType::String => 8,
            ValueType::Array => 12,
            _ => match self.size() {
                Some(n) => n,
                None => 1,
            },
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::String => "string",
            ValueType::Array => "array",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        })
    }
}

/// One metadata value, borrowed from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    /// Bytes of a text. The format says UTF-8; tokens of some models are not.
    String(&'a [u8]),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// Its type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The value, if it is an integer of any width.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(n) => n.into(),
            Value::I8(n) => n.into(),
            Value::U16(n) => n.into(),
            Value::I16(n) => n.into(),
            Value::U32(n) => n.into(),
            Value::I32(n) => n.into(),
            Value::U64(n) => n.into(),
            Value::I64(n) => n.into(),
            _ => return None,
        })
    }

    /// Decodes a value of fixed size from exactly its bytes.
    pub(super) fn from_bytes(ty: ValueType, bytes: &[u8]) -> Option<Value<'a>> {
        Some(match ty {
            ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::Bool => Value::Bool(*bytes.first()? != 0),
            ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
            ValueType::String | ValueType::Array => return None,
        })
    }
}

/// A short description for messages: the type, and the value where it is short.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ty = self.value_type();
        match self {
            Value::U8(n) => write!(f, "{ty} {n}"),
            Value::I8(n) => write!(f, "{ty} {n}"),
            Value::U16(n) => write!(f, "{ty} {n}"),
            Value::I16(n) => write!(f, "{ty} {n}"),
            Value::U32(n) => write!(f, "{ty} {n}"),
            Value::I32(n) => write!(f, "{ty} {n}"),
            Value::F32(x) => write!(f, "{ty} {x}"),
            Value::Bool(b) => write!(f, "{ty} {b}"),
            Value::U64(n) => write!(f, "{ty} {n}"),
            Value::I64(n) => write!(f, "{ty} {n}"),
            Value::F64(x) => write!(f, "{ty} {x}"),
            Value::String(bytes) => {
                let beginning = &bytes[..bytes.len().min(256)];
                let text = String::from_utf8_lossy(beginning);
                let not = if std::str::from_utf8(bytes).is_err() {
                    " that is not UTF-8"
                } else {
                    ""
                };
                write!(f, "string{not} '{}'", excerpt(&text))
            }
            Value::Array(a) => write!(f, "array of {} × {}", a.len(), a.element_type()),
        }
    }
}

/// An array in a file; elements are decoded when they are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    pub(super) element_type: ValueType,
    pub(super) len: usize,
    /// The elements as they stand in the file, and nothing after them.
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// Type of its elements.
    pub fn element_type(&self) -> ValueType {
        self.element_type
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its elements in order. Ends early only if the file was changed while mapped.
    pub fn iter(&self) -> ArrayIter<'a> {
        ArrayIter {
            element_type: self.element_type,
            left: self.len,
            bytes: self.bytes,
        }
    }

    /// The element at `index`; quick for elements of fixed size, else a walk from the start.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self.element_type.size() {
            Some(size) if index < self.len => {
                let at = index.checked_mul(size)?;
                let bytes = self.bytes.get(at..at.checked_add(size)?)?;
                Value::from_bytes(self.element_type, bytes)
            }
            Some(_) => None,
            None => self.iter().nth(index),
        }
    }
}

impl<'a> IntoIterator for Array<'a> {
    type Item = Value<'a>;
    type IntoIter = ArrayIter<'a>;

    fn into_iter(self) -> ArrayIter<'a> {
        self.iter()
    }
}

/// Iterates over an [`Array`].
#[derive(Clone, Debug)]
pub struct ArrayIter<'a> {
    element_type: ValueType,
    left: usize,
    bytes: &'a [u8],
}

impl<'a> Iterator for ArrayIter<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        self.left = self.left.checked_sub(1)?;
        let value = split_value(self.element_type, &mut self.bytes, 0);
        if value.is_none() {
            self.left = 0;
        }
        value
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// Splits one value off bytes that were checked when the file was read; checks again, since a
/// mapped file may have been changed. `depth` counts the arrays stepped into.
fn split_value<'a>(ty: ValueType, bytes: &mut &'a [u8], depth: u32) -> Option<Value<'a>> {
    let u64_at = |at: usize, bytes: &[u8]| {
        let field = bytes.get(at..at.checked_add(8)?)?;
        usize::try_from(u64::from_le_bytes(field.try_into().ok()?)).ok()
    };
    let (value, rest) = match ty {
        ValueType::String => {
            let len = u64_at(0, bytes)?;
            let (text, rest) = bytes.get(8..)?.split_at_checked(len)?;
            (Value::String(text), rest)
        }
        ValueType::Array if depth < MAX_ARRAY_DEPTH => {
            let id = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
            let element_type = ValueType::from_id(id)?;
            let len = u64_at(4, bytes)?;
            let all = bytes.get(12..)?;
            let mut rest = all;
            match element_type.size() {
                Some(size) => rest = all.get(len.checked_mul(size)?..)?,
                None => {
                    for _ in 0..len {
                        split_value(element_type, &mut rest, depth + 1)?;
                    }
                }
            }
            let bytes = &all[..all.len() - rest.len()];
            let array = Array {
                element_type,
                len,
                bytes,
            };
            (Value::Array(array), rest)
        }
        _ => {
            let (head, rest) = bytes.split_at_checked(ty.size()?)?;
            (Value::from_bytes(ty, head)?, rest)
        }
    };
    *bytes = rest;
    Some(value)
}

/// Where a value stands in the file, checked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stored {
    /// A value of fixed size.
    Plain { ty: ValueType, at: usize },
    /// The bytes of a string.
    String { at: usize, len: usize },
    /// The elements of an array.
    Array {
        element_type: ValueType,
        len: usize,
        at: usize,
        bytes: usize,
    },
}

/// A key and its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Start of the key in the names.
    pub key_start: usize,
    /// Length of the key.
    pub key_len: u32,
    /// The value.
    pub value: Stored,
}

impl Stored {
    /// The value. `None` only if the file is shorter than when it was read.
    pub(super) fn read(self, file: &[u8]) -> Option<Value<'_>> {
        match self {
            Stored::Plain { ty, at } => {
                let bytes = file.get(at..at.checked_add(ty.size()?)?)?;
                Value::from_bytes(ty, bytes)
            }
            Stored::String { at, len } => Some(Value::String(file.get(at..at.checked_add(len)?)?)),
            Stored::Array {
                element_type,
                len,
                at,
                bytes,
            } => Some(Value::Array(Array {
                element_type,
                len,
                bytes: file.get(at..at.checked_add(bytes)?)?,
            })),
        }
    }
}

/// A file's metadata.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    pub(super) gguf: &'a Gguf,
}

impl<'a> Metadata<'a> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.gguf.inner.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keys and values in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Value<'a>)> + use<'a> {
        let inner = &*self.gguf.inner;
        inner
            .entries
            .iter()
            .filter_map(|e| Some((inner.key(e), e.value.read(&inner.file)?)))
    }

    /// The value at `key`.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        let inner = &*self.gguf.inner;
        let at = inner
            .keys_sorted
            .binary_search_by(|&i| inner.key(&inner.entries[i as usize]).cmp(key))
            .ok()?;
        let entry = &inner.entries[inner.keys_sorted[at] as usize];
        entry.value.read(&inner.file)
    }

    /// The value at `key` as a `T`, if the key is there.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if it isn't a `T`, naming key, wanted and found type.
    pub fn find<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match T::from_value(value) {
            Ok(found) => Ok(Some(found)),
            Err(found) => Err(GgufError::WrongType {
                file: Arc::clone(&self.gguf.inner.label),
                key: excerpt(key),
                wanted: T::WANTED,
                found,
            }),
        }
    }

    /// The value at `key` as a `T`.
    ///
    /// # Errors
    /// As [`Metadata::find`], and [`GgufError::MissingKey`].
    pub fn require<T: FromValue<'a>>(&self, key: &str) -> Result<T, GgufError> {
        self.find(key)?.ok_or_else(|| GgufError::MissingKey {
            file: Arc::clone(&self.gguf.inner.label),
            key: excerpt(key),
            wanted: T::WANTED,
        })
    }
}

/// What a metadata value can be asked for as.
///
/// Integers convert from any integer type whose value fits; floats from f32 and f64; `&str` from
/// strings that are UTF-8, `&[u8]` from any string; a `Vec` from an array whose elements all
/// convert.
pub trait FromValue<'a>: Sized {
    /// What is wanted, for messages.
    const WANTED: &'static str;
    /// What is wanted as an array's element, for messages.
    const WANTED_ARRAY: &'static str;

    /// Converts, or describes what was found instead.
    fn from_value(value: Value<'a>) -> Result<Self, String>;
}

macro_rules! integers {
    ($($ty:ty),*) => {$(
        impl FromValue<'_> for $ty {
            const WANTED: &'static str = stringify!($ty);
            const WANTED_ARRAY: &'static str = concat!("array of ", stringify!($ty));

            fn from_value(value: Value<'_>) -> Result<Self, String> {
                value
                    .as_integer()
                    .and_then(|n| n.try_into().ok())
                    .ok_or_else(|| value.to_string())
            }
        }
    )*};
}

integers!(u8, i8, u16, i16, u32, i32, u64, i64, usize);

macro_rules! exact {
    ($($ty:ty, $wanted:literal, $value:ident, $found:expr);*) => {$(
        impl<'a> FromValue<'a> for $ty {
            const WANTED: &'static str = $wanted;
            const WANTED_ARRAY: &'static str = concat!("array of ", $wanted);

            fn from_value($value: Value<'a>) -> Result<Self, String> {
                let found: Option<$ty> = $found;
                found.ok_or_else(|| $value.to_string())
            }
        }
    )*};
}

exact! {
    f32, "f32", value, match value {
        Value::F32(x) => Some(x),
        Value::F64(x) => Some(x as f32),
        _ => None,
    };
    f64, "f64", value, match value {
        Value::F32(x) => Some(x.into()),
        Value::F64(x) => Some(x),
        _ => None,
    };
    bool, "bool", value, match value {
        Value::Bool(b) => Some(b),
        _ => None,
    };
    &'a [u8], "string", value, match value {
        Value::String(bytes) => Some(bytes),
        _ => None,
    };
    &'a str, "string of UTF-8", value, match value {
        Value::String(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    };
    Array<'a>, "array", value, match value {
        Value::Array(array) => Some(array),
        _ => None,
    }
}

impl<'a, T: FromValue<'a>> FromValue<'a> for Vec<T> {
    const WANTED: &'static str = T::WANTED_ARRAY;
    const WANTED_ARRAY: &'static str = "array of arrays";

    fn from_value(value: Value<'a>) -> Result<Self, String> {
        let Value::Array(array) = value else {
            return Err(value.to_string());
        };
        let mut out = Vec::with_capacity(array.len());
        for (i, element) in array.iter().enumerate() {
            out.push(T::from_value(element).map_err(|e| format!("{value} with {e} at {i}"))?);
        }
        if out.len() == array.len() {
            Ok(out)
        } else {
            Err(format!("{value} with {} elements left", out.len()))
        }
    }
}
