//! Small graphs of one op on run-time sizes, of which a device claims some.

use std::sync::Arc;

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, GraphError, Op, RopeScaling, RopeStyle,
    Shape, Symbol, SymbolValues, TensorType, ValueId,
};

use super::bounds::{Bound, compute, magnitude};
use super::job::{Given, Job, Named, obstacle, sizes};
use super::ops::class_of;
use super::outcome::{Check, Stop};
use super::suite::Context;
use super::values::Values;

/// Adds a graph's inputs, weights and its one node, and gives the results.
type Build = fn(&mut Graph) -> Result<Vec<ValueId>, GraphError>;

fn t(dtype: DType, more: &[u32]) -> TensorType {
    let mut dims = vec![Dim::TOKENS];
    dims.extend(more.iter().map(|&d| Dim::Fixed(d)));
    TensorType::new(dtype, Shape(dims))
}

fn f32(dims: &[u32]) -> TensorType {
    TensorType::new(DType::F32, Shape::fixed(dims))
}

fn node(graph: &mut Graph, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
    graph.add_node("node", op, inputs)
}

/// A graph of one op, by the name it has in ids.
#[derive(Clone, Copy)]
pub(crate) struct Sample(pub &'static str, Build);

/// All of them.
pub(crate) const SAMPLES: &[Sample] = &[
    Sample("linear", |g| {
        let x = g.add_input("x", t(DType::F32, &[24]))?;
        let w = g.add_weight("w", f32(&[5, 24]))?;
        node(g, Op::Linear, &[x, w])
    }),
    Sample("mat_mul", |g| {
        let a = g.add_input("a", t(DType::F32, &[6]))?;
        let b = g.add_input("b", f32(&[6, 4]))?;
        let op = Op::MatMul {
            transpose_a: false,
            transpose_b: false,
        };
        node(g, op, &[a, b])
    }),
    Sample("rms_norm", |g| {
        let x = g.add_input("x", t(DType::F32, &[12]))?;
        let w = g.add_weight("w", f32(&[12]))?;
        node(g, Op::RmsNorm { eps: 1e-3 }, &[x, w])
    }),
    Sample("layer_norm", |g| {
        let x = g.add_input("x", t(DType::F32, &[12]))?;
        let w = g.add_weight("w", f32(&[12]))?;
        node(g, Op::LayerNorm { eps: 1e-3 }, &[x, w])
    }),
    Sample("softmax", |g| {
        let x = g.add_input("x", t(DType::F32, &[7]))?;
        node(g, Op::Softmax { axis: 1 }, &[x])
    }),
    Sample("softmax_over_tokens", |g| {
        let x = g.add_input(
            "x",
            TensorType::new(DType::F32, [Dim::Fixed(3), Dim::TOKENS]),
        )?;
        node(g, Op::Softmax { axis: 1 }, &[x])
    }),
    Sample("reduce_sum_over_tokens", |g| {
        let x = g.add_input("x", t(DType::F32, &[4]))?;
        let op = Op::Reduce {
            op: anynpu_ir::ReduceOp::Sum,
            axes: vec![0],
            keep_dims: false,
        };
        node(g, op, &[x])
    }),
    Sample("embedding", |g| {
        let table = g.add_weight("table", f32(&[8, 6]))?;
        let ids = g.add_input("ids", t(DType::I32, &[]))?;
        node(g, Op::Embedding, &[table, ids])
    }),
    Sample("rope", |g| {
        let x = g.add_input("x", t(DType::F32, &[2, 8]))?;
        let positions = g.add_input("positions", t(DType::I32, &[]))?;
        let op = Op::Rope {
            style: RopeStyle::HalfSplit,
            dims: 8,
            base: 10000.0,
            scaling: RopeScaling::None,
        };
        node(g, op, &[x, positions])
    }),
    Sample("attention", |g| {
        let q = g.add_input("q", t(DType::F32, &[4, 8]))?;
        let k = g.add_input("k", t(DType::F32, &[2, 8]))?;
        let v = g.add_input("v", t(DType::F32, &[2, 8]))?;
        let op = Op::Attention {
            kv: AttentionKv::Operands,
            causal: false,
            mask: false,
            scale: 0.5,
            soft_cap: None,
            window: None,
        };
        node(g, op, &[q, k, v])
    }),
    Sample("add", |g| {
        let a = g.add_input("a", t(DType::F32, &[5]))?;
        let b = g.add_input("b", f32(&[5]))?;
        node(g, Op::Binary(BinaryOp::Add), &[a, b])
    }),
    Sample("gated_silu", |g| {
        let a = g.add_input("a", t(DType::F32, &[9]))?;
        let b = g.add_input("b", t(DType::F32, &[9]))?;
        node(g, Op::GatedActivation(Activation::Silu), &[a, b])
    }),
    Sample("transpose", |g| {
        let x = g.add_input("x", t(DType::F32, &[3, 4]))?;
        let perm = vec![1, 0, 2];
        node(g, Op::Transpose { perm }, &[x])
    }),
    Sample("reshape", |g| {
        let x = g.add_input("x", t(DType::F32, &[12]))?;
        let shape = Shape(vec![Dim::TOKENS, Dim::Fixed(3), Dim::Fixed(4)]);
        node(g, Op::Reshape { shape }, &[x])
    }),
    Sample("concat", |g| {
        let a = g.add_input("a", t(DType::F32, &[3]))?;
        let b = g.add_input("b", t(DType::F32, &[2]))?;
        node(g, Op::Concat { axis: 1 }, &[a, b])
    }),
    Sample("split", |g| {
        let x = g.add_input("x", t(DType::F32, &[5]))?;
        let sizes = vec![2, 3];
        node(g, Op::Split { axis: 1, sizes }, &[x])
    }),
    Sample("gather_wanted_rows", |g| {
        let x = g.add_input("x", t(DType::F32, &[6]))?;
        let rows = TensorType::new(DType::I32, [Dim::OUTPUTS]);
        let rows = g.add_input("rows", rows)?;
        node(g, Op::Gather { axis: 0 }, &[x, rows])
    }),
    Sample("broadcast", |g| {
        let x = g.add_input("x", f32(&[4]))?;
        let shape = Shape(vec![Dim::TOKENS, Dim::Fixed(4)]);
        node(g, Op::Broadcast { shape }, &[x])
    }),
    Sample("iota", |g| {
        let op = Op::Iota {
            start: Dim::CACHED,
            length: Dim::TOKENS,
        };
        node(g, op, &[])
    }),
    Sample("causal_mask", |g| {
        let positions = g.add_input("positions", t(DType::I32, &[]))?;
        let op = Op::CausalMask {
            keys: Dim::CAPACITY,
            window: None,
            hidden: -1024.0,
        };
        node(g, op, &[positions])
    }),
];

impl Sample {
    /// The name of its op, as text dumps have it.
    pub fn op(&self) -> Option<&'static str> {
        let graph = self.graph().ok()?;
        graph.nodes().first().map(|n| n.op.name())
    }

    /// The graph.
    pub fn graph(&self) -> Result<Arc<Graph>, Stop> {
        let fault = |e: GraphError| Stop::failed(format!("no graph: {e}"), "a graph");
        let mut graph = Graph::new("sample");
        for id in (self.1)(&mut graph).map_err(fault)? {
            graph.set_output(id).map_err(fault)?;
        }
        Ok(Arc::new(graph))
    }

    /// The graph with operands for `symbols`.
    pub fn job(&self, symbols: SymbolValues, seed: u64) -> Result<Job, Stop> {
        let graph = self.graph()?;
        let mut weights = Values::new(seed, &format!("weights of {}", self.0));
        let mut values = Values::new(seed, &format!("{} {symbols:?}", self.0));
        let mut named = Named::default();
        for weight in graph.weights() {
            let ty = graph.ty(weight.value);
            let tensor = weights.tensor(ty.dtype, &ty.shape.resolve(&symbols));
            named.0.insert(weight.name.clone(), tensor);
        }
        let tokens = symbols.get(Symbol::TOKENS) as usize;
        let input = |&id: &ValueId| -> Tensor {
            let ty = graph.ty(id);
            let shape = ty.shape.resolve(&symbols);
            match (ty.dtype, graph.value(id).name.as_str()) {
                (DType::I32, "rows") => values.indices(&shape, tokens),
                (DType::I32, _) => values.indices(&shape, 8),
                (dtype, _) => values.tensor(dtype, &shape),
            }
        };
        let inputs: Vec<Tensor> = graph.inputs().iter().map(input).collect();
        Job::whole(graph.clone(), &inputs, Arc::new(named), symbols)
            .map_err(|e| Stop::failed(format!("no operands: {e}"), "operands"))
    }
}

/// The samples that the device claims, with operands for a few tokens and what they must give; at least one.
pub(crate) fn claimed(context: &Context) -> Result<Vec<(&'static str, Job, Given)>, Stop> {
    let symbols = sizes(context.capabilities(), 4, 2, 2, 12);
    let (mut found, mut refusal) = (Vec::new(), None);
    for sample in SAMPLES {
        let job = sample.job(symbols, context.options().seed)?;
        match obstacle(context.device(), &job.run())? {
            Some(why) => {
                refusal.get_or_insert(why);
            }
            None => {
                let given = reference(&job)?;
                found.push((sample.0, job, given));
            }
        }
    }
    match (found.is_empty(), refusal) {
        (true, Some(why)) => Err(Stop::NotClaimed(why)),
        _ => Ok(found),
    }
}

/// The first of [`claimed`].
pub(crate) fn any(context: &Context) -> Result<(Job, Given), Stop> {
    let first = claimed(context)?.into_iter().next();
    let (_, job, given) = first.ok_or_else(|| Stop::NotClaimed("it claims no op".into()))?;
    Ok((job, given))
}

/// What the reference gives.
pub(crate) fn reference(job: &Job) -> Result<Given, Stop> {
    let given = job.reference();
    given.map_err(|e| Stop::failed(format!("the reference fails: {e}"), "values"))
}

/// Compares the results of a sample.
pub(crate) fn check(context: &Context, job: &Job, found: &[Tensor], expected: &Given) -> Check {
    let op = &job.graph.nodes()[0].op;
    for (i, (found, expected)) in found.iter().zip(&expected.outputs).enumerate() {
        let inputs = job.inputs.iter().map(magnitude);
        let bound = Bound {
            class: class_of(op, &job.inputs),
            computed: compute(context.capabilities()),
            // at most 24 products of numbers within ±2 are summed
            scale: inputs.fold(magnitude(expected), f64::max).max(1.0) * 24.0,
        };
        bound.check(&format!("output {i}"), found, expected)?;
    }
    Ok(())
}
