//! Errors of chat templates and conversations.

use thiserror::Error;

/// What can go wrong when a conversation becomes a prompt.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The model carries no template, so it was not made for conversations.
    #[error(
        "model '{model}' carries no chat template (metadata 'tokenizer.chat_template', chat_template.jinja, or 'chat_template' of tokenizer_config.json), so it was not made for conversations; generate from a plain prompt instead"
    )]
    NoTemplate {
        /// The model's name.
        model: String,
    },
    /// The model carries templates, but not this one.
    #[error("model '{model}' carries no chat template named '{name}'; it carries: {known}")]
    NoSuchTemplate {
        /// The model's name.
        model: String,
        /// The name asked for.
        name: String,
        /// Names it has, separated by commas.
        known: String,
    },
    /// A template larger than the limit.
    #[error("the chat template has {bytes} bytes; at most {limit} are read")]
    SourceTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A template that can't be parsed.
    #[error("the chat template can't be parsed at line {line}: {what}")]
    Syntax {
        /// Line in the template, from 1; 0 if not known.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A template that fails while rendering.
    #[error("the chat template failed at line {line}: {what}")]
    Render {
        /// Line in the template, from 1; 0 if not known.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The template called `raise_exception`.
    #[error("the chat template refused (line {line}): {message}")]
    Refused {
        /// Line in the template, from 1; 0 if not known.
        line: usize,
        /// Its own words.
        message: String,
    },
    /// A template that does not end.
    #[error(
        "the chat template did not end within its limit of {limit} steps (line {line}); shorten the conversation or use another template"
    )]
    OutOfFuel {
        /// Line in the template where it was stopped, from 1; 0 if not known.
        line: usize,
        /// The limit.
        limit: u64,
    },
    /// A template that writes more than the limit.
    #[error("the chat template wrote more than its limit of {limit} bytes")]
    OutputTooLarge {
        /// The limit.
        limit: usize,
    },
    /// A message that is no message.
    #[error(
        "message {index} {what}; expected an object with a text 'role' and usually a 'content'"
    )]
    Message {
        /// Position in the conversation, from 0.
        index: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Input nested more deeply than the limit.
    #[error("{what} is nested more than {limit} levels deep")]
    TooDeep {
        /// The input.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A date that does not exist.
    #[error("'{found}' is no date; expected YYYY-MM-DD, with a time as YYYY-MM-DDTHH:MM:SS")]
    Date {
        /// What was given.
        found: String,
    },
    /// Nothing to answer.
    #[error("the conversation has no message to answer; push one first")]
    NothingToAnswer,
}
