//! Ops on values whose sizes are run-time symbols: compiled once for sizes up to a limit, run in several.

use std::sync::Arc;

use anynpu_cpu::reference::Tensor;
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, GraphError, Op, RopeScaling, RopeStyle,
    Shape, Symbol, SymbolValues, TensorType, ValueId,
};

use super::class_of;
use crate::conformance::bounds::{Bound, compute, magnitude};
use crate::conformance::job::{Job, Named, at_most, claimed_but, exact, obstacle, sizes};
use crate::conformance::outcome::{Check, Stop};
use crate::conformance::suite::{Context, SuiteOptions, TestCase};
use crate::conformance::values::Values;

/// Most tokens it is compiled for.
const MOST: u32 = 9;

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

const BUILDS: &[(&str, Build)] = &[
    ("linear", |g| {
        let x = g.add_input("x", t(DType::F32, &[24]))?;
        let w = g.add_weight("w", f32(&[5, 24]))?;
        node(g, Op::Linear, &[x, w])
    }),
    ("mat_mul", |g| {
        let a = g.add_input("a", t(DType::F32, &[6]))?;
        let b = g.add_input("b", f32(&[6, 4]))?;
        let op = Op::MatMul {
            transpose_a: false,
            transpose_b: false,
        };
        node(g, op, &[a, b])
    }),
    ("rms_norm", |g| {
        let x = g.add_input("x", t(DType::F32, &[12]))?;
        let w = g.add_weight("w", f32(&[12]))?;
        node(g, Op::RmsNorm { eps: 1e-3 }, &[x, w])
    }),
    ("layer_norm", |g| {
        let x = g.add_input("x", t(DType::F32, &[12]))?;
        let w = g.add_weight("w", f32(&[12]))?;
        node(g, Op::LayerNorm { eps: 1e-3 }, &[x, w])
    }),
    ("softmax", |g| {
        let x = g.add_input("x", t(DType::F32, &[7]))?;
        node(g, Op::Softmax { axis: 1 }, &[x])
    }),
    ("softmax_over_tokens", |g| {
        let x = g.add_input(
            "x",
            TensorType::new(DType::F32, [Dim::Fixed(3), Dim::TOKENS]),
        )?;
        node(g, Op::Softmax { axis: 1 }, &[x])
    }),
    ("reduce_sum_over_tokens", |g| {
        let x = g.add_input("x", t(DType::F32, &[4]))?;
        let op = Op::Reduce {
            op: anynpu_ir::ReduceOp::Sum,
            axes: vec![0],
            keep_dims: false,
        };
        node(g, op, &[x])
    }),
    ("embedding", |g| {
        let table = g.add_weight("table", f32(&[8, 6]))?;
        let ids = g.add_input("ids", t(DType::I32, &[]))?;
        node(g, Op::Embedding, &[table, ids])
    }),
    ("rope", |g| {
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
    ("attention", |g| {
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
    ("add", |g| {
        let a = g.add_input("a", t(DType::F32, &[5]))?;
        let b = g.add_input("b", f32(&[5]))?;
        node(g, Op::Binary(BinaryOp::Add), &[a, b])
    }),
    ("gated_silu", |g| {
        let a = g.add_input("a", t(DType::F32, &[9]))?;
        let b = g.add_input("b", t(DType::F32, &[9]))?;
        node(g, Op::GatedActivation(Activation::Silu), &[a, b])
    }),
    ("transpose", |g| {
        let x = g.add_input("x", t(DType::F32, &[3, 4]))?;
        let perm = vec![1, 0, 2];
        node(g, Op::Transpose { perm }, &[x])
    }),
    ("reshape", |g| {
        let x = g.add_input("x", t(DType::F32, &[12]))?;
        let shape = Shape(vec![Dim::TOKENS, Dim::Fixed(3), Dim::Fixed(4)]);
        node(g, Op::Reshape { shape }, &[x])
    }),
    ("concat", |g| {
        let a = g.add_input("a", t(DType::F32, &[3]))?;
        let b = g.add_input("b", t(DType::F32, &[2]))?;
        node(g, Op::Concat { axis: 1 }, &[a, b])
    }),
    ("split", |g| {
        let x = g.add_input("x", t(DType::F32, &[5]))?;
        let sizes = vec![2, 3];
        node(g, Op::Split { axis: 1, sizes }, &[x])
    }),
    ("gather_wanted_rows", |g| {
        let x = g.add_input("x", t(DType::F32, &[6]))?;
        let rows = TensorType::new(DType::I32, [Dim::OUTPUTS]);
        let rows = g.add_input("rows", rows)?;
        node(g, Op::Gather { axis: 0 }, &[x, rows])
    }),
    ("broadcast", |g| {
        let x = g.add_input("x", f32(&[4]))?;
        let shape = Shape(vec![Dim::TOKENS, Dim::Fixed(4)]);
        node(g, Op::Broadcast { shape }, &[x])
    }),
    ("iota", |g| {
        let op = Op::Iota {
            start: Dim::CACHED,
            length: Dim::TOKENS,
        };
        node(g, op, &[])
    }),
    ("causal_mask", |g| {
        let positions = g.add_input("positions", t(DType::I32, &[]))?;
        let op = Op::CausalMask {
            keys: Dim::CAPACITY,
            window: None,
            hidden: -1024.0,
        };
        node(g, op, &[positions])
    }),
];

/// The cases `op/SLUG/TYPE/symbolic`.
pub(super) fn cases(options: &SuiteOptions) -> Vec<TestCase> {
    let make = |&(name, build): &(&'static str, Build)| {
        let mut probe = Graph::new("probe");
        let _ = build(&mut probe);
        let op = probe.nodes().first().map(|n| n.op.name());
        let seed = options.seed;
        let dtype = if name == "iota" { "i32" } else { "f32" };
        TestCase::new(format!("op/{name}/{dtype}/symbolic"), op, move |context| {
            check(context, name, build, seed)
        })
    };
    BUILDS.iter().map(make).collect()
}

fn check(context: &Context, name: &str, build: Build, seed: u64) -> Check {
    let fault = |e: GraphError| Stop::failed(format!("no graph: {e}"), "a graph");
    let mut graph = Graph::new("symbolic");
    for id in build(&mut graph).map_err(fault)? {
        graph.set_output(id).map_err(fault)?;
    }
    let graph = Arc::new(graph);
    if let Some(why) = obstacle(context.device(), &graph.whole())? {
        return Err(Stop::NotClaimed(why));
    }
    let capabilities = context.capabilities();
    let limits = sizes(capabilities, MOST, 2, MOST, MOST + 3);
    // a device of fixed sizes is compiled for each of them
    let dynamic = capabilities.features.dynamic_shapes;
    let mut module = None;
    for tokens in [MOST, 1, 4] {
        let symbols = match dynamic {
            true => {
                let mut symbols = limits;
                symbols.set(Symbol::TOKENS, tokens);
                symbols.set(Symbol::OUTPUTS, tokens.min(2));
                symbols
            }
            false => sizes(capabilities, tokens, 2, tokens.min(2), MOST + 3),
        };
        let mut job = job(&graph, symbols, seed, name)?;
        job.bounds = if dynamic {
            at_most(&limits)
        } else {
            exact(&symbols)
        };
        let compiled = match module.take().filter(|_| dynamic) {
            Some(compiled) => compiled,
            None => job
                .compile(context.device())
                .map_err(|e| claimed_but(&e, "compile"))?,
        };
        let place = format!("{} tokens", symbols.get(Symbol::TOKENS));
        run(context, &job, &compiled).map_err(|e| e.at(&place))?;
        module = Some(compiled);
    }
    Ok(())
}

fn run(context: &Context, job: &Job, module: &Arc<dyn anynpu_hal::Module>) -> Check {
    let expected = job.reference();
    let expected =
        expected.map_err(|e| Stop::failed(format!("the reference fails: {e}"), "values"))?;
    let info = job.described(&**module, 0)?;
    let binding = job.bind(context.device(), &info)?;
    binding
        .run(context.bench(), module, 0)
        .map_err(|e| claimed_but(&e, "run"))?;
    binding.check_bounds()?;
    let found = binding.outputs(&info, &job.graph)?;
    let op = &job.graph.nodes()[0].op;
    for (i, (found, expected)) in found.iter().zip(&expected.outputs).enumerate() {
        let inputs = job.inputs.iter().map(magnitude);
        let bound = Bound {
            class: class_of(op, &job.inputs),
            computed: compute(context.capabilities()),
            scale: inputs.fold(magnitude(expected), f64::max).max(1.0) * 24.0,
        };
        bound.check(&format!("output {i}"), found, expected)?;
    }
    Ok(())
}

/// The graph with operands for `symbols`.
fn job(graph: &Arc<Graph>, symbols: SymbolValues, seed: u64, name: &str) -> Result<Job, Stop> {
    let mut values = Values::new(seed, name);
    let mut named = Named::default();
    for weight in graph.weights() {
        let ty = graph.ty(weight.value);
        let tensor = values.tensor(ty.dtype, &ty.shape.resolve(&symbols));
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
