//! How much a node has to do, whoever does it.

use std::ops::AddAssign;

use crate::{AttentionKv, DType, Graph, Node, Op, Symbol, SymbolValues, TensorType, ValueDef};

/// Arithmetic and memory traffic of nodes in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Arithmetic operations; a multiply-add is two.
    pub operations: f64,
    /// Bytes of weights read.
    pub weight_bytes: f64,
    /// Bytes of other values read and written.
    pub value_bytes: f64,
    /// Bytes of states read and written.
    pub state_bytes: f64,
}

impl Work {
    /// The work of `node` with `symbols` bound, float states kept in `state_dtype`.
    ///
    /// Products with weights count their multiply-adds, attention those of both of its products, other ops
    /// one operation an element of their results. Of a table that is looked up, only the rows found count.
    /// Sizes past what can be addressed count as the largest that can.
    pub fn of(graph: &Graph, node: &Node, symbols: &SymbolValues, state_dtype: DType) -> Work {
        if matches!(node.op, Op::Reshape { .. }) {
            return Work::default();
        }
        let elements = |ty: &TensorType| ty.shape.elements(symbols).unwrap_or(usize::MAX) as f64;
        let size = |ty: &TensorType| ty.bytes(symbols).unwrap_or(usize::MAX) as f64;
        let outputs = || node.outputs.iter().map(|&id| graph.ty(id));
        let results: f64 = outputs().map(elements).sum();
        let mut work = Work {
            operations: results,
            value_bytes: outputs().map(size).sum(),
            ..Work::default()
        };
        for (i, &id) in node.inputs.iter().enumerate() {
            let ty = graph.ty(id);
            let looked_up = i == 0 && matches!(node.op, Op::Embedding | Op::Gather { .. });
            let weight = matches!(graph.value(id).def, ValueDef::Weight(_));
            let bytes = if looked_up { results * 4.0 } else { size(ty) };
            match weight {
                true => work.weight_bytes += bytes,
                false => work.value_bytes += bytes,
            }
            if weight && i == 1 && matches!(node.op, Op::Linear | Op::ExpertLinear) {
                let inner = ty.shape.last().map_or(1, |d| d.resolve(symbols));
                work.operations = 2.0 * results * f64::from(inner);
            }
        }
        if let Op::Attention {
            kv: AttentionKv::State { k, v },
            ..
        } = node.op
        {
            let rows =
                f64::from(symbols.get(Symbol::CACHED)) + f64::from(symbols.get(Symbol::TOKENS));
            let queries = node.inputs.first().map_or(0.0, |&q| elements(graph.ty(q)));
            work.operations = 4.0 * queries * rows;
            let mut one = *symbols;
            one.set(Symbol::CAPACITY, 1);
            for state in [k, v] {
                let shape = graph.state(state).ty.shape.clone();
                let row = TensorType::new(state_dtype, shape).bytes(&one).unwrap_or(0);
                work.state_bytes += row as f64 * rows;
            }
        }
        work
    }

    /// All bytes.
    pub fn bytes(&self) -> f64 {
        self.weight_bytes + self.value_bytes + self.state_bytes
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.operations += other.operations;
        self.weight_bytes += other.weight_bytes;
        self.value_bytes += other.value_bytes;
        self.state_bytes += other.state_bytes;
    }
}

/// The element type of the weights that a node multiplies by, if it does.
pub fn weight_dtype(graph: &Graph, node: &Node) -> Option<DType> {
    let product = matches!(node.op, Op::Linear | Op::ExpertLinear | Op::MatMul { .. });
    let operand = node.inputs.get(1).filter(|_| product)?;
    let weight = matches!(graph.value(*operand).def, ValueDef::Weight(_));
    weight.then(|| graph.ty(*operand).dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dim;

    fn product() -> Graph {
        let mut graph = Graph::new("g");
        let x = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(64)]);
        let x = graph.add_input("x", x).unwrap();
        let w = TensorType::new(DType::Q8_0, [Dim::Fixed(16), Dim::Fixed(64)]);
        let w = graph.add_weight("w", w).unwrap();
        let y = graph.add("y", Op::Linear, &[x, w]).unwrap();
        graph.set_output(y).unwrap();
        graph
    }

    #[test]
    fn a_product_counts_two_operations_a_weight_and_each_byte_once() {
        let graph = product();
        let node = &graph.nodes()[0];
        let work = Work::of(&graph, node, &SymbolValues::step(3, 0, 1, 8), DType::F32);
        assert_eq!(work.operations, 2.0 * 3.0 * 16.0 * 64.0);
        assert_eq!(work.weight_bytes, 16.0 * 2.0 * 34.0);
        assert_eq!(work.value_bytes, 4.0 * 3.0 * (64.0 + 16.0));
        assert_eq!(work.bytes(), work.weight_bytes + work.value_bytes);
        assert_eq!(weight_dtype(&graph, node), Some(DType::Q8_0));
    }
}
