//! Descriptions: those that are shipped, and files that are none.

mod common;

use std::collections::BTreeSet;

use anynpu_hal::{DeviceKind, Support};
use anynpu_ir::{Activation, AttentionKv, DType, Dim, Graph, Op, Shape, TensorType, ValueId};
use anynpu_sim::{Catalogue, Description, SHIPPED, Shipped, SimError};
use common::open;
use proptest::prelude::*;

const GOOD: &str = include_str!("../devices/reference-f32.toml");

#[test]
fn every_shipped_description_opens_and_every_figure_of_it_has_a_source() {
    let mut names = BTreeSet::new();
    for shipped in SHIPPED {
        let description = shipped.read().unwrap();
        assert_eq!(description.name(), shipped.name);
        assert!(names.insert(shipped.name));
        assert!(description.sources().len() >= 3);
        for (key, source) in description.sources() {
            let cited = source.starts_with("estimate") || source.len() > 20;
            assert!(cited, "{}: {key} of {source:?}", shipped.name);
        }
        let device = open(description.clone());
        assert_eq!(device.info().kind, DeviceKind::Simulated);
        let claims = device.capabilities();
        assert!(claims.features.artificial);
        assert!(claims.claimed_rates.is_some());
        assert_eq!(
            claims.features.dynamic_shapes,
            claims.fixed_shapes.is_none()
        );
        // it runs at least the products of a model of some type it reads
        let products = claims.weights.iter().any(|&dtype| {
            let graph = product(dtype, 256, 256);
            device.support(&graph.whole())[0] == Support::Yes
        });
        assert!(products, "{}", shipped.name);
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/devices");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().file_name());
    let files: BTreeSet<_> = files
        .map(|f| f.into_string().unwrap().replace(".toml", ""))
        .collect();
    assert_eq!(
        files,
        names.into_iter().map(String::from).collect(),
        "shipped.rs lists devices/"
    );
}

fn product(dtype: DType, outputs: u32, inputs: u32) -> Graph {
    let mut g = Graph::new("product");
    let x = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(inputs)]);
    let x = g.add_input("x", x).unwrap();
    let w = TensorType::new(dtype, Shape::fixed(&[outputs, inputs]));
    let w = g.add_weight("w", w).unwrap();
    let y = g.add("y", Op::Linear, &[x, w]).unwrap();
    g.set_output(y).unwrap();
    g
}

fn one(op: Op, inputs: &[TensorType]) -> Graph {
    let mut g = Graph::new("one");
    let inputs: Vec<ValueId> = inputs
        .iter()
        .enumerate()
        .map(|(i, ty)| g.add_input(format!("i{i}"), ty.clone()).unwrap())
        .collect();
    g.add_node("node", op, &inputs).unwrap();
    g
}

/// A graph for each quirk, whose last node it says something about.
fn afflicted(quirk: &str) -> Graph {
    let f32s = |dims: &[u32]| TensorType::new(DType::F32, Shape::fixed(dims));
    let ints = |n| TensorType::new(DType::I32, Shape::fixed(&[n]));
    let matmul = Op::MatMul {
        transpose_a: false,
        transpose_b: false,
    };
    match quirk {
        "no-infinite-masks" => one(
            Op::CausalMask {
                keys: Dim::Fixed(8),
                window: None,
                hidden: f32::MIN,
            },
            &[ints(4)],
        ),
        "f16-rms-norm-overflow" => one(Op::RmsNorm { eps: 1e-5 }, &[f32s(&[4, 8]), f32s(&[8])]),
        "last-dimension-65536" => product(DType::F32, 65537, 32),
        "input-dimension-16384" => product(DType::F32, 16385, 32),
        "uint16-token-ids" => one(Op::Embedding, &[f32s(&[65537, 4]), ints(3)]),
        "no-state-updates" => stateful(64),
        "state-dimensions-of-32" => stateful(48),
        "rank-5" => one(Op::Activation(Activation::Relu), &[f32s(&[1; 6])]),
        "rank-4" => one(Op::Activation(Activation::Relu), &[f32s(&[1; 5])]),
        "matmul-rank-4" => one(matmul, &[f32s(&[1; 5]), f32s(&[1; 5])]),
        "no-block-weights" => product(DType::Q4_0, 32, 32),
        "symmetric-4-bit-only" => product(DType::Q4_K, 32, 256),
        "context-3.5-gib" => product(DType::F32, 65536, 16384),
        "session-2-gib" => product(DType::F32, 65536, 8193),
        other => panic!("no graph for quirk '{other}'"),
    }
}

fn stateful(head: u32) -> Graph {
    let mut g = Graph::new("stateful");
    let rows = TensorType::new(
        DType::F32,
        [Dim::CAPACITY, Dim::Fixed(32), Dim::Fixed(head)],
    );
    let state = g.add_state("k", rows, 0).unwrap();
    let x = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(32), Dim::Fixed(head)]);
    let x = g.add_input("x", x).unwrap();
    let at = Dim::CACHED;
    g.add_node("append", Op::KvAppend { state, at }, &[x])
        .unwrap();
    g
}

#[test]
fn every_quirk_of_the_catalogue_changes_a_verdict() {
    let shipped = SHIPPED.iter().map(|s| s.read().unwrap());
    let used: BTreeSet<String> = shipped
        .flat_map(|d| d.quirk_names().map(String::from).collect::<Vec<_>>())
        .collect();
    for quirk in Catalogue::shipped().quirks() {
        let graph = afflicted(&quirk.name);
        let text = GOOD.replace("\"f32\"\nweights", "\"f16\"\nweights");
        assert_ne!(text, GOOD);
        let text = text.replace("ops =", &format!("quirks = [\"{}\"]\nops =", quirk.name));
        let with = Description::parse(&text, "with").unwrap();
        let verdict = with.support(&graph.whole()).pop().unwrap();
        let reason = verdict
            .reason()
            .unwrap_or_else(|| panic!("{} changes nothing", quirk.name));
        assert!(
            reason.detail.contains(&quirk.name) && reason.detail.contains(&quirk.what),
            "{reason}"
        );
        let without = with.without_quirks().support(&graph.whole()).pop().unwrap();
        assert_eq!(without, Support::Yes, "{}", quirk.name);
        if !used.contains(&quirk.name) {
            println!("no shipped description has quirk {}", quirk.name);
        }
    }
    // and every quirk that a description names is one of the catalogue, which reading it checks
    assert!(
        used.iter()
            .all(|name| Catalogue::shipped().find(name).is_some())
    );
}

#[test]
fn masks_are_refused_only_where_they_may_be_infinite() {
    let text = GOOD.replace("ops =", "quirks = [\"no-infinite-masks\"]\nops =");
    let f32_device = Description::parse(&text, "f32").unwrap();
    let text = text.replace("\"f32\"\nweights", "\"f16\"\nweights");
    let f16_device = Description::parse(&text, "f16").unwrap();
    let graph = |hidden: Option<f32>, mask: bool| {
        let mut g = Graph::new("g");
        let heads =
            |n: u32| TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(n), Dim::Fixed(8)]);
        let q = g.add_input("q", heads(2)).unwrap();
        let k = g.add_input("k", heads(2)).unwrap();
        let positions = TensorType::new(DType::I32, [Dim::TOKENS]);
        let positions = g.add_input("positions", positions).unwrap();
        let mut inputs = vec![q, k, k];
        if let Some(hidden) = hidden {
            let op = Op::CausalMask {
                keys: Dim::TOKENS,
                window: None,
                hidden,
            };
            inputs.push(g.add("mask", op, &[positions]).unwrap());
        } else if mask {
            let ty = TensorType::new(DType::F32, [Dim::TOKENS, Dim::TOKENS]);
            inputs.push(g.add_input("mask", ty).unwrap());
        }
        let attention = Op::Attention {
            kv: AttentionKv::Operands,
            causal: false,
            mask,
            scale: 1.0,
            soft_cap: None,
            window: None,
        };
        g.add_node("attention", attention, &inputs).unwrap();
        g
    };
    let last = |device: &Description, graph: Graph| device.support(&graph.whole()).pop().unwrap();
    assert_eq!(last(&f16_device, graph(None, false)), Support::Yes);
    assert_eq!(last(&f16_device, graph(Some(-40000.0), true)), Support::Yes);
    assert_eq!(last(&f32_device, graph(Some(-1e9), true)), Support::Yes);
    assert!(matches!(
        last(&f16_device, graph(Some(-1e9), true)),
        Support::No(_)
    ));
    assert!(matches!(
        last(&f16_device, graph(None, true)),
        Support::No(_)
    ));
    assert!(matches!(
        last(&f32_device, graph(None, true)),
        Support::No(_)
    ));
}

#[test]
fn malformed_descriptions_are_refused_with_the_key_and_what_would_fit() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "name = \"reference-f32\"",
            "name = \"Bad Name\"",
            &["name is \"Bad Name\"", "a-z, 0-9"],
        ),
        (
            "name = \"reference-f32\"",
            "name = \"\"",
            &["name is \"\"", "1 to 48"],
        ),
        ("name = \"reference-f32\"", "", &["missing field `name`"]),
        (
            "name = \"reference-f32\"",
            "name = \"a\"\ncolour = \"red\"",
            &["unknown field `colour`"],
        ),
        (
            "name = \"reference-f32\"",
            "name = 3",
            &["line 2", "invalid type: integer `3`, expected a string"],
        ),
        (
            "kind = \"simulated\"",
            "kind = \"npu\"",
            &["kind is \"npu\"", "\"simulated\""],
        ),
        (
            "ops = \"all\"",
            "ops = \"most\"",
            &["ops is \"most\"", "\"all\" or a list"],
        ),
        (
            "ops = \"all\"",
            "ops = [\"Linear\", \"Warp\"]",
            &["ops is \"Warp\"", "RmsNorm"],
        ),
        ("ops = \"all\"", "ops = 7", &["\"all\" or a list of names"]),
        (
            "compute = \"f32\"",
            "compute = \"f64\"",
            &["compute is \"f64\"", "bf16"],
        ),
        (
            "compute = \"f32\"",
            "compute = \"q4_0\"",
            &["compute is q4_0", "f32, f16 or bf16"],
        ),
        (
            "weights = \"all\"",
            "weights = [\"int4\"]",
            &["weights is \"int4\"", "q4_0"],
        ),
        (
            "states = \"in_place\"",
            "states = \"magic\"",
            &["states is \"magic\"", "slice_io"],
        ),
        (
            "ops = \"all\"",
            "ops = \"all\"\nquirks = [\"no-luck\"]",
            &["quirks is \"no-luck\"", "no-infinite-masks"],
        ),
        (
            "ops = \"all\"",
            "ops = \"all\"\nfaults = [\"submit:1=fire\"]",
            &["faults is \"submit:1=fire\"", "submit:N=lost"],
        ),
        (
            "ops = \"all\"",
            "ops = \"all\"\nfaults = [\"submit:1=delay:99999999999\"]",
            &["faults is", "at most an hour"],
        ),
        (
            "kind = \"host\"",
            "kind = \"cloud\"",
            &["memory.kind is \"cloud\"", "\"own\""],
        ),
        (
            "kind = \"host\"",
            "kind = \"own\"",
            &["memory.kind is \"own\"", "[link]"],
        ),
        (
            "value = 40e9",
            "value = 0.0",
            &["memory.read_bytes_per_second.value is 0", "from 1000"],
        ),
        (
            "value = 40e9",
            "value = -1",
            &["memory.read_bytes_per_second.value is -1"],
        ),
        (
            "value = 40e9",
            "value = nan",
            &["memory.read_bytes_per_second.value is NaN"],
        ),
        (
            "value = 40e9",
            "value = inf",
            &["memory.read_bytes_per_second.value is inf"],
        ),
        (
            "value = 40e9",
            "value = \"fast\"",
            &["invalid type: string \"fast\", expected f64"],
        ),
        (
            "value = 40e9, source = \"estimate\"",
            "value = 40e9",
            &["missing field `source`"],
        ),
        (
            "value = 40e9, source = \"estimate\"",
            "value = 40e9, source = \" \"",
            &["memory.read_bytes_per_second.source", "public reference"],
        ),
        (
            "{ value = 40e9, source = \"estimate\" }",
            "40e9",
            &["invalid type: floating point"],
        ),
        (
            "value = 20.0",
            "value = 1e9",
            &[
                "speed.dispatch_us.value is 1000000000",
                "from 0 to 10000000",
            ],
        ),
        (
            "per_second = 500e9",
            "per_second = 1e30",
            &["speed.operations[0].per_second"],
        ),
        (
            "weights = \"q8_0\"",
            "weights = \"f32\"",
            &["speed.operations[1].weights is f32", "once"],
        ),
        (
            "[speed]",
            "limit_bytes = { value = 0, source = \"estimate\" }\n[speed]",
            &["memory.limit_bytes.value is 0", "from 1"],
        ),
        (
            "[speed]",
            "limit_bytes = { value = -5, source = \"estimate\" }\n[speed]",
            &["expected u64"],
        ),
        (
            "[speed]",
            "module_bytes = { value = 1.5, source = \"estimate\" }\n[speed]",
            &["expected u64"],
        ),
        (
            "[speed]",
            "[shapes]\ntokens = { value = [8, 1], source = \"estimate\" }\n[speed]",
            &["shapes.tokens.value is [8, 1]", "ascending"],
        ),
        (
            "[speed]",
            "[shapes]\ntokens = { value = [0], source = \"estimate\" }\n[speed]",
            &["shapes.tokens.value is [0]", "from 1"],
        ),
        (
            "[speed]",
            "[shapes]\ncapacities = { value = [], source = \"estimate\" }\n[speed]",
            &["shapes.capacities.value is []", "leave the key out"],
        ),
        (
            "[speed]",
            "[link]\nlatency_us = { value = 1.0, source = \"estimate\" }\nbytes_per_second = { value = 1e9, source = \"estimate\" }\n[speed]",
            &["memory.kind is \"host\"", "there is a table [link]"],
        ),
        (
            "[speed]",
            "[thermal]\ncurve = { value = [[1.0, 1.0]], source = \"estimate\" }\nrecovery = { value = 1.0, source = \"estimate\" }\n[speed]",
            &["thermal.curve.value is [(1.0, 1.0)]", "from 0 on"],
        ),
        (
            "[speed]",
            "[thermal]\ncurve = { value = [[0.0, 1.0], [5.0, 0.0]], source = \"estimate\" }\nrecovery = { value = 1.0, source = \"estimate\" }\n[speed]",
            &["thermal.curve.value", "factors from 0.01 to 1"],
        ),
        (
            "[speed]",
            "[power]\nbusy_watts = { value = 0, source = \"estimate\" }\n[speed]",
            &["power.busy_watts.value is 0"],
        ),
    ];
    Description::parse(GOOD, "good.toml").unwrap();
    for (from, to, words) in cases {
        assert!(GOOD.contains(from), "{from}");
        let text = GOOD.replacen(from, to, 1);
        let error = Description::parse(&text, "bad.toml")
            .unwrap_err()
            .to_string();
        assert!(error.contains("'bad.toml'"), "{error}");
        for word in *words {
            assert!(error.contains(word), "{to}: should say {word:?}: {error}");
        }
    }
    let empty = Description::parse("", "empty").unwrap_err();
    assert!(matches!(empty, SimError::Syntax { .. }), "{empty}");
    let rates = GOOD.find("operations = [").unwrap();
    let none = format!("{}operations = []", &GOOD[..rates]);
    let none = Description::parse(&none, "none").unwrap_err().to_string();
    assert!(none.contains("speed.operations is empty"), "{none}");
    for (open, close) in [("[", "]"), ("{ a = ", "}"), ("{ a = [", "]}")] {
        let depth = 50_000 / open.len();
        let deep = format!("ops = {}{}", open.repeat(depth), close.repeat(depth));
        Description::parse(&deep[..deep.len().min(65_000)], "deep").unwrap_err();
    }
    let dotted = format!("{} = 1", "a.".repeat(30_000) + "a");
    Description::parse(&dotted, "dotted").unwrap_err();
    let long = format!("{GOOD}#{}", "x".repeat(70_000));
    let long = Description::parse(&long, "long").unwrap_err();
    assert!(
        matches!(long, SimError::Size { limit: 65536, .. }),
        "{long}"
    );
}

#[test]
fn the_description_in_the_book_is_one() {
    let book = include_str!("../../../docs/simulated-devices.md");
    let (_, text) = book.split_once("```toml\n").unwrap();
    let (text, _) = text.split_once("```").unwrap();
    let description = Description::parse(text, "book").unwrap();
    assert_eq!(description.name(), "my-npu");
}

#[test]
fn files_that_can_not_be_read_say_why() {
    let absent = Description::read(std::path::Path::new("no/such.toml")).unwrap_err();
    assert!(matches!(absent, SimError::Read { .. }), "{absent}");
    let folder = Description::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap_err();
    assert!(matches!(folder, SimError::Read { .. }), "{folder}");
}

#[test]
fn the_catalogue_refuses_what_it_does_not_know() {
    let quirk = |from: &str, to: &str| {
        let good = "[[quirk]]\nname = \"a\"\nwhat = \"b\"\neffect = \"refused\"\ncode = \"rank\"\n\
             source = \"c\"\nrule = { kind = \"rank\", at_most = 4 }\n";
        assert!(good.contains(from));
        Catalogue::parse(&good.replacen(from, to, 1), "q").map(|c| c.quirks().len())
    };
    assert_eq!(quirk("\"a\"", "\"a\""), Ok(1));
    for (from, to, word) in [
        ("\"a\"", "\"A\"", "quirk.name"),
        ("\"b\"", "\"\"", "quirk.what"),
        ("\"refused\"", "\"mocked\"", "mocked"),
        (
            "\"rank\"",
            "\"rankk\"",
            "quirk.code is rankk, expected one of dtype",
        ),
        ("\"c\"", "\"\"", "quirk.source"),
        ("kind = \"rank\"", "kind = \"moon\"", "moon"),
        ("at_most = 4", "at_most = -4", "u32"),
        (
            "at_most = 4",
            "at_most = 4, ops = [\"Warp\"]",
            "quirk.rule.ops is Warp",
        ),
        ("at_most = 4", "at_most = 4, extra = 1", "extra"),
    ] {
        let error = quirk(from, to).unwrap_err().to_string();
        assert!(error.contains(word), "{to}: {error}");
    }
}

/// The names of ops that a description may list are those of the op set.
#[test]
fn every_op_of_the_op_set_may_be_listed() {
    let source = include_str!("../../../graphs/ir/src/op.rs");
    let (_, names) = source.split_once("pub const fn name(&self)").unwrap();
    let names: Vec<&str> = names
        .lines()
        .filter_map(|line| {
            let line = line.trim().strip_prefix("Op::")?;
            line.split_once("=> \"")?.1.strip_suffix("\",")
        })
        .collect();
    assert!(names.len() > 30);
    let list: Vec<String> = names.iter().map(|n| format!("\"{n}\"")).collect();
    let text = GOOD.replace("ops = \"all\"", &format!("ops = [{}]", list.join(", ")));
    Description::parse(&text, "all").unwrap();
    let known = Description::parse(&GOOD.replace("\"all\"", "[\"?\"]"), "x")
        .unwrap_err()
        .to_string();
    let known = known.split_once("some of ").unwrap().1;
    assert_eq!(known.split(", ").collect::<Vec<_>>(), names);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Text near a description, cut, doubled and with bytes changed, is read or refused.
    #[test]
    fn mutated_descriptions_never_panic(
        which in 0..SHIPPED.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6u8, any::<char>()), 0..6),
    ) {
        let mut text: Vec<char> = SHIPPED[which].text.chars().collect();
        for (at, edit, with) in edits {
            if text.is_empty() {
                break;
            }
            let at = at.index(text.len());
            match edit {
                0 => text.truncate(at),
                1 => text[at] = with,
                2 => { text.remove(at); }
                3 => text.insert(at, with),
                4 => text[at] = "0123456789-.e[]{}=\"\n".chars().nth(with as usize % 20).unwrap(),
                _ => {
                    let tail: Vec<char> = text[at..].iter().take(40).copied().collect();
                    text.extend(tail);
                }
            }
        }
        let text: String = text.into_iter().collect();
        match Description::parse(&text, "mutated") {
            Ok(description) => {
                let claims = description.capabilities();
                prop_assert!(claims.claimed_rates.unwrap().bytes_per_second > 0.0);
            }
            Err(e) => prop_assert!(e.to_string().contains("mutated")),
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,300}") {
        prop_assert!(Description::parse(&text, "any").is_err());
        let _ = Catalogue::parse(&text, "any");
    }
}

#[test]
fn a_shipped_description_is_found_by_its_name() {
    assert_eq!(Shipped::find("reference-f32").unwrap().text, GOOD);
    assert!(Shipped::find("reference").is_none());
}
