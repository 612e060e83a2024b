//! Encoders: texts in, vectors or scores out.

use std::str::FromStr;

use crate::exec::{Executed, Logits, Rows, SegmentRun, Step};
use crate::plan::Phase;
use crate::runner::{Runner, Stepped};
use crate::tokenize::EncodeOptions;
use crate::{Kind, LoadedModel, RuntimeError, TokenId};

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the first token.
    Cls,
}

impl FromStr for Pooling {
    type Err = RuntimeError;

    fn from_str(s: &str) -> Result<Self, RuntimeError> {
        match s {
            "mean" => Ok(Pooling::Mean),
            "cls" => Ok(Pooling::Cls),
            _ => Err(RuntimeError::Option {
                option: "pooling",
                found: format!("'{s}'"),
                expected: "mean or cls".into(),
            }),
        }
    }
}

/// Runs an encoder on one text at a time.
#[derive(Debug)]
pub struct Embedder {
    model: LoadedModel,
    runner: Runner,
}

impl Embedder {
    pub(crate) fn open(model: LoadedModel) -> Result<Self, RuntimeError> {
        model.require_kind("embedding", &[Kind::Encoder, Kind::Classifier])?;
        let limit = model.runtime().knobs().step_timeout.duration();
        Ok(Embedder {
            runner: Runner::new(model.clone(), model.context(), limit)?,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// Keeps a record of every segment that runs from now on.
    pub fn record(&mut self) {
        self.runner.record();
    }

    /// What ran since [`Embedder::record`], in order.
    pub fn recorded(&self) -> &[SegmentRun] {
        self.runner.recorded()
    }

    /// What was executed since the embedder was opened.
    pub fn executed(&self) -> Executed {
        self.runner.executed()
    }

    /// The vector of `text`, of length 1.
    ///
    /// # Errors
    /// A text of more tokens than the model has positions, a model without a vocabulary, a
    /// classifier, a device that fails.
    pub fn embed(&mut self, text: &str, pooling: Pooling) -> Result<Vec<f32>, RuntimeError> {
        let tokens = self.encode(text)?;
        self.embed_tokens(&tokens, pooling)
    }

    /// As [`Embedder::embed`], from token ids, to which none are added.
    ///
    /// # Errors
    /// As [`Embedder::embed`], and no tokens.
    pub fn embed_tokens(
        &mut self,
        tokens: &[TokenId],
        pooling: Pooling,
    ) -> Result<Vec<f32>, RuntimeError> {
        self.model.require_kind("embedding", &[Kind::Encoder])?;
        let rows = match pooling {
            Pooling::Mean => Rows::All,
            Pooling::Cls => Rows::First,
        };
        let width = self.runner.program().width() as usize;
        let mut sums = vec![0f64; width];
        for row in self.run(tokens, &[], rows)?.chunks_exact(width) {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += f64::from(x);
            }
        }
        // the mean's divisor cancels out
        let length = sums.iter().map(|x| x * x).sum::<f64>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        Ok(sums.into_iter().map(|x| (x * scale) as f32).collect())
    }

    /// The vector of every token, `[tokens, hidden]`, as the last block gives them.
    ///
    /// # Errors
    /// As [`Embedder::embed_tokens`].
    pub fn hidden(
        &mut self,
        tokens: &[TokenId],
        types: &[u32],
    ) -> Result<Logits<'_>, RuntimeError> {
        self.model.require_kind("embedding", &[Kind::Encoder])?;
        self.run(tokens, types, Rows::All)
    }

    /// The scores that a classifier gives `text`, or the pair of `text` and `second`.
    ///
    /// # Errors
    /// As [`Embedder::embed`]; a model that is no classifier.
    pub fn classify(&mut self, text: &str, second: Option<&str>) -> Result<Vec<f32>, RuntimeError> {
        let mut tokens = self.encode(text)?;
        let mut types = vec![0; tokens.len()];
        if let Some(second) = second {
            let more = self.encode(second)?;
            // without the begin token of its own
            tokens.extend_from_slice(more.get(1..).unwrap_or_default());
            types.resize(tokens.len(), 1);
        }
        self.classify_tokens(&tokens, &types)
    }

    /// As [`Embedder::classify`], from token ids and the type of each; types not given are 0.
    ///
    /// # Errors
    /// As [`Embedder::classify`], and no tokens.
    pub fn classify_tokens(
        &mut self,
        tokens: &[TokenId],
        types: &[u32],
    ) -> Result<Vec<f32>, RuntimeError> {
        self.model
            .require_kind("classifying", &[Kind::Classifier])?;
        Ok(self.run(tokens, types, Rows::First)?.to_vec())
    }

    fn encode(&self, text: &str) -> Result<Vec<TokenId>, RuntimeError> {
        let options = EncodeOptions {
            add_special: true,
            parse_special: false,
        };
        Ok(self.model.tokenizer()?.encode(text, options)?)
    }

    /// Runs all tokens in one step.
    fn run(
        &mut self,
        tokens: &[TokenId],
        types: &[u32],
        rows: Rows,
    ) -> Result<Logits<'_>, RuntimeError> {
        let program = self.runner.program();
        let vocabulary = program.vocabulary();
        if let Some(&token) = tokens.iter().find(|&&t| t >= vocabulary) {
            return Err(RuntimeError::TokenOutOfRange { token, vocabulary });
        }
        if tokens.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        let context = self.model.context();
        if tokens.len() > context as usize {
            return Err(RuntimeError::PromptTooLong {
                prompt: tokens.len(),
                context,
                room: context,
            });
        }
        // after a device failed the text is run again from its start
        let step = Step {
            phase: Phase::Prefill,
            tokens,
            types,
            position: 0,
            rows,
        };
        while self.runner.step(step)? != Stepped::Ran {}
        self.runner.logits()
    }
}
