//! Compiled forms of modules.
#![allow(clippy::single_range_in_vec_init)] // a graph cut into one run

mod common;

use std::sync::Arc;

use anynpu_hal::{BlobCompatibility, Device, HalError};
use anynpu_sim::{Description, Shipped};
use common::{Session, Weights, compile, conversation, llama, open, shipped};
use proptest::prelude::*;

/// Reference-f32 with a compiled form and `from` replaced by `to`.
fn device(from: &str, to: &str) -> Arc<dyn Device> {
    let text = Shipped::find("reference-f32").unwrap().text;
    assert!(text.contains(from));
    let text = text
        .replacen(from, to, 1)
        .replace("ops =", "compiled_form = true\nops =");
    open(Description::parse(&text, "kept").unwrap())
}

fn blob(device: &Arc<dyn Device>) -> Vec<u8> {
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    let module = compile(device, &graph, &[0..10, 10..nodes]).unwrap();
    module.blob().unwrap().unwrap()
}

#[test]
fn a_loaded_module_computes_what_the_compiled_one_does() {
    let graph = Arc::new(llama());
    let nodes = graph.nodes().len() as u32;
    for compute in ["f32", "f16"] {
        let first = device("compute = \"f32\"", &format!("compute = \"{compute}\""));
        let mut compiled = Session::new(&first, &graph, &[0..10, 10..nodes]);
        let blob = compiled.module.blob().unwrap().unwrap();
        let second = device("compute = \"f32\"", &format!("compute = \"{compute}\""));
        assert_eq!(first.compatibility(), second.compatibility());
        assert_eq!(second.check_blob(&blob), BlobCompatibility::Optimal);
        let loaded = second.load(&blob, Weights::of(&graph)).unwrap();
        assert_eq!(loaded.entries(), compiled.module.entries());
        assert_eq!(loaded.blob().unwrap().unwrap(), blob);
        let mut again = Session::new(&second, &graph, &[0..10, 10..nodes]);
        again.module = loaded;
        assert_eq!(conversation(&mut again), conversation(&mut compiled));
    }
}

#[test]
fn a_blob_of_another_device_is_refused_and_one_of_an_older_version_is_better_made_anew() {
    let kept = blob(&device("ops = \"all\"", "ops = \"all\""));
    let other = device("name = \"reference-f32\"", "name = \"other\"");
    let BlobCompatibility::Unsupported(why) = other.check_blob(&kept) else {
        panic!("another device's blob is taken");
    };
    assert!(why.contains("'reference-f32', not for 'other'"), "{why}");
    let refused = other.load(&kept, Weights::of(&llama())).unwrap_err();
    assert!(
        matches!(refused, HalError::BlobRejected { .. }),
        "{refused}"
    );

    // faster or slower makes no difference
    let faster = device("value = 40e9", "value = 80e9");
    assert_eq!(faster.check_blob(&kept), BlobCompatibility::Optimal);
    let changed = device("weights = \"all\"", "weights = [\"f32\"]");
    assert!(matches!(
        changed.check_blob(&kept),
        BlobCompatibility::PreferRecompile(_)
    ));
    changed.load(&kept, Weights::of(&llama())).unwrap();
    // what no longer runs is refused by the rules of compiling
    let lacking = device("ops = \"all\"", "ops = [\"Linear\"]");
    let refused = lacking.load(&kept, Weights::of(&llama())).unwrap_err();
    assert!(
        matches!(refused, HalError::CompileRejected { .. }),
        "{refused}"
    );
}

#[test]
fn a_device_without_a_compiled_form_takes_none() {
    let plain = open(shipped("reference-f32"));
    assert!(plain.compatibility().is_empty());
    let graph = Arc::new(llama());
    let module = compile(&plain, &graph, &[0..4]).unwrap();
    assert_eq!(module.blob().unwrap(), None);
    let kept = blob(&device("ops = \"all\"", "ops = \"all\""));
    assert!(matches!(
        plain.check_blob(&kept),
        BlobCompatibility::Unsupported(_)
    ));
    assert!(plain.load(&kept, Weights::of(&graph)).is_err());
}

/// `blob` with its hash made to fit again.
fn signed(mut blob: Vec<u8>) -> Vec<u8> {
    let body = blob.len() - 32;
    let hash = blake3::hash(&blob[..body]);
    blob[body..].copy_from_slice(hash.as_bytes());
    blob
}

#[test]
fn a_blob_for_absurdly_many_rows_is_refused_before_memory_is_reserved() {
    let device = device("ops = \"all\"", "ops = \"all\"");
    let mut forged = blob(&device);
    let last = forged.len() - 32 - 4;
    forged[last..last + 4].copy_from_slice(&(1u32 << 30).to_le_bytes());
    let refused = device.load(&signed(forged), Weights::of(&llama()));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("1073741824"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Damaged blobs are refused, and those whose hash was made to fit are refused or loaded: nothing
    /// panics.
    #[test]
    fn damaged_blobs_are_refused(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let device = device("ops = \"all\"", "ops = \"all\"");
        let good = blob(&device);
        let mut bad = good.clone();
        let at = at.index(bad.len() - 32);
        bad[at] = byte;
        if !whole {
            bad.truncate(cut.index(bad.len()));
        }
        if bad != good {
            let unsupported = matches!(device.check_blob(&bad), BlobCompatibility::Unsupported(_));
            prop_assert!(unsupported);
            prop_assert!(device.load(&bad, Weights::of(&llama())).is_err());
        }
        if bad.len() > 40 {
            let _ = device.load(&signed(bad), Weights::of(&llama()));
        }
    }
}
