//! Named mixtures of types, as GGUF files are called by, and the type each tensor gets in them.
//!
//! The names and rules are llama.cpp's, so that a file called `Q4_K_M` here is made of the same
//! types as one made there. In short: the output matrix (the embedding if it serves as one) is
//! Q6_K except in Q8_0 and plain types; the `_M` mixtures give Q6_K to `attn_v` and `ffn_down` in
//! the first and last eighth of the layers and every third between, `Q4_K_S` gives Q5_K to the
//! first few; norms, biases, routers and other small tensors stay as they are. Rows that aren't
//! whole blocks get a type with smaller blocks.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use anynpu_ir::DType;
use thiserror::Error;

use crate::arch::{MetaValue, ModelFile};

/// A mixture of types for a whole file.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Mixture {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
}

/// Name, `general.file_type` and the type of most matrices.
#[rustfmt::skip]
const MIXTURES: [(Mixture, &str, u32, DType); 13] = [
    (Mixture::F32, "F32", 0, DType::F32),
    (Mixture::F16, "F16", 1, DType::F16),
    (Mixture::BF16, "BF16", 32, DType::BF16),
    (Mixture::Q8_0, "Q8_0", 7, DType::Q8_0),
    (Mixture::Q4_0, "Q4_0", 2, DType::Q4_0),
    (Mixture::Q4_1, "Q4_1", 3, DType::Q4_1),
    (Mixture::Q5_0, "Q5_0", 8, DType::Q5_0),
    (Mixture::Q5_1, "Q5_1", 9, DType::Q5_1),
    (Mixture::Q4_K_S, "Q4_K_S", 14, DType::Q4_K),
    (Mixture::Q4_K_M, "Q4_K_M", 15, DType::Q4_K),
    (Mixture::Q5_K_S, "Q5_K_S", 16, DType::Q5_K),
    (Mixture::Q5_K_M, "Q5_K_M", 17, DType::Q5_K),
    (Mixture::Q6_K, "Q6_K", 18, DType::Q6_K),
];

/// A name that is no mixture's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("type '{found}' is not known; known: {known}")]
#[non_exhaustive]
pub struct UnknownMixture {
    /// The name.
    pub found: String,
    /// The names of all mixtures, separated by commas.
    pub known: String,
}

impl Mixture {
    /// Every mixture, by the size of its files.
    pub fn all() -> impl ExactSizeIterator<Item = Mixture> {
        MIXTURES.iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Mixture, &'static str, u32, DType) {
        // the table has a row for every variant, as a test holds
        MIXTURES
            .iter()
            .find(|row| row.0 == self)
            .unwrap_or(&MIXTURES[0])
    }

    /// Its name, e.g. `Q4_K_M`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Its number in `general.file_type`.
    pub fn file_type(self) -> u32 {
        self.row().2
    }

    /// The type that most matrices get.
    pub fn base(self) -> DType {
        self.row().3
    }
}

impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mixture {
    type Err = UnknownMixture;

    /// Reads a name in either case; `Q4_K` and `Q5_K` stand for their `_M`.
    fn from_str(s: &str) -> Result<Self, UnknownMixture> {
        let name = s.to_ascii_uppercase();
        let name = match name.as_str() {
            "Q4_K" => "Q4_K_M",
            "Q5_K" => "Q5_K_M",
            other => other,
        };
        let row = MIXTURES.iter().find(|row| row.1 == name);
        row.map(|row| row.0).ok_or_else(|| UnknownMixture {
            found: crate::import::excerpt(s),
            known: MIXTURES.map(|row| row.1).join(", "),
        })
    }
}

/// The type a tensor gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Stays as it is.
    Keep,
    /// Is brought to this type.
    To(DType),
    /// Is brought to `to`, as its rows aren't whole blocks of `wanted`.
    Instead { wanted: DType, to: DType },
}

/// What the rules ask of a model.
#[derive(Debug)]
pub(super) struct Rules {
    mixture: Mixture,
    imatrix: bool,
    /// The embedding is the output matrix too.
    tied: bool,
    /// Layers with a matrix for the attention's values, in order.
    values: Vec<u64>,
    layers: u64,
    experts: u64,
    /// Llama's 70 B, whose value matrices are an eighth of its query matrices.
    seventy: bool,
}

/// What a tensor is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Output,
    Embedding,
    Values,
    Keys,
    AttentionOutput,
    Down,
    Other,
}

impl Rules {
    /// Of the model whose metadata `file` has, with tensors of these names.
    pub(super) fn new<'n>(
        file: &dyn ModelFile,
        names: impl Iterator<Item = &'n str> + Clone,
        mixture: Mixture,
        imatrix: bool,
    ) -> Rules {
        let architecture = match file.metadata("general.architecture") {
            Some(MetaValue::Text(name)) => name,
            _ => "",
        };
        let number = |key: &str| match file.metadata(&format!("{architecture}.{key}")) {
            Some(MetaValue::Unsigned(n)) => Some(n),
            Some(MetaValue::Signed(n)) => u64::try_from(n).ok(),
            _ => None,
        };
        let values: BTreeSet<u64> = names
            .clone()
            .filter(|name| role(name) == Role::Values)
            .filter_map(layer)
            .collect();
        let layers = number("block_count").unwrap_or(values.len() as u64);
        let heads = number("attention.head_count");
        Rules {
            mixture,
            imatrix,
            tied: !names.clone().any(|name| name == "output.weight"),
            values: values.into_iter().collect(),
            layers,
            experts: number("expert_count").unwrap_or(0),
            seventy: architecture == "llama"
                && layers == 80
                && heads != number("attention.head_count_kv"),
        }
    }

    /// The type of the tensor called `name` with `dims`, innermost first.
    pub(super) fn choose(&self, name: &str, dims: &[u64]) -> Choice {
        let matrix = dims.iter().skip(1).any(|&d| d > 1);
        if !matrix {
            return Choice::To(DType::F32);
        }
        if is_kept(name) {
            return Choice::Keep;
        }
        let base = self.mixture.base();
        if !base.is_block() {
            return Choice::To(base);
        }
        let columns = dims.first().copied().unwrap_or(1);
        let fits = |dtype: DType| columns.is_multiple_of(dtype.block_len() as u64);
        let wanted = self.wanted(name, fits(base));
        if fits(wanted) {
            return Choice::To(wanted);
        }
        let smaller = match wanted {
            DType::Q4_K => DType::Q5_0,
            DType::Q5_K => DType::Q5_1,
            DType::Q6_K => DType::Q8_0,
            _ => DType::F16,
        };
        let to = if fits(smaller) { smaller } else { DType::F16 };
        Choice::Instead { wanted, to }
    }

    fn wanted(&self, name: &str, base_fits: bool) -> DType {
        use Mixture as M;
        let (mixture, base) = (self.mixture, self.mixture.base());
        let eight_experts = self.experts == 8;
        match role(name) {
            Role::Output => self.output(base_fits),
            Role::Embedding if self.tied => self.output(base_fits),
            Role::Values => {
                let index = layer(name).and_then(|l| self.values.binary_search(&l).ok());
                let (at, of) = (index.unwrap_or(0) as u64, self.values.len() as u64);
                let dtype = match mixture {
                    M::Q4_K_M | M::Q5_K_M if takes_more_bits(at, of) => DType::Q6_K,
                    M::Q4_K_S if at < 4 => DType::Q5_K,
                    _ => base,
                };
                match dtype {
                    _ if eight_experts => DType::Q8_0,
                    DType::Q4_K if self.seventy => DType::Q5_K,
                    other => other,
                }
            }
            Role::Keys if eight_experts => DType::Q8_0,
            Role::AttentionOutput if eight_experts && matches!(mixture, M::Q4_K_S | M::Q4_K_M) => {
                DType::Q5_K
            }
            Role::Down => {
                let at = layer(name).unwrap_or(0);
                let first_eighth = at < self.layers / 8;
                match mixture {
                    M::Q4_K_M | M::Q5_K_M if takes_more_bits(at, self.layers) => DType::Q6_K,
                    M::Q4_K_S if first_eighth => DType::Q5_K,
                    M::Q4_0 if self.imatrix && first_eighth => DType::Q4_1,
                    M::Q5_0 if self.imatrix && first_eighth => DType::Q5_1,
                    _ => base,
                }
            }
            _ => base,
        }
    }

    fn output(&self, base_fits: bool) -> DType {
        match self.mixture.base() {
            _ if !base_fits => DType::Q8_0,
            DType::Q8_0 => DType::Q8_0,
            _ => DType::Q6_K,
        }
    }
}

/// Whether the `_M` mixtures give layer `at` of `of` more bits.
fn takes_more_bits(at: u64, of: u64) -> bool {
    at < of / 8 || at >= of.saturating_mul(7) / 8 || (at - of / 8) % 3 == 2
}

fn role(name: &str) -> Role {
    let has = |part: &str| name.contains(part);
    match name {
        "output.weight" => Role::Output,
        "token_embd.weight" | "per_layer_token_embd.weight" => Role::Embedding,
        _ if has("attn_qkv.weight") || has("attn_kv_b.weight") || has("attn_v.weight") => {
            Role::Values
        }
        _ if has("attn_k.weight") => Role::Keys,
        _ if has("attn_output.weight") => Role::AttentionOutput,
        _ if has("ffn_down") => Role::Down,
        _ => Role::Other,
    }
}

/// The layer in a name that starts `blk.N.`.
fn layer(name: &str) -> Option<u64> {
    let rest = name.strip_prefix("blk.")?;
    rest.split('.').next()?.parse().ok()
}

/// Matrices too small or too sensitive to be worth quantising.
fn is_kept(name: &str) -> bool {
    const PARTS: [&str; 8] = [
        "_norm.weight",
        "ffn_gate_inp.weight",
        "altup",
        "laurel",
        "per_layer_model_proj",
        "ssm_conv1d",
        "shortconv.conv.weight",
        "attn_rel_b.weight",
    ];
    const WHOLE: [&str; 2] = ["position_embd.weight", "token_types.weight"];
    !name.ends_with("weight") || WHOLE.contains(&name) || PARTS.iter().any(|p| name.contains(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(mixture: Mixture, layers: u64) -> Rules {
        Rules {
            mixture,
            imatrix: false,
            tied: false,
            values: (0..layers).collect(),
            layers,
            experts: 0,
            seventy: false,
        }
    }

    fn chosen(r: &Rules, name: &str) -> DType {
        match r.choose(name, &[512, 512]) {
            Choice::To(dtype) => dtype,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn names_are_read_back_in_either_case_and_others_are_told_the_known() {
        for mixture in Mixture::all() {
            assert_eq!(mixture.name().parse(), Ok(mixture));
            assert_eq!(mixture.name().to_lowercase().parse(), Ok(mixture));
        }
        assert_eq!("q4_k".parse(), Ok(Mixture::Q4_K_M));
        let e = "Q3_K_M".parse::<Mixture>().unwrap_err().to_string();
        assert!(e.contains("Q3_K_M") && e.contains("Q6_K"), "{e}");
    }

    #[test]
    fn medium_k_mixtures_raise_the_ends_and_every_third_layer_between() {
        let r = rules(Mixture::Q4_K_M, 32);
        let raised: Vec<u64> = (0..32)
            .filter(|l| chosen(&r, &format!("blk.{l}.ffn_down.weight")) == DType::Q6_K)
            .collect();
        let expected = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
        assert_eq!(raised, expected);
        for l in 0..32 {
            let (v, down) = (
                format!("blk.{l}.attn_v.weight"),
                format!("blk.{l}.ffn_down.weight"),
            );
            assert_eq!(chosen(&r, &v), chosen(&r, &down));
            assert_eq!(chosen(&r, &format!("blk.{l}.ffn_up.weight")), DType::Q4_K);
        }
        assert_eq!(chosen(&r, "output.weight"), DType::Q6_K);
        assert_eq!(chosen(&r, "token_embd.weight"), DType::Q4_K);
    }

    #[test]
    fn an_embedding_that_is_the_output_too_gets_its_type() {
        let tied = |m| Rules {
            tied: true,
            ..rules(m, 4)
        };
        assert_eq!(
            chosen(&tied(Mixture::Q4_0), "token_embd.weight"),
            DType::Q6_K
        );
        assert_eq!(
            chosen(&tied(Mixture::Q8_0), "token_embd.weight"),
            DType::Q8_0
        );
        assert_eq!(chosen(&tied(Mixture::F16), "token_embd.weight"), DType::F16);
    }

    #[test]
    fn eight_experts_keep_keys_and_values_at_eight_bits() {
        let r = Rules {
            experts: 8,
            ..rules(Mixture::Q4_K_S, 16)
        };
        assert_eq!(chosen(&r, "blk.9.attn_k.weight"), DType::Q8_0);
        assert_eq!(chosen(&r, "blk.9.attn_v.weight"), DType::Q8_0);
        assert_eq!(chosen(&r, "blk.9.attn_output.weight"), DType::Q5_K);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_a_type_that_fits() {
        let r = rules(Mixture::Q4_K_M, 32);
        let choose = |columns| r.choose("blk.5.ffn_up.weight", &[columns, 8]);
        assert_eq!(choose(512), Choice::To(DType::Q4_K));
        let to = |to| Choice::Instead {
            wanted: DType::Q4_K,
            to,
        };
        assert_eq!(choose(288), to(DType::Q5_0));
        assert_eq!(choose(100), to(DType::F16));
        let eight = rules(Mixture::Q8_0, 32).choose("blk.5.ffn_up.weight", &[100, 8]);
        assert_eq!(
            eight,
            Choice::Instead {
                wanted: DType::Q8_0,
                to: DType::F16
            }
        );
    }

    #[test]
    fn vectors_become_f32_and_small_matrices_stay() {
        let r = rules(Mixture::Q4_K_M, 32);
        assert_eq!(
            r.choose("output_norm.weight", &[512]),
            Choice::To(DType::F32)
        );
        assert_eq!(
            r.choose("blk.0.attn_q.bias", &[512, 1]),
            Choice::To(DType::F32)
        );
        assert_eq!(
            r.choose("blk.0.ffn_gate_inp.weight", &[512, 8]),
            Choice::Keep
        );
        assert_eq!(r.choose("position_embd.weight", &[512, 512]), Choice::Keep);
    }
}
