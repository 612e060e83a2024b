//! Graphs of decoders: text in, logits of the next token out.
//!
//! Tensor names are those of GGUF files.

use anynpu_ir::{
    AttentionKv, BinaryOp, DType, Dim, Graph, Op, ReduceOp, RopeStyle, StateId, TensorType, ValueId,
};

use super::config::{ExpertsConfig, MAX_WIDTH, Rope};
use super::family::Family;
use super::{Architecture, DecoderConfig, Kind, LOGITS, ModelFile, Weights, input, layer_name};
use crate::ModelError;

pub(super) const EMBEDDING: &str = "token_embd.weight";
/// Divisors of rotary frequencies, one a pair.
const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The same for contexts within the original one, and for longer ones.
const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";
const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";

/// Builds the graph of `file` for a context of `context` tokens.
///
/// # Errors
/// Metadata or tensors that are missing or don't fit; each error names the culprit.
pub(super) fn build(
    file: &dyn ModelFile,
    family: &'static Family,
    context: u32,
) -> Result<Architecture, ModelError> {
    let config = DecoderConfig::read(file, family)?;
    let mut graph = Graph::new(family.name);
    let mut b = Builder::new(&mut graph, file, &config, context)?;
    let mut x = b
        .graph
        .add("embed", Op::Embedding, &[b.embedding, b.tokens])?;
    if family.scaled_embedding {
        let scale = b.number("embed.scale", (config.hidden as f32).sqrt())?;
        let mul = Op::Binary(BinaryOp::Mul);
        x = b.graph.add("embed.scaled", mul, &[x, scale])?;
    }
    for layer in 0..config.layers {
        x = b.layer(layer, x)?;
    }
    let logits = b.output(x)?;
    let context_switch = b.context_switch;
    graph.set_output(logits)?;
    Ok(Architecture {
        name: family.name,
        kind: Kind::Decoder,
        graph,
        context_length: config.context_length,
        context_switch,
        vocabulary: config.vocabulary,
        layers: config.layers,
        hidden: config.hidden,
        heads: config.heads,
        kv_heads: config.kv_heads,
    })
}

struct Builder<'a> {
    graph: &'a mut Graph,
    weights: Weights<'a>,
    config: &'a DecoderConfig,
    rope_style: RopeStyle,
    embedding: ValueId,
    tokens: ValueId,
    positions: ValueId,
    output_rows: ValueId,
    rope_factors: Option<ValueId>,
    context_switch: Option<u32>,
}

impl<'a> Builder<'a> {
    fn new(
        graph: &'a mut Graph,
        file: &'a dyn ModelFile,
        config: &'a DecoderConfig,
        context: u32,
    ) -> Result<Self, ModelError> {
        let weights = Weights { file };
        let ids = |dim| TensorType::new(DType::I32, [dim]);
        let tokens = graph.add_input(input::TOKENS, ids(Dim::TOKENS))?;
        let positions = graph.add_input(input::POSITIONS, ids(Dim::TOKENS))?;
        let output_rows = graph.add_input(input::OUTPUT_ROWS, ids(Dim::OUTPUTS))?;
        let table = [config.vocabulary, config.hidden];
        let embedding = weights.required(graph, EMBEDDING, &table)?;
        let pairs = [config.rope_dims / 2];
        let mut rope_factors = weights.optional(graph, ROPE_FACTORS, &pairs)?;
        let mut context_switch = None;
        if rope_factors.is_none() {
            let long = context > config.original_context;
            let (used, other) = match long {
                true => (ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT),
                false => (ROPE_FACTORS_SHORT, ROPE_FACTORS_LONG),
            };
            rope_factors = weights.optional(graph, used, &pairs)?;
            if file.tensor(other)?.is_some() && !long {
                context_switch = Some(config.original_context);
            }
        }
        Ok(Builder {
            rope_style: file.rope_style().unwrap_or(config.family.rope),
            graph,
            weights,
            config,
            embedding,
            tokens,
            positions,
            output_rows,
            rope_factors,
            context_switch,
        })
    }

    /// One block: `x + attention(norm(x))`, then `x + ffn(norm(x))`.
    fn layer(&mut self, n: u32, x: ValueId) -> Result<ValueId, ModelError> {
        let normed = self.norm(&layer_name(n, "attn_norm"), &tensor(n, "attn_norm"), x)?;
        let attended = self.attention(n, normed)?;
        let x = self.residual(n, "attn", "post_attention_norm", x, attended)?;
        let normed = self.norm(&layer_name(n, "ffn_norm"), &tensor(n, "ffn_norm"), x)?;
        let fed = match self.config.experts {
            Some(experts) => self.experts(n, normed, experts)?,
            None => self.feed_forward(n, normed)?,
        };
        self.residual(n, "ffn", "post_ffw_norm", x, fed)
    }

    /// `x + part`, the part being normed before where the family does so.
    fn residual(
        &mut self,
        n: u32,
        part_name: &str,
        norm: &str,
        x: ValueId,
        mut part: ValueId,
    ) -> Result<ValueId, ModelError> {
        if self.config.family.post_norms {
            let name = layer_name(n, &format!("{part_name}.post_norm"));
            part = self.norm(&name, &tensor(n, norm), part)?;
        }
        let name = layer_name(n, &format!("{part_name}.residual"));
        let add = Op::Binary(BinaryOp::Add);
        Ok(self.graph.add(name, add, &[x, part])?)
    }

    fn attention(&mut self, n: u32, x: ValueId) -> Result<ValueId, ModelError> {
        let c = self.config;
        let window = c.windows[n as usize];
        let rope = match window {
            None => c.rope,
            Some(_) => c.window_rope,
        };
        let [q, k, v] = self.projections(n, x)?;
        let q = self.heads(n, "q", q, c.heads, c.key_dim)?;
        let q = self.head_norm(n, "q", q)?;
        let q = self.rope(n, "q_rope", rope, q)?;
        let k = self.heads(n, "k", k, c.kv_heads, c.key_dim)?;
        let k = self.head_norm(n, "k", k)?;
        let k = self.rope(n, "k_rope", rope, k)?;
        let v = self.heads(n, "v", v, c.kv_heads, c.value_dim)?;
        let k = self.append(n, "k", k, c.key_dim)?;
        let v = self.append(n, "v", v, c.value_dim)?;
        let attention = Op::Attention {
            kv: AttentionKv::State { k, v },
            causal: true,
            mask: false,
            scale: c.attention_scale,
            soft_cap: c.soft_caps.attention,
            window,
        };
        let name = layer_name(n, "attn.attention");
        let y = self.graph.add(name, attention, &[q, self.positions])?;
        let width = self.width(c.heads, c.value_dim)?;
        let merge = Op::Reshape {
            shape: [Dim::TOKENS, Dim::Fixed(width)].into(),
        };
        let y = self.graph.add(layer_name(n, "attn.merged"), merge, &[y])?;
        self.linear(n, "attn.output", "attn_output", y, [c.hidden, width])
    }

    /// Queries, keys and values of all heads.
    fn projections(&mut self, n: u32, x: ValueId) -> Result<[ValueId; 3], ModelError> {
        let c = self.config;
        let q = self.width(c.heads, c.key_dim)?;
        let k = self.width(c.kv_heads, c.key_dim)?;
        let v = self.width(c.kv_heads, c.value_dim)?;
        if !self.weights.has(&tensor(n, "attn_qkv"))? {
            return Ok([
                self.linear(n, "attn.q", "attn_q", x, [q, c.hidden])?,
                self.linear(n, "attn.k", "attn_k", x, [k, c.hidden])?,
                self.linear(n, "attn.v", "attn_v", x, [v, c.hidden])?,
            ]);
        }
        // each is at most MAX_WIDTH
        let y = self.linear(n, "attn.qkv", "attn_qkv", x, [q + k + v, c.hidden])?;
        let parts = self.split(n, "attn.qkv_parts", y, &[q, k, v])?;
        match parts[..] {
            [q, k, v] => Ok([q, k, v]),
            _ => unreachable!("a split has as many results as sizes"),
        }
    }

    fn split(
        &mut self,
        n: u32,
        name: &str,
        x: ValueId,
        sizes: &[u32],
    ) -> Result<Vec<ValueId>, ModelError> {
        let split = Op::Split {
            axis: 1,
            sizes: sizes.to_vec(),
        };
        Ok(self.graph.add_node(layer_name(n, name), split, &[x])?)
    }

    /// A projection cut into heads.
    fn heads(
        &mut self,
        n: u32,
        which: &str,
        x: ValueId,
        heads: u32,
        dim: u32,
    ) -> Result<ValueId, ModelError> {
        let cut = Op::Reshape {
            shape: [Dim::TOKENS, Dim::Fixed(heads), Dim::Fixed(dim)].into(),
        };
        let name = layer_name(n, &format!("attn.{which}_heads"));
        Ok(self.graph.add(name, cut, &[x])?)
    }

    /// Each head normed, where the family does so.
    fn head_norm(&mut self, n: u32, which: &str, x: ValueId) -> Result<ValueId, ModelError> {
        if !self.config.family.head_norms {
            return Ok(x);
        }
        let weight = tensor(n, &format!("attn_{which}_norm"));
        let dims = [self.config.key_dim];
        let weight = self.weights.required(self.graph, &weight, &dims)?;
        let name = layer_name(n, &format!("attn.{which}_norm"));
        let eps = self.config.norm_eps;
        Ok(self.graph.add(name, Op::RmsNorm { eps }, &[x, weight])?)
    }

    fn rope(&mut self, n: u32, name: &str, rope: Rope, x: ValueId) -> Result<ValueId, ModelError> {
        let op = Op::Rope {
            style: self.rope_style,
            dims: self.config.rope_dims,
            base: rope.base,
            scaling: rope.scaling,
        };
        let mut operands = vec![x, self.positions];
        operands.extend(self.rope_factors);
        let name = layer_name(n, &format!("attn.{name}"));
        Ok(self.graph.add(name, op, &operands)?)
    }

    /// Appends `rows` to the state `layers.n.which`.
    fn append(
        &mut self,
        n: u32,
        which: &str,
        rows: ValueId,
        dim: u32,
    ) -> Result<StateId, ModelError> {
        let heads = Dim::Fixed(self.config.kv_heads);
        let ty = TensorType::new(DType::F32, [Dim::CAPACITY, heads, Dim::Fixed(dim)]);
        let state = self.graph.add_state(layer_name(n, which), ty, 0)?;
        let at = Dim::CACHED;
        let name = layer_name(n, &format!("attn.{which}_append"));
        self.graph
            .add_node(name, Op::KvAppend { state, at }, &[rows])?;
        Ok(state)
    }

    fn feed_forward(&mut self, n: u32, x: ValueId) -> Result<ValueId, ModelError> {
        let (hidden, ffn) = (self.config.hidden, self.config.ffn);
        let [gate, up] = if self.weights.has(&tensor(n, "ffn_gate"))? {
            [
                self.linear(n, "ffn.gate", "ffn_gate", x, [ffn, hidden])?,
                self.linear(n, "ffn.up", "ffn_up", x, [ffn, hidden])?,
            ]
        } else {
            // at most twice MAX_WIDTH
            let both = self.linear(n, "ffn.gate_up", "ffn_up", x, [2 * ffn, hidden])?;
            let parts = self.split(n, "ffn.gate_up_parts", both, &[ffn, ffn])?;
            match parts[..] {
                [gate, up] => [gate, up],
                _ => unreachable!("a split has as many results as sizes"),
            }
        };
        let gated = Op::GatedActivation(self.config.family.activation);
        let y = self
            .graph
            .add(layer_name(n, "ffn.act"), gated, &[gate, up])?;
        self.linear(n, "ffn.down", "ffn_down", y, [hidden, ffn])
    }

    /// The weighted sum of the experts with the largest router probabilities.
    fn experts(
        &mut self,
        n: u32,
        x: ValueId,
        experts: ExpertsConfig,
    ) -> Result<ValueId, ModelError> {
        let (hidden, ffn) = (self.config.hidden, self.config.ffn);
        let name = |part: &str| layer_name(n, &format!("ffn.{part}"));
        let fixed = Dim::Fixed;
        let router = [experts.count, hidden];
        let logits = self.linear(n, "ffn.router", "ffn_gate_inp", x, router)?;
        let odds = self
            .graph
            .add(name("odds"), Op::Softmax { axis: 1 }, &[logits])?;
        let top = Op::TopK { k: experts.used };
        let top = self.graph.add_node(name("top"), top, &[odds])?;
        let [odds, ids] = top[..] else {
            unreachable!("TopK gives values and indices");
        };
        let total = Op::Reduce {
            op: ReduceOp::Sum,
            axes: vec![1],
            keep_dims: true,
        };
        let total = self.graph.add(name("odds_total"), total, &[odds])?;
        let mut shares =
            self.graph
                .add(name("shares"), Op::Binary(BinaryOp::Div), &[odds, total])?;
        if experts.scale != 1.0 {
            let scale = self.number(&name("share_scale"), experts.scale)?;
            let mul = Op::Binary(BinaryOp::Mul);
            shares = self
                .graph
                .add(name("scaled_shares"), mul, &[shares, scale])?;
        }
        let rows = Op::Reshape {
            shape: [Dim::TOKENS, fixed(1), fixed(hidden)].into(),
        };
        let x = self.graph.add(name("rows"), rows, &[x])?;
        let gate = self.expert_linear(n, "gate", x, ids, [experts.count, ffn, hidden])?;
        let up = self.expert_linear(n, "up", x, ids, [experts.count, ffn, hidden])?;
        let gated = Op::GatedActivation(self.config.family.activation);
        let y = self.graph.add(name("act"), gated, &[gate, up])?;
        let y = self.expert_linear(n, "down", y, ids, [experts.count, hidden, ffn])?;
        let row = Op::Reshape {
            shape: [Dim::TOKENS, fixed(1), fixed(experts.used)].into(),
        };
        let shares = self.graph.add(name("share_rows"), row, &[shares])?;
        let sum = Op::MatMul {
            transpose_a: false,
            transpose_b: false,
        };
        let y = self.graph.add(name("mixed_rows"), sum, &[shares, y])?;
        let flat = Op::Reshape {
            shape: [Dim::TOKENS, fixed(hidden)].into(),
        };
        Ok(self.graph.add(name("mixed"), flat, &[y])?)
    }

    /// The products of `x` with those matrices of `blk.n.ffn_which_exps.weight` that `ids` name.
    fn expert_linear(
        &mut self,
        n: u32,
        which: &str,
        x: ValueId,
        ids: ValueId,
        dims: [u32; 3],
    ) -> Result<ValueId, ModelError> {
        let weight = tensor(n, &format!("ffn_{which}_exps"));
        let weight = self.weights.required(self.graph, &weight, &dims)?;
        let name = layer_name(n, &format!("ffn.{which}"));
        Ok(self.graph.add(name, Op::ExpertLinear, &[x, weight, ids])?)
    }

    /// Node `layers.n.name`: the product of `x` with tensor `blk.n.from.weight` of shape `dims`,
    /// and its bias if the file has one.
    fn linear(
        &mut self,
        n: u32,
        name: &str,
        from: &str,
        x: ValueId,
        dims: [u32; 2],
    ) -> Result<ValueId, ModelError> {
        let (name, from) = (layer_name(n, name), format!("blk.{n}.{from}"));
        self.weights.linear(self.graph, &name, &from, x, dims)
    }

    fn norm(&mut self, name: &str, tensor: &str, x: ValueId) -> Result<ValueId, ModelError> {
        let dims = [self.config.hidden];
        let weight = self.weights.required(self.graph, tensor, &dims)?;
        let eps = self.config.norm_eps;
        Ok(self.graph.add(name, Op::RmsNorm { eps }, &[x, weight])?)
    }

    /// A constant without dimensions.
    fn number(&mut self, name: &str, x: f32) -> Result<ValueId, ModelError> {
        let ty = TensorType::new(DType::F32, []);
        Ok(self
            .graph
            .add_constant(name, ty, x.to_le_bytes().to_vec())?)
    }

    /// Logits of the wanted rows; the embedding's table serves where there is no `output.weight`.
    fn output(&mut self, x: ValueId) -> Result<ValueId, ModelError> {
        let rows = Op::Gather { axis: 0 };
        let rows = self
            .graph
            .add("output.rows", rows, &[x, self.output_rows])?;
        let normed = self.norm("output.norm", "output_norm.weight", rows)?;
        let dims = [self.config.vocabulary, self.config.hidden];
        let own = self.weights.optional(self.graph, "output.weight", &dims)?;
        let mut operands = vec![normed, own.unwrap_or(self.embedding)];
        let bias = self
            .weights
            .optional(self.graph, "output.bias", &dims[..1])?;
        operands.extend(bias);
        match self.config.soft_caps.logits {
            None => Ok(self.graph.add(LOGITS, Op::Linear, &operands)?),
            Some(cap) => {
                let logits = self.graph.add("output.linear", Op::Linear, &operands)?;
                Ok(self.graph.add(LOGITS, Op::SoftCap { cap }, &[logits])?)
            }
        }
    }

    /// Elements of all heads together.
    fn width(&self, heads: u32, dim: u32) -> Result<u32, ModelError> {
        let width = heads.checked_mul(dim).filter(|&w| w <= MAX_WIDTH);
        width.ok_or_else(|| ModelError::Key {
            key: format!("{}.attention.head_count", self.config.family.name),
            found: format!("{heads} heads of {dim}"),
            expected: format!("at most {MAX_WIDTH} elements together"),
        })
    }
}

fn tensor(n: u32, name: &str) -> String {
    format!("blk.{n}.{name}.weight")
}
