//! States at their home.

use std::sync::Arc;

use anynpu_hal::{Buffer, EntryInfo, HalError, Submission};
use anynpu_ir::{DType, Graph, StateId};
use candle_core::Tensor;

use super::Call;
use crate::{Fault, memory, tensors};

/// A state that a submission binds.
pub(super) struct Home<'a> {
    id: StateId,
    name: &'a str,
    /// Axis of its rows.
    axis: usize,
    shape: Vec<usize>,
    dtype: DType,
    buffer: &'a Arc<dyn Buffer>,
}

/// The states bound, each in a buffer that is large enough.
pub(super) fn homes<'a>(
    graph: &'a Graph,
    info: &EntryInfo,
    submission: &'a Submission<'_>,
) -> Result<Vec<Home<'a>>, HalError> {
    let home = |(port, buffer): (&anynpu_hal::StatePort, &'a Arc<dyn Buffer>)| {
        let state = graph.state(port.state);
        let shape = state.ty.shape.resolve(&submission.symbols);
        let needed = tensors::bytes_of(port.dtype, &shape);
        let found = buffer.desc().bytes;
        if needed.is_none_or(|n| n > found) {
            return Err(HalError::InvalidUse {
                call: "submit",
                what: format!("buffer '{}' for state '{}'", buffer.desc().name, state.name),
                found: format!("{found} bytes"),
                expected: needed.map_or("less".into(), |n| format!("{n} bytes")),
            });
        }
        Ok(Home {
            id: port.state,
            name: &state.name,
            axis: state.axis as usize,
            shape,
            dtype: port.dtype,
            buffer,
        })
    };
    info.states
        .iter()
        .zip(submission.states)
        .map(home)
        .collect()
}

impl<'a> Call<'a> {
    fn home(&self, id: StateId) -> Result<&'a Home<'a>, Fault> {
        self.homes.iter().find(|h| h.id == id).ok_or_else(|| {
            Fault::operand(
                "state".into(),
                "not bound".into(),
                format!("state {}", id.0),
            )
        })
    }

    /// The first `rows` rows of a state whose axis is the first, as F32.
    pub(super) fn rows(&self, id: StateId, rows: usize) -> Result<Tensor, Fault> {
        let home = self.home(id)?;
        let mut shape = home.shape.clone();
        match shape.first_mut() {
            Some(capacity) if home.axis == 0 && rows <= *capacity => *capacity = rows,
            capacity => {
                return Err(Fault::operand(
                    format!("rows of state '{}'", home.name),
                    rows.to_string(),
                    format!("at most {}", capacity.map_or(0, |c| *c)),
                ));
            }
        }
        let bytes = tensors::bytes_of(home.dtype, &shape).unwrap_or(0);
        let bytes = memory::read(&**home.buffer, 0, bytes)?;
        let rows = tensors::tensor(home.dtype, &shape, &bytes)?;
        Ok(rows.to_dtype(candle_core::DType::F32)?)
    }

    /// How many rows a state has.
    pub(super) fn capacity(&self, id: StateId) -> Result<usize, Fault> {
        let home = self.home(id)?;
        Ok(home.shape.get(home.axis).copied().unwrap_or(0))
    }
}

/// Writes operand 0 to rows `at ..` of a state.
pub(super) fn append(call: &Call<'_>, id: StateId, at: usize) -> Result<(), Fault> {
    let home = call.home(id)?;
    let rows = call.operand(0)?;
    let (count, capacity) = (rows.dim(home.axis)?, call.capacity(id)?);
    let end = at.saturating_add(count);
    if end > capacity {
        return Err(Fault::operand(
            format!("rows of state '{}'", home.name),
            format!("{at}..{end}"),
            format!("within its {capacity} rows"),
        ));
    }
    let Some(kept) = tensors::kept(home.dtype).filter(|_| home.dtype.is_float()) else {
        return Err(call.unclaimed());
    };
    // from F32, as the op's arithmetic is
    let rows = rows.to_dtype(candle_core::DType::F32)?.to_dtype(kept)?;
    let data = tensors::bytes(&rows)?;
    let outer: usize = home.shape[..home.axis].iter().product();
    let row = home.shape[home.axis + 1..].iter().product::<usize>() * home.dtype.block_bytes();
    let chunk = count * row;
    if chunk == 0 {
        return Ok(());
    }
    for (i, part) in data.chunks(chunk).take(outer).enumerate() {
        memory::write(&**home.buffer, (i * capacity + at) * row, part)?;
    }
    Ok(())
}

/// All rows of a state.
pub(super) fn read(call: &Call<'_>, id: StateId) -> Result<Tensor, Fault> {
    let home = call.home(id)?;
    let bytes = tensors::bytes_of(home.dtype, &home.shape).unwrap_or(0);
    let bytes = memory::read(&**home.buffer, 0, bytes)?;
    let all = tensors::tensor(home.dtype, &home.shape, &bytes)?;
    Ok(all.to_dtype(candle_core::DType::F32)?)
}
