//! Graphs of encoders: text in, one vector a token out (or scores of a text, with a head).
//!
//! Tensor names are those of GGUF's `bert` files, and of the same habit where GGUF has none.

use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Op, ReduceOp, TensorType, UnaryOp,
    ValueId,
};

use super::encoder_config::{Bottleneck, EncoderConfig, HeadActivation, Norm};
use super::{Architecture, HIDDEN, Kind, ModelFile, SCORES, Weights, input, layer_name};
use crate::ModelError;

/// Builds the graph of `file`, an encoder called `name`.
///
/// # Errors
/// Metadata or tensors that are missing or don't fit; each error names the culprit.
pub(super) fn build(file: &dyn ModelFile, name: &'static str) -> Result<Architecture, ModelError> {
    let config = EncoderConfig::read(file, name)?;
    let mut graph = Graph::new(name);
    let weights = Weights { file };
    let ids = |dim| TensorType::new(DType::I32, [dim]);
    let tokens = graph.add_input(input::TOKENS, ids(Dim::TOKENS))?;
    let positions = graph.add_input(input::POSITIONS, ids(Dim::TOKENS))?;
    let mut b = Builder {
        graph: &mut graph,
        weights,
        config: &config,
        positions,
    };
    let mut x = b.embeddings(tokens)?;
    for layer in 0..config.layers {
        x = match config.bottleneck {
            Some(bottleneck) => b.bottleneck_layer(layer, x, bottleneck)?,
            None => b.layer(layer, x)?,
        };
    }
    let rows = b.graph.add_input(input::OUTPUT_ROWS, ids(Dim::OUTPUTS))?;
    let gather = Op::Gather { axis: 0 };
    let kind = match config.head {
        None => {
            x = b.graph.add(HIDDEN, gather, &[x, rows])?;
            Kind::Encoder
        }
        Some(head) => {
            x = b.graph.add("output.rows", gather, &[x, rows])?;
            x = b.head(x, head.activation, head.labels)?;
            Kind::Classifier
        }
    };
    graph.set_output(x)?;
    Ok(Architecture {
        name,
        kind,
        graph,
        context_length: config.context_length,
        context_switch: None,
        vocabulary: config.vocabulary,
        layers: config.layers,
        hidden: config.hidden,
        heads: config.heads,
        kv_heads: config.heads,
    })
}

struct Builder<'a> {
    graph: &'a mut Graph,
    weights: Weights<'a>,
    config: &'a EncoderConfig,
    positions: ValueId,
}

const ADD: Op = Op::Binary(BinaryOp::Add);
const MUL: Op = Op::Binary(BinaryOp::Mul);

impl Builder<'_> {
    /// Tokens, their types and their positions, normed.
    fn embeddings(&mut self, tokens: ValueId) -> Result<ValueId, ModelError> {
        let c = self.config;
        let table = [c.vocabulary, c.token_width];
        let table = self.weight("token_embd.weight", &table)?;
        let mut x = self
            .graph
            .add("embed.tokens", Op::Embedding, &[table, tokens])?;
        if c.trigram {
            x = self.trigram(x)?;
        }
        if self.weights.has("token_embd_transform.weight")? {
            let width = c.token_width * if c.trigram { 3 } else { 1 };
            let dims = [c.hidden, width];
            x = self.linear("embed.transform", "token_embd_transform", x, dims)?;
        }
        if self.weights.has("token_types.weight")? {
            let types = TensorType::new(DType::I32, [Dim::TOKENS]);
            let types = self.graph.add_input(input::TOKEN_TYPES, types)?;
            let table = self.weight("token_types.weight", &[c.token_types, c.hidden])?;
            let rows = self
                .graph
                .add("embed.types", Op::Embedding, &[table, types])?;
            x = self.graph.add("embed.typed", ADD, &[x, rows])?;
        }
        let table = [c.context_length, c.hidden];
        let table = self.weight("position_embd.weight", &table)?;
        let rows = [table, self.positions];
        let rows = self.graph.add("embed.positions", Op::Embedding, &rows)?;
        x = self.graph.add("embed.placed", ADD, &[x, rows])?;
        self.norm("embed", "token_embd_norm", x, c.hidden)
    }

    /// `x[T, D]` → `[T, 3·D]`: beside each row the one after it and the one before it, zero past
    /// the ends. Positions count from 0.
    fn trigram(&mut self, x: ValueId) -> Result<ValueId, ModelError> {
        let one = self.integer("embed.one", 1)?;
        let zero = self.integer("embed.zero", 0)?;
        let last = Op::Reduce {
            op: ReduceOp::Max,
            axes: vec![0],
            keep_dims: true,
        };
        let at = self.positions;
        let last = self.graph.add("embed.last", last, &[at])?;
        let after = self.graph.add("embed.after", ADD, &[at, one])?;
        let min = Op::Binary(BinaryOp::Min);
        let after = self.graph.add("embed.after_row", min, &[after, last])?;
        let sub = Op::Binary(BinaryOp::Sub);
        let before = self.graph.add("embed.before", sub, &[at, one])?;
        let max = Op::Binary(BinaryOp::Max);
        let before = self.graph.add("embed.before_row", max, &[before, zero])?;
        let less = Op::Binary(BinaryOp::Less);
        let has_after = self
            .graph
            .add("embed.has_after", less.clone(), &[at, last])?;
        let has_before = self.graph.add("embed.has_before", less, &[zero, at])?;
        let after = self.shifted("after", x, after, has_after)?;
        let before = self.shifted("before", x, before, has_before)?;
        let join = Op::Concat { axis: 1 };
        Ok(self.graph.add("embed.trigram", join, &[after, x, before])?)
    }

    /// The rows `from` of `x`, zero where not `there`.
    fn shifted(
        &mut self,
        which: &str,
        x: ValueId,
        from: ValueId,
        there: ValueId,
    ) -> Result<ValueId, ModelError> {
        let name = |part: &str| format!("embed.{which}_{part}");
        let gather = Op::Gather { axis: 0 };
        let rows = self.graph.add(name("rows"), gather, &[x, from])?;
        let cast = Op::Cast { to: DType::F32 };
        let there = self.graph.add(name("share"), cast, &[there])?;
        let column = Op::Reshape {
            shape: [Dim::TOKENS, Dim::Fixed(1)].into(),
        };
        let there = self.graph.add(name("column"), column, &[there])?;
        Ok(self.graph.add(name("shifted"), MUL, &[rows, there])?)
    }

    /// One block: `norm(x + attention(x))`, then `norm(x + ffn(x))`.
    fn layer(&mut self, n: u32, x: ValueId) -> Result<ValueId, ModelError> {
        let width = self.config.hidden;
        let attended = self.attention(n, [x, x, x], [width; 3])?;
        let x = self.joined(n, "attn", "attn_output_norm", [x, attended], width)?;
        let fed = self.feed_forward(n, "ffn", ["ffn_up", "ffn_down"], x)?;
        self.joined(n, "ffn", "layer_output_norm", [x, fed], width)
    }

    /// A block that works on fewer elements than it takes and gives (MobileBERT, arXiv 2004.02984).
    fn bottleneck_layer(
        &mut self,
        n: u32,
        x: ValueId,
        bottleneck: Bottleneck,
    ) -> Result<ValueId, ModelError> {
        let c = self.config;
        let (narrow, hidden) = (c.width, c.hidden);
        let into = [narrow, hidden];
        let mut squeezed = |which: &str| {
            let y = self.block_linear(n, which, which, x, into)?;
            let norm = format!("{which}_norm");
            self.block_norm(n, which, &norm, y, narrow)
        };
        let inner = squeezed("bottleneck")?;
        let (operands, widths) = match bottleneck {
            Bottleneck::Own => ([x, x, x], [hidden; 3]),
            Bottleneck::SharedQueryKey => {
                let shared = squeezed("attn_bottleneck")?;
                ([shared, shared, x], [narrow, narrow, hidden])
            }
            Bottleneck::All => ([inner; 3], [narrow; 3]),
        };
        let attended = self.attention(n, operands, widths)?;
        let mut y = self.joined(n, "attn", "attn_output_norm", [inner, attended], narrow)?;
        for m in 0..c.feed_forwards - 1 {
            let name = format!("ffn.{m}");
            let tensors = [format!("{name}.up"), format!("{name}.down")];
            let fed = self.feed_forward(n, &name, tensors.each_ref().map(String::as_str), y)?;
            y = self.joined(n, &name, &format!("{name}.norm"), [y, fed], narrow)?;
        }
        let fed = self.feed_forward(n, "ffn", ["ffn_up", "ffn_down"], y)?;
        y = self.joined(n, "ffn", "layer_output_norm", [y, fed], narrow)?;
        let wide = self.block_linear(n, "output", "output", y, [hidden, narrow])?;
        self.joined(n, "output", "output_norm", [x, wide], hidden)
    }

    /// Attention of every token over every token. `from` are the operands of queries, keys and
    /// values, of so many elements.
    fn attention(
        &mut self,
        n: u32,
        from: [ValueId; 3],
        widths: [u32; 3],
    ) -> Result<ValueId, ModelError> {
        let c = self.config;
        let (width, dim) = (c.width, c.width / c.heads);
        let mut parts = Vec::with_capacity(3);
        if self.weights.has(&tensor(n, "attn_qkv.weight"))? {
            let dims = [3 * width, widths[0]];
            let y = self.block_linear(n, "attn.qkv", "attn_qkv", from[0], dims)?;
            let split = Op::Split {
                axis: 1,
                sizes: vec![width; 3],
            };
            let name = layer_name(n, "attn.qkv_parts");
            parts.extend(self.graph.add_node(name, split, &[y])?);
        } else {
            for ((which, x), from_width) in ["q", "k", "v"].into_iter().zip(from).zip(widths) {
                let (name, from) = (format!("attn.{which}"), format!("attn_{which}"));
                parts.push(self.block_linear(n, &name, &from, x, [width, from_width])?);
            }
        }
        let cut = Op::Reshape {
            shape: [Dim::TOKENS, Dim::Fixed(c.heads), Dim::Fixed(dim)].into(),
        };
        let mut heads = Vec::with_capacity(3);
        for (which, part) in ["q", "k", "v"].into_iter().zip(parts) {
            let name = layer_name(n, &format!("attn.{which}_heads"));
            heads.push(self.graph.add(name, cut.clone(), &[part])?);
        }
        let attention = Op::Attention {
            kv: AttentionKv::Operands,
            causal: false,
            mask: false,
            scale: 1.0 / (dim as f32).sqrt(),
            soft_cap: None,
            window: None,
        };
        let name = layer_name(n, "attn.attention");
        let y = self.graph.add(name, attention, &heads)?;
        let merge = Op::Reshape {
            shape: [Dim::TOKENS, Dim::Fixed(width)].into(),
        };
        let y = self.graph.add(layer_name(n, "attn.merged"), merge, &[y])?;
        self.block_linear(n, "attn.output", "attn_output", y, [width, width])
    }

    /// Two linear layers with the activation between them.
    fn feed_forward(
        &mut self,
        n: u32,
        name: &str,
        [up, down]: [&str; 2],
        x: ValueId,
    ) -> Result<ValueId, ModelError> {
        let (width, ffn) = (self.config.width, self.config.ffn);
        let y = self.block_linear(n, &format!("{name}.up"), up, x, [ffn, width])?;
        let act = Op::Activation(self.config.activation);
        let y = self
            .graph
            .add(layer_name(n, &format!("{name}.act")), act, &[y])?;
        self.block_linear(n, &format!("{name}.down"), down, y, [width, ffn])
    }

    /// `norm(x + part)`.
    fn joined(
        &mut self,
        n: u32,
        name: &str,
        norm: &str,
        parts: [ValueId; 2],
        width: u32,
    ) -> Result<ValueId, ModelError> {
        let sum = layer_name(n, &format!("{name}.residual"));
        let x = self.graph.add(sum, ADD, &parts)?;
        self.block_norm(n, name, norm, x, width)
    }

    /// Scores of a text from the vector of its first token.
    fn head(
        &mut self,
        mut x: ValueId,
        activation: HeadActivation,
        labels: u32,
    ) -> Result<ValueId, ModelError> {
        let hidden = self.config.hidden;
        if self.weights.has("cls.weight")? {
            x = self.linear("output.pooled", "cls", x, [hidden, hidden])?;
            let act = match activation {
                HeadActivation::None => None,
                HeadActivation::Tanh => Some(Op::Unary(UnaryOp::Tanh)),
                HeadActivation::Relu => Some(Op::Activation(Activation::Relu)),
            };
            if let Some(act) = act {
                x = self.graph.add("output.act", act, &[x])?;
            }
        }
        self.linear(SCORES, "cls.output", x, [labels, hidden])
    }

    fn block_linear(
        &mut self,
        n: u32,
        name: &str,
        from: &str,
        x: ValueId,
        dims: [u32; 2],
    ) -> Result<ValueId, ModelError> {
        self.linear(&layer_name(n, name), &tensor(n, from), x, dims)
    }

    fn block_norm(
        &mut self,
        n: u32,
        name: &str,
        from: &str,
        x: ValueId,
        width: u32,
    ) -> Result<ValueId, ModelError> {
        self.norm(&layer_name(n, name), &tensor(n, from), x, width)
    }

    fn linear(
        &mut self,
        name: &str,
        from: &str,
        x: ValueId,
        dims: [u32; 2],
    ) -> Result<ValueId, ModelError> {
        self.weights.linear(self.graph, name, from, x, dims)
    }

    /// Nodes `name.norm…`: `x` normed with tensors `from.weight` and `from.bias`.
    fn norm(
        &mut self,
        name: &str,
        from: &str,
        x: ValueId,
        width: u32,
    ) -> Result<ValueId, ModelError> {
        let weight = self.weight(&format!("{from}.weight"), &[width])?;
        let bias = self.weight(&format!("{from}.bias"), &[width])?;
        let normed = format!("{name}.norm");
        Ok(match self.config.norm {
            Norm::Layer { eps } => {
                let norm = Op::LayerNorm { eps };
                self.graph.add(normed, norm, &[x, weight, bias])?
            }
            Norm::Affine => {
                let scaled = format!("{name}.norm_scaled");
                let x = self.graph.add(scaled, MUL, &[x, weight])?;
                self.graph.add(normed, ADD, &[x, bias])?
            }
        })
    }

    fn weight(&mut self, name: &str, dims: &[u32]) -> Result<ValueId, ModelError> {
        self.weights.required(self.graph, name, dims)
    }

    /// A constant of one element.
    fn integer(&mut self, name: &str, x: i32) -> Result<ValueId, ModelError> {
        let ty = TensorType::new(DType::I32, [Dim::Fixed(1)]);
        Ok(self
            .graph
            .add_constant(name, ty, x.to_le_bytes().to_vec())?)
    }
}

fn tensor(n: u32, name: &str) -> String {
    format!("blk.{n}.{name}")
}
