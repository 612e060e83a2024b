//! What graphs compute, in 64-bit floating point: slow and plain, for telling whether a chip is right, and what range
//! numbers have. Numbers are not rounded to what tensors can hold.

mod elementwise;
mod product;
mod rows;
mod shape;

use super::{DataType, Graph, GraphError, Node, Param, Scalar, Tensor, TensorId, TensorKind};

/// The numbers of every tensor of a graph.
#[derive(Clone, Debug)]
pub struct Values(Vec<Option<Vec<f64>>>);

impl Values {
    /// Those of tensor `id`, row-major.
    pub fn of(&self, id: TensorId) -> &[f64] {
        let known = self.0.get(id.0 as usize).and_then(Option::as_ref);
        known.map_or(&[], |v| v)
    }
}

/// What `graph` computes of `inputs`, which are in the order they were added.
///
/// # Errors
/// Inputs that are not there or of another size, and nodes that mean nothing.
pub fn evaluate(graph: &Graph, inputs: &[Vec<f64>]) -> Result<Values, GraphError> {
    graph.check()?;
    let mut given = inputs.iter();
    let mut values = Values(vec![None; graph.tensors.len()]);
    for (slot, tensor) in values.0.iter_mut().zip(&graph.tensors) {
        *slot = match &tensor.kind {
            TensorKind::Static(bytes) => Some(tensor.decode(bytes)?),
            TensorKind::Input => {
                let numbers = given.next().cloned().unwrap_or_default();
                if Some(numbers.len()) != tensor.elements() {
                    return Err(GraphError::Tensor {
                        tensor: tensor.name.clone(),
                        what: "the length of what it is given",
                        found: numbers.len().to_string(),
                        expected: format!("that of {:?}", tensor.dims),
                    });
                }
                Some(numbers)
            }
            TensorKind::Native | TensorKind::Output => None,
        };
    }
    for node in &graph.nodes {
        let results = Operands {
            graph,
            node,
            values: &values,
        }
        .checked()?;
        for (&id, numbers) in node.outputs.iter().zip(results) {
            if let Some(slot) = values.0.get_mut(id.0 as usize) {
                *slot = Some(numbers);
            }
        }
    }
    Ok(values)
}

/// A tensor's dimensions and numbers.
#[derive(Clone, Copy)]
struct Array<'a> {
    dims: &'a [u32],
    numbers: &'a [f64],
}

impl Array<'_> {
    /// Length of the last dimension.
    fn width(&self) -> usize {
        self.dims.last().map_or(1, |d| *d as usize).max(1)
    }
}

/// A node with what it reads.
struct Operands<'a> {
    graph: &'a Graph,
    node: &'a Node,
    values: &'a Values,
}

impl<'a> Operands<'a> {
    /// The results, each of its tensor's size.
    fn checked(&self) -> Result<Vec<Vec<f64>>, GraphError> {
        let results = self.compute()?;
        for (&id, numbers) in self.node.outputs.iter().zip(&results) {
            let expected = self.graph.get(id).and_then(Tensor::elements);
            if expected != Some(numbers.len()) {
                let found = numbers.len();
                return Err(self.fault(format!("gives {found} numbers, of {expected:?}")));
            }
        }
        Ok(results)
    }

    fn compute(&self) -> Result<Vec<Vec<f64>>, GraphError> {
        let found = match self.elementwise()? {
            Some(found) => Some(found),
            None => match self.product()? {
                Some(found) => Some(found),
                None => self.rows()?,
            },
        };
        match found {
            Some(one) => Ok(vec![one]),
            None => self.shape(),
        }
    }

    fn fault(&self, why: impl Into<String>) -> GraphError {
        GraphError::Meaning {
            node: self.node.name.clone(),
            op: self.node.op,
            why: why.into(),
        }
    }

    fn array(&self, id: TensorId) -> Array<'a> {
        let dims = self.graph.get(id).map_or(&[][..], |t| &t.dims);
        Array {
            dims,
            numbers: self.values.of(id),
        }
    }

    /// Operand `i`.
    fn input(&self, i: usize) -> Result<Array<'a>, GraphError> {
        let id = self.node.inputs.get(i);
        let id = id.ok_or_else(|| self.fault(format!("has no operand {i}")))?;
        Ok(self.array(*id))
    }

    /// Dimensions of result `i`.
    fn result(&self, i: usize) -> Result<&'a [u32], GraphError> {
        let id = self.node.outputs.get(i);
        let tensor = id.and_then(|id| self.graph.get(*id));
        let tensor = tensor.ok_or_else(|| self.fault(format!("has no result {i}")))?;
        Ok(&tensor.dims)
    }

    fn param(&self, name: &str) -> Option<Param> {
        let found = self.node.params.iter().find(|(known, _)| *known == name);
        found.map(|(_, param)| *param)
    }

    /// The number that parameter `name` is.
    fn scalar(&self, name: &str) -> Option<f64> {
        match self.param(name)? {
            Param::Scalar(Scalar::U32(n)) => Some(f64::from(n)),
            Param::Scalar(Scalar::I32(n)) => Some(f64::from(n)),
            Param::Scalar(Scalar::F32(x)) => Some(f64::from(x)),
            Param::Scalar(Scalar::Bool(b)) => Some(f64::from(u8::from(b))),
            Param::Tensor(_) => None,
        }
    }

    /// The numbers that parameter `name` has.
    fn list(&self, name: &str) -> Result<Vec<i64>, GraphError> {
        match self.param(name) {
            Some(Param::Tensor(id)) => {
                let numbers = self.values.of(id).iter();
                Ok(numbers.map(|x| *x as i64).collect())
            }
            _ => Err(self.fault(format!("has no '{name}'"))),
        }
    }

    /// Parameter `axis`, the last one if it is not there; a dimension of operand 0.
    fn axis(&self) -> Result<usize, GraphError> {
        let rank = self.input(0)?.dims.len();
        let axis = self.scalar("axis").map_or(rank as i64 - 1, |a| a as i64);
        let axis = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(axis).ok().filter(|a| *a < rank) {
            Some(axis) => Ok(axis),
            None => Err(self.fault(format!("has axis {axis} of {rank}"))),
        }
    }
}

/// Elements of `dims`.
fn count(dims: &[u32]) -> usize {
    dims.iter().map(|d| *d as usize).product()
}

/// Distance of neighbours in each dimension.
fn strides(dims: &[u32]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * dims[i] as usize;
    }
    strides
}

/// The index of element `i` in each dimension.
fn index(mut i: usize, dims: &[u32]) -> Vec<usize> {
    let mut found = vec![0; dims.len()];
    for (at, dim) in found.iter_mut().zip(dims).rev() {
        *at = i % (*dim).max(1) as usize;
        i /= (*dim).max(1) as usize;
    }
    found
}

/// Where `at`, an index in a shape that `dims` is spread to, is in `dims`.
fn spread(at: &[usize], dims: &[u32]) -> usize {
    let skip = at.len().saturating_sub(dims.len());
    let own = at[skip..].iter().zip(dims).zip(strides(dims));
    own.map(|((i, d), s)| if *d == 1 { 0 } else { i * s }).sum()
}

impl DataType {
    /// Whether elements stand for numbers, rather than for places or choices.
    pub const fn is_number(self) -> bool {
        !matches!(self, DataType::I32 | DataType::U32 | DataType::Bool)
    }
}

#[cfg(test)]
mod tests;
