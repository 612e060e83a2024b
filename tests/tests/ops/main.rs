//! What every op of the op set must give, checked on the reference.

use anynpu_tests::{Report, cases};

#[test]
fn the_reference_gives_what_every_case_says() {
    let mut report = Report::default();
    for case in cases::all() {
        report.record(&case.name, case.check(case.run_reference()));
    }
    assert!(report.failed().is_empty(), "{report}");
    println!("cases worked out by hand: {report}");
}

#[test]
fn case_names_are_unique() {
    let mut names: Vec<String> = cases::all().into_iter().map(|c| c.name).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}
