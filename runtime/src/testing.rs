//! A small llama model in memory, with weights of a fixed pseudo-random sequence.
//!
//! Integration tests include this file by its path, so it uses nothing of this crate.
#![allow(dead_code)] // each includer uses a part

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use anynpu_graphs::arch::{self, MetaValue, ModelFile};
use anynpu_graphs::{Model, ModelError, TensorData};
use anynpu_ir::{DType, Shape, TensorType};

pub(crate) const VOCABULARY: u32 = 64;
pub(crate) const CONTEXT: u32 = 96;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const FFN: u32 = 48;

#[derive(Debug, Default)]
struct Tensors(BTreeMap<String, (TensorType, Vec<u8>)>);

struct File<'a> {
    head_dim: u32,
    layers: u32,
    tensors: &'a Tensors,
}

impl ModelFile for File<'_> {
    fn metadata(&self, key: &str) -> Option<MetaValue<'_>> {
        let n = |n: u32| Some(MetaValue::Unsigned(n.into()));
        match key.strip_prefix("llama.").unwrap_or(key) {
            "general.architecture" => Some(MetaValue::Text("llama")),
            "block_count" => n(self.layers),
            "embedding_length" => n(HEADS * self.head_dim),
            "feed_forward_length" => n(FFN),
            "attention.head_count" => n(HEADS),
            "attention.head_count_kv" => n(KV_HEADS),
            "context_length" => n(CONTEXT),
            "attention.layer_norm_rms_epsilon" => Some(MetaValue::Float(1e-5)),
            _ => None,
        }
    }

    fn list_item(&self, _: &str, _: usize) -> Option<MetaValue<'_>> {
        None
    }

    fn tensor(&self, name: &str) -> Result<Option<TensorType>, ModelError> {
        Ok(self.tensors.0.get(name).map(|(ty, _)| ty.clone()))
    }
}

impl TensorData for Tensors {
    fn tensor(&self, name: &str) -> Option<(DType, Cow<'_, [u8]>)> {
        let (ty, bytes) = self.0.get(name)?;
        Some((ty.dtype, bytes.into()))
    }
}

/// An F32 llama model of `layers` layers, 32 wide, with [`VOCABULARY`] tokens.
pub(crate) fn tiny_llama(layers: u32) -> Model {
    llama_with_heads_of(8, layers)
}

/// As [`tiny_llama`], with heads of `head_dim` elements, four to the width.
pub(crate) fn llama_with_heads_of(head_dim: u32, layers: u32) -> Model {
    let mut tensors = Tensors::default();
    let mut seed = 1u32;
    let mut add = |name: String, dims: &[u32]| {
        let fan_in = if dims.len() == 2 { dims[1] } else { 1 };
        let scale = 1.0 / (fan_in as f32).sqrt();
        let count: u32 = dims.iter().product();
        let bytes = (0..count).flat_map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = (seed >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
            let x = if dims.len() == 1 {
                1.0 + 0.1 * x
            } else {
                2.0 * scale * x
            };
            x.to_ne_bytes()
        });
        let ty = TensorType::new(DType::F32, Shape::fixed(dims));
        tensors.0.insert(name, (ty, bytes.collect()));
    };
    let (hidden, kv) = (HEADS * head_dim, KV_HEADS * head_dim);
    add("token_embd.weight".into(), &[VOCABULARY, hidden]);
    add("output_norm.weight".into(), &[hidden]);
    for n in 0..layers {
        for (name, dims) in [
            ("attn_norm", &[hidden][..]),
            ("attn_q", &[hidden, hidden]),
            ("attn_k", &[kv, hidden]),
            ("attn_v", &[kv, hidden]),
            ("attn_output", &[hidden, hidden]),
            ("ffn_norm", &[hidden]),
            ("ffn_gate", &[FFN, hidden]),
            ("ffn_up", &[FFN, hidden]),
            ("ffn_down", &[hidden, FFN]),
        ] {
            add(format!("blk.{n}.{name}.weight"), dims);
        }
    }
    let file = File {
        head_dim,
        layers,
        tensors: &tensors,
    };
    let architecture = arch::build(&file).expect("the tiny model is valid");
    Model::new(Some("tiny"), architecture, Arc::new(tensors))
}
