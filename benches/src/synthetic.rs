//! Models of real shapes with random weights.

use std::io::{self, Write};

use anynpu_graphs::import::gguf::{GgufWriteError, GgufWriter};
use anynpu_graphs::quant::{QuantizeError, quantize_row};
use anynpu_ir::DType;
use thiserror::Error;

/// A family of decoders, as far as its files differ from the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// No biases.
    Llama,
    /// Query, key and value projections with a bias.
    Qwen2,
}

impl Family {
    /// The name in a file.
    const fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
        }
    }
}

/// The sizes of a decoder with tied embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Which decoder.
    pub family: Family,
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
    /// Tokens of the vocabulary, 259 to 40 259.
    pub vocabulary: u32,
}

/// Byte tokens of which every two make a token.
const PAIRED: usize = 200;
/// Tokens for the begin and the end of a text, and for padding.
const CONTROLS: [&str; 3] = ["<|bos|>", "<|eos|>", "<|pad|>"];
/// Sizes of vocabularies that can be made.
const VOCABULARIES: std::ops::RangeInclusive<u32> =
    256 + CONTROLS.len() as u32..=(256 + PAIRED * PAIRED + CONTROLS.len()) as u32;

/// The characters that byte-level vocabularies write bytes with: printable ones as themselves, then the
/// others from U+0100 on.
fn byte_alphabet() -> Vec<String> {
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let others = (0..256).filter(|b| !printable(b)).count() as u32;
    (0..256)
        .filter(printable)
        .chain(256..256 + others)
        .filter_map(char::from_u32)
        .map(String::from)
        .collect()
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
    /// The vocabulary has no room for the byte tokens, or more than there are pairs for.
    #[error("a vocabulary of {found} tokens can't be made; choose {} to {}", VOCABULARIES.start(), VOCABULARIES.end())]
    Vocabulary {
        /// Tokens asked for.
        found: u32,
    },
}

impl Shape {
    /// About a billion parameters, as Llama 3.2 1B with a smaller vocabulary.
    pub const BILLION: Shape = Shape {
        family: Family::Llama,
        layers: 16,
        hidden: 2048,
        feed_forward: 8192,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        vocabulary: 32000,
    };

    /// About half a billion parameters, as Qwen2 0.5B with a smaller vocabulary: rows that are no whole
    /// blocks of 256.
    pub const HALF_BILLION: Shape = Shape {
        family: Family::Qwen2,
        layers: 24,
        hidden: 896,
        feed_forward: 4864,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        vocabulary: 32000,
    };

    /// About fifteen million parameters.
    pub const SMALL: Shape = Shape {
        family: Family::Llama,
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
            if self.family == Family::Qwen2 {
                for (name, dim) in [("q", q), ("k", kv), ("v", kv)] {
                    all.push((format!("blk.{layer}.attn_{name}.bias"), vec![dim]));
                }
            }
        }
        all
    }

    /// Writes a GGUF file of this shape with matrices in `dtype`: entries of standard deviation
    /// `1/√columns` from a fixed pseudo-random sequence, norms of ones, biases of a hundredth.
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
                let value = if name.ends_with("bias") { 0.01f32 } else { 1.0 };
                let values = std::iter::repeat_n(value.to_le_bytes(), cols).flatten();
                out.append(name, &values.collect::<Vec<u8>>())?;
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
        if !VOCABULARIES.contains(&self.vocabulary) {
            return Err(SyntheticError::Vocabulary {
                found: self.vocabulary,
            });
        }
        let family = self.family.name();
        file.set("general.architecture", family)?;
        file.set("general.name", "synthetic")?;
        for (key, value) in [
            ("context_length", 32768),
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
            file.set(&format!("{family}.{key}"), &value)?;
        }
        file.set(
            &format!("{family}.attention.layer_norm_rms_epsilon"),
            &1e-5f32,
        )?;
        file.set(&format!("{family}.rope.freq_base"), &500_000f32)?;
        file.set("general.file_type", &1u32)?; // mostly f16
        let (mut tokens, mut merges) = (byte_alphabet(), Vec::new());
        let pairs = (0..PAIRED).flat_map(|a| (0..PAIRED).map(move |b| (a, b)));
        for (a, b) in pairs.take(self.vocabulary as usize - tokens.len() - CONTROLS.len()) {
            tokens.push(format!("{}{}", tokens[a], tokens[b]));
            merges.push(format!("{} {}", tokens[a], tokens[b]));
        }
        tokens.extend(CONTROLS.map(String::from));
        // Kinds of the format: 3 control, 1 normal.
        let normal = tokens.len() - CONTROLS.len();
        let kinds: Vec<i32> = (0..tokens.len())
            .map(|i| if i < normal { 1 } else { 3 })
            .collect();
        file.set("tokenizer.ggml.model", "gpt2")?;
        file.set("tokenizer.ggml.pre", "llama-bpe")?;
        file.set("tokenizer.ggml.tokens", &tokens)?;
        file.set("tokenizer.ggml.merges", &merges)?;
        file.set("tokenizer.ggml.token_type", &kinds)?;
        for (key, token) in [("bos", 0), ("eos", 1), ("padding", 2)] {
            let id = (normal + token) as u32;
            file.set(&format!("tokenizer.ggml.{key}_token_id"), &id)?;
        }
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
        family: Family::Llama,
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
    fn a_qwen2_has_biases() {
        let mut bytes = Vec::new();
        let shape = Shape {
            family: Family::Qwen2,
            ..TINY
        };
        shape.write(DType::F16, &mut bytes).unwrap();
        let gguf = Gguf::from_vec("tiny", bytes).unwrap();
        let bias = gguf.require_tensor("blk.0.attn_k.bias").unwrap();
        assert_eq!(bias.dims(), [32]);
        assert_eq!(bias.dtype().unwrap(), DType::F32);
    }

    #[test]
    fn rows_that_are_not_whole_blocks_are_refused() {
        assert!(TINY.write(DType::Q4_K, Vec::new()).is_err());
    }
}
