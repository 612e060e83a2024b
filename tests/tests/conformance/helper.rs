//! A device in a helper that dies or hangs: one failed case, and the rest goes on in another helper.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anynpu_hal::isolate::{Helper, IsolatedDriver};
use anynpu_hal::{BufferDesc, Driver, OpenOptions};
use anynpu_tests::conformance::{
    Expectations, Selection, Stop, Subject, Suite, SuiteOptions, TestCase, run,
};

/// Argument by which this test's helpers are told from others.
const MARK: &str = "8675309";

/// Helpers of this test that run.
fn helpers() -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let process = entry.file_name().to_string_lossy().parse();
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if let (Ok(process), true) = (process, String::from_utf8_lossy(&line).contains(MARK)) {
            found.push(process);
        }
    }
    found
}

#[test]
fn a_helper_that_dies_fails_its_case_alone() {
    let helper = Helper {
        program: PathBuf::from(env!("CARGO_BIN_EXE_anynpu-cts")),
        arguments: ["--serve", "--device", "cpu", "--seed", MARK]
            .map(Into::into)
            .to_vec(),
    };
    let driver = IsolatedDriver::new("cpu", helper);
    let exposed = driver.enumerate().expect("a device").remove(0);
    let subject = Subject::of_driver(Arc::new(driver), exposed, OpenOptions::default());
    let mut options = SuiteOptions::default();
    options.deadline = Duration::from_secs(30);
    let works = |id: &str| {
        TestCase::new(id, None, |context| {
            context.device().allocate(&BufferDesc::host("b", 64))?;
            Ok(())
        })
    };
    let dies = TestCase::new("dies", Some("Linear"), |context| {
        for process in helpers() {
            let killed = Command::new("kill")
                .args(["-SEGV", &process.to_string()])
                .status();
            assert!(killed.is_ok_and(|s| s.success()));
        }
        // until it is seen to be gone
        for _ in 0..500 {
            context.device().allocate(&BufferDesc::host("b", 64))?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(Stop::failed("a helper that lives on", "none"))
    });
    let suite = Suite::of(vec![works("before"), dies, works("after")], options).expect("a suite");
    let certificate = run(
        &suite,
        &Arc::new(subject),
        &Selection::default(),
        &Expectations::default(),
        &mut |_| {},
    );
    let outcomes: Vec<_> = certificate
        .cases()
        .iter()
        .map(|c| (c.id.as_str(), c.outcome))
        .collect();
    assert_eq!(
        outcomes,
        [
            ("before", "passed"),
            ("dies", "failed"),
            ("after", "passed")
        ]
    );
    let detail = certificate.cases()[1].detail.as_ref().expect("a detail");
    assert!(detail.found.starts_with("crashed: "), "{}", detail.found);
    assert!(detail.found.contains("signal: 11"), "{}", detail.found);
    assert_eq!(certificate.per_op()["Linear"].failed, 1);
}
