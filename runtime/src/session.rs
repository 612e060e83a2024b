//! A context of a model: tokens in, logits out.

use std::time::Duration;

use crate::exec::{Executed, Logits, NextStep, Rows, SegmentRun, Step};
use crate::memory::MemoryPlan;
use crate::plan::{Phase, PlanSet};
use crate::runner::{Runner, Stepped};
use crate::{CancelToken, Fallback, Kind, LoadedModel, RuntimeError, TokenId};

/// How to open a session.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Tokens the context holds; what the model was loaded with if not said.
    pub context: Option<u32>,
    /// Longest time one step of a device may take; `ANYNPU_STEP_TIMEOUT_MS` if not said.
    pub step_timeout: Option<Duration>,
}

impl SessionOptions {
    /// Defaults.
    pub fn new() -> Self {
        SessionOptions::default()
    }

    /// Sets the context.
    #[must_use]
    pub fn context(mut self, tokens: u32) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Sets the longest time one step may take.
    #[must_use]
    pub fn step_timeout(mut self, limit: Duration) -> Self {
        self.step_timeout = Some(limit);
        self
    }
}

/// A context of a model: the tokens so far and their KV cache.
///
/// Tokens are put in with [`Session::prefill`] and [`Session::decode`]; [`Session::generate`] does
/// both. The tokens are kept on the host, so the cache can be made again from them.
#[derive(Debug)]
pub struct Session {
    pub(crate) model: LoadedModel,
    pub(crate) runner: Runner,
    /// The tokens whose rows are in the KV cache.
    pub(crate) tokens: Vec<TokenId>,
    /// A token that was chosen but not put in yet.
    pub(crate) pending: Option<TokenId>,
}

impl Session {
    pub(crate) fn open(model: LoadedModel, options: SessionOptions) -> Result<Self, RuntimeError> {
        model.require_kind("generating text", &[Kind::Decoder])?;
        let context = options.context.unwrap_or_else(|| model.context());
        model.require_context(context)?;
        let limit = options.step_timeout;
        let limit = limit.unwrap_or(model.runtime().knobs().step_timeout.duration());
        Ok(Session {
            runner: Runner::new(model.clone(), context, limit)?,
            tokens: Vec::with_capacity(context as usize),
            pending: None,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// Tokens the context holds.
    pub fn context(&self) -> u32 {
        self.runner.capacity()
    }

    /// The tokens put in so far.
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens that still fit.
    pub fn room(&self) -> u32 {
        self.context() - self.position()
    }

    /// Memory it needs, by what for.
    pub fn memory(&self) -> MemoryPlan {
        let mut plan = self.model.memory().clone();
        let kv = self.model.open().model();
        let kv = kv.state_bytes(self.model.kv_dtype(), self.context());
        plan.kv = kv.unwrap_or(u64::MAX);
        plan
    }

    /// What was executed since the session was opened.
    pub fn executed(&self) -> Executed {
        self.runner.executed()
    }

    /// Keeps a record of every segment that runs from now on, for a picture or a trace. Steps allocate
    /// while it is kept.
    pub fn record(&mut self) {
        self.runner.record();
    }

    /// What ran since [`Session::record`], in order.
    pub fn recorded(&self) -> &[SegmentRun] {
        self.runner.recorded()
    }

    /// Where devices counted other than what they were given.
    pub fn miscounts(&self) -> Vec<String> {
        self.runner.miscounts()
    }

    /// What the user should know of devices that failed since the session was opened.
    pub fn warnings(&self) -> &[String] {
        self.runner.warnings()
    }

    /// Nodes that moved because a device failed.
    pub fn fallbacks(&self) -> &[Fallback] {
        self.runner.fallbacks()
    }

    /// Where nodes run now.
    pub fn plans(&self) -> &PlanSet {
        &self.runner.form().plans
    }

    /// Gives the session's memory back, the KV cache among it; the tokens are kept. The session
    /// wakes by itself when it is used next, or by [`Session::resume`].
    pub fn suspend(&mut self) {
        self.runner.executor_mut().suspend();
    }

    /// Whether its memory was given back.
    pub fn is_suspended(&self) -> bool {
        self.runner.executor().is_suspended()
    }

    /// Takes memory again after [`Session::suspend`] and reads the session's tokens anew.
    /// [`Session::logits`] are then those after the last.
    ///
    /// # Errors
    /// Too little memory, a device that fails, a cancellation: the session stays suspended.
    pub fn resume(&mut self, cancel: Option<&CancelToken>) -> Result<(), RuntimeError> {
        self.wake(cancel)
    }

    pub(crate) fn wake(&mut self, cancel: Option<&CancelToken>) -> Result<(), RuntimeError> {
        if !self.runner.executor().is_suspended() {
            return Ok(());
        }
        self.runner.resume()?;
        let (tokens, pending) = (self.tokens.clone(), self.pending);
        self.tokens.clear();
        let read = match tokens.is_empty() {
            true => Ok(()),
            false => self.prefill(&tokens, cancel),
        };
        if let Err(e) = read {
            self.tokens = tokens;
            self.runner.executor_mut().suspend();
            return Err(e);
        }
        self.pending = pending;
        Ok(())
    }

    /// Puts `tokens` in, a chunk at a time. Afterwards [`Session::logits`] are those after the last.
    ///
    /// # Errors
    /// Tokens that don't fit or don't exist (nothing is put in then); a device that fails or a
    /// cancellation (the chunks before it are in).
    pub fn prefill(
        &mut self,
        tokens: &[TokenId],
        cancel: Option<&CancelToken>,
    ) -> Result<(), RuntimeError> {
        self.wake(cancel)?;
        self.check(tokens)?;
        let mut done = 0;
        while done < tokens.len() {
            check_cancel(cancel)?;
            done += self.read(&tokens[done..], Rows::Last, cancel)?;
        }
        Ok(())
    }

    /// Puts the first of `tokens` in: steps that can be under way at once. Gives how many. `last` are the rows
    /// wanted of the last of all steps.
    fn read(
        &mut self,
        tokens: &[TokenId],
        last: Rows,
        cancel: Option<&CancelToken>,
    ) -> Result<usize, RuntimeError> {
        let (mut steps, mut rest, mut position) = (Vec::new(), tokens, self.position());
        let together = self.runner.at_once();
        while !rest.is_empty() && steps.len() < together {
            let (phase, count) = match self.runner.next_step(rest.len() as u32, position) {
                NextStep::Prefill(count) => (Phase::Prefill, count),
                NextStep::Decode if steps.is_empty() => (Phase::Decode, 1),
                NextStep::Decode => break,
            };
            let (part, after) = rest.split_at(count as usize);
            steps.push(Step {
                phase,
                tokens: part,
                types: &[],
                position,
                rows: match after.is_empty() {
                    true => last,
                    false => Rows::None,
                },
            });
            (rest, position) = (after, position + count);
        }
        self.run(&steps, cancel)
    }

    /// Puts `tokens` in and hands `with` the logits after each: its position and one logit a token
    /// of the vocabulary.
    ///
    /// # Errors
    /// As [`Session::prefill`], and what `with` returns.
    pub fn logits_of_each<E: From<RuntimeError>>(
        &mut self,
        tokens: &[TokenId],
        cancel: Option<&CancelToken>,
        mut with: impl FnMut(u32, &[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.wake(cancel)?;
        self.check(tokens)?;
        let vocabulary = self.runner.program().vocabulary() as usize;
        let mut rest = tokens;
        while !rest.is_empty() {
            check_cancel(cancel)?;
            let program = self.runner.program();
            // steps of fixed sizes give one row each
            let phase = match program.sizes().buckets.is_empty() {
                true => Phase::Prefill,
                false => Phase::Decode,
            };
            let (part, after) = rest.split_at(rest.len().min(program.limits().rows as usize));
            let first = self.position();
            let step = self.one(phase, part, Rows::All);
            if self.run(&[step], cancel)? == 0 {
                continue;
            }
            rest = after;
            let logits = self.runner.logits()?;
            for (position, row) in (first..).zip(logits.chunks_exact(vocabulary)) {
                with(position, row)?;
            }
        }
        Ok(())
    }

    /// Puts one token in. Afterwards [`Session::logits`] are those after it. Allocates nothing.
    ///
    /// # Errors
    /// A full context, a token that doesn't exist, a device that fails.
    pub fn decode(&mut self, token: TokenId) -> Result<(), RuntimeError> {
        self.wake(None)?;
        self.check_next(token)?;
        let token = [token];
        let step = self.one(Phase::Decode, &token, Rows::Last);
        while self.run(&[step], None)? == 0 {}
        Ok(())
    }

    /// One logit a token of the vocabulary, after the last token put in. Empty if nothing was.
    ///
    /// # Errors
    /// A device whose memory can't be read.
    pub fn logits(&self) -> Result<Logits<'_>, RuntimeError> {
        self.runner.logits()
    }

    /// Makes the session hold `tokens`: what agrees with its tokens from the start on stays, the
    /// rest is forgotten, and what is missing is put in. Gives the number of tokens that stayed.
    /// Afterwards [`Session::logits`] are those after the last, which is always put in.
    ///
    /// # Errors
    /// As [`Session::prefill`]; no tokens.
    pub fn put(
        &mut self,
        tokens: &[TokenId],
        cancel: Option<&CancelToken>,
    ) -> Result<usize, RuntimeError> {
        if tokens.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        self.wake(cancel)?;
        self.check_tokens(tokens)?;
        if tokens.len() > self.context() as usize {
            return Err(RuntimeError::PromptTooLong {
                prompt: tokens.len(),
                context: self.context(),
                room: self.context(),
            });
        }
        let same = self.keep_common(tokens);
        self.prefill(&tokens[same..], cancel)?;
        Ok(same)
    }

    /// Forgets all but what the session's tokens and `tokens` have in common from the start on, the
    /// last of `tokens` aside, for which logits are still wanted. Gives the number of tokens kept.
    pub(crate) fn keep_common(&mut self, tokens: &[TokenId]) -> usize {
        let same = self.tokens.iter().zip(tokens);
        let same = same.take_while(|(a, b)| a == b).count();
        let same = same.min(tokens.len().saturating_sub(1));
        self.truncate(same);
        same
    }

    /// Forgets the tokens from `length` on; the KV rows of those before stay.
    pub fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
        self.pending = None;
    }

    fn position(&self) -> u32 {
        // no more tokens are put in than the context holds
        self.tokens.len() as u32
    }

    /// A step of `tokens` where the session is.
    fn one<'a>(&self, phase: Phase, tokens: &'a [TokenId], rows: Rows) -> Step<'a> {
        Step {
            phase,
            tokens,
            types: &[],
            position: self.position(),
            rows,
        }
    }

    /// Runs steps and gives how many tokens went in. If the model moved, the KV cache is filled for those before.
    fn run(
        &mut self,
        steps: &[Step<'_>],
        cancel: Option<&CancelToken>,
    ) -> Result<usize, RuntimeError> {
        let mut go_on = || !cancel.is_some_and(CancelToken::is_cancelled);
        let (ran, stepped) = self.runner.steps(steps, &mut go_on);
        let before = self.tokens.len();
        for step in &steps[..ran] {
            self.tokens.extend_from_slice(step.tokens);
            self.pending = None;
        }
        let put_in = self.tokens.len() - before;
        self.after(stepped?)?;
        Ok(put_in)
    }

    /// Fills the KV cache for the session's tokens if the model moved and its rows are lost.
    fn after(&mut self, stepped: Stepped) -> Result<(), RuntimeError> {
        match stepped {
            Stepped::Ran | Stepped::Moved { rows_kept: true } => Ok(()),
            Stepped::Moved { rows_kept: false } => self.fill_again(),
        }
    }

    /// Moves to what was compiled in the background, if it now is.
    pub(crate) fn settle(&mut self) -> Result<(), RuntimeError> {
        match self.runner.settle(self.position()) {
            Some(moved) => self.after(moved),
            None => Ok(()),
        }
    }

    /// Moves away from what failed in a step of several sessions that was not seen to end.
    pub(crate) fn survive(&mut self, failure: RuntimeError) -> Result<(), RuntimeError> {
        let moved = self.runner.survive(failure, self.position())?;
        self.after(moved)
    }

    /// Takes in that a step of several sessions put `token` in.
    pub(crate) fn took(&mut self, token: TokenId) {
        self.tokens.push(token);
        self.pending = None;
    }

    /// Fails unless `token` can be put in.
    pub(crate) fn check_next(&self, token: TokenId) -> Result<(), RuntimeError> {
        self.check_tokens(&[token])?;
        match self.room() {
            0 => Err(RuntimeError::ContextFull {
                context: self.context(),
            }),
            _ => Ok(()),
        }
    }

    /// Reads the session's tokens anew, as the rows of the KV cache are lost.
    fn fill_again(&mut self) -> Result<(), RuntimeError> {
        let tokens = std::mem::take(&mut self.tokens);
        let mut filled = Ok(0);
        while filled.is_ok() && self.tokens.len() < tokens.len() {
            let rest = &tokens[self.tokens.len()..];
            filled = self.read(rest, Rows::None, None);
        }
        match filled {
            Ok(_) => Ok(()),
            Err(e) => {
                // the tokens are known, their rows are not: as after suspending
                self.runner.executor_mut().suspend();
                self.tokens = tokens;
                Err(e)
            }
        }
    }

    fn check(&self, tokens: &[TokenId]) -> Result<(), RuntimeError> {
        self.check_tokens(tokens)?;
        if tokens.len() > self.room() as usize {
            return Err(RuntimeError::PromptTooLong {
                prompt: tokens.len(),
                context: self.context(),
                room: self.room(),
            });
        }
        Ok(())
    }

    pub(crate) fn check_tokens(&self, tokens: &[TokenId]) -> Result<(), RuntimeError> {
        let vocabulary = self.runner.program().vocabulary();
        match tokens.iter().find(|&&t| t >= vocabulary) {
            Some(&token) => Err(RuntimeError::TokenOutOfRange { token, vocabulary }),
            None => Ok(()),
        }
    }
}

fn check_cancel(cancel: Option<&CancelToken>) -> Result<(), RuntimeError> {
    match cancel.is_some_and(CancelToken::is_cancelled) {
        true => Err(RuntimeError::Cancelled {
            what: "reading the prompt",
        }),
        false => Ok(()),
    }
}
