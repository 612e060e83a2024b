//! The CPU's driver, exported as a plugin and loaded as one: every call crosses the C interface.

use std::ops::ControlFlow;
use std::sync::Arc;

use anynpu_hal::plugin::{PluginDriver, PluginOptions};
use anynpu_hal::{Device, Driver, OpenOptions};
use anynpu_ir::SymbolValues;
use anynpu_runtime::{GenerateOptions, LoadOptions, Runtime, SessionOptions};
use anynpu_tests::{Expectation, Report, cases, run_on};

anynpu_hal::export_driver!(anynpu_cpu::CpuDriver);

fn plugin(guarded: bool) -> PluginDriver {
    let mut options = PluginOptions::default();
    options.guarded = guarded;
    // SAFETY: the function is the one that was exported above.
    #[allow(unsafe_code)]
    let loaded = unsafe { PluginDriver::from_query("exported", anynpu_backend_query, options) };
    loaded.unwrap()
}

fn open(driver: &PluginDriver) -> Arc<dyn Device> {
    let found = driver.enumerate().unwrap();
    driver.open(&found[0], &OpenOptions::default()).unwrap()
}

#[test]
fn every_case_gives_the_same_through_the_interface() {
    for guarded in [false, true] {
        let device = open(&plugin(guarded));
        let mut report = Report::default();
        for case in cases::all() {
            let symbols = SymbolValues::default();
            let graph = Arc::new(case.graph.clone());
            let outcome = run_on(&*device, &graph, &case.inputs, &symbols);
            let outcome = match (&case.expected, outcome) {
                // devices say in their own words what is wrong
                (Expectation::Error(_), Err(_)) => Ok(()),
                (_, outcome) => case.check(outcome),
            };
            report.record(&case.name, outcome);
        }
        assert!(
            report.failed().is_empty() && report.passed() > 100,
            "{report}"
        );
    }
}

#[test]
fn claims_and_verdicts_are_those_of_the_driver_itself() {
    let own = anynpu_cpu::CpuDriver;
    let found = own.enumerate().unwrap();
    let own = own.open(&found[0], &OpenOptions::default()).unwrap();
    let device = open(&plugin(false));
    let (a, b) = (device.capabilities(), own.capabilities());
    assert_eq!(a.op_set, b.op_set);
    assert_eq!(a.features, b.features);
    assert_eq!(
        (a.states, &a.compute, &a.weights),
        (b.states, &b.compute, &b.weights)
    );
    assert_eq!(device.info().description, own.info().description);
    for case in cases::all() {
        let run = case.graph.whole();
        assert_eq!(device.support(&run), own.support(&run), "{}", case.name);
    }
}

fn tell(runtime: &Runtime) -> anynpu_runtime::GenerationReport {
    let story = crate::c::root().join("graphs/story-model/story-Q8_0.gguf");
    let loaded = runtime.load(story, LoadOptions::new());
    let mut session = loaded.unwrap().session(SessionOptions::new()).unwrap();
    let options = GenerateOptions::new().max_tokens(24).seed(1);
    let told = session.generate("Once upon", &options, |_| ControlFlow::Continue(()));
    told.unwrap()
}

#[test]
fn a_model_runs_through_the_interface_as_it_does_without() {
    let own: Box<dyn Driver> = Box::new(anynpu_cpu::CpuDriver);
    let own = tell(&Runtime::builder().drivers(vec![own]).build().unwrap());
    let plugin: Box<dyn Driver> = Box::new(plugin(false));
    let through = tell(&Runtime::builder().drivers(vec![plugin]).build().unwrap());
    assert_eq!(through.text, own.text);
    let (a, b) = (
        &through.executed.devices["cpu"],
        &own.executed.devices["cpu"],
    );
    assert_eq!((a.nodes, a.segments), (b.nodes, b.segments));
    assert!(a.nodes > 1000 && a.us > 0);
}
