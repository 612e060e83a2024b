//! A tiny model in a Hugging Face folder, with weights of a fixed pseudo-random sequence and the
//! byte-level tokenizer of `tests/data/tokenizers`. It answers nonsense.

use std::path::Path;

use serde_json::{Map, Value, json};

/// Tokens of [`TOKENIZER`].
pub const TOKENS: u32 = 401;
/// Rows of the embedding: some more.
pub const ROWS: u64 = 408;
/// The byte-level tokenizer; its tokens 0 to 2 begin a text and a turn and end a turn.
pub const TOKENIZER: &str = include_str!("../../../tests/data/tokenizers/byte_level.json");

const HIDDEN: u64 = 32;

/// The configuration.
pub fn config() -> Value {
    json!({
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "max_position_embeddings": 256,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false,
        "vocab_size": ROWS,
    })
}

/// Names and shapes of the tensors.
pub fn tensors() -> Vec<(String, Vec<u64>)> {
    let mut tensors: Vec<(String, Vec<u64>)> = vec![
        ("model.embed_tokens.weight".into(), vec![ROWS, HIDDEN]),
        ("lm_head.weight".into(), vec![ROWS, HIDDEN]),
        ("model.norm.weight".into(), vec![HIDDEN]),
    ];
    for (name, shape) in [
        ("input_layernorm", vec![HIDDEN]),
        ("post_attention_layernorm", vec![HIDDEN]),
        ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
        ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
        ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
        ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
        ("mlp.gate_proj", vec![48, HIDDEN]),
        ("mlp.up_proj", vec![48, HIDDEN]),
        ("mlp.down_proj", vec![HIDDEN, 48]),
    ] {
        tensors.push((format!("model.layers.0.{name}.weight"), shape));
    }
    tensors
}

/// Writes these tensors to the folder.
pub fn write_tensors(folder: &Path, tensors: &[(String, Vec<u64>)]) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    let mut seed = 1u32;
    for (name, shape) in tensors {
        let start = data.len();
        let scale = 2.0 / (*shape.last().unwrap() as f32).sqrt();
        for _ in 0..shape.iter().product() {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = (seed >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
            let x = if shape.len() == 1 { 1.0 } else { scale * x };
            data.extend(f32::to_le_bytes(x));
        }
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
}

/// A folder with the model and its tokenizer.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_tensors(folder.path(), &tensors());
    write(folder.path(), "config.json", &config().to_string());
    write(folder.path(), "tokenizer.json", TOKENIZER);
    folder
}

/// Writes a text to a file of the folder.
pub fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}
