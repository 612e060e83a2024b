//! Sessions that go on together give the bits that each gives alone.

mod common;

use std::ops::ControlFlow;
use std::time::Duration;

use anynpu_cpu::CpuDriver;
use anynpu_hal::Driver;
use anynpu_hal::driver::chaos::{ChaosDriver, Fault};
use anynpu_runtime::knobs::Knobs;
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{
    Apart, Batch, BatchSteps, FinishReason, GenerateOptions, KvType, LoadOptions, LoadedModel,
    OpenModel, Prompt, Runtime, RuntimeError, Session, SessionOptions,
};
use anynpu_sim::{Description, Shipped, SimDriver};
use common::testing::{VOCABULARY, llama_with_heads_of, tiny_llama};
use common::{Fast, RenamedCpu, test_data};

const LAYERS: u32 = 2;
/// Longest time of a step: what hangs is given up after it.
const LIMIT: Duration = Duration::from_millis(60);
/// Most tokens of a step.
const CHUNK: u32 = 8;

fn options() -> LoadOptions {
    let mut options = LoadOptions::new().context(64);
    options.prefill_chunk = Some(CHUNK);
    options
}

fn cpu(options: LoadOptions) -> LoadedModel {
    let model = match options.kv_type {
        // whole blocks of it
        KvType::Q8_0 => llama_with_heads_of(32, LAYERS),
        _ => tiny_llama(LAYERS),
    };
    let open = OpenModel::new(model, None);
    common::runtime(vec![], 2).load_open(open, options).unwrap()
}

fn session(model: &LoadedModel) -> Session {
    let options = SessionOptions::new().step_timeout(LIMIT);
    model.session(options).unwrap()
}

/// A session that read a prompt of `length` tokens, its own for each number.
fn started(model: &LoadedModel, number: u32, length: u32) -> Session {
    let mut session = session(model);
    let token = |i| (31 * number + 7 * i + 3) % VOCABULARY;
    let prompt: Vec<u32> = (0..length).map(token).collect();
    session.prefill(&prompt, None).unwrap();
    session
}

fn batch(model: &LoadedModel, lengths: &[u32]) -> Batch {
    let sessions = lengths.iter().zip(0..).map(|(&n, i)| started(model, i, n));
    Batch::new(sessions.collect()).unwrap()
}

fn likeliest(session: &Session) -> u32 {
    let logits = session.logits().unwrap();
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.unwrap().0 as u32
}

/// The logits of every session.
fn logits(batch: &Batch) -> Vec<Vec<f32>> {
    let logits = batch.sessions().map(|s| s.logits().unwrap().to_vec());
    logits.collect()
}

/// Puts the likeliest token of each in, those aside that `skip` says; gives all logits after each step.
fn go_on(batch: &mut Batch, steps: u32, skip: impl Fn(u32, u32) -> bool) -> Vec<Vec<Vec<f32>>> {
    let step = |step| {
        let tokens = batch.sessions().zip(0..).map(|(session, number)| {
            let token = likeliest(session);
            (!skip(step, number)).then_some(token)
        });
        let tokens: Vec<_> = tokens.collect();
        batch.decode(&tokens).unwrap();
        logits(batch)
    };
    (0..steps).map(step).collect()
}

/// The same as [`go_on`] with every session by itself, on the CPU.
fn alone(
    lengths: &[u32],
    options: LoadOptions,
    steps: u32,
    skip: impl Fn(u32, u32) -> bool,
) -> Vec<Vec<Vec<f32>>> {
    let model = cpu(options);
    let started = lengths.iter().zip(0..).map(|(&n, i)| started(&model, i, n));
    let mut sessions: Vec<Session> = started.collect();
    let step = |step| {
        let each = sessions.iter_mut().zip(0..).map(|(session, number)| {
            if !skip(step, number) {
                session.decode(likeliest(session)).unwrap();
            }
            session.logits().unwrap().to_vec()
        });
        each.collect()
    };
    (0..steps).map(step).collect()
}

/// Every node was run once a step that a session counts, and all tokens went in.
fn check_counts(batch: &Batch) {
    let nodes = batch.model().unwrap().open().model().graph().nodes().len() as u64;
    for session in batch.sessions() {
        let executed = session.executed();
        let ran: u64 = executed.devices.values().map(|d| d.nodes).sum();
        assert_eq!(ran, nodes * executed.steps, "{executed:?}");
        assert_eq!(session.miscounts(), Vec::<String>::new());
    }
}

const NONE: fn(u32, u32) -> bool = |_, _| false;

#[test]
fn sessions_of_any_length_give_the_bits_that_each_gives_alone() {
    let lengths = [1, 19, 7, 33, 8];
    // some wait in some steps; in one all but one, in one all
    let skip = |step, number| match step {
        3 => number != 2,
        4 => true,
        _ => (step + number) % 4 == 0,
    };
    for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
        let options = || options().kv_type(kv);
        let mut batch = batch(&cpu(options()), &lengths);
        assert_eq!(batch.together(), Ok(()));
        let before: u64 = batch.sessions().map(|s| s.executed().steps).sum();
        let found = go_on(&mut batch, 9, skip);
        assert!(found == alone(&lengths, options(), 9, skip), "{kv:?}");
        let steps = batch.steps();
        assert_eq!((steps.together, steps.tokens_alone), (7, 1));
        let carried: u64 = batch.sessions().map(|s| s.executed().carried).sum();
        assert_eq!(carried, steps.tokens_together - steps.together);
        let after: u64 = batch.sessions().map(|s| s.executed().steps).sum();
        assert_eq!(after - before, steps.together + steps.tokens_alone);
        check_counts(&batch);
    }
}

#[test]
fn more_sessions_than_a_step_takes_go_in_several() {
    let lengths: Vec<u32> = (1..=19).collect();
    let mut batch = batch(&cpu(options()), &lengths);
    let found = go_on(&mut batch, 3, NONE);
    assert!(found == alone(&lengths, options(), 3, NONE));
    let steps = batch.steps();
    // 8, 8 and 3
    assert_eq!((steps.together, steps.tokens_together), (9, 57));
    check_counts(&batch);
}

#[test]
fn sessions_join_leave_and_sleep_while_others_go_on() {
    let model = cpu(options());
    let expected = alone(&[5, 9, 13], options(), 6, NONE);
    let mut batch = batch(&model, &[5, 9]);
    let first = go_on(&mut batch, 2, NONE);
    assert_eq!(first[1], expected[1][..2]);
    let mut late = started(&model, 2, 13);
    for _ in 0..2 {
        late.decode(likeliest(&late)).unwrap();
    }
    assert_eq!(batch.push(late).unwrap(), 2);
    let three = go_on(&mut batch, 2, NONE);
    assert!(three == expected[2..4]);
    // one gives its memory back, and wakes by itself
    let next = likeliest(batch.session(1).unwrap());
    let others = [0, 2].map(|n| likeliest(batch.session(n).unwrap()));
    batch.session_mut(1).unwrap().suspend();
    batch
        .decode(&[Some(others[0]), Some(next), Some(others[1])])
        .unwrap();
    assert!(logits(&batch) == expected[4]);
    let gone = batch.remove(0).unwrap();
    assert!(batch.remove(2).is_none());
    let two = go_on(&mut batch, 1, NONE);
    assert!(two[0] == expected[5][1..]);
    // the one that left goes on by itself
    let mut gone = gone;
    gone.decode(likeliest(&gone)).unwrap();
    assert!(gone.logits().unwrap()[..] == expected[5][0]);
    assert_eq!(batch.steps().tokens_alone, 0);
    check_counts(&batch);
    assert_eq!(batch.into_sessions().len(), 2);
}

#[test]
fn what_can_not_be_put_in_is_refused_before_anything_is() {
    let model = cpu(options());
    let mut batch = batch(&model, &[3, 64, 5]);
    let e = batch.decode(&[Some(1), None]).unwrap_err().to_string();
    assert!(e.contains("is 2; expected 3"), "{e}");
    let e = batch.decode(&[Some(1), Some(1), Some(1)]).unwrap_err();
    assert!(
        matches!(e, RuntimeError::ContextFull { context: 64 }),
        "{e}"
    );
    let e = batch
        .decode(&[Some(1), None, Some(VOCABULARY)])
        .unwrap_err();
    assert!(matches!(e, RuntimeError::TokenOutOfRange { .. }), "{e}");
    let lengths = batch.sessions().map(|s| s.tokens().len());
    assert_eq!(lengths.collect::<Vec<_>>(), [3, 64, 5]);
    assert_eq!(batch.steps(), BatchSteps::default());
    batch.decode(&[Some(1), None, Some(1)]).unwrap();
    assert_eq!(batch.steps().together, 1);

    let e = batch.push(session(&cpu(options()))).unwrap_err();
    assert!(
        matches!(e, RuntimeError::OtherModel { session: 3, .. }),
        "{e}"
    );
    assert_eq!(batch.len(), 3);
}

#[test]
fn where_a_device_or_a_plan_takes_one_sequence_sessions_go_one_by_one_and_say_why() {
    let lengths = [4, 11];
    let expected = alone(&lengths, options(), 3, NONE);
    let renamed = vec![RenamedCpu {
        name: "cpu2",
        shares_memory: true,
    }];
    let sim = |profile: &str| {
        let text = Shipped::find(profile).unwrap().text;
        let description = Description::parse(text, "sim").unwrap();
        let driver = SimDriver::new(description, Box::new(CpuDriver));
        let drivers: Vec<Box<dyn Driver>> =
            vec![Box::new(CpuDriver), Box::new(driver.named("sim"))];
        let builder = Runtime::builder().drivers(drivers).threads(1);
        let builder = builder.device("cpu").device("sim");
        builder.knobs(Knobs::default()).build().unwrap()
    };
    type Fits = fn(&Apart) -> bool;
    let cases: [(Runtime, &[&str], Fits); 3] = [
        (
            common::runtime(renamed, 1),
            &["*=cpu", "layers.1=cpu2"],
            |a| matches!(a, Apart::Segments { devices } if devices.len() == 3),
        ),
        (sim("reference-f32"), &["*=sim"], |a| {
            matches!(a, Apart::Device { device, reason }
                if device == "sim" && reason.detail.contains("one sequence"))
        }),
        (
            sim("reference-static"),
            &["*=sim"],
            |a| matches!(a, Apart::FixedSizes { sizes } if !sizes.is_empty()),
        ),
    ];
    for (runtime, pins, fits) in cases {
        let placement = Placement {
            pins: pins.iter().map(|p| p.parse().unwrap()).collect(),
            ..Placement::default()
        };
        let open = OpenModel::new(tiny_llama(LAYERS), None);
        let model = runtime.load_open(open, options().placement(placement));
        let mut batch = batch(&model.unwrap(), &lengths);
        let apart = batch.together().unwrap_err();
        assert!(fits(&apart), "{pins:?}: {apart}");
        assert!(go_on(&mut batch, 3, NONE) == expected, "{apart}");
        let steps = batch.steps();
        assert_eq!((steps.together, steps.tokens_alone), (0, 6));
        assert_eq!(batch.together(), Err(apart));
        check_counts(&batch);
    }
}

#[test]
fn one_session_or_none_goes_alone() {
    let model = cpu(options());
    let mut none = Batch::new(vec![]).unwrap();
    none.decode(&[]).unwrap();
    assert!(none.is_empty() && none.model().is_none());
    assert_eq!(none.together(), Err(Apart::Few { sessions: 0 }));
    let mut one = batch(&model, &[5]);
    go_on(&mut one, 2, NONE);
    assert_eq!(one.together(), Err(Apart::Few { sessions: 1 }));
    assert_eq!(one.steps().tokens_alone, 2);
}

#[test]
fn a_device_that_fails_in_any_step_leaves_every_session_going_on() {
    let lengths = [3, 5, 8];
    let expected = alone(&lengths, options(), 4, NONE);
    // three steps for the prompts, one for each step of all; and some for those that are run again
    for at in 4..=7 {
        for fault in [
            Fault::LoseAtSubmit(at),
            Fault::RefuseSubmit(at),
            Fault::FailAfterSubmit(at),
            Fault::HangAtSubmit(at),
        ] {
            let chaos = ChaosDriver::new(Box::new(Fast(&CpuDriver)), vec![fault.clone()]);
            let drivers: Vec<Box<dyn Driver>> = vec![Box::new(CpuDriver), Box::new(chaos)];
            let builder = Runtime::builder().drivers(drivers).threads(1);
            let builder = builder.device("chaos").device("cpu");
            let runtime = builder.knobs(Knobs::default()).build().unwrap();
            let open = OpenModel::new(tiny_llama(LAYERS), None);
            let model = runtime.load_open(open, options()).unwrap();
            let mut batch = batch(&model, &lengths);
            assert_eq!(batch.together(), Ok(()));
            assert!(go_on(&mut batch, 4, NONE) == expected, "{fault:?}");
            check_counts(&batch);
            let steps = batch.steps();
            let before = at - 4;
            match fault {
                // each may still run by itself, and does
                Fault::RefuseSubmit(_) | Fault::FailAfterSubmit(_) => {
                    assert_eq!(steps.together, before, "{fault:?}");
                    let apart = batch.together().unwrap_err().to_string();
                    assert!(apart.contains("on purpose"), "{apart}");
                    assert!(batch.sessions().all(|s| s.warnings().is_empty()));
                }
                // all moved, and go on together in what they moved to
                _ => {
                    assert_eq!(steps.together, 3, "{fault:?}");
                    assert_eq!(batch.together(), Ok(()), "{fault:?}");
                    for session in batch.sessions() {
                        let warnings = session.warnings();
                        assert_eq!(warnings.len(), 1, "{fault:?}: {warnings:?}");
                        assert!(warnings[0].contains("goes on with cpu"), "{warnings:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn stories_told_together_are_those_told_alone() {
    let name = "stories_told_together_are_those_told_alone";
    let Some(path) = test_data(name, "stories260K/stories260K-Q8_0.gguf") else {
        return;
    };
    let model = common::runtime(vec![], 2)
        .load(path, LoadOptions::new())
        .unwrap();
    let prompts = ["Once upon a time", "", "Tom and Lily went to the park to"];
    for greedy in [true, false] {
        let mut options = match greedy {
            true => GenerateOptions::greedy().max_tokens(60),
            false => GenerateOptions::new().seed(7).max_tokens(60),
        };
        let alone = prompts.iter().zip(0..).map(|(prompt, number)| {
            let mut session = model.session(SessionOptions::new()).unwrap();
            let options = options.clone().seed(options.sampling.seed + number);
            let go_on = |_: anynpu_runtime::Piece<'_>| ControlFlow::Continue(());
            session.generate(*prompt, &options, go_on).unwrap()
        });
        let alone: Vec<_> = alone.collect();
        // what only one of them says ends that one early
        let word = |text: &str| text.split(' ').rfind(|w| w.len() > 3).map(str::to_owned);
        let sessions = prompts.map(|_| model.session(SessionOptions::new()).unwrap());
        let mut batch = Batch::new(sessions.into()).unwrap();
        let mut streamed = vec![String::new(); 3];
        let all = prompts.map(Prompt::from);
        let reports = batch.generate(&all, &options, |number, piece| {
            streamed[number].push_str(piece.text);
            ControlFlow::Continue(())
        });
        let reports = reports.unwrap();
        for ((report, alone), streamed) in reports.iter().zip(&alone).zip(&streamed) {
            assert_eq!(report.tokens, alone.tokens);
            assert_eq!((&report.text, report.finish), (&alone.text, alone.finish));
            assert_eq!(streamed, &report.text);
        }
        assert!(batch.steps().together >= 59 && batch.steps().tokens_alone == 0);

        let stop = word(&alone[2].text).unwrap();
        options.stops.push(stop.clone());
        let sessions = prompts.map(|_| model.session(SessionOptions::new()).unwrap());
        let mut batch = Batch::new(sessions.into()).unwrap();
        let go_on = |_: usize, _: anynpu_runtime::Piece<'_>| ControlFlow::Continue(());
        let reports = batch.generate(&all, &options, go_on).unwrap();
        assert_eq!(reports[2].finish, FinishReason::StopText, "{stop:?}");
        for (report, alone) in reports.iter().zip(&alone) {
            let told = alone.text.split(&stop).next().unwrap();
            assert_eq!(report.text, told);
        }
    }
}

#[test]
fn as_many_prompts_as_sessions_are_needed() {
    let mut batch = batch(&cpu(options()), &[1, 2]);
    let prompt: &[u32] = &[1];
    let e = batch.generate(&[prompt.into()], &GenerateOptions::new(), |_, _| {
        ControlFlow::Continue(())
    });
    let e = e.unwrap_err().to_string();
    assert!(e.contains("is 1; expected 2"), "{e}");
}
