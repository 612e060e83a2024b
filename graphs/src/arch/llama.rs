//! The llama architecture: RMS norms, rotary positions, grouped-query attention, SwiGLU.
//!
//! Tensor names and metadata keys are those of GGUF files. Their query and key rows are ordered
//! for [`RopeStyle::Interleaved`].

use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Op, RopeScaling, RopeStyle, StateId,
    TensorType, ValueId,
};

use super::{Architecture, LOGITS, MetaValue, Metadata, ModelFile, Weights, input};
use crate::ModelError;

/// The architecture's name in files.
pub const NAME: &str = "llama";

/// The figures of a llama model, checked against one another.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// Repeated blocks.
    pub layers: u32,
    /// Elements of the residual stream.
    pub hidden: u32,
    /// Elements between the feed-forward layers.
    pub ffn: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Elements of a query or key head.
    pub key_dim: u32,
    /// Elements of a value head.
    pub value_dim: u32,
    /// Tokens.
    pub vocabulary: u32,
    /// Positions the model was trained for.
    pub context_length: u32,
    /// Added to the mean square in norms.
    pub norm_eps: f32,
    /// Rotated elements of a head, even.
    pub rope_dims: u32,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Context extension. Llama 3's comes as the tensor `rope_freqs.weight` instead.
    pub rope_scaling: RopeScaling,
}

const MAX_LAYERS: u32 = 4096;
const MAX_WIDTH: u32 = 1 << 24;
const MAX_HEADS: u32 = 1 << 16;
const MAX_HEAD_DIM: u32 = 1 << 16;
const MAX_CONTEXT: u32 = i32::MAX as u32;

impl LlamaConfig {
    /// Reads and checks the metadata of `file`.
    ///
    /// # Errors
    /// Names the key that is missing or doesn't fit, with what was found and what would fit.
    pub fn read(file: &dyn ModelFile) -> Result<Self, ModelError> {
        let meta = Metadata::new(file, NAME);
        if let Some(experts) = meta.count("expert_count", 0..=u32::MAX)?.filter(|&n| n > 0) {
            return Err(ModelError::Unsupported {
                what: "a mixture of experts",
                key: meta.key("expert_count"),
                found: experts.to_string(),
            });
        }
        let layers = meta.required("block_count", 1..=MAX_LAYERS)?;
        let hidden = meta.required("embedding_length", 1..=MAX_WIDTH)?;
        let ffn = meta.required("feed_forward_length", 1..=MAX_WIDTH)?;
        let heads = meta.required("attention.head_count", 1..=MAX_HEADS)?;
        let kv_heads = meta.count("attention.head_count_kv", 1..=heads)?;
        let kv_heads = kv_heads.unwrap_or(heads);
        if !heads.is_multiple_of(kv_heads) {
            return Err(ModelError::Key {
                key: meta.key("attention.head_count_kv"),
                found: kv_heads.to_string(),
                expected: format!("a divisor of attention.head_count, which is {heads}"),
            });
        }
        let key_dim = match meta.count("attention.key_length", 1..=MAX_HEAD_DIM)? {
            Some(n) => n,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(ModelError::Key {
                    key: meta.key("attention.head_count"),
                    found: heads.to_string(),
                    expected: format!(
                        "a divisor of embedding_length, which is {hidden}, as attention.key_length is missing"
                    ),
                });
            }
        };
        let value_dim = meta.count("attention.value_length", 1..=MAX_HEAD_DIM)?;
        let rope_dims = meta.count("rope.dimension_count", 2..=key_dim)?;
        let rope_dims = rope_dims.unwrap_or(key_dim);
        if !rope_dims.is_multiple_of(2) {
            return Err(ModelError::Key {
                key: meta.key("rope.dimension_count"),
                found: rope_dims.to_string(),
                expected: format!("an even number up to the head's {key_dim}"),
            });
        }
        let eps = "attention.layer_norm_rms_epsilon";
        let norm_eps = match meta.float(eps, |x| (0.0..1.0).contains(&x), "from 0 to 1")? {
            Some(eps) => eps,
            None => return meta.refuse(&meta.key(eps), None, "a number from 0 to 1"),
        };
        let rope_base = meta.float("rope.freq_base", |x| x > 0.0, "a number above 0")?;
        let context_length = meta.required("context_length", 1..=MAX_CONTEXT)?;
        Ok(LlamaConfig {
            layers,
            hidden,
            ffn,
            heads,
            kv_heads,
            key_dim,
            value_dim: value_dim.unwrap_or(key_dim),
            vocabulary: vocabulary(file, hidden)?,
            context_length,
            norm_eps,
            rope_dims,
            rope_base: rope_base.unwrap_or(10_000.0),
            rope_scaling: rope_scaling(&meta, context_length)?,
        })
    }
}

/// Rows of the token embedding.
fn vocabulary(file: &dyn ModelFile, hidden: u32) -> Result<u32, ModelError> {
    let expected = || format!("[vocabulary, {hidden}]");
    let Some(ty) = file.tensor(EMBEDDING)? else {
        return Err(ModelError::MissingTensor {
            name: EMBEDDING.into(),
            expected: expected(),
        });
    };
    match ty.shape.as_fixed().as_deref() {
        Some(&[rows, width]) if width == hidden && (1..=i32::MAX as u32).contains(&rows) => {
            Ok(rows)
        }
        _ => Err(ModelError::TensorShape {
            name: EMBEDDING.into(),
            found: ty,
            expected: expected(),
        }),
    }
}

/// Context extension as the metadata has it; a factor without a type is linear.
fn rope_scaling(meta: &Metadata<'_>, context_length: u32) -> Result<RopeScaling, ModelError> {
    let positive = |name: &str| meta.float(name, |x| x > 0.0, "a number above 0");
    let finite = |name: &str| meta.float(name, |_| true, "a finite number");
    let factor = || {
        // 0 stands for "not given" in files of early converters
        let given = |name: &str| meta.float(name, |x| x >= 0.0, "a number, 0 or above");
        let factor = given("rope.scaling.factor")?.filter(|&x| x > 0.0);
        let factor = match factor {
            None => given("rope.scale_linear")?.filter(|&x| x > 0.0),
            some => some,
        };
        Ok::<_, ModelError>(factor.unwrap_or(1.0))
    };
    match meta.text("rope.scaling.type")? {
        Some("none") => Ok(RopeScaling::None),
        None | Some("linear") => Ok(match factor()? {
            1.0 => RopeScaling::None,
            factor => RopeScaling::Linear { factor },
        }),
        Some("yarn") => {
            let original = "rope.scaling.original_context_length";
            let original = meta.count(original, 1..=MAX_CONTEXT)?;
            Ok(RopeScaling::Yarn {
                factor: factor()?,
                original_context: original.unwrap_or(context_length),
                ext_factor: finite("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0),
                attn_factor: positive("rope.scaling.attn_factor")?.unwrap_or(1.0),
                beta_fast: positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            })
        }
        Some(other) => {
            let key = meta.key("rope.scaling.type");
            meta.refuse(&key, Some(MetaValue::Text(other)), "none, linear or yarn")
        }
    }
}

const EMBEDDING: &str = "token_embd.weight";

/// Builds the graph of `file`.
///
/// # Errors
/// Metadata or tensors that are missing or don't fit; each error names the culprit.
pub fn build(file: &dyn ModelFile) -> Result<Architecture, ModelError> {
    let config = LlamaConfig::read(file)?;
    let mut graph = Graph::new(NAME);
    let mut b = Builder::new(&mut graph, file, &config)?;
    let mut x = b
        .graph
        .add("embed", Op::Embedding, &[b.embedding, b.tokens])?;
    for layer in 0..config.layers {
        x = b.layer(layer, x)?;
    }
    let logits = b.output(x)?;
    graph.set_output(logits)?;
    Ok(Architecture {
        name: NAME,
        graph,
        context_length: config.context_length,
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
    config: &'a LlamaConfig,
    embedding: ValueId,
    tokens: ValueId,
    positions: ValueId,
    output_rows: ValueId,
    freq_factors: Option<ValueId>,
}

impl<'a> Builder<'a> {
    fn new(
        graph: &'a mut Graph,
        file: &'a dyn ModelFile,
        config: &'a LlamaConfig,
    ) -> Result<Self, ModelError> {
        let weights = Weights { file };
        let ids = |dim| TensorType::new(DType::I32, [dim]);
        let tokens = graph.add_input(input::TOKENS, ids(Dim::TOKENS))?;
        let positions = graph.add_input(input::POSITIONS, ids(Dim::TOKENS))?;
        let output_rows = graph.add_input(input::OUTPUT_ROWS, ids(Dim::OUTPUTS))?;
        let table = [config.vocabulary, config.hidden];
        let embedding = weights.required(graph, EMBEDDING, &table)?;
        let pairs = [config.rope_dims / 2];
        let freq_factors = weights.optional(graph, "rope_freqs.weight", &pairs)?;
        Ok(Builder {
            graph,
            weights,
            config,
            embedding,
            tokens,
            positions,
            output_rows,
            freq_factors,
        })
    }

    /// One block: `x + attention(norm(x))`, then `x + ffn(norm(x))`.
    fn layer(&mut self, n: u32, x: ValueId) -> Result<ValueId, ModelError> {
        let x = {
            let normed = self.norm(&layer_name(n, "attn_norm"), &tensor(n, "attn_norm"), x)?;
            let attended = self.attention(n, normed)?;
            let add = Op::Binary(BinaryOp::Add);
            self.graph
                .add(layer_name(n, "attn.residual"), add, &[x, attended])?
        };
        let normed = self.norm(&layer_name(n, "ffn_norm"), &tensor(n, "ffn_norm"), x)?;
        let fed = self.feed_forward(n, normed)?;
        let add = Op::Binary(BinaryOp::Add);
        Ok(self
            .graph
            .add(layer_name(n, "ffn.residual"), add, &[x, fed])?)
    }

    fn attention(&mut self, n: u32, x: ValueId) -> Result<ValueId, ModelError> {
        let c = self.config;
        let q = self.heads(n, "q", x, c.heads, c.key_dim)?;
        let q = self.rope(n, "q_rope", q)?;
        let k = self.heads(n, "k", x, c.kv_heads, c.key_dim)?;
        let k = self.rope(n, "k_rope", k)?;
        let v = self.heads(n, "v", x, c.kv_heads, c.value_dim)?;
        let k = self.append(n, "k", k, c.key_dim)?;
        let v = self.append(n, "v", v, c.value_dim)?;
        let attention = Op::Attention {
            kv: AttentionKv::State { k, v },
            causal: true,
            mask: false,
            scale: 1.0 / (c.key_dim as f32).sqrt(),
            soft_cap: None,
            window: None,
        };
        let name = layer_name(n, "attn.attention");
        let y = self.graph.add(name, attention, &[q, self.positions])?;
        let width = width(c.heads, c.value_dim, "attention.head_count")?;
        let merge = Op::Reshape {
            shape: [Dim::TOKENS, Dim::Fixed(width)].into(),
        };
        let y = self.graph.add(layer_name(n, "attn.merged"), merge, &[y])?;
        self.linear(n, "attn.output", "attn_output", y, [c.hidden, width])
    }

    /// A projection of `x`, cut into heads.
    fn heads(
        &mut self,
        n: u32,
        which: &str,
        x: ValueId,
        heads: u32,
        dim: u32,
    ) -> Result<ValueId, ModelError> {
        let width = width(heads, dim, "attention.head_count")?;
        let (name, from) = (format!("attn.{which}"), format!("attn_{which}"));
        let y = self.linear(n, &name, &from, x, [width, self.config.hidden])?;
        let cut = Op::Reshape {
            shape: [Dim::TOKENS, Dim::Fixed(heads), Dim::Fixed(dim)].into(),
        };
        let name = layer_name(n, &format!("attn.{which}_heads"));
        Ok(self.graph.add(name, cut, &[y])?)
    }

    fn rope(&mut self, n: u32, name: &str, x: ValueId) -> Result<ValueId, ModelError> {
        let op = Op::Rope {
            style: RopeStyle::Interleaved,
            dims: self.config.rope_dims,
            base: self.config.rope_base,
            scaling: self.config.rope_scaling,
        };
        let mut operands = vec![x, self.positions];
        operands.extend(self.freq_factors);
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
        let gate = self.linear(n, "ffn.gate", "ffn_gate", x, [ffn, hidden])?;
        let up = self.linear(n, "ffn.up", "ffn_up", x, [ffn, hidden])?;
        let swiglu = Op::GatedActivation(Activation::Silu);
        let y = self
            .graph
            .add(layer_name(n, "ffn.act"), swiglu, &[gate, up])?;
        self.linear(n, "ffn.down", "ffn_down", y, [hidden, ffn])
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
        let weight = self.weights.required(self.graph, &tensor(n, from), &dims)?;
        let bias = format!("blk.{n}.{from}.bias");
        let bias = self.weights.optional(self.graph, &bias, &dims[..1])?;
        let mut operands = vec![x, weight];
        operands.extend(bias);
        Ok(self.graph.add(layer_name(n, name), Op::Linear, &operands)?)
    }

    fn norm(&mut self, name: &str, tensor: &str, x: ValueId) -> Result<ValueId, ModelError> {
        let weight = self
            .weights
            .required(self.graph, tensor, &[self.config.hidden])?;
        let eps = self.config.norm_eps;
        Ok(self.graph.add(name, Op::RmsNorm { eps }, &[x, weight])?)
    }

    /// Logits of the wanted rows; the embedding's table serves where there is no `output.weight`.
    fn output(&mut self, x: ValueId) -> Result<ValueId, ModelError> {
        let rows = self.graph.add(
            "output.rows",
            Op::Gather { axis: 0 },
            &[x, self.output_rows],
        )?;
        let normed = self.norm("output.norm", "output_norm.weight", rows)?;
        let dims = [self.config.vocabulary, self.config.hidden];
        let own = self.weights.optional(self.graph, "output.weight", &dims)?;
        let weight = own.unwrap_or(self.embedding);
        Ok(self.graph.add(LOGITS, Op::Linear, &[normed, weight])?)
    }
}

fn layer_name(n: u32, name: &str) -> String {
    format!("layers.{n}.{name}")
}

fn tensor(n: u32, name: &str) -> String {
    format!("blk.{n}.{name}.weight")
}

/// Elements of all heads together.
fn width(heads: u32, dim: u32, key: &str) -> Result<u32, ModelError> {
    let width = heads.checked_mul(dim).filter(|&w| w <= MAX_WIDTH);
    width.ok_or_else(|| ModelError::Key {
        key: format!("{NAME}.{key}"),
        found: format!("{heads} heads of {dim}"),
        expected: format!("at most {MAX_WIDTH} elements together"),
    })
}
