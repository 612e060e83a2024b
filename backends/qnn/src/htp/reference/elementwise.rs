//! Operations on each element alone.

use super::{Operands, count, index, spread};
use crate::htp::GraphError;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// By the error function, which is the sum of its series near 0 and 1 less a continued fraction far from it.
fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))
}

fn erf(x: f64) -> f64 {
    let a = x.abs();
    let found = if a < 3.0 {
        let (mut term, mut sum) = (a, a);
        for n in 1..60 {
            let n = f64::from(n);
            term *= -a * a / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..=40).rev().fold(a, |f, n| a + f64::from(n) / 2.0 / f);
        1.0 - (-a * a).exp() / (fraction * std::f64::consts::PI.sqrt())
    };
    found.copysign(x)
}

impl Operands<'_> {
    /// The result of an operation on each element, or `None` of another operation.
    pub(super) fn elementwise(&self) -> Result<Option<Vec<f64>>, GraphError> {
        let neuron = self.scalar("operation").unwrap_or(-1.0) as i64;
        let one: fn(f64) -> f64 = match (self.node.op, neuron) {
            ("Sigmoid", _) | ("ElementWiseNeuron", 6) => sigmoid,
            ("Gelu", _) | ("ElementWiseNeuron", 1) => gelu,
            ("Relu", _) | ("ElementWiseNeuron", 4) => |x| x.max(0.0),
            ("Tanh", _) | ("ElementWiseNeuron", 8) => f64::tanh,
            ("HardSwish", _) | ("ElementWiseNeuron", 3) => |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            ("ElementWiseNeg", _) => |x| -x,
            ("ElementWiseExp", _) => f64::exp,
            ("ElementWiseAbs", _) => f64::abs,
            ("ElementWiseSquareRoot", _) => f64::sqrt,
            ("ElementWiseRsqrt", _) => |x| 1.0 / x.sqrt(),
            ("ElementWiseSin", _) => f64::sin,
            ("ElementWiseCos", _) => f64::cos,
            ("ElementWiseLog", _) => f64::ln,
            ("Cast" | "Quantize" | "Dequantize" | "Convert", _) => |x| x,
            _ => return self.of_two(),
        };
        let x = self.input(0)?;
        Ok(Some(x.numbers.iter().map(|x| one(*x)).collect()))
    }

    fn of_two(&self) -> Result<Option<Vec<f64>>, GraphError> {
        let two: fn(f64, f64) -> f64 = match self.node.op {
            "ElementWiseAdd" => |a, b| a + b,
            "ElementWiseSubtract" => |a, b| a - b,
            "ElementWiseMultiply" => |a, b| a * b,
            "ElementWiseDivide" => |a, b| a / b,
            "ElementWiseMaximum" => f64::max,
            "ElementWiseMinimum" => f64::min,
            "ElementWisePower" => f64::powf,
            "ElementWiseSelect" => return self.select().map(Some),
            _ => return Ok(None),
        };
        let (a, b, dims) = (self.input(0)?, self.input(1)?, self.result(0)?);
        let each = (0..count(dims)).map(|i| {
            let at = index(i, dims);
            let of = |x: &super::Array<'_>| x.numbers.get(spread(&at, x.dims)).copied();
            two(of(&a).unwrap_or(f64::NAN), of(&b).unwrap_or(f64::NAN))
        });
        Ok(Some(each.collect()))
    }

    fn select(&self) -> Result<Vec<f64>, GraphError> {
        let (chosen, dims) = (self.input(0)?, self.result(0)?);
        let both = [self.input(2)?, self.input(1)?];
        let each = (0..count(dims)).map(|i| {
            let at = index(i, dims);
            let first = chosen.numbers.get(spread(&at, chosen.dims));
            let from = &both[usize::from(first.is_some_and(|c| *c != 0.0))];
            let found = from.numbers.get(spread(&at, from.dims)).copied();
            found.unwrap_or(f64::NAN)
        });
        Ok(each.collect())
    }
}
