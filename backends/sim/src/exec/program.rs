//! How an entry is handed to the engine: whole, or node by node with rounding between.

use std::ops::Range;
use std::sync::Arc;

use anynpu_hal::{Entry, EntryInfo, HalError, StatePort};
use anynpu_ir::{DType, Graph, ValueId};

use crate::error::invalid;

/// One entry as it is run.
#[derive(Debug)]
pub(crate) struct Program {
    pub graph: Arc<Graph>,
    pub nodes: Range<u32>,
    pub way: Way,
}

/// How the engine runs an entry.
#[derive(Debug)]
pub(crate) enum Way {
    /// As it is: the engine's entry of this number.
    Whole(usize),
    /// Node by node.
    Nodes {
        /// Operands of the entry that are rounded into a slot first: (operand, slot, value).
        rounded: Vec<(usize, usize, ValueId)>,
        /// The nodes in order.
        steps: Vec<Step>,
    },
}

/// One node as an entry of the engine.
#[derive(Debug)]
pub(crate) struct Step {
    /// The engine's entry.
    pub entry: usize,
    pub inputs: Vec<Place>,
    pub outputs: Vec<Place>,
    /// Which of the entry's states it uses.
    pub states: Vec<usize>,
    /// Results to be rounded: (place, value).
    pub rounded: Vec<(Place, ValueId)>,
}

/// Where a value of a program lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In an operand of the submission.
    Input(usize),
    /// In a result of the submission.
    Output(usize),
    /// In one of the module's buffers.
    Slot(usize),
}

/// Hands out the buffers that the values inside of entries share: no two that live at once have one.
#[derive(Debug, Default)]
pub(crate) struct SlotPlan {
    /// Size of each.
    pub bytes: Vec<usize>,
    free: Vec<usize>,
}

impl SlotPlan {
    /// A slot of at least `bytes`: the smallest free one that is large enough, else the largest, grown.
    fn take(&mut self, bytes: usize) -> usize {
        let sizes = &self.bytes;
        let fitting = self.free.iter().filter(|&&s| sizes[s] >= bytes);
        let best = fitting.min_by_key(|&&s| sizes[s]);
        let best = best.or_else(|| self.free.iter().max_by_key(|&&s| sizes[s]));
        match best.copied() {
            Some(slot) => {
                self.free.retain(|&s| s != slot);
                self.bytes[slot] = self.bytes[slot].max(bytes);
                slot
            }
            None => {
                self.bytes.push(bytes);
                self.bytes.len() - 1
            }
        }
    }

    /// Makes every slot free: entries run one at a time.
    fn restart(&mut self) {
        self.free = (0..self.bytes.len()).collect();
    }
}

/// The nodes of `entry` as entries of their own.
pub(crate) fn node_entries(entry: &Entry) -> impl Iterator<Item = Entry> + '_ {
    entry.nodes.clone().map(|n| Entry {
        name: format!("{}/{n}", entry.name),
        graph: entry.graph.clone(),
        nodes: n..n + 1,
        bounds: entry.bounds.clone(),
    })
}

/// The program that runs `entry`, described by `info`, node by node: its nodes are the engine's entries
/// `infos`, the first of them its entry `first`. Float values are rounded to the device's type.
pub(crate) fn by_nodes(
    entry: &Entry,
    info: &EntryInfo,
    infos: &[EntryInfo],
    first: usize,
    slots: &mut SlotPlan,
) -> Result<Program, HalError> {
    slots.restart();
    let graph = &entry.graph;
    let floats = |v: ValueId| graph.ty(v).dtype == DType::F32;
    let mut last_use = vec![0; graph.values().len()];
    for (step, node) in infos.iter().enumerate() {
        for port in &node.inputs {
            last_use[port.value.index()] = step;
        }
    }
    let mut places: Vec<Option<Place>> = vec![None; graph.values().len()];
    let mut rounded = Vec::new();
    for (i, port) in info.inputs.iter().enumerate() {
        places[port.value.index()] = Some(match floats(port.value) {
            true => {
                let slot = slots.take(port.max_bytes);
                rounded.push((i, slot, port.value));
                Place::Slot(slot)
            }
            false => Place::Input(i),
        });
    }
    for (i, port) in info.outputs.iter().enumerate() {
        places[port.value.index()] = Some(Place::Output(i));
    }
    let place = |places: &[Option<Place>], value: ValueId| {
        places[value.index()].ok_or_else(|| {
            let what = format!("value '{}'", graph.value(value).name);
            invalid(
                "compile",
                what,
                "read before it is made",
                "made by an earlier node",
            )
        })
    };
    let mut steps = Vec::with_capacity(infos.len());
    for (at, node) in infos.iter().enumerate() {
        // results get their slots while those of the operands are still taken
        for port in &node.outputs {
            let of_value = &mut places[port.value.index()];
            if of_value.is_none() {
                *of_value = Some(Place::Slot(slots.take(port.max_bytes)));
            }
        }
        let inputs = node.inputs.iter().map(|p| place(&places, p.value));
        let outputs = node.outputs.iter().map(|p| place(&places, p.value));
        let states = node.states.iter().map(|s| state_index(info, s));
        let step = Step {
            entry: first + at,
            inputs: inputs.collect::<Result<_, _>>()?,
            outputs: outputs.collect::<Result<_, _>>()?,
            states: states.collect::<Result<_, _>>()?,
            rounded: node
                .outputs
                .iter()
                .filter(|p| floats(p.value))
                .map(|p| Ok((place(&places, p.value)?, p.value)))
                .collect::<Result<_, HalError>>()?,
        };
        // a value nobody reads, or that was read for the last time, leaves its slot
        for port in node.inputs.iter().chain(&node.outputs) {
            if let Some(Place::Slot(slot)) = places[port.value.index()]
                && last_use[port.value.index()] <= at
            {
                slots.free.push(slot);
            }
        }
        steps.push(step);
    }
    Ok(Program {
        graph: graph.clone(),
        nodes: entry.nodes.clone(),
        way: Way::Nodes { rounded, steps },
    })
}

fn state_index(info: &EntryInfo, state: &StatePort) -> Result<usize, HalError> {
    let at = info.states.iter().position(|s| s.state == state.state);
    at.ok_or_else(|| {
        let what = format!("state {}", state.state.0);
        invalid("compile", what, "not among the entry's", "one of them")
    })
}
