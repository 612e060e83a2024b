//! What a simulated device computes.

#![allow(clippy::single_range_in_vec_init)] // a graph cut into one run

mod common;

use std::sync::Arc;

use anynpu_hal::{DeviceKind, Driver, MemoryKind};
use anynpu_ir::{BinaryOp, DType, Dim, Graph, Op, TensorType};
use anynpu_sim::SimDriver;
use common::{Session, conversation, cpu, llama, open, shipped};

#[test]
fn a_device_in_f32_gives_the_bits_of_the_device_that_computes_for_it() {
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let expected = conversation(&mut Session::new(&cpu(), &graph, &[0..nodes]));
    assert!(
        expected
            .iter()
            .flatten()
            .all(|x| x.is_finite() && *x != 0.0)
    );
    let thirds = [0..nodes / 3, nodes / 3..nodes / 2, nodes / 2..nodes];
    let each: Vec<_> = (0..nodes).map(|n| n..n + 1).collect();
    for runs in [&[0..nodes][..], &thirds, &each] {
        let device = open(shipped("reference-f32"));
        let found = conversation(&mut Session::new(&device, &graph, runs));
        assert_eq!(found, expected, "{runs:?}");
        let counters = device.queue().counters();
        assert_eq!(counters.nodes, 5 * u64::from(nodes));
        assert_eq!(counters.submissions, 5 * runs.len() as u64);
        assert!(counters.busy_ns > 0);
    }
}

/// Rounding changes a number by at most half a unit in the last place: 2^-11 of its size in f16. Every node
/// rounds its results once, and no node of this graph with these weights makes what came before larger
/// relative to its results. So the whole is off by at most 2^-11 a node.
#[test]
fn a_device_in_f16_is_off_by_no_more_than_the_rounding_of_each_node() {
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let exact = conversation(&mut Session::new(&cpu(), &graph, &[0..nodes]));
    let halves = [0..nodes / 2, nodes / 2..nodes];
    let each: Vec<_> = (0..nodes).map(|n| n..n + 1).collect();
    let mut first = None;
    for runs in [&[0..nodes][..], &halves, &each] {
        let device = open(shipped("reference-f16"));
        let found = conversation(&mut Session::new(&device, &graph, runs));
        // wherever it is cut
        assert_eq!(first.get_or_insert(found.clone()), &found);
        for (found, exact) in found.iter().zip(&exact) {
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
            let off = norm(&mut found.iter().zip(exact).map(|(a, b)| a - b));
            let off = off / norm(&mut exact.iter().copied());
            assert!(off > 0.0 && off < nodes as f32 / 2048.0, "{off}");
            let f16 = |x: f32| half::f16::from_f32(x).to_f32();
            assert!(found.iter().all(|&x| x == f16(x)));
        }
        let counters = device.queue().counters();
        assert_eq!(counters.nodes, 5 * u64::from(nodes));
        assert_eq!(counters.submissions, 5 * runs.len() as u64);
    }
}

#[test]
fn operands_are_rounded_and_numbers_past_the_largest_f16_become_infinite() {
    let mut graph = Graph::new("sum");
    let ty = TensorType::new(DType::F32, [Dim::TOKENS]);
    let a = graph.add_input("a", ty.clone()).unwrap();
    let b = graph.add_input("b", ty).unwrap();
    let sum = graph
        .add("sum", Op::Binary(BinaryOp::Add), &[a, b])
        .unwrap();
    graph.set_output(sum).unwrap();
    let graph = Arc::new(graph);
    let device = open(shipped("reference-f16"));
    let mut session = Session::new(&device, &graph, &[0..1]);
    let (xs, ys) = ([1.0002, 2049.0, 65504.0, -0.1], [3.0, 1.0, 65504.0, 0.1]);
    session.write(a, &xs);
    session.write(b, &ys);
    session.submit(0, Session::symbols(&[0; 4], 0)).unwrap();
    let f16 = |x: f32| half::f16::from_f32(x).to_f32();
    let expected: Vec<f32> = xs
        .iter()
        .zip(ys)
        .map(|(&x, y)| f16(f16(x) + f16(y)))
        .collect();
    assert_eq!(session.read(sum, 4), expected);
    assert_eq!(expected[2], f32::INFINITY);
    assert_eq!(expected[1], 2048.0);
    // what was given is not touched
    assert_eq!(session.read(a, 4), xs);
}

#[test]
fn a_simulated_device_says_that_it_is_one() {
    let driver = SimDriver::new(shipped("reference-f16"), Box::new(anynpu_cpu::CpuDriver));
    let found = driver.enumerate().unwrap();
    assert_eq!(found.len(), 1);
    let info = &found[0].info;
    assert!(found[0].artificial);
    assert_eq!(
        (info.name.as_str(), info.kind),
        ("sim", DeviceKind::Simulated)
    );
    assert!(
        info.description.starts_with("simulated"),
        "{}",
        info.description
    );
    let device = common::open_driver(&driver);
    let claims = device.capabilities();
    assert!(claims.features.artificial && !claims.features.baseline);
    assert_eq!(claims.compute, [DType::F16]);
    assert_eq!(claims.memory, [MemoryKind::DeviceLocal]);
    let rates = claims.claimed_rates.as_ref().unwrap();
    assert_eq!(rates.operations[0], (DType::F16, 4e12));
    assert_eq!((rates.bytes_per_second, rates.dispatch_us), (50e9, 80.0));
    assert!(
        open(shipped("reference-f32"))
            .capabilities()
            .features
            .baseline
    );
}
