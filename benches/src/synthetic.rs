//! Models of real shapes with random weights.

use std::io::{self, Write};

use anynpu_graphs::import::gguf::{GgufWriteError, GgufWriter};
use anynpu_graphs::quant::{QuantizeError, quantize_row};
use anynpu_ir::DType;
use thiserror::Error;

/// The sizes of a llama-architecture model with tied embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Repeated blocks.
    pub layers: u32,
    /// Elements of the residual stream.
    pub hidden: u32,
    /// Elements of the feed-forward layer.
    pub feed_forward: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Tokens of the vocabulary, at least 259.
    pub vocabulary: u32,
}

/// A model that can't be written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SyntheticError {
    /// The writer refused.
    #[error(transparent)]
    Write(#[from] GgufWriteError),
    /// A row that the element type can't hold.
    #[error("tensor '{tensor}': {source}")]
    Quantize {
        /// Tensor name.
        tensor: String,
        /// Why.
        source: QuantizeError,
    },
    /// The vocabulary is too small for the byte tokens.
    #[error("a vocabulary of {found} tokens has no room for the 259 that every text needs")]
    Vocabulary {
        /// Tokens asked for.
        found: u32,
    },
}

impl Shape {
    /// About a billion parameters, as Llama 3.2 1B with a smaller vocabulary.
    pub const BILLION: Shape = Shape {
        layers: 16,
        hidden: 2048,
        feed_forward: 8192,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        vocabulary: 32000,
    };

    /// About fifteen million parameters.
    pub const SMALL: Shape = Shape {
        layers: 6,
        hidden: 288,
        feed_forward: 768,
        heads: 6,
        kv_heads: 6,
        head_dim: 48,
        vocabulary: 32000,
    };

    /// The tensors: name and dimensions, innermost first. Norms have one dimension.
    fn tensors(&self) -> Vec<(String, Vec<u32>)> {
        let h = self.hidden;
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut all = vec![
            ("token_embd.weight".to_owned(), vec![h, self.vocabulary]),
            ("output_norm.weight".to_owned(), vec![h]),
        ];
        for layer in 0..self.layers {
            let parts = [
                ("attn_norm", vec![h]),
                ("ffn_norm", vec![h]),
                ("attn_q", vec![h, q]),
                ("attn_k", vec![h, kv]),
                ("attn_v", vec![h, kv]),
                ("attn_output", vec![q, h]),
                ("ffn_gate", vec![h, self.feed_forward]),
                ("ffn_up", vec![h, self.feed_forward]),
                ("ffn_down", vec![self.feed_forward, h]),
            ];
            for (name, dims) in parts {
                all.push((format!("blk.{layer}.{name}.weight"), dims));
            }
        }
        all
    }

    /// Writes a GGUF file of this shape with matrices in `dtype`: entries of standard deviation
    /// `1/√columns` from a fixed pseudo-random sequence, norms of ones.
    ///
    /// # Errors
    /// What the writer refuses; rows that are not whole blocks of `dtype`.
    pub fn write(&self, dtype: DType, out: impl Write) -> Result<(), SyntheticError> {
        let mut file = GgufWriter::new();
        self.metadata(&mut file)?;
        let tensors = self.tensors();
        for (name, dims) in &tensors {
            let dims: Vec<u64> = dims.iter().map(|&d| d.into()).collect();
            let dtype = if dims.len() == 1 { DType::F32 } else { dtype };
            file.tensor(name, dtype, &dims)?;
        }
        let mut out = file.begin(out)?;
        let mut numbers = Numbers(1234);
        for (name, dims) in &tensors {
            let cols = dims[0] as usize;
            let Some(&rows) = dims.get(1) else {
                let ones: Vec<u8> = std::iter::repeat_n(1f32.to_le_bytes(), cols)
                    .flatten()
                    .collect();
                out.append(name, &ones)?;
                continue;
            };
            let mut row = vec![0f32; cols];
            let mut bytes = vec![0u8; dtype.row_bytes(cols).unwrap_or(0)];
            let scale = 1.0 / (cols as f32).sqrt();
            for _ in 0..rows {
                row.fill_with(|| scale * numbers.normal());
                quantize_row(dtype, &row, &mut bytes).map_err(|source| {
                    SyntheticError::Quantize {
                        tensor: name.clone(),
                        source,
                    }
                })?;
                out.append(name, &bytes)?;
            }
        }
        out.finish()?;
        Ok(())
    }

    fn metadata(&self, file: &mut GgufWriter) -> Result<(), SyntheticError> {
        if self.vocabulary < 259 {
            return Err(SyntheticError::Vocabulary {
                found: self.vocabulary,
            });
        }
        file.set("general.architecture", "llama")?;
        file.set("general.name", "synthetic")?;
        for (key, value) in [
            ("context_length", 8192),
            ("embedding_length", self.hidden),
            ("block_count", self.layers),
            ("feed_forward_length", self.feed_forward),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
            ("vocab_size", self.vocabulary),
        ] {
            file.set(&format!("llama.{key}"), &value)?;
        }
        file.set("llama.attention.layer_norm_rms_epsilon", &1e-5f32)?;
        file.set("llama.rope.freq_base", &500_000f32)?;
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
        tokens.extend((0..256).map(|b| format!("<0x{b:02X}>")));
        tokens.extend((259..self.vocabulary).map(|i| format!("\u{2581}t{i}")));
        // Kinds of the format: 2 unknown, 3 control, 6 byte, 1 normal.
        let kinds: Vec<i32> = (0..self.vocabulary)
            .map(|i| match i {
                0 => 2,
                1 | 2 => 3,
                3..259 => 6,
                _ => 1,
            })
            .collect();
        let scores: Vec<f32> = (0..self.vocabulary).map(|i| -(i as f32)).collect();
        file.set("tokenizer.ggml.model", "llama")?;
        file.set("tokenizer.ggml.pre", "default")?;
        file.set("tokenizer.ggml.tokens", &tokens)?;
        file.set("tokenizer.ggml.scores", &scores)?;
        file.set("tokenizer.ggml.token_type", &kinds)?;
        file.set("tokenizer.ggml.bos_token_id", &1u32)?;
        file.set("tokenizer.ggml.eos_token_id", &2u32)?;
        file.set("tokenizer.ggml.unknown_token_id", &0u32)?;
        Ok(())
    }
}

impl From<io::Error> for SyntheticError {
    fn from(e: io::Error) -> Self {
        SyntheticError::Write(e.into())
    }
}

/// A fixed pseudo-random sequence (a linear congruential generator).
struct Numbers(u64);

impl Numbers {
    fn uniform(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u32 << 24) as f32
    }

    /// About normal, of mean 0 and standard deviation 1: four uniform numbers.
    fn normal(&mut self) -> f32 {
        let sum: f32 = (0..4).map(|_| self.uniform()).sum();
        (sum - 2.0) * 3f32.sqrt()
    }
}

#[cfg(test)]
mod tests {
    use anynpu_graphs::import::gguf::Gguf;

    use super::*;

    const TINY: Shape = Shape {
        layers: 1,
        hidden: 64,
        feed_forward: 96,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        vocabulary: 300,
    };

    #[test]
    fn a_written_model_reads_back() {
        let mut bytes = Vec::new();
        TINY.write(DType::Q4_0, &mut bytes).unwrap();
        let gguf = Gguf::from_vec("tiny", bytes).unwrap();
        assert_eq!(gguf.tensors().len(), 11);
        let q = gguf.require_tensor("blk.0.attn_q.weight").unwrap();
        assert_eq!(q.dims(), [64, 64]);
        assert_eq!(q.dtype().unwrap(), DType::Q4_0);
    }

    #[test]
    fn rows_that_are_not_whole_blocks_are_refused() {
        assert!(TINY.write(DType::Q4_K, Vec::new()).is_err());
    }
}
