//! Makes `hal/include/anynpu.h` of the declarations in `hal/abi`.

use std::path::{Path, PathBuf};

/// The folder of the declarations.
pub fn declarations() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The header that is checked in.
pub fn header() -> PathBuf {
    declarations().join("../include/anynpu.h")
}

/// The files of the declarations, in the order in which the header has them.
const FILES: [&str; 5] = ["codes", "graph", "host", "device", "backend"];

/// The header as it follows from the declarations.
///
/// # Errors
/// What cbindgen says.
pub fn generate() -> Result<String, Box<dyn std::error::Error>> {
    let folder = declarations();
    let mut config = cbindgen::Config::from_file(folder.join("cbindgen.toml"))?;
    let rules = std::fs::read_to_string(folder.join("rules.md"))?;
    let rules = rules.lines().map(|line| match line.is_empty() {
        true => " *".to_owned(),
        false => format!(" * {line}"),
    });
    let rules = rules.collect::<Vec<_>>().join("\n").replace("**", "");
    config.header = config.header.map(|h| h.replace(" * @RULES@", &rules));
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in FILES {
        builder = builder.with_src(folder.join(format!("src/{file}.rs")));
    }
    let mut text = Vec::new();
    builder.generate()?.write(&mut text);
    let mut text = String::from_utf8(text)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
