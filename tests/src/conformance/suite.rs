//! The cases and which of them are run.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anynpu_hal::{Capabilities, Device, HalError};
use thiserror::Error;

use super::bind::Bench;
use super::glob::Glob;
use super::outcome::{Check, Stop};
use super::{Subject, contract, graphs, onnx, ops, states};

/// How the suite is built and run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SuiteOptions {
    /// Of all numbers that are drawn. Ids that name a seed count from it.
    pub seed: u64,
    /// A part of the cases, with fewer rounds.
    pub quick: bool,
    /// How long one run on the device may take.
    pub patience: Duration,
    /// How long one case may take.
    pub deadline: Duration,
    /// Nothing else runs in this process, so that what is left of its heap can be counted to the byte.
    pub alone: bool,
    /// The ONNX project's node tests, `onnx/backend/test/data/node` of the Python package.
    pub onnx: Option<PathBuf>,
}

impl Default for SuiteOptions {
    fn default() -> Self {
        SuiteOptions {
            seed: 1,
            quick: false,
            patience: Duration::from_secs(20),
            deadline: Duration::from_secs(120),
            alone: false,
            onnx: None,
        }
    }
}

/// The suite can't be built.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SuiteError {
    /// Two cases of one id.
    #[error("two cases have the id '{id}'")]
    Twice {
        /// The id.
        id: String,
    },
    /// A case's operands do not fit.
    #[error("case '{id}' can't be made: {why}")]
    Case {
        /// The id.
        id: String,
        /// Why.
        why: String,
    },
    /// The node tests can't be read.
    #[error("ONNX node tests in {}: {why}", folder.display())]
    Onnx {
        /// Where they were looked for.
        folder: PathBuf,
        /// What is wrong.
        why: String,
    },
}

type Action = Arc<dyn Fn(&Context) -> Check + Send + Sync>;

/// One case.
#[derive(Clone)]
pub struct TestCase {
    id: String,
    op: Option<String>,
    action: Action,
}

impl fmt::Debug for TestCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCase")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl TestCase {
    /// A case; `op` is the name of the op it is about, if it is about one.
    pub fn new(
        id: impl Into<String>,
        op: Option<&str>,
        action: impl Fn(&Context) -> Check + Send + Sync + 'static,
    ) -> Self {
        TestCase {
            id: id.into(),
            op: op.map(str::to_owned),
            action: Arc::new(action),
        }
    }

    /// Its id, the same from version to version.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The op it is about.
    pub fn op(&self) -> Option<&str> {
        self.op.as_deref()
    }

    /// Runs it here and now, however long that takes.
    pub fn check(&self, context: &Context) -> Check {
        (self.action)(context)
    }
}

/// What a case is given.
#[derive(Clone, Debug)]
pub struct Context {
    subject: Arc<Subject>,
    options: SuiteOptions,
    bench: Bench,
}

impl Context {
    /// A context of the subject's device.
    ///
    /// # Errors
    /// What opening the device says.
    pub fn new(subject: Arc<Subject>, options: SuiteOptions) -> Result<Self, HalError> {
        let bench = Bench {
            device: subject.device()?,
            patience: options.patience,
        };
        Ok(Context {
            subject,
            options,
            bench,
        })
    }

    /// The device.
    pub fn device(&self) -> &dyn Device {
        &*self.bench.device
    }

    pub(crate) fn bench(&self) -> &Bench {
        &self.bench
    }

    pub(crate) fn capabilities(&self) -> &Capabilities {
        self.device().capabilities()
    }

    /// The options.
    pub fn options(&self) -> &SuiteOptions {
        &self.options
    }

    /// Another device of the same kind.
    pub(crate) fn another(&self) -> Result<Bench, Stop> {
        let Some(opened) = self.subject.another() else {
            return Err(Stop::Skipped(
                "the device can't be opened again from here".into(),
            ));
        };
        Ok(Bench {
            device: opened?,
            patience: self.options.patience,
        })
    }
}

/// Which cases are run.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only those that one of these matches; all if there is none.
    pub only: Vec<Glob>,
    /// Not those that one of these matches.
    pub skip: Vec<Glob>,
}

impl Selection {
    /// Whether the case `id` is run.
    pub fn admits(&self, id: &str) -> bool {
        let matches = |globs: &[Glob]| globs.iter().any(|g| g.matches(id));
        (self.only.is_empty() || matches(&self.only)) && !matches(&self.skip)
    }
}

/// All cases.
#[derive(Clone, Debug)]
pub struct Suite {
    cases: Vec<TestCase>,
    options: SuiteOptions,
}

impl Suite {
    /// The suite that `options` ask for.
    ///
    /// # Errors
    /// [`SuiteError`], for files that can't be read and for faults of the suite itself.
    pub fn new(options: SuiteOptions) -> Result<Self, SuiteError> {
        let mut cases = ops::cases(&options)?;
        cases.extend(graphs::cases(&options));
        cases.extend(states::cases());
        cases.extend(contract::cases(&options));
        cases.extend(onnx::cases(&options)?);
        Suite::of(cases, options)
    }

    /// A suite of these cases.
    ///
    /// # Errors
    /// [`SuiteError::Twice`].
    pub fn of(cases: Vec<TestCase>, options: SuiteOptions) -> Result<Self, SuiteError> {
        let mut ids: Vec<&str> = cases.iter().map(TestCase::id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SuiteError::Twice {
                id: twice[0].to_owned(),
            });
        }
        Ok(Suite { cases, options })
    }

    /// The cases.
    pub fn cases(&self) -> &[TestCase] {
        &self.cases
    }

    /// The options it was built with.
    pub fn options(&self) -> &SuiteOptions {
        &self.options
    }

    /// A hash of all ids, in hexadecimal: two suites of one hash ask the same.
    pub fn hash(&self) -> String {
        let mut ids: Vec<&str> = self.cases.iter().map(TestCase::id).collect();
        ids.sort_unstable();
        blake3::hash(ids.join("\n").as_bytes()).to_hex().to_string()
    }
}
