//! Hostile GGUF files are refused with the fault named.

mod hostile;

use std::path::Path;

use anynpu_graphs::arch;
use anynpu_graphs::import::gguf::{Fault, Gguf, GgufError};
use hostile::{cases, llama, sound};

fn fault(bytes: &[u8]) -> Result<Gguf, Fault> {
    match Gguf::from_vec("hostile", bytes.to_vec()) {
        Ok(file) => Ok(file),
        Err(GgufError::Malformed { fault, at, file }) => {
            assert_eq!(&*file, "hostile");
            assert!(at <= bytes.len() as u64, "{fault} at {at}");
            Err(fault)
        }
        Err(other) => panic!("not a fault of the contents: {other}"),
    }
}

#[test]
fn each_class_is_refused_by_its_name() {
    for case in cases() {
        match (fault(&case.bytes), case.fault) {
            (Err(found), Some(expected)) => {
                assert!(expected(&found), "{}: {found}", case.name);
                assert!(found.to_string().len() < 400, "{}: {found}", case.name);
            }
            (Ok(_), None) => {}
            (Ok(_), Some(_)) => panic!("{} was accepted", case.name),
            (Err(found), None) => panic!("{} was refused: {found}", case.name),
        }
    }
}

#[test]
fn the_llama_seed_is_a_model() {
    let file = Gguf::from_vec("llama", llama()).unwrap();
    assert_eq!(arch::build(&file).unwrap().layers, 1);
}

#[test]
fn every_cut_of_a_sound_file_is_refused() {
    let bytes = sound();
    // The last tensor ends before the padding does: 84 bytes at 160 of 256.
    let end = bytes.len() - 256 + 160 + 84;
    for len in 0..end {
        assert!(fault(&bytes[..len]).is_err(), "accepted at {len} bytes");
    }
    assert!(fault(&bytes[..end]).is_ok());
}

#[test]
fn a_file_on_disk_is_named_in_the_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    std::fs::write(&path, &sound()[..100]).unwrap();
    let error = Gguf::open(&path).unwrap_err().to_string();
    assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    assert!(error.contains("truncated"), "{error}");
    let error = Gguf::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is a directory"), "{error}");
    let error = Gguf::open(dir.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("no such file"), "{error}");
}

#[test]
fn names_in_messages_are_short_and_printable() {
    let mut bytes = sound();
    let at = bytes.windows(7).position(|w| w == b"a.count").unwrap();
    bytes[at..at + 7].copy_from_slice(b"\x1b[31m\n\0");
    let kind = at + 7;
    bytes[kind] = 77;
    let error = fault(&bytes).unwrap_err().to_string();
    assert_eq!(
        error,
        "metadata '\\u{1b}[31m\\n\\0' has a value of type id 77; ids 0 to 12 are known"
    );
}

#[test]
fn the_fuzzers_seeds_are_these_cases() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/gguf");
    let mut kept: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    kept.sort();
    let again = "write them again: cargo run -p anynpu-graphs --example gguf_seeds";
    let mut wanted: Vec<&str> = Vec::new();
    for case in cases() {
        wanted.push(case.name);
        let bytes = std::fs::read(folder.join(case.name)).unwrap_or_default();
        assert!(bytes == case.bytes, "seed {} differs; {again}", case.name);
    }
    wanted.sort_unstable();
    assert_eq!(kept, wanted, "{again}");
}
