//! Hugging Face folders: what stands beside the weights, and parts that don't fit together.

mod common;
#[path = "common/folder.rs"]
mod folder;

use std::ops::ControlFlow;
use std::path::Path;

use anynpu_runtime::chat::ChatError;
use anynpu_runtime::{
    Chat, FinishReason, GenerateOptions, LoadOptions, LoadedModel, Message, OpenModel, Prompt,
    RuntimeError, SessionOptions,
};
use common::runtime;
use folder::{ROWS, TOKENIZER, TOKENS, config, folder, tensors, write, write_tensors};
use serde_json::{Value, json};

fn load(folder: &Path) -> LoadedModel {
    let options = LoadOptions::new().context(256);
    runtime(vec![], 1)
        .load(folder.to_owned(), options)
        .expect("it loads")
}

fn tokenizer_error(folder: &Path) -> String {
    let open = OpenModel::open(folder).expect("the model itself is sound");
    open.tokenizer().unwrap_err().to_string()
}

#[test]
fn a_template_in_its_own_file_counts_before_that_of_the_configuration() {
    let dir = folder();
    write(
        dir.path(),
        "tokenizer_config.json",
        r#"{"chat_template": "C"}"#,
    );
    let source = |dir: &Path| {
        let template = OpenModel::open(dir).unwrap().chat_template();
        template.map(|t| t.source().to_owned())
    };
    assert_eq!(source(dir.path()).unwrap(), "C");
    write(dir.path(), "chat_template.jinja", "F");
    assert_eq!(source(dir.path()).unwrap(), "F");
    write(dir.path(), "additional_chat_templates/rag.jinja", "R");
    write(dir.path(), "additional_chat_templates/note.txt", "not one");
    let open = OpenModel::open(dir.path()).unwrap();
    let tokenizer = open.tokenizer().unwrap();
    let names: Vec<_> = tokenizer.chat_template_names().collect();
    assert_eq!(names, ["default", "rag"]);
    assert_eq!(open.chat_template_named("rag").unwrap().source(), "R");

    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let e = source(dir.path()).unwrap_err();
    assert!(
        matches!(&e, RuntimeError::Chat(ChatError::NoSuchTemplate { known, .. }) if known == "rag"),
        "{e}"
    );
}

#[test]
fn a_conversation_with_tools_is_rendered_by_the_template_for_tools() {
    let dir = folder();
    let templates = json!({"chat_template": [
        {"name": "default", "template": "plain {{ messages[0].content }}"},
        {"name": "tool_use", "template": "old"},
        {"name": "tool_use", "template": "{{ tools | length }} tools {{ messages[0].content }}"},
    ]});
    write(dir.path(), "tokenizer_config.json", &templates.to_string());
    let model = load(dir.path());
    let prompt = |chat: &Chat| {
        let ids = chat.prompt().unwrap();
        let tokenizer = model.tokenizer().unwrap();
        tokenizer.pieces(&ids).unwrap().concat()
    };
    let session = || model.session(SessionOptions::new()).unwrap();
    let mut chat = Chat::new(session()).unwrap();
    chat.push(Message::user("Hi"));
    assert_eq!(prompt(&chat), "plain Hi");
    let mut chat = Chat::new(session()).unwrap().tools(vec![json!({"a": 1})]);
    chat.push(Message::user("Hi"));
    assert_eq!(prompt(&chat), "1 tools Hi");
    // a template that was asked for is kept
    let template = model.chat_template().unwrap();
    let chat = Chat::with_template(session(), template).unwrap();
    let mut chat = chat.tools(vec![json!({"a": 1})]);
    chat.push(Message::user("Hi"));
    assert_eq!(prompt(&chat), "plain Hi");
}

#[test]
fn each_token_of_the_generation_settings_ends_an_answer() {
    let dir = folder();
    let prompt = [5, 6, 7];
    let generate = |ignore_end: bool| {
        let model = load(dir.path());
        let mut session = model.session(SessionOptions::new()).unwrap();
        let mut options = GenerateOptions::greedy().max_tokens(6);
        options.ignore_end = ignore_end;
        let go_on = |_: anynpu_runtime::Piece<'_>| ControlFlow::Continue(());
        let report = session.generate(Prompt::Tokens(&prompt), &options, go_on);
        report.unwrap()
    };
    let all = generate(true).tokens;
    let last = *all.iter().rfind(|t| **t != all[0]).expect("not one token");
    let first = all.iter().position(|&t| t == last).unwrap();
    let set = |ends: Value| {
        let settings = json!({"eos_token_id": ends, "do_sample": true});
        write(dir.path(), "generation_config.json", &settings.to_string());
    };
    for ends in [json!(last), json!([last]), json!([2, 0, last])] {
        set(ends.clone());
        let report = generate(false);
        assert_eq!(report.finish, FinishReason::EndToken, "{ends}");
        assert_eq!(report.tokens, all[..=first], "{ends}");
    }
    for ends in [json!(null), json!([])] {
        set(ends);
        assert_ne!(generate(false).finish, FinishReason::EndToken);
    }
    // without the file, those of the model's configuration
    std::fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    let mut config = config();
    config["eos_token_id"] = json!([2, last]);
    write(dir.path(), "config.json", &config.to_string());
    assert_eq!(generate(false).tokens, all[..=first]);
}

#[test]
fn files_beside_the_tokenizer_that_are_malformed_are_named() {
    let cases: [(&str, &str, &[&str]); 11] = [
        (
            "tokenizer_config.json",
            r#"{"chat_template": 7}"#,
            &["has 7 in 'chat_template'", "expected a text"],
        ),
        (
            "tokenizer_config.json",
            r#"{"chat_template": {"default": "D"}}"#,
            &["'chat_template'", "a list of objects"],
        ),
        (
            "tokenizer_config.json",
            r#"{"chat_template": [{"name": "tool_use"}]}"#,
            &["tool_use", "'name' and 'template'"],
        ),
        (
            "tokenizer_config.json",
            r#"{"chat_template": ["D"]}"#,
            &["\"D\"", "a list of objects"],
        ),
        (
            "generation_config.json",
            "{",
            &["generation_config.json is not a valid JSON object"],
        ),
        (
            "generation_config.json",
            "[]",
            &["generation_config.json is not a valid JSON object"],
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": "</s>"}"#,
            &["\"</s>\"", "'eos_token_id'", "ids below 401"],
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": -1}"#,
            &["has -1 in 'eos_token_id'"],
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": [2, 401]}"#,
            &["has 401 in 'eos_token_id'", "ids below 401"],
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": [[2]]}"#,
            &["has [2] in 'eos_token_id'"],
        ),
        (
            "generation_config.json",
            r#"{"eos_token_id": {"a": 2}}"#,
            &["'eos_token_id'"],
        ),
    ];
    for (file, text, words) in cases {
        let dir = folder();
        write(dir.path(), file, text);
        let error = tokenizer_error(dir.path());
        for word in words {
            assert!(error.contains(word), "{text}: {word:?} in {error}");
        }
        assert!(error.contains(file), "{text}: {error}");
        // the model runs on ids all the same
        OpenModel::open(dir.path()).unwrap();
    }
    let dir = folder();
    std::fs::write(dir.path().join("chat_template.jinja"), b"ab\xff").unwrap();
    let error = tokenizer_error(dir.path());
    assert!(
        error.contains("chat_template.jinja is not UTF-8 from byte 2"),
        "{error}"
    );
    let dir = folder();
    write(dir.path(), "chat_template.jinja", "a\n{% if %}");
    let open = OpenModel::open(dir.path()).unwrap();
    let error = open.chat_template().unwrap_err().to_string();
    assert!(error.contains("can't be parsed at line 2"), "{error}");
}

#[test]
fn what_was_set_beside_the_tokenizer_goes_into_the_gguf_file() {
    use anynpu_graphs::import::gguf::Gguf;
    use anynpu_graphs::quant::{Mixture, QuantizeOptions, quantize_gguf};
    let dir = folder();
    write(dir.path(), "chat_template.jinja", "F");
    write(dir.path(), "additional_chat_templates/tool_use.jinja", "T");
    // 2 is known by its text
    write(
        dir.path(),
        "generation_config.json",
        r#"{"eos_token_id": [2, 50, 51]}"#,
    );
    let written = || {
        let gguf = OpenModel::open(dir.path()).unwrap().to_gguf().unwrap();
        let options = QuantizeOptions::new(Mixture::F32);
        let mut go_on = |_| ControlFlow::Continue(());
        quantize_gguf(&gguf, Vec::new(), &options, &mut go_on).unwrap()
    };
    let (report, bytes) = written();
    assert_eq!(report.warnings, [""; 0]);
    let open = OpenModel::open(Gguf::from_vec("written", bytes).unwrap()).unwrap();
    let tokenizer = open.tokenizer().unwrap();
    assert_eq!(tokenizer.token_count(), ROWS as u32);
    assert_eq!(open.chat_template().unwrap().source(), "F");
    assert_eq!(open.chat_template_named("tool_use").unwrap().source(), "T");
    for id in [2, 50, 51] {
        assert!(tokenizer.ends_generation(id), "{id}");
    }
    assert!(!tokenizer.ends_generation(52));
    write(
        dir.path(),
        "generation_config.json",
        r#"{"eos_token_id": [50, 51, 52, 53]}"#,
    );
    let (report, _) = written();
    assert!(
        report.warnings[0].contains("token 52 and 1 others"),
        "{:?}",
        report.warnings
    );
}

#[test]
fn a_tokenizer_that_does_not_fit_the_model_is_told_with_both_counts() {
    let dir = folder();
    let mut small = config();
    small["vocab_size"] = json!(400);
    let resize = |rows: u64| {
        let mut tensors = tensors();
        for (_, shape) in tensors.iter_mut().filter(|(_, s)| s[0] == ROWS) {
            shape[0] = rows;
        }
        write_tensors(dir.path(), &tensors);
    };
    write(dir.path(), "config.json", &small.to_string());
    resize(400);
    let error = tokenizer_error(dir.path());
    assert!(
        error.contains("401 tokens but the model gives logits for 400")
            && error.contains("the tokenizer that belongs to the model"),
        "{error}"
    );
    let open = OpenModel::open(dir.path()).unwrap();
    assert!(matches!(open.to_gguf(), Err(RuntimeError::Vocabulary(_))));
    small["vocab_size"] = json!(TOKENS);
    write(dir.path(), "config.json", &small.to_string());
    resize(TOKENS.into());
    OpenModel::open(dir.path()).unwrap().tokenizer().unwrap();
}

#[test]
fn a_tokenizer_of_another_vocabulary_is_told_where_it_names_tokens() {
    let dir = folder();
    write(
        dir.path(),
        "tokenizer_config.json",
        r#"{"bos_token": "<s>", "eos_token": "</s>"}"#,
    );
    let error = tokenizer_error(dir.path());
    assert!(
        error.contains("gives '<s>' as bos_token, but tokenizer.json has no such token"),
        "{error}"
    );
    let dir = folder();
    for (text, word) in [
        ("", "EOF"),
        ("[]", "reading tokenizer.json"),
        (&TOKENIZER[..TOKENIZER.len() / 2], "reading tokenizer.json"),
    ] {
        write(dir.path(), "tokenizer.json", text);
        let error = tokenizer_error(dir.path());
        assert!(error.contains(word), "{error}");
    }
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let error = tokenizer_error(dir.path());
    assert!(
        error.contains("a tokenizer.json in the model's folder"),
        "{error}"
    );
}

#[test]
fn tensors_that_are_missing_or_misshapen_are_named_as_the_folder_has_them() {
    for removed in tensors() {
        let dir = folder();
        let mut tensors = tensors();
        tensors.retain(|t| *t != removed);
        write_tensors(dir.path(), &tensors);
        let error = OpenModel::open(dir.path()).unwrap_err().to_string();
        let path = dir.path().join("config.json").display().to_string();
        assert!(
            error.contains(&removed.0) && error.contains(&path),
            "{error}"
        );
    }
    for (at, (name, _)) in tensors().iter().enumerate() {
        let mut wrong = tensors();
        wrong[at].1[0] += 2;
        let shape = wrong[at].1.clone();
        let dir = folder();
        write_tensors(dir.path(), &wrong);
        let error = OpenModel::open(dir.path()).unwrap_err().to_string();
        let found = shape.iter().map(u64::to_string).collect::<Vec<_>>();
        assert!(
            error.contains(name) && error.contains(&found[0]),
            "{name}: {error}"
        );
    }
}

#[test]
fn absurd_sizes_are_refused_before_memory_is_taken() {
    for (member, value) in [
        ("hidden_size", json!(4_294_967_295u64)),
        ("hidden_size", json!(u64::MAX)),
        ("intermediate_size", json!(4_294_967_295u64)),
        ("num_hidden_layers", json!(4_294_967_295u64)),
        ("num_hidden_layers", json!(4096)),
        ("num_attention_heads", json!(4_294_967_295u64)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(4_294_967_294u64)),
        ("max_position_embeddings", json!(4_294_967_295u64)),
        ("max_position_embeddings", json!(0)),
        ("vocab_size", json!(4_294_967_295u64)),
        ("vocab_size", json!(0)),
        ("rope_theta", json!(-1)),
        ("rms_norm_eps", json!(1e300)),
    ] {
        let dir = folder();
        let mut config = config();
        config[member] = value.clone();
        write(dir.path(), "config.json", &config.to_string());
        let error = OpenModel::open(dir.path()).unwrap_err().to_string();
        let named = error.contains(member) || error.contains("model.");
        assert!(named && error.len() < 600, "{member} {value}: {error}");
    }
}
