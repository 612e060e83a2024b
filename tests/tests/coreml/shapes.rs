//! A function that takes several shapes, which packages can be written with and models are not.

use std::path::Path;

use anynpu_coreml::CoreMlError;
use anynpu_coreml::package::{
    ANY, BlobRef, DataType, Description, Feature, Function, Literal, PackageWriter, Written,
};
use anynpu_cpu::reference::Tensor;
use half::f16;

use crate::checker::{Checker, accepted};
use crate::{npz, numbers};

const WIDTH: u32 = 8;
const RESULTS: u32 = 16;
const STEPS: [u32; 3] = [1, 4, 16];

fn feature(name: &str, dtype: DataType, dims: &[u32]) -> Feature {
    Feature {
        name: name.into(),
        description: String::new(),
        dtype,
        dims: dims.to_vec(),
    }
}

fn weights() -> Vec<f32> {
    let each = numbers((WIDTH * RESULTS) as usize, 3).into_iter();
    each.map(|x| f16::from_f32(x).to_f32()).collect()
}

/// Rows times a matrix, beside the sum of each with its number, as a package for steps of each size.
fn write(path: &Path, target: &str) -> Result<Written, CoreMlError> {
    let mut package = PackageWriter::create(path, target.parse()?)?;
    let halves = weights().into_iter().map(f16::from_f32);
    let bytes: Vec<u8> = halves.flat_map(f16::to_le_bytes).collect();
    let (half, dims) = (DataType::F16, vec![RESULTS, WIDTH]);
    let offset = package.append_blob("w", half, u64::from(WIDTH * RESULTS), &bytes);
    let blob = BlobRef {
        dtype: half,
        offset: offset.unwrap(),
        dims,
    };
    let mut f = Function::new("main", package.target())?;
    let rows = STEPS.map(|t| vec![t, WIDTH]);
    let x = f.input_of_shapes(feature("x", half, &[4, WIDTH]), &rows)?;
    assert_eq!(f.dims(x), [ANY, WIDTH]);
    let several = package.target().has_ios18();
    let places = match several {
        true => {
            let places = STEPS.map(|t| vec![t]);
            let positions = feature("positions", DataType::I32, &[4]);
            f.input_of_shapes(positions, &places)?
        }
        false => f.input(feature("positions", DataType::I32, &[1]))?,
    };
    let w = f.weight("w", &blob)?;
    let none = Literal::Floats(half, vec![RESULTS], vec![0.0; RESULTS as usize]);
    let operands = [("x", x.into()), ("weight", w.into()), ("bias", none.into())];
    let y = f.op("linear", "product", &operands, half, &[ANY, RESULTS])?;
    let to_half = [("x", places.into()), ("dtype", "fp16".into())];
    let dims = f.dims(places).to_vec();
    let places = f.op("cast", "places", &to_half, half, &dims)?;
    let column = [("x", places.into()), ("shape", vec![-1, 1].into())];
    let count = if several { ANY } else { 1 };
    let column = f.op("reshape", "column", &column, half, &[count, 1])?;
    let operands = [("x", y.into()), ("y", column.into())];
    let y = f.op("add", "sum", &operands, half, &[ANY, RESULTS])?;
    f.output(y, feature("y", half, &[ANY, RESULTS]))?;
    package.add(f)?;
    package.finish(&Description::default())
}

fn floats(dims: [u32; 2], numbers: Vec<f32>) -> Tensor {
    let dims = dims.map(|n| n as usize);
    Tensor::new(dims.to_vec(), numbers).unwrap()
}

#[test]
fn a_function_takes_each_of_its_shapes() {
    let Some(mut checker) = Checker::find("a_function_takes_each_of_its_shapes") else {
        return;
    };
    let mut names = Vec::new();
    for target in ["iOS16", "iOS18", "macOS26"] {
        let path = checker.path(&format!("{target}.mlpackage"));
        write(&path, target).unwrap();
        for tokens in STEPS {
            let x: Vec<f32> = numbers((tokens * WIDTH) as usize, tokens);
            let x: Vec<f32> = x.iter().map(|x| f16::from_f32(*x).to_f32()).collect();
            let count = match target {
                "iOS16" => 1,
                _ => tokens,
            };
            let positions: Vec<i32> = (7..7 + count as i32).collect();
            let w = weights();
            let products = x.chunks(WIDTH as usize).enumerate().flat_map(|(t, row)| {
                let place = positions[t % positions.len()] as f32;
                let rows = w.chunks(WIDTH as usize);
                rows.map(move |w| row.iter().zip(w).map(|(a, b)| a * b).sum::<f32>() + place)
                    .collect::<Vec<f32>>()
            });
            let y = floats([tokens, RESULTS], products.collect());
            let (given, expected) = (
                checker.path(&format!("{target}-{tokens}.npz")),
                checker.path(&format!("{target}-{tokens}-y.npz")),
            );
            let places = Tensor::new(vec![count as usize], positions.clone()).unwrap();
            let given_all = [
                ("x".to_owned(), floats([tokens, WIDTH], x)),
                ("positions".to_owned(), places),
            ];
            npz::write(&given, &given_all).unwrap();
            npz::write(&expected, &[("y".to_owned(), y)]).unwrap();
            let (given, expected) = (given.to_str().unwrap(), expected.to_str().unwrap());
            let options = ["--inputs", given, "--expect", expected, "--atol", "0.02"];
            checker.check(&path, &options);
            names.push(format!("{target} {tokens}"));
        }
    }
    for (name, said) in names.iter().zip(checker.run()) {
        accepted(name, &said);
    }
}
