//! Tables of every shape.

use std::sync::Arc;

use anynpu_hal::plugin::{PluginDriver, PluginError, PluginOptions};
use anynpu_hal::{Device, Driver, HalError, OpenOptions, ReasonCode, Support};
use anynpu_ir::{Activation, DType, Dim, Graph, Op, TensorType};

use crate::c::Plugin;
use crate::can_run;

fn load(plugin: &Plugin) -> Result<PluginDriver, PluginError> {
    PluginDriver::load(&plugin.path(), PluginOptions::default())
}

fn shaped(macros: &[&str]) -> PluginDriver {
    load(&Plugin::shaped(macros)).unwrap()
}

fn refused(macros: &[&str]) -> String {
    load(&Plugin::shaped(macros)).unwrap_err().to_string()
}

fn open(driver: &PluginDriver) -> Arc<dyn Device> {
    let found = driver.enumerate().unwrap();
    driver.open(&found[0], &OpenOptions::default()).unwrap()
}

/// Bytes of the table of 1.0.
const SIZE_1_0: usize = 216;

#[test]
fn plugins_of_older_and_newer_versions_load_and_have_what_both_sides_know() {
    if !can_run("plugins_of_older_and_newer_versions_load_and_have_what_both_sides_know") {
        return;
    }
    let own = shaped(&[]);
    assert_eq!(
        (own.abi(), own.name(), own.version()),
        ((1, 1), "shapes", "1")
    );
    assert_eq!(open(&own).queue().counters().submissions, 41);
    // of 1.0, with a table that ends there: what lies behind is not read
    let older = shaped(&["MINOR=0", &format!("SIZE={SIZE_1_0}")]);
    assert_eq!(older.abi(), (1, 0));
    assert_eq!(open(&older).queue().counters().submissions, 0);
    // of a later version, with more members than this side knows
    let newer = shaped(&["MINOR=9", "SIZE=sizeof(table)"]);
    assert_eq!(newer.abi(), (1, 1));
    assert_eq!(open(&newer).queue().counters().submissions, 41);
    // with a table between two versions: it has what fits
    let between = shaped(&[&format!("SIZE={}", SIZE_1_0 + 8)]);
    assert_eq!(open(&between).queue().counters().submissions, 41);
}

#[test]
fn tables_that_do_not_fit_are_errors_that_say_what_was_found_and_expected() {
    if !can_run("tables_that_do_not_fit_are_errors_that_say_what_was_found_and_expected") {
        return;
    }
    let e = refused(&["REFUSE"]);
    assert!(e.contains("newest interface is 1.1"), "{e}");
    let e = refused(&["MAJOR=2"]);
    assert!(e.contains("has the interface 2, expected 1"), "{e}");
    let e = refused(&["SIZE=100"]);
    assert!(e.contains("has 100 bytes, expected at least 216"), "{e}");
    let e = refused(&["NO_COMPILE"]);
    assert!(e.contains("has no 'compile'"), "{e}");
    let e = refused(&["HALF_BLOBS"]);
    assert!(e.contains("has no 'compatibility'"), "{e}");
    let e = refused(&["NAME=\"Vendor NPU\""]);
    assert!(
        e.contains("'Vendor NPU', expected 1 to 64 lower-case"),
        "{e}"
    );
    let e = refused(&["NO_SYMBOL"]);
    assert!(e.contains("has no 'anynpu_backend_query'"), "{e}");
}

#[test]
fn files_that_are_no_plugins_are_errors_with_what_the_loader_said() {
    let told = |path: &str| {
        let loaded = PluginDriver::load(path.as_ref(), PluginOptions::default());
        loaded.unwrap_err().to_string()
    };
    let e = told("/nowhere/libvendor.so");
    assert!(e.contains("/nowhere/libvendor.so"), "{e}");
    assert!(told("/etc/passwd").contains("/etc/passwd"));
    // never looked for where the system's libraries are
    assert!(told("libm.so.6").contains("./libm.so.6"));
    let libm = [
        "/lib/x86_64-linux-gnu/libm.so.6",
        "/lib/aarch64-linux-gnu/libm.so.6",
    ];
    if let Some(libm) = libm.iter().find(|l| std::path::Path::new(l).exists()) {
        assert!(told(libm).contains("has no 'anynpu_backend_query'"));
    }
}

#[test]
fn answers_that_make_no_sense_are_reasons_not_crashes() {
    if !can_run("answers_that_make_no_sense_are_reasons_not_crashes") {
        return;
    }
    let reason = |macros: &[&str]| shaped(macros).enumerate().unwrap_err().reason;
    assert_eq!(
        reason(&["UNAVAILABLE=\"no chip at /dev/npu\""]),
        "no chip at /dev/npu"
    );
    assert_eq!(reason(&["DEVICES=0"]), "the plugin told of no device");
    assert!(reason(&["DEVICES=2"]).contains("'shapes' again"));
    assert!(reason(&["DEVICE=\"GPU 0\""]).contains("'GPU 0', expected 1 to 64"));
    assert!(reason(&["INFO_SIZE=12"]).contains("the size of a device's description"));
    assert!(!reason(&["LONG_MESSAGE"]).is_empty());
    let driver = shaped(&[]);
    let device = open(&driver);
    assert_eq!(device.capabilities().compute, [DType::F32]);
    let mut graph = Graph::new("g");
    let ty = TensorType::new(DType::F32, [Dim::Fixed(2)]);
    let x = graph.add_input("x", ty).unwrap();
    let silu = Op::Activation(Activation::Silu);
    let y = graph.add("a", silu.clone(), &[x]).unwrap();
    let y = graph.add("b", silu, &[y]).unwrap();
    graph.set_output(y).unwrap();
    let verdicts = device.support(&graph.whole());
    let codes: Vec<_> = verdicts.iter().map(|v| v.reason().unwrap().code).collect();
    assert_eq!(codes, [ReasonCode::VendorRejected, ReasonCode::OpUnknown]);
    assert!(verdicts.iter().all(|v| matches!(v, Support::No(_))));
    let entry = anynpu_hal::Entry {
        name: "e".into(),
        nodes: 0..2,
        graph: Arc::new(graph),
        bounds: anynpu_hal::Bounds::new(),
    };
    let options = anynpu_hal::CompileOptions::new(DType::F32);
    let weights = Arc::new(NoWeights);
    let e = device.compile(&[entry], &options, weights, &mut |_, _| true);
    let Err(HalError::CompileRejected { nodes, .. }) = e else {
        panic!("{e:?}");
    };
    assert_eq!(nodes.len(), 2);
}

/// A source without weights.
#[derive(Debug)]
struct NoWeights;

impl anynpu_hal::WeightSource for NoWeights {
    fn weight(&self, name: &str) -> Result<anynpu_hal::WeightView<'_>, HalError> {
        Err(HalError::Weight {
            name: name.into(),
            why: "there is none".into(),
        })
    }
}
