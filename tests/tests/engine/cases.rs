//! Single ops with results worked out by hand, and the ONNX project's, on the engine.

use std::sync::Arc;

use anynpu_hal::{Driver, OpenOptions, Support};
use anynpu_ir::SymbolValues;
use anynpu_tests::{Expectation, Report, cases, onnx, run_on};

use crate::plugin;

#[test]
fn every_case_that_the_engine_claims_gives_what_it_says() {
    let Some(driver) = plugin("every_case_that_the_engine_claims_gives_what_it_says") else {
        return;
    };
    let found = driver.enumerate().unwrap();
    let device = driver.open(&found[0], &OpenOptions::default()).unwrap();
    let mut all = cases::all();
    let of_onnx = onnx::cases().unwrap().into_iter();
    all.extend(of_onnx.filter_map(|mapped| mapped.case.ok()));
    let (mut report, mut refused) = (Report::default(), 0);
    for case in all {
        let verdicts = device.support(&case.graph.whole());
        if verdicts.iter().any(|v| matches!(v, Support::No(_))) {
            refused += 1;
            continue;
        }
        let (graph, symbols) = (Arc::new(case.graph.clone()), SymbolValues::default());
        let outcome = match (
            &case.expected,
            run_on(&*device, &graph, &case.inputs, &symbols),
        ) {
            // a device tells what is wrong in its own words
            (Expectation::Error(_), Err(_)) => Ok(()),
            (_, found) => case.check(found),
        };
        report.record(&case.name, outcome);
    }
    println!("cases on 'candle': {refused} not claimed, {report}");
    assert!(report.failed().is_empty(), "{report}");
    // most of what models use
    assert!(
        report.passed() > 300 && refused > 0,
        "{refused} not claimed, {report}"
    );
}
