//! What the host gives a model and takes from it.

use anynpu_ir::{RopeScaling, rope_frequencies};

/// What an input of a model holds. Numbers are rounded to the input's type.
#[derive(Clone, Debug, PartialEq)]
pub enum Feed {
    /// The operand of the entry with this number: F32, or I32 as it is.
    Value(usize),
    /// The state of the entry with this number: its rows from before this step. The others are hidden, and 0.
    State(usize),
    /// Likewise, with the rows of this step, which another device appended.
    StateOfStep(usize),
    /// Its rows of this step alone, which another device appended.
    NewRows(usize),
    /// Cosines of the angles of a rotation: a row a token, a number a pair.
    Cosines(Rotation),
    /// Sines, likewise.
    Sines(Rotation),
    /// The operand of the entry with this number, which is added to scores: a row a query, which must see something.
    Added(usize),
    /// What is added to scores: a row a token, a number a row of the state.
    Mask(MaskRows),
    /// For each row of a state, 1 if it stays as it is, 0 if the step writes it.
    Kept(StepRows),
    /// For each row of a state, a number a token: 1 where the step writes the token's row there, else 0.
    Put(StepRows),
}

/// Rows of a state, of which a step writes some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepRows {
    /// All of them.
    pub capacity: u32,
}

impl StepRows {
    /// 1 for each row that a step of `tokens` behind `cached` rows leaves as it is, else 0.
    pub fn kept(self, cached: usize, tokens: usize) -> Vec<f32> {
        let own = cached..cached.saturating_add(tokens);
        let rows = 0..self.capacity as usize;
        rows.map(|row| f32::from(u8::from(!own.contains(&row))))
            .collect()
    }

    /// A row a row of the state: 1 at the token whose row it becomes, else 0.
    pub fn put(self, cached: usize, tokens: usize) -> Vec<f32> {
        let mut all = vec![0.0; (self.capacity as usize).saturating_mul(tokens)];
        for token in 0..tokens {
            let at = cached.saturating_add(token).saturating_mul(tokens) + token;
            if let Some(one) = all.get_mut(at) {
                *one = 1.0;
            }
        }
        all
    }
}

/// Where an output of a model goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Fetch {
    /// To the result of the entry with this number: F32.
    Value(usize),
    /// To the state of the entry with this number, from the row of the step's first token on.
    Rows(usize),
    /// All rows of the state with this number, those of the step among them.
    State(usize),
}

/// A rotation by positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// The operand of the entry that has the positions.
    pub positions: usize,
    /// Rotated numbers of a head.
    pub dims: u32,
    /// Base of the frequencies.
    pub base: f32,
    /// How they are changed.
    pub scaling: RopeScaling,
    /// What each of them is divided by, if the model says.
    pub factors: Option<Vec<f32>>,
}

impl Rotation {
    /// Cosines and sines for `positions`, a row each.
    pub fn angles(&self, positions: &[i32]) -> (Vec<f32>, Vec<f32>) {
        let factors = self.factors.as_deref();
        let (frequencies, magnitude) =
            rope_frequencies(self.dims, self.base, self.scaling, factors);
        let count = positions.len() * frequencies.len();
        let (mut cosines, mut sines) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for &position in positions {
            for frequency in &frequencies {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                cosines.push(cos * magnitude);
                sines.push(sin * magnitude);
            }
        }
        (cosines, sines)
    }
}

/// Which rows of a state tokens see.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskRows {
    /// The operand of the entry that has the positions.
    pub positions: usize,
    /// Rows of the state.
    pub capacity: u32,
    /// Rows that this run appends, which follow those of the state; 0 if they are in it already.
    pub fresh: u32,
    /// Rows further back are hidden.
    pub window: Option<u32>,
}

/// Added to scores of rows that are hidden: far below any score, and finite in 16 bits, as a row of nothing but
/// infinities has no softmax.
const HIDDEN: f32 = -3e4;

impl MaskRows {
    /// Rows that there are.
    pub fn rows(&self) -> u32 {
        self.capacity.saturating_add(self.fresh)
    }

    /// A position that is no row.
    pub fn beyond(&self, positions: &[i32]) -> Option<i32> {
        let row = |p: &&i32| u32::try_from(**p).is_ok_and(|p| p < self.rows());
        positions.iter().find(|p| !row(p)).copied()
    }

    /// The mask for `positions`, where the state has `cached` rows from before this step.
    pub fn mask(&self, positions: &[i32], cached: u32) -> Vec<f32> {
        let width = self.rows() as usize;
        let mut mask = Vec::with_capacity(positions.len() * width);
        for &position in positions {
            let position = i64::from(position);
            let seen = |row: u32| {
                let row = i64::from(row);
                let near = |window: u32| row > position - i64::from(window);
                row <= position && self.window.is_none_or(near)
            };
            // rows of this step count where they are new, not where they will be
            let old = (0..self.capacity).map(|row| (self.fresh == 0 || row < cached) && seen(row));
            let new = (0..self.fresh).map(|i| seen(cached.saturating_add(i)));
            mask.extend(old.chain(new).map(|seen| if seen { 0.0 } else { HIDDEN }));
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(rows: &MaskRows, positions: &[i32], cached: u32) -> Vec<String> {
        let width = (rows.capacity + rows.fresh) as usize;
        let mask = rows.mask(positions, cached);
        let row = |m: &[f32]| -> String {
            let each = m.iter();
            each.map(|x| if *x == 0.0 { '1' } else { '0' }).collect()
        };
        mask.chunks(width).map(row).collect()
    }

    #[test]
    fn tokens_see_rows_from_before_and_those_of_the_step_up_to_themselves() {
        let mut rows = MaskRows {
            positions: 0,
            capacity: 6,
            fresh: 2,
            window: None,
        };
        assert_eq!(shown(&rows, &[3, 4], 3), ["11100010", "11100011"]);
        rows.window = Some(2);
        assert_eq!(shown(&rows, &[3, 4], 3), ["00100010", "00000011"]);
        // where another device appended them
        rows.fresh = 0;
        rows.window = None;
        assert_eq!(shown(&rows, &[3, 4], 3), ["111100", "111110"]);
    }

    #[test]
    fn each_token_has_its_row_and_the_others_stay() {
        let rows = StepRows { capacity: 4 };
        assert_eq!(rows.kept(1, 2), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(rows.put(1, 2), [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        assert_eq!(rows.kept(3, 1), [1.0, 1.0, 1.0, 0.0]);
        assert_eq!(rows.put(3, 1), [0.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn angles_are_positions_times_frequencies() {
        let rotation = Rotation {
            positions: 0,
            dims: 4,
            base: 100.0,
            scaling: RopeScaling::None,
            factors: Some(vec![4.0, 1.0]),
        };
        let (cosines, sines) = rotation.angles(&[0, 2]);
        assert_eq!(cosines, [1.0, 1.0, 0.5f32.cos(), 0.2f32.cos()]);
        assert_eq!(sines, [0.0, 0.0, 0.5f32.sin(), 0.2f32.sin()]);
    }
}
