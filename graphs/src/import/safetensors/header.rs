//! Reads and checks a file's header.

use std::collections::BTreeMap;
use std::fmt;

use anynpu_ir::DType;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};

use super::{Fault, MAX_HEADER, MAX_RANK};
use crate::import::excerpt;

/// An element type of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StoredType(&'static Row);

/// A type: its name, bits of an element, and ours if models compute with it.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Row {
    name: &'static str,
    bits: u64,
    dtype: Option<DType>,
}

const fn row(name: &'static str, bits: u64, dtype: Option<DType>) -> Row {
    Row { name, bits, dtype }
}

/// Every type of the format.
static TYPES: &[Row] = &[
    row("BOOL", 8, None),
    row("F4", 4, None),
    row("F6_E2M3", 6, None),
    row("F6_E3M2", 6, None),
    row("U8", 8, None),
    row("I8", 8, None),
    row("F8_E5M2", 8, None),
    row("F8_E4M3", 8, None),
    row("F8_E8M0", 8, None),
    row("F8_E4M3FNUZ", 8, None),
    row("F8_E5M2FNUZ", 8, None),
    row("I16", 16, None),
    row("U16", 16, None),
    row("F16", 16, Some(DType::F16)),
    row("BF16", 16, Some(DType::BF16)),
    row("I32", 32, None),
    row("U32", 32, None),
    row("F32", 32, Some(DType::F32)),
    row("C64", 64, None),
    row("F64", 64, None),
    row("I64", 64, None),
    row("U64", 64, None),
];

impl StoredType {
    /// The type called `name`, e.g. `BF16`.
    pub fn by_name(name: &str) -> Option<StoredType> {
        TYPES.iter().find(|row| row.name == name).map(StoredType)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Ours, if models can be computed with it.
    pub fn dtype(self) -> Option<DType> {
        self.0.dtype
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a header says, checked.
pub(super) struct Header {
    pub data_start: usize,
    pub metadata: BTreeMap<String, String>,
    pub tensors: BTreeMap<String, TensorInfo>,
}

/// What a header says of one tensor, checked.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    pub stored: StoredType,
    pub shape: Vec<u64>,
    /// First byte, from the start of the data.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
}

/// Bytes of the header's length.
const PREFIX: usize = 8;

pub(super) fn read(file: &[u8]) -> Result<Header, Fault> {
    let Some((prefix, rest)) = file.split_first_chunk::<PREFIX>() else {
        return Err(Fault::TooShort {
            len: file.len() as u64,
        });
    };
    let announced = u64::from_le_bytes(*prefix);
    let fits = announced <= MAX_HEADER && announced <= rest.len() as u64;
    if !fits {
        return Err(Fault::HeaderLength {
            announced,
            left: rest.len() as u64,
        });
    }
    let (json, data) = rest.split_at(announced as usize);
    if json.first() != Some(&b'{') {
        let found = json
            .first()
            .map_or("nothing".into(), |b| format!("{b:#04x}"));
        return Err(Fault::Header {
            problem: format!("starts with {found}, not with '{{'"),
        });
    }
    let mut entries = Entries::default();
    let mut json = serde_json::Deserializer::from_slice(json);
    let read = (&mut entries).deserialize(&mut json);
    read.and_then(|()| json.end())
        .map_err(|e| match entries.fault.take() {
            Some(fault) => fault,
            None => Fault::Header {
                problem: excerpt(&e.to_string()),
            },
        })?;
    check_layout(&entries.tensors, data.len() as u64)?;
    Ok(Header {
        data_start: PREFIX + announced as usize,
        metadata: entries.metadata,
        tensors: entries.tensors,
    })
}

/// The members of the header's JSON object.
#[derive(Default)]
struct Entries {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, TensorInfo>,
    /// What was wrong, if it was not the JSON.
    fault: Option<Fault>,
}

/// One tensor as it stands in the header.
#[derive(Deserialize)]
struct Raw {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> DeserializeSeed<'de> for &mut Entries {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Entries {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                self.metadata = map.next_value()?;
                continue;
            }
            let raw = map.next_value::<Raw>()?;
            let checked = match self.tensors.contains_key(&name) {
                true => Err(Fault::Duplicate {
                    tensor: excerpt(&name),
                }),
                false => check(&name, raw),
            };
            match checked {
                Ok(info) => self.tensors.insert(name, info),
                Err(fault) => {
                    self.fault = Some(fault);
                    return Err(A::Error::custom("a tensor that is not sound"));
                }
            };
        }
        Ok(())
    }
}

/// Checks what can be checked of one tensor alone.
fn check(name: &str, raw: Raw) -> Result<TensorInfo, Fault> {
    let tensor = || excerpt(name);
    let Some(stored) = StoredType::by_name(&raw.dtype) else {
        let known: Vec<_> = TYPES.iter().map(|t| t.name).collect();
        return Err(Fault::Type {
            tensor: tensor(),
            found: excerpt(&raw.dtype),
            known: known.join(", "),
        });
    };
    let shape = raw.shape;
    if shape.len() > MAX_RANK {
        return Err(Fault::Rank {
            tensor: tensor(),
            rank: shape.len(),
        });
    }
    let bits = shape
        .iter()
        .try_fold(stored.0.bits, |product, &dim| product.checked_mul(dim));
    let Some(bits) = bits else {
        return Err(Fault::SizeOverflow {
            tensor: tensor(),
            shape,
        });
    };
    if !bits.is_multiple_of(8) {
        return Err(Fault::PartialByte {
            tensor: tensor(),
            shape,
            dtype: stored.name(),
        });
    }
    let (start, end) = raw.data_offsets;
    let expected = bits / 8;
    if end.checked_sub(start) != Some(expected) {
        return Err(Fault::Size {
            tensor: tensor(),
            start,
            end,
            shape,
            dtype: stored.name(),
            expected,
        });
    }
    let align = stored.0.bits.div_ceil(8);
    if !start.is_multiple_of(align) {
        return Err(Fault::Misaligned {
            tensor: tensor(),
            start,
            dtype: stored.name(),
            align,
        });
    }
    Ok(TensorInfo {
        stored,
        shape,
        start,
        end,
    })
}

/// Checks that the tensors cover the `len` bytes of data, each on bytes of its own.
fn check_layout(tensors: &BTreeMap<String, TensorInfo>, len: u64) -> Result<(), Fault> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|(_, info)| (info.start, info.end));
    let mut previous: Option<&str> = None;
    let mut covered = 0;
    for (name, info) in sorted {
        let (start, end) = (info.start, info.end);
        if end > len {
            return Err(Fault::OutOfRange {
                tensor: excerpt(name),
                start,
                end,
                len,
            });
        }
        if start > covered {
            return Err(Fault::Hole {
                start: covered,
                end: start,
                before: excerpt(name),
            });
        }
        if start < covered {
            return Err(Fault::Overlap {
                first: previous.map(excerpt).unwrap_or_default(),
                second: excerpt(name),
                end: covered,
                start,
            });
        }
        (previous, covered) = (Some(name.as_str()), end);
    }
    match covered == len {
        true => Ok(()),
        false => Err(Fault::Hole {
            start: covered,
            end: len,
            before: "the end".into(),
        }),
    }
}
