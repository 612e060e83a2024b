//! The graphs that are timed.

use anynpu_graphs::ModelError;
use anynpu_graphs::arch::{self, MetaValue, ModelFile};
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, GraphError, Op, RopeScaling, RopeStyle,
    Shape, TensorType, ValueId,
};

/// The figures of a transformer whose blocks are timed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocks {
    pub hidden: u32,
    pub ffn: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub layers: u32,
    pub dtype: DType,
}

impl Blocks {
    /// Blocks as large as those of models, so many that their weights are `cold_bytes` or more.
    pub fn of_models(dtype: DType, cold_bytes: u64) -> Blocks {
        let wide = dtype.block_bytes() < 2 * dtype.block_len();
        let (hidden, ffn, heads, kv_heads) = match wide {
            true => (2048, 5632, 32, 8),
            false => (1024, 2816, 16, 4),
        };
        let mut blocks = Blocks {
            hidden,
            ffn,
            heads,
            kv_heads,
            layers: 1,
            dtype,
        };
        blocks.layers = cold_bytes.div_ceil(blocks.bytes()).clamp(1, 64) as u32;
        blocks
    }

    /// Elements of the weight matrices of one block.
    pub fn elements(&self) -> u64 {
        let (h, f) = (u64::from(self.hidden), u64::from(self.ffn));
        let kv = h / u64::from(self.heads) * u64::from(self.kv_heads);
        2 * h * h + 2 * h * kv + 3 * h * f
    }

    /// Bytes of the weight matrices of one block.
    pub fn bytes(&self) -> u64 {
        self.elements() / self.dtype.block_len() as u64 * self.dtype.block_bytes() as u64
    }

    /// Their graph: a decoder of the llama family with a small vocabulary.
    pub fn graph(&self) -> Result<Graph, ModelError> {
        Ok(arch::build(self)?.graph)
    }
}

const VOCABULARY: u32 = 32;

impl ModelFile for Blocks {
    fn metadata(&self, key: &str) -> Option<MetaValue<'_>> {
        let n = |n: u32| Some(MetaValue::Unsigned(n.into()));
        match key.strip_prefix("llama.").unwrap_or(key) {
            "general.architecture" => Some(MetaValue::Text("llama")),
            "block_count" => n(self.layers),
            "embedding_length" => n(self.hidden),
            "feed_forward_length" => n(self.ffn),
            "attention.head_count" => n(self.heads),
            "attention.head_count_kv" => n(self.kv_heads),
            "context_length" => n(4096),
            "attention.layer_norm_rms_epsilon" => Some(MetaValue::Float(1e-5)),
            _ => None,
        }
    }

    fn list_item(&self, _: &str, _: usize) -> Option<MetaValue<'_>> {
        None
    }

    fn tensor(&self, name: &str) -> Result<Option<TensorType>, ModelError> {
        let kv = self.hidden / self.heads * self.kv_heads;
        let plain = |dims: &[u32]| TensorType::new(DType::F32, Shape::fixed(dims));
        let matrix = |dims: &[u32]| TensorType::new(self.dtype, Shape::fixed(dims));
        let part = name
            .strip_prefix("blk.")
            .and_then(|rest| rest.split_once('.'));
        let ty = match part.map_or(name, |(_, part)| part) {
            "token_embd.weight" => plain(&[VOCABULARY, self.hidden]),
            "output_norm.weight" | "attn_norm.weight" | "ffn_norm.weight" => plain(&[self.hidden]),
            "attn_q.weight" | "attn_output.weight" => matrix(&[self.hidden, self.hidden]),
            "attn_k.weight" | "attn_v.weight" => matrix(&[kv, self.hidden]),
            "ffn_gate.weight" | "ffn_up.weight" => matrix(&[self.ffn, self.hidden]),
            "ffn_down.weight" => matrix(&[self.hidden, self.ffn]),
            _ => return Ok(None),
        };
        Ok(Some(ty))
    }
}

/// `nodes` activations of rows of 64 elements, one after the other: next to nothing to do.
pub(super) fn little(nodes: u32) -> Result<Graph, GraphError> {
    let mut graph = Graph::new("little");
    let ty = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(64)]);
    let mut x = graph.add_input("x", ty)?;
    for i in 0..nodes {
        x = graph.add(format!("n{i}"), Op::Activation(Activation::Silu), &[x])?;
    }
    graph.set_output(x)?;
    Ok(graph)
}

/// Products with `count` square matrices of `side`, one after the other.
pub(super) fn products(dtype: DType, side: u32, count: u32) -> Result<Graph, GraphError> {
    let mut graph = Graph::new("products");
    let ty = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(side)]);
    let mut x = graph.add_input("x", ty)?;
    for i in 0..count {
        let ty = TensorType::new(dtype, [Dim::Fixed(side), Dim::Fixed(side)]);
        let w = graph.add_weight(format!("w{i}"), ty)?;
        x = graph.add(format!("n{i}"), Op::Linear, &[x, w])?;
    }
    graph.set_output(x)?;
    Ok(graph)
}

/// Nodes of one kind on rows of `width`.
pub(super) fn values(op: &str, width: u32, nodes: u32) -> Result<Graph, GraphError> {
    let mut graph = Graph::new(op);
    let rows = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(width)]);
    let head = 64.min(width);
    let heads = Shape::from([Dim::TOKENS, Dim::Fixed(width / head), Dim::Fixed(head)]);
    let headed = TensorType::new(DType::F32, heads);
    let gate = Op::GatedActivation(Activation::Silu);
    match op {
        "norm" => {
            let ty = TensorType::new(DType::F32, [Dim::Fixed(width)]);
            let w = graph.add_weight("w", ty)?;
            chain(&mut graph, rows, nodes, Op::RmsNorm { eps: 1e-5 }, |x| {
                vec![x, w]
            })?;
        }
        "gate" => {
            let other = graph.add_input("other", rows.clone())?;
            chain(&mut graph, rows, nodes, gate, |x| vec![x, other])?;
        }
        "add" => {
            let other = graph.add_input("other", rows.clone())?;
            chain(&mut graph, rows, nodes, Op::Binary(BinaryOp::Add), |x| {
                vec![x, other]
            })?;
        }
        "rope" => {
            let positions = TensorType::new(DType::I32, [Dim::TOKENS]);
            let positions = graph.add_input("positions", positions)?;
            let rope = Op::Rope {
                style: RopeStyle::HalfSplit,
                dims: head,
                base: 1e4,
                scaling: RopeScaling::None,
            };
            chain(&mut graph, headed, nodes, rope, |x| vec![x, positions])?;
        }
        _ => {
            let x = graph.add_input("x", headed)?;
            for i in 0..nodes {
                let shape = [Dim::CAPACITY, Dim::Fixed(width / head), Dim::Fixed(head)];
                let ty = TensorType::new(DType::F32, shape);
                let state = graph.add_state(format!("s{i}"), ty, 0)?;
                let at = Dim::CACHED;
                graph.add_node(format!("n{i}"), Op::KvAppend { state, at }, &[x])?;
            }
        }
    }
    Ok(graph)
}

fn chain(
    graph: &mut Graph,
    ty: TensorType,
    nodes: u32,
    op: Op,
    operands: impl Fn(ValueId) -> Vec<ValueId>,
) -> Result<(), GraphError> {
    let mut x = graph.add_input("x", ty)?;
    for i in 0..nodes {
        x = graph.add(format!("n{i}"), op.clone(), &operands(x))?;
    }
    graph.set_output(x)
}

/// Attention of `heads` heads of 64 over `kv_heads`, `nodes` times with states of their own.
pub(super) fn attention(heads: u32, kv_heads: u32, nodes: u32) -> Result<Graph, GraphError> {
    let mut graph = Graph::new("attention");
    let ty = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(heads), Dim::Fixed(64)]);
    let mut x = graph.add_input("x", ty)?;
    let positions = TensorType::new(DType::I32, [Dim::TOKENS]);
    let positions = graph.add_input("positions", positions)?;
    for i in 0..nodes {
        let shape = [Dim::CAPACITY, Dim::Fixed(kv_heads), Dim::Fixed(64)];
        let ty = TensorType::new(DType::F32, shape);
        let k = graph.add_state(format!("k{i}"), ty.clone(), 0)?;
        let v = graph.add_state(format!("v{i}"), ty, 0)?;
        let op = Op::Attention {
            kv: AttentionKv::State { k, v },
            causal: true,
            mask: false,
            scale: 0.125,
            soft_cap: None,
            window: None,
        };
        x = graph.add(format!("n{i}"), op, &[x, positions])?;
    }
    graph.set_output(x)?;
    Ok(graph)
}

/// Looking up rows of a table, and products with it.
pub(super) fn lookup(dtype: DType) -> Result<Graph, GraphError> {
    let mut graph = Graph::new("lookup");
    let ids = graph.add_input("ids", TensorType::new(DType::I32, [Dim::TOKENS]))?;
    let table = TensorType::new(dtype, [Dim::Fixed(64), Dim::Fixed(256)]);
    let table = graph.add_weight("table", table)?;
    let x = graph.add("rows", Op::Embedding, &[table, ids])?;
    let x = graph.add("logits", Op::Linear, &[x, table])?;
    graph.set_output(x)?;
    Ok(graph)
}

/// One of each node that other families than llama have.
pub(super) fn others() -> Result<Graph, GraphError> {
    const WIDTH: u32 = 256;
    let mut graph = Graph::new("others");
    let rows = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(WIDTH)]);
    let mut x = graph.add_input("x", rows)?;
    let weight = |graph: &mut Graph, name: &str, dims: &[u32]| {
        graph.add_weight(name, TensorType::new(DType::F32, Shape::fixed(dims)))
    };
    let gamma = weight(&mut graph, "gamma", &[WIDTH])?;
    let beta = weight(&mut graph, "beta", &[WIDTH])?;
    let matrix = weight(&mut graph, "matrix", &[WIDTH, WIDTH])?;
    x = graph.add("layer_norm", Op::LayerNorm { eps: 1e-5 }, &[x, gamma, beta])?;
    x = graph.add("biased", Op::Linear, &[x, matrix, beta])?;
    for act in [
        Activation::Relu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::GeluQuick,
    ] {
        x = graph.add(
            format!("activation.{}", act.name()),
            Op::Activation(act),
            &[x],
        )?;
        x = graph.add(
            format!("gated.{}", act.name()),
            Op::GatedActivation(act),
            &[x, x],
        )?;
    }
    x = graph.add("scaled", Op::Binary(BinaryOp::Mul), &[x, gamma])?;
    x = graph.add("capped", Op::SoftCap { cap: 30.0 }, &[x])?;
    x = graph.add("shares", Op::Softmax { axis: 1 }, &[x])?;
    graph.set_output(x)?;
    let positions = TensorType::new(DType::I32, [Dim::TOKENS]);
    let positions = graph.add_input("positions", positions)?;
    let heads = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(4), Dim::Fixed(64)]);
    let q = graph.add_input("q", heads)?;
    let rope = Op::Rope {
        style: RopeStyle::HalfSplit,
        dims: 64,
        base: 1e4,
        scaling: RopeScaling::None,
    };
    let turned = graph.add("half_split", rope, &[q, positions])?;
    let attention = |kv, causal, soft_cap, window| Op::Attention {
        kv,
        causal,
        mask: false,
        scale: 0.125,
        soft_cap,
        window,
    };
    let both = attention(AttentionKv::Operands, false, None, None);
    let seen = graph.add("bidirectional", both, &[turned, turned, turned])?;
    graph.set_output(seen)?;
    let cache = TensorType::new(DType::F32, [Dim::CAPACITY, Dim::Fixed(2), Dim::Fixed(64)]);
    let k = graph.add_state("k", cache.clone(), 0)?;
    let v = graph.add_state("v", cache, 0)?;
    for (name, soft_cap, window) in [("window", None, Some(4)), ("soft_cap", Some(50.0), None)] {
        let op = attention(AttentionKv::State { k, v }, true, soft_cap, window);
        let seen = graph.add(name, op, &[turned, positions])?;
        graph.set_output(seen)?;
    }
    Ok(graph)
}
