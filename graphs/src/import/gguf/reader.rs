//! Reads and checks a file's header.

use std::sync::Arc;

use super::metadata::{Entry, MAX_ARRAY_DEPTH, Stored, Value, ValueType};
use super::tensor::{GgmlType, MAX_RANK, TensorInfo};
use super::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, Fault, GgufError, Inner, MAGIC, MAX_ALIGNMENT, MAX_KEY,
    MAX_TENSOR_NAME,
};
use crate::import::{MappedFile, excerpt};

/// Fewest bytes of a metadata entry: key length, type, a value of one byte.
const MIN_ENTRY: u64 = 8 + 4 + 1;
/// Fewest bytes of a tensor's entry: name length, rank, type, offset.
const MIN_TENSOR: u64 = 8 + 4 + 4 + 8;

/// A fault and the byte at which it was found.
struct Flaw {
    at: u64,
    fault: Fault,
}

pub(super) fn read(file: MappedFile) -> Result<Inner, GgufError> {
    let label: Arc<str> = file.name().into();
    match Header::read(&file) {
        Ok(header) => Ok(Inner {
            label,
            version: header.version,
            alignment: header.alignment,
            data_start: header.data_start,
            names: header.names,
            entries: header.entries,
            keys_sorted: header.keys_sorted,
            tensors: header.tensors,
            tensors_sorted: header.tensors_sorted,
            file,
        }),
        Err(Flaw { at, fault }) => Err(GgufError::Malformed {
            file: label,
            at,
            fault,
        }),
    }
}

/// What is built while reading.
#[derive(Default)]
struct Header {
    version: u32,
    alignment: u64,
    data_start: u64,
    names: String,
    entries: Vec<Entry>,
    keys_sorted: Vec<u32>,
    tensors: Vec<TensorInfo>,
    tensors_sorted: Vec<u32>,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Header, Flaw> {
        let mut from = Cursor { bytes, at: 0 };
        let mut header = Header {
            version: from.version()?,
            ..Header::default()
        };
        let tensors = from.u64("the number of tensors")?;
        let entries = from.u64("the number of metadata entries")?;
        from.check_count("tensors", tensors, MIN_TENSOR)?;
        from.check_count("metadata entries", entries, MIN_ENTRY)?;

        for _ in 0..entries {
            header.read_entry(&mut from)?;
        }
        header.sort_keys(&from)?;
        header.alignment = header.read_alignment(&from)?;

        from.check_count("tensors", tensors, MIN_TENSOR)?;
        for _ in 0..tensors {
            header.read_tensor(&mut from)?;
        }
        header.sort_tensors(&from)?;
        header.place_tensors(&from)?;
        Ok(header)
    }

    fn read_entry(&mut self, from: &mut Cursor<'_>) -> Result<(), Flaw> {
        let at = from.at;
        let key = from.name("a metadata key", MAX_KEY as u64)?;
        let id = from.u32("the type of a metadata value")?;
        let Some(ty) = ValueType::from_id(id) else {
            let key = excerpt(key);
            return Err(from.flaw_at(at, Fault::ValueType { key, id }));
        };
        let value = from.value(key, ty, 0)?;
        self.entries.push(Entry {
            key_start: self.names.len(),
            key_len: key.len() as u32,
            value,
        });
        self.names.push_str(key);
        Ok(())
    }

    fn read_tensor(&mut self, from: &mut Cursor<'_>) -> Result<(), Flaw> {
        let at = from.at;
        let name = from.name("a tensor name", MAX_TENSOR_NAME as u64)?;
        let tensor = || excerpt(name);
        let rank = from.u32("the rank of a tensor")?;
        if rank as usize > MAX_RANK {
            let most = MAX_RANK as u32;
            let tensor = tensor();
            return Err(from.flaw_at(at, Fault::Rank { tensor, rank, most }));
        }
        let mut dims = [1; MAX_RANK];
        for dim in &mut dims[..rank as usize] {
            *dim = from.u64("a dimension of a tensor")?;
        }
        let ggml_type = GgmlType(from.u32("the type of a tensor")?);
        let offset = from.u64("the offset of a tensor")?;

        let listed = || dims[..rank as usize].to_vec();
        if dims.contains(&0) {
            let (tensor, dims) = (tensor(), listed());
            return Err(from.flaw_at(at, Fault::ZeroDimension { tensor, dims }));
        }
        if let Some((block, _)) = ggml_type.block()
            && !dims[0].is_multiple_of(block)
        {
            let fault = Fault::PartialBlock {
                tensor: tensor(),
                columns: dims[0],
                ggml_type,
                block,
            };
            return Err(from.flaw_at(at, fault));
        }
        let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let bytes = match ggml_type.block() {
            Some((block, size)) => elements
                .and_then(|n| (n / block).checked_mul(size))
                .map(Some),
            None => elements.map(|_| None),
        };
        let Some(bytes) = bytes else {
            let (tensor, dims) = (tensor(), listed());
            return Err(from.flaw_at(at, Fault::SizeOverflow { tensor, dims }));
        };
        self.tensors.push(TensorInfo {
            name_start: self.names.len(),
            name_len: name.len() as u32,
            rank,
            dims,
            ggml_type,
            offset,
            bytes,
        });
        self.names.push_str(name);
        Ok(())
    }

    fn key(&self, i: u32) -> &str {
        let e = &self.entries[i as usize];
        &self.names[e.key_start..e.key_start + e.key_len as usize]
    }

    fn tensor_name(&self, i: u32) -> &str {
        let t = &self.tensors[i as usize];
        &self.names[t.name_start..t.name_start + t.name_len as usize]
    }

    fn sort_keys(&mut self, from: &Cursor<'_>) -> Result<(), Flaw> {
        let mut order = from.indices("metadata entries", self.entries.len())?;
        order.sort_unstable_by(|&a, &b| self.key(a).cmp(self.key(b)));
        for pair in order.windows(2) {
            if self.key(pair[0]) == self.key(pair[1]) {
                let key = excerpt(self.key(pair[0]));
                return Err(from.flaw(Fault::DuplicateKey { key }));
            }
        }
        self.keys_sorted = order;
        Ok(())
    }

    fn sort_tensors(&mut self, from: &Cursor<'_>) -> Result<(), Flaw> {
        let mut order = from.indices("tensors", self.tensors.len())?;
        order.sort_unstable_by(|&a, &b| self.tensor_name(a).cmp(self.tensor_name(b)));
        for pair in order.windows(2) {
            if self.tensor_name(pair[0]) == self.tensor_name(pair[1]) {
                let tensor = excerpt(self.tensor_name(pair[0]));
                return Err(from.flaw(Fault::DuplicateTensor { tensor }));
            }
        }
        self.tensors_sorted = order;
        Ok(())
    }

    fn read_alignment(&self, from: &Cursor<'_>) -> Result<u64, Flaw> {
        let found = self
            .keys_sorted
            .binary_search_by(|&i| self.key(i).cmp(ALIGNMENT_KEY));
        let Ok(at) = found else {
            return Ok(DEFAULT_ALIGNMENT.into());
        };
        let entry = &self.entries[self.keys_sorted[at] as usize];
        let value = entry.value.read(from.bytes);
        value
            .as_ref()
            .and_then(Value::as_integer)
            .and_then(|n| u64::try_from(n).ok())
            .filter(|n| n.is_power_of_two() && *n <= MAX_ALIGNMENT.into())
            .ok_or_else(|| {
                from.flaw(Fault::Alignment {
                    found: value.map_or_else(String::new, |v| v.to_string()),
                    most: MAX_ALIGNMENT.into(),
                })
            })
    }

    /// Turns offsets into places in the file and checks that each tensor has one of its own.
    fn place_tensors(&mut self, from: &Cursor<'_>) -> Result<(), Flaw> {
        let len = from.bytes.len() as u64;
        // Can't overflow: the cursor is within a slice, the alignment small.
        let data = (from.at as u64).next_multiple_of(self.alignment);
        self.data_start = data.min(len);
        for i in 0..self.tensors.len() {
            let TensorInfo { offset, bytes, .. } = self.tensors[i];
            let tensor = || excerpt(self.tensor_name(i as u32));
            if !offset.is_multiple_of(self.alignment) {
                return Err(from.flaw(Fault::Misaligned {
                    tensor: tensor(),
                    offset,
                    alignment: self.alignment,
                }));
            }
            // Of a type without a known layout, one byte at least.
            let bytes = bytes.unwrap_or(1);
            let start = data.checked_add(offset);
            let end = start.and_then(|s| s.checked_add(bytes));
            match (start, end) {
                (Some(start), Some(end)) if end <= len => self.tensors[i].offset = start,
                _ => {
                    return Err(from.flaw(Fault::OutOfRange {
                        tensor: tensor(),
                        offset,
                        bytes,
                        data,
                        len,
                    }));
                }
            }
        }
        let mut order = from.indices("tensors", self.tensors.len())?;
        order.sort_unstable_by_key(|&i| self.tensors[i as usize].offset);
        for pair in order.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|i| &self.tensors[i as usize]);
            if a.offset + a.bytes.unwrap_or(1) > b.offset {
                return Err(from.flaw(Fault::Overlap {
                    first: excerpt(self.tensor_name(pair[0])),
                    second: excerpt(self.tensor_name(pair[1])),
                }));
            }
        }
        Ok(())
    }
}

/// A place in the file.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn flaw(&self, fault: Fault) -> Flaw {
        self.flaw_at(self.at, fault)
    }

    fn flaw_at(&self, at: usize, fault: Fault) -> Flaw {
        Flaw {
            at: at as u64,
            fault,
        }
    }

    /// The next `wanted` bytes. `what` is asked for only if they aren't there.
    fn take(&mut self, wanted: u64, what: impl FnOnce() -> String) -> Result<&'a [u8], Flaw> {
        if wanted > self.left() {
            return Err(self.flaw(Fault::Truncated {
                what: what(),
                wanted,
                left: self.left(),
            }));
        }
        let start = self.at;
        self.at += wanted as usize;
        Ok(&self.bytes[start..self.at])
    }

    fn array<const N: usize>(&mut self, what: impl FnOnce() -> String) -> Result<[u8; N], Flaw> {
        let bytes = self.take(N as u64, what)?;
        Ok(std::array::from_fn(|i| bytes[i]))
    }

    fn u32(&mut self, what: &str) -> Result<u32, Flaw> {
        Ok(u32::from_le_bytes(self.array(|| what.to_owned())?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Flaw> {
        Ok(u64::from_le_bytes(self.array(|| what.to_owned())?))
    }

    fn version(&mut self) -> Result<u32, Flaw> {
        if !self.bytes.starts_with(MAGIC) {
            let found = self.bytes[..self.bytes.len().min(4)].to_vec();
            return Err(self.flaw(Fault::Magic { found }));
        }
        self.at = MAGIC.len();
        let at = self.at;
        let version = self.u32("the version")?;
        match (version, version.swap_bytes()) {
            (2 | 3, _) => Ok(version),
            (_, swapped @ 1..=0xffff) => {
                Err(self.flaw_at(at, Fault::BigEndian { version: swapped }))
            }
            _ => Err(self.flaw_at(at, Fault::Version { version })),
        }
    }

    /// Refuses a count of things of at least `min` bytes that the rest of the file can't hold.
    fn check_count(&self, what: &str, count: u64, min: u64) -> Result<(), Flaw> {
        let most = self.left() / min;
        if count <= most {
            return Ok(());
        }
        Err(self.flaw(Fault::Count {
            what: what.to_owned(),
            count,
            left: self.left(),
            most,
        }))
    }

    /// `0..count`, refused if it doesn't fit the index type.
    fn indices(&self, what: &str, count: usize) -> Result<Vec<u32>, Flaw> {
        let count = u32::try_from(count).map_err(|_| {
            self.flaw(Fault::Count {
                what: what.to_owned(),
                count: count as u64,
                left: self.left(),
                most: u32::MAX.into(),
            })
        })?;
        Ok((0..count).collect())
    }

    fn name(&mut self, what: &'static str, most: u64) -> Result<&'a str, Flaw> {
        let at = self.at;
        let len = self.u64(what)?;
        if len > self.left() {
            let left = self.left();
            return Err(self.flaw_at(
                at,
                Fault::Truncated {
                    what: what.to_owned(),
                    wanted: len,
                    left,
                },
            ));
        }
        if len > most {
            return Err(self.flaw_at(at, Fault::NameLength { what, len, most }));
        }
        let bytes = self.take(len, || what.to_owned())?;
        std::str::from_utf8(bytes).map_err(|_| {
            let found = excerpt(&String::from_utf8_lossy(bytes));
            self.flaw_at(at, Fault::NotUtf8 { what, found })
        })
    }

    /// Checks the value of `key` and steps over it. `depth` counts the arrays around it.
    fn value(&mut self, key: &str, ty: ValueType, depth: u32) -> Result<Stored, Flaw> {
        let what = || format!("the value of metadata '{}'", excerpt(key));
        match ty {
            ValueType::String => {
                let len = u64::from_le_bytes(self.array(what)?);
                let at = self.at;
                let bytes = self.take(len, what)?;
                Ok(Stored::String {
                    at,
                    len: bytes.len(),
                })
            }
            ValueType::Array => self.array_value(key, depth),
            ValueType::Bool => {
                let at = self.at;
                let [found] = self.array(what)?;
                self.check_bools(key, at, &[found])?;
                Ok(Stored::Plain { ty, at })
            }
            _ => {
                let at = self.at;
                self.take(ty.min_size() as u64, what)?;
                Ok(Stored::Plain { ty, at })
            }
        }
    }

    fn array_value(&mut self, key: &str, depth: u32) -> Result<Stored, Flaw> {
        let what = || format!("the array at metadata '{}'", excerpt(key));
        let start = self.at;
        if depth >= MAX_ARRAY_DEPTH {
            let (key, most) = (excerpt(key), MAX_ARRAY_DEPTH);
            return Err(self.flaw(Fault::Depth { key, most }));
        }
        let id = u32::from_le_bytes(self.array(what)?);
        let len = u64::from_le_bytes(self.array(what)?);
        let Some(element_type) = ValueType::from_id(id) else {
            let key = excerpt(key);
            return Err(self.flaw_at(start, Fault::ValueType { key, id }));
        };
        let min = element_type.min_size() as u64;
        if len > self.left() / min {
            let what = format!("elements of metadata '{}'", excerpt(key));
            self.check_count(&what, len, min)?;
        }
        let at = self.at;
        match element_type.size() {
            Some(size) => {
                // Can't overflow: the count was checked against the bytes left.
                let bytes = self.take(len * size as u64, what)?;
                if element_type == ValueType::Bool {
                    self.check_bools(key, at, bytes)?;
                }
            }
            None => {
                for _ in 0..len {
                    self.value(key, element_type, depth + 1)?;
                }
            }
        }
        Ok(Stored::Array {
            element_type,
            len: len as usize,
            at,
            bytes: self.at - at,
        })
    }

    fn check_bools(&self, key: &str, at: usize, bytes: &[u8]) -> Result<(), Flaw> {
        match bytes.iter().position(|&b| b > 1) {
            None => Ok(()),
            Some(i) => {
                let (key, found) = (excerpt(key), bytes[i]);
                Err(self.flaw_at(at + i, Fault::Bool { key, found }))
            }
        }
    }
}
