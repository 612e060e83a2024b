//! What models' nodes become, held to what is kept in `data/htp/`: on every host, without Qualcomm's library.

use std::path::Path;

use anynpu_ir::{DType, ValueId};
use anynpu_qnn::WeightForm;

use crate::cases::{Case, cases, decoder_block, encoder_block};

/// Fails if `text` is not what `data/htp/NAME.txt` has, and leaves it where it can be looked at.
fn check(name: &str, text: &str) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/htp/{name}.txt"));
    let expected = std::fs::read_to_string(&kept).unwrap_or_default();
    if text != expected {
        let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.txt"));
        std::fs::write(&found, text).unwrap();
        panic!(
            "{name} is lowered to something else; if that is right, keep it:\n  cp {} {}",
            found.display(),
            kept.display()
        );
    }
}

fn block(make: fn(Case) -> (Case, ValueId), form: WeightForm, matrices: DType) -> String {
    let mut case = Case::new("block");
    (case.tokens, case.matrices) = (4, matrices);
    let (case, result) = make(case);
    case.lowered(form, result)
}

#[test]
fn blocks_of_models_become_what_is_kept() {
    check(
        "encoder-f16",
        &block(encoder_block, WeightForm::F16, DType::F32),
    );
    check(
        "decoder-f16",
        &block(decoder_block, WeightForm::F16, DType::F32),
    );
    check(
        "decoder-int8",
        &block(decoder_block, WeightForm::Int8, DType::Q8_0),
    );
    check(
        "decoder-int4",
        &block(decoder_block, WeightForm::Int4, DType::Q4_0),
    );
    check(
        "decoder-blocks",
        &block(decoder_block, WeightForm::Blocks, DType::Q4_0),
    );
    check(
        "decoder-lpbq",
        &block(decoder_block, WeightForm::Lpbq, DType::Q4_0),
    );
}

#[test]
fn every_operation_becomes_what_is_kept() {
    let mut all = String::new();
    for (case, result) in cases() {
        all += &case.lowered(WeightForm::F16, result);
        all += "\n";
    }
    check("operations", &all);
}
