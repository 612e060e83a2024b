//! Chooses the next token from a model's logits.
//!
//! The steps, in order: logit bias, repetition penalty, top-k, top-p, min-p, temperature, draw. Probabilities of top-p are
//! those of the tokens that top-k left, at temperature 1. Everything is computed in the same order with the same operations
//! on every platform, so the same logits, options and seed give the same tokens.

use std::cmp::Ordering;
use std::collections::VecDeque;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

mod error;
mod options;

pub use error::SampleError;
pub use options::{MAX_REPEAT_WINDOW, SampleOptions};

/// Chooses tokens. After construction nothing is allocated.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SampleOptions,
    tokens: u32,
    /// Biases by token, one a token.
    bias: Vec<(u32, f32)>,
    recent: VecDeque<u32>,
    window: usize,
    random: ChaCha8Rng,
    candidates: Vec<Candidate>,
    /// So many candidates at the front are the likeliest of all, in order.
    sorted: usize,
}

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    logit: f32,
    token: u32,
}

impl Candidate {
    /// The likelier first, of equally likely ones the lower id.
    fn order(&self, other: &Self) -> Ordering {
        other
            .logit
            .total_cmp(&self.logit)
            .then(self.token.cmp(&other.token))
    }
}

/// How many candidates are put in order at first where the number needed is not known; four times as many each time after.
const FIRST_SORTED: usize = 64;

impl Sampler {
    /// A sampler for a model of `tokens` tokens.
    ///
    /// # Errors
    /// An option outside its range; no tokens.
    pub fn new(options: SampleOptions, tokens: u32) -> Result<Self, SampleError> {
        options.check(tokens)?;
        if tokens == 0 {
            return Err(SampleError::NoTokens);
        }
        let mut bias = options.logit_bias.clone();
        bias.reverse();
        bias.sort_by_key(|&(token, _)| token);
        bias.dedup_by_key(|&mut (token, _)| token);
        let window = if options.repeat_penalty == 1.0 {
            0
        } else {
            options.repeat_window as usize
        };
        Ok(Sampler {
            random: random_from(options.seed),
            options,
            tokens,
            bias,
            recent: VecDeque::with_capacity(window),
            window,
            candidates: Vec::with_capacity(tokens as usize),
            sorted: 0,
        })
    }

    /// The options it was built with.
    pub fn options(&self) -> &SampleOptions {
        &self.options
    }

    /// Remembers a token for the repetition penalty: each of the prompt, and each that was chosen.
    ///
    /// # Errors
    /// [`SampleError::TokenOutOfRange`].
    pub fn accept(&mut self, token: u32) -> Result<(), SampleError> {
        if token >= self.tokens {
            return Err(SampleError::TokenOutOfRange {
                token,
                tokens: self.tokens,
            });
        }
        if self.window > 0 {
            if self.recent.len() == self.window {
                self.recent.pop_front();
            }
            self.recent.push_back(token);
        }
        Ok(())
    }

    /// Forgets the tokens remembered and starts the random numbers anew.
    pub fn reset(&mut self) {
        self.recent.clear();
        self.random = random_from(self.options.seed);
    }

    /// Chooses a token. `logits` holds one a token, by id. Uses one random number, at temperature 0 none. The token is not
    /// remembered: see [`accept`](Self::accept).
    ///
    /// # Errors
    /// Logits that are too few, too many or not finite; all tokens excluded. No random number is used then.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SampleError> {
        self.weigh(logits)?;
        let best = self.best()?;
        if self.options.temperature == 0.0 {
            return Ok(best.token);
        }
        self.narrow(best.logit);
        let draw = unit(self.random.next_u64());
        Ok(self.draw(best, draw))
    }

    /// Fills in the candidates by id, with bias and penalty.
    fn weigh(&mut self, logits: &[f32]) -> Result<(), SampleError> {
        if logits.len() != self.tokens as usize {
            return Err(SampleError::LogitCount {
                found: logits.len(),
                expected: self.tokens,
            });
        }
        if let Some((token, &value)) = (0u32..).zip(logits).find(|(_, logit)| !logit.is_finite()) {
            return Err(SampleError::LogitNotFinite { token, value });
        }
        self.candidates.clear();
        self.sorted = 0;
        // Adding zero makes the two zeros equal.
        self.candidates
            .extend((0u32..).zip(logits).map(|(token, &logit)| Candidate {
                logit: logit + 0.0,
                token,
            }));
        for &(token, bias) in &self.bias {
            self.candidates[token as usize].logit = biased(logits[token as usize], bias);
        }
        for &token in &self.recent {
            let bias = self.bias.binary_search_by_key(&token, |&(token, _)| token);
            let bias = bias.map_or(0.0, |at| self.bias[at].1);
            let logit = biased(logits[token as usize], bias);
            self.candidates[token as usize].logit = penalised(logit, self.options.repeat_penalty);
        }
        Ok(())
    }

    /// The likeliest candidate, of equal ones the lowest id.
    fn best(&self) -> Result<Candidate, SampleError> {
        let none = Candidate {
            logit: f32::NEG_INFINITY,
            token: u32::MAX,
        };
        let likelier =
            |best: Candidate, next: &Candidate| if next.logit > best.logit { *next } else { best };
        let best = self.candidates.iter().fold(none, likelier);
        if best == none {
            Err(SampleError::AllExcluded {
                tokens: self.tokens,
            })
        } else {
            Ok(best)
        }
    }

    /// Drops what bias, top-k, top-p and min-p exclude.
    fn narrow(&mut self, best: f32) {
        if self.bias.iter().any(|&(_, bias)| bias == f32::NEG_INFINITY) {
            self.candidates
                .retain(|candidate| candidate.logit > f32::NEG_INFINITY);
        }
        let top_k = self.options.top_k as usize;
        if top_k > 0 && top_k < self.candidates.len() {
            self.sort_to(top_k);
            self.candidates.truncate(top_k);
            self.sorted = top_k;
        }
        if self.options.top_p < 1.0 {
            let kept = self.prefix_of(f64::from(self.options.top_p), best, 1.0);
            self.candidates.truncate(kept);
            self.sorted = kept;
        }
        if self.options.min_p > 0.0 {
            let floor = libm::log(f64::from(self.options.min_p));
            self.candidates
                .retain(|candidate| f64::from(candidate.logit) - f64::from(best) >= floor);
            self.sorted = self.sorted.min(self.candidates.len());
        }
    }

    /// The candidate at which the summed probabilities, the likeliest first, pass `draw` (from 0 to below 1).
    fn draw(&mut self, best: Candidate, draw: f64) -> u32 {
        let temperature = f64::from(self.options.temperature);
        let target = draw * self.total(best.logit, temperature);
        let (mut sum, mut chosen) = (0.0, best.token);
        for at in 0..self.candidates.len() {
            self.sort_to(at + 1);
            let weight = weight(self.candidates[at].logit, best.logit, temperature);
            // Only rounding can lead here, with the target not reached by all that can be chosen.
            if weight == 0.0 {
                break;
            }
            sum += weight;
            chosen = self.candidates[at].token;
            if sum > target {
                break;
            }
        }
        chosen
    }

    /// The fewest candidates, the likeliest first, whose probabilities sum up to `share`; at least one.
    fn prefix_of(&mut self, share: f64, best: f32, temperature: f64) -> usize {
        let target = share * self.total(best, temperature);
        let (mut sum, mut count) = (0.0, 0);
        while count < self.candidates.len() {
            self.sort_to(count + 1);
            sum += weight(self.candidates[count].logit, best, temperature);
            count += 1;
            if sum >= target {
                break;
            }
        }
        count
    }

    /// The sum of all weights. The candidates are in an order that doesn't depend on how they were sorted: by id, or by
    /// [`Candidate::order`].
    fn total(&self, best: f32, temperature: f64) -> f64 {
        self.candidates
            .iter()
            .map(|candidate| weight(candidate.logit, best, temperature))
            .sum()
    }

    /// Puts at least `count` candidates in order.
    fn sort_to(&mut self, count: usize) {
        if count <= self.sorted {
            return;
        }
        let end = count
            .max(self.sorted * 4)
            .max(FIRST_SORTED)
            .min(self.candidates.len());
        let rest = &mut self.candidates[self.sorted..];
        let new = end - self.sorted;
        if new < rest.len() {
            rest.select_nth_unstable_by(new - 1, Candidate::order);
        }
        rest[..new].sort_unstable_by(Candidate::order);
        self.sorted = end;
    }
}

/// The random numbers of a seed: the ChaCha stream with 8 rounds whose key is the seed, little endian, then zeros.
fn random_from(seed: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// A number from 0 to below 1, of 53 random bits.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Adds a bias; finite results stay finite.
fn biased(logit: f32, bias: f32) -> f32 {
    if bias == f32::NEG_INFINITY {
        bias
    } else {
        (logit + bias).clamp(f32::MIN, f32::MAX) + 0.0
    }
}

/// Makes a token less likely; finite results stay finite.
fn penalised(logit: f32, penalty: f32) -> f32 {
    match logit {
        f32::NEG_INFINITY => logit,
        logit if logit > 0.0 => (logit / penalty).min(f32::MAX),
        logit => (logit * penalty).max(f32::MIN) + 0.0,
    }
}

/// The probability relative to the likeliest.
fn weight(logit: f32, best: f32, temperature: f64) -> f64 {
    libm::exp((f64::from(logit) - f64::from(best)) / temperature)
}

#[cfg(test)]
mod tests;
