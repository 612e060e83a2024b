//! What can go wrong when choosing a token.

use thiserror::Error;

/// Options that make no sense, or logits that name no token.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum SampleError {
    /// An option's value is outside its range.
    #[error("{option} is {value}; allowed: {allowed}")]
    OptionOutOfRange {
        /// The option.
        option: &'static str,
        /// Its value.
        value: f64,
        /// The values it may have.
        allowed: &'static str,
    },
    /// A logit bias names a token that the model lacks, or is not a number that can be added.
    #[error(
        "logit_bias of token {token} is {value}; allowed: a number or -inf, for tokens below {tokens}"
    )]
    Bias {
        /// The token.
        token: u32,
        /// The bias.
        value: f32,
        /// Number of tokens.
        tokens: u32,
    },
    /// There is no token to choose from.
    #[error("a sampler for a vocabulary without tokens was asked for")]
    NoTokens,
    /// The logits are not one a token.
    #[error("{found} logits were given, but the sampler was built for {expected} tokens")]
    LogitCount {
        /// Logits given.
        found: usize,
        /// Number of tokens.
        expected: u32,
    },
    /// A logit is NaN or infinite: the model or the device that ran it is broken.
    #[error("the logit of token {token} is {value}; logits must be finite")]
    LogitNotFinite {
        /// The token.
        token: u32,
        /// Its logit.
        value: f32,
    },
    /// Every token is excluded by a bias of -inf.
    #[error("logit_bias excludes all {tokens} tokens; leave at least one")]
    AllExcluded {
        /// Number of tokens.
        tokens: u32,
    },
    /// A token to remember is not in the vocabulary.
    #[error("token {token} is out of range: the sampler was built for {tokens} tokens")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Number of tokens.
        tokens: u32,
    },
}
