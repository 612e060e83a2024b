//! Makes `backends/coreml/src/package/proto.rs` of `coreml.proto`.
//!
//! Without a protobuf compiler: protox reads the description, prost-build writes the types.

use std::path::{Path, PathBuf};

/// The folder of the description.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The types that are checked in.
pub fn committed() -> PathBuf {
    folder().join("../src/package/proto.rs")
}

/// The types as they follow from the description.
///
/// # Errors
/// What protox and prost-build say.
pub fn generate() -> Result<String, Box<dyn std::error::Error>> {
    let descriptors = protox::compile([folder().join("coreml.proto")], [folder()])?;
    let out = tempfile::tempdir()?;
    let mut config = prost_build::Config::new();
    // maps of a fixed order, so that the same program is the same bytes
    config.btree_map(["."]).out_dir(out.path());
    config.compile_fds(descriptors)?;
    Ok(std::fs::read_to_string(
        out.path().join("anynpu.coreml.rs"),
    )?)
}
