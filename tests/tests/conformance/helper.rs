//! A device in a helper that dies or hangs: one failed case, and the rest goes on in another helper.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anynpu_hal::isolate::{Helper, IsolatedDriver};
use anynpu_hal::{BufferDesc, Driver, OpenOptions};
use anynpu_tests::conformance::{
    Expectations, Selection, Subject, Suite, SuiteOptions, TestCase, run,
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

/// Ends them as a wild pointer would.
fn kill() {
    for process in helpers() {
        let mut killed = Command::new("kill");
        killed
            .args(["-SEGV", &process.to_string()])
            .stderr(Stdio::null());
        // it may have ended meanwhile
        let _ = killed.status();
    }
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
        let seen = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !seen.load(Ordering::Relaxed) {
                    kill();
                    std::thread::sleep(Duration::from_millis(30));
                }
            });
            // one that dies between calls is replaced, so a call must be waiting
            let ended = (0..100_000).try_for_each(|_| {
                let buffer = context.device().allocate(&BufferDesc::host("b", 64));
                buffer.map(|_| ())
            });
            seen.store(true, Ordering::Relaxed);
            Ok(ended?)
        })
    });
    let dies_unseen = TestCase::new("dies_unseen", None, |_| {
        while !helpers().is_empty() {
            kill();
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    });
    let suite = Suite::of(
        vec![
            works("before"),
            dies,
            works("after"),
            dies_unseen,
            works("at_last"),
        ],
        options,
    )
    .expect("a suite");
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
    let wanted = [
        ("before", "passed"),
        ("dies", "failed"),
        ("after", "passed"),
        ("dies_unseen", "failed"),
        ("at_last", "passed"),
    ];
    assert_eq!(outcomes, wanted);
    let detail = certificate.cases()[1].detail.as_ref().expect("a detail");
    assert!(detail.found.starts_with("crashed: "), "{}", detail.found);
    assert!(detail.found.contains("signal: 11"), "{}", detail.found);
    assert_eq!(certificate.per_op()["Linear"].failed, 1);
}
