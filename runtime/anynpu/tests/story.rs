//! The built-in model through the crate that apps add.
#![cfg(feature = "story-model")]

use std::ops::ControlFlow;

use anynpu::{FinishReason, GenerateOptions, LoadOptions, OpenModel, SessionOptions};

#[test]
fn the_built_in_model_tells_a_story_that_ends() {
    let model = anynpu::runtime()
        .expect("a runtime")
        .load(anynpu::story_model(), LoadOptions::new())
        .expect("the built-in model loads");
    let mut session = model.session(SessionOptions::new()).expect("a session");
    let mut streamed = String::new();
    let report = session
        .generate("", &GenerateOptions::greedy(), |piece| {
            streamed.push_str(piece.text);
            ControlFlow::Continue(())
        })
        .expect("a story");
    assert_eq!(report.finish, FinishReason::EndToken, "{}", report.text);
    assert_eq!(streamed, report.text);
    assert!(
        report.text.split_whitespace().count() > 20,
        "{}",
        report.text
    );
    assert!(!report.text.contains('\u{FFFD}'), "{}", report.text);
    let nodes = model.open().model().graph().nodes().len() as u64;
    let executed = &report.executed.devices["cpu"];
    assert_eq!(executed.nodes, nodes * report.executed.steps);
    assert_eq!(report.executed.devices.len(), 1);
    let warnings = report.warnings;
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn the_built_in_model_is_small_and_exercises_blocks_of_256() {
    let open = OpenModel::open(anynpu::story_model()).expect("it opens");
    let info = open.model().info();
    assert!(info.weight_bytes < 4 << 20, "{}", info.weight_bytes);
    assert_eq!(info.formats[0].dtype, "q8_0");
    let rows = open.model().graph().weights().iter().map(|w| {
        let shape = open.model().graph().shape(w.value);
        shape.last().and_then(|d| d.fixed()).unwrap_or(0)
    });
    assert!(rows.into_iter().all(|n| n % 256 == 0));
}
