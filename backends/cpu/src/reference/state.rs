//! States: tensors that live from step to step.

use anynpu_ir::{DType, Graph, State, StateId, SymbolValues};

use super::tensor::{bytes_of, encode};
use super::{Call, DataRef, ReferenceError, Tensor, TensorRef};

/// A state as it is bound, for reading.
#[derive(Clone, Copy, Debug)]
pub struct StateRef<'a> {
    /// Name, for errors.
    pub name: &'a str,
    /// Axis along which rows are appended.
    pub axis: u32,
    /// Its rows, F32, F16, BF16 or Q8_0, whatever the graph declares.
    pub tensor: TensorRef<'a>,
}

/// A state as it is bound, for writing.
#[derive(Debug)]
pub struct StateMut<'a> {
    /// Name, for errors.
    pub name: &'a str,
    /// Axis along which rows are appended.
    pub axis: u32,
    /// Dimensions.
    pub shape: &'a [usize],
    /// Its elements.
    pub data: StateDataMut<'a>,
}

/// Elements of a state.
#[derive(Debug)]
pub enum StateDataMut<'a> {
    /// As F32.
    F32(&'a mut [f32]),
    /// As little-endian bytes.
    Raw {
        /// F32, F16, BF16 or Q8_0.
        dtype: DType,
        /// Rows.
        bytes: &'a mut [u8],
    },
}

/// The states that a step reads and writes, wherever their home is.
pub trait States {
    /// The state `id`, or `None` if it is not bound.
    fn get(&self, id: StateId) -> Option<StateRef<'_>>;

    /// As [`States::get`], for writing; the same shape.
    fn get_mut(&mut self, id: StateId) -> Option<StateMut<'_>>;
}

/// No states: for nodes that have none.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStates;

impl States for NoStates {
    fn get(&self, _: StateId) -> Option<StateRef<'_>> {
        None
    }

    fn get_mut(&mut self, _: StateId) -> Option<StateMut<'_>> {
        None
    }
}

/// All states of a graph, kept in the types that it declares or in another.
#[derive(Clone, Debug, PartialEq)]
pub struct StateStore {
    slots: Vec<Slot>,
}

#[derive(Clone, Debug, PartialEq)]
struct Slot {
    state: State,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl StateStore {
    /// The states of `graph`, all zero, of the sizes that `symbols` give.
    ///
    /// # Errors
    /// [`ReferenceError::OutOfMemory`] if one does not fit in memory.
    pub fn new(graph: &Graph, symbols: &SymbolValues) -> Result<Self, ReferenceError> {
        StateStore::kept(graph, symbols, None)
    }

    /// As [`StateStore::new`], with the float states kept in `dtype`, if given.
    ///
    /// # Errors
    /// As [`StateStore::new`], which a row that is not whole blocks of `dtype` is too.
    pub fn kept(
        graph: &Graph,
        symbols: &SymbolValues,
        dtype: Option<DType>,
    ) -> Result<Self, ReferenceError> {
        let slots = graph.states().iter().map(|state| {
            let mut state = state.clone();
            if let Some(dtype) = dtype.filter(|_| state.ty.dtype.is_float()) {
                state.ty.dtype = dtype;
            }
            let shape = state.ty.shape.resolve(symbols);
            let mut bytes = Vec::new();
            let len = bytes_of(state.ty.dtype, &shape);
            match len.map(|len| (len, bytes.try_reserve_exact(len))) {
                Some((len, Ok(()))) => bytes.resize(len, 0),
                _ => {
                    return Err(ReferenceError::OutOfMemory {
                        node: state.name.clone(),
                        dtype: state.ty.dtype,
                        shape,
                    });
                }
            }
            Ok(Slot {
                state,
                shape,
                bytes,
            })
        });
        Ok(StateStore {
            slots: slots.collect::<Result<_, _>>()?,
        })
    }

    /// A copy of the state `id`, or `None` if the graph has none such.
    pub fn tensor(&self, id: StateId) -> Option<Tensor> {
        self.get(id)?.tensor.to_tensor().ok()
    }
}

impl States for StateStore {
    fn get(&self, id: StateId) -> Option<StateRef<'_>> {
        let slot = self.slots.get(id.index())?;
        let data = DataRef::Raw {
            dtype: slot.state.ty.dtype,
            bytes: &slot.bytes,
        };
        Some(StateRef {
            name: &slot.state.name,
            axis: slot.state.axis,
            tensor: TensorRef::new(&slot.shape, data).ok()?,
        })
    }

    fn get_mut(&mut self, id: StateId) -> Option<StateMut<'_>> {
        let slot = self.slots.get_mut(id.index())?;
        Some(StateMut {
            name: &slot.state.name,
            axis: slot.state.axis,
            shape: &slot.shape,
            data: StateDataMut::Raw {
                dtype: slot.state.ty.dtype,
                bytes: &mut slot.bytes,
            },
        })
    }
}

pub(super) fn kv_append(
    call: &Call<'_>,
    id: StateId,
    at: usize,
    states: &mut dyn States,
) -> Result<(), ReferenceError> {
    let rows = call.input(0);
    let values = rows.floats()?;
    let mut state = bound_mut(call.node, id, states)?;
    let axis = state.axis as usize;
    let (n, capacity) = (rows.dim(axis), state.shape[axis]);
    let end = at.saturating_add(n);
    if end > capacity {
        return Err(ReferenceError::StateRows {
            node: call.node.into(),
            state: state.name.into(),
            start: at,
            end,
            capacity,
        });
    }
    if values.is_empty() {
        return Ok(());
    }
    let outer: usize = state.shape[..axis].iter().product();
    let row: usize = state.shape[axis + 1..].iter().product();
    for i in 0..outer {
        let from = &values[i * n * row..][..n * row];
        let start = (i * capacity + at) * row;
        match state.data {
            StateDataMut::F32(ref mut all) => all[start..][..n * row].copy_from_slice(from),
            StateDataMut::Raw {
                dtype,
                ref mut bytes,
            } => {
                let from = encode(dtype, from)?;
                let start = dtype.row_bytes(start).ok_or(ReferenceError::ElementType {
                    found: dtype,
                    expected: "a type of which a row of the state is whole blocks",
                })?;
                bytes[start..][..from.len()].copy_from_slice(&from);
            }
        }
    }
    Ok(())
}

pub(super) fn state_read(
    call: &Call<'_>,
    id: StateId,
    states: &dyn States,
) -> Result<Tensor, ReferenceError> {
    call.floats(bound(call.node, id, states)?.tensor.floats()?.into_owned())
}

/// The state `id`, as `node` reads it.
pub(super) fn bound<'a>(
    node: &str,
    id: StateId,
    states: &'a dyn States,
) -> Result<StateRef<'a>, ReferenceError> {
    states.get(id).ok_or_else(|| ReferenceError::UnknownState {
        node: node.into(),
        id,
    })
}

/// The state `id`, as `node` writes it; its data has the length of its shape.
fn bound_mut<'a>(
    node: &str,
    id: StateId,
    states: &'a mut dyn States,
) -> Result<StateMut<'a>, ReferenceError> {
    let state = states
        .get_mut(id)
        .ok_or_else(|| ReferenceError::UnknownState {
            node: node.into(),
            id,
        })?;
    let (dtype, found) = match &state.data {
        StateDataMut::F32(all) => (DType::F32, size_of_val(&all[..])),
        StateDataMut::Raw { dtype, bytes } => (*dtype, bytes.len()),
    };
    let expected = bytes_of(dtype, state.shape);
    match expected == Some(found) {
        true => Ok(state),
        false => Err(ReferenceError::DataLength {
            dtype,
            shape: state.shape.to_vec(),
            expected: expected.unwrap_or(usize::MAX),
            found,
        }),
    }
}

/// Fails unless `id` is bound with the shape that its graph declares under `symbols`.
pub(super) fn check_shape(
    declared: &State,
    id: StateId,
    states: &dyn States,
    symbols: &SymbolValues,
) -> Result<(), ReferenceError> {
    let expected = declared.ty.shape.resolve(symbols);
    let found = bound(&declared.name, id, states)?.tensor.shape();
    match found == expected {
        true => Ok(()),
        false => Err(ReferenceError::StateShape {
            state: declared.name.clone(),
            found: found.to_vec(),
            expected,
        }),
    }
}
