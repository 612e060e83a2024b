//! What the writer writes the reader reads back, and the files in use are read.

use std::path::PathBuf;

use anynpu_graphs::import::gguf::{
    Array, ByteString, GgmlType, Gguf, GgufError, GgufWriteError, GgufWriter, Value, ValueType,
};
use anynpu_graphs::{TensorData, arch};
use anynpu_ir::{DType, block};
use proptest::prelude::*;

/// A file with every type of value and several types of tensor.
fn sample() -> Vec<u8> {
    let mut plan = GgufWriter::with_alignment(64).unwrap();
    plan.set("general.architecture", "test").unwrap();
    plan.set("u8", &8u8).unwrap();
    plan.set("i8", &-8i8).unwrap();
    plan.set("u16", &16u16).unwrap();
    plan.set("i16", &-16i16).unwrap();
    plan.set("u32", &u32::MAX).unwrap();
    plan.set("i32", &-32i32).unwrap();
    plan.set("u64", &u64::MAX).unwrap();
    plan.set("i64", &i64::MIN).unwrap();
    plan.set("f32", &1.5f32).unwrap();
    plan.set("f64", &0.1f64).unwrap();
    plan.set("bool", &true).unwrap();
    plan.set("tokens", &["a", "", "▁c"]).unwrap();
    plan.set("raw", &[ByteString(b"\xff\0"), ByteString(b"x")])
        .unwrap();
    plan.set("scores", &[0.5f32, -1.0]).unwrap();
    plan.set("flags", &[true, false]).unwrap();
    plan.set("nested", &vec![vec![1u16, 2], vec![], vec![3]])
        .unwrap();
    plan.set("empty", &Vec::<String>::new()).unwrap();
    plan.tensor("a", DType::F32, &[3]).unwrap();
    plan.tensor("b", DType::Q4_0, &[64, 2]).unwrap();
    plan.tensor("scalar", DType::I64, &[]).unwrap();
    plan.tensor_of_type("old", GgmlType::by_name("Q2_K").unwrap(), &[256, 1, 2, 3])
        .unwrap();
    let mut out = plan.begin(Vec::new()).unwrap();
    out.append("a", &[1; 12]).unwrap();
    out.append("b", &[2; 50]).unwrap();
    out.append("b", &[3; 22]).unwrap();
    out.append("scalar", &[4; 8]).unwrap();
    out.append("old", &[5; 504]).unwrap();
    out.finish().unwrap()
}

fn read(bytes: &[u8]) -> Gguf {
    Gguf::from_vec("sample", bytes.to_vec()).unwrap()
}

#[test]
fn every_type_of_value_comes_back() {
    let file = read(&sample());
    let m = file.metadata();
    assert_eq!((file.version(), file.alignment()), (3, 64));
    assert_eq!(m.require::<u32>("general.alignment").unwrap(), 64);
    assert_eq!(m.require::<&str>("general.architecture").unwrap(), "test");
    assert_eq!(m.get("u8"), Some(Value::U8(8)));
    assert_eq!(m.get("i8"), Some(Value::I8(-8)));
    assert_eq!(m.get("u16"), Some(Value::U16(16)));
    assert_eq!(m.get("i16"), Some(Value::I16(-16)));
    assert_eq!(m.get("u32"), Some(Value::U32(u32::MAX)));
    assert_eq!(m.get("i32"), Some(Value::I32(-32)));
    assert_eq!(m.get("u64"), Some(Value::U64(u64::MAX)));
    assert_eq!(m.get("i64"), Some(Value::I64(i64::MIN)));
    assert_eq!(m.get("f32"), Some(Value::F32(1.5)));
    assert_eq!(m.get("f64"), Some(Value::F64(0.1)));
    assert_eq!(m.get("bool"), Some(Value::Bool(true)));
    assert_eq!(m.require::<Vec<&str>>("tokens").unwrap(), ["a", "", "▁c"]);
    assert_eq!(
        m.require::<Vec<&[u8]>>("raw").unwrap(),
        [&b"\xff\0"[..], b"x"]
    );
    assert_eq!(m.require::<Vec<f32>>("scores").unwrap(), [0.5, -1.0]);
    assert_eq!(m.require::<Vec<bool>>("flags").unwrap(), [true, false]);
    assert_eq!(
        m.require::<Vec<Vec<u16>>>("nested").unwrap(),
        [vec![1, 2], vec![], vec![3]]
    );
    assert_eq!(m.require::<Vec<&str>>("empty").unwrap(), [""; 0]);
    assert_eq!(m.get("absent"), None);
    assert_eq!(m.len(), 19);
    assert_eq!(m.iter().count(), 19);
    assert_eq!(m.iter().nth(2), Some(("u8", Value::U8(8))));
}

#[test]
fn arrays_are_read_in_place() {
    let file = read(&sample());
    let tokens: Array<'_> = file.metadata().require("tokens").unwrap();
    assert_eq!(tokens.element_type(), ValueType::String);
    assert_eq!((tokens.len(), tokens.is_empty()), (3, false));
    assert_eq!(tokens.get(2), Some(Value::String("▁c".as_bytes())));
    assert_eq!(tokens.get(3), None);
    let scores: Array<'_> = file.metadata().require("scores").unwrap();
    assert_eq!(scores.get(1), Some(Value::F32(-1.0)));
    assert_eq!(scores.get(2), None);
    let Some(Value::String(first)) = tokens.iter().next() else {
        panic!("no first token");
    };
    assert!(file.file().as_ptr_range().contains(&first.as_ptr()));
}

#[test]
fn tensors_come_back_with_their_bytes() {
    let file = read(&sample());
    let names: Vec<&str> = file.tensors().map(|t| t.name()).collect();
    assert_eq!(names, ["a", "b", "scalar", "old"]);
    for tensor in file.tensors() {
        assert_eq!(tensor.offset() % 64, 0);
    }
    let b = file.require_tensor("b").unwrap();
    assert_eq!(b.dims(), [64, 2]);
    assert_eq!(b.tensor_type().unwrap().to_string(), "q4_0[2, 64]");
    assert_eq!((b.elements(), b.byte_len()), (128, Some(72)));
    let data = b.data().unwrap();
    assert_eq!((&data[..50], &data[50..]), (&[2; 50][..], &[3; 22][..]));
    assert_eq!(
        TensorData::tensor(&file, "b"),
        Some((DType::Q4_0, data.into()))
    );
    file.release("b");
    let scalar = file.require_tensor("scalar").unwrap();
    assert_eq!((scalar.dims(), scalar.elements()), (&[][..], 1));
    assert!(file.tensor("c").is_none());
}

#[test]
fn an_unsupported_type_is_an_error_only_when_used() {
    let file = read(&sample());
    let old = file.tensor("old").unwrap();
    assert_eq!(old.ggml_type().to_string(), "Q2_K (id 10)");
    assert_eq!(old.data().unwrap(), [5; 504]);
    assert!(TensorData::tensor(&file, "old").is_none());
    let error = old.tensor_type().unwrap_err().to_string();
    assert!(
        error.starts_with("sample: tensor 'old' is of type Q2_K (id 10), which is not supported"),
        "{error}"
    );
}

#[test]
fn errors_name_key_wanted_and_found() {
    let file = read(&sample());
    let m = file.metadata();
    let says = |error: GgufError, text: &str| assert_eq!(error.to_string(), text);
    says(
        m.require::<u32>("absent").unwrap_err(),
        "sample: metadata 'absent' is missing; expected u32",
    );
    says(
        m.require::<u8>("u32").unwrap_err(),
        "sample: metadata 'u32' is u32 4294967295; expected u8",
    );
    says(
        m.require::<u64>("i8").unwrap_err(),
        "sample: metadata 'i8' is i8 -8; expected u64",
    );
    says(
        m.require::<f32>("bool").unwrap_err(),
        "sample: metadata 'bool' is bool true; expected f32",
    );
    says(
        m.require::<&str>("scores").unwrap_err(),
        "sample: metadata 'scores' is array of 2 × f32; expected string of UTF-8",
    );
    says(
        m.require::<Vec<u32>>("tokens").unwrap_err(),
        "sample: metadata 'tokens' is array of 3 × string with string 'a' at 0; \
         expected array of u32",
    );
    says(
        m.require::<Vec<&str>>("raw").unwrap_err(),
        "sample: metadata 'raw' is array of 2 × string with string that is not UTF-8 '\u{fffd}\\0' \
         at 0; expected array of string of UTF-8",
    );
    assert_eq!(m.find::<u32>("absent").unwrap(), None);
    says(
        file.require_tensor("absent").unwrap_err(),
        "sample: tensor 'absent' is missing",
    );
}

#[test]
fn version_2_is_read_too() {
    let mut bytes = sample();
    bytes[4] = 2;
    assert_eq!(read(&bytes).version(), 2);
}

#[test]
fn clones_outlive_the_original() {
    let file = read(&sample());
    let clone = file.clone();
    drop(file);
    assert_eq!(clone.tensor("a").unwrap().data().unwrap(), [1; 12]);
}

#[test]
fn what_cannot_be_written_is_refused() {
    let mut plan = GgufWriter::new();
    plan.set("k", &1u8).unwrap();
    for (key, fault) in [
        ("k", "is there already"),
        ("general.alignment", "with_alignment"),
        (&"k".repeat(65536), "longer"),
    ] {
        let error = plan.set(key, &1u8).unwrap_err();
        assert!(error.to_string().contains(fault), "{error}");
    }
    plan.tensor("t", DType::F32, &[4]).unwrap();
    for (name, dims) in [("t", &[4][..]), (&"t".repeat(65), &[4])] {
        assert!(matches!(
            plan.tensor(name, DType::F32, dims),
            Err(GgufWriteError::Name { .. })
        ));
    }
    for dims in [&[0][..], &[33], &[32, 1, 1, 1, 1], &[1 << 40, 1 << 40], &[]] {
        assert!(matches!(
            plan.tensor("x", DType::Q8_0, dims),
            Err(GgufWriteError::Dims { .. })
        ));
    }
    assert!(matches!(
        plan.tensor("x", DType::U8, &[1]),
        Err(GgufWriteError::Type { .. })
    ));
    for alignment in [0, 48, 1 << 20] {
        assert!(GgufWriter::with_alignment(alignment).is_err());
    }
    let mut out = plan.begin(Vec::new()).unwrap();
    assert!(matches!(
        out.append("u", &[]),
        Err(GgufWriteError::Order { .. })
    ));
    assert!(matches!(
        out.append("t", &[0; 17]),
        Err(GgufWriteError::Length { .. })
    ));
    out.append("t", &[0; 15]).unwrap();
    assert!(matches!(
        out.finish(),
        Err(GgufWriteError::Length {
            wanted: 16,
            found: 15,
            ..
        })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_plan_is_read_back(
        numbers in proptest::collection::btree_map(".{0,40}", any::<i64>(), 0..8),
        texts in proptest::collection::vec(".{0,20}", 0..8),
        tensors in proptest::collection::btree_map(
            ".{1,12}",
            (proptest::sample::select(DType::ALL.to_vec()), 1u64..3, 1u64..5),
            0..8,
        ),
        alignment in 0u32..10,
    ) {
        let mut plan = GgufWriter::with_alignment(1 << alignment).unwrap();
        for (key, n) in &numbers {
            plan.set(key, n).unwrap();
        }
        plan.set("texts in \u{1f4d6}", &texts).unwrap();
        let tensors: Vec<_> = tensors
            .iter()
            .filter(|(_, (ty, ..))| GgmlType::of(*ty).is_some())
            .map(|(name, &(ty, blocks, rows))| {
                let dims = [blocks * ty.block_len() as u64, rows];
                let len = blocks as usize * rows as usize * ty.block_bytes();
                let data: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                (name, ty, dims, data)
            })
            .collect();
        for (name, ty, dims, _) in &tensors {
            plan.tensor(name, *ty, dims).unwrap();
        }
        let mut out = plan.begin(Vec::new()).unwrap();
        for (name, _, _, data) in &tensors {
            out.append(name, data).unwrap();
        }
        let file = Gguf::from_vec("any", out.finish().unwrap()).unwrap();
        for (key, n) in &numbers {
            prop_assert_eq!(file.metadata().require::<i64>(key).unwrap(), *n);
        }
        prop_assert_eq!(file.metadata().require::<Vec<&str>>("texts in \u{1f4d6}").unwrap(), texts);
        for (name, ty, dims, data) in &tensors {
            let tensor = file.require_tensor(name).unwrap();
            prop_assert_eq!(tensor.dtype().unwrap(), *ty);
            prop_assert_eq!(tensor.dims(), dims);
            prop_assert_eq!(tensor.data().unwrap(), &data[..]);
        }

        let mut again = GgufWriter::with_alignment(1 << alignment).unwrap();
        for (key, value) in file.metadata().iter().skip(1) {
            again.set_value(key, value).unwrap();
        }
        for tensor in file.tensors() {
            again.tensor_of_type(tensor.name(), tensor.ggml_type(), tensor.dims()).unwrap();
        }
        let mut out = again.begin(Vec::new()).unwrap();
        for tensor in file.tensors() {
            out.append(tensor.name(), tensor.data().unwrap()).unwrap();
        }
        prop_assert_eq!(&out.finish().unwrap()[..], &file.file()[..]);
    }
}

/// Every GGUF file below the folder of test data, if there is one.
fn files_in_use() -> Option<Vec<PathBuf>> {
    let root = PathBuf::from(std::env::var_os("ANYNPU_TEST_DATA")?);
    let mut folders = vec![root];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "gguf") {
                found.push(path);
            }
        }
    }
    found.sort();
    Some(found)
}

#[test]
fn files_in_use_are_read_whole() {
    let Some(files) = files_in_use() else {
        println!("SKIPPED files_in_use_are_read_whole: ANYNPU_TEST_DATA is not set");
        return;
    };
    assert!(files.len() >= 11, "{files:?}");
    for path in files {
        let file = Gguf::open(&path).unwrap();
        let m = file.metadata();
        assert_eq!(m.iter().count(), m.len(), "{}", path.display());
        let tokens: Vec<&[u8]> = m.require("tokenizer.ggml.tokens").unwrap();
        assert!(tokens.len() >= 512);
        let types: Vec<i32> = m.require("tokenizer.ggml.token_type").unwrap();
        assert_eq!(tokens.len(), types.len());
        for tensor in file.tensors() {
            let mut out = vec![0.0; tensor.elements() as usize];
            block::dequantize(tensor.dtype().unwrap(), tensor.data().unwrap(), &mut out).unwrap();
            assert!(out.iter().all(|x| x.is_finite()), "{}", tensor.name());
        }
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("stories260K") {
            assert_eq!(file.tensors().len(), 47, "{name}");
            let built = arch::build(&file).unwrap();
            assert_eq!((built.layers, built.hidden, built.vocabulary), (5, 64, 512));
        }
    }
}

#[test]
fn formats_of_one_model_hold_the_same_numbers_nearly() {
    let Some(root) = std::env::var_os("ANYNPU_TEST_DATA") else {
        println!(
            "SKIPPED formats_of_one_model_hold_the_same_numbers_nearly: ANYNPU_TEST_DATA is not set"
        );
        return;
    };
    let open = |format: &str| {
        let name = format!("stories260K/stories260K-{format}.gguf");
        Gguf::open(PathBuf::from(&root).join(name)).unwrap()
    };
    let decode = |file: &Gguf, name: &str| {
        let tensor = file.require_tensor(name).unwrap();
        let mut out = vec![0.0f32; tensor.elements() as usize];
        block::dequantize(tensor.dtype().unwrap(), tensor.data().unwrap(), &mut out).unwrap();
        out
    };
    let exact = open("F32");
    for (format, most) in [
        ("F16", 0.001),
        ("Q8_0", 0.01),
        ("Q5_1", 0.05),
        ("Q5_0", 0.06),
        ("Q4_1", 0.1),
        ("Q4_0", 0.12),
    ] {
        let file = open(format);
        for tensor in exact.tensors() {
            let (x, y) = (decode(&exact, tensor.name()), decode(&file, tensor.name()));
            let sum = |f: &dyn Fn(usize) -> f32| -> f64 {
                (0..x.len()).map(|i| f64::from(f(i)).powi(2)).sum()
            };
            let relative = (sum(&|i| x[i] - y[i]) / sum(&|i| x[i])).sqrt();
            assert!(relative <= most, "{format} {}: {relative}", tensor.name());
        }
    }
}
