//! What a device promises besides numbers: lives of devices, modules and buffers, threads, memory, refusals,
//! wrong use, compiled blobs, equal bits.

mod allocation;
mod blob;
mod compile;
mod determinism;
mod leak;
mod lifecycle;
mod misuse;
mod threads;
mod verdict;
mod waits;

use super::outcome::Check;
use super::suite::{Context, SuiteOptions, TestCase};

/// All of them.
pub(super) fn cases(options: &SuiteOptions) -> Vec<TestCase> {
    let mut cases = Vec::new();
    cases.extend(verdict::cases());
    cases.extend(compile::cases());
    cases.extend(lifecycle::cases());
    cases.extend(threads::cases());
    cases.extend(allocation::cases());
    cases.extend(misuse::cases());
    cases.extend(waits::cases());
    cases.extend(determinism::cases());
    cases.extend(blob::cases());
    cases.extend(leak::cases(options));
    cases
}

/// The case `KIND/NAME`.
fn case(kind: &str, name: &str, check: fn(&Context) -> Check) -> TestCase {
    TestCase::new(format!("{kind}/{name}"), None, check)
}
