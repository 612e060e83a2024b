//! A graph on a device, ready to be run and timed part by part.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anynpu_graphs::quant::quantize_row;
use anynpu_hal::{
    Bounds, BufferDesc, CompileOptions, Device, DeviceKind, Entry, Extent, HalError, Module,
    Support, Timeline, WeightSource, WeightView,
};
use anynpu_ir::{DType, Graph, Symbol, SymbolValues, ValueId};

use crate::memory::{Bound, RunId, SlotId, Slots};

/// A part of a graph to be timed.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub nodes: Range<u32>,
    /// Rows at once.
    pub tokens: u32,
}

/// A compiled graph with memory for everything it reads and writes.
pub(super) struct Rig {
    device: Arc<dyn Device>,
    slots: Slots,
    runs: Vec<RunId>,
    positions: Vec<SlotId>,
    timeline: Timeline,
    submitted: u64,
    limit: Duration,
    pub capacity: u32,
}

/// The rows of states that a device that wants at least `rows` is compiled for.
pub(super) fn capacity_of(device: &dyn Device, rows: u32) -> Option<u32> {
    match &device.capabilities().fixed_shapes {
        Some(fixed) if !fixed.capacities.is_empty() => {
            fixed.capacities.iter().copied().find(|&c| c >= rows)
        }
        _ => Some(rows),
    }
}

/// Whether the device runs steps of `tokens` rows.
pub(super) fn takes(device: &dyn Device, tokens: u32) -> bool {
    let capabilities = device.capabilities();
    capabilities.features.dynamic_shapes
        || capabilities
            .fixed_shapes
            .as_ref()
            .is_some_and(|f| f.tokens.is_empty() || f.tokens.contains(&tokens))
}

impl Rig {
    /// Compiles `parts` of `graph`. States have `rows` rows in `state_dtype`.
    pub fn new(
        device: &Arc<dyn Device>,
        graph: Graph,
        parts: &[Part],
        rows: u32,
        state_dtype: DType,
        limit: Duration,
    ) -> Result<Rig, HalError> {
        let refused = |what: String| HalError::Unsupported {
            device: what,
            call: "probe",
        };
        let whole = graph.whole();
        let verdicts = device.support(&whole);
        let no = verdicts
            .iter()
            .zip(graph.nodes())
            .find_map(|(v, node)| match v {
                Support::No(reason) => {
                    Some(format!("{} ({}: {reason})", device.info().name, node.name))
                }
                _ => None,
            });
        if let Some(no) = no {
            return Err(refused(no));
        }
        let Some(capacity) = capacity_of(&**device, rows) else {
            return Err(refused(format!(
                "{} (states of {rows} rows)",
                device.info().name
            )));
        };
        let dynamic = device.capabilities().features.dynamic_shapes;
        let extent = |n| match dynamic {
            true => Extent::AtMost(n),
            false => Extent::Exact(n),
        };
        let weights: Arc<dyn WeightSource> = Arc::new(Made::new(&graph)?);
        let graph = Arc::new(graph);
        let entries: Vec<Entry> = parts
            .iter()
            .enumerate()
            .map(|(i, part)| Entry {
                name: format!("part.{i}"),
                graph: graph.clone(),
                nodes: part.nodes.clone(),
                bounds: Bounds::new()
                    .with(
                        Symbol::TOKENS,
                        match part.tokens {
                            1 => Extent::Exact(1),
                            n => extent(n),
                        },
                    )
                    .with(Symbol::CACHED, Extent::AtMost(capacity))
                    .with(Symbol::OUTPUTS, extent(1))
                    .with(Symbol::CAPACITY, extent(capacity)),
            })
            .collect();
        let mut options = CompileOptions::new(state_dtype);
        // As a model in it is compiled where nothing else is asked for.
        let mut types = graph.weights().iter().map(|w| graph.ty(w.value).dtype);
        options.precision = types.find(|&dtype| dtype == DType::BF16);
        let module = device.compile(&entries, &options, weights, &mut |_, _| true)?;
        let mut rig = Rig {
            device: device.clone(),
            slots: Slots::default(),
            runs: Vec::new(),
            positions: Vec::new(),
            timeline: Timeline::new("probe"),
            submitted: 0,
            limit,
            capacity,
        };
        rig.bind(&graph, &module)?;
        Ok(rig)
    }

    /// Allocates what the entries of `module` read and write, and binds it.
    fn bind(&mut self, graph: &Graph, module: &Arc<dyn Module>) -> Result<(), HalError> {
        let mut sizes: BTreeMap<ValueId, usize> = BTreeMap::new();
        for info in module.entries() {
            for port in info.inputs.iter().chain(&info.outputs) {
                let size = sizes.entry(port.value).or_default();
                *size = port.max_bytes.max(*size);
            }
        }
        let kind = self.device.capabilities().memory.first().copied();
        let desc = |name: &str, bytes| BufferDesc {
            kind: kind.unwrap_or(anynpu_hal::MemoryKind::Host),
            ..BufferDesc::host(name, bytes)
        };
        let mut values = BTreeMap::new();
        for (&value, &bytes) in &sizes {
            let name = &graph.value(value).name;
            let slot = self.slots.allocate(0, &*self.device, desc(name, bytes))?;
            if graph.ty(value).dtype == DType::I32 {
                self.positions.push(slot);
                let ascending = |m: &mut [u8]| {
                    for (i, id) in (0i32..).zip(m.chunks_exact_mut(4)) {
                        id.copy_from_slice(&i.to_ne_bytes());
                    }
                };
                self.slots.write(slot, bytes, ascending)?;
            } else {
                self.slots.write(slot, bytes, fill)?;
            }
            values.insert(value, slot);
        }
        let mut states = BTreeMap::new();
        for port in module.entries().iter().flat_map(|e| &e.states) {
            if states.contains_key(&port.state) {
                continue;
            }
            let state = graph.state(port.state);
            let ty = anynpu_ir::TensorType::new(port.dtype, state.ty.shape.clone());
            let symbols = SymbolValues::step(1, 0, 1, self.capacity);
            let bytes = ty.bytes(&symbols).unwrap_or(usize::MAX);
            let slot = self
                .slots
                .allocate(0, &*self.device, desc(&state.name, bytes))?;
            states.insert(port.state, slot);
        }
        for (entry, info) in module.entries().iter().enumerate() {
            let inputs: Vec<SlotId> = info.inputs.iter().map(|p| values[&p.value]).collect();
            let outputs: Vec<SlotId> = info.outputs.iter().map(|p| values[&p.value]).collect();
            let homes: Vec<SlotId> = info.states.iter().map(|p| states[&p.state]).collect();
            let bound = Bound {
                inputs: &inputs,
                outputs: &outputs,
                states: &homes,
            };
            self.runs
                .push(self.slots.prepare(0, module.clone(), entry, bound)?);
        }
        Ok(())
    }

    /// Runs part `part` with `tokens` rows after `cached` ones, and tells how many microseconds that took.
    pub fn run(&mut self, part: usize, tokens: u32, cached: u32) -> Result<f64, HalError> {
        let virtual_time = self.device.info().kind == DeviceKind::Simulated;
        let symbols = SymbolValues::step(tokens, cached, 1, self.capacity);
        self.submitted += 1;
        let point = self.timeline.point(self.submitted);
        let queue = self.device.queue();
        let before = queue.counters().busy_ns;
        let started = Instant::now();
        self.slots
            .run(self.runs[part], queue, symbols, &point, self.limit)?;
        Ok(match virtual_time {
            true => queue.counters().busy_ns.saturating_sub(before) as f64 / 1e3,
            false => started.elapsed().as_secs_f64() * 1e6,
        })
    }

    /// Writes the positions of the rows after `cached` ones.
    pub fn set_positions(&mut self, tokens: u32, cached: u32) -> Result<(), HalError> {
        for &slot in &self.positions {
            self.slots.write(slot, 4 * tokens as usize, |m| {
                for (i, id) in (cached as i32..).zip(m.chunks_exact_mut(4)) {
                    id.copy_from_slice(&i.to_ne_bytes());
                }
            })?;
        }
        Ok(())
    }
}

/// Fills memory of F32 with numbers in -1..1 of a fixed sequence.
fn fill(memory: &mut [u8]) {
    let mut seed = 7u32;
    for x in memory.chunks_exact_mut(4) {
        x.copy_from_slice(&next(&mut seed).to_ne_bytes());
    }
}

/// The next number of a linear congruential sequence, in -1..1.
fn next(seed: &mut u32) -> f32 {
    *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*seed >> 8) as f32 / (1u32 << 23) as f32 - 1.0
}

/// Weights made up for a graph. Every weight has memory of its own.
#[derive(Debug)]
pub(super) struct Made {
    weights: BTreeMap<String, (DType, Range<usize>)>,
    bytes: Vec<u8>,
}

/// Different rows of a made weight.
const ROWS: usize = 16;

impl Made {
    pub fn new(graph: &Graph) -> Result<Made, HalError> {
        let mut made = Made {
            weights: BTreeMap::new(),
            bytes: Vec::new(),
        };
        let mut tiles: BTreeMap<(&'static str, usize), Vec<u8>> = BTreeMap::new();
        for weight in graph.weights() {
            let value = graph.value(weight.value);
            let fail = |why: String| HalError::Weight {
                name: value.name.clone(),
                why,
            };
            let dims: Option<Vec<usize>> = value
                .ty
                .shape
                .dims()
                .iter()
                .map(|d| Some(d.fixed()? as usize))
                .collect();
            let dims = dims.ok_or_else(|| fail("its size is not fixed".into()))?;
            let columns = dims.last().copied().unwrap_or(1);
            let rows: usize = dims.iter().rev().skip(1).product();
            let dtype = value.ty.dtype;
            let tile = match tiles.entry((dtype.name(), columns)) {
                std::collections::btree_map::Entry::Occupied(tile) => tile.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => {
                    let tile = tile(dtype, columns, dims.len() > 1).map_err(fail)?;
                    place.insert(tile)
                }
            };
            let row = tile.len() / ROWS;
            let start = made.bytes.len();
            let mut rest = rows;
            while rest > 0 {
                let some = rest.min(ROWS);
                made.bytes.extend_from_slice(&tile[..some * row]);
                rest -= some;
            }
            let range = start..made.bytes.len();
            made.weights.insert(value.name.clone(), (dtype, range));
        }
        Ok(made)
    }
}

/// [`ROWS`] rows of `columns` elements: of a matrix such that products keep the size of numbers, else ones.
fn tile(dtype: DType, columns: usize, matrix: bool) -> Result<Vec<u8>, String> {
    let row = dtype
        .row_bytes(columns)
        .ok_or_else(|| format!("rows of {columns} elements are no whole blocks of {dtype}"))?;
    let mut seed = 1u32;
    let scale = (3.0 / columns as f32).sqrt();
    let mut tile = vec![0; row * ROWS];
    for out in tile.chunks_exact_mut(row.max(1)) {
        let values: Vec<f32> = (0..columns)
            .map(|_| match matrix {
                true => scale * next(&mut seed),
                false => 1.0,
            })
            .collect();
        quantize_row(dtype, &values, out).map_err(|e| e.to_string())?;
    }
    Ok(tile)
}

impl WeightSource for Made {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        match self.weights.get(name) {
            Some((dtype, range)) => Ok(WeightView {
                dtype: *dtype,
                bytes: Cow::Borrowed(&self.bytes[range.clone()]),
            }),
            None => Err(HalError::Weight {
                name: name.into(),
                why: "no weight was made for it".into(),
            }),
        }
    }
}
