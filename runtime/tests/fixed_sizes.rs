//! Devices that are compiled for fixed sizes: padded steps give the same logits as steps of any size.

mod common;

use std::any::Any;
use std::sync::Arc;

use anynpu_cpu::CpuDriver;
use anynpu_hal::{
    Buffer, BufferDesc, Capabilities, CompileOptions, Device, DeviceInfo, Driver, Entry,
    ExposedDevice, Extent, ExternalHandle, FixedShapes, HalError, Module, OpenOptions, Queue,
    Support, Unavailable, WeightSource,
};
use anynpu_ir::{Subgraph, Symbol};
use anynpu_runtime::knobs::Knobs;
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{LoadOptions, LoadedModel, OpenModel, Runtime, RuntimeError, SessionOptions};
use common::testing::{VOCABULARY, tiny_llama};

/// The CPU as a device that takes only some sizes, and refuses to compile anything else.
#[derive(Debug)]
struct FixedSizes(FixedShapes);

#[derive(Debug)]
struct FixedDevice {
    inner: Arc<dyn Device>,
    info: DeviceInfo,
    capabilities: Capabilities,
}

impl Driver for FixedSizes {
    fn name(&self) -> &str {
        "fixed"
    }

    fn enumerate(&self) -> Result<Vec<ExposedDevice>, Unavailable> {
        let mut found = CpuDriver.enumerate()?;
        found[0].info.name = "fixed".into();
        Ok(found)
    }

    fn open(
        &self,
        device: &ExposedDevice,
        options: &OpenOptions,
    ) -> Result<Arc<dyn Device>, HalError> {
        let found = CpuDriver.enumerate().expect("the CPU is always there");
        let inner = CpuDriver.open(&found[0], options)?;
        let mut capabilities = inner.capabilities().clone();
        capabilities.features.dynamic_shapes = false;
        capabilities.features.baseline = false;
        capabilities.fixed_shapes = Some(self.0.clone());
        Ok(Arc::new(FixedDevice {
            inner,
            info: device.info.clone(),
            capabilities,
        }))
    }
}

impl Device for FixedDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn support(&self, graph: &Subgraph<'_>) -> Vec<Support> {
        self.inner.support(graph)
    }

    fn compile(
        &self,
        entries: &[Entry],
        options: &CompileOptions,
        weights: Arc<dyn WeightSource>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Arc<dyn Module>, HalError> {
        let shapes = self.capabilities.fixed_shapes.as_ref().unwrap();
        for entry in entries {
            let fixed = |symbol, sizes: &[u32]| match entry.bounds.get(symbol) {
                Extent::Exact(n) => assert!(sizes.is_empty() || sizes.contains(&n), "{n}"),
                Extent::AtMost(n) => panic!("{}: {symbol:?} is at most {n}", entry.name),
            };
            fixed(Symbol::TOKENS, &shapes.tokens);
            fixed(Symbol::CAPACITY, &shapes.capacities);
            fixed(Symbol::OUTPUTS, &[1]);
        }
        self.inner.compile(entries, options, weights, progress)
    }

    fn allocate(&self, desc: &BufferDesc) -> Result<Arc<dyn Buffer>, HalError> {
        self.inner.allocate(desc)
    }

    fn import(
        &self,
        handle: ExternalHandle,
        desc: &BufferDesc,
    ) -> Result<Arc<dyn Buffer>, HalError> {
        self.inner.import(handle, desc)
    }

    fn queue(&self) -> &dyn Queue {
        self.inner.queue()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn shapes(tokens: &[u32], capacities: &[u32]) -> FixedShapes {
    FixedShapes {
        tokens: tokens.into(),
        capacities: capacities.into(),
    }
}

const ROWS: u32 = 48;

fn load(devices: &[&str], fixed: FixedShapes, pins: &[&str]) -> Result<LoadedModel, RuntimeError> {
    let drivers: Vec<Box<dyn Driver>> = vec![Box::new(CpuDriver), Box::new(FixedSizes(fixed))];
    let mut builder = Runtime::builder().drivers(drivers).knobs(Knobs::default());
    for device in devices {
        builder = builder.device(*device);
    }
    let placement = Placement {
        pins: pins.iter().map(|p| p.parse().unwrap()).collect(),
        ..Placement::default()
    };
    let open = OpenModel::new(tiny_llama(3), None);
    let options = LoadOptions::new().context(ROWS).placement(placement);
    builder.build()?.load_open(open, options)
}

fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 7 + 3) % VOCABULARY).collect()
}

/// Logits after a prompt of `prompt` tokens, put in from `start` on, and after three tokens more if they fit.
fn logits(model: &LoadedModel, start: u32, prompt: u32) -> Vec<Vec<f32>> {
    let mut session = model.session(SessionOptions::new()).unwrap();
    let all = tokens(ROWS);
    let (start, end) = (start as usize, (start + prompt) as usize);
    if start > 0 {
        session.prefill(&all[..start], None).unwrap();
    }
    session.prefill(&all[start..end], None).unwrap();
    let mut rows = vec![session.logits().unwrap().to_vec()];
    for &token in all[end..].iter().take(3) {
        session.decode(token).unwrap();
        rows.push(session.logits().unwrap().to_vec());
    }
    assert!(session.miscounts().is_empty());
    rows
}

fn on_cpu() -> LoadedModel {
    load(&["cpu"], FixedShapes::default(), &[]).unwrap()
}

#[test]
fn every_prompt_length_gives_the_logits_of_steps_of_any_size() {
    let cpu = on_cpu();
    for (tokens, capacities) in [
        (&[1, 8, 32][..], &[ROWS, 64][..]),
        (&[1, 16], &[]),
        (&[], &[64]),
    ] {
        let fixed = load(&["fixed"], shapes(tokens, capacities), &[]).unwrap();
        let split = load(
            &["cpu", "fixed"],
            shapes(tokens, capacities),
            &["layers.1=fixed", "layers.0=cpu", "output.*=cpu"],
        );
        for prompt in 1..=ROWS {
            let expected = logits(&cpu, 0, prompt);
            assert_eq!(logits(&fixed, 0, prompt), expected, "{tokens:?} {prompt}");
            if prompt % 5 == 1 {
                let split = split.as_ref().unwrap();
                assert_eq!(logits(split, 0, prompt), expected, "{tokens:?} {prompt}");
            }
        }
        for (start, prompt) in [(1, 9), (40, 8), (7, 33), (46, 2)] {
            assert_eq!(logits(&fixed, start, prompt), logits(&cpu, start, prompt));
        }
    }
}

#[test]
fn logits_of_each_token_are_the_same_one_by_one() {
    let rows = |model: &LoadedModel| {
        let mut session = model.session(SessionOptions::new()).unwrap();
        let mut rows = Vec::new();
        let each = session.logits_of_each::<RuntimeError>(&tokens(20), None, |_, row| {
            rows.push(row.to_vec());
            Ok(())
        });
        each.unwrap();
        rows
    };
    let fixed = load(&["fixed"], shapes(&[1, 8], &[64]), &[]).unwrap();
    assert_eq!(rows(&fixed), rows(&on_cpu()));
}

#[test]
fn a_device_that_can_not_decode_reads_the_prompt_beside_one_that_can() {
    let only = load(&["fixed"], shapes(&[8], &[]), &[])
        .unwrap_err()
        .to_string();
    assert!(only.contains("no device in use runs"), "{only}");
    let both = load(&["cpu", "fixed"], shapes(&[8], &[]), &[]).unwrap();
    assert_eq!(logits(&both, 0, 13), logits(&on_cpu(), 0, 13));
    let pinned = load(&["cpu", "fixed"], shapes(&[8], &[]), &["layers.1=fixed"]);
    let e = pinned.unwrap_err().to_string();
    assert!(
        e.contains("layers.1=fixed") && e.contains("dynamic_shape"),
        "{e}"
    );
}

#[test]
fn a_context_past_every_size_is_refused_with_both_numbers() {
    let e = load(&["fixed"], shapes(&[1, 8], &[16, 32]), &[]).unwrap_err();
    let e = e.to_string();
    assert!(e.contains("at most 32") && e.contains("48"), "{e}");
}

#[test]
fn a_session_needs_no_more_rows_than_the_model_was_loaded_for() {
    let fixed = load(&["fixed"], shapes(&[1, 8], &[64]), &[]).unwrap();
    for context in [1, 20, 64] {
        let options = SessionOptions::new().context(context);
        let mut session = fixed.session(options).unwrap();
        session.prefill(&tokens(context), None).unwrap();
        let full = session.decode(1).unwrap_err().to_string();
        assert!(
            full.contains(&format!("{context} tokens is full")),
            "{full}"
        );
    }
    let e = fixed
        .session(SessionOptions::new().context(65))
        .unwrap_err();
    let e = e.to_string();
    assert!(e.contains("64") && e.contains("65"), "{e}");
}

#[test]
fn steps_are_not_padded_for_devices_that_take_any_size() {
    let sizes = shapes(&[1, 8], &[64]);
    let all = ["*=cpu"];
    let unused = load(&["cpu", "fixed"], sizes.clone(), &all).unwrap();
    assert!(unused.plans().sizes.buckets.is_empty());
    assert_eq!(unused.plans().sizes.capacity, None);
    let used = load(&["cpu", "fixed"], sizes, &["layers.*=fixed"]).unwrap();
    let buckets = used.plans().sizes.buckets.iter().map(|b| b.0);
    assert_eq!(buckets.collect::<Vec<_>>(), [1, 8]);
    assert_eq!(used.plans().sizes.capacity, Some(64));
}
