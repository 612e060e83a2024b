//! Models as the runtime has them.

use std::sync::Arc;

use super::{Device, NnapiError, Store, check, function};
use crate::model::{Model, Operand, OperandId, Role};
use crate::sys::{self, Runtime};

/// A finished model of the runtime.
#[derive(Debug)]
pub struct BuiltModel {
    runtime: Arc<Runtime>,
    pub(super) handle: *mut sys::Model,
    /// The constants that it reads in place.
    _constants: Arc<Store>,
    name: String,
    operations: usize,
}

// SAFETY: the model is finished, so the runtime only reads it.
unsafe impl Send for BuiltModel {}
// SAFETY: as for Send.
unsafe impl Sync for BuiltModel {}

impl BuiltModel {
    /// Makes `model`, whose constants `constants` has.
    ///
    /// # Errors
    /// What the runtime refuses of it, with the operation or operand.
    pub fn new(
        runtime: &Arc<Runtime>,
        model: &Model,
        constants: &Arc<Store>,
    ) -> Result<BuiltModel, NnapiError> {
        let mut built = BuiltModel {
            runtime: runtime.clone(),
            handle: std::ptr::null_mut(),
            _constants: constants.clone(),
            name: model.name.clone(),
            operations: model.operations.len(),
        };
        let create = function!(runtime, model_create)?;
        // SAFETY: the function writes a pointer to a new object.
        let code = unsafe { create(&raw mut built.handle) };
        check("model_create", &model.name, code)?;
        for (operand, index) in model.operands.iter().zip(0..) {
            built.operand(operand, index, constants)?;
        }
        let add = function!(runtime, model_add_operation)?;
        for operation in &model.operations {
            let (inputs, outputs) = (numbers(&operation.inputs), numbers(&operation.outputs));
            // SAFETY: the lists are as long as they are said to be.
            let code = unsafe {
                add(
                    built.handle,
                    operation.code.0,
                    inputs.len() as u32,
                    inputs.as_ptr(),
                    outputs.len() as u32,
                    outputs.as_ptr(),
                )
            };
            let what = model.told(operation);
            check("model_add_operation", &what, code)?;
        }
        let identify = function!(runtime, model_identify_inputs_and_outputs)?;
        let (inputs, outputs) = (numbers(&model.inputs), numbers(&model.outputs));
        // SAFETY: as above.
        let code = unsafe {
            identify(
                built.handle,
                inputs.len() as u32,
                inputs.as_ptr(),
                outputs.len() as u32,
                outputs.as_ptr(),
            )
        };
        check("model_identify_inputs_and_outputs", &model.name, code)?;
        if model.relaxed {
            let relax = function!(runtime, model_relax_computation_float32_to_float16)?;
            // SAFETY: the model is not finished yet.
            let code = unsafe { relax(built.handle, true) };
            check("model_relax_computation", &model.name, code)?;
        }
        let finish = function!(runtime, model_finish)?;
        // SAFETY: the model is this object's own.
        check("model_finish", &model.name, unsafe { finish(built.handle) })?;
        Ok(built)
    }

    fn operand(&self, operand: &Operand, index: i32, constants: &Store) -> Result<(), NnapiError> {
        let ty = sys::OperandType {
            ty: operand.ty.code(),
            dimension_count: operand.dims.len() as u32,
            dimensions: match operand.dims.is_empty() {
                true => std::ptr::null(),
                false => operand.dims.as_ptr(),
            },
            scale: operand.scale,
            zero_point: operand.zero_point,
        };
        let what = || format!("operand {index} '{}' of '{}'", operand.name, self.name);
        let add = function!(self.runtime, model_add_operand)?;
        // SAFETY: the dimensions live during the call.
        let code = unsafe { add(self.handle, &raw const ty) };
        check("model_add_operand", &what(), code)?;
        if let Some(channels) = &operand.channels {
            let set = function!(
                self.runtime,
                model_set_operand_symm_per_channel_quant_params
            )?;
            let params = sys::SymmPerChannelQuantParams {
                channel_dim: channels.axis,
                scale_count: channels.scales.len() as u32,
                scales: channels.scales.as_ptr(),
            };
            // SAFETY: the scales live during the call, which copies them.
            let code = unsafe { set(self.handle, index, &raw const params) };
            check("model_set_channel_scales", &what(), code)?;
        }
        let copied = match &operand.role {
            Role::Input | Role::Output | Role::Temporary => return Ok(()),
            Role::Stored(id) => {
                let bytes = operand.bytes().unwrap_or(usize::MAX);
                let place = constants.place(*id, bytes);
                let (memory, offset) = place.ok_or_else(|| NnapiError::Model {
                    what: what(),
                    found: format!("{bytes} bytes of constant {}", id.0),
                    expected: "bytes that it has".into(),
                })?;
                let set = function!(self.runtime, model_set_operand_value_from_memory)?;
                // SAFETY: this model holds the memory alive, which has these bytes.
                let code = unsafe { set(self.handle, index, memory, offset, bytes) };
                return check("model_set_operand_value_from_memory", &what(), code);
            }
            Role::Omitted => Vec::new(),
            Role::Scalar(number) => number.bytes(),
            Role::Copied(bytes) => bytes.clone(),
        };
        if copied.len() > sys::MAX_SIZE_OF_IMMEDIATELY_COPIED_VALUES {
            return Err(NnapiError::Model {
                what: what(),
                found: format!("{} bytes to copy", copied.len()),
                expected: "at most 128".into(),
            });
        }
        let set = function!(self.runtime, model_set_operand_value)?;
        let pointer = match copied.is_empty() {
            true => std::ptr::null(),
            false => copied.as_ptr().cast(),
        };
        // SAFETY: so few bytes are copied during the call; null stands for an operand that is left out.
        let code = unsafe { set(self.handle, index, pointer, copied.len()) };
        check("model_set_operand_value", &what(), code)
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for BuiltModel {
    fn drop(&mut self) {
        if let Some(free) = self.runtime.functions.model_free
            && !self.handle.is_null()
        {
            // SAFETY: the runtime made it, and compilations of it hold it alive.
            unsafe { free(self.handle) };
        }
    }
}

/// Which operations of `model` `device` says that it runs, in their order.
///
/// # Errors
/// The runtime's own.
pub fn supported(model: &BuiltModel, device: &Device) -> Result<Vec<bool>, NnapiError> {
    let runtime = device.runtime();
    let ask = function!(runtime, model_get_supported_operations_for_devices)?;
    // bytes, as nobody vouches for what drivers write
    let mut answers = vec![0u8; model.operations];
    let devices = [device.handle()];
    // SAFETY: the model is finished, and the function writes a truth value for each of its operations.
    let code = unsafe {
        ask(
            model.handle,
            devices.as_ptr(),
            1,
            answers.as_mut_ptr().cast(),
        )
    };
    check("model_get_supported_operations", model.name(), code)?;
    Ok(answers.into_iter().map(|a| a != 0).collect())
}

fn numbers(ids: &[OperandId]) -> Vec<u32> {
    ids.iter().map(|id| id.0).collect()
}
