//! What operands operations take, by the interface's documentation.

use crate::codes::*;
use crate::operand::{Operand, Value, is_scalar, type_level};

/// A form of an operation: its operands, and by the type of `X` the level that brought it.
///
/// Tensors are `F` float32, `H` float16, `I` int32, `Q` quant8 asymm, `S` the signed one, `Y` quant8 symm, `P` that by
/// channels, `B` bool8; `W` is `X` or `P` beside quantised ones, `Z` the type of `X`'s bias. Scalars are `i` int32,
/// `b` bool, `f` float32, `x` of `X`'s kind. A `+` after a type stands for one or more of it. Whether an operand may be
/// omitted is looked at in a run.
struct Form {
    operands: &'static str,
    levels: &'static [(char, i64)],
}

const fn form(operands: &'static str, levels: &'static [(char, i64)]) -> Form {
    Form { operands, levels }
}

const FL6: i64 = 1_000_006;
const FL7: i64 = 1_000_007;

/// The forms of operation `name`, and the most dimensions of its tensors, if there is a bound.
fn forms(name: &str) -> (Vec<Form>, Option<usize>) {
    let four = Some(4);
    let from10: &[(char, i64)] = &[('F', 29), ('H', 29)];
    let moves: &[(char, i64)] = &[('F', 29), ('H', 29), ('I', 29), ('Q', 29), ('S', 30)];
    let compared: &[(char, i64)] = &[
        ('F', 29),
        ('H', 29),
        ('I', 29),
        ('Q', 29),
        ('B', 29),
        ('S', 30),
    ];
    let old: &[(char, i64)] = &[('F', 27), ('H', 29), ('Q', 27), ('S', 30)];
    let pie: &[(char, i64)] = &[('F', 28), ('H', 29), ('Q', 28), ('S', 30)];
    let new: &[(char, i64)] = &[('F', 29), ('H', 29), ('Q', 29), ('S', 30)];
    let one = |f: Form, rank| (vec![f], rank);
    match name {
        "ADD" | "MUL" => {
            let levels = &[('F', 27), ('Q', 27), ('H', 29), ('S', 30), ('I', 30)];
            one(form("XXi>X", levels), four)
        }
        "SUB" => {
            let levels = &[('F', 28), ('Q', 29), ('H', 29), ('S', 30), ('I', 30)];
            one(form("XXi>X", levels), four)
        }
        "DIV" => one(form("XXi>X", &[('F', 28), ('H', 29), ('I', 30)]), four),
        "MAXIMUM" | "MINIMUM" => one(form("XX>X", moves), None),
        "POW" => one(form("XX>X", from10), None),
        "EQUAL" | "NOT_EQUAL" | "GREATER" | "GREATER_EQUAL" | "LESS" | "LESS_EQUAL" => {
            one(form("XX>B", compared), None)
        }
        "LOGICAL_AND" | "LOGICAL_OR" => one(form("XX>X", &[('B', 29)]), None),
        "LOGICAL_NOT" => one(form("X>X", &[('B', 29)]), None),
        "ARGMAX" | "ARGMIN" => one(form("Xi>I", moves), None),
        "BATCH_MATMUL" => {
            let levels = &[('F', FL6), ('H', FL6), ('I', FL6), ('S', FL6)];
            one(form("XXbb>X", levels), four)
        }
        "CAST" => {
            let all = ["X>F", "X>H", "X>I", "X>Q"];
            let levels = &[('F', 29), ('H', 29), ('I', 29), ('Q', 29)];
            let mut forms: Vec<Form> = all.iter().map(|o| form(o, levels)).collect();
            let same = &[
                ('B', 30),
                ('S', 30),
                ('Y', 30),
                ('P', 30),
                ('A', 30),
                ('T', 30),
            ];
            forms.push(form("X>X", same));
            (forms, None)
        }
        "CONCATENATION" => one(form("X+i>X", old), four),
        "CONV_2D" => {
            let plain = ["XWZiiii>X", "XWZiiiiiii>X"];
            let laid = [
                "XWZiiiib>X",
                "XWZiiiibii>X",
                "XWZiiiiiiib>X",
                "XWZiiiiiiibii>X",
            ];
            let forms = plain.iter().map(|o| form(o, old));
            (
                forms.chain(laid.iter().map(|o| form(o, new))).collect(),
                four,
            )
        }
        "DEQUANTIZE" => {
            let levels = &[('Q', 27), ('S', 30), ('Y', 29), ('P', 29)];
            let halves = &[('Q', 29), ('S', 30), ('Y', 29), ('P', 29)];
            (vec![form("X>F", levels), form("X>H", halves)], four)
        }
        "QUANTIZE" => {
            let signed = &[('F', 30), ('H', 30)];
            (vec![form("X>Q", from10), form("X>S", signed)], four)
        }
        "EMBEDDING_LOOKUP" => {
            let levels = &[('F', 27), ('I', 27), ('Q', 27), ('H', 30), ('S', 30)];
            one(form("IX>X", levels), None)
        }
        "EXP" | "LOG" | "SIN" | "SQRT" => one(form("X>X", from10), None),
        "RSQRT" => {
            let levels = &[('F', 29), ('H', 29), ('Q', FL7), ('S', FL7)];
            one(form("X>X", levels), None)
        }
        "NEG" => one(form("X>X", &[('F', 29), ('H', 29), ('I', 29)]), None),
        "ABS" => one(form("X>X", &[('F', 29), ('H', 29), ('I', 30)]), None),
        "FLOOR" => one(form("X>X", &[('F', 27), ('H', 29)]), four),
        "EXPAND_DIMS" => one(form("Xi>X", moves), None),
        "FILL" => one(form("Ix>X", &[('F', 30), ('H', 30), ('I', 30)]), None),
        "FULLY_CONNECTED" => one(form("XXZi>X", old), four),
        "GATHER" => one(form("XiI>X", moves), None),
        "LOGISTIC" | "RELU" => one(form("X>X", old), four),
        "TANH" => {
            let levels = &[('F', 27), ('H', 29), ('Q', 29), ('S', 30)];
            one(form("X>X", levels), four)
        }
        "SOFTMAX" => (vec![form("Xx>X", old), form("Xxi>X", new)], four),
        "LOG_SOFTMAX" => one(form("Xxi>X", from10), None),
        "MEAN" => one(form("XIi>X", pie), four),
        "REDUCE_MAX" | "REDUCE_MIN" => one(form("XIb>X", new), four),
        "REDUCE_SUM" => one(form("XIb>X", from10), four),
        "PACK" => {
            let levels = &[('F', FL6), ('H', FL6), ('Q', FL6), ('S', FL6), ('I', FL6)];
            one(form("iX+>X", levels), four)
        }
        "PAD" => one(form("XI>X", pie), four),
        "RESHAPE" => {
            let levels = &[('F', 27), ('H', 29), ('Q', 27), ('S', 30), ('I', FL6)];
            one(form("XI>X", levels), four)
        }
        "SELECT" => one(form("BXX>X", moves), None),
        "SLICE" => one(form("XII>X", moves), None),
        "SPLIT" => one(form("Xii>X+", moves), None),
        "SQUEEZE" | "TRANSPOSE" => one(form("XI>X", pie), four),
        "STRIDED_SLICE" => one(form("XIIIiii>X", pie), four),
        "TILE" => one(form("XI>X", moves), None),
        "TOPK_V2" => one(form("Xi>XI", moves), None),
        _ => (Vec::new(), None),
    }
}

fn letter(ty: i32) -> char {
    match ty {
        TENSOR_FLOAT32 => 'F',
        TENSOR_FLOAT16 => 'H',
        TENSOR_INT32 => 'I',
        TENSOR_QUANT8_ASYMM => 'Q',
        TENSOR_QUANT8_ASYMM_SIGNED => 'S',
        TENSOR_QUANT8_SYMM => 'Y',
        TENSOR_QUANT8_SYMM_PER_CHANNEL => 'P',
        TENSOR_QUANT16_ASYMM => 'A',
        TENSOR_QUANT16_SYMM => 'T',
        TENSOR_BOOL8 => 'B',
        INT32 => 'i',
        FLOAT32 => 'f',
        FLOAT16 => 'h',
        BOOL => 'b',
        _ => '_',
    }
}

/// Whether a type stands for `wanted` where `X` is `x`.
fn stands(wanted: char, found: char, x: char) -> bool {
    match wanted {
        'X' => found == x,
        'W' => found == x || (found == 'P' && matches!(x, 'Q' | 'S')),
        'Z' => found == if matches!(x, 'Q' | 'S') { 'I' } else { x },
        'x' => {
            found
                == match x {
                    'H' => 'h',
                    'I' => 'i',
                    _ => 'f',
                }
        }
        other => found == other,
    }
}

/// Whether `operands` are those of `pattern`, where `X` is `x`.
fn fits(pattern: &str, operands: &[&Operand], x: char) -> bool {
    let (mut pattern, mut at) = (pattern.chars().peekable(), 0);
    while let Some(wanted) = pattern.next() {
        let many = pattern.next_if_eq(&'+').is_some();
        let first = at;
        while let Some(operand) = operands.get(at)
            && stands(wanted, letter(operand.ty), x)
            && (many || at == first)
        {
            at += 1;
        }
        if at == first {
            return false;
        }
    }
    at == operands.len()
}

/// The feature level that operation `code` with these operands needs.
///
/// # Errors
/// It takes no such operands.
pub fn level(code: i32, inputs: &[&Operand], outputs: &[&Operand]) -> Result<i64, String> {
    let name = operation_name(code).ok_or_else(|| format!("operation {code} is not computed"))?;
    let letters =
        |operands: &[&Operand]| -> String { operands.iter().map(|o| letter(o.ty)).collect() };
    let told = || format!("{name} of {}>{}", letters(inputs), letters(outputs));
    let (forms, most) = forms(name);
    let found = forms.iter().find_map(|form| {
        let (takes, gives) = form.operands.split_once('>')?;
        let fitting = form
            .levels
            .iter()
            .find(|(x, _)| fits(takes, inputs, *x) && fits(gives, outputs, *x));
        fitting.map(|(_, level)| *level)
    });
    let found = found.ok_or_else(|| format!("{} is not defined", told()))?;
    let all = || inputs.iter().chain(outputs);
    // of results dimensions are looked at in a run
    if let Some(most) = most
        && let Some(large) = inputs.iter().find(|o| o.dims.len() > most)
    {
        return Err(format!(
            "{}: {:?} are too many dimensions",
            told(),
            large.dims
        ));
    }
    shapes(name, inputs, outputs).map_err(|e| format!("{}: {e}", told()))?;
    let types = all().map(|o| type_level(o.ty)).max().unwrap_or(27);
    // with zeros, or without dimensions, sizes are known only when it runs, which is newer
    let dynamic =
        all().any(|o| !is_scalar(o.ty) && !o.is_specified() && !matches!(o.value, Value::Omitted));
    Ok(found.max(types).max(if dynamic { 29 } else { 27 }))
}

/// Whether dimensions and scales that are known are such as operation `name` takes when it is added to a model.
fn shapes(name: &str, inputs: &[&Operand], outputs: &[&Operand]) -> Result<(), String> {
    let (Some(x), Some(y)) = (inputs.first(), outputs.first()) else {
        return Err("it has no operands".into());
    };
    let known = |o: &Operand| !o.dims.is_empty();
    let pair = |o: &Operand| (o.scale, o.zero_point);
    let holds = |fits: bool, what: &str| fits.then_some(()).ok_or_else(|| what.to_owned());
    match name {
        "FULLY_CONNECTED" if inputs[..3].iter().all(|o| known(o)) => {
            let (weights, bias) = (&inputs[1].dims, &inputs[2].dims);
            let ranks = x.dims.len() >= 2 && weights.len() == 2 && bias.len() == 1;
            holds(ranks, "its tensors have not the dimensions of a product")?;
            let count: u64 = x.dims.iter().map(|d| u64::from(*d)).product();
            let fits = weights[1] == 0 || count.is_multiple_of(u64::from(weights[1]));
            holds(fits, "its operand has not the columns of its weights")?;
            let same = weights[0] == 0 || bias[0] == 0 || weights[0] == bias[0];
            holds(same, "its bias has not the rows of its weights")
        }
        "CAST" if known(x) && known(y) => holds(
            x.dims == y.dims,
            "its result has not the dimensions of its operand",
        ),
        "PACK" => {
            let parts = &inputs[1..];
            let quantised = crate::operand::quantised(y.ty).is_some();
            let scaled = !quantised || parts.iter().all(|p| pair(p) == pair(y));
            holds(scaled, "its operands have not the scale of its result")?;
            let rank = y.dims.len().checked_sub(1);
            let rank = rank.or_else(|| parts.iter().map(|p| p.dims.len()).find(|r| *r > 0));
            let fits = |p: &&Operand| !known(p) || Some(p.dims.len()) == rank;
            holds(
                parts.iter().all(fits),
                "its operands have not the dimensions of parts",
            )
        }
        "MUL" if crate::operand::quantised(y.ty).is_some() => {
            let larger = y.scale > x.scale * inputs[1].scale;
            holds(
                larger,
                "its result must have a larger scale than its operands' product",
            )
        }
        "CONV_2D" => {
            let four = |o: &Operand| !known(o) || o.dims.len() == 4;
            let filter = inputs[1];
            holds(
                four(x) && four(filter),
                "its tensors have not four dimensions",
            )?;
            match &filter.channels {
                None => {
                    let scaled = filter.ty != TENSOR_QUANT8_SYMM_PER_CHANNEL;
                    holds(scaled, "its filter has no scales")
                }
                Some(c) => holds(c.axis == 0, "its filter has scales of another axis"),
            }
        }
        _ => Ok(()),
    }
}

/// Whether scales and zero points are such as operation `name` takes, which is looked at in a run.
pub fn scales(name: &str, inputs: &[&Operand], outputs: &[&Operand]) -> Result<(), String> {
    let (Some(x), Some(y)) = (inputs.first(), outputs.first()) else {
        return Err("it has no operands".into());
    };
    let pair = |o: &Operand| (o.scale, o.zero_point);
    let fixed = |scale: f32, unsigned: i32, signed: i32| {
        let zero = match y.ty {
            TENSOR_QUANT8_ASYMM => unsigned,
            TENSOR_QUANT8_ASYMM_SIGNED => signed,
            _ => return Ok(()),
        };
        match pair(y) == (scale, zero) {
            true => Ok(()),
            false => Err(format!(
                "its result must have scale {scale} and zero point {zero}"
            )),
        }
    };
    let same =
        |of: &Operand, outputs: &[&Operand]| match outputs.iter().find(|o| pair(o) != pair(of)) {
            None => Ok(()),
            Some(_) => Err("its result must have the scale of its operand".into()),
        };
    match name {
        "RESHAPE" | "TRANSPOSE" | "SQUEEZE" | "EXPAND_DIMS" | "STRIDED_SLICE" | "SLICE"
        | "SPLIT" | "TILE" | "GATHER" | "RELU" | "PAD" | "REDUCE_MAX" | "REDUCE_MIN" | "MEAN" => {
            same(x, outputs)
        }
        "TOPK_V2" => {
            same(x, &outputs[..1])?;
            match outputs[1].scale == 0.0 {
                true => Ok(()),
                false => Err("places have no scale".into()),
            }
        }
        "EMBEDDING_LOOKUP" => same(inputs[1], outputs),
        "LOGISTIC" | "SOFTMAX" => fixed(1.0 / 256.0, 0, -128),
        "TANH" => fixed(1.0 / 128.0, 128, 0),
        _ => Ok(()),
    }
}

/// Whether the bias of a product has the scale that it must have, which runtimes look at when they compute.
pub fn bias_fits(x: &Operand, weights: &Operand, bias: &Operand) -> bool {
    if bias.ty != TENSOR_INT32 {
        return true;
    }
    if weights.channels.is_some() {
        return bias.scale == 0.0;
    }
    let expected = x.scale * weights.scale;
    (bias.scale - expected).abs() <= 1e-6 * expected.max(bias.scale)
}
