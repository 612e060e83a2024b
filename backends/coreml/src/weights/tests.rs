use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

fn view(dtype: DType, bytes: Vec<u8>) -> WeightView<'static> {
    WeightView {
        dtype,
        bytes: Cow::Owned(bytes),
    }
}

fn floats(numbers: &[f32]) -> WeightView<'static> {
    let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    view(DType::F32, bytes)
}

fn ios(version: u32) -> DeploymentTarget {
    format!("iOS{version}").parse().unwrap()
}

/// What the codes of a matrix are, unpacked.
fn unpacked(m: &Matrix, codes: DataType) -> Vec<f32> {
    let bits = codes.bits() as usize;
    let count = m.codes.len() * 8 / bits;
    let bit = |i: usize| u32::from(m.codes[i / 8] >> (i % 8) & 1);
    (0..count)
        .map(|n| {
            let raw = (0..bits).map(|b| bit(n * bits + b) << b).sum::<u32>();
            match codes {
                DataType::I4 | DataType::I8 => {
                    let shift = 32 - bits;
                    ((raw << shift) as i32 >> shift) as f32
                }
                _ => raw as f32,
            }
        })
        .collect()
}

/// What a matrix stands for.
fn numbers(m: &Matrix, rows: usize) -> Vec<f32> {
    let count = rows * m.columns;
    match m.encoding {
        Encoding::Plain(DataType::F16) => {
            let pairs = m.codes.chunks_exact(2);
            pairs
                .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect()
        }
        Encoding::Plain(_) => {
            let fours = m.codes.chunks_exact(4);
            fours
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect()
        }
        Encoding::Scaled {
            codes,
            block,
            offset,
        } => unpacked(m, codes)[..count]
            .iter()
            .enumerate()
            .map(|(i, code)| {
                let at = i / block as usize;
                let offset = if offset { m.offsets[at] } else { 0.0 };
                (code - offset) * m.scales[at]
            })
            .collect(),
        Encoding::Palette { codes, rows } => {
            let size = 1 << codes.bits();
            unpacked(m, codes)[..count]
                .iter()
                .enumerate()
                .map(|(i, code)| m.scales[i / (rows as usize * m.columns) * size + *code as usize])
                .collect()
        }
    }
}

const BLOCKS: [DType; 8] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
];

/// Bytes of blocks whose scales are numbers such as models have.
fn some_blocks(dtype: DType, rows: usize, columns: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    let mut bytes: Vec<u8> = (0..rows * dtype.row_bytes(columns).unwrap())
        .map(|_| next())
        .collect();
    let places: &[usize] = match dtype {
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q6_K => &[208],
        _ => &[0],
    };
    for block in bytes.chunks_mut(dtype.block_bytes()) {
        for at in places {
            let scale = f16::from_f32((f32::from(next()) - 128.0) / 4096.0);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

proptest! {
    #[test]
    fn blocks_of_files_are_what_they_were(seed in any::<u64>()) {
        for dtype in BLOCKS {
            let (rows, columns) = (2, 512);
            let view = view(dtype, some_blocks(dtype, rows, columns, seed));
            let mut was = vec![0f32; rows * columns];
            dequantize(dtype, &view.bytes, &mut was).unwrap();
            for float in [DataType::F32, DataType::F16] {
                let shape = [rows as u32, columns as u32];
                let encoding = Encoding::of(WeightForm::Model, dtype, shape, float, ios(18), false).unwrap();
                let m = Matrix::of("w", &view, [rows, columns], encoding, float).unwrap();
                let is = numbers(&m, rows);
                let most = was.iter().fold(0f32, |m, x| m.max(x.abs()));
                let exact = matches!(dtype, DType::Q4_0 | DType::Q5_0 | DType::Q8_0);
                for (i, (was, is)) in was.iter().zip(&is).enumerate() {
                    match (exact, float) {
                        (true, _) => prop_assert_eq!(was, is, "{} {}", dtype, i),
                        // offsets are divided and multiplied again; minima are up to the largest number
                        (false, DataType::F32) => prop_assert!((was - is).abs() <= 2e-6 * most, "{dtype} {i}: {was} {is}"),
                        (false, _) => prop_assert!((was - is).abs() <= 2e-3 * most, "{dtype} {i}: {was} {is}"),
                    }
                }
                match exact && float == DataType::F32 {
                    true => prop_assert_eq!(m.error.off, 0.0),
                    false => prop_assert!(m.error.share() < 1e-2, "{dtype}: {}", m.error.share()),
                }
            }
        }
    }

    #[test]
    fn forms_are_within_half_of_their_steps(
        numbers_ in prop::collection::vec(-2f32..2.0, 16 * 64), form in 1usize..7,
    ) {
        let form = WeightForm::ALL[form];
        let encoding = Encoding::of(form, DType::F32, [16, 64], DataType::F32, ios(18), false).unwrap();
        let m = Matrix::of("w", &floats(&numbers_), [16, 64], encoding, DataType::F32).unwrap();
        let is = numbers(&m, 16);
        let step = match form {
            WeightForm::Float => 0.0,
            WeightForm::Int8 => 4.0 / 254.0,
            WeightForm::Int4 => 4.0 / 14.0,
            // tables are nearest in the mean, not each
            _ => 4.0 / 8.0,
        };
        for (was, is) in numbers_.iter().zip(&is) {
            prop_assert!((was - is).abs() <= 0.5001 * step, "{form}: {was} {is}");
        }
        let off: f64 = numbers_.iter().zip(&is).map(|(a, b)| f64::from(b - a).powi(2)).sum();
        prop_assert!((off - m.error.off).abs() <= 1e-6 * off.max(1e-9));
    }
}

#[test]
fn what_is_added_is_less_the_more_bits_there_are() {
    let weights: Vec<f32> = (0..32 * 128)
        .map(|i| ((i * 37 % 1009) as f32 / 500.0 - 1.0).powi(3))
        .collect();
    let share = |form: WeightForm| {
        let encoding = Encoding::of(form, DType::F32, [32, 128], DataType::F16, ios(18), false);
        let m = Matrix::of(
            "w",
            &floats(&weights),
            [32, 128],
            encoding.unwrap(),
            DataType::F16,
        );
        m.unwrap().error.share()
    };
    let order = [
        WeightForm::Float,
        WeightForm::Lut8,
        WeightForm::Lut6,
        WeightForm::Lut4,
    ];
    for pair in order.windows(2) {
        assert!(share(pair[0]) < share(pair[1]), "{} {}", pair[0], pair[1]);
    }
    assert!(share(WeightForm::Lut4) < share(WeightForm::Int4));
    assert!(share(WeightForm::Int8) < share(WeightForm::Int4));
}

#[test]
fn numbers_that_f16_has_not_are_named() {
    let mut numbers = vec![1.0f32; 64];
    numbers[35] = -70_000.0;
    let encodings = [
        Encoding::Plain(DataType::F16),
        Encoding::of(
            WeightForm::Int8,
            DType::F32,
            [2, 32],
            DataType::F16,
            ios(18),
            false,
        )
        .unwrap(),
        Encoding::of(
            WeightForm::Lut4,
            DType::F32,
            [2, 32],
            DataType::F16,
            ios(18),
            false,
        )
        .unwrap(),
    ];
    for encoding in encodings {
        let e = Matrix::of(
            "big.weight",
            &floats(&numbers),
            [2, 32],
            encoding,
            DataType::F16,
        )
        .unwrap_err();
        let CoreMlError::Overflow { name, value, index } = &e else {
            panic!("{encoding}: {e}");
        };
        assert_eq!((&name[..], *value), ("big.weight", -70_000.0));
        // a scale that overflows takes its whole row with it
        assert!((32..64).contains(index), "{encoding}: {index}");
    }
    let plain = Encoding::Plain(DataType::F32);
    assert!(Matrix::of("w", &floats(&numbers), [2, 32], plain, DataType::F32).is_ok());
    numbers[3] = f32::NAN;
    for encoding in [
        plain,
        Encoding::Palette {
            codes: DataType::U4,
            rows: 2,
        },
    ] {
        assert!(Matrix::of("w", &floats(&numbers), [2, 32], encoding, DataType::F32).is_err());
    }
}

#[test]
fn weights_of_another_size_are_refused() {
    for (dtype, bytes, columns) in [
        (DType::Q4_0, 17, 32),
        (DType::F32, 8, 4),
        (DType::F32, 0, 4),
        (DType::Q4_0, 18, 16),
    ] {
        let encoding = Encoding::Plain(DataType::F32);
        let short = view(dtype, vec![0; bytes]);
        let e = Matrix::of("w", &short, [1, columns], encoding, DataType::F32).unwrap_err();
        assert!(e.to_string().contains("weight 'w'"), "{e}");
    }
}

#[test]
fn forms_are_what_the_target_has() {
    let of = |form, dtype, target, engine| {
        Encoding::of(form, dtype, [16, 256], DataType::F16, ios(target), engine)
    };
    let row = Encoding::Scaled {
        codes: DataType::I8,
        block: 256,
        offset: false,
    };
    let plain = Encoding::Plain(DataType::F16);
    for dtype in BLOCKS {
        assert_eq!(of(WeightForm::Model, dtype, 15, false).unwrap(), plain);
        assert_eq!(of(WeightForm::Model, dtype, 16, false).unwrap(), row);
        let blocks = of(WeightForm::Model, dtype, 18, false).unwrap();
        assert!(
            matches!(blocks, Encoding::Scaled { block: 16 | 32, .. }),
            "{blocks}"
        );
        let engine = of(WeightForm::Model, dtype, 18, true).unwrap();
        assert!(
            !matches!(engine, Encoding::Scaled { block: 16 | 32, .. }),
            "{engine}"
        );
    }
    assert_eq!(
        of(WeightForm::Model, DType::BF16, 18, false).unwrap(),
        plain
    );
    for form in [WeightForm::Int8, WeightForm::Lut4] {
        let e = of(form, DType::F32, 15, false).unwrap_err().to_string();
        assert!(e.contains("needs iOS16"), "{e}");
    }
    let e = of(WeightForm::Int4, DType::F32, 17, false)
        .unwrap_err()
        .to_string();
    assert!(e.contains("weights in int4 needs iOS18"), "{e}");
    let table = |target| of(WeightForm::Lut4, DType::F32, target, false).unwrap();
    let palette = |rows| Encoding::Palette {
        codes: DataType::U4,
        rows,
    };
    assert_eq!((table(17), table(18)), (palette(16), palette(8)));
    for &form in WeightForm::ALL {
        assert_eq!(form.name().parse::<WeightForm>().unwrap(), form);
    }
}
