//! Reads members of `config.json`, checked.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::HuggingFaceError;
use crate::import::excerpt;

/// A JSON object of a configuration. A member that is null is as one that is missing.
#[derive(Clone, Debug)]
pub(super) struct Config<'a> {
    /// The file, for messages.
    pub file: Arc<str>,
    /// Path of the object within it, with a dot at its end.
    pub prefix: String,
    pub members: &'a Map<String, Value>,
}

impl<'a> Config<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.members.get(key).filter(|v| !v.is_null())
    }

    /// The error for what is at `key`.
    pub fn refuse<T>(&self, key: &str, expected: impl Into<String>) -> Result<T, HuggingFaceError> {
        let (file, expected) = (self.file.clone(), expected.into());
        let name = format!("{}{key}", self.prefix);
        Err(match self.get(key) {
            None => HuggingFaceError::MissingKey {
                file,
                key: name,
                expected,
            },
            Some(found) => HuggingFaceError::Key {
                file,
                key: name,
                found: shown(found),
                expected,
            },
        })
    }

    /// An integer that fits 32 bits.
    pub fn count(&self, key: &str) -> Result<Option<u32>, HuggingFaceError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| u32::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => self.refuse(key, format!("an integer from 0 to {}", u32::MAX)),
        }
    }

    /// As [`Config::count`], above 0, the member being required.
    pub fn required(&self, key: &str) -> Result<u32, HuggingFaceError> {
        match self.count(key)? {
            Some(n) if n > 0 => Ok(n),
            _ => self.refuse(key, format!("an integer from 1 to {}", u32::MAX)),
        }
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, HuggingFaceError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64().filter(|x| x.is_finite()) {
            Some(x) => Ok(Some(x)),
            None => self.refuse(key, "a number"),
        }
    }

    /// A number above 0.
    pub fn positive(&self, key: &str) -> Result<Option<f64>, HuggingFaceError> {
        match self.number(key)? {
            Some(x) if x <= 0.0 => self.refuse(key, "a number above 0"),
            other => Ok(other),
        }
    }

    /// A truth value.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, HuggingFaceError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_bool() {
            Some(b) => Ok(Some(b)),
            None => self.refuse(key, "true or false"),
        }
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, HuggingFaceError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_str() {
            Some(t) => Ok(Some(t)),
            None => self.refuse(key, "a text"),
        }
    }

    /// A list.
    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>, HuggingFaceError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_array() {
            Some(list) => Ok(Some(list)),
            None => self.refuse(key, "a list"),
        }
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<Config<'a>>, HuggingFaceError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_object() {
            Some(members) => Ok(Some(Config {
                file: self.file.clone(),
                prefix: format!("{}{key}.", self.prefix),
                members,
            })),
            None => self.refuse(key, "an object"),
        }
    }
}

/// The beginning of a value, for a message.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", excerpt(text)),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(members) => format!("an object of {}", members.len()),
        other => excerpt(&other.to_string()),
    }
}
