//! Plugins that manifests name, and those that are tried first.

use std::time::Duration;

use anynpu_hal::Driver;
use anynpu_hal::isolate::Helper;
use anynpu_hal::plugin::{PluginDriver, PluginError, PluginOptions};

use crate::c::Plugin;
use crate::can_run;

#[test]
fn a_manifest_names_a_plugin_and_holds_it_to_its_name() {
    if !can_run("a_manifest_names_a_plugin_and_holds_it_to_its_name") {
        return;
    }
    let plugin = Plugin::shaped(&[]);
    let path = plugin.beside("shapes.json");
    let load = |name: &str| {
        let manifest = serde_json::json!({
            "manifest": 1, "name": name, "library_path": "libshapes.so", "abi": "1.0",
            "arch": std::env::consts::ARCH,
        });
        std::fs::write(&path, manifest.to_string()).unwrap();
        PluginDriver::load(&path, PluginOptions::default())
    };
    assert_eq!(load("shapes").unwrap().name(), "shapes");
    let e = load("other").unwrap_err();
    assert!(matches!(e, PluginError::Name { .. }), "{e}");
    assert!(
        e.to_string()
            .contains("'shapes', its manifest says 'other'"),
        "{e}"
    );
}

#[test]
fn a_helper_that_crashes_or_hangs_is_told_as_such() {
    let told = |script: &str| {
        let helper = Helper {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
        };
        PluginDriver::try_first("lib.so".as_ref(), &helper, Duration::from_secs(2))
    };
    assert_eq!(told("exit 1"), Ok(()));
    let e = told("kill -SEGV $$").unwrap_err();
    assert!(e.to_string().contains("signal"), "{e}");
    assert!(matches!(e, PluginError::Crashes { .. }));
    let e = told("while true; do :; done").unwrap_err();
    assert!(matches!(e, PluginError::Hangs { .. }), "{e}");
    let absent = Helper {
        program: "/nowhere/helper".into(),
        arguments: Vec::new(),
    };
    let e = PluginDriver::try_first("lib.so".as_ref(), &absent, Duration::from_secs(2));
    assert!(matches!(e, Err(PluginError::Crashes { .. })), "{e:?}");
}
