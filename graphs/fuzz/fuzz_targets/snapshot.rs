//! Restores a session from arbitrary bytes, from a saved session with arbitrary edits, and from one
//! whose sum was mended after the edits.

#![no_main]

#[path = "../../../runtime/src/testing.rs"]
mod testing;

use std::cell::RefCell;
use std::path::PathBuf;

use anynpu_cpu::CpuDriver;
use anynpu_hal::Driver;
use anynpu_runtime::knobs::Knobs;
use anynpu_runtime::{LoadOptions, OpenModel, Runtime, Session, SessionOptions};
use libfuzzer_sys::fuzz_target;

const TOKENS: [u32; 4] = [3, 1, 4, 1];

/// A session to restore into, what it saved, and the file that is restored from.
struct Bench {
    session: Session,
    saved: Vec<u8>,
    file: PathBuf,
    // holds the folder of `file`
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let drivers: Vec<Box<dyn Driver>> = vec![Box::new(CpuDriver)];
        let runtime = Runtime::builder()
            .drivers(drivers)
            .threads(1)
            .knobs(Knobs::default());
        let runtime = runtime.build().expect("the CPU opens");
        let open = OpenModel::new(testing::tiny_llama(1), None);
        let model = runtime
            .load_open(open, LoadOptions::new())
            .expect("the model loads");
        let mut session = model.session(SessionOptions::new()).expect("a session");
        session.prefill(&TOKENS, None).expect("a prompt");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("session.kv");
        session.save(&file).expect("the session is saved");
        let saved = std::fs::read(&file).expect("the saved file");
        Bench {
            session,
            saved,
            file,
            _folder: folder,
        }
    }
}

/// The saved file after `edits`, each a place (2 bytes), a length up to 15 and a kind in one byte,
/// and the bytes.
fn edited(saved: &[u8], mut edits: &[u8]) -> Vec<u8> {
    let mut file = saved.to_vec();
    while let [low, high, how, rest @ ..] = edits {
        let at = usize::from(u16::from_le_bytes([*low, *high])) % (file.len() + 1);
        let (bytes, left) = rest.split_at(rest.len().min(usize::from(how & 15)));
        match how >> 4 {
            0 => file.truncate(at),
            1 => drop(file.splice(at..at, bytes.iter().copied())),
            _ => {
                let end = file.len().min(at + bytes.len());
                file[at..end].copy_from_slice(&bytes[..end - at]);
            }
        }
        edits = left;
    }
    file
}

fn mend(file: &mut [u8]) {
    if let Some(body) = file.len().checked_sub(32) {
        let sum = blake3::hash(&file[..body]);
        file[body..].copy_from_slice(sum.as_bytes());
    }
}

thread_local!(static BENCH: RefCell<Bench> = RefCell::new(Bench::new()));

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else {
        return;
    };
    BENCH.with_borrow_mut(|bench| {
        let mut bytes = match how {
            0 => rest.to_vec(),
            _ => edited(&bench.saved, rest),
        };
        if *how > 1 {
            mend(&mut bytes);
        }
        std::fs::write(&bench.file, &bytes).expect("a file to restore from");
        let before = bench.session.tokens().to_vec();
        match bench.session.restore(&bench.file) {
            Ok(()) => {
                let tokens = bench.session.tokens();
                assert!(tokens.len() <= testing::CONTEXT as usize);
                assert!(tokens.iter().all(|&t| t < testing::VOCABULARY));
                if tokens.len() < testing::CONTEXT as usize {
                    // numbers of any kind may come out, or an error
                    let _ = bench.session.decode(5).map_err(|e| e.to_string());
                }
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_eq!(
                    bench.session.tokens(),
                    before,
                    "a refused file changes nothing"
                );
            }
        }
        if bench.session.tokens().len() + 8 > testing::CONTEXT as usize {
            bench.session.truncate(4);
        }
    });
});
