//! The cases with which Android's vendors verify their drivers, as nodes of a graph that are lowered.

use std::io::{BufRead, BufReader};
use std::sync::Arc;

use anynpu_cpu::reference::Tensor;
use anynpu_hal::{Device, Driver, OpenOptions, Support};
use anynpu_ir::{
    Activation, BinaryOp, DType, Graph, Op, ReduceOp, Shape, SymbolValues, TensorType, UnaryOp,
};
use anynpu_nnapi::lower::Numbers;
use anynpu_tests::{run_on, test_data};
use serde_json::Value;

use crate::{LEVELS, Placed};

/// An operand of a case.
struct Operand {
    dims: Vec<u32>,
    values: Vec<f64>,
    /// Whether it may be anything.
    ignored: bool,
}

impl Operand {
    fn of(case: &Value, index: &Value) -> Operand {
        let operand = &case["operands"][index.as_u64().unwrap() as usize];
        let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
        let number = |v: &Value| {
            v.as_f64()
                .unwrap_or_else(|| f64::from(u8::from(*v == true)))
        };
        let dims = list(&operand["dims"]);
        Operand {
            dims: dims.iter().map(|d| d.as_u64().unwrap() as u32).collect(),
            values: list(&operand["value"]).iter().map(number).collect(),
            ignored: operand["ignored"] == true,
        }
    }

    fn number(&self) -> i64 {
        self.values[0] as i64
    }

    /// The axis that it says, counted from the front.
    fn axis(&self, rank: usize) -> u32 {
        self.number().rem_euclid(rank as i64) as u32
    }

    fn floats(&self) -> Vec<f32> {
        self.values.iter().map(|x| *x as f32).collect()
    }
}

/// The node that stands for the operation `name` of `t`, and which of `t` it takes; `None` if there is none.
fn node(name: &str, t: &[Operand], outputs: &[Operand]) -> Option<(Op, Vec<usize>)> {
    let rank = t[0].dims.len();
    let plain = |at: usize| t.get(at).is_some_and(|fuse| fuse.number() == 0);
    let unary = |op| Some((Op::Unary(op), vec![0]));
    let binary = |op| plain(2).then(|| (Op::Binary(op), vec![0, 1]));
    let reduce = |op| {
        let each = t[1].values.iter();
        let mut axes: Vec<u32> = each
            .map(|a| (*a as i64).rem_euclid(rank as i64) as u32)
            .collect();
        axes.sort_unstable();
        axes.dedup();
        let keep_dims = t[2].number() != 0;
        // a graph's result may have no dimensions, the interface's has one
        let whole = axes.len() == rank && !keep_dims;
        (!whole).then(|| {
            let op = Op::Reduce {
                op,
                axes,
                keep_dims,
            };
            (op, vec![0])
        })
    };
    match name {
        "ADD" => binary(BinaryOp::Add),
        "SUB" => binary(BinaryOp::Sub),
        "MUL" => binary(BinaryOp::Mul),
        "DIV" => binary(BinaryOp::Div),
        "EXP" => unary(UnaryOp::Exp),
        "NEG" => unary(UnaryOp::Neg),
        "SIN" => unary(UnaryOp::Sin),
        "SQRT" => unary(UnaryOp::Sqrt),
        "RSQRT" => unary(UnaryOp::Rsqrt),
        "TANH" => unary(UnaryOp::Tanh),
        "LOGISTIC" => unary(UnaryOp::Sigmoid),
        "RELU" => Some((Op::Activation(Activation::Relu), vec![0])),
        "SOFTMAX" if t[1].values == [1.0] => {
            let axis = t.get(2).map_or(rank as u32 - 1, |a| a.axis(rank));
            Some((Op::Softmax { axis }, vec![0]))
        }
        "MEAN" => reduce(ReduceOp::Mean),
        "REDUCE_SUM" => reduce(ReduceOp::Sum),
        "RESHAPE" => {
            let shape = Shape::fixed(&outputs[0].dims);
            Some((Op::Reshape { shape }, vec![0]))
        }
        "TRANSPOSE" if !t[1].values.is_empty() => {
            let perm = t[1].values.iter().map(|i| *i as u32).collect();
            Some((Op::Transpose { perm }, vec![0]))
        }
        "CONCATENATION" => {
            let (axis, parts) = t.split_last()?;
            let axis = axis.axis(rank);
            Some((Op::Concat { axis }, (0..parts.len()).collect()))
        }
        "SPLIT" => {
            let axis = t[1].axis(rank);
            let sizes = outputs.iter().map(|o| o.dims[axis as usize]).collect();
            Some((Op::Split { axis, sizes }, vec![0]))
        }
        "SLICE" => {
            let cut: Vec<usize> = (0..rank)
                .filter(|i| outputs[0].dims[*i] != t[0].dims[*i])
                .collect();
            let [axis] = cut[..] else { return None };
            let start = t[1].values[axis] as u32;
            let op = Op::Slice {
                axis: axis as u32,
                start,
                end: start + outputs[0].dims[axis],
                step: 1,
            };
            Some((op, vec![0]))
        }
        "GATHER" if t[1].axis(rank) == 0 => Some((Op::Gather { axis: 0 }, vec![0, 2])),
        "BATCH_MATMUL" => {
            let op = Op::MatMul {
                transpose_a: t[2].number() != 0,
                transpose_b: t[3].number() != 0,
            };
            Some((op, vec![0, 1]))
        }
        "FULLY_CONNECTED" if plain(3) && rank == 2 && t[0].dims[1] == t[1].dims[1] => {
            Some((Op::Linear, vec![0, 1, 2]))
        }
        _ => None,
    }
}

/// What `case` gives on `device`; `Ok(Err(why))` if it can't be said.
fn run(case: &Value, device: &dyn Device, tolerance: f64) -> Result<Result<(), String>, String> {
    let operation = &case["ops"][0];
    let name = operation["op"].as_str().unwrap();
    let operands = |list: &Value| -> Vec<Operand> {
        let list = list.as_array().unwrap().iter();
        list.map(|i| Operand::of(case, i)).collect()
    };
    let (t, outputs) = (operands(&operation["ins"]), operands(&operation["outs"]));
    let Some((op, taken)) = node(name, &t, &outputs) else {
        return Ok(Err(format!("no node stands for this {name}")));
    };
    let mut graph = Graph::new("case");
    let (mut ids, mut inputs) = (Vec::new(), Vec::new());
    for at in taken {
        let (operand, of) = (&t[at], format!("operand{at}"));
        let shape = Shape::fixed(&operand.dims);
        let dims: Vec<usize> = operand.dims.iter().map(|d| *d as usize).collect();
        // weights are constants, as in models
        let constant = matches!(op, Op::Linear) && at > 0;
        ids.push(if constant {
            let bytes: Vec<u8> = operand
                .floats()
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect();
            let ty = TensorType::new(DType::F32, shape);
            graph.add_constant(of, ty, bytes)
        } else if matches!(op, Op::Gather { .. }) && at == 2 {
            let values: Vec<i32> = operand.values.iter().map(|i| *i as i32).collect();
            inputs.push(Tensor::new(dims, values).unwrap());
            graph.add_input(of, TensorType::new(DType::I32, shape))
        } else {
            inputs.push(Tensor::new(dims, operand.floats()).unwrap());
            graph.add_input(of, TensorType::new(DType::F32, shape))
        });
    }
    let ids = ids.into_iter().collect::<Result<Vec<_>, _>>();
    let made = ids.and_then(|ids| graph.add_node("node", op, &ids));
    let made = match made {
        Ok(made) => made,
        Err(e) => return Ok(Err(format!("no graph has it: {e}"))),
    };
    for id in made {
        graph.set_output(id).unwrap();
    }
    if let Support::No(reason) = &device.support(&graph.whole())[0] {
        return Ok(Err(reason.to_string()));
    }
    let symbols = SymbolValues::default();
    let found = run_on(device, &Arc::new(graph), &inputs, &symbols).map_err(|e| e.to_string())?;
    for (found, expected) in found.iter().zip(&outputs) {
        let bytes = found.to_bytes();
        let each = bytes.chunks_exact(4);
        let found: Vec<f32> = each
            .map(|b| f32::from_ne_bytes(b.try_into().unwrap()))
            .collect();
        if found.len() != expected.values.len() {
            let (n, m) = (found.len(), expected.values.len());
            return Err(format!("{n} numbers, expected {m}"));
        }
        if expected.ignored {
            continue;
        }
        for (f, e) in found.iter().zip(&expected.values) {
            let apart = (f64::from(*f) - e).abs();
            if apart > tolerance * (1.0 + e.abs()) {
                return Err(format!("{f}, expected {e}"));
            }
        }
    }
    Ok(Ok(()))
}

#[test]
fn the_cases_of_androids_own_suite_are_right_as_nodes_that_are_lowered() {
    let test = "the_cases_of_androids_own_suite_are_right_as_nodes_that_are_lowered";
    if let Some(passed) = nodes(test, &Placed::accelerated(LEVELS[0])) {
        assert!(passed > 100, "{passed}");
    }
}

/// Runs every case that a node stands for on the device of `placed`, and says how many were right; `None` where there
/// are no cases.
pub fn nodes(test: &str, placed: &Placed) -> Option<usize> {
    let path = test_data(test, "nnapi_vts/vts_llm_base.jsonl.gz")?;
    let open = |numbers| {
        let mut driver = placed.driver();
        driver.numbers = Some(numbers);
        let exposed = driver.enumerate().unwrap().remove(0);
        driver.open(&exposed, &OpenOptions::default()).unwrap()
    };
    // what the cases' own harness allows of each
    let devices = [
        ("TENSOR_FLOAT32", open(Numbers::F32), 1e-5),
        ("TENSOR_FLOAT16", open(Numbers::F16), 5.0 * 2f64.powi(-10)),
    ];
    let file = std::fs::File::open(path).unwrap();
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    let (mut passed, mut failed) = (0, Vec::new());
    let mut apart = std::collections::BTreeMap::<String, u32>::new();
    for line in lines {
        let case: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let name = case["name"].as_str().unwrap();
        let types = case["operands"].as_array().unwrap().iter();
        let types: Vec<&str> = types.map(|o| o["type"].as_str().unwrap()).collect();
        let quantised = types.iter().any(|t| t.starts_with("TENSOR_QUANT"));
        let device = devices.iter().find(|(ty, ..)| types.contains(ty));
        let said = match device {
            Some((_, device, tolerance)) if !quantised => run(&case, &**device, *tolerance),
            _ => Ok(Err(
                "numbers cross the boundary in f32, and are f32 or f16 there".into(),
            )),
        };
        match said {
            Ok(Ok(())) => passed += 1,
            Ok(Err(why)) => *apart.entry(why).or_default() += 1,
            Err(why) => failed.push(format!("{name}: {why}")),
        }
    }
    let others: u32 = apart.values().sum();
    println!(
        "{passed} passed, {others} not applicable, {} failed",
        failed.len()
    );
    apart
        .iter()
        .for_each(|(why, n)| println!("not applicable, {n}: {why}"));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    Some(passed)
}
