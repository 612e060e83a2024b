//! Chat templates that are wrong, hostile or unusual: each ends soon, with an error that says what.

use std::time::{Duration, Instant};

use anynpu_runtime::chat::{ChatError, ChatInput, ChatTemplate, Message, TemplateLimits};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn compile(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, vec![("eos_token".into(), "</s>".into())]).expect("it parses")
}

fn render(source: &str) -> Result<String, ChatError> {
    let messages = [Message::user("hi")];
    compile(source).render(&ChatInput::new(&messages))
}

fn refused(source: &str) -> String {
    render(source).expect_err(source).to_string()
}

#[test]
fn templates_that_loop_or_grow_end_at_their_limit() {
    for source in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{{ 'x' * 99999999 }}{{ ('y' * 99999999) | length }}",
        "{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{% for a in range(9999) %}{{ ('x,' * 9999).split(',') | length }}{% endfor %}",
        "{% for a in range(9999) %}{{ ('x ' * 99999).strip('x ') }}{{ ('\\n' * 99999).splitlines()|length }}{% endfor %}",
        "{{ ['a\\n' * 999999] | tojson(indent=64) }}{% for a in range(9999) %}{{ ('a\\n' * 99999) | indent(64) }}{% endfor %}",
    ] {
        let started = Instant::now();
        let error = render(source).expect_err(source);
        let took = started.elapsed();
        println!("{took:?}: {source}");
        let limit = matches!(
            error,
            ChatError::OutOfFuel { .. } | ChatError::OutputTooLarge { .. }
        );
        let nested =
            error.to_string().contains("recursion") || error.to_string().contains("nested");
        assert!(limit || nested, "{source}: {error}");
        // generous, as this also runs emulated and on busy machines
        assert!(took < Duration::from_secs(60), "{source} took {took:?}");
    }
    let message =
        refused("{% for a in range(99999) %}\n{% for b in range(99999) %}{% endfor %}{% endfor %}");
    assert!(
        message.contains("within its limit of") && message.contains("line 2"),
        "{message}"
    );
}

#[test]
fn more_output_than_the_limit_is_an_error() {
    let mut limits = TemplateLimits::default();
    limits.output = 1000;
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let template = ChatTemplate::with_limits(template, vec![], limits).unwrap();
    let render = |n: usize| {
        let messages = [Message::user("x".repeat(n))];
        template.render(&ChatInput::new(&messages))
    };
    assert_eq!(render(1000).unwrap().len(), 1000);
    let e = render(1001).unwrap_err();
    assert!(
        matches!(e, ChatError::OutputTooLarge { limit: 1000 }),
        "{e}"
    );
    limits.source = 10;
    let e = ChatTemplate::with_limits("12345678901", vec![], limits).unwrap_err();
    assert!(
        matches!(
            e,
            ChatError::SourceTooLarge {
                bytes: 11,
                limit: 10
            }
        ),
        "{e}"
    );
}

#[test]
fn long_conversations_are_within_the_limits() {
    let messages: Vec<Message> = (0..4000)
        .map(|i| match i % 2 {
            0 => Message::user("question ".repeat(30)),
            _ => Message::assistant("answer ".repeat(30)),
        })
        .collect();
    let template = compile(
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m['content'] | trim }}{{ eos_token }}{% endfor %}",
    );
    let text = template.render(&ChatInput::new(&messages)).unwrap();
    assert_eq!(text.matches("</s>").count(), 4000);
}

#[test]
fn a_template_s_own_refusal_is_told_in_its_words_with_the_line() {
    let refusal = render("a\n{{ raise_exception('Only one ' ~ 'system message') }}").unwrap_err();
    match &refusal {
        ChatError::Refused { line, message } => {
            assert_eq!((*line, message.as_str()), (2, "Only one system message"));
        }
        other => panic!("{other}"),
    }
    assert_eq!(
        refusal.to_string(),
        "the chat template refused (line 2): Only one system message"
    );
    let in_macro = "{% macro f() %}\n\n{{ raise_exception('no') }}{% endmacro %}{{ f() }}";
    assert!(
        refused(in_macro).contains("refused (line"),
        "{}",
        refused(in_macro)
    );
}

#[test]
fn an_unknown_role_is_the_template_s_to_refuse() {
    let strict = compile(
        "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('Unknown role ' + m.role) }}{% endif %}{{ m.content }}{% endfor %}",
    );
    let messages = [Message::new("wizard", "hocus")];
    let e = strict
        .render(&ChatInput::new(&messages))
        .unwrap_err()
        .to_string();
    assert!(e.contains("Unknown role wizard"), "{e}");
    let open = compile("{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}");
    assert_eq!(
        open.render(&ChatInput::new(&messages)).unwrap(),
        "wizard: hocus"
    );
}

#[test]
fn errors_name_the_line() {
    let syntax = |source: &str| ChatTemplate::new(source, vec![]).unwrap_err().to_string();
    assert!(
        syntax("a\n{% if x %}").contains("can't be parsed at line 2"),
        "{}",
        syntax("a\n{% if x %}")
    );
    assert!(syntax("{{ 1 + }}").contains("line 1"));
    assert!(syntax("{% generation %}x").contains("can't be parsed"));
    let message = refused("\n\n{{ messages[0].content.explode() }}");
    assert!(
        message.contains("failed at line 3") && message.contains("explode"),
        "{message}"
    );
    assert!(refused("{{ messages | nonsense }}").contains("nonsense"));
    assert!(refused("{{ missing.member }}").contains("undefined"));
    assert!(refused("{{ messages | tojson(indent=[]) }}").contains("line 1"));
}

#[test]
fn the_date_is_the_caller_s_and_without_one_the_template_has_its_own() {
    let template = compile(
        "{% if strftime_now is defined %}{{ strftime_now('%d %B %Y') }}{% else %}some day{% endif %}",
    );
    let input = ChatInput::new(&[]);
    assert_eq!(template.render(&input).unwrap(), "some day");
    let dated = input.date("2024-07-26".parse().unwrap());
    assert_eq!(template.render(&dated).unwrap(), "26 July 2024");
    assert!(refused("{{ strftime_now('%Y') }}").contains("asks for the date"));
    let unknown = compile("{{ strftime_now('%Q') }}")
        .render(&dated)
        .unwrap_err();
    assert!(unknown.to_string().contains("%Q"), "{unknown}");
}

#[test]
fn variables_reach_the_template_and_cannot_replace_the_conversation() {
    let variables = json!({"enable_thinking": false, "messages": "no", "eos_token": "<e>"});
    let Value::Object(variables) = variables else {
        unreachable!()
    };
    let messages = [Message::user("hi")];
    let input = ChatInput::new(&messages)
        .variables(&variables)
        .generation_prompt(false);
    let template = "{{ enable_thinking }} {{ messages[0].content }} {{ eos_token }} {{ add_generation_prompt }} {{ tools is none }}";
    assert_eq!(
        compile(template).render(&input).unwrap(),
        "False hi <e> False True"
    );
}

#[test]
fn input_nested_too_deeply_is_refused() {
    let mut value = json!(1);
    for _ in 0..200 {
        value = json!([value]);
    }
    let messages = [Message::new("user", value.clone())];
    let template = compile("{{ messages | tojson }}");
    let e = template.render(&ChatInput::new(&messages)).unwrap_err();
    assert!(
        matches!(
            e,
            ChatError::TooDeep {
                what: "a message",
                ..
            }
        ),
        "{e}"
    );
    let tools = [value];
    let e = template
        .render(&ChatInput::new(&[]).tools(&tools))
        .unwrap_err();
    assert!(
        matches!(e, ChatError::TooDeep { what: "a tool", .. }),
        "{e}"
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "(<\\|im_end\\|>|</think>|text|user| |\\n){0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("(type|text|name|function|arguments|.{0,4})", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn any_message() -> impl Strategy<Value = Message> {
    let role = prop_oneof!["(user|assistant|system|tool)", ".{0,6}"];
    (role, any_json(), any_json(), any_json()).prop_map(|(role, content, calls, extra)| {
        Message::new(role, content)
            .with("tool_calls", calls)
            .with("reasoning_content", extra)
    })
}

/// The templates beside the goldens.
fn templates() -> Vec<ChatTemplate> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/chat");
    let paths = std::fs::read_dir(folder)
        .expect("the templates")
        .map(|e| e.expect("one").path());
    let sources = paths.filter(|p| p.extension().is_some_and(|e| e == "jinja"));
    let read = |path| compile(&std::fs::read_to_string(path).expect("a template"));
    sources.map(read).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 4))]

    #[test]
    fn rendering_never_panics_on_any_messages(
        messages in prop::collection::vec(any_message(), 0..5),
        tools in prop::option::of(prop::collection::vec(any_json(), 0..3)),
        documents in prop::option::of(prop::collection::vec(any_json(), 0..3)),
    ) {
        for template in templates() {
            let mut input = ChatInput::new(&messages).date("2024-02-29".parse().unwrap());
            if let Some(tools) = &tools {
                input = input.tools(tools);
            }
            if let Some(documents) = &documents {
                input = input.documents(documents);
            }
            if let Err(e) = template.render(&input) {
                prop_assert!(!e.to_string().is_empty());
            }
        }
    }

    #[test]
    fn compiling_never_panics_on_any_source(
        source in "(\\{%|%\\}|\\{\\{|\\}\\}|\\{#|#\\}|-| |for|in|if|else|endfor|endif|generation|endgeneration|raw|endraw|set|macro|x|'|\"|\\[|\\]|\\(|\\)|\\||\\n|.){0,24}"
    ) {
        if let Ok(template) = ChatTemplate::new(&source, vec![]) {
            let messages = [Message::user("hi")];
            let _ = template.render(&ChatInput::new(&messages));
        }
    }
}
