//! The same cases on the CPU device, whose kernels are other code than the reference.

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

#[test]
fn the_cpu_device_gives_what_every_case_says() {
    let exposed = CpuDriver.enumerate().unwrap();
    let device: Arc<dyn Device> = CpuDriver
        .open(&exposed[0], &OpenOptions::default())
        .unwrap();
    let mut all = cases::all();
    let more: Vec<Case> = all.iter().flat_map(with_constants).collect();
    all.extend(more);
    all.extend(
        onnx::cases()
            .unwrap()
            .into_iter()
            .filter_map(|(_, c)| c.ok()),
    );
    let mut report = Report::default();
    for case in all {
        let graph = Arc::new(case.graph.clone());
        let symbols = SymbolValues::default();
        let found = run_on(device.as_ref(), &graph, &case.inputs, &symbols);
        let outcome = match (&case.expected, found) {
            // A device tells what is wrong in its own words.
            (Expectation::Error(_), Err(_)) => Ok(()),
            (_, found) => case.check(found),
        };
        report.record(&case.name, outcome);
    }
    assert!(report.failed().is_empty(), "{report}");
    println!("cases on the CPU device: {report}");
}
