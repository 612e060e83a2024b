//! The program `anynpu-cts`.

use std::process::{Command, Output};

use serde_json::Value;

fn cts(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anynpu-cts"));
    command.args(arguments).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_certificate_is_written_and_the_exit_status_is_0() {
    let folder = tempfile::tempdir().unwrap();
    let (report, junit) = (folder.path().join("r.json"), folder.path().join("r.xml"));
    let out = cts(&[
        "--device",
        "cpu",
        "--filter",
        "op/linear/*",
        "--skip",
        "*edge*",
        "--report",
        report.to_str().unwrap(),
        "--junit",
        junit.to_str().unwrap(),
    ]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("certified for the cases that were selected"));
    assert_eq!(text(&out.stderr), "");
    let json: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["verdict"], "certified");
    assert_eq!(json["device"]["name"], "cpu");
    assert_eq!(json["device"]["capabilities"]["baseline"], true);
    let cases = json["cases"].as_array().unwrap();
    assert_eq!(json["counts"]["passed"], cases.len());
    assert_eq!(json["per_op"]["Linear"]["passed"], cases.len());
    assert!(
        cases
            .iter()
            .all(|c| c["id"].as_str().unwrap().starts_with("op/linear/"))
    );
    let xml = std::fs::read_to_string(junit).unwrap();
    assert_eq!(xml.matches("<testcase ").count(), cases.len());
    assert!(xml.ends_with("</testsuites>\n"));
}

#[test]
fn failures_are_told_and_the_exit_status_is_1() {
    // every submission of the wrapped device from the 3rd on finds it lost
    let arguments = [
        "--device",
        "chaos",
        "--option",
        "faults=submit:3=fail",
        "--filter",
        "op/add/f32/*",
    ];
    let out = cts(&arguments);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    let told = text(&out.stdout);
    for part in [
        "FAILED op/add/f32/",
        "op:       Binary",
        "found:    error: ",
        "failed on purpose",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let out = cts(&[&arguments[..], &["--json"]].concat());
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(json["verdict"], "failed");
    assert_eq!(json["counts"]["failed"], 1);
}

#[test]
fn an_expected_failure_is_none_until_it_passes() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("known.toml");
    let write = |id: &str| {
        let text = format!("[[expect]]\nid = '{id}'\nreason = 'it is chaotic'\n");
        std::fs::write(&list, text).unwrap();
    };
    let call = |device: &str, option: &str| {
        let option = format!("faults={option}");
        let mut arguments = vec!["--device", device, "--filter", "op/add/f32/same"];
        if device == "chaos" {
            arguments.extend(["--option", &option]);
        }
        arguments.extend(["--expect", list.to_str().unwrap()]);
        cts(&arguments).status.code()
    };
    write("op/add/*");
    assert_eq!(call("chaos", "submit:1=fail"), Some(0));
    assert_eq!(call("cpu", ""), Some(1));
    std::fs::write(&list, "[[expect]]\nid = 'x'\n").unwrap();
    assert_eq!(call("cpu", ""), Some(2));
}

#[test]
fn wrong_calls_have_the_exit_status_2() {
    for arguments in [
        &[][..],
        &["--device", "no-such-device"],
        &["--device", "cpu", "--filter", "no/such/case"],
        &["--device", "cpu", "--option", "threads"],
        &["--driver", "/no/such/library.so"],
        &["--no-such-option"],
        &["--device", "cpu", "--onnx", "/no/such/folder"],
    ] {
        let out = cts(arguments);
        assert_eq!(
            out.status.code(),
            Some(2),
            "{arguments:?}: {}",
            text(&out.stdout)
        );
        assert!(!out.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn ids_are_listed_without_a_device() {
    let out = cts(&["--list", "--filter", "states/*"]);
    assert_eq!(out.status.code(), Some(0));
    let ids = text(&out.stdout);
    assert!(
        ids.lines().any(|id| id == "states/append_then_attend"),
        "{ids}"
    );
    assert!(ids.lines().all(|id| id.starts_with("states/")), "{ids}");
}

#[cfg(unix)]
#[test]
fn a_device_in_a_process_of_its_own_is_certified() {
    let out = cts(&[
        "--device",
        "cpu",
        "--isolate",
        "--quick",
        "--skip",
        "op/*",
        "--skip",
        "onnx/*",
    ]);
    assert_eq!(
        out.status.code(),
        Some(0),
        "{}\n{}",
        text(&out.stdout),
        text(&out.stderr)
    );
}

#[cfg(target_os = "linux")]
#[test]
fn the_cpu_backend_and_the_simulated_reference_devices_leak_nothing() {
    for device in [
        "cpu",
        "sim:reference-f32",
        "sim:reference-f16",
        "sim:reference-static",
    ] {
        let out = cts(&["--device", device, "--filter", "leak/*"]);
        let told = text(&out.stdout);
        assert_eq!(out.status.code(), Some(0), "{device}: {told}");
        assert!(told.contains("3 passed, 0 failed, 0 not claimed"), "{told}");
    }
}
