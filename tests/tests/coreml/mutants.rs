//! Packages with a fault each, which the checker must find: it would be no check otherwise.

use std::path::Path;
use std::process::Command;

use anynpu_coreml::Precision;
use anynpu_ir::{DType, Op};

use crate::cases::{Case, attention, form};
use crate::checker::{Checker, accepted};

/// A product, attention and a norm.
fn case() -> Case {
    let mut c = Case::new("valid");
    c.matrices = DType::Q8_0;
    let (x, w) = (c.x("x", &[3, 64]), c.w("w", &[64, 64]));
    let gain = c.w("gain", &[16]);
    let y = c.op(Op::Linear, &[x, w]);
    let shape = anynpu_ir::Shape::fixed(&[3, 4, 16]);
    let y = c.op(Op::Reshape { shape }, &[y]);
    let y = c.op(attention(false, None, None), &[y, y, y]);
    let y = c.op(Op::RmsNorm { eps: 1e-5 }, &[y, gain]);
    c.graph.set_output(y).unwrap();
    c
}

#[test]
fn packages_with_a_fault_are_all_rejected() {
    let Some(mut checker) = Checker::find("packages_with_a_fault_are_all_rejected") else {
        return;
    };
    let valid = checker.path("valid.mlpackage");
    case()
        .write(&valid, &form("iOS18", Precision::F16, false))
        .unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/coreml/mutants.py");
    let output = Command::new(checker.python())
        .arg(script)
        .arg(&valid)
        .arg(checker.folder.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text.lines().collect();
    assert!(names.len() >= 20, "{}", names.len());
    checker.check(&valid, &[]);
    for name in &names {
        let package = checker.path(&format!("{name}.mlpackage"));
        checker.check(&package, &[]);
    }
    let said = checker.run();
    accepted("valid", &said[0]);
    let passed: Vec<&&str> = names
        .iter()
        .zip(&said[1..])
        .filter(|(_, s)| s["rc"] == 0)
        .map(|(n, _)| n)
        .collect();
    assert!(passed.is_empty(), "not found: {passed:?}");
}
