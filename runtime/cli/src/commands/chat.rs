//! `anynpu run --chat`: a conversation, one line a message.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::ops::ControlFlow;

use anyhow::Context;
use anynpu::chat::{ChatError, Date, Reply};
use anynpu::plan::PlanReport;
use anynpu::{
    Chat, Executed, Fallback, FinishReason, GenerateOptions, MemoryUse, Message, RuntimeError,
    SessionOptions, Timing,
};
use serde::Serialize;

use crate::args::RunArgs;
use crate::commands::{load, run};
use crate::output;

/// Bytes of the longest line that is read.
const MAX_LINE: u64 = 16 << 20;

/// Answers each line of standard input, after the prompt if one was given, until it ends.
pub fn execute(args: &RunArgs) -> anyhow::Result<()> {
    let options = run::options(args)?;
    let date = match &args.date {
        Some(date) => date.parse()?,
        None => Date::now_utc(),
    };
    // before the weights are prepared, which can take long
    args.model.open()?.chat_template().map_err(told)?;
    let model = args.placement.load(&args.model, args.ctx)?;
    let mut chat = Chat::new(model.session(SessionOptions::new())?)?.date(date);
    if let Some(text) = &args.system {
        chat = chat.system(text);
    }
    let mut talk = Talk {
        chat,
        options,
        json: args.json.json,
        terminal: io::stdin().is_terminal(),
        turns: Vec::new(),
        last: None,
    };
    if let Some(prompt) = run::prompt(args)? {
        talk.turn(&prompt)?;
    }
    while let Some(line) = talk.read_line()? {
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/clear" => talk.chat.clear(),
            _ => talk.turn(&line)?,
        }
    }
    talk.end(date)
}

/// A model without a template, told with what to do about it here.
fn told(error: RuntimeError) -> anyhow::Error {
    let without = matches!(&error, RuntimeError::Chat(ChatError::NoTemplate { .. }));
    let error = anyhow::Error::new(error);
    match without {
        true => error
            .context("--chat needs a model made for conversations; run this one without --chat"),
        false => error,
    }
}

struct Talk {
    chat: Chat,
    options: GenerateOptions,
    json: bool,
    terminal: bool,
    turns: Vec<Turn>,
    last: Option<Reply>,
}

/// A question and its answer.
#[derive(Debug, Serialize)]
struct Turn {
    user: String,
    text: String,
    tokens: Vec<u32>,
    finish: FinishReason,
    prompt_tokens: usize,
    reused_tokens: usize,
    computed_tokens: usize,
    dropped_messages: usize,
    timing: Timing,
}

impl Talk {
    /// The next line of standard input, without its end; none at the end of input.
    fn read_line(&self) -> anyhow::Result<Option<String>> {
        if self.terminal {
            let mut out = io::stderr().lock();
            let _ = out.write_all(b"> ").and_then(|()| out.flush());
        }
        let mut bytes = Vec::new();
        load::waiting(true);
        let read = io::stdin()
            .lock()
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut bytes);
        load::waiting(false);
        let read = read.context("standard input")?;
        if read as u64 > MAX_LINE {
            anyhow::bail!("a line of standard input is longer than {MAX_LINE} bytes");
        }
        let text = String::from_utf8_lossy(&bytes);
        let line = text.trim_end_matches(['\r', '\n']);
        Ok((read > 0).then(|| line.to_owned()))
    }

    /// Asks, and prints the answer as it comes.
    fn turn(&mut self, text: &str) -> anyhow::Result<()> {
        self.chat.push(Message::user(text));
        let mut failure: Option<io::Error> = None;
        let json = self.json;
        let reply = self.chat.reply(&self.options, |piece| {
            if json || piece.text.is_empty() {
                return ControlFlow::Continue(());
            }
            match output::print(piece.text) {
                Ok(()) => ControlFlow::Continue(()),
                Err(e) => {
                    failure = Some(e);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(e) = failure {
            return Err(e.into());
        }
        let reply = match reply {
            Err(e @ RuntimeError::PromptTooLong { .. }) => return self.too_long(e),
            other => other?,
        };
        if !json {
            output::print_line("")?;
        }
        self.tell(text, &reply);
        self.turns.push(Turn {
            user: text.to_owned(),
            text: reply.report.text.clone(),
            tokens: reply.report.tokens.clone(),
            finish: reply.finish(),
            prompt_tokens: reply.prompt_tokens,
            reused_tokens: reply.reused_tokens,
            computed_tokens: reply.computed_tokens,
            dropped_messages: reply.dropped_messages,
            timing: reply.report.timing,
        });
        self.last = Some(reply);
        Ok(())
    }

    /// On a terminal the conversation can be begun anew; a script has to be told.
    fn too_long(&mut self, error: RuntimeError) -> anyhow::Result<()> {
        let what = "the conversation no longer fits; /clear begins anew, --on-full slide forgets the oldest turns, --ctx makes room";
        if !self.terminal {
            return Err(anyhow::Error::new(error).context(what));
        }
        self.chat.pop();
        output::note(what);
        Ok(())
    }

    /// What the user should know of a turn.
    fn tell(&self, text: &str, reply: &Reply) {
        tracing::info!(
            "turn {}: {} prompt tokens, {} reused, {} computed; {} generated",
            self.turns.len() + 1,
            reply.prompt_tokens,
            reply.reused_tokens,
            reply.computed_tokens,
            reply.report.tokens.len(),
        );
        tracing::debug!("the message had {} bytes", text.len());
        if reply.dropped_messages > 0 {
            let dropped = reply.dropped_messages;
            output::note(&format!(
                "the oldest {dropped} messages were forgotten to make room"
            ));
        }
        match reply.finish() {
            FinishReason::Cancelled => {
                self.options.cancel.reset();
                output::note("the answer was stopped by Ctrl-C");
            }
            FinishReason::ContextFull => output::note("the answer was cut: the context is full"),
            _ => {}
        }
    }

    fn end(self, date: Date) -> anyhow::Result<()> {
        if self.turns.is_empty() {
            output::note("no message came; give one with -p or on standard input");
        }
        if self.json {
            return output::print_json(&Document::of(&self, date));
        }
        if let Some(reply) = &self.last {
            run::summarise(&reply.report, self.chat.session().context());
        }
        Ok(())
    }
}

/// The conversation for scripts. What ran is counted over all turns.
#[derive(Serialize)]
struct Document<'a> {
    turns: &'a [Turn],
    messages: &'a [Message],
    date: String,
    plan: Option<&'a PlanReport>,
    executed: Option<&'a Executed>,
    fallbacks: Option<&'a [Fallback]>,
    warnings: &'a [String],
    kv_type: Option<&'a str>,
    memory: Option<&'a MemoryUse>,
}

impl<'a> Document<'a> {
    fn of(talk: &'a Talk, date: Date) -> Self {
        let last = talk.last.as_ref().map(|reply| &reply.report);
        Document {
            turns: &talk.turns,
            messages: talk.chat.messages(),
            date: date.to_string(),
            plan: last.map(|r| &r.plan),
            executed: last.map(|r| &r.executed),
            fallbacks: last.map(|r| r.fallbacks.as_slice()),
            warnings: last.map_or(&[], |r| r.warnings.as_slice()),
            kv_type: last.map(|r| r.kv_type),
            memory: last.map(|r| &r.memory),
        }
    }
}
