//! The header and the declarations say the same.

use std::path::Path;
use std::process::Command;

use anynpu_abi_check::{declarations, generate, header};

#[test]
fn the_header_is_the_one_that_the_declarations_make() {
    let kept = std::fs::read_to_string(header()).expect("the header");
    let made = generate().expect("a header");
    let differ = kept.lines().zip(made.lines()).position(|(a, b)| a != b);
    assert!(
        kept == made,
        "hal/include/anynpu.h differs from line {:?} on; `cargo run --manifest-path hal/abi/check/Cargo.toml` makes it anew",
        differ.map(|n| n + 1)
    );
}

/// What bindgen says of the sizes, alignments and offsets that C compilers see: assertions about types of the same names.
fn layouts() -> (String, String) {
    let bindings = bindgen::Builder::default()
        .header(header().to_string_lossy())
        .allowlist_item("anynpu_.*")
        .allowlist_item("ANYNPU_.*")
        .generate()
        .expect("bindings");
    let all = bindings.to_string();
    let mut assertions = String::new();
    let mut within = false;
    for line in all.lines() {
        let begins = line.starts_with("const _: () = {");
        if begins {
            within = true;
        }
        if within {
            assertions.push_str(line);
            assertions.push('\n');
        }
        if within && line == "};" {
            within = false;
        }
    }
    (all, assertions)
}

/// Whether `assertions` hold of the declarations in `folder`.
fn holds(folder: &Path, assertions: &str) -> Result<(), String> {
    let out = tempfile::tempdir().expect("a folder");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let run = |arguments: &[&str], source: &Path| {
        let made = Command::new(&rustc)
            .args(["--edition", "2024", "--crate-type", "lib", "--out-dir"])
            .arg(out.path())
            .args(arguments)
            .arg(source)
            .output()
            .expect("the compiler");
        match made.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&made.stderr).into_owned()),
        }
    };
    run(&["--crate-name", "anynpu_abi"], &folder.join("src/lib.rs"))?;
    let checks = out.path().join("checks.rs");
    let text = format!("#![allow(unused)]\nuse anynpu_abi::*;\n{assertions}");
    std::fs::write(&checks, text).expect("a file");
    let library = format!(
        "anynpu_abi={}",
        out.path().join("libanynpu_abi.rlib").display()
    );
    run(&["--extern", &library], &checks)
}

/// Structures and unions in the header.
fn structures() -> usize {
    let text = std::fs::read_to_string(header()).expect("the header");
    let begin = |l: &&str| l.starts_with("typedef struct ") || l.starts_with("typedef union ");
    text.lines()
        .filter(begin)
        .filter(|l| l.ends_with('{'))
        .count()
}

#[test]
fn c_compilers_see_every_member_where_the_declarations_have_it() {
    let (_, assertions) = layouts();
    let sizes = assertions.matches("[\"Size of ").count();
    let offsets = assertions.matches("[\"Offset of field: ").count();
    assert_eq!(sizes, structures());
    assert!(offsets > 150, "{offsets} members");
    holds(&declarations(), &assertions).unwrap_or_else(|e| panic!("{e}"));
    // that it would be noticed
    let wrong = assertions.replacen("- 0usize", "- 1usize", 1);
    assert!(holds(&declarations(), &wrong).is_err());
}

#[test]
fn c_compilers_see_every_constant_as_the_declarations_have_it() {
    let (all, _) = layouts();
    let mut checks = String::from("const _: () = {\n");
    let mut count = 0;
    for line in all.lines() {
        let Some(rest) = line.strip_prefix("pub const ANYNPU_") else {
            continue;
        };
        let (name, rest) = rest.split_once(':').expect("a type");
        let value = rest
            .split_once("= ")
            .expect("a value")
            .1
            .trim_end_matches(';');
        checks.push_str(&format!("assert!(ANYNPU_{name} as i128 == {value});\n"));
        count += 1;
    }
    checks.push_str("};\n");
    let declared = ["codes", "graph", "host", "device", "backend"].map(|file| {
        let path = declarations().join(format!("src/{file}.rs"));
        let text = std::fs::read_to_string(path).expect("a file");
        text.matches("\npub const ANYNPU_").count()
    });
    // all but what is of use to this side alone
    assert_eq!(count, declared.iter().sum::<usize>() - 1);
    holds(&declarations(), &checks).unwrap_or_else(|e| panic!("{e}"));
}
