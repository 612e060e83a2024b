//! The sizes that steps have: any, or the few that devices without dynamic shapes are compiled for.

use std::sync::Arc;

use anynpu_graphs::arch::input;
use anynpu_hal::{Device, FixedShapes};
use anynpu_ir::{AttentionKv, Graph, Op};

/// Sizes to plan for, and which devices can run them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Tokens that steps of prefill have, ascending; empty for any number.
    pub buckets: Vec<u32>,
    /// Rows that states have, if they must have so many.
    pub capacity: Option<u32>,
    /// For each phase, whether each device can run its steps.
    pub able: [Vec<bool>; 2],
}

impl Sizes {
    /// Any sizes on any device.
    pub fn any(devices: usize) -> Self {
        Sizes {
            buckets: Vec::new(),
            capacity: None,
            able: [vec![true; devices], vec![true; devices]],
        }
    }

    /// The bucket of a step when `remaining` tokens are to be read; none if any number goes.
    pub fn bucket_for(&self, remaining: u32) -> Option<u32> {
        let filled = self.buckets.iter().rfind(|&&b| b <= remaining);
        filled.or(self.buckets.first()).copied()
    }
}

/// Every set of sizes worth planning for: first what devices with dynamic shapes can do by themselves, then
/// for each kind of fixed sizes both phases of them, and decoding alone.
pub(super) fn choices(
    graph: &Graph,
    devices: &[Arc<dyn Device>],
    chunk: u32,
    context: u32,
) -> Vec<Sizes> {
    let whole = reads_whole_texts(graph);
    let fixed = devices.iter().map(|d| Fixed::of(&**d, context, whole));
    let fixed: Vec<Option<Fixed>> = fixed.collect();
    let dynamic: Vec<bool> = devices.iter().map(|d| is_dynamic(&**d)).collect();
    let mut choices = vec![Sizes {
        buckets: Vec::new(),
        capacity: None,
        able: [dynamic.clone(), dynamic.clone()],
    }];
    for own in fixed.iter().flatten() {
        let buckets = own.buckets(chunk, context);
        let able = |fits: &dyn Fn(&Fixed) -> bool| -> Vec<bool> {
            let able = fixed.iter().zip(&dynamic);
            able.map(|(fixed, &dynamic)| {
                dynamic || fixed.as_ref().is_some_and(|f| f.holds(own) && fits(f))
            })
            .collect()
        };
        let decode = able(&|f| f.takes(1));
        let both = Sizes {
            able: [
                able(&|f| buckets.iter().all(|&b| f.takes(b))),
                decode.clone(),
            ],
            capacity: own.capacity,
            buckets,
        };
        let decoding = Sizes {
            buckets: Vec::new(),
            capacity: own.capacity,
            able: [dynamic.clone(), decode],
        };
        for sizes in [both, decoding] {
            let usable = !sizes.buckets.is_empty() || sizes.able[1] != dynamic;
            if usable && !choices.contains(&sizes) {
                choices.push(sizes);
            }
        }
    }
    let possible = |sizes: &Sizes| sizes.able.iter().all(|able| able.contains(&true));
    if choices.iter().any(possible) {
        choices.retain(possible);
    }
    choices
}

/// Whether `graph` reads a text at once, with a mask for the tokens that it does not have.
pub(super) fn reads_whole_texts(graph: &Graph) -> bool {
    let mut inputs = graph.inputs().iter();
    let padded = inputs.any(|v| graph.value(*v).name == input::PADDING);
    graph.states().is_empty() && padded
}

/// Whether steps of `graph` may be padded: rows past a step's tokens change nothing before them, and are
/// written again before they are read; or a mask hides them.
pub(super) fn may_pad(graph: &Graph) -> bool {
    if reads_whole_texts(graph) {
        return true;
    }
    let mut attention = graph.nodes().iter().filter_map(|n| match n.op {
        Op::Attention { kv, causal, .. } => Some(causal && matches!(kv, AttentionKv::State { .. })),
        _ => None,
    });
    !graph.states().is_empty() && attention.all(|fits| fits)
}

pub(super) fn is_dynamic(device: &dyn Device) -> bool {
    device.capabilities().features.dynamic_shapes
}

/// Why no step of a context of `context` tokens can have sizes that `device` takes; of `whole` texts, the longest must go
/// in one step.
pub(super) fn obstacle(device: &dyn Device, context: u32, whole: bool) -> Option<String> {
    let Some(shapes) = &device.capabilities().fixed_shapes else {
        return Some("it takes only fixed sizes, and does not say which".into());
    };
    let most = shapes.tokens.iter().max();
    if whole && device.capabilities().text_sizes.is_empty() {
        return most.filter(|most| **most < context).map(|most| {
            format!("it takes at most {most} tokens of a text at once, the context has {context}")
        });
    }
    match shapes.capacities.last() {
        Some(&most) if most < context && !whole => Some(format!(
            "it holds at most {most} tokens of context, {context} are asked for"
        )),
        _ => None,
    }
}

/// What a device with fixed sizes is compiled for.
#[derive(Debug)]
struct Fixed {
    shapes: FixedShapes,
    /// Rows of its states; its own choice if none.
    capacity: Option<u32>,
}

impl Fixed {
    fn of(device: &dyn Device, context: u32, whole: bool) -> Option<Fixed> {
        if is_dynamic(device) || obstacle(device, context, whole).is_some() {
            return None;
        }
        let mut shapes = device.capabilities().fixed_shapes.clone()?;
        let texts = &device.capabilities().text_sizes;
        if whole && !texts.is_empty() {
            // the longest text has as many tokens as there are positions; a single token is a step of decoding
            shapes.tokens.clone_from(texts);
            shapes.tokens.retain(|&t| t < context);
            shapes.tokens.extend([1, context]);
        }
        shapes.tokens.retain(|&t| t > 0);
        shapes.tokens.sort_unstable();
        shapes.tokens.dedup();
        let fitting = shapes.capacities.iter().copied().filter(|&c| c >= context);
        Some(Fixed {
            capacity: match shapes.capacities.is_empty() {
                true => Some(context),
                false => fitting.min(),
            },
            shapes,
        })
    }

    fn buckets(&self, chunk: u32, context: u32) -> Vec<u32> {
        let rows = self.capacity.unwrap_or(context);
        match self.shapes.tokens.is_empty() {
            true => vec![chunk.clamp(1, rows.max(1))],
            false => self
                .shapes
                .tokens
                .iter()
                .copied()
                .filter(|&t| t <= rows)
                .collect(),
        }
    }

    fn takes(&self, tokens: u32) -> bool {
        self.shapes.tokens.is_empty() || self.shapes.tokens.contains(&tokens)
    }

    /// Whether it can be compiled for states of the rows that `other` wants.
    fn holds(&self, other: &Fixed) -> bool {
        let rows = other.capacity;
        self.shapes.capacities.is_empty()
            || rows.is_some_and(|c| self.shapes.capacities.contains(&c))
    }
}

/// A step of reading tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextStep {
    /// So many tokens at once.
    Prefill(u32),
    /// One token, as in decoding.
    Decode,
}

/// How tokens are cut into steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepSizes {
    /// Tokens that steps of prefill have, ascending, each with the time of one step in microseconds. A step of
    /// fewer tokens is padded. Empty: any number of tokens.
    pub buckets: Vec<(u32, f64)>,
    /// The time of a step of one token, in microseconds.
    pub decode_us: f64,
    /// Rows that the states have, if they must have so many.
    pub capacity: Option<u32>,
    /// Whether a padded step gives results of each of its tokens, rather than of one.
    pub every_row: bool,
}

impl StepSizes {
    /// The next step of `remaining` tokens from `position` on, where any number up to `chunk` goes if there are
    /// no buckets. As much as a bucket holds; a rest smaller than every bucket is padded or put in one by one,
    /// whichever is cheaper. A step must end within `rows`.
    pub(crate) fn next(&self, remaining: u32, position: u32, chunk: u32, rows: u32) -> NextStep {
        if self.buckets.is_empty() {
            return NextStep::Prefill(remaining.min(chunk));
        }
        let fits = |&&(b, _): &&(u32, f64)| position.checked_add(b).is_some_and(|end| end <= rows);
        let fitting = || self.buckets.iter().filter(fits);
        if let Some(&(tokens, _)) = fitting().rfind(|(b, _)| *b <= remaining) {
            let padded = fitting().find(|(b, _)| *b >= remaining);
            let whole = |us: f64, b: u32| us * f64::from(remaining.div_ceil(b));
            let own = self.bucket_us(tokens);
            return match padded {
                // one padded step rather than several small ones
                Some(&(b, us)) if us < whole(own, tokens) => NextStep::Prefill(b.min(remaining)),
                _ => NextStep::Prefill(tokens),
            };
        }
        match fitting().find(|(b, _)| *b >= remaining) {
            Some(&(_, us)) if us <= f64::from(remaining) * self.decode_us => {
                NextStep::Prefill(remaining)
            }
            _ => NextStep::Decode,
        }
    }

    /// The bucket that holds `tokens` from `position` on.
    pub(crate) fn bucket(&self, tokens: u32, position: u32, rows: u32) -> Option<u32> {
        let mut buckets = self.buckets.iter().map(|&(b, _)| b);
        buckets.find(|&b| b >= tokens && position.checked_add(b).is_some_and(|end| end <= rows))
    }

    fn bucket_us(&self, tokens: u32) -> f64 {
        let own = self.buckets.iter().find(|(b, _)| *b == tokens);
        own.map_or(0.0, |&(_, us)| us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes() -> StepSizes {
        StepSizes {
            buckets: vec![(32, 100.0), (128, 300.0)],
            decode_us: 10.0,
            capacity: Some(256),
            every_row: false,
        }
    }

    fn steps(mut remaining: u32, mut position: u32) -> Vec<NextStep> {
        let mut steps = Vec::new();
        while remaining > 0 {
            let next = sizes().next(remaining, position, 64, 256);
            let tokens = match next {
                NextStep::Prefill(n) => n,
                NextStep::Decode => 1,
            };
            assert!(tokens > 0 && tokens <= remaining);
            (remaining, position) = (remaining - tokens, position + tokens);
            steps.push(next);
        }
        steps
    }

    #[test]
    fn tokens_fill_the_largest_buckets_and_the_rest_goes_the_cheaper_way() {
        use NextStep::{Decode, Prefill};
        assert_eq!(steps(128, 0), [Prefill(128)]);
        assert_eq!(steps(160, 0), [Prefill(128), Prefill(32)]);
        // 20 tokens: a padded step of 100 µs is cheaper than 200 µs one by one
        assert_eq!(steps(20, 0), [Prefill(20)]);
        assert_eq!(steps(3, 0), [Decode; 3]);
        // 100 tokens: one padded step of 300 µs rather than four of 100 µs
        assert_eq!(steps(100, 0), [Prefill(100)]);
        assert_eq!(steps(64, 0), [Prefill(32); 2]);
    }

    #[test]
    fn no_step_reaches_past_the_rows_of_the_states() {
        for position in 0..256 {
            let mut at = position;
            for step in steps(256 - position, position) {
                let tokens = match step {
                    NextStep::Prefill(n) => {
                        let bucket = sizes().bucket(n, at, 256).unwrap();
                        assert!(at + bucket <= 256);
                        n
                    }
                    NextStep::Decode => 1,
                };
                at += tokens;
            }
            assert_eq!(at, 256);
        }
    }

    #[test]
    fn without_buckets_steps_have_any_size_up_to_a_chunk() {
        let any = StepSizes::default();
        assert_eq!(any.next(100, 0, 64, 256), NextStep::Prefill(64));
        assert_eq!(any.next(5, 64, 64, 256), NextStep::Prefill(5));
    }
}
