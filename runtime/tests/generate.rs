//! Generation from real models: greedy golden texts, options, ends.

mod common;

use std::ops::ControlFlow;

use anynpu_runtime::{
    CancelToken, FinishReason, GenerateOptions, LoadOptions, LoadedModel, OnFull, OpenModel,
    RuntimeError, Session, SessionOptions,
};
use common::{runtime, test_data};
use serde_json::Value;

fn stories(test: &str, format: &str) -> Option<(LoadedModel, Value)> {
    let path = test_data(test, &format!("stories260K/stories260K-{format}.gguf"))?;
    let golden = path.with_file_name("golden.json");
    let golden = std::fs::read_to_string(golden).expect("the golden file stands beside the model");
    let model = runtime(vec![], 2)
        .load(path, LoadOptions::new())
        .expect("the model loads");
    Some((model, serde_json::from_str(&golden).expect("JSON")))
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().expect("a list of ids").iter();
    ids.map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn session(model: &LoadedModel) -> Session {
    model.session(SessionOptions::new()).expect("a session")
}

fn ignore(_: anynpu_runtime::Piece<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn logits_of_the_f32_model_are_the_reference_s() {
    let name = "logits_of_the_f32_model_are_the_reference_s";
    let Some((model, golden)) = stories(name, "F32") else {
        return;
    };
    let path = test_data(name, "stories260K/golden_prompt64_logits_f32.bin").expect("set");
    let bytes = std::fs::read(path).expect("reference logits");
    let reference: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let (mut at, mut worst) = (0, 0f32);
    session(&model)
        .logits_of_each::<RuntimeError>(&ids(&golden["prompt64"]["ids"]), None, |_, row| {
            for &x in row {
                worst = worst.max((x - reference[at]).abs());
                at += 1;
            }
            Ok(())
        })
        .expect("logits");
    assert_eq!(at, reference.len());
    assert!(worst <= 1e-3, "largest difference {worst}");
}

#[test]
fn greedy_generation_gives_the_golden_tokens_and_text() {
    let name = "greedy_generation_gives_the_golden_tokens_and_text";
    let Some((model, golden)) = stories(name, "F32") else {
        return;
    };
    let cases = golden["greedy"].as_array().expect("cases");
    assert!(!cases.is_empty());
    for case in cases {
        let prompt = case["prompt"].as_str().expect("a prompt");
        let expected = ids(&case["new_ids"]);
        let mut options = GenerateOptions::greedy().max_tokens(expected.len() as u32);
        options.ignore_end = true;
        let mut streamed = String::new();
        let report = session(&model)
            .generate(prompt, &options, |piece| {
                streamed.push_str(piece.text);
                ControlFlow::Continue(())
            })
            .expect("a story");
        assert_eq!(report.tokens, expected, "{prompt:?}");
        assert_eq!(report.prompt_tokens, ids(&case["prompt_ids"]).len());
        let whole = case["text"].as_str().expect("a text");
        assert_eq!(format!("{prompt}{}", report.text), whole);
        assert_eq!(streamed, report.text);
        assert_eq!(report.finish, FinishReason::MaxTokens);
    }
}

/// Rounding the weights to F16 moves near ties, so only the story from the begin token is the same.
#[test]
fn both_unquantised_models_tell_the_golden_story_from_the_begin_token() {
    let name = "both_unquantised_models_tell_the_golden_story_from_the_begin_token";
    for format in ["F32", "F16"] {
        let Some((model, golden)) = stories(name, format) else {
            return;
        };
        let golden = &golden["greedy_255_from_bos"];
        let options = GenerateOptions::greedy().max_tokens(255);
        let report = session(&model)
            .generate("", &options, ignore)
            .expect("a story");
        assert_eq!(report.tokens, ids(&golden["ids"])[1..], "{format}");
        assert_eq!(
            report.text,
            golden["text"].as_str().expect("a text"),
            "{format}"
        );
    }
}

#[test]
fn the_report_has_the_keys_of_the_command_line() {
    let Some((model, _)) = stories("the_report_has_the_keys_of_the_command_line", "Q8_0") else {
        return;
    };
    let options = GenerateOptions::greedy().max_tokens(5);
    let report = session(&model)
        .generate("Once", &options, ignore)
        .expect("a story");
    let json = serde_json::to_value(&report).expect("JSON");
    assert_eq!(json["tokens"].as_array().map(Vec::len), Some(5));
    assert_eq!(json["kv_type"], "f32");
    assert_eq!(json["finish"], "max_tokens");
    assert_eq!(json["executed"]["steps"], 5);
    let cpu = &json["executed"]["devices"]["cpu"];
    for key in [
        "nodes",
        "segments",
        "copies_in",
        "copies_out",
        "bytes",
        "us",
    ] {
        assert!(cpu[key].is_u64(), "{key}");
    }
    assert_eq!(cpu["dtype"], "f32");
    for key in [
        "load_ms",
        "compile_ms",
        "ttft_ms",
        "prefill_tok_s",
        "decode_tok_s",
    ] {
        assert!(json["timing"][key].as_f64().expect(key) > 0.0, "{key}");
    }
    for key in ["peak_rss_bytes", "planned_bytes"] {
        assert!(json["memory"][key].as_u64().expect(key) > 0, "{key}");
    }
    for (i, phase) in ["prefill", "decode"].into_iter().enumerate() {
        let plan = &json["plan"]["phases"][i];
        assert_eq!(plan["phase"], phase);
        assert_eq!(plan["guess_share"], 1.0);
        let segment = &plan["segments"][0];
        assert_eq!(
            (&segment["device"], &segment["first_node"]),
            (&"cpu".into(), &"embed".into())
        );
        assert_eq!(segment["layers"], serde_json::json!([0, 4]));
        assert!(segment["predicted_us"].as_f64().expect("a time") > 0.0);
    }
    assert_eq!(json["fallbacks"], serde_json::json!([]));
    assert_eq!(json["warnings"], serde_json::json!([]));
}

#[test]
fn seeds_decide_and_repeat() {
    let Some((model, _)) = stories("seeds_decide_and_repeat", "F32") else {
        return;
    };
    let story = |seed| {
        let options = GenerateOptions::new().seed(seed).max_tokens(30);
        session(&model)
            .generate("", &options, ignore)
            .expect("a story")
            .tokens
    };
    assert_eq!(story(7), story(7));
    assert_ne!(story(7), story(8));
}

#[test]
fn generation_ends_where_it_is_told_to() {
    let Some((model, _)) = stories("generation_ends_where_it_is_told_to", "F32") else {
        return;
    };
    let run = |options: &GenerateOptions, context| {
        let mut session = model
            .session(SessionOptions::new().context(context))
            .expect("a session");
        session
            .generate("Once upon a time", options, ignore)
            .expect("a report")
    };
    let none = run(&GenerateOptions::greedy().max_tokens(0), 64);
    assert_eq!(
        (none.tokens.len(), none.finish),
        (0, FinishReason::MaxTokens)
    );
    assert_eq!((none.timing.ttft_ms, none.text.as_str()), (None, ""));

    let stop = run(
        &GenerateOptions::greedy()
            .stop("girl named")
            .stop("never there"),
        64,
    );
    assert_eq!(stop.finish, FinishReason::StopText);
    assert_eq!(stop.text, ", there was a little ");

    // 5 tokens of prompt, and the token chosen from the last row needs none
    let full = run(&GenerateOptions::greedy(), 20);
    assert_eq!(
        (full.finish, full.tokens.len()),
        (FinishReason::ContextFull, 16)
    );

    let mut slide = GenerateOptions::greedy().max_tokens(60);
    slide.on_full = OnFull::Slide;
    let slid = run(&slide, 20);
    assert_eq!(
        (slid.finish, slid.tokens.len()),
        (FinishReason::MaxTokens, 60)
    );
    assert_eq!(slid.tokens[..16], full.tokens[..]);
    // half of the context each time: 64 tokens were put in, and 14 are left
    assert_eq!((full.forgotten_tokens, slid.forgotten_tokens), (0, 50));

    let cancel = CancelToken::new();
    let options = GenerateOptions::greedy().cancel(cancel.clone());
    let mut seen = 0;
    let report = session(&model)
        .generate("", &options, |_| {
            seen += 1;
            if seen == 3 {
                cancel.cancel();
            }
            ControlFlow::Continue(())
        })
        .expect("a report");
    assert_eq!(
        (report.finish, report.tokens.len()),
        (FinishReason::Cancelled, 3)
    );

    let report = session(&model)
        .generate("", &GenerateOptions::greedy(), |_| ControlFlow::Break(()))
        .expect("a report");
    assert_eq!(
        (report.finish, report.tokens.len()),
        (FinishReason::Receiver, 1)
    );
}

#[test]
fn a_second_generation_continues_the_first() {
    let Some((model, golden)) = stories("a_second_generation_continues_the_first", "F32") else {
        return;
    };
    let expected = ids(&golden["greedy"][0]["new_ids"]);
    let mut session = session(&model);
    let options = GenerateOptions::greedy().max_tokens(10);
    let first = session.generate("", &options, ignore).expect("a story");
    let second = session.generate("", &options, ignore).expect("more of it");
    assert_eq!([first.tokens, second.tokens].concat(), expected[..20]);
    assert_eq!((first.prompt_tokens, second.prompt_tokens), (1, 1));
}

#[test]
fn odd_prompts_are_text_like_any_other() {
    let Some((model, _)) = stories("odd_prompts_are_text_like_any_other", "F32") else {
        return;
    };
    let options = GenerateOptions::greedy().max_tokens(3);
    for prompt in ["\0", "a\0b", "\u{FFFD}", "🦙", "\n\n", " ", "<s>"] {
        let report = session(&model)
            .generate(prompt, &options, ignore)
            .expect(prompt);
        assert_eq!(report.tokens.len(), 3, "{prompt:?}");
    }
    let long = "word ".repeat(600);
    let e = session(&model)
        .generate(&long, &options, ignore)
        .unwrap_err();
    let RuntimeError::PromptTooLong {
        prompt,
        context,
        room,
    } = e
    else {
        panic!("{e}");
    };
    assert!(
        prompt > 512 && context == 512 && room == 512,
        "{prompt} {context} {room}"
    );
    let none: &[u32] = &[];
    let e = session(&model)
        .generate(none, &options, ignore)
        .unwrap_err();
    assert!(matches!(e, RuntimeError::EmptyPrompt), "{e}");
    let mut bad = GenerateOptions::greedy();
    bad.sampling.top_p = 2.0;
    assert!(session(&model).generate("a", &bad, ignore).is_err());
    assert!(
        session(&model)
            .generate("a", &GenerateOptions::greedy().stop(""), ignore)
            .is_err()
    );
}

#[test]
fn a_model_without_a_tokenizer_takes_tokens_but_no_text() {
    let open = OpenModel::new(common::testing::tiny_llama(1), None);
    let model = runtime(vec![], 1)
        .load_open(open, LoadOptions::new())
        .expect("it loads");
    assert!(model.tokenizer().is_err());
    let mut session = session(&model);
    session.prefill(&[1, 2, 3], None).expect("tokens");
    let e = session
        .generate("text", &GenerateOptions::greedy(), ignore)
        .unwrap_err();
    assert!(matches!(e, RuntimeError::Vocabulary(_)), "{e}");
}

#[test]
fn a_file_that_is_not_a_model_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("broken.gguf");
    std::fs::write(&path, b"GGUF\x03\0\0\0not a model").expect("written");
    for source in [
        path,
        folder.path().join("missing.gguf"),
        folder.path().to_owned(),
    ] {
        let e = runtime(vec![], 1)
            .load(source.as_path(), LoadOptions::new())
            .unwrap_err();
        let name = source.display().to_string();
        assert!(e.to_string().contains(&name), "{e}");
    }
}
