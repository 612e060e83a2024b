//! What can be wrong with a description.

use anynpu_hal::HalError;
use thiserror::Error;

/// A device description, or the catalogue of quirks, that can't be used.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum SimError {
    /// The file can't be read.
    #[error("description '{origin}' can't be read: {why}")]
    Read {
        /// The file.
        origin: String,
        /// What the system said.
        why: String,
    },
    /// The file is longer than any description.
    #[error("description '{origin}' has {bytes} bytes, expected at most {limit}")]
    Size {
        /// The file.
        origin: String,
        /// Its size.
        bytes: u64,
        /// The most that is read.
        limit: u64,
    },
    /// It is no TOML, or has keys that a description does not have, or lacks some.
    #[error("description '{origin}': {text}")]
    Syntax {
        /// The file.
        origin: String,
        /// Where, and what was expected.
        text: String,
    },
    /// A key has a value that makes no sense.
    #[error("description '{origin}': {key} is {found}, expected {expected}")]
    Value {
        /// The file.
        origin: String,
        /// The key, with those of the tables around it.
        key: String,
        /// Its value.
        found: String,
        /// What would fit.
        expected: String,
    },
}

/// A call that breaks the contract of the simulated device.
pub(crate) fn invalid(
    call: &'static str,
    what: impl Into<String>,
    found: impl ToString,
    expected: impl Into<String>,
) -> HalError {
    HalError::InvalidUse {
        call,
        what: what.into(),
        found: found.to_string(),
        expected: expected.into(),
    }
}
