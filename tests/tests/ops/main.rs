//! What every op of the op set must give, checked on the reference.

mod decompose;
mod devices;
mod robustness;
mod states;

use anynpu_cpu::reference::Tensor;
use anynpu_tests::cases::tensor;
use anynpu_tests::onnx::Refusal;
use anynpu_tests::{Report, cases, onnx};
use proptest::collection::vec;
use proptest::prelude::*;

/// Floats within ±2, in which the stated bounds hold.
fn floats(shape: &[usize]) -> impl Strategy<Value = Tensor> + use<> {
    let shape = shape.to_vec();
    vec(-2f32..2.0, shape.iter().product::<usize>()).prop_map(move |v| tensor(&shape, v))
}

#[test]
fn the_reference_gives_what_every_case_says() {
    let mut report = Report::default();
    for case in cases::all() {
        report.record(&case.name, case.check(case.run_reference()));
    }
    assert!(report.failed().is_empty(), "{report}");
    println!("cases worked out by hand: {report}");
}

#[test]
fn case_names_are_unique() {
    let mut names: Vec<String> = cases::all().into_iter().map(|c| c.name).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn the_reference_agrees_with_the_onnx_node_tests() {
    let mut report = Report::default();
    for onnx::Mapped { name, case, .. } in onnx::cases().unwrap() {
        match case {
            Ok(case) => report.record(&name, case.check(case.run_reference())),
            Err(Refusal::Skip(why)) => report.skip(&name, why),
            Err(Refusal::Fault(why)) => report.record(&name, Err(why)),
        }
    }
    assert!(report.failed().is_empty(), "{report}");
    println!("ONNX node tests: {report}");
    // Fewer would mean that the file or the mapping lost some.
    assert!(report.passed() >= 430, "{report}");
}
