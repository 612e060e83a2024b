//! Reads arbitrary bytes as a profile; what is read is written and read again.

#![no_main]

use anynpu_runtime::profile::Profile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(profile) = Profile::parse("fuzzed.json", bytes) {
        let text = profile.to_json();
        let again =
            Profile::parse("again.json", text.as_bytes()).expect("what was written is read");
        assert_eq!(again.to_json(), text);
    }
});
