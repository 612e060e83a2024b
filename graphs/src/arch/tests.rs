use std::collections::BTreeMap;

use anynpu_ir::{DType, Dim, Shape, SymbolValues, TensorType};
use proptest::prelude::*;

use super::*;
use crate::arch::DecoderConfig;

/// A model file in memory.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub meta: BTreeMap<String, Owned>,
    pub tensors: BTreeMap<String, TensorType>,
}

#[derive(Clone, Debug)]
pub(crate) enum Owned {
    U(u64),
    I(i64),
    F(f64),
    T(String),
    L(usize),
}

impl ModelFile for Fake {
    fn metadata(&self, key: &str) -> Option<MetaValue<'_>> {
        Some(match self.meta.get(key)? {
            Owned::U(n) => MetaValue::Unsigned(*n),
            Owned::I(n) => MetaValue::Signed(*n),
            Owned::F(x) => MetaValue::Float(*x),
            Owned::T(t) => MetaValue::Text(t),
            Owned::L(n) => MetaValue::List(*n),
        })
    }

    fn list_item(&self, _: &str, _: usize) -> Option<MetaValue<'_>> {
        None
    }

    fn tensor(&self, name: &str) -> Result<Option<TensorType>, ModelError> {
        Ok(self.tensors.get(name).cloned())
    }
}

impl Fake {
    pub fn set(mut self, key: &str, value: Owned) -> Self {
        self.meta.insert(key.into(), value);
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.meta.remove(name);
        self.tensors.remove(name);
        self
    }

    fn add(&mut self, name: String, dims: &[u32]) {
        self.tensors
            .insert(name, TensorType::new(DType::F32, Shape::fixed(dims)));
    }
}

/// Sizes of a llama model: layers, heads, kv heads, head size, ffn, vocabulary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub ffn: u32,
    pub vocabulary: u32,
}

pub(crate) const SMALL: Sizes = Sizes {
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 8,
    ffn: 24,
    vocabulary: 17,
};

pub(crate) fn llama(s: Sizes) -> Fake {
    let mut f = Fake::default();
    let hidden = s.heads * s.head_dim;
    let mut set = |key: &str, value| f.meta.insert(key.into(), value);
    set("general.architecture", Owned::T("llama".into()));
    for (key, n) in [
        ("block_count", s.layers),
        ("embedding_length", hidden),
        ("feed_forward_length", s.ffn),
        ("attention.head_count", s.heads),
        ("attention.head_count_kv", s.kv_heads),
        ("context_length", 64),
    ] {
        set(&format!("llama.{key}"), Owned::U(n.into()));
    }
    set("llama.attention.layer_norm_rms_epsilon", Owned::F(1e-5));
    f.add("token_embd.weight".into(), &[s.vocabulary, hidden]);
    f.add("output_norm.weight".into(), &[hidden]);
    for n in 0..s.layers {
        let kv = s.kv_heads * s.head_dim;
        for (name, dims) in [
            ("attn_norm", &[hidden][..]),
            ("attn_q", &[hidden, hidden]),
            ("attn_k", &[kv, hidden]),
            ("attn_v", &[kv, hidden]),
            ("attn_output", &[hidden, hidden]),
            ("ffn_norm", &[hidden]),
            ("ffn_gate", &[s.ffn, hidden]),
            ("ffn_up", &[s.ffn, hidden]),
            ("ffn_down", &[hidden, s.ffn]),
        ] {
            f.add(format!("blk.{n}.{name}.weight"), dims);
        }
    }
    f
}

fn error(file: &Fake) -> String {
    build(file).unwrap_err().to_string()
}

#[test]
fn the_graph_has_the_documented_face_and_names() {
    let a = build(&llama(SMALL)).unwrap();
    let g = &a.graph;
    let inputs: Vec<_> = g
        .inputs()
        .iter()
        .map(|&id| g.value(id).name.as_str())
        .collect();
    assert_eq!(inputs, ["tokens", "positions", "output_rows"]);
    assert_eq!(
        g.ty(g.inputs()[2]),
        &TensorType::new(DType::I32, [Dim::OUTPUTS])
    );
    assert_eq!(g.outputs().len(), 1);
    let logits = g.value(g.outputs()[0]);
    assert_eq!(logits.name, LOGITS);
    assert_eq!(
        logits.ty,
        TensorType::new(DType::F32, [Dim::OUTPUTS, Dim::Fixed(17)])
    );
    let states: Vec<_> = g.states().iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        states,
        ["layers.0.k", "layers.0.v", "layers.1.k", "layers.1.v"]
    );
    let kv = TensorType::new(DType::F32, [Dim::CAPACITY, Dim::Fixed(2), Dim::Fixed(8)]);
    assert!(g.states().iter().all(|s| s.ty == kv && s.axis == 0));
    for name in [
        "embed",
        "layers.1.attn_norm",
        "layers.0.attn.q",
        "layers.1.ffn.gate",
    ] {
        assert!(g.nodes().iter().any(|n| n.name == name), "{name}");
    }
    let unlayered: Vec<_> = g.nodes().iter().filter(|n| n.layer().is_none()).collect();
    let names: Vec<_> = unlayered.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(
        names,
        ["embed", "output.rows", "output.norm", "output.logits"]
    );
}

#[test]
fn an_absent_output_weight_ties_the_embedding() {
    let tied = build(&llama(SMALL)).unwrap();
    let untied = {
        let mut f = llama(SMALL);
        f.add("output.weight".into(), &[17, 32]);
        build(&f).unwrap()
    };
    let weight_of_logits = |a: &Architecture| {
        let node = a.graph.nodes().last().unwrap();
        a.graph.value(node.inputs[1]).name.clone()
    };
    assert_eq!(weight_of_logits(&tied), "token_embd.weight");
    assert_eq!(weight_of_logits(&untied), "output.weight");
}

#[test]
fn biases_and_frequency_factors_are_used_where_the_file_has_them() {
    let mut f = llama(SMALL);
    f.add("blk.1.attn_q.bias".into(), &[32]);
    f.add("rope_freqs.weight".into(), &[4]);
    let a = build(&f).unwrap();
    let operands = |name: &str| {
        let node = a.graph.nodes().iter().find(|n| n.name == name).unwrap();
        node.inputs.len()
    };
    assert_eq!(
        (operands("layers.0.attn.q"), operands("layers.1.attn.q")),
        (2, 3)
    );
    assert_eq!(operands("layers.0.attn.k_rope"), 3);
}

#[test]
fn a_missing_or_misshapen_tensor_is_named_with_what_would_fit() {
    let e = error(&llama(SMALL).without("blk.1.attn_k.weight"));
    assert_eq!(
        e,
        "tensor 'blk.1.attn_k.weight' is missing; expected it with shape [16, 32]"
    );
    let mut f = llama(SMALL);
    f.add("blk.0.ffn_down.weight".into(), &[24, 32]);
    let e = error(&f);
    assert_eq!(
        e,
        "tensor 'blk.0.ffn_down.weight' is f32[24, 32]; expected shape [32, 24]"
    );
    let e = error(&llama(SMALL).without("token_embd.weight"));
    assert!(
        e.contains("token_embd.weight") && e.contains("[vocabulary, 32]"),
        "{e}"
    );
}

#[test]
fn an_unknown_architecture_is_named_and_the_known_ones_listed() {
    let f = llama(SMALL).set("general.architecture", Owned::T("mamba".into()));
    assert_eq!(
        error(&f),
        "architecture 'mamba' (general.architecture) is not known; known: llama, qwen2, qwen3, \
         qwen3moe, gemma, gemma2, gemma3, phi3, bert, distilbert, mobilebert"
    );
    let e = error(&llama(SMALL).without("general.architecture"));
    assert!(
        e.contains("general.architecture") && e.contains("missing"),
        "{e}"
    );
    let e = error(&llama(SMALL).set("general.architecture", Owned::L(3)));
    assert!(e.contains("a list of 3"), "{e}");
}

#[test]
fn hostile_figures_are_refused_by_name() {
    let huge = u64::MAX;
    for (key, value) in [
        ("block_count", Owned::U(0)),
        ("block_count", Owned::U(huge)),
        ("embedding_length", Owned::U(0)),
        ("embedding_length", Owned::I(-1)),
        ("feed_forward_length", Owned::L(4)),
        ("attention.head_count", Owned::U(0)),
        ("attention.head_count", Owned::U(5)),
        ("attention.head_count_kv", Owned::U(0)),
        ("attention.head_count_kv", Owned::U(3)),
        ("attention.head_count_kv", Owned::U(8)),
        ("attention.key_length", Owned::U(huge)),
        ("rope.dimension_count", Owned::U(0)),
        ("rope.dimension_count", Owned::U(3)),
        ("rope.dimension_count", Owned::U(10)),
        ("rope.freq_base", Owned::F(0.0)),
        ("rope.freq_base", Owned::F(f64::NAN)),
        ("rope.scaling.type", Owned::T("spiral".into())),
        ("rope.scaling.type", Owned::U(1)),
        ("rope.scaling.factor", Owned::F(-2.0)),
        ("attention.layer_norm_rms_epsilon", Owned::F(f64::INFINITY)),
        ("attention.layer_norm_rms_epsilon", Owned::T("small".into())),
        ("context_length", Owned::U(0)),
        ("context_length", Owned::U(1 << 31)),
        ("expert_count", Owned::U(huge)),
        ("expert_count", Owned::F(8.0)),
    ] {
        let key = format!("llama.{key}");
        let e = error(&llama(SMALL).set(&key, value.clone()));
        let named = key.rsplit_once('.').unwrap().1;
        assert!(e.contains(named), "{key} = {value:?}: {e}");
    }
    for key in ["block_count", "context_length", "attention.head_count"] {
        let key = format!("llama.{key}");
        assert!(
            error(&llama(SMALL).without(&key)).contains("missing"),
            "{key}"
        );
    }
}

#[test]
fn rope_scaling_follows_the_metadata() {
    let config = |pairs: &[(&str, Owned)]| {
        let f = pairs.iter().fold(llama(SMALL), |f, (k, v)| {
            f.set(&format!("llama.rope.{k}"), v.clone())
        });
        DecoderConfig::read(&f, Family::find("llama").unwrap()).unwrap()
    };
    use anynpu_ir::RopeScaling::*;
    assert_eq!(config(&[]).rope.scaling, None);
    assert_eq!(config(&[]).rope.base, 10_000.0);
    assert_eq!(
        config(&[("scaling.factor", Owned::F(4.0))]).rope.scaling,
        Linear { factor: 4.0 }
    );
    assert_eq!(
        config(&[("scale_linear", Owned::F(2.0))]).rope.scaling,
        Linear { factor: 2.0 }
    );
    let none = ("scaling.type", Owned::T("none".into()));
    assert_eq!(
        config(&[none, ("scaling.factor", Owned::F(4.0))])
            .rope
            .scaling,
        None
    );
    let yarn = config(&[
        ("scaling.type", Owned::T("yarn".into())),
        ("scaling.factor", Owned::F(8.0)),
        ("scaling.original_context_length", Owned::U(32)),
    ]);
    assert_eq!(
        yarn.rope.scaling,
        Yarn {
            factor: 8.0,
            original_context: 32,
            ext_factor: 1.0,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        }
    );
}

fn sizes() -> impl Strategy<Value = Sizes> {
    (1u32..4, 1u32..4, 1u32..4, 1u32..5, 1u32..40, 1u32..50).prop_map(
        |(layers, group, kv_heads, pairs, ffn, vocabulary)| Sizes {
            layers,
            heads: group * kv_heads,
            kv_heads,
            head_dim: 2 * pairs,
            ffn,
            vocabulary,
        },
    )
}

proptest! {
    #[test]
    fn every_valid_size_gives_a_graph_with_logits_of_the_vocabulary(s in sizes()) {
        let a = build(&llama(s)).unwrap();
        let g = &a.graph;
        prop_assert_eq!(g.states().len(), 2 * s.layers as usize);
        let layered = g.nodes().iter().filter(|n| n.layer().is_some()).count();
        prop_assert_eq!(layered % s.layers as usize, 0);
        prop_assert_eq!(layered + 4, g.nodes().len());
        let bytes = g.ty(g.outputs()[0]).bytes(&SymbolValues::step(3, 0, 2, 8));
        prop_assert_eq!(bytes, Some(2 * 4 * s.vocabulary as usize));
    }

    #[test]
    fn no_metadata_makes_building_panic(
        key in prop::sample::select(vec![
            "block_count", "embedding_length", "feed_forward_length", "attention.head_count",
            "attention.head_count_kv", "attention.key_length", "attention.value_length",
            "rope.dimension_count", "context_length",
        ]),
        value in prop_oneof![any::<u64>(), 0u64..100, Just(1u64 << 24), Just(u64::from(u32::MAX))],
    ) {
        let _ = build(&llama(SMALL).set(&format!("llama.{key}"), Owned::U(value)));
    }
}
