//! Which neighbouring nodes become one step, so that what lies between them is never in memory.

use anynpu_ir::{
    Activation, BinaryOp, DType, Graph, Node, Op, Subgraph, ValueDef, ValueId, WeightId,
};

/// Nodes that follow one another and become one step.
#[derive(Clone, Debug)]
pub(crate) enum Fused {
    /// `act(x · gate) · (x · up)`: two `Linear`s and the `GatedActivation` of them.
    Gated {
        act: Activation,
        x: ValueId,
        /// Of the gate and of what it gates.
        weights: [WeightId; 2],
        bias: [Option<WeightId>; 2],
        out: ValueId,
    },
    /// `plus + x · weight`: a `Linear` and the addition of something to it.
    Added {
        x: ValueId,
        weight: WeightId,
        bias: Option<WeightId>,
        plus: ValueId,
        out: ValueId,
    },
}

/// The fused nodes of a run.
#[derive(Debug)]
pub(crate) struct Fusions {
    /// For each node of the run: what it begins, if it does.
    begins: Vec<Option<Fused>>,
    /// For each node of the run: the index in the run of the last node of its step.
    last: Vec<usize>,
    /// For each value of the graph: whether it lies inside a step.
    inner: Vec<bool>,
}

impl Fusions {
    /// All there are in `run`.
    pub fn new(run: &Subgraph<'_>) -> Fusions {
        let graph = run.graph();
        let nodes: Vec<&Node> = run.nodes().map(|(_, node)| node).collect();
        let uses = uses(graph, run);
        let mut fusions = Fusions {
            begins: vec![None; nodes.len()],
            last: (0..nodes.len()).collect(),
            inner: vec![false; graph.values().len()],
        };
        let mut at = 0;
        while at < nodes.len() {
            let rest = &nodes[at..];
            let Some((fused, count)) =
                gated(graph, &uses, rest).or_else(|| added(graph, &uses, rest))
            else {
                at += 1;
                continue;
            };
            let last = at + count - 1;
            for id in nodes[at..last].iter().flat_map(|n| &n.outputs) {
                fusions.inner[id.index()] = true;
            }
            fusions.begins[at] = Some(fused);
            fusions.last[at..last].fill(last);
            at += count;
        }
        fusions
    }

    /// What the `at`-th node of the run begins.
    pub fn begin(&self, at: usize) -> Option<&Fused> {
        self.begins[at].as_ref()
    }

    /// The index in the run of the last node of the step that its `at`-th node belongs to.
    pub fn last(&self, at: usize) -> usize {
        self.last[at]
    }

    /// Whether a value lies inside a step and has no place.
    pub fn inner(&self, id: ValueId) -> bool {
        self.inner[id.index()]
    }
}

/// How many times each value of the graph is used, inside the run or out of it.
fn uses(graph: &Graph, run: &Subgraph<'_>) -> Vec<usize> {
    let mut uses = vec![0; graph.values().len()];
    let inside = run.nodes().flat_map(|(_, node)| &node.inputs);
    for id in inside.chain(run.outputs()) {
        uses[id.index()] += 1;
    }
    uses
}

/// A `Linear` by kernels: its operand, weight and bias.
fn linear(graph: &Graph, node: &Node) -> Option<(ValueId, WeightId, Option<WeightId>)> {
    let weight = |id: ValueId| match graph.value(id).def {
        ValueDef::Weight(w) => Some(w),
        _ => None,
    };
    let f32 = |id: ValueId| graph.ty(id).dtype == DType::F32 && weight(id).is_none();
    let [x, w, rest @ ..] = node.inputs.as_slice() else {
        return None;
    };
    let bias = match rest {
        [] => None,
        [bias] => Some(weight(*bias)?),
        _ => return None,
    };
    let fits = node.op == Op::Linear && f32(*x) && node.outputs.iter().all(|&id| f32(id));
    fits.then_some((*x, weight(*w)?, bias))
}

/// A [`Fused::Gated`] that begins `nodes`, and how many of them it takes.
fn gated(graph: &Graph, uses: &[usize], nodes: &[&Node]) -> Option<(Fused, usize)> {
    let [first, second, third, ..] = nodes else {
        return None;
    };
    let Op::GatedActivation(act) = third.op else {
        return None;
    };
    let made = [*first.outputs.first()?, *second.outputs.first()?];
    let [gate, up] = third.inputs.as_slice() else {
        return None;
    };
    let (gate, up) = match (made == [*gate, *up], made == [*up, *gate]) {
        (true, _) => (first, second),
        (_, true) => (second, first),
        _ => return None,
    };
    let once = made[0] != made[1] && made.iter().all(|id| uses[id.index()] == 1);
    let ((x, gate, gate_bias), (same, up, up_bias)) = (linear(graph, gate)?, linear(graph, up)?);
    let out = *third.outputs.first()?;
    let fits = once && x == same && graph.ty(out) == graph.ty(made[0]);
    let fused = Fused::Gated {
        act,
        x,
        weights: [gate, up],
        bias: [gate_bias, up_bias],
        out,
    };
    fits.then_some((fused, 3))
}

/// A [`Fused::Added`] that begins `nodes`, and how many of them it takes.
fn added(graph: &Graph, uses: &[usize], nodes: &[&Node]) -> Option<(Fused, usize)> {
    let [first, second, ..] = nodes else {
        return None;
    };
    let made = *first.outputs.first()?;
    let (Op::Binary(BinaryOp::Add), [a, b]) = (&second.op, second.inputs.as_slice()) else {
        return None;
    };
    let plus = match (*a == made, *b == made) {
        (true, false) => *b,
        (false, true) => *a,
        _ => return None,
    };
    let (x, weight, bias) = linear(graph, first)?;
    let out = *second.outputs.first()?;
    let weights = matches!(graph.value(plus).def, ValueDef::Weight(_));
    let alike = graph.ty(plus) == graph.ty(made) && graph.ty(out) == graph.ty(made);
    let fused = Fused::Added {
        x,
        weight,
        bias,
        plus,
        out,
    };
    (uses[made.index()] == 1 && alike && !weights).then_some((fused, 2))
}

#[cfg(test)]
mod tests {
    use anynpu_ir::{Dim, Shape, SymbolValues, TensorType};

    use super::*;
    use crate::place::{Place, Placement};

    /// `x + down(act(x · gate) · (x · up))`, with one more use of the gate's product if `used` says so.
    fn feed_forward(used: bool) -> Graph {
        let mut g = Graph::new("feed-forward");
        let rows = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(64)]);
        let x = g.add_input("x", rows).unwrap();
        let [gate, up, down] = ["gate", "up", "down"].map(|name| {
            let shape = Shape::fixed(&[64, 64]);
            g.add_weight(name, TensorType::new(DType::F16, shape))
                .unwrap()
        });
        let h = g.add("h", Op::Activation(Activation::Relu), &[x]).unwrap();
        let gate = g.add("gate_rows", Op::Linear, &[h, gate]).unwrap();
        let up = g.add("up_rows", Op::Linear, &[h, up]).unwrap();
        let act = Op::GatedActivation(Activation::Silu);
        let f = g.add("gated", act, &[gate, up]).unwrap();
        let f = g.add("down_rows", Op::Linear, &[f, down]).unwrap();
        let out = g.add("sum", Op::Binary(BinaryOp::Add), &[f, x]).unwrap();
        if used {
            let twice = g.add("twice", Op::Binary(BinaryOp::Add), &[gate, gate]);
            g.set_output(twice.unwrap()).unwrap();
        }
        g.set_output(out).unwrap();
        g
    }

    #[test]
    fn a_gate_and_a_residual_become_part_of_the_products_before_them() {
        let graph = feed_forward(false);
        let run = graph.whole();
        let fusions = Fusions::new(&run);
        assert!(matches!(fusions.begin(1), Some(Fused::Gated { .. })));
        assert!(matches!(fusions.begin(4), Some(Fused::Added { .. })));
        assert_eq!(
            (0..6).map(|at| fusions.last(at)).collect::<Vec<_>>(),
            [0, 3, 3, 3, 5, 5]
        );
        let place = |name: &str, fusions: &Fusions| {
            let limits = SymbolValues::step(8, 8, 8, 8);
            let placement = Placement::new(&run, fusions, &limits).unwrap();
            placement.get(graph.find_value(name).unwrap())
        };
        for inner in ["gate_rows", "up_rows", "down_rows"] {
            assert_eq!(place(inner, &fusions), None, "{inner}");
        }
        // What a step reads stays where it is until the step ends.
        let (read, written) = (place("h", &fusions), place("gated", &fusions));
        assert!(
            matches!(read, Some(Place::Arena(_))) && read != written,
            "{read:?} {written:?}"
        );
    }

    #[test]
    fn a_product_that_is_used_twice_or_leaves_the_run_is_kept() {
        let graph = feed_forward(true);
        let fusions = Fusions::new(&graph.whole());
        assert!(fusions.begin(1).is_none() && fusions.begin(4).is_some());
        let graph = feed_forward(false);
        for end in 2..4 {
            let run = graph.subgraph(0..end).unwrap();
            let fusions = Fusions::new(&run);
            assert!(
                (0..end as usize).all(|at| fusions.begin(at).is_none()),
                "{end} nodes"
            );
        }
    }
}
