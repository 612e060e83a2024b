//! Each planted fault is found, and the op or case that shows it is named.

use std::time::Duration;

use anynpu_tests::conformance::SuiteOptions;

use crate::faulty::{Fault, FaultyDriver};
use crate::{certify, failures};

fn options() -> SuiteOptions {
    let mut options = SuiteOptions::default();
    options.quick = true;
    options.patience = Duration::from_millis(400);
    options.deadline = Duration::from_secs(20);
    options
}

/// Asserts that `fault` fails a case whose line holds both texts, among the cases that `only` selects.
fn found(fault: Fault, only: &[&str], case: &str, says: &str) -> Vec<String> {
    let certificate = certify(FaultyDriver(fault), options(), only);
    let failed = failures(&certificate);
    assert!(!certificate.certified(), "{fault:?} is certified");
    let shown = failed.iter().any(|f| f.contains(case) && f.contains(says));
    assert!(
        shown,
        "{fault:?}: no {case} that says {says:?} in {failed:#?}"
    );
    failed
}

/// Asserts that nothing but `ops` failed among the cases of single ops.
fn only_ops(failed: &[String], ops: &[&str]) {
    let others = failed
        .iter()
        .filter(|f| f.starts_with("op/") && !ops.iter().any(|o| f.contains(o)));
    let others: Vec<_> = others.collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn a_wrong_epsilon_is_found() {
    let failed = found(
        Fault::Epsilon,
        &["op/*"],
        "op/rms_norm/f32/edge_eps",
        "[RmsNorm]",
    );
    only_ops(&failed, &["[RmsNorm]"]);
}

#[test]
fn a_slice_that_is_off_by_one_is_found() {
    let failed = found(Fault::OffByOne, &["op/*"], "op/slice/f32/middle", "[Slice]");
    only_ops(&failed, &["[Slice]"]);
}

#[test]
fn a_window_that_is_ignored_is_found() {
    let failed = found(
        Fault::NoWindow,
        &["op/*", "states/*"],
        "op/attention/f32/window",
        "[Attention]",
    );
    only_ops(&failed, &["[Attention]"]);
    assert!(
        failed
            .iter()
            .any(|f| f.starts_with("states/append_then_attend_window")),
        "{failed:#?}"
    );
}

#[test]
fn a_softmax_along_another_axis_is_found() {
    let failed = found(
        Fault::Axis,
        &["op/*"],
        "op/softmax/f32/rows_axis1",
        "[Softmax]",
    );
    only_ops(&failed, &["[Softmax]"]);
}

#[test]
fn a_symbol_that_is_ignored_is_found() {
    found(
        Fault::IgnoredSymbol,
        &["op/*/symbolic"],
        "op/linear/f32/symbolic",
        "[Linear]",
    );
}

#[test]
fn an_error_that_is_forgotten_is_found() {
    let failed = found(
        Fault::ForgottenError,
        &["op/*", "misuse/*"],
        "misuse/short_input",
        "accepted",
    );
    let index = failed
        .iter()
        .any(|f| f.starts_with("op/embedding") && f.contains("out of range"));
    assert!(index, "{failed:#?}");
}

#[test]
fn a_write_past_the_end_of_a_result_is_found() {
    found(
        Fault::PastTheEnd,
        &["op/linear/*"],
        "op/linear/",
        "past the end of output 0",
    );
}

#[test]
fn a_changed_operand_is_found() {
    found(
        Fault::ChangedInput,
        &["op/add/*"],
        "op/add/f32/",
        "input 0 was changed",
    );
}

#[test]
fn a_row_of_a_state_that_was_not_the_steps_is_found() {
    found(
        Fault::NeighbourRow,
        &["states/*"],
        "states/append_then_attend",
        "was changed",
    );
}

#[test]
fn nodes_that_are_claimed_and_then_refused_are_found() {
    let only = ["op/gather/*", "op/add/*"];
    let failed = found(
        Fault::ClaimsTooMuch,
        &only,
        "op/gather/f32/",
        "claims the nodes",
    );
    only_ops(&failed, &["[Gather]"]);
}

#[test]
fn nodes_that_are_claimed_and_then_fail_are_found() {
    let only = ["op/sin/*", "op/cos/*"];
    let failed = found(
        Fault::FailsWhenRun,
        &only,
        "op/sin/f32/",
        "no Sin after all",
    );
    only_ops(&failed, &["op/sin/"]);
}

#[test]
fn a_verdict_too_few_is_found() {
    let only = ["op/linear/f32/*", "verdict/*"];
    found(
        Fault::FewVerdicts,
        &only,
        "op/linear/f32/",
        "0 verdicts of support",
    );
}

#[test]
fn a_table_that_refuses_what_the_validator_admits_is_found() {
    let case = "verdict/support_agrees_with_validate/linear";
    found(
        Fault::Disagrees,
        &["verdict/*"],
        case,
        "where validate says yes",
    );
}

#[test]
fn other_bits_for_the_same_operands_are_found() {
    found(
        Fault::Nondeterministic,
        &["determinism/*"],
        "determinism/",
        "other bits",
    );
}

#[test]
fn a_run_that_never_ends_is_found_and_does_not_stop_the_suite() {
    let only = ["op/cos/f32/vector", "op/sin/f32/vector"];
    let failed = found(Fault::Hangs, &only, "op/cos/f32/vector", "hung: ");
    assert_eq!(failed.len(), 1, "{failed:#?}");
}

#[test]
fn memory_that_is_never_freed_is_found() {
    found(
        Fault::Leaks,
        &["leak/*"],
        "leak/100_rounds",
        "bytes more held",
    );
}

#[test]
fn memory_that_there_is_not_is_found() {
    found(
        Fault::EndlessMemory,
        &["memory/*"],
        "memory/absurd_allocation",
        "was accepted",
    );
}

#[test]
fn a_run_that_does_not_wait_is_found() {
    let failed = found(
        Fault::DoesNotWait,
        &["waits/*"],
        "waits/point_that_is_reached_later",
        "before",
    );
    assert!(
        failed
            .iter()
            .any(|f| f.starts_with("waits/point_that_fails")),
        "{failed:#?}"
    );
}

#[test]
fn submissions_that_are_not_checked_are_found() {
    let failed = found(
        Fault::Unchecked,
        &["misuse/*"],
        "misuse/missing_input",
        "accepted",
    );
    assert!(failed.len() >= 5, "{failed:#?}");
}

#[test]
fn a_panic_is_a_failed_case() {
    let only = ["op/tanh/f32/vector", "op/sin/f32/vector"];
    let failed = found(
        Fault::Panics,
        &only,
        "op/tanh/f32/vector",
        "panicked: Tanh, on purpose",
    );
    assert_eq!(failed.len(), 1, "{failed:#?}");
}
