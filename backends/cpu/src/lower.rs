//! Turns entries into programs of kernel steps and packs their weights.

use std::sync::Arc;

use anynpu_hal::{CompileOptions, Entry, EntryInfo, HalError, MemoryNeed, Support, WeightSource};
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Node, NodeId, Op, RopeStyle, StateId,
    SymbolValues, TensorType, ValueDef, ValueId, WeightId, rope_frequencies,
};

use smallvec::SmallVec;

use crate::device::CpuModule;
use crate::fuse::{Fused, Fusions};
use crate::kernels::Kernels;
use crate::kernels::ops::{Arithmetic, MAX_HEAD_DIM};
use crate::place::{Place, Placement};
use crate::pool::Pool;
use crate::weights::{Packing, dequantized, load_weights, weights_need};

/// A value of a program: where it is and what type it has.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub place: Place,
    pub ty: TensorType,
}

/// One matrix of a [`Step::Linear`].
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    /// Added to the product.
    pub plus: Option<Operand>,
    pub out: Operand,
}

/// Which rotary table a step needs; equal keys share one table.
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    positions: ValueId,
    factors: Option<ValueId>,
    op: Op,
    /// Angle per position of each pair.
    pub frequencies: Vec<f32>,
    /// Multiplies cosine and sine.
    pub magnitude: f32,
    /// Offset in the arena of `[T, dims/2]` cosines followed by as many sines.
    pub offset: usize,
    /// Most positions.
    pub max_tokens: usize,
}

/// One call of a kernel.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// `x` times each target's weight; adjacent `Linear` nodes of one `x` become one step.
    Linear {
        x: Operand,
        targets: Vec<Target>,
    },
    /// `act(x · gate) · (x · up)`.
    GatedLinear {
        act: Activation,
        x: Operand,
        /// Of the gate and of what it gates.
        weights: [WeightId; 2],
        bias: [Option<WeightId>; 2],
        out: Operand,
    },
    /// Row `x[t, s]` (or `x[t, 0]` where it has one a token) times the expert `ids[t, s]`.
    Experts {
        x: Operand,
        weight: WeightId,
        ids: Operand,
        out: Operand,
        /// Offsets in the arena of rows of `x` and of `out` that share an expert.
        gathered: [usize; 2],
    },
    Embedding {
        table: WeightId,
        ids: Operand,
        out: Operand,
    },
    RmsNorm {
        x: Operand,
        weight: WeightId,
        eps: f32,
        out: Operand,
    },
    LayerNorm {
        x: Operand,
        gamma: WeightId,
        beta: Option<WeightId>,
        eps: f32,
        out: Operand,
    },
    RopeTable {
        table: usize,
        positions: Operand,
    },
    Rope {
        x: Operand,
        table: usize,
        style: RopeStyle,
        dims: u32,
        out: Operand,
    },
    KvAppend {
        rows: Operand,
        state: usize,
        at: Dim,
    },
    Attention(AttentionStep),
    Activation {
        act: Activation,
        x: Operand,
        out: Operand,
    },
    Gated {
        act: Activation,
        gate: Operand,
        up: Operand,
        out: Operand,
    },
    SoftCap {
        cap: f32,
        x: Operand,
        out: Operand,
    },
    Softmax {
        x: Operand,
        out: Operand,
    },
    Scale {
        factor: f32,
        x: Operand,
        out: Operand,
    },
    /// The last axis cut into parts.
    Split {
        x: Operand,
        parts: Vec<Operand>,
    },
    /// Both operands of the same shape.
    Arithmetic {
        op: Arithmetic,
        a: Operand,
        b: Operand,
        out: Operand,
    },
    /// Every row of `a` with the same vector.
    RowArithmetic {
        op: Arithmetic,
        a: Operand,
        b: WeightId,
        out: Operand,
    },
    GatherRows {
        data: Operand,
        rows: Operand,
        out: Operand,
    },
    Copy {
        from: Operand,
        out: Operand,
    },
    /// No kernel: the slow reference runs it.
    Reference {
        node: NodeId,
    },
}

impl Step {
    /// Matrices that it multiplies by whole, with their biases.
    pub fn matrices(&self) -> SmallVec<[(WeightId, Option<WeightId>); 4]> {
        match self {
            Step::Linear { targets, .. } => targets.iter().map(|t| (t.weight, t.bias)).collect(),
            Step::GatedLinear { weights, bias, .. } => weights.iter().copied().zip(*bias).collect(),
            _ => SmallVec::new(),
        }
    }
}

/// A [`Step::Attention`].
#[derive(Clone, Debug)]
pub(crate) struct AttentionStep {
    pub q: Operand,
    pub kv: Kv,
    /// Given if causal.
    pub positions: Option<Operand>,
    pub mask: Option<Operand>,
    pub scale: f32,
    pub soft_cap: Option<f32>,
    pub window: Option<u32>,
    pub out: Operand,
}

/// Where a [`Step::Attention`] reads keys and values.
#[derive(Clone, Debug)]
pub(crate) enum Kv {
    Operands { k: Operand, v: Operand },
    States(KvStates),
}

/// Keys and values in states.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvStates {
    /// Index into the entry's states.
    pub k: usize,
    /// Likewise.
    pub v: usize,
    pub kv_heads: usize,
    pub k_dim: usize,
    pub v_dim: usize,
}

/// A lowered entry.
#[derive(Debug)]
pub(crate) struct Program {
    pub graph: Arc<Graph>,
    pub steps: Vec<Step>,
    pub tables: Vec<RopeTable>,
    pub placement: Placement,
    /// Arena bytes, rotary tables included.
    pub arena_bytes: usize,
    /// Bounds at their largest.
    pub limits: SymbolValues,
    /// Most elements of a `Linear` operand (tokens × columns) and most columns.
    pub linear: LinearLimits,
    /// Types of the states at their home, in the entry's order, with their ids.
    pub states: Vec<(StateId, DType)>,
    /// Whether a run's tokens may belong to several sequences.
    pub sequences: Support,
}

impl Program {
    /// Place and type of a value. Panics if the run does not touch it.
    pub fn operand(&self, id: ValueId) -> Operand {
        Operand {
            place: self
                .placement
                .get(id)
                .expect("every value of the run is placed"),
            ty: self.graph.ty(id).clone(),
        }
    }

    /// Bytes of scratch that its kernels use.
    pub fn scratch_bytes(&self, pool: &Pool) -> usize {
        let linear = Kernels::scratch_bytes(pool, self.linear.cols, self.linear.tokens);
        linear.max(Kernels::attention_scratch_bytes(pool))
    }

    /// The place of a state in the entry's list, and its type there. Panics if the run does not
    /// touch it.
    pub fn state(&self, id: StateId) -> (usize, DType) {
        let slot = self.states.iter().position(|s| s.0 == id);
        let slot = slot.expect("every state of the run is listed");
        (slot, self.states[slot].1)
    }
}

/// What the scratch of `Linear` steps must hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LinearLimits {
    pub tokens: usize,
    pub cols: usize,
}

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

    /// The step of several nodes.
    fn fused_step(&mut self, fused: Fused) -> Step {
        match fused {
            Fused::Gated {
                act,
                x,
                weights,
                bias,
                out,
            } => {
                let (x, out) = (self.operand(x), self.operand(out));
                self.note_linear(&x.ty);
                Step::GatedLinear {
                    act,
                    x,
                    weights,
                    bias,
                    out,
                }
            }
            Fused::Added {
                x,
                weight,
                bias,
                plus,
                out,
            } => {
                let x = self.operand(x);
                self.note_linear(&x.ty);
                let target = Target {
                    weight,
                    bias,
                    plus: Some(self.operand(plus)),
                    out: self.operand(out),
                };
                Step::Linear {
                    x,
                    targets: vec![target],
                }
            }
        }
    }

    /// The kernel step of `node`, or `None` if the reference has to run it.
    fn kernel_step(&mut self, node: &Node) -> Result<Option<Step>, HalError> {
        let input = |i: usize| node.inputs.get(i).copied();
        let x = input(0).map(|id| self.operand(id));
        let out = node.outputs.first().map(|&id| self.operand(id));
        let all_f32 = node
            .inputs
            .iter()
            .chain(&node.outputs)
            .filter(|&&id| self.weight(id).is_none())
            .all(|&id| self.graph.ty(id).dtype == DType::F32);
        Ok(match (&node.op, x, out) {
            (Op::Reshape { .. }, Some(x), Some(out)) => {
                if x.place == out.place {
                    return Ok(Some(Step::Copy { from: x, out }));
                }
                let weight = matches!(x.place, Place::Weight(_));
                (!weight).then_some(Step::Copy { from: x, out })
            }
            (Op::Linear, Some(x), Some(out)) if all_f32 => {
                let weight = input(1).and_then(|id| self.weight(id));
                let bias = input(2).map(|id| self.weight(id));
                match (weight, bias) {
                    (Some(weight), None | Some(Some(_))) => {
                        self.note_linear(&x.ty);
                        let target = Target {
                            weight,
                            bias: bias.flatten(),
                            plus: None,
                            out,
                        };
                        Some(Step::Linear {
                            x,
                            targets: vec![target],
                        })
                    }
                    _ => None,
                }
            }
            (Op::ExpertLinear, Some(x), Some(out)) => self.experts(node, x, out),
            (Op::Embedding, Some(table), Some(out)) => match (table.place, input(1)) {
                (Place::Weight(table), Some(ids)) if self.graph.ty(ids).dtype == DType::I32 => {
                    let ids = self.operand(ids);
                    Some(Step::Embedding { table, ids, out })
                }
                _ => None,
            },
            (&Op::RmsNorm { eps }, Some(x), Some(out)) if all_f32 => input(1)
                .and_then(|id| self.weight(id))
                .map(|weight| Step::RmsNorm {
                    x,
                    weight,
                    eps,
                    out,
                }),
            (&Op::LayerNorm { eps }, Some(x), Some(out)) if all_f32 => {
                let gamma = input(1).and_then(|id| self.weight(id));
                let beta = input(2).map(|id| self.weight(id));
                match (gamma, beta) {
                    (Some(gamma), None | Some(Some(_))) => Some(Step::LayerNorm {
                        x,
                        gamma,
                        beta: beta.flatten(),
                        eps,
                        out,
                    }),
                    _ => None,
                }
            }
            (&Op::Rope { style, dims, .. }, Some(x), Some(out)) if x.ty.dtype == DType::F32 => {
                self.rope(node, x, style, dims, out)?
            }
            (&Op::KvAppend { state, at }, Some(rows), None) if rows.ty.dtype == DType::F32 => {
                let (slot, dtype) = self.state(state);
                (is_state_type(dtype) && self.graph.state(state).axis == 0).then_some(
                    Step::KvAppend {
                        rows,
                        state: slot,
                        at,
                    },
                )
            }
            (Op::Attention { .. }, Some(q), Some(out)) => self.attention(node, q, out),
            (&Op::Activation(act), Some(x), Some(out)) if all_f32 && !is_weight(&x) => {
                Some(Step::Activation { act, x, out })
            }
            (&Op::GatedActivation(act), Some(gate), Some(out)) if all_f32 => {
                let up = self.operand(node.inputs[1]);
                let inner = !is_weight(&gate) && !is_weight(&up);
                inner.then_some(Step::Gated { act, gate, up, out })
            }
            (&Op::SoftCap { cap }, Some(x), Some(out)) if all_f32 && !is_weight(&x) => {
                Some(Step::SoftCap { cap, x, out })
            }
            (&Op::Softmax { axis }, Some(x), Some(out)) if all_f32 && !is_weight(&x) => {
                let last = axis as usize + 1 == x.ty.shape.rank();
                last.then_some(Step::Softmax { x, out })
            }
            (Op::Split { axis, .. }, Some(x), Some(_)) if all_f32 && !is_weight(&x) => {
                let last = *axis as usize + 1 == x.ty.shape.rank();
                let parts = node.outputs.iter().map(|&id| self.operand(id)).collect();
                last.then_some(Step::Split { x, parts })
            }
            (&Op::Binary(op), Some(a), Some(out)) if all_f32 => {
                let b = self.operand(node.inputs[1]);
                if op == BinaryOp::Mul
                    && !is_weight(&a)
                    && let Some(factor) = self.number(node.inputs[1])
                {
                    return Ok(Some(Step::Scale { factor, x: a, out }));
                }
                let inner = !is_weight(&a) && !is_weight(&b) && a.ty.shape == b.ty.shape;
                let op = match op {
                    BinaryOp::Add => Some(Arithmetic::Add),
                    BinaryOp::Sub => Some(Arithmetic::Sub),
                    BinaryOp::Mul => Some(Arithmetic::Mul),
                    _ => None,
                };
                let row = self.weight(node.inputs[1]).filter(|_| {
                    b.ty.shape.rank() == 1
                        && a.ty.shape.rank() > 0
                        && !is_weight(&a)
                        && b.ty.shape.last() == a.ty.shape.last()
                });
                match (op, row) {
                    (Some(op), _) if inner => Some(Step::Arithmetic { op, a, b, out }),
                    (Some(op), Some(b)) => Some(Step::RowArithmetic { op, a, b, out }),
                    _ => None,
                }
            }
            (Op::Gather { axis: 0 }, Some(data), Some(out)) => {
                let rows = self.operand(node.inputs[1]);
                let fits = data.ty.dtype == DType::F32
                    && rows.ty.dtype == DType::I32
                    && !is_weight(&data)
                    && !is_weight(&rows);
                fits.then_some(Step::GatherRows { data, rows, out })
            }
            _ => None,
        })
    }

    fn experts(&mut self, node: &Node, x: Operand, out: Operand) -> Option<Step> {
        let ids = self.operand(node.inputs[2]);
        let weight = self.weight(node.inputs[1])?;
        if x.ty.dtype != DType::F32 || is_weight(&x) || is_weight(&ids) {
            return None;
        }
        // at most all rows share an expert
        let rows = ids.ty.shape.elements(&self.limits)?;
        let width = |ty: &TensorType| Some(ty.shape.last()?.resolve(&self.limits) as usize);
        let widths = [width(&x.ty)?, width(&out.ty)?];
        let gathered = widths.map(|w| self.reserve(rows, w));
        self.linear.cols = self.linear.cols.max(widths[0]);
        self.linear.tokens = self.linear.tokens.max(rows);
        Some(Step::Experts {
            x,
            weight,
            ids,
            out,
            gathered,
        })
    }

    /// Room for `rows` × `width` floats past what the placement uses; its offset in the arena.
    fn reserve(&mut self, rows: usize, width: usize) -> usize {
        let bytes = rows.saturating_mul(width).saturating_mul(4);
        let offset = self.arena_bytes;
        let bytes = bytes.checked_next_multiple_of(anynpu_hal::HOST_ALIGN);
        self.arena_bytes = offset.saturating_add(bytes.unwrap_or(usize::MAX));
        offset
    }

    /// The value of an f32 constant of one element, without dimensions.
    fn number(&self, id: ValueId) -> Option<f32> {
        let weight = self.graph.weight(self.weight(id)?);
        let ty = self.graph.ty(id);
        let bytes = weight.inline.as_ref()?;
        let plain = ty.dtype == DType::F32 && ty.shape.rank() == 0;
        let bytes: [u8; 4] = bytes[..].try_into().ok()?;
        plain.then(|| f32::from_le_bytes(bytes))
    }

    fn rope(
        &mut self,
        node: &Node,
        x: Operand,
        style: RopeStyle,
        dims: u32,
        out: Operand,
    ) -> Result<Option<Step>, HalError> {
        let positions = node.inputs[1];
        let factors = node.inputs.get(2).copied();
        let factor_weight = match factors {
            None => None,
            Some(id) => match self.weight(id) {
                Some(w) => Some(w),
                None => return Ok(None),
            },
        };
        if is_weight(&x) || self.weight(positions).is_some() {
            return Ok(None);
        }
        let known = self
            .tables
            .iter()
            .position(|t| t.positions == positions && t.factors == factors && t.op == node.op);
        let table = match known {
            Some(table) => table,
            None => {
                let Op::Rope { base, scaling, .. } = node.op else {
                    return Ok(None);
                };
                let factor_data = factor_weight
                    .map(|w| dequantized(self.graph, self.source, w))
                    .transpose()?;
                let (frequencies, magnitude) =
                    rope_frequencies(dims, base, scaling, factor_data.as_deref());
                let max_tokens = self.graph.ty(positions).shape.elements(&self.limits);
                let max_tokens = max_tokens.unwrap_or(0);
                let offset = self.reserve(max_tokens, dims as usize);
                self.tables.push(RopeTable {
                    positions,
                    factors,
                    op: node.op.clone(),
                    frequencies,
                    magnitude,
                    offset,
                    max_tokens,
                });
                let table = self.tables.len() - 1;
                let positions = self.operand(positions);
                self.steps.push(Step::RopeTable { table, positions });
                table
            }
        };
        Ok(Some(Step::Rope {
            x,
            table,
            style,
            dims,
            out,
        }))
    }

    fn attention(&self, node: &Node, q: Operand, out: Operand) -> Option<Step> {
        let Op::Attention {
            kv,
            causal,
            mask,
            scale,
            soft_cap,
            window,
        } = node.op
        else {
            return None;
        };
        let mut rest = node.inputs[1..].iter().map(|&id| self.operand(id));
        let kv = match kv {
            AttentionKv::Operands => Kv::Operands {
                k: rest.next()?,
                v: rest.next()?,
            },
            AttentionKv::State { k, v } => {
                let (k_slot, k_type) = self.state(k);
                let (v_slot, v_type) = self.state(v);
                let [_, Dim::Fixed(kv_heads), Dim::Fixed(k_dim)] =
                    self.graph.state(k).ty.shape.dims()
                else {
                    return None;
                };
                let v_dim = self.graph.state(v).ty.shape.last()?.fixed()?;
                if !is_state_type(k_type) || k_type != v_type {
                    return None;
                }
                Kv::States(KvStates {
                    k: k_slot,
                    v: v_slot,
                    kv_heads: *kv_heads as usize,
                    k_dim: *k_dim as usize,
                    v_dim: v_dim as usize,
                })
            }
        };
        let positions = if causal { Some(rest.next()?) } else { None };
        let mask = if mask { Some(rest.next()?) } else { None };
        let mut operands = vec![&q];
        if let Kv::Operands { k, v } = &kv {
            operands.extend([k, v]);
        }
        operands.extend(&mask);
        let plain = operands
            .iter()
            .all(|o| o.ty.dtype == DType::F32 && !is_weight(o));
        let heads = operands[0].ty.shape.dims().get(2).and_then(|d| d.fixed());
        let narrow = heads.is_some_and(|d| d as usize <= MAX_HEAD_DIM) && {
            let value = out.ty.shape.dims().get(2).and_then(|d| d.fixed());
            value.is_some_and(|d| d as usize <= MAX_HEAD_DIM)
        };
        let state_mask = mask.is_some() && matches!(kv, Kv::States(_));
        (plain && narrow && !state_mask).then_some(Step::Attention(AttentionStep {
            q,
            kv,
            positions,
            mask,
            scale,
            soft_cap,
            window,
            out,
        }))
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

fn is_weight(operand: &Operand) -> bool {
    matches!(operand.place, Place::Weight(_))
}
