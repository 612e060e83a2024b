//! What is committed is what comes of the description.

use anynpu_coreml_proto_check::{committed, generate};

#[test]
fn the_committed_types_are_those_of_the_description() {
    let found = std::fs::read_to_string(committed()).unwrap();
    assert!(
        found == generate().unwrap(),
        "coreml.proto gives other types; cargo run here writes them"
    );
}
