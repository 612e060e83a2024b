//! Time to plan a large model over four devices: 80 layers on the CPU and three simulated ones.

use std::hint::black_box;
use std::path::Path;

use anynpu_backends::{BackendOptions, drivers_for};
use anynpu_bench::synthetic::{Family, Shape};
use anynpu_ir::DType;
use anynpu_runtime::plan::Objective;
use anynpu_runtime::{LoadOptions, OpenModel, Runtime};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// As many layers as the largest models have; what matrices are like does not matter.
const LAYERS: Shape = Shape {
    family: Family::Llama,
    layers: 80,
    hidden: 64,
    feed_forward: 128,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    vocabulary: 512,
};

const DEVICES: [&str; 4] = [
    "sim:snapdragon-8-elite",
    "sim:dimensity-9500",
    "sim:reference-f16",
    "cpu",
];

fn model() -> OpenModel {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("eighty-layers.gguf");
    let file = std::fs::File::create(&path).expect("a folder for temporary files");
    LAYERS
        .write(DType::F16, std::io::BufWriter::new(file))
        .expect("a shape that can be written");
    OpenModel::open(path).expect("the file just written")
}

fn plans(c: &mut Criterion) {
    let open = model();
    let names: Vec<String> = DEVICES.map(String::from).into();
    let found = drivers_for(&names, &BackendOptions::default());
    let (drivers, names) = found.expect("shipped devices");
    let mut builder = Runtime::builder().drivers(drivers);
    for name in names {
        builder = builder.device(name);
    }
    let runtime = builder.without_cache().build().expect("devices");
    let mut group = c.benchmark_group("plan 80 layers over 4 devices");
    for prompt in [128, 512, 4096] {
        for objective in [Objective::Latency, Objective::Energy] {
            let mut options = LoadOptions::new();
            options.prompt = Some(prompt);
            options.tokens = Some(128);
            options.objective = objective;
            let name = format!("{}, prompt of {prompt}", objective.name());
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| black_box(runtime.plan(&open, &options).expect("a plan")));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = plans
}
criterion_main!(benches);
