//! Graphs of one operation each, in the forms that models need, with numbers to try them on.

use crate::htp::reference::evaluate;
use crate::htp::{
    DataType, Encoding, FixedForm, Graph, GraphError, Param, Range, Scalar, TensorId, TensorKind,
    fixed,
};
use crate::weights::Matrix;

/// What the numbers of a form are held in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Numbers {
    /// 16-bit floating point.
    F16,
    /// 8 bits.
    U8,
    /// 16 bits.
    U16,
}

impl Numbers {
    /// All of them.
    pub const ALL: [Numbers; 3] = [Numbers::F16, Numbers::U8, Numbers::U16];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Numbers::F16 => "f16",
            Numbers::U8 => "u8",
            Numbers::U16 => "u16",
        }
    }
}

/// One operation in one form.
#[derive(Clone, Debug)]
pub struct Form {
    /// The operation and what is special: `MatMul rank 4 transposed`.
    pub name: String,
    /// What its numbers are held in.
    pub numbers: Numbers,
    /// The graph.
    pub graph: Graph,
    /// What its inputs are given.
    pub inputs: Vec<Vec<u8>>,
    /// What its outputs must be, in numbers.
    pub expected: Vec<Vec<f64>>,
    /// How far off outputs may be: in steps between neighbouring numbers, or in floating point as a share of the
    /// largest.
    pub bound: f64,
}

impl Form {
    /// Its name in tables, with what its numbers are held in.
    pub fn id(&self) -> String {
        format!("{} {}", self.name, self.numbers.name())
    }
}

/// Every form that is tried.
///
/// # Errors
/// None of these graphs: what [`evaluate`] says of others.
pub fn forms() -> Result<Vec<Form>, GraphError> {
    let mut all = Vec::new();
    for numbers in Numbers::ALL {
        for sketch in sketches(numbers) {
            all.push(sketch.form(numbers)?);
        }
    }
    all.extend(conversions()?);
    Ok(all)
}

/// From each way of holding numbers to the others.
fn conversions() -> Result<Vec<Form>, GraphError> {
    let scale = |levels: f32| Encoding::Scale {
        scale: 4.5 / (levels - 1.0),
        offset: (-levels / 2.0) as i32,
    };
    let f32s = (Numbers::F16, "f32", DataType::F32, Encoding::None);
    let f16s = (Numbers::F16, "f16", DataType::F16, Encoding::None);
    let u8s = (Numbers::U8, "u8", DataType::Ufixed8, scale(256.0));
    let u16s = (Numbers::U16, "u16", DataType::Ufixed16, scale(65536.0));
    let mut all = Vec::new();
    for (op, from, to) in [
        ("Cast", &f32s, &f16s),
        ("Cast", &f16s, &f32s),
        ("Quantize", &f16s, &u8s),
        ("Quantize", &f16s, &u16s),
        ("Dequantize", &u8s, &f16s),
        ("Dequantize", &u16s, &f16s),
        ("Convert", &u8s, &u16s),
        ("Convert", &u16s, &u8s),
    ] {
        let mut b = Builder {
            graph: Graph::new("form"),
            inputs: Vec::new(),
            seed: all.len() as u32,
        };
        let dims = [4, 32];
        let numbers = b.some(4 * 32, -2.0, 2.0);
        let x = b
            .graph
            .tensor("x", TensorKind::Input, from.2, &dims, from.3.clone());
        let y = b
            .graph
            .tensor("y", TensorKind::Output, to.2, &dims, to.3.clone());
        b.graph.node("node", op, &[x], &[y], &[]);
        let input = b.graph.tensors[0].encode(&numbers)?;
        let expected = b.graph.tensors[0].decode(&input)?;
        let held = from.0.max(to.0);
        all.push(Form {
            name: format!("{op} from {} to {}", from.1, to.1),
            numbers: held,
            inputs: vec![input],
            expected: vec![expected],
            bound: if to.0 == Numbers::F16 {
                Off::Little.bound(Numbers::F16)
            } else {
                1.01
            },
            graph: b.graph,
        });
    }
    Ok(all)
}

/// A form in floating point, with what its inputs are given in numbers.
struct Sketch {
    name: String,
    graph: Graph,
    inputs: Vec<Vec<f64>>,
    off: Off,
}

/// How far off results may be.
#[derive(Clone, Copy)]
enum Off {
    /// As rounding makes them, give or take some.
    Little,
    /// By weights, tables or series: of u16 about 11 bits count.
    Tables,
    /// Products of activations, and roots: of u16 about 10 bits count.
    Coarse,
    /// Not at all: numbers are only moved.
    Nothing,
}

impl Off {
    fn bound(self, numbers: Numbers) -> f64 {
        match (numbers, self) {
            (Numbers::F16, Off::Nothing) => 0.0,
            (Numbers::F16, _) => 4e-3,
            (_, Off::Nothing) => 1e-3,
            (Numbers::U8, _) => 1.5,
            (Numbers::U16, Off::Little) => 8.0,
            (Numbers::U16, Off::Tables) => 40.0,
            (Numbers::U16, Off::Coarse) => 100.0,
        }
    }
}

impl Sketch {
    fn form(self, numbers: Numbers) -> Result<Form, GraphError> {
        let fixed_form = match numbers {
            Numbers::F16 => None,
            Numbers::U8 => Some(FixedForm::U8),
            Numbers::U16 => Some(FixedForm::U16),
        };
        let graph = match fixed_form {
            None => self.graph,
            Some(form) => {
                let values = evaluate(&self.graph, &self.inputs)?;
                let tensors = 0..self.graph.tensors.len() as u32;
                let ranges = tensors.map(|i| Range::of(values.of(TensorId(i))));
                fixed(&self.graph, &ranges.collect::<Vec<_>>(), form)?
            }
        };
        let given = graph.inputs().zip(&self.inputs);
        let inputs: Vec<Vec<u8>> = given.map(|(t, x)| t.encode(x)).collect::<Result<_, _>>()?;
        let given = graph.inputs().zip(&inputs);
        let held: Vec<Vec<f64>> = given.map(|(t, x)| t.decode(x)).collect::<Result<_, _>>()?;
        let values = evaluate(&graph, &held)?;
        let ids = (0..).map(TensorId).zip(&graph.tensors);
        let outputs = ids.filter(|(_, t)| t.kind == TensorKind::Output);
        // matrices of 8 bits make results that are a little beyond the range of those before
        let expected = outputs.map(|(id, tensor)| {
            let (least, most) = tensor.span();
            let numbers = values.of(id).iter();
            numbers.map(|x| x.clamp(least, most)).collect()
        });
        let expected = expected.collect();
        Ok(Form {
            name: self.name,
            numbers,
            bound: self.off.bound(numbers),
            expected,
            inputs,
            graph,
        })
    }
}

/// A graph under construction.
struct Builder {
    graph: Graph,
    inputs: Vec<Vec<f64>>,
    seed: u32,
}

impl Builder {
    /// So many numbers in `least..most` of a sequence.
    fn some(&mut self, count: u32, least: f64, most: f64) -> Vec<f64> {
        self.seed += 1;
        let mut state = self.seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            least + (most - least) * f64::from(state >> 8) / f64::from(1u32 << 24)
        };
        (0..count).map(|_| next()).collect()
    }

    fn x(&mut self, dims: &[u32]) -> TensorId {
        self.between(dims, -2.0, 2.0)
    }

    fn between(&mut self, dims: &[u32], least: f64, most: f64) -> TensorId {
        let numbers = self.some(dims.iter().product(), least, most);
        self.given(dims, DataType::F16, numbers)
    }

    fn given(&mut self, dims: &[u32], dtype: DataType, numbers: Vec<f64>) -> TensorId {
        let name = format!("x{}", self.inputs.len());
        self.inputs.push(numbers);
        self.graph
            .tensor(name, TensorKind::Input, dtype, dims, Encoding::None)
    }

    /// A static tensor of numbers in `least..most`.
    fn w(&mut self, dims: &[u32], least: f64, most: f64) -> TensorId {
        let numbers = self.some(dims.iter().product(), least, most);
        let bytes = numbers.iter();
        let bytes = bytes.flat_map(|x| half::f16::from_f64(*x).to_le_bytes());
        let kind = TensorKind::Static(bytes.collect());
        let name = format!("w{}", self.graph.tensors.len());
        self.graph
            .tensor(name, kind, DataType::F16, dims, Encoding::None)
    }

    /// A matrix `[rows, columns]` as `make` holds it.
    fn matrix(&mut self, dims: &[u32; 2], make: impl Fn(&[f32], usize) -> Matrix) -> TensorId {
        let numbers = self.some(dims.iter().product(), -0.5, 0.5);
        let numbers: Vec<f32> = numbers.iter().map(|x| *x as f32).collect();
        let held = make(&numbers, dims[1] as usize);
        let dims = held.dims(dims);
        let kind = TensorKind::Static(held.bytes);
        self.graph
            .tensor("w", kind, held.dtype, &dims, held.encoding)
    }

    /// A static tensor of places.
    fn places(&mut self, dims: &[u32], places: &[i32]) -> TensorId {
        let bytes = places.iter().flat_map(|n| n.to_le_bytes()).collect();
        let name = format!("places{}", self.graph.tensors.len());
        let kind = TensorKind::Static(bytes);
        self.graph
            .tensor(name, kind, DataType::I32, dims, Encoding::None)
    }

    fn list(&mut self, dims: &[u32], numbers: &[u32]) -> Param {
        let name = format!("list{}", self.graph.tensors.len());
        Param::Tensor(self.graph.numbers(name, dims, numbers))
    }

    fn op(
        &mut self,
        op: &'static str,
        x: &[TensorId],
        dims: &[u32],
        params: &[(&'static str, Param)],
    ) {
        self.op_of(op, x, &[(dims, DataType::F16)], params);
    }

    fn op_of(
        &mut self,
        op: &'static str,
        x: &[TensorId],
        results: &[(&[u32], DataType)],
        params: &[(&'static str, Param)],
    ) {
        let mut made = Vec::new();
        for (i, (dims, dtype)) in results.iter().enumerate() {
            let name = format!("y{i}");
            let y = self
                .graph
                .tensor(name, TensorKind::Output, *dtype, dims, Encoding::None);
            made.push(y);
        }
        self.graph.node("node", op, x, &made, params);
    }
}

const fn number(n: u32) -> Param {
    Param::Scalar(Scalar::U32(n))
}

const fn yes() -> Param {
    Param::Scalar(Scalar::Bool(true))
}

/// Every form with numbers in floating point, for which `numbers` is meant.
fn sketches(numbers: Numbers) -> Vec<Sketch> {
    let mut all = Vec::new();
    let mut add = |name: &str, off: Off, build: &dyn Fn(&mut Builder)| {
        let mut b = Builder {
            graph: Graph::new("form"),
            inputs: Vec::new(),
            seed: all.len() as u32,
        };
        build(&mut b);
        all.push(Sketch {
            name: name.into(),
            graph: b.graph,
            inputs: b.inputs,
            off,
        });
    };
    products(numbers, &mut add);
    rows(&mut add);
    moved(&mut add);
    elements(&mut add);
    all
}

/// Adds a form: its name, how far off it may be, and its graph.
type Add<'a> = dyn FnMut(&str, Off, &dyn Fn(&mut Builder)) + 'a;

fn products(numbers: Numbers, add: &mut Add<'_>) {
    let turned = [("transpose_in1", yes())];
    let matmul = |a: &'static [u32],
                  w: &'static [u32],
                  y: &'static [u32],
                  turned: &'static [(&'static str, Param)]| {
        move |b: &mut Builder| {
            let x = [b.x(a), b.x(w)];
            b.op("MatMul", &x, y, turned);
        }
    };
    const TURNED: &[(&str, Param)] = &[("transpose_in1", yes())];
    add(
        "MatMul rank 2",
        Off::Coarse,
        &matmul(&[8, 32], &[32, 16], &[8, 16], &[]),
    );
    add(
        "MatMul rank 3",
        Off::Coarse,
        &matmul(&[2, 8, 32], &[2, 32, 16], &[2, 8, 16], &[]),
    );
    add(
        "MatMul rank 4",
        Off::Coarse,
        &matmul(&[1, 3, 8, 32], &[1, 3, 32, 16], &[1, 3, 8, 16], &[]),
    );
    add(
        "MatMul rank 3, transposed",
        Off::Coarse,
        &matmul(&[2, 8, 32], &[2, 16, 32], &[2, 8, 16], TURNED),
    );
    add(
        "MatMul rank 4, transposed",
        Off::Coarse,
        &matmul(&[1, 3, 8, 32], &[1, 3, 16, 32], &[1, 3, 8, 16], TURNED),
    );
    add(
        "MatMul rank 4, one for all",
        Off::Coarse,
        &matmul(&[1, 3, 8, 32], &[1, 1, 32, 16], &[1, 3, 8, 16], &[]),
    );
    add(
        "MatMul of one row",
        Off::Coarse,
        &matmul(&[2, 1, 32], &[2, 32, 16], &[2, 1, 16], &[]),
    );
    add("MatMul by weights", Off::Tables, &|b| {
        let x = [b.x(&[8, 32]), b.w(&[32, 16], -0.5, 0.5)];
        b.op("MatMul", &x, &[8, 16], &[]);
    });
    add("MatMul by weights, transposed", Off::Tables, &|b| {
        let x = [b.x(&[8, 32]), b.w(&[16, 32], -0.5, 0.5)];
        b.op("MatMul", &x, &[8, 16], &turned);
    });
    let weights = if numbers == Numbers::F16 {
        "f16"
    } else {
        "int8"
    };
    for (what, rows) in [("one row", 1), ("rows", 8)] {
        add(
            &format!("FullyConnected by {weights}, {what}"),
            Off::Tables,
            &|b| {
                let x = [b.x(&[rows, 64]), b.w(&[32, 64], -0.5, 0.5)];
                b.op("FullyConnected", &x, &[rows, 32], &[]);
            },
        );
    }
    add(
        &format!("FullyConnected by {weights}, bias"),
        Off::Tables,
        &|b| {
            let x = [
                b.x(&[8, 64]),
                b.w(&[32, 64], -0.5, 0.5),
                b.w(&[32], -3.0, 3.0),
            ];
            b.op("FullyConnected", &x, &[8, 32], &[]);
        },
    );
    add(
        &format!("FullyConnected by {weights}, rank 3"),
        Off::Tables,
        &|b| {
            let x = [b.x(&[2, 4, 64]), b.w(&[32, 64], -0.5, 0.5)];
            b.op("FullyConnected", &x, &[8, 32], &[]);
        },
    );
    add("FullyConnected of two activations", Off::Coarse, &|b| {
        let x = [b.x(&[8, 64]), b.x(&[32, 64])];
        b.op("FullyConnected", &x, &[8, 32], &[]);
    });
    type Make = fn(&[f32], usize) -> Matrix;
    let narrow: [(&str, Make); 3] = [
        ("int8 a channel", |w, k| Matrix::of_channels(w, k, 8)),
        ("int4 a channel", |w, k| Matrix::of_channels(w, k, 4)),
        ("int4 a block", Matrix::of_blocks),
    ];
    for (what, make) in narrow {
        // what `fixed` makes of matrices is tried above
        if what == "int8 a channel" && numbers != Numbers::F16 {
            continue;
        }
        add(&format!("FullyConnected by {what}"), Off::Tables, &|b| {
            let x = b.x(&[8, 64]);
            let w = b.matrix(&[32, 64], make);
            b.op("FullyConnected", &[x, w], &[8, 32], &[]);
        });
    }
    for (what, rows, bias) in [("", 8, false), (", bias", 1, true)] {
        add(
            &format!("Conv2d 1 x 1 by int4 with factors{what}"),
            Off::Tables,
            &|b| {
                let mut x = vec![
                    b.x(&[1, 1, rows, 64]),
                    b.matrix(&[96, 64], Matrix::of_factored),
                ];
                if bias {
                    x.push(b.w(&[96], -3.0, 3.0));
                }
                let params = [
                    ("stride", b.list(&[2], &[1, 1])),
                    ("pad_amount", b.list(&[2, 2], &[0; 4])),
                ];
                b.op("Conv2d", &x, &[1, 1, rows, 96], &params);
            },
        );
    }
    faulty_products(numbers, add);
    add(&format!("Conv2d 1 x 1 by {weights}"), Off::Tables, &|b| {
        let x = [b.x(&[1, 1, 8, 32]), b.w(&[1, 1, 32, 16], -0.5, 0.5)];
        let params = [
            ("stride", b.list(&[2], &[1, 1])),
            ("pad_amount", b.list(&[2, 2], &[0; 4])),
        ];
        b.op("Conv2d", &x, &[1, 1, 8, 16], &params);
    });
}

/// Forms that libraries were seen to refuse late, or to crash on. Graphs here have none of them.
fn faulty_products(numbers: Numbers, add: &mut Add<'_>) {
    add("MatMul rank 5", Off::Coarse, &|b| {
        let x = [b.x(&[1, 2, 2, 8, 16]), b.x(&[1, 2, 2, 16, 8])];
        b.op("MatMul", &x, &[1, 2, 2, 8, 8], &[]);
    });
    add(
        "FullyConnected by int4 with factors, wide",
        Off::Tables,
        &|b| {
            let x = b.x(&[8, 32]);
            let bytes = b.some(1024 * 32, -7.0, 7.0);
            let bytes = bytes.iter().map(|x| x.round() as i8 as u8).collect();
            let encoding = Encoding::Factored {
                axis: 0,
                scales: vec![0.1; 1024],
                factors: vec![1; 1024],
            };
            let w = b.graph.tensor(
                "w",
                TensorKind::Static(bytes),
                DataType::Sfixed8,
                &[1024, 32],
                encoding,
            );
            b.op("FullyConnected", &[x, w], &[8, 1024], &[]);
        },
    );
    let blocks = numbers == Numbers::F16;
    let what = if blocks { "a block" } else { "a channel" };
    add(&format!("MatMul by int4 {what}"), Off::Tables, &|b| {
        let x = b.x(&[8, 64]);
        let numbers = b.some(64 * 32, -7.0, 7.0);
        let bytes = numbers.iter().map(|x| x.round() as i8 as u8).collect();
        let encoding = match blocks {
            true => Encoding::Blocks {
                block: vec![32, 1],
                scales: vec![0.1; 64],
            },
            false => Encoding::NarrowChannels {
                bits: 4,
                axis: 1,
                scales: vec![0.1; 32],
            },
        };
        let kind = TensorKind::Static(bytes);
        let w = b
            .graph
            .tensor("w", kind, DataType::Sfixed8, &[64, 32], encoding);
        b.op("MatMul", &[x, w], &[8, 32], &[]);
    });
}

fn rows(add: &mut Add<'_>) {
    let norm = |op: &'static str, dims: &'static [u32]| {
        move |b: &mut Builder| {
            let (x, gamma) = (b.x(dims), b.w(&[64], 0.5, 1.5));
            let mut x = vec![x, gamma];
            x.push(match op {
                "LayerNorm" => b.w(&[64], -0.5, 0.5),
                _ => b.w(&[64], 0.0, 0.0),
            });
            let axes = b.list(&[1], &[dims.len() as u32 - 1]);
            let epsilon = ("epsilon", Param::Scalar(Scalar::F32(1e-5)));
            b.op(op, &x, dims, &[epsilon, ("axes", axes)]);
        }
    };
    for op in ["RmsNorm", "LayerNorm"] {
        add(
            &format!("{op} of one row"),
            Off::Tables,
            &norm(op, &[1, 64]),
        );
        add(&format!("{op} rank 2"), Off::Tables, &norm(op, &[32, 64]));
        add(
            &format!("{op} rank 3"),
            Off::Tables,
            &norm(op, &[32, 2, 64]),
        );
        add(
            &format!("{op} rank 4"),
            Off::Tables,
            &norm(op, &[1, 1, 32, 64]),
        );
    }
    let softmax = |dims: &'static [u32]| {
        move |b: &mut Builder| {
            let x = b.between(dims, -6.0, 6.0);
            b.op("Softmax", &[x], dims, &[]);
        }
    };
    add("Softmax rank 2", Off::Tables, &softmax(&[8, 48]));
    add("Softmax rank 3", Off::Tables, &softmax(&[2, 8, 48]));
    add("Softmax rank 4", Off::Tables, &softmax(&[1, 2, 8, 48]));
    for (what, neighbours) in [("halves", false), ("pairs", true)] {
        add(&format!("RotaryEmbedding of {what}"), Off::Little, &|b| {
            let x = b.x(&[1, 2, 4, 16]);
            let angles = b.some(4 * 8, -3.0, 3.0);
            let cosines = b.given(
                &[1, 4, 8],
                DataType::F16,
                angles.iter().map(|a| a.cos()).collect(),
            );
            let sines = b.given(
                &[1, 4, 8],
                DataType::F16,
                angles.iter().map(|a| a.sin()).collect(),
            );
            let params = [
                ("interleaved", Param::Scalar(Scalar::Bool(neighbours))),
                ("rotary_embedding_dim", number(16)),
            ];
            b.op(
                "RotaryEmbedding",
                &[x, cosines, sines],
                &[1, 2, 4, 16],
                &params,
            );
        });
    }
    for op in ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"] {
        add(op, Off::Little, &|b| {
            let x = b.x(&[1, 4, 8, 32]);
            let params = [("axes", b.list(&[1], &[3])), ("keep_dims", yes())];
            b.op(op, &[x], &[1, 4, 8, 1], &params);
        });
    }
}

fn moved(add: &mut Add<'_>) {
    add("Reshape", Off::Nothing, &|b| {
        let x = b.x(&[8, 6, 16]);
        b.op("Reshape", &[x], &[8, 96], &[]);
    });
    for (what, from, to, order) in [
        (
            "rank 3",
            &[8u32, 6, 16][..],
            &[6u32, 8, 16][..],
            &[1u32, 0, 2][..],
        ),
        ("rank 4", &[1, 8, 6, 16], &[1, 6, 8, 16], &[0, 2, 1, 3]),
        ("of the last", &[1, 8, 6, 16], &[1, 8, 16, 6], &[0, 1, 3, 2]),
    ] {
        add(&format!("Transpose {what}"), Off::Nothing, &|b| {
            let x = b.x(from);
            let order = b.list(&[order.len() as u32], order);
            b.op("Transpose", &[x], to, &[("perm", order)]);
        });
    }
    for (what, axis, second, dims) in [
        ("first", 0, [3u32, 6, 16], [11u32, 6, 16]),
        ("last", 2, [8, 6, 8], [8, 6, 24]),
    ] {
        add(&format!("Concat on the {what} axis"), Off::Nothing, &|b| {
            let x = [b.x(&[8, 6, 16]), b.x(&second)];
            b.op("Concat", &x, &dims, &[("axis", number(axis))]);
        });
    }
    add("Split", Off::Nothing, &|b| {
        let x = b.x(&[8, 6, 16]);
        let half: (&[u32], DataType) = (&[8, 6, 8], DataType::F16);
        let at = b.list(&[1], &[8]);
        b.op_of(
            "Split",
            &[x],
            &[half, half],
            &[("axis", number(2)), ("split_index", at)],
        );
    });
    add("StridedSlice", Off::Nothing, &|b| {
        let x = b.x(&[8, 6, 16]);
        let ranges = b.places(&[3, 3], &[2, 6, 1, 0, 6, 1, 0, 16, 2]);
        b.op(
            "StridedSlice",
            &[x],
            &[4, 6, 8],
            &[("ranges", Param::Tensor(ranges))],
        );
    });
    add("Tile", Off::Nothing, &|b| {
        let x = b.x(&[1, 2, 6, 16]);
        let times = b.list(&[4], &[1, 3, 1, 1]);
        b.op("Tile", &[x], &[1, 6, 6, 16], &[("multiples", times)]);
    });
    add("Gather rows", Off::Nothing, &|b| {
        let (table, rows) = (
            b.w(&[24, 16], -2.0, 2.0),
            b.given(&[5], DataType::I32, vec![3.0, 0.0, 23.0, 3.0, 11.0]),
        );
        let axis = [("axis", Param::Scalar(Scalar::I32(0)))];
        b.op("Gather", &[table, rows], &[5, 16], &axis);
    });
    add("ScatterNd of rows", Off::Nothing, &|b| {
        let (x, rows) = (b.x(&[24, 16]), b.places(&[3, 1], &[7, 0, 23]));
        let given = b.x(&[3, 16]);
        b.op("ScatterNd", &[x, rows, given], &[24, 16], &[]);
    });
    // far enough apart to be told apart in 8 bits
    let apart = |count: u32| {
        (0..count)
            .map(|i| f64::from(i * 37 % count) / 32.0 - 1.0)
            .collect::<Vec<f64>>()
    };
    add("TopK", Off::Nothing, &|b| {
        let x = b.given(&[2, 32], DataType::F16, apart(64));
        let results: [(&[u32], DataType); 2] = [(&[2, 4], DataType::F16), (&[2, 4], DataType::U32)];
        b.op_of("TopK", &[x], &results, &[("k", number(4))]);
    });
    add("Argmax", Off::Nothing, &|b| {
        let x = b.given(&[2, 32], DataType::F16, apart(64));
        let params = [
            ("axis", number(1)),
            ("keep_dims", Param::Scalar(Scalar::Bool(false))),
        ];
        b.op_of("Argmax", &[x], &[(&[2], DataType::I32)], &params);
    });
}

fn elements(add: &mut Add<'_>) {
    const DIMS: [u32; 4] = [1, 4, 8, 32];
    let two = |op: &'static str, second: &'static [u32], least: f64, most: f64| {
        move |b: &mut Builder| {
            let x = [
                b.between(&DIMS, least, most),
                b.between(second, least, most),
            ];
            b.op(op, &x, &DIMS, &[]);
        }
    };
    for op in ["Add", "Subtract", "Multiply", "Maximum", "Minimum"] {
        let op: &'static str = match op {
            "Add" => "ElementWiseAdd",
            "Subtract" => "ElementWiseSubtract",
            "Multiply" => "ElementWiseMultiply",
            "Maximum" => "ElementWiseMaximum",
            _ => "ElementWiseMinimum",
        };
        add(op, Off::Little, &two(op, &DIMS, -2.0, 2.0));
    }
    add(
        "ElementWiseAdd of a row to all",
        Off::Little,
        &two("ElementWiseAdd", &[32], -2.0, 2.0),
    );
    add(
        "ElementWiseMultiply of one to all",
        Off::Little,
        &two("ElementWiseMultiply", &[1], -2.0, 2.0),
    );
    add(
        "ElementWiseMultiply of one a row",
        Off::Little,
        &two("ElementWiseMultiply", &[1, 4, 8, 1], -2.0, 2.0),
    );
    add(
        "ElementWiseDivide",
        Off::Tables,
        &two("ElementWiseDivide", &DIMS, 0.5, 2.0),
    );
    add("ElementWisePower", Off::Tables, &|b| {
        let x = [b.between(&DIMS, 0.5, 2.0), b.w(&[1], 2.0, 2.0)];
        b.op("ElementWisePower", &x, &DIMS, &[]);
    });
    add("ElementWiseSelect", Off::Little, &|b| {
        let chosen = b.some(DIMS.iter().product(), -1.0, 1.0);
        let chosen = chosen
            .iter()
            .map(|c| f64::from(u8::from(*c > 0.0)))
            .collect();
        let x = [
            b.given(&DIMS, DataType::Bool, chosen),
            b.x(&DIMS),
            b.x(&DIMS),
        ];
        b.op("ElementWiseSelect", &x, &DIMS, &[]);
    });
    let one = |op: &'static str, least: f64, most: f64| {
        move |b: &mut Builder| {
            let x = b.between(&DIMS, least, most);
            b.op(op, &[x], &DIMS, &[]);
        }
    };
    for (op, least, most, off) in [
        ("ElementWiseNeg", -2.0, 2.0, Off::Little),
        ("ElementWiseAbs", -2.0, 2.0, Off::Little),
        ("ElementWiseExp", -2.0, 2.0, Off::Tables),
        ("ElementWiseSquareRoot", 0.2, 2.0, Off::Coarse),
        ("ElementWiseRsqrt", 0.2, 2.0, Off::Coarse),
        ("ElementWiseSin", -3.0, 3.0, Off::Tables),
        ("ElementWiseCos", -3.0, 3.0, Off::Tables),
        ("Sigmoid", -6.0, 6.0, Off::Tables),
        ("Tanh", -3.0, 3.0, Off::Tables),
        ("Gelu", -4.0, 4.0, Off::Tables),
        ("Relu", -2.0, 2.0, Off::Little),
        ("HardSwish", -4.0, 4.0, Off::Tables),
    ] {
        add(op, off, &one(op, least, most));
    }
    for (what, operation) in [("GELU", 1), ("sigmoid", 6)] {
        add(&format!("ElementWiseNeuron, {what}"), Off::Tables, &|b| {
            let x = b.between(&DIMS, -4.0, 4.0);
            b.op(
                "ElementWiseNeuron",
                &[x],
                &DIMS,
                &[("operation", number(operation))],
            );
        });
    }
}
