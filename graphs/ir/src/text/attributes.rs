//! Attributes of ops as `key: value` pairs.

use std::fmt;

use super::{Cursor, parse_dim, state};
use crate::{AttentionKv, Dim, Graph, Op, ParseError, RopeScaling, Shape, StateId};

/// The value of an attribute, as it is written.
pub(super) enum Field {
    Word(&'static str),
    Float(f32),
    Int(u32),
    Bool(bool),
    Dim(Dim),
    Shape(Shape),
    Ints(Vec<u32>),
    State(StateId),
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Word(word) => f.write_str(word),
            Field::Float(x) => write!(f, "{x:?}"),
            Field::Int(n) => write!(f, "{n}"),
            Field::Bool(b) => write!(f, "{b}"),
            Field::Dim(dim) => write!(f, "{dim}"),
            Field::Shape(shape) => write!(f, "{shape}"),
            Field::Ints(n) => write!(f, "{n:?}"),
            Field::State(id) => write!(f, "@{}", id.0),
        }
    }
}

/// The attributes of `op` in the order in which they are written; unset options are left out.
pub(super) fn fields(op: &Op) -> Vec<(&'static str, Field)> {
    use Field::{Bool, Float, Int, Ints, Word};
    match *op {
        Op::Linear | Op::ExpertLinear | Op::Embedding | Op::Select => vec![],
        Op::MatMul {
            transpose_a,
            transpose_b,
        } => vec![
            ("transpose_a", Bool(transpose_a)),
            ("transpose_b", Bool(transpose_b)),
        ],
        Op::RmsNorm { eps } | Op::LayerNorm { eps } => vec![("eps", Float(eps))],
        Op::Rope {
            style,
            dims,
            base,
            scaling,
        } => {
            let mut fields = vec![
                ("style", Word(style.name())),
                ("dims", Int(dims)),
                ("base", Float(base)),
            ];
            fields.extend(scaling_fields(scaling));
            fields
        }
        Op::Attention {
            kv,
            causal,
            mask,
            scale,
            soft_cap,
            window,
        } => {
            let mut fields = vec![];
            if let AttentionKv::State { k, v } = kv {
                fields.extend([("k", Field::State(k)), ("v", Field::State(v))]);
            }
            fields.extend([
                ("causal", Bool(causal)),
                ("mask", Bool(mask)),
                ("scale", Float(scale)),
            ]);
            fields.extend(soft_cap.map(|cap| ("soft_cap", Float(cap))));
            fields.extend(window.map(|n| ("window", Int(n))));
            fields
        }
        Op::KvAppend { state, at } => {
            vec![("state", Field::State(state)), ("at", Field::Dim(at))]
        }
        Op::StateRead { state } => vec![("state", Field::State(state))],
        Op::CausalMask {
            keys,
            window,
            hidden,
        } => {
            let mut fields = vec![("keys", Field::Dim(keys)), ("hidden", Float(hidden))];
            fields.extend(window.map(|n| ("window", Int(n))));
            fields
        }
        Op::Softmax { axis }
        | Op::Gather { axis }
        | Op::Scatter { axis }
        | Op::Concat { axis }
        | Op::ArgMax { axis } => vec![("axis", Int(axis))],
        Op::Unary(f) => vec![("fn", Word(f.name()))],
        Op::Activation(f) | Op::GatedActivation(f) => vec![("fn", Word(f.name()))],
        Op::SoftCap { cap } => vec![("cap", Float(cap))],
        Op::Binary(f) => vec![("fn", Word(f.name()))],
        Op::Reshape { ref shape } | Op::Broadcast { ref shape } => {
            vec![("shape", Field::Shape(shape.clone()))]
        }
        Op::Transpose { ref perm } => vec![("perm", Ints(perm.clone()))],
        Op::Slice {
            axis,
            start,
            end,
            step,
        } => vec![
            ("axis", Int(axis)),
            ("start", Int(start)),
            ("end", Int(end)),
            ("step", Int(step)),
        ],
        Op::Split { axis, ref sizes } => {
            vec![("axis", Int(axis)), ("sizes", Ints(sizes.clone()))]
        }
        Op::Reduce {
            op,
            ref axes,
            keep_dims,
        } => vec![
            ("fn", Word(op.name())),
            ("axes", Ints(axes.clone())),
            ("keep_dims", Bool(keep_dims)),
        ],
        Op::Cast { to } => vec![("to", Word(to.name()))],
        Op::Quantize { to, axis } => {
            let mut fields = vec![("to", Word(to.name()))];
            fields.extend(axis.map(|axis| ("axis", Int(axis))));
            fields
        }
        Op::Dequantize { axis } => axis.map(|axis| ("axis", Int(axis))).into_iter().collect(),
        Op::TopK { k } => vec![("k", Int(k))],
        Op::Conv1d {
            stride,
            padding,
            dilation,
            groups,
        } => vec![
            ("stride", Int(stride)),
            ("padding", Int(padding)),
            ("dilation", Int(dilation)),
            ("groups", Int(groups)),
        ],
        Op::Conv2d {
            stride,
            padding,
            dilation,
            groups,
        } => vec![
            ("stride", Ints(stride.to_vec())),
            ("padding", Ints(padding.to_vec())),
            ("dilation", Ints(dilation.to_vec())),
            ("groups", Int(groups)),
        ],
        Op::Iota { start, length } => {
            vec![("start", Field::Dim(start)), ("length", Field::Dim(length))]
        }
    }
}

fn scaling_fields(scaling: RopeScaling) -> Vec<(&'static str, Field)> {
    use Field::{Float, Int, Word};
    match scaling {
        RopeScaling::None => vec![],
        RopeScaling::Linear { factor } => {
            vec![("scaling", Word("linear")), ("factor", Float(factor))]
        }
        RopeScaling::Yarn {
            factor,
            original_context,
            ext_factor,
            attn_factor,
            beta_fast,
            beta_slow,
        } => vec![
            ("scaling", Word("yarn")),
            ("factor", Float(factor)),
            ("original_context", Int(original_context)),
            ("ext_factor", Float(ext_factor)),
            ("attn_factor", Float(attn_factor)),
            ("beta_fast", Float(beta_fast)),
            ("beta_slow", Float(beta_slow)),
        ],
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => vec![
            ("scaling", Word("llama3")),
            ("factor", Float(factor)),
            ("low_freq_factor", Float(low_freq_factor)),
            ("high_freq_factor", Float(high_freq_factor)),
            ("original_context", Int(original_context)),
        ],
    }
}

/// The op called `name` with the attributes `a`.
pub(super) fn op(line: &Cursor<'_>, name: &str, a: &mut Attributes<'_>) -> Result<Op, ParseError> {
    let at = line;
    Ok(match name {
        "Linear" => Op::Linear,
        "ExpertLinear" => Op::ExpertLinear,
        "MatMul" => Op::MatMul {
            transpose_a: a.word(at, "transpose_a")?,
            transpose_b: a.word(at, "transpose_b")?,
        },
        "Embedding" => Op::Embedding,
        "RmsNorm" => Op::RmsNorm {
            eps: a.word(at, "eps")?,
        },
        "LayerNorm" => Op::LayerNorm {
            eps: a.word(at, "eps")?,
        },
        "Rope" => Op::Rope {
            style: a.word(at, "style")?,
            dims: a.word(at, "dims")?,
            base: a.word(at, "base")?,
            scaling: scaling(at, a)?,
        },
        "Attention" => Op::Attention {
            kv: match (a.optional_state(at, "k")?, a.optional_state(at, "v")?) {
                (None, None) => AttentionKv::Operands,
                (Some(k), Some(v)) => AttentionKv::State { k, v },
                _ => return Err(at.unexpected("both 'k' and 'v' or neither", name)),
            },
            causal: a.word(at, "causal")?,
            mask: a.word(at, "mask")?,
            scale: a.word(at, "scale")?,
            soft_cap: a.optional(at, "soft_cap")?,
            window: a.optional(at, "window")?,
        },
        "KvAppend" => Op::KvAppend {
            state: a.state(at, "state")?,
            at: a.dim(at, "at")?,
        },
        "StateRead" => Op::StateRead {
            state: a.state(at, "state")?,
        },
        "CausalMask" => Op::CausalMask {
            keys: a.dim(at, "keys")?,
            hidden: a.word(at, "hidden")?,
            window: a.optional(at, "window")?,
        },
        "Softmax" => Op::Softmax {
            axis: a.word(at, "axis")?,
        },
        "Unary" => Op::Unary(a.word(at, "fn")?),
        "Activation" => Op::Activation(a.word(at, "fn")?),
        "GatedActivation" => Op::GatedActivation(a.word(at, "fn")?),
        "SoftCap" => Op::SoftCap {
            cap: a.word(at, "cap")?,
        },
        "Binary" => Op::Binary(a.word(at, "fn")?),
        "Select" => Op::Select,
        "Gather" => Op::Gather {
            axis: a.word(at, "axis")?,
        },
        "Scatter" => Op::Scatter {
            axis: a.word(at, "axis")?,
        },
        "Reshape" => Op::Reshape {
            shape: a.shape(at, "shape")?,
        },
        "Transpose" => Op::Transpose {
            perm: a.ints(at, "perm")?,
        },
        "Broadcast" => Op::Broadcast {
            shape: a.shape(at, "shape")?,
        },
        "Slice" => Op::Slice {
            axis: a.word(at, "axis")?,
            start: a.word(at, "start")?,
            end: a.word(at, "end")?,
            step: a.word(at, "step")?,
        },
        "Concat" => Op::Concat {
            axis: a.word(at, "axis")?,
        },
        "Split" => Op::Split {
            axis: a.word(at, "axis")?,
            sizes: a.ints(at, "sizes")?,
        },
        "Reduce" => Op::Reduce {
            op: a.word(at, "fn")?,
            axes: a.ints(at, "axes")?,
            keep_dims: a.word(at, "keep_dims")?,
        },
        "Cast" => Op::Cast {
            to: a.word(at, "to")?,
        },
        "Quantize" => Op::Quantize {
            to: a.word(at, "to")?,
            axis: a.optional(at, "axis")?,
        },
        "Dequantize" => Op::Dequantize {
            axis: a.optional(at, "axis")?,
        },
        "TopK" => Op::TopK {
            k: a.word(at, "k")?,
        },
        "ArgMax" => Op::ArgMax {
            axis: a.word(at, "axis")?,
        },
        "Conv1d" => Op::Conv1d {
            stride: a.word(at, "stride")?,
            padding: a.word(at, "padding")?,
            dilation: a.word(at, "dilation")?,
            groups: a.word(at, "groups")?,
        },
        "Conv2d" => Op::Conv2d {
            stride: a.pair(at, "stride")?,
            padding: a.pair(at, "padding")?,
            dilation: a.pair(at, "dilation")?,
            groups: a.word(at, "groups")?,
        },
        "Iota" => Op::Iota {
            start: a.dim(at, "start")?,
            length: a.dim(at, "length")?,
        },
        _ => return Err(at.unexpected("the name of an op", name)),
    })
}

fn scaling(at: &Cursor<'_>, a: &mut Attributes<'_>) -> Result<RopeScaling, ParseError> {
    let kind: Option<String> = a.optional(at, "scaling")?;
    Ok(match kind.as_deref() {
        None => RopeScaling::None,
        Some("linear") => RopeScaling::Linear {
            factor: a.word(at, "factor")?,
        },
        Some("yarn") => RopeScaling::Yarn {
            factor: a.word(at, "factor")?,
            original_context: a.word(at, "original_context")?,
            ext_factor: a.word(at, "ext_factor")?,
            attn_factor: a.word(at, "attn_factor")?,
            beta_fast: a.word(at, "beta_fast")?,
            beta_slow: a.word(at, "beta_slow")?,
        },
        Some("llama3") => RopeScaling::Llama3 {
            factor: a.word(at, "factor")?,
            low_freq_factor: a.word(at, "low_freq_factor")?,
            high_freq_factor: a.word(at, "high_freq_factor")?,
            original_context: a.word(at, "original_context")?,
        },
        Some(kind) => return Err(at.unexpected("scaling linear, yarn or llama3", kind)),
    })
}

/// The attributes read from a line and not yet taken by its op.
pub(super) struct Attributes<'t>(Vec<(&'t str, Given<'t>)>);

/// The value of an attribute, as read.
enum Given<'t> {
    Word(&'t str),
    List(Vec<&'t str>),
    State(StateId),
}

impl<'t> Attributes<'t> {
    /// `{key: value, …}`, or nothing.
    pub(super) fn parse(line: &mut Cursor<'t>, graph: &Graph) -> Result<Self, ParseError> {
        if !line.next_is('{') {
            return Ok(Attributes(Vec::new()));
        }
        let pairs = line.list('{', '}', |line| {
            let key = line.word("an attribute's name")?;
            line.punct(':', "':'")?;
            let value = if line.next_is('@') {
                Given::State(state(line, graph)?)
            } else if line.next_is('[') {
                Given::List(line.list('[', ']', |line| line.word("a number"))?)
            } else {
                Given::Word(line.word("an attribute's value")?)
            };
            Ok((key, value))
        })?;
        Ok(Attributes(pairs))
    }

    /// Fails if an attribute was not taken.
    pub(super) fn end(&self, at: &Cursor<'_>) -> Result<(), ParseError> {
        match self.0.first() {
            None => Ok(()),
            Some((key, _)) => Err(at.unexpected("no other attribute", key)),
        }
    }

    fn take(&mut self, key: &str) -> Option<Given<'t>> {
        let i = self.0.iter().position(|(k, _)| *k == key)?;
        Some(self.0.remove(i).1)
    }

    fn required(&mut self, at: &Cursor<'_>, key: &'static str) -> Result<Given<'t>, ParseError> {
        let missing = || at.unexpected(key, "no such attribute");
        self.take(key).ok_or_else(missing)
    }

    fn optional<T: std::str::FromStr>(
        &mut self,
        at: &Cursor<'_>,
        key: &'static str,
    ) -> Result<Option<T>, ParseError> {
        self.take(key).map(|given| given.word(at, key)).transpose()
    }

    fn word<T: std::str::FromStr>(
        &mut self,
        at: &Cursor<'_>,
        key: &'static str,
    ) -> Result<T, ParseError> {
        self.required(at, key)?.word(at, key)
    }

    fn dim(&mut self, at: &Cursor<'_>, key: &'static str) -> Result<Dim, ParseError> {
        let word: String = self.word(at, key)?;
        parse_dim(&word).ok_or_else(|| at.unexpected("a number or a symbol", &word))
    }

    fn list<T>(
        &mut self,
        at: &Cursor<'_>,
        key: &'static str,
        item: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, ParseError> {
        let Given::List(words) = self.required(at, key)? else {
            return Err(at.unexpected("a list", key));
        };
        let item = |word: &str| item(word).ok_or_else(|| at.unexpected(key, word));
        words.into_iter().map(item).collect()
    }

    fn ints(&mut self, at: &Cursor<'_>, key: &'static str) -> Result<Vec<u32>, ParseError> {
        self.list(at, key, |word| word.parse().ok())
    }

    fn pair(&mut self, at: &Cursor<'_>, key: &'static str) -> Result<[u32; 2], ParseError> {
        let ints = self.ints(at, key)?;
        ints.try_into()
            .map_err(|_| at.unexpected("two numbers", key))
    }

    fn shape(&mut self, at: &Cursor<'_>, key: &'static str) -> Result<Shape, ParseError> {
        Ok(Shape(self.list(at, key, parse_dim)?))
    }

    fn state(&mut self, at: &Cursor<'_>, key: &'static str) -> Result<StateId, ParseError> {
        self.required(at, key)?.state(at, key)
    }

    fn optional_state(
        &mut self,
        at: &Cursor<'_>,
        key: &'static str,
    ) -> Result<Option<StateId>, ParseError> {
        self.take(key).map(|given| given.state(at, key)).transpose()
    }
}

impl Given<'_> {
    fn word<T: std::str::FromStr>(
        self,
        at: &Cursor<'_>,
        key: &'static str,
    ) -> Result<T, ParseError> {
        match self {
            Given::Word(word) => word.parse().map_err(|_| at.unexpected(key, word)),
            _ => Err(at.unexpected("one word or number", key)),
        }
    }

    fn state(self, at: &Cursor<'_>, key: &'static str) -> Result<StateId, ParseError> {
        match self {
            Given::State(id) => Ok(id),
            _ => Err(at.unexpected("a state's '@name'", key)),
        }
    }
}
