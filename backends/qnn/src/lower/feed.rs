//! What the host gives a graph and takes from it.

use anynpu_ir::{RopeScaling, RopeStyle, rope_frequencies};
use half::f16;

/// What an input of a graph holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Feed {
    /// The operand of the entry with this number, as it is: F32.
    Value(usize),
    /// The state of the entry with this number, every row, in the type it is kept in.
    State(usize),
    /// The rows of that state which this step's tokens have, where others appended them before.
    NewRows(usize),
    /// Cosines of the angles of a rotation, F16: a row a token, a number a pair.
    Cosines(Rotation),
    /// Sines, likewise.
    Sines(Rotation),
    /// The operand of the entry with this number, F32, which is added to scores: so many numbers a query, which must see
    /// something.
    Added(usize, u32),
    /// What is added to scores, F16: a row a token, a number a row of the state.
    Mask(MaskRows),
}

/// Where an output of a graph goes.
#[derive(Clone, Debug, PartialEq)]
pub enum Fetch {
    /// To the result of the entry with this number, as it is: F32.
    Value(usize),
    /// To the state of the entry with this number, from the row of the step's first token on.
    Rows(usize),
}

/// A rotation by positions.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// The operand of the entry that has the positions.
    pub positions: usize,
    /// How numbers are paired; does not change angles.
    pub style: RopeStyle,
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
    pub fn angles(&self, positions: &[i32]) -> (Vec<f16>, Vec<f16>) {
        let factors = self.factors.as_deref();
        let (frequencies, magnitude) =
            rope_frequencies(self.dims, self.base, self.scaling, factors);
        let mut cosines = Vec::with_capacity(positions.len() * frequencies.len());
        let mut sines = Vec::with_capacity(positions.len() * frequencies.len());
        for &position in positions {
            for frequency in &frequencies {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                cosines.push(f16::from_f32(cos * magnitude));
                sines.push(f16::from_f32(sin * magnitude));
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

/// Added to scores of rows that are hidden. Far below any score, and finite, as hardware wants it; F16 has 65504.
const HIDDEN: f32 = -3e4;

impl MaskRows {
    /// The mask for `positions`, where the state has `cached` rows from before this step.
    pub fn mask(&self, positions: &[i32], cached: u32) -> Vec<f16> {
        let (shown, hidden) = (f16::ZERO, f16::from_f32(HIDDEN));
        let mut mask = Vec::with_capacity(positions.len() * (self.capacity + self.fresh) as usize);
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
            mask.extend(old.chain(new).map(|seen| if seen { shown } else { hidden }));
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
        let row = |m: &[f16]| -> String {
            m.iter()
                .map(|x| if *x == f16::ZERO { '1' } else { '0' })
                .collect()
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
    fn angles_are_positions_times_frequencies() {
        let mut rotation = Rotation {
            positions: 0,
            style: RopeStyle::Interleaved,
            dims: 4,
            base: 100.0,
            scaling: RopeScaling::None,
            factors: None,
        };
        let (cosines, sines) = rotation.angles(&[0, 2]);
        let found: Vec<f32> = cosines.iter().chain(&sines).map(|x| x.to_f32()).collect();
        let expected = [
            1.0,
            1.0,
            2f32.cos(),
            0.2f32.cos(),
            0.0,
            0.0,
            2f32.sin(),
            0.2f32.sin(),
        ];
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-3, "{found:?}");
        }
        // the first pair turns four times as slowly
        rotation.factors = Some(vec![4.0, 1.0]);
        let (cosines, _) = rotation.angles(&[2]);
        for (a, b) in cosines.iter().zip([0.5f32.cos(), 0.2f32.cos()]) {
            assert!((a.to_f32() - b).abs() < 1e-3, "{cosines:?}");
        }
    }
}
