//! What graphs become, on every host and without Apple's tools.

use std::collections::HashMap;
use std::sync::Arc;

use anynpu_coreml::binding::FunctionPlan;
use anynpu_coreml::lower::{Form, Lowered, States, Totals, engine, lower, lower_run};
use anynpu_coreml::package::{DataType, Feature, PackageWriter};
use anynpu_coreml::weights::WeightForm;
use anynpu_coreml::{ComputeUnits, CoreMlError, PackageOptions, PackageReport, Precision, compile};
use anynpu_hal::{
    Bounds, Entry, EntryInfo, Extent, HalError, ReasonCode, WeightSource, WeightView,
};
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Op, RopeScaling, RopeStyle, Shape,
    Symbol, TensorType, ValueId,
};

/// Weights of one number.
#[derive(Debug)]
struct Weights(HashMap<String, usize>, f32);

impl WeightSource for Weights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let bytes = self.1.to_le_bytes().repeat(self.0[name]);
        Ok(WeightView {
            dtype: DType::F32,
            bytes: bytes.into(),
        })
    }
}

/// Weights of `graph` that are all `number`.
fn weights(graph: &Graph, number: f32) -> Weights {
    let each = graph.weights().iter().map(|w| {
        let elements = graph.ty(w.value).shape.elements(&Default::default());
        (w.name.clone(), elements.unwrap())
    });
    Weights(each.collect(), number)
}

const HIDDEN: u32 = 64;
const HEADS: u32 = 4;
const KEY_HEADS: u32 = 2;
const WIDTH: u32 = 16;

/// A decoder under construction.
struct Decoder(Graph);

impl Decoder {
    fn weight(&mut self, name: &str, dims: &[u32]) -> ValueId {
        let ty = TensorType::new(DType::F32, Shape::fixed(dims));
        self.0.add_weight(name, ty).unwrap()
    }

    fn op(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
        self.0.add(name, op, inputs).unwrap()
    }

    fn norm(&mut self, name: &str, x: ValueId) -> ValueId {
        let gain = self.weight(&format!("{name}.gain"), &[HIDDEN]);
        self.op(name, Op::RmsNorm { eps: 1e-5 }, &[x, gain])
    }

    fn linear(&mut self, name: &str, x: ValueId, features: u32) -> ValueId {
        let w = self.weight(&format!("{name}.weight"), &[features, HIDDEN]);
        self.op(name, Op::Linear, &[x, w])
    }

    fn heads(&mut self, name: &str, x: ValueId, heads: u32) -> ValueId {
        let shape = [Dim::TOKENS, heads.into(), WIDTH.into()].into();
        self.op(name, Op::Reshape { shape }, &[x])
    }

    fn layer(&mut self, n: u32, x: ValueId, positions: ValueId) -> ValueId {
        let name = |what: &str| format!("layers.{n}.{what}");
        let rope = Op::Rope {
            style: match n {
                0 => RopeStyle::Interleaved,
                _ => RopeStyle::HalfSplit,
            },
            dims: WIDTH,
            base: 10000.0,
            scaling: RopeScaling::None,
        };
        let y = self.norm(&name("norm"), x);
        let q = self.linear(&name("q"), y, HEADS * WIDTH);
        let q = self.heads(&name("q_heads"), q, HEADS);
        let q = self.op(&name("q_rope"), rope.clone(), &[q, positions]);
        let k = self.linear(&name("key"), y, KEY_HEADS * WIDTH);
        let k = self.heads(&name("k_heads"), k, KEY_HEADS);
        let k = self.op(&name("k_rope"), rope, &[k, positions]);
        let v = self.linear(&name("value"), y, KEY_HEADS * WIDTH);
        let v = self.heads(&name("v_heads"), v, KEY_HEADS);
        let [k, v] = [("k", k), ("v", v)].map(|(which, rows)| {
            let ty = TensorType::new(DType::F32, [Dim::CAPACITY, KEY_HEADS.into(), WIDTH.into()]);
            let state = self.0.add_state(name(which), ty, 0).unwrap();
            let at = Dim::CACHED;
            let append = name(&format!("{which}_append"));
            self.0
                .add_node(append, Op::KvAppend { state, at }, &[rows])
                .unwrap();
            state
        });
        let attention = Op::Attention {
            kv: AttentionKv::State { k, v },
            causal: true,
            mask: false,
            scale: 0.25,
            soft_cap: None,
            window: None,
        };
        let y = self.op(&name("attention"), attention, &[q, positions]);
        let shape = [Dim::TOKENS, HIDDEN.into()].into();
        let y = self.op(&name("merged"), Op::Reshape { shape }, &[y]);
        let y = self.linear(&name("output"), y, HIDDEN);
        let add = Op::Binary(BinaryOp::Add);
        let x = self.op(&name("residual"), add.clone(), &[x, y]);
        let y = self.norm(&name("ffn_norm"), x);
        let gate = self.linear(&name("gate"), y, HIDDEN);
        let up = self.linear(&name("up"), y, HIDDEN);
        let act = Op::GatedActivation(Activation::Silu);
        let y = self.op(&name("act"), act, &[gate, up]);
        let y = self.linear(&name("down"), y, HIDDEN);
        self.op(&name("ffn_residual"), add, &[x, y])
    }
}

/// A decoder of `layers` layers with `vocabulary` tokens, as architectures make them.
fn decoder(layers: u32, vocabulary: u32) -> Graph {
    let mut d = Decoder(Graph::new("decoder"));
    let mut input = |name: &str, dim| {
        let ty = TensorType::new(DType::I32, [dim]);
        d.0.add_input(name, ty).unwrap()
    };
    let tokens = input("tokens", Dim::TOKENS);
    let positions = input("positions", Dim::TOKENS);
    let rows = input("output_rows", Dim::OUTPUTS);
    let table = d.weight("table", &[vocabulary, HIDDEN]);
    let mut x = d.op("embed", Op::Embedding, &[table, tokens]);
    for n in 0..layers {
        x = d.layer(n, x, positions);
    }
    let x = d.op("output.rows", Op::Gather { axis: 0 }, &[x, rows]);
    let logits = d.op("output.logits", Op::Linear, &[x, table]);
    d.0.set_output(logits).unwrap();
    d.0
}

/// `graph` in a step of so many tokens over a context of 64, with weights of `number`.
fn lowered(graph: &Graph, units: ComputeUnits, tokens: u32) -> Lowered {
    let engine = units == ComputeUnits::NeuralEngine;
    let form = Form {
        target: "iOS18".parse().unwrap(),
        engine,
        precision: Precision::F16,
        weights: WeightForm::Model,
        states: match engine {
            true => States::Caller,
            false => States::Native,
        },
        padded: false,
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.mlpackage");
    let mut package = PackageWriter::create(&path, form.target).unwrap();
    let mut bounds = Bounds::new();
    for (symbol, n) in [
        (Symbol::TOKENS, tokens),
        (Symbol::OUTPUTS, 1),
        (Symbol::CAPACITY, 64),
    ] {
        bounds = bounds.with(symbol, Extent::Exact(n));
    }
    let entry = Entry {
        name: "main".into(),
        nodes: 0..graph.nodes().len() as u32,
        graph: Arc::new(graph.clone()),
        bounds,
    };
    let (source, go_on) = (weights(graph, 0.01), &mut |_| true);
    let mut totals = Totals::default();
    lower(&entry, &form, &source, &mut package, &mut totals, go_on).unwrap()
}

fn names(features: &[Feature]) -> Vec<&str> {
    features.iter().map(|f| f.name.as_str()).collect()
}

#[test]
fn the_form_for_the_neural_engine_keeps_its_rules() {
    let graph = decoder(2, 2 * engine::PART + 5);
    for tokens in [1, 16] {
        let f = lowered(&graph, ComputeUnits::NeuralEngine, tokens).function;
        let counts = f.histogram();
        for fused in [
            "linear",
            "scaled_dot_product_attention",
            "read_state",
            "slice_update",
        ] {
            assert!(!counts.contains_key(fused), "{fused}");
        }
        // the embedding alone is looked up, and the rows whose results are wanted
        assert!(counts["gather"] <= 2, "{counts:?}");
        // seven products a layer, exchanges for queries and keys in the first, and the vocabulary in parts
        assert_eq!(counts["conv"], 2 * 7 + 2 + 3);
        // two products a head
        assert_eq!(counts["matmul"], 2 * 2 * HEADS as usize);
        for (kind, tensor) in f.results() {
            let (dtype, dims) = (f.dtype(tensor), f.dims(tensor));
            assert_ne!(dtype, DataType::F32, "{kind} {}", f.tensor_name(tensor));
            assert!(dims.len() <= 5, "{kind} {dims:?}");
        }
        let described = f.described();
        let short = |features: &[Feature]| -> Vec<String> {
            let short = |f: &&Feature| f.dims.last().is_some_and(|n| *n < 32);
            let floats = features.iter().filter(|f| f.dtype != DataType::I32);
            floats.filter(short).map(|f| f.name.clone()).collect()
        };
        // angles have a number a pair, of which there are eight here, and the last part of this vocabulary is short
        assert_eq!(short(&described.inputs), ["cos", "sin", "cos_1", "sin_1"]);
        assert_eq!(short(&described.outputs), ["logits_2"]);
        let outputs = names(&described.outputs);
        assert_eq!(outputs[..3], ["logits_0", "logits_1", "logits_2"]);
        assert_eq!(outputs[3], "layers_0_k_new");
        assert_eq!(outputs.len(), 3 + 4);
        let mask = described.inputs.iter().find(|f| f.name == "mask").unwrap();
        assert_eq!(mask.dims, [1, 1, tokens, engine::mask_columns(64, tokens)]);
    }
}

#[test]
fn the_form_for_gpus_has_fused_attention_over_states() {
    let graph = decoder(2, 100);
    for tokens in [1, 16] {
        let f = lowered(&graph, ComputeUnits::All, tokens).function;
        let counts = f.histogram();
        assert_eq!(counts["scaled_dot_product_attention"], 2);
        assert_eq!(counts["linear"], 2 * 7 + 1);
        assert_eq!((counts["write_state"], counts["slice_update"]), (4, 4));
        assert!(!counts.contains_key("softmax") && !counts.contains_key("conv"));
        // one mask for both layers
        assert_eq!(counts["less_equal"], 1);
        let described = f.described();
        assert_eq!(names(&described.outputs), ["logits"]);
        assert_eq!(described.states.len(), 4);
        assert_eq!(described.states[0].dims, [1, KEY_HEADS, 64, WIDTH]);
        assert_eq!(described.states[0].dtype, DataType::F16);
    }
}

fn options(target: &str) -> PackageOptions {
    PackageOptions::new(target.parse().unwrap(), 64)
}

/// Writes `graph` with weights of `number` as a package, which must leave nothing if it fails.
fn written(
    graph: Graph,
    number: f32,
    options: &PackageOptions,
    go_on: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<PackageReport, CoreMlError> {
    let folder = tempfile::tempdir().unwrap();
    let source = weights(&graph, number);
    let path = folder.path().join("x.mlpackage");
    let made = compile(&Arc::new(graph), &source, options, &path, go_on);
    let count = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(count, usize::from(made.is_ok()));
    made
}

#[test]
fn functions_of_all_sizes_hold_their_weights_once() {
    for units in [ComputeUnits::All, ComputeUnits::NeuralEngine] {
        let report = |steps: Vec<u32>| {
            let options = PackageOptions {
                steps,
                units,
                ..options("iOS18")
            };
            written(decoder(2, 100), 0.01, &options, &mut |_, _| true).unwrap()
        };
        let (one, all) = (report(Vec::new()), report(vec![16, 32]));
        assert_eq!(one.weight_bytes, all.weight_bytes);
        let names: Vec<&str> = all.functions.iter().map(|f| &f.name[..]).collect();
        assert_eq!(names, ["main", "prefill_16", "prefill_32"]);
        let prefill = &all.functions[1];
        // of a step for the Neural Engine only rows are wanted
        let logits = prefill.outputs.iter().any(|o| o.name == "logits");
        assert_eq!(logits, units == ComputeUnits::All);
    }
}

/// The nodes that are refused, with why.
fn refused(e: CoreMlError) -> Vec<(String, ReasonCode)> {
    match e {
        CoreMlError::Refused { nodes } => {
            let each = nodes
                .into_iter()
                .map(|(_, name, reason)| (name, reason.code));
            each.collect()
        }
        e => panic!("{e}"),
    }
}

#[test]
fn nodes_that_the_format_has_not_are_named_and_nothing_is_left() {
    let go_on = &mut |_: u64, _: u64| true;
    let mut graph = decoder(1, 100);
    let x = graph.find_value("output.rows").unwrap();
    let mut constant = |name: &str, dtype, bytes: [u8; 4]| {
        let ty = TensorType::new(dtype, []);
        graph.add_constant(name, ty, bytes.to_vec()).unwrap()
    };
    let scale = constant("scale", DType::F32, 1f32.to_le_bytes());
    let zero = constant("zero", DType::I32, 0i32.to_le_bytes());
    let op = Op::Quantize {
        to: DType::I32,
        axis: None,
    };
    let q = graph.add("quantised", op, &[x, scale, zero]).unwrap();
    graph.set_output(q).unwrap();
    let e = written(graph, 0.01, &options("iOS18"), go_on).unwrap_err();
    assert!(e.to_string().contains("'quantised'"), "{e}");
    assert_eq!(
        refused(e),
        [("quantised".to_owned(), ReasonCode::OpUnknown)]
    );

    for (dtype, dims, code) in [
        (DType::F32, &[1; 6][..], ReasonCode::Rank),
        (DType::F32, &[], ReasonCode::Rank),
        (DType::F32, &[3, 0], ReasonCode::ShapeLimit),
        (DType::F32, &[1 << 16, 1 << 15], ReasonCode::ShapeLimit),
        (DType::F32, &[u32::MAX, u32::MAX], ReasonCode::ShapeLimit),
        (DType::I8, &[3], ReasonCode::DType),
    ] {
        let mut graph = Graph::new("g");
        let ty = TensorType::new(dtype, Shape::fixed(dims));
        let x = graph.add_input("x", ty).unwrap();
        let y = graph.add("y", Op::Binary(BinaryOp::Add), &[x, x]).unwrap();
        graph.set_output(y).unwrap();
        let e = written(graph, 0.0, &options("iOS18"), go_on).unwrap_err();
        assert_eq!(refused(e), [("y".to_owned(), code)]);
    }
}

#[test]
fn weights_that_f16_has_not_are_named_and_nothing_is_left() {
    let go_on = &mut |_: u64, _: u64| true;
    for units in [ComputeUnits::All, ComputeUnits::NeuralEngine] {
        let options = PackageOptions {
            units,
            ..options("iOS18")
        };
        let e = written(decoder(1, 100), 1e6, &options, go_on).unwrap_err();
        let told = matches!(&e, CoreMlError::Overflow { name, index: 0, value } if name == "table" && *value == 1e6);
        assert!(told, "{e}");
    }
    let precise = PackageOptions {
        precision: Precision::F32,
        ..options("iOS18")
    };
    written(decoder(1, 100), 1e6, &precise, go_on).unwrap();
}

#[test]
fn work_that_is_stopped_leaves_nothing() {
    let mut calls = 0;
    let stop = &mut |done: u64, total: u64| {
        assert!(done < total);
        calls += 1;
        calls < 10
    };
    let e = written(decoder(1, 100), 0.01, &options("iOS18"), stop).unwrap_err();
    assert!(
        matches!(e, CoreMlError::Hal(HalError::Cancelled { .. })),
        "{e}"
    );
}

/// The nodes of `graph` in `range` as a run for a host, in a step of two tokens over 64 rows.
fn plan_of(
    graph: &Graph,
    range: std::ops::Range<u32>,
    engine: bool,
    states: States,
) -> (Entry, EntryInfo, FunctionPlan) {
    let mut bounds = Bounds::new();
    for (symbol, n) in [
        (Symbol::TOKENS, 2),
        (Symbol::OUTPUTS, 1),
        (Symbol::CAPACITY, 64),
    ] {
        bounds = bounds.with(symbol, Extent::Exact(n));
    }
    let entry = Entry {
        name: "prefill 2".into(),
        graph: Arc::new(graph.clone()),
        nodes: range,
        bounds,
    };
    let form = Form {
        target: "iOS18".parse().unwrap(),
        engine,
        precision: Precision::F16,
        weights: WeightForm::Model,
        states,
        padded: false,
    };
    let mut package = PackageWriter::in_memory(form.target).unwrap();
    let (weights, totals) = (weights(graph, 0.5), &mut Totals::default());
    let go_on = &mut |_| true;
    let lowered = lower_run(
        &entry,
        "entry_0",
        &form,
        &weights,
        &mut package,
        totals,
        go_on,
    );
    let info = EntryInfo::describe(&entry, DType::F16).unwrap();
    let function = Some("entry_0".to_owned());
    let plan = FunctionPlan::new(lowered.unwrap(), &entry, &info, (0, function)).unwrap();
    assert!(plan.fits(&entry, &info), "{plan:?}");
    // as it is kept
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<FunctionPlan>(&text).unwrap(), plan);
    (entry, info, plan)
}

/// What such a run is given, gives, and keeps.
fn run_of(graph: &Graph, range: std::ops::Range<u32>, engine: bool, states: States) -> Vec<String> {
    let (_, _, plan) = plan_of(graph, range, engine, states);
    let told = |place: &dyn std::fmt::Debug| {
        let text = format!("{place:?}");
        text.split([' ', '{']).next().unwrap().to_owned()
    };
    let given = plan.inputs.iter().map(|(a, source)| {
        let name = a.element.name();
        format!("{} {name} {:?} of {}", a.feature, a.dims, told(source))
    });
    let taken = plan.outputs.iter().map(|(a, place)| {
        let name = a.element.name();
        format!("{} {name} {:?} to {}", a.feature, a.dims, told(place))
    });
    let kept = plan.states.iter().map(|state| {
        let (a, port) = (&state.array, state.port);
        let what = if state.written { "appended" } else { "read" };
        let name = a.element.name();
        format!("{} {name} {:?} is {port}, {what}", a.feature, a.dims)
    });
    given.chain(taken).chain(kept).collect()
}

#[test]
fn a_run_of_nodes_has_its_operands_states_and_results_as_a_host_keeps_them() {
    let graph = decoder(1, 100);
    let at = |name: &str| {
        let found = graph.nodes().iter().position(|n| n.name == name);
        found.unwrap() as u32
    };
    let layer = at("embed") + 1..at("output.rows");
    assert_eq!(
        run_of(&graph, layer.clone(), false, States::Caller),
        [
            "embed fp16 [2, 64] of Value(0)",
            "positions int32 [2] of Value(1)",
            "layers_0_k fp16 [1, 64, 2, 16] of State(0)",
            "layers_0_v fp16 [1, 64, 2, 16] of State(1)",
            "cos fp16 [2, 8] of Cosines(Angles",
            "sin fp16 [2, 8] of Sines(Angles",
            "layers_0_ffn_residual fp16 [2, 64] to Value(0)",
            "layers_0_k_new fp16 [1, 2, 2, 16] to Rows(0)",
            "layers_0_v_new fp16 [1, 2, 2, 16] to Rows(1)",
        ]
    );
    assert_eq!(
        run_of(&graph, layer, true, States::Caller),
        [
            "embed fp16 [2, 64] of Value(0)",
            "cos fp16 [1, 1, 2, 8] of Cosines(Angles",
            "sin fp16 [1, 1, 2, 8] of Sines(Angles",
            "layers_0_k fp16 [1, 1, 64, 32] of State(0)",
            "layers_0_v fp16 [1, 1, 64, 32] of State(1)",
            "mask fp16 [1, 1, 2, 96] of Mask(Mask",
            "layers_0_ffn_residual fp16 [2, 64] to Value(0)",
            "layers_0_k_new fp16 [1, 1, 2, 32] to Rows(0)",
            "layers_0_v_new fp16 [1, 1, 2, 32] to Rows(1)",
        ]
    );
    // attention alone reads the rows of the step too, which something else appended
    let attention = at("layers.0.attention");
    assert_eq!(
        run_of(&graph, attention..attention + 1, false, States::Caller),
        [
            "layers_0_q_rope fp16 [2, 4, 16] of Value(0)",
            "positions int32 [2] of Value(1)",
            "layers_0_k fp16 [1, 64, 2, 16] of State(0)",
            "layers_0_k_step fp16 [1, 2, 2, 16] of StepRows(0)",
            "layers_0_v fp16 [1, 64, 2, 16] of State(1)",
            "layers_0_v_step fp16 [1, 2, 2, 16] of StepRows(1)",
            "layers_0_attention fp16 [2, 4, 16] to Value(0)",
        ]
    );
    // what is only appended is not read
    let append = at("layers.0.k_append");
    assert_eq!(
        run_of(&graph, append..append + 1, true, States::Caller),
        [
            "layers_0_k_rope fp16 [2, 2, 16] of Value(0)",
            "layers_0_k_new fp16 [1, 1, 2, 32] to Rows(0)",
        ]
    );
}

#[test]
fn a_run_keeps_its_states_itself_where_the_program_has_them() {
    let graph = decoder(1, 100);
    let at = |name: &str| {
        let found = graph.nodes().iter().position(|n| n.name == name);
        found.unwrap() as u32
    };
    let layer = at("embed") + 1..at("output.rows");
    assert_eq!(
        run_of(&graph, layer, false, States::Native),
        [
            "embed fp16 [2, 64] of Value(0)",
            "positions int32 [2] of Value(1)",
            "cos fp16 [2, 8] of Cosines(Angles",
            "sin fp16 [2, 8] of Sines(Angles",
            "cached int32 [1] of Cached",
            "layers_0_ffn_residual fp16 [2, 64] to Value(0)",
            "layers_0_k fp16 [1, 2, 64, 16] is 0, appended",
            "layers_0_v fp16 [1, 2, 64, 16] is 1, appended",
        ]
    );
    // rows that something else appended are there already
    let attention = at("layers.0.attention");
    assert_eq!(
        run_of(&graph, attention..attention + 1, false, States::Native),
        [
            "layers_0_q_rope fp16 [2, 4, 16] of Value(0)",
            "positions int32 [2] of Value(1)",
            "layers_0_attention fp16 [2, 4, 16] to Value(0)",
            "layers_0_k fp16 [1, 2, 64, 16] is 0, read",
            "layers_0_v fp16 [1, 2, 64, 16] is 1, read",
        ]
    );
    let append = at("layers.0.k_append");
    assert_eq!(
        run_of(&graph, append..append + 1, false, States::Native),
        [
            "layers_0_k_rope fp16 [2, 2, 16] of Value(0)",
            "cached int32 [1] of Cached",
            "layers_0_k fp16 [1, 2, 64, 16] is 0, appended",
        ]
    );
}

#[test]
fn a_plan_that_is_broken_fits_no_entry() {
    let graph = decoder(1, 100);
    let layer = 1..graph.nodes().len() as u32 - 2;
    for (engine, states) in [
        (false, States::Caller),
        (true, States::Caller),
        (false, States::Native),
    ] {
        let (entry, info, plan) = plan_of(&graph, layer.clone(), engine, states);
        let text = serde_json::to_value(&plan).unwrap();
        // every number in turn becomes another one, or a very large one
        let mut paths = Vec::new();
        numbers_in(&text, &mut Vec::new(), &mut paths);
        assert!(paths.len() > 40);
        for path in paths {
            for to in [u64::from(u32::MAX), u64::MAX, 7] {
                let mut broken = text.clone();
                let place = path.iter().fold(&mut broken, |v, key| match key.parse() {
                    Ok(i) if v.is_array() => v.get_mut::<usize>(i).unwrap(),
                    _ => v.get_mut(key.as_str()).unwrap(),
                });
                *place = serde_json::json!(to);
                let Ok(broken) = serde_json::from_value::<FunctionPlan>(broken) else {
                    continue;
                };
                let harmless = [
                    "package",
                    "window",
                    "frequencies",
                    "magnitude",
                    "old",
                    "fresh",
                ];
                let last = path.iter().rev().find(|k| k.parse::<usize>().is_err());
                let harmless = harmless.contains(&last.unwrap().as_str());
                // whatever it says, looking at it does not fail
                let fits = broken.fits(&entry, &info);
                assert!(!fits || harmless || broken == plan, "{path:?} {to}");
            }
        }
    }
}

/// Where numbers are in `value`.
fn numbers_in(value: &serde_json::Value, at: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut inside = |key: String, value: &serde_json::Value| {
        at.push(key);
        numbers_in(value, at, found);
        at.pop();
    };
    match value {
        serde_json::Value::Number(_) => found.push(at.clone()),
        serde_json::Value::Array(all) => {
            for (i, value) in all.iter().enumerate() {
                inside(i.to_string(), value);
            }
        }
        serde_json::Value::Object(all) => {
            for (key, value) in all {
                inside(key.clone(), value);
            }
        }
        _ => {}
    }
}
