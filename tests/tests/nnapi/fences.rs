//! Runs that begin when others end, without the host between them.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use anynpu_hal::{BufferDesc, Driver, HalError, OpenOptions, Scope, Submission, Timeline};
use anynpu_ir::{SymbolValues, UnaryOp};
use anynpu_nnapi::NnapiDevice;
use anynpu_nnapi::exec::{
    Bindings, BuiltModel, CompileSettings, Executable, Fence, NnapiError, Store,
};
use anynpu_nnapi::model::{Constants, Model, Operand, OperandId, OperandType, Operation, Role};
use anynpu_nnapi::{model::OperationCode, sys};
use anynpu_nnapi_double::{Device, Fault, Settings};
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{KvType, LoadOptions, Runtime};
use anynpu_tests::{fill, numbers_of};

use crate::models::{error, logits};
use crate::{LEVELS, NoWeights, Placed, architecture, unary};

const SOON: Duration = Duration::from_secs(30);

/// A runtime with two accelerators, the second of which has `fault`.
fn two(level: i64, fault: Option<Fault>) -> Placed {
    let mut second = Device::accelerator("second", level);
    second.fault = fault;
    let settings = Settings::new(level).with(Device::accelerator("first", level));
    Placed::new(&settings.with(second))
}

fn opened(placed: &Placed) -> [Arc<dyn anynpu_hal::Device>; 2] {
    let driver = placed.driver();
    let exposed = driver.enumerate().unwrap();
    [0, 1].map(|i| driver.open(&exposed[i], &OpenOptions::default()).unwrap())
}

/// `e^(e^x)` with each half on one of `devices`, the second behind the first.
fn chained(devices: &[Arc<dyn anynpu_hal::Device>; 2]) -> [Result<f32, HalError>; 2] {
    let modules = [0, 1].map(|i| unary(&*devices[i], UnaryOp::Exp));
    let buffers = ["x", "y", "z"].map(|name| {
        let made = devices[0].allocate(&BufferDesc::host(name, 16));
        made.unwrap()
    });
    fill(&*buffers[0], &[0.5; 4]);
    let signals = [0, 1].map(|_| Timeline::new("t").point(1));
    let run = |i: usize, wait: &[anynpu_hal::Point]| {
        let submission = Submission {
            module: &modules[i],
            entry: 0,
            inputs: std::slice::from_ref(&buffers[i]),
            outputs: std::slice::from_ref(&buffers[i + 1]),
            states: &[],
            sequences: &[],
            symbols: SymbolValues::step(1, 0, 1, 0),
            wait,
            signal: &signals[i],
        };
        match i {
            0 => devices[i].queue().submit_ahead(&submission),
            _ => devices[i].queue().submit(&submission),
        }
    };
    run(0, &[]).unwrap();
    let behind = run(1, &signals[..1]);
    let ended = [0, 1].map(|i| signals[i].wait(SOON));
    let [one, other] = ended;
    [
        one.map(|()| numbers_of(&*buffers[1], 1)[0]),
        behind.and(other).map(|()| numbers_of(&*buffers[2], 1)[0]),
    ]
}

#[test]
fn a_run_begins_behind_one_on_another_device() {
    for level in LEVELS {
        let placed = two(level, None);
        let devices = opened(&placed);
        // from level 4 on; before, one ends before the next begins
        let behind = devices[0].capabilities().features.asynchronous;
        assert_eq!(behind, level != 29);
        let own = devices[0].as_any().downcast_ref::<NnapiDevice>().unwrap();
        let why = own.no_fences().map(|r| (r.code.name(), r.detail.as_str()));
        let needs = "fences need feature level 4 (30), the runtime has 3 (29)";
        assert_eq!(why, (level == 29).then_some(("op_version", needs)));
        for _ in 0..20 {
            let [y, z] = chained(&devices);
            assert!((y.unwrap() - 0.5f32.exp()).abs() < 1e-6);
            assert!((z.unwrap() - 0.5f32.exp().exp()).abs() < 1e-5);
        }
    }
}

#[test]
fn what_goes_wrong_behind_a_fence_reaches_as_far_as_its_code_says() {
    for function in ["startComputeWithDependencies", "wait"] {
        for (code, scope) in [
            (sys::DEAD_OBJECT, Scope::Device),
            (sys::RESOURCE_EXHAUSTED_TRANSIENT, Scope::Plan),
            (sys::RESOURCE_EXHAUSTED_PERSISTENT, Scope::Plan),
            (sys::MISSED_DEADLINE_TRANSIENT, Scope::Device),
            (sys::MISSED_DEADLINE_PERSISTENT, Scope::Device),
        ] {
            let placed = two(LEVELS[0], Some(Fault::Fails(function.into(), code)));
            let [a, b] = opened(&placed);
            // on the device that fails, first: what depends on it fails too
            let [y, z] = chained(&[b, a]);
            let e = y.unwrap_err();
            assert_eq!(e.scope(), scope, "{function} {e}");
            assert!(z.is_err(), "{function} {code}");
        }
    }
}

/// `y = x + 1` of one number.
fn model() -> Model {
    let mut model = Model::new("one");
    let one = Role::Copied(1f32.to_ne_bytes().to_vec());
    for role in [Role::Input, one] {
        let ty = OperandType::TensorFloat32;
        model.add(Operand::tensor("t", ty, &[1], role));
    }
    let none = anynpu_nnapi::model::Scalar::I32(sys::FUSED_NONE);
    model.add(Operand::scalar(none));
    let ty = OperandType::TensorFloat32;
    model.add(Operand::tensor("y", ty, &[1], Role::Output));
    model.operations.push(Operation {
        code: OperationCode(sys::ADD),
        inputs: [0, 1, 2].map(OperandId).to_vec(),
        outputs: vec![OperandId(3)],
    });
    model
}

pub fn executable(device: &anynpu_nnapi::exec::Device) -> Executable {
    let runtime = device.runtime();
    let store = Store::new(runtime, &Constants::new(), &NoWeights, &mut |_, _| true);
    let built = BuiltModel::new(runtime, &model(), &Arc::new(store.unwrap())).unwrap();
    Executable::new(device, &model(), built, &CompileSettings::default()).unwrap()
}

#[test]
fn a_run_waits_for_a_fence_of_the_kernel_and_hands_one_on() {
    let placed = Placed::accelerated(LEVELS[0]);
    let device = placed.devices().remove(0);
    let mut run = executable(&device);
    run.input_mut(0).copy_from_slice(&41f32.to_ne_bytes());
    let (reader, mut writer) = std::io::pipe().unwrap();
    let before = Fence::of_fd(device.runtime(), reader.as_fd()).unwrap();
    let started = run
        .start(&Bindings::default(), &[Arc::new(before)])
        .unwrap();
    let end = started.fence().fd().unwrap().unwrap();
    assert_eq!(run.output(0), 0f32.to_ne_bytes());
    writer.write_all(&[1]).unwrap();
    assert!(started.finish().unwrap().is_some());
    assert_eq!(run.output(0), 42f32.to_ne_bytes());
    // what ended can be waited for from outside, and depended on
    let after = Fence::of_fd(device.runtime(), end.as_fd()).unwrap();
    after.wait().unwrap();
    let again = run.start(&Bindings::default(), &[Arc::new(after)]);
    again.unwrap().finish().unwrap();
    run.compute().unwrap();
}

#[test]
fn the_reference_ends_runs_by_itself_and_has_no_fence_to_hand_on() {
    let placed = Placed::accelerated(LEVELS[0]);
    let mut run = executable(&placed.reference());
    let started = run.start(&Bindings::default(), &[]).unwrap();
    assert!(started.fence().fd().unwrap().is_none());
    // the reference tells no times
    assert_eq!(started.finish().unwrap(), None);
    let old = Placed::accelerated(29);
    let e = executable(&old.reference()).start(&Bindings::default(), &[]);
    let e = e.unwrap_err();
    assert!(matches!(e, NnapiError::Missing { .. }), "{e}");
}

#[test]
fn layers_on_two_devices_follow_each_other_and_give_the_logits_of_the_cpu() {
    let tokens: Vec<u32> = (0..40).map(|i| (5 * i + 2) % 64).collect();
    let open = architecture("llama");
    for level in LEVELS {
        let placed = two(level, None);
        let mut options = anynpu_backends::BackendOptions::default();
        options.nnapi = placed.driver();
        let runtime = Runtime::builder()
            .drivers(anynpu_backends::drivers_with(&options))
            .device("cpu")
            .device("nnapi")
            .device("nnapi:second");
        let runtime = runtime.without_cache().build().unwrap();
        let load = |pins: &[&str]| {
            let placement = Placement {
                pins: pins.iter().map(|p| p.parse().unwrap()).collect(),
                require: None,
            };
            let options = LoadOptions::new().context(96).kv_type(KvType::F32);
            let loaded = runtime.load_open(open.clone(), options.placement(placement));
            loaded.unwrap()
        };
        let there = load(&["*=cpu", "layers.0*=nnapi", "layers.1*=nnapi:second"]);
        let e = error(
            &logits(&there, &tokens),
            &logits(&load(&["*=cpu"]), &tokens),
        );
        assert!(e < 2e-5, "{level}: {e}");
        let mut session = there
            .session(anynpu_runtime::SessionOptions::new())
            .unwrap();
        session.prefill(&tokens, None).unwrap();
        session.decode(1).unwrap();
        assert!(session.miscounts().is_empty(), "{:?}", session.miscounts());
        let executed = session.executed();
        assert!(executed.devices["nnapi"].nodes > 0);
        assert!(executed.devices["nnapi:second"].nodes > 0);
    }
}
