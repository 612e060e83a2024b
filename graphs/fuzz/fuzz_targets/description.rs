//! Reads arbitrary text as the description of a simulated device, and opens what is read.

#![no_main]

use anynpu_cpu::CpuDriver;
use anynpu_hal::{Driver, OpenOptions};
use anynpu_sim::{Description, SimDriver};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(description) = Description::parse(text, "fuzzed.toml") {
        let driver = SimDriver::new(description, Box::new(CpuDriver));
        let found = driver
            .enumerate()
            .expect("a simulated device is always there");
        let mut options = OpenOptions::default();
        options.threads = Some(1);
        driver.open(&found[0], &options).expect("it opens");
    }
});
