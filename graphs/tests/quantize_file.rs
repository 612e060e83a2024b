//! Whole models written with other types, and the searched quantisers behind it.

use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::Path;

use anynpu_graphs::import::gguf::{GgmlType, Gguf, GgufWriter};
use anynpu_graphs::quant::{
    Imatrix, ImatrixError, Mixture, QuantizeError, QuantizeFileError, QuantizeOptions,
    QuantizeReport, Weighting, quantize_file, quantize_gguf, quantize_row, quantize_row_searched,
};
use anynpu_ir::{DType, block};
use proptest::prelude::*;

const BLOCK_TYPES: [DType; 8] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
];

/// Numbers that look random and are the same every time, about as weights are distributed.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| next() + next() + next()).collect()
}

fn bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn decoded(dtype: DType, data: &[u8], count: usize) -> Vec<f32> {
    let mut y = vec![0.0; count];
    block::dequantize(dtype, data, &mut y).unwrap();
    y
}

/// Σ w·(x − y)²
fn error(x: &[f32], y: &[f32], w: Option<&[f32]>) -> f64 {
    let weight = |i: usize| w.map_or(1.0, |w| f64::from(w[i]));
    let square = |i: usize| (f64::from(x[i]) - f64::from(y[i])).powi(2);
    (0..x.len()).map(|i| weight(i) * square(i)).sum()
}

type Quantizer = fn(DType, &[f32], &mut [u8]) -> Result<(), QuantizeError>;

fn error_of(by: Quantizer, dtype: DType, x: &[f32], w: Option<&[f32]>) -> f64 {
    let mut out = vec![0; dtype.row_bytes(x.len()).unwrap()];
    by(dtype, x, &mut out).unwrap();
    error(x, &decoded(dtype, &out, x.len()), w)
}

fn searched(dtype: DType, x: &[f32], out: &mut [u8]) -> Result<(), QuantizeError> {
    quantize_row_searched(dtype, x, None, out)
}

#[test]
fn the_search_takes_this_share_of_the_squared_error_away() {
    let x = noise(1, 256 * 64);
    // Measured on these values; a change that loses what the search gains fails.
    for (dtype, share) in [
        (DType::Q8_0, 0.05),
        (DType::Q4_0, 0.10),
        (DType::Q5_0, 0.10),
        (DType::Q4_1, 0.10),
        (DType::Q5_1, 0.10),
        (DType::Q4_K, 0.10),
        (DType::Q5_K, 0.10),
        (DType::Q6_K, 0.10),
    ] {
        let plain = error_of(quantize_row, dtype, &x, None);
        let best = error_of(searched, dtype, &x, None);
        println!("{dtype}: {plain} → {best}, {:.3} less", 1.0 - best / plain);
        assert!(best <= (1.0 - share) * plain, "{dtype}: {plain} → {best}");
    }
}

#[test]
fn importance_lowers_the_weighted_error() {
    let x = noise(2, 256 * 32);
    let w: Vec<f32> = noise(3, x.len()).iter().map(|v| v.powi(6)).collect();
    for dtype in BLOCK_TYPES {
        let mut out = vec![0; dtype.row_bytes(x.len()).unwrap()];
        quantize_row_searched(dtype, &x, Some(&w), &mut out).unwrap();
        let weighted = error(&x, &decoded(dtype, &out, x.len()), Some(&w));
        let unweighted = error_of(searched, dtype, &x, Some(&w));
        assert!(
            weighted < 0.97 * unweighted,
            "{dtype}: {unweighted} → {weighted}"
        );
    }
}

#[test]
fn importance_that_cannot_weigh_is_refused() {
    let (x, mut out) = ([0.5; 32], [0; 18]);
    let mut refused = |w: &[f32], word: &str| {
        let e = quantize_row_searched(DType::Q4_0, &x, Some(w), &mut out).unwrap_err();
        assert!(e.to_string().contains(word), "{e}");
    };
    refused(&[1.0; 31], "31 weights for 32");
    let mut w = [1.0; 32];
    w[7] = -1.0;
    refused(&w, "weight 7 is -1");
    w[7] = f32::NAN;
    refused(&w, "weight 7 is NaN");
}

/// Magnitudes that every format holds, some rows of one sign, some with an outlier.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![
        6 => -1.0f32..1.0,
        1 => Just(0.0f32),
        1 => -30000.0f32..30000.0,
        1 => -1e-7f32..1e-7,
        1 => -1e-39f32..1e-39,
    ];
    let mixed = proptest::collection::vec(value, 256);
    let shifted = (
        proptest::collection::vec(-1.0f32..1.0, 256),
        -1.5f32..1.5,
        -30i32..12,
    );
    let shifted =
        shifted.prop_map(|(v, by, e)| v.iter().map(|x| (x + by) * 2f32.powi(e)).collect());
    prop_oneof![mixed, shifted]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_search_never_has_the_larger_error(
        dtype in proptest::sample::select(BLOCK_TYPES.to_vec()),
        x in rows(),
    ) {
        for (x, _) in x.chunks(dtype.block_len()).zip(0..2) {
            let (plain, best) = (error_of(quantize_row, dtype, x, None), error_of(searched, dtype, x, None));
            prop_assert!(best <= plain * (1.0 + 1e-5), "{}: {} → {}", dtype, plain, best);
        }
    }

    #[test]
    fn hostile_importance_matrices_are_refused_or_sound(
        head in 0i32..4,
        name in 0i32..80,
        calls in -2i32..3,
        values in prop_oneof![0i32..40, Just(i32::MAX), Just(-1)],
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut file = head.to_le_bytes().to_vec();
        file.extend(name.to_le_bytes());
        file.extend(std::iter::repeat_n(b'n', (name as usize).min(70)));
        file.extend(calls.to_le_bytes());
        file.extend(values.to_le_bytes());
        file.extend(&tail);
        if let Ok(read) = Imatrix::from_vec("hostile", file) {
            let names: Vec<String> = read.tensors().map(str::to_owned).collect();
            for name in names {
                for columns in 1..50 {
                    if let Ok(Some(w)) = read.weights(&name, columns, 1) {
                        prop_assert!(w.iter().all(|w| w.is_finite() && *w >= 0.0));
                    }
                }
            }
        }
    }
}

/// A small model of two layers, `columns` wide, with its embedding as output.
fn model(columns: u64, kind: DType) -> Vec<u8> {
    let wide = [columns, 6];
    let tensors: Vec<(String, DType, Vec<u64>)> = [
        ("token_embd.weight".to_owned(), kind, wide.to_vec()),
        ("output_norm.weight".to_owned(), DType::F32, vec![columns]),
    ]
    .into_iter()
    .chain((0..2).flat_map(|l| {
        [
            (
                format!("blk.{l}.attn_norm.weight"),
                DType::F32,
                vec![columns],
            ),
            (format!("blk.{l}.attn_q.weight"), kind, wide.to_vec()),
            (format!("blk.{l}.attn_v.weight"), kind, wide.to_vec()),
            (format!("blk.{l}.attn_q.bias"), DType::F16, vec![6]),
            (
                format!("blk.{l}.ffn_gate_inp.weight"),
                DType::F32,
                vec![columns, 4],
            ),
            (
                format!("blk.{l}.ffn_down_exps.weight"),
                kind,
                vec![columns, 3, 2],
            ),
        ]
    }))
    .collect();
    let mut plan = GgufWriter::with_alignment(64).unwrap();
    plan.set("general.architecture", "llama").unwrap();
    plan.set("llama.block_count", &2u32).unwrap();
    plan.set("general.file_type", &0u32).unwrap();
    plan.set("tokenizer.ggml.tokens", &["a", "b"]).unwrap();
    plan.set("quantize.imatrix.file", "old").unwrap();
    for (name, dtype, dims) in &tensors {
        plan.tensor(name, *dtype, dims).unwrap();
    }
    let mut out = plan.begin(Vec::new()).unwrap();
    for (i, (name, dtype, dims)) in tensors.iter().enumerate() {
        let x = noise(i as u64 + 10, dims.iter().product::<u64>() as usize);
        let mut data = vec![0; dtype.row_bytes(x.len()).unwrap()];
        quantize_row(*dtype, &x, &mut data).unwrap();
        out.append(name, &data).unwrap();
    }
    out.finish().unwrap()
}

fn gguf(bytes: Vec<u8>) -> Gguf {
    Gguf::from_vec("model", bytes).unwrap()
}

fn quantized(source: &Gguf, options: &QuantizeOptions) -> (QuantizeReport, Gguf) {
    let go = &mut |_| ControlFlow::Continue(());
    let (report, bytes) = quantize_gguf(source, Vec::new(), options, go).unwrap();
    assert_eq!(report.output_bytes, bytes.len() as u64);
    (report, gguf(bytes))
}

fn type_of(file: &Gguf, tensor: &str) -> DType {
    file.require_tensor(tensor).unwrap().dtype().unwrap()
}

#[test]
fn a_quantised_file_reads_back_with_its_types_metadata_and_values() {
    let source = gguf(model(256, DType::F32));
    for mixture in Mixture::all() {
        let (report, file) = quantized(&source, &QuantizeOptions::new(mixture));
        let m = file.metadata();
        assert_eq!(
            m.require::<u32>("general.file_type").unwrap(),
            mixture.file_type()
        );
        assert_eq!(m.require::<u32>("general.quantization_version").unwrap(), 2);
        assert_eq!(m.require::<u32>("llama.block_count").unwrap(), 2);
        assert_eq!(
            m.require::<Vec<&str>>("tokenizer.ggml.tokens").unwrap(),
            ["a", "b"]
        );
        assert!(m.get("quantize.imatrix.file").is_none());
        assert_eq!(
            (file.alignment(), file.tensors().len()),
            (64, source.tensors().len())
        );
        assert_eq!(type_of(&file, "blk.0.attn_q.weight"), mixture.base());
        assert_eq!(type_of(&file, "blk.0.attn_q.bias"), DType::F32);
        assert_eq!(type_of(&file, "blk.0.ffn_gate_inp.weight"), DType::F32);
        let limit = match mixture.base() {
            DType::F32 | DType::F16 | DType::BF16 => 0.005,
            DType::Q8_0 => 0.01,
            DType::Q6_K => 0.03,
            DType::Q5_0 | DType::Q5_1 | DType::Q5_K => 0.06,
            _ => 0.12,
        };
        for tensor in &report.tensors {
            let (old, new) = (
                source.tensor(&tensor.name).unwrap(),
                file.tensor(&tensor.name).unwrap(),
            );
            let count = old.elements() as usize;
            let x = decoded(old.dtype().unwrap(), old.data().unwrap(), count);
            let y = decoded(new.dtype().unwrap(), new.data().unwrap(), count);
            let relative = (error(&x, &y, None) / error(&x, &vec![0.0; count], None)).sqrt();
            assert!(
                (relative - tensor.relative_rmse).abs() < 1e-6,
                "{tensor:?}: {relative}"
            );
            assert!(relative < limit, "{mixture} {tensor:?}");
            assert_eq!(
                (tensor.bytes, tensor.parameters),
                (new.byte_len().unwrap(), count as u64)
            );
        }
        let bits = file
            .tensors()
            .map(|t| 8 * t.byte_len().unwrap())
            .sum::<u64>() as f64;
        assert!((report.bits_per_weight - bits / report.parameters as f64).abs() < 1e-9);
        let total: u64 = report.formats.iter().map(|f| f.bytes).sum();
        assert_eq!(8 * total, bits as u64);
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads() {
    let source = gguf(model(512, DType::F32));
    let with = |n: usize| {
        let options = QuantizeOptions::new(Mixture::Q4_K_M).threads(NonZero::new(n).unwrap());
        let (report, file) = quantized(&source, &options);
        (report, file.file().to_vec())
    };
    let one = with(1);
    assert!(with(2) == one && with(7) == one);
}

#[test]
fn rows_of_other_lengths_fall_back_and_it_is_said() {
    let source = gguf(model(96, DType::F32));
    let (report, file) = quantized(&source, &QuantizeOptions::new(Mixture::Q4_K_S));
    assert_eq!(type_of(&file, "blk.0.attn_q.weight"), DType::Q5_0);
    assert_eq!(type_of(&file, "blk.0.attn_v.weight"), DType::Q5_1);
    assert_eq!(type_of(&file, "token_embd.weight"), DType::Q8_0);
    let q = report
        .tensors
        .iter()
        .find(|t| t.name == "blk.0.attn_q.weight");
    assert_eq!(q.unwrap().instead_of, Some("q4_k"));
    let told = report.warnings.join("\n");
    assert!(
        told.contains("'blk.0.attn_q.weight' is q5_0 instead of q4_k"),
        "{told}"
    );
}

#[test]
fn a_type_that_is_there_already_is_copied_and_requantising_is_told() {
    let source = gguf(model(256, DType::Q8_0));
    let (report, file) = quantized(&source, &QuantizeOptions::new(Mixture::Q8_0));
    let data = |g: &Gguf| {
        g.tensor("blk.1.attn_q.weight")
            .unwrap()
            .data()
            .unwrap()
            .to_vec()
    };
    assert_eq!(data(&file), data(&source));
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    let (report, _) = quantized(&source, &QuantizeOptions::new(Mixture::Q4_0));
    assert!(
        report.warnings[0].contains("quantised already"),
        "{:?}",
        report.warnings
    );
    // and back: an F32 file holds exactly what the blocks decode to
    let (report, _) = quantized(&source, &QuantizeOptions::new(Mixture::F32));
    assert!(report.tensors.iter().all(|t| t.relative_rmse == 0.0));
}

/// An importance matrix in the old form.
fn legacy(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
    let mut out = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        out.extend((name.len() as i32).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(calls.to_le_bytes());
        out.extend((values.len() as i32).to_le_bytes());
        out.extend(bytes(values));
    }
    out
}

/// The same in the present form, one matrix each.
fn present(entries: &[(&str, f32, &[f32])]) -> Vec<u8> {
    let mut plan = GgufWriter::new();
    plan.set("general.type", "imatrix").unwrap();
    plan.set("imatrix.datasets", &["text.txt"]).unwrap();
    plan.set("imatrix.chunk_count", &7u32).unwrap();
    for (name, _, sums) in entries {
        let sums = [sums.len() as u64, 1];
        plan.tensor(&format!("{name}.in_sum2"), DType::F32, &sums)
            .unwrap();
        plan.tensor(&format!("{name}.counts"), DType::F32, &[1, 1])
            .unwrap();
    }
    let mut out = plan.begin(Vec::new()).unwrap();
    for (name, count, sums) in entries {
        out.append(&format!("{name}.in_sum2"), &bytes(sums))
            .unwrap();
        out.append(&format!("{name}.counts"), &count.to_le_bytes())
            .unwrap();
    }
    out.finish().unwrap()
}

#[test]
fn both_forms_of_importance_matrices_give_the_same_weights() {
    let sums = [8.0, 0.0, 2.0];
    let mut old = legacy(&[("a.weight", 4, &sums)]);
    old.extend(7i32.to_le_bytes());
    old.extend(8i32.to_le_bytes());
    old.extend(b"text.txt");
    let old = Imatrix::from_vec("old", old).unwrap();
    let new = Imatrix::from_vec("new", present(&[("a.weight", 4.0, &sums)])).unwrap();
    for read in [&old, &new] {
        assert_eq!(
            read.weights("a.weight", 3, 1).unwrap(),
            Some(&[2.0, 0.0, 0.5][..])
        );
        assert_eq!(
            (read.chunks(), read.datasets()),
            (Some(7), &["text.txt".to_owned()][..])
        );
        assert_eq!(read.weights("b.weight", 3, 1).unwrap(), None);
        let e = read.weights("a.weight", 4, 2).unwrap_err().to_string();
        assert!(e.contains("3 weights") && e.contains("4 columns"), "{e}");
    }
    let never = Imatrix::from_vec("never", present(&[("a", 0.0, &sums)])).unwrap();
    assert_eq!(never.weights("a", 3, 1).unwrap(), Some(&[1.0; 3][..]));
}

#[test]
fn broken_importance_matrices_are_refused_with_the_reason() {
    let good = legacy(&[("a.weight", 1, &[1.0, 2.0])]);
    let mut long_name = good.clone();
    long_name[4..8].copy_from_slice(&i32::MAX.to_le_bytes());
    let mut many = good.clone();
    many[..4].copy_from_slice(&i32::MAX.to_le_bytes());
    let counts = |n: f32| present(&[("a", n, &[1.0])]);
    for (file, word) in [
        (Vec::new(), "left at byte 0"),
        (
            good[..good.len() - 1].to_vec(),
            "takes 8 bytes, but 7 are left",
        ),
        (long_name, "2147483647 bytes"),
        (many, "the length of a name"),
        (legacy(&[]), "the number of entries is 0"),
        (legacy(&[("a", -1, &[1.0])]), "the number of calls is -1"),
        (legacy(&[("a", 1, &[])]), "the number of weights is 0"),
        (
            legacy(&[("a", 1, &[1.0, f32::NAN])]),
            "weight 1 of 'a' is NaN",
        ),
        (legacy(&[("a", 1, &[-1.0])]), "weight 0 of 'a' is -1"),
        (
            legacy(&[("a", 1, &[1.0]), ("a", 1, &[1.0])]),
            "'a' is there twice",
        ),
        (counts(-1.0), "measured -1 times"),
        (counts(f32::INFINITY), "measured inf times"),
        (counts(1e-40), "weight 0 of 'a' is 1 of"),
        (present(&[]), "no entries"),
        (b"GGUF\x03\0\0\0".to_vec(), "truncated"),
    ] {
        // An empty file can't be mapped; in memory it is refused like any other.
        let e = Imatrix::from_vec("broken", file).unwrap_err().to_string();
        assert!(e.contains(word), "should say {word:?}: {e}");
    }
}

#[test]
fn an_importance_matrix_is_used_where_it_speaks_and_told_where_not() {
    let source = gguf(model(256, DType::F32));
    let weights: Vec<f32> = noise(5, 256).iter().map(|v| v.powi(6) + 1e-3).collect();
    let experts = [
        weights.clone(),
        noise(6, 256).iter().map(|v| v * v).collect(),
    ]
    .concat();
    let file = legacy(&[
        ("blk.0.attn_q.weight", 1, &weights),
        ("blk.1.ffn_down_exps.weight", 1, &experts),
        ("blk.9.unknown", 1, &[1.0]),
    ]);
    let imatrix = Imatrix::from_vec("/tmp/some.dat", file).unwrap();
    let options = QuantizeOptions::new(Mixture::Q4_0);
    let (plain, _) = quantized(&source, &options);
    let (report, out) = quantized(&source, &options.clone().imatrix(imatrix));
    let used = report.imatrix.as_ref().unwrap();
    assert_eq!((used.entries, used.used), (3, 2));
    assert!(used.missing.contains(&"blk.1.attn_q.weight".to_owned()));
    let m = out.metadata();
    assert_eq!(
        m.require::<&str>("quantize.imatrix.file").unwrap(),
        "some.dat"
    );
    assert_eq!(
        m.require::<u32>("quantize.imatrix.entries_count").unwrap(),
        3
    );
    let of = |r: &QuantizeReport, name: &str| {
        let t = r.tensors.iter().find(|t| t.name == name).unwrap();
        (t.weighting, t.relative_rmse)
    };
    assert_eq!(
        of(&report, "blk.0.attn_q.weight").0,
        Some(Weighting::Imatrix)
    );
    assert_eq!(of(&plain, "blk.0.attn_q.weight").0, Some(Weighting::Norm));
    assert_eq!(of(&plain, "blk.1.ffn_down_exps.weight").0, None);
    let name = "blk.1.ffn_down_exps.weight";
    assert!(of(&report, name).1 > of(&plain, name).1);
}

#[test]
fn an_importance_matrix_of_another_model_is_refused() {
    let source = gguf(model(256, DType::F32));
    let with = |file: Vec<u8>| {
        let imatrix = Imatrix::from_vec("other", file).unwrap();
        let options = QuantizeOptions::new(Mixture::Q4_0).imatrix(imatrix);
        quantize_gguf(&source, Vec::new(), &options, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err()
    };
    let e = with(legacy(&[("x", 1, &[1.0])]));
    assert!(
        matches!(e, QuantizeFileError::Imatrix(ImatrixError::NoneUsed { .. })),
        "{e}"
    );
    let e = with(legacy(&[("blk.0.attn_q.weight", 1, &[1.0; 128])]));
    assert!(
        matches!(e, QuantizeFileError::Imatrix(ImatrixError::Shape { .. })),
        "{e}"
    );
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn the_output_is_there_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (
        folder.path().join("in.gguf"),
        folder.path().join("out.gguf"),
    );
    std::fs::write(&input, model(256, DType::F32)).unwrap();
    let source = Gguf::open(&input).unwrap();
    let options = QuantizeOptions::new(Mixture::Q4_0);

    let mut calls = 0;
    let mut stop = |_| {
        calls += 1;
        match calls {
            3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let e = quantize_file(&source, &output, &options, &mut stop).unwrap_err();
    assert!(matches!(e, QuantizeFileError::Cancelled), "{e}");
    assert_eq!(names(folder.path()), ["in.gguf"]);

    let mut go = |_| ControlFlow::Continue(());
    std::fs::write(&output, b"before").unwrap();
    quantize_file(&source, &output, &options, &mut go).unwrap();
    assert_eq!(names(folder.path()), ["in.gguf", "out.gguf"]);
    Gguf::open(&output).unwrap();

    let e = quantize_file(&source, &input, &options, &mut go).unwrap_err();
    assert!(matches!(e, QuantizeFileError::Same { .. }), "{e}");
    let nowhere = folder.path().join("no/such/folder.gguf");
    let e = quantize_file(&source, &nowhere, &options, &mut go).unwrap_err();
    assert!(e.to_string().contains("no/such/folder.gguf"), "{e}");
}

#[test]
fn values_that_no_block_holds_are_told_by_tensor_and_row() {
    let mut plan = GgufWriter::new();
    plan.set("general.architecture", "llama").unwrap();
    plan.tensor("blk.0.ffn_up.weight", DType::F32, &[32, 8])
        .unwrap();
    let mut out = plan.begin(Vec::new()).unwrap();
    let mut x = noise(1, 256);
    x[5 * 32 + 3] = f32::INFINITY;
    x[6 * 32] = 1e30;
    out.append("blk.0.ffn_up.weight", &bytes(&x)).unwrap();
    let source = gguf(out.finish().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let e = quantize_file(
        &source,
        &folder.path().join("out.gguf"),
        &QuantizeOptions::new(Mixture::Q4_0),
        &mut |_| ControlFlow::Continue(()),
    );
    let e = e.unwrap_err().to_string();
    assert!(
        e.contains("'blk.0.ffn_up.weight', row 5") && e.contains("element 3 is inf"),
        "{e}"
    );
    assert!(names(folder.path()).is_empty());
}

#[test]
fn models_in_parts_and_types_that_cannot_be_decoded_are_refused() {
    let build = |split: u16, ty: &str| {
        let mut plan = GgufWriter::new();
        plan.set("general.architecture", "llama").unwrap();
        plan.set("split.count", &split).unwrap();
        let ty = GgmlType::by_name(ty).unwrap();
        plan.tensor_of_type("blk.0.ffn_up.weight", ty, &[256, 2])
            .unwrap();
        let mut out = plan.begin(Vec::new()).unwrap();
        let (_, size) = ty.block().unwrap();
        out.append("blk.0.ffn_up.weight", &vec![0; 2 * size as usize])
            .unwrap();
        let source = gguf(out.finish().unwrap());
        let options = QuantizeOptions::new(Mixture::Q4_K_M);
        quantize_gguf(&source, Vec::new(), &options, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err()
        .to_string()
    };
    assert!(build(2, "Q4_K").contains("2 files"));
    let e = build(1, "Q2_K");
    assert!(
        e.contains("Q2_K") && e.contains("blk.0.ffn_up.weight"),
        "{e}"
    );
}
