use proptest::prelude::*;

use super::*;
use crate::htp::Encoding;

const F: DataType = DataType::F32;

/// One operation of operands of these sizes, to a result of that.
fn one(
    op: &'static str,
    operands: &[&[u32]],
    result: &[u32],
    params: impl FnOnce(&mut Graph) -> Vec<(&'static str, Param)>,
) -> Graph {
    let mut g = Graph::new("g");
    let mut inputs = Vec::new();
    for (i, dims) in operands.iter().enumerate() {
        let name = format!("x{i}");
        inputs.push(g.tensor(name, TensorKind::Input, F, dims, Encoding::None));
    }
    let params = params(&mut g);
    let y = g.tensor("y", TensorKind::Output, F, result, Encoding::None);
    g.node("node", op, &inputs, &[y], &params);
    g
}

fn computed(graph: &Graph, inputs: &[Vec<f64>]) -> Vec<f64> {
    let last = TensorId(graph.tensors.len() as u32 - 1);
    evaluate(graph, inputs).unwrap().of(last).to_vec()
}

fn none(_: &mut Graph) -> Vec<(&'static str, Param)> {
    Vec::new()
}

fn list(
    name: &'static str,
    numbers: &'static [u32],
) -> impl FnOnce(&mut Graph) -> Vec<(&'static str, Param)> {
    move |g| {
        let list = g.numbers("list", &[numbers.len() as u32], numbers);
        vec![(name, Param::Tensor(list))]
    }
}

fn near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() < 1e-9, "{found:?} {expected:?}");
    }
}

fn numbers(count: usize) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(-4.0..4.0, count)
}

proptest! {
    #[test]
    fn products_are_the_same_in_every_form(x in numbers(12), w in numbers(20)) {
        // x of [3, 4], w of [5, 4]
        let connected = computed(&one("FullyConnected", &[&[3, 4], &[5, 4]], &[3, 5], none), &[x.clone(), w.clone()]);
        let turned = |_: &mut Graph| vec![("transpose_in1", Param::Scalar(Scalar::Bool(true)))];
        let matmul = one("MatMul", &[&[3, 4], &[5, 4]], &[3, 5], turned);
        prop_assert_eq!(&computed(&matmul, &[x.clone(), w.clone()]), &connected);
        let transposed = one("Transpose", &[&[5, 4]], &[4, 5], list("perm", &[1, 0]));
        let w_t = computed(&transposed, std::slice::from_ref(&w));
        let matmul = one("MatMul", &[&[1, 3, 4], &[1, 4, 5]], &[1, 3, 5], none);
        prop_assert_eq!(&computed(&matmul, &[x.clone(), w_t.clone()]), &connected);
        let pixels = |g: &mut Graph| {
            let stride = g.numbers("stride", &[2], &[1, 1]);
            let pad = g.numbers("pad", &[2, 2], &[0; 4]);
            vec![("stride", Param::Tensor(stride)), ("pad_amount", Param::Tensor(pad))]
        };
        let conv = one("Conv2d", &[&[1, 1, 3, 4], &[1, 1, 4, 5]], &[1, 1, 3, 5], pixels);
        prop_assert_eq!(&computed(&conv, &[x, w_t]), &connected);
    }

    #[test]
    fn what_is_moved_there_and_back_is_the_same(x in numbers(24)) {
        let there = one("Transpose", &[&[2, 3, 4]], &[4, 2, 3], list("perm", &[2, 0, 1]));
        let back = one("Transpose", &[&[4, 2, 3]], &[2, 3, 4], list("perm", &[1, 2, 0]));
        let moved = computed(&there, std::slice::from_ref(&x));
        prop_assert_eq!(computed(&back, &[moved]), x.clone());
        let mut g = Graph::new("g");
        let given = g.tensor("x", TensorKind::Input, F, &[2, 3, 4], Encoding::None);
        let parts: Vec<TensorId> = [1, 3]
            .iter()
            .map(|n| g.tensor(format!("p{n}"), TensorKind::Native, F, &[2, 3, *n], Encoding::None))
            .collect();
        let at = g.numbers("at", &[1], &[1]);
        let axis = ("axis", Param::Scalar(Scalar::U32(2)));
        g.node("split", "Split", &[given], &parts, &[axis, ("split_index", Param::Tensor(at))]);
        let y = g.tensor("y", TensorKind::Output, F, &[2, 3, 4], Encoding::None);
        g.node("join", "Concat", &parts, &[y], &[axis]);
        prop_assert_eq!(computed(&g, std::slice::from_ref(&x)), x);
    }

    #[test]
    fn rows_of_softmax_have_a_sum_of_one_and_norms_a_size_of_one(x in numbers(12)) {
        for row in computed(&one("Softmax", &[&[3, 4]], &[3, 4], none), std::slice::from_ref(&x)).chunks(4) {
            prop_assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        let norm = one("RmsNorm", &[&[3, 4], &[4]], &[3, 4], list("axes", &[1]));
        let longer: Vec<f64> = x.iter().map(|x| x + 9.0).collect();
        for row in computed(&norm, &[longer, vec![1.0; 4]]).chunks(4) {
            let size = row.iter().map(|x| x * x).sum::<f64>() / 4.0;
            prop_assert!((size - 1.0).abs() < 1e-5, "{size}");
        }
    }
}

#[test]
fn functions_have_the_values_that_tables_of_them_say() {
    let of = |op: &'static str, x: f64| computed(&one(op, &[&[1]], &[1], none), &[vec![x]])[0];
    for (x, gelu) in [
        (1.0, 0.841_344_746_068_542_9),
        (-1.0, -0.158_655_253_931_457_05),
        (0.0, 0.0),
        (4.0, 3.999_873_315_032_667_5),
        (-6.0, -5.919_525_870_226_207e-9),
    ] {
        assert!(
            (of("Gelu", x) - gelu).abs() < 1e-12,
            "{x}: {}",
            of("Gelu", x)
        );
    }
    near(&[of("Sigmoid", 2.0)], &[0.880_797_077_977_882_3]);
    near(&[of("HardSwish", 1.0)], &[2.0 / 3.0]);
    near(&[of("ElementWiseRsqrt", 0.25)], &[2.0]);
}

#[test]
fn numbers_spread_to_all_and_are_chosen_and_placed() {
    let add = one("ElementWiseAdd", &[&[2, 1, 3], &[2, 1]], &[2, 2, 3], none);
    let x = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    near(
        &computed(&add, &[x.clone(), vec![10.0, 20.0]]),
        &[
            11.0, 12.0, 13.0, 21.0, 22.0, 23.0, 14.0, 15.0, 16.0, 24.0, 25.0, 26.0,
        ],
    );
    let axis = |_: &mut Graph| vec![("axis", Param::Scalar(Scalar::I32(0)))];
    let gather = one("Gather", &[&[3, 2], &[2]], &[2, 2], axis);
    near(
        &computed(&gather, &[x.clone(), vec![2.0, 0.0]]),
        &[5.0, 6.0, 1.0, 2.0],
    );
    let scatter = one("ScatterNd", &[&[3, 2], &[1, 1], &[1, 2]], &[3, 2], none);
    let placed = computed(&scatter, &[x.clone(), vec![1.0], vec![8.0, 9.0]]);
    near(&placed, &[1.0, 2.0, 8.0, 9.0, 5.0, 6.0]);
    let mean = one("ReduceMean", &[&[3, 2]], &[3, 1], list("axes", &[1]));
    near(&computed(&mean, std::slice::from_ref(&x)), &[1.5, 3.5, 5.5]);
    let rotation = one(
        "RotaryEmbedding",
        &[&[1, 1, 1, 4], &[1, 1, 2], &[1, 1, 2]],
        &[1, 1, 1, 4],
        none,
    );
    let quarter = [x[..4].to_vec(), vec![0.0, 1.0], vec![1.0, 0.0]];
    near(&computed(&rotation, &quarter), &[-3.0, 2.0, 1.0, 4.0]);
}

#[test]
fn graphs_that_mean_nothing_are_refused() {
    let refused = |graph: &Graph, inputs: &[Vec<f64>], told: &str| {
        let e = evaluate(graph, inputs).unwrap_err().to_string();
        assert!(e.contains(told), "{e}");
    };
    let x = || vec![0.0; 6];
    refused(
        &one("Unheard", &[&[6]], &[6], none),
        &[x()],
        "is not known here",
    );
    refused(
        &one("Reshape", &[&[6]], &[5], none),
        &[x()],
        "gives 6 numbers",
    );
    refused(
        &one("Relu", &[&[6]], &[6], none),
        &[vec![0.0; 5]],
        "length of what it is given",
    );
    refused(&one("Relu", &[], &[6], none), &[], "has no operand 0");
    refused(
        &one("Transpose", &[&[6]], &[6], none),
        &[x()],
        "has no 'perm'",
    );
    let matmul = one("MatMul", &[&[2, 3], &[2, 3]], &[2, 3], none);
    refused(&matmul, &[x(), x()], "of [2, 3] and [2, 3]");
    let matmul = one("MatMul", &[&[3, 1, 2], &[2, 2, 1]], &[3, 1, 1], none);
    refused(&matmul, &[x(), vec![0.0; 4]], "has no operands");
    let axis = |_: &mut Graph| vec![("axis", Param::Scalar(Scalar::I32(0)))];
    let gather = one("Gather", &[&[3, 2], &[1]], &[1, 2], axis);
    refused(&gather, &[x(), vec![3.0]], "reads row 3");
    let scatter = one("ScatterNd", &[&[3, 2], &[1, 1], &[1, 2]], &[3, 2], none);
    refused(&scatter, &[x(), vec![3.0], vec![0.0; 2]], "writes beyond");
}
