use anynpu_hal::driver::chaos::{ChaosDriver, Fault};
use anynpu_hal::driver::noop::NoopDriver;
use anynpu_hal::{CompileOptions, Device, Driver, HalError, OpenOptions};
use anynpu_ir::DType;

use super::*;
use crate::plan::{Phase, Placement, PlanRequest, plan};
use crate::testing::{VOCABULARY, tiny_llama};

impl Executor {
    /// Runs one step.
    fn step(
        &mut self,
        phase: Phase,
        tokens: &[u32],
        types: &[u32],
        position: u32,
        rows: Rows,
    ) -> Result<(), RuntimeError> {
        let step = Step {
            phase,
            tokens,
            types,
            position,
            rows,
        };
        self.steps(&[step], &mut || true).1
    }
}

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
        &CompileOptions::new(DType::F16),
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

/// Three chunks of a prompt, the last of them short.
fn chunks() -> [Step<'static>; 3] {
    let step = |tokens, position, rows| Step {
        phase: Phase::Prefill,
        tokens,
        types: &[],
        position,
        rows,
    };
    [
        step(&[1; 8], 0, Rows::None),
        step(&[2; 8], 8, Rows::None),
        step(&[3; 5], 16, Rows::Last),
    ]
}

const TWO_HALVES: [&str; 2] = ["*=noop", "layers.1-2=chaos"];

#[test]
fn successive_steps_run_at_once_on_two_devices() {
    let mut x = executor(vec![open(NoopDriver), chaos(vec![])], &TWO_HALVES);
    assert_eq!(x.at_once(), 2);
    x.record();
    let (ran, result) = x.steps(&chunks(), &mut || true);
    result.unwrap();
    assert_eq!((ran, x.executed().steps), (3, 3));
    assert_eq!(x.logits().unwrap().len(), VOCABULARY as usize);
    assert!(x.miscounts().is_empty());
    let nodes = x.program().graph().nodes().len() as u64;
    let counted: u64 = x.executed().devices.values().map(|d| d.nodes).sum();
    assert_eq!(counted, 3 * nodes);
    let runs: Vec<_> = x
        .recorded()
        .iter()
        .map(|r| (r.wave, r.step, &*r.device))
        .collect();
    // embedding and layer 0 on one device; the other layers; what gives the logits
    assert_eq!(
        runs,
        [
            (0, 0, "noop"),
            (1, 0, "chaos"),
            (1, 1, "noop"),
            (2, 0, "noop"),
            (2, 1, "chaos"),
            (3, 1, "noop"),
            (4, 2, "noop"),
            (5, 2, "chaos"),
            (6, 2, "noop"),
        ]
    );
}

#[test]
fn no_step_is_begun_once_it_is_told_to_stop() {
    let mut x = executor(vec![open(NoopDriver), chaos(vec![])], &TWO_HALVES);
    let mut asked = 0;
    let (ran, result) = x.steps(&chunks(), &mut || {
        asked += 1;
        asked < 2
    });
    result.unwrap();
    // the second was under way when the third was not begun
    assert_eq!((ran, x.executed().steps), (2, 2));
}

#[test]
fn steps_before_one_that_fails_are_kept_and_it_can_be_run_again() {
    for submit in 1..=3 {
        let faults = vec![Fault::FailAfterSubmit(submit)];
        let mut x = executor(vec![open(NoopDriver), chaos(faults)], &TWO_HALVES);
        let (ran, result) = x.steps(&chunks(), &mut || true);
        let e = result.unwrap_err();
        assert!(
            matches!(&e, RuntimeError::Step { device, .. } if device == "chaos"),
            "{e}"
        );
        assert_eq!((ran as u64, x.executed().steps), (submit - 1, submit - 1));
        let (more, result) = x.steps(&chunks()[ran..], &mut || true);
        result.unwrap();
        assert_eq!((ran + more, x.executed().steps), (3, 3));
        assert!(x.miscounts().is_empty(), "{:?}", x.miscounts());
        let nodes = x.program().graph().nodes().len() as u64;
        let counted: u64 = x.executed().devices.values().map(|d| d.nodes).sum();
        assert_eq!(counted, 3 * nodes);
    }
}

#[test]
fn a_hang_of_one_of_two_devices_locks_the_memory_of_both() {
    let faults = vec![Fault::HangAtSubmit(2)];
    let mut x = executor(vec![open(NoopDriver), chaos(faults)], &TWO_HALVES);
    let (ran, result) = x.steps(&chunks(), &mut || true);
    let e = result.unwrap_err();
    assert_eq!(ran, 1, "{e}");
    assert!(matches!(
        e,
        RuntimeError::Step {
            source: HalError::Timeout { .. },
            ..
        }
    ));
    let (ran, result) = x.steps(&chunks(), &mut || true);
    assert!(matches!(result, Err(RuntimeError::Abandoned { .. })));
    assert_eq!(ran, 0);
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
