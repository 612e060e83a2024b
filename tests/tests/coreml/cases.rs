//! Graphs of single operations, in the forms that models have, with what their inputs and weights hold.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anynpu_coreml::lower::{Form, States, Totals, lower};
use anynpu_coreml::package::{Description, PackageWriter};
use anynpu_coreml::weights::WeightForm;
use anynpu_coreml::{CoreMlError, DeploymentTarget, Precision};
use anynpu_cpu::reference::{StateStore, Tensor, TensorRef, evaluate};
use anynpu_graphs::quant::quantize_row;
use anynpu_hal::{Bounds, Entry, Extent, HalError, WeightSource, WeightView};
use anynpu_ir::{
    Activation, AttentionKv, BinaryOp, DType, Dim, Graph, Op, ReduceOp, RopeScaling, RopeStyle,
    Shape, Symbol, SymbolValues, TensorType, UnaryOp, ValueId,
};
use half::f16;

use crate::numbers;

/// Positions that there is a table for.
const CAPACITY: u32 = 32;

/// Weights by name.
#[derive(Clone, Debug, Default)]
pub struct Weights(pub HashMap<String, (DType, Vec<u8>)>);

impl WeightSource for Weights {
    fn weight(&self, name: &str) -> Result<WeightView<'_>, HalError> {
        let (dtype, bytes) = self.0.get(name).ok_or_else(|| HalError::Weight {
            name: name.into(),
            why: "not there".into(),
        })?;
        Ok(WeightView {
            dtype: *dtype,
            bytes: bytes.into(),
        })
    }
}

/// A graph with what it is given.
pub struct Case {
    pub name: String,
    pub graph: Graph,
    pub weights: Weights,
    pub inputs: Vec<(String, Tensor)>,
    /// The type that matrices are in.
    pub matrices: DType,
}

/// As F16 has it, so that programs in 16 bits begin with the same numbers.
fn half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

impl Case {
    pub fn new(name: &str) -> Case {
        Case {
            name: name.into(),
            graph: Graph::new("case"),
            weights: Weights::default(),
            inputs: Vec::new(),
            matrices: DType::F32,
        }
    }

    fn seed(&self) -> u32 {
        self.graph.values().len() as u32 + 1
    }

    fn given(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let dims: Vec<u32> = tensor.shape().iter().map(|n| *n as u32).collect();
        let ty = TensorType::new(tensor.dtype(), Shape::fixed(&dims));
        self.inputs.push((name.into(), tensor));
        self.graph.add_input(name, ty).unwrap()
    }

    /// An input of numbers in -2..2.
    pub fn x(&mut self, name: &str, dims: &[usize]) -> ValueId {
        self.between(name, dims, -2.0, 2.0)
    }

    fn between(&mut self, name: &str, dims: &[usize], low: f32, high: f32) -> ValueId {
        let values = numbers(dims.iter().product(), self.seed());
        let scale = 0.5 * (high - low);
        let values: Vec<f32> = values
            .iter()
            .map(|x| half(low + scale * (x + 1.0)))
            .collect();
        self.given(name, Tensor::new(dims.to_vec(), values).unwrap())
    }

    pub fn whole(&mut self, name: &str, dims: &[usize], numbers: &[i32]) -> ValueId {
        self.given(name, Tensor::new(dims.to_vec(), numbers.to_vec()).unwrap())
    }

    fn truth(&mut self, name: &str, dims: &[usize]) -> ValueId {
        let values = numbers(dims.iter().product(), self.seed());
        let values: Vec<bool> = values.iter().map(|x| *x > 0.0).collect();
        self.given(name, Tensor::new(dims.to_vec(), values).unwrap())
    }

    /// A weight of numbers in -1..1; a matrix in the type of matrices.
    pub fn w(&mut self, name: &str, dims: &[u32]) -> ValueId {
        let count = dims.iter().product::<u32>() as usize;
        let values: Vec<f32> = numbers(count, self.seed())
            .iter()
            .map(|x| half(*x))
            .collect();
        let dtype = match dims.len() {
            2 => self.matrices,
            _ => DType::F32,
        };
        let mut bytes = vec![0; dtype.row_bytes(count).unwrap()];
        match dtype {
            DType::F32 => bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            dtype => quantize_row(dtype, &values, &mut bytes).unwrap(),
        }
        self.weights.0.insert(name.into(), (dtype, bytes));
        let ty = TensorType::new(dtype, Shape::fixed(dims));
        self.graph.add_weight(name, ty).unwrap()
    }

    pub fn op(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = format!("{}.{}", op.name(), self.graph.nodes().len());
        self.graph.add(name, op, inputs).unwrap()
    }

    /// What the reference gives for each of its outputs, by the names that the package has.
    pub fn expected(&self) -> Vec<(String, Tensor)> {
        let symbols = symbols();
        let mut states = StateStore::kept(&self.graph, &symbols, None).unwrap();
        let run = self.graph.whole();
        let find = |v: &ValueId| {
            let name = &self.graph.value(*v).name;
            &self.inputs.iter().find(|(n, _)| n == name).unwrap().1
        };
        let given: Vec<TensorRef<'_>> = run.inputs().iter().map(|v| find(v).view()).collect();
        let made = evaluate(&run, &given, &self.weights, &mut states, &symbols).unwrap();
        let names = run.outputs().iter().map(|v| {
            let name = self.graph.value(*v).name.clone();
            anynpu_coreml::package::to_identifier(&name)
        });
        names.zip(made).collect()
    }

    /// Writes it as a package.
    pub fn write(&self, path: &Path, form: &Form) -> Result<Totals, CoreMlError> {
        let symbols = symbols();
        let mut bounds = Bounds::new();
        for symbol in (0..Symbol::COUNT as u16).map(Symbol) {
            bounds = bounds.with(symbol, Extent::Exact(symbols.get(symbol)));
        }
        let entry = Entry {
            name: "main".into(),
            graph: Arc::new(self.graph.clone()),
            nodes: 0..self.graph.nodes().len() as u32,
            bounds,
        };
        let mut package = PackageWriter::create(path, form.target)?;
        let mut totals = Totals::default();
        let go_on = &mut |_| true;
        let lowered = lower(
            &entry,
            form,
            &self.weights,
            &mut package,
            &mut totals,
            go_on,
        )?;
        package.add(lowered.function)?;
        package.finish(&Description::default())?;
        Ok(totals)
    }
}

fn symbols() -> SymbolValues {
    SymbolValues::step(3, 0, 1, CAPACITY)
}

/// The form that operations are tried in.
pub fn form(target: &str, precision: Precision, engine: bool) -> Form {
    let target: DeploymentTarget = target.parse().unwrap();
    Form {
        target,
        engine,
        precision,
        weights: WeightForm::Model,
        states: States::Caller,
        padded: false,
    }
}

pub fn attention(causal: bool, soft_cap: Option<f32>, window: Option<u32>) -> Op {
    Op::Attention {
        kv: AttentionKv::Operands,
        causal,
        mask: false,
        scale: 0.25,
        soft_cap,
        window,
    }
}

/// Each operation in the forms that models have.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut one = |name: &str, make: &dyn Fn(&mut Case) -> Vec<ValueId>| {
        let mut case = Case::new(name);
        for result in make(&mut case) {
            case.graph.set_output(result).unwrap();
        }
        cases.push(case);
    };
    for f in UnaryOp::ALL {
        one(&format!("unary_{}", f.name()), &|c| {
            let x = match f {
                UnaryOp::Log | UnaryOp::Sqrt | UnaryOp::Rsqrt | UnaryOp::Reciprocal => {
                    c.between("x", &[4, 5], 0.25, 4.0)
                }
                UnaryOp::Not => c.truth("x", &[4, 5]),
                _ => c.x("x", &[4, 5]),
            };
            vec![c.op(Op::Unary(*f), &[x])]
        });
    }
    for f in [UnaryOp::Neg, UnaryOp::Abs] {
        one(&format!("unary_{}_of_integers", f.name()), &|c| {
            let x = c.whole("x", &[4], &[-3, 0, 7, 100]);
            vec![c.op(Op::Unary(f), &[x])]
        });
    }
    for f in Activation::ALL {
        one(&format!("activation_{}", f.name()), &|c| {
            let x = c.x("x", &[4, 8]);
            vec![c.op(Op::Activation(*f), &[x])]
        });
        one(&format!("gated_{}", f.name()), &|c| {
            let (gate, up) = (c.x("gate", &[4, 8]), c.x("up", &[4, 8]));
            vec![c.op(Op::GatedActivation(*f), &[gate, up])]
        });
    }
    for f in BinaryOp::ALL {
        one(&format!("binary_{}", f.name()), &|c| {
            let (a, b) = match f {
                BinaryOp::And | BinaryOp::Or => (c.truth("a", &[4, 5]), c.truth("b", &[4, 5])),
                BinaryOp::Pow => (c.between("a", &[4, 5], 0.5, 2.0), c.x("b", &[4, 5])),
                BinaryOp::Div => (c.x("a", &[4, 5]), c.between("b", &[4, 5], 0.5, 2.0)),
                _ => (c.x("a", &[4, 5]), c.x("b", &[4, 5])),
            };
            vec![c.op(Op::Binary(*f), &[a, b])]
        });
    }
    one("binary_add_broadcasts", &|c| {
        let (a, b) = (c.x("a", &[4, 1, 5]), c.x("b", &[3, 1]));
        vec![c.op(Op::Binary(BinaryOp::Add), &[a, b])]
    });
    one("binary_mul_by_a_weight", &|c| {
        let (a, b) = (c.x("a", &[4, 16]), c.w("b", &[16]));
        vec![c.op(Op::Binary(BinaryOp::Mul), &[a, b])]
    });
    one("binary_mul_by_a_constant", &|c| {
        let ty = TensorType::new(DType::F32, []);
        let number = 1.5f32.to_le_bytes().to_vec();
        let number = c.graph.add_constant("number", ty, number).unwrap();
        let a = c.x("a", &[4, 16]);
        vec![c.op(Op::Binary(BinaryOp::Mul), &[a, number])]
    });
    for f in [BinaryOp::Add, BinaryOp::Max, BinaryOp::LessEqual] {
        one(&format!("binary_{}_of_integers", f.name()), &|c| {
            let (a, b) = (
                c.whole("a", &[4], &[1, -2, 3, 9]),
                c.whole("b", &[4], &[1, 5, -7, 8]),
            );
            vec![c.op(Op::Binary(f), &[a, b])]
        });
    }
    one("binary_equal_of_truth_values", &|c| {
        let (a, b) = (c.truth("a", &[4, 5]), c.truth("b", &[4, 5]));
        vec![c.op(Op::Binary(BinaryOp::Equal), &[a, b])]
    });
    one("select_broadcasts", &|c| {
        let (condition, a, b) = (
            c.truth("condition", &[4, 1]),
            c.x("a", &[1, 5]),
            c.x("b", &[4, 5]),
        );
        vec![c.op(Op::Select, &[condition, a, b])]
    });
    one("soft_cap", &|c| {
        let x = c.x("x", &[4, 8]);
        vec![c.op(Op::SoftCap { cap: 1.5 }, &[x])]
    });
    for axis in [0, 2] {
        one(&format!("softmax_along_{axis}"), &|c| {
            let x = c.x("x", &[3, 4, 5]);
            vec![c.op(Op::Softmax { axis }, &[x])]
        });
    }
    for to in [DType::I32, DType::Bool, DType::F16] {
        one(&format!("cast_to_{to}"), &|c| {
            let x = c.x("x", &[4, 5]);
            vec![c.op(Op::Cast { to }, &[x])]
        });
    }
    one("cast_from_integers", &|c| {
        let x = c.whole("x", &[4], &[-3, 0, 7, 100]);
        vec![c.op(Op::Cast { to: DType::F32 }, &[x])]
    });
    for (name, bias, dims) in [
        ("linear", false, vec![3, 32]),
        ("linear_with_a_bias", true, vec![3, 32]),
        ("linear_of_three_dimensions", true, vec![2, 3, 32]),
        ("linear_of_four_dimensions", false, vec![2, 2, 3, 32]),
    ] {
        one(name, &|c| {
            let (x, w) = (c.x("x", &dims), c.w("w", &[24, 32]));
            let mut operands = vec![x, w];
            if bias {
                operands.push(c.w("bias", &[24]));
            }
            vec![c.op(Op::Linear, &operands)]
        });
    }
    one("linear_in_parts", &|c| {
        let (x, w) = (c.x("x", &[3, 16]), c.w("w", &[20_000, 16]));
        let bias = c.w("bias", &[20_000]);
        vec![c.op(Op::Linear, &[x, w, bias])]
    });
    one("linear_by_what_is_computed", &|c| {
        let (x, w) = (c.x("x", &[3, 32]), c.x("w", &[24, 32]));
        let bias = c.x("bias", &[24]);
        vec![c.op(Op::Linear, &[x, w, bias])]
    });
    for dtype in [
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
    ] {
        one(&format!("linear_by_{dtype}"), &|c| {
            c.matrices = dtype;
            let (x, w) = (c.x("x", &[3, 256]), c.w("w", &[8, 256]));
            vec![c.op(Op::Linear, &[x, w])]
        });
    }
    for (name, transpose_a, transpose_b, a, b) in [
        ("matmul", false, false, vec![3, 4], vec![4, 5]),
        ("matmul_of_turned", true, true, vec![4, 3], vec![5, 4]),
        (
            "matmul_broadcasts",
            false,
            true,
            vec![2, 1, 3, 4],
            vec![3, 5, 4],
        ),
    ] {
        one(name, &|c| {
            let (a, b) = (c.x("a", &a), c.x("b", &b));
            let op = Op::MatMul {
                transpose_a,
                transpose_b,
            };
            vec![c.op(op, &[a, b])]
        });
    }
    one("embedding", &|c| {
        let table = c.w("table", &[10, 32]);
        let ids = c.whole("ids", &[3], &[7, 0, 9]);
        vec![c.op(Op::Embedding, &[table, ids])]
    });
    one("embedding_of_q8_0", &|c| {
        c.matrices = DType::Q8_0;
        let table = c.w("table", &[10, 32]);
        let ids = c.whole("ids", &[3], &[7, 0, 9]);
        vec![c.op(Op::Embedding, &[table, ids])]
    });
    for dims in [&[3, 64][..], &[3, 4, 16]] {
        let (rank, width) = (dims.len(), dims[dims.len() - 1] as u32);
        one(&format!("rms_norm_of_{rank}"), &|c| {
            let (x, gain) = (c.x("x", dims), c.w("gain", &[width]));
            vec![c.op(Op::RmsNorm { eps: 1e-5 }, &[x, gain])]
        });
        one(&format!("layer_norm_of_{rank}"), &|c| {
            let (x, gain) = (c.x("x", dims), c.w("gain", &[width]));
            let shift = c.w("shift", &[width]);
            vec![c.op(Op::LayerNorm { eps: 1e-12 }, &[x, gain, shift])]
        });
    }
    one("layer_norm_without_a_shift", &|c| {
        let (x, gain) = (c.x("x", &[3, 64]), c.w("gain", &[64]));
        vec![c.op(Op::LayerNorm { eps: 1e-5 }, &[x, gain])]
    });
    for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
        for dims in [8, 16] {
            one(&format!("rope_{}_of_{dims}", style.name()), &|c| {
                let (x, at) = (
                    c.x("x", &[3, 2, 16]),
                    c.whole("positions", &[3], &[4, 5, 6]),
                );
                let op = Op::Rope {
                    style,
                    dims,
                    base: 10000.0,
                    scaling: RopeScaling::None,
                };
                vec![c.op(op, &[x, at])]
            });
        }
    }
    one("rope_with_factors", &|c| {
        let (x, at) = (
            c.x("x", &[3, 2, 16]),
            c.whole("positions", &[3], &[4, 5, 6]),
        );
        let factors: Vec<u8> = (0..8u8)
            .flat_map(|i| (1.0 + f32::from(i) / 4.0).to_le_bytes())
            .collect();
        c.weights.0.insert("factors".into(), (DType::F32, factors));
        let ty = TensorType::new(DType::F32, Shape::fixed(&[8]));
        let factors = c.graph.add_weight("factors", ty).unwrap();
        let op = Op::Rope {
            style: RopeStyle::HalfSplit,
            dims: 16,
            base: 10000.0,
            scaling: RopeScaling::Linear { factor: 2.0 },
        };
        vec![c.op(op, &[x, at, factors])]
    });
    for heads in [1, 2, 4] {
        for cap in [None, Some(2.0)] {
            let capped = if cap.is_some() { "_capped" } else { "" };
            one(&format!("attention_of_{heads}{capped}"), &|c| {
                let (q, k) = (c.x("q", &[3, 4, 16]), c.x("k", &[5, heads, 16]));
                let v = c.x("v", &[5, heads, 8]);
                vec![c.op(attention(false, cap, None), &[q, k, v])]
            });
            for window in [None, Some(2)] {
                let near = if window.is_some() { "_near" } else { "" };
                one(
                    &format!("attention_causal_of_{heads}{capped}{near}"),
                    &|c| {
                        let (q, k) = (c.x("q", &[3, 4, 16]), c.x("k", &[5, heads, 16]));
                        let (v, at) = (
                            c.x("v", &[5, heads, 16]),
                            c.whole("positions", &[3], &[1, 2, 4]),
                        );
                        vec![c.op(attention(true, cap, window), &[q, k, v, at])]
                    },
                );
            }
        }
    }
    one("attention_with_a_mask", &|c| {
        let (q, k) = (c.x("q", &[3, 4, 16]), c.x("k", &[5, 2, 16]));
        let (v, mask) = (c.x("v", &[5, 2, 16]), c.x("mask", &[3, 5]));
        let op = Op::Attention {
            kv: AttentionKv::Operands,
            causal: false,
            mask: true,
            scale: 0.25,
            soft_cap: None,
            window: None,
        };
        vec![c.op(op, &[q, k, v, mask])]
    });
    one("causal_mask", &|c| {
        let at = c.whole("positions", &[3], &[1, 2, 4]);
        let op = Op::CausalMask {
            keys: Dim::Fixed(5),
            window: Some(2),
            hidden: -100.0,
        };
        vec![c.op(op, &[at])]
    });
    one("gather_rows", &|c| {
        let (x, at) = (
            c.x("x", &[4, 5]),
            c.whole("at", &[2, 3], &[0, 3, 1, 1, 2, 0]),
        );
        vec![c.op(Op::Gather { axis: 0 }, &[x, at])]
    });
    one("gather_columns", &|c| {
        let (x, at) = (c.x("x", &[4, 5]), c.whole("at", &[2], &[4, 1]));
        vec![c.op(Op::Gather { axis: 1 }, &[x, at])]
    });
    one("scatter", &|c| {
        let (x, at) = (c.x("x", &[4, 5]), c.whole("at", &[2], &[3, 1]));
        let new = c.x("new", &[2, 5]);
        vec![c.op(Op::Scatter { axis: 0 }, &[x, at, new])]
    });
    one("reshape", &|c| {
        let x = c.x("x", &[4, 6]);
        let shape = Shape::fixed(&[2, 4, 3]);
        vec![c.op(Op::Reshape { shape }, &[x])]
    });
    one("broadcast", &|c| {
        let x = c.x("x", &[4, 1]);
        let shape = Shape::fixed(&[3, 4, 5]);
        vec![c.op(Op::Broadcast { shape }, &[x])]
    });
    one("transpose", &|c| {
        let x = c.x("x", &[2, 3, 4]);
        let perm = vec![2, 0, 1];
        vec![c.op(Op::Transpose { perm }, &[x])]
    });
    for (start, end, step) in [(1, 5, 1), (0, 6, 2), (1, 6, 3)] {
        one(&format!("slice_{start}_{end}_{step}"), &|c| {
            let x = c.x("x", &[3, 6]);
            let op = Op::Slice {
                axis: 1,
                start,
                end,
                step,
            };
            vec![c.op(op, &[x])]
        });
    }
    one("concat", &|c| {
        let (a, b) = (c.x("a", &[3, 4]), c.x("b", &[3, 2]));
        vec![c.op(Op::Concat { axis: 1 }, &[a, b, a])]
    });
    one("split", &|c| {
        let x = c.x("x", &[3, 7]);
        let op = Op::Split {
            axis: 1,
            sizes: vec![2, 4, 1],
        };
        c.graph.add_node("parts", op, &[x]).unwrap()
    });
    for op in ReduceOp::ALL {
        for keep_dims in [true, false] {
            let kept = if keep_dims { "_kept" } else { "" };
            one(&format!("reduce_{}{kept}", op.name()), &|c| {
                let x = c.x("x", &[3, 4, 5]);
                let axes = vec![0, 2];
                let op = Op::Reduce {
                    op: *op,
                    axes,
                    keep_dims,
                };
                vec![c.op(op, &[x])]
            });
        }
    }
    one("top_k", &|c| {
        let x = c.x("x", &[3, 9]);
        c.graph.add_node("top", Op::TopK { k: 4 }, &[x]).unwrap()
    });
    one("arg_max", &|c| {
        let x = c.x("x", &[3, 9]);
        vec![c.op(Op::ArgMax { axis: 1 }, &[x])]
    });
    one("conv1d", &|c| {
        let (x, w) = (c.x("x", &[1, 4, 9]), c.w("w", &[6, 2, 3]));
        let bias = c.w("bias", &[6]);
        let op = Op::Conv1d {
            stride: 2,
            padding: 1,
            dilation: 1,
            groups: 2,
        };
        vec![c.op(op, &[x, w, bias])]
    });
    one("conv2d", &|c| {
        let (x, w) = (c.x("x", &[1, 3, 7, 6]), c.w("w", &[4, 3, 3, 2]));
        let op = Op::Conv2d {
            stride: [2, 1],
            padding: [1, 0],
            dilation: [1, 2],
            groups: 1,
        };
        vec![c.op(op, &[x, w])]
    });
    one("iota", &|c| {
        let x = c.whole("x", &[4], &[5, 6, 7, 8]);
        let op = Op::Iota {
            start: Dim::Fixed(3),
            length: Dim::Fixed(4),
        };
        let iota = c.op(op, &[]);
        vec![c.op(Op::Binary(BinaryOp::Add), &[x, iota])]
    });
    one("experts", &|c| {
        let (x, w) = (c.x("x", &[3, 1, 16]), c.w("w", &[4, 8, 16]));
        let ids = c.whole("ids", &[3, 2], &[0, 3, 1, 2, 3, 3]);
        let made = c.op(Op::ExpertLinear, &[x, w, ids]);
        vec![made]
    });
    for case in &mut cases {
        let experts = |_: anynpu_ir::NodeId, op: &Op| *op == Op::ExpertLinear;
        case.graph = anynpu_ir::decompose_where(&case.graph, experts).unwrap();
    }
    cases
}
