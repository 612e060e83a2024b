//! Devices that fail while a model runs: the tokens go on as if nothing had happened.
//!
//! The failing device computes on the CPU, so what follows a failure is the same bits.

mod common;

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anynpu_cpu::CpuDriver;
use anynpu_hal::driver::chaos::{ChaosDriver, Fault};
use anynpu_hal::driver::noop::NoopDriver;
use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Counters, Device, DeviceInfo, Driver, Entry,
    ExposedDevice, HalError, Module, OpenOptions, Queue, Submission, Support, Unavailable,
    WeightSource,
};
use anynpu_ir::Subgraph;
use anynpu_runtime::knobs::Knobs;
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{
    LoadOptions, LoadedModel, OpenModel, Runtime, RuntimeError, Session, SessionOptions,
};
use common::Fast;
use common::testing::{VOCABULARY, tiny_llama};
use proptest::prelude::*;

const LAYERS: u32 = 3;
/// Longest time of a step: what hangs is given up after it.
const LIMIT: Duration = Duration::from_millis(40);

fn runtime(faults: Vec<Fault>) -> Runtime {
    let chaos = ChaosDriver::new(Box::new(Fast(&CpuDriver)), faults);
    let drivers: Vec<Box<dyn Driver>> = vec![Box::new(CpuDriver), Box::new(chaos)];
    let builder = Runtime::builder().drivers(drivers).threads(1);
    let builder = builder.device("chaos").device("cpu");
    builder.knobs(Knobs::default()).build().unwrap()
}

fn options(placement: Placement) -> LoadOptions {
    let mut options = LoadOptions::new().context(64).placement(placement);
    options.prefill_chunk = Some(8);
    options
}

fn load(runtime: &Runtime) -> Result<LoadedModel, RuntimeError> {
    let open = OpenModel::new(tiny_llama(LAYERS), None);
    runtime.load_open(open, options(Placement::default()))
}

/// A model in which `chaos` runs the middle of each step, if that is `split`, or all of it.
fn pinned(split: bool) -> Placement {
    let pins: &[&str] = match split {
        true => &["layers.0=cpu", "output.*=cpu"],
        false => &[],
    };
    Placement {
        pins: pins.iter().map(|p| p.parse().unwrap()).collect(),
        require: None,
    }
}

fn session(model: &LoadedModel) -> Result<Session, RuntimeError> {
    model.session(SessionOptions::new().step_timeout(LIMIT))
}

fn prompt() -> Vec<u32> {
    (0..21).map(|i| (i * 7 + 3) % VOCABULARY).collect()
}

const GENERATED: usize = 12;

fn likeliest(session: &Session) -> Result<u32, RuntimeError> {
    let logits = session.logits()?;
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    Ok(best.unwrap().0 as u32)
}

/// The likeliest tokens after the prompt, each as it is known.
fn generate(session: &mut Session, mut emit: impl FnMut(u32)) -> Result<(), RuntimeError> {
    session.prefill(&prompt(), None)?;
    for _ in 0..GENERATED {
        let token = likeliest(session)?;
        emit(token);
        session.decode(token)?;
    }
    Ok(())
}

fn undisturbed() -> Vec<u32> {
    let runtime = Runtime::builder().drivers(vec![Box::new(CpuDriver)]);
    let runtime = runtime.knobs(Knobs::default()).threads(1).build().unwrap();
    let mut tokens = Vec::new();
    let mut session = session(&load(&runtime).unwrap()).unwrap();
    generate(&mut session, |token| tokens.push(token)).unwrap();
    assert!(session.warnings().is_empty());
    tokens
}

/// Runs with faults; the tokens and the session afterwards.
fn run(faults: &[Fault], split: bool) -> Result<(Vec<u32>, LoadedModel, Session), RuntimeError> {
    let runtime = runtime(faults.to_vec());
    let open = OpenModel::new(tiny_llama(LAYERS), None);
    let model = runtime.load_open(open, options(pinned(split)))?;
    let mut session = session(&model)?;
    let mut tokens = Vec::new();
    generate(&mut session, |token| tokens.push(token))?;
    Ok((tokens, model, session))
}

/// Steps that a run of [`generate`] makes at least.
const STEPS: u64 = 3 + GENERATED as u64;

fn check_counts(session: &Session) {
    let executed = session.executed();
    let nodes = session.model().open().model().graph().nodes().len() as u64;
    let ran: u64 = executed.devices.values().map(|d| d.nodes).sum();
    assert_eq!(ran, nodes * executed.steps, "{executed:?}");
    assert_eq!(session.miscounts(), Vec::<String>::new());
}

#[test]
fn a_device_that_fails_in_any_step_is_left_and_the_tokens_go_on() {
    let expected = undisturbed();
    for split in [false, true] {
        for at in 1..=STEPS {
            for fault in [
                Fault::LoseAtSubmit(at),
                Fault::RefuseSubmit(at),
                Fault::FailAfterSubmit(at),
                Fault::HangAtSubmit(at),
            ] {
                let (tokens, _, session) = run(std::slice::from_ref(&fault), split).unwrap();
                assert_eq!(tokens, expected, "{fault:?}");
                let warnings = session.warnings();
                assert_eq!(warnings.len(), 1, "{fault:?}: {warnings:?}");
                assert!(
                    warnings[0].contains("device 'chaos' failed"),
                    "{warnings:?}"
                );
                assert!(warnings[0].contains("goes on with cpu"), "{warnings:?}");
                let moved = session.fallbacks();
                assert!(!moved.is_empty());
                assert!(
                    moved
                        .iter()
                        .all(|f| f.wanted == "chaos" && f.ran_on == "cpu")
                );
                check_counts(&session);
                let lost_rows = matches!(fault, Fault::HangAtSubmit(_));
                let steps = session.executed().steps;
                assert!(
                    steps == STEPS || (lost_rows && steps > STEPS),
                    "{fault:?}: {steps}"
                );
            }
        }
    }
}

#[test]
fn a_device_that_gives_wrong_numbers_is_found_out_before_it_is_used() {
    let fast = Fast(&NoopDriver);
    let drivers: Vec<Box<dyn Driver>> = vec![Box::new(CpuDriver), Box::new(fast)];
    let builder = Runtime::builder().drivers(drivers).threads(1);
    let builder = builder.device("noop").device("cpu").knobs(Knobs::default());
    let runtime = builder.build().unwrap();
    let tokens = |self_check| {
        let mut options = options(Placement::default());
        options.self_check = self_check;
        let open = OpenModel::new(tiny_llama(LAYERS), None);
        let model = runtime.load_open(open, options).unwrap();
        let mut session = session(&model).unwrap();
        let mut tokens = Vec::new();
        generate(&mut session, |token| tokens.push(token)).unwrap();
        (tokens, model)
    };
    // believed, it computes nothing
    assert_ne!(tokens(false).0, undisturbed());
    let (tokens, model) = tokens(true);
    assert_eq!(tokens, undisturbed());
    let told = model.warnings().join("; ");
    assert!(
        told.contains("device 'noop' is not used for") && told.contains("Linear"),
        "{told}"
    );
    let fallback = model.fallbacks();
    assert!(fallback.iter().all(|f| f.ran_on == "cpu"), "{fallback:?}");
}

#[test]
fn a_delay_within_the_limit_is_no_failure() {
    let slow = Fault::DelaySubmit(2, Duration::from_millis(5));
    let runtime = runtime(vec![slow]);
    let model = load(&runtime).unwrap();
    let mut session = model.session(SessionOptions::new()).unwrap();
    let mut tokens = Vec::new();
    generate(&mut session, |token| tokens.push(token)).unwrap();
    assert_eq!(tokens, undisturbed());
    assert!(session.warnings().is_empty() && session.fallbacks().is_empty());
}

#[test]
fn a_device_that_fails_while_compiling_is_planned_around_and_told_of() {
    let expected = undisturbed();
    for fault in [
        Fault::RefuseCompile(1),
        Fault::LoseAtCompile(1),
        Fault::OutOfMemoryAtCompile(1),
    ] {
        let (tokens, model, session) = run(std::slice::from_ref(&fault), true).unwrap();
        assert_eq!(tokens, expected, "{fault:?}");
        assert!(
            !model.fallbacks().is_empty(),
            "{fault:?} {:?}",
            model.plan_report()
        );
        let refused = matches!(fault, Fault::RefuseCompile(_));
        let told = model
            .warnings()
            .iter()
            .any(|w| w.contains("device 'chaos' failed"));
        assert_eq!(told, !refused, "{fault:?}: {:?}", model.warnings());
        check_counts(&session);
    }
}

#[test]
fn a_device_without_memory_for_a_session_is_left_before_it_starts() {
    let expected = undisturbed();
    for at in 1..8 {
        let (tokens, _, session) = run(&[Fault::OutOfMemoryAtAllocate(at)], true).unwrap();
        assert_eq!(tokens, expected, "{at}");
        check_counts(&session);
    }
}

#[test]
fn a_device_that_failed_is_left_alone_by_models_loaded_after_it() {
    let runtime = runtime(vec![Fault::LoseAtSubmit(2)]);
    let model = load(&runtime).unwrap();
    let mut first = session(&model).unwrap();
    generate(&mut first, |_| ()).unwrap();
    let again = load(&runtime).unwrap();
    let why = again.warnings().join("; ");
    assert!(
        why.contains("device 'chaos' is not used") && why.contains("lost"),
        "{why}"
    );
    let mut second = session(&again).unwrap();
    let mut tokens = Vec::new();
    generate(&mut second, |token| tokens.push(token)).unwrap();
    assert_eq!(tokens, undisturbed());
    assert!(second.warnings().is_empty());
    assert!(!second.executed().devices.contains_key("chaos"));
}

#[test]
fn a_device_that_is_required_is_never_left() {
    let runtime = runtime(vec![Fault::LoseAtSubmit(5)]);
    let open = OpenModel::new(tiny_llama(LAYERS), None);
    for placement in [
        Placement {
            pins: Vec::new(),
            require: Some("chaos".into()),
        },
        Placement {
            pins: vec!["layers.1=chaos".parse().unwrap()],
            require: None,
        },
    ] {
        let model = runtime.load_open(open.clone(), options(placement));
        let failed = model.and_then(|model| {
            let mut session = session(&model)?;
            generate(&mut session, |_| ())
        });
        let e = failed.unwrap_err();
        assert!(matches!(e, RuntimeError::PinRefused { .. }), "{e}");
        let e = e.to_string();
        assert!(e.contains("chaos") && e.contains("lost"), "{e}");
    }
}

/// A driver whose device counts a node too many in each run.
#[derive(Debug)]
struct Boastful;

#[derive(Debug)]
struct BoastfulDevice {
    inner: Arc<dyn Device>,
    queue: BoastfulQueue,
}

#[derive(Debug)]
struct BoastfulQueue(Arc<dyn Device>);

impl Driver for Boastful {
    fn name(&self) -> &str {
        "cpu"
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        CpuDriver.enumerate()
    }

    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError> {
        let inner = CpuDriver.open(device, options)?;
        let queue = BoastfulQueue(inner.clone());
        Ok(Arc::new(BoastfulDevice { inner, queue }))
    }
}

impl Device for BoastfulDevice {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        self.inner.support(graph)
    }

    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        self.inner.compile(entries, options, weights, progress)
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        self.inner.allocate(desc)
    }

    fn queue(&self) -> &dyn Queue {
        &self.queue
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Queue for BoastfulQueue {
    fn submit(&self, submission: &Submission<'_>) -> Result<(), HalError> {
        self.0.queue().submit(submission)
    }

    fn counters(&self) -> Counters {
        let mut counters = self.0.queue().counters();
        counters.nodes += counters.submissions;
        counters
    }
}

#[test]
fn what_is_counted_other_than_planned_is_a_warning_and_with_a_required_device_an_error() {
    let name =
        "what_is_counted_other_than_planned_is_a_warning_and_with_a_required_device_an_error";
    let Some(path) = common::test_data(name, "stories260K/stories260K-F32.gguf") else {
        return;
    };
    let generate = |require: Option<&str>| {
        let builder = Runtime::builder().drivers(vec![Box::new(Boastful)]);
        let runtime = builder.knobs(Knobs::default()).build().unwrap();
        let placement = Placement {
            pins: Vec::new(),
            require: require.map(str::to_owned),
        };
        let model = runtime.load(path.clone(), options(placement)).unwrap();
        let mut session = session(&model).unwrap();
        let options = anynpu_runtime::GenerateOptions::greedy().max_tokens(2);
        session.generate("Once", &options, |_| ControlFlow::Continue(()))
    };
    let report = generate(None).unwrap();
    let warned = report.warnings.iter().any(|w| w.contains("'cpu' counted"));
    assert!(warned, "{:?}", report.warnings);
    let e = generate(Some("cpu")).unwrap_err();
    assert!(matches!(e, RuntimeError::NotAsPlanned { .. }), "{e}");
}

#[test]
fn when_nothing_is_left_the_first_failure_is_the_error() {
    let cpu = Box::new(CpuDriver);
    let chaos = ChaosDriver::new(cpu, vec![Fault::LoseAtSubmit(4)]);
    let builder = Runtime::builder().drivers(vec![Box::new(chaos)]);
    let runtime = builder.device("chaos").knobs(Knobs::default()).build();
    let model = load(&runtime.unwrap()).unwrap();
    let mut session = session(&model).unwrap();
    let e = generate(&mut session, |_| ()).unwrap_err();
    let lost = |e: &RuntimeError| {
        let RuntimeError::Step { source, .. } = e else {
            return false;
        };
        matches!(source, HalError::DeviceLost { .. })
    };
    assert!(lost(&e), "{e}");
    assert_eq!(session.tokens(), prompt());
}

#[test]
fn sessions_of_one_model_share_the_plan_they_move_to() {
    let runtime = runtime(vec![Fault::LoseAtSubmit(9)]);
    let model = load(&runtime).unwrap();
    let mut a = session(&model).unwrap();
    let mut b = session(&model).unwrap();
    let (mut from_a, mut from_b) = (Vec::new(), Vec::new());
    generate(&mut a, |token| from_a.push(token)).unwrap();
    generate(&mut b, |token| from_b.push(token)).unwrap();
    assert_eq!((from_a, from_b), (undisturbed(), undisturbed()));
    assert!(std::ptr::eq(a.plans(), b.plans()));
    assert!(model.trim() < u64::MAX);
}

#[test]
fn a_suspended_session_wakes_on_the_devices_that_are_left() {
    let runtime = runtime(vec![Fault::LoseAtSubmit(6)]);
    let model = load(&runtime).unwrap();
    let mut session = session(&model).unwrap();
    session.prefill(&prompt(), None).unwrap();
    let before = session.logits().unwrap().to_vec();
    session.suspend();
    // reading the tokens anew is where the device is lost
    session.resume(None).unwrap();
    assert_eq!(session.logits().unwrap().to_vec(), before);
    assert_eq!(session.warnings().len(), 1);
}

#[test]
fn logits_of_each_token_are_handed_on_once() {
    let logits = |faults: Vec<Fault>| {
        let model = load(&runtime(faults)).unwrap();
        let mut session = session(&model).unwrap();
        let mut rows = Vec::new();
        let each = session.logits_of_each::<RuntimeError>(&prompt(), None, |at, row| {
            rows.push((at, row.to_vec()));
            Ok(())
        });
        each.unwrap();
        rows
    };
    let expected = logits(Vec::new());
    assert_eq!(expected.len(), prompt().len());
    for at in 1..=3 {
        assert_eq!(logits(vec![Fault::FailAfterSubmit(at)]), expected);
        assert_eq!(logits(vec![Fault::HangAtSubmit(at)]), expected);
    }
}

fn load_in_background(faults: Vec<Fault>) -> (LoadedModel, Session) {
    let mut options = options(pinned(true));
    options.background = true;
    let open = OpenModel::new(tiny_llama(LAYERS), None);
    let model = runtime(faults).load_open(open, options).unwrap();
    let session = session(&model).unwrap();
    (model, session)
}

fn wait_for_compiling(model: &LoadedModel) {
    let started = Instant::now();
    while model.is_compiling() {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_model_starts_on_the_cpu_and_moves_between_two_tokens_when_the_device_has_compiled() {
    let expected = undisturbed();
    for moves_at in [0, 1, 5] {
        let slow = Fault::DelayCompile(1, Duration::from_millis(200));
        let (model, mut session) = load_in_background(vec![slow]);
        assert!(model.fallbacks().is_empty());
        session.prefill(&prompt(), None).unwrap();
        let mut tokens = Vec::new();
        for step in 0..GENERATED {
            if step == moves_at {
                assert!(!session.executed().devices.contains_key("chaos") || !model.is_compiling());
                wait_for_compiling(&model);
            }
            let token = likeliest(&session).unwrap();
            tokens.push(token);
            session.decode(token).unwrap();
        }
        assert_eq!(tokens, expected);
        let executed = session.executed();
        assert!(executed.devices["chaos"].segments > 0, "{executed:?}");
        assert_eq!(executed.steps, STEPS);
        check_counts(&session);
        assert!(session.warnings().is_empty() && session.fallbacks().is_empty());
        let mut later = self::session(&model).unwrap();
        let mut again = Vec::new();
        generate(&mut later, |token| again.push(token)).unwrap();
        assert_eq!(again, expected);
        assert!(later.executed().devices.contains_key("chaos"));
    }
}

#[test]
fn what_fails_in_the_background_or_after_moving_costs_no_token() {
    let expected = undisturbed();
    for fault in [
        Fault::RefuseCompile(1),
        Fault::LoseAtCompile(1),
        Fault::OutOfMemoryAtCompile(1),
        Fault::OutOfMemoryAtAllocate(1),
        Fault::LoseAtSubmit(1),
        Fault::LoseAtSubmit(4),
        Fault::HangAtSubmit(2),
    ] {
        let (model, mut session) = load_in_background(vec![fault.clone()]);
        session.prefill(&prompt()[..10], None).unwrap();
        wait_for_compiling(&model);
        session.prefill(&prompt()[10..], None).unwrap();
        let mut tokens = Vec::new();
        for _ in 0..GENERATED {
            let token = likeliest(&session).unwrap();
            tokens.push(token);
            session.decode(token).unwrap();
        }
        assert_eq!(tokens, expected, "{fault:?}");
        check_counts(&session);
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    let at = 1..30u64;
    prop_oneof![
        at.clone().prop_map(Fault::LoseAtSubmit),
        at.clone().prop_map(Fault::RefuseSubmit),
        at.clone().prop_map(Fault::FailAfterSubmit),
        at.clone().prop_map(Fault::HangAtSubmit),
        (at, 0..4u64).prop_map(|(n, ms)| Fault::DelaySubmit(n, Duration::from_millis(ms))),
        (1..4u64).prop_map(Fault::RefuseCompile),
        (1..4u64).prop_map(Fault::LoseAtCompile),
        (1..4u64).prop_map(Fault::OutOfMemoryAtCompile),
        (1..12u64).prop_map(Fault::OutOfMemoryAtAllocate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// No token is lost, told twice or taken back, and nothing hangs, whatever goes wrong and when.
    #[test]
    fn whatever_fails_and_when_the_tokens_are_those_of_an_undisturbed_run(
        faults in proptest::collection::vec(fault(), 0..4),
        split: bool,
        suspended in proptest::option::of(0..GENERATED),
    ) {
        static EXPECTED: std::sync::OnceLock<Vec<u32>> = std::sync::OnceLock::new();
        let expected = EXPECTED.get_or_init(undisturbed);
        let runtime = runtime(faults);
        let open = OpenModel::new(tiny_llama(LAYERS), None);
        let model = runtime.load_open(open, options(pinned(split))).unwrap();
        let mut session = session(&model).unwrap();
        let mut tokens = Vec::new();
        session.prefill(&prompt(), None).unwrap();
        for step in 0..GENERATED {
            if suspended == Some(step) {
                session.suspend();
                session.resume(None).unwrap();
            }
            let token = likeliest(&session).unwrap();
            tokens.push(token);
            session.decode(token).unwrap();
        }
        prop_assert_eq!(&tokens, expected);
        let held = [prompt(), tokens].concat();
        prop_assert_eq!(session.tokens(), held);
        check_counts(&session);
    }
}

#[test]
fn generation_tells_of_the_failure_and_emits_each_token_once() {
    let Some(path) = common::test_data(
        "generation_tells_of_the_failure_and_emits_each_token_once",
        "stories260K/stories260K-F32.gguf",
    ) else {
        return;
    };
    let generate = |faults: Vec<Fault>| {
        let placement = pinned(true);
        let model = runtime(faults)
            .load(path.clone(), options(placement))
            .unwrap();
        let mut session = session(&model).unwrap();
        let options = anynpu_runtime::GenerateOptions::greedy().max_tokens(30);
        let mut pieces = Vec::new();
        let report = session.generate("Once", &options, |piece| {
            pieces.extend(piece.token);
            ControlFlow::Continue(())
        });
        let report = report.unwrap();
        assert_eq!(pieces, report.tokens);
        report
    };
    let expected = generate(Vec::new());
    for fault in [
        Fault::LoseAtSubmit(1),
        Fault::HangAtSubmit(12),
        Fault::LoseAtSubmit(20),
    ] {
        let report = generate(vec![fault]);
        assert_eq!(report.tokens, expected.tokens);
        assert_eq!(report.text, expected.text);
        assert_eq!(report.warnings.len(), expected.warnings.len() + 1);
        assert!(report.fallbacks.iter().all(|f| f.reason.contains("chaos")));
        let segments = &report.plan.phases[1].segments;
        assert!(segments.iter().all(|s| s.device == "cpu"));
    }
}
