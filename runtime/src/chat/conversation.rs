//! A conversation over a session.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::date::Date;
use super::error::ChatError;
use super::guard::Guard;
use super::message::Message;
use super::template::{ChatInput, ChatTemplate};
use crate::tokenize::Tokenizer;
use crate::{
    FinishReason, GenerateOptions, GenerationReport, LoadedModel, OnFull, OpenModel, Piece, Prompt,
    RuntimeError, Session, TokenId,
};

/// A conversation with a model.
///
/// Each answer renders the whole conversation with the model's template; of the tokens only those
/// are computed that differ from what the session holds. Texts of messages never become special
/// tokens, so nobody can end a turn by writing `<|im_end|>`.
#[derive(Debug)]
pub struct Chat {
    session: Session,
    template: ChatTemplate,
    /// Whether the template is the model's own choice, which depends on whether there are tools.
    chosen: bool,
    tokenizer: Arc<Tokenizer>,
    guard: Guard,
    messages: Vec<Message>,
    tools: Option<Vec<Json>>,
    variables: Map<String, Json>,
    date: Option<Date>,
}

/// Name of the template for conversations with tools.
const TOOL_USE: &str = "tool_use";

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Reply {
    /// Tokens of the rendered conversation.
    pub prompt_tokens: usize,
    /// Those of them that the session held already.
    pub reused_tokens: usize,
    /// Those that were computed.
    pub computed_tokens: usize,
    /// Messages forgotten to make room ([`OnFull::Slide`]).
    pub dropped_messages: usize,
    /// What the generation did. Its `prompt_tokens` are those computed.
    #[serde(flatten)]
    pub report: GenerationReport,
}

impl Chat {
    /// A conversation in `session`, by its model's template; with [`Chat::tools`] by the one named
    /// `tool_use`, if the model has one.
    ///
    /// # Errors
    /// A model without a template or with one that can't be parsed, or whose vocabulary can't be
    /// used.
    pub fn new(session: Session) -> Result<Self, RuntimeError> {
        let template = session.model().chat_template()?;
        let mut chat = Chat::with_template(session, template)?;
        chat.chosen = true;
        Ok(chat)
    }

    /// A conversation by this template.
    ///
    /// # Errors
    /// A model whose vocabulary can't be used.
    pub fn with_template(session: Session, template: ChatTemplate) -> Result<Self, RuntimeError> {
        let tokenizer = session.model().tokenizer()?.clone();
        Ok(Chat {
            guard: Guard::of(&tokenizer),
            tokenizer,
            session,
            template,
            chosen: false,
            messages: Vec::new(),
            tools: None,
            variables: Map::new(),
            date: None,
        })
    }

    /// Says what the model is told before the conversation, as the first message.
    #[must_use]
    pub fn system(mut self, text: impl Into<String>) -> Self {
        self.messages.insert(0, Message::system(text));
        self
    }

    /// Sets the functions that the model may call, as JSON schemas.
    #[must_use]
    pub fn tools(mut self, tools: Vec<Json>) -> Self {
        self.tools = Some(tools);
        self
    }

    /// Sets a variable of the template, e.g. `enable_thinking`.
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<Json>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Sets the date that the template may tell the model.
    #[must_use]
    pub fn date(mut self, date: Date) -> Self {
        self.date = Some(date);
        self
    }

    /// The messages so far.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Adds a message.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Takes the last message back.
    pub fn pop(&mut self) -> Option<Message> {
        self.messages.pop()
    }

    /// Forgets all messages but those of the system before the first of another role.
    pub fn clear(&mut self) {
        self.messages.truncate(self.instructions());
    }

    /// The tokens of the conversation as it is, with the beginning of an answer.
    ///
    /// # Errors
    /// What the template says; text that has no tokens.
    pub fn prompt(&self) -> Result<Vec<TokenId>, RuntimeError> {
        let mut input = ChatInput::new(&self.messages).variables(&self.variables);
        if let Some(tools) = &self.tools {
            input = input.tools(tools);
        }
        if let Some(date) = self.date {
            input = input.date(date);
        }
        let tool_use = self.tool_template()?;
        let template = tool_use.as_ref().unwrap_or(&self.template);
        let rendered = template.render_guarded(&input, &self.guard)?;
        let (text, untrusted) = (&rendered.text, &rendered.untrusted);
        Ok(self.tokenizer.encode_rendered(text, untrusted)?)
    }

    /// The model's template for conversations with tools, if this is one and it has one.
    fn tool_template(&self) -> Result<Option<ChatTemplate>, RuntimeError> {
        let named = self.tokenizer.chat_template_named(TOOL_USE);
        match self.chosen && self.tools.is_some() && named.is_some() {
            true => self
                .session
                .model()
                .open()
                .chat_template_named(TOOL_USE)
                .map(Some),
            false => Ok(None),
        }
    }

    /// Generates the model's answer to the conversation and adds it, handing each piece of text to
    /// `receive` as it comes. An answer that was cancelled is added as far as it came.
    ///
    /// With [`OnFull::Slide`] a conversation that no longer fits loses its oldest messages, those of
    /// the system before them aside, up to the next one of a user.
    ///
    /// # Errors
    /// No message; what the template says; a conversation that doesn't fit; a device that fails.
    /// The messages are as before then.
    pub fn reply(
        &mut self,
        options: &GenerateOptions,
        receive: impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Reply, RuntimeError> {
        if self.messages.is_empty() {
            return Err(ChatError::NothingToAnswer.into());
        }
        let before = self.messages.clone();
        let result = self.try_reply(options, receive);
        if result.is_err() {
            self.messages = before;
        }
        result
    }

    fn try_reply(
        &mut self,
        options: &GenerateOptions,
        receive: impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Reply, RuntimeError> {
        let mut dropped = 0;
        let prompt = loop {
            let prompt = self.prompt()?;
            // one position is left for the first token of the answer
            let fits = prompt.len() < self.session.context() as usize;
            if fits || options.on_full != OnFull::Slide {
                break prompt;
            }
            match self.forget_oldest() {
                0 => break prompt,
                n => dropped += n,
            }
        };
        let reused = self.session.keep_common(&prompt);
        let report = self
            .session
            .generate(Prompt::Tokens(&prompt[reused..]), options, receive)?;
        self.messages.push(Message::assistant(report.text.clone()));
        Ok(Reply {
            prompt_tokens: prompt.len(),
            reused_tokens: reused,
            computed_tokens: prompt.len() - reused,
            dropped_messages: dropped,
            report,
        })
    }

    /// Messages of the system at the start.
    fn instructions(&self) -> usize {
        let roles = self.messages.iter().map(Message::role);
        roles
            .take_while(|role| matches!(*role, "system" | "developer"))
            .count()
    }

    /// Removes the oldest turn; how many messages it had. The last one of a user stays.
    fn forget_oldest(&mut self) -> usize {
        let first = self.instructions();
        let users = self.messages.iter().enumerate().skip(first + 1);
        let next = users.into_iter().find(|(_, m)| m.role() == "user");
        match next {
            Some((next, _)) => self.messages.drain(first..next).count(),
            None => 0,
        }
    }
}

impl Reply {
    /// The answer's text.
    pub fn text(&self) -> &str {
        &self.report.text
    }

    /// Why it ended.
    pub fn finish(&self) -> FinishReason {
        self.report.finish
    }
}

impl LoadedModel {
    /// The model's chat template.
    ///
    /// # Errors
    /// As [`OpenModel::chat_template`].
    pub fn chat_template(&self) -> Result<ChatTemplate, RuntimeError> {
        self.open().chat_template()
    }
}

impl OpenModel {
    /// The model's chat template, with its special tokens as variables.
    ///
    /// # Errors
    /// A model without one ([`ChatError::NoTemplate`], or [`ChatError::NoSuchTemplate`] if it has
    /// others by name), or one that can't be parsed; a model whose
    /// vocabulary can't be used.
    pub fn chat_template(&self) -> Result<ChatTemplate, RuntimeError> {
        let source = self.tokenizer()?.chat_template();
        match source.filter(|s| !s.trim().is_empty()) {
            Some(source) => Ok(ChatTemplate::new(source, self.special_texts()?)?),
            None if self
                .tokenizer()?
                .chat_template_names()
                .all(|n| n == "default") =>
            {
                Err(self.no_template().into())
            }
            None => self.chat_template_named("default"),
        }
    }

    /// A named template, e.g. `tool_use`.
    ///
    /// # Errors
    /// A name that the model doesn't have; a template that can't be parsed; a model whose vocabulary
    /// can't be used.
    pub fn chat_template_named(&self, name: &str) -> Result<ChatTemplate, RuntimeError> {
        let tokenizer = self.tokenizer()?;
        if let Some(source) = tokenizer.chat_template_named(name) {
            return Ok(ChatTemplate::new(source, self.special_texts()?)?);
        }
        let known: Vec<&str> = tokenizer.chat_template_names().collect();
        Err(ChatError::NoSuchTemplate {
            model: self.model().info().name.clone(),
            name: name.to_owned(),
            known: match known.is_empty() {
                true => "none by name".into(),
                false => known.join(", "),
            },
        }
        .into())
    }

    fn no_template(&self) -> ChatError {
        ChatError::NoTemplate {
            model: self.model().info().name.clone(),
        }
    }

    /// The variables that hold the texts of special tokens, under the names that templates use.
    fn special_texts(&self) -> Result<Vec<(String, String)>, RuntimeError> {
        let tokenizer = self.tokenizer()?;
        let special = tokenizer.special();
        let named = [
            ("bos_token", special.begin),
            ("eos_token", special.end),
            ("unk_token", special.unknown),
            ("sep_token", special.separator),
            ("pad_token", special.padding),
            ("mask_token", special.mask),
        ];
        let text = |(name, id): (&str, Option<TokenId>)| {
            let piece = tokenizer.piece(id?).ok()?;
            Some((name.to_owned(), String::from_utf8_lossy(piece).into_owned()))
        };
        Ok(named.into_iter().filter_map(text).collect())
    }
}
