//! Models as text.

use std::fmt;

use super::{Model, Operand, OperandId, Role, Scalar};

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relaxed = if self.relaxed { " relaxed" } else { "" };
        writeln!(f, "model {}{relaxed}", self.name)?;
        for operand in &self.operands {
            let kind = match &operand.role {
                Role::Input => "input",
                Role::Stored(_) => "constant",
                Role::Copied(bytes) if bytes.len() > SHOWN => "constant",
                Role::Output
                | Role::Temporary
                | Role::Omitted
                | Role::Scalar(_)
                | Role::Copied(_) => continue,
            };
            writeln!(f, "  {kind} {}", typed(operand))?;
        }
        for operation in &self.operations {
            let made = operation.outputs.iter().map(|o| {
                let operand = self.operand(*o);
                operand.map_or_else(|| "?".into(), typed)
            });
            let made: Vec<String> = made.collect();
            let taken: Vec<String> = operation.inputs.iter().map(|o| self.shown(*o)).collect();
            let (name, taken) = (operation.code.name(), taken.join(", "));
            writeln!(f, "  {} = {name}({taken})", made.join(", "))?;
        }
        let outputs: Vec<String> = self.outputs.iter().map(|o| self.shown(*o)).collect();
        writeln!(f, "  gives {}", outputs.join(", "))
    }
}

/// Bytes of constants that are shown where they are used.
const SHOWN: usize = 16;

fn typed(operand: &Operand) -> String {
    let mut text = format!("{} {}{:?}", operand.name, operand.ty.short(), operand.dims);
    if operand.scale != 0.0 {
        text += &format!(" scale {} zero {}", operand.scale, operand.zero_point);
    }
    if let Some(channels) = &operand.channels {
        text += &format!(
            " {} scales of axis {}",
            channels.scales.len(),
            channels.axis
        );
    }
    text
}

impl Model {
    fn shown(&self, id: OperandId) -> String {
        let Some(operand) = self.operand(id) else {
            return "?".into();
        };
        match &operand.role {
            Role::Scalar(Scalar::I32(n)) => n.to_string(),
            Role::Scalar(Scalar::Bool(b)) => b.to_string(),
            Role::Scalar(Scalar::F32(x)) => format!("{x:?}"),
            Role::Scalar(Scalar::F16(x)) => format!("{x:?}h"),
            Role::Omitted => "none".into(),
            Role::Copied(bytes) if bytes.len() <= SHOWN => numbers(operand, bytes),
            Role::Input | Role::Output | Role::Temporary | Role::Copied(_) | Role::Stored(_) => {
                operand.name.clone()
            }
        }
    }
}

/// The contents of a small constant.
fn numbers(operand: &Operand, bytes: &[u8]) -> String {
    let each = bytes.chunks(operand.ty.bytes());
    let each = each.map(|b| match (operand.ty.short(), b) {
        ("f32", &[a, b, c, d]) => format!("{:?}", f32::from_ne_bytes([a, b, c, d])),
        ("f16", &[a, b]) => format!("{:?}h", half::f16::from_ne_bytes([a, b])),
        (_, &[a, b, c, d]) => i32::from_ne_bytes([a, b, c, d]).to_string(),
        (_, other) => format!("{other:?}"),
    });
    format!("[{}]", each.collect::<Vec<_>>().join(", "))
}
