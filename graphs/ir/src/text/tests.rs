use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::{GraphError, Op, strategies};

fn tiny() -> Graph {
    let mut g = Graph::new("tiny \"q\" \\ \n é");
    let ty = |dtype, dims: &[Dim]| TensorType::new(dtype, dims.to_vec());
    let (t, c, f) = (Dim::TOKENS, Dim::CAPACITY, Dim::Fixed);
    let k = g
        .add_state("k", ty(DType::F16, &[c, f(2), f(64)]), 0)
        .unwrap();
    let ids = g.add_input("ids", ty(DType::I32, &[t])).unwrap();
    let table = g.add_weight("tok.weight", ty(DType::Q4_0, &[f(100), f(128)]));
    let h = g.add("h", Op::Embedding, &[table.unwrap(), ids]).unwrap();
    let one = 1f32.to_le_bytes().to_vec();
    let eps = g.add_constant("one", ty(DType::F32, &[f(1)]), one).unwrap();
    let add = Op::Binary(crate::BinaryOp::Add);
    let x = g.add("x", add, &[h, eps]).unwrap();
    let shape = vec![t, f(2), f(64)].into();
    let rows = g.add("rows", Op::Reshape { shape }, &[x]).unwrap();
    let append = Op::KvAppend {
        state: k,
        at: Dim::CACHED,
    };
    g.add_node("append", append, &[rows]).unwrap();
    let top = g.add_node("top", Op::TopK { k: 3 }, &[x]).unwrap();
    g.set_output(top[1]).unwrap();
    g
}

const TINY: &str = r#"anynpu-graph 1 op-set 2 "tiny \"q\" \\ \u{a} é"
state @k: f16[C, 2, 64] axis 0
input %ids: i32[T]
weight %tok.weight: q4_0[100, 128]
%h: f32[T, 128] = Embedding(%tok.weight, %ids)
const %one: f32[1] = 0x0000803f
%x: f32[T, 128] = Binary(%h, %one) {fn: add}
%rows: f32[T, 2, 64] = Reshape(%x) {shape: [T, 2, 64]}
%append: () = KvAppend(%rows) {state: @k, at: P}
%top: (f32[T, 3], i32[T, 3]) = TopK(%x) {k: 3}
output %top.1
"#;

/// `TINY` with its line `n` (1-based) replaced.
fn with_line(n: usize, text: &str) -> String {
    let mut lines: Vec<&str> = TINY.lines().collect();
    lines[n - 1] = text;
    lines.join("\n")
}

#[track_caller]
fn fails(text: &str, message: &str) {
    let error = Graph::parse(text).expect_err("must not parse").to_string();
    assert!(error.contains(message), "{message:?} not in {error:?}");
}

#[test]
fn a_graph_is_written_one_definition_per_line() {
    assert_eq!(tiny().to_string(), TINY);
    assert_eq!(TINY.parse::<Graph>(), Ok(tiny()));
}

#[test]
fn blanks_and_comments_are_ignored() {
    let spaced = TINY
        .replace('\n', " # note\n\n")
        .replace("= TopK", "\t =   TopK")
        .replace("Embedding(", "Embedding( ");
    assert_eq!(Graph::parse(&spaced), Ok(tiny()));
    assert_eq!(Graph::parse(&TINY.replace('\n', "\r\n")), Ok(tiny()));
}

#[test]
fn the_graph_of_every_op_round_trips_and_has_every_op() {
    let graph = strategies::every_op();
    let text = graph.to_string();
    assert_eq!(Graph::parse(&text), Ok(graph.clone()));

    let held: BTreeSet<&str> = graph.nodes().iter().map(|n| n.op.name()).collect();
    let mut runner = TestRunner::deterministic();
    let drawn: BTreeSet<&str> = (0..3000)
        .map(|_| {
            let tree = strategies::op().new_tree(&mut runner);
            tree.expect("ops are drawn without rejection")
                .current()
                .name()
        })
        .collect();
    assert_eq!(held, drawn);
}

#[test]
fn errors_name_the_line_and_what_stands_there() {
    fails("", "line 1: expected 'anynpu-graph'");
    fails("\n\n", "line 3: expected 'anynpu-graph'");
    fails(&with_line(1, "anynpu-graph 2 op-set 1 \"x\""), "form 2");
    fails(&with_line(1, "anynpu-graph 1 op-set 3 \"x\""), "op set 3");
    fails(&with_line(1, "anynpu-graph 1 op-set 2 \"x"), "line 1");
    fails(
        &with_line(1, r#"anynpu-graph 1 op-set 2 "\u{d800}""#),
        "escape",
    );
    fails(
        &with_line(3, "input %ids: i31[T]"),
        "line 3: expected an element type, found \"i31\"",
    );
    fails(
        &with_line(3, "input %ids: i32[Q]"),
        "line 3: expected a number or a symbol",
    );
    fails(
        &with_line(3, "input %ids: i32[4294967296]"),
        "found \"4294967296\"",
    );
    fails(
        &with_line(3, "input %ids: i32[1,1,1,1,1,1,1,1,1]"),
        "9 dimensions, at most 8",
    );
    fails(
        &with_line(4, "weight %tok.weight: q4_0[100, 100]"),
        "line 4: 'tok.weight'",
    );
    fails(
        &with_line(6, "const %one: f32[1] = 0x0000803"),
        "line 6: expected '0x' and pairs",
    );
    fails(
        &with_line(6, "const %one: f32[1] = 0x00"),
        "line 6: constant 'one' is f32[1] but carries 1 bytes",
    );
    fails(
        &with_line(7, "%x: f32[T, 128] = Binary(%h, %two) {fn: add}"),
        "found \"two\"",
    );
    fails(
        &with_line(7, "%x: f32[T, 128] = Binary(%h, %one) {fn: plus}"),
        "expected fn, found \"plus\"",
    );
    fails(
        &with_line(7, "%x: f32[T, 128] = Binary(%h, %one)"),
        "expected fn, found \"no such attribute\"",
    );
    fails(
        &with_line(7, "%x: f32[T, 128] = Binary(%h, %one) {fn: add, k: 1}"),
        "no other attribute",
    );
    fails(
        &with_line(7, "%x: f32[T, 128] = Plus(%h, %one)"),
        "the name of an op, found \"Plus\"",
    );
    fails(
        &with_line(7, "%x: f16[T, 128] = Binary(%h, %one) {fn: add}"),
        "'x' is written as f16[T, 128] but is f32[T, 128]",
    );
    fails(
        &with_line(7, "%h: f32[T, 128] = Binary(%h, %one) {fn: add}"),
        "line 7: the name 'h'",
    );
    fails(
        &with_line(9, "%append: () = KvAppend(%rows) {state: @j, at: P}"),
        "state defined above",
    );
    fails(
        &with_line(11, "output %top"),
        "line 11: expected the name of a value",
    );
    fails(
        &with_line(11, "output %top.1 %top.0"),
        "the end of the line",
    );
}

#[test]
fn one_line_cannot_ask_for_many_values() {
    let sizes = vec!["0"; 5000].join(", ");
    let text = with_line(
        10,
        &format!("%s: () = Split(%x) {{axis: 0, sizes: [{sizes}]}}"),
    );
    fails(&text, "elements in a list, at most 4096");
    let long = "n".repeat(Graph::MAX_NAME + 1);
    let error = Graph::parse(&with_line(3, &format!("input %{long}: i32[T]"))).unwrap_err();
    let source = GraphError::IllegalName { name: long };
    assert_eq!(error, ParseError::Graph { line: 3, source });
}

#[test]
fn reading_stops_at_the_limit_of_values() {
    let mut text = String::from("anynpu-graph 1 op-set 2 \"\"\n");
    for i in 0..=MAX_VALUES {
        text.push_str(&format!("input %{i}: f32[]\n"));
    }
    fails(&text, "at most 262144 are read");
}

/// A dump with a few bytes or lines changed.
fn damaged() -> impl Strategy<Value = String> {
    let edit = (
        any::<prop::sample::Index>(),
        0u8..6,
        any::<prop::sample::Index>(),
    );
    (strategies::graph(), prop::collection::vec(edit, 1..4)).prop_map(|(graph, edits)| {
        let mut text: Vec<char> = graph.to_string().chars().collect();
        let alphabet: Vec<char> = "0123456789%@[](){},:=\"\\# \nTPRCx.-eé\u{0}"
            .chars()
            .collect();
        for (at, kind, other) in edits {
            if text.is_empty() {
                break;
            }
            let (at, to) = (at.index(text.len()), other.index(text.len()));
            match kind {
                0 => drop(text.remove(at)),
                1 => text[at] = alphabet[other.index(alphabet.len())],
                2 => text.insert(at, alphabet[other.index(alphabet.len())]),
                3 => drop(text.drain(at.min(to)..at.max(to))),
                4 => text.truncate(at),
                _ => {
                    let copy = text[at.min(to)..at.max(to)].to_vec();
                    text.extend(copy);
                }
            }
        }
        text.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn random_graphs_round_trip(graph in strategies::graph()) {
        let text = graph.to_string();
        prop_assert_eq!(Graph::parse(&text), Ok(graph));
    }

    #[test]
    fn damaged_text_never_panics_and_what_parses_round_trips(text in damaged()) {
        if let Ok(graph) = Graph::parse(&text) {
            prop_assert_eq!(Graph::parse(&graph.to_string()), Ok(graph));
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "(anynpu-graph 1 op-set 2 \"\"\n)?(\\PC|[%@{}\\[\\]:=,\n]){0,60}") {
        let _ = Graph::parse(&text);
    }

    /// Attributes of ops that fit nothing too, floats of every size among them.
    #[test]
    fn attributes_round_trip_exactly(op in strategies::op()) {
        let mut graph = Graph::new("states");
        for name in ["0", "1", "2"] {
            let ty = TensorType::new(DType::F32, vec![Dim::CAPACITY]);
            graph.add_state(name, ty, 0).expect("names differ");
        }
        let pairs: Vec<String> = fields(&op)
            .into_iter()
            .map(|(key, field)| format!("{key}: {field}"))
            .collect();
        let text = format!("{{{}}}", pairs.join(", "));
        let known = |word: &str| !word.contains('S') || parse_dim(word).is_some();
        prop_assume!(text.split(['[', ']', ',', ' ', '}']).all(known));

        let mut line = Cursor::new(&text, 1);
        let mut given = Attributes::parse(&mut line, &graph).expect("attributes parse");
        let read = attributes::op(&line, op.name(), &mut given).expect("the op is read");
        given.end(&line).expect("no attribute is left");
        // By their debug form, as NaN differs from itself.
        prop_assert_eq!(format!("{read:?}"), format!("{op:?}"));
    }
}
