//! The conformance suite: devices of this build pass it, devices with a planted fault don't.

mod faults;
mod faulty;
#[cfg(target_os = "linux")]
mod helper;
mod nodes;
#[cfg(unix)]
mod plugin;
mod program;

use std::sync::Arc;

use anynpu_hal::{Driver, OpenOptions};
use anynpu_tests::conformance::{
    Certificate, Expectations, Glob, Selection, Subject, Suite, SuiteOptions, run,
};

/// What the suite says of the first device of `driver`.
fn certify(driver: impl Driver + 'static, options: SuiteOptions, only: &[&str]) -> Certificate {
    certify_but(driver, options, only, &Expectations::default())
}

/// As [`certify`], with expected failures.
fn certify_but(
    driver: impl Driver + 'static,
    options: SuiteOptions,
    only: &[&str],
    expectations: &Expectations,
) -> Certificate {
    let exposed = driver.enumerate().expect("a device").remove(0);
    let subject = Subject::of_driver(Arc::new(driver), exposed, OpenOptions::default());
    let suite = Suite::new(options).expect("a suite");
    let selection = Selection {
        only: only.iter().map(|&glob| Glob::new(glob)).collect(),
        // what this process holds tells of one device only where no other test runs in it: see program.rs
        skip: match only.is_empty() {
            true => vec![Glob::new("leak/*")],
            false => Vec::new(),
        },
    };
    run(
        &suite,
        &Arc::new(subject),
        &selection,
        expectations,
        &mut |_| {},
    )
}

/// The failed cases, a line each.
fn failures(certificate: &Certificate) -> Vec<String> {
    let failed = certificate.cases().iter().filter(|c| c.outcome == "failed");
    failed
        .map(|c| {
            let detail = c.detail.as_ref().expect("a failure has a detail");
            let op = c.op.as_deref().unwrap_or("none");
            format!(
                "{} [{op}] {}: {} / {}",
                c.id, detail.at, detail.found, detail.expected
            )
        })
        .collect()
}

fn passes(driver: impl Driver + 'static, options: SuiteOptions) -> Certificate {
    let certificate = certify(driver, options, &[]);
    assert!(certificate.certified(), "{:#?}", failures(&certificate));
    let counts = certificate.counts();
    println!("{}: {counts:?}", certificate.device().description);
    certificate
}

fn quick() -> SuiteOptions {
    let mut options = SuiteOptions::default();
    options.quick = true;
    options
}

#[test]
fn the_cpu_backend_is_certified() {
    let certificate = passes(anynpu_cpu::CpuDriver, SuiteOptions::default());
    let counts = certificate.counts();
    assert!(counts.passed > 4000, "{counts:?}");
    // what it need not have: compiled blobs, a limit of its memory, states in every type
    let refused = certificate
        .cases()
        .iter()
        .filter(|c| c.outcome == "not_claimed");
    let kinds: Vec<&str> = refused
        .map(|c| c.id.split('/').next().unwrap_or(""))
        .collect();
    assert!(
        kinds
            .iter()
            .all(|k| ["blob", "memory", "states"].contains(k)),
        "{kinds:?}"
    );
}

#[test]
fn the_simulated_reference_devices_are_certified() {
    for name in ["reference-f32", "reference-f16", "reference-static"] {
        passes(
            anynpu_backends::simulated(name).unwrap(),
            SuiteOptions::default(),
        );
    }
}

#[test]
fn every_simulated_device_is_certified_for_what_it_claims() {
    for shipped in anynpu_backends::SHIPPED {
        let certificate = passes(anynpu_backends::simulated(shipped.name).unwrap(), quick());
        assert!(certificate.counts().passed > 20, "{}", shipped.name);
    }
}

#[test]
fn another_seed_draws_other_numbers_that_are_right_too() {
    let mut options = quick();
    options.seed = 77;
    passes(anynpu_cpu::CpuDriver, options);
}

#[test]
fn a_suite_has_the_same_ids_each_time_and_the_quick_one_asks_less() {
    let all = Suite::new(SuiteOptions::default()).unwrap();
    let again = Suite::new(SuiteOptions::default()).unwrap();
    assert_eq!(all.hash(), again.hash());
    let part = Suite::new(quick()).unwrap();
    assert!(part.cases().len() < all.cases().len());
    assert_ne!(all.hash(), part.hash());
    for id in [
        "op/linear/f32/with_bias",
        "op/rms_norm/f32/edge_nan",
        "states/append_then_attend",
        "leak/1000_rounds",
        "onnx/test_softmax_axis_0",
        "lifecycle/opened_twice",
        "threads/two_devices",
        "memory/absurd_allocation",
        "blob/truncated",
    ] {
        assert!(all.cases().iter().any(|c| c.id() == id), "{id}");
    }
}
