//! What the executor itself takes for a segment: steps on devices that compute nothing, as one segment and as
//! several, one after the other and at once, with their values copied between the devices' memories.

use std::path::Path;

use anynpu_bench::synthetic::{Family, Shape};
use anynpu_hal::Driver;
use anynpu_hal::driver::chaos::ChaosDriver;
use anynpu_hal::driver::noop::NoopDriver;
use anynpu_ir::DType;
use anynpu_runtime::plan::Placement;
use anynpu_runtime::{LoadOptions, OpenModel, Runtime, Session, SessionOptions};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const LAYERS: u32 = 32;
const CHUNK: u32 = 8;
const PROMPT: u32 = 256;

/// The residual stream is as wide as that of a small model: it is what is copied.
const SHAPE: Shape = Shape {
    family: Family::Llama,
    layers: LAYERS,
    hidden: 1024,
    feed_forward: 32,
    heads: 4,
    kv_heads: 1,
    head_dim: 32,
    vocabulary: 320,
};

/// A session with the layers `on_chaos` on another device than the rest, that reads prompts `CHUNK` tokens a step.
fn session(open: &OpenModel, on_chaos: impl Iterator<Item = u32>) -> Session {
    let drivers: Vec<Box<dyn Driver>> = vec![
        Box::new(NoopDriver),
        Box::new(ChaosDriver::new(Box::new(NoopDriver), Vec::new())),
    ];
    let runtime = Runtime::builder()
        .drivers(drivers)
        .device("noop")
        .device("chaos")
        .without_cache()
        .build();
    let mut pins = vec!["*=noop".parse().expect("a pin")];
    pins.extend(on_chaos.map(|layer| format!("layers.{layer}=chaos").parse().expect("a pin")));
    let placement = Placement {
        pins,
        ..Placement::default()
    };
    let mut options = LoadOptions::new().placement(placement);
    options.prefill_chunk = Some(CHUNK);
    let runtime = runtime.expect("devices that are always there");
    let model = runtime.load_open(open.clone(), options).expect("a plan");
    let session = model.session(SessionOptions::new().context(512));
    session.expect("memory")
}

fn steps(c: &mut Criterion) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("segments.gguf");
    let file = std::fs::File::create(&path).expect("a folder for temporary files");
    SHAPE
        .write(DType::F16, std::io::BufWriter::new(file))
        .expect("a shape that can be written");
    let open = OpenModel::open(path).expect("the file just written");
    let mut group = c.benchmark_group("devices that compute nothing");
    let odd = |layer: &u32| layer % 2 == 1;
    let mut alone = session(&open, std::iter::empty());
    let mut many = session(&open, (0..LAYERS).filter(odd));
    for (session, segments) in [(&mut alone, 1), (&mut many, 33)] {
        assert_eq!(segments_of_a_step(session), segments);
        let name = format!("one token in {segments} segment(s)");
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                session.truncate(0);
                session.decode(1).expect("a step");
            });
        });
    }
    let mut halves = session(&open, LAYERS / 2..LAYERS);
    let prompt = vec![1; PROMPT as usize];
    for (session, segments) in [(&mut alone, 1), (&mut halves, 3)] {
        assert_eq!(segments_of_a_step(session), segments);
        let steps = PROMPT / CHUNK;
        let name = format!("{steps} steps of a prompt in {segments} segment(s) each");
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                session.truncate(0);
                session.prefill(&prompt, None).expect("steps");
            });
        });
    }
    group.finish();
}

fn segments_of_a_step(session: &mut Session) -> u64 {
    session.decode(1).expect("a step");
    let counted = session.executed();
    let segments: u64 = counted.devices.values().map(|d| d.segments).sum();
    segments / counted.steps
}

criterion_group!(benches, steps);
criterion_main!(benches);
