//! Generating text from a prompt.

mod generation;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::exec::Executed;
use crate::fallback::Fallback;
use crate::memory::{MemoryPlan, peak_rss_bytes};
use crate::plan::PlanReport;
use crate::sample::{SampleOptions, Sampler};
use crate::tokenize::{DetokenizeOptions, EncodeOptions, StopMatcher, Tokenizer};
use crate::{CancelToken, RuntimeError, Session, TokenId};

use generation::Odds;
pub(crate) use generation::{Choice, Generation, Next, Receive};

/// What to continue.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Prompt<'a> {
    /// A text. At the start of a session the tokens that the model's vocabulary says to add are
    /// added; an empty text is then the begin token alone.
    Text(&'a str),
    /// Tokens, to which nothing is added.
    Tokens(&'a [TokenId]),
}

impl<'a> From<&'a str> for Prompt<'a> {
    fn from(text: &'a str) -> Self {
        Prompt::Text(text)
    }
}

impl<'a> From<&'a String> for Prompt<'a> {
    fn from(text: &'a String) -> Self {
        Prompt::Text(text)
    }
}

impl<'a> From<&'a [TokenId]> for Prompt<'a> {
    fn from(tokens: &'a [TokenId]) -> Self {
        Prompt::Tokens(tokens)
    }
}

/// What to do when the context is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFull {
    /// Stop; the report's `finish` says so.
    #[default]
    Error,
    /// Forget the older half of the tokens, the begin token aside, and go on.
    Slide,
}

/// How to generate.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Most tokens to generate; until the model ends or the context is full if not said.
    pub max_tokens: Option<u32>,
    /// How tokens are chosen.
    pub sampling: SampleOptions,
    /// Texts that end the generation; they are not part of the result.
    pub stops: Vec<String>,
    /// What to do when the context is full.
    pub on_full: OnFull,
    /// Goes on after a token that ends the generation.
    pub ignore_end: bool,
    /// Reads the texts of special tokens in the prompt as these tokens. Leave it false for text
    /// from users.
    pub parse_special: bool,
    /// Tells with each piece how likely the model held its token, and this many of the likeliest
    /// tokens; nothing is told if not said.
    pub probabilities: Option<u32>,
    /// Stops the generation from elsewhere.
    pub cancel: CancelToken,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_tokens: None,
            sampling: SampleOptions::default(),
            stops: Vec::new(),
            on_full: OnFull::Error,
            ignore_end: false,
            parse_special: false,
            probabilities: None,
            cancel: CancelToken::new(),
        }
    }
}

impl GenerateOptions {
    /// Defaults: sampling at temperature 0.8, no limit but the context.
    pub fn new() -> Self {
        GenerateOptions::default()
    }

    /// Always the likeliest token.
    pub fn greedy() -> Self {
        GenerateOptions {
            sampling: SampleOptions::greedy(),
            ..GenerateOptions::default()
        }
    }

    /// Sets the most tokens to generate.
    #[must_use]
    pub fn max_tokens(mut self, tokens: u32) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Sets the seed of the random choices.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.sampling.seed = seed;
        self
    }

    /// Sets how tokens are chosen.
    #[must_use]
    pub fn sampling(mut self, sampling: SampleOptions) -> Self {
        self.sampling = sampling;
        self
    }

    /// Adds a text that ends the generation.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stops.push(text.into());
        self
    }

    /// Has each piece tell how likely its token was, and `top` of the likeliest tokens.
    #[must_use]
    pub fn probabilities(mut self, top: u32) -> Self {
        self.probabilities = Some(top);
        self
    }

    /// Sets what stops the generation from elsewhere.
    #[must_use]
    pub fn cancel(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }
}

/// A piece of the generated text.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Piece<'a> {
    /// Whole characters; empty while a character or a possible stop text is incomplete.
    pub text: &'a str,
    /// The token that completed it; `None` for what is left over at the end.
    pub token: Option<TokenId>,
    /// How likely the model held the token, before any option of sampling; if that was asked for
    /// and the piece has a token.
    pub probability: Option<f32>,
    /// The likeliest tokens with their probabilities, the likeliest first; as many as asked for.
    pub alternatives: &'a [(TokenId, f32)],
    /// Time since the generation started.
    pub elapsed: Duration,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model chose a token that ends the generation.
    EndToken,
    /// A stop text came.
    StopText,
    /// So many tokens were asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// It was cancelled.
    Cancelled,
    /// The receiver of the pieces stopped it.
    Receiver,
}

/// What a generation did, with the keys of the command line's JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct GenerationReport {
    /// The tokens generated, one that ends the generation among them.
    pub tokens: Vec<TokenId>,
    /// Their text.
    pub text: String,
    /// Tokens put in before the first was generated.
    pub prompt_tokens: usize,
    /// Tokens forgotten to make room ([`OnFull::Slide`]).
    pub forgotten_tokens: usize,
    /// Why it ended.
    pub finish: FinishReason,
    /// Where nodes were to run.
    pub plan: PlanReport,
    /// Where they ran, since the session was opened.
    pub executed: Executed,
    /// Nodes that were not pinned and did not run on the most preferred device.
    pub fallbacks: Vec<Fallback>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Type of the KV cache.
    pub kv_type: &'static str,
    /// Times.
    pub timing: Timing,
    /// Memory.
    pub memory: MemoryUse,
}

/// Times of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Timing {
    /// Reading the model.
    pub load_ms: f64,
    /// Planning and compiling it.
    pub compile_ms: f64,
    /// From the prompt to the first token; none if there was no token.
    pub ttft_ms: Option<f64>,
    /// Tokens of the prompt per second; none if it was not read to its end.
    pub prefill_tok_s: Option<f64>,
    /// Tokens per second after the first; none if there were fewer than two.
    pub decode_tok_s: Option<f64>,
}

/// Memory of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryUse {
    /// The most the process has held; none where the system doesn't tell.
    pub peak_rss_bytes: Option<u64>,
    /// The most the process was planned to hold.
    pub planned_bytes: u64,
    /// What that was planned for.
    pub plan: MemoryPlan,
}

impl Session {
    /// Generates from `prompt`, handing each piece of text to `receive` as it comes.
    ///
    /// Called again, it continues: the prompt follows what the session holds.
    ///
    /// # Errors
    /// A prompt that is empty (without a begin token to start from) or does not fit; options out
    /// of range; a device that fails. A full context, a cancellation and a receiver that stops are
    /// no errors: see [`GenerationReport::finish`].
    pub fn generate<'p>(
        &mut self,
        prompt: impl Into<Prompt<'p>>,
        options: &GenerateOptions,
        receive: impl FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<GenerationReport, RuntimeError> {
        let mut receive = receive;
        let mut generation = self.begin(prompt.into(), options)?;
        let finish = match self.read_prompt(&mut generation, options)? {
            Next::Finished(reason) => reason,
            Next::Choose => self.continue_with(&mut generation, options, &mut receive)?,
        };
        self.finish(generation, finish, &mut receive)
    }

    /// Prepares a generation from `prompt`, of which nothing is put in yet.
    pub(crate) fn begin(
        &mut self,
        prompt: Prompt<'_>,
        options: &GenerateOptions,
    ) -> Result<Generation, RuntimeError> {
        let started = Instant::now();
        let tokenizer = self.model.tokenizer()?.clone();
        let (input, at_start) = self.input(prompt, &tokenizer, options)?;
        let room = self.room() as usize;
        let most = options.max_tokens.map_or(room + 1, |n| n as usize);
        let text = DetokenizeOptions {
            special: false,
            at_start,
        };
        // logits past the vocabulary are padding
        let vocabulary = self.runner.program().vocabulary();
        let choices = vocabulary.min(tokenizer.token_count());
        let mut generation = Generation {
            sampler: Sampler::new(options.sampling.clone(), choices)?,
            detokenizer: tokenizer.detokenizer(text),
            stops: StopMatcher::new(&options.stops)?,
            choices: choices as usize,
            forgotten: 0,
            odds: options.probabilities.map(|top| Odds::new(choices, top)),
            tokens: Vec::with_capacity(most.min(MOST_RESERVED)),
            text: String::with_capacity(8 * most.min(MOST_RESERVED)),
            tokenizer,
            input,
            prefilled: None,
            started,
            first: None,
            last: started,
        };
        for &token in self.tokens.iter().chain(&generation.input) {
            if (token as usize) < generation.choices {
                generation.sampler.accept(token)?;
            }
        }
        Ok(generation)
    }

    /// Puts the prompt in.
    pub(crate) fn read_prompt(
        &mut self,
        generation: &mut Generation,
        options: &GenerateOptions,
    ) -> Result<Next, RuntimeError> {
        match self.prefill(&generation.input, Some(&options.cancel)) {
            Ok(()) => {
                generation.prefilled = Some(generation.started.elapsed());
                Ok(Next::Choose)
            }
            Err(RuntimeError::Cancelled { .. }) => Ok(Next::Finished(FinishReason::Cancelled)),
            Err(e) => Err(e),
        }
    }

    /// Lets out what is left and tells what was done.
    pub(crate) fn finish(
        &self,
        mut generation: Generation,
        finish: FinishReason,
        receive: Receive<'_>,
    ) -> Result<GenerationReport, RuntimeError> {
        generation.flush(receive);
        self.check_required()?;
        Ok(self.report(generation, finish))
    }

    /// Fails if a device is required and something else was counted than was planned.
    fn check_required(&self) -> Result<(), RuntimeError> {
        let Some(device) = self.model.required_device() else {
            return Ok(());
        };
        match self.miscounts().into_iter().next() {
            None => Ok(()),
            Some(what) => Err(RuntimeError::NotAsPlanned {
                device: device.to_owned(),
                what,
            }),
        }
    }

    /// The tokens to put in, and whether the text that follows begins a text.
    fn input(
        &mut self,
        prompt: Prompt<'_>,
        tokenizer: &Tokenizer,
        options: &GenerateOptions,
    ) -> Result<(Vec<TokenId>, bool), RuntimeError> {
        let fresh = self.tokens.is_empty() && self.pending.is_none();
        let mut input: Vec<TokenId> = self.pending.into_iter().collect();
        let at_start = match prompt {
            Prompt::Tokens(tokens) => {
                input.extend_from_slice(tokens);
                false
            }
            Prompt::Text(text) => {
                let encode = EncodeOptions {
                    add_special: fresh,
                    parse_special: options.parse_special,
                };
                tokenizer.encode_into(text, encode, &mut input)?;
                if fresh && input.is_empty() {
                    input.extend(tokenizer.special().begin);
                }
                fresh && text.is_empty()
            }
        };
        if input.is_empty() {
            // the last token is put in again, for the logits after it
            match self.tokens.pop() {
                Some(last) => input.push(last),
                None => return Err(RuntimeError::EmptyPrompt),
            }
        }
        Ok((input, at_start))
    }

    /// Chooses, emits and puts in tokens until something ends it.
    fn continue_with(
        &mut self,
        generation: &mut Generation,
        options: &GenerateOptions,
        receive: Receive<'_>,
    ) -> Result<FinishReason, RuntimeError> {
        loop {
            match self.choose(generation, options, receive)? {
                Choice::Put(token) => self.decode(token)?,
                Choice::Finished(reason) => return Ok(reason),
            }
        }
    }

    /// Chooses and emits a token, and makes room for it: it is to be put in, unless something ended the generation.
    pub(crate) fn choose(
        &mut self,
        generation: &mut Generation,
        options: &GenerateOptions,
        receive: Receive<'_>,
    ) -> Result<Choice, RuntimeError> {
        let finished = |reason| Ok(Choice::Finished(reason));
        if options.cancel.is_cancelled() {
            return finished(FinishReason::Cancelled);
        }
        let limit = options.max_tokens.map(|n| n as usize);
        if limit.is_some_and(|n| generation.tokens.len() >= n) {
            return finished(FinishReason::MaxTokens);
        }
        let token = generation.choose(self)?;
        self.pending = Some(token);
        if generation.tokenizer.ends_generation(token) && !options.ignore_end {
            generation.ended(token, receive);
            return finished(FinishReason::EndToken);
        }
        if let ControlFlow::Break(reason) = generation.emit(token, receive)? {
            return finished(reason);
        }
        if limit.is_some_and(|n| generation.tokens.len() >= n) {
            return finished(FinishReason::MaxTokens);
        }
        if self.room() == 0 {
            match options.on_full {
                OnFull::Error => return finished(FinishReason::ContextFull),
                OnFull::Slide => {
                    let held = self.tokens.len();
                    let full = self.slide(&generation.tokenizer, &options.cancel)?;
                    generation.forgotten += held.saturating_sub(self.tokens.len());
                    if let Some(reason) = full {
                        return finished(reason);
                    }
                }
            }
        }
        Ok(Choice::Put(token))
    }

    /// Makes room by forgetting the older half of the tokens, a begin token at the start aside.
    /// Positions start anew, so the tokens kept are put in again.
    fn slide(
        &mut self,
        tokenizer: &Tokenizer,
        cancel: &CancelToken,
    ) -> Result<Option<FinishReason>, RuntimeError> {
        let pending = self.pending;
        let begin = self.tokens.first().copied();
        let begin = begin.filter(|&t| tokenizer.special().begin == Some(t));
        let keep = self.context() as usize / 2;
        let tail = self.tokens.len() - keep.saturating_sub(begin.iter().count());
        let kept: Vec<TokenId> = begin
            .into_iter()
            .chain(self.tokens[tail..].iter().copied())
            .collect();
        if kept.len() >= self.context() as usize {
            return Ok(Some(FinishReason::ContextFull));
        }
        self.truncate(0);
        match self.prefill(&kept, Some(cancel)) {
            Ok(()) => {
                self.pending = pending;
                Ok(None)
            }
            Err(RuntimeError::Cancelled { .. }) => Ok(Some(FinishReason::Cancelled)),
            Err(e) => Err(e),
        }
    }

    fn report(&self, generation: Generation, finish: FinishReason) -> GenerationReport {
        let mut warnings = self.model.warnings().to_vec();
        warnings.extend(self.model.background().failures());
        warnings.extend_from_slice(self.warnings());
        warnings.extend(self.miscounts());
        let mut fallbacks = self.model.fallbacks().to_vec();
        fallbacks.extend_from_slice(self.fallbacks());
        let decoded = generation.tokens.len().saturating_sub(1);
        let decoding = generation
            .first
            .map(|first| generation.last.duration_since(first));
        GenerationReport {
            prompt_tokens: generation.input.len(),
            forgotten_tokens: generation.forgotten,
            finish,
            plan: self.plans().report(self.model.open().model().graph()),
            executed: self.executed(),
            fallbacks,
            warnings,
            kv_type: self.model.kv_dtype().name(),
            timing: Timing {
                load_ms: self.model.load_ms(),
                compile_ms: self.model.compile_ms(),
                ttft_ms: generation
                    .first
                    .map(|first| first.duration_since(generation.started).as_secs_f64() * 1e3),
                prefill_tok_s: generation
                    .prefilled
                    .map(|time| rate(generation.input.len(), time)),
                decode_tok_s: decoding
                    .filter(|_| decoded > 0)
                    .map(|time| rate(decoded, time)),
            },
            memory: MemoryUse {
                peak_rss_bytes: peak_rss_bytes(),
                planned_bytes: self.memory().total(),
                plan: self.memory(),
            },
            tokens: generation.tokens,
            text: generation.text,
        }
    }
}

/// Tokens and text are reserved for at most so many tokens; longer ones grow.
const MOST_RESERVED: usize = 1 << 16;

fn rate(tokens: usize, time: Duration) -> f64 {
    tokens as f64 / time.as_secs_f64().max(1e-9)
}
