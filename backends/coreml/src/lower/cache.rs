//! Keys and values that live from step to step.

use anynpu_ir::{Node, Op, StateId, ValueId};

use super::bound::Boundary;
use super::{Feed, Fetch, Lowering, POSITIONS, States, not_lowered};
use crate::CoreMlError;
use crate::package::{DataType, Operand, Tensor};

/// Rows of a state.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    /// Which it is.
    id: StateId,
    /// What it is called outside.
    name: String,
    /// `[capacity, heads, width]`.
    dims: [u32; 3],
    /// The state of the program, if it is one.
    state: Option<Tensor>,
    /// Its rows: `[1, heads, capacity, width]`, for the Neural Engine `[1, heads · width, 1, capacity]`. None of one
    /// that a host keeps and nothing reads.
    held: Option<Tensor>,
    /// Rows of this step that are not among them: `[1, heads, tokens, width]`, for the Neural Engine
    /// `[1, heads · width, 1, tokens]`.
    fresh: Option<Tensor>,
}

/// Rows that attention reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    /// `[1, heads, rows, width]`, for the Neural Engine `[1, heads · width, 1, rows]`.
    pub tensor: Tensor,
    /// Rows of the cache among them.
    pub old: u32,
    /// Rows of this step that follow those.
    pub fresh: u32,
}

/// What a row of a cache that holds nothing has as its position: behind every other.
const NEVER: i32 = i32::MAX / 2;

impl Lowering<'_> {
    /// Makes `state` a state of the program, or an input.
    pub(super) fn open_cache(&mut self, state: StateId) -> Result<(), CoreMlError> {
        let of = self.graph.state(state);
        let dims: Vec<u32> = of
            .ty
            .shape
            .dims()
            .iter()
            .map(|d| d.resolve(&self.symbols))
            .collect();
        let [capacity, heads, width] = dims[..] else {
            return Err(CoreMlError::Limit {
                name: of.name.clone(),
                what: "dimensions as a state",
                found: dims.len() as u64,
                limit: 3,
            });
        };
        let name = of.name.clone();
        let description = format!("Rows of {name} from before the step");
        let outside = match self.form.engine {
            true => vec![1, heads * width, 1, capacity],
            false => vec![1, heads, capacity, width],
        };
        let float = self.float;
        let (state_tensor, held) = match self.form.states {
            States::Native => {
                // F16 is what states are documented to have
                let feature = self.feature(&name, description, DataType::F16, &outside);
                let tensor = self.f.state(feature)?;
                (
                    Some(tensor),
                    Some(self.read_state(&name, tensor, &outside)?),
                )
            }
            States::Caller if self.boundary == Boundary::Host => {
                let held = match self.attended.contains(&state) {
                    true => Some(self.host_rows(&name, capacity, Feed::State(state))?),
                    false => None,
                };
                (None, held)
            }
            States::Caller => {
                let dtype = self.outside(float);
                let feature = self.feature(&name, description, dtype, &outside);
                let given = self.given(feature, Feed::State(state))?;
                (
                    None,
                    Some(self.cast(&format!("{name}_cast"), given, float)?),
                )
            }
        };
        // rows that something else appended in this step are among those of a state of the program
        let elsewhere = held.is_some() && state_tensor.is_none() && !self.appended.contains(&state);
        let fresh = match self.boundary == Boundary::Host && elsewhere {
            true => {
                let step = format!("{name}_step");
                Some(self.host_rows(&step, self.tokens(), Feed::StepRows(state))?)
            }
            false => None,
        };
        let cache = Cache {
            id: state,
            name,
            dims: [capacity, heads, width],
            state: state_tensor,
            held,
            fresh,
        };
        self.caches.insert(state, cache);
        Ok(())
    }

    /// An input of `rows` rows as a host keeps them, in the form that attention reads.
    fn host_rows(&mut self, name: &str, rows: u32, feed: Feed) -> Result<Tensor, CoreMlError> {
        let (Feed::State(id) | Feed::StepRows(id)) = feed else {
            return Err(CoreMlError::Option {
                what: format!("what '{name}' holds"),
                found: format!("{feed:?}"),
                expected: "rows of a state".into(),
            });
        };
        let ty = &self.graph.state(id).ty;
        let dims: Vec<u32> = ty
            .shape
            .dims()
            .iter()
            .skip(1)
            .map(|d| d.resolve(&self.symbols))
            .collect();
        let (heads, width) = (dims[0], dims[1]);
        let (dims, perm) = match self.form.engine {
            true => ([1, 1, rows, heads * width], [0, 3, 1, 2]),
            false => ([1, rows, heads, width], [0, 2, 1, 3]),
        };
        let (float, description) = (self.float, format!("Rows of {name}, one after the other"));
        let feature = self.feature(name, description, self.outside(float), &dims);
        let given = self.given(feature, feed)?;
        let given = self.cast(&format!("{name}_cast"), given, float)?;
        self.transpose(&format!("{name}_turned"), given, &perm)
    }

    fn read_state(
        &mut self,
        name: &str,
        state: Tensor,
        dims: &[u32],
    ) -> Result<Tensor, CoreMlError> {
        let operands = [("input", Operand::One(state))];
        let read = format!("{name}_rows");
        self.f
            .op("read_state", &read, &operands, DataType::F16, dims)
    }

    fn cache(&self, state: StateId) -> Result<Cache, CoreMlError> {
        self.caches.get(&state).cloned().ok_or_else(|| {
            CoreMlError::Hal(anynpu_hal::HalError::InvalidUse {
                call: "compile",
                what: format!("state '{}'", self.graph.state(state).name),
                found: "not bound".into(),
                expected: "a state of the run".into(),
            })
        })
    }

    /// How many rows caches hold before the step, `[1]`: a host tells, else it is the first position.
    pub(super) fn cached_rows(&mut self) -> Result<Tensor, CoreMlError> {
        if let Some(known) = self.cached {
            return Ok(known);
        }
        let told = self.boundary == Boundary::Host && self.form.states == States::Native;
        let positions = self.graph.find_value(POSITIONS);
        let known = positions.filter(|v| !told && self.values.contains_key(v));
        let made = match known {
            Some(positions) => {
                let positions = self.value(positions)?;
                self.slice("cached", positions, 0, [0, 1, 1])?
            }
            None => {
                let description = "Rows that the caches hold before the step".to_owned();
                let feature = self.feature("cached", description, DataType::I32, &[1]);
                self.given(feature, Feed::Cached)?
            }
        };
        self.cached = Some(made);
        Ok(made)
    }

    /// Appends `rows`, `[tokens, heads, width]`, to `state`.
    pub(super) fn append(
        &mut self,
        name: &str,
        state: StateId,
        rows: ValueId,
    ) -> Result<(), CoreMlError> {
        let mut cache = self.cache(state)?;
        if self.form.engine {
            cache.fresh = Some(self.channels(rows)?);
            self.caches.insert(state, cache);
            return Ok(());
        }
        let rows = self.value(rows)?;
        let rows = self.by_head(name, rows)?;
        let (Some(state_tensor), Some(held)) = (cache.state, cache.held) else {
            cache.fresh = Some(rows);
            self.caches.insert(state, cache);
            return Ok(());
        };
        let count = self.f.dims(rows)[2];
        let rows = self.cast(&format!("{name}_half"), rows, DataType::F16)?;
        let cached = self.cached_rows()?;
        let zero = self.integers(vec![0])?;
        let count = self.integers(vec![count as i32])?;
        let end = self.binary("add", &format!("{name}_last"), cached, count)?;
        let begin = self.concat(&format!("{name}_begin"), &[zero, zero, cached, zero], 0)?;
        let end = self.concat(&format!("{name}_end"), &[zero, zero, end, zero], 0)?;
        // all of every axis but that of rows
        let all = vec![true, true, false, true];
        let dims = self.f.dims(held).to_vec();
        let operands = [
            ("x", held.into()),
            ("update", rows.into()),
            ("begin", begin.into()),
            ("end", end.into()),
            ("stride", vec![1; 4].into()),
            ("begin_mask", all.clone().into()),
            ("end_mask", all.into()),
            ("squeeze_mask", vec![false; 4].into()),
        ];
        let updated = self
            .f
            .op("slice_update", name, &operands, DataType::F16, &dims)?;
        self.f.write_state(state_tensor, updated)?;
        cache.held = Some(self.read_state(&cache.name.clone(), state_tensor, &dims)?);
        self.caches.insert(state, cache);
        Ok(())
    }

    /// `[rows, heads, width]` as `[1, heads, rows, width]`.
    pub(super) fn by_head(&mut self, name: &str, x: Tensor) -> Result<Tensor, CoreMlError> {
        let x = self.transpose(&format!("{name}_by_head"), x, &[1, 0, 2])?;
        let mut dims = vec![1];
        dims.extend_from_slice(self.f.dims(x));
        self.reshape(&format!("{name}_heads"), x, &dims)
    }

    /// All rows of `state` in the program's precision.
    pub(super) fn rows(&mut self, state: StateId) -> Result<Rows, CoreMlError> {
        let cache = self.cache(state)?;
        let float = self.float;
        let held = cache.held.ok_or_else(|| CoreMlError::NotLowered {
            node: cache.name.clone(),
            op: "reading a state that nothing reads".into(),
        })?;
        let held = self.cast(&format!("{}_wide", cache.name), held, float)?;
        let old = cache.dims[0];
        Ok(match cache.fresh {
            None => Rows {
                tensor: held,
                old,
                fresh: 0,
            },
            Some(fresh) => {
                let axis = if self.form.engine { 3 } else { 2 };
                let name = format!("{}_all", cache.name);
                Rows {
                    tensor: self.concat(&name, &[held, fresh], axis)?,
                    old,
                    fresh: self.f.dims(fresh)[axis],
                }
            }
        })
    }

    /// The positions of the keys of `rows`, `[rows]`.
    pub(super) fn key_positions(
        &mut self,
        rows: Rows,
        positions: Tensor,
    ) -> Result<Tensor, CoreMlError> {
        let key = (rows.old, rows.fresh);
        if let Some(&known) = self.key_positions.get(&key) {
            return Ok(known);
        }
        let all = self.integers((0..rows.old as i32).collect())?;
        let native = self.form.states == States::Native;
        let made = match native || self.caches.is_empty() {
            // rows are where their positions say
            true => all,
            false => {
                let cached = self.cached_rows()?;
                let bool = DataType::Bool;
                let there = self.binary_to("less", "rows_there", all, cached, bool)?;
                let never = self.integers(vec![NEVER])?;
                let old = self.select("old_rows", there, all, never)?;
                match rows.fresh {
                    0 => old,
                    _ => self.concat("row_positions", &[old, positions], 0)?,
                }
            }
        };
        self.key_positions.insert(key, made);
        Ok(made)
    }

    /// Gives the rows of this step to the caller, if caches are with it.
    pub(super) fn close_caches(&mut self) -> Result<(), CoreMlError> {
        let caches: Vec<Cache> = self.caches.values().cloned().collect();
        for cache in caches {
            let Some(fresh) = cache.fresh.filter(|_| self.appended.contains(&cache.id)) else {
                continue;
            };
            let name = format!("{}_new", cache.name);
            let given = match self.form.engine {
                // tokens before numbers, so that the last axis is long
                true => self.transpose(&format!("{name}_tokens"), fresh, &[0, 2, 3, 1])?,
                false if self.boundary == Boundary::Host => {
                    self.transpose(&format!("{name}_tokens"), fresh, &[0, 2, 1, 3])?
                }
                false => fresh,
            };
            let outside = self.outside(self.float);
            let given = self.cast(&format!("{name}_outside"), given, outside)?;
            let dims = self.f.dims(given).to_vec();
            let description = format!("Rows of {} that the step adds", cache.name);
            let feature = self.feature(&name, description, outside, &dims);
            self.taken(given, feature, Fetch::Rows(cache.id))?;
        }
        Ok(())
    }

    /// A whole state, or the mask of one.
    pub(super) fn of_cache(&mut self, node: &Node) -> Result<Tensor, CoreMlError> {
        let name = node.name.as_str();
        match &node.op {
            Op::StateRead { state } => {
                let rows = self.rows(*state)?;
                let dims = self.f.dims(rows.tensor)[1..].to_vec();
                let x = self.reshape(&format!("{name}_heads"), rows.tensor, &dims)?;
                self.transpose(name, x, &[1, 0, 2])
            }
            Op::CausalMask {
                keys,
                window,
                hidden,
            } => {
                let positions = self.value(node.inputs[0])?;
                let count = keys.resolve(&self.symbols) as i32;
                let keys = self.integers((0..count).collect())?;
                self.mask(name, positions, keys, *window, *hidden)
            }
            _ => Err(not_lowered(node)),
        }
    }
}
