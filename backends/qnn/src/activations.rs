//! How activations are held, and between which numbers they are.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anynpu_hal::HalError;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::htp::reference::Values;
use crate::htp::{FixedForm, Graph, Range, TensorId, TensorKind, fixed};

/// How activations are held.
#[derive(Clone, Debug, Default)]
pub(crate) enum Activations {
    /// In 16-bit floating point.
    #[default]
    Float,
    /// In fixed point, in known ranges.
    Fixed(Arc<Ranges>),
    /// In 64-bit floating point, by the plain reference, to get to know the ranges.
    Measured(Arc<Calibration>),
}

/// Between which numbers the activations of a model are, tensor by tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ranges {
    version: u32,
    activations: String,
    tensors: BTreeMap<String, [f64; 2]>,
}

/// Operations that move numbers and change none.
const MOVES: [&str; 2] = ["Reshape", "Transpose"];

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
    /// No form.
    #[error(transparent)]
    Form(#[from] FixedFormError),
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

/// No form of activations.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no form of activations is called '{0}'; expected u16 or u8")]
pub struct FixedFormError(String);

impl FromStr for FixedForm {
    type Err = FixedFormError;

    fn from_str(s: &str) -> Result<Self, FixedFormError> {
        match s {
            "u8" => Ok(FixedForm::U8),
            "u16" => Ok(FixedForm::U16),
            _ => Err(FixedFormError(s.to_owned())),
        }
    }
}

impl fmt::Display for FixedForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FixedForm::U8 => "u8",
            FixedForm::U16 => "u16",
        })
    }
}

impl Ranges {
    const VERSION: u32 = 1;

    /// The ranges in `bytes`.
    ///
    /// # Errors
    /// Bytes that are none.
    pub fn parse(bytes: &[u8]) -> Result<Ranges, RangesError> {
        let ranges: Ranges = serde_json::from_slice(bytes)?;
        let (found, expected) = (ranges.version, Ranges::VERSION);
        if found != expected {
            return Err(RangesError::Version { found, expected });
        }
        ranges.activations.parse::<FixedForm>()?;
        let none = |r: &[f64; 2]| !(r[0] <= r[1] && r[0].is_finite() && r[1].is_finite());
        match ranges.tensors.iter().find(|(_, range)| none(range)) {
            None => Ok(ranges),
            Some((tensor, &[least, most])) => Err(RangesError::Range {
                tensor: tensor.clone(),
                least,
                most,
            }),
        }
    }

    /// As JSON.
    pub fn to_json(&self) -> String {
        // names and finite numbers can't fail to be written
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// How activations are to be held.
    pub fn form(&self) -> FixedForm {
        self.activations.parse().unwrap_or(FixedForm::U16)
    }

    /// Tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// What tells these from other ranges.
    pub(crate) fn digest(&self) -> String {
        blake3::hash(self.to_json().as_bytes()).to_hex()[..16].to_owned()
    }

    /// The range of the tensor `name`. What crosses the boundary of a graph has names of its own there, but the numbers
    /// of the value that it is.
    fn of(&self, name: &str) -> Option<[f64; 2]> {
        const FORMS: [&str; 4] = [".f32", ".cast.out", ".result", ".out"];
        let own = self.tensors.get(name);
        let value = || FORMS.iter().find_map(|form| name.strip_suffix(form));
        let other = || self.of_value(value()?);
        own.copied().or_else(other)
    }

    /// The range of what a node called `name` makes, wherever it was cut off.
    pub(crate) fn of_value(&self, name: &str) -> Option<[f64; 2]> {
        let forms = [".out", ".result", ".cast.out", ".f32"].iter();
        let mut forms = forms.map(|form| self.tensors.get(&format!("{name}{form}")));
        forms.find_map(|found| found.copied())
    }

    /// `graph` with activations in these ranges.
    pub(crate) fn apply(&self, device: &str, graph: &Graph) -> Result<Graph, HalError> {
        let mut known: Vec<Option<[f64; 2]>> =
            graph.tensors.iter().map(|t| self.of(&t.name)).collect();
        // what has the same numbers in other places has their range; a few of them may follow each other
        let moves = graph.nodes.iter().filter(|n| MOVES.contains(&n.op));
        let moves = moves.filter_map(|n| Some((n.inputs.first()?.0, n.outputs.first()?.0)));
        let moves: Vec<(usize, usize)> = moves.map(|(a, b)| (a as usize, b as usize)).collect();
        for &(from, to) in moves.iter().chain(moves.iter().rev()) {
            if let (Some(&a), Some(&b)) = (known.get(from), known.get(to)) {
                known[to] = b.or(a);
                known[from] = a.or(b);
            }
        }
        let mut ranges = Vec::with_capacity(graph.tensors.len());
        for (tensor, known) in graph.tensors.iter().zip(known) {
            let is_static = matches!(tensor.kind, TensorKind::Static(_));
            if known.is_none() && !is_static && tensor.dtype.is_number() {
                return Err(HalError::InvalidUse {
                    call: "compile",
                    what: "ranges of activations".into(),
                    found: format!("none of '{}'", tensor.name),
                    expected: "those of this model: calibrate it, on this device alone".into(),
                });
            }
            let [least, most] = known.unwrap_or_default();
            ranges.push(Range { least, most });
        }
        fixed(graph, &ranges, self.form()).map_err(|e| HalError::Vendor {
            device: device.into(),
            call: "fixed point".into(),
            code: 0,
            text: e.to_string(),
        })
    }
}

/// Ranges that are being found out.
#[derive(Debug, Default)]
pub struct Calibration(Mutex<BTreeMap<String, Range>>);

impl Calibration {
    /// Takes in what a run of `graph` had.
    pub(crate) fn note(&self, graph: &Graph, values: &Values) {
        let mut known = self.0.lock();
        for (id, tensor) in (0..).map(TensorId).zip(&graph.tensors) {
            if matches!(tensor.kind, TensorKind::Static(_)) || !tensor.dtype.is_number() {
                continue;
            }
            let range = Range::of(values.of(id));
            match known.get_mut(&tensor.name) {
                Some(all) => *all = all.with(range),
                None => {
                    known.insert(tensor.name.clone(), range);
                }
            }
        }
    }

    /// What was found out, for activations in `form`.
    pub fn ranges(&self, form: FixedForm) -> Ranges {
        let known = self.0.lock();
        let of = |(name, range): (&String, &Range)| (name.clone(), [range.least, range.most]);
        Ranges {
            version: Ranges::VERSION,
            activations: form.to_string(),
            tensors: known.iter().map(of).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::htp::reference::evaluate;
    use crate::htp::{DataType, Encoding};

    fn relu() -> Graph {
        let mut g = Graph::new("g");
        let f = DataType::F16;
        let x = g.tensor("x", TensorKind::Input, f, &[2], Encoding::None);
        let y = g.tensor("y", TensorKind::Output, f, &[2], Encoding::None);
        g.node("relu", "Relu", &[x], &[y], &[]);
        g
    }

    fn noted(inputs: &[[f64; 2]]) -> Calibration {
        let (graph, calibration) = (relu(), Calibration::default());
        for input in inputs {
            let values = evaluate(&graph, &[input.to_vec()]).unwrap();
            calibration.note(&graph, &values);
        }
        calibration
    }

    #[test]
    fn ranges_hold_what_all_runs_had_and_are_read_as_they_were_written() {
        let ranges = noted(&[[-1.0, 2.0], [-3.0, 1.0]]).ranges(FixedForm::U8);
        assert_eq!(ranges.tensors["x"], [-3.0, 2.0]);
        assert_eq!(ranges.tensors["y"], [0.0, 2.0]);
        assert_eq!((ranges.len(), ranges.form()), (2, FixedForm::U8));
        let read = Ranges::parse(ranges.to_json().as_bytes()).unwrap();
        assert_eq!(read, ranges);
        let other = noted(&[[-1.0, 2.0]]).ranges(FixedForm::U8);
        assert_ne!(other.digest(), ranges.digest());
        assert_eq!(read.digest(), ranges.digest());
        let held = ranges.apply("qnn", &relu()).unwrap();
        assert!(held.tensors.iter().all(|t| t.dtype == DataType::Ufixed8));
    }

    #[test]
    fn what_is_only_moved_has_the_range_of_what_it_was_or_becomes() {
        let mut g = relu();
        g.name = "moved".into();
        let (f, native) = (DataType::F16, TensorKind::Native);
        let image = g.tensor("image", native.clone(), f, &[1, 2], Encoding::None);
        let product = g.tensor("product", native, f, &[1, 2], Encoding::None);
        let z = g.tensor("z", TensorKind::Output, f, &[2], Encoding::None);
        g.node("image", "Reshape", &[TensorId(1)], &[image], &[]);
        g.node("product", "Relu", &[image], &[product], &[]);
        g.node("z", "Reshape", &[product], &[z], &[]);
        let text = r#"{"version": 1, "activations": "u8", "tensors": {"x": [-1, 2], "y": [0, 2], "z": [0, 4]}}"#;
        let held = Ranges::parse(text.as_bytes()).unwrap().apply("qnn", &g);
        let held = held.unwrap();
        let most = |id: TensorId| held.get(id).unwrap().span().1;
        assert!((most(image) - 2.0).abs() < 1e-6 && (most(product) - 4.0).abs() < 1e-6);
        let less = text.replace(", \"z\": [0, 4]", "");
        let e = Ranges::parse(less.as_bytes()).unwrap().apply("qnn", &g);
        assert!(e.unwrap_err().to_string().contains("none of 'product'"));
    }

    #[test]
    fn ranges_of_another_model_and_numbers_that_are_none_are_refused() {
        let mut other = relu();
        other.tensors[1].name = "z".into();
        let ranges = noted(&[[-1.0, 2.0]]).ranges(FixedForm::U16);
        // the same numbers where a graph is cut
        assert_eq!(ranges.of("x.f32"), None);
        let cut = noted(&[[-1.0, 2.0]]).ranges(FixedForm::U16);
        let cut = cut.to_json().replace("\"x\"", "\"x.out\"");
        let cut = Ranges::parse(cut.as_bytes()).unwrap();
        for form in ["x.f32", "x.cast.out", "x.result", "x.out"] {
            assert_eq!(cut.of(form), Some([-1.0, 2.0]), "{form}");
        }
        let e = ranges.apply("qnn", &other).unwrap_err().to_string();
        assert!(e.contains("none of 'z'") && e.contains("calibrate"), "{e}");
        let text = ranges.to_json();
        for (change, told) in [
            (
                text.replace("\"version\": 1", "\"version\": 2"),
                "version 2",
            ),
            (text.replace("u16", "u4"), "called 'u4'"),
            (text.replace("-1.0", "9.0"), "'x' is 9 to 2"),
            (text.replace("-1.0", "null"), "no ranges"),
            ("[]".into(), "no ranges"),
        ] {
            let e = Ranges::parse(change.as_bytes()).unwrap_err().to_string();
            assert!(e.contains(told), "{e}");
        }
    }
}
