//! Failures that are expected.

use serde::Deserialize;
use thiserror::Error;

use super::glob::Glob;
use super::outcome::{Finding, Outcome};

/// Cases that are expected to fail, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The cases.
    pub ids: Glob,
    /// Why they fail.
    pub reason: String,
}

/// A list of expected failures that can't be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExpectError {
    /// It is not TOML of this form.
    #[error("expected failures: {0}; each is a table `[[expect]]` with `id` and `reason`")]
    Syntax(#[from] toml::de::Error),
    /// One without a reason.
    #[error("expected failure '{id}': its reason is empty")]
    NoReason {
        /// The pattern.
        id: String,
    },
}

/// All expected failures of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectations {
    list: Vec<Expected>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    expect: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    reason: String,
}

impl Expectations {
    /// Reads the text of a TOML file of tables `[[expect]]`, each with an `id`, which is a pattern, and a
    /// `reason`.
    ///
    /// # Errors
    /// [`ExpectError`].
    pub fn parse(text: &str) -> Result<Self, ExpectError> {
        let file: File = toml::from_str(text)?;
        let mut list = Vec::new();
        for Line { id, reason } in file.expect {
            if reason.trim().is_empty() {
                return Err(ExpectError::NoReason { id });
            }
            let ids = Glob::new(id);
            list.push(Expected { ids, reason });
        }
        Ok(Expectations { list })
    }

    /// The expected failures.
    pub fn list(&self) -> &[Expected] {
        &self.list
    }

    /// What `outcome` of the case `id` counts as: a failure that is expected is none, and a pass where a failure is
    /// expected is one.
    pub fn judge(&self, id: &str, outcome: Outcome) -> Outcome {
        let Some(expected) = self.list.iter().find(|e| e.ids.matches(id)) else {
            return outcome;
        };
        match outcome {
            Outcome::Failed(finding) => Outcome::ExpectedFailure {
                reason: expected.reason.clone(),
                finding,
            },
            Outcome::Passed => Outcome::Failed(Box::new(Finding {
                at: String::new(),
                found: "a pass".into(),
                expected: format!(
                    "a failure, as '{}' is expected to fail: {}; remove it from the list",
                    expected.ids.text(),
                    expected.reason
                ),
                bound: None,
            })),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding() -> Box<Finding> {
        Box::new(Finding {
            at: String::new(),
            found: "1".into(),
            expected: "2".into(),
            bound: None,
        })
    }

    #[test]
    fn an_expected_failure_that_passes_is_a_failure() {
        let list = "[[expect]]\nid = 'op/pow/*'\nreason = 'no Pow of negative bases'\n";
        let list = Expectations::parse(list).unwrap();
        let failed = list.judge("op/pow/f32/a", Outcome::Failed(finding()));
        assert_eq!(failed.name(), "expected_failure");
        let passed = list.judge("op/pow/f32/a", Outcome::Passed);
        let Outcome::Failed(f) = passed else {
            panic!("{passed:?}");
        };
        assert!(f.expected.contains("no Pow of negative bases"), "{f}");
        let other = list.judge("op/add/f32/a", Outcome::Passed);
        assert_eq!(other, Outcome::Passed);
    }

    #[test]
    fn lists_without_reasons_or_with_other_keys_are_refused() {
        for bad in [
            "[[expect]]\nid = 'a'\n",
            "[[expect]]\nid = 'a'\nreason = ' '\n",
            "[[expect]]\nid = 'a'\nreason = 'b'\nmore = 1\n",
            "[[expected]]\nid = 'a'\nreason = 'b'\n",
            "expect",
        ] {
            assert!(Expectations::parse(bad).is_err(), "{bad}");
        }
    }
}
