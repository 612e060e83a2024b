//! Every operation of graphs that is lowered, on the chip beside the slow reference, and blocks of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anynpu_hal::{Device, Driver, OpenOptions};
use anynpu_ir::DType;
use anynpu_qnn::htp::FixedForm;
use anynpu_qnn::{QnnDriver, WeightForm};

use crate::cases::{Case, cases, decoder_block, encoder_block};

/// Results may differ by this share of the largest number: what 16 bits leave of one operation, and of a block.
const ONE: f32 = 4e-3;
const BLOCK: f32 = 1e-2;
/// And of a block with weights of fewer bits.
const NARROW: f32 = 1.5e-2;
/// And of a block with activations in fixed point.
const SIXTEEN_BITS: f32 = 2e-3;
const EIGHT_BITS: f32 = 6e-2;

/// Graphs of one chip fail to run (1100) while another chip is opened in the same process: one test at a time.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static CHIP: Mutex<()> = Mutex::new(());
    CHIP.lock().unwrap_or_else(PoisonError::into_inner)
}

fn device(test: &str, soc: &str, form: WeightForm) -> Option<Arc<dyn Device>> {
    if std::env::var_os("ANYNPU_QNN_LIBRARY").is_none_or(|p| p.is_empty()) {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return None;
    }
    let driver = QnnDriver {
        soc: Some(soc.into()),
        weights: Some(form),
        ..QnnDriver::default()
    };
    let found = driver.enumerate().unwrap();
    Some(driver.open(&found[0], &OpenOptions::default()).unwrap())
}

#[test]
fn every_operation_that_is_lowered_is_right_on_every_chip() {
    let _one = one_at_a_time();
    let test = "every_operation_that_is_lowered_is_right_on_every_chip";
    for soc in ["SM8650", "SM8450", "SM8550", "SM8750", "SM8850"] {
        let Some(device) = device(test, soc, WeightForm::F16) else {
            return;
        };
        let mut wrong = Vec::new();
        for (case, result) in cases() {
            let name = case.graph.name().to_owned();
            let error = case.error(&*device, WeightForm::F16, result);
            if error > ONE {
                wrong.push(format!("{name}: {error}"));
            }
        }
        assert!(wrong.is_empty(), "{soc}:\n  {}", wrong.join("\n  "));
    }
}

/// Weights in every form, the reference with what they are then: the rest is what 16 bits leave.
#[test]
fn blocks_of_models_are_right_with_weights_in_every_form() {
    let _one = one_at_a_time();
    let test = "blocks_of_models_are_right_with_weights_in_every_form";
    let forms = [
        (WeightForm::F16, DType::F32, BLOCK),
        (WeightForm::Int8, DType::Q8_0, NARROW),
        (WeightForm::Int4, DType::Q4_0, NARROW),
        (WeightForm::Blocks, DType::Q4_0, NARROW),
    ];
    for soc in ["SM8650", "SM8550"] {
        for (form, matrices, bound) in forms {
            let Some(device) = device(test, soc, form) else {
                return;
            };
            for tokens in [1, 16] {
                let case = |name: &str| {
                    let mut case = Case::new(name);
                    (case.tokens, case.matrices) = (tokens, matrices);
                    case
                };
                let encoder = encoder_block(case("encoder block"));
                let decoder = decoder_block(case("decoder block"));
                for (case, result) in [encoder, decoder] {
                    let name = case.graph.name().to_owned();
                    let error = case.error(&*device, form, result);
                    println!("{soc}, {name}, {tokens} token(s), weights {form}: {error:.5}");
                    assert!(error < bound, "{soc} {name} {tokens} {form}: {error}");
                }
            }
        }
    }
}

/// With activations in fixed point: of 16 bits from v73 on, of 8 bits on every chip.
#[test]
fn blocks_of_models_are_right_with_activations_in_fixed_point() {
    let _one = one_at_a_time();
    let test = "blocks_of_models_are_right_with_activations_in_fixed_point";
    let Some(library) = std::env::var_os("ANYNPU_QNN_LIBRARY").filter(|p| !p.is_empty()) else {
        println!("SKIPPED {test}: ANYNPU_QNN_LIBRARY is not set");
        return;
    };
    for soc in ["SM8650", "SM8550", "SM8350"] {
        let driver = QnnDriver {
            library: Some(library.clone().into()),
            soc: Some(soc.into()),
            ..QnnDriver::default()
        };
        let chip = driver.chip().unwrap();
        let activations = match chip.soc().has_wide_products() {
            true => vec![(FixedForm::U16, SIXTEEN_BITS), (FixedForm::U8, EIGHT_BITS)],
            false => vec![(FixedForm::U8, EIGHT_BITS)],
        };
        for (activations, bound) in activations {
            let weights = [
                (WeightForm::Int8, DType::Q8_0),
                (WeightForm::Int4, DType::Q4_0),
                (WeightForm::Lpbq, DType::Q4_0),
            ];
            for (form, matrices) in weights {
                for tokens in [1, 16] {
                    let case = |name: &str| {
                        let mut case = Case::new(name);
                        (case.tokens, case.matrices) = (tokens, matrices);
                        case
                    };
                    let encoder = encoder_block(case("encoder block"));
                    let decoder = decoder_block(case("decoder block"));
                    for (case, result) in [encoder, decoder] {
                        let name = case.graph.name().to_owned();
                        let error = case.fixed_error(&chip, activations, form, result);
                        println!(
                            "{soc}, {name}, {tokens} token(s), {activations:?}, weights {form}: {error:.5}"
                        );
                        assert!(
                            error < bound,
                            "{soc} {name} {tokens} {activations:?} {form}: {error}"
                        );
                    }
                }
            }
        }
    }
}
