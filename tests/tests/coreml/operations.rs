//! Every operation as a package of its own, beside the slow reference.

use anynpu_coreml::lower::{Form, engine};
use anynpu_coreml::weights::WeightForm;
use anynpu_coreml::{DeploymentTarget, Precision};
use anynpu_cpu::reference::Tensor;
use anynpu_ir::Op;

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
    println!("{} forms of operations", cases.len());
    assert!(cases.len() >= 60);
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

/// What the Neural Engine's caller makes itself is no matter of one operation.
fn is_alone(case: &Case) -> bool {
    case.graph.nodes().iter().all(|n| match n.op {
        Op::Rope { .. } => false,
        Op::Attention { causal, mask, .. } => !causal && !mask,
        _ => true,
    })
}

/// `expected` in parts of the features that one product has.
fn in_parts(expected: Vec<(String, Tensor)>) -> Vec<(String, Tensor)> {
    let most = engine::PART as usize;
    let mut all = Vec::new();
    for (name, tensor) in expected {
        match *tensor.shape() {
            [rows, columns] if columns > most => {
                let numbers = tensor.to_f32().unwrap();
                for (part, first) in (0..columns).step_by(most).enumerate() {
                    let own = first..(first + most).min(columns);
                    let rows_of_part = numbers.chunks(columns).flat_map(|row| &row[own.clone()]);
                    let part_of_all = rows_of_part.copied().collect::<Vec<f32>>();
                    let tensor = Tensor::new(vec![rows, own.len()], part_of_all).unwrap();
                    all.push((format!("{name}_{part}"), tensor));
                }
            }
            _ => all.push((name, tensor)),
        }
    }
    all
}

#[test]
fn operations_are_the_same_in_the_form_for_the_neural_engine() {
    let test = "operations_are_the_same_in_the_form_for_the_neural_engine";
    let Some(mut checker) = Checker::find(test) else {
        return;
    };
    let mut names = Vec::new();
    for case in cases().iter().filter(|c| is_alone(c)) {
        let inputs = checker.path(&format!("{}.inputs.npz", case.name));
        let expected = checker.path(&format!("{}.expected.npz", case.name));
        npz::write(&inputs, &case.inputs).unwrap();
        npz::write(&expected, &in_parts(case.expected())).unwrap();
        let package = checker.path(&format!("{}.mlpackage", case.name));
        // matrices of few bits are held in another form there
        let form = Form {
            weights: WeightForm::Float,
            ..form("iOS18", Precision::F16, true)
        };
        case.write(&package, &form).unwrap();
        let [inputs, expected] = [&inputs, &expected].map(|p| p.to_str().unwrap());
        let options = [
            "--inputs", inputs, "--expect", expected, "--atol", F16, "--rtol", F16,
        ];
        checker.check(&package, &options);
        names.push(case.name.clone());
    }
    assert!(names.len() > 100, "{}", names.len());
    for (name, said) in names.iter().zip(checker.run()) {
        accepted(name, &said);
    }
}

/// A product of 8 tokens with weights in a form. Results are of some size 6.
#[test]
fn every_form_of_weights_is_read_as_it_was_written() {
    let test = "every_form_of_weights_is_read_as_it_was_written";
    let Some(mut checker) = Checker::find(test) else {
        return;
    };
    // less than what one number in another place would change, of what forms of so many bits leave
    let forms = [
        (WeightForm::Float, "0.02"),
        (WeightForm::Int8, "0.15"),
        (WeightForm::Lut8, "0.15"),
        (WeightForm::Lut6, "0.5"),
        (WeightForm::Lut4, "1.5"),
        (WeightForm::Int4, "2"),
    ];
    let mut case = Case::new("product");
    let (x, w) = (case.x("x", &[8, 96]), case.w("w", &[48, 96]));
    let y = case.op(Op::Linear, &[x, w]);
    case.graph.set_output(y).unwrap();
    let [inputs, expected] = files(&checker, &case);
    let mut names = Vec::new();
    for target in ["iOS16", "iOS17", "iOS18"] {
        for engine in [false, true] {
            for (weights, bound) in forms {
                if weights == WeightForm::Int4 && target != "iOS18" {
                    continue;
                }
                let name = format!("{weights}.{target}.{engine}");
                let package = checker.path(&format!("{name}.mlpackage"));
                let form = Form {
                    weights,
                    ..form(target, Precision::F16, engine)
                };
                case.write(&package, &form).unwrap();
                let options = [
                    "--inputs", &inputs, "--expect", &expected, "--atol", bound, "--rtol", "0",
                ];
                checker.check(&package, &options);
                names.push(name);
            }
        }
    }
    for (name, said) in names.iter().zip(checker.run()) {
        accepted(name, &said);
    }
}
