//! A plan compiled on its devices.

use std::ops::Range;
use std::sync::Arc;

use anynpu_graphs::{Model, TensorData};
use anynpu_hal::{
    Bounds, CompileOptions, Device, Entry, EntryInfo, Extent, FileSpan, HalError, Module,
    WeightSource, WeightView,
};
use anynpu_ir::{DType, Dim, Graph, NodeId, StateId, Symbol};
use parking_lot::{Mutex, MutexGuard};

use super::Rows;
use crate::RuntimeError;
use crate::cache::{Cache, Request};
use crate::memory::{DeviceMemory, MemoryPlan};
use crate::plan::overlap::{self, STEPS_AT_ONCE};
use crate::plan::{Phase, PlanSet, StepSizes};

/// A device in use. Its queue and counters are used under a lease, so that counts are a session's
/// own although sessions share devices.
#[derive(Debug)]
pub(crate) struct OpenDevice {
    device: Arc<dyn Device>,
    lease: Mutex<()>,
}

impl OpenDevice {
    pub fn new(device: Arc<dyn Device>) -> Self {
        OpenDevice {
            device,
            lease: Mutex::new(()),
        }
    }

    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    pub fn name(&self) -> &str {
        &self.device.info().name
    }

    pub fn takes_any_size(&self) -> bool {
        self.device.capabilities().features.dynamic_shapes
    }

    pub fn lease(&self) -> MutexGuard<'_, ()> {
        self.lease.lock()
    }
}

/// The largest sizes a program was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Tokens of a step of prefill.
    pub tokens: u32,
    /// Rows of results of a step of prefill.
    pub rows: u32,
    /// Rows of the KV cache.
    pub capacity: u32,
}

/// Most bytes of results of one step: more rows are had in more steps.
const RESULT_BYTES: u64 = 16 << 20;

impl Limits {
    /// Steps of up to `chunk` tokens for a model that gives rows of `width` elements.
    pub fn new(chunk: u32, capacity: u32, width: u32) -> Self {
        let tokens = chunk.clamp(1, capacity.max(1));
        let row = u64::from(width.max(1)) * size_of::<f32>() as u64;
        let rows = (RESULT_BYTES / row).clamp(1, tokens.into());
        Limits {
            tokens,
            rows: rows as u32,
            capacity,
        }
    }

    /// The number of tokens of a step, if it was compiled for so many.
    pub fn check(&self, phase: Phase, tokens: usize, rows: Rows) -> Result<u32, RuntimeError> {
        let limit = match (phase, rows) {
            (Phase::Decode, _) => 1,
            (Phase::Prefill, Rows::All) => self.rows,
            (Phase::Prefill, _) => self.tokens,
        };
        match u32::try_from(tokens) {
            Ok(n) if (1..=limit).contains(&n) => Ok(n),
            _ => Err(RuntimeError::Option {
                option: "tokens of a step",
                found: tokens.to_string(),
                expected: format!("from 1 to {limit}"),
            }),
        }
    }

    /// As the sizes of a plan's steps ask.
    pub fn for_steps(self, sizes: &StepSizes) -> Self {
        let buckets = sizes.buckets.last();
        Limits {
            tokens: buckets.map_or(self.tokens, |b| b.0),
            rows: match buckets {
                Some(&(tokens, _)) if sizes.every_row => tokens,
                // more rows are had from steps of one token
                Some(_) => 1,
                None => self.rows,
            },
            capacity: sizes.capacity.unwrap_or(self.capacity),
        }
    }

    /// The bounds of a shape on a device that takes any sizes, or only fixed ones.
    fn bounds(&self, shape: &Shape, dynamic: bool) -> Bounds {
        let (tokens, rows) = match (shape.phase, shape.tokens) {
            (_, Some(tokens)) => (Extent::Exact(tokens), self.rows.min(tokens)),
            (Phase::Prefill, None) => (Extent::AtMost(self.tokens), self.rows),
            (Phase::Decode, None) => (Extent::Exact(1), 1),
        };
        let extent = |limit| match dynamic {
            true => Extent::AtMost(limit),
            false => Extent::Exact(limit),
        };
        Bounds::new()
            .with(Symbol::TOKENS, tokens)
            .with(Symbol::CACHED, Extent::AtMost(self.capacity))
            .with(Symbol::OUTPUTS, extent(rows))
            .with(Symbol::CAPACITY, extent(self.capacity))
    }
}

/// A run of nodes, compiled.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub device: usize,
    pub entry: usize,
    pub nodes: Range<u32>,
}

/// The segments of one size of step.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub phase: Phase,
    /// Tokens that every step has, if it must have so many; shorter steps are padded.
    pub tokens: Option<u32>,
    pub segments: Vec<Segment>,
    /// Steps that may be under way at once, each with buffers of its own.
    pub at_once: usize,
}

impl Shape {
    pub fn name(&self) -> String {
        match (self.phase, self.tokens) {
            (Phase::Prefill, Some(tokens)) => format!("{}-{tokens}", self.phase.name()),
            _ => self.phase.name().to_owned(),
        }
    }
}

/// A plan compiled on its devices: one module a device, with the entries of both phases over one
/// set of weights. Shared by sessions.
#[derive(Debug)]
pub(crate) struct Program {
    graph: Arc<Graph>,
    devices: Vec<Arc<OpenDevice>>,
    modules: Vec<Option<Arc<dyn Module>>>,
    /// Prefill of ascending sizes, then decode.
    shapes: Vec<Shape>,
    sizes: StepSizes,
    /// For each state, the device that holds it.
    homes: Vec<usize>,
    limits: Limits,
    vocabulary: u32,
    width: u32,
    state_dtype: DType,
}

impl Program {
    /// Compiles `plans`, or loads what `cache` keeps of them. `progress` is told of (done, total) weights over all devices and stops
    /// the work by returning false.
    pub fn compile(
        model: &Model,
        plans: &PlanSet,
        devices: &[Arc<OpenDevice>],
        limits: Limits,
        options: &CompileOptions,
        cache: Option<&Arc<Cache>>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Self, RuntimeError> {
        let graph = model.graph();
        let width = output_width(graph)?;
        let weights: Arc<dyn WeightSource> = Arc::new(FileWeights(model.data().clone()));
        let (entries, shapes) = entries(model, plans, devices, limits);
        let used = entries.iter().filter(|e| !e.is_empty()).count().max(1) as u64;
        let (mut modules, mut finished) = (Vec::new(), 0);
        for (device, entries) in devices.iter().zip(&entries) {
            if entries.is_empty() {
                modules.push(None);
                continue;
            }
            // every device counts as the same share of the whole
            let mut told = |done: u64, total: u64| {
                let total = total.max(1);
                progress(finished * total + done.min(total), used * total)
            };
            let request = Request {
                device: device.device(),
                entries,
                options,
                weights: &weights,
            };
            let module = match cache {
                Some(cache) => cache.compile(&request, &mut told)?,
                None => request.compile(&mut told)?,
            };
            if module.entries().len() != entries.len() {
                return Err(RuntimeError::Device(HalError::InvalidUse {
                    call: "compile",
                    what: format!("number of entries of '{}'", device.name()),
                    found: module.entries().len().to_string(),
                    expected: entries.len().to_string(),
                }));
            }
            modules.push(Some(module));
            finished += 1;
        }
        Ok(Program {
            graph: graph.clone(),
            devices: devices.to_vec(),
            modules,
            shapes,
            sizes: plans.sizes.clone(),
            homes: plans.prefill.states.iter().map(|s| s.home.0).collect(),
            limits,
            vocabulary: model.info().vocabulary,
            width,
            state_dtype: options.state_dtype,
        })
    }

    /// The memory that [`Program::compile`] of the same and a session over it take.
    pub fn memory(
        model: &Model,
        plans: &PlanSet,
        devices: &[Arc<OpenDevice>],
        limits: Limits,
        options: &CompileOptions,
    ) -> Result<MemoryPlan, RuntimeError> {
        let weights = FileWeights(model.data().clone());
        let (entries, shapes) = entries(model, plans, devices, limits);
        let state_dtype = options.state_dtype;
        let mut plan = MemoryPlan::of_process();
        let kv = model.state_bytes(state_dtype, limits.capacity);
        plan.kv = kv.unwrap_or(u64::MAX);
        for (d, (device, entries)) in devices.iter().zip(&entries).enumerate() {
            if entries.is_empty() {
                continue;
            }
            let mut buffers = 0u64;
            for (e, entry) in entries.iter().enumerate() {
                let info = EntryInfo::describe(entry, state_dtype)?;
                let ports = info.inputs.iter().chain(&info.outputs);
                let own = |shape: &&Shape| {
                    let mut segments = shape.segments.iter();
                    segments.any(|s| (s.device, s.entry) == (d, e))
                };
                let times = shapes.iter().find(own).map_or(1, |shape| shape.at_once);
                let bytes = ports.map(|p| p.max_bytes as u64).sum::<u64>();
                buffers = buffers.saturating_add(bytes.saturating_mul(times as u64));
            }
            let need = device.device().memory_need(entries, options, &weights)?;
            plan.devices.push(match need {
                Some(need) => DeviceMemory {
                    device: device.name().to_owned(),
                    resident: need.resident,
                    in_place: need.in_place,
                    scratch: need.scratch,
                    transient: need.transient,
                    buffers,
                },
                // at most a copy of all weights
                None => DeviceMemory {
                    device: device.name().to_owned(),
                    resident: model.info().weight_bytes,
                    in_place: 0,
                    scratch: 0,
                    transient: 0,
                    buffers,
                },
            });
        }
        Ok(plan)
    }

    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    pub fn devices(&self) -> &[Arc<OpenDevice>] {
        &self.devices
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Tokens of the model.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// The type that float states are kept in.
    pub fn state_dtype(&self) -> DType {
        self.state_dtype
    }

    /// The type that each device computes in, where it is known.
    pub fn computes_in(&self) -> impl Iterator<Item = (&Arc<OpenDevice>, Option<&'static str>)> {
        self.devices
            .iter()
            .zip(&self.modules)
            .map(|(device, module)| {
                let own = module.as_ref().and_then(|m| m.computes_in());
                (device, own.or(device.device().capabilities().computes_in()))
            })
    }

    /// Elements of a row of results: for a decoder, a logit a token.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Bytes the devices hold for it, apart from the model file.
    pub fn resident_bytes(&self) -> u64 {
        let modules = self.modules.iter().flatten();
        modules
            .map(|m| m.resident_bytes())
            .fold(0, u64::saturating_add)
    }

    /// The device that holds `state`.
    pub(super) fn home(&self, state: StateId) -> usize {
        self.homes.get(state.index()).copied().unwrap_or_default()
    }

    pub(super) fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// How tokens are cut into steps.
    pub fn sizes(&self) -> &StepSizes {
        &self.sizes
    }

    /// Rows that the states of a session with a context of `context` tokens have.
    pub fn state_rows(&self, context: u32) -> u32 {
        self.sizes.capacity.unwrap_or(context)
    }

    /// Where within their devices nodes run in each phase, as far as devices tell.
    pub fn placement(&self) -> Result<Vec<(Phase, NodeId, String)>, RuntimeError> {
        let mut all = Vec::new();
        for shape in self.shapes() {
            for segment in &shape.segments {
                let placed = self.module(segment)?.placement(segment.entry);
                all.extend(placed.into_iter().map(|(node, on)| (shape.phase, node, on)));
            }
        }
        Ok(all)
    }

    pub(super) fn module(&self, segment: &Segment) -> Result<&Arc<dyn Module>, RuntimeError> {
        let module = self.modules.get(segment.device).and_then(Option::as_ref);
        module.ok_or_else(|| RuntimeError::NoDevice {
            why: format!("nothing was compiled on device {}", segment.device),
        })
    }
}

/// The entries of each device, and the segments of each size of step over them.
fn entries(
    model: &Model,
    plans: &PlanSet,
    devices: &[Arc<OpenDevice>],
    limits: Limits,
) -> (Vec<Vec<Entry>>, Vec<Shape>) {
    let graph = model.graph();
    let mut entries: Vec<Vec<Entry>> = vec![Vec::new(); devices.len()];
    let buckets = plans.sizes.buckets.iter().map(|&(tokens, _)| Some(tokens));
    let prefill = match plans.sizes.buckets.is_empty() {
        true => vec![None],
        false => buckets.collect(),
    };
    let prefill = prefill.into_iter().map(|tokens| (Phase::Prefill, tokens));
    let shapes = prefill
        .chain([(Phase::Decode, None)])
        .map(|(phase, tokens)| {
            let mut shape = Shape {
                phase,
                tokens,
                segments: Vec::new(),
                at_once: 1,
            };
            let name = shape.name();
            for (i, p) in plans.phase(phase).partitions.iter().enumerate() {
                let own = &mut entries[p.device.0];
                let dynamic = devices[p.device.0].takes_any_size();
                own.push(Entry {
                    name: format!("{name}.{i}"),
                    graph: graph.clone(),
                    nodes: p.nodes.clone(),
                    bounds: limits.bounds(&shape, dynamic),
                });
                shape.segments.push(Segment {
                    device: p.device.0,
                    entry: own.len() - 1,
                    nodes: p.nodes.clone(),
                });
            }
            let several = tokens.unwrap_or(limits.tokens) < limits.capacity;
            let segments = shape.segments.iter().map(|s| (s.device, s.nodes.clone()));
            if phase == Phase::Prefill && several && overlap::is_possible(graph, segments) {
                shape.at_once = STEPS_AT_ONCE;
            }
            shape
        });
    let shapes = shapes.collect();
    (entries, shapes)
}

/// Checks that the graph gives rows, and tells of how many elements.
pub(crate) fn output_width(graph: &Graph) -> Result<u32, RuntimeError> {
    let expected = "one output of f32[R, N]";
    let wrong = |found: String| RuntimeError::Graph {
        what: "output".into(),
        found,
        expected,
    };
    let &[logits] = graph.outputs() else {
        return Err(wrong(format!("{} values", graph.outputs().len())));
    };
    let ty = graph.ty(logits);
    match ty.shape.dims() {
        &[Dim::OUTPUTS, Dim::Fixed(n)] if ty.dtype == DType::F32 => Ok(n),
        _ => Err(wrong(ty.to_string())),
    }
}

/// The weights of `model` as devices read them.
pub(crate) fn weights_of(model: &Model) -> Arc<dyn WeightSource> {
    Arc::new(FileWeights(model.data().clone()))
}

/// The tensors of a model as devices read them.
#[derive(Debug)]
struct FileWeights(Arc<dyn TensorData>);

impl WeightSource for FileWeights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        match self.0.tensor(name) {
            Some((dtype, bytes)) => Ok(WeightView { dtype, bytes }),
            None => Err(HalError::Weight {
                name: name.into(),
                why: "the model file has no such tensor".into(),
            }),
        }
    }

    fn span(&self, name: &str) -> Option<FileSpan> {
        let (path, offset, length) = self.0.span(name)?;
        Some(FileSpan {
            path,
            offset,
            length,
        })
    }

    fn release(&self, name: &str) {
        self.0.release(name);
    }
}
