//! Lowered entries: steps that each call a kernel, and where their operands are.

use std::sync::Arc;

use anynpu_hal::Support;
use anynpu_ir::{
    Activation, DType, Dim, Graph, NodeId, Op, RopeStyle, StateId, SymbolValues, TensorType,
    ValueId, WeightId,
};

use smallvec::SmallVec;

use crate::kernels::Kernels;
use crate::kernels::ops::Arithmetic;
use crate::place::{Place, Placement};
use crate::pool::Pool;

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

/// One matrix of a [`Step::Linear`].
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    /// Added to the product.
    pub plus: Option<Operand>,
    pub out: Operand,
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

/// Which rotary table a step needs; equal keys share one table.
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    pub positions: ValueId,
    pub factors: Option<ValueId>,
    pub op: Op,
    /// Angle per position of each pair.
    pub frequencies: Vec<f32>,
    /// Multiplies cosine and sine.
    pub magnitude: f32,
    /// Offset in the arena of `[T, dims/2]` cosines followed by as many sines.
    pub offset: usize,
    /// Most positions.
    pub max_tokens: usize,
}

/// A value of a program: where it is and what type it has.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub place: Place,
    pub ty: TensorType,
}
