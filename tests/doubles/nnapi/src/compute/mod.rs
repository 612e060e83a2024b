//! Operations, in 64 bits: plain loops over what operands stand for.

mod elementwise;
mod product;
mod rows;
mod shape;

use crate::check::{bias_fits, scales};
use crate::codes::*;
use crate::execution::is_omitted;
use crate::live;
use crate::model::{Model, Operation, told};
use crate::operand::{Operand, quantised};
use crate::settings::Fault;

/// Numbers with dimensions; a single one has none.
#[derive(Clone, Debug, Default)]
pub struct Tensor {
    pub dims: Vec<usize>,
    pub data: Vec<f64>,
}

impl Tensor {
    pub fn new(dims: &[usize], data: Vec<f64>) -> Tensor {
        Tensor {
            dims: dims.to_vec(),
            data,
        }
    }

    /// What the bytes of `operand` stand for.
    pub fn of(operand: &Operand, bytes: &[u8]) -> Tensor {
        Tensor {
            dims: operand.dims.iter().map(|d| *d as usize).collect(),
            data: operand.decode(bytes),
        }
    }

    /// The single number, or the first.
    pub fn number(&self) -> Result<f64, String> {
        self.data
            .first()
            .copied()
            .ok_or_else(|| "a number is missing".into())
    }

    /// The numbers as integers.
    pub fn integers(&self) -> Vec<i64> {
        self.data.iter().map(|x| *x as i64).collect()
    }

    /// The axis that the single number says, counted from the end if it is negative.
    pub fn axis(&self, rank: usize) -> Result<usize, String> {
        let axis = self.number()? as i64;
        let counted = if axis < 0 { axis + rank as i64 } else { axis };
        let found = usize::try_from(counted).ok().filter(|a| *a < rank);
        found.ok_or_else(|| format!("axis {axis} of {rank}"))
    }
}

/// Elements before an axis, of it, and after it.
pub fn around(dims: &[usize], axis: usize) -> (usize, usize, usize) {
    let before = dims[..axis].iter().product();
    let after = dims[axis + 1..].iter().product();
    (before, dims[axis], after)
}

/// Runs `model`; what it gives.
pub fn run(
    model: &Model,
    constants: &[Option<Tensor>],
    inputs: Vec<Option<Tensor>>,
    fault: Option<&Fault>,
) -> Result<Vec<Tensor>, i32> {
    let mut values: Vec<Option<Tensor>> = vec![None; model.operands.len()];
    for (number, value) in model.inputs.iter().zip(inputs) {
        values[*number as usize] = value;
    }
    for operation in &model.operations {
        let name = operation_name(operation.code).unwrap_or_default();
        if matches!(fault, Some(Fault::Crash(of)) if of == name) {
            live::violated("this device crashes here, as it was told to");
        }
        let mut made = match evaluate(model, operation, name, constants, &values) {
            Ok(made) => made,
            Err(e) => {
                let given = |i: usize| {
                    let at = *operation.inputs.get(i)? as usize;
                    values[at]
                        .as_ref()
                        .or(constants[at].as_ref())?
                        .number()
                        .ok()
                };
                let code = code_of(name, operation, model, given);
                return told(code, &format!("{name}: {e}"));
            }
        };
        if matches!(fault, Some(Fault::Wrong(of)) if of == name) {
            made.iter_mut()
                .flat_map(|t| &mut t.data)
                .for_each(|x| *x = 0.5 * *x + 1.0);
        }
        for (number, mut made) in operation.outputs.iter().zip(made) {
            let operand = &model.operands[*number as usize];
            if !agrees(&operand.dims, &made.dims) {
                let what = format!(
                    "{name} gives {:?}, its result has {:?}",
                    made.dims, operand.dims
                );
                return told(OP_FAILED, &what);
            }
            made.data = operand.decode(&operand.encode(&made.data));
            values[*number as usize] = Some(made);
        }
    }
    let outputs = model.outputs.iter();
    outputs
        .map(|number| values[*number as usize].clone().ok_or(OP_FAILED))
        .collect()
}

/// The code with which `operation` fails: some are of an older make, in which arguments are bad data.
fn code_of(
    name: &str,
    operation: &Operation,
    model: &Model,
    given: impl Fn(usize) -> Option<f64>,
) -> i32 {
    let missing = |i: &u32| is_omitted(&model.operands[*i as usize]);
    let missing = operation.inputs.iter().any(missing);
    match name {
        "SPLIT" if given(2) != Some(operation.outputs.len() as f64) => BAD_DATA,
        "ARGMAX" | "ARGMIN" | "EXPAND_DIMS" | "MEAN" | "PAD" | "RESHAPE" | "SPLIT" if missing => {
            BAD_DATA
        }
        _ => OP_FAILED,
    }
}

/// Whether `operation` may lack operand `index`.
fn is_optional(name: &str, index: usize) -> bool {
    index == 1 && matches!(name, "SQUEEZE" | "TRANSPOSE")
}

/// Whether dimensions are those that an operand has, where 0, or none at all, stand for any.
fn agrees(own: &[u32], made: &[usize]) -> bool {
    let same = |(own, made): (&u32, &usize)| *own == 0 || *own as usize == *made;
    own.is_empty() || (own.len() == made.len() && own.iter().zip(made).all(same))
}

fn evaluate(
    model: &Model,
    operation: &Operation,
    name: &str,
    constants: &[Option<Tensor>],
    values: &[Option<Tensor>],
) -> Result<Vec<Tensor>, String> {
    let operands: Vec<&Operand> = {
        let all = operation.inputs.iter();
        all.map(|i| &model.operands[*i as usize]).collect()
    };
    let absent = Tensor::default();
    let mut t: Vec<&Tensor> = Vec::new();
    for (i, (number, operand)) in operation.inputs.iter().zip(&operands).enumerate() {
        let at = *number as usize;
        let found = values[at].as_ref().or(constants[at].as_ref());
        t.push(match found {
            Some(found) => found,
            None if is_omitted(operand) && is_optional(name, i) => &absent,
            None => return Err(format!("operand {number} has no contents")),
        });
    }
    let results = operation.outputs.iter();
    let results: Vec<&Operand> = results.map(|i| &model.operands[*i as usize]).collect();
    if name == "SPLIT" && t[2].number()? != results.len() as f64 {
        return Err(format!("{} results", results.len()));
    }
    scales(name, &operands, &results)?;
    lists(name, &t)?;
    let result = results[0];
    let ty = operands[0].ty;
    let one = |tensor: Result<Tensor, String>| tensor.map(|t| vec![t]);
    match name {
        "ADD" | "SUB" | "MUL" | "DIV" | "MAXIMUM" | "MINIMUM" | "POW" | "EQUAL" | "NOT_EQUAL"
        | "GREATER" | "GREATER_EQUAL" | "LESS" | "LESS_EQUAL" | "LOGICAL_AND" | "LOGICAL_OR" => {
            one(elementwise::binary(name, &t, ty))
        }
        "EXP" | "LOG" | "NEG" | "ABS" | "RSQRT" | "SQRT" | "SIN" | "FLOOR" | "LOGISTIC"
        | "TANH" | "RELU" | "LOGICAL_NOT" | "QUANTIZE" | "DEQUANTIZE" => {
            one(elementwise::unary(name, t[0]))
        }
        "CAST" => one(elementwise::cast(operands[0], result, t[0])),
        "SELECT" => one(elementwise::select(&t)),
        "FULLY_CONNECTED" | "CONV_2D" => {
            if !bias_fits(operands[0], operands[1], operands[2]) {
                return Err("the bias has not the scale of the product".into());
            }
            if name == "FULLY_CONNECTED" {
                return one(product::fully_connected(&t));
            }
            // of a filter with scales a channel the bias has those of the products
            let mut bias = t[2].clone();
            if let Some(channels) = &operands[1].channels {
                for (bias, scale) in bias.data.iter_mut().zip(&channels.scales) {
                    *bias *= f64::from(operands[0].scale) * f64::from(*scale);
                }
            }
            t[2] = &bias;
            let explicit = operands.get(7).is_some_and(|o| o.ty == INT32);
            one(product::convolution(&t, explicit))
        }
        "BATCH_MATMUL" => one(product::batched(&t)),
        "SOFTMAX" | "LOG_SOFTMAX" => one(rows::softmax(name, &t)),
        "MEAN" | "REDUCE_MAX" | "REDUCE_MIN" | "REDUCE_SUM" => one(rows::reduce(name, &t)),
        "ARGMAX" | "ARGMIN" => one(rows::arg(name, &t)),
        "TOPK_V2" => rows::top(&t),
        "CONCATENATION" => {
            let (axis, parts) = t.split_last().ok_or("no operands")?;
            if axis.number()? < 0.0 {
                return Err("an axis that is counted from the end".into());
            }
            one(shape::concatenated(parts, axis.axis(parts[0].dims.len())?))
        }
        "PACK" => one(shape::packed(&t)),
        "EMBEDDING_LOOKUP" => one(shape::gathered(t[1], 0, t[0])),
        "GATHER" => one(shape::gathered(t[0], t[1].axis(t[0].dims.len())?, t[2])),
        "EXPAND_DIMS" => one(shape::expanded(&t)),
        "FILL" => {
            let dims: Vec<usize> = t[0].integers().iter().map(|d| *d as usize).collect();
            let count = dims.iter().product();
            Ok(vec![Tensor::new(&dims, vec![t[1].number()?; count])])
        }
        "PAD" => one(shape::padded(&t)),
        "RESHAPE" => one(shape::reshaped(&t)),
        "SLICE" => one(shape::sliced(&t)),
        "SPLIT" => shape::split(&t),
        "SQUEEZE" => one(shape::squeezed(&t)),
        "STRIDED_SLICE" => one(shape::strided(&t)),
        "TILE" => one(shape::tiled(&t)),
        "TRANSPOSE" => one(shape::transposed(&t)),
        _ => Err("it is not computed".into()),
    }
}

/// Whether the operands of operation `name` that are lists have one dimension.
fn lists(name: &str, t: &[&Tensor]) -> Result<(), String> {
    let lists = match name {
        "EMBEDDING_LOOKUP" | "FILL" => &t[..1],
        "SLICE" => &t[1..3],
        "STRIDED_SLICE" => &t[1..4],
        "REDUCE_MAX" | "REDUCE_MIN" | "REDUCE_SUM" => &t[1..2],
        "SQUEEZE" if !t[1].data.is_empty() => &t[1..2],
        _ => return Ok(()),
    };
    match lists.iter().find(|l| l.dims.len() != 1) {
        None => Ok(()),
        Some(other) => Err(format!("a list of {:?}", other.dims)),
    }
}

/// Numbers of `operand` as its elements are, by what they stand for.
pub fn elements(operand: &Operand, numbers: &[f64]) -> Vec<f64> {
    match quantised(operand.ty) {
        Some(_) => crate::operand::raw(operand.ty, &operand.encode(numbers)),
        None => numbers.to_vec(),
    }
}
