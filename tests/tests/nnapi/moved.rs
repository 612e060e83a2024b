//! Sessions that go on elsewhere when their device fails, with states in its memory or the host's.

use anynpu_cpu::CpuDriver;
use anynpu_hal::Driver;
use anynpu_nnapi::lower::StateForm;
use anynpu_nnapi::sys;
use anynpu_nnapi_double::{Fault, Settings};
use anynpu_runtime::{KvType, LoadOptions, LoadedModel, Runtime, SessionOptions};
use anynpu_tests::Eager;

use crate::{LEVELS, Placed, architecture};

fn runtime(placed: &Placed, states: StateForm) -> Runtime {
    let mut driver = placed.driver();
    driver.states = Some(states);
    let drivers: Vec<Box<dyn Driver>> = vec![Box::new(CpuDriver), Box::new(Eager(driver))];
    let builder = Runtime::builder().drivers(drivers).threads(1);
    let builder = builder.device("nnapi").device("cpu").without_cache();
    builder.build().unwrap()
}

fn load(runtime: &Runtime) -> LoadedModel {
    let options = LoadOptions::new().context(96).kv_type(KvType::F32);
    let loaded = runtime.load_open(architecture("llama"), options);
    loaded.unwrap()
}

/// Greedy tokens of one session over two prompts, and how many nodes ran on the device.
fn tokens(model: &LoadedModel) -> (Vec<u32>, u64) {
    let mut session = model.session(SessionOptions::new()).unwrap();
    let mut made = Vec::new();
    for prompt in [&[3, 1, 4, 1, 5, 9, 2, 6][..], &[5, 3, 5]] {
        session.prefill(prompt, None).unwrap();
        for _ in 0..12 {
            let row = session.logits().unwrap().to_vec();
            let places = row.iter().zip(0u32..);
            let best = places.max_by(|a, b| a.0.total_cmp(b.0)).unwrap().1;
            session.decode(best).unwrap();
            made.push(best);
        }
    }
    assert!(session.miscounts().is_empty(), "{:?}", session.miscounts());
    let ran = session
        .executed()
        .devices
        .get("nnapi")
        .map_or(0, |d| d.nodes);
    (made, ran)
}

#[test]
fn tokens_go_on_when_a_device_fails_wherever_its_states_are() {
    let whole = Placed::accelerated(LEVELS[0]);
    let (expected, all) = tokens(&load(&runtime(&whole, StateForm::Host)));
    assert!(all > 0);
    for states in [StateForm::Host, StateForm::Device] {
        // in the first prompt, in a step of a token, in the second prompt
        for runs in [0, 5, 13] {
            for (code, lost) in [
                (sys::DEAD_OBJECT, true),
                (sys::DEAD_OBJECT, false),
                (sys::RESOURCE_EXHAUSTED_PERSISTENT, true),
                (sys::RESOURCE_EXHAUSTED_PERSISTENT, false),
                (sys::MISSED_DEADLINE_PERSISTENT, false),
            ] {
                let fault = Fault::After { runs, code, lost };
                let device = anynpu_nnapi_double::Device::accelerator("npu", LEVELS[0]);
                let placed = Placed::new(&Settings::new(LEVELS[0]).with(device.failing(fault)));
                let model = load(&runtime(&placed, states));
                let (found, ran) = tokens(&model);
                let told = format!("{states}, {code} after {runs}, memory lost: {lost}");
                assert_eq!(found, expected, "{told}");
                assert!(
                    ran < all && (runs == 0 || ran > 0),
                    "{told}: {ran} of {all}"
                );
            }
        }
    }
}
