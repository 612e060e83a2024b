//! What Qualcomm's library is known to do wrong although it says yes, besides what the sweep of operations shows: each
//! in a process of its own, as some of it ends the process. Lowering avoids all of it; a test that fails tells that the
//! library does otherwise now.

mod common;

use std::process::{Command, Stdio};

use anynpu_qnn::exec::QnnError;
use anynpu_qnn::htp::{DataType, Encoding, Graph, TensorKind};
use common::{compile, device, error, f16, from_f16, library, numbers, product, run};

/// Names the case that a child process is to try.
const CASE: &str = "ANYNPU_QNN_HAZARD";

/// What became of a graph.
fn outcome(case: &str) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CASE, case)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout).into_owned();
    let verdict = told.lines().find_map(|l| l.split_once("verdict: "));
    match (child.status.success(), verdict) {
        (true, Some((_, verdict))) => verdict.to_owned(),
        (false, None) if child.status.code().is_none() => "crashed".to_owned(),
        _ => panic!(
            "{case}: {}\n{told}\n{}",
            child.status,
            String::from_utf8_lossy(&child.stderr)
        ),
    }
}

/// A product in so many dimensions, the first ones of size 2.
fn product_of(rank: usize) -> String {
    let device = device("", "SM8650").unwrap();
    let batch = 1 << (rank - 2);
    let dims = |a: u32, b: u32| -> Vec<u32> {
        let mut dims = vec![2; rank - 2];
        dims.extend([a, b]);
        dims
    };
    let f = DataType::F16;
    let mut g = Graph::new("g");
    let a = g.tensor("a", TensorKind::Input, f, &dims(4, 16), Encoding::None);
    let b = g.tensor("b", TensorKind::Input, f, &dims(16, 8), Encoding::None);
    let y = g.tensor("y", TensorKind::Output, f, &dims(4, 8), Encoding::None);
    g.node("product", "MatMul", &[a, b], &[y], &[]);
    let (a, b) = (numbers(batch * 4 * 16, 1), numbers(batch * 8 * 16, 2));
    let executable = match compile(&device, &g) {
        Ok(executable) => executable,
        Err(e) => return refused(&e),
    };
    // the library takes the second as [16, 8], the reference as its transpose
    let given: Vec<f32> = b
        .chunks(8 * 16)
        .flat_map(|m| (0..16).flat_map(move |i| (0..8).map(move |j| m[j * 16 + i])))
        .collect();
    let found = from_f16(&run(&executable, &[&f16(&a), &f16(&given)])[0]);
    let each = a.chunks(4 * 16).zip(b.chunks(8 * 16));
    let expected: Vec<f32> = each.flat_map(|(a, b)| product(a, b, 16)).collect();
    match error(&found, &expected) < 5e-3 {
        true => "right".to_owned(),
        false => "wrong".to_owned(),
    }
}

fn refused(e: &QnnError) -> String {
    format!("refused with {}", e.code().unwrap_or_default())
}

/// What the other tests run in processes of their own; by itself it does nothing.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else {
        return;
    };
    let verdict = match case.as_str() {
        "rank 4" => product_of(4),
        "rank 5" => product_of(5),
        "two chips" => two_chips(),
        other => panic!("no case '{other}'"),
    };
    println!("verdict: {verdict}");
}

/// The library asks the chip that was opened last whether an operation is right.
fn two_chips() -> String {
    let new = device("", "SM8650").unwrap();
    let _old = device("", "SM8450").unwrap();
    // v69 has no weights in blocks
    let mut graph = Graph::new("g");
    let f = DataType::F16;
    let x = graph.tensor("x", TensorKind::Input, f, &[8, 64], Encoding::None);
    let blocks = Encoding::Blocks {
        block: vec![1, 32],
        scales: vec![0.01; 64],
    };
    let contents = TensorKind::Static(vec![1; 32 * 64]);
    let w = graph.tensor("w", contents, DataType::Sfixed8, &[32, 64], blocks);
    let y = graph.tensor("y", TensorKind::Output, f, &[8, 32], Encoding::None);
    graph.node("product", "FullyConnected", &[x, w], &[y], &[]);
    match compile(&new, &graph) {
        Ok(_) => "compiled".to_owned(),
        Err(e) => refused(&e),
    }
}

fn check(test: &str, cases: &[(&str, &str)]) {
    if library(test).is_none() {
        return;
    }
    for (case, expected) in cases {
        assert_eq!(outcome(case), *expected, "{case}");
    }
}

#[test]
fn products_of_five_dimensions_are_refused_only_in_the_end() {
    check(
        "products_of_five_dimensions_are_refused_only_in_the_end",
        &[("rank 4", "right"), ("rank 5", "refused with 1002")],
    );
}

#[test]
fn a_chip_is_asked_of_itself_although_another_was_opened_since() {
    check(
        "a_chip_is_asked_of_itself_although_another_was_opened_since",
        &[("two chips", "compiled")],
    );
}
