//! What can be wrong with safetensors files.

use std::sync::Arc;

use thiserror::Error;

use super::{MAX_HEADER, MAX_RANK};
use crate::import::MappedFileError;

/// A safetensors file, or a folder of them, that can't be read or doesn't hold what is asked of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SafeTensorsError {
    /// A file can't be opened.
    #[error(transparent)]
    File(#[from] MappedFileError),
    /// A file's contents are not well-formed.
    #[error("{file}: {fault}")]
    Malformed {
        /// The file.
        file: Arc<str>,
        /// What is wrong.
        fault: Fault,
    },
    /// The index of a model in several files doesn't fit them.
    #[error("{file}: {fault}")]
    Index {
        /// The index.
        file: Arc<str>,
        /// What is wrong.
        fault: IndexFault,
    },
    /// A tensor whose element type can't be used.
    #[error(
        "{file}: tensor '{tensor}' is of type {found}, which is not supported; convert the model \
         to F32, F16 or BF16"
    )]
    UnsupportedType {
        /// The file.
        file: Arc<str>,
        /// Its name.
        tensor: String,
        /// Its type.
        found: &'static str,
    },
    /// A tensor with a dimension that no graph can hold.
    #[error(
        "{file}: tensor '{tensor}' has shape {shape:?}, of which one dimension is 0 or more than {}",
        u32::MAX
    )]
    Dimension {
        /// The file.
        file: Arc<str>,
        /// Its name.
        tensor: String,
        /// Its shape, outermost dimension first.
        shape: Vec<u64>,
    },
}

/// What is wrong with a file's contents.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// No room for the header's length.
    #[error("has {len} bytes; a safetensors file starts with the 8 bytes of its header's length")]
    TooShort {
        /// The file's length.
        len: u64,
    },
    /// A header that can't be one.
    #[error(
        "is not a safetensors file, or is truncated: announces a header of {announced} bytes, but \
         {left} bytes follow, and a header has at most {MAX_HEADER}"
    )]
    HeaderLength {
        /// The length it announces.
        announced: u64,
        /// Bytes after it.
        left: u64,
    },
    /// A header that is not the JSON it should be.
    #[error("its header is not valid: {problem}")]
    Header {
        /// Where and what, in the JSON reader's words.
        problem: String,
    },
    /// A name used twice.
    #[error("tensor '{tensor}' is there twice")]
    Duplicate {
        /// The name.
        tensor: String,
    },
    /// An element type that the format doesn't know.
    #[error("tensor '{tensor}' has dtype '{found}'; the format knows {known}")]
    Type {
        /// The tensor.
        tensor: String,
        /// What it says.
        found: String,
        /// Types of the format.
        known: String,
    },
    /// Too many dimensions.
    #[error("tensor '{tensor}' has {rank} dimensions; at most {MAX_RANK} are allowed")]
    Rank {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        rank: usize,
    },
    /// More elements than can be counted.
    #[error("tensor '{tensor}' has shape {shape:?}: its size overflows 64 bits")]
    SizeOverflow {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// A range that doesn't hold the shape.
    #[error(
        "tensor '{tensor}' has data_offsets [{start}, {end}]; expected {expected} bytes for shape \
         {shape:?} of {dtype}"
    )]
    Size {
        /// The tensor.
        tensor: String,
        /// First byte, from the start of the data.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// Its shape.
        shape: Vec<u64>,
        /// Its type.
        dtype: &'static str,
        /// Bytes that these take.
        expected: u64,
    },
    /// A size that is no whole number of bytes.
    #[error("tensor '{tensor}' has shape {shape:?} of {dtype}, which is no whole number of bytes")]
    PartialByte {
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<u64>,
        /// Its type.
        dtype: &'static str,
    },
    /// Data that doesn't start at a multiple of its elements' size.
    #[error(
        "tensor '{tensor}' starts at byte {start} of the data; expected a multiple of {align}, the \
         size of {dtype}"
    )]
    Misaligned {
        /// The tensor.
        tensor: String,
        /// First byte, from the start of the data.
        start: u64,
        /// Its type.
        dtype: &'static str,
        /// Bytes of an element.
        align: u64,
    },
    /// Data past the end of the file.
    #[error(
        "tensor '{tensor}' has data_offsets [{start}, {end}], but the file has {len} bytes of data: \
         it is truncated or corrupt"
    )]
    OutOfRange {
        /// The tensor.
        tensor: String,
        /// First byte, from the start of the data.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// Bytes of data in the file.
        len: u64,
    },
    /// Two tensors over the same bytes.
    #[error(
        "tensors '{first}' and '{second}' overlap: one ends at {end}, the other starts at {start}"
    )]
    Overlap {
        /// The one that starts first.
        first: String,
        /// The other.
        second: String,
        /// Where the first ends.
        end: u64,
        /// Where the second starts.
        start: u64,
    },
    /// Bytes that belong to no tensor.
    #[error(
        "bytes {start} to {end} of the data belong to no tensor (before '{before}'); the format \
         allows no holes"
    )]
    Hole {
        /// First byte, from the start of the data.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// The tensor after it, or `the end`.
        before: String,
    },
}

/// What is wrong with the index of a model in several files.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum IndexFault {
    /// Not the JSON it should be.
    #[error("is not a valid index: {problem}")]
    Json {
        /// Where and what.
        problem: String,
    },
    /// No files.
    #[error("its weight_map names no tensors")]
    Empty,
    /// A tensor named twice.
    #[error("its weight_map names tensor '{tensor}' twice")]
    Duplicate {
        /// The tensor.
        tensor: String,
    },
    /// A file name that could lead out of the folder.
    #[error(
        "its weight_map has tensor '{tensor}' in '{found}'; expected the plain name of a \
         .safetensors file in the same folder"
    )]
    FileName {
        /// The tensor.
        tensor: String,
        /// The name.
        found: String,
    },
    /// A tensor that isn't in its file.
    #[error("its weight_map has tensor '{tensor}' in '{shard}', which has no such tensor")]
    Missing {
        /// The tensor.
        tensor: String,
        /// The file.
        shard: String,
    },
    /// A tensor in two files.
    #[error("tensor '{tensor}' is in both '{first}' and '{second}'")]
    InTwo {
        /// The tensor.
        tensor: String,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
}
