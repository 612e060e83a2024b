//! Products of integers beside those of numbers.

use std::sync::Arc;

use anynpu_cpu::reference::Tensor;
use anynpu_hal::{Device, Driver, HalError, OpenOptions, Support, WeightSource, WeightView};
use anynpu_ir::{DType, Dim, Graph, Op, Shape, SymbolValues, TensorType};
use anynpu_nnapi::lower::WeightForm;
use anynpu_runtime::{KvType, LoadOptions};
use anynpu_tests::run_with;

use crate::models::{error, load, logits, runtime};
use crate::{LEVELS, Placed, architecture};

const TOKENS: usize = 3;
const WIDTH: usize = 40;
const UNITS: usize = 24;

/// Numbers in -1..1 of a sequence.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A matrix whose rows have very different sizes, and a bias.
#[derive(Debug)]
struct Weights;

impl Weights {
    fn matrix() -> Vec<f32> {
        let rows = numbers(UNITS * WIDTH, 7);
        let scaled = |(i, x): (usize, &f32)| x * (1.0 + (i / WIDTH) as f32);
        rows.iter().enumerate().map(scaled).collect()
    }

    fn bias() -> Vec<f32> {
        numbers(UNITS, 9)
    }
}

impl WeightSource for Weights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let numbers = match name {
            "w" => Weights::matrix(),
            _ => Weights::bias(),
        };
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(WeightView {
            dtype: DType::F32,
            bytes: bytes.into(),
        })
    }
}

fn graph() -> Arc<Graph> {
    let mut graph = Graph::new("g");
    let ty = TensorType::new(DType::F32, [Dim::TOKENS, Dim::Fixed(WIDTH as u32)]);
    let x = graph.add_input("x", ty).unwrap();
    let fixed = |dims: &[usize]| {
        let dims: Vec<u32> = dims.iter().map(|d| *d as u32).collect();
        TensorType::new(DType::F32, Shape::fixed(&dims))
    };
    let w = graph.add_weight("w", fixed(&[UNITS, WIDTH])).unwrap();
    let b = graph.add_weight("b", fixed(&[UNITS])).unwrap();
    let y = graph.add("y", Op::Linear, &[x, w, b]).unwrap();
    graph.set_output(y).unwrap();
    Arc::new(graph)
}

fn exact(x: &[f32]) -> Vec<f64> {
    let (w, b) = (Weights::matrix(), Weights::bias());
    let rows = x.chunks(WIDTH).flat_map(|row| {
        let units = w.chunks(WIDTH).zip(&b);
        let each = units.map(move |(w, b)| {
            let products = row
                .iter()
                .zip(w)
                .map(|(x, w)| f64::from(*x) * f64::from(*w));
            products.sum::<f64>() + f64::from(*b)
        });
        each.collect::<Vec<f64>>()
    });
    rows.collect()
}

fn opened(placed: &Placed, form: WeightForm, ranges: &str) -> Arc<dyn Device> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ranges.json");
    std::fs::write(&path, ranges).unwrap();
    let mut driver = placed.driver();
    (driver.weights, driver.ranges) = (Some(form), Some(path));
    let exposed = driver.enumerate().unwrap().remove(0);
    driver.open(&exposed, &OpenOptions::default()).unwrap()
}

fn ranges(most: f64) -> String {
    let (version, form) = ("\"version\": 1", "\"activations\": \"u8\"");
    format!(
        "{{{version}, {form}, \"tensors\": {{\"x.out\": [-1, 1], \"y.result\": [-{most}, {most}]}}}}"
    )
}

#[test]
fn they_are_as_near_as_8_bits_let_them() {
    for level in LEVELS {
        near(&Placed::accelerated(level));
    }
}

/// Products in 8 bits on the device of `placed`, held to exact ones.
pub fn near(placed: &Placed) {
    let x = numbers(TOKENS * WIDTH, 3);
    let expected = exact(&x);
    let most = expected.iter().fold(0f64, |m, y| m.max(y.abs()));
    {
        for form in [WeightForm::Int8, WeightForm::Int8Tensor] {
            let device = opened(placed, form, &ranges(most));
            assert_eq!(device.capabilities().computes_in(), Some("u8"));
            let input = Tensor::new(vec![TOKENS, WIDTH], x.clone()).unwrap();
            let symbols = SymbolValues::step(TOKENS as u32, 0, 1, 0);
            let found = run_with(&*device, &graph(), &[input], Arc::new(Weights), &symbols);
            let bytes = found.unwrap()[0].to_bytes();
            let found = bytes
                .chunks_exact(4)
                .map(|b| f32::from_ne_bytes(b.try_into().unwrap()));
            let matrix = Weights::matrix();
            let largest = |rows: &[f32]| rows.iter().fold(0f32, |m, w| m.max(w.abs()));
            let step = 2.0 * most / 255.0;
            for ((i, found), expected) in (0..).zip(found).zip(&expected) {
                let row = &matrix[i % UNITS * WIDTH..][..WIDTH];
                let scale = match form {
                    WeightForm::Int8 => largest(row),
                    _ => largest(&matrix),
                };
                // half a step of the result, of each operand and of each weight
                let rounding: f64 = row
                    .iter()
                    .map(|w| {
                        0.5 * 2.0 / 255.0 * f64::from(w.abs()) + 0.5 * f64::from(scale) / 127.0
                    })
                    .sum();
                let apart = (f64::from(found) - expected).abs();
                assert!(
                    apart <= 0.51 * step + rounding,
                    "{form}: {found}, {expected}"
                );
                // and much nearer than the worst as a rule
                assert!(
                    apart <= step + 0.2 * rounding,
                    "{form}: {found}, {expected}"
                );
            }
        }
    }
}

#[test]
fn ranges_that_the_cpu_noted_serve_every_product_of_a_model() {
    noted_ranges(&Placed::accelerated(LEVELS[0]));
}

/// A model whose products are of integers on the device of `placed`.
pub fn noted_ranges(placed: &Placed) {
    let tokens: Vec<u32> = (0..40).map(|i| (3 * i + 1) % 64).collect();
    let open = architecture("llama");
    let recorder = Arc::new(anynpu_backends::Recorder::default());
    let recording = anynpu_runtime::Runtime::builder();
    let recording = recording.drivers(anynpu_backends::recording(&recorder));
    let recording = recording.without_cache().build().unwrap();
    let options = || LoadOptions::new().context(96).kv_type(KvType::F32);
    let noted = recording.load_open(open.clone(), options()).unwrap();
    let plain = runtime(placed, |_| {});
    let alone = load(&plain, &open, false, KvType::F32);
    // noting changes nothing
    assert_eq!(logits(&noted, &tokens), logits(&alone, &tokens));
    let ranges = anynpu_nnapi::lower::Ranges::of(recorder.ranges()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ranges.json");
    std::fs::write(&path, ranges.to_json()).unwrap();
    for form in [WeightForm::Int8, WeightForm::Int8Tensor] {
        let runtime = runtime(placed, |d| {
            (d.weights, d.ranges) = (Some(form), Some(path.clone()));
        });
        let there = load(&runtime, &open, true, KvType::F32);
        let e = error(&logits(&there, &tokens), &logits(&alone, &tokens));
        assert!(e > 1e-4 && e < 0.2, "{form}: {e}");
        let explanation = there.explain().unwrap();
        let layers = explanation.nodes.iter().filter(|n| n.layer.is_some());
        for node in layers.filter(|n| n.op == "Linear") {
            assert_ne!(node.verdicts["nnapi"].support, "no", "{}", node.name);
        }
    }
}

#[test]
fn what_ranges_do_not_say_is_refused() {
    let placed = Placed::accelerated(LEVELS[0]);
    let text = ranges(9.0).replace("\"x.out\"", "\"z\"");
    let device = opened(&placed, WeightForm::Int8, &text);
    let said = device.support(&graph().whole());
    let Support::No(reason) = &said[0] else {
        panic!("{said:?}");
    };
    assert_eq!(reason.code.name(), "quantization");
    assert!(
        reason.detail.contains("none of 'x'; calibrate this model"),
        "{reason}"
    );
    let refused = |set: &dyn Fn(&mut anynpu_nnapi::NnapiDriver)| {
        let mut driver = placed.driver();
        set(&mut driver);
        driver.enumerate().unwrap_err()
    };
    let told = refused(&|d| d.weights = Some(WeightForm::Int8Tensor));
    assert_eq!(
        told.reason,
        "weights in int8-tensor need ranges of activations"
    );
    let told = refused(&|d| d.ranges = Some("/nowhere/ranges.json".into()));
    assert!(
        told.reason.starts_with("/nowhere/ranges.json: "),
        "{told:?}"
    );
    assert!(told.remedy.unwrap().contains("anynpu calibrate"));
}
