//! The cases of single operations with which Android's vendors verify their drivers, said through the interface as it
//! is declared here.

use std::io::{BufRead, BufReader};
use std::sync::Arc;

use anynpu_nnapi::exec::{BuiltModel, CompileSettings, Device, Executable, Store, supported};
use anynpu_nnapi::model::{
    Channels, Constants, Content, Model, Operand, OperandId, OperandType, Operation, OperationCode,
    Role,
};
use anynpu_nnapi_double::Settings;
use anynpu_tests::test_data;
use half::f16;
use serde_json::Value;

use crate::{NoWeights, Placed};

/// A case, read.
#[derive(Clone)]
pub struct Case {
    pub model: Model,
    pub constants: Constants,
    /// What inputs hold, and what outputs must.
    pub inputs: Vec<Vec<f64>>,
    outputs: Vec<Option<Vec<f64>>>,
}

impl Case {
    /// The bytes of its inputs.
    pub fn bytes_in(&self) -> Vec<Vec<u8>> {
        let each = self.inputs.iter().zip(&self.model.inputs);
        each.map(|(values, id)| bytes(self.model.operand(*id).unwrap().ty, values))
            .collect()
    }

    /// Takes operand `at` from what goes in.
    pub fn drop_input(&mut self, at: usize) {
        let found = self.model.inputs.iter().position(|i| i.0 as usize == at);
        if let Some(found) = found {
            self.model.inputs.remove(found);
            self.inputs.remove(found);
        }
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().map_or(&[][..], Vec::as_slice);
    let number = |v: &Value| v.as_f64().unwrap_or_else(|| f64::from(u8::from(v == true)));
    list.iter().map(number).collect()
}

fn bytes(ty: OperandType, numbers: &[f64]) -> Vec<u8> {
    let each = numbers.iter().copied();
    match ty.short() {
        "f32" => each.flat_map(|x| (x as f32).to_ne_bytes()).collect(),
        "f16" => each.flat_map(|x| f16::from_f64(x).to_ne_bytes()).collect(),
        "i32" => each.flat_map(|x| (x as i32).to_ne_bytes()).collect(),
        "quant16" => each.flat_map(|x| (x as u16).to_ne_bytes()).collect(),
        "quant16_symm" => each.flat_map(|x| (x as i16).to_ne_bytes()).collect(),
        "quant8" | "bool" => each.map(|x| x as u8).collect(),
        _ => each.map(|x| (x as i8) as u8).collect(),
    }
}

fn read(ty: OperandType, bytes: &[u8]) -> Vec<f64> {
    let each = bytes.chunks(ty.bytes());
    let number = |b: &[u8]| match (ty.short(), b) {
        ("f32", &[a, b, c, d]) => f64::from(f32::from_ne_bytes([a, b, c, d])),
        ("f16", &[a, b]) => f16::from_ne_bytes([a, b]).to_f64(),
        ("quant16_symm", &[a, b]) => f64::from(i16::from_ne_bytes([a, b])),
        (_, &[a, b]) => f64::from(u16::from_ne_bytes([a, b])),
        (_, &[a, b, c, d]) => f64::from(i32::from_ne_bytes([a, b, c, d])),
        ("quant8" | "bool", &[a]) => f64::from(a),
        (_, &[a]) => f64::from(a as i8),
        _ => f64::NAN,
    };
    each.map(number).collect()
}

/// What keeps `case` from being said, or it.
pub fn parse(case: &Value) -> Result<Case, String> {
    let mut model = Model::new(case["name"].as_str().unwrap());
    let mut constants = Constants::new();
    let list = |v: &Value| -> Vec<usize> {
        let list = v.as_array().unwrap().iter();
        list.map(|i| i.as_u64().unwrap() as usize).collect()
    };
    let ids = |v: &Value| -> Vec<OperandId> {
        list(v).into_iter().map(|i| OperandId(i as u32)).collect()
    };
    let operands = case["operands"].as_array().unwrap();
    for operand in operands {
        let name = operand["type"].as_str().unwrap();
        let ty = OperandType::named(name).ok_or_else(|| format!("operands of type {name}"))?;
        let dims: Vec<u32> = list(&operand["dims"]).iter().map(|d| *d as u32).collect();
        let values = numbers(&operand["value"]);
        let held = bytes(ty, &values);
        let role = match operand["life"].as_str().unwrap() {
            "SUBGRAPH_INPUT" => Role::Input,
            "SUBGRAPH_OUTPUT" => Role::Output,
            "NO_VALUE" => Role::Omitted,
            "CONSTANT_COPY" if held.len() <= 128 => Role::Copied(held),
            "CONSTANT_COPY" => {
                let length = held.len();
                Role::Stored(constants.add(Content::Bytes(held), length))
            }
            other => return Err(format!("operands of lifetime {other}")),
        };
        let io = matches!(role, Role::Input | Role::Output);
        if io && dims.contains(&0) {
            return Err("an input or output whose size is known in a run only".into());
        }
        let mut added = Operand::tensor(name, ty, &dims, role);
        added.scale = operand["scale"].as_f64().unwrap() as f32;
        added.zero_point = operand["zp"].as_i64().unwrap() as i32;
        added.channels = operand
            .get("pc_scales")
            .filter(|s| s.is_array())
            .map(|s| Channels {
                axis: operand["pc_dim"].as_u64().unwrap() as u32,
                scales: numbers(s).iter().map(|x| *x as f32).collect(),
            });
        model.operands.push(added);
    }
    (model.inputs, model.outputs) = (ids(&case["inputs"]), ids(&case["outputs"]));
    for operation in case["ops"].as_array().unwrap() {
        model.operations.push(Operation {
            code: OperationCode::named(operation["op"].as_str().unwrap()).unwrap(),
            inputs: ids(&operation["ins"]),
            outputs: ids(&operation["outs"]),
        });
    }
    let value = |id: &OperandId| numbers(&operands[id.0 as usize]["value"]);
    let wanted = |id: &OperandId| {
        let ignored = operands[id.0 as usize]["ignored"] == true;
        (!ignored).then(|| value(id))
    };
    Ok(Case {
        inputs: model.inputs.iter().map(value).collect(),
        outputs: model.outputs.iter().map(wanted).collect(),
        model,
        constants,
    })
}

/// Runs `case` on `device`; what is wrong, if anything is.
fn run(case: &Case, device: &Device) -> Result<(), String> {
    let told = |e: anynpu_nnapi::exec::NnapiError| e.to_string();
    let runtime = device.runtime();
    let store = Store::new(runtime, &case.constants, &NoWeights, &mut |_, _| true).map_err(told)?;
    let built = BuiltModel::new(runtime, &case.model, &Arc::new(store)).map_err(told)?;
    let answers = supported(&built, device).map_err(told)?;
    if answers != vec![true; case.model.operations.len()] {
        return Err(format!("the device says {answers:?} to its operations"));
    }
    let settings = CompileSettings::default();
    let executable = Executable::new(device, &case.model, built, &settings);
    let mut executable = executable.map_err(told)?;
    let ty = |id: &OperandId| case.model.operand(*id).unwrap().ty;
    // the second run is of the same execution, where it can be used again
    for _ in 0..2 {
        for (i, held) in case.bytes_in().iter().enumerate() {
            executable.input_mut(i).copy_from_slice(held);
        }
        executable.compute().map_err(told)?;
        for (i, (expected, id)) in case.outputs.iter().zip(&case.model.outputs).enumerate() {
            let found = read(ty(id), executable.output(i));
            let Some(expected) = expected else { continue };
            if found.len() != expected.len() {
                return Err(format!(
                    "{} numbers, expected {}",
                    found.len(),
                    expected.len()
                ));
            }
            for (f, e) in found.iter().zip(expected) {
                // what the cases' own harness allows
                let allowed = match ty(id).short() {
                    "f32" => 1e-5 + 1e-5 * e.abs(),
                    "f16" => 5.0 * 2f64.powi(-10) * (1.0 + e.abs()),
                    "i32" | "bool" => 0.0,
                    _ => 1.0,
                };
                if (f - e).abs() > allowed && !(f.is_nan() && e.is_nan()) && f != e {
                    return Err(format!("{f}, expected {e} within {allowed}"));
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_cases_of_androids_own_suite_are_computed_right() {
    let test = "the_cases_of_androids_own_suite_are_computed_right";
    // each at the level that brought it, of those whose devices can be named
    let placed = LEVELS.map(|level| Placed::new(&Settings::new(level)));
    let devices = placed.iter().map(Placed::reference).collect::<Vec<_>>();
    let Some(passed) = cases(test, |level| devices.get(level)) else {
        return;
    };
    assert!(passed > 1000, "{passed}");
}

/// The levels that brought cases.
pub const LEVELS: [i64; 4] = [29, 30, 1_000_006, 1_000_007];

/// Calls `each` with every case, and the place of its level in [`LEVELS`]; `None` where there are none.
pub fn read_cases(test: &str, mut each: impl FnMut(&Value, usize)) -> Option<()> {
    let path = test_data(test, "nnapi_vts/vts_llm_base.jsonl.gz")?;
    let file = std::fs::File::open(path).unwrap();
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    for line in lines {
        let case: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let name = case["name"].as_str().unwrap();
        let level = match case["ver"].as_str().unwrap() {
            "V1_0" | "V1_1" | "V1_2" => 0,
            "V1_3" => 1,
            "AIDL_V2" => 2,
            "AIDL_V3" => 3,
            other => panic!("{name}: {other}"),
        };
        each(&case, level);
    }
    Some(())
}

/// Runs every case on the device that `device` gives for its level, and says how many were right; `None` where there are
/// no cases.
pub fn cases<'a>(test: &str, device: impl Fn(usize) -> Option<&'a Device>) -> Option<usize> {
    let (mut passed, mut failed) = (0, Vec::new());
    let mut apart: Vec<String> = Vec::new();
    read_cases(test, |case, level| {
        let name = case["name"].as_str().unwrap();
        match (parse(case), device(level)) {
            (Err(why), _) => apart.push(format!("{name}: {why}")),
            (_, None) => apart.push(format!("{name}: of a level that no device has")),
            (Ok(case), Some(device)) => match run(&case, device) {
                Ok(()) => passed += 1,
                Err(why) => failed.push(format!("{name}: {why}")),
            },
        }
    })?;
    println!(
        "{passed} passed, {} not applicable, {} failed",
        apart.len(),
        failed.len()
    );
    apart
        .iter()
        .for_each(|why| println!("not applicable: {why}"));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    Some(passed)
}
