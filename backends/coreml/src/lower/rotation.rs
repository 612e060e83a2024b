//! Rotations by positions.

use anynpu_ir::{Node, Op, RopeScaling, RopeStyle, ValueId, rope_frequencies};
use half::f16;

use super::bound::Boundary;
use super::{Feed, Lowering, not_lowered};
use crate::CoreMlError;
use crate::package::{BlobRef, DataType, Tensor};

/// A rotation by positions, but for which numbers are paired.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Rotated numbers of a head, twice the pairs.
    pub dims: u32,
    /// Base of the frequencies.
    pub base: f32,
    /// How they are changed.
    pub scaling: RopeScaling,
    /// What each of them is divided by, if the model says.
    pub factors: Option<Vec<f32>>,
}

impl Rotation {
    /// Radians a position for each pair, and what cosines and sines are multiplied by.
    pub fn frequencies(&self) -> (Vec<f32>, f32) {
        rope_frequencies(self.dims, self.base, self.scaling, self.factors.as_deref())
    }

    /// Cosines and sines for `positions`, a row each, a number a pair.
    pub fn angles(&self, positions: impl IntoIterator<Item = i32>) -> (Vec<f32>, Vec<f32>) {
        let (frequencies, magnitude) = self.frequencies();
        let (mut cosines, mut sines) = (Vec::new(), Vec::new());
        for position in positions {
            for frequency in &frequencies {
                let (sin, cos) = (position as f32 * frequency).sin_cos();
                cosines.push(cos * magnitude);
                sines.push(sin * magnitude);
            }
        }
        (cosines, sines)
    }
}

/// Cosines and sines of a rotation in the program: `[tokens, 1, pairs]`, for the Neural Engine `[1, dims, 1, tokens]` in
/// the order of the numbers that they are for.
#[derive(Clone, Debug)]
pub(super) struct Angles {
    pub rotation: Rotation,
    pub style: RopeStyle,
    pub positions: ValueId,
    pub cos: Tensor,
    pub sin: Tensor,
}

impl Lowering<'_> {
    /// The rotation of `node` and how it pairs.
    pub(super) fn rotation(
        &self,
        node: &Node,
    ) -> Result<Option<(Rotation, RopeStyle)>, CoreMlError> {
        let Op::Rope {
            style,
            dims,
            base,
            scaling,
        } = node.op
        else {
            return Ok(None);
        };
        let factors = match node.inputs.get(2) {
            Some(&factors) => Some(self.numbers_of(factors)?),
            None => None,
        };
        let rotation = Rotation {
            dims,
            base,
            scaling,
            factors,
        };
        Ok(Some((rotation, style)))
    }

    /// Numbers that were computed here, in the program's precision. `key` says what they are: those of one key are the same.
    pub(super) fn computed(
        &mut self,
        name: &str,
        key: &str,
        dims: &[u32],
        numbers: &[f32],
    ) -> Result<Tensor, CoreMlError> {
        let dtype = self.float;
        let key = format!("computed {key} {dims:?} {}", dtype.name());
        if let Some(&known) = self.computed.get(&key) {
            return Ok(known);
        }
        let offset = match self.package.find_blob(&key) {
            Some(offset) => offset,
            None => {
                let bytes: Vec<u8> = match dtype {
                    DataType::F16 => {
                        let halves = numbers.iter().map(|x| f16::from_f32(*x));
                        halves.flat_map(|x| x.to_le_bytes()).collect()
                    }
                    _ => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
                };
                let elements = numbers.len() as u64;
                self.package.append_blob(&key, dtype, elements, &bytes)?
            }
        };
        let dims = dims.to_vec();
        let blob = BlobRef {
            dtype,
            dims,
            offset,
        };
        let made = self.f.weight(name, &blob)?;
        self.computed.insert(key, made);
        Ok(made)
    }

    /// The angles of `rotation` at `positions`, looked up in a table for every position of the context.
    fn looked_up(
        &mut self,
        rotation: &Rotation,
        positions: ValueId,
    ) -> Result<[Tensor; 2], CoreMlError> {
        let same = |a: &Angles| a.rotation == *rotation && a.positions == positions;
        if let Some(known) = self.angles.iter().find(|a| same(a)) {
            return Ok([known.cos, known.sin]);
        }
        // a host knows the positions, and they need be no rows of anything
        if self.boundary == Boundary::Host && self.operands.contains(&positions) {
            return self.given_rows(rotation, positions);
        }
        let (capacity, pairs) = (self.capacity(), rotation.dims / 2);
        let (cosines, sines) = rotation.angles(0..capacity as i32);
        let at = self.value(positions)?;
        let number = self.angles.len();
        let mut made = [at; 2];
        for (made, (what, table)) in made.iter_mut().zip([("cos", &cosines), ("sin", &sines)]) {
            let dims = [capacity, pairs];
            let key = format!("{what} of {rotation:?}");
            let name = format!("{what}_table_{number}");
            let table = self.computed(&name, &key, &dims, table)?;
            let rows = self.gather(&format!("{what}_rows_{number}"), table, at, 0)?;
            let dims = [self.f.dims(rows)[0], 1, pairs];
            *made = self.reshape(&format!("{what}_{number}"), rows, &dims)?;
        }
        self.angles.push(Angles {
            rotation: rotation.clone(),
            style: RopeStyle::HalfSplit,
            positions,
            cos: made[0],
            sin: made[1],
        });
        Ok(made)
    }

    /// Cosines and sines of `rotation` that the host makes, as inputs `cos` and `sin`, `cos_1` and so on.
    fn given_rows(
        &mut self,
        rotation: &Rotation,
        positions: ValueId,
    ) -> Result<[Tensor; 2], CoreMlError> {
        let (number, pairs) = (self.angles.len(), rotation.dims / 2);
        let tokens = self.dims(positions).iter().product();
        let mut made = Vec::new();
        for what in ["cos", "sin"] {
            let feed = match what {
                "cos" => Feed::Cosines(rotation.clone(), positions),
                _ => Feed::Sines(rotation.clone(), positions),
            };
            let name = match number {
                0 => what.to_owned(),
                n => format!("{what}_{n}"),
            };
            let description = format!("The {what} of each token's angles, a number a pair");
            let dtype = self.outside(self.float);
            let feature = self.feature(&name, description, dtype, &[tokens, pairs]);
            let x = self.given(feature, feed)?;
            let x = self.cast_to_float(&format!("{name}_cast"), x)?;
            made.push(self.reshape(&format!("{name}_angles"), x, &[tokens, 1, pairs])?);
        }
        let made = [made[0], made[1]];
        self.angles.push(Angles {
            rotation: rotation.clone(),
            style: RopeStyle::HalfSplit,
            positions,
            cos: made[0],
            sin: made[1],
        });
        Ok(made)
    }

    /// Rotates `[tokens, heads, width]`.
    pub(super) fn rotate(&mut self, node: &Node) -> Result<Tensor, CoreMlError> {
        let name = node.name.as_str();
        let Some((rotation, style)) = self.rotation(node)? else {
            return Err(not_lowered(node));
        };
        let x = self.value(node.inputs[0])?;
        let [cos, sin] = self.looked_up(&rotation, node.inputs[1])?;
        let dims = self.f.dims(x).to_vec();
        let (rotated, pairs) = (rotation.dims, rotation.dims / 2);
        let (turned, rest) = match dims[2] - rotated {
            0 => (x, None),
            rest => {
                let parts = self.split(&format!("{name}_part"), x, 2, &[rotated, rest])?;
                (parts[0], Some(parts[1]))
            }
        };
        let half = [dims[0], dims[1], pairs];
        let single = [dims[0], dims[1], pairs, 1];
        let [first, second] = match style {
            RopeStyle::HalfSplit => {
                let parts = self.split(&format!("{name}_half"), turned, 2, &[pairs, pairs])?;
                [parts[0], parts[1]]
            }
            RopeStyle::Interleaved => {
                let pair = [dims[0], dims[1], pairs, 2];
                let paired = self.reshape(&format!("{name}_paired"), turned, &pair)?;
                let parts = self.split(&format!("{name}_of_pair"), paired, 3, &[1, 1])?;
                [
                    self.reshape(&format!("{name}_first"), parts[0], &half)?,
                    self.reshape(&format!("{name}_second"), parts[1], &half)?,
                ]
            }
        };
        let mut product = |what: &str, x, y| self.binary("mul", &format!("{name}_{what}"), x, y);
        let (first_cos, first_sin) = (
            product("first_cos", first, cos)?,
            product("first_sin", first, sin)?,
        );
        let (second_cos, second_sin) = (
            product("second_cos", second, cos)?,
            product("second_sin", second, sin)?,
        );
        let first = self.binary(
            "sub",
            &format!("{name}_turned_first"),
            first_cos,
            second_sin,
        )?;
        let second = self.binary(
            "add",
            &format!("{name}_turned_second"),
            first_sin,
            second_cos,
        )?;
        let mut parts = match style {
            RopeStyle::HalfSplit => vec![first, second],
            RopeStyle::Interleaved => {
                let first = self.reshape(&format!("{name}_first_of_pair"), first, &single)?;
                let second = self.reshape(&format!("{name}_second_of_pair"), second, &single)?;
                let pairs = self.concat(&format!("{name}_pairs"), &[first, second], 3)?;
                let whole = [dims[0], dims[1], rotated];
                vec![self.reshape(&format!("{name}_turned"), pairs, &whole)?]
            }
        };
        parts.extend(rest);
        self.concat(name, &parts, 2)
    }
}
