//! Products of integers: operands in 8 bits by ranges that are known, weights in 8 bits, results in 8 bits.

use anynpu_hal::HalError;
use anynpu_ir::{Node, ValueDef, ValueId};

use super::{Lowering, Quant8, WeightForm};
use crate::model::{
    Channels, Content, Operand, OperandId, OperandType, Role, constant_numbers, constant_rows,
    constant_tensor,
};
use crate::sys;

/// The product of `node`; `None` if it is to be one of numbers.
pub(super) fn product(l: &mut Lowering<'_>, node: &Node) -> Result<Option<OperandId>, HalError> {
    let form = l.target.weights;
    let Some(ranges) = l.target.ranges.clone() else {
        return Ok(None);
    };
    if form == WeightForm::Numbers || !is_file_weight(l, node.inputs[1]) {
        return Ok(None);
    }
    let held = |value: ValueId| ranges.of_value(&l.graph.value(value).name);
    let (Some(given), Some(made)) = (held(node.inputs[0]), held(node.outputs[0])) else {
        return Ok(None);
    };
    let name = node.name.as_str();
    let x = l.value(node.inputs[0])?;
    let dims = l.dims(node.outputs[0]);
    let units = dims.last().copied().unwrap_or(1);
    let rows: u32 = dims.iter().rev().skip(1).product();
    let width = l.dims(node.inputs[1]).last().copied().unwrap_or(1);
    let x = quantised(l, &format!("{name}.in8"), x, given);
    let weights = matrix(l, node, given.scale)?;
    let none = l.integer(sys::FUSED_NONE);
    let product = match form {
        WeightForm::Int8Tensor => {
            let out = tensor8(l, &format!("{name}.products"), &[rows, units], made);
            let inputs = [x, weights.matrix, weights.bias, none];
            l.operation(sys::FULLY_CONNECTED, &inputs, &[out]);
            out
        }
        // a convolution over an image of a row a pixel
        WeightForm::Int8 | WeightForm::Numbers => {
            let image = tensor8(l, &format!("{name}.image"), &[1, rows, 1, width], given);
            let shape = l.integers(&[1, rows as i32, 1, width as i32]);
            l.operation(sys::RESHAPE, &[x, shape], &[image]);
            let out = tensor8(l, &format!("{name}.products"), &[1, rows, 1, units], made);
            let (valid, one) = (l.integer(sys::PADDING_VALID), l.integer(1));
            let inputs = [image, weights.matrix, weights.bias, valid, one, one, none];
            l.operation(sys::CONV_2D, &inputs, &[out]);
            out
        }
    };
    let flat = match form {
        WeightForm::Int8Tensor if dims.len() == 2 => product,
        _ => {
            let flat = tensor8(l, &format!("{name}.flat"), &dims, made);
            let shape: Vec<i32> = dims.iter().map(|d| *d as i32).collect();
            let shape = l.integers(&shape);
            l.operation(sys::RESHAPE, &[product, shape], &[flat]);
            flat
        }
    };
    Ok(Some(l.op(name, sys::DEQUANTIZE, &[flat], &dims)))
}

/// A weight whose numbers the graph does not carry itself.
fn is_file_weight(l: &Lowering<'_>, value: ValueId) -> bool {
    match l.graph.value(value).def {
        ValueDef::Weight(weight) => l.graph.weight(weight).inline.is_none(),
        _ => false,
    }
}

/// A tensor between operations in 8 bits.
fn tensor8(l: &mut Lowering<'_>, name: &str, dims: &[u32], held: Quant8) -> OperandId {
    let ty = OperandType::TensorQuant8Asymm;
    let mut operand = Operand::tensor(name, ty, dims, Role::Temporary);
    (operand.scale, operand.zero_point) = (held.scale, held.zero_point);
    l.model.add(operand)
}

/// `x` in 8 bits, the same one wherever it is needed.
fn quantised(l: &mut Lowering<'_>, name: &str, x: OperandId, held: Quant8) -> OperandId {
    let made = l.model.operations.iter();
    let mut made = made.filter(|o| o.code.0 == sys::QUANTIZE && o.inputs == [x]);
    if let Some(known) = made.next().and_then(|o| o.outputs.first()) {
        return *known;
    }
    let dims = l.dims_of(x);
    let to = tensor8(l, name, &dims, held);
    l.operation(sys::QUANTIZE, &[x], &[to]);
    to
}

/// Weights of a product in 8 bits, and its bias in the scale of the products.
struct Weights {
    matrix: OperandId,
    bias: OperandId,
}

fn matrix(l: &mut Lowering<'_>, node: &Node, x_scale: f32) -> Result<Weights, HalError> {
    let value = node.inputs[1];
    let name = l.graph.value(value).name.clone();
    let dims = l.dims(value);
    let (units, width) = (dims[0], dims.last().copied().unwrap_or(1));
    let count = units as usize * width as usize;
    let numbers = match l.weights {
        Some(weights) => Some(constant_numbers(weights, &name, count)?),
        None => None,
    };
    let per_row = l.target.weights == WeightForm::Int8;
    let (matrix, scales) = if per_row {
        let scales = match &numbers {
            Some(numbers) => constant_rows(numbers, width as usize).1,
            None => vec![1.0; units as usize],
        };
        let content = Content::Rows(name.clone(), width as usize);
        let role = Role::Stored(l.constants.add(content, count));
        let ty = OperandType::TensorQuant8SymmPerChannel;
        let mut operand = Operand::tensor(&name, ty, &[units, 1, 1, width], role);
        operand.channels = Some(Channels {
            axis: 0,
            scales: scales.clone(),
        });
        (l.model.add(operand), scales)
    } else {
        let scale = numbers.as_ref().map_or(1.0, |n| constant_tensor(n).1);
        let role = Role::Stored(l.constants.add(Content::Tensor(name.clone()), count));
        let ty = OperandType::TensorQuant8Asymm;
        let mut operand = Operand::tensor(&name, ty, &dims, role);
        (operand.scale, operand.zero_point) = (scale, ZERO);
        (l.model.add(operand), vec![scale; units as usize])
    };
    let bias: Vec<f32> = match node.inputs.get(2) {
        Some(&bias) => l.host_numbers(bias, units as usize)?,
        None => vec![0.0; units as usize],
    };
    let each = bias.iter().zip(&scales);
    let bytes: Vec<u8> = each
        .flat_map(|(b, s)| {
            let whole = (f64::from(*b) / (f64::from(x_scale) * f64::from(*s))).round();
            (whole as i32).to_ne_bytes()
        })
        .collect();
    let length = bytes.len();
    let role = match length <= sys::MAX_SIZE_OF_IMMEDIATELY_COPIED_VALUES {
        true => Role::Copied(bytes),
        false => Role::Stored(l.constants.add(Content::Bytes(bytes), length)),
    };
    let ty = OperandType::TensorInt32;
    let mut operand = Operand::tensor(format!("{}.bias", node.name), ty, &[units], role);
    // with scales a row it has those of the rows, which is not said
    operand.scale = if per_row { 0.0 } else { x_scale * scales[0] };
    let bias = l.model.add(operand);
    Ok(Weights { matrix, bias })
}

/// The number that stands for 0 in weights with one scale.
const ZERO: i32 = 128;
