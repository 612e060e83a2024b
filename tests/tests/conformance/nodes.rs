//! The ONNX project's own node tests, out of its Python package.

use std::path::PathBuf;

use anynpu_tests::conformance::SuiteOptions;
use anynpu_tests::onnx::{self, Refusal};

use crate::{certify, failures};

/// The folder of the tests; a line tells that `test` was skipped if it is not named.
fn folder(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("ANYNPU_ONNX_NODE_TESTS");
    if folder.is_none() {
        println!("SKIPPED {test}: ANYNPU_ONNX_NODE_TESTS is not set");
    }
    folder.map(PathBuf::from)
}

#[test]
fn the_cpu_backend_passes_the_onnx_node_tests_that_can_be_written() {
    let Some(folder) = folder("the_cpu_backend_passes_the_onnx_node_tests_that_can_be_written")
    else {
        return;
    };
    let mut options = SuiteOptions::default();
    options.onnx = Some(folder);
    let certificate = certify(anynpu_cpu::CpuDriver, options, &["onnx/*"]);
    assert!(certificate.certified(), "{:#?}", failures(&certificate));
    let counts = certificate.counts();
    println!("ONNX node tests: {counts:?}");
    assert!(counts.passed >= 400, "{counts:?}");
    let softmax = certificate.per_op().get("onnx.Softmax").copied();
    assert!(softmax.is_some_and(|n| n.passed >= 7), "{softmax:?}");
}

#[test]
fn the_mapping_has_no_faults_on_the_onnx_node_tests() {
    let Some(folder) = folder("the_mapping_has_no_faults_on_the_onnx_node_tests") else {
        return;
    };
    let mapped = onnx::cases_in(&folder).unwrap();
    let faults: Vec<_> = mapped
        .iter()
        .filter_map(|m| match &m.case {
            Err(Refusal::Fault(why)) => Some(format!("{}: {why}", m.name)),
            _ => None,
        })
        .collect();
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(mapped.len() >= 1600, "{}", mapped.len());
}

#[test]
fn a_folder_without_tests_is_refused() {
    let empty = tempfile::tempdir().unwrap();
    assert!(onnx::cases_in(empty.path()).is_err());
    let test = empty.path().join("test_broken");
    std::fs::create_dir(&test).unwrap();
    std::fs::write(test.join("model.onnx"), [0xff; 40]).unwrap();
    let mapped = onnx::cases_in(empty.path()).unwrap();
    assert!(matches!(mapped[0].case, Err(Refusal::Skip(_))));
}
