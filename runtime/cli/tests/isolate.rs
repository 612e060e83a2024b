//! Drivers in processes of their own.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{anynpu, json, text};

const RUN: &[&str] = &[
    "run",
    "-p",
    "Once upon a time",
    "-n",
    "24",
    "--temp",
    "0",
    "--json",
];

fn run(more: &[&str]) -> serde_json::Value {
    json(&[RUN, more].concat())
}

#[test]
fn an_isolated_device_gives_the_tokens_of_the_cpu_and_counts_its_nodes() {
    let cpu = run(&["--device", "cpu"]);
    for device in ["chaos", "sim:reference-f32"] {
        let name = device.split(':').next().unwrap();
        let devices = format!("cpu,{device}");
        let place = format!("layers.*={name}");
        let more = ["--device", &devices, "--place", &place];
        let here = run(&more);
        let isolated = run(&[&more[..], &["--isolate"]].concat());
        assert_eq!(isolated["tokens"], cpu["tokens"], "{device}");
        let counts = |r: &serde_json::Value| {
            let of = |d: &str, key: &str| r["executed"]["devices"][d][key].as_u64().unwrap_or(0);
            [of("cpu", "nodes"), of(name, "nodes"), of(name, "segments")]
        };
        assert_eq!(counts(&isolated), counts(&here), "{device}");
        assert_eq!(isolated["warnings"], here["warnings"]);
    }
}

#[test]
fn what_goes_wrong_when_it_is_tried_is_kept_away() {
    let cpu = run(&["--device", "cpu"]);
    // it computes nothing and says yes to all
    let believed = run(&["--device", "cpu,noop", "--place", "layers.*=noop"]);
    assert_ne!(believed["tokens"], cpu["tokens"]);
    let tried = run(&["--device", "noop,cpu", "--isolate", "--self-check"]);
    assert_eq!(tried["tokens"], cpu["tokens"]);
    let warnings = tried["warnings"].to_string();
    assert!(
        warnings.contains("device 'noop' is not used for"),
        "{warnings}"
    );
    let right = run(&[
        "--device",
        "cpu,sim:reference-f32",
        "--isolate",
        "--self-check",
    ]);
    assert_eq!(right["tokens"], cpu["tokens"]);
    assert!(!right["warnings"].to_string().contains("is not used for"));
}

#[test]
fn a_device_that_does_not_exist_is_named_as_without_isolation() {
    let out = anynpu(&["run", "--device", "npu", "--isolate"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("'npu'"));
}

/// Processes started by `parent`.
fn children(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).unwrap();
    let files = tasks.map(|t| t.unwrap().path().join("children"));
    let lists = files.filter_map(|f: PathBuf| std::fs::read_to_string(f).ok());
    let all = lists.flat_map(|l| l.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    all.map(|n| n.parse().unwrap()).collect()
}

/// What follows a helper's end is what the devices that are left compute, which here is the same.
#[test]
fn a_driver_s_process_that_is_killed_costs_no_token() {
    let command = |isolate: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anynpu"));
        command.args(["run", "-p", "Once upon a time", "-n", "150", "--temp", "0"]);
        if isolate {
            command.args(["--device", "cpu,sim:reference-f32", "--isolate"]);
        }
        command.stdin(Stdio::null());
        command
    };
    let undisturbed = command(false).output().unwrap();
    let mut program = command(true)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(program.stdout.take().unwrap());
    let mut story = vec![0; 60];
    output.read_exact(&mut story).unwrap();
    let helpers = children(program.id());
    assert!(!helpers.is_empty());
    for helper in helpers {
        let killed = Command::new("kill")
            .args(["-9", &helper.to_string()])
            .status();
        assert!(killed.unwrap().success());
    }
    output.read_to_end(&mut story).unwrap();
    let mut told = String::new();
    program
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert!(program.wait().unwrap().success(), "{told}");
    assert_eq!(text(&story), text(&undisturbed.stdout));
    assert!(
        told.contains("signal: 9") && told.contains("goes on with cpu"),
        "{told}"
    );
}

#[test]
fn helpers_end_with_the_program_that_started_them() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_anynpu"))
        .args(["run", "-n", "200", "--temp", "0", "--device", "cpu,chaos"])
        .args(["--place", "layers.*=chaos", "--isolate"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(program.stdout.take().unwrap());
    output.fill_buf().unwrap();
    let helpers = children(program.id());
    assert!(!helpers.is_empty());
    program.kill().unwrap();
    program.wait().unwrap();
    let mut rest = Vec::new();
    output.read_to_end(&mut rest).unwrap();
    let alive = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}/stat")).exists();
    let started = Instant::now();
    while helpers.iter().any(alive) && started.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!helpers.iter().any(alive), "{helpers:?}");
}
