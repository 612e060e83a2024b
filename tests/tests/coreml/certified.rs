//! The suite that certifies devices, on Core ML's, computed by Apple's definitions of operations.

use std::sync::Arc;

use anynpu_coreml::{CoreMlDriver, Precision};
use anynpu_hal::{Driver, OpenOptions};
use anynpu_tests::conformance::{Expectations, Glob, Selection, Subject, Suite, SuiteOptions, run};

use crate::computed::Computed;

/// Cases that fail on both devices, and why.
const EXPECTED: &[(&str, &[&str])] = &[
    (
        "LOG and RSQRT add the least number that there is, so that of 0 they are finite",
        &["log/f32/log", "rsqrt/f32/special_edge_zero"],
    ),
    (
        "what becomes of numbers that are no integers of 32 bits is not told",
        &["cast/f32/to_i32_edge_saturation"],
    ),
    (
        "the order of equal numbers and of NaN is not told",
        &[
            "top_k/f32/orders_ties_by_index_and_nan_first",
            "top_k/f32/special_edge_nan",
        ],
    ),
    (
        "what is in masks is not looked at",
        &["attention/f32/names_a_query_that_sees_nothing"],
    ),
    (
        "minima of blocks become offsets, times a scale",
        &[
            "embedding/q4_1/ids*",
            "embedding/q4_1/first_and_last",
            "embedding/q5_1/ids*",
            "embedding/q5_1/first_and_last",
            "embedding/q4_k/*",
            "embedding/q5_k/*",
            "gather/q4_1/rows",
            "gather/q5_1/rows",
            "gather/q4_k/rows",
            "gather/q5_k/rows",
        ],
    ),
];

/// Those that fail on the graphics processor in F32, as numbers have it outside.
const EXPECTED_F32: &[(&str, &[&str])] = &[
    (
        "LOG and RSQRT add the least number that there is, so that of 0 they are finite",
        &[
            "log/f32/special_edge_zero",
            "rsqrt/f32/rsqrt",
            "rsqrt/f32/special_edge_denormal",
        ],
    ),
    (
        "minima of blocks become offsets, times a scale",
        &["embedding/q4_1/one_id"],
    ),
    (
        "the order of equal numbers and of NaN is not told",
        &["top_k/f32/rows", "top_k/f32/rank4"],
    ),
];

/// Those that fail in the form for the Neural Engine.
const EXPECTED_ENGINE: &[(&str, &[&str])] = &[(
    "blocks become 8 bits with a scale a row",
    &[
        "embedding/q4_0/*",
        "embedding/q4_1/one_id",
        "embedding/q5_1/one_id",
        "embedding/q6_k/*",
        "gather/q4_0/rows",
        "gather/q6_k/rows",
    ],
)];

/// Those that fail in F16.
const EXPECTED_F16: &[(&str, &[&str])] = &[(
    "weights that are no numbers of 16 bits are refused",
    &[
        "add/f32/add",
        "sub/f32/sub",
        "mul/f32/mul",
        "div/f32/div",
        "pow/f32/pow",
        "max/f32/max",
        "min/f32/min",
        "equal/f32/equal",
        "less/f32/less",
        "less_equal/f32/less_equal",
        "greater/f32/greater",
        "greater_equal/f32/greater_equal",
    ],
)];

/// Those of a device, as the suite reads them.
fn expected(device: &str, precision: Precision) -> Expectations {
    let own: &[_] = match (device, precision) {
        ("coreml", _) => &[EXPECTED_ENGINE, EXPECTED_F16],
        (_, Precision::F32) => &[EXPECTED_F32],
        (_, Precision::F16) => &[EXPECTED_F16],
    };
    let mut text = String::new();
    for (reason, cases) in EXPECTED.iter().chain(own.iter().copied().flatten()) {
        for case in *cases {
            text += &format!("[[expect]]\nid = \"op/{case}\"\nreason = \"{reason}\"\n");
        }
    }
    Expectations::parse(&text).unwrap()
}

fn certify(engine: &Computed, device: &str, precision: Precision) {
    let mut driver = CoreMlDriver::with_engine(Arc::new(engine.clone()));
    driver.precision = Some(precision);
    let exposed = driver.enumerate().unwrap();
    let exposed = exposed.into_iter().find(|e| e.info.name == device).unwrap();
    let subject = Subject::of_driver(Arc::new(driver), exposed, OpenOptions::default());
    let mut options = SuiteOptions::default();
    options.quick = true;
    let selection = Selection {
        only: Vec::new(),
        // what this process holds tells of one device only where no other test runs in it
        skip: vec![Glob::new("leak/*")],
    };
    let suite = Suite::new(options).unwrap();
    let (subject, expected) = (Arc::new(subject), expected(device, precision));
    let certificate = run(&suite, &subject, &selection, &expected, &mut |_| {});
    let failed = certificate.cases().iter().filter(|c| c.outcome == "failed");
    let failed: Vec<String> = failed
        .map(|c| {
            let detail = c.detail.as_ref().unwrap();
            let at = &detail.at;
            format!("{} {at}: {} / {}", c.id, detail.found, detail.expected)
        })
        .collect();
    println!("{device} {precision}: {:?}", certificate.counts());
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(certificate.certified());
    let counts = certificate.counts();
    assert!(counts.passed > 100, "{counts:?}");
}

#[test]
fn devices_are_certified_for_what_they_claim() {
    let test = "devices_are_certified_for_what_they_claim";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    certify(&engine, "coreml:gpu", Precision::F32);
}

#[test]
fn devices_that_compute_in_16_bits_are_certified_for_what_they_claim() {
    let test = "devices_that_compute_in_16_bits_are_certified_for_what_they_claim";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    certify(&engine, "coreml", Precision::F16);
}

#[test]
fn devices_with_states_of_their_own_are_certified_for_what_they_claim() {
    let test = "devices_with_states_of_their_own_are_certified_for_what_they_claim";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    certify(&engine, "coreml:gpu", Precision::F16);
}
