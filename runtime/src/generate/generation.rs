//! A generation under way: choosing tokens and turning them into text.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{FinishReason, Piece};
use crate::sample::Sampler;
use crate::tokenize::{Detokenizer, StopMatcher, Tokenizer};
use crate::{RuntimeError, Session, TokenId};

/// How likely tokens are by the model's logits. After construction nothing is allocated.
pub(super) struct Odds {
    /// Of the token chosen last.
    chosen: f32,
    /// The likeliest tokens.
    top: Vec<(TokenId, f32)>,
    /// Tokens by likelihood; reused.
    order: Vec<TokenId>,
    count: usize,
}

impl Odds {
    pub fn new(choices: u32, count: u32) -> Self {
        let count = count.min(choices) as usize;
        Odds {
            chosen: 0.0,
            top: Vec::with_capacity(count),
            order: Vec::with_capacity(choices as usize),
            count,
        }
    }

    /// Softmax of `logits`, which the sampler has checked to be finite, for `chosen` and the top.
    fn weigh(&mut self, logits: &[f32], chosen: TokenId) {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |logit: f32| f64::from(logit - most).exp();
        let total: f64 = logits.iter().map(|&l| weight(l)).sum();
        let odds = |token: TokenId| (weight(logits[token as usize]) / total) as f32;
        self.chosen = odds(chosen);
        self.top.clear();
        if self.count == 0 {
            return;
        }
        self.order.clear();
        self.order.extend(0..logits.len() as u32);
        let likelier = |a: &TokenId, b: &TokenId| {
            let (x, y) = (logits[*a as usize], logits[*b as usize]);
            y.total_cmp(&x).then(a.cmp(b))
        };
        self.order.select_nth_unstable_by(self.count - 1, likelier);
        self.order[..self.count].sort_unstable_by(likelier);
        let top = self.order[..self.count].iter();
        self.top.extend(top.map(|&token| (token, odds(token))));
    }
}

/// Who is handed the pieces.
pub(crate) type Receive<'a> = &'a mut dyn FnMut(Piece<'_>) -> ControlFlow<()>;

/// What follows the prompt.
#[must_use]
pub(crate) enum Next {
    /// A token is to be chosen.
    Choose,
    /// The generation ended.
    Finished(FinishReason),
}

/// What follows a token that was chosen.
#[must_use]
pub(crate) enum Choice {
    /// It is to be put in.
    Put(TokenId),
    /// The generation ended.
    Finished(FinishReason),
}

/// A generation under way.
pub(crate) struct Generation {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) sampler: Sampler,
    pub(super) detokenizer: Detokenizer,
    pub(super) stops: StopMatcher,
    /// Tokens that can be chosen.
    pub(super) choices: usize,
    /// Tokens put in before the first.
    pub(super) input: Vec<TokenId>,
    /// How long they took; none if they were not read to their end.
    pub(super) prefilled: Option<Duration>,
    /// Tokens forgotten to make room.
    pub(super) forgotten: usize,
    /// How likely tokens are, if that is asked for.
    pub(super) odds: Option<Odds>,
    pub(super) tokens: Vec<TokenId>,
    pub(super) text: String,
    pub(super) started: Instant,
    /// When the first and the last token came.
    pub(super) first: Option<Instant>,
    pub(super) last: Instant,
}

impl Generation {
    pub fn choose(&mut self, session: &Session) -> Result<TokenId, RuntimeError> {
        let logits = session.logits()?;
        let logits = logits.get(..self.choices).unwrap_or(&logits);
        let token = self.sampler.sample(logits)?;
        if let Some(odds) = &mut self.odds {
            odds.weigh(logits, token);
        }
        self.sampler.accept(token)?;
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.tokens.push(token);
        Ok(token)
    }

    pub fn emit(
        &mut self,
        token: TokenId,
        receive: Receive<'_>,
    ) -> Result<ControlFlow<FinishReason>, RuntimeError> {
        let output = self.stops.push(self.detokenizer.push(token)?);
        self.text.push_str(output.text);
        let odds = self.odds.as_ref();
        let piece = Piece {
            text: output.text,
            token: Some(token),
            probability: odds.map(|o| o.chosen),
            alternatives: odds.map_or(&[], |o| &o.top),
            elapsed: self.started.elapsed(),
        };
        if receive(piece).is_break() {
            return Ok(ControlFlow::Break(FinishReason::Receiver));
        }
        Ok(match output.stopped {
            Some(_) => ControlFlow::Break(FinishReason::StopText),
            None => ControlFlow::Continue(()),
        })
    }

    /// Tells of a token that ends the generation and has no text.
    pub fn ended(&mut self, token: TokenId, receive: Receive<'_>) {
        let odds = self.odds.as_ref();
        let _ = receive(Piece {
            text: "",
            token: Some(token),
            probability: odds.map(|o| o.chosen),
            alternatives: odds.map_or(&[], |o| &o.top),
            elapsed: self.started.elapsed(),
        });
    }

    /// Lets out what was held back.
    pub fn flush(&mut self, receive: Receive<'_>) {
        let before = self.text.len();
        let rest = self.stops.push(self.detokenizer.finish());
        self.text.push_str(rest.text);
        if rest.stopped.is_none() {
            self.text.push_str(self.stops.finish());
        }
        if self.text.len() > before {
            let _ = receive(Piece {
                text: &self.text[before..],
                token: None,
                probability: None,
                alternatives: &[],
                elapsed: self.started.elapsed(),
            });
        }
    }
}
