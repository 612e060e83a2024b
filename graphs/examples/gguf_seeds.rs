//! Writes the fuzzer's seeds: the hostile GGUF files of the tests, each into a file of its name.

#[path = "../tests/hostile/mod.rs"]
mod hostile;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/gguf");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let cases = hostile::cases();
    for case in &cases {
        std::fs::write(folder.join(case.name), &case.bytes)?;
    }
    println!("{} seeds in {}", cases.len(), folder.display());
    Ok(())
}
