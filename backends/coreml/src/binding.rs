//! What a run of a function is given and where its results go, without Core ML.
//!
//! A [`FunctionPlan`] says of each input and output of a function which operand, state or number of the host it is, with
//! its dimensions and type. It is made when a run of nodes is lowered, and kept beside what was compiled of that.

use anynpu_hal::{Entry, EntryInfo, HalError};
use anynpu_ir::{AttentionKv, DType, Op, StateId, Symbol, ValueId};
use serde::{Deserialize, Serialize};

mod fits;

use crate::CoreMlError;
use crate::lower::{Feed, Fetch, HIDDEN, Lowered, engine, positions_at};
use crate::package::{DataType, Feature};
use crate::plan::NodeResults;

/// The type of what crosses into a function and out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Element {
    /// Floating point of 16 bits.
    F16,
    /// Floating point of 32 bits.
    F32,
    /// Integers of 32 bits.
    I32,
}

impl Element {
    /// Bytes of one.
    pub const fn bytes(self) -> usize {
        match self {
            Element::F16 => 2,
            Element::F32 | Element::I32 => 4,
        }
    }

    /// Its name, as packages call it.
    pub const fn name(self) -> &'static str {
        match self {
            Element::F16 => "fp16",
            Element::F32 => "fp32",
            Element::I32 => "int32",
        }
    }

    /// Whether numbers of `dtype` are these, bit for bit.
    pub const fn is(self, dtype: DType) -> bool {
        matches!(
            (self, dtype),
            (Element::F16, DType::F16) | (Element::F32, DType::F32) | (Element::I32, DType::I32)
        )
    }

    /// Whether numbers of `dtype` can become these, and these those.
    pub const fn takes(self, dtype: DType) -> bool {
        match self {
            Element::F16 | Element::F32 => {
                matches!(dtype, DType::F16 | DType::F32 | DType::BF16)
            }
            Element::I32 => matches!(dtype, DType::I32 | DType::Bool),
        }
    }
}

/// An input or output of a function. Elements are row-major without gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Array {
    /// Its name.
    pub feature: String,
    /// The type of its elements.
    pub element: Element,
    /// Its dimensions.
    pub dims: Vec<u32>,
}

impl Array {
    fn of(feature: &Feature) -> Result<Array, CoreMlError> {
        let element = match feature.dtype {
            DataType::F16 => Element::F16,
            DataType::F32 => Element::F32,
            DataType::I32 => Element::I32,
            other => {
                return Err(CoreMlError::Option {
                    what: format!("the type of '{}'", feature.name),
                    found: other.name().into(),
                    expected: "fp16, fp32 or int32".into(),
                });
            }
        };
        Ok(Array {
            feature: feature.name.clone(),
            element,
            dims: feature.dims.clone(),
        })
    }

    /// How many elements there are.
    pub fn elements(&self) -> usize {
        self.dims.iter().map(|n| *n as usize).product()
    }

    /// How many bytes they have.
    pub fn bytes(&self) -> usize {
        self.elements() * self.element.bytes()
    }

    /// How many elements lie between neighbours along each dimension.
    pub fn strides(&self) -> Vec<usize> {
        let mut strides = vec![1; self.dims.len()];
        for i in (1..self.dims.len()).rev() {
            strides[i - 1] = strides[i] * self.dims[i] as usize;
        }
        strides
    }
}

/// A rotation's angles, as the host makes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Angles {
    /// The operand of the entry that has the positions.
    pub positions: usize,
    /// Radians a position for each pair.
    pub frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by.
    pub magnitude: f32,
}

impl Angles {
    /// Cosines for `positions`, a row each.
    pub fn cosines<'a>(&'a self, positions: &'a [i32]) -> impl Iterator<Item = f32> + 'a {
        self.each(positions).map(|x| x.cos() * self.magnitude)
    }

    /// Sines for `positions`, a row each.
    pub fn sines<'a>(&'a self, positions: &'a [i32]) -> impl Iterator<Item = f32> + 'a {
        self.each(positions).map(|x| x.sin() * self.magnitude)
    }

    fn each<'a>(&'a self, positions: &'a [i32]) -> impl Iterator<Item = f32> + 'a {
        let row = |p: &i32| {
            let position = *p as f32;
            self.frequencies.iter().map(move |f| position * f)
        };
        positions.iter().flat_map(row)
    }
}

/// What is added to scores, as the host makes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    /// The operand of the entry that has the positions.
    pub positions: usize,
    /// Rows of a state among the keys; 0 if keys are operands, the first of which is at position 0.
    pub old: u32,
    /// Keys that follow those: rows of this step, or those operands.
    pub fresh: u32,
    /// Rows further back are hidden.
    pub window: Option<u32>,
}

impl Mask {
    /// The mask for `positions`, where the state has `cached` rows from before the step: a row a token.
    pub fn rows<'a>(&'a self, positions: &'a [i32], cached: u32) -> impl Iterator<Item = f32> + 'a {
        let columns = engine::mask_columns(self.old, self.fresh);
        let row = move |position: &'a i32| {
            let position = i64::from(*position);
            (0..columns).map(move |column| {
                let key = match column.checked_sub(self.old) {
                    None if column < cached => i64::from(column),
                    Some(fresh) if fresh < self.fresh => match self.old {
                        0 => i64::from(fresh),
                        _ => positions
                            .get(fresh as usize)
                            .map_or(i64::MAX, |p| i64::from(*p)),
                    },
                    _ => return HIDDEN,
                };
                let near = self.window.is_none_or(|w| key > position - i64::from(w));
                if key <= position && near { 0.0 } else { HIDDEN }
            })
        };
        positions.iter().flat_map(row)
    }
}

/// What an input holds. Operands and states are told by their numbers in the entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An operand.
    Value(usize),
    /// The rows of a state from before the step. What is after them is hidden, but must be numbers.
    State(usize),
    /// The rows of a state of this step, which another device appended.
    StepRows(usize),
    /// How many rows states hold before the step.
    Cached,
    /// Cosines of a rotation.
    Cosines(Angles),
    /// Sines of a rotation.
    Sines(Angles),
    /// What is added to scores.
    Mask(Mask),
}

/// Where an output goes. Results and states are told by their numbers in the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// To a result.
    Value(usize),
    /// To some columns of a result.
    Part {
        /// The result.
        port: usize,
        /// The first of them.
        first: u32,
        /// Columns of the result.
        columns: u32,
    },
    /// To a state, from the row of the step's first token on.
    Rows(usize),
}

/// A state that a function keeps itself: `[1, heads, capacity, width]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptState {
    /// What it is in the program.
    pub array: Array,
    /// Which of the entry's states it is.
    pub port: usize,
    /// Whether the function appends to it.
    pub written: bool,
}

impl KeptState {
    /// Heads, rows and numbers of a row of a head.
    pub fn sizes(&self) -> [usize; 3] {
        match self.array.dims[..] {
            [1, heads, rows, width] => [heads, rows, width].map(|n| n as usize),
            _ => [0; 3],
        }
    }
}

/// An operand whose numbers are of rows that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered {
    /// The operand.
    pub port: usize,
    /// How many rows there are.
    pub limit: u32,
}

/// A function of a package, with what its inputs hold and where its outputs go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionPlan {
    /// Which of the packages it is in.
    pub package: usize,
    /// Its name, if the package has several.
    pub function: Option<String>,
    /// Tokens of a step.
    pub tokens: u32,
    /// Rows of states.
    pub capacity: u32,
    /// Operands that number rows of something.
    pub numbered: Vec<Numbered>,
    /// Its inputs.
    pub inputs: Vec<(Array, Source)>,
    /// Its outputs.
    pub outputs: Vec<(Array, Place)>,
    /// The states that it keeps itself; others are inputs and outputs.
    pub states: Vec<KeptState>,
    /// What nodes became.
    pub nodes: Vec<NodeResults>,
}

impl FunctionPlan {
    /// The plan of `lowered`, which was made of `entry`, that `info` describes.
    ///
    /// # Errors
    /// Types that do not cross; a value or state that the entry has not.
    pub fn new(
        lowered: Lowered,
        entry: &Entry,
        info: &EntryInfo,
        (package, function): (usize, Option<String>),
    ) -> Result<FunctionPlan, CoreMlError> {
        let ports = Ports { entry, info };
        let described = lowered.function.described();
        let mut inputs = Vec::new();
        for (feature, feed) in described.inputs.iter().zip(lowered.feeds) {
            inputs.push(ports.input(Array::of(feature)?, feed)?);
        }
        let mut outputs = Vec::new();
        for (feature, fetch) in described.outputs.iter().zip(&lowered.fetches) {
            outputs.push(ports.output(Array::of(feature)?, *fetch)?);
        }
        let mut states = Vec::new();
        for (feature, (state, written)) in described.states.iter().zip(&lowered.kept) {
            let array = Array::of(feature)?;
            states.push(KeptState {
                port: ports.state(&array, *state)?,
                array,
                written: *written,
            });
        }
        Ok(FunctionPlan {
            states,
            package,
            function,
            tokens: entry.bounds.get(Symbol::TOKENS).limit(),
            capacity: entry.bounds.get(Symbol::CAPACITY).limit(),
            numbered: ports.numbered()?,
            inputs,
            outputs,
            nodes: lowered.nodes,
        })
    }

    /// Whether it is one of `entry`, which `info` describes: what was kept may be of another, or broken.
    pub fn fits(&self, entry: &Entry, info: &EntryInfo) -> bool {
        fits::fits(self, entry, info)
    }
}

/// The operands, results and states of an entry.
struct Ports<'a> {
    entry: &'a Entry,
    info: &'a EntryInfo,
}

impl Ports<'_> {
    fn missing(&self, what: &str) -> CoreMlError {
        CoreMlError::Hal(HalError::InvalidUse {
            call: "compile",
            what: format!("'{what}' of entry '{}'", self.entry.name),
            found: "not bound".into(),
            expected: "an operand, result or state of it".into(),
        })
    }

    fn crosses(&self, array: &Array, dtype: DType) -> Result<(), CoreMlError> {
        match array.element.takes(dtype) {
            true => Ok(()),
            false => Err(CoreMlError::Option {
                what: format!("the type of '{}' outside", array.feature),
                found: dtype.to_string(),
                expected: format!("one that becomes {}", array.element.name()),
            }),
        }
    }

    fn operand(&self, value: ValueId) -> Result<usize, CoreMlError> {
        let found = self.info.inputs.iter().position(|p| p.value == value);
        found.ok_or_else(|| self.missing(&self.entry.graph.value(value).name))
    }

    fn state(&self, array: &Array, state: StateId) -> Result<usize, CoreMlError> {
        let found = self.info.states.iter().position(|p| p.state == state);
        let found = found.ok_or_else(|| self.missing(&self.entry.graph.state(state).name))?;
        self.crosses(array, self.info.states[found].dtype)?;
        Ok(found)
    }

    fn input(&self, array: Array, feed: Feed) -> Result<(Array, Source), CoreMlError> {
        let angles = |rotation: crate::lower::Rotation, positions| {
            let (frequencies, magnitude) = rotation.frequencies();
            Ok::<Angles, CoreMlError>(Angles {
                positions: self.operand(positions)?,
                frequencies,
                magnitude,
            })
        };
        let source = match feed {
            Feed::Value(value) => {
                let port = self.operand(value)?;
                self.crosses(&array, self.info.inputs[port].ty.dtype)?;
                Source::Value(port)
            }
            Feed::State(state) => Source::State(self.state(&array, state)?),
            Feed::StepRows(state) => Source::StepRows(self.state(&array, state)?),
            Feed::Cached => Source::Cached,
            Feed::Cosines(rotation, positions) => Source::Cosines(angles(rotation, positions)?),
            Feed::Sines(rotation, positions) => Source::Sines(angles(rotation, positions)?),
            Feed::Mask {
                positions,
                old,
                fresh,
                window,
            } => Source::Mask(Mask {
                positions: self.operand(positions)?,
                old,
                fresh,
                window,
            }),
            // lengths of texts are known to nobody here
            Feed::Padding => return Err(self.missing(&array.feature)),
        };
        Ok((array, source))
    }

    fn output(&self, array: Array, fetch: Fetch) -> Result<(Array, Place), CoreMlError> {
        let place = match fetch {
            Fetch::Value(value) | Fetch::Part(value, _) => {
                let ports = &self.info.outputs;
                let port = ports.iter().position(|p| p.value == value);
                let port = port.ok_or_else(|| self.missing(&self.entry.graph.value(value).name))?;
                self.crosses(&array, ports[port].ty.dtype)?;
                match fetch {
                    Fetch::Part(_, first) => {
                        let dims = ports[port].ty.shape.dims().iter().skip(1);
                        let limits = self.entry.bounds.limits();
                        let columns = dims.map(|d| d.resolve(&limits)).product();
                        Place::Part {
                            port,
                            first,
                            columns,
                        }
                    }
                    _ => Place::Value(port),
                }
            }
            Fetch::Rows(state) => Place::Rows(self.state(&array, state)?),
        };
        Ok((array, place))
    }

    /// Operands that number rows: of a table, of keys, of a state.
    fn numbered(&self) -> Result<Vec<Numbered>, CoreMlError> {
        let (graph, limits) = (&self.entry.graph, self.entry.bounds.limits());
        let run = self.entry.subgraph()?;
        let mut all = Vec::new();
        for (_, node) in run.nodes() {
            let size = |operand: usize, axis: u32| {
                let value = node.inputs.get(operand)?;
                let dims = graph.ty(*value).shape.dims();
                Some(dims.get(axis as usize)?.resolve(&limits))
            };
            let (at, limit) = match node.op {
                Op::Embedding => (1, size(0, 0)),
                Op::Gather { axis } | Op::Scatter { axis } => (1, size(0, axis)),
                Op::Attention {
                    kv, causal: true, ..
                } => {
                    let rows = match kv {
                        AttentionKv::State { .. } => Some(limits.get(Symbol::CAPACITY)),
                        AttentionKv::Operands => size(1, 0),
                    };
                    (positions_at(kv), rows)
                }
                _ => continue,
            };
            let found = node.inputs.get(at).copied();
            let mut ports = self.info.inputs.iter();
            let port = ports.position(|p| Some(p.value) == found);
            let (Some(port), Some(limit)) = (port, limit) else {
                continue;
            };
            let own = Numbered { port, limit };
            if !all.contains(&own) {
                all.push(own);
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mask: &Mask, positions: &[i32], cached: u32) -> Vec<String> {
        let columns = engine::mask_columns(mask.old, mask.fresh) as usize;
        let all: Vec<f32> = mask.rows(positions, cached).collect();
        let row = |m: &[f32]| -> String {
            let each = m.iter().take((mask.old + mask.fresh) as usize);
            each.map(|x| if *x == 0.0 { '1' } else { '0' }).collect()
        };
        all.chunks(columns).map(row).collect()
    }

    #[test]
    fn tokens_see_rows_from_before_and_those_of_the_step_up_to_themselves() {
        let mut mask = Mask {
            positions: 0,
            old: 6,
            fresh: 3,
            window: None,
        };
        let seen = ["110000100", "110000110", "110000111"];
        assert_eq!(shown(&mask, &[2, 3, 4], 2), seen);
        // as whoever loads a package makes it
        let rows: Vec<f32> = mask.rows(&[2, 3, 4], 2).collect();
        assert_eq!(rows, engine::mask(6, 3, 2, None));
        mask.window = Some(2);
        let rows: Vec<f32> = mask.rows(&[2, 3, 4], 2).collect();
        assert_eq!(rows, engine::mask(6, 3, 2, Some(2)));
        // keys that are operands are at the positions that they stand at
        mask = Mask {
            old: 0,
            window: None,
            ..mask
        };
        assert_eq!(shown(&mask, &[1, 0, 2], 5), ["110", "100", "111"]);
    }

    #[test]
    fn angles_are_positions_times_frequencies() {
        let angles = Angles {
            positions: 0,
            frequencies: vec![1.0, 0.5],
            magnitude: 2.0,
        };
        let cosines: Vec<f32> = angles.cosines(&[0, 3]).collect();
        let expected = [2.0, 2.0, 2.0 * 3f32.cos(), 2.0 * 1.5f32.cos()];
        assert_eq!(cosines, expected);
        let sines: Vec<f32> = angles.sines(&[0, 3]).collect();
        assert_eq!(sines, [0.0, 0.0, 2.0 * 3f32.sin(), 2.0 * 1.5f32.sin()]);
    }

    #[test]
    fn arrays_have_no_gaps() {
        let array = Array {
            feature: "x".into(),
            element: Element::F16,
            dims: vec![1, 3, 2, 5],
        };
        assert_eq!(array.strides(), [30, 10, 5, 1]);
        assert_eq!((array.elements(), array.bytes()), (30, 60));
        assert!(Element::F32.takes(DType::BF16) && !Element::F32.is(DType::BF16));
        assert!(!Element::I32.takes(DType::F32));
    }
}
