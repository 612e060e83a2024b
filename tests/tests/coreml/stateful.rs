//! Sessions whose keys and values are in states of programs, on Core ML's devices that are computed by Apple's definitions of
//! operations.

use std::path::Path;
use std::sync::Arc;

use anynpu_coreml::lower::States;
use anynpu_coreml::{CoreMlDriver, Precision};
use anynpu_hal::{Driver, MemoryKind, OpenOptions, StateSupport};
use anynpu_runtime::{
    KvType, LoadOptions, LoadedModel, ModelSource, OpenModel, Runtime, Session, SessionOptions,
};
use anynpu_tests::{Eager, test_data};

use crate::computed::Computed;
use crate::executed::{
    CONTEXT, architecture, error, greedy, layers_on, load, logits, on_cpu, runtime,
};

const GPU: &str = "coreml:gpu";

/// What the device `name` of a system says of states.
fn says(engine: &Computed, name: &str, set: impl Fn(&mut CoreMlDriver)) -> (StateSupport, bool) {
    let mut driver = CoreMlDriver::with_engine(Arc::new(engine.clone()));
    set(&mut driver);
    let exposed = driver.enumerate().unwrap();
    let exposed = exposed.into_iter().find(|e| e.info.name == name).unwrap();
    let device = driver.open(&exposed, &OpenOptions::default()).unwrap();
    let own = device
        .capabilities()
        .memory
        .contains(&MemoryKind::DeviceLocal);
    (device.capabilities().states, own)
}

#[test]
fn states_are_in_programs_where_the_system_and_the_form_have_them() {
    let test = "states_are_in_programs_where_the_system_and_the_form_have_them";
    let (Some(old), Some(new)) = (Computed::find(test, 14), Computed::find(test, 15)) else {
        return;
    };
    let (native, host) = (
        (StateSupport::Native, true),
        (StateSupport::InPlaceIo, false),
    );
    assert_eq!(says(&new, GPU, |_| {}), native);
    assert_eq!(says(&new, "coreml:cpu", |_| {}), native);
    // the Neural Engine writes none, and what they hold is F16
    assert_eq!(says(&new, "coreml", |_| {}), host);
    assert_eq!(
        says(&new, GPU, |d| d.precision = Some(Precision::F32)),
        host
    );
    assert_eq!(says(&old, GPU, |_| {}), host);
    assert_eq!(says(&new, GPU, |d| d.states = Some(States::Caller)), host);
    assert_eq!(says(&old, GPU, |d| d.states = Some(States::Native)), host);
    let told = |d: &mut CoreMlDriver| {
        (d.precision, d.states) = (Some(Precision::F32), Some(States::Native));
    };
    assert_eq!(says(&new, GPU, told), native);
}

/// The stories model, and a prompt that takes steps of both sizes.
fn story(test: &str) -> Option<(OpenModel, Vec<u32>)> {
    let path = test_data(test, "stories260K/stories260K-F32.gguf")?;
    let open = OpenModel::open(ModelSource::File(path)).unwrap();
    let prompt = (0..67).map(|i| if i == 0 { 1 } else { 300 + 3 * (i % 60) });
    Some((open, prompt.collect()))
}

#[test]
fn rows_stay_in_the_program_from_the_first_step_to_the_last() {
    let test = "rows_stay_in_the_program_from_the_first_step_to_the_last";
    let (Some(engine), Some((open, prompt))) = (Computed::find(test, 15), story(test)) else {
        return;
    };
    let states = open.model().graph().states().len() as u64;
    for kv in [KvType::F16, KvType::F32] {
        let runtime = runtime(&engine, GPU, |_| {});
        let alone = load(&runtime, &open, &on_cpu(), kv);
        let there = load(&runtime, &open, &layers_on(GPU), kv);
        let (expected, _) = greedy(&alone, GPU, &prompt, 16);
        let before = (engine.states(), engine.state_copies());
        let (found, _) = greedy(&there, GPU, &prompt, 16);
        assert_eq!(found, expected, "{kv:?}");
        // one for both functions; what the host wrote, zeros, was copied to it once
        assert_eq!(engine.states() - before.0, 1, "{kv:?}");
        assert_eq!(engine.state_copies() - before.1, states, "{kv:?}");
    }
}

#[test]
fn where_functions_do_not_share_states_rows_are_copied_between_them() {
    let test = "where_functions_do_not_share_states_rows_are_copied_between_them";
    let (Some(engine), Some((open, prompt))) = (Computed::find(test, 15), story(test)) else {
        return;
    };
    engine.refuse_states_of_others();
    let runtime = runtime(&engine, GPU, |_| {});
    let alone = load(&runtime, &open, &on_cpu(), KvType::F16);
    let there = load(&runtime, &open, &layers_on(GPU), KvType::F16);
    let (expected, _) = greedy(&alone, GPU, &prompt, 8);
    let states = open.model().graph().states().len() as u64;
    for made in [2, 2] {
        let before = (engine.states(), engine.state_copies());
        assert_eq!(greedy(&there, GPU, &prompt, 8).0, expected);
        // once from the prompt's function to that of a token, out of one and into the other
        assert_eq!(engine.states() - before.0, made);
        assert_eq!(engine.state_copies() - before.1, 3 * states);
    }
}

/// A session that has taken `tokens`.
fn after(model: &LoadedModel, tokens: &[u32]) -> Session {
    let mut session = model.session(SessionOptions::new()).unwrap();
    for token in tokens {
        session.decode(*token).unwrap();
    }
    session
}

fn row(session: &mut Session) -> Vec<f32> {
    session.logits().unwrap().to_vec()
}

#[test]
fn sessions_in_turn_have_states_of_their_own_and_go_back() {
    let test = "sessions_in_turn_have_states_of_their_own_and_go_back";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    let runtime = runtime(&engine, GPU, |_| {});
    let short = [3, 1, 4];
    let long: Vec<u32> = (0..6).map(|i| (11 * i + 5) % 64).collect();
    for kv in [KvType::F16, KvType::F32] {
        let model = load(&runtime, &architecture("llama"), &layers_on(GPU), kv);
        let first = logits(&model, &short);
        let (mut a, mut b) = (after(&model, &[]), after(&model, &[]));
        for (i, token) in long.iter().enumerate() {
            a.decode(*token).unwrap();
            if let Some(token) = short.get(i) {
                b.decode(*token).unwrap();
                let row = row(&mut b);
                assert_eq!(row, first[i * row.len()..][..row.len()], "{i}");
            }
        }
        // rows after where it goes back to are nobody's
        a.truncate(1);
        for token in &long[1..3] {
            a.decode(*token).unwrap();
        }
        let mut c = after(&model, &long[..3]);
        assert_eq!(row(&mut a), row(&mut c), "{kv:?}");
    }
}

#[test]
fn a_session_is_saved_out_of_states_and_restored_into_them_on_any_device() {
    let test = "a_session_is_saved_out_of_states_and_restored_into_them_on_any_device";
    let (Some(engine), folder) = (Computed::find(test, 15), tempfile::tempdir().unwrap()) else {
        return;
    };
    let runtime = runtime(&engine, GPU, |_| {});
    let open = architecture("llama");
    let tokens: Vec<u32> = (0..7).map(|i| (7 * i + 3) % 64).collect();
    let file = |name: &str| -> std::path::PathBuf { Path::join(folder.path(), name) };
    for kv in [KvType::F16, KvType::F32] {
        let there = load(&runtime, &open, &layers_on(GPU), kv);
        let alone = load(&runtime, &open, &on_cpu(), kv);
        let mut whole = after(&there, &tokens);
        let expected = row(&mut whole);
        // two go on where one was, each with rows of its own
        let mut session = after(&there, &tokens[..5]);
        session.save(file("there")).unwrap();
        let mut forks = [after(&there, &[9, 9]), after(&there, &[])];
        for fork in &mut forks {
            fork.restore(file("there")).unwrap();
        }
        forks[0].decode(tokens[5]).unwrap();
        forks[1].decode(60).unwrap();
        forks[0].decode(tokens[6]).unwrap();
        assert_eq!(row(&mut forks[0]), expected, "{kv:?}");
        session.decode(tokens[5]).unwrap();
        session.decode(tokens[6]).unwrap();
        assert_eq!(row(&mut session), expected, "{kv:?}");
        // and on the CPU, and from there
        let mut moved = after(&alone, &[]);
        moved.restore(file("there")).unwrap();
        moved.decode(tokens[5]).unwrap();
        moved.save(file("alone")).unwrap();
        moved.decode(tokens[6]).unwrap();
        let e = error(&row(&mut moved), &expected);
        assert!(e < 0.005, "{kv:?}: {e}");
        let mut back = after(&there, &[]);
        back.restore(file("alone")).unwrap();
        back.decode(tokens[6]).unwrap();
        let e = error(&row(&mut back), &expected);
        assert!(e < 0.005, "{kv:?}: {e}");
    }
}

#[test]
fn attention_apart_from_appending_reads_the_same_states() {
    let test = "attention_apart_from_appending_reads_the_same_states";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    let runtime = runtime(&engine, GPU, |_| {});
    let tokens: Vec<u32> = (0..6).map(|i| (7 * i + 3) % 64).collect();
    let open = architecture("llama");
    let alone = load(&runtime, &open, &on_cpu(), KvType::F16);
    // two programs of one device, with nodes of the CPU between them
    let nodes = open.model().graph().nodes().iter();
    let pins = nodes.map(|node| match node.op.name() {
        "Attention" | "KvAppend" => format!("{}={GPU}", node.name),
        _ => format!("{}=cpu", node.name),
    });
    let pins: Vec<String> = pins.collect();
    let there = load(&runtime, &open, &pins, KvType::F16);
    let e = error(&logits(&there, &tokens), &logits(&alone, &tokens));
    assert!(e < 0.005, "{e}");
}

#[test]
fn steps_fill_the_context_to_its_end() {
    let test = "steps_fill_the_context_to_its_end";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    let runtime = runtime(&engine, GPU, |_| {});
    let open = architecture("llama");
    let tokens: Vec<u32> = (0..CONTEXT).map(|i| (5 * i + 1) % 64).collect();
    let alone = load(&runtime, &open, &on_cpu(), KvType::F16);
    let there = load(&runtime, &open, &layers_on(GPU), KvType::F16);
    let e = error(&logits(&there, &tokens), &logits(&alone, &tokens));
    assert!(e < 0.005, "{e}");
}

#[test]
fn numbers_of_16_bits_cross_in_memory_that_the_engine_makes() {
    let test = "numbers_of_16_bits_cross_in_memory_that_the_engine_makes";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    let runtime = runtime(&engine, "coreml", |_| {});
    let open = architecture("llama");
    let tokens: Vec<u32> = (0..6).map(|i| (7 * i + 3) % 64).collect();
    let alone = load(&runtime, &open, &on_cpu(), KvType::F32);
    let there = load(&runtime, &open, &layers_on("coreml"), KvType::F32);
    // operands, results and rows, in functions of both sizes
    assert!(engine.own_memory() > 4, "{}", engine.own_memory());
    let e = error(&logits(&there, &tokens), &logits(&alone, &tokens));
    assert!(e < 0.005, "{e}");
}

#[test]
fn a_session_whose_device_fails_goes_on_with_the_rows_of_its_states() {
    let test = "a_session_whose_device_fails_goes_on_with_the_rows_of_its_states";
    let Some(engine) = Computed::find(test, 15) else {
        return;
    };
    let driver = Eager(CoreMlDriver::with_engine(Arc::new(engine.clone())));
    let drivers: Vec<Box<dyn Driver>> = vec![Box::new(anynpu_cpu::CpuDriver), Box::new(driver)];
    let runtime = Runtime::builder()
        .drivers(drivers)
        .device("cpu")
        .device(GPU);
    let runtime = runtime.without_cache().build().unwrap();
    let mut options = LoadOptions::new().context(CONTEXT).kv_type(KvType::F16);
    options.precision = anynpu_runtime::Precision::F16;
    let open = architecture("llama");
    let model = runtime.load_open(open.clone(), options).unwrap();
    let tokens: Vec<u32> = (0..8).map(|i| (7 * i + 3) % 64).collect();
    let alone = {
        let plain = self::runtime(&engine, GPU, |_| {});
        load(&plain, &open, &on_cpu(), KvType::F16)
    };
    let expected = row(&mut after(&alone, &tokens));
    let mut session = after(&model, &tokens[..4]);
    assert!(session.fallbacks().is_empty());
    assert!(engine.states() > 0, "nothing ran on {GPU}");
    let copies = engine.state_copies();
    engine.fail_after(0);
    for token in &tokens[4..] {
        session.decode(*token).unwrap();
    }
    assert!(!session.fallbacks().is_empty());
    // they were read out, not made anew
    assert!(engine.state_copies() > copies);
    let e = error(&row(&mut session), &expected);
    assert!(e < 0.005, "{e}");
}
