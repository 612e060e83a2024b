//! Figures that say where they come from, and the checks of what a file holds.

use std::fmt::Display;

use serde::Deserialize;

use crate::SimError;

/// A figure of a description with its source: a public reference, or the word `estimate`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure<T> {
    /// The figure.
    pub value: T,
    /// Where it comes from.
    pub source: String,
}

/// The longest text in a description, in bytes.
const MAX_TEXT: usize = 400;

/// Checks the parts of one file and names it in errors.
#[derive(Clone, Copy)]
pub(crate) struct Checker<'a> {
    pub origin: &'a str,
}

impl Checker<'_> {
    pub fn wrong(&self, key: &str, found: impl Display, expected: impl Into<String>) -> SimError {
        let mut found = found.to_string();
        if found.len() > MAX_TEXT {
            let cut = (0..=MAX_TEXT).rev().find(|&n| found.is_char_boundary(n));
            found.truncate(cut.unwrap_or(0));
            found.push('…');
        }
        SimError::Value {
            origin: self.origin.to_owned(),
            key: key.to_owned(),
            found,
            expected: expected.into(),
        }
    }

    /// A text of one line that says something.
    pub fn text(&self, key: &str, text: &str) -> Result<(), SimError> {
        let legal = !text.trim().is_empty()
            && text.len() <= MAX_TEXT
            && !text.chars().any(char::is_control);
        match legal {
            true => Ok(()),
            false => {
                let expected = format!("a line of 1 to {MAX_TEXT} bytes");
                Err(self.wrong(key, format!("\"{}\"", text.escape_debug()), expected))
            }
        }
    }

    /// A name of small letters, digits and hyphens, dots and underscores.
    pub fn name(&self, key: &str, name: &str) -> Result<(), SimError> {
        let legal = (1..=MAX_NAME).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
        match legal {
            true => Ok(()),
            false => {
                let found = format!("\"{}\"", name.escape_debug());
                let expected =
                    format!("1 to {MAX_NAME} of the characters a-z, 0-9, '-', '.' and '_'");
                Err(self.wrong(key, found, expected))
            }
        }
    }

    /// A number within `least` and `most`, with a source.
    pub fn number(
        &self,
        key: &str,
        figure: &Figure<f64>,
        least: f64,
        most: f64,
    ) -> Result<f64, SimError> {
        self.source(key, &figure.source)?;
        self.plain(&format!("{key}.value"), figure.value, least, most)
    }

    /// A number within `least` and `most`.
    pub fn plain(&self, key: &str, value: f64, least: f64, most: f64) -> Result<f64, SimError> {
        match value.is_finite() && (least..=most).contains(&value) {
            true => Ok(value),
            false => Err(self.wrong(key, value, format!("a number from {least} to {most}"))),
        }
    }

    /// A number of bytes, at least one, with a source.
    pub fn bytes(&self, key: &str, figure: &Figure<u64>) -> Result<u64, SimError> {
        self.source(key, &figure.source)?;
        match figure.value {
            1..=MAX_BYTES => Ok(figure.value),
            n => Err(self.wrong(
                &format!("{key}.value"),
                n,
                format!("from 1 to {MAX_BYTES} bytes"),
            )),
        }
    }

    /// Sizes above 0, ascending, with a source.
    pub fn sizes(&self, key: &str, figure: &Figure<Vec<u32>>) -> Result<Vec<u32>, SimError> {
        self.source(key, &figure.source)?;
        let sizes = &figure.value;
        let ascending = sizes.windows(2).all(|pair| pair[0] < pair[1]);
        let fit = sizes.iter().all(|n| (1..=MAX_SIZE).contains(n));
        match ascending && fit && (1..=MAX_SIZES).contains(&sizes.len()) {
            true => Ok(sizes.clone()),
            false => {
                let found = format!("{sizes:?}");
                let expected = format!(
                    "1 to {MAX_SIZES} ascending numbers from 1 to {MAX_SIZE}; leave the key out where any number is taken"
                );
                Err(self.wrong(&format!("{key}.value"), found, expected))
            }
        }
    }

    pub fn source(&self, key: &str, source: &str) -> Result<(), SimError> {
        let key = format!("{key}.source");
        self.text(&key, source)
            .map_err(|_| self.wrong(&key, format!("\"{}\"", source.escape_debug()), SOURCE))
    }
}

const SOURCE: &str = "a public reference, or \"estimate\"";
const MAX_NAME: usize = 48;
/// A pebibyte.
const MAX_BYTES: u64 = 1 << 50;
const MAX_SIZE: u32 = 1 << 24;
const MAX_SIZES: usize = 64;
