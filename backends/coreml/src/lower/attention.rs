//! Attention with tensors as graphs have them.

use anynpu_ir::{AttentionKv, Node, Op, ValueId};

use super::cache::Rows;
use super::{Feed, HIDDEN, Lowering, not_lowered};
use crate::CoreMlError;
use crate::package::{DataType, Operand, Tensor};

/// What a mask depends on: the positions, the rows of caches and of this step, the window.
pub(super) type MaskKey = (Option<ValueId>, u32, u32, Option<u32>);

/// The least number of F16.
const LEAST: f32 = -65504.0;

impl Lowering<'_> {
    /// `[tokens, keys]`: 0 where a key is visible, else `hidden`.
    pub(super) fn mask(
        &mut self,
        name: &str,
        positions: Tensor,
        keys: Tensor,
        window: Option<u32>,
        hidden: f32,
    ) -> Result<Tensor, CoreMlError> {
        let bool = DataType::Bool;
        let (tokens, count) = (self.f.dims(positions)[0], self.f.dims(keys)[0]);
        let column = self.reshape(&format!("{name}_positions"), positions, &[tokens, 1])?;
        let row = self.reshape(&format!("{name}_keys"), keys, &[1, count])?;
        let past = format!("{name}_past");
        let mut visible = self.binary_to("less_equal", &past, row, column, bool)?;
        if let Some(window) = window {
            let window = self.integers(vec![window.min(i32::MAX as u32) as i32])?;
            let edge = self.binary("sub", &format!("{name}_edge"), column, window)?;
            let near = format!("{name}_near");
            let near = self.binary_to("greater", &near, row, edge, bool)?;
            visible = self.binary("logical_and", &format!("{name}_visible"), visible, near)?;
        }
        let hidden = match self.float {
            DataType::F16 => hidden.max(LEAST),
            _ => hidden,
        };
        let (zero, hidden) = (self.number(0.0)?, self.number(hidden)?);
        self.select(name, visible, zero, hidden)
    }

    /// What is added to scores of `node` with keys in `rows`: `[1, 1, tokens or 1, keys]`.
    fn score_mask(&mut self, node: &Node, rows: Rows) -> Result<Option<Tensor>, CoreMlError> {
        let Op::Attention {
            kv,
            causal,
            mask,
            window,
            ..
        } = node.op
        else {
            return Ok(None);
        };
        let at = match kv {
            AttentionKv::State { .. } => 1,
            AttentionKv::Operands => 3,
        };
        let mut made = match causal {
            true => {
                let key = (Some(node.inputs[at]), rows.old, rows.fresh, window);
                Some(match self.masks.get(&key) {
                    Some(&known) => known,
                    None => {
                        let positions = self.value(node.inputs[at])?;
                        let keys = self.key_positions(rows, positions)?;
                        let mask = self.mask("mask", positions, keys, window, HIDDEN)?;
                        let mut dims = vec![1, 1];
                        dims.extend_from_slice(self.f.dims(mask));
                        let mask = self.reshape("mask_of_heads", mask, &dims)?;
                        self.masks.insert(key, mask);
                        mask
                    }
                })
            }
            false if self.form.padded => Some(self.padding(rows.old)?),
            false => None,
        };
        if let (true, Some(&own)) = (mask, node.inputs.last()) {
            let own = self.value(own)?;
            let mut dims = vec![1, 1];
            dims.extend_from_slice(self.f.dims(own));
            let own = self.reshape(&format!("{}_mask", node.name), own, &dims)?;
            made = Some(match made {
                None => own,
                Some(made) => self.binary("add", &format!("{}_masks", node.name), made, own)?,
            });
        }
        Ok(made)
    }

    /// The input that hides tokens which fill a text up: `[1, 1, 1, tokens]`.
    pub(super) fn padding(&mut self, tokens: u32) -> Result<Tensor, CoreMlError> {
        let key = (None, tokens, 0, None);
        if let Some(&known) = self.masks.get(&key) {
            return Ok(known);
        }
        let description =
            format!("What is added to scores of each token: 0, or {HIDDEN} where the text is over");
        let dtype = self.outside(self.float);
        let feature = self.feature("mask", description, dtype, &[1, 1, 1, tokens]);
        let given = self.given(feature, Feed::Padding)?;
        let float = self.float;
        let mask = self.cast("mask_cast", given, float)?;
        self.masks.insert(key, mask);
        Ok(mask)
    }

    /// Queries of heads that share keys are rows of one product: `[1, key heads, group · tokens, width]`.
    pub(super) fn attend(&mut self, node: &Node) -> Result<Tensor, CoreMlError> {
        let name = node.name.as_str();
        let Op::Attention {
            kv,
            scale,
            soft_cap,
            ..
        } = node.op
        else {
            return Err(not_lowered(node));
        };
        let q = self.value(node.inputs[0])?;
        let (keys, values) = match kv {
            AttentionKv::State { k, v } => (self.rows(k)?, self.rows(v)?),
            AttentionKv::Operands => {
                let mut given = |i: usize, what: &str| -> Result<Rows, CoreMlError> {
                    let x = self.value(node.inputs[i])?;
                    let tensor = self.by_head(&format!("{name}_{what}"), x)?;
                    let old = self.f.dims(tensor)[2];
                    Ok(Rows {
                        tensor,
                        old,
                        fresh: 0,
                    })
                };
                (given(1, "k")?, given(2, "v")?)
            }
        };
        let dims = self.f.dims(q).to_vec();
        let (tokens, heads, width) = (dims[0], dims[1], dims[2]);
        let key_heads = self.f.dims(keys.tensor)[1];
        let group = heads / key_heads.max(1);
        let mask = self.score_mask(node, keys)?;
        let mask = match mask {
            Some(mask) if group > 1 && self.f.dims(mask)[2] > 1 => {
                let mut dims = self.f.dims(mask).to_vec();
                let reps = vec![1, 1, group as i32, 1];
                dims[2] *= group;
                let operands = [("x", Operand::One(mask)), ("reps", reps.into())];
                let float = self.float;
                Some(self.f.op(
                    "tile",
                    &format!("{name}_mask_rows"),
                    &operands,
                    float,
                    &dims,
                )?)
            }
            mask => mask,
        };
        let q = self.by_head(&format!("{name}_q"), q)?;
        let grouped = [1, key_heads, group * tokens, width];
        let q = self.reshape(&format!("{name}_groups"), q, &grouped)?;
        let (keys, values) = (keys.tensor, values.tensor);
        let out = self.f.dims(values)[3];
        let mixed = [1, key_heads, group * tokens, out];
        let fused = self.f.target().has_ios18() && soft_cap.is_none();
        let x = match fused {
            true => {
                // it divides by the root of the width itself
                let own = scale * (width as f32).sqrt();
                let own = if (own - 1.0).abs() < 1e-6 { 1.0 } else { own };
                let q = self.times(&format!("{name}_scaled"), q, own)?;
                let mut operands = vec![
                    ("query", Operand::One(q)),
                    ("key", keys.into()),
                    ("value", values.into()),
                ];
                if let Some(mask) = mask {
                    operands.push(("attn_mask", mask.into()));
                }
                let kind = "scaled_dot_product_attention";
                let float = self.float;
                self.f
                    .op(kind, &format!("{name}_mixed"), &operands, float, &mixed)?
            }
            false => {
                let q = self.times(&format!("{name}_scaled"), q, scale)?;
                let scores = format!("{name}_scores");
                let mut x = self.matmul(&scores, [q, keys], [false, true])?;
                if let Some(cap) = soft_cap {
                    x = self.soft_cap(&format!("{name}_capped"), x, cap)?;
                }
                if let Some(mask) = mask {
                    x = self.binary("add", &format!("{name}_masked"), x, mask)?;
                }
                let x = self.softmax(&format!("{name}_shares"), x, 3)?;
                self.matmul(&format!("{name}_mixed"), [x, values], [false, false])?
            }
        };
        let x = self.reshape(&format!("{name}_heads"), x, &[heads, tokens, out])?;
        self.transpose(name, x, &[1, 0, 2])
    }
}
