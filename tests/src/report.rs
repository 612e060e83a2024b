//! What a run of many cases came to.

use std::collections::BTreeMap;
use std::fmt;

/// Counts of cases that passed, failed and were skipped, with reasons.
#[derive(Clone, Debug, Default)]
pub struct Report {
    passed: usize,
    failed: Vec<(String, String)>,
    skipped: BTreeMap<String, Vec<String>>,
}

impl Report {
    /// Notes the outcome of the case `name`.
    pub fn record(&mut self, name: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(why) => self.failed.push((name.into(), why)),
        }
    }

    /// Notes that the case `name` could not be run, and why.
    pub fn skip(&mut self, name: &str, why: impl Into<String>) {
        self.skipped
            .entry(why.into())
            .or_default()
            .push(name.into());
    }

    /// Cases that passed.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// Cases that failed, with what went wrong.
    pub fn failed(&self) -> &[(String, String)] {
        &self.failed
    }

    /// Cases that were skipped.
    pub fn skipped(&self) -> usize {
        self.skipped.values().map(Vec::len).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (passed, failed) = (self.passed, self.failed.len());
        writeln!(
            f,
            "{passed} passed, {failed} failed, {} skipped",
            self.skipped()
        )?;
        for (why, names) in &self.skipped {
            writeln!(f, "  skipped {}: {why}: {}", names.len(), names.join(", "))?;
        }
        for (name, why) in &self.failed {
            writeln!(f, "  FAILED {name}: {why}")?;
        }
        Ok(())
    }
}
