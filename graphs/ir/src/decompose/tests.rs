use proptest::prelude::*;

use super::*;
use crate::{DType, Dim, TensorType, strategies};

/// What must hold of `new`, a decomposition of `old`, whatever was expanded.
fn check_same_interface(old: &Graph, new: &Graph) -> Result<(), TestCaseError> {
    for value in old.values() {
        let id = new.find_value(&value.name);
        let id = id.ok_or_else(|| TestCaseError::fail(format!("'{}' is lost", value.name)))?;
        prop_assert_eq!(new.ty(id), &value.ty, "type of '{}'", value.name);
    }
    let names = |g: &Graph, ids: &[ValueId]| -> Vec<String> {
        ids.iter().map(|&id| g.value(id).name.clone()).collect()
    };
    prop_assert_eq!(names(old, old.inputs()), names(new, new.inputs()));
    prop_assert_eq!(names(old, old.outputs()), names(new, new.outputs()));
    prop_assert_eq!(old.states(), new.states());
    for weight in old.weights() {
        let kept = new.weights().iter().find(|w| w.name == weight.name);
        prop_assert_eq!(kept.map(|w| &w.inline), Some(&weight.inline));
    }
    // Appends to a state and reads of it stay in their order.
    let touches = |g: &Graph| -> Vec<String> {
        let nodes = g.nodes().iter();
        nodes
            .filter(|n| matches!(n.op, Op::KvAppend { .. }))
            .map(|n| n.name.clone())
            .collect()
    };
    prop_assert_eq!(touches(old), touches(new));
    prop_assert_eq!(Graph::parse(&new.to_string()), Ok(new.clone()));
    Ok(())
}

fn composites(g: &Graph) -> Vec<&str> {
    let nodes = g.nodes().iter().filter(|n| n.op.is_composite());
    nodes.map(|n| n.name.as_str()).collect()
}

fn check_all_primitive(graph: &Graph) -> Result<(), TestCaseError> {
    let all = decompose_all(graph).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert_eq!(composites(&all), Vec::<&str>::new());
    check_same_interface(graph, &all)?;
    let again = decompose_all(&all);
    prop_assert_eq!(again, Ok(all), "again changes nothing");
    Ok(())
}

#[test]
fn every_composite_op_becomes_primitives_of_the_same_types() {
    check_all_primitive(&strategies::every_op()).unwrap();
}

#[test]
fn one_node_is_decomposed_and_the_others_stay() {
    let graph = strategies::every_op();
    for (i, node) in graph.nodes().iter().enumerate() {
        let found = decompose(&graph, NodeId(i as u32)).unwrap();
        assert_eq!(found.is_some(), node.op.is_composite(), "{}", node.name);
        let Some(found) = found else { continue };
        check_same_interface(&graph, &found).unwrap();
        let mut left = composites(&graph);
        left.retain(|name| *name != node.name);
        assert_eq!(composites(&found), left);
        let own = format!("{}.", node.name);
        let added = found.nodes().iter().filter(|n| !graph.has_name(&n.name));
        for new in added {
            assert!(new.name.starts_with(&own), "{} of {}", new.name, node.name);
            assert_eq!(new.layer(), node.layer());
        }
    }
}

#[test]
fn a_device_can_keep_what_it_has() {
    let graph = strategies::every_op();
    let kept = |op: &Op| matches!(op, Op::Softmax { .. } | Op::RmsNorm { .. });
    let found = decompose_where(&graph, |_, op| !kept(op)).unwrap();
    check_same_interface(&graph, &found).unwrap();
    let count = |g: &Graph, f: fn(&Op) -> bool| g.nodes().iter().filter(|n| f(&n.op)).count();
    let attention = |op: &Op| matches!(op, Op::Attention { .. });
    let softmax = |op: &Op| matches!(op, Op::Softmax { .. });
    let inner = count(&graph, attention);
    assert!(inner > 0);
    assert_eq!(count(&found, softmax), count(&graph, softmax) + inner);
    assert_eq!(
        composites(&found).len(),
        count(&found, |op| {
            matches!(op, Op::Softmax { .. } | Op::RmsNorm { .. })
        })
    );
}

#[test]
fn attention_stays_within_four_dimensions() {
    let all = decompose_all(&strategies::every_op()).unwrap();
    let most = all.values().iter().map(|v| v.ty.shape.rank()).max();
    assert_eq!(most, Some(4));
}

#[test]
fn a_node_of_another_graph_is_refused() {
    let empty = Graph::new("empty");
    let error = decompose(&empty, NodeId(u32::MAX)).unwrap_err();
    assert!(error.to_string().contains("the graph has 0"), "{error}");
}

#[test]
fn steps_find_free_names_however_long_and_taken() {
    let mut g = Graph::new("names");
    let ty = TensorType::new(DType::F32, [Dim::TOKENS]);
    let long = "n".repeat(Graph::MAX_NAME);
    let x = g.add_input("x", ty.clone()).unwrap();
    g.add_input("cap.small", ty.clone()).unwrap();
    let cap = Op::SoftCap { cap: 2.0 };
    g.add("cap", cap.clone(), &[x]).unwrap();
    // Defined after the node whose step would like the name.
    g.add("cap.tanh", Op::Unary(crate::UnaryOp::Neg), &[x])
        .unwrap();
    g.add(long, cap, &[x]).unwrap();
    check_all_primitive(&g).unwrap();
    let all = decompose_all(&g).unwrap();
    assert!(all.has_name("cap.small_2") && all.has_name("cap.tanh_2"));
}

proptest! {
    #[test]
    fn random_graphs_become_primitives_of_the_same_types(graph in strategies::graph()) {
        check_all_primitive(&graph)?;
    }
}
