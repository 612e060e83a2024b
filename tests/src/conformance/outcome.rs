//! What a case came to.

use std::fmt;

use anynpu_hal::HalError;

/// What was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: the form of a case, the run of nodes, the output.
    pub at: String,
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
    /// The bound that numbers had to keep, if it is about numbers.
    pub bound: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.at.is_empty() {
            write!(f, "{}: ", self.at)?;
        }
        write!(f, "found {}, expected {}", self.found, self.expected)?;
        match &self.bound {
            Some(bound) => write!(f, " ({bound})"),
            None => Ok(()),
        }
    }
}

/// Why a check did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The device did something wrong.
    Failed(Box<Finding>),
    /// The device does not claim what the case is about.
    NotClaimed(String),
    /// The case says nothing about this device or cannot run here.
    Skipped(String),
}

/// The result of a check.
pub type Check = Result<(), Stop>;

impl Stop {
    /// A failure.
    pub fn failed(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Stop::Failed(Box::new(Finding {
            at: String::new(),
            found: found.into(),
            expected: expected.into(),
            bound: None,
        }))
    }

    /// The same with the place named before what stands there.
    #[must_use]
    pub fn at(mut self, place: &str) -> Self {
        if let Stop::Failed(finding) = &mut self {
            finding.at = match finding.at.is_empty() {
                true => place.to_owned(),
                false => format!("{place}, {}", finding.at),
            };
        }
        self
    }

    /// What an error of the device means where none was expected.
    pub fn error(error: &HalError, expected: &str) -> Self {
        Stop::failed(describe(error), expected)
    }
}

impl From<HalError> for Stop {
    fn from(error: HalError) -> Self {
        Stop::error(&error, "no error")
    }
}

/// An error in the words of a report: a lost device is a crash, a wait past its limit a hang.
pub(crate) fn describe(error: &HalError) -> String {
    match error {
        HalError::DeviceLost { why, .. } => format!("crashed: {why}"),
        HalError::Timeout { what, waited, .. } => {
            format!("hung: {what} was not reached in {waited:.1?}")
        }
        other => format!("error: {other}"),
    }
}

/// The error of a call that had to be refused. That it was not, that the device was lost by it, or that it
/// never ended is a failure.
pub(crate) fn refused<T>(result: Result<T, HalError>, what: &str) -> Result<HalError, Stop> {
    match result {
        Ok(_) => Err(Stop::failed(format!("{what} was accepted"), "an error")),
        Err(e @ (HalError::DeviceLost { .. } | HalError::Timeout { .. })) => {
            Err(Stop::error(&e, "an error that leaves the device usable").at(what))
        }
        Err(e) => Ok(e),
    }
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it must be.
    Passed,
    /// Not as it must be.
    Failed(Box<Finding>),
    /// The device does not claim it.
    NotClaimed(String),
    /// It failed, as was expected for this reason.
    ExpectedFailure {
        /// Why that is expected.
        reason: String,
        /// What was wrong.
        finding: Box<Finding>,
    },
    /// It was not run, or says nothing about this device.
    Skipped(String),
}

impl Outcome {
    /// The outcome's name in reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed(_) => "failed",
            Outcome::NotClaimed(_) => "not_claimed",
            Outcome::ExpectedFailure { .. } => "expected_failure",
            Outcome::Skipped(_) => "skipped",
        }
    }
}

impl From<Check> for Outcome {
    fn from(check: Check) -> Self {
        match check {
            Ok(()) => Outcome::Passed,
            Err(Stop::Failed(finding)) => Outcome::Failed(finding),
            Err(Stop::NotClaimed(why)) => Outcome::NotClaimed(why),
            Err(Stop::Skipped(why)) => Outcome::Skipped(why),
        }
    }
}
