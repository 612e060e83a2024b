//! One model over one and several devices: the same logits, and what ran where is counted.

mod common;

use anynpu_runtime::plan::Placement;
use anynpu_runtime::{
    CancelToken, LoadOptions, LoadedModel, OpenModel, Runtime, RuntimeError, Session,
    SessionOptions,
};
use common::testing::{CONTEXT, VOCABULARY, tiny_llama};
use common::{RenamedCpu, runtime};

const LAYERS: u32 = 4;

fn load(runtime: &Runtime, pins: &[&str], chunk: u32) -> LoadedModel {
    let placement = Placement {
        pins: pins.iter().map(|p| p.parse().unwrap()).collect(),
        ..Placement::default()
    };
    let mut options = LoadOptions::new().placement(placement);
    options.prefill_chunk = Some(chunk);
    let open = OpenModel::new(tiny_llama(LAYERS), None);
    runtime.load_open(open, options).unwrap()
}

fn prompt() -> Vec<u32> {
    (0..40).map(|i| (i * 7 + 3) % VOCABULARY).collect()
}

/// Logits after every token, in one go.
fn all_logits(session: &mut Session) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    session
        .logits_of_each::<RuntimeError>(&prompt(), None, |at, row| {
            assert_eq!(at as usize, rows.len());
            rows.push(row.to_vec());
            Ok(())
        })
        .unwrap();
    assert_eq!(rows.len(), prompt().len());
    rows
}

fn session(model: &LoadedModel) -> Session {
    model.session(SessionOptions::new()).unwrap()
}

#[test]
fn logits_depend_on_the_tokens_and_are_the_same_whatever_the_chunks() {
    let runtime = runtime(vec![], 2);
    let whole = all_logits(&mut session(&load(&runtime, &[], 256)));
    assert_ne!(whole[0], whole[1]);
    assert!(whole.iter().flatten().all(|x| x.is_finite()));
    for chunk in [1, 7, 16] {
        assert_eq!(
            all_logits(&mut session(&load(&runtime, &[], chunk))),
            whole,
            "{chunk}"
        );
    }
    // and by decoding one by one
    let mut one = session(&load(&runtime, &[], 256));
    for (token, expected) in prompt().into_iter().zip(&whole) {
        one.decode(token).unwrap();
        assert_eq!(&*one.logits().unwrap(), &expected[..]);
    }
    // and by prefilling a part and decoding the rest
    let mut both = session(&load(&runtime, &[], 16));
    both.prefill(&prompt()[..37], None).unwrap();
    assert_eq!(&*both.logits().unwrap(), &whole[36][..]);
    both.decode(prompt()[37]).unwrap();
    assert_eq!(&*both.logits().unwrap(), &whole[37][..]);
}

#[test]
fn a_model_split_over_devices_gives_the_same_logits_and_copies_are_counted() {
    let alone = {
        let runtime = runtime(vec![], 1);
        all_logits(&mut session(&load(&runtime, &[], 16)))
    };
    for shares_memory in [true, false] {
        let other = RenamedCpu {
            name: "cpu2",
            shares_memory,
        };
        let runtime = runtime(vec![other], 1);
        let model = load(&runtime, &["*=cpu", "layers.1-2=cpu2"], 16);
        let mut session = session(&model);
        assert_eq!(all_logits(&mut session), alone);
        let executed = session.executed();
        assert_eq!(executed.steps, 3);
        let (cpu, cpu2) = (&executed.devices["cpu"], &executed.devices["cpu2"]);
        assert_eq!((cpu.segments, cpu2.segments), (6, 3));
        let nodes = model.open().model().graph().nodes().len() as u64;
        assert_eq!(cpu.nodes + cpu2.nodes, 3 * nodes);
        // 40 rows of the residual stream go there, 32 f32 wide; back they come in memory that the
        // CPU can see
        let (copies, bytes) = if shares_memory {
            (0, 0)
        } else {
            (3, 40 * 32 * 4)
        };
        assert_eq!(
            (cpu.copies_in, cpu.copies_out, cpu.bytes),
            (0, copies, bytes)
        );
        assert_eq!(
            (cpu2.copies_in, cpu2.copies_out, cpu2.bytes),
            (copies, 0, bytes)
        );
        for device in [cpu, cpu2] {
            assert!(device.us > 0 && device.dtype == "f32");
        }
        assert!(session.miscounts().is_empty());
        assert!(model.fallbacks().is_empty());
        let segments = &model.plan_report().phases[1].segments;
        assert_eq!(segments[1].layers, Some([1, 2]));
        assert_eq!((segments[1].device.as_str(), segments.len()), ("cpu2", 3));
    }
}

#[test]
fn devices_that_share_memory_share_a_state() {
    let alone = all_logits(&mut session(&load(&runtime(vec![], 1), &[], 16)));
    let other = |shares_memory| RenamedCpu {
        name: "cpu2",
        shares_memory,
    };
    // that one of the two sees the other's memory is enough: the state's home is there
    for shares_memory in [true, false] {
        let pins = ["*=cpu", "*.attn.attention=cpu2"];
        let both = load(&runtime(vec![other(shares_memory)], 1), &pins, 16);
        let mut both = session(&both);
        assert_eq!(all_logits(&mut both), alone);
        let nodes = both.executed().devices["cpu2"].nodes;
        assert_eq!(nodes, 3 * u64::from(LAYERS));
    }
}

#[test]
fn sessions_share_a_model_and_count_their_own_work() {
    let runtime = runtime(vec![], 1);
    let model = load(&runtime, &[], 16);
    let expected = all_logits(&mut session(&model));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let model = model.clone();
            std::thread::spawn(move || {
                let mut session = session(&model);
                (
                    all_logits(&mut session),
                    session.executed().devices["cpu"].segments,
                )
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), (expected.clone(), 3));
    }
}

#[test]
fn a_session_goes_back_to_an_earlier_length() {
    let model = load(&runtime(vec![], 1), &[], 16);
    let mut session = session(&model);
    let expected = all_logits(&mut session);
    session.truncate(10);
    assert_eq!(
        (session.tokens(), session.room()),
        (&prompt()[..10], CONTEXT - 10)
    );
    session.prefill(&prompt()[10..20], None).unwrap();
    assert_eq!(&*session.logits().unwrap(), &expected[19][..]);
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers_and_changes_nothing() {
    let model = load(&runtime(vec![], 1), &[], 16);
    let mut session = model.session(SessionOptions::new().context(8)).unwrap();
    let e = session.prefill(&prompt(), None).unwrap_err().to_string();
    assert!(e.contains("40 tokens") && e.contains("context of 8"), "{e}");
    let e = session
        .prefill(&[1, VOCABULARY], None)
        .unwrap_err()
        .to_string();
    assert!(e.contains("64 is out of range"), "{e}");
    assert!(session.tokens().is_empty());
    session.prefill(&prompt()[..8], None).unwrap();
    let e = session.decode(1).unwrap_err();
    assert!(matches!(e, RuntimeError::ContextFull { context: 8 }), "{e}");
    let cancel = CancelToken::new();
    cancel.cancel();
    session.truncate(0);
    let e = session.prefill(&[1], Some(&cancel)).unwrap_err();
    assert!(matches!(e, RuntimeError::Cancelled { .. }), "{e}");
}

#[test]
fn a_context_larger_than_memory_is_refused_with_the_numbers() {
    let runtime = runtime(vec![], 1);
    let load = |context| {
        let open = OpenModel::new(tiny_llama(LAYERS), None);
        runtime.load_open(open, LoadOptions::new().context(context))
    };
    // 512 bytes of keys and values a token and layer
    let e = load(i32::MAX as u32).unwrap_err();
    let needed = u64::from(i32::MAX as u32) * 4 * 128;
    assert!(matches!(e, RuntimeError::Memory { .. }), "{e}");
    assert!(e.to_string().contains(&needed.to_string()), "{e}");
    assert!(load(0).unwrap_err().to_string().contains("from 1 to"));
    assert!(load(u32::MAX).is_err());
    let model = load(16).unwrap();
    let session = |context| model.session(SessionOptions::new().context(context));
    assert!(session(i32::MAX as u32).is_err() && session(0).is_err());
    // a session may be larger than the model was loaded with
    assert_eq!(session(64).unwrap().context(), 64);
}

fn with_chaos(faults: &str) -> Runtime {
    use anynpu_cpu::CpuDriver;
    use anynpu_hal::Driver;
    use anynpu_hal::driver::chaos::ChaosDriver;

    let chaos = ChaosDriver::new(Box::new(CpuDriver), Vec::new());
    let drivers: Vec<Box<dyn Driver>> = vec![Box::new(chaos), Box::new(CpuDriver)];
    let builder = Runtime::builder()
        .drivers(drivers)
        .device("chaos")
        .device("cpu")
        .threads(1);
    let builder = builder.device_option("chaos", "faults", faults);
    builder
        .knobs(anynpu_runtime::knobs::Knobs::default())
        .build()
        .unwrap()
}

#[test]
fn what_a_device_refuses_to_compile_goes_elsewhere_and_is_told() {
    let expected = all_logits(&mut session(&load(&runtime(vec![], 1), &[], 16)));
    // in one step, which two devices have no reason to share
    let model = load(&with_chaos("compile:1=refuse"), &[], 512);
    let mut session = session(&model);
    assert_eq!(all_logits(&mut session), expected);
    assert_eq!(
        session.executed().devices.keys().collect::<Vec<_>>(),
        ["cpu"]
    );
    let nodes = model.open().model().graph().nodes().len();
    assert_eq!(model.fallbacks().len(), nodes);
    let first = &model.fallbacks()[0];
    assert_eq!(
        (first.node.as_str(), first.wanted.as_str()),
        ("embed", "chaos")
    );
    assert!(
        first.ran_on == "cpu" && first.reason.contains("refused on purpose"),
        "{first:?}"
    );
    assert!(
        model.fallbacks()[1]
            .reason
            .contains("'chaos' refused embed")
    );
    // a pin is not given up
    let placement = Placement {
        pins: vec!["*=chaos".parse().unwrap()],
        ..Placement::default()
    };
    let open = OpenModel::new(tiny_llama(LAYERS), None);
    let options = LoadOptions::new().placement(placement);
    let e = with_chaos("compile:1=refuse")
        .load_open(open, options)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("pin '*=chaos'") && e.contains("refused on purpose"),
        "{e}"
    );
}

#[test]
fn a_session_goes_on_after_a_step_that_no_device_could_run() {
    let expected = all_logits(&mut session(&load(&runtime(vec![], 1), &[], 16)));
    let alone = with_chaos("submit:2=fail");
    let model = load(&alone, &["*=chaos"], 16);
    let mut session = session(&model);
    session.prefill(&prompt()[..10], None).unwrap();
    let e = session.decode(prompt()[10]).unwrap_err().to_string();
    assert!(
        e.contains("'chaos'") && e.contains("failed on purpose"),
        "{e}"
    );
    assert_eq!(session.tokens().len(), 10);
    // the device was not lost
    session.decode(prompt()[10]).unwrap();
    assert_eq!(&*session.logits().unwrap(), &expected[10][..]);
}

#[test]
fn loading_tells_of_progress_and_stops_when_asked() {
    use std::ops::ControlFlow;
    use std::sync::{Arc, Mutex};

    let runtime = runtime(vec![], 1);
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let options = LoadOptions::new().progress(move |p| {
        seen.lock().unwrap().push(p);
        ControlFlow::Continue(())
    });
    let open = || OpenModel::new(tiny_llama(LAYERS), None);
    runtime.load_open(open(), options).unwrap();
    let told = told.lock().unwrap();
    assert!(told.iter().all(|p| p.done <= p.total));
    assert!(
        told.iter()
            .any(|p| p.done == p.total && p.stage == anynpu_runtime::LoadStage::Compile)
    );
    let stop = LoadOptions::new().progress(|_| ControlFlow::Break(()));
    let e = runtime.load_open(open(), stop).unwrap_err();
    assert!(matches!(e, RuntimeError::Cancelled { .. }), "{e}");
    let late = LoadOptions::new().progress(|p| match p.stage {
        anynpu_runtime::LoadStage::Compile if p.done > 3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    let e = runtime.load_open(open(), late).unwrap_err();
    assert!(matches!(e, RuntimeError::Cancelled { .. }), "{e}");
}
