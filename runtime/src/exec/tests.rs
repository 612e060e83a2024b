use anynpu_hal::driver::chaos::{ChaosDriver, Fault};
use anynpu_hal::driver::noop::NoopDriver;
use anynpu_hal::{Device, Driver, OpenOptions};
use anynpu_ir::DType;

use super::*;
use crate::plan::{Placement, PlanRequest, plan};
use crate::testing::{VOCABULARY, tiny_llama};

const SOON: Duration = Duration::from_millis(50);

fn open(driver: impl Driver) -> Arc<dyn Device> {
    let found = driver.enumerate().unwrap();
    driver.open(&found[0], &OpenOptions::default()).unwrap()
}

fn chaos(faults: Vec<Fault>) -> Arc<dyn Device> {
    open(ChaosDriver::new(Box::new(NoopDriver), faults))
}

fn executor(devices: Vec<Arc<dyn Device>>, pins: &[&str]) -> Executor {
    let model = tiny_llama(3);
    let placement = Placement {
        pins: pins.iter().map(|p| p.parse().unwrap()).collect(),
        ..Placement::default()
    };
    let request = PlanRequest {
        placement: &placement,
        prompt: 8,
        tokens: 8,
        chunk: 8,
        context: 32,
        state_dtype: DType::F16,
        refused: &[],
        objective: Default::default(),
        budgets: &[],
        cost: &Default::default(),
    };
    let plans = plan(model.graph(), &devices, &request).unwrap();
    let devices: Vec<_> = devices
        .into_iter()
        .map(|d| Arc::new(OpenDevice::new(d)))
        .collect();
    let limits = Limits::new(8, 32, VOCABULARY);
    let program = Program::compile(
        &model,
        &plans,
        &devices,
        limits,
        DType::F16,
        None,
        &mut |_, _| true,
    )
    .unwrap();
    Executor::new(Arc::new(program), 32, SOON).unwrap()
}

#[test]
fn steps_run_every_node_and_devices_count_them() {
    let mut x = executor(vec![open(NoopDriver)], &[]);
    let nodes = x.program().graph().nodes().len() as u64;
    x.step(Phase::Prefill, &[1, 2, 3], &[], 0, Rows::None)
        .unwrap();
    assert_eq!(x.logits().unwrap().len(), 0);
    x.step(Phase::Prefill, &[4, 5], &[], 3, Rows::All).unwrap();
    assert_eq!(x.logits().unwrap().len(), 2 * VOCABULARY as usize);
    x.step(Phase::Decode, &[6], &[], 5, Rows::Last).unwrap();
    assert_eq!(x.logits().unwrap().len(), VOCABULARY as usize);
    let executed = x.executed();
    assert_eq!(executed.steps, 3);
    let device = &executed.devices["noop"];
    assert_eq!((device.nodes, device.segments), (3 * nodes, 3));
    assert_eq!(
        (device.copies_in, device.copies_out, device.bytes),
        (0, 0, 0)
    );
    assert_eq!(device.dtype, "f32");
    assert!(x.miscounts().is_empty());
}

#[test]
fn values_that_cross_devices_without_common_memory_are_copied_and_counted() {
    let mut x = executor(
        vec![open(NoopDriver), chaos(vec![])],
        &["*=noop", "layers.1=chaos"],
    );
    x.step(Phase::Prefill, &[1, 2, 3], &[], 0, Rows::Last)
        .unwrap();
    x.step(Phase::Decode, &[6], &[], 3, Rows::Last).unwrap();
    let executed = x.executed();
    let (noop, chaos) = (&executed.devices["noop"], &executed.devices["chaos"]);
    // one residual stream of 32 f32 in and one out, for 3 tokens and for 1
    assert_eq!((noop.segments, chaos.segments), (4, 2));
    assert_eq!((chaos.copies_in, chaos.copies_out), (2, 2));
    assert_eq!((noop.copies_in, noop.copies_out), (2, 2));
    assert_eq!(chaos.bytes, 2 * (3 + 1) * 32 * 4);
    let nodes = x.program().graph().nodes().len() as u64;
    assert_eq!(noop.nodes + chaos.nodes, 2 * nodes);
}

#[test]
fn a_state_that_devices_without_common_memory_would_share_is_refused() {
    let devices = vec![open(NoopDriver), chaos(vec![])];
    let model = tiny_llama(1);
    let placement = Placement {
        pins: vec![
            "*=noop".parse().unwrap(),
            "*.attention=chaos".parse().unwrap(),
        ],
        ..Placement::default()
    };
    let request = PlanRequest {
        placement: &placement,
        prompt: 8,
        tokens: 8,
        chunk: 8,
        context: 32,
        state_dtype: DType::F32,
        refused: &[],
        objective: Default::default(),
        budgets: &[],
        cost: &Default::default(),
    };
    let e = plan(model.graph(), &devices, &request)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("layers.0.k") && e.contains("'noop'") && e.contains("'chaos'"),
        "{e}"
    );
}

#[test]
fn a_failed_step_can_be_run_again_and_is_not_counted() {
    let mut x = executor(vec![chaos(vec![Fault::FailAfterSubmit(2)])], &[]);
    x.step(Phase::Prefill, &[1, 2], &[], 0, Rows::Last).unwrap();
    let e = x
        .step(Phase::Decode, &[3], &[], 2, Rows::Last)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("'chaos'") && e.contains("embed to output.logits"),
        "{e}"
    );
    x.step(Phase::Decode, &[3], &[], 2, Rows::Last).unwrap();
    assert_eq!(x.executed().steps, 2);
    assert_eq!(x.executed().devices["chaos"].segments, 2);
    assert!(x.miscounts().is_empty());
}

#[test]
fn a_step_that_hangs_ends_at_its_limit_and_the_session_with_it() {
    let mut x = executor(vec![chaos(vec![Fault::HangAtSubmit(1)])], &[]);
    let e = x
        .step(Phase::Prefill, &[1], &[], 0, Rows::Last)
        .unwrap_err();
    assert!(
        matches!(
            e,
            RuntimeError::Step {
                source: HalError::Timeout { .. },
                ..
            }
        ),
        "{e}"
    );
    let e = x
        .step(Phase::Prefill, &[1], &[], 0, Rows::Last)
        .unwrap_err();
    assert!(matches!(e, RuntimeError::Abandoned { .. }), "{e}");
}

#[test]
fn steps_past_the_limits_are_refused() {
    let mut x = executor(vec![open(NoopDriver)], &[]);
    assert!(x.step(Phase::Prefill, &[], &[], 0, Rows::Last).is_err());
    assert!(x.step(Phase::Prefill, &[0; 9], &[], 0, Rows::Last).is_err());
    assert!(x.step(Phase::Decode, &[0; 2], &[], 0, Rows::Last).is_err());
    let e = x
        .step(Phase::Prefill, &[0; 3], &[], 30, Rows::Last)
        .unwrap_err();
    assert!(
        matches!(e, RuntimeError::ContextFull { context: 32 }),
        "{e}"
    );
    assert!(
        x.step(Phase::Decode, &[0], &[], u32::MAX, Rows::Last)
            .is_err()
    );
    x.step(Phase::Decode, &[0], &[], 31, Rows::Last).unwrap();
}

#[test]
fn large_vocabularies_give_logits_in_fewer_rows_a_step() {
    let limits = Limits::new(256, 1024, 128_256);
    assert_eq!((limits.tokens, limits.rows), (256, 32));
    let limits = Limits::new(256, 1024, 512);
    assert_eq!((limits.tokens, limits.rows), (256, 256));
    assert_eq!(Limits::new(256, 10, 512).tokens, 10);
    assert_eq!(Limits::new(8, 10, i32::MAX as u32).rows, 1);
}
