//! What is wrong is refused by the stand-in where Android's own runtime was seen to refuse it, and settings reach it.

use std::sync::Arc;

use anynpu_hal::{CompileOptions, Driver, HalError, OpenOptions, WeightSource, WeightView};
use anynpu_ir::{DType, Dim, Graph, Op, Shape, Symbol, TensorType};
use anynpu_nnapi::exec::{BuiltModel, CompileSettings, Device, Executable, NnapiError, Store};
use anynpu_nnapi::model::{
    Channels, Constants, Model, Operand, OperandId, OperandType, Operation, OperationCode, Role,
    Scalar,
};
use anynpu_nnapi::{Preference, Priority, sys};

use crate::{LEVELS, Placed};

#[derive(Debug)]
struct Weights(f32);

impl WeightSource for Weights {
    fn weight(&self, _: &str) -> Result<WeightView<'_>, HalError> {
        let bytes: Vec<u8> = [self.0; 40].iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(WeightView {
            dtype: DType::F32,
            bytes: bytes.into(),
        })
    }
}

/// A model of one operation; the last of `operands` is its result.
fn model(code: i32, operands: Vec<Operand>) -> Model {
    let mut model = Model::new("one");
    let last = operands.len() as u32 - 1;
    for operand in operands {
        model.add(operand);
    }
    model.operations.push(Operation {
        code: OperationCode(code),
        inputs: (0..last).map(OperandId).collect(),
        outputs: vec![OperandId(last)],
    });
    model
}

/// Makes, compiles and runs `model` on the reference device.
pub fn run(device: &Device, model: &Model) -> Result<(), NnapiError> {
    let runtime = device.runtime();
    let store = Store::new(runtime, &Constants::new(), &Weights(0.0), &mut |_, _| true)?;
    let built = BuiltModel::new(runtime, model, &Arc::new(store))?;
    let settings = CompileSettings::default();
    Executable::new(device, model, built, &settings)?.compute()?;
    Ok(())
}

/// The function that refuses `model`, and its code.
fn refusal(device: &Device, model: &Model) -> (&'static str, i32) {
    match run(device, model).unwrap_err() {
        NnapiError::Call { call, code, .. } => (call, code),
        other => panic!("{other}"),
    }
}

fn tensor(ty: OperandType, dims: &[u32], role: Role) -> Operand {
    Operand::tensor("t", ty, dims, role)
}

fn quantised(ty: OperandType, dims: &[u32], scale: f32, role: Role) -> Operand {
    let mut operand = tensor(ty, dims, role);
    operand.scale = scale;
    operand
}

#[test]
fn what_androids_own_runtime_refuses_is_refused_in_the_same_place() {
    let placed = Placed::new(&anynpu_nnapi_double::Settings::new(LEVELS[0]));
    refused(&placed.reference());
}

/// What `device` must refuse, and where.
pub fn refused(device: &Device) {
    const F: OperandType = OperandType::TensorFloat32;
    const Q: OperandType = OperandType::TensorQuant8Asymm;
    let none = || Operand::scalar(Scalar::I32(sys::FUSED_NONE));
    let add = |dims: &[u32]| {
        let operand = |role| tensor(F, dims, role);
        let operands = vec![
            operand(Role::Input),
            operand(Role::Input),
            none(),
            operand(Role::Output),
        ];
        model(sys::ADD, operands)
    };
    run(device, &add(&[1, 2, 1, 2])).unwrap();
    let added = ("model_add_operation", sys::BAD_DATA);
    assert_eq!(refusal(device, &add(&[1, 2, 1, 2, 1])), added);
    // the bias of a product, 1e-3 off, is seen when it is computed
    let product = |bias: f32| {
        let weights = Role::Copied(vec![1; 8]);
        let operands = vec![
            quantised(Q, &[1, 4], 0.5, Role::Input),
            quantised(Q, &[2, 4], 0.25, weights),
            quantised(
                OperandType::TensorInt32,
                &[2],
                bias,
                Role::Copied(vec![0; 8]),
            ),
            none(),
            quantised(Q, &[1, 2], 1.0, Role::Output),
        ];
        model(sys::FULLY_CONNECTED, operands)
    };
    run(device, &product(0.125)).unwrap();
    let computed = ("execution_burst_compute", sys::OP_FAILED);
    assert_eq!(refusal(device, &product(0.125_125)), computed);
    // neither scales a channel nor numbers beside integers
    let mut channels = product(0.125);
    let weights = &mut channels.operands[1];
    (weights.ty, weights.scale) = (OperandType::TensorQuant8SymmPerChannel, 0.0);
    weights.channels = Some(Channels {
        axis: 0,
        scales: vec![0.25; 2],
    });
    assert_eq!(refusal(device, &channels), added);
    let mut hybrid = product(0.125);
    (hybrid.operands[0].ty, hybrid.operands[0].scale) = (F, 0.0);
    (hybrid.operands[4].ty, hybrid.operands[4].scale) = (F, 0.0);
    assert_eq!(refusal(device, &hybrid), added);
    // a scale where there can be none, one that is missing
    let mut scaled = add(&[2]);
    scaled.operands[0].scale = 1.0;
    let operand = ("model_add_operand", sys::BAD_DATA);
    assert_eq!(refusal(device, &scaled), operand);
    let mut missing = product(0.125);
    missing.operands[0].scale = 0.0;
    assert_eq!(refusal(device, &missing), operand);
    // a constant of another size, an operand that nobody makes
    let mut short = product(0.125);
    short.operands[1].role = Role::Copied(vec![1; 7]);
    assert_eq!(
        refusal(device, &short),
        ("model_set_operand_value", sys::BAD_DATA)
    );
    let mut lost = add(&[2]);
    lost.inputs.pop();
    assert_eq!(refusal(device, &lost), ("model_finish", sys::BAD_DATA));
    // nothing that goes in
    let mut none_in = add(&[2]);
    none_in.inputs.clear();
    for operand in &mut none_in.operands[..2] {
        operand.role = Role::Copied(vec![0; 8]);
    }
    let identified = ("model_identify_inputs_and_outputs", sys::BAD_DATA);
    assert_eq!(refusal(device, &none_in), identified);
}

#[test]
fn settings_reach_the_runtime_and_caches_are_told_apart_by_weights() {
    let placed = Placed::accelerated(LEVELS[0]);
    let folder = tempfile::tempdir().unwrap();
    let mut driver = placed.driver();
    driver.preference = Some(Preference::SustainedSpeed);
    driver.priority = Some(Priority::Low);
    driver.timeout_ms = Some(60_000);
    driver.cache = Some(folder.path().join("kept"));
    let exposed = driver.enumerate().unwrap().remove(0);
    let device = driver.open(&exposed, &OpenOptions::default()).unwrap();
    let mut graph = Graph::new("g");
    let ty = |dims: &[Dim]| TensorType::new(DType::F32, Shape::from(dims.to_vec()));
    let x = graph
        .add_input("x", ty(&[Dim::TOKENS, Dim::Fixed(10)]))
        .unwrap();
    let w = graph
        .add_weight("w", ty(&[Dim::Fixed(4), Dim::Fixed(10)]))
        .unwrap();
    let y = graph.add("y", Op::Linear, &[x, w]).unwrap();
    graph.set_output(y).unwrap();
    let entry = anynpu_hal::Entry {
        name: "e".into(),
        graph: Arc::new(graph),
        nodes: 0..1,
        bounds: anynpu_hal::Bounds::new().with(Symbol::TOKENS, anynpu_hal::Extent::Exact(2)),
    };
    let kept = |weight: f32| {
        let (source, options) = (Arc::new(Weights(weight)), CompileOptions::new(DType::F32));
        let entries = std::slice::from_ref(&entry);
        device
            .compile(entries, &options, source, &mut |_, _| true)
            .unwrap();
        std::fs::read_dir(folder.path().join("kept"))
            .unwrap()
            .count()
    };
    assert_eq!(kept(1.0), 1);
    // the same is found again, other weights are something else
    assert_eq!(kept(1.0), 1);
    assert_eq!(kept(2.0), 2);
}
