//! Graphs with activations of 8 or 16 bits, made of those in floating point by the range that numbers have.

use std::collections::BTreeMap;

use super::{DataType, Encoding, Graph, GraphError, Node, Tensor, TensorId, TensorKind};

/// How activations are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FixedForm {
    /// In 8 bits.
    U8,
    /// In 16 bits.
    U16,
}

impl FixedForm {
    /// The type of activations.
    pub const fn dtype(self) -> DataType {
        match self {
            FixedForm::U8 => DataType::Ufixed8,
            FixedForm::U16 => DataType::Ufixed16,
        }
    }

    const fn levels(self) -> f64 {
        match self {
            FixedForm::U8 => 256.0,
            FixedForm::U16 => 65536.0,
        }
    }

    /// Elements that stand for `range`, and 0 exactly.
    fn encoding(self, range: Range) -> Encoding {
        let (least, most) = (range.least.min(0.0), range.most.max(0.0));
        let apart = (most - least).max(f64::from(f32::MIN_POSITIVE) * self.levels());
        let scale = apart / (self.levels() - 1.0);
        Encoding::Scale {
            scale: scale as f32,
            offset: (least / scale).round() as i32,
        }
    }

    /// As many above 0 as below.
    fn symmetric(self, range: Range) -> Encoding {
        let half = self.levels() / 2.0;
        let most = range.most.abs().max(range.least.abs());
        let scale = most.max(f64::from(f32::MIN_POSITIVE) * half) / (half - 1.0);
        Encoding::Scale {
            scale: scale as f32,
            offset: -half as i32,
        }
    }
}

/// Between which numbers all of a tensor's are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
}

impl Range {
    /// That of `numbers`; 0 to 0 of none.
    pub fn of(numbers: &[f64]) -> Range {
        let zero = Range {
            least: 0.0,
            most: 0.0,
        };
        numbers.iter().fold(zero, |range, &x| Range {
            least: range.least.min(x),
            most: range.most.max(x),
        })
    }

    /// That of both.
    #[must_use]
    pub fn with(self, other: Range) -> Range {
        Range {
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }
}

/// What decides how a tensor is held.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// A number of the range that was seen, perhaps with as many elements above 0 as below.
    Activation { symmetric: bool },
    /// A number of a range that the operation has.
    Fixed(Range),
    /// A matrix with a scale for each index of `axis`, or one for all.
    Weight { axis: Option<u32> },
    /// What is added to a product of these two.
    Bias { x: TensorId, w: TensorId },
    /// As it was: places, choices, weights that have their form already.
    Kept,
}

/// `graph` with activations in `form`. `ranges` are those of its tensors' numbers, by index (those of static ones are
/// known); matrices in floating point become 8 bits, with a scale an output channel where that is computed right.
///
/// Static tensors without contents stay so: the rest is what it would be with them.
///
/// # Errors
/// Contents of another size than their tensor.
pub fn fixed(graph: &Graph, ranges: &[Range], form: FixedForm) -> Result<Graph, GraphError> {
    let graph = &without_casts(graph);
    let mut roles: Vec<Role> = graph.tensors.iter().map(first_role).collect();
    let mut groups = Groups::new(graph.tensors.len());
    for node in &graph.nodes {
        assign(graph, node, form, &mut roles);
        groups.tie(node);
    }
    let mut all = ranges.to_vec();
    all.resize(graph.tensors.len(), Range::of(&[]));
    for (range, tensor) in all.iter_mut().zip(&graph.tensors) {
        if let TensorKind::Static(bytes) = &tensor.kind
            && !bytes.is_empty()
        {
            *range = Range::of(&tensor.decode(bytes)?);
        }
    }
    hide(graph, &mut all);
    let (all, roles) = groups.shared(&all, &roles);
    let mut made = graph.clone();
    let mut order: Vec<usize> = (0..made.tensors.len()).collect();
    // the scales of biases are those of the weights
    order.sort_by_key(|&i| matches!(roles[i], Role::Bias { .. }));
    for i in order {
        let tensor = hold(&made, graph, i, roles[i], all[i], form)?;
        made.tensors[i] = tensor;
    }
    Ok(made)
}

fn first_role(tensor: &Tensor) -> Role {
    match (tensor.dtype, &tensor.encoding) {
        (DataType::F16 | DataType::F32, Encoding::None) => Role::Activation { symmetric: false },
        _ => Role::Kept,
    }
}

/// Numbers below this hide rows from a softmax.
const HIDING: f64 = -1e4;
/// The share that a number so far below the largest one has of a softmax is less than 16 bits hold.
const NOTHING: f64 = 12.0;

/// Draws in the ranges of what hides rows from a softmax, and of scores that it was added to: no more is needed than
/// leaves a hidden row nothing, whatever its score.
fn hide(graph: &Graph, ranges: &mut [Range]) {
    let mut masks: BTreeMap<usize, f64> = BTreeMap::new();
    for node in graph.nodes.iter().filter(|n| n.op == "ElementWiseAdd") {
        let (&[a, b], &[sum]) = (&node.inputs[..], &node.outputs[..]) else {
            continue;
        };
        let [a, b, sum] = [a, b, sum].map(|id| id.0 as usize);
        let (scores, mask) = match (ranges[a].least < HIDING, ranges[b].least < HIDING) {
            (false, true) => (a, b),
            (true, false) => (b, a),
            _ => continue,
        };
        let seen = ranges[scores];
        let low = -(seen.most - seen.least) - NOTHING;
        // one mask may be for the scores of several layers
        let all = masks.entry(mask).or_insert(low);
        *all = all.min(low);
        ranges[sum].least = ranges[sum].least.max(seen.least + low);
    }
    for (mask, low) in masks {
        ranges[mask].least = ranges[mask].least.max(low);
    }
}

/// `graph` without changes between types of floating point, which have no meaning where nothing is in floating point.
/// Tensors that nothing makes or reads any more stay, so that ids do.
fn without_casts(graph: &Graph) -> Graph {
    let mut made = graph.clone();
    let mut stands_for: Vec<TensorId> = (0..graph.tensors.len() as u32).map(TensorId).collect();
    made.nodes.clear();
    for node in &graph.nodes {
        let mut node = node.clone();
        for id in &mut node.inputs {
            *id = stands_for.get(id.0 as usize).copied().unwrap_or(*id);
        }
        let is = |id: TensorId, kind: &TensorKind| graph.get(id).is_some_and(|t| t.kind == *kind);
        if let ("Cast", &[from], &[to]) = (node.op, &node.inputs[..], &node.outputs[..]) {
            if is(to, &TensorKind::Native) {
                stands_for[to.0 as usize] = from;
                continue;
            }
            // what makes it, makes the result instead
            let maker = made.nodes.iter_mut().flat_map(|n| &mut n.outputs);
            let maker = maker.filter(|id| **id == from && is(from, &TensorKind::Native));
            if let Some(output) = maker.last() {
                *output = to;
                for id in made.nodes.iter_mut().flat_map(|n| &mut n.inputs) {
                    if *id == from {
                        *id = to;
                    }
                }
                stands_for[from.0 as usize] = to;
                continue;
            }
            node.op = "Convert";
        }
        made.nodes.push(node);
    }
    made
}

/// What `node` asks of its tensors.
fn assign(graph: &Graph, node: &Node, form: FixedForm, roles: &mut [Role]) {
    let is_static = |id: &TensorId| {
        let tensor = graph.get(*id);
        tensor.is_some_and(|t| matches!(t.kind, TensorKind::Static(_)))
    };
    let mut set = |id: Option<&TensorId>, role: Role| {
        if let Some(slot) = id.and_then(|id| roles.get_mut(id.0 as usize))
            && *slot != Role::Kept
        {
            *slot = role;
        }
    };
    let (second, third) = (node.inputs.get(1), node.inputs.get(2));
    let symmetric = Role::Activation {
        symmetric: form == FixedForm::U16,
    };
    let to = |most: f64, least: f64| Role::Fixed(Range { least, most });
    let below_one = 1.0 - 1.0 / form.levels();
    match node.op {
        "FullyConnected" | "Conv2d" => {
            let axis = if node.op == "Conv2d" { 3 } else { 0 };
            match second.is_some_and(is_static) {
                true => set(second, Role::Weight { axis: Some(axis) }),
                false => set(second, symmetric),
            }
            if let (Some(&x), Some(&w)) = (node.inputs.first(), second) {
                set(third, Role::Bias { x, w });
            }
        }
        "MatMul" => match second.is_some_and(is_static) {
            // with a scale a channel the library crashes
            true => set(second, Role::Weight { axis: None }),
            false => set(second, symmetric),
        },
        "RmsNorm" | "LayerNorm" => {
            set(second, symmetric);
            set(third, symmetric);
        }
        "Softmax" | "Sigmoid" => set(node.outputs.first(), to(below_one, 0.0)),
        "Tanh" => {
            let most = 1.0 - 2.0 / form.levels();
            set(node.outputs.first(), to(most, -1.0));
        }
        _ => {}
    }
}

/// Tensors that operations only move numbers between: they are held alike.
struct Groups(Vec<usize>);

impl Groups {
    fn new(count: usize) -> Groups {
        Groups((0..count).collect())
    }

    fn of(&self, mut i: usize) -> usize {
        while self.0[i] != i {
            i = self.0[i];
        }
        i
    }

    fn tie(&mut self, node: &Node) {
        let inputs: &[usize] = match node.op {
            "Reshape" | "Transpose" | "Split" | "StridedSlice" | "Tile" | "Pad" | "Gather"
            | "TopK" | "Concat" | "ReduceMax" | "ReduceMin" => &[0],
            "ScatterNd" => &[0, 2],
            _ => return,
        };
        let all = if node.op == "Concat" {
            node.inputs.len()
        } else {
            0
        };
        let inputs = inputs.iter().copied().chain(1..all);
        let moved: Vec<usize> = inputs
            .filter_map(|i| node.inputs.get(i))
            .chain(&node.outputs)
            .map(|id| id.0 as usize)
            .filter(|i| *i < self.0.len())
            .collect();
        for pair in moved.windows(2) {
            let (a, b) = (self.of(pair[0]), self.of(pair[1]));
            self.0[b] = a;
        }
    }

    /// For each tensor the range and the role of its group.
    fn shared(&self, ranges: &[Range], roles: &[Role]) -> (Vec<Range>, Vec<Role>) {
        let mut shared = ranges.to_vec();
        let mut one = roles.to_vec();
        for i in 0..ranges.len() {
            let group = self.of(i);
            match (roles[i], roles[group]) {
                (Role::Kept, _) => {}
                (role, _) => {
                    shared[group] = shared[group].with(ranges[i]);
                    if let Role::Fixed(_) | Role::Activation { symmetric: true } = role {
                        one[group] = role;
                    }
                }
            }
        }
        let of = |i: usize| self.of(i);
        let count = 0..ranges.len();
        let found = count.clone().map(|i| shared[of(i)]).collect();
        let kept = |i: usize| matches!(roles[i], Role::Kept);
        let roles = count.map(|i| if kept(i) { roles[i] } else { one[of(i)] });
        (found, roles.collect())
    }
}

/// Tensor `i` of `graph` as it is held.
fn hold(
    made: &Graph,
    graph: &Graph,
    i: usize,
    role: Role,
    range: Range,
    form: FixedForm,
) -> Result<Tensor, GraphError> {
    let old = &graph.tensors[i];
    let mut tensor = old.clone();
    let numbers = match &old.kind {
        TensorKind::Static(bytes) if !bytes.is_empty() => Some(old.decode(bytes)?),
        _ => None,
    };
    match role {
        Role::Kept => return Ok(tensor),
        Role::Activation { symmetric } => {
            tensor.dtype = form.dtype();
            tensor.encoding = match symmetric {
                true => form.symmetric(range),
                false => form.encoding(range),
            };
        }
        Role::Fixed(range) => {
            tensor.dtype = form.dtype();
            tensor.encoding = form.encoding(range);
        }
        Role::Weight { axis } => {
            tensor.dtype = DataType::Sfixed8;
            tensor.encoding = channels(old, numbers.as_deref().unwrap_or(&[]), axis);
        }
        Role::Bias { x, w } => {
            tensor.dtype = DataType::Sfixed32;
            let step = |id: TensorId| made.get(id).map(|t| &t.encoding);
            let scales: Vec<f32> = match (step(x), step(w)) {
                (Some(Encoding::Scale { scale: x, .. }), Some(of)) => match of {
                    Encoding::Channels { scales, .. }
                    | Encoding::NarrowChannels { scales, .. }
                    | Encoding::Factored { scales, .. } => scales.iter().map(|w| x * w).collect(),
                    Encoding::Scale { scale, .. } => {
                        vec![x * scale; old.elements().unwrap_or(0)]
                    }
                    _ => Vec::new(),
                },
                _ => Vec::new(),
            };
            tensor.encoding = Encoding::Channels { axis: 0, scales };
        }
    }
    if let Some(numbers) = numbers {
        tensor.kind = TensorKind::Static(tensor.encode(&numbers)?);
    }
    Ok(tensor)
}

/// The encoding of matrix `tensor` in 8 bits.
fn channels(tensor: &Tensor, numbers: &[f64], axis: Option<u32>) -> Encoding {
    let scale = |largest: f64| match largest > 0.0 {
        true => (largest / 127.0) as f32,
        false => 1.0,
    };
    let largest = |x: f64, most: f64| most.max(x.abs());
    let Some(axis) = axis else {
        let most = numbers.iter().fold(0.0, |m, x| largest(*x, m));
        return Encoding::Scale {
            scale: scale(most),
            offset: 0,
        };
    };
    let dims = tensor.dims.iter().map(|d| *d as usize);
    let inner: usize = dims.clone().skip(axis as usize + 1).product();
    let count = dims.clone().nth(axis as usize).unwrap_or(1);
    let mut most = vec![0.0; count];
    for (i, x) in numbers.iter().enumerate() {
        let of: &mut f64 = &mut most[i / inner.max(1) % count.max(1)];
        *of = largest(*x, *of);
    }
    Encoding::Channels {
        axis,
        scales: most.into_iter().map(scale).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::reference::evaluate;
    use super::super::{Param, Scalar};
    use super::*;

    /// A gated feed-forward of 16 numbers a row, and what it is tried on.
    fn gated() -> (Graph, Vec<Vec<f64>>) {
        let mut g = Graph::new("gated");
        let mut state = 1u32;
        let mut some = |count: usize, most: f64| -> Vec<f64> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                most * (f64::from(state >> 8) / f64::from(1u32 << 23) - 1.0)
            };
            (0..count).map(|_| next()).collect()
        };
        let f = DataType::F16;
        let native = |g: &mut Graph, dims: &[u32]| {
            let name = format!("t{}", g.tensors.len());
            g.tensor(name, TensorKind::Native, f, dims, Encoding::None)
        };
        let x = g.tensor("x", TensorKind::Input, f, &[4, 16], Encoding::None);
        let mut w = |g: &mut Graph, dims: &[u32], most: f64| {
            let count = dims.iter().product::<u32>() as usize;
            let numbers = some(count, most).into_iter();
            let bytes = numbers.flat_map(|x| half::f16::from_f64(x).to_le_bytes());
            let name = format!("w{}", g.tensors.len());
            let kind = TensorKind::Static(bytes.collect());
            g.tensor(name, kind, f, dims, Encoding::None)
        };
        let (gate, up, bias) = (
            w(&mut g, &[32, 16], 0.5),
            w(&mut g, &[32, 16], 0.5),
            w(&mut g, &[32], 1.0),
        );
        let [a, b, s, m, r] = [(); 5].map(|()| native(&mut g, &[4, 32]));
        let y = g.tensor("y", TensorKind::Output, f, &[2, 64], Encoding::None);
        g.node("gate", "FullyConnected", &[x, gate], &[a], &[]);
        g.node("up", "FullyConnected", &[x, up, bias], &[b], &[]);
        g.node("sigmoid", "Sigmoid", &[a], &[s], &[]);
        g.node("silu", "ElementWiseMultiply", &[a, s], &[m], &[]);
        g.node("gated", "ElementWiseMultiply", &[m, b], &[r], &[]);
        g.node("rows", "Reshape", &[r], &[y], &[]);
        (g, vec![some(64, 2.0)])
    }

    fn ranges(graph: &Graph, inputs: &[Vec<f64>]) -> Vec<Range> {
        let values = evaluate(graph, inputs).unwrap();
        let ids = (0..graph.tensors.len() as u32).map(TensorId);
        ids.map(|id| Range::of(values.of(id))).collect()
    }

    #[test]
    fn what_fixed_numbers_compute_is_near_to_floating_point() {
        let (graph, inputs) = gated();
        let ranges = ranges(&graph, &inputs);
        let exact = evaluate(&graph, &inputs).unwrap();
        let y = TensorId(graph.tensors.len() as u32 - 1);
        let largest = exact.of(y).iter().fold(0.0f64, |m, x| m.max(x.abs()));
        for (form, bound) in [(FixedForm::U8, 0.03), (FixedForm::U16, 0.01)] {
            let made = fixed(&graph, &ranges, form).unwrap();
            made.check().unwrap();
            let activations = made.tensors.iter().filter(|t| t.dtype == form.dtype());
            assert_eq!(activations.count(), 7, "{made}");
            let x = made.inputs().next().unwrap();
            let given = x.decode(&x.encode(&inputs[0]).unwrap()).unwrap();
            let found = evaluate(&made, &[given]).unwrap();
            let apart = found.of(y).iter().zip(exact.of(y));
            let worst = apart.fold(0.0f64, |m, (a, b)| m.max((a - b).abs())) / largest;
            assert!(worst < bound && worst > 0.0, "{form:?}: {worst}");
        }
    }

    #[test]
    fn numbers_that_are_only_moved_are_held_alike_and_biases_have_the_scales_of_products() {
        let (graph, inputs) = gated();
        let mut ranges = ranges(&graph, &inputs);
        let last = ranges.len() - 1;
        // as if it had been seen with other numbers
        ranges[last].most *= 3.0;
        let made = fixed(&graph, &ranges, FixedForm::U16).unwrap();
        let encoding = |name: &str| {
            let found = made.tensors.iter().find(|t| t.name == name);
            found.unwrap().encoding.clone()
        };
        assert_eq!(encoding("t8"), encoding("y"));
        assert_ne!(encoding("t8"), encoding("t7"));
        let (Encoding::Scale { scale, offset }, Encoding::Channels { scales: w, .. }) =
            (encoding("x"), encoding("w2"))
        else {
            panic!("{made}");
        };
        assert!(offset < 0);
        let Encoding::Channels { axis: 0, scales } = encoding("w3") else {
            panic!("{made}");
        };
        assert!(scales.iter().zip(&w).all(|(b, w)| *b == scale * w));
        let sigmoid = encoding("t6");
        let Encoding::Scale { scale, offset: 0 } = sigmoid else {
            panic!("{sigmoid:?}");
        };
        assert!((f64::from(scale) * 65535.0 - 1.0).abs() < 1e-4);
    }

    #[test]
    fn what_hides_rows_is_held_just_below_what_it_hides_in_every_layer() {
        let mut g = Graph::new("g");
        let (f, native) = (DataType::F16, TensorKind::Native);
        let mask = g.tensor("mask", TensorKind::Input, f, &[1, 8], Encoding::None);
        let mut ranges = vec![Range {
            least: -3e4,
            most: 0.0,
        }];
        let mut sums = Vec::new();
        for (layer, most) in [5.0, 20.0, 1.0].into_iter().enumerate() {
            let name = |what: &str| format!("{what}.{layer}");
            let x = g.tensor(name("x"), TensorKind::Input, f, &[4, 8], Encoding::None);
            let sum = g.tensor(name("sum"), native.clone(), f, &[4, 8], Encoding::None);
            let y = g.tensor(name("y"), TensorKind::Output, f, &[4, 8], Encoding::None);
            g.node(name("mask"), "ElementWiseAdd", &[x, mask], &[sum], &[]);
            g.node(name("softmax"), "Softmax", &[sum], &[y], &[]);
            let of = |least: f64, most: f64| Range { least, most };
            ranges.extend([of(-most, most), of(-3e4 - most, most), of(0.0, 1.0)]);
            sums.push((sum, most));
        }
        let made = fixed(&g, &ranges, FixedForm::U16).unwrap();
        let least = |id: TensorId| made.get(id).unwrap().span().0;
        // 20 below 20, and as far again as leaves nothing
        assert!((least(mask) + 52.0).abs() < 0.01, "{}", least(mask));
        for (sum, most) in sums {
            let expected = -most - 2.0 * most - NOTHING;
            let found = least(sum);
            assert!((found - expected).abs() < 0.01, "{found} {expected}");
        }
    }

    #[test]
    fn ranges_of_nothing_and_of_one_side_still_hold_zero() {
        for form in [FixedForm::U8, FixedForm::U16] {
            for (least, most) in [(0.0, 0.0), (3.0, 5.0), (-5.0, -3.0), (-1e-30, 1e-30)] {
                let range = Range { least, most };
                for encoding in [form.encoding(range), form.symmetric(range)] {
                    let Encoding::Scale { scale, offset } = encoding else {
                        panic!("{encoding:?}");
                    };
                    assert!(scale > 0.0 && scale.is_finite(), "{range:?}: {scale}");
                    let zero = -f64::from(offset);
                    assert!((0.0..form.levels()).contains(&zero), "{range:?}: {offset}");
                }
            }
        }
    }

    #[test]
    fn parameters_and_places_stay_as_they_are() {
        let mut g = Graph::new("g");
        let f = DataType::F16;
        let x = g.tensor("x", TensorKind::Input, f, &[4, 8], Encoding::None);
        let rows = g.tensor(
            "rows",
            TensorKind::Input,
            DataType::I32,
            &[2],
            Encoding::None,
        );
        let y = g.tensor("y", TensorKind::Output, f, &[2, 8], Encoding::None);
        let axis = [("axis", Param::Scalar(Scalar::I32(0)))];
        g.node("rows", "Gather", &[x, rows], &[y], &axis);
        let ranges = [Range {
            least: -1.0,
            most: 1.0,
        }; 3];
        let made = fixed(&g, &ranges, FixedForm::U8).unwrap();
        assert_eq!(made.tensors[1], g.tensors[1]);
        assert_eq!(made.nodes, g.nodes);
        assert_eq!(made.tensors[0].encoding, made.tensors[2].encoding);
    }
}
