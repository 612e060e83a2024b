//! Moves of numbers by operations of the interface.

use anynpu_hal::HalError;
use anynpu_ir::{Node, Op};

use super::Lowering;
use crate::model::OperandId;

/// Lowers `node`; its results. `None` if it is not lowered.
pub(super) fn lower(l: &mut Lowering<'_>, node: &Node) -> Result<Option<Vec<OperandId>>, HalError> {
    let name = node.name.as_str();
    let Some(&first) = node.inputs.first() else {
        return Ok(None);
    };
    let made = match &node.op {
        Op::Reshape { .. } => {
            let (x, dims) = (l.value(first)?, l.dims(node.outputs[0]));
            l.reshaped(name, x, &dims)
        }
        Op::Transpose { perm } => {
            let x = l.value(first)?;
            l.transposed(name, x, perm)
        }
        Op::Concat { axis } => {
            let parts = node.inputs.iter().map(|v| l.value(*v));
            let parts = parts.collect::<Result<Vec<OperandId>, HalError>>()?;
            l.joined(name, &parts, *axis as usize)
        }
        Op::Slice {
            axis,
            start,
            end,
            step: 1,
        } => {
            let x = l.value(first)?;
            l.cut(name, x, *axis as usize, *start, end.saturating_sub(*start))
        }
        Op::Split { axis, sizes } => {
            let (x, axis) = (l.value(first)?, *axis as usize);
            if sizes.iter().all(|s| *s == sizes[0]) {
                return Ok(Some(l.parts(name, x, axis, sizes.len() as u32)));
            }
            let mut parts = Vec::new();
            let mut start = 0;
            for (size, n) in sizes.iter().zip(0..) {
                parts.push(l.cut(&format!("{name}.{n}"), x, axis, start, *size));
                start += size;
            }
            return Ok(Some(parts));
        }
        _ => return Ok(None),
    };
    Ok(Some(vec![made]))
}
