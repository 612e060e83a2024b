//! Layers of the built-in model on Qualcomm's HTP.

mod common;

use common::{anynpu, json, refused, text};

const RUN: &[&str] = &[
    "run",
    "-p",
    "Once upon a time",
    "-n",
    "16",
    "--temp",
    "0",
    "--json",
];

#[test]
fn the_story_goes_on_the_same_with_its_layers_on_the_htp() {
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED the_story_goes_on_the_same…: ANYNPU_QNN_LIBRARY is not set");
        return;
    }
    let run = |more: &[&str]| json(&[RUN, more].concat());
    let cpu = run(&["--device", "cpu"]);
    let place = ["--device", "cpu,qnn", "--place", "layers.*=qnn"];
    let htp = run(&place);
    assert_eq!(htp["tokens"], cpu["tokens"]);
    let executed = |what: &str| htp["executed"]["devices"]["qnn"][what].clone();
    assert_eq!(executed("segments"), htp["executed"]["steps"]);
    assert!(executed("nodes").as_u64().unwrap() > 16 * 50);
    assert_eq!(executed("dtype"), "f16");
    // an emulator's time is no chip's
    assert_eq!(executed("us"), 0);
    let isolated = run(&[&place[..], &["--isolate"]].concat());
    assert_eq!(isolated["tokens"], cpu["tokens"]);
}

#[test]
fn a_model_in_q4_0_goes_on_the_same_with_its_blocks_kept() {
    let test = "a_model_in_q4_0_goes_on_the_same_with_its_blocks_kept";
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let (Some(_), Some(data)) = (set("ANYNPU_QNN_LIBRARY"), set("ANYNPU_TEST_DATA")) else {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY or ANYNPU_TEST_DATA is not set");
        return;
    };
    let model = std::path::Path::new(&data).join("stories260K/stories260K-Q4_0.gguf");
    let model = model.to_str().unwrap();
    let run = |more: &[&str]| {
        let arguments = ["run", model, "-p", "Once upon a time", "-n", "14"];
        json(&[&arguments[..], &["--temp", "0", "--json"], more].concat())
    };
    let cpu = run(&["--device", "cpu"]);
    let place = ["--device", "cpu,qnn", "--place", "layers.*=qnn"];
    let kept = run(&[&place[..], &["--qnn-weights", "blocks"]].concat());
    assert_eq!(kept["tokens"], cpu["tokens"]);
}

#[test]
fn a_library_or_chip_that_is_not_there_is_named_with_what_to_do() {
    let failed = |more: &[&str]| {
        let out = anynpu(&[&["run", "-n", "1", "--device", "cpu,qnn"], more].concat());
        assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
        text(&out.stderr)
    };
    let e = failed(&["--qnn-library", "/nowhere/libQnnHtp.so"]);
    assert!(e.contains("/nowhere/libQnnHtp.so"), "{e}");
    let e = failed(&["--qnn-library", "/nowhere/libQnnHtp.so", "--qnn-soc", "SM1"]);
    assert!(e.contains("no chip 'SM1'"), "{e}");
    let e = failed(&["--qnn-soc", "SM8450", "--qnn-weights", "blocks"]);
    assert!(e.contains("SM8450 computes no weights in blocks"), "{e}");
    let words = ["'int2'", "f16, int8, int4 or blocks"];
    refused(&["run", "--qnn-weights", "int2"], 2, &words);
    let knobs = json(&["knobs", "--json"]).to_string();
    assert!(knobs.contains("ANYNPU_QNN_LIBRARY") && knobs.contains("ANYNPU_QNN_SOC"));
}
