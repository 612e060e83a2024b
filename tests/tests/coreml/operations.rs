//! Every operation as a package of its own, beside the slow reference.

use anynpu_coreml::{DeploymentTarget, Precision};

use crate::cases::{Case, cases, form};
use crate::checker::{Checker, accepted};
use crate::npz;

/// What results may differ by, absolutely and of each number: the last places of F32, and of F16.
const F32: &str = "2e-4";
const F16: &str = "1e-2";

/// Writes what `case` is given and must give.
fn files(checker: &Checker, case: &Case) -> [String; 2] {
    let inputs = checker.path(&format!("{}.inputs.npz", case.name));
    let expected = checker.path(&format!("{}.expected.npz", case.name));
    npz::write(&inputs, &case.inputs).unwrap();
    npz::write(&expected, &case.expected()).unwrap();
    [inputs, expected].map(|p| p.to_str().unwrap().to_owned())
}

#[test]
fn every_operation_is_what_the_reference_computes() {
    let test = "every_operation_is_what_the_reference_computes";
    let Some(mut checker) = Checker::find(test) else {
        return;
    };
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut names = Vec::new();
    for case in &cases {
        let [inputs, expected] = files(&checker, case);
        for (precision, bound) in [(Precision::F32, F32), (Precision::F16, F16)] {
            let name = format!("{}.{precision}", case.name);
            let package = checker.path(&format!("{name}.mlpackage"));
            case.write(&package, &form("iOS18", precision, false))
                .unwrap();
            let options = [
                "--inputs", &inputs, "--expect", &expected, "--atol", bound, "--rtol", bound,
            ];
            checker.check(&package, &options);
            names.push(name);
        }
    }
    let mut faults = Vec::new();
    for (name, said) in names.iter().zip(checker.run()) {
        if said["rc"] != 0 {
            faults.push(format!("{name}: {}", said["problems"]));
        }
    }
    assert!(
        faults.is_empty(),
        "{} of {}:\n{}",
        faults.len(),
        names.len(),
        faults.join("\n")
    );
}

#[test]
fn every_operation_is_one_of_every_system_that_has_it() {
    let test = "every_operation_is_one_of_every_system_that_has_it";
    let Some(mut checker) = Checker::find(test) else {
        return;
    };
    let mut names = Vec::new();
    for case in cases() {
        for target in ["iOS15", "iOS16", "macOS14", "iOS26"] {
            let name = format!("{}.{target}", case.name);
            let package = checker.path(&format!("{name}.mlpackage"));
            case.write(&package, &form(target, Precision::F16, false))
                .unwrap();
            checker.check(&package, &[]);
            names.push(name);
        }
    }
    for (name, said) in names.iter().zip(checker.run()) {
        accepted(name, &said);
        let target: DeploymentTarget = name.rsplit('.').next().unwrap().parse().unwrap();
        assert_eq!(said["spec"], target.specification(), "{name}");
        assert_eq!(said["functions"]["main"]["opset"], target.opset(), "{name}");
    }
}
