//! Cases of every op: worked out by hand, and the edges of what each takes.
//!
//! They say what the op set means, so they hold for every device; tolerances are those of F32
//! arithmetic in any order.

mod attention;
mod elementwise;
mod layout;
mod linear;
mod reduce;

use anynpu_cpu::reference::{Tensor, TensorData};
use anynpu_ir::Op;

use crate::{Case, Expectation, Tolerance};

/// Values that F32 arithmetic gets right but for its last places.
const CLOSE: Tolerance = Tolerance::new(2e-6, 2e-6);

/// All of them.
pub fn all() -> Vec<Case> {
    [
        linear::cases(),
        elementwise::cases(),
        attention::cases(),
        layout::cases(),
        reduce::cases(),
    ]
    .concat()
}

/// A tensor of these elements.
///
/// # Panics
/// If they are not as many as the shape says.
pub fn tensor<T>(shape: &[usize], elements: impl Into<Vec<T>>) -> Tensor
where
    TensorData: From<Vec<T>>,
{
    Tensor::new(shape, elements.into()).expect("as many elements as the shape says")
}

/// A case of one op that gives `expected` but for rounding.
fn close(
    name: impl Into<String>,
    op: Op,
    inputs: Vec<Tensor>,
    expected: impl IntoIterator<Item = Tensor>,
) -> Case {
    let expected = Expectation::Values(expected.into_iter().collect(), CLOSE);
    Case::op(name, op, inputs, expected).expect("the op takes these operands")
}

/// A case of one op that gives exactly `expected`.
fn exact(
    name: impl Into<String>,
    op: Op,
    inputs: Vec<Tensor>,
    expected: impl IntoIterator<Item = Tensor>,
) -> Case {
    let expected = Expectation::Values(expected.into_iter().collect(), Tolerance::EXACT);
    Case::op(name, op, inputs, expected).expect("the op takes these operands")
}

/// A case of one op that fails, telling `part`.
fn error(name: impl Into<String>, op: Op, inputs: Vec<Tensor>, part: &str) -> Case {
    let expected = Expectation::Error(part.into());
    Case::op(name, op, inputs, expected).expect("the op takes these operands")
}
