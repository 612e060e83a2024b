//! Cases of Android's own suite with something wrong in them: the stand-in and a runtime say the same of each.

use std::collections::BTreeSet;
use std::sync::Arc;

use anynpu_nnapi::exec::{
    BuiltModel, CompileSettings, Device, Executable, NnapiError, Store, supported,
};
use anynpu_nnapi::model::{Channels, Content, OperandId, OperandType, OperationCode, Role, Scalar};
use anynpu_nnapi_double::Settings;

use crate::vts::{Case, LEVELS, parse, read_cases};
use crate::{NoWeights, Placed};

/// What a runtime says of a case: the function that refuses it and its code, or the bytes of its outputs.
type Said = Result<Vec<Vec<u8>>, (&'static str, i32)>;

fn said(case: &Case, device: &Device) -> Said {
    run(case, device).map_err(|e| match e {
        NnapiError::Call { call, code, .. } => (call, code),
        other => panic!("{other}"),
    })
}

fn run(case: &Case, device: &Device) -> Result<Vec<Vec<u8>>, NnapiError> {
    let runtime = device.runtime();
    let store = Store::new(runtime, &case.constants, &NoWeights, &mut |_, _| true)?;
    let built = BuiltModel::new(runtime, &case.model, &Arc::new(store))?;
    if supported(&built, device)?.contains(&false) {
        return Ok(Vec::new());
    }
    let settings = CompileSettings::default();
    let mut executable = Executable::new(device, &case.model, built, &settings)?;
    for (i, bytes) in case.bytes_in().iter().enumerate() {
        let to = executable.input_mut(i);
        let common = to.len().min(bytes.len());
        to[..common].copy_from_slice(&bytes[..common]);
    }
    // its reference divides by sizes of a convolution before it looks at them
    if case.model.operations[0].code.name() == "CONV_2D" {
        return Ok(Vec::new());
    }
    executable.compute()?;
    let outputs = (0..case.model.outputs.len()).map(|i| executable.output(i).to_vec());
    Ok(outputs.collect())
}

/// Types that an operand is given instead of its own.
const TYPES: [OperandType; 9] = [
    OperandType::TensorFloat32,
    OperandType::TensorFloat16,
    OperandType::TensorInt32,
    OperandType::TensorQuant8Asymm,
    OperandType::TensorQuant8AsymmSigned,
    OperandType::TensorQuant8SymmPerChannel,
    OperandType::TensorBool8,
    OperandType::Int32,
    OperandType::Float32,
];

impl Case {
    /// Gives operand `at` contents of as many bytes as it has now.
    fn fill(&mut self, at: usize) {
        let operand = &mut self.model.operands[at];
        let bytes = operand.bytes().unwrap_or(0);
        operand.role = match &operand.role {
            Role::Scalar(_) | Role::Copied(_) | Role::Stored(_) if bytes <= 128 => {
                Role::Copied(vec![0; bytes])
            }
            Role::Scalar(_) | Role::Copied(_) | Role::Stored(_) => {
                Role::Stored(self.constants.add(Content::Bytes(vec![0; bytes]), bytes))
            }
            other => other.clone(),
        };
    }
}

/// Calls `each` with `case` with one thing changed, and what that is.
fn mutants(case: &Case, mut each: impl FnMut(String, &Case)) {
    for at in 0..case.model.operands.len() {
        let mut say = |what: String, change: &dyn Fn(&mut Case)| {
            let mut changed = case.clone();
            change(&mut changed);
            each(format!("operand {at} {what}"), &changed);
        };
        let own = &case.model.operands[at];
        for ty in TYPES.into_iter().filter(|t| *t != own.ty) {
            say(format!("is {ty:?}"), &|c| {
                let operand = &mut c.model.operands[at];
                operand.ty = ty;
                operand.channels = None;
                let quantised = [
                    OperandType::TensorQuant8Asymm,
                    OperandType::TensorQuant8AsymmSigned,
                ];
                (operand.scale, operand.zero_point) = match quantised.contains(&ty) {
                    true => (if own.scale > 0.0 { own.scale } else { 0.5 }, 0),
                    false => (0.0, 0),
                };
                if matches!(ty, OperandType::Int32 | OperandType::Float32) {
                    operand.dims.clear();
                }
                if ty == OperandType::TensorQuant8SymmPerChannel {
                    let count = operand.dims.first().copied().unwrap_or(1);
                    operand.channels = Some(Channels {
                        axis: 0,
                        scales: vec![0.5; count as usize],
                    });
                }
                c.fill(at);
            });
        }
        say("has another dimension".into(), &|c| {
            c.model.operands[at].dims.push(1);
            c.fill(at);
        });
        say("has another dimension before".into(), &|c| {
            c.model.operands[at].dims.insert(0, 1);
            c.fill(at);
        });
        say("lacks a dimension".into(), &|c| {
            c.model.operands[at].dims.pop();
            c.fill(at);
        });
        for axis in 0..own.dims.len() {
            for size in [own.dims[axis] + 1, 1] {
                say(format!("is {size} along {axis}"), &|c| {
                    c.model.operands[at].dims[axis] = size;
                    c.fill(at);
                });
            }
        }
        say("has a byte less".into(), &|c| {
            if let Role::Copied(bytes) = &mut c.model.operands[at].role {
                bytes.pop();
            }
        });
        for scale in [own.scale * 2.0, 0.0, -1.0, 1.0] {
            say(format!("has scale {scale}"), &|c| {
                c.model.operands[at].scale = scale;
            });
        }
        for zero in [1, 128, -128, 300] {
            say(format!("has zero point {zero}"), &|c| {
                c.model.operands[at].zero_point = zero;
            });
        }
        say("is omitted".into(), &|c| {
            c.model.operands[at].role = Role::Omitted;
        });
        say("is made by nobody".into(), &|c| {
            c.model.operands[at].role = Role::Temporary;
            c.drop_input(at);
        });
        say("is an input".into(), &|c| {
            if matches!(c.model.operands[at].role, Role::Copied(_) | Role::Scalar(_)) {
                let bytes = c.model.operands[at].bytes().unwrap_or(0);
                c.model.operands[at].role = Role::Input;
                c.model.inputs.push(OperandId(at as u32));
                c.inputs
                    .push(vec![0.0; bytes / c.model.operands[at].ty.bytes()]);
            }
        });
        // bounds that there are not end the runtime's process
        let bounded = ["ADD", "SUB", "MUL", "DIV", "FULLY_CONNECTED"];
        let operation = &case.model.operations[0];
        let last = operation.inputs.last() == Some(&OperandId(at as u32));
        let bound = last && bounded.contains(&&*operation.code.name());
        if own.ty == OperandType::Int32 && !bound {
            for number in [-9, -1, 0, 1, 2, 3, 4, 9] {
                say(format!("is the number {number}"), &|c| {
                    if !matches!(own.role, Role::Input | Role::Output | Role::Temporary) {
                        c.model.operands[at].role = Role::Scalar(Scalar::I32(number));
                    }
                });
            }
        }
        if own.ty == OperandType::TensorInt32
            && let Role::Copied(bytes) = &own.role
        {
            for number in [-9i32, -1, 0, 1, 9] {
                say(format!("begins with {number}"), &|c| {
                    let mut bytes = bytes.clone();
                    bytes[..4].copy_from_slice(&number.to_ne_bytes());
                    c.model.operands[at].role = Role::Copied(bytes);
                });
            }
        }
    }
    let mut say = |what: String, change: &dyn Fn(&mut Case)| {
        let mut changed = case.clone();
        change(&mut changed);
        each(what, &changed);
    };
    say("its operation lacks an operand".into(), &|c| {
        c.model.operations[0].inputs.pop();
    });
    say("its operation has an operand more".into(), &|c| {
        let inputs = &mut c.model.operations[0].inputs;
        inputs.extend(inputs.last().copied());
    });
    say("its operation's operands are reversed".into(), &|c| {
        c.model.operations[0].inputs.reverse();
    });
    say("its operation has a result more".into(), &|c| {
        let result = c.model.operations[0].outputs[0];
        c.model.operations[0].outputs.push(result);
    });
    say("its operation's operand is not there".into(), &|c| {
        c.model.operations[0].inputs[0] = OperandId(99);
    });
    say("its operation has no result".into(), &|c| {
        c.model.operations[0].outputs.clear();
    });
    say("its input is an output".into(), &|c| {
        let input = c.model.inputs[0];
        c.model.outputs.push(input);
    });
    say("its output is twice there".into(), &|c| {
        let output = c.model.outputs[0];
        c.model.outputs.push(output);
    });
    say("its operation is twice there".into(), &|c| {
        let operation = c.model.operations[0].clone();
        c.model.operations.push(operation);
    });
    for code in [0, 9, 25, 31, 102, 94, 200, -1] {
        say(format!("its operation is {code}"), &|c| {
            c.model.operations[0].code = OperationCode(code);
        });
    }
}

/// Operations, and what is wrong with them, of which the stand-in says something else than Android's reference device:
/// it computes some that the documentation forbids.
const KNOWN: [(&str, &str); 13] = [
    // nothing is lowered to these
    ("STRIDED_SLICE", ""),
    ("SQUEEZE", ""),
    ("TILE", ""),
    ("PACK", ""),
    ("LOG_SOFTMAX", ""),
    // a result of another scale, as if it had that of its operand
    ("GATHER", "has scale"),
    ("GATHER", "has zero point"),
    ("SLICE", "has scale"),
    ("SLICE", "has zero point"),
    // batches that are not as many, an axis beyond the last, a truth value of many
    ("BATCH_MATMUL", "is "),
    ("SOFTMAX", "is the number"),
    ("MEAN", "is the number"),
    ("TRANSPOSE", "is omitted"),
];

fn is_known(name: &str, what: &str) -> bool {
    let mut known = KNOWN.iter();
    known.any(|(of, part)| *of == name && what.contains(part))
}

#[test]
fn a_runtime_that_is_there_and_the_stand_in_refuse_the_same() {
    let test = "a_runtime_that_is_there_and_the_stand_in_refuse_the_same";
    let Some(placed) = Placed::installed(test) else {
        return;
    };
    let own = placed.reference();
    let stand_in = Placed::new(&Settings::new(own.level().number())).reference();
    let mut seen = BTreeSet::new();
    let (mut same, mut known, mut apart) = (0, 0, Vec::new());
    read_cases(test, |value, level| {
        let Ok(case) = parse(value) else { return };
        let operation = &case.model.operations[0];
        // one of each form
        let types: Vec<_> = case
            .model
            .operands
            .iter()
            .map(|o| (o.ty, o.dims.len()))
            .collect();
        let form = (operation.code.0, format!("{types:?}"));
        if LEVELS[level] > own.level().number()
            || case.model.operations.len() > 1
            || !seen.insert(form)
        {
            return;
        }
        mutants(&case, |what, mutant| {
            let told = format!("{} {}: {what}", operation.code.name(), case.model.name);
            let (found, expected) = (said(mutant, &own), said(mutant, &stand_in));
            match (found, expected) {
                (Ok(_), Ok(_)) => same += 1,
                (Err(a), Err(b)) if a == b => same += 1,
                _ if is_known(&operation.code.name(), &what) => known += 1,
                (a, b) => apart.push(format!(
                    "{told}: runtime {:?}, stand-in {:?}",
                    a.map(|_| ()),
                    b.map(|_| ())
                )),
            }
        });
    });
    println!(
        "{same} the same, {known} known to differ, {} apart",
        apart.len()
    );
    assert!(
        apart.is_empty(),
        "{}",
        apart[..apart.len().min(20)].join("\n")
    );
}
