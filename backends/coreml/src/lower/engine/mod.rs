//! The form for the Neural Engine.
//!
//! After Apple's rules for it (apple/coreai-models, `neural_engine_rules.md`; machinelearning.apple.com/research/
//! neural-engine-transformers): at most five dimensions, F16 alone, tokens last and features second, `[1, features, 1,
//! tokens]`; products by convolutions of 1×1; attention head by head; masks of finite numbers; keys and values given and
//! not written; cosines, sines and masks made by the caller. The last axis of what crosses the boundary is long: features
//! of tokens, keys of a mask, rows of a cache. Results of more than [`PART`] features are in parts, each an output of
//! its own.

mod attention;
mod layer;

use anynpu_ir::{Node, Op, RopeStyle, ValueId};

use super::rotation::{Angles, Rotation};
use super::{Feed, Fetch, HIDDEN, Lowering};
use crate::CoreMlError;
use crate::package::Tensor;

/// Most features of one product; results of more are in parts.
pub const PART: u32 = 16384;
/// What the last axis of masks is a multiple of: 64 bytes of F16.
const ALIGN: u32 = 32;

/// The columns of a mask: rows of a cache, then those of the step, then nothing up to a multiple of 32.
pub fn mask_columns(cached: u32, fresh: u32) -> u32 {
    (cached + fresh).next_multiple_of(ALIGN)
}

/// The mask of a step whose tokens follow `cached` rows: for each token a number for each column, 0 or [`HIDDEN`].
///
/// Columns are those of [`mask_columns`] for a cache of `capacity` rows and a step of `tokens`. A token sees the rows
/// before it, its own and those of the step before its own; with a window only so many of them.
pub fn mask(capacity: u32, tokens: u32, cached: u32, window: Option<u32>) -> Vec<f32> {
    let columns = mask_columns(capacity, tokens);
    let mut mask = Vec::with_capacity(tokens as usize * columns as usize);
    for token in 0..tokens {
        let position = i64::from(cached) + i64::from(token);
        mask.extend((0..columns).map(|column| {
            let row = match column.checked_sub(capacity) {
                None if column < cached => i64::from(column),
                Some(fresh) if fresh < tokens => i64::from(cached) + i64::from(fresh),
                _ => return HIDDEN,
            };
            let near = window.is_none_or(|w| row > position - i64::from(w));
            if row <= position && near { 0.0 } else { HIDDEN }
        }));
    }
    mask
}

/// The name of the input that has the mask for `window`.
pub fn mask_name(window: Option<u32>) -> String {
    match window {
        None => "mask".into(),
        Some(window) => format!("mask_window_{window}"),
    }
}

impl Lowering<'_> {
    /// Whether a node of the graph reads positions for more than the host makes of them.
    pub(super) fn reads_positions(&self, value: ValueId) -> bool {
        let mut nodes = self.graph.nodes().iter();
        nodes.any(|n| {
            n.inputs.contains(&value) && !matches!(n.op, Op::Rope { .. } | Op::Attention { .. })
        })
    }

    /// Cosines and sines of all rotations among `nodes`, as inputs `cos` and `sin`, `cos_1` and so on.
    pub(super) fn engine_inputs<'n>(
        &mut self,
        nodes: impl Iterator<Item = &'n Node>,
    ) -> Result<(), CoreMlError> {
        if !self.form.engine {
            return Ok(());
        }
        for node in nodes {
            let Some((rotation, style)) = self.rotation(node)? else {
                continue;
            };
            let positions = node.inputs[1];
            let same =
                |a: &Angles| a.rotation == rotation && a.style == style && a.positions == positions;
            if self.angles.iter().any(same) {
                continue;
            }
            let angles = self.given_angles(rotation, style, positions)?;
            self.angles.push(angles);
        }
        Ok(())
    }

    fn given_angles(
        &mut self,
        rotation: Rotation,
        style: RopeStyle,
        positions: ValueId,
    ) -> Result<Angles, CoreMlError> {
        let (pairs, number) = (rotation.dims / 2, self.angles.len());
        let tokens = self.dims(positions)[0];
        let feeds = [
            Feed::Cosines(rotation.clone(), positions),
            Feed::Sines(rotation.clone(), positions),
        ];
        let mut given = |what: &str, feed: Feed| -> Result<Tensor, CoreMlError> {
            let name = match number {
                0 => what.to_owned(),
                n => format!("{what}_{n}"),
            };
            let description = format!("The {what} of each token's angles, a number a pair");
            let dtype = self.outside(self.float);
            let feature = self.feature(&name, description, dtype, &[1, 1, tokens, pairs]);
            let x = self.given(feature, feed)?;
            let x = self.cast_to_float(&format!("{name}_cast"), x)?;
            let x = self.transpose(&format!("{name}_pairs"), x, &[0, 3, 1, 2])?;
            // as the numbers that are paired: all first ones and then all second ones, or in turn
            let axis = match style {
                RopeStyle::HalfSplit => 1,
                RopeStyle::Interleaved => 2,
            };
            let x = self.concat(&format!("{name}_both"), &[x, x], axis)?;
            self.reshape(&format!("{name}_angles"), x, &[1, 2 * pairs, 1, tokens])
        };
        let [cosines, sines] = feeds;
        let (cos, sin) = (given("cos", cosines)?, given("sin", sines)?);
        Ok(Angles {
            rotation,
            style,
            positions,
            cos,
            sin,
        })
    }

    /// `value` with its tokens last, `[1, features, 1, tokens]`.
    pub(super) fn channels(&mut self, value: ValueId) -> Result<Tensor, CoreMlError> {
        let held = self.values.get(&value).cloned().unwrap_or_default();
        let name = self.graph.value(value).name.clone();
        let made = match held.channels[..] {
            [one] => return Ok(one),
            [] => {
                let x = self.value(value)?;
                let dims = self.f.dims(x);
                let (rows, features) = (dims[0], dims[1..].iter().product());
                let x = self.reshape(&format!("{name}_rows"), x, &[rows, features])?;
                let x = self.transpose(&format!("{name}_turned"), x, &[1, 0])?;
                self.reshape(&format!("{name}_channels"), x, &[1, features, 1, rows])?
            }
            _ => self.concat(&format!("{name}_joined"), &held.channels, 1)?,
        };
        self.values.entry(value).or_default().channels = vec![made];
        Ok(made)
    }

    /// `value`, whose parts are `channels`, as the graph has it.
    pub(super) fn tokens_first(
        &mut self,
        value: ValueId,
        channels: &[Tensor],
    ) -> Result<Tensor, CoreMlError> {
        let name = self.graph.value(value).name.clone();
        let x = self.concat(&format!("{name}_joined"), channels, 1)?;
        let (features, rows) = (self.f.dims(x)[1], self.f.dims(x)[3]);
        let x = self.reshape(&format!("{name}_features"), x, &[features, rows])?;
        let x = self.transpose(&format!("{name}_tokens"), x, &[1, 0])?;
        let dims = self.dims(value);
        self.reshape(&format!("{name}_natural"), x, &dims)
    }

    /// Makes each of `parts` an output, `[tokens, features]`.
    pub(super) fn engine_result(
        &mut self,
        value: ValueId,
        parts: &[Tensor],
    ) -> Result<(), CoreMlError> {
        let name = self.graph.value(value).name.clone();
        let dims = self.dims(value);
        let mut first = 0;
        for (i, &part) in parts.iter().enumerate() {
            let name = match parts.len() {
                1 => name.clone(),
                _ => format!("{name}_{i}"),
            };
            let x = self.transpose(&format!("{name}_tokens"), part, &[0, 2, 3, 1])?;
            let (rows, features) = (self.f.dims(part)[3], self.f.dims(part)[1]);
            let shape = match parts.len() {
                1 => dims.clone(),
                _ => vec![rows, features],
            };
            let x = self.reshape(&format!("{name}_rows"), x, &shape)?;
            let outside = self.outside(self.f.dtype(x));
            let x = self.cast(&format!("{name}_outside"), x, outside)?;
            let feature = self.feature(&name, String::new(), outside, &shape);
            let fetch = match parts.len() {
                1 => Fetch::Value(value),
                _ => Fetch::Part(value, first),
            };
            first += features;
            self.taken(x, feature, fetch)?;
        }
        Ok(())
    }

    /// The host's mask, `[1, 1, tokens, columns]`.
    fn given_mask(
        &mut self,
        positions: ValueId,
        [old, fresh]: [u32; 2],
        window: Option<u32>,
    ) -> Result<Tensor, CoreMlError> {
        let key = (Some(positions), old, fresh, window);
        if let Some(&known) = self.masks.get(&key) {
            return Ok(known);
        }
        let tokens = self.dims(positions)[0];
        let columns = mask_columns(old, fresh);
        let description = format!(
            "What is added to scores: 0, or {HIDDEN} where a token must not see a row; {old} rows of caches, then {fresh} of the step"
        );
        let dtype = self.outside(self.float);
        let dims = [1, 1, tokens, columns];
        let feature = self.feature(&mask_name(window), description, dtype, &dims);
        let feed = Feed::Mask {
            positions,
            old,
            fresh,
            window,
        };
        let given = self.given(feature, feed)?;
        let mask = self.cast_to_float("mask_cast", given)?;
        self.masks.insert(key, mask);
        Ok(mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(capacity: u32, tokens: u32, cached: u32, window: Option<u32>) -> Vec<String> {
        let columns = mask_columns(capacity, tokens) as usize;
        let row = |m: &[f32]| -> String {
            m.iter()
                .map(|x| if *x == 0.0 { '1' } else { '0' })
                .collect()
        };
        mask(capacity, tokens, cached, window)
            .chunks(columns)
            .map(row)
            .collect()
    }

    #[test]
    fn tokens_see_rows_before_them_and_their_own() {
        let end = "0".repeat(32 - 9);
        let expected = ["110000100", "110000110", "110000111"].map(|row| format!("{row}{end}"));
        assert_eq!(shown(6, 3, 2, None), expected);
        let expected = ["010000100", "000000110", "000000011"].map(|row| format!("{row}{end}"));
        assert_eq!(shown(6, 3, 2, Some(2)), expected);
        assert_eq!(mask_columns(31, 1), 32);
        assert_eq!(mask_columns(32, 1), 64);
        assert_eq!(mask_name(Some(8)), "mask_window_8");
    }
}
