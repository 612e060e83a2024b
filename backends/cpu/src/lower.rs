//! Turns entries into programs of kernel steps and packs their weights.

mod select;

use std::sync::Arc;

use anynpu_hal::{CompileOptions, Entry, EntryInfo, HalError, MemoryNeed, WeightSource};
use anynpu_ir::{
    DType, Graph, NodeId, StateId, SymbolValues, TensorType, ValueDef, ValueId, WeightId,
};

use crate::device::CpuModule;
use crate::fuse::Fusions;
use crate::place::Placement;
use crate::pool::Pool;
use crate::program::{LinearLimits, Operand, Program, RopeTable, Step};
use crate::weights::{Packing, load_weights, weights_need};

/// Lowers `entries` and packs the weights they read, once for all of them.
pub(crate) fn lower(
    entries: &[Entry],
    options: &CompileOptions,
    source: Arc<dyn WeightSource>,
    packing: Packing,
    pool: &Pool,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<CpuModule, HalError> {
    let (programs, infos) = programs(entries, options, source.as_ref())?;
    let weights = load_weights(
        &entries[0].graph,
        &programs,
        source,
        packing,
        pool,
        progress,
    )?;
    Ok(CpuModule {
        programs,
        infos,
        weights,
    })
}

/// The memory that [`lower`] of the same takes.
pub(crate) fn memory_need(
    entries: &[Entry],
    options: &CompileOptions,
    source: &dyn WeightSource,
    packing: Packing,
    pool: &Pool,
) -> Result<MemoryNeed, HalError> {
    let (programs, _) = programs(entries, options, source)?;
    let mut need = weights_need(&entries[0].graph, &programs, packing);
    for program in &programs {
        let scratch = program.scratch_bytes(pool);
        need.scratch = need.scratch.max((program.arena_bytes + scratch) as u64);
    }
    Ok(need)
}

/// Lowers every entry, without weights.
fn programs(
    entries: &[Entry],
    options: &CompileOptions,
    source: &dyn WeightSource,
) -> Result<(Vec<Program>, Vec<EntryInfo>), HalError> {
    let Some(first) = entries.first() else {
        return Err(invalid("entries", "none", "at least one"));
    };
    if !entries.iter().all(|e| Arc::ptr_eq(&e.graph, &first.graph)) {
        return Err(invalid("entries", "of several graphs", "all of one graph"));
    }
    if !is_state_type(options.state_dtype) {
        let found = options.state_dtype.name();
        return Err(invalid("state type", found, "f32, f16 or q8_0"));
    }
    let mut programs = Vec::with_capacity(entries.len());
    let mut infos = Vec::with_capacity(entries.len());
    for entry in entries {
        let info = EntryInfo::describe(entry, options.state_dtype)?;
        programs.push(Lowering::new(entry, &info, source)?.run()?);
        infos.push(info);
    }
    Ok((programs, infos))
}

fn invalid(what: &str, found: &str, expected: &str) -> HalError {
    HalError::InvalidUse {
        call: "compile",
        what: what.into(),
        found: found.into(),
        expected: expected.into(),
    }
}

/// The state of lowering one entry.
struct Lowering<'a> {
    graph: &'a Arc<Graph>,
    source: &'a dyn WeightSource,
    nodes: std::ops::Range<u32>,
    states: Vec<(StateId, DType)>,
    limits: SymbolValues,
    placement: Placement,
    fusions: Fusions,
    arena_bytes: usize,
    steps: Vec<Step>,
    tables: Vec<RopeTable>,
    linear: LinearLimits,
}

impl<'a> Lowering<'a> {
    fn new(
        entry: &'a Entry,
        info: &EntryInfo,
        source: &'a dyn WeightSource,
    ) -> Result<Self, HalError> {
        let limits = entry.bounds.limits();
        let run = entry
            .subgraph()
            .map_err(|e| invalid("nodes", &e.to_string(), "nodes of the graph"))?;
        let fusions = Fusions::new(&run);
        let placement = Placement::new(&run, &fusions, &limits).map_err(|e| {
            let value = entry.graph.value(e.0);
            let found = format!("{} as {}", value.name, value.ty);
            invalid("size of a value", &found, "a size that fits in memory")
        })?;
        Ok(Lowering {
            graph: &entry.graph,
            source,
            nodes: entry.nodes.clone(),
            states: info.states.iter().map(|s| (s.state, s.dtype)).collect(),
            limits,
            arena_bytes: placement.arena_bytes,
            placement,
            fusions,
            steps: Vec::new(),
            tables: Vec::new(),
            linear: LinearLimits::default(),
        })
    }

    fn run(mut self) -> Result<Program, HalError> {
        let mut nodes = self.nodes.clone().map(NodeId).enumerate();
        while let Some((at, id)) = nodes.next() {
            if let Some(fused) = self.fusions.begin(at).cloned() {
                let step = self.fused_step(fused);
                self.push(step);
                for _ in at..self.fusions.last(at) {
                    nodes.next();
                }
                continue;
            }
            let node = &self.graph.nodes()[id.index()];
            match self.kernel_step(node)? {
                Some(step) => self.push(step),
                None => self.steps.push(Step::Reference { node: id }),
            }
        }
        Ok(Program {
            sequences: crate::sequences::verdict(self.graph, self.nodes.clone(), &self.steps),
            graph: self.graph.clone(),
            steps: self.steps,
            tables: self.tables,
            placement: self.placement,
            arena_bytes: self.arena_bytes,
            limits: self.limits,
            linear: self.linear,
            states: self.states,
        })
    }

    /// Appends a step, joining `Linear`s of one operand.
    fn push(&mut self, step: Step) {
        if let Step::Linear { x, targets } = &step
            && let Some(Step::Linear {
                x: last,
                targets: joined,
            }) = self.steps.last_mut()
            && x.place == last.place
            && x.ty == last.ty
            && !joined.iter().any(|t| t.out.place == x.place)
            && joined.iter().chain(targets).all(|t| t.plus.is_none())
        {
            joined.extend(targets.iter().cloned());
            return;
        }
        self.steps.push(step);
    }

    /// Room for `rows` × `width` floats past what the placement uses; its offset in the arena.
    fn reserve(&mut self, rows: usize, width: usize) -> usize {
        let bytes = rows.saturating_mul(width).saturating_mul(4);
        let offset = self.arena_bytes;
        let bytes = bytes.checked_next_multiple_of(anynpu_hal::HOST_ALIGN);
        self.arena_bytes = offset.saturating_add(bytes.unwrap_or(usize::MAX));
        offset
    }

    fn note_linear(&mut self, x: &TensorType) {
        let dims = x.shape.resolve(&self.limits);
        let (cols, lead) = dims.split_last().map_or((0, &dims[..]), |(c, l)| (*c, l));
        self.linear.cols = self.linear.cols.max(cols);
        self.linear.tokens = self.linear.tokens.max(lead.iter().product());
    }

    /// Place and type of a value. Every value of the run that is not inside a step was placed.
    fn operand(&self, id: ValueId) -> Operand {
        Operand {
            place: self
                .placement
                .get(id)
                .expect("every value of the run is placed"),
            ty: self.graph.ty(id).clone(),
        }
    }

    fn weight(&self, id: ValueId) -> Option<WeightId> {
        match self.graph.value(id).def {
            ValueDef::Weight(w) => Some(w),
            _ => None,
        }
    }

    fn state(&self, id: StateId) -> (usize, DType) {
        let slot = self.states.iter().position(|s| s.0 == id);
        let slot = slot.expect("every state of the run is listed");
        (slot, self.states[slot].1)
    }
}

/// Whether there are kernels for states of the type.
fn is_state_type(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::Q8_0)
}
