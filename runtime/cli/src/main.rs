//! The `anynpu` command line.
fn main() {}
