//! Qualcomm's own library: what it computes, keeps and refuses.

mod common;

use anynpu_qnn::exec::{Context, ContextOptions, QnnError};
use anynpu_qnn::htp::{DataType, Encoding, Graph, Param, Scalar, TensorKind};
use common::{compile, device, error, f16, from_f16, linear, numbers, product, run};

#[test]
fn a_product_in_f16_is_right() {
    let Some(device) = device("a_product_in_f16_is_right", "SM8650") else {
        return;
    };
    let (x, w) = (numbers(8 * 128, 1), numbers(64 * 128, 2));
    let linear = compile(&device, &linear("linear", 8, 128, 64, &w)).unwrap();
    let y = from_f16(&run(&linear, &[&f16(&x)])[0]);
    let e = error(&y, &product(&x, &w, 128));
    assert!(e < 2e-3, "{e}");
}

#[test]
fn buffers_of_other_sizes_than_their_tensors_are_refused_before_the_library_sees_them() {
    let Some(device) = device("buffers_of_other_sizes…", "SM8650") else {
        return;
    };
    let linear = compile(
        &device,
        &linear("linear", 8, 128, 64, &numbers(64 * 128, 2)),
    )
    .unwrap();
    let (x, mut y) = (vec![0u8; 8 * 128 * 2], vec![0u8; 8 * 64 * 2]);
    linear.execute(&[&x], &mut [&mut y]).unwrap();
    let short = linear.execute(&[&x[..10]], &mut [&mut y]).unwrap_err();
    let told = "'x' of 'linear' has 10 bytes, its tensor 2048";
    assert_eq!(short.to_string(), told);
    let long = linear.execute(&[&x], &mut [&mut [0; 2000]]).unwrap_err();
    assert!(matches!(long, QnnError::Size { found: 2000, .. }), "{long}");
    let none = linear.execute(&[], &mut [&mut y]).unwrap_err();
    assert!(matches!(none, QnnError::Count { found: 0, .. }), "{none}");
}

#[test]
fn what_the_library_does_not_know_is_refused_with_its_own_words() {
    let Some(device) = device("what_the_library_does_not_know…", "SM8650") else {
        return;
    };
    let mut g = linear("g", 1, 32, 32, &numbers(1024, 1));
    g.nodes[0].op = "Imagine";
    let e = compile(&device, &g).unwrap_err();
    assert!(matches!(e.code(), Some(3110 | 4005)), "{e}");
    assert!(e.to_string().contains("'linear' (Imagine) of 'g'"), "{e}");
    let mut g = linear("g", 1, 32, 32, &numbers(1024, 1));
    g.nodes[0].params = vec![("axis", Param::Scalar(Scalar::U32(7)))];
    assert!(compile(&device, &g).unwrap_err().code().is_some());
    let operations = device.operations().unwrap();
    for op in [
        "MatMul",
        "FullyConnected",
        "RmsNorm",
        "Softmax",
        "RotaryEmbedding",
    ] {
        assert!(operations.iter().any(|o| o == op), "{op}");
    }
}

#[test]
fn a_compiled_form_gives_the_same_bits_and_names_its_chip() {
    let Some(device) = device("a_compiled_form_gives_the_same_bits…", "SM8650") else {
        return;
    };
    let context = Context::new(&device, ContextOptions::default()).unwrap();
    let (x, w) = (f16(&numbers(4 * 64, 1)), numbers(96 * 64, 2));
    let first = context.compile(&linear("first", 4, 64, 96, &w)).unwrap();
    let second = context.compile(&linear("second", 1, 64, 96, &w)).unwrap();
    let binary = context.binary().unwrap();
    let (loaded, info) = Context::load(&device, &binary).unwrap();
    assert_eq!(info.soc, 57);
    assert_eq!(info.core, device.core_api());
    assert_eq!(Some(&info.build), device.build().as_ref());
    // what an older library compiled is loaded, what a newer one did is not
    assert_eq!(info.fits(&device).unwrap(), None);
    let mut older = info.clone();
    older.core.minor -= 1;
    let why = older.fits(&device).unwrap().unwrap();
    assert!(why.contains(&older.core.to_string()), "{why}");
    let mut newer = info.clone();
    newer.core.minor += 1;
    let e = newer.fits(&device).unwrap_err().to_string();
    assert!(e.contains("the library's; install a newer one"), "{e}");
    let names: Vec<&str> = info.graphs.iter().map(|g| g.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    let again = loaded.graph(&info, "first").unwrap();
    assert_eq!(again.inputs()[0].dims, [4, 64]);
    assert_eq!(run(&again, &[&x]), run(&first, &[&x]));
    let again = loaded.graph(&info, "second").unwrap();
    assert_eq!(run(&again, &[&x[..128]]), run(&second, &[&x[..128]]));
    let absent = loaded.graph(&info, "third").unwrap_err().to_string();
    assert!(absent.contains("first, second"), "{absent}");
}

#[test]
fn damaged_compiled_forms_and_those_of_other_chips_are_refused() {
    let Some(here) = device("damaged_compiled_forms…", "SM8650") else {
        return;
    };
    let context = Context::new(&here, ContextOptions::default()).unwrap();
    context
        .compile(&linear("g", 4, 64, 96, &numbers(96 * 64, 2)))
        .unwrap();
    let binary = context.binary().unwrap();
    for bad in [&binary[..binary.len() / 2], &binary[..40], b"nonsense", b""] {
        let e = Context::load(&here, bad).unwrap_err();
        assert!(
            matches!(e, QnnError::Binary { .. } | QnnError::Call { .. }),
            "{e}"
        );
    }
    let mut swapped = binary.clone();
    swapped[..64].reverse();
    Context::load(&here, &swapped).unwrap_err();
    let other = device("", "SM8550").unwrap();
    let e = Context::load(&other, &binary).unwrap_err().to_string();
    assert!(e.contains("57, expected 43, of SM8550"), "{e}");
}

#[test]
fn shared_weights_are_held_once() {
    let Some(device) = device("shared_weights_are_held_once", "SM8650") else {
        return;
    };
    let w = numbers(512 * 512, 2);
    let bytes = |share_weights| {
        let mut options = ContextOptions::default();
        options.share_weights = share_weights;
        let context = Context::new(&device, options).unwrap();
        context
            .compile(&linear("prefill", 32, 512, 512, &w))
            .unwrap();
        context.compile(&linear("decode", 1, 512, 512, &w)).unwrap();
        context.binary().unwrap().len()
    };
    let (apart, shared) = (bytes(false), bytes(true));
    assert!(shared < apart * 6 / 10, "{shared} of {apart} bytes");
}

/// Sums of what is kept for long: more than the chip's own memory holds.
fn wide(name: &str, rows: u32) -> Graph {
    let (f, dims) = (DataType::F16, [rows, 4096]);
    let mut g = Graph::new(name);
    let x = g.tensor("x", TensorKind::Input, f, &dims, Encoding::None);
    let mut all = vec![x];
    for i in 0..6 {
        let to = g.tensor(
            format!("t{i}"),
            TensorKind::Native,
            f,
            &dims,
            Encoding::None,
        );
        g.node(format!("n{i}"), "Relu", &[all[i]], &[to], &[]);
        all.push(to);
    }
    let mut sum = all[6];
    for i in (0..6).rev() {
        let kind = if i == 0 {
            TensorKind::Output
        } else {
            TensorKind::Native
        };
        let to = g.tensor(format!("s{i}"), kind, f, &dims, Encoding::None);
        g.node(
            format!("a{i}"),
            "ElementWiseAdd",
            &[sum, all[i]],
            &[to],
            &[],
        );
        sum = to;
    }
    g
}

#[test]
fn contexts_that_spill_are_loaded_together_and_give_the_same_bits() {
    let Some(device) = device("contexts_that_spill…", "SM8650") else {
        return;
    };
    let rows = [224, 256];
    let mut binaries = Vec::new();
    let mut expected = Vec::new();
    let given = rows.map(|rows| f16(&numbers(rows as usize * 4096, rows)));
    for (rows, x) in rows.into_iter().zip(&given) {
        let context = Context::new(&device, ContextOptions::default()).unwrap();
        let graph = context.compile(&wide("wide", rows)).unwrap();
        expected.push(run(&graph, &[x]));
        binaries.push(context.binary().unwrap());
    }
    let each: Vec<&[u8]> = binaries.iter().map(|b| &b[..]).collect();
    let loaded = Context::load_all(&device, &each).unwrap();
    for (((context, info), x), expected) in loaded.iter().zip(&given).zip(&expected) {
        assert!(info.spill_bytes > 1 << 20, "{}", info.spill_bytes);
        let graph = context.graph(info, "wide").unwrap();
        assert_eq!(run(&graph, &[x]), *expected);
    }
}

#[test]
fn a_graph_of_several_nodes_with_parameters_of_each_kind_is_right() {
    let Some(device) = device("a_graph_of_several_nodes…", "SM8650") else {
        return;
    };
    let mut g = Graph::new("norm");
    let f = DataType::F16;
    let x = g.tensor("x", TensorKind::Input, f, &[4, 64], Encoding::None);
    let gamma = TensorKind::Static(f16(&[1.0; 64]));
    let gamma = g.tensor("gamma", gamma, f, &[64], Encoding::None);
    let axes = g.numbers("axes", &[1], &[1]);
    let normed = g.tensor("normed", TensorKind::Native, f, &[4, 64], Encoding::None);
    let shares = g.tensor("shares", TensorKind::Output, f, &[4, 64], Encoding::None);
    let eps = Param::Scalar(Scalar::F32(1e-5));
    let params = [("epsilon", eps), ("axes", Param::Tensor(axes))];
    g.node("norm", "RmsNorm", &[x, gamma], &[normed], &params);
    let axis = [("axis", Param::Scalar(Scalar::U32(1)))];
    g.node("softmax", "Softmax", &[normed], &[shares], &axis);
    let values = numbers(4 * 64, 3);
    let found = from_f16(&run(&compile(&device, &g).unwrap(), &[&f16(&values)])[0]);
    let expected: Vec<f32> = values
        .chunks(64)
        .flat_map(|row| {
            let mean = row.iter().map(|x| x * x).sum::<f32>() / 64.0;
            let exp: Vec<f32> = row
                .iter()
                .map(|x| (x / (mean + 1e-5).sqrt()).exp())
                .collect();
            let sum: f32 = exp.iter().sum();
            exp.into_iter().map(move |e| e / sum)
        })
        .collect();
    let e = error(&found, &expected);
    assert!(e < 5e-3, "{e}");
}

/// RMS norms over the last dimension, and how far off they are.
fn norm_error(device: &std::sync::Arc<anynpu_qnn::exec::Device>, dims: &[u32]) -> f32 {
    let (f, width) = (DataType::F16, *dims.last().unwrap());
    let count: u32 = dims.iter().product();
    let mut g = Graph::new("norm");
    let x = g.tensor("x", TensorKind::Input, f, dims, Encoding::None);
    let gamma = TensorKind::Static(f16(&vec![1.0; width as usize]));
    let gamma = g.tensor("gamma", gamma, f, &[width], Encoding::None);
    let axes = g.numbers("axes", &[1], &[dims.len() as u32 - 1]);
    let y = g.tensor("y", TensorKind::Output, f, dims, Encoding::None);
    let eps = Param::Scalar(Scalar::F32(1e-5));
    let params = [("epsilon", eps), ("axes", Param::Tensor(axes))];
    g.node("norm", "RmsNorm", &[x, gamma], &[y], &params);
    let values = numbers(count as usize, 5);
    let found = from_f16(&run(&compile(device, &g).unwrap(), &[&f16(&values)])[0]);
    let rows = values.chunks(width as usize).flat_map(|row| {
        let mean = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
        row.iter().map(move |x| x / (mean + 1e-5).sqrt())
    });
    error(&found, &rows.collect::<Vec<f32>>())
}

/// The library accepts norms over the last of three dimensions and gives other numbers from 16 rows on, so lowering
/// makes them of two. When this fails, that need be no longer.
#[test]
fn norms_of_two_dimensions_are_right_and_of_three_wrong_without_a_word() {
    let Some(device) = device("norms_of_two_dimensions…", "SM8650") else {
        return;
    };
    for (rows, heads, width) in [(1, 1, 64), (8, 4, 16), (32, 4, 16), (64, 2, 64)] {
        let flat = norm_error(&device, &[rows * heads, width]);
        assert!(flat < 2e-3, "{rows} x {heads} x {width}: {flat}");
    }
    assert!(norm_error(&device, &[8, 4, 16]) < 2e-3);
    let wrong = norm_error(&device, &[32, 4, 16]);
    assert!(wrong > 0.5, "{wrong}");
}
