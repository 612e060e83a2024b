//! What can be wrong with a GGUF file.

use std::sync::Arc;

use thiserror::Error;

use super::GgmlType;
use crate::import::MappedFileError;

/// A GGUF file that can't be read, or doesn't hold what is asked of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file can't be opened.
    #[error(transparent)]
    File(#[from] MappedFileError),
    /// The file's contents are not well-formed GGUF.
    #[error("{file}: {fault} (at byte {at})")]
    Malformed {
        /// The file.
        file: Arc<str>,
        /// Byte at which the fault was found.
        at: u64,
        /// What is wrong.
        fault: Fault,
    },
    /// Metadata that is needed isn't there.
    #[error("{file}: metadata '{key}' is missing; expected {wanted}")]
    MissingKey {
        /// The file.
        file: Arc<str>,
        /// The key.
        key: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// Metadata that isn't of the type asked for.
    #[error("{file}: metadata '{key}' is {found}; expected {wanted}")]
    WrongType {
        /// The file.
        file: Arc<str>,
        /// The key.
        key: String,
        /// What it should hold.
        wanted: &'static str,
        /// What it holds.
        found: String,
    },
    /// A tensor that is needed isn't there.
    #[error("{file}: tensor '{tensor}' is missing")]
    MissingTensor {
        /// The file.
        file: Arc<str>,
        /// Its name.
        tensor: String,
    },
    /// A tensor whose element type can't be used.
    #[error(
        "{file}: tensor '{tensor}' is of type {ggml_type}, which is not supported; \
         convert the model to a type such as Q8_0 or Q4_K"
    )]
    UnsupportedType {
        /// The file.
        file: Arc<str>,
        /// Its name.
        tensor: String,
        /// Its type.
        ggml_type: GgmlType,
    },
    /// A tensor with a dimension that no graph can hold.
    #[error(
        "{file}: tensor '{tensor}' has dimensions {dims:?}, of which one is more than {}",
        u32::MAX
    )]
    DimensionTooLarge {
        /// The file.
        file: Arc<str>,
        /// Its name.
        tensor: String,
        /// Its dimensions, innermost first.
        dims: Vec<u64>,
    },
}

/// What is wrong with a file's contents.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The magic isn't there.
    #[error("is not a GGUF file: starts with {found:02x?}, not with \"GGUF\"")]
    Magic {
        /// The first bytes (up to four).
        found: Vec<u8>,
    },
    /// A version that isn't read.
    #[error("is GGUF version {version}; versions 2 and 3 can be read, convert the model again")]
    Version {
        /// The version.
        version: u32,
    },
    /// A file of the other byte order.
    #[error(
        "is a big-endian GGUF file (version {version}); only little-endian files can be read, \
         convert the model for a little-endian machine"
    )]
    BigEndian {
        /// The version.
        version: u32,
    },
    /// The file ends too early.
    #[error("{what} takes {wanted} bytes, but {left} are left: the file is truncated or corrupt")]
    Truncated {
        /// What was being read.
        what: String,
        /// Bytes it takes.
        wanted: u64,
        /// Bytes left.
        left: u64,
    },
    /// A count that the rest of the file can't hold.
    #[error(
        "{what}: {count} announced, but the {left} bytes left can hold {most} at most: the file \
         is truncated or corrupt"
    )]
    Count {
        /// Of what.
        what: String,
        /// How many.
        count: u64,
        /// Bytes left.
        left: u64,
        /// How many these could hold.
        most: u64,
    },
    /// A name longer than the format allows.
    #[error("{what} is {len} bytes long; the format allows {most}")]
    NameLength {
        /// Of what.
        what: &'static str,
        /// Its length.
        len: u64,
        /// Longest allowed.
        most: u64,
    },
    /// A name that isn't text.
    #[error("{what} is not UTF-8: {found}")]
    NotUtf8 {
        /// Of what.
        what: &'static str,
        /// Its beginning, invalid parts replaced.
        found: String,
    },
    /// A type of metadata that the format doesn't know.
    #[error("metadata '{key}' has a value of type id {id}; ids 0 to 12 are known")]
    ValueType {
        /// The key.
        key: String,
        /// The id.
        id: u32,
    },
    /// A truth value that is neither.
    #[error("metadata '{key}' has a bool of value {found}; 0 and 1 are allowed")]
    Bool {
        /// The key.
        key: String,
        /// The byte.
        found: u8,
    },
    /// Arrays within arrays within arrays.
    #[error("metadata '{key}' has arrays nested more than {most} deep")]
    Depth {
        /// The key.
        key: String,
        /// Deepest allowed.
        most: u32,
    },
    /// A key used twice.
    #[error("metadata '{key}' is there twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A tensor name used twice.
    #[error("tensor '{tensor}' is there twice")]
    DuplicateTensor {
        /// The name.
        tensor: String,
    },
    /// An alignment that isn't one.
    #[error("general.alignment is {found}; expected a power of two up to {most}")]
    Alignment {
        /// Its value.
        found: String,
        /// Largest allowed.
        most: u64,
    },
    /// Too many dimensions.
    #[error("tensor '{tensor}' has {rank} dimensions; at most {most} are allowed")]
    Rank {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        rank: u32,
        /// Most allowed.
        most: u32,
    },
    /// A dimension of nothing.
    #[error("tensor '{tensor}' has dimensions {dims:?}; none may be 0")]
    ZeroDimension {
        /// The tensor.
        tensor: String,
        /// Its dimensions, innermost first.
        dims: Vec<u64>,
    },
    /// More elements than can be counted.
    #[error("tensor '{tensor}' has dimensions {dims:?}: its size overflows 64 bits")]
    SizeOverflow {
        /// The tensor.
        tensor: String,
        /// Its dimensions, innermost first.
        dims: Vec<u64>,
    },
    /// Rows that aren't whole blocks.
    #[error(
        "tensor '{tensor}' has rows of {columns} elements, which {ggml_type} can't hold: \
         its blocks have {block} elements"
    )]
    PartialBlock {
        /// The tensor.
        tensor: String,
        /// Elements of a row.
        columns: u64,
        /// Its type.
        ggml_type: GgmlType,
        /// Elements of a block.
        block: u64,
    },
    /// Data that doesn't start where the alignment says.
    #[error("tensor '{tensor}' has offset {offset}, which is no multiple of {alignment}")]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// Its offset from the start of the data.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Data past the end of the file.
    #[error(
        "tensor '{tensor}' has {bytes} bytes at offset {offset} of the data, which starts at \
         byte {data}: the file ends at {len}"
    )]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// Its offset from the start of the data.
        offset: u64,
        /// Its length.
        bytes: u64,
        /// Where the data starts.
        data: u64,
        /// The file's length.
        len: u64,
    },
    /// Two tensors over the same bytes.
    #[error("tensors '{first}' and '{second}' overlap")]
    Overlap {
        /// The one that starts first.
        first: String,
        /// The other.
        second: String,
    },
}
