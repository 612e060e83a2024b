//! The same cases on the CPU device, whose kernels are other code than the reference, and on a simulated
//! device over it.

use std::sync::Arc;

use anynpu_cpu::CpuDriver;
use anynpu_hal::{Device, Driver, OpenOptions};
use anynpu_ir::{Graph, SymbolValues};
use anynpu_tests::{Case, Expectation, Report, cases, onnx, run_on, type_of};

/// The cases of a single op again, each of its operands in turn being the only one that is not a
/// constant: devices treat weights in other ways.
fn with_constants(case: &Case) -> Vec<Case> {
    let ([node], false) = (case.graph.nodes(), case.inputs.len() < 2) else {
        return Vec::new();
    };
    let variant = |kept: usize| {
        let mut graph = Graph::new("constants");
        let mut operands = Vec::new();
        for (i, tensor) in case.inputs.iter().enumerate() {
            let (name, ty) = (format!("operand{i}"), type_of(tensor));
            operands.push(match i == kept {
                true => graph.add_input(name, ty).unwrap(),
                false => graph.add_constant(name, ty, tensor.to_bytes()).unwrap(),
            });
        }
        for id in graph.add_node("node", node.op.clone(), &operands).unwrap() {
            graph.set_output(id).unwrap();
        }
        Case {
            name: format!("{} with operand {kept} and constants", case.name),
            graph,
            inputs: vec![case.inputs[kept].clone()],
            expected: case.expected.clone(),
        }
    };
    (0..case.inputs.len()).map(variant).collect()
}

fn open(driver: &dyn Driver) -> Arc<dyn Device> {
    let exposed = driver.enumerate().unwrap();
    driver.open(&exposed[0], &OpenOptions::default()).unwrap()
}

/// Every case on `device`.
fn check(device: &dyn Device) {
    let mut all = cases::all();
    let more: Vec<Case> = all.iter().flat_map(with_constants).collect();
    all.extend(more);
    all.extend(
        onnx::cases()
            .unwrap()
            .into_iter()
            .filter_map(|mapped| mapped.case.ok()),
    );
    let mut report = Report::default();
    for case in all {
        let graph = Arc::new(case.graph.clone());
        let symbols = SymbolValues::default();
        let found = run_on(device, &graph, &case.inputs, &symbols);
        let outcome = match (&case.expected, found) {
            // A device tells what is wrong in its own words.
            (Expectation::Error(_), Err(_)) => Ok(()),
            (_, found) => case.check(found),
        };
        report.record(&case.name, outcome);
    }
    assert!(report.failed().is_empty(), "{report}");
    println!("cases on '{}': {report}", device.info().name);
}

#[test]
fn the_cpu_device_gives_what_every_case_says() {
    check(&*open(&CpuDriver));
}

#[test]
fn a_simulated_device_that_runs_everything_gives_what_every_case_says() {
    check(&*open(
        &anynpu_backends::simulated("reference-f32").unwrap(),
    ));
}

/// In f16 numbers differ, but every case runs, is refused with a reason, or fails where it must.
#[test]
fn a_simulated_device_in_f16_runs_every_case_or_says_why_not() {
    let device = open(&anynpu_backends::simulated("reference-f16").unwrap());
    let (mut ran, mut refused) = (0, 0);
    for case in cases::all() {
        let graph = Arc::new(case.graph.clone());
        let verdicts = device.support(&graph.whole());
        let reasons: Vec<_> = verdicts.iter().filter_map(|v| v.reason()).collect();
        let symbols = SymbolValues::default();
        let found = run_on(&*device, &graph, &case.inputs, &symbols);
        match (&case.expected, found) {
            (Expectation::Values(expected, _), Ok(found)) => {
                assert!(reasons.is_empty(), "{}: {reasons:?}", case.name);
                assert_eq!(found.len(), expected.len(), "{}", case.name);
                ran += 1;
            }
            (Expectation::Values(..), Err(e)) => {
                assert!(!reasons.is_empty(), "{}: {e}", case.name);
                assert!(reasons.iter().all(|r| !r.detail.is_empty()), "{reasons:?}");
                refused += 1;
            }
            (Expectation::Error(_), Err(_)) => {}
            (Expectation::Error(what), Ok(_)) => panic!("{} gives no error {what}", case.name),
        }
    }
    assert!(
        ran > 100 && refused < ran / 4,
        "{ran} ran, {refused} were refused"
    );
    println!("cases in f16: {ran} ran, {refused} were refused");
}
