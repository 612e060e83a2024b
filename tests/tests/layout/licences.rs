//! Licences of everything the workspace is built from.

use serde_json::Value;

use crate::{metadata, report};

/// Licences that let the project stay MIT OR Apache-2.0 for everyone. A new one is added here
/// after reading it, with the package it came with named in the commit.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Packages the project must not be built from, and what is used instead.
const REFUSED: &[(&str, &str)] = &[
    ("abi_stable", "plain repr(C) tables with struct_size"),
    ("stabby", "plain repr(C) tables with struct_size"),
    ("bindgen", "declarations that are checked in"),
    ("openssl-sys", "nothing here speaks to a network"),
];

/// Whether an SPDX expression can be met with allowed licences alone.
///
/// Grammar: SPDX specification, annex "SPDX license expressions" (AND binds tighter than OR);
/// `/` is read as OR, as older manifests write it.
fn satisfied(expression: &str) -> Result<bool, String> {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    let result = any(&mut rest)?;
    match rest.first() {
        None => Ok(result),
        Some(extra) => Err(format!("'{extra}' is out of place in '{expression}'")),
    }
}

fn any(tokens: &mut &[&str]) -> Result<bool, String> {
    let mut result = all(tokens)?;
    while let [first, rest @ ..] = *tokens
        && *first == "OR"
    {
        *tokens = rest;
        result |= all(tokens)?;
    }
    Ok(result)
}

fn all(tokens: &mut &[&str]) -> Result<bool, String> {
    let mut result = one(tokens)?;
    while let [first, rest @ ..] = *tokens
        && *first == "AND"
    {
        *tokens = rest;
        result &= one(tokens)?;
    }
    Ok(result)
}

fn one(tokens: &mut &[&str]) -> Result<bool, String> {
    match *tokens {
        ["(", rest @ ..] => {
            *tokens = rest;
            let result = any(tokens)?;
            let [")", rest @ ..] = *tokens else {
                return Err("a ')' is missing".into());
            };
            *tokens = rest;
            Ok(result)
        }
        [licence, "WITH", exception, rest @ ..] => {
            *tokens = rest;
            Ok(ALLOWED.contains(&format!("{licence} WITH {exception}").as_str()))
        }
        [licence, rest @ ..] if !["OR", "AND", "WITH", ")"].contains(licence) => {
            *tokens = rest;
            Ok(ALLOWED.contains(licence))
        }
        _ => Err("a licence is missing".into()),
    }
}

/// Faults in what the packages of `metadata` are licensed under.
fn licence_faults(metadata: &Value) -> Vec<String> {
    let empty = Vec::new();
    let mut faults = Vec::new();
    for p in metadata["packages"].as_array().unwrap_or(&empty) {
        let name = p["name"].as_str().unwrap_or("?");
        let package = format!("{name} {}", p["version"].as_str().unwrap_or("?"));
        match p["license"].as_str().map(satisfied) {
            None => faults.push(format!("{package} names no licence")),
            Some(Ok(true)) => {}
            Some(Ok(false)) => faults.push(format!(
                "{package} is under '{}', which needs a licence that is not allowed",
                p["license"].as_str().unwrap_or_default()
            )),
            Some(Err(e)) => faults.push(format!("{package}: {e}")),
        }
        if let Some((_, instead)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            faults.push(format!("{package} is refused; the project uses {instead}"));
        }
    }
    faults
}

/// The target this test was built on, as `rustc -vV` names it.
fn host() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = std::process::Command::new(rustc)
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let line = text.lines().find_map(|l| l.strip_prefix("host: "));
    line.expect("rustc names its host").to_owned()
}

#[test]
fn dependencies_are_under_allowed_licences() {
    const NAME: &str = "dependencies_are_under_allowed_licences";
    // What other platforms need is there only after `cargo fetch`, what other packages of the
    // workspace need only after all of it was built.
    let found = match metadata(&["--locked"]) {
        Ok(all) => all,
        Err(e) => {
            println!(
                "SKIPPED {NAME} on other platforms: run `cargo fetch` first; {}",
                e.trim()
            );
            match metadata(&["--locked", "--filter-platform", &host()]) {
                Ok(here) => here,
                Err(e) => {
                    println!("SKIPPED {NAME}: run `cargo fetch` first; {}", e.trim());
                    return;
                }
            }
        }
    };
    let count = found["packages"].as_array().map_or(0, Vec::len);
    assert!(count > 30, "found only {count} packages");
    report(
        "licences of what the project is built from:",
        &licence_faults(&found),
    );
}

#[test]
fn licence_expressions_are_judged_as_spdx_reads_them() {
    for good in [
        "MIT",
        "MIT OR GPL-3.0-only",
        "MIT/Apache-2.0",
        "(MIT OR GPL-2.0-only) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0-only",
        "GPL-2.0-only AND MIT OR ISC",
    ] {
        assert_eq!(satisfied(good), Ok(true), "{good}");
    }
    for bad in [
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "GPL-2.0-only WITH Classpath-exception-2.0",
        "(MIT OR ISC) AND (GPL-2.0-only OR AGPL-3.0-only)",
        "MITX",
    ] {
        assert_eq!(satisfied(bad), Ok(false), "{bad}");
    }
    for broken in ["", "MIT OR", "(MIT", "MIT ISC", "AND MIT", "MIT)"] {
        assert!(satisfied(broken).is_err(), "{broken}");
    }
}

#[test]
fn a_planted_licence_is_found() {
    let metadata = serde_json::json!({"packages": [
        {"name": "good", "version": "1.0.0", "license": "MIT"},
        {"name": "viral", "version": "2.0.0", "license": "AGPL-3.0-only"},
        {"name": "nameless", "version": "3.0.0", "license": null},
        {"name": "bindgen", "version": "4.0.0", "license": "BSD-3-Clause"},
    ]});
    let faults = licence_faults(&metadata);
    assert_eq!(faults.len(), 3, "{faults:?}");
    for (fault, package) in faults
        .iter()
        .zip(["viral 2.0.0", "nameless 3.0.0", "bindgen 4.0.0"])
    {
        assert!(fault.starts_with(package), "{fault}");
    }
}
