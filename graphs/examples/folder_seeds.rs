//! Writes the fuzzers' seeds: the safetensors files and configurations of the tests, each into a
//! file of its name.

#[path = "../tests/folders/mod.rs"]
mod folders;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let mut files = Vec::new();
    for case in folders::cases() {
        // the fuzzer reads up to 8 KiB
        if case.bytes.len() <= 8192 {
            files.push((format!("safetensors/{}", case.name), case.bytes));
        }
    }
    for model_type in folders::MODEL_TYPES {
        let config = folders::config(model_type).to_string();
        files.push((format!("config/{model_type}"), config.into_bytes()));
    }
    for (n, (model_type, members, _)) in folders::refused().into_iter().enumerate() {
        let config = folders::config_with(model_type, &members).to_string();
        files.push((format!("config/refused-{n}"), config.into_bytes()));
    }
    for folder in ["safetensors", "config"] {
        let folder = seeds.join(folder);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
    }
    for (name, bytes) in &files {
        std::fs::write(seeds.join(name), bytes)?;
    }
    println!("{} seeds in {}", files.len(), seeds.display());
    Ok(())
}
