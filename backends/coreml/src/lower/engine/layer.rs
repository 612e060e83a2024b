//! Nodes of layers with tokens last.

use anynpu_ir::{BinaryOp, Node, Op, RopeStyle, ValueId};

use super::PART;
use crate::CoreMlError;
use crate::lower::norm::epsilon;
use crate::lower::product::Steps;
use crate::lower::{Lowering, not_lowered};
use crate::package::Tensor;

type Made = Result<Tensor, CoreMlError>;

impl Lowering<'_> {
    /// Lowers `node` with tokens last, if it is one of those; whether it was.
    pub(crate) fn engine_node(&mut self, node: &Node) -> Result<bool, CoreMlError> {
        let parts = match &node.op {
            Op::Linear if self.is_layer(node) => self.features(node)?,
            Op::RmsNorm { .. } | Op::LayerNorm { .. } if self.is_of_tokens(node) => {
                vec![self.feature_norm(node)?]
            }
            Op::Rope { .. } => vec![self.turn(node)?],
            Op::Attention { .. } => vec![self.attend_by_head(node)?],
            Op::Reshape { .. } => match self.regrouped(node) {
                Some(parts) => parts,
                None => return Ok(false),
            },
            Op::Gather { axis: 0 } if self.is_every_row(node) => match self.parts(node.inputs[0]) {
                Some(parts) => parts,
                None => return Ok(false),
            },
            Op::Split { axis: 1, sizes } => return self.parted(node, sizes),
            Op::Binary(f) => match self.pointwise(node, *f)? {
                Some(made) => vec![made],
                None => return Ok(false),
            },
            Op::Activation(_) | Op::GatedActivation(_) | Op::SoftCap { .. } => {
                match self.parts(node.inputs[0]) {
                    Some(parts) => self.activated(node, &parts)?,
                    None => return Ok(false),
                }
            }
            _ => return Ok(false),
        };
        if let Some(&value) = node.outputs.first() {
            self.values.entry(value).or_default().channels = parts;
        }
        Ok(true)
    }

    /// What `value` is held in with tokens last, if it is.
    fn parts(&self, value: ValueId) -> Option<Vec<Tensor>> {
        let held = self.values.get(&value)?;
        (!held.channels.is_empty()).then(|| held.channels.clone())
    }

    /// Whether `node` is a product of rows with a matrix of the model.
    fn is_layer(&self, node: &Node) -> bool {
        let rank = self.graph.ty(node.inputs[0]).shape.rank();
        rank == 2 && node.inputs[1..].iter().all(|v| self.is_weight(*v))
    }

    /// Whether `node` is given something for each token, and not one row alone.
    fn is_of_tokens(&self, node: &Node) -> bool {
        self.graph.ty(node.inputs[0]).shape.rank() > 1
    }

    /// Whether `node` chooses all rows there are.
    fn is_every_row(&self, node: &Node) -> bool {
        self.is_every_token(node.inputs[1])
    }

    /// A product, by convolutions of 1×1.
    fn features(&mut self, node: &Node) -> Result<Vec<Tensor>, CoreMlError> {
        let x = self.channels(node.inputs[0])?;
        let [rows, columns] = self.dims(node.inputs[1])[..] else {
            return Err(not_lowered(node));
        };
        let tokens = self.f.dims(x)[3];
        let steps = Steps {
            stride: &[1, 1],
            padding: &[0, 0],
            dilation: &[1, 1],
            groups: 1,
        };
        let mut parts = Vec::new();
        for first in (0..rows).step_by(PART as usize) {
            let own = first..first.saturating_add(PART).min(rows);
            let count = own.end - own.start;
            let filters = [count, columns, 1, 1];
            let filters = self.rows_as(node.inputs[1], own.clone(), &filters, self.float)?;
            let bias = match node.inputs.get(2) {
                Some(&bias) => Some(self.bias(bias, own.clone())?),
                None => None,
            };
            let name = match rows > PART {
                true => format!("{}_{}", node.name, parts.len()),
                false => node.name.clone(),
            };
            let dims = [1, count, 1, tokens];
            parts.push(self.convolution(&name, [x, filters], bias, &steps, &dims)?);
        }
        Ok(parts)
    }

    /// Elements `own` of the weight `value` of one dimension.
    fn bias(&mut self, value: ValueId, own: std::ops::Range<u32>) -> Made {
        let all = self.dims(value);
        if own == (0..all[0]) {
            return self.rows_as(value, own, &all, self.float);
        }
        let numbers = self.numbers_of(value)?;
        let part = numbers[own.start as usize..own.end as usize].to_vec();
        let name = format!("{}_{}", self.graph.value(value).name, own.start);
        self.computed(&name, &name, &[own.end - own.start], &part)
    }

    /// A norm over features: of all, or of each head's.
    fn feature_norm(&mut self, node: &Node) -> Made {
        let name = node.name.as_str();
        let x = self.channels(node.inputs[0])?;
        let dims = self.f.dims(x).to_vec();
        let width = self.dims(node.inputs[1])[0];
        let heads = dims[1] / width.max(1);
        let apart = [heads, width, 1, dims[3]];
        let x = self.reshape(&format!("{name}_heads"), x, &apart)?;
        let axes = ("axes", vec![1].into());
        let made = match node.op {
            Op::LayerNorm { eps } => {
                let gain = self.rows_as(node.inputs[1], 0..width, &[width], self.float)?;
                let mut params = vec![
                    axes,
                    ("epsilon", epsilon(self.float, eps).into()),
                    ("gamma", gain.into()),
                ];
                if let Some(&beta) = node.inputs.get(2) {
                    let beta = self.rows_as(beta, 0..width, &[width], self.float)?;
                    params.push(("beta", beta.into()));
                }
                self.unary_with("layer_norm", &format!("{name}_normed"), x, &params)?
            }
            Op::RmsNorm { eps } => {
                // the mean of a row and its negative is nothing, so that their variance is the mean square
                let minus = self.times(&format!("{name}_minus"), x, -1.0)?;
                let both = self.concat(&format!("{name}_both"), &[x, minus], 1)?;
                let mut gain = self.numbers_of(node.inputs[1])?;
                gain.resize(2 * width as usize, 0.0);
                let weight = self.graph.value(node.inputs[1]).name.clone();
                let doubled = format!("{weight}_doubled");
                let gain = self.computed(&doubled, &doubled, &[2 * width], &gain)?;
                let params = [
                    axes,
                    ("epsilon", epsilon(self.float, eps).into()),
                    ("gamma", gain.into()),
                ];
                let both =
                    self.unary_with("layer_norm", &format!("{name}_normed"), both, &params)?;
                self.slice(&format!("{name}_half"), both, 1, [0, width, 1])?
            }
            _ => return Err(not_lowered(node)),
        };
        self.reshape(name, made, &dims)
    }

    /// Features that are the same in another grouping: `[tokens, heads · width]` and `[tokens, heads, width]`.
    fn regrouped(&self, node: &Node) -> Option<Vec<Tensor>> {
        let (from, to) = (self.dims(node.inputs[0]), self.dims(node.outputs[0]));
        match from.first() == to.first() && from.len() > 1 && to.len() > 1 {
            true => self.parts(node.inputs[0]),
            false => None,
        }
    }

    fn parted(&mut self, node: &Node, sizes: &[u32]) -> Result<bool, CoreMlError> {
        if self.dims(node.inputs[0]).len() != 2 || self.parts(node.inputs[0]).is_none() {
            return Ok(false);
        }
        let x = self.channels(node.inputs[0])?;
        let parts = self.split(&node.name, x, 1, sizes)?;
        for (&value, part) in node.outputs.iter().zip(parts) {
            self.values.entry(value).or_default().channels = vec![part];
        }
        Ok(true)
    }

    /// `f` of values of one shape, or of one and a weight for its features or a number.
    fn pointwise(&mut self, node: &Node, f: BinaryOp) -> Result<Option<Tensor>, CoreMlError> {
        if !matches!(f, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul) {
            return Ok(None);
        }
        let out = self.dims(node.outputs[0]);
        if out.len() < 2 || !node.inputs.iter().any(|v| self.parts(*v).is_some()) {
            return Ok(None);
        }
        let features = out.iter().skip(1).product::<u32>();
        let mut operands = Vec::new();
        for &value in &node.inputs {
            let dims = self.dims(value);
            let made = match self.is_weight(value) {
                false if dims == out => self.channels(value)?,
                true if dims.iter().all(|n| *n == 1) => {
                    let x = self.numbers_of(value)?;
                    self.number(x.first().copied().unwrap_or(0.0))?
                }
                true if dims == [features] => {
                    self.rows_as(value, 0..features, &[1, features, 1, 1], self.float)?
                }
                _ => return Ok(None),
            };
            operands.push(made);
        }
        self.function_of_two(&node.name, f, operands[0], operands[1])
            .map(Some)
    }

    fn activated(&mut self, node: &Node, parts: &[Tensor]) -> Result<Vec<Tensor>, CoreMlError> {
        let name = node.name.as_str();
        if let Op::GatedActivation(f) = node.op {
            let (gate, up) = (
                self.channels(node.inputs[0])?,
                self.channels(node.inputs[1])?,
            );
            let gate = self.activation(&format!("{name}_gate"), f, gate)?;
            return Ok(vec![self.binary("mul", name, gate, up)?]);
        }
        let each = parts.iter().map(|&x| match node.op {
            Op::SoftCap { cap } => self.soft_cap(name, x, cap),
            Op::Activation(f) => self.activation(name, f, x),
            _ => Err(not_lowered(node)),
        });
        each.collect()
    }

    /// Rotates every head: `x · cos + x' · sin`, where `x'` has the numbers of each pair exchanged and one negated.
    fn turn(&mut self, node: &Node) -> Made {
        let name = node.name.as_str();
        let Some((rotation, style)) = self.rotation(node)? else {
            return Err(not_lowered(node));
        };
        let x = self.channels(node.inputs[0])?;
        let known = self
            .angles
            .iter()
            .find(|a| a.rotation == rotation && a.style == style && a.positions == node.inputs[1]);
        let Some((cos, sin)) = known.map(|a| (a.cos, a.sin)) else {
            return Err(not_lowered(node));
        };
        let dims = self.f.dims(x).to_vec();
        let width = self.dims(node.inputs[0])[2];
        let (heads, turned) = (dims[1] / width, rotation.dims);
        let apart = [heads, width, 1, dims[3]];
        let x = self.reshape(&format!("{name}_heads"), x, &apart)?;
        let (x, rest) = match width - turned {
            0 => (x, None),
            rest => {
                let parts = self.split(&format!("{name}_part"), x, 1, &[turned, rest])?;
                (parts[0], Some(parts[1]))
            }
        };
        let other = match style {
            RopeStyle::HalfSplit => {
                let half = [turned / 2; 2];
                let halves = self.split(&format!("{name}_half"), x, 1, &half)?;
                let minus = self.times(&format!("{name}_minus"), halves[1], -1.0)?;
                self.concat(&format!("{name}_other"), &[minus, halves[0]], 1)?
            }
            RopeStyle::Interleaved => {
                let exchange = self.exchange(turned)?;
                let steps = Steps {
                    stride: &[1, 1],
                    padding: &[0, 0],
                    dilation: &[1, 1],
                    groups: 1,
                };
                let own = self.f.dims(x).to_vec();
                self.convolution(&format!("{name}_other"), [x, exchange], None, &steps, &own)?
            }
        };
        let x = self.binary("mul", &format!("{name}_cos"), x, cos)?;
        let other = self.binary("mul", &format!("{name}_sin"), other, sin)?;
        let mut parts = vec![self.binary("add", &format!("{name}_turned"), x, other)?];
        parts.extend(rest);
        let x = self.concat(&format!("{name}_joined"), &parts, 1)?;
        self.reshape(name, x, &dims)
    }

    /// The filters that exchange neighbours and negate the first: row `2i` takes `-x[2i + 1]`, row `2i + 1` takes `x[2i]`.
    fn exchange(&mut self, width: u32) -> Made {
        let n = width as usize;
        let mut numbers = vec![0f32; n * n];
        for i in (0..n).step_by(2) {
            numbers[i * n + i + 1] = -1.0;
            numbers[(i + 1) * n + i] = 1.0;
        }
        let dims = [width, width, 1, 1];
        self.computed("exchange", "exchange", &dims, &numbers)
    }
}
