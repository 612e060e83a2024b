//! Reads arbitrary bytes as the manifest of a plugin.

#![no_main]

use std::path::Path;

use anynpu_hal::plugin::Manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes, Path::new("/opt/vendor/npu.json")) {
        assert!((1..=64).contains(&manifest.name.len()));
        assert_eq!(manifest.abi.0, 1);
        assert!(manifest.library.is_absolute());
    }
});
