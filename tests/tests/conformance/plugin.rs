//! Devices behind the C interface: the CPU exported as a plugin, and a plugin compiled from C.

use std::path::Path;
use std::process::Command;

use anynpu_hal::plugin::{PluginDriver, PluginOptions};
use anynpu_tests::conformance::{Expectations, SuiteOptions};

use crate::{certify_but, failures};

anynpu_hal::export_driver!(anynpu_cpu::CpuDriver);

/// What is different behind the interface.
const KNOWN: &str = r#"
[[expect]]
id = "compile/memory_need_is_no_less_than_resident"
reason = "weights that a host hands over for one call are copied by the CPU, which counts them as read in place before"
"#;

#[test]
fn the_cpu_backend_is_certified_through_the_c_interface_with_guarded_buffers() {
    let mut options = PluginOptions::default();
    options.guarded = true;
    // SAFETY: the function is the one that was exported above.
    #[allow(unsafe_code)]
    let plugin = unsafe { PluginDriver::from_query("exported", anynpu_backend_query, options) };
    let known = Expectations::parse(KNOWN).unwrap();
    let certificate = certify_but(plugin.unwrap(), SuiteOptions::default(), &[], &known);
    assert!(certificate.certified(), "{:#?}", failures(&certificate));
    assert!(
        certificate.counts().passed > 4000,
        "{:?}",
        certificate.counts()
    );
}

/// The C compiler that there is.
fn compiler() -> Option<String> {
    let named = std::env::var("CC").ok();
    let known = ["cc", "gcc", "clang"].map(str::to_owned);
    named.into_iter().chain(known).find(|cc| {
        let asked = Command::new(cc).arg("--version").output();
        asked.is_ok_and(|o| o.status.success())
    })
}

/// The exit status and the output of `anynpu-cts` on a plugin of one C file.
fn on_c(source: &str, macros: &[&str], arguments: &[&str]) -> (Option<i32>, String) {
    let top = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libplugin.so");
    let mut cc = Command::new(compiler().expect("a C compiler"));
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library);
    cc.arg("-I").arg(top.join("hal/include"));
    cc.args(macros.iter().map(|m| format!("-D{m}")));
    cc.arg(top.join(source)).arg("-lm");
    assert!(cc.status().unwrap().success());
    let mut cts = Command::new(env!("CARGO_BIN_EXE_anynpu-cts"));
    let out = cts.arg("--driver").arg(&library).args(arguments).output();
    let out = out.unwrap();
    let told = [out.stdout, out.stderr].concat();
    (
        out.status.code(),
        String::from_utf8_lossy(&told).into_owned(),
    )
}

/// As [`on_c`], the loader's test plugin and a few cases.
fn on_shapes(macros: &[&str]) -> (Option<i32>, String) {
    let few = ["--quick", "--filter", "op/add/*"];
    on_c("tests/data/plugins/shapes.c", macros, &few)
}

#[test]
fn the_template_in_c_is_certified_for_what_it_claims() {
    let (status, told) = on_c("backends/template/c/template.c", &[], &[]);
    assert_eq!(status, Some(0), "{told}");
    assert!(told.ends_with("certified\n"), "{told}");
}

#[test]
fn a_plugin_from_c_is_tested_in_a_helper_and_need_not_claim_anything() {
    let (status, told) = on_shapes(&[]);
    assert_eq!(status, Some(0), "{told}");
    assert!(
        told.contains("runs nothing, in a process of its own"),
        "{told}"
    );
    assert!(told.contains("0 passed, 0 failed"), "{told}");
}

#[test]
fn a_plugin_that_crashes_when_it_is_loaded_fails() {
    let (status, told) = on_shapes(&["CRASH"]);
    assert_eq!(status, Some(1), "{told}");
    assert!(
        told.contains("did not open: crashed: ") && told.contains("signal: 11"),
        "{told}"
    );
}

#[test]
fn a_plugin_without_devices_fails() {
    let (status, told) = on_shapes(&["UNAVAILABLE=\"no such chip\""]);
    assert_eq!(status, Some(1), "{told}");
    assert!(told.contains("no such chip"), "{told}");
}
