//! Models under construction.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::codes::*;
use crate::memory::Memory;
use crate::operand::{Channels, Operand, Value, is_scalar, sum, type_level};
use crate::{check, live};

/// A model.
#[derive(Clone, Default)]
pub struct Model {
    pub operands: Vec<Operand>,
    pub operations: Vec<Operation>,
    pub inputs: Vec<u32>,
    pub outputs: Vec<u32>,
    identified: bool,
    pub finished: bool,
    /// The runtime's level.
    level: i64,
    /// Held by each compilation of it.
    users: Arc<()>,
}

/// What an operand type says.
pub struct Type {
    pub ty: i32,
    pub dims: Vec<u32>,
    pub scale: f32,
    pub zero_point: i32,
}

/// An operation.
#[derive(Clone)]
pub struct Operation {
    pub code: i32,
    pub inputs: Vec<u32>,
    pub outputs: Vec<u32>,
    /// The level that it needs.
    pub level: i64,
}

impl live::Object for Model {
    fn is_needed(&self) -> bool {
        Arc::strong_count(&self.users) > 1
    }
}

impl Model {
    pub fn new(level: i64) -> Model {
        Model {
            level,
            ..Model::default()
        }
    }

    fn changeable(&self) -> Result<(), i32> {
        match self.finished {
            true => Err(BAD_STATE),
            false => Ok(()),
        }
    }

    pub fn add_operand(&mut self, ty: Type) -> Result<(), i32> {
        self.changeable()?;
        let Type {
            ty,
            dims,
            scale,
            zero_point,
        } = ty;
        let operand = Operand {
            ty,
            dims,
            scale,
            zero_point,
            channels: None,
            value: Value::None,
        };
        let known = crate::operand::element_bytes(ty).is_some() && type_level(ty) <= self.level;
        let scalar = is_scalar(ty) && !operand.dims.is_empty();
        // scales of integers are looked at when the model is finished
        let scaled = ty == TENSOR_INT32 || operand.has_right_scale();
        if !known || scalar || !scaled || operand.bytes().is_none() {
            return told(
                BAD_DATA,
                &format!("operand of type {ty}, {:?}, scale {scale}", operand.dims),
            );
        }
        self.operands.push(operand);
        Ok(())
    }

    /// The operand of this number, whose contents are not set yet.
    fn unset(&mut self, index: i32) -> Result<&mut Operand, i32> {
        self.changeable()?;
        let at = usize::try_from(index).map_err(|_| BAD_DATA)?;
        let operand = self.operands.get_mut(at).ok_or(BAD_DATA)?;
        Ok(operand)
    }

    pub fn omit(&mut self, index: i32) -> Result<(), i32> {
        self.unset(index)?.value = Value::Omitted;
        Ok(())
    }

    pub fn set_value(&mut self, index: i32, bytes: &[u8]) -> Result<(), i32> {
        let operand = self.unset(index)?;
        if !operand.is_specified() || operand.bytes() != Some(bytes.len()) {
            return told(
                BAD_DATA,
                &format!("{} bytes for an operand of {:?}", bytes.len(), operand.dims),
            );
        }
        operand.value = match bytes.len() {
            0..=128 => Value::Copied(bytes.to_vec()),
            _ => Value::Pointer(bytes.as_ptr().addr(), bytes.len(), sum(bytes)),
        };
        Ok(())
    }

    pub fn set_channels(&mut self, index: i32, axis: u32, scales: &[f32]) -> Result<(), i32> {
        let operand = self.unset(index)?;
        let axis = axis as usize;
        let fits = operand.ty == TENSOR_QUANT8_SYMM_PER_CHANNEL
            && operand
                .dims
                .get(axis)
                .is_some_and(|d| *d as usize == scales.len())
            && scales.iter().all(|s| *s > 0.0 && s.is_finite());
        if !fits {
            return told(BAD_DATA, &format!("{} scales of axis {axis}", scales.len()));
        }
        operand.channels = Some(Channels {
            axis,
            scales: scales.to_vec(),
        });
        Ok(())
    }

    pub fn set_value_from_memory(
        &mut self,
        index: i32,
        memory: &Memory,
        offset: usize,
        length: usize,
    ) -> Result<(), i32> {
        let operand = self.unset(index)?;
        memory.inner.check(None, offset, length)?;
        if !operand.is_specified() || operand.bytes() != Some(length) {
            return told(
                BAD_DATA,
                &format!("{length} bytes of memory for {:?}", operand.dims),
            );
        }
        operand.value = Value::Memory(memory.inner.clone(), offset, length);
        Ok(())
    }

    pub fn add_operation(&mut self, code: i32, inputs: &[u32], outputs: &[u32]) -> Result<(), i32> {
        self.changeable()?;
        let find = |list: &[u32]| -> Option<Vec<&Operand>> {
            list.iter()
                .map(|i| self.operands.get(*i as usize))
                .collect()
        };
        let (Some(taken), Some(given)) = (find(inputs), find(outputs)) else {
            return told(BAD_DATA, "an operation of operands that are not there");
        };
        let open = |o: &&Operand| matches!(o.value, Value::None | Value::Omitted);
        let fixed = !given.iter().all(open);
        let level = check::level(code, &taken, &given);
        let level = match level {
            Ok(level) if level <= self.level && !fixed => level,
            Ok(level) => return told(BAD_DATA, &format!("operation {code} needs level {level}")),
            Err(e) => return told(BAD_DATA, &e),
        };
        self.operations.push(Operation {
            code,
            inputs: inputs.to_vec(),
            outputs: outputs.to_vec(),
            level,
        });
        Ok(())
    }

    pub fn identify(&mut self, inputs: &[u32], outputs: &[u32]) -> Result<(), i32> {
        self.changeable()?;
        let mut seen = BTreeSet::new();
        let good = |i: &u32, seen: &mut BTreeSet<u32>| {
            let operand = self.operands.get(*i as usize);
            seen.insert(*i) && operand.is_some_and(|o| matches!(o.value, Value::None))
        };
        let missing = inputs.is_empty() || outputs.is_empty();
        if !inputs.iter().chain(outputs).all(|i| good(i, &mut seen)) || missing {
            return told(BAD_DATA, "inputs and outputs that can't be");
        }
        self.inputs = inputs.to_vec();
        self.outputs = outputs.to_vec();
        self.identified = true;
        Ok(())
    }

    /// Orders operations so that each comes after what it reads.
    pub fn finish(&mut self) -> Result<(), i32> {
        self.changeable()?;
        if !self.identified {
            return told(BAD_DATA, "inputs and outputs were not identified");
        }
        if !self.operands.iter().all(Operand::has_right_scale) {
            return told(
                BAD_DATA,
                "an operand has a scale or zero point that it can't have",
            );
        }
        let constant = |i: &u32| !matches!(self.operands[*i as usize].value, Value::None);
        let mut known: BTreeSet<u32> = (0..self.operands.len() as u32).filter(constant).collect();
        known.extend(&self.inputs);
        let mut written = BTreeSet::new();
        for operation in &self.operations {
            for output in &operation.outputs {
                if !written.insert(*output) || known.contains(output) {
                    return told(BAD_DATA, &format!("operand {output} is written twice"));
                }
            }
        }
        let read: BTreeSet<u32> = self
            .operations
            .iter()
            .flat_map(|o| o.inputs.clone())
            .collect();
        let lost = |i: &u32| !known.contains(i) && !written.contains(i);
        if let Some(lost) = (0..self.operands.len() as u32).find(lost) {
            return told(BAD_DATA, &format!("operand {lost} has no contents"));
        }
        if let Some(unread) = self.inputs.iter().find(|i| !read.contains(i)) {
            return told(BAD_DATA, &format!("input {unread} is not read"));
        }
        // those in order are kept in it, so that answers about operations are in the order they were added
        let mut ready = known;
        for operation in &self.operations {
            if operation.inputs.iter().any(|i| !ready.contains(i)) {
                return told(
                    BAD_DATA,
                    "operations are not in an order in which they can run",
                );
            }
            ready.extend(&operation.outputs);
        }
        self.finished = true;
        Ok(())
    }

    /// The contents of operand `index`, if they are fixed.
    pub fn constant(&self, index: u32) -> Option<Vec<u8>> {
        match &self.operands[index as usize].value {
            Value::None | Value::Omitted => None,
            Value::Copied(bytes) => Some(bytes.clone()),
            Value::Pointer(at, length, before) => {
                let pointer = std::ptr::with_exposed_provenance::<u8>(*at);
                // SAFETY: the application keeps the memory as long as the model is used.
                let bytes = unsafe { std::slice::from_raw_parts(pointer, *length) };
                if sum(bytes) != *before {
                    live::violated("a constant of more than 128 bytes was changed");
                }
                Some(bytes.to_vec())
            }
            Value::Memory(memory, offset, length) => Some(memory.read(*offset, *length)),
        }
    }
}

/// The code of a refusal, with what is wrong on standard error, as runtimes log it.
pub fn told<T>(code: i32, what: &str) -> Result<T, i32> {
    if std::env::var_os("NNAPI_DOUBLE_LOG").is_some() {
        eprintln!("nnapi double: {code}: {what}");
    }
    Err(code)
}
