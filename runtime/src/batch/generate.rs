//! Generating from several prompts at once.

use std::ops::ControlFlow;

use super::{Apart, Batch};
use crate::generate::{Choice, Generation, Next};
use crate::{
    FinishReason, GenerateOptions, GenerationReport, Piece, Prompt, RuntimeError, Session, TokenId,
};

/// One of the texts.
struct Text {
    generation: Generation,
    options: GenerateOptions,
    /// Why it ended, once it has.
    finish: Option<FinishReason>,
}

impl Text {
    /// Chooses the next token, which is to be put in; none once the text has ended.
    fn next(
        &mut self,
        session: &mut Session,
        receive: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Option<TokenId>, RuntimeError> {
        if self.finish.is_some() {
            return Ok(None);
        }
        match session.choose(&mut self.generation, &self.options, receive)? {
            Choice::Put(token) => Ok(Some(token)),
            Choice::Finished(reason) => {
                self.finish = Some(reason);
                Ok(None)
            }
        }
    }
}

impl Batch {
    /// Generates from one prompt in each session, handing each piece of text to `receive` with the number of
    /// its session as it comes. A text that ends, or whose receiver stops, leaves the others to go on.
    ///
    /// Prompts are read one after the other. Session number `n` generates what
    /// [`Session::generate`] would with the seed of the options plus `n`, so equal prompts get different
    /// texts where tokens are drawn.
    ///
    /// # Errors
    /// As many prompts as there are sessions are needed; as [`Session::generate`] for any of them.
    pub fn generate(
        &mut self,
        prompts: &[Prompt<'_>],
        options: &GenerateOptions,
        mut receive: impl FnMut(usize, Piece<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<GenerationReport>, RuntimeError> {
        if prompts.len() != self.len() {
            return Err(RuntimeError::Option {
                option: "the number of prompts of a batch",
                found: prompts.len().to_string(),
                expected: format!("{}, one for each session", self.len()),
            });
        }
        let (mut texts, mut tokens) = (Vec::new(), Vec::new());
        for (number, (member, prompt)) in self.members.iter_mut().zip(prompts).enumerate() {
            let session = &mut member.session;
            let mut options = options.clone();
            let seed = &mut options.sampling.seed;
            *seed = seed.wrapping_add(number as u64);
            let mut text = Text {
                generation: session.begin(*prompt, &options)?,
                options,
                finish: None,
            };
            if let Next::Finished(reason) =
                session.read_prompt(&mut text.generation, &text.options)?
            {
                text.finish = Some(reason);
            }
            tokens.push(text.next(session, &mut |piece| receive(number, piece))?);
            texts.push(text);
        }
        while tokens.iter().any(Option::is_some) {
            self.decode(&tokens)?;
            for (number, text) in texts.iter_mut().enumerate() {
                let session = &mut self.members[number].session;
                tokens[number] = text.next(session, &mut |piece| receive(number, piece))?;
            }
        }
        // where tokens went in one by one although there were several, the reports say why
        let apart = self.together().err();
        let apart = apart.filter(|a| !matches!(a, Apart::Few { .. }));
        let apart = apart.map(|why| format!("the texts were generated one by one: {why}"));
        let texts = texts.into_iter().zip(&self.members).enumerate();
        let report = |(number, (text, member)): (usize, (Text, &super::Member))| {
            let finish = text.finish.unwrap_or(FinishReason::Cancelled);
            let mut receive = |piece: Piece<'_>| receive(number, piece);
            let report = member.session.finish(text.generation, finish, &mut receive);
            report.map(|mut report| {
                report.warnings.extend(apart.clone());
                report
            })
        };
        texts.map(report).collect()
    }
}
