//! Every architecture with its matrices in every element type, against the same model with what the
//! blocks decode to in F32. The models are those of `tests/data/architectures`, which are held to
//! llama.cpp, made wide enough for blocks of 256.

use std::path::{Path, PathBuf};

use anynpu_graphs::import::gguf::{Gguf, GgufWriter, Tensor, Value};
use anynpu_graphs::quant::quantize_row;
use anynpu_ir::{DType, block};
use anynpu_runtime::{KvType, LoadOptions, LoadedModel, Precision, Runtime};

use crate::logits;

const TYPES: [DType; 11] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q6_K,
    DType::Q5_K,
    DType::Q4_K,
    DType::Q5_1,
    DType::Q5_0,
    DType::Q4_1,
    DType::Q4_0,
];
const WIDER: u64 = 16;

fn data(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/architectures");
    folder.join(name).with_extension("gguf")
}

/// What a width of the small model is in the wider: `of` is a tensor or a key of the metadata.
fn width(of: &str, narrow: u64) -> u64 {
    let ffn = of.contains("ffn_") || of.contains("feed_forward");
    match ffn {
        true => (narrow * WIDER).next_multiple_of(256),
        false => narrow * WIDER,
    }
}

/// The dims of a tensor, columns first, in the wider model.
fn dims(tensor: &Tensor<'_>) -> Vec<u64> {
    let name = tensor.name();
    let tables = [
        "token_embd.",
        "position_embd.",
        "token_types.",
        "ffn_gate_inp.",
    ];
    let rows_stay = name == "output.weight" || tables.iter().any(|t| name.contains(t));
    let wide = tensor
        .dims()
        .iter()
        .enumerate()
        .map(|(axis, &n)| match axis {
            0 => width(name, n),
            1 if !rows_stay => width(name, n),
            // tokens, positions, experts
            _ => n,
        });
    wide.collect()
}

/// `source` with wider layers, its matrices in `dtype` or, if `decoded`, in F32 with the values of
/// that type.
fn widened(source: &Gguf, dtype: DType, decoded: bool) -> Gguf {
    let mut plan = GgufWriter::new();
    for (key, value) in source.metadata().iter() {
        let wide = ["_length", "dimension_count"]
            .iter()
            .any(|end| key.ends_with(end))
            && !key.ends_with("context_length");
        match value {
            Value::U32(n) if wide => plan.set(key, &(width(key, n.into()) as u32)).unwrap(),
            value => plan.set_value(key, value).unwrap(),
        }
    }
    let typed = |tensor: &Tensor<'_>| {
        let kept = ["position_embd.", "token_types.", "ffn_gate_inp."];
        let matrix = tensor.dims().len() > 1 && !kept.iter().any(|k| tensor.name().contains(k));
        if matrix { dtype } else { DType::F32 }
    };
    for tensor in source.tensors() {
        let dtype = if decoded { DType::F32 } else { typed(&tensor) };
        plan.tensor(tensor.name(), dtype, &dims(&tensor)).unwrap();
    }
    let mut out = plan.begin(Vec::new()).unwrap();
    let mut seed = 1u32;
    for tensor in source.tensors() {
        let narrow = tensor.data().unwrap().chunks_exact(4);
        let narrow: Vec<f32> = narrow
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let (columns, dtype) = (dims(&tensor)[0], typed(&tensor));
        let count = dims(&tensor).iter().product::<u64>() as usize;
        let mut values: Vec<f32> = narrow.iter().copied().cycle().take(count).collect();
        if tensor.dims().len() > 1 {
            // as large as before, or such that sums of products are
            let rms = (narrow.iter().map(|x| x * x).sum::<f32>() / narrow.len() as f32).sqrt();
            let linear = !tensor.name().contains("embd.");
            let fewer = tensor.dims()[0] as f32 / columns as f32;
            let scale = 3f32.sqrt() * rms * if linear { fewer.sqrt() } else { 1.0 };
            for x in &mut values {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *x = scale * ((seed >> 8) as f32 / (1 << 23) as f32 - 1.0);
            }
        }
        let mut bytes = Vec::new();
        for row in values.chunks_mut(columns as usize) {
            let mut blocks = vec![0; dtype.row_bytes(row.len()).unwrap()];
            quantize_row(dtype, row, &mut blocks).unwrap();
            if decoded {
                block::dequantize(dtype, &blocks, row).unwrap();
                blocks = row.iter().flat_map(|x| x.to_le_bytes()).collect();
            }
            bytes.extend(blocks);
        }
        out.append(tensor.name(), &bytes).unwrap();
    }
    Gguf::from_vec(dtype.name(), out.finish().unwrap()).unwrap()
}

fn load(file: Gguf) -> LoadedModel {
    let runtime = Runtime::builder().drivers(anynpu_backends::drivers());
    let mut options = LoadOptions::new().kv_type(KvType::F32).context(64);
    options.precision = Precision::F32;
    runtime.build().unwrap().load(file, options).unwrap()
}

/// Logits, or the vectors of an encoder.
fn outputs(model: &LoadedModel) -> Vec<f32> {
    let tokens: Vec<u32> = (0..24).map(|i| (3 * i + 1) % 64).collect();
    match model.embedder() {
        Ok(mut embedder) => embedder.hidden(&tokens, &[]).unwrap().to_vec(),
        Err(_) => logits(model, &tokens),
    }
}

/// The lower quartile over rows of how far a row of `found` is from that of `expected`, relative to its size.
fn quartile_error(found: &[f32], expected: &[f32], columns: usize) -> f32 {
    assert_eq!(found.len(), expected.len());
    let rows = found.chunks(columns).zip(expected.chunks(columns));
    let mut errors: Vec<f32> = rows
        .map(|(found, expected)| {
            let error = found.iter().zip(expected).map(|(f, e)| (f - e) * (f - e));
            (error.sum::<f32>() / expected.iter().map(|e| e * e).sum::<f32>()).sqrt()
        })
        .collect();
    errors.sort_by(f32::total_cmp);
    errors[errors.len() / 4]
}

#[test]
fn every_architecture_runs_in_every_element_type() {
    for name in [
        "llama", "mixtral", "qwen2", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3", "phi3",
        "bert",
    ] {
        let source = Gguf::open(data(name)).unwrap();
        for dtype in TYPES {
            let expected = outputs(&load(widened(&source, dtype, true)));
            let found = outputs(&load(widened(&source, dtype, false)));
            let error = quartile_error(&found, &expected, expected.len() / 24);
            println!("{name} {}: {error:.2e}", dtype.name());
            // Kernels of block types round their inputs to 8 bits. Tokens may then go to another
            // expert, hence not the largest error.
            let bound = if dtype.is_block() { 0.02 } else { 1e-5 };
            assert!(error <= bound, "{name} in {}: {error}", dtype.name());
        }
    }
}
