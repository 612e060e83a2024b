//! Whether what was kept is of an entry: its file may be of another, or broken.

use anynpu_hal::{Entry, EntryInfo};
use anynpu_ir::{DType, StateId, Symbol, SymbolValues, ValueId};

use super::{Angles, Array, Element, FunctionPlan, Mask, Place, Ports, Source};
use crate::lower::engine;
use crate::package::MAX_RANK;

/// What an entry has, to hold a plan to.
struct Own<'a> {
    entry: &'a Entry,
    info: &'a EntryInfo,
    limits: SymbolValues,
}

/// Whether `plan` could be one of `entry`: everything is of sizes and types that the entry has, so that running it touches
/// nothing else.
pub(super) fn fits(plan: &FunctionPlan, entry: &Entry, info: &EntryInfo) -> bool {
    let own = Own {
        entry,
        info,
        limits: entry.bounds.limits(),
    };
    let (tokens, capacity) = (
        own.limits.get(Symbol::TOKENS),
        own.limits.get(Symbol::CAPACITY),
    );
    let sizes = plan.tokens == tokens && plan.capacity == capacity;
    let given = plan.inputs.iter();
    let given = given.clone().all(|(array, source)| match source {
        Source::Value(port) => own.operand(*port, array),
        Source::State(port) => own.rows(*port, array, capacity),
        Source::StepRows(port) => own.rows(*port, array, tokens),
        Source::Cached => array.element == Element::I32 && counted(array) == Some(1),
        Source::Cosines(angles) | Source::Sines(angles) => own.angles(angles, array),
        Source::Mask(mask) => own.mask(mask, array),
    });
    let taken = plan.outputs.iter().all(|(array, place)| match *place {
        Place::Value(port) => own.result(port, array),
        Place::Part {
            port,
            first,
            columns,
        } => own.part(port, first, columns, array),
        Place::Rows(port) => own.rows(port, array, tokens),
    });
    let kept = plan.states.iter().all(|kept| {
        let [heads, rows, width] = kept.sizes();
        let counted = counted(&kept.array).is_some() && heads * rows * width > 0;
        counted && rows == capacity as usize && own.rows(kept.port, &kept.array, capacity)
    });
    let ports = Ports { entry, info };
    let numbered = ports.numbered().is_ok_and(|all| all == plan.numbered);
    sizes && given && taken && kept && numbered && plan.nodes.len() == info.nodes as usize
}

/// How many elements there are, if that is a number.
fn counted(array: &Array) -> Option<usize> {
    if array.dims.len() > MAX_RANK {
        return None;
    }
    let each = array.dims.iter().map(|n| *n as usize);
    let elements = each.clone().try_fold(1usize, usize::checked_mul)?;
    // strides are products as well
    let partial = each.map(|n| n.max(1)).try_fold(1usize, usize::checked_mul);
    partial?.checked_mul(array.element.bytes())?;
    Some(elements)
}

impl Own<'_> {
    fn elements(&self, value: ValueId) -> Option<usize> {
        let shape = &self.entry.graph.ty(value).shape;
        shape.elements(&self.limits)
    }

    fn crosses(&self, value: ValueId, array: &Array) -> bool {
        let dtype = self.entry.graph.ty(value).dtype;
        let elements = counted(array);
        array.element.takes(dtype) && elements.is_some() && elements == self.elements(value)
    }

    fn operand(&self, port: usize, array: &Array) -> bool {
        let port = self.info.inputs.get(port);
        port.is_some_and(|p| self.crosses(p.value, array))
    }

    fn result(&self, port: usize, array: &Array) -> bool {
        let port = self.info.outputs.get(port);
        port.is_some_and(|p| self.crosses(p.value, array))
    }

    /// Elements of a row of `state`.
    fn row(&self, state: StateId) -> Option<usize> {
        let dims = self.entry.graph.state(state).ty.shape.dims().iter();
        let mut dims = dims.skip(1).map(|d| d.resolve(&self.limits) as usize);
        dims.try_fold(1, usize::checked_mul)
    }

    fn rows(&self, port: usize, array: &Array, rows: u32) -> bool {
        let Some(port) = self.info.states.get(port) else {
            return false;
        };
        let expected = self
            .row(port.state)
            .and_then(|n| n.checked_mul(rows as usize));
        array.element.takes(port.dtype) && expected.is_some() && counted(array) == expected
    }

    /// Whether an operand has integers, in one dimension; their number.
    fn integers(&self, port: usize) -> Option<usize> {
        let port = self.info.inputs.get(port)?;
        match port.ty.dtype {
            DType::I32 => self.elements(port.value),
            _ => None,
        }
    }

    fn angles(&self, angles: &Angles, array: &Array) -> bool {
        let positions = self.integers(angles.positions);
        let expected = positions.and_then(|n| n.checked_mul(angles.frequencies.len()));
        array.element != Element::I32 && expected.is_some() && counted(array) == expected
    }

    fn mask(&self, mask: &Mask, array: &Array) -> bool {
        let keys = mask.old.checked_add(mask.fresh);
        // the next multiple of 32 is a number as well
        let columns = keys.filter(|n| *n < u32::MAX - 64);
        let columns = columns.map(|_| engine::mask_columns(mask.old, mask.fresh) as usize);
        let positions = self.integers(mask.positions);
        let expected = positions.zip(columns).and_then(|(n, c)| n.checked_mul(c));
        array.element != Element::I32 && expected.is_some() && counted(array) == expected
    }

    fn part(&self, port: usize, first: u32, columns: u32, array: &Array) -> bool {
        let Some(port) = self.info.outputs.get(port) else {
            return false;
        };
        let (Some(all), Some(own)) = (self.elements(port.value), counted(array)) else {
            return false;
        };
        let width = array.dims.last().copied().unwrap_or(1);
        let end = first.checked_add(width);
        let rows = all.checked_div(columns as usize);
        array.element.takes(port.ty.dtype)
            && width > 0
            && end.is_some_and(|end| end <= columns)
            && all.is_multiple_of(columns as usize)
            && rows == Some(own / width as usize)
    }
}
