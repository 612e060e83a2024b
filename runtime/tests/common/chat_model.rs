//! A tiny model in a GGUF file that carries a chat template, with weights of a fixed pseudo-random
//! sequence. It answers nonsense.
//!
//! Tests of other packages include this file by its path.
#![allow(dead_code)] // each includer uses a part

use anynpu_graphs::import::gguf::GgufWriter;
use anynpu_ir::DType;

/// Tokens beyond the 256 bytes: unknown, begin, end, and the markers of turns.
pub const SPECIAL: [&str; 5] = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"];

/// The id of `<|im_start|>`.
pub const IM_START: u32 = 3;
/// The id of `<|im_end|>`, the token that ends a turn.
pub const IM_END: u32 = 4;

/// Turns in the manner of ChatML.
pub const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}{% if message.role not in ['system', 'user', 'assistant', 'tool'] %}{{ raise_exception('Unknown role: ' + message.role) }}{% endif %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const HIDDEN: u32 = 32;
const FFN: u32 = 48;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const LAYERS: u32 = 2;

/// The file's bytes, with this template or none.
pub fn chat_model(template: Option<&str>) -> Vec<u8> {
    let mut tokens: Vec<String> = SPECIAL.map(String::from).into();
    tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    let vocabulary = tokens.len() as u32;
    // kinds of the format: 2 unknown, 3 control, 6 byte
    let kinds: Vec<i32> = (0..vocabulary)
        .map(|i| match i {
            0 => 2,
            1..5 => 3,
            _ => 6,
        })
        .collect();
    let mut file = GgufWriter::new();
    file.set("general.architecture", "llama").unwrap();
    file.set("general.name", "tiny chat").unwrap();
    for (key, value) in [
        ("context_length", 1024),
        ("embedding_length", HIDDEN),
        ("block_count", LAYERS),
        ("feed_forward_length", FFN),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
    ] {
        file.set(&format!("llama.{key}"), &value).unwrap();
    }
    file.set("llama.attention.layer_norm_rms_epsilon", &1e-5f32)
        .unwrap();
    file.set("tokenizer.ggml.model", "llama").unwrap();
    file.set("tokenizer.ggml.tokens", &tokens).unwrap();
    let scores = vec![0f32; tokens.len()];
    file.set("tokenizer.ggml.scores", &scores).unwrap();
    file.set("tokenizer.ggml.token_type", &kinds).unwrap();
    file.set("tokenizer.ggml.add_space_prefix", &false).unwrap();
    file.set("tokenizer.ggml.bos_token_id", &1u32).unwrap();
    file.set("tokenizer.ggml.eos_token_id", &2u32).unwrap();
    file.set("tokenizer.ggml.eot_token_id", &IM_END).unwrap();
    if let Some(template) = template {
        file.set("tokenizer.chat_template", template).unwrap();
    }
    let kv = HIDDEN / HEADS * KV_HEADS;
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![HIDDEN, vocabulary]),
        ("output_norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for n in 0..LAYERS {
        for (name, dims) in [
            ("attn_norm", vec![HIDDEN]),
            ("attn_q", vec![HIDDEN, HIDDEN]),
            ("attn_k", vec![HIDDEN, kv]),
            ("attn_v", vec![HIDDEN, kv]),
            ("attn_output", vec![HIDDEN, HIDDEN]),
            ("ffn_norm", vec![HIDDEN]),
            ("ffn_gate", vec![HIDDEN, FFN]),
            ("ffn_up", vec![HIDDEN, FFN]),
            ("ffn_down", vec![FFN, HIDDEN]),
        ] {
            tensors.push((format!("blk.{n}.{name}.weight"), dims));
        }
    }
    for (name, dims) in &tensors {
        let dims: Vec<u64> = dims.iter().map(|&d| d.into()).collect();
        file.tensor(name, DType::F32, &dims).unwrap();
    }
    let mut bytes = Vec::new();
    let mut out = file.begin(&mut bytes).unwrap();
    let mut seed = 1u32;
    for (name, dims) in &tensors {
        let mut data = Vec::new();
        let scale = 2.0 / (dims[0] as f32).sqrt();
        for _ in 0..dims.iter().product() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = (seed >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
            let x = if dims.len() == 1 { 1.0 } else { scale * x };
            data.extend(x.to_le_bytes());
        }
        out.append(name, &data).unwrap();
    }
    out.finish().unwrap();
    bytes
}
