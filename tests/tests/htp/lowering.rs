//! What models' nodes become, held to what is kept in `data/htp/`: on every host, without Qualcomm's library.

use anynpu_ir::{DType, ValueId};
use anynpu_qnn::WeightForm;

use crate::cases::{Case, cases, decoder_block, encoder_block};
use crate::kept;

fn block(make: fn(Case) -> (Case, ValueId), form: WeightForm, matrices: DType) -> String {
    let mut case = Case::new("block");
    (case.tokens, case.matrices) = (4, matrices);
    let (case, result) = make(case);
    case.lowered(form, result)
}

#[test]
fn blocks_of_models_become_what_is_kept() {
    kept(
        "encoder-f16",
        &block(encoder_block, WeightForm::F16, DType::F32),
    );
    kept(
        "decoder-f16",
        &block(decoder_block, WeightForm::F16, DType::F32),
    );
    kept(
        "decoder-int8",
        &block(decoder_block, WeightForm::Int8, DType::Q8_0),
    );
    kept(
        "decoder-int4",
        &block(decoder_block, WeightForm::Int4, DType::Q4_0),
    );
    kept(
        "decoder-blocks",
        &block(decoder_block, WeightForm::Blocks, DType::Q4_0),
    );
    kept(
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
    kept("operations", &all);
}
