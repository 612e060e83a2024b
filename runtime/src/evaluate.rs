//! How well a model predicts a text, and how far its predictions are from another model's.
//!
//! # Which tokens count
//! A text becomes tokens; special tokens in it are read as plain text, the model's begin token is
//! put first if its metadata says so, an end token never is.
//! - If they fit into the context, they are one window, and every token but the first is predicted.
//! - Else they are cut into windows of the context's length, one after the other without overlap;
//!   the first token of each becomes the begin token, if there is one; the predicted tokens are
//!   those of its second half (from `context / 2 + 1` on), so that each has something before it.
//!   What is left over at the end is not predicted. These are the windows of llama.cpp's
//!   `llama-perplexity`, and the figures can be compared.
//!
//! Perplexity is the exponential of the mean loss `−ln p(token)`; its standard error takes the
//! losses as independent. Divergence is Kullback and Leibler's, `Σ p·ln(p/q)` over the vocabulary
//! with `p` of the base model, in nats.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::tokenize::EncodeOptions;
use crate::{CancelToken, LoadedModel, RuntimeError, Session, SessionOptions, TokenId};

/// How to evaluate.
#[derive(Default)]
#[non_exhaustive]
pub struct EvaluateOptions<'a> {
    /// Tokens of a window; [`EVALUATION_CONTEXT`] or the model's context if not said.
    pub context: Option<u32>,
    /// The model whose predictions are the measure, for [`Evaluation::divergence`].
    pub base: Option<&'a LoadedModel>,
    /// Told how far it has come; stops it by returning [`ControlFlow::Break`].
    pub progress: Option<EvaluateProgressFn<'a>>,
    /// Stops it from elsewhere.
    pub cancel: CancelToken,
}

/// Told the tokens done and the tokens in all.
pub type EvaluateProgressFn<'a> = Box<dyn FnMut(u64, u64) -> ControlFlow<()> + 'a>;

/// Tokens of a window if nothing is said: what the field's published figures use.
pub const EVALUATION_CONTEXT: u32 = 512;

impl<'a> EvaluateOptions<'a> {
    /// Defaults.
    pub fn new() -> Self {
        EvaluateOptions::default()
    }

    /// Sets the tokens of a window.
    #[must_use]
    pub fn context(mut self, tokens: u32) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Sets the model to compare with.
    #[must_use]
    pub fn base(mut self, base: &'a LoadedModel) -> Self {
        self.base = Some(base);
        self
    }

    /// Sets what is told of the progress.
    #[must_use]
    pub fn progress(mut self, told: impl FnMut(u64, u64) -> ControlFlow<()> + 'a) -> Self {
        self.progress = Some(Box::new(told));
        self
    }

    /// Sets what stops it from elsewhere.
    #[must_use]
    pub fn cancel(mut self, token: CancelToken) -> Self {
        self.cancel = token;
        self
    }
}

/// How well a model predicts a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Evaluation {
    /// Exponential of the mean loss.
    pub perplexity: f64,
    /// Standard error of the perplexity.
    pub standard_error: f64,
    /// Mean loss of a token, in nats.
    pub mean_loss: f64,
    /// Tokens that were predicted.
    pub predicted_tokens: u64,
    /// Tokens of the texts, begin tokens included.
    pub tokens: u64,
    /// Tokens at the ends of texts that fill no window and were left out.
    pub left_over: u64,
    /// Windows.
    pub windows: u64,
    /// Tokens that a window holds at most.
    pub context: u32,
    /// How far its predictions are from the base model's, if there was one.
    pub divergence: Option<Divergence>,
}

/// How far a model's predictions are from a base model's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Divergence {
    /// Mean over the predicted tokens, in nats.
    pub mean_kl: f64,
    /// Standard error of the mean.
    pub standard_error: f64,
    /// The largest.
    pub max_kl: f64,
    /// Share of the predicted tokens where both find the same token likeliest.
    pub top1_agreement: f64,
    /// Perplexity of the base model on the same tokens.
    pub base_perplexity: f64,
}

impl LoadedModel {
    /// Measures how well the model predicts `texts`, each by itself. See the
    /// [module](crate::evaluate) for which tokens count.
    ///
    /// # Errors
    /// Texts with nothing to predict, a base model with another vocabulary, a context that is too
    /// small or doesn't fit in memory, a device that fails, a cancellation.
    pub fn evaluate(
        &self,
        texts: &[&str],
        mut options: EvaluateOptions<'_>,
    ) -> Result<Evaluation, RuntimeError> {
        let own = EVALUATION_CONTEXT.min(self.context());
        let context = options.context.unwrap_or(own);
        if context < LEAST_CONTEXT {
            return Err(RuntimeError::Option {
                option: "context",
                found: context.to_string(),
                expected: format!("{LEAST_CONTEXT} or more tokens"),
            });
        }
        let plan = Windows::new(self, texts, context)?;
        if let Some(base) = options.base {
            check_base(self, base, texts)?;
        }
        let open = |m: &LoadedModel| m.session(SessionOptions::new().context(context));
        let mut session = open(self)?;
        let mut base = options.base.map(open).transpose()?;
        let total = plan.windows.iter().map(|w| w.tokens.len() as u64).sum();
        let (mut sums, mut done) = (Sums::default(), 0);
        for window in &plan.windows {
            sums.add(window, &mut session, base.as_mut(), &options.cancel)?;
            done += window.tokens.len() as u64;
            let told = options.progress.as_mut().map(|told| told(done, total));
            if told.is_some_and(|t| t.is_break()) {
                return Err(RuntimeError::Cancelled { what: "evaluating" });
            }
        }
        sums.evaluation(&plan, context, base.is_some())
    }
}

/// With fewer no token of a second half is predicted.
const LEAST_CONTEXT: u32 = 4;

/// Tokens that are run through together.
#[derive(Debug, PartialEq)]
struct Window {
    tokens: Vec<TokenId>,
    /// The first of them that is predicted; at least 1.
    first: usize,
}

#[derive(Debug, Default, PartialEq)]
struct Windows {
    windows: Vec<Window>,
    tokens: u64,
    left_over: u64,
}

impl Windows {
    fn new(model: &LoadedModel, texts: &[&str], context: u32) -> Result<Self, RuntimeError> {
        let tokenizer = model.tokenizer()?;
        let begin = tokenizer.begin_added();
        let mut plan = Windows::default();
        for text in texts {
            let mut tokens: Vec<TokenId> = begin.into_iter().collect();
            tokenizer.encode_into(text, EncodeOptions::default(), &mut tokens)?;
            plan.cut(tokens, begin, context as usize);
        }
        match plan.windows.is_empty() {
            true => Err(RuntimeError::Option {
                option: "text",
                found: format!("{} token(s) in {} part(s)", plan.tokens, texts.len()),
                expected: "a text with a token to predict".into(),
            }),
            false => Ok(plan),
        }
    }

    fn cut(&mut self, tokens: Vec<TokenId>, begin: Option<TokenId>, context: usize) {
        self.tokens += tokens.len() as u64;
        if tokens.len() <= context {
            if tokens.len() > 1 {
                self.windows.push(Window { tokens, first: 1 });
            }
            return;
        }
        let parts = tokens.chunks_exact(context);
        self.left_over += parts.remainder().len() as u64;
        for part in parts {
            let mut tokens = part.to_vec();
            if let Some(begin) = begin {
                tokens[0] = begin;
            }
            self.windows.push(Window {
                tokens,
                first: context / 2 + 1,
            });
        }
    }
}

/// Fails unless the base model reads the texts as the same tokens.
fn check_base(model: &LoadedModel, base: &LoadedModel, texts: &[&str]) -> Result<(), RuntimeError> {
    let differs = |found: String, expected: String| {
        Err(RuntimeError::Option {
            option: "base model",
            found,
            expected,
        })
    };
    let (ours, theirs) = (model.info().vocabulary, base.info().vocabulary);
    if ours != theirs {
        return differs(
            format!("one with a vocabulary of {theirs} tokens"),
            format!("one of {ours} tokens like the model's"),
        );
    }
    let (our, their) = (model.tokenizer()?, base.tokenizer()?);
    let mut same = our.begin_added() == their.begin_added();
    for text in texts {
        let options = EncodeOptions::default();
        same &= our.encode(text, options)? == their.encode(text, options)?;
    }
    match same {
        true => Ok(()),
        false => differs(
            "one that cuts the text into other tokens".into(),
            "one with the model's tokenizer".into(),
        ),
    }
}

/// Tokens whose logits of the base model are kept at a time.
const PART: usize = 32;

/// What is summed over predicted tokens.
#[derive(Debug, Default)]
struct Sums {
    count: u64,
    loss: f64,
    loss_squares: f64,
    base_loss: f64,
    kl: f64,
    kl_squares: f64,
    kl_most: f64,
    same: u64,
}

impl Sums {
    fn add(
        &mut self,
        window: &Window,
        session: &mut Session,
        mut base: Option<&mut Session>,
        cancel: &CancelToken,
    ) -> Result<(), RuntimeError> {
        // Position i predicts token i + 1, so what runs ends one before the last.
        let (before, rest) = window.tokens[..window.tokens.len() - 1].split_at(window.first - 1);
        let sessions = [Some(&mut *session), base.as_deref_mut()];
        for session in sessions.into_iter().flatten() {
            session.truncate(0);
            session.prefill(before, Some(cancel))?;
        }
        let mut targets = window.tokens[window.first..].iter();
        let mut expected = Vec::new();
        for part in rest.chunks(PART) {
            expected.clear();
            if let Some(base) = base.as_deref_mut() {
                base.logits_of_each(part, Some(cancel), |_, row| {
                    expected.push(row.to_vec());
                    Ok::<(), RuntimeError>(())
                })?;
            }
            let mut expected = expected.iter();
            session.logits_of_each(part, Some(cancel), |_, row| {
                let base = expected.next().map(Vec::as_slice);
                match targets.next() {
                    Some(&target) => self.token(row, base, target),
                    None => Ok(()),
                }
            })?;
        }
        Ok(())
    }

    fn token(
        &mut self,
        row: &[f32],
        base: Option<&[f32]>,
        target: TokenId,
    ) -> Result<(), RuntimeError> {
        let norm = log_sum_exp(row);
        let loss = norm - row.get(target as usize).map_or(f64::NAN, |&l| l.into());
        if !loss.is_finite() {
            return Err(RuntimeError::Option {
                option: "model",
                found: format!("logits that make the loss of token {target} {loss}"),
                expected: "finite logits; the file may be damaged".into(),
            });
        }
        self.count += 1;
        self.loss += loss;
        self.loss_squares += loss * loss;
        let Some(base) = base else {
            return Ok(());
        };
        let base_norm = log_sum_exp(base);
        self.base_loss += base_norm - base.get(target as usize).map_or(f64::NAN, |&l| l.into());
        let mut kl = 0.0;
        for (&p, &q) in base.iter().zip(row) {
            let (p, q) = (f64::from(p) - base_norm, f64::from(q) - norm);
            let share = p.exp();
            if share > 0.0 {
                kl += share * (p - q);
            }
        }
        self.kl += kl;
        self.kl_squares += kl * kl;
        self.kl_most = self.kl_most.max(kl);
        self.same += u64::from(likeliest(row) == likeliest(base));
        Ok(())
    }

    fn evaluation(
        &self,
        plan: &Windows,
        context: u32,
        with_base: bool,
    ) -> Result<Evaluation, RuntimeError> {
        let n = self.count as f64;
        let error = |sum: f64, squares: f64| {
            let mean = sum / n;
            let variance = (squares / n - mean * mean).max(0.0);
            (variance / (n - 1.0).max(1.0)).sqrt()
        };
        let perplexity = (self.loss / n).exp();
        Ok(Evaluation {
            perplexity,
            standard_error: perplexity * error(self.loss, self.loss_squares),
            mean_loss: self.loss / n,
            predicted_tokens: self.count,
            tokens: plan.tokens,
            left_over: plan.left_over,
            windows: plan.windows.len() as u64,
            context,
            divergence: with_base.then(|| Divergence {
                mean_kl: self.kl / n,
                standard_error: error(self.kl, self.kl_squares),
                max_kl: self.kl_most,
                top1_agreement: self.same as f64 / n,
                base_perplexity: (self.base_loss / n).exp(),
            }),
        })
    }
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let most = f64::from(most);
    let sum: f64 = row.iter().map(|&l| (f64::from(l) - most).exp()).sum();
    most + sum.ln()
}

/// The first of the largest.
fn likeliest(row: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &l) in row.iter().enumerate() {
        if best.is_none_or(|(_, most)| l > most) {
            best = Some((i, l));
        }
    }
    best.map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(tokens: u32, begin: Option<TokenId>, context: usize) -> Windows {
        let mut plan = Windows::default();
        let first = begin.into_iter();
        plan.cut(first.chain(1..=tokens).collect(), begin, context);
        plan
    }

    #[test]
    fn a_text_that_fits_is_one_window_and_all_but_its_first_token_is_predicted() {
        let plan = cut(7, Some(0), 8);
        assert_eq!(plan.windows.len(), 1);
        assert_eq!(plan.windows[0].tokens, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((plan.windows[0].first, plan.left_over), (1, 0));
        assert!(cut(0, Some(0), 8).windows.is_empty());
        assert!(cut(1, None, 8).windows.is_empty());
    }

    #[test]
    fn a_longer_text_is_cut_as_llama_perplexity_cuts_it() {
        let plan = cut(18, Some(0), 8);
        assert_eq!((plan.windows.len(), plan.left_over), (2, 3));
        assert_eq!(plan.windows[0].tokens, [0, 1, 2, 3, 4, 5, 6, 7]);
        // Token 8 gives way to the begin token.
        assert_eq!(plan.windows[1].tokens, [0, 9, 10, 11, 12, 13, 14, 15]);
        // Of 8 tokens those at 5, 6 and 7 count: context − context / 2 − 1.
        assert!(plan.windows.iter().all(|w| w.first == 5));
        let bare = cut(9, None, 8);
        assert_eq!(bare.windows[0].tokens, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bare.left_over, 1);
    }

    #[test]
    fn losses_and_divergences_are_those_of_their_definitions() {
        let mut sums = Sums::default();
        // Probabilities ¼ ¼ ½ under the model, ½ ¼ ¼ under the base.
        let model = [0.0, 0.0, 2f32.ln()];
        let base = [2f32.ln() + 3.0, 3.0, 3.0];
        sums.token(&model, Some(&base), 2).unwrap();
        sums.token(&model, Some(&model), 0).unwrap();
        let plan = Windows::default();
        let e = sums.evaluation(&plan, 8, true).unwrap();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(e.mean_loss, (2f64.ln() + 4f64.ln()) / 2.0);
        close(e.perplexity, 8f64.sqrt());
        // the two losses differ by ln 2: their standard error is ln 2 / 2
        close(e.standard_error, 8f64.sqrt() * 2f64.ln() / 2.0);
        let d = e.divergence.unwrap();
        close(d.mean_kl, 0.25 * 2f64.ln() / 2.0);
        close(d.max_kl, 0.25 * 2f64.ln());
        close(d.top1_agreement, 0.5);
        close(d.base_perplexity, 4.0);
        assert!(sums.token(&[0.0, f32::NAN], None, 1).is_err());
    }
}
