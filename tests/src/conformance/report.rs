//! The certificate: what a run of the suite came to. `docs/conformance.md` documents its form.

use std::collections::BTreeMap;
use std::time::Duration;

use anynpu_hal::{Device, HalError};
use serde::Serialize;

use super::outcome::{Outcome, describe};
use super::runner::milliseconds;
use super::{Suite, TestCase};

/// Version of the certificate's form. Fields are added without a new one, never removed or changed.
pub const SCHEMA_VERSION: u32 = 1;

/// What a run of the suite came to.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    schema_version: u32,
    verdict: &'static str,
    complete: bool,
    suite: SuiteRecord,
    device: DeviceRecord,
    counts: Counts,
    per_op: BTreeMap<String, OpCounts>,
    cases: Vec<CaseRecord>,
}

/// Which suite was run.
#[derive(Clone, Debug, Serialize)]
pub struct SuiteRecord {
    /// Version of the package.
    pub version: &'static str,
    /// [`Suite::hash`].
    pub hash: String,
    /// Cases it has.
    pub cases: usize,
    /// Seed of the numbers.
    pub seed: u64,
    /// Whether it is the quick part.
    pub quick: bool,
    /// Version of the op set it asks for.
    pub op_set: u32,
}

/// The device that was tested.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeviceRecord {
    /// Its name.
    pub name: String,
    /// Name of its driver.
    pub driver: String,
    /// Its kind.
    pub kind: String,
    /// What it says of itself.
    pub description: String,
    /// What it claims.
    pub capabilities: serde_json::Value,
}

/// Cases by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// As they must be.
    pub passed: usize,
    /// Not so.
    pub failed: usize,
    /// Of what the device does not claim.
    pub not_claimed: usize,
    /// Failed, as expected.
    pub expected_failures: usize,
    /// Not selected, not for this device, or not possible here.
    pub skipped: usize,
}

/// Cases of one op by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OpCounts {
    /// As they must be.
    pub passed: usize,
    /// Not so, expected or not.
    pub failed: usize,
    /// Not claimed.
    pub not_claimed: usize,
}

/// One case that was run.
#[derive(Clone, Debug, Serialize)]
pub struct CaseRecord {
    /// Its id.
    pub id: String,
    /// The op it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// `passed`, `failed`, `not_claimed`, `expected_failure` or `skipped`.
    pub outcome: &'static str,
    /// Why it was not claimed, skipped, or expected to fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What was wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// What was wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Detail {
    /// Where.
    #[serde(rename = "where", skip_serializing_if = "String::is_empty")]
    pub at: String,
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
    /// The bound on numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bound: Option<String>,
}

impl Certificate {
    pub(super) fn new(suite: &Suite) -> Self {
        let options = suite.options();
        Certificate {
            schema_version: SCHEMA_VERSION,
            verdict: "certified",
            complete: true,
            suite: SuiteRecord {
                version: env!("CARGO_PKG_VERSION"),
                hash: suite.hash(),
                cases: suite.cases().len(),
                seed: options.seed,
                quick: options.quick,
                op_set: anynpu_ir::OP_SET_VERSION,
            },
            device: DeviceRecord::default(),
            counts: Counts::default(),
            per_op: BTreeMap::new(),
            cases: Vec::new(),
        }
    }

    pub(super) fn describe(&mut self, device: &dyn Device) {
        let info = device.info();
        self.device = DeviceRecord {
            name: info.name.clone(),
            driver: info.driver.clone(),
            kind: info.kind.name().to_owned(),
            description: info.description.clone(),
            capabilities: capabilities(device),
        };
    }

    /// The device did not open: nothing can be certified.
    pub(super) fn device_absent(&mut self, error: &HalError, cases: usize) {
        self.verdict = "failed";
        self.complete = false;
        self.counts.skipped = cases;
        self.device.description = format!("did not open: {}", describe(error));
    }

    /// Notes a case that was not selected.
    pub(super) fn leave_out(&mut self) {
        self.counts.skipped += 1;
        self.complete = false;
    }

    /// Notes a case that was run.
    pub(super) fn record(&mut self, case: &TestCase, outcome: Outcome, time: Duration) {
        let name = outcome.name();
        let counts = &mut self.counts;
        let mut of_op = OpCounts::default();
        let (mut reason, mut finding) = (None, None);
        match outcome {
            Outcome::Passed => (counts.passed, of_op.passed) = (counts.passed + 1, 1),
            Outcome::Failed(f) => {
                (counts.failed, of_op.failed) = (counts.failed + 1, 1);
                self.verdict = "failed";
                finding = Some(f);
            }
            Outcome::ExpectedFailure {
                reason: r,
                finding: f,
            } => {
                (counts.expected_failures, of_op.failed) = (counts.expected_failures + 1, 1);
                (reason, finding) = (Some(r), Some(f));
            }
            Outcome::NotClaimed(why) => {
                (counts.not_claimed, of_op.not_claimed) = (counts.not_claimed + 1, 1);
                reason = Some(why);
            }
            Outcome::Skipped(why) => {
                counts.skipped += 1;
                reason = Some(why);
            }
        }
        if let Some(op) = case.op() {
            let sum = self.per_op.entry(op.to_owned()).or_default();
            sum.passed += of_op.passed;
            sum.failed += of_op.failed;
            sum.not_claimed += of_op.not_claimed;
        }
        self.cases.push(CaseRecord {
            id: case.id().to_owned(),
            op: case.op().map(str::to_owned),
            outcome: name,
            reason,
            detail: finding.map(|f| Detail {
                at: f.at,
                found: f.found,
                expected: f.expected,
                bound: f.bound,
            }),
            ms: milliseconds(time),
        });
    }

    /// Whether nothing failed.
    pub fn certified(&self) -> bool {
        self.verdict == "certified"
    }

    /// Whether all cases of the suite were selected.
    pub fn complete(&self) -> bool {
        self.complete
    }

    /// Cases by outcome.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Cases by op and outcome.
    pub fn per_op(&self) -> &BTreeMap<String, OpCounts> {
        &self.per_op
    }

    /// The cases that were run, in the suite's order.
    pub fn cases(&self) -> &[CaseRecord] {
        &self.cases
    }

    /// The suite.
    pub fn suite(&self) -> &SuiteRecord {
        &self.suite
    }

    /// The device.
    pub fn device(&self) -> &DeviceRecord {
        &self.device
    }

    /// The certificate as JSON.
    pub fn to_json(&self) -> String {
        // every field is a number, a text or a list of such
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

fn capabilities(device: &dyn Device) -> serde_json::Value {
    let c = device.capabilities();
    let names = |types: &[anynpu_ir::DType]| types.iter().map(|d| d.name()).collect::<Vec<_>>();
    let memory: Vec<String> = c.memory.iter().map(|m| format!("{m:?}")).collect();
    let fixed = c.fixed_shapes.as_ref();
    let fixed = fixed.map(|f| serde_json::json!({"tokens": f.tokens, "capacities": f.capacities}));
    serde_json::json!({
        "op_set": c.op_set,
        "baseline": c.features.baseline,
        "dynamic_shapes": c.features.dynamic_shapes,
        "asynchronous": c.features.asynchronous,
        "states": format!("{:?}", c.states),
        "compute": names(&c.compute),
        "weights": names(&c.weights),
        "memory": memory,
        "memory_limit": c.memory_limit,
        "fixed_shapes": fixed,
        "compiled_blobs": !device.compatibility().is_empty(),
    })
}
