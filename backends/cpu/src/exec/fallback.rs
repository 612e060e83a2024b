//! Ops without a kernel: the reference runs them on the bound memory.

use std::borrow::Cow;

use anynpu_hal::HalError;
use anynpu_ir::{DType, NodeId, StateId};

use super::{Frame, invalid};
use crate::place::Place;
use crate::program::Operand;
use crate::reference::{
    DataRef, StateDataMut, StateMut, StateRef, States, TensorRef, evaluate_node,
};

impl Frame<'_> {
    /// Evaluates one node by the reference. It allocates.
    ///
    /// # Safety
    /// As [`Frame::step`].
    pub(super) unsafe fn reference(&self, id: NodeId) -> Result<(), HalError> {
        let node = self.program.graph.node(id);
        let failed = |e: crate::reference::ReferenceError| HalError::InvalidUse {
            call: "submit",
            what: format!("node '{}'", node.name),
            found: e.to_string(),
            expected: "operands that the op takes".into(),
        };
        // SAFETY: the operands of this node are only read while their tensors live, and the
        // results are written after, to memory that placement keeps apart.
        unsafe {
            let mut operands = Vec::with_capacity(node.inputs.len());
            for &v in &node.inputs {
                let operand = self.program.operand(v);
                let shape = operand.ty.shape.resolve(self.symbols());
                operands.push((operand.ty.dtype, shape, self.bytes(&operand)?));
            }
            let views = operands.iter().map(|(dtype, shape, bytes)| {
                let dtype = *dtype;
                TensorRef::new(shape, DataRef::Raw { dtype, bytes }).map_err(failed)
            });
            let views = views.collect::<Result<Vec<TensorRef<'_>>, HalError>>()?;
            let mut states = self.bound_states(&node.op.states().collect::<Vec<_>>())?;
            let results = evaluate_node(&node.name, &node.op, &views, &mut states, self.symbols())
                .map_err(failed)?;
            for (&v, tensor) in node.outputs.iter().zip(&results) {
                let operand = self.program.operand(v);
                let (to, bytes) = self.memory(&operand)?;
                let data = tensor.to_bytes();
                if tensor.dtype() != operand.ty.dtype || data.len() != bytes {
                    let found = format!("{} {:?}", tensor.dtype(), tensor.shape());
                    return Err(invalid("result of a node", found, operand.ty.to_string()));
                }
                std::ptr::copy_nonoverlapping(data.as_ptr(), to, bytes);
            }
        }
        Ok(())
    }

    /// The bytes of any operand.
    ///
    /// # Safety
    /// Nothing may write the operand's memory while the slice lives.
    unsafe fn bytes(&self, operand: &Operand) -> Result<Cow<'_, [u8]>, HalError> {
        if let Place::Weight(id) = operand.place {
            return Ok(self.module.weights.raw(&self.program.graph, id)?.bytes);
        }
        let (start, bytes) = self.memory(operand)?;
        // SAFETY: `memory` checked the range; the caller vouches for the absence of writers.
        Ok(unsafe { std::slice::from_raw_parts(start, bytes) }.into())
    }

    fn bound_states(&self, ids: &[StateId]) -> Result<BoundStates<'_>, HalError> {
        let bound = ids
            .iter()
            .map(|&id| {
                let state = self.program.graph.state(id);
                let (slot, dtype) = self.program.state(id);
                let shape = state.ty.shape.resolve(self.symbols());
                let row: usize = shape.iter().skip(1).product();
                let row_bytes = self.row_bytes(slot, row)?;
                let (start, rows) = self.state_memory(slot, 0, row_bytes)?;
                if rows < shape.first().copied().unwrap_or(0) {
                    let found = format!("{rows} rows");
                    return Err(invalid(&state.name, found, format!("{shape:?}")));
                }
                Ok(Bound {
                    id,
                    name: &state.name,
                    axis: state.axis,
                    bytes: shape.first().map_or(1, |&n| n) * row_bytes,
                    shape,
                    dtype,
                    start,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(BoundStates(bound))
    }
}

struct BoundStates<'a>(Vec<Bound<'a>>);

struct Bound<'a> {
    id: StateId,
    name: &'a str,
    axis: u32,
    shape: Vec<usize>,
    dtype: DType,
    start: *mut u8,
    bytes: usize,
}

impl States for BoundStates<'_> {
    fn get(&self, id: StateId) -> Option<StateRef<'_>> {
        let s = self.0.iter().find(|s| s.id == id)?;
        // SAFETY: the range lies in a state buffer that this submission alone uses, and `&self`
        // keeps `get_mut` away while the slice lives.
        let bytes = unsafe { std::slice::from_raw_parts(s.start, s.bytes) };
        let data = DataRef::Raw {
            dtype: s.dtype,
            bytes,
        };
        Some(StateRef {
            name: s.name,
            axis: s.axis,
            tensor: TensorRef::new(&s.shape, data).ok()?,
        })
    }

    fn get_mut(&mut self, id: StateId) -> Option<StateMut<'_>> {
        let s = self.0.iter().find(|s| s.id == id)?;
        // SAFETY: as in `get`; `&mut self` makes the slice the only one.
        let bytes = unsafe { std::slice::from_raw_parts_mut(s.start, s.bytes) };
        Some(StateMut {
            name: s.name,
            axis: s.axis,
            shape: &s.shape,
            data: StateDataMut::Raw {
                dtype: s.dtype,
                bytes,
            },
        })
    }
}
