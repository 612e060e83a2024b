//! A model's chat template: a conversation in, the text of a prompt out.

use std::fmt;
use std::sync::Arc;

use minijinja::machinery::{
    CompiledTemplate, Instruction, TemplateConfig, eval, make_string_output,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use serde_json::{Map, Value as Json};

use super::blocks::plain_blocks;
use super::date::Date;
use super::error::ChatError;
use super::guard::{Guard, texts_of, unmark, unused_char};
use super::message::Message;
use super::python;

/// What a template may use. The defaults let every template known to work render conversations of
/// megabytes, and end one that loops in about a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TemplateLimits {
    /// Bytes of the template's source.
    pub source: usize,
    /// Steps: about one an operation and one for each 64 bytes that are written or copied, which
    /// bounds memory, too.
    pub fuel: u64,
    /// Further steps for each byte of the input.
    pub fuel_per_byte: u64,
    /// Bytes of the rendered text.
    pub output: usize,
    /// Nested calls of macros and blocks.
    pub recursion: usize,
}

impl Default for TemplateLimits {
    fn default() -> Self {
        TemplateLimits {
            source: 1 << 20,
            fuel: 2_000_000,
            fuel_per_byte: 32,
            output: 64 << 20,
            recursion: 200,
        }
    }
}

/// What is rendered.
#[derive(Clone, Debug, Default)]
pub struct ChatInput<'a> {
    messages: &'a [Message],
    tools: Option<&'a [Json]>,
    documents: Option<&'a [Json]>,
    generation_prompt: bool,
    date: Option<Date>,
    variables: Option<&'a Map<String, Json>>,
}

impl<'a> ChatInput<'a> {
    /// These messages, and the beginning of an answer after them.
    pub fn new(messages: &'a [Message]) -> Self {
        ChatInput {
            messages,
            generation_prompt: true,
            ..ChatInput::default()
        }
    }

    /// Functions that the model may call, as JSON schemas.
    #[must_use]
    pub fn tools(mut self, tools: &'a [Json]) -> Self {
        self.tools = Some(tools);
        self
    }

    /// Documents that the model may cite, each with `title` and `text`.
    #[must_use]
    pub fn documents(mut self, documents: &'a [Json]) -> Self {
        self.documents = Some(documents);
        self
    }

    /// Whether the beginning of an answer is written after the messages.
    #[must_use]
    pub fn generation_prompt(mut self, yes: bool) -> Self {
        self.generation_prompt = yes;
        self
    }

    /// What `strftime_now` tells. Without it templates find no such function: most then write a
    /// date of their own, so that prompts stay the same from day to day.
    #[must_use]
    pub fn date(mut self, date: Date) -> Self {
        self.date = Some(date);
        self
    }

    /// Further variables, e.g. `enable_thinking`.
    #[must_use]
    pub fn variables(mut self, variables: &'a Map<String, Json>) -> Self {
        self.variables = Some(variables);
        self
    }

    fn texts<'s>(&'s self, with: &mut impl FnMut(&'s str)) {
        let lists = [self.tools, self.documents].into_iter().flatten();
        lists.flatten().for_each(|value| texts_of(value, with));
        let maps = self.messages.iter().map(Message::fields);
        for (key, value) in maps.chain(self.variables).flatten() {
            with(key);
            texts_of(value, with);
        }
    }
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Positions in it, ascending, of characters that came from the input and must not be read as
    /// part of a special token.
    pub untrusted: Vec<usize>,
}

/// A compiled chat template. Clones share it.
///
/// Templates are Jinja as Hugging Face's `transformers` renders it: Python's methods of texts and
/// mappings, `raise_exception`, `strftime_now`, `tojson` without escapes for HTML, loop controls,
/// generation blocks, blocks that take their line with them. They come with models and are not
/// trusted: [`TemplateLimits`] bound what they use.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    syntax: SyntaxConfig,
    source: Arc<str>,
    /// The source in the engine's own words.
    plain: Arc<str>,
    special: Arc<Vec<(String, String)>>,
    limits: TemplateLimits,
}

/// Name of the template in the engine.
const NAME: &str = "chat";

/// The filter that stands for the operator `+`. No template can name it.
const ADD: &str = "+";

/// The engine looks the filter up each time.
const NOT_CACHED: u8 = u8::MAX;

/// Deepest nesting of the input.
const MAX_DEPTH: usize = 100;

impl ChatTemplate {
    /// Compiles a template. `special` are variables that hold the texts of special tokens, by
    /// name: `bos_token`, `eos_token`.
    ///
    /// # Errors
    /// A template that is too large or can't be parsed.
    pub fn new(source: &str, special: Vec<(String, String)>) -> Result<Self, ChatError> {
        ChatTemplate::with_limits(source, special, TemplateLimits::default())
    }

    /// Compiles a template with limits other than the default.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn with_limits(
        source: &str,
        special: Vec<(String, String)>,
        limits: TemplateLimits,
    ) -> Result<Self, ChatError> {
        if source.len() > limits.source {
            return Err(ChatError::SourceTooLarge {
                bytes: source.len(),
                limit: limits.source,
            });
        }
        let mut environment = Environment::new();
        environment.set_recursion_limit(limits.recursion);
        environment.set_unknown_method_callback(python::method);
        environment.add_filter(ADD, python::add);
        environment.add_filter("tojson", python::tojson);
        environment.add_filter("trim", python::trim);
        environment.add_filter("string", python::string);
        environment.add_filter("indent", python::indented);
        environment.set_formatter(python::print);
        environment.add_test("sequence", python::is_sequence);
        environment.add_test("iterable", python::is_iterable);
        environment.add_function("raise_exception", raise_exception);
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        let template = ChatTemplate {
            environment: Arc::new(environment),
            syntax: syntax.map_err(|e| syntax_error(&e))?,
            source: source.into(),
            plain: plain_blocks(source).into(),
            special: Arc::new(special),
            limits,
        };
        template.compile().map_err(|e| syntax_error(&e))?;
        Ok(template)
    }

    /// Compiles the template, with sums that are paid for: the engine's own copies lists without
    /// limit.
    fn compile(&self) -> Result<CompiledTemplate<'_>, Error> {
        let config = TemplateConfig {
            syntax_config: self.syntax.clone(),
            default_auto_escape: Arc::new(|_| AutoEscape::None),
        };
        let mut compiled = CompiledTemplate::new(NAME, &self.plain, &config)?;
        let mut at = 0;
        while let Some(instruction) = compiled.instructions.get_mut(at) {
            if matches!(instruction, Instruction::Add) {
                *instruction = Instruction::ApplyFilter(ADD, Some(2), NOT_CACHED);
            }
            at += 1;
        }
        Ok(compiled)
    }

    /// The template's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt's text.
    ///
    /// # Errors
    /// A template that fails, refuses the conversation, or goes beyond its limits; input nested too
    /// deeply.
    pub fn render(&self, input: &ChatInput<'_>) -> Result<String, ChatError> {
        self.render_values(input, None)
    }

    /// The prompt's text, with the places where text of users must not become special tokens.
    pub(super) fn render_guarded(
        &self,
        input: &ChatInput<'_>,
        guard: &Guard,
    ) -> Result<Rendered, ChatError> {
        let mut texts: Vec<&str> = vec![&self.source];
        input.check_depth()?;
        input.texts(&mut |text| texts.push(text));
        texts.extend(self.special.iter().map(|(_, text)| text.as_str()));
        // there are more such characters than inputs of a sensible size can use up
        let mark = unused_char(texts.into_iter()).ok_or_else(|| ChatError::Render {
            line: 0,
            what: "the input uses every private character of Unicode".into(),
        })?;
        let text = self.render_values(input, Some((guard, mark)))?;
        let (text, untrusted) = unmark(&text, mark);
        Ok(Rendered { text, untrusted })
    }

    fn render_values(
        &self,
        input: &ChatInput<'_>,
        guard: Option<(&Guard, char)>,
    ) -> Result<String, ChatError> {
        input.check_depth()?;
        let mut bytes = 0u64;
        input.texts(&mut |text| bytes += text.len() as u64 + 16);
        let fuel = self.limits.fuel;
        let fuel = fuel.saturating_add(bytes.saturating_mul(self.limits.fuel_per_byte));
        let mut environment = (*self.environment).clone();
        environment.set_fuel(Some(fuel));
        let compiled = self.compile().map_err(|e| syntax_error(&e))?;
        let mut text = String::new();
        let result = eval(
            &environment,
            &compiled.instructions,
            self.context(input, guard),
            &compiled.blocks,
            &mut make_string_output(&mut text),
            AutoEscape::None,
        );
        result.map_err(|e| self.render_error(&e, fuel))?;
        match text.len() > self.limits.output {
            true => Err(ChatError::OutputTooLarge {
                limit: self.limits.output,
            }),
            false => Ok(text),
        }
    }

    /// The template's variables.
    fn context(&self, input: &ChatInput<'_>, guard: Option<(&Guard, char)>) -> minijinja::Value {
        let value = |json: &Json| to_value(json, guard, true);
        let list = |items: Option<&[Json]>| match items {
            Some(items) => items.iter().map(value).collect(),
            None => minijinja::Value::from(()),
        };
        let mut variables: Vec<(String, minijinja::Value)> = Vec::new();
        for (name, text) in self.special.iter() {
            variables.push((name.clone(), text.as_str().into()));
        }
        for (name, json) in input.variables.into_iter().flatten() {
            variables.push((name.clone(), value(json)));
        }
        let messages = input.messages.iter().map(|m| message(m, guard)).collect();
        variables.push(("messages".into(), messages));
        variables.push(("tools".into(), list(input.tools)));
        variables.push(("documents".into(), list(input.documents)));
        // in Jinja it holds the template's blocks, of which chat templates have none
        let none = std::iter::empty::<(String, minijinja::Value)>();
        variables.push(("self".into(), minijinja::Value::from_pairs(none)));
        let prompt = input.generation_prompt;
        variables.push(("add_generation_prompt".into(), prompt.into()));
        if let Some(date) = input.date {
            let now = move |format: &str| {
                let formatted = date.format(format);
                formatted.map_err(|what| Error::new(ErrorKind::InvalidOperation, what))
            };
            let now = minijinja::Value::from_function(now);
            variables.push(("strftime_now".into(), now));
        }
        minijinja::Value::from_pairs(variables)
    }

    fn render_error(&self, error: &Error, fuel: u64) -> ChatError {
        let line = error.line().unwrap_or(0);
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(e) = cause {
            if let Some(refusal) = e.downcast_ref::<Refusal>() {
                return ChatError::Refused {
                    line,
                    message: refusal.0.clone(),
                };
            }
            if let Some(e) = e.downcast_ref::<Error>()
                && e.kind() == ErrorKind::OutOfFuel
            {
                return ChatError::OutOfFuel { line, limit: fuel };
            }
            cause = e.source();
        }
        let mut what = describe(error);
        if error.kind() == ErrorKind::UnknownFunction && what.contains("strftime_now") {
            what = "it asks for the date (strftime_now), but none was given; give one".into();
        }
        ChatError::Render { line, what }
    }
}

impl ChatInput<'_> {
    fn check_depth(&self) -> Result<(), ChatError> {
        let check = |what, value: &Json| match within_depth(value, MAX_DEPTH) {
            true => Ok(()),
            false => Err(ChatError::TooDeep {
                what,
                limit: MAX_DEPTH,
            }),
        };
        let mut fields = self.messages.iter().flat_map(|m| m.fields().values());
        fields.try_for_each(|v| check("a message", v))?;
        let lists = [("a tool", self.tools), ("a document", self.documents)];
        for (what, list) in lists {
            let mut items = list.into_iter().flatten();
            items.try_for_each(|v| check(what, v))?;
        }
        let mut variables = self.variables.into_iter().flat_map(Map::values);
        variables.try_for_each(|v| check("a variable", v))
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .field("special", &self.special)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

fn within_depth(value: &Json, left: usize) -> bool {
    let Some(left) = left.checked_sub(1) else {
        return false;
    };
    match value {
        Json::Array(items) => items.iter().all(|v| within_depth(v, left)),
        Json::Object(members) => members.values().all(|v| within_depth(v, left)),
        _ => true,
    }
}

/// Names under which reasoning is given; templates read the first, some the second.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message as templates see it: reasoning under its common names, as `transformers` 5 gives it.
fn message(message: &Message, guard: Option<(&Guard, char)>) -> minijinja::Value {
    let mut fields = message.fields().clone();
    let given = REASONING.iter().find_map(|name| match fields.get(*name) {
        None | Some(Json::Null) => None,
        Some(reasoning) => Some(reasoning.clone()),
    });
    if let Some(reasoning) = given {
        if !fields.contains_key("thinking") {
            let rest = std::mem::take(&mut fields);
            fields.insert("thinking".into(), reasoning.clone());
            fields.extend(rest);
        }
        fields.insert("reasoning_content".into(), reasoning);
    }
    let member = |(key, value): (&String, &Json)| {
        (
            mark(key, guard, false),
            to_value(value, guard, key != "role"),
        )
    };
    minijinja::Value::from_pairs(fields.iter().map(member))
}

fn mark(text: &str, guard: Option<(&Guard, char)>, parts: bool) -> String {
    match guard {
        Some((guard, mark)) => guard.mark(text, mark, parts),
        None => text.to_owned(),
    }
}

/// A value as the template sees it. The nesting was checked.
fn to_value(json: &Json, guard: Option<(&Guard, char)>, parts: bool) -> minijinja::Value {
    match json {
        Json::Null => minijinja::Value::from(()),
        Json::Bool(b) => (*b).into(),
        Json::Number(n) => match (n.as_i64(), n.as_u64(), n.as_f64()) {
            (Some(n), ..) => n.into(),
            (_, Some(n), _) => n.into(),
            (.., n) => n.unwrap_or(f64::NAN).into(),
        },
        Json::String(text) => mark(text, guard, parts).into(),
        Json::Array(items) => items.iter().map(|v| to_value(v, guard, parts)).collect(),
        Json::Object(members) => minijinja::Value::from_pairs(
            members
                .iter()
                .map(|(key, v)| (mark(key, guard, false), to_value(v, guard, parts))),
        ),
    }
}

/// The words of a template that refuses.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn raise_exception(_: &State<'_, '_>, message: &minijinja::Value) -> Result<(), Error> {
    let refusal = Refusal(message.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(refusal))
}

fn syntax_error(error: &Error) -> ChatError {
    ChatError::Syntax {
        line: error.line().unwrap_or(0),
        what: describe(error),
    }
}

/// The kind of an error and its detail, without the place, which is told apart.
fn describe(error: &Error) -> String {
    let kind = error.kind();
    match error.detail() {
        Some(detail) => format!("{kind}: {detail}"),
        None => kind.to_string(),
    }
}
