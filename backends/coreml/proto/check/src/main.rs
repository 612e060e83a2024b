//! Writes `backends/coreml/src/package/proto.rs` anew.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    std::fs::write(
        anynpu_coreml_proto_check::committed(),
        anynpu_coreml_proto_check::generate()?,
    )?;
    Ok(())
}
