//! Memory that a device manages itself, for tensors that runs hand to each other.

use std::sync::Arc;

use anynpu_hal::{Reason, ReasonCode};

use super::objects::Compilation;
use super::{MemoryHandle, NnapiError, check, function};
use crate::FeatureLevel;
use crate::sys::{self, Runtime};

/// A use of such memory: an input or an output of a compiled model.
#[derive(Clone, Debug)]
pub struct Role {
    pub(super) compilation: Arc<Compilation>,
    /// Whether it is an output.
    pub output: bool,
    /// Its number among the model's inputs, or outputs.
    pub index: u32,
}

/// A description that is freed when it is dropped.
struct Description {
    runtime: Arc<Runtime>,
    handle: *mut sys::MemoryDesc,
}

impl Drop for Description {
    fn drop(&mut self) {
        if let Some(free) = self.runtime.functions.memory_desc_free
            && !self.handle.is_null()
        {
            // SAFETY: the runtime made it; memory of it does not need it any more.
            unsafe { free(self.handle) };
        }
    }
}

/// Memory of the device's own for `roles`, which are of tensors with the same type and dimensions. Nothing is in it: it
/// must be written by a run or a copy before it is read.
///
/// # Errors
/// A runtime without such memory; roles, or memory, that the driver refuses.
pub fn domain(
    runtime: &Arc<Runtime>,
    roles: &[Role],
    what: &str,
) -> Result<MemoryHandle, NnapiError> {
    let create = function!(runtime, memory_desc_create)?;
    let mut description = Description {
        runtime: runtime.clone(),
        handle: std::ptr::null_mut(),
    };
    // SAFETY: the function writes a pointer to a new object.
    let code = unsafe { create(&raw mut description.handle) };
    check("memory_desc_create", what, code)?;
    for role in roles {
        let (add, call) = match role.output {
            false => (
                function!(runtime, memory_desc_add_input_role)?,
                "memory_desc_add_input_role",
            ),
            true => (
                function!(runtime, memory_desc_add_output_role)?,
                "memory_desc_add_output_role",
            ),
        };
        let compilation = role.compilation.handle;
        // SAFETY: the compilation is finished, and held alive; each run is as likely in each role.
        let code = unsafe { add(description.handle, compilation, role.index, 1.0) };
        check(call, what, code)?;
    }
    let finish = function!(runtime, memory_desc_finish)?;
    // SAFETY: the description is this function's own.
    let code = unsafe { finish(description.handle) };
    check("memory_desc_finish", what, code)?;
    MemoryHandle::of_description(runtime, description.handle, what)
}

/// Why `runtime` offers no memory of devices' own for a device of `level`, if it does not.
pub fn no_domains(runtime: &Runtime, level: FeatureLevel) -> Option<Reason> {
    let needed = FeatureLevel::FL4;
    let version = |what: String| Some(Reason::new(ReasonCode::OpVersion, what));
    for (whose, level) in [("runtime", runtime.level), ("device", level)] {
        if level < needed {
            return version(format!(
                "memory of the device's own needs feature level {needed}, the {whose} has {level}"
            ));
        }
    }
    let functions = &runtime.functions;
    let all = [
        ("memory_desc_create", functions.memory_desc_create.is_some()),
        (
            "memory_create_from_desc",
            functions.memory_create_from_desc.is_some(),
        ),
        ("memory_copy", functions.memory_copy.is_some()),
    ];
    let missing = all.into_iter().find(|(_, has)| !has);
    missing.and_then(|(name, _)| version(format!("this runtime has no function '{name}'")))
}
