//! The conformance suite on the engine.

use std::sync::Arc;

use anynpu_hal::{Driver, OpenOptions};
use anynpu_tests::conformance::{Expectations, Selection, Subject, Suite, SuiteOptions, run};

use crate::plugin;

/// Ops of which the engine claims something.
const CLAIMED: &[&str] = &[
    "Attention",
    "Binary",
    "Broadcast",
    "Concat",
    "Embedding",
    "Gather",
    "GatedActivation",
    "LayerNorm",
    "Linear",
    "MatMul",
    "Reduce",
    "Reshape",
    "RmsNorm",
    "Rope",
    "Select",
    "Slice",
    "Softmax",
    "Split",
    "Transpose",
    "Unary",
];

#[test]
fn the_engine_is_certified_for_what_it_claims() {
    let Some(driver) = plugin("the_engine_is_certified_for_what_it_claims") else {
        return;
    };
    let exposed = driver.enumerate().unwrap().remove(0);
    let subject = Subject::of_driver(Arc::new(driver), exposed, OpenOptions::default());
    let mut options = SuiteOptions::default();
    options.quick = true;
    let suite = Suite::new(options).unwrap();
    let (all, none) = (Selection::default(), Expectations::default());
    let certificate = run(&suite, &Arc::new(subject), &all, &none, &mut |_| {});
    let failed = certificate.cases().iter().filter(|c| c.outcome == "failed");
    let failed: Vec<String> = failed
        .map(|c| format!("{}: {:?}", c.id, c.detail))
        .collect();
    assert!(certificate.certified(), "{failed:#?}");
    let counts = certificate.counts();
    println!("candle: {counts:?}");
    let ops = certificate.per_op();
    let idle = |op: &&&str| ops.get(**op).is_none_or(|o| o.passed == 0);
    let missing: Vec<&&str> = CLAIMED.iter().filter(idle).collect();
    assert!(missing.is_empty(), "nothing passed of {missing:?}");
}
