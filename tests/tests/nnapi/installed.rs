//! The runtime that `ANYNPU_NNAPI_LIBRARY` names, such as Android's own with its reference device.

use anynpu_hal::Driver;
use anynpu_nnapi::lower::Numbers;
use anynpu_tests::test_data;

use crate::{
    Placed, conformance, double, encoders, integers, memory, models, open, vts, vts_lowered,
};

/// What Android's reference device is less exact in than 16 bits need it: it rounds each sum of a `BATCH_MATMUL`.
const SUMMED: [(&str, &str); 1] = [(
    "op/attention/f32/wide_heads_many",
    "long products are summed in 16 bits",
)];

#[test]
fn its_devices_are_found_with_their_names_and_levels() {
    let test = "its_devices_are_found_with_their_names_and_levels";
    let Some(placed) = Placed::installed(test) else {
        return;
    };
    let exposed = placed.driver().enumerate().unwrap();
    assert_eq!(exposed[0].info.name, "nnapi");
    for device in &exposed {
        println!("{}: {}", device.info.name, device.info.description);
    }
    assert!(placed.level() >= 29);
    let reference = placed.reference();
    let told = |e: &anynpu_hal::ExposedDevice| e.info.description.starts_with(reference.name());
    assert!(exposed.iter().any(told), "{}", reference.name());
}

#[test]
fn it_computes_the_cases_of_androids_own_suite_right() {
    let test = "it_computes_the_cases_of_androids_own_suite_right";
    let Some(placed) = Placed::installed(test) else {
        return;
    };
    let reference = placed.reference();
    let has = |level: usize| reference.level().number() >= vts::LEVELS[level];
    let passed = vts::cases(test, |level| Some(&reference).filter(|_| has(level)));
    assert!(passed.is_none_or(|n| n > 500), "{passed:?}");
    let passed = vts_lowered::nodes(test, &placed);
    assert!(passed.is_none_or(|n| n > 100), "{passed:?}");
}

#[test]
fn it_refuses_what_the_stand_in_refuses_in_the_same_place() {
    let test = "it_refuses_what_the_stand_in_refuses_in_the_same_place";
    if let Some(placed) = Placed::installed(test) {
        double::refused(&placed.reference());
    }
}

#[test]
fn its_device_is_certified_for_what_it_claims() {
    let test = "its_device_is_certified_for_what_it_claims";
    let Some(placed) = Placed::installed(test) else {
        return;
    };
    for numbers in [Numbers::F32, Numbers::Relaxed, Numbers::F16] {
        let mut driver = placed.driver();
        driver.numbers = Some(numbers);
        let others = match numbers {
            Numbers::F16 => &SUMMED[..],
            _ => &[],
        };
        let counts = conformance::certify(driver, others).counts();
        assert!(counts.passed > 100, "{numbers}: {counts:?}");
    }
}

#[test]
fn a_story_goes_on_there_with_the_same_tokens() {
    let test = "a_story_goes_on_there_with_the_same_tokens";
    let (Some(placed), Some(path)) = (
        Placed::installed(test),
        test_data(test, "stories260K/stories260K-F32.gguf"),
    ) else {
        return;
    };
    models::story_goes_on(&placed, placed.level(), &open(path));
}

#[test]
fn models_give_the_logits_of_the_cpu_there() {
    let test = "models_give_the_logits_of_the_cpu_there";
    let Some(placed) = Placed::installed(test) else {
        return;
    };
    models::architectures(&placed);
    models::alone(&placed);
    models::sessions_apart(&placed);
    models::narrower(&placed);
    integers::near(&placed);
    integers::noted_ranges(&placed);
}

#[test]
fn states_are_in_its_memory_or_the_hosts() {
    let test = "states_are_in_its_memory_or_the_hosts";
    let Some(placed) = Placed::installed(test) else {
        return;
    };
    memory::copies_one_row(&placed);
    memory::files_in_place(&placed);
    memory::states_of_its_own(&placed);
    memory::models_with_own_states(&placed);
    memory::sessions_in_turn(&placed);
    memory::bound_as_told(&placed);
}

#[test]
fn encoders_give_the_vectors_of_the_cpu_there() {
    let test = "encoders_give_the_vectors_of_the_cpu_there";
    let Some(placed) = Placed::installed(test) else {
        return;
    };
    encoders::texts(&placed, Numbers::F32, 2e-5);
    encoders::texts(&placed, Numbers::F16, 1e-2);
    encoders::sentences(test, &placed);
}
