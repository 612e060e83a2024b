//! Binding a program's entries to buffers.

use std::collections::HashMap;
use std::ops::Range;

use anynpu_graphs::arch::input;
use anynpu_hal::{BufferDesc, EntryInfo, HalError, MemoryKind, Port};
use anynpu_ir::{StateId, SymbolValues, TensorType, ValueDef, ValueId};

use super::program::{Program, Segment, Shape};
use crate::RuntimeError;
use crate::memory::{Bound, RunId, SlotId, Slots};

/// The slots and runs of one size of step.
#[derive(Debug)]
pub(super) struct ShapeSlots {
    pub tokens: Vec<SlotId>,
    pub positions: Vec<SlotId>,
    pub output_rows: Vec<SlotId>,
    pub token_types: Vec<SlotId>,
    pub padding: Vec<SlotId>,
    pub logits: SlotId,
    pub segments: Vec<BoundSegment>,
}

/// A segment with everything it needs.
#[derive(Debug)]
pub(super) struct BoundSegment {
    pub device: usize,
    pub run: RunId,
    pub nodes: Range<u32>,
    /// Done before it runs.
    pub copies: Vec<Copy>,
}

/// A value brought from one device's memory to another's: (device, slot) each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub from: (usize, SlotId),
    pub to: (usize, SlotId),
    pub value: ValueId,
}

/// What a session's steps use.
#[derive(Debug)]
pub(super) struct Bindings {
    /// As [`Program::shapes`] lists them, each as often as steps of it are under way at once.
    pub shapes: Vec<Vec<ShapeSlots>>,
    /// The home of each state that a segment uses.
    pub states: HashMap<StateId, SlotId>,
}

/// Allocates the slots of all steps and the states for `capacity` rows.
pub(super) fn bind(
    program: &Program,
    capacity: u32,
    slots: &mut Slots,
) -> Result<Bindings, RuntimeError> {
    let mut states = States {
        program,
        capacity,
        homes: HashMap::new(),
    };
    let mut shapes = Vec::new();
    for shape in program.shapes() {
        let bind = |lane| Binder::new(program, shape, lane)?.bind(slots, &mut states);
        let lanes: Result<_, RuntimeError> = (0..shape.at_once).map(bind).collect();
        shapes.push(lanes?);
    }
    Ok(Bindings {
        shapes,
        states: states.homes,
    })
}

/// The homes of the states, common to both phases.
struct States<'a> {
    program: &'a Program,
    capacity: u32,
    homes: HashMap<StateId, SlotId>,
}

impl States<'_> {
    /// The slot of `state`, visible to `device`.
    fn slot(
        &mut self,
        slots: &mut Slots,
        state: StateId,
        dtype: anynpu_ir::DType,
        device: usize,
    ) -> Result<SlotId, RuntimeError> {
        let devices = self.program.devices();
        let home = self.program.home(state);
        let slot = match self.homes.get(&state) {
            Some(&slot) => slot,
            None => self.allocate(slots, state, dtype, home)?,
        };
        match device == home || slots.share(slot, device, &**devices[device].device()) {
            true => Ok(slot),
            false => Err(RuntimeError::StateSplit {
                state: self.program.graph().state(state).name.clone(),
                first: devices[home].name().into(),
                second: devices[device].name().into(),
            }),
        }
    }

    fn allocate(
        &mut self,
        slots: &mut Slots,
        state: StateId,
        dtype: anynpu_ir::DType,
        home: usize,
    ) -> Result<SlotId, RuntimeError> {
        let device = &self.program.devices()[home];
        let declared = self.program.graph().state(state);
        let ty = TensorType::new(dtype, declared.ty.shape.clone());
        let symbols = SymbolValues::step(1, 0, 1, self.capacity);
        let bytes = ty.bytes(&symbols).ok_or_else(|| HalError::OutOfMemory {
            device: device.name().into(),
            bytes: u64::MAX,
            what: format!("state '{}' of {ty}", declared.name),
        })?;
        let mut desc = BufferDesc::host(declared.name.as_str(), bytes);
        if device.device().capabilities().keeps_states() {
            desc.kind = MemoryKind::DeviceLocal;
        }
        let slot = slots.allocate(home, &**device.device(), desc)?;
        // taken now, not page by page in the middle of an answer; memory that the host can't see is
        // the device's to take
        if let Err(e) = slots.write(slot, bytes, |memory| memory.fill(0)) {
            tracing::debug!("state '{}' is not written: {e}", declared.name);
        }
        self.homes.insert(state, slot);
        Ok(slot)
    }
}

/// Binds one size of step once.
struct Binder<'a> {
    program: &'a Program,
    name: String,
    infos: Vec<(&'a Segment, &'a EntryInfo)>,
    /// Most bytes each value can need.
    sizes: HashMap<ValueId, usize>,
    /// Where each value is, by device.
    places: HashMap<(ValueId, usize), SlotId>,
    /// The device that makes each value.
    makers: HashMap<ValueId, usize>,
}

impl<'a> Binder<'a> {
    fn new(program: &'a Program, shape: &'a Shape, lane: usize) -> Result<Self, RuntimeError> {
        let (mut infos, mut sizes) = (Vec::new(), HashMap::new());
        for segment in &shape.segments {
            let module = program.module(segment)?;
            let info = &module.entries()[segment.entry];
            for Port {
                value, max_bytes, ..
            } in info.inputs.iter().chain(&info.outputs)
            {
                let size = sizes.entry(*value).or_insert(0);
                *size = (*max_bytes).max(*size);
            }
            infos.push((segment, info));
        }
        Ok(Binder {
            program,
            name: match lane {
                0 => shape.name(),
                _ => format!("{}#{lane}", shape.name()),
            },
            infos,
            sizes,
            places: HashMap::new(),
            makers: HashMap::new(),
        })
    }

    fn bind(
        mut self,
        slots: &mut Slots,
        states: &mut States<'_>,
    ) -> Result<ShapeSlots, RuntimeError> {
        let graph = self.program.graph();
        let mut given: HashMap<ValueId, Vec<SlotId>> = HashMap::new();
        let mut segments = Vec::new();
        for (segment, info) in self.infos.clone() {
            let device = segment.device;
            let (mut inputs, mut copies) = (Vec::new(), Vec::new());
            for port in &info.inputs {
                let slot = match graph.value(port.value).def {
                    ValueDef::Node { .. } => self.cut(slots, port.value, device, &mut copies)?,
                    _ => {
                        let own = given.entry(port.value).or_default();
                        self.given(slots, port.value, device, own)?
                    }
                };
                inputs.push(slot);
            }
            let mut outputs = Vec::new();
            for port in &info.outputs {
                outputs.push(self.allocate(slots, port.value, device)?);
                self.makers.insert(port.value, device);
            }
            let mut homes = Vec::new();
            for port in &info.states {
                homes.push(states.slot(slots, port.state, port.dtype, device)?);
            }
            let bound = Bound {
                inputs: &inputs,
                outputs: &outputs,
                states: &homes,
            };
            let module = self.program.module(segment)?.clone();
            segments.push(BoundSegment {
                device,
                run: slots.prepare(device, module, segment.entry, bound)?,
                nodes: segment.nodes.clone(),
                copies,
            });
        }
        self.finish(segments, given)
    }

    fn finish(
        self,
        segments: Vec<BoundSegment>,
        given: HashMap<ValueId, Vec<SlotId>>,
    ) -> Result<ShapeSlots, RuntimeError> {
        let graph = self.program.graph();
        let missing = |what: &str| RuntimeError::Graph {
            what: what.into(),
            found: "made by no segment".into(),
            expected: "made by one",
        };
        let logits = graph.outputs().first().copied();
        let logits = logits.ok_or_else(|| missing("output"))?;
        let maker = self.makers.get(&logits).ok_or_else(|| missing("output"))?;
        let mut phase = ShapeSlots {
            tokens: Vec::new(),
            positions: Vec::new(),
            output_rows: Vec::new(),
            token_types: Vec::new(),
            padding: Vec::new(),
            logits: self.places[&(logits, *maker)],
            segments,
        };
        for (value, own) in given {
            match graph.value(value).name.as_str() {
                input::TOKENS => phase.tokens = own,
                input::POSITIONS => phase.positions = own,
                input::OUTPUT_ROWS => phase.output_rows = own,
                input::TOKEN_TYPES => phase.token_types = own,
                input::PADDING => phase.padding = own,
                other => {
                    return Err(RuntimeError::Graph {
                        what: format!("input '{other}'"),
                        found: graph.ty(value).to_string(),
                        expected: "one of tokens, positions, output_rows, token_types, padding",
                    });
                }
            }
        }
        Ok(phase)
    }

    /// The slot of an input of the graph on `device`; `own` are all its slots.
    fn given(
        &mut self,
        slots: &mut Slots,
        value: ValueId,
        device: usize,
        own: &mut Vec<SlotId>,
    ) -> Result<SlotId, RuntimeError> {
        if let Some(&slot) = self.places.get(&(value, device)) {
            return Ok(slot);
        }
        let handle = &**self.program.devices()[device].device();
        if let Some(&slot) = own.iter().find(|&&s| slots.share(s, device, handle)) {
            self.places.insert((value, device), slot);
            return Ok(slot);
        }
        let slot = self.allocate(slots, value, device)?;
        own.push(slot);
        Ok(slot)
    }

    /// The slot on `device` of a value that an earlier segment made.
    fn cut(
        &mut self,
        slots: &mut Slots,
        value: ValueId,
        device: usize,
        copies: &mut Vec<Copy>,
    ) -> Result<SlotId, RuntimeError> {
        if let Some(&slot) = self.places.get(&(value, device)) {
            return Ok(slot);
        }
        let made = self.makers.get(&value).copied();
        let Some((maker, made)) = made.and_then(|m| Some((m, *self.places.get(&(value, m))?)))
        else {
            return Err(RuntimeError::Graph {
                what: format!("value '{}'", self.program.graph().value(value).name),
                found: "needed before it is made".into(),
                expected: "made by an earlier segment",
            });
        };
        if slots.share(made, device, &**self.program.devices()[device].device()) {
            self.places.insert((value, device), made);
            return Ok(made);
        }
        let slot = self.allocate(slots, value, device)?;
        copies.push(Copy {
            from: (maker, made),
            to: (device, slot),
            value,
        });
        Ok(slot)
    }

    fn allocate(
        &mut self,
        slots: &mut Slots,
        value: ValueId,
        device: usize,
    ) -> Result<SlotId, RuntimeError> {
        let name = &self.program.graph().value(value).name;
        let desc = BufferDesc::host(
            format!("{}.{name}", self.name),
            self.sizes.get(&value).copied().unwrap_or(0),
        );
        let handle = &**self.program.devices()[device].device();
        let slot = slots.allocate(device, handle, desc)?;
        self.places.insert((value, device), slot);
        Ok(slot)
    }
}
