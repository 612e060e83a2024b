//! The suite that certifies devices, on those of the stand-in.

use std::sync::Arc;

use anynpu_hal::{Driver, OpenOptions};
use anynpu_nnapi::NnapiDriver;
use anynpu_nnapi::lower::Numbers;
use anynpu_tests::conformance::{
    Certificate, Expectations, Glob, Selection, Subject, Suite, SuiteOptions, run,
};

use crate::{LEVELS, Placed};

/// What the interface leaves to drivers.
const EXPECTED: &str = r#"
[[expect]]
id = "op/relu/f32/*nan*"
reason = "what becomes of NaN in RELU is the driver's"
[[expect]]
id = "op/gelu/f32/special_edge_inf"
reason = "its tail is infinity times 0"
"#;

/// Operations that bound their results, be it by all numbers, as Android's own reference and the stand-in do.
const BOUNDED: &[&str] = &[
    "op/add/f32/add",
    "op/sub/f32/sub",
    "op/mul/f32/mul",
    "op/div/f32/div",
    "op/add/f32/special_edge_*inf",
    "op/sub/f32/special_edge_*inf",
    "op/mul/f32/special_edge_*inf",
    "op/div/f32/special_edge_*inf",
    "op/linear/f32/small_edge_*inf",
    "op/relu/f32/special_edge_inf",
    "op/silu/f32/special_edge_inf",
    "op/gelu_tanh/f32/special_edge_inf",
    "op/gelu_quick/f32/special_edge_inf",
];

/// Certifies the best device of `driver`, but for what the interface leaves to drivers, and `others` with reasons.
pub fn certify(driver: NnapiDriver, others: &[(&str, &str)]) -> Certificate {
    let mut expected = EXPECTED.to_owned();
    // the largest number of 32 bits is infinity in 16
    let bounded = match driver.numbers {
        Some(Numbers::F16) => &[],
        _ => BOUNDED,
    };
    let bounded = bounded
        .iter()
        .map(|id| (*id, "infinity becomes the largest number"));
    for (id, reason) in bounded.chain(others.iter().copied()) {
        expected += &format!("[[expect]]\nid = \"{id}\"\nreason = \"{reason}\"\n");
    }
    let exposed = driver.enumerate().unwrap().remove(0);
    let subject = Subject::of_driver(Arc::new(driver), exposed, OpenOptions::default());
    let mut options = SuiteOptions::default();
    options.quick = true;
    let selection = Selection {
        only: Vec::new(),
        // what this process holds tells of one device only where no other test runs in it
        skip: vec![Glob::new("leak/*")],
    };
    let suite = Suite::new(options).unwrap();
    let (subject, expected) = (Arc::new(subject), Expectations::parse(&expected).unwrap());
    let certificate = run(&suite, &subject, &selection, &expected, &mut |_| {});
    let failed = certificate.cases().iter().filter(|c| c.outcome == "failed");
    let failed: Vec<String> = failed
        .map(|c| {
            let detail = c.detail.as_ref().unwrap();
            let at = &detail.at;
            format!("{} {at}: {} / {}", c.id, detail.found, detail.expected)
        })
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(certificate.certified());
    println!(
        "{}: {:?}",
        certificate.device().description,
        certificate.counts()
    );
    certificate
}

#[test]
fn devices_of_every_level_are_certified_for_what_they_claim() {
    for level in LEVELS {
        let placed = Placed::accelerated(level);
        let counts = certify(placed.driver(), &[]).counts();
        assert!(counts.passed > 100, "{level}: {counts:?}");
    }
}

#[test]
fn devices_that_compute_in_16_bits_are_certified_for_what_they_claim() {
    let placed = Placed::accelerated(LEVELS[0]);
    for numbers in [Numbers::Relaxed, Numbers::F16] {
        let mut driver = placed.driver();
        driver.numbers = Some(numbers);
        let counts = certify(driver, &[]).counts();
        assert!(counts.passed > 100, "{numbers}: {counts:?}");
    }
}
