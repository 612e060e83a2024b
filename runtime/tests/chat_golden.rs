//! Chat templates against what the Python package `transformers` renders.
//!
//! The goldens stand beside the templates and were made by `tests/data/chat/make_golden.py`. The
//! committed templates are ours. Those that models carry belong to their makers: point
//! `ANYNPU_TEMPLATES` at a folder of them with goldens to hold this renderer to them, too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anynpu_runtime::chat::{ChatError, ChatInput, ChatTemplate, Message};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Conversations that templates of models are known to render otherwise, and why. One that comes
/// to agree must leave the list.
const KNOWN: [(&str, &str, &str); 8] = [
    ("GigaChat3-10B-A1.8B", "tools offered", FLOAT),
    ("GigaChat3.1-10B-A1.8B", "tools offered", FLOAT),
    ("meetkai-functionary-medium-v3.2", "tools offered", FLOAT),
    ("meetkai-functionary-medium-v3.1", "tools offered", ESCAPED),
    ("meetkai-functionary-medium-v3.1", "tool called", ESCAPED),
    (
        "meetkai-functionary-medium-v3.1",
        "tool called with text arguments",
        ESCAPED,
    ),
    (
        "meetkai-functionary-medium-v3.1",
        "two tools at once",
        ESCAPED,
    ),
    (
        "meetkai-functionary-medium-v3.1",
        "plain tool schema",
        ESCAPED,
    ),
];

const FLOAT: &str = "a float joined to a text with ~ has no exponent (0.00001, in Python 1e-05)";
const ESCAPED: &str = "what is added to a text marked as safe is escaped for HTML in Python only";

#[derive(Deserialize)]
struct Conversation {
    name: String,
    messages: Value,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    #[serde(default = "yes")]
    add_generation_prompt: bool,
    #[serde(default)]
    variables: Map<String, Value>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct Golden {
    date: String,
    special: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    text: Option<String>,
    error: Option<String>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/chat")
}

/// What came of a folder's templates.
#[derive(Default)]
struct Outcome {
    templates: usize,
    equal: usize,
    both_refuse: usize,
    /// Rendered, though Python stumbles ([`is_pythons_own`]).
    more_lenient: usize,
    /// Template, conversation and what differs.
    differences: Vec<(String, String, String)>,
}

fn check(folder: &Path) -> Outcome {
    let conversations =
        fs::read_to_string(data().join("conversations.json")).expect("conversations");
    let conversations: Vec<Conversation> = serde_json::from_str(&conversations).expect("JSON");
    let mut outcome = Outcome::default();
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .expect("the folder of templates")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "jinja"))
        .collect();
    paths.sort();
    for path in paths {
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let source = fs::read_to_string(&path).expect("a template");
        let golden = fs::read_to_string(path.with_extension("golden.json")).expect("its golden");
        let golden: Golden = serde_json::from_str(&golden).expect("JSON");
        outcome.templates += 1;
        let special = golden.special.clone().into_iter().collect();
        let template = ChatTemplate::new(&source, special);
        assert_eq!(
            golden.cases.len(),
            conversations.len(),
            "{name}: make the golden again"
        );
        for (case, conversation) in golden.cases.iter().zip(&conversations) {
            assert_eq!(
                case.name, conversation.name,
                "{name}: make the golden again"
            );
            let rendered = match &template {
                Ok(template) => render(template, conversation, &golden.date),
                Err(e) => Err(e.to_string()),
            };
            let mut differs = |what| {
                let difference = (name.clone(), case.name.clone(), what);
                outcome.differences.push(difference);
            };
            match (rendered, &case.text) {
                (Ok(found), Some(expected)) if found == *expected => outcome.equal += 1,
                (Err(_), None) => outcome.both_refuse += 1,
                (Ok(found), Some(expected)) => differs(first_difference(expected, &found)),
                (Ok(_), None) if is_pythons_own(case) => outcome.more_lenient += 1,
                (Ok(_), None) => {
                    let error = case.error.as_deref().unwrap_or("nothing");
                    differs(format!("rendered, but transformers says {error}"));
                }
                (Err(e), Some(_)) => differs(e),
            }
        }
    }
    outcome
}

/// Errors of Python that say nothing of the conversation: None is iterated as if it were empty, and
/// what `map` gives is written as JSON as if it were a list.
fn is_pythons_own(case: &Case) -> bool {
    let error = case.error.as_deref().unwrap_or("");
    let own = [
        "TypeError: 'NoneType' object is not iterable",
        "TypeError: Object of type generator is not JSON serializable",
    ];
    own.contains(&error)
}

fn render(template: &ChatTemplate, case: &Conversation, date: &str) -> Result<String, String> {
    let render = || -> Result<String, ChatError> {
        let messages = Message::list(case.messages.clone())?;
        let mut input = ChatInput::new(&messages)
            .generation_prompt(case.add_generation_prompt)
            .variables(&case.variables)
            .date(date.parse()?);
        if let Some(tools) = &case.tools {
            input = input.tools(tools);
        }
        if let Some(documents) = &case.documents {
            input = input.documents(documents);
        }
        template.render(&input)
    };
    render().map_err(|e| e.to_string())
}

fn first_difference(expected: &str, found: &str) -> String {
    let at = expected
        .char_indices()
        .zip(found.chars())
        .find(|((_, a), b)| a != b)
        .map_or(expected.len().min(found.len()), |((at, _), _)| at);
    let around = |text: &str| {
        let from = text[..at.min(text.len())].char_indices().rev().nth(20);
        let from = from.map_or(0, |(i, _)| i);
        text[from..].chars().take(60).collect::<String>()
    };
    format!(
        "at byte {at} expected {:?}, found {:?}",
        around(expected),
        around(found)
    )
}

#[test]
fn our_templates_render_as_transformers_renders_them() {
    let outcome = check(&data());
    assert!(outcome.differences.is_empty(), "{:#?}", outcome.differences);
    assert!(outcome.templates >= 5 && outcome.equal >= 60 && outcome.both_refuse >= 5);
}

#[test]
fn templates_that_models_carry_render_as_transformers_renders_them() {
    let name = "templates_that_models_carry_render_as_transformers_renders_them";
    let Some(folder) = std::env::var_os("ANYNPU_TEMPLATES") else {
        println!("SKIPPED {name}: ANYNPU_TEMPLATES is not set");
        return;
    };
    let outcome = check(Path::new(&folder));
    println!(
        "{} templates: {} conversations byte-equal, {} refused by both, {} rendered where Python stumbles, {} different",
        outcome.templates,
        outcome.equal,
        outcome.both_refuse,
        outcome.more_lenient,
        outcome.differences.len()
    );
    let known = |(template, case): (&str, &str)| {
        let mut known = KNOWN.iter();
        known.any(|&(t, c, _)| (t, c) == (template, case))
    };
    let (expected, new): (Vec<_>, Vec<_>) = outcome
        .differences
        .iter()
        .partition(|(template, case, _)| known((template, case)));
    for (template, case, what) in &expected {
        println!("known: {template}, {case}: {what}");
    }
    assert!(new.is_empty(), "{new:#?}");
    for (template, case, why) in KNOWN {
        let there = Path::new(&folder)
            .join(format!("{template}.jinja"))
            .exists();
        let differs = expected
            .iter()
            .any(|(t, c, _)| (t.as_str(), c.as_str()) == (template, case));
        assert!(
            !there || differs,
            "{template}, {case} agrees now, take it off the list: {why}"
        );
    }
}
