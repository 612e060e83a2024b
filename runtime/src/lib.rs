//! Runs a model over the devices it is given.

pub mod sample;
pub mod tokenize;
