//! Attention head by head.

use anynpu_ir::{AttentionKv, Node, Op};

use super::mask_columns;
use crate::CoreMlError;
use crate::lower::cache::Rows;
use crate::lower::{Lowering, not_lowered};
use crate::package::{Literal, Operand, Tensor};

impl Lowering<'_> {
    /// For each head `softmax(qᵀ · k + mask)`, keys last, and `v` times its transpose.
    pub(super) fn attend_by_head(&mut self, node: &Node) -> Result<Tensor, CoreMlError> {
        let name = node.name.as_str();
        let Op::Attention {
            kv,
            causal,
            scale,
            soft_cap,
            window,
            ..
        } = node.op
        else {
            return Err(not_lowered(node));
        };
        let q = self.channels(node.inputs[0])?;
        let (keys, values, positions) = match kv {
            AttentionKv::State { k, v } => (self.rows(k)?, self.rows(v)?, 1),
            AttentionKv::Operands => {
                let mut given = |i: usize| -> Result<Rows, CoreMlError> {
                    let tensor = self.channels(node.inputs[i])?;
                    Ok(Rows {
                        tensor,
                        old: 0,
                        fresh: self.f.dims(tensor)[3],
                    })
                };
                (given(1)?, given(2)?, 3)
            }
        };
        let rows = [keys.old, keys.fresh];
        let mask = match causal {
            true => Some(self.given_mask(node.inputs[positions], rows, window)?),
            false if self.form.padded => Some(self.padding(keys.fresh)?),
            false => None,
        };
        let keys = self.aligned(&format!("{name}_k"), keys, causal)?;
        let values = self.aligned(&format!("{name}_v"), values, causal)?;
        let (heads, width) = (self.dims(node.inputs[0])[1], self.dims(node.inputs[0])[2]);
        let out = self.dims(node.outputs[0])[2];
        let key_heads = self.f.dims(keys)[1] / width.max(1);
        let group = heads / key_heads.max(1);
        let q = self.times(&format!("{name}_scaled"), q, scale)?;
        let q = self.heads(&format!("{name}_q"), q, heads, width)?;
        let keys = self.heads(&format!("{name}_k"), keys, key_heads, width)?;
        let values = self.heads(&format!("{name}_v"), values, key_heads, out)?;
        let mut mixed = Vec::with_capacity(q.len());
        for (h, &q) in q.iter().enumerate() {
            let at = h / group.max(1) as usize;
            let scores = format!("{name}_scores_{h}");
            let mut x = self.matmul(&scores, [q, keys[at]], [true, false])?;
            if let Some(cap) = soft_cap {
                x = self.soft_cap(&format!("{name}_capped_{h}"), x, cap)?;
            }
            if let Some(mask) = mask {
                x = self.binary("add", &format!("{name}_masked_{h}"), x, mask)?;
            }
            let x = self.softmax(&format!("{name}_shares_{h}"), x, 3)?;
            mixed.push(self.matmul(
                &format!("{name}_mixed_{h}"),
                [values[at], x],
                [false, true],
            )?);
        }
        let x = self.concat(&format!("{name}_heads"), &mixed, 2)?;
        let tokens = self.f.dims(x)[3];
        self.reshape(name, x, &[1, heads * out, 1, tokens])
    }

    /// Rows with zeros up to the columns of masks.
    fn aligned(&mut self, name: &str, rows: Rows, causal: bool) -> Result<Tensor, CoreMlError> {
        let x = rows.tensor;
        let mut dims = self.f.dims(x).to_vec();
        let missing = mask_columns(rows.old, rows.fresh) - dims[3];
        if missing == 0 || !causal {
            return Ok(x);
        }
        dims[3] += missing;
        let mut pad = vec![0; 8];
        pad[7] = missing as i32;
        let dtype = self.f.dtype(x);
        let operands = [
            ("x", Operand::One(x)),
            ("pad", pad.into()),
            ("mode", "constant".into()),
            ("constant_val", Literal::Float(dtype, 0.0).into()),
        ];
        self.f
            .op("pad", &format!("{name}_aligned"), &operands, dtype, &dims)
    }

    /// `[1, heads · width, 1, n]` as `[1, 1, width, n]` for each head.
    fn heads(
        &mut self,
        name: &str,
        x: Tensor,
        heads: u32,
        width: u32,
    ) -> Result<Vec<Tensor>, CoreMlError> {
        let n = self.f.dims(x)[3];
        let parts = self.split(&format!("{name}_heads"), x, 1, &vec![width; heads as usize])?;
        let each = parts
            .into_iter()
            .enumerate()
            .map(|(h, part)| self.reshape(&format!("{name}_head_{h}"), part, &[1, 1, width, n]));
        each.collect()
    }
}
