use std::io::{self, Cursor};
use std::time::Duration;

use anynpu_ir::{DType, Dim, Graph, Op, Symbol, SymbolValues, TensorType};
use proptest::prelude::*;

use super::wire::{Reply, Request, WireCompile, WireError};
use super::*;
use crate::driver::noop::NoopDriver;
use crate::{Bounds, CompileOptions, Entry, Extent, Reason, ReasonCode};

fn helper(program: &str, arguments: &[&str]) -> Helper {
    Helper {
        program: program.into(),
        arguments: arguments.iter().map(OsString::from).collect(),
    }
}

/// What `serve` answers to `calls`.
fn answers(calls: Vec<Call>) -> Vec<Reply> {
    let mut requests = Vec::new();
    for (id, call) in (1..).zip(calls) {
        wire::write(&mut requests, &Request { id, call }).unwrap();
    }
    let (mut from, to) = io::pipe().unwrap();
    serve(&NoopDriver, Cursor::new(requests), to).unwrap();
    let mut replies = Vec::new();
    while let Some(reply) = wire::read::<Reply>(&mut from).unwrap() {
        replies.push(reply);
    }
    replies
}

#[test]
fn every_call_is_answered_in_order_even_those_that_make_no_sense() {
    let replies = answers(vec![
        Call::Version,
        Call::Enumerate,
        Call::Trim,
        Call::Open {
            name: "npu".into(),
            threads: None,
            options: Default::default(),
        },
        Call::Open {
            name: "noop".into(),
            threads: None,
            options: Default::default(),
        },
        Call::Support {
            graph: "nonsense".into(),
            nodes: (0, 1),
            validate: false,
        },
        Call::Submit {
            module: 9,
            entry: 0,
            inputs: vec![],
            outputs: vec![],
            states: vec![],
            sequences: vec![],
            symbols: vec![],
        },
        Call::Allocate {
            buffer: 1,
            name: "b".into(),
            bytes: 16,
            align: 64,
            path: "/no/such/file".into(),
        },
        Call::DropModule(3),
    ]);
    let ids: Vec<u64> = replies.iter().map(|r| r.id).collect();
    assert_eq!(ids, (1..10).collect::<Vec<u64>>());
    let fine: Vec<bool> = replies.iter().map(|r| r.result.is_ok()).collect();
    let expected = [true, true, false, false, true, false, false, false, true];
    assert_eq!(fine, expected);
}

#[test]
fn a_program_that_is_no_helper_is_a_driver_that_is_not_usable() {
    for (program, arguments, why) in [
        ("/no/such/program", &[][..], "can't be started"),
        ("true", &[], "ended"),
        ("echo", &["hello, this is no message at all"], "nonsense"),
        ("sh", &["-c", "kill -9 $$"], "signal: 9"),
    ] {
        let driver = IsolatedDriver::new("npu", helper(program, arguments));
        let e = driver.enumerate().unwrap_err();
        assert!(e.reason.contains(why), "{program}: {}", e.reason);
        assert!(e.reason.contains("npu"));
    }
}

#[test]
fn a_frame_longer_than_the_limit_is_refused_before_it_is_read() {
    let mut frame = u32::MAX.to_le_bytes().to_vec();
    frame.extend_from_slice(b"{}");
    let e = wire::read::<Reply>(&mut Cursor::new(frame)).unwrap_err();
    assert!(e.to_string().contains("bytes"), "{e}");
}

#[test]
fn entries_cross_as_they_are() {
    let mut graph = Graph::new("g");
    let ty = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(8)]);
    let x = graph.add_input("x", ty).unwrap();
    let y = x;
    let w = TensorType::new(DType::F32, [Dim::Fixed(8)]);
    let w = graph.add_weight("w", w).unwrap();
    let z = graph.add("z", Op::RmsNorm { eps: 1e-6 }, &[y, w]).unwrap();
    graph.set_output(z).unwrap();
    let entry = Entry {
        name: "prefill.0".into(),
        nodes: 0..graph.nodes().len() as u32,
        graph: Arc::new(graph),
        bounds: Bounds::new()
            .with(Symbol::TOKENS, Extent::Exact(7))
            .with(Symbol::CAPACITY, Extent::AtMost(99)),
    };
    let mut options = CompileOptions::new(DType::F16);
    options.vendor.push(("burst".into(), "on".into()));
    let sent = WireCompile::of(&[entry.clone(), entry.clone()], &options);
    let text = serde_json::to_string(&sent).unwrap();
    let got: WireCompile = serde_json::from_str(&text).unwrap();
    let entries = got.entries().unwrap();
    assert_eq!(entries.len(), 2);
    assert!(Arc::ptr_eq(&entries[0].graph, &entries[1].graph));
    for e in &entries {
        assert_eq!(*e.graph, *entry.graph);
        assert_eq!((&e.name, &e.nodes), (&entry.name, &entry.nodes));
        assert_eq!(e.bounds, {
            // a symbol not named is exactly 0, which is what crosses
            let mut bounds = entry.bounds.clone();
            for s in 0..Symbol::COUNT as u16 {
                let symbol = Symbol(s);
                bounds = bounds.with(symbol, entry.bounds.get(symbol));
            }
            bounds
        });
    }
    let back = got.options().unwrap();
    assert_eq!(back.state_dtype, DType::F16);
    assert_eq!(back.vendor, options.vendor);
    let symbols = SymbolValues::step(3, 5, 1, 9);
    let numbers = wire::symbols(&symbols);
    assert_eq!(wire::symbols(&wire::symbol_values(&numbers)), numbers);
}

#[test]
fn errors_cross_with_what_they_say() {
    let reason = Reason::new(ReasonCode::ShapeLimit, "too wide");
    for e in [
        HalError::DeviceLost {
            device: "d".into(),
            why: "gone".into(),
        },
        HalError::OutOfMemory {
            device: "d".into(),
            bytes: 7,
            what: "w".into(),
        },
        HalError::CompileRejected {
            device: "d".into(),
            nodes: vec![(anynpu_ir::NodeId(3), reason)],
        },
        HalError::Timeout {
            what: "w".into(),
            waited: Duration::from_secs(2),
            limit: Duration::from_secs(1),
        },
        HalError::Vendor {
            device: "d".into(),
            call: "c".into(),
            code: -5,
            text: "t".into(),
        },
    ] {
        let sent = WireError::from(e.clone());
        let text = serde_json::to_string(&sent).unwrap();
        let got: WireError = serde_json::from_str(&text).unwrap();
        assert_eq!(HalError::from(got), e);
    }
}

proptest! {
    /// Whatever bytes come, the helper ends or answers; it never panics.
    #[test]
    fn any_bytes_are_answered_or_end_the_helper(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
        framed.extend_from_slice(&bytes);
        let _ = serve(&NoopDriver, Cursor::new(bytes), io::sink());
        let _ = serve(&NoopDriver, Cursor::new(framed), io::sink());
    }
}
