//! Writes `hal/include/anynpu.h` anew.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    std::fs::write(anynpu_abi_check::header(), anynpu_abi_check::generate()?)?;
    Ok(())
}
