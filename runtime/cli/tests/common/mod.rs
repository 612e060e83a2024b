//! Running the program as scripts do.
#![allow(dead_code)] // each test uses a part

use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs the program, its standard input closed.
pub fn anynpu(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_anynpu"))
        .args(args)
        .env_remove("ANYNPU_THREADS")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Bytes that must be text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Standard output of a command that must succeed.
pub fn done(args: &[&str]) -> String {
    let out = anynpu(args);
    let error = text(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{args:?}: {error}");
    text(&out.stdout)
}

/// The JSON document of a command that must succeed.
pub fn json(args: &[&str]) -> Value {
    let document: Value = serde_json::from_str(&done(args)).unwrap();
    let versioned = match &document {
        Value::Array(rows) => &rows[0],
        d => d,
    };
    assert_eq!(versioned["schema_version"], 1, "{args:?}");
    document
}

/// Standard error of a command that must fail with `status` and say every word of `words`.
pub fn refused(args: &[&str], status: i32, words: &[&str]) {
    let out = anynpu(args);
    let error = text(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{args:?}: {error}");
    for word in words {
        assert!(
            error.contains(word),
            "{args:?} should say {word:?}: {error}"
        );
    }
}
