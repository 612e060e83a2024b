//! Between which numbers activations are, for products of integers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Between which numbers the activations of a model are, value by value: what `anynpu calibrate --for nnapi` makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranges {
    version: u32,
    activations: String,
    tensors: BTreeMap<String, [f64; 2]>,
}

/// Ranges that can't be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RangesError {
    /// None in JSON.
    #[error("no ranges of activations: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another version.
    #[error("ranges of activations of version {found}, expected {expected}")]
    Version {
        /// What they are.
        found: u32,
        /// What would fit.
        expected: u32,
    },
    /// For other numbers.
    #[error(
        "ranges for activations in {found}, expected u8: make them by `anynpu calibrate --for nnapi`"
    )]
    Form {
        /// What they are for.
        found: String,
    },
    /// Numbers that are no range.
    #[error("the range of '{tensor}' is {least} to {most}, expected finite numbers in order")]
    Range {
        /// The tensor.
        tensor: String,
        /// Its least number.
        least: f64,
        /// Its most.
        most: f64,
    },
}

/// Numbers of 8 bits without sign that stand for others: `scale · (number − zero point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quant8 {
    /// What they are multiplied by, above 0.
    pub scale: f32,
    /// The number that stands for 0, 0 to 255.
    pub zero_point: i32,
}

impl Quant8 {
    /// Those that hold `least` to `most`, and 0 exactly.
    pub fn holding(least: f64, most: f64) -> Quant8 {
        let (least, most) = (least.min(0.0), most.max(0.0));
        let scale = ((most - least) / 255.0) as f32;
        let scale = match scale > f32::MIN_POSITIVE {
            true => scale,
            false => 1.0,
        };
        let zero = (-least / f64::from(scale)).round().clamp(0.0, 255.0);
        Quant8 {
            scale,
            zero_point: zero as i32,
        }
    }
}

impl Ranges {
    const VERSION: u32 = 1;

    /// Those of `values`, for activations in 8 bits.
    ///
    /// # Errors
    /// A range that is none.
    pub fn of(values: BTreeMap<String, [f64; 2]>) -> Result<Ranges, RangesError> {
        let ranges = Ranges {
            version: Ranges::VERSION,
            activations: "u8".into(),
            tensors: values,
        };
        ranges.checked()
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        // names and finite numbers can't fail to be written
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Values.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    fn checked(self) -> Result<Ranges, RangesError> {
        let none = |r: &[f64; 2]| !(r[0] <= r[1] && r[0].is_finite() && r[1].is_finite());
        match self.tensors.iter().find(|(_, range)| none(range)) {
            None => Ok(self),
            Some((tensor, &[least, most])) => Err(RangesError::Range {
                tensor: tensor.clone(),
                least,
                most,
            }),
        }
    }

    /// The ranges in `bytes`.
    ///
    /// # Errors
    /// Bytes that are none, or ranges that are for other numbers.
    pub fn parse(bytes: &[u8]) -> Result<Ranges, RangesError> {
        let ranges: Ranges = serde_json::from_slice(bytes)?;
        let (found, expected) = (ranges.version, Ranges::VERSION);
        if found != expected {
            return Err(RangesError::Version { found, expected });
        }
        if ranges.activations != "u8" {
            return Err(RangesError::Form {
                found: ranges.activations,
            });
        }
        ranges.checked()
    }

    /// How the value `name` is held, if its range is known. Where a graph is cut it has names of its own in the file.
    pub fn of_value(&self, name: &str) -> Option<Quant8> {
        let forms = ["", ".out", ".result", ".cast.out", ".f32"];
        let mut found = forms
            .iter()
            .filter_map(|form| self.tensors.get(&format!("{name}{form}")));
        let [least, most] = *found.next()?;
        Some(Quant8::holding(least, most))
    }

    /// What tells these from other ranges.
    pub fn digest(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for (name, [least, most]) in &self.tensors {
            hash.update(name.as_bytes());
            hash.update(&[0]);
            hash.update(&least.to_le_bytes());
            hash.update(&most.to_le_bytes());
        }
        hash.finalize().to_hex()[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_hold_zero_exactly() {
        let text = r#"{"version": 1, "activations": "u8", "tensors": {"x.out": [-1.0, 2.0], "y": [3, 4]}}"#;
        let ranges = Ranges::parse(text.as_bytes()).unwrap();
        let x = ranges.of_value("x").unwrap();
        assert_eq!((x.scale, x.zero_point), (3.0 / 255.0, 85));
        let y = ranges.of_value("y").unwrap();
        assert_eq!((y.scale, y.zero_point), (4.0 / 255.0, 0));
        assert_eq!(ranges.of_value("z"), None);
        assert_eq!(
            Quant8::holding(0.0, 0.0),
            Quant8 {
                scale: 1.0,
                zero_point: 0
            }
        );
        for (change, told) in [
            (text.replace(": 1,", ": 2,"), "version 2"),
            (text.replace("u8", "u16"), "in u16, expected u8"),
            (text.replace("-1.0", "9.0"), "'x.out' is 9 to 2"),
            ("[]".into(), "no ranges"),
        ] {
            let e = Ranges::parse(change.as_bytes()).unwrap_err().to_string();
            assert!(e.contains(told), "{e}");
        }
        let values = BTreeMap::from([("x".to_owned(), [-1.0, 2.0])]);
        let made = Ranges::of(values).unwrap();
        assert_eq!(Ranges::parse(made.to_json().as_bytes()).unwrap(), made);
        let none = BTreeMap::from([("x".to_owned(), [2.0, -1.0])]);
        assert!(Ranges::of(none).is_err() && made.len() == 1 && !made.is_empty());
        let other = Ranges::parse(text.replace("-1.0", "-2.0").as_bytes()).unwrap();
        assert_ne!(other.digest(), ranges.digest());
    }
}
